"""Start W processes on this machine, by torch's elastic agent."""

import logging
import os
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

import distgan
from distgan.distributed import env
from distgan.errors import FAILED, OUR_LAUNCHER, OUT_OF_TIME, launch_id, print_message
from distgan.utils.operating_system import STOP_SIGNALS, signal_name


def launch_processes(num: int, arguments: list[str], *, script: str = "train.py", timeout_s: float) -> int:
    """Run a script of this package with these arguments in `num` processes. Return the exit code.

    Torch's elastic agent stops all processes when one fails; the message of that one is printed last.
    """
    os.environ.pop("LOGLEVEL", None)  # the agent's import fails for a level in lower case, as debug
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    env.check_no_mpi()
    env.check_network_interface()
    env.check_memory(num)
    env.check_address("127.0.0.1", f"--processes {num}")
    logging.disable(logging.CRITICAL)  # the agent's reports: ours replaces them
    os.environ[OUR_LAUNCHER] = str(os.getpid())
    # Each process sets its number of threads itself; without the variable torch sets 1 and warns.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "30"
    grace_s = max(5.0, min(30.0, timeout_s))
    with tempfile.TemporaryDirectory(prefix="distgan-launch-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            run_id=launch_id(os.getpid()),
            max_restarts=0,
            signals_to_handle=",".join(signal.name for signal in STOP_SIGNALS) + ",SIGQUIT",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        threading.Thread(target=_kill_stragglers, args=(script, grace_s), daemon=True).start()
        try:
            elastic_launch(config, sys.executable)("-u", str(Path(distgan.__file__).with_name(script)), *arguments)
        except SignalException as error:
            if not any(Path(folder).rglob("error.json")):  # no process has reported an error
                print_message(f"ended by {signal_name(error.sigval)}, with nothing to save")
            return 128 + error.sigval
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            return _print_failure(rank, failure.exitcode, failure.message)
    return 0


def _print_failure(rank: int, exit_code: int, message: str) -> int:
    """Print the message of the first process that failed, unless it stopped on request. Return the exit code."""
    if exit_code < 0:
        name = signal_name(-exit_code)
        message = f"rank {rank} was ended by {name}" + (" (often: out of memory)" if name == "SIGKILL" else "")
        exit_code = FAILED
    elif message.startswith("To enable traceback"):  # torch's text for no message
        message = f"rank {rank} ended with exit code {exit_code} and no error message"
    if exit_code < OUT_OF_TIME:
        print_message(message)
    return exit_code


def _kill_stragglers(script: str, grace_s: float) -> None:
    """Kill ranks that still run `grace_s` after the first has ended: hung, or stopped. The agent waits 30 s longer."""
    num_started = 0
    while True:
        time.sleep(0.5)
        ranks = [child for child in psutil.Process().children() if script in " ".join(_command_line(child))]
        num_started = max(num_started, len(ranks))
        if len(ranks) < num_started:
            break
    for straggler in psutil.wait_procs(ranks, timeout=grace_s)[1]:
        with suppress(psutil.Error):
            straggler.kill()


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
