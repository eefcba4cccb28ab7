"""What a run leaves in its folder, and what it says of it: config, environment, samples, weights, curves."""

import shlex
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distgan.checkpoint import (
    CHECKPOINT,
    claim_folder,
    export_weights,
    load_checkpoint,
    refuse_changes,
    run_metadata,
    save_checkpoint,
)
from distgan.config import Config
from distgan.curves import save_curves
from distgan.data import Dataset
from distgan.environment import Startup, describe_environment
from distgan.errors import TrainingFailed
from distgan.files import write_json, write_whole
from distgan.gan import Gan
from distgan.images import generate, grid, named, save_gif, timeline
from distgan.models import build_generator, num_parameters
from distgan.noise import sample_z
from distgan.progress import Display, duration
from distgan.runtime import Runtime

# The report's own tags.
TAGS = {"vanilla": "GAN- Generated Samples", "cgan": "C-GAN Generated Samples"}
REMEMBER_EVERY_S = 2.0


class Outputs:
    """The folder of a run. Every public method is called by all ranks; the first does the writing.

    Raises UserError on all of them for a folder or a disk that can't be written to.
    """

    def __init__(
        self,
        config: Config,
        preset: str,
        dataset: Dataset,
        runtime: Runtime,
        steps_per_epoch: int,
        startup: Startup,
    ):
        self.config, self.preset, self.dataset, self.runtime = config, preset, dataset, runtime
        self.steps_per_epoch, self.startup = steps_per_epoch, startup
        self.fingerprint = dataset.fingerprint
        self._identity = {"data": self.fingerprint, "steps_per_epoch": str(steps_per_epoch)}
        self._environment = describe_environment() | runtime.describe()
        is_resume = config.run.resume == "auto"
        self.folder = runtime.on_main(lambda: claim_folder(config.run.out, preset, resume=is_resume))
        conditional = config.model.is_conditional
        num, self.columns = (100, 10) if conditional else (64, 8)
        self._preview = build_generator(config.model).to(runtime.device)
        self._labels = torch.arange(num) % 10
        self._z = sample_z(num, self._preview.latent_shape, config.run.seed)  # type: ignore[arg-type]
        self._good: tuple[dict[str, Tensor], int] | None = None
        self._remembered = 0.0
        self._is_recorded = False
        self.resumed_from: int | None = None

    # -- the beginning --------------------------------------------------------------------------------

    def restore(self, gan: Gan) -> None:
        """Takes up the run that the folder holds, if any, and writes the two files that describe this one."""

        def attempt() -> None:
            if (self.folder / "config.json").exists():
                refuse_changes(self.config, self.folder)
                if loaded := load_checkpoint(self.folder, self._identity):
                    tensors, step = loaded
                    gan.load_state(tensors, step, str(self.folder / CHECKPOINT))
                    self.resumed_from = step

        self.runtime.together(attempt)
        self.runtime.on_main(self._describe)
        self.runtime.start_tracker(self.config.run.tracker, str(self.folder))
        self._good = (gan.state(), gan.step) if self.runtime.is_main else None

    def _describe(self) -> None:
        write_json(self.folder / "config.json", self.config.model_dump(mode="json"))
        self._write_environment()

    def _write_environment(self) -> None:
        data = self.dataset
        environment = self._environment | {
            "preset": self.preset,
            "engine": "eager",
            "order": self.config.optim.order,
            "resumed_from": self.resumed_from,
            "data": {
                "name": data.name,
                "notice": data.notice,
                "warning": data.warning,
                "source": data.source,
                "num_images": len(data.images),
                "fingerprint": self.fingerprint,
            },
            "startup_s": self.startup.phases,
        }
        write_json(self.folder / "environment.json", environment)

    def record_start(self) -> None:
        """Once, after the first steps: what start-up took. A grid of the stop that is now past is taken away."""

        def write() -> None:
            self._write_environment()
            for picture in (self.folder / "samples").glob("*-step-*.png"):
                picture.unlink()

        if not self._is_recorded:
            self.runtime.on_main(write)
            self._is_recorded = True

    def announce(self, display: Display, gan: Gan) -> None:
        config, data = self.config, self.dataset
        if data.notice:
            display.say(f"!! This run trains on {data.notice}. !!", "bold yellow")
        if data.warning:
            display.say(f"warning: {data.warning}", "yellow")
        display.say(
            f"{self.preset}: G {num_parameters(gan.generator):,} and D {num_parameters(gan.discriminator):,} "
            f"parameters, {data.name} ({len(data.images):,} images), {config.run.epochs} epochs of "
            f"{self.steps_per_epoch} steps, {self.runtime.world_size} x {self.runtime.device.type}, "
            f"precision {self.runtime.precision}, order {config.optim.order}"
        )
        display.say(f"writing to {self.folder}")
        if self.resumed_from is not None:
            display.say(f"going on at step {self.resumed_from:,}")

    # -- on the way -----------------------------------------------------------------------------------

    def sample(self, gan: Gan) -> None:
        """A grid from the fixed z by G's averaged weights: the C-GAN's has a column for each digit."""
        epoch, into_epoch = divmod(gan.step, self.steps_per_epoch)
        name = f"epoch-{epoch:04}" + (f"-step-{gan.step:07}" if into_epoch else "")

        def write() -> None:
            self._preview.load_state_dict(gan.sampling_state())
            heads = range(10) if self.config.model.is_conditional else ()
            images = generate(self._preview, self._z, self._labels)
            picture = grid(images, self.columns, heads=heads, caption=self.dataset.notice)
            (self.folder / "samples").mkdir(exist_ok=True)
            save_picture(self.folder / "samples" / f"{name}.png", picture)
            self.runtime.track_image(TAGS[self.config.model.name], np.asarray(picture), epoch)

        self.runtime.on_main(write)

    def remember(self, gan: Gan) -> None:
        """Keeps a copy of a good state in memory, for a run whose numbers go wrong before it is saved.

        Raises TrainingFailed for weights that are no numbers, before anything is saved over good ones.
        """
        if not gan.is_finite():
            raise TrainingFailed(f"a weight is no number after step {gan.step}")
        if self.runtime.is_main and time.perf_counter() - self._remembered > REMEMBER_EVERY_S:
            self._good = gan.state(), gan.step
            self._remembered = time.perf_counter()

    def save_last_good(self) -> str:
        """Saves the state before the numbers went wrong; says which, and what to do."""

        def write() -> int:
            assert self._good is not None
            self._save(*self._good)
            return self._good[1]

        step = self.runtime.on_main(write)
        return (
            f"the last good state, of step {step:,}, is kept in {self.folder}; lower --g-lr and --d-lr, or try "
            "another --loss or --precision"
        )

    def save(self, gan: Gan) -> None:
        """The checkpoint."""
        self.runtime.on_main(lambda: save_checkpoint(self.folder, gan.state(), gan.step, self._identity))

    # -- the end --------------------------------------------------------------------------------------

    def finish(self, gan: Gan) -> None:
        """Weights and pictures of the run as it stands."""
        self.runtime.on_main(lambda: self._save(gan.state(), gan.step))
        self.runtime.on_main(self._pictures)

    def _save(self, tensors: dict[str, Tensor], step: int) -> None:
        save_checkpoint(self.folder, tensors, step, self._identity)
        metadata = run_metadata(step, {"data": self.dataset.name, "notice": self.dataset.notice})
        export_weights(self.folder, tensors, self.config, metadata)

    def _pictures(self) -> None:
        paths = sorted((self.folder / "samples").glob("*.png"), key=lambda path: path.stem)
        frames = []
        for path in paths:
            _, epoch, *step = path.stem.split("-")
            with Image.open(path) as picture:
                frames.append((f"step {int(step[1]):,}" if step else f"epoch {int(epoch)}", picture.copy()))
        if frames:
            strip = timeline(frames)
            save_picture(self.folder / "timeline.png", strip)
            write_whole(self.folder / "timeline.gif", lambda file: save_gif(file, named(frames), 0.7, 2.5))
        save_curves(self.folder, f"{self.preset} on {self.dataset.name}", self.dataset.notice)

    def how_to_go_on(self) -> str:
        flags = f"--out {shlex.quote(str(self.folder))} --resume auto"
        if self.runtime.world_size > 1:
            return f"go on with the same launcher and: {flags}"
        return f"go on with: distgan train {flags}"

    def summarise(self, display: Display, elapsed_s: float) -> None:
        display.say(f"done in {duration(elapsed_s)} of training; look at", "bold")
        for name, what in (
            ("timeline.png", "the samples, epoch by epoch (timeline.gif moves)"),
            ("losses.png", "both losses and D's logits"),
            ("samples/", "each grid by itself"),
            ("weights/", "each network as safetensors"),
            ("metrics.jsonl", "the numbers"),
        ):
            if (self.folder / name).exists():
                display.say(f"  {self.folder / name!s:<40} {what}")
        display.say(f"more images: distgan sample {self.folder}")
        if self.dataset.notice:
            display.say(f"!! Trained on {self.dataset.notice}. !!", "bold yellow")


def save_picture(path: Path, picture: Image.Image) -> None:
    write_whole(path, lambda file: picture.save(file, path.suffix[1:]))
