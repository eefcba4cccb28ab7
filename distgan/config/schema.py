"""What can be set: frozen sections, each handed to the component that it configures.

A key is a flag of the same name (`d_lr` is `--d-lr`); the few whose flag differs carry `flag=`.
"""

from typing import Any, Literal

from pydantic import model_validator

from distgan.config.fields import Real, Section, setting
from distgan.config.run import ProcessesConfig, RunConfig


class ModelConfig(Section):
    """The two networks."""

    name: Literal["vanilla", "cgan"] = setting(
        "vanilla",
        "vanilla: no labels. cgan: both networks see the label. Without --preset or --config it also picks "
        "the preset of that name",
        flag="model",
    )
    family: Literal["seed", "small", "clustered"] = setting(
        "seed",
        "seed: the networks of the 2023 report. small: a plain small pair for a laptop. clustered: the small pair, "
        "told k-means clusters of the training images",
    )
    clusters: int | None = setting(
        None, "clusters (k-means, of each digit for cgan), clustered family only", ge=1, le=10_000
    )
    width: Real = setting(1.0, "factor on every hidden width", gt=0, le=16)
    latent_dim: int = setting(100, "normals per image that G starts from", ge=1, le=4096)
    stem: Literal["linear", "noise-map"] = setting(
        "linear",
        "seed family: linear maps z to 7x7 channels; noise-map takes a 7x7 map of noise instead, the "
        "literal reading of the report (vanilla only; latent_dim is then unused)",
    )
    logit_tail: bool = setting(
        True, "seed family, cgan: LeakyReLU and dropout on D's logit itself, as the report lists them"
    )
    leaky_slope: Real = setting(0.2, "slope of LeakyReLU below zero", ge=0, le=1)
    dropout: Real = setting(0.3, "dropout in D", ge=0, lt=1)

    @property
    def is_conditional(self) -> bool:
        return self.name == "cgan"

    @property
    def num_labels(self) -> int:
        """How many labels the networks tell apart: digits, clusters, or clusters of digits; 0: they are told none."""
        return (self.clusters or 1) * (10 if self.is_conditional else self.clusters is not None)

    @model_validator(mode="after")
    def _clusters_belong_to_their_family(self) -> "ModelConfig":
        if (self.clusters is not None) != (self.family == "clustered"):
            raise ValueError(
                f"--clusters {self.clusters or 'unset'}: with --family {self.family}; allowed: 1 or more with "
                "--family clustered, none with others"
            )
        return self

    @model_validator(mode="after")
    def _noise_map_has_no_label(self) -> "ModelConfig":
        if self.stem == "noise-map" and (self.is_conditional or self.family != "seed"):
            raise ValueError(
                f"--stem noise-map: has no place for a label and belongs to the seed's GAN; allowed with "
                f"--model vanilla --family seed, not with {self.name}, {self.family}"
            )
        return self


class DataConfig(Section):
    """Where the images come from and how they are dealt out."""

    name: Literal["auto", "mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits", "digits"] = setting(
        "mnist",
        "digits: scikit-learn's 8x8 digits, which need no network. auto: mnist, or digits where mnist "
        "can't be had",
        flag="data",
    )
    dir: str | None = setting(
        None, "folder of the data; unset: $DISTGAN_DATA, then ./data", flag="data-dir", min_length=1
    )
    download: bool = setting(True, "download what the folder lacks", flag="download")
    mirror: str | None = setting(
        None,
        "address to download from instead of torchvision's (http://, https:// or file://)",
        flag="data-mirror",
        allowed="an address that starts with http://, https:// or file://",
        pattern=r"^(https?|file)://.+",
    )
    md5: Literal["auto", "require", "accept"] = setting(
        "auto",
        "files whose md5 is not the published one: require refuses them, accept takes them with a "
        "warning, auto takes them from a folder that you named (--data-dir, $DISTGAN_DATA) and refuses "
        "them elsewhere",
        flag="data-md5",
    )
    batch_size: int | None = setting(
        256, "images per step over all processes, however many", ge=2, le=1_000_000
    )
    per_rank_batch_size: int | None = setting(
        None, "images per step and process; instead of batch_size", ge=1, le=1_000_000
    )
    drop_last: bool = setting(False, "leave out the short last batch of an epoch")

    @model_validator(mode="before")
    @classmethod
    def _per_rank_replaces_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("per_rank_batch_size") is not None:
            return {"batch_size": None} | values
        return values

    @model_validator(mode="after")
    def _one_batch_size(self) -> "DataConfig":
        if (self.batch_size is None) == (self.per_rank_batch_size is None):
            raise ValueError(
                f"--batch-size {self.batch_size}, --per-rank-batch-size {self.per_rank_batch_size}: "
                "exactly one of the two must be set"
            )
        return self


class OptimConfig(Section):
    """The game that the two networks play."""

    loss: Literal["bce", "hinge", "wgan-gp", "r1", "r3gan"] = setting(
        "bce",
        "bce: on logits, G non-saturating. r1: bce and a gradient penalty on real images. r3gan: each fake against a "
        "real image of its label, and the penalty on both",
    )
    penalty_weight: Real | None = setting(
        None, "weight of the gradient penalty; unset: the loss's own (wgan-gp 10, r1 10, r3gan 0.3)", ge=0
    )
    order: Literal["simultaneous", "reuse", "fresh"] = setting(
        "reuse",
        "simultaneous: both gradients before either update. reuse: G answers with the fakes that D saw. "
        "fresh: G draws a new z",
    )
    g_lr: Real = setting(2e-4, "Adam's learning rate for G", gt=0)
    d_lr: Real = setting(2e-4, "Adam's learning rate for D", gt=0)
    accumulate: int = setting(
        1,
        "parts in which a step takes its batch through D, one after the other, so that D needs less memory; the "
        "update is that of the whole batch",
        ge=1,
        le=1024,
    )
    beta1: Real = setting(0.5, "Adam's first beta", ge=0, lt=1)
    beta2: Real = setting(0.999, "Adam's second beta", ge=0, lt=1)
    lr_schedule: Literal["constant", "linear"] = setting(
        "constant", "linear: both rates fall to 0 over all epochs"
    )
    ema_decay: Real = setting(0.0, "moving average of G's weights per step; 0: none", ge=0, lt=1)


class Config(Section):
    """A whole run. Weakest first: these defaults, one preset, flags."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    run: RunConfig = RunConfig()
    processes: ProcessesConfig = ProcessesConfig()

    def resolved(self, data: str, precision: str) -> "Config":
        """This config with the data that `auto` came to, and the precision that the launcher chose."""
        return self.model_copy(
            update={
                "data": self.data.model_copy(update={"name": data}),
                "run": self.run.model_copy(update={"precision": precision}),
            }
        )
