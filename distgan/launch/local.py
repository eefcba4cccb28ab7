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


def launch(num: int, arguments: list[str], *, script: str = "train.py", timeout_s: float) -> int:
    """Run a script of this package with these arguments in `num` processes. Return the exit code for all of them.

    By torch's own elastic agent. It stops all when one fails, and the words of that one come last.
    """
    os.environ.pop("LOGLEVEL", None)  # the agent's import ends where it is debug or another word in small letters
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    env.check_no_mpi()
    env.check_network_interface()
    env.check_memory(num)
    env.check_address("127.0.0.1", f"--processes {num}")
    logging.disable(logging.CRITICAL)  # the agent's reports, of which ours takes the place
    os.environ[OUR_LAUNCHER] = str(os.getpid())
    # Each process takes its share of the cores; torch would warn of the one that it would set instead.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "30"
    grace_s = max(5.0, min(30.0, timeout_s))
    with tempfile.TemporaryDirectory(prefix="distgan-launch-") as folder:
        agent = LaunchConfig(
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
        threading.Thread(target=_end_stragglers, args=(script, grace_s), daemon=True).start()
        try:
            elastic_launch(agent, sys.executable)("-u", str(Path(distgan.__file__).with_name(script)), *arguments)
        except SignalException as error:
            if not any(Path(folder).rglob("error.json")):  # no process has said why it ends
                print_message(f"ended by {signal_name(error.sigval)}, with nothing to save")
            return 128 + error.sigval
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            return _report(rank, failure.exitcode, failure.message)
    return 0


def _report(rank: int, exit_code: int, message: str) -> int:
    """Print the message of the first process that failed, unless it stopped in order. Return the exit code."""
    if exit_code < 0:
        name = signal_name(-exit_code)
        message = f"rank {rank} was ended by {name}" + (" (often: out of memory)" if name == "SIGKILL" else "")
        exit_code = FAILED
    elif message.startswith("To enable traceback"):  # torch's words for none
        message = f"rank {rank} ended with exit code {exit_code} and without a word"
    if exit_code < OUT_OF_TIME:
        print_message(message)
    return exit_code


def _end_stragglers(script: str, grace_s: float) -> None:
    """Kill processes that outlive another by `grace_s`: hung, or stopped. The agent gives them 30 s more."""
    most = 0
    while True:
        time.sleep(0.5)
        ranks = [child for child in psutil.Process().children() if script in " ".join(_words(child))]
        most = max(most, len(ranks))
        if len(ranks) < most:
            break
    for straggler in psutil.wait_procs(ranks, timeout=grace_s)[1]:
        with suppress(psutil.Error):
            straggler.kill()


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
