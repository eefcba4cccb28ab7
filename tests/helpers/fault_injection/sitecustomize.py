"""Inject a fault into one rank at one step. Python imports this at its start if this folder is on PYTHONPATH.

forkserver.py runs it in a forked process, where other modules may have imported the replaced function already.
"""

import os
import sys

_RANK, _STEP, _HOW = os.environ.get("FAULT_INJECTION", "none,0,none").split(",")


def _inject(gan):
    import signal
    import time

    import torch

    match _HOW:
        case "raise":
            raise ValueError("an injected fault")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang":
            time.sleep(3600)
        case "memory":
            torch.empty(2**50)
        case "exit":
            os._exit(7)
        case "diverge":
            with torch.no_grad():
                next(gan.d.module.parameters()).view(-1)[3] += 1e-3


def _replace(old, new):
    for module in [module for name, module in sys.modules.items() if name.startswith("distgan")]:
        for name, value in list(vars(module).items()):
            if value is old:
                setattr(module, name, new)


if os.environ.get("RANK") == _RANK and _HOW == "version":
    import distgan

    distgan.__version__ = "9.9"
elif os.environ.get("RANK") == _RANK and _HOW == "data":
    import distgan.data.base

    distgan.data.base.Dataset.fingerprint = "0123456789abcdef"
elif os.environ.get("RANK") == _RANK and _HOW == "load":
    import signal
    import time

    import distgan.data.base

    def load_dataset(*_, **__):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # so that Ctrl-C ends the process without a message
        open("loading", "w").close()
        time.sleep(3600)

    _replace(distgan.data.base.load_dataset, load_dataset)
elif os.environ.get("RANK") == _RANK:
    import distgan.training.step

    _build_step = distgan.training.step.build_step

    def build_step(gan, config, seed, total_steps):
        step = _build_step(gan, config, seed, total_steps)

        def broken(*batch):
            if gan.step == int(_STEP) and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
                _inject(gan)
            return step(*batch)

        return broken

    _replace(_build_step, build_step)
