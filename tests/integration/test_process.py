"""Child processes: what they found, why they failed, and that nothing of them is left."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from distgan.utils.child_process import ChildFailed, run_child, run_json, summarise_error, tool_output
from distgan.utils.provenance import git_revision

# A grandchild in its own session.
GRANDCHILD = "import subprocess as s, sys, time; p = s.Popen(['sleep', '600'], start_new_session=True); "


def python(code: str, timeout_s: float = 60.0) -> bytes:
    return run_child([sys.executable, "-c", code], timeout_s=timeout_s, env=os.environ)


def test_the_last_line_is_the_result() -> None:
    code = "print('[1]'); print('words'); import json, os; print(json.dumps({'x': os.environ['X']}))"
    assert run_json([sys.executable, "-c", code], timeout_s=60, env=os.environ | {"X": "1"}) == {"x": "1"}


@pytest.mark.parametrize("out", ["", "words", "[1]", '{"a": 1}\\nwords'])
def test_no_result(out: str) -> None:
    with pytest.raises(ChildFailed, match="JSON"):
        run_json([sys.executable, "-c", f"print('{out}')"], timeout_s=60, env=os.environ)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ValueError('of no use')", "ValueError: of no use"),
        ("raise SystemExit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL"),
    ],
)
def test_a_failure_has_its_last_words(code: str, words: str) -> None:
    with pytest.raises(ChildFailed, match=f"^{words}$"):
        python(code)


def test_our_own_line_comes_first() -> None:
    assert summarise_error(2, b"x\ndistgan: --num 0: too few\ndistgan: more\nOSError: no\n") == "--num 0: too few"
    assert summarise_error(1, b"[rank0]: torch.DistError: gone\nbye\n") == "torch.DistError: gone"


def test_a_timeout_ends_the_process_tree(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    code = f"{GRANDCHILD} open({str(path)!r}, 'w').write(str(p.pid)); time.sleep(600)"
    with pytest.raises(ChildFailed, match=r"--timeout 5 s$"):
        python(code, timeout_s=5)
    with suppress(psutil.NoSuchProcess):
        grandchild = psutil.Process(int(path.read_text()))
        is_left = bool(psutil.wait_procs([grandchild], timeout=5)[1])
        if is_left:
            grandchild.kill()
        assert not is_left


def test_a_grandchild_that_holds_the_output_is_not_waited_for(tmp_path: Path) -> None:
    path, start = tmp_path / "pid", time.monotonic()
    python(f"{GRANDCHILD} open({str(path)!r}, 'w').write(str(p.pid))")
    assert time.monotonic() - start < 60
    psutil.Process(int(path.read_text())).kill()


def test_a_tool_of_the_system_never_fails() -> None:
    assert tool_output("echo", "  words ") == "words"
    assert tool_output("false") is None
    assert tool_output("no-such-program-here") is None


def test_another_repository_of_the_environment_is_not_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a hook of git, which has these of the repository that it belongs to."""
    if (expected := git_revision()) is None:
        pytest.skip("not in a checkout of git")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    places = {"GIT_DIR": ".git", "GIT_WORK_TREE": ".", "GIT_INDEX_FILE": ".git/index", "GIT_OBJECT_DIRECTORY": "."}
    for name, place in places.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, str(tmp_path / place))
            assert git_revision() == expected, name
