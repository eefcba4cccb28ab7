"""Run our programs in processes that are forked from a server with torch imported, which saves most of their time.

The server only imports what a run needs, so that runs share no state. With $COLD_START programs start without it, as
tests of the command line's own start and imports need.
"""

import contextlib
import functools
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.runs import BIN, ROOT, SCRIPT, TESTS, free_port

PRELOAD = (
    "distgan.train distgan.runs.sample distgan.runs.inspection distgan.evaluation.evaluate "
    "distgan.evaluation.during_training distgan.reports.eval_terminal matplotlib.backends.backend_agg "
    "matplotlib.figure torch._dynamo torch.distributed.run helpers.preloaded_digits"
)
CONTEXT = multiprocessing.get_context("forkserver")  # to run functions of tests
CONTEXT.set_forkserver_preload(PRELOAD.split())
PROGRAMS = [BIN / "distgan", BIN / "torchrun", BIN / "accelerate", SCRIPT, ROOT / "distgan" / "__main__.py"]
PROGRAMS += [TESTS / "helpers" / f"{name}_matrix.py" for name in ("parity", "resume")]
CLIENT = "#!{python} -IS\nimport sys\nsys.path.insert(0, {helpers!r})\nimport warm_python\n"
CLIENT += "warm_python.main({address!r}, {python!r}, {programs!r})\n"


@functools.cache
def python() -> Path:
    """Start the server, which ends with this process. Return the script to use as the interpreter."""
    folder = tempfile.TemporaryDirectory(prefix="distgan-tests-")
    _open.append(folder)
    client, address = Path(folder.name, "python"), str(Path(folder.name, "socket"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    values = {"python": sys.executable, "address": address, "helpers": str(TESTS / "helpers")}
    client.write_text(CLIENT.format(programs=[os.path.realpath(path) for path in PROGRAMS], **values))
    client.chmod(0o755)
    code = "import sys; sys.path[:0] = sys.argv[1:3]; from helpers.forkserver import serve; serve(*sys.argv[3:])"
    server = subprocess.Popen(
        [sys.executable, "-c", code, TESTS, ROOT, str(listener.fileno()), client], stdin=subprocess.PIPE,
        start_new_session=True, pass_fds=[listener.fileno()], env=dict(os.environ) | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    _open.append(server)
    listener.close()
    return client


_open: list[Any] = []  # kept until this process ends


def warm(command: tuple[object, ...]) -> list[str]:
    """Return a command that runs through the server if it is a program of ours or a launcher."""
    words = [str(word) for word in command]
    if words[0] == sys.executable:
        words[0] = str(python())
    elif Path(words[0]) in PROGRAMS:
        words[:0] = [str(python())]
    return words


def call(
    words: list[str], folder: Path, timeout: float, program: str = "distgan.cli"
) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder` with this process's environment, and wait for it."""
    return subprocess.run(
        _command(program, words), cwd=folder, timeout=timeout, text=True, capture_output=True, env=dict(os.environ)
    )


def _command(program: str, words: list[str]) -> list[str]:
    if program == "distgan.cli":
        return [str(python()), str(BIN / "distgan"), *words]
    return [str(python()), str(TESTS / f"{program.replace('.', '/')}.py"), *words]


class Ranks:
    """Run `program` in `num` ranks, started as srun does it; `ok` also requires that all succeed.

    The result has the ranks' outputs joined, and the exit code with the highest absolute value.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(
        self, num: int, *words: object, program: str = "distgan.cli", timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        port, arguments = free_port(), [str(word) for word in words]
        started = [self.start(rank, num, port, *arguments, program=program) for rank in range(num)]
        results: list[tuple[str, str]] = [("", "")] * num

        def read(rank: int) -> None:
            results[rank] = started[rank].communicate()

        readers = [threading.Thread(target=read, args=(rank,)) for rank in range(num)]
        for reader in readers:
            reader.start()
        try:
            for process in started:
                process.wait(timeout)
        finally:
            for process in started:
                process.kill()
            for reader in readers:
                reader.join()
        code = max((process.returncode for process in started), key=abs)
        return subprocess.CompletedProcess(arguments, code, *map("".join, zip(*results, strict=True)))

    def start(
        self, rank: int, num: int, port: int, *words: object, program: str = "distgan.cli"
    ) -> subprocess.Popen[str]:
        """Start one rank without waiting for it."""
        world = {"WORLD_SIZE": num, "LOCAL_WORLD_SIZE": num, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        world |= {"RANK": rank, "LOCAL_RANK": rank}
        return subprocess.Popen(
            _command(program, [str(word) for word in words]), cwd=self.folder, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=dict(os.environ) | {name: str(value) for name, value in world.items()},
        )  # fmt: skip

    def ok(self, num: int, *words: object, program: str = "distgan.cli") -> subprocess.CompletedProcess[str]:
        result = self(num, *words, program=program)
        assert result.returncode == 0, result.stdout + result.stderr
        return result


# -- the server --------------------------------------------------------------------------------------------


def serve(listener: str, client: str) -> None:
    """Fork a process per request, send its pid and exit status, and kill it when its client disconnects."""
    server, folder = socket.socket(fileno=int(listener)), Path(client).parent
    for name in PRELOAD.split():
        importlib.import_module(name)
    sys.executable = client  # for children of the forked processes
    gc.collect()
    gc.freeze()
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)  # closed when the tests are over
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:
                os._exit(0)
            elif key.fileobj is server:
                connection, _ = server.accept()
                request, streams = _request(connection)
                if not (pid := os.fork()):
                    _perform(request, streams)
                for stream in streams:
                    os.close(stream)
                (folder / str(request["pid"])).write_text(str(pid))
                connection.sendall(f"{pid}\n".encode())
                handle = os.pidfd_open(pid)
                selector.register(handle, selectors.EVENT_READ, (pid, connection))
                selector.register(connection, selectors.EVENT_READ, (pid, None))
            elif key.data[1] is None:  # the client has disconnected
                selector.unregister(key.fileobj)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(key.data[0], signal.SIGKILL)
            else:
                pid, connection = key.data
                with contextlib.suppress(OSError):
                    connection.sendall(f"{os.waitpid(pid, 0)[1]}\n".encode())
                with contextlib.suppress(KeyError):
                    selector.unregister(connection)
                selector.unregister(key.fileobj)
                connection.close()
                os.close(key.fd)


def _request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    text, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while not text.endswith(b"\n"):
        text += connection.recv(1 << 16)
    return json.loads(text), list(streams)


def _perform(request: Mapping[str, Any], streams: list[int]) -> None:
    """Run the requested program in this forked process, and exit."""
    code: Any = 0
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 256)
        _open_streams()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        os.getppid = functools.partial(_parent_of, request["pid"])
        errors = sys.modules["distgan.errors"]
        for name, module in list(sys.modules.items()):
            if name.startswith("distgan") and hasattr(module, "PARENT"):
                module.PARENT = errors._parent()
            elif name.startswith("accelerate.commands"):  # to be imported again, as it reads $HF_HOME then
                del sys.modules[name]
        _run_sitecustomize()
        words = request["words"]
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code or 0)


def _open_streams() -> None:
    """Open the standard streams as Python does at its start."""
    for number, (name, how) in enumerate((("stdin", {}), ("stdout", {}), ("stderr", {"errors": "backslashreplace"}))):
        is_by_line = number == 2 or os.isatty(number)
        stream = open(number, "w" if number else "r", 1 if is_by_line else -1, closefd=False, **how)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run_sitecustomize() -> None:
    """Run sitecustomize.py of the folders on PYTHONPATH, as Python does at its start."""
    for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if (path := Path(folder, "sitecustomize.py")).is_file():
            runpy.run_path(str(path))


def _parent_of(client: int) -> int:
    """Return the parent of the client, for example the launcher of a rank."""
    try:
        return int(Path(f"/proc/{client}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 1
