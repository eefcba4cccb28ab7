"""Run a module as `python -m MODULE` does, and terminate it when the parent process exits.

`python -m distgan.benchmark.exit_with_parent MODULE ARGUMENTS`. Standard input is a pipe whose write end the parent
holds and never uses: it is closed when the parent exits, even by SIGKILL.
"""

import os
import runpy
import signal
import sys
import threading
import time

GRACE_S = 120.0  # for the end of a step or of an evaluation, a checkpoint, and pictures


def _follow() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)  # it hangs; its children see that it has exited


if __name__ == "__main__":
    threading.Thread(target=_follow, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
