"""Checkpoints against kills and huge files, each in its own process."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from helpers.checkpoints import CONFIG, assert_equal, declare, make
from helpers.file_events import before_each_change
from helpers.runs import newest

from distgan.checkpoint.format import MANIFEST, read_checkpoint, write_checkpoint
from distgan.checkpoint.manager import CheckpointManager
from distgan.checkpoint.resume import checkpoints_in
from distgan.config.schema import RunConfig
from distgan.errors import WriteErrorPolicy


def killed_at(operation: int, act: Callable[[], object]) -> bool:
    """Call `act` in a child that dies, without any clean-up, before its n-th change of the disk.

    False when the child got to its end.
    """
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    try:
        left, fsync = [operation], os.fsync

        def look(*_: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)

        def deadly_fsync(handle: int) -> None:
            look()
            fsync(handle)

        os.fsync = deadly_fsync
        with before_each_change(look):
            act()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_kill_between_any_two_file_operations_loses_no_checkpoint(tmp_path: Path) -> None:
    """All that a save does, with `latest`, `best` and the removal of an older one."""
    old, new = make(2), make(3)
    operations = 0
    for operation in range(200):
        folder = tmp_path / str(operation)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "metrics.jsonl").touch()
        for step in (0, 1, 2):
            counters = {"step": step, "epoch": step // 2, "step_in_epoch": step % 2, "logged_step": step}
            old = old._replace(state=old.state.model_copy(update=counters | {"unlogged": []}))
            write_checkpoint(folder / "checkpoints", old)
        saver = CheckpointManager.__new__(CheckpointManager)
        saver.folder, saver.write_s, saver.saved = folder / "checkpoints", [], None
        saver.config = CONFIG.model_copy(update={"run": RunConfig(keep_best="min:d_loss")})
        saver.log = type("Log", (), {"path": folder / "metrics.jsonl"})()  # type: ignore[assignment]
        saver._error, saver.write_errors = None, WriteErrorPolicy(stops=False)
        was_killed = killed_at(operation, lambda saver=saver: saver._write(new))
        found = newest(folder / "checkpoints")
        assert found[2] == [], f"killed before operation {operation}: a half is taken for a checkpoint"
        assert_equal(found[1], new if found[1].state.step == 3 else old)
        for path in checkpoints_in(folder / "checkpoints"):
            read_checkpoint(path)  # an older one that is being removed either
        if (latest := folder / "checkpoints" / "latest").is_symlink():
            assert read_checkpoint(latest.resolve()).state.step == 3, "latest moves only after"
        if not was_killed:
            operations = operation
            break
        shutil.rmtree(folder)
    assert found[1].state.step == 3
    assert operations > 30, "the operations were counted"


def test_huge_files_are_rejected_in_bounded_time_and_memory(tmp_path: Path) -> None:
    """Sparse files of 8 TB, with a manifest that agrees: in their own process, for its peak of memory."""
    saved, _ = write_checkpoint(tmp_path, make())
    for name in ("generator.safetensors", "state.json", "random.safetensors", MANIFEST):
        copy = saved.with_name(f"huge-{name}")
        shutil.copytree(saved, copy)
        with (copy / name).open("r+b") as file:
            file.truncate(8 * 10**12)
        if name != MANIFEST:
            declare(copy, name, 8 * 10**12, "0" * 64)
    code = (
        "import resource, sys, time; from pathlib import Path\n"
        "from distgan.checkpoint.format import Damaged, read_checkpoint\n"
        "read_checkpoint(Path(sys.argv[1])); peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "began = time.process_time()\n"
        "for path in sys.argv[2:]:\n"
        "    try: read_checkpoint(Path(path)); print('accepted', path)\n"
        "    except Damaged as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak, time.process_time() - began)\n"
    )
    paths = sorted(str(path) for path in saved.parent.glob("huge-*"))
    done = subprocess.run([sys.executable, "-c", code, str(saved), *paths], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    *reasons, last = done.stdout.splitlines()
    assert len(reasons) == 4
    assert all("8,000,000,000,000 bytes" in reason and "at most" in reason for reason in reasons), reasons
    kib, cpu_s = map(float, last.split())
    assert kib < 20_000
    assert cpu_s < 2
