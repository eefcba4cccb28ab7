"""`python -m distgan` is `distgan`; as a script, the processes of `distgan eval --processes N` start here."""

import os
import sys

if not __package__:
    # As a script this folder heads sys.path, where our modules would hide libraries of the same name.
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [os.path.dirname(here), *(path for path in sys.path if os.path.realpath(path or ".") != here)]
from distgan.cli import main

sys.exit(main())
