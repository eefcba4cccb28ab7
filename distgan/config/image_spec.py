"""The shape of the images and their classes: derived from the data, and what everything else is built for."""

from pydantic import BaseModel, ConfigDict, model_validator

MAX_CLASSES = 1_000


class ImageSpec(BaseModel):
    """Images (N, `channels`, `height`, `width`) of `num_classes` classes; 0 classes: the data has no labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int
    height: int
    width: int
    num_classes: int
    class_names: list[str]

    @model_validator(mode="after")
    def _check(self) -> "ImageSpec":
        if self.channels not in (1, 3) or min(self.height, self.width) < 1:
            raise ValueError("channels must be 1 or 3, height and width 1 or more")
        if len(self.class_names) != self.num_classes or self.num_classes > MAX_CLASSES:
            raise ValueError(f"class_names must be num_classes names, at most {MAX_CLASSES:,}")
        return self

    def describe(self) -> str:
        """Return `28 x 28, grey, 10 classes`."""
        classes = f"{self.num_classes} class{'es' * (self.num_classes != 1)}" if self.num_classes else "no labels"
        return f"{self.height} x {self.width}, {'grey' if self.channels == 1 else 'colour'}, {classes}"


# What data sets in MNIST's form have, and so every run that did not record it: those of older versions.
MNIST_SPEC = ImageSpec(channels=1, height=28, width=28, num_classes=10, class_names=list("0123456789"))
