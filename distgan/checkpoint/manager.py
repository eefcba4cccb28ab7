"""The checkpoints of a run: taken between two steps, written while training continues, the newest few kept."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

from torch import Tensor

from distgan.checkpoint.format import Checkpoint, State, random_states, remove, write_checkpoint
from distgan.checkpoint.initial import load_initial, read_initial
from distgan.checkpoint.resume import Identity, Start, checkpoints_in, find_best, find_start, is_in, rename_copied_links
from distgan.errors import TrainingFailed, UserError, WriteErrorPolicy, as_user_error
from distgan.models.network_copies import write_copy
from distgan.training.gan import check_ranks_equal
from distgan.training.metrics import MetricLog
from distgan.training.session import Session
from distgan.utils.files import sync, write_json


class CheckpointManager:
    """Save checkpoints and delete old ones. All ranks call each public method but `last`; rank 0 writes, in a thread.

    `stall_s` and `write_s`: seconds per checkpoint that training was paused, and that writing then took. `num_bytes`:
    size of the last.
    """

    def __init__(self, folder: Path, session: Session, log: MetricLog, write_errors: WriteErrorPolicy):
        self.run_folder, self.folder = folder, folder / "checkpoints"
        self.config, self.runtime, self.gan = session.config, session.runtime, session.gan
        self.last_step, self.notice = session.last_step, session.dataset.notice
        steps, listed = session.steps_per_epoch, session.dataset.listed
        self.identity = Identity(session.fingerprint, steps, session.batch_size, listed)
        self.log, self.write_errors = log, write_errors
        self.saved: tuple[int, Path] | None = None  # the last valid one; known to rank 0
        self.stall_s: list[float] = []
        self.write_s: list[float] = []
        self.num_bytes = 0
        self.begins_with = ""  # the weights of another run that this one takes, in words
        self.on_written: Callable[[Path], None] = lambda path: None  # called on rank 0, in the main thread
        self._reported: Path | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def restore(self) -> Start | None:
        """Restore the run that the config names. Return None for a new run, with the weights of --init-from if named.

        The first rank reads, so that no other needs the folder. z, dropout and the order of the images are
        functions of seed and step; so another number of ranks continues with the same ones. Raises UserError.
        """
        start = self.runtime.run_on_rank0(self._find_start)
        if start is None:
            self.runtime.run_on_all_ranks(lambda: self.log.restore(self.log.path, None))
            self._initialise()
            return None
        tensors, state, _ = start.checkpoint

        def load() -> None:
            self.gan.load_state(tensors, state.step, str(start.path))
            self.runtime.load_grad_scaler_state(state.grad_scaler, f"{start.path / 'state.json'}: grad_scaler")
            if state.world_size == self.runtime.world_size:
                states = random_states(tensors, self.runtime.rank)
                self.runtime.load_random_states(states, f"{start.path / 'random.safetensors'}")
            self.log.restore(start.metrics, state, is_over=state.step >= self.last_step)

        self.runtime.run_on_all_ranks(load)
        if is_in(start.path, self.folder) and not start.is_changed:
            self.saved = state.step, start.path
        begun, named = start.checkpoint.config.run, self.config.run.init_from
        if named and named != begun.init_from:
            self.write_errors.warn(
                f"--init-from: is for new runs, and without effect on one that is resumed ({named}). It began with "
                f"{f'the weights of {begun.init_from}' if begun.init_from else 'new weights'}"
            )
        self._record_initial(begun.init_from, begun.init_sha256)
        for warning in start.warnings:
            self.write_errors.warn(warning)
        # Frees the tensors, which are more than twice as large as the networks.
        return start._replace(checkpoint=start.checkpoint._replace(tensors={}))

    def _initialise(self) -> None:
        """Load the weights that --init-from names; rank 0 reads them. All ranks call it."""
        if not (named := self.config.run.init_from):
            self._record_initial(None, None)  # which the config.json of another run may name
            return
        initial = self.runtime.run_on_rank0(lambda: read_initial(named))
        self.begins_with = self.runtime.run_on_all_ranks(lambda: load_initial(self.gan, initial, self.config.model))
        self._record_initial(named, initial.sha256)
        for warning in initial.warnings:
            self.write_errors.warn(warning)

    def _record_initial(self, path: str | None, sha256: dict[str, str] | None) -> None:
        run = self.config.run.model_copy(update={"init_from": path, "init_sha256": sha256})
        self.config = self.config.model_copy(update={"run": run})

    def _find_start(self) -> Start | None:
        start = find_start(self.config, self.run_folder, self.identity)
        # Before any other file: a run that is killed before its first checkpoint is recognised and started by it.
        if start is None or not (self.run_folder / "config.json").exists():
            write_json(self.run_folder / "config.json", self.config.model_dump(mode="json"))
        write_copy(self.run_folder, self.config.model)
        return start

    def save(self, *, wait: bool = False) -> None:
        """Save a checkpoint, unless this step has one; with `wait` it is on the disk when this returns.

        Raises TrainingFailed for non-finite weights, before anything is written, and UserError for an error of the
        disk with `wait` or --on-save-error stop.
        """
        began = time.perf_counter()
        with self.log.paused():
            step = self.gan.step
            if self.runtime.run_on_rank0(self._wait_written) != step:
                unlogged = self.log.read_stats(step)
                self.check_finite()
                if self.config.processes.check_ranks_every:
                    check_ranks_equal(self.gan, self.runtime)
                random = self.runtime.random_states()
                # Where each rank holds a part of it, all of them take part; else the others are spared the copy.
                tensors = self.gan.state() if self.runtime.is_main or self.gan.is_sharded else {}
                if self.runtime.is_main:
                    tensors |= {f"random.{key}": value for key, value in random.items()}
                    try:
                        self.log.flush()
                        self._start(self._checkpoint(unlogged, tensors))
                    except OSError as error:
                        self._error = error
                self.stall_s.append(time.perf_counter() - began)
            if wait:
                self.runtime.run_on_rank0(lambda: self._wait_written(must=True))

    def check_skipped_updates(self) -> None:
        """Raise TrainingFailed if updates were skipped for non-finite gradients. Does not wait for the device."""
        if self.gan.num_skipped:
            raise TrainingFailed(f"non-finite gradient at or before step {self.gan.step}")

    def report_written(self) -> None:
        """Call `on_written` for a checkpoint of this process that is on the disk by now."""
        is_written = self.write_s and not (self._thread and self._thread.is_alive())
        if is_written and self.saved and self.saved[1] != self._reported:
            self._reported = self.saved[1]
            self.on_written(self._reported)

    def check_finite(self) -> None:
        """Raise TrainingFailed for non-finite weights or gradients. Waits for the device. All ranks call it."""
        self.check_skipped_updates()
        if not self.gan.is_finite():
            raise TrainingFailed(f"non-finite weight after step {self.gan.step}")

    def last(self) -> tuple[int, Path] | None:
        """Return the step and the folder of the last valid checkpoint; on rank 0 only."""
        self._wait_written()
        return self.saved

    def join(self) -> None:
        """Wait for the checkpoint that is being written, if there is one."""
        if self._thread is not None:
            self._thread.join()

    @property
    def last_s(self) -> float:
        """Seconds that the last checkpoint took, from its step to the disk."""
        return sum(times[-1] for times in (self.stall_s, self.write_s) if times)

    def facts(self) -> dict[str, object]:
        """Return the number of checkpoints, median and longest stall and write in seconds, and the last one's bytes."""
        facts: dict[str, object] = {"num": len(self.stall_s), "num_bytes": self.num_bytes}
        for name, values in (("stall_s", self.stall_s), ("write_s", self.write_s)):
            if values:
                facts[name] = {"median": round(median(values), 4), "max": round(max(values), 4)}
        return facts

    def _checkpoint(self, unlogged: list[list[float]], tensors: dict[str, Tensor]) -> Checkpoint:
        gan, log = self.gan, self.log
        epoch, step_in_epoch = divmod(gan.step, self.identity.steps_per_epoch)
        metrics = (log.last._asdict() if log.last else {}) | log.quality
        state = State(
            step=gan.step,
            epoch=epoch,
            step_in_epoch=step_in_epoch,
            steps_per_epoch=self.identity.steps_per_epoch,
            batch_size=self.identity.batch_size,
            data=self.identity.data,
            notice=self.notice,
            world_size=self.runtime.world_size,
            engine=self.log.engine,
            g_lr=gan.g.lr,
            d_lr=gan.d.lr,
            grad_scaler=self.runtime.grad_scaler_state(),
            elapsed_s=log.elapsed_s,
            logged_step=log.logged_step,
            num_lines=log.num_lines,
            unlogged=[list(row) for row in unlogged],
            metrics={key: value for key, value in metrics.items() if isinstance(value, float)},
        )
        return Checkpoint(tensors, state, self.config)

    def _start(self, checkpoint: Checkpoint) -> None:
        # A daemon: a second Ctrl-C does not wait for the disk. Unfinished checkpoints have temporary names.
        self._thread = threading.Thread(target=self._write, args=(checkpoint,), daemon=True)
        self._thread.start()

    def _write(self, checkpoint: Checkpoint) -> None:
        began = time.perf_counter()
        try:
            # The lines of metrics that the checkpoint counts must be on the disk before it.
            sync(self.log.path)
            self.folder.mkdir(exist_ok=True)
            path, self.num_bytes = write_checkpoint(self.folder, checkpoint)
            self.saved = checkpoint.state.step, path
            self._update_links_and_delete(path)
        except BaseException as error:  # handed to the thread that waits
            self._error = error
        self.write_s.append(time.perf_counter() - began)

    def _wait_written(self, *, must: bool = False) -> int | None:
        """Wait for the checkpoint that is being written. Return the step of the last valid one, if any."""
        self.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            if not isinstance(error, OSError) or (mistake := as_user_error(error)) is None:
                raise error
            last = f"the last checkpoint is of step {self.saved[0]:,}" if self.saved else "there is no other"
            if must or self.write_errors.stops:
                raise UserError(f"{mistake}; the checkpoint was not written, {last}", code=mistake.code)
            self.write_errors.warn(f"a checkpoint was not written, and training continues ({last}): {mistake}")
        self.report_written()
        return self.saved[0] if self.saved else None

    def _update_links_and_delete(self, newest: Path) -> None:
        """Move the links, and keep the newest `keep` and the best. An error is a warning: the new one is safe."""
        try:
            rename_copied_links(self.folder, self.write_errors.warn)
            self._link("latest", newest)
            checkpoints = checkpoints_in(self.folder)
            kept = checkpoints[: self.config.run.keep]
            best = find_best(checkpoints, self.config.run.keep_best)
            if best is None:
                (self.folder / "best").unlink(missing_ok=True)
            else:
                self._link("best", best)
                kept.append(best)
            for path in checkpoints:
                if path not in kept:
                    remove(path)
        except (OSError, UserError) as error:
            self.write_errors.warn(f"older checkpoints may stay beyond --keep: {as_user_error(error) or error}")

    def _link(self, name: str, path: Path) -> None:
        """Link a checkpoint under a name for people; no resume depends on it, so a failure is ignored."""
        temporary = self.folder / f".link-{name}"
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
            os.symlink(path.name, temporary)
            temporary.replace(self.folder / name)
