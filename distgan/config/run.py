"""What can be set of how a run is taken: how long, where to, by which engine, on which processes."""

from typing import Literal

from pydantic import model_validator

from distgan.config.fields import DURATION, Epochs, Real, Section, setting

EngineName = Literal["auto", "eager", "compile", "graph", "graph-compiled"]


class RunConfig(Section):
    """How long, where to, and what is written on the way."""

    out: str | None = setting(
        None, "the run's own folder; unset: a new one, runs/<preset>-<number>", min_length=1
    )
    resume: str = setting(
        "auto",
        "auto: go on from the newest whole checkpoint of the run in --out, if it holds one. never: only a new "
        "folder. Or the folder of a checkpoint, or of a run, to go on from in a new folder",
        allowed="auto, never, or the folder of a checkpoint or of a run that has one",
        min_length=1,
    )
    allow_config_change: bool = setting(
        False, "let a run go on with other settings, but for those that shape the networks and the batch"
    )
    epochs: int = setting(150, "passes over the data", ge=1)
    max_steps: int | None = setting(None, "stop after that many steps, whatever the epochs", ge=1)
    time_limit: str | None = setting(
        None,
        "stop in time to be saved before that long after the start, as 90s, 1h30m or 1-12:00:00; unset: before "
        "the end of the SLURM job, if it is one",
        allowed="a time as 90s, 45m, 1h30m, 1:30:00 or 1-12:00:00",
        pattern=DURATION,
    )
    seed: int = setting(0, "of weights, order, z and dropout", ge=0, lt=2**31)
    engine: EngineName = setting(
        "auto",
        "eager: torch, one operator at a time. compile: the networks by torch.compile. graph: whole steps as CUDA "
        "graphs, compiled inside where that pays. graph-compiled: always. auto: graph on a GPU, else eager",
    )
    precision: Literal["no", "tf32", "fp16", "bf16"] | None = setting(
        None,
        "no: float32. tf32, fp16: on GPUs. Unset: what the launcher said, else float32",
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: cuda where there is one")
    threads: int | None = setting(
        None,
        "CPU threads of each process; unset: the cores, shared by the processes of this machine",
        ge=1,
        le=1024,
    )
    log_every: int = setting(25, "steps between two lines of metrics.jsonl", ge=1)
    save_every: int = setting(1, "epochs between two checkpoints; the end always has one", ge=1)
    save_every_steps: int | None = setting(None, "steps between two checkpoints, besides save_every", ge=1)
    keep: int = setting(2, "how many of the newest checkpoints stay", ge=2, le=1_000_000)
    keep_best: str | None = setting(
        None,
        "let the best checkpoint by a number of metrics.jsonl stay too, as min:g_loss or, with --eval-every, "
        "min:raw_fcd",
        allowed="min: or max: and one of d_loss, g_loss, real_logits, fake_logits or, with --eval-every, raw_ or ema_ "
        "and one of fcd, agreement, recognisable, coverage, density, kl",
        pattern=r"^(min|max):(d_loss|g_loss|real_logits|fake_logits|"
        r"(raw|ema)_(fcd|agreement|recognisable|coverage|density|kl))$",
    )
    on_save_error: Literal["continue", "stop"] = setting(
        "continue",
        "what to do while the disk takes no checkpoint; the last one has to be written in any case",
    )
    eval_every: int = setting(
        0, "epochs between two looks of the judges at the samples, into metrics.jsonl; 0: none", ge=0
    )
    eval_every_steps: int | None = setting(
        None, "steps between two looks of the judges, besides eval_every", ge=1
    )
    eval_num: int = setting(2000, "images that the judges see at each of them", ge=65, le=1_000_000)
    eval_reference: str | None = setting(
        None, "folder of the real test images for that; unset: that of the data", min_length=1
    )
    sample_epochs: Epochs = setting(
        [1, 20, 42, 81, 120, 129, 149],
        "after which epochs to draw a sample grid, as 1,20,42 (0: before training); the last always has one",
    )
    tracker: Literal["tensorboard", "none"] = setting("tensorboard", "where Accelerate's tracker writes")

    @model_validator(mode="after")
    def _judged_best_needs_judges(self) -> "RunConfig":
        is_judged = self.eval_every or self.eval_every_steps
        if self.keep_best and self.keep_best[4:].startswith(("raw_", "ema_")) and not is_judged:
            raise ValueError(
                f"--keep-best {self.keep_best}: is a number of the judges, who are not asked; allowed with "
                "--eval-every 1 or more"
            )
        return self


class ProcessesConfig(Section):
    """How many processes train together, and what they do about each other."""

    num: int | None = setting(
        None,
        "start that many on this machine; unset: one, or those of accelerate launch, torchrun or srun",
        flag="processes",
        ge=1,
        le=1024,
    )
    sync_batch_norm: bool = setting(
        True, "BatchNorm's statistics over the whole batch; off: each process has those of its own share"
    )
    check_ranks_every: int = setting(
        500,
        "steps between two comparisons of the weights of all processes, besides one before each checkpoint; "
        "0: never",
        ge=0,
    )
    timeout: Real = setting(
        120.0,
        "seconds for which a process waits for one that is silent, before the run ends",
        gt=0,
        le=86_400,
    )
    zero: int | None = setting(
        None,
        "DeepSpeed with that ZeRO stage instead of DDP; unset: what the launcher said",
        flag="zero-stage",
        ge=0,
        le=3,
    )
