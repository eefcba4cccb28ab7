"""`python -m distgan` is `distgan`; as a script, the processes of `distgan eval --processes N` start here."""

import os
import sys
from contextlib import suppress

if not __package__:
    # As a script this folder heads sys.path, where our modules would hide libraries of the same name.
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [os.path.dirname(here), *(path for path in sys.path if os.path.realpath(path or ".") != here)]
elif not sys.flags.safe_path:
    # -m puts the working folder first, from which neither `distgan` nor the processes that it starts import.
    with suppress(OSError):  # it was deleted
        if sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(__file__)):
            del sys.path[0]
from distgan.cli import main

sys.exit(main())
