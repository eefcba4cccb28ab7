"""Runs a module as `python -m MODULE` does, and stops it in order when the process that started it is gone.

`python -m distgan.benchmark.exit_with_parent MODULE ARGUMENTS`. Its standard input is a pipe whose other end that
process holds and never writes to: it ends with that process, however that ends, by SIGKILL too.
"""

import os
import runpy
import signal
import sys
import threading
import time

_GRACE_S = 120.0  # for the end of a step or of an evaluation, and a checkpoint


def _follow() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)  # it hangs; processes of its own see that it is gone


if __name__ == "__main__":
    threading.Thread(target=_follow, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
