"""Settings of a training: frozen sections, each passed to the component that it configures.

A key is a flag of the same name (`d_lr` is `--d-lr`); the few whose flag differs carry `flag=`.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, PrivateAttr, model_validator

from distgan.config.fields import (
    DURATION,
    Channels,
    Epochs,
    Real,
    Section,
    check_one_of_two,
    fixed,
    free,
    replace_default,
    setting,
)
from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.config.model_config import ModelConfig
from distgan.config.registry import LOSSES, NO_TRACKER, TRACKERS
from distgan.config.shared_settings import (
    DataNameOrPath,
    Device,
    EngineName,
    LossName,
    OrderName,
    PrecisionNameOrAuto,
    TrackerNames,
    data_dir_setting,
    device_setting,
    seed_setting,
    test_data_setting,
    timeout_setting,
)
from distgan.utils.paths import user_path

_MOST = 10**12  # epochs or steps: more than any run has, without overflow


class RunConfig(Section):
    """Length, output and engine of the run."""

    out: str | None = setting(
        None,
        "the run's own folder; unset: a new one, runs/<preset>-<number>",
        on_resume="reset",
        is_copied=False,
        may_differ_per_rank=True,
        is_common=True,
        metavar="DIR",
    )
    resume: str = setting(
        "auto",
        "auto: resume from the newest valid checkpoint of the run in --out, if it holds one. never: only a new "
        "folder. Or the folder of a checkpoint, or of a run, to resume from in a new folder",
        allowed="auto, never, or the folder of a checkpoint or of a run that has one",
        on_resume="reset",
        is_copied=False,
        is_common=True,
        metavar="auto|never|PATH",
    )
    init_from: str | None = free(
        None,
        "begin with the weights of another run, or of a weights folder or a checkpoint; optimizers are new, and the "
        "step is 0. Without effect on a run that has a checkpoint",
        metavar="PATH",
    )
    init_sha256: dict[str, str] | None = free(
        None, "SHA-256 of the files that init_from named", allowed="a table of names", is_derived=True, is_copied=False,
        may_differ_per_rank=True,
    )  # fmt: skip
    trust_networks: bool = setting(
        False,
        "execute the networks that the run or the checkpoint to resume from carries; those of --networks are trusted",
        on_resume="reset",
        is_copied=False,
    )
    allow_config_change: bool = setting(
        False,
        "let a run be resumed with other settings, but for those that shape the networks and the batch",
        on_resume="reset",
        is_copied=False,
    )
    epochs: int = free(150, "passes over the data", ge=1, le=_MOST, is_common=True)
    max_steps: int | None = setting(
        None, "stop after that many steps, whatever the epochs", ge=1, le=_MOST, on_resume="reset", is_common=True
    )
    time_limit: str | None = setting(
        None,
        "save and stop before this much time has passed since the start (90s, 1h30m or 1-12:00:00); unset: before "
        "the end of the SLURM job, if it is one",
        allowed="a time as 90s, 45m, 1h30m, 1:30:00 or 1-12:00:00",
        pattern=DURATION,
        on_resume="reset",
        may_differ_per_rank=True,
        is_common=True,
        metavar="TIME",
    )
    seed: int = seed_setting(is_common=True)
    engine: EngineName = free("auto", "{names}", is_common=True)
    # The precision in use on each rank is compared, not the requested one.
    precision: PrecisionNameOrAuto | None = setting(
        None, "{names}. Unset: the launcher's, else fp32", may_differ_per_rank=True, is_common=True
    )
    device: Device = device_setting(on_resume="free", is_common=True)
    threads: int | None = free(
        None,
        "CPU threads of each process; unset: the cores, shared by the processes of this machine",
        ge=1,
        le=1024,
        may_differ_per_rank=True,
    )
    log_every: int = free(25, "steps between two lines of metrics.jsonl", ge=1, le=_MOST)
    save_every: int = free(1, "epochs between two checkpoints; the end always has one", ge=1, le=_MOST)
    save_every_steps: int | None = free(None, "steps between two checkpoints, besides save_every", ge=1, le=_MOST)
    keep: int = free(2, "number of newest checkpoints to keep", ge=2, le=1_000_000)
    keep_best: str | None = free(
        None,
        "also keep the best checkpoint by a metric of metrics.jsonl, as min:g_loss or, with --eval-every, min:raw_fcd",
        allowed="min: or max: and one of d_loss, g_loss, real_logits, fake_logits or, with --eval-every, raw_ or ema_ "
        "and one of fcd, agreement, recognisable, coverage, density, kl",
        pattern=r"^(min|max):(d_loss|g_loss|real_logits|fake_logits|"
        r"(raw|ema)_(fcd|agreement|recognisable|coverage|density|kl))$",
        metavar="METRIC",
    )
    on_save_error: Literal["continue", "stop"] = free(
        "continue", "what to do when a checkpoint cannot be written; the last one must be written in any case"
    )
    eval_every: int = free(
        0,
        "epochs between two evaluations of samples by classifiers (the judges), into metrics.jsonl; 0: none",
        ge=0,
        le=_MOST,
        is_common=True,
    )
    eval_every_steps: int | None = free(None, "steps between two evaluations, besides eval_every", ge=1, le=_MOST)
    eval_num: int | None = free(
        None,
        "images per evaluation, at most as many as there are real ones to compare with; unset: "
        "2000, or as many as the targets of --stop-at are for",
        ge=65,
        le=1_000_000,
    )
    stop_at: str | None = free(
        None,
        "end the run when evaluations meet these targets: mnist, or a TOML file of targets; unset: train to the last "
        "step",
        may_differ_per_rank=True,
        metavar="NAME|FILE",
    )
    eval_reference: str | None = free(
        None,
        "folder of the real test images for the evaluations; unset: that of the data",
        flag="eval-data-dir",
        old_flags=("eval-reference",),
        may_differ_per_rank=True,
        metavar="DIR",
    )
    sample_epochs: Epochs = free(
        [1, 20, 42, 81, 120, 129, 149],
        "after which epochs to draw a sample grid, such as 1,20,42 (0: before training); the last always has one",
    )
    tracker: TrackerNames = free(
        ["tensorboard"],
        "where to log metrics, settings and sample grids besides the run's own files, by Accelerate's trackers; no "
        "tracker logs in or uploads unless you set that up",
        allowed=f"{NO_TRACKER}, or one or more of {', '.join(TRACKERS)}",
    )

    @property
    def evaluates_quality(self) -> bool:
        """True if the judges look at the samples during training."""
        return bool(self.eval_every or self.eval_every_steps or self.stop_at)

    @model_validator(mode="after")
    def _judged_best_needs_judges(self) -> "RunConfig":
        if self.keep_best and self.keep_best[4:].startswith(("raw_", "ema_")) and not self.evaluates_quality:
            raise ValueError(
                f"--keep-best: needs evaluations during training ({self.keep_best}). Expected: --eval-every 1 or more, "
                "or --stop-at"
            )
        return self


class ProcessesConfig(Section):
    """Number of processes, and what they share."""

    num: int | None = free(
        None,
        "processes to start on this machine; unset: one, or those of accelerate launch, torchrun or srun",
        flag="processes",
        ge=1,
        le=1024,
        may_differ_per_rank=True,
        is_common=True,
    )
    sync_batch_norm: bool = setting(
        True, "BatchNorm's statistics over the global batch; off: over each process's own rows"
    )
    check_ranks_every: int = free(
        500,
        "steps between two comparisons of the weights of all processes, besides one before each checkpoint; 0: never",
        ge=0,
        le=_MOST,
    )
    timeout: Real = timeout_setting()
    zero: int | None = free(
        None, "DeepSpeed with that ZeRO stage instead of DDP; unset: the launcher's", flag="zero-stage", ge=0, le=3
    )


class DataConfig(Section):
    """Data set and batches."""

    name: DataNameOrPath = fixed(
        "mnist",
        "{names}. Or your own images by their path: a folder (its sub-folders are the classes), a .zip of one, an "
        ".npz with images and labels, or .parquet",
        flag="data",
        is_common=True,
    )
    image_size: int | None = fixed(
        None,
        "own images: side to which they are resized by their shorter side and cropped at the centre; unset: their "
        "common size",
        ge=1,
        le=1024,
    )
    channels: Channels | None = fixed(None, "own images: 1 (grey) or 3 (colour); unset: what all of them have")
    background: Literal["black", "white"] | None = fixed(
        None, "own images: what shows through transparent pixels; unset: such images are an error"
    )
    skip_broken: bool = free(False, "own images: leave out unreadable files, also where they are more than 1 %")
    flip: bool = fixed(False, "flip images left to right at random, anew in each epoch", flag="mirror")
    cache_dir: str | None = free(
        None,
        "own images: folder for the decoded ones; unset: $XDG_CACHE_HOME/distgan, or ~/.cache/distgan",
        may_differ_per_rank=True,
        metavar="DIR",
    )
    test: str | None = test_data_setting(on_resume="free", may_differ_per_rank=True)
    fingerprint: str | None = free(
        None, "of the decoded images and labels, SHA-256", is_derived=True, is_copied=False, may_differ_per_rank=True
    )
    dir: str | None = data_dir_setting(flag="data-dir", on_resume="free", may_differ_per_rank=True, is_common=True)
    download: bool = free(True, "download what the folder lacks", flag="download", may_differ_per_rank=True)
    mirror: str | None = free(
        None,
        "address to download from instead of torchvision's (http://, https:// or file://)",
        flag="data-mirror",
        allowed="an address that starts with http://, https:// or file://",
        pattern=r"^(https?|file)://.+",
        may_differ_per_rank=True,
        metavar="URL",
    )
    md5: Literal["auto", "require", "accept"] = free(
        "auto",
        "files whose md5 is not the published one: require rejects them, accept takes them with a "
        "warning, auto takes them from a folder that you named (--data-dir, $DISTGAN_DATA) and rejects "
        "them elsewhere",
        flag="data-md5",
    )
    # How the batch is named may change with the number of processes; its size is compared by itself.
    batch_size: int | None = free(
        256,
        "images per step over all processes together: the global batch size",
        ge=2,
        le=1_000_000,
        replaces=("per_rank_batch_size",),
        is_common=True,
    )
    per_rank_batch_size: int | None = free(
        None, "images per step and process; instead of batch_size", ge=1, le=1_000_000, replaces=("batch_size",)
    )
    drop_last: bool = fixed(False, "leave out the short last batch of an epoch")

    @model_validator(mode="before")
    @classmethod
    def _per_rank_replaces_default(cls, values: Any) -> Any:
        return replace_default(values, "per_rank_batch_size", "batch_size")

    @model_validator(mode="after")
    def _one_batch_size(self) -> "DataConfig":
        check_one_of_two("--batch-size, --per-rank-batch-size", self.batch_size, self.per_rank_batch_size)
        return self


class OptimConfig(Section):
    """Loss, order of the updates, and Adam."""

    loss: LossName = setting("bce", "{names}")
    penalty_weight: Annotated[Real, Field(ge=0, le=1_000_000)] | Literal["auto"] | None = setting(
        None,
        "weight of the gradient penalty; unset: the loss's own, as --loss has it; auto: that, times the pixels of an "
        f"image over MNIST's {MNIST_SPEC.height * MNIST_SPEC.width} and the batch of the loss's own weight over this "
        f"one ({', '.join(f'{name}: {loss.penalty_batch}' for name, loss in LOSSES.items() if loss.penalty_batch)})",
        allowed="a number from 0 to 1,000,000, or auto",
        metavar="X|auto",
    )
    order: OrderName = setting("alternating", "{names}")
    # Adam divides them by 1 - beta1 at first, which float32 has to hold.
    g_lr: Real = setting(2e-4, "Adam's learning rate for G", gt=0, le=1e30)
    d_lr: Real = setting(2e-4, "Adam's learning rate for D", gt=0, le=1e30)
    d_microbatches: int = setting(
        1,
        "microbatches in which a step takes its batch through D, one after the other, so that D needs less memory; "
        "the update is that of the full batch",
        old_flags=("accumulate",),
        old_keys=("accumulate",),
        ge=1,
        le=1024,
    )
    beta1: Real = setting(0.5, "Adam's first beta", ge=0, lt=1)
    beta2: Real = setting(0.999, "Adam's second beta", ge=0, lt=1)
    lr_schedule: Literal["constant", "linear"] = setting("constant", "linear: both rates fall to 0 over all epochs")
    ema_decay: Real = setting(0.0, "moving average of G's weights per step; 0: none", ge=0, lt=1)


class Origin(NamedTuple):
    """Sources of a config: the preset's name, the folder of the run whose config.json it took over, and what was set.

    `named`: the paths of settings that were given by flag or keyword, as "run.out".
    """

    preset: str
    run: Path | None
    named: frozenset[str]


class Config(Section):
    """All settings of a run. Weakest first: these defaults, one preset, flags."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    run: RunConfig = RunConfig()
    processes: ProcessesConfig = ProcessesConfig()

    _origin: Origin | None = PrivateAttr(None)

    @classmethod
    def from_preset(cls, name: str | os.PathLike[str], **settings: Any) -> "Config":
        """Return the settings of a preset, as "cgan-fast", of a .toml file, or of a run's folder or config.json.

        `settings` replace some of them: the flags of `distgan train` with underscores, such as `batch_size=128`,
        `data="photos/"`, `max_steps=500`, `out="runs/mine"`. Raises UserError for a name or value that is not allowed.
        """
        from distgan.config.presets import build_config

        return build_config(name, settings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.model_dump() == other.model_dump()  # whatever their origin

    @property
    def origin(self) -> Origin:
        """Sources of this config; of one that was built by hand, a preset of its model's name."""
        return self._origin or Origin(self.model.name, None, frozenset())

    def with_origin(self, origin: Origin) -> "Config":
        """Return a copy with other sources."""
        config = self.model_copy()
        config._origin = origin
        return config

    def resolved(self, data: str, precision: str, images: ImageSpec, fingerprint: str | None = None) -> "Config":
        """Return this config with what was found when the run started.

        `data` and `precision` are what `auto`, or the launcher, came to; `images` and `fingerprint` are of the data.
        """
        named = self.run.init_from
        run = {"precision": precision, "init_from": named and os.path.abspath(user_path(named, "--init-from"))}
        data_config = self.data.model_copy(update={"name": data, "fingerprint": fingerprint})
        return self.with_images(images).model_copy(update={"data": data_config, "run": self.run.model_copy(update=run)})

    def with_images(self, images: ImageSpec) -> "Config":
        """Return this config for networks of such images."""
        return self.model_copy(update={"model": self.model.model_copy(update={"images": images})})
