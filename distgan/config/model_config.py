"""Settings of the two networks: the `[model]` table."""

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import model_validator

from distgan.config.fields import OneOf, Real, Section, Table, check_one_of_two, fixed, free, replace_default, setting
from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.config.network_spec import NetworkSpec
from distgan.config.registry import FAMILIES, MODELS, OWN_FAMILY

ModelName = Annotated[str, OneOf(MODELS)]
FamilyName = Annotated[str, OneOf(FAMILIES)]

width_setting = partial(setting, 1.0, "factor on every hidden width", gt=0, le=16)


class ModelConfig(Section):
    """The two networks."""

    name: ModelName = fixed(
        "vanilla",
        "{names}. Without --preset or --config it also picks the preset of that name",
        flag="model",
        is_common=True,
    )
    family: FamilyName | None = fixed(
        "report2023", "{names}. Unset with --networks", replaces=("networks", "args", "networks_sha256")
    )
    # Where the file lies may change; its contents are compared.
    networks: str | None = free(
        None,
        "your own networks instead of a family: a .py file, or a module of a package as my_lab.nets, with "
        "build_generator(spec) and build_discriminator(spec). In a .toml its path is relative to that file",
        allowed="the path of a .py file, or a module as package.module",
        replaces=("family", "clusters", "stem"),
        may_differ_per_rank=True,
        metavar="FILE",
    )
    args: Table = setting(
        {},
        "an argument of the two functions of --networks; may be repeated",
        flag="model-arg",
        allowed="key=value, with the value as in TOML (3, 0.5, true) or text",
        may_be_repeated=True,
    )
    networks_sha256: str | None = setting(
        None, "of the file of --networks and of what it imports beside it", is_derived=True, is_copied=False
    )
    clusters: int | None = fixed(
        None, "clusters (k-means, of each class for cgan), clustered family only", ge=1, le=10_000
    )
    width: Real = width_setting(on_resume="fixed")
    latent_dim: int = fixed(100, "normals per image that G starts from", ge=1, le=4096)
    stem: Literal["linear", "noise-map"] = fixed(
        "linear",
        "report2023 family: linear maps z to 7x7 channels; noise-map takes a 7x7 map of noise instead, the "
        "literal reading of the report (vanilla only; latent_dim is then unused)",
    )
    logit_tail: bool = fixed(
        True, "report2023 family, cgan: LeakyReLU and dropout on D's logit itself, as the report lists them"
    )
    leaky_slope: Real = setting(0.2, "slope of LeakyReLU below zero, of the families", ge=0, le=1)
    dropout: Real = setting(0.3, "dropout in D, of the families", ge=0, lt=1)
    images: ImageSpec = fixed(
        MNIST_SPEC,
        "the images that both networks are built for",
        allowed="a table as the config.json of a run has it",
        is_derived=True,
        is_copied=False,
        may_differ_per_rank=True,
    )

    @property
    def is_conditional(self) -> bool:
        return self.name == "cgan"

    @property
    def num_labels(self) -> int:
        """Number of labels of the networks: classes, clusters, or clusters of classes; 0 if unconditional."""
        return (self.clusters or 1) * (self.images.num_classes if self.is_conditional else self.clusters is not None)

    @property
    def networks_name(self) -> str:
        """Name of the networks: their family, or the name of their file."""
        return self.family or (self.networks or "").replace("\\", "/").rpartition("/")[2]

    @property
    def spec(self) -> NetworkSpec:
        """Return what the two functions that build the networks are given."""
        images, names = self.images, tuple(self.images.class_names if self.is_conditional else ())
        return NetworkSpec(images.channels, images.height, images.width, len(names), names, self.latent_dim, self.width)

    @property
    def _chosen(self) -> str:
        return f"--family {self.family}" if self.family else f"--networks {self.networks}"

    @model_validator(mode="before")
    @classmethod
    def _networks_replace_default(cls, values: Any) -> Any:
        return replace_default(values, "networks", "family")

    @model_validator(mode="after")
    def _fits_family(self) -> "ModelConfig":
        check_one_of_two("--family, --networks", self.family, self.networks)
        family = FAMILIES[self.family] if self.family else OWN_FAMILY
        if self.name not in family.models:
            raise ValueError(
                f"--model: not with --family {self.family} ({self.name}). Expected: {', '.join(family.models)}"
            )
        if (self.clusters is not None) != family.takes_clusters:
            others = ", ".join(name for name, other in FAMILIES.items() if other.takes_clusters)
            if self.clusters is None:
                raise ValueError(f"--clusters: unset, and {self._chosen} needs it. Expected: 1 or more")
            raise ValueError(
                f"--clusters: {self._chosen} does not take it ({self.clusters}). Expected: --family {others}, or a "
                "preset without clusters"
            )
        if self.stem == "noise-map" and (self.is_conditional or not family.takes_noise_map):
            others = ", ".join(name for name, other in FAMILIES.items() if other.takes_noise_map)
            raise ValueError(
                f"--stem: not with --model {self.name} {self._chosen} (noise-map). Expected: --model vanilla "
                f"--family {others}"
            )
        return self
