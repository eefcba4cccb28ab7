"""`python -m distgan` is `distgan`; as a script, the processes of `distgan eval --processes N` start here."""

import os
import sys

# As a script this folder heads sys.path, where our modules could hide libraries of the same name.
if os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
    sys.path[0] = os.path.dirname(os.path.abspath(sys.path[0]))
from distgan.cli import main

sys.exit(main())
