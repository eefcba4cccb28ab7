"""Write the files of a run's folder, and print lines about the run: config, environment, samples, weights, curves."""

import os
import shlex
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from filelock import BaseFileLock
from PIL import Image

from distgan.checkpoint.export import export_weights
from distgan.checkpoint.manager import CheckpointManager
from distgan.checkpoint.resume import Start, is_in
from distgan.data.image_list import FILE as IMAGES
from distgan.distributed.trackers import Trackers, check_installed
from distgan.errors import WriteErrorPolicy
from distgan.evaluation.targets import find_targets, read_targets
from distgan.models.base import build_generator, generator_labels, num_parameters
from distgan.models.given_modules import GIVEN
from distgan.models.sampling import build_preview, generate, sample_z
from distgan.runs.dataset_use import describe_dataset_use
from distgan.runs.loss_curves import save_curves
from distgan.runs.observers import Observers, RunResult
from distgan.runs.progress import ProgressDisplay
from distgan.runs.run_dir import LOCK_WAIT_S, SAMPLE, claim_folder, clear_leftovers, lock, read_status, record_status
from distgan.training.engines.selection import EngineSelection
from distgan.training.metrics import MetricLog, last_evaluation
from distgan.training.session import Session
from distgan.utils.figures import add_names, draw_timeline, drawable_names, grid, save_gif
from distgan.utils.files import metric_lines, write_atomic, write_json
from distgan.utils.parts_progress import format_hms
from distgan.utils.provenance import Startup, describe_environment

# Tags of the 2023 report.
TAGS = {"vanilla": "GAN- Generated Samples", "cgan": "C-GAN Generated Samples"}


class RunArtifacts:
    """The folder of a run. All ranks call every public method; rank 0 writes.

    Raises UserError on all ranks for a folder or a disk that can't be written to.
    """

    def __init__(self, session: Session, preset: str, startup: Startup, observers: Observers | None = None):
        self._notes = session.traits.notes
        self.config, self.dataset, self.runtime, self.gan = (
            session.config, session.dataset, session.runtime, session.gan,
        )  # fmt: skip
        self.steps_per_epoch, self.preset, self.startup = session.steps_per_epoch, preset, startup
        self._fingerprint = session.fingerprint
        config, runtime = session.config, session.runtime
        self.write_errors = WriteErrorPolicy(stops=config.run.on_save_error == "stop")
        self.observers = observers or Observers()
        self.observers.warn = self.write_errors.warn
        for warning in runtime.warnings:
            self.write_errors.warn(warning)
        self._environment = describe_environment() | runtime.describe()
        self._preview = build_preview(config.model)
        self._generator = build_generator(config.model).to(runtime.device)
        shape: tuple[int, ...] = self._generator.latent_shape  # type: ignore[assignment]
        self._z = sample_z(len(self._preview.labels), shape, config.run.seed)
        stop_at = config.run.stop_at
        targets = stop_at and runtime.run_on_rank0(lambda: read_targets(find_targets(stop_at, "--stop-at")))
        self._targets = targets.model_dump(mode="json") if targets else None
        self._is_recorded = False
        self._tracker_notes: list[str] = []
        self._engine: dict[str, object] | None = None
        self._networks: dict[str, object] | None = None
        self.start: Start | None = None
        self.was_done = False
        self.end_reason = ""  # why the run ended before its last step
        self._lock: BaseFileLock | None = None
        runtime.run_on_rank0(lambda: check_installed(config.run.tracker))
        self.trackers = Trackers(self.write_errors)
        runtime.at_end.callback(self.trackers.close)
        self.folder = runtime.run_on_rank0(self._claim)
        self.log = MetricLog(
            self.folder, runtime, self.steps_per_epoch, session.dataset.notice, self.write_errors, self.trackers
        )
        self.checkpoints = CheckpointManager(self.folder, session, self.log, self.write_errors)
        self.log.on_line = partial(self.observers.notify, "on_metrics")
        self.checkpoints.on_written = partial(self.observers.notify, "on_checkpoint")

    def __enter__(self) -> "RunArtifacts":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Release the folder, so that another training of this process may use it."""
        # A second Ctrl-C does not wait for the disk.
        if not (kind and issubclass(kind, KeyboardInterrupt)):
            self.checkpoints.join()
        if self._lock is not None:
            self._lock.release()

    def record_status(self) -> AbstractContextManager[None]:
        """Write status.json: `running`, and at the end of the block how it ended; nothing for a run that was done."""
        if not self.runtime.is_main or self.was_done:
            return nullcontext()
        return record_status(self.folder, lambda: self.gan.step, lambda: self.end_reason)

    def _claim(self) -> Path:
        folder = claim_folder(self.config.run.out, self.preset, may_hold_run=self.config.run.resume != "never")
        # Less than --timeout, since the other ranks wait in a collective.
        self._lock = lock(folder, min(LOCK_WAIT_S, self.config.processes.timeout / 2))
        clear_leftovers(folder)
        return folder

    def begin(self, start: Start | None, *, is_over: bool) -> None:
        """Save the first checkpoint, describe the run, which resumes from `start` if given, and start trackers.

        A run that was done keeps its files as they are if it `is_over`: no further step will be taken.
        """
        self.start, self.config = start, self.checkpoints.config
        self.was_done = self.runtime.run_on_rank0(lambda: is_over and self._was_done())
        if self.was_done:
            return
        self.checkpoints.save(wait=True)  # no step without a checkpoint; does nothing if restored from one
        self.runtime.run_on_rank0(self._describe)
        self._write_optional(self._list_images, f"{IMAGES} is")
        step, last = self.gan.step, self.log.last_step
        self._tracker_notes = self.runtime.run_on_rank0(
            lambda: self.trackers.start(self.config, self.folder, step, last, is_resumed=start is not None)
        )

    def _was_done(self) -> bool:
        status = read_status(self.folder)
        is_own = self.start is not None and is_in(self.start.path, self.checkpoints.folder)
        return is_own and (status.get("state"), status.get("step")) == ("done", self.gan.step)

    def _describe(self) -> None:
        write_json(self.folder / "config.json", self.config.model_dump(mode="json"))
        self._write_environment()

    def _list_images(self) -> None:
        """Write the list of own images, with which a resume is compared."""
        path, listed = self.folder / IMAGES, self.dataset.listed
        if listed and (self.start is None or not path.exists()):
            listed.write(path)

    def _write_environment(self) -> None:
        data, config = self.dataset, self.config
        environment = self._environment | {
            "preset": self.preset,  # the preset, or the name of the config file
            "engine": self._engine,  # the engine in use, why it was chosen, and whether it is a fallback
            "networks": self._networks,  # the parameters of G and D that learn, and the shape of an image's z
            "targets": self._targets,  # content of the targets of --stop-at when the run was started, or null
            "strategy": self.runtime.strategy,  # DDP, or DeepSpeed with its ZeRO stage
            "order": config.optim.order,  # the order of updates
            "init_from": config.run.init_from  # path and SHA-256 of the weights that the run began with, or null
            and {"path": config.run.init_from, "sha256": config.run.init_sha256},
            "resumed_from": self.start.checkpoint.state.step if self.start else None,  # the checkpoint's step, or null
            "data": {  # name, source, number and fingerprint of the images; notice and warning say what is unusual
                "name": data.name,
                "notice": data.notice,
                "warning": data.warning,
                "source": data.source,
                "num_images": len(data.images),
                "fingerprint": self._fingerprint,
                "images": data.spec.model_dump(mode="json"),
                "findings": data.findings and data.findings.model_dump(mode="json"),
            },
            "startup_s": self.startup.phases,  # seconds of each phase from the start of the process to the first step
        }
        write_json(self.folder / "environment.json", environment)

    def record_startup(self) -> None:
        """Write the start-up times, once after the first steps, and delete the sample grid of an earlier stop."""

        def delete_old() -> None:
            for picture in (self.folder / "samples").glob("epoch-*-step-*.png"):
                picture.unlink()

        if not self._is_recorded:
            self._write_optional(self._write_environment, "environment.json is")
            self._draw_optional(delete_old, "an old sample is not deleted, and a new one is")
            self._is_recorded = True

    def _draw_optional(self, draw: Callable[[], object], what: str) -> None:
        """Call `draw` on rank 0; any exception is a warning that `what` is not written."""
        self.runtime.run_on_rank0(lambda: self.write_errors.warn_on_error(draw, what))

    def _write_optional(self, write: Callable[[], None], what: str) -> None:
        """Call `write` on rank 0; an error of the disk is a warning, or ends the run by --on-save-error stop."""

        def attempt() -> None:
            try:
                write()
            except OSError as error:
                self.write_errors(error, what)

        self.runtime.run_on_rank0(attempt)

    def announce(self, display: ProgressDisplay, selection: EngineSelection) -> None:
        config, data, gan = self.config, self.dataset, self.gan
        self._engine = selection.describe()
        if selection.is_fallback:
            display.say(f"!! {selection} !!", "bold yellow")
        if data.notice:
            display.say(f"!! This run trains on {data.notice}. !!", "bold yellow")
        if data.warning:
            display.say(f"warning: {data.warning}", "yellow")
        with gan.g.full_params(), gan.d.full_params():
            g_size, d_size = num_parameters(gan.generator), num_parameters(gan.discriminator)
        shape = list(self._z.shape[1:])
        self._networks = {"g_parameters": g_size, "d_parameters": d_size, "latent_shape": shape}
        runtime = self.runtime
        strategy = f" in {runtime.strategy}" if runtime.strategy != "DDP" else ""
        display.say(
            f"{self.preset}: G {g_size:,} and D {d_size:,} parameters, {data.name} ({len(data.images):,} images), "
            f"{config.run.epochs} epochs of {self.steps_per_epoch} steps, {runtime.world_size} x "
            f"{runtime.device.type}{strategy}, {runtime.describe_precision()}, order {config.optim.order}"
        )
        if config.model.networks:
            display.say(f"networks of {config.model.networks}, contents {config.model.networks_sha256}")
            for note in self._notes:
                display.say(f"note: {note}", "yellow")
        if (weight := config.optim.penalty_weight) is not None:
            display.say(f"gradient penalty of weight {weight:g}")
        for line in describe_dataset_use(data, config.model):
            display.say(line)
        if not selection.is_fallback:
            display.say(str(selection))
        if self.checkpoints.begins_with:
            display.say(f"beginning with {self.checkpoints.begins_with}")
        for line in (f"writing to {self.folder}", *self._tracker_notes):
            display.say(line)
        if self.start:
            state = self.start.checkpoint.state
            before, now = state.world_size, self.runtime.world_size
            ranks = f", on {now} processes instead of {before}" if before != now else ""
            display.say(f"resuming at step {state.step:,} (from {self.start.path}){ranks}")

    def sample(self) -> str:
        """Draw a grid from the fixed z with the averaged weights of G. Return a line about it, "" for none.

        The C-GAN's has a column per class. A grid at a stop, which an uninterrupted run would not draw, has the step
        in its name and is deleted on resume.
        """
        gan = self.gan
        epoch, step_in_epoch = divmod(gan.step, self.steps_per_epoch)
        is_stop = step_in_epoch or epoch not in (*self.config.run.sample_epochs, self.config.run.epochs)
        name = f"epoch-{epoch:04}" + (f"-step-{gan.step:07}" if is_stop else "")

        path = self.folder / "samples" / f"{name}.png"

        def write(weights: dict[str, torch.Tensor]) -> None:
            self._generator.load_state_dict(weights)
            labels, columns, heads = self._preview
            images = generate(self._generator, self._z, generator_labels(self._generator, self._z, labels))
            picture = grid(images, columns, heads=drawable_names(heads), caption=self.dataset.notice)
            (self.folder / "samples").mkdir(exist_ok=True)
            save_picture(path, picture)
            self.trackers.log_image(TAGS[self.config.model.name], np.asarray(picture), path, gan.step)
            self.observers.notify("on_samples", gan.step, images)

        with self.log.paused():
            weights = gan.sampling_state()
            self._draw_optional(lambda: write(weights), "a sample is")
        return f"samples: {path}" if self.runtime.is_main and os.path.exists(path) else ""

    def export_last_good(self, advice: str) -> str:
        """Export the weights of the last checkpoint after a non-finite loss. Return a line about it, with advice."""

        def export() -> str:
            if (saved := self.checkpoints.last()) is None:
                return "there is no checkpoint before it"
            step, path = saved
            export_weights(self.folder, path, self.config)
            return f"the last good state, of step {step:,}, is kept in {self.folder}; {advice}"

        return self.runtime.run_on_rank0(export)

    def finish(self, display: ProgressDisplay, *, is_done: bool = True) -> None:
        """Write weights and pictures of the last checkpoint, and show the remaining warnings.

        Of a run that was done, only what is missing. Trackers get the last evaluation of a run that `is_done` now.
        """

        def write() -> None:
            saved = self.checkpoints.last()
            if self.start and self.was_done:
                if self._is_due("weights"):
                    export_weights(self.folder, self.start.path, self.config)
                return
            assert saved is not None
            export_weights(self.folder, saved[1], self.config)
            self._environment |= {"checkpoints": self.checkpoints.facts()}  # at the end: number, last size, seconds
            self._write_environment()

        with self.log.paused():
            self.runtime.run_on_rank0(write)
            if is_done and not self.was_done:
                self._draw_optional(
                    lambda: self.trackers.log_summary(last_evaluation(self.log.path), self.gan.step),
                    "trackers' last evaluation is",
                )
            self._draw_optional(self._draw_timeline, "timeline.png or timeline.gif is")
            self._draw_optional(self._draw_curves, "losses.png is")
        display.warn(self.write_errors.warnings())

    def _is_due(self, *names: str) -> bool:
        return not (self.was_done and all((self.folder / name).exists() for name in names))

    def _draw_curves(self) -> None:
        if self._is_due("losses.png"):
            save_curves(self.folder, f"{self.preset} on {self.dataset.name}", self.dataset.notice)

    def _draw_timeline(self) -> None:
        if not self._is_due("timeline.png", "timeline.gif"):
            return
        frames = []
        for path in sorted((self.folder / "samples").glob("*.png"), key=lambda path: path.stem):
            if not (match := SAMPLE.fullmatch(path.stem)):
                continue
            with Image.open(path) as picture:
                frames.append((f"step {int(match[2]):,}" if match[2] else f"epoch {int(match[1])}", picture.copy()))
        if frames:
            strip = draw_timeline(frames)
            save_picture(self.folder / "timeline.png", strip)
            write_atomic(self.folder / "timeline.gif", lambda file: save_gif(file, add_names(frames), 0.7, 2.5))

    def result(self, stopped: str | None) -> RunResult:
        """Return the result of the run as it is now, for a program. All ranks call it."""

        def last_line() -> dict[str, Any]:
            if self.log.last_line:
                return self.log.last_line
            lines = deque(metric_lines(self.log.path), 1)  # of a run that was done before
            return (lines[0] if lines else None) or {}

        return RunResult(self.folder, self.gan.step, self.runtime.run_on_rank0(last_line), stopped)

    def resume_hint(self) -> str:
        if self.config.model.networks == GIVEN:
            return f"resume with: distgan.train, out={str(self.folder)!r} and the same modules"
        flags = f"--out {shlex.quote(str(self.folder))}"
        if self.runtime.world_size > 1 and not self.runtime.is_ours:
            return f"resume with the same launcher and: {flags}{self._named_networks()}"
        return f"resume with: distgan train {flags}{self._named_networks()}"

    def _named_networks(self) -> str:
        """Return the flag by which a user's networks are named, and so trusted; "" for those of a family."""
        networks = self.config.model.networks
        return f" --networks {shlex.quote(networks)}" if networks else ""

    def summarise(self, display: ProgressDisplay) -> None:
        reason = f": {self.end_reason}" if self.end_reason else ""
        display.say(f"done in {format_hms(self.log.elapsed_s)} of training{reason}; results:", "bold")
        for name, content in (
            ("timeline.png", "the samples, epoch by epoch (timeline.gif moves)"),
            ("losses.png", "both losses and D's logits"),
            ("samples/", "each grid"),
            ("weights/", "each network as safetensors"),
            ("metrics.jsonl", "metrics"),
            ("checkpoints/", "checkpoints to resume from (distgan checkpoint ls)"),
        ):
            if os.path.exists(self.folder / name):  # False also if a network disk is away
                display.say(f"  {self.folder / name!s:<40} {content}")
        saved = self.checkpoints
        if saved.stall_s and saved.write_s:
            display.say(
                f"checkpoints: {len(saved.stall_s)} of {saved.num_bytes / 2**20:.1f} MiB; each stopped training for "
                f"{median(saved.stall_s):.3f} s, and was on the disk {median(saved.write_s):.3f} s later"
            )
        sampling = f"distgan sample {shlex.quote(str(self.folder))}{self._named_networks()}"
        if self.config.model.networks == GIVEN:
            sampling = f"distgan.sample({str(self.folder)!r}, generator=...)"
        display.say(f"more images: {sampling}")
        if self.dataset.notice:
            display.say(f"!! Trained on {self.dataset.notice}. !!", "bold yellow")


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture in the format of its suffix."""
    write_atomic(path, lambda file: picture.save(file, path.suffix[1:]))
