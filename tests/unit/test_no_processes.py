"""The guard of this folder: nothing in it starts a process."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

ARGV = [sys.executable, "-c", ""]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("Popen.__init__", lambda: subprocess.run(ARGV)),
        ("Popen.__init__", lambda: subprocess.check_output(ARGV)),
        ("fork", lambda: os.fork()),
        ("posix_spawn", lambda: os.posix_spawn(sys.executable, ARGV, {})),
        ("system", lambda: os.system("true")),
        ("start", lambda: multiprocessing.get_context("spawn").Process(target=print).start()),
        ("start", lambda: multiprocessing.get_context("forkserver").Process(target=print).start()),
        ("", lambda: multiprocessing.get_context("spawn").Pool(1)),  # one way or another
    ],
)
def test_a_unit_test_that_starts_a_process_fails(name: str, start: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match=rf"a unit test starts a process, by .*{name}: it belongs in"):
        start()
