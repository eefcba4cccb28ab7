"""What stands in for the interpreter in the processes that the tests start; it imports next to nothing.

A program of ours, torchrun and accelerate run in a fork of the server of forkserver.py, with this process's words,
environment, folder and streams. This process hands signals on to that one, ends as it does, and takes it along when it
is killed. Anything else is run by the interpreter itself, and by $COLD_START `ranks` or `all` of them.
"""

import json
import os
import signal
import socket
import sys

HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)


def is_warm(words: list[str], programs: list[str]) -> bool:
    if os.environ.get("COLD_START") in ({"all", "ranks"} if "RANK" in os.environ else {"all"}) or not words:
        return False
    if words[0] == "-m":
        return words[1].split(".")[0] == "distgan"
    return os.path.realpath(words[0]) in programs


def main(address: str, python: str, programs: list[str]) -> None:
    words = [word for at, word in enumerate(sys.argv[1:]) if (at, word) != (0, "-u")]
    if not is_warm(words, programs):
        os.execv(python, [python, *sys.argv[1:]])
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    request = {"words": words, "environment": dict(os.environ), "folder": os.getcwd(), "pid": os.getpid()}
    socket.send_fds(server, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
    answers = server.makefile()
    pid = int(answers.readline())
    for signum in HANDED_ON:
        signal.signal(signum, lambda signum, _: os.kill(pid, signum))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
    code = os.waitstatus_to_exitcode(int(answers.readline()))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)
