"""Client of forkserver.py, used as the interpreter of processes that the tests start; it imports almost nothing.

Programs of ours, torchrun and accelerate run in a fork of the server, with this process's arguments, environment,
folder and streams. This process forwards signals to the fork and exits as it does; if this one is killed, the fork is
too. Other programs, and ranks or all with $COLD_START, run in the interpreter itself.
"""

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)


def is_warm(words: list[str], programs: list[str]) -> bool:
    if os.environ.get("COLD_START") in ({"all", "ranks"} if "RANK" in os.environ else {"all"}) or not words:
        return False
    if words[0] == "-m":
        return words[1].split(".")[0] == "distgan"
    return os.path.realpath(words[0]) in programs


def main(address: str, python: str, programs: list[str]) -> None:
    words = [word for index, word in enumerate(sys.argv[1:]) if (index, word) != (0, "-u")]
    if not is_warm(words, programs):
        os.execv(python, [python, *sys.argv[1:]])
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    request = {"words": words, "environment": dict(os.environ), "folder": os.getcwd(), "pid": os.getpid()}
    socket.send_fds(server, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
    answers = server.makefile()
    pid = int(answers.readline())
    for signum in FORWARDED:
        signal.signal(signum, lambda signum, _: os.kill(pid, signum))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    code = os.waitstatus_to_exitcode(int(answers.readline()))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)
