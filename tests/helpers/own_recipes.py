"""Trainings on files of a user's own: colour of seven classes, and grey ones without labels that are cropped."""

from pathlib import Path

from PIL import Image

from distgan.config.image_spec import ImageSpec
from helpers.noise_images import COLOUR, noise_images

# What the files of the second have: 48 x 48 are the middle of these.
_WIDE = ImageSpec(channels=1, height=48, width=64, num_classes=0, class_names=[])
_COMMON = ("--tracker", "none", "--threads", "1", "--device", "cpu", "--log-every", "1", "--sample-epochs", "9")
RECIPES: dict[str, tuple[ImageSpec, tuple[str, ...]]] = {
    "colour": (COLOUR, ("--preset", "cgan-quick", "--family", "dcgan", "--width", "0.05", "--mirror",
                        "--dropout", "0.3", "--ema-decay", "0.9")),
    "unlabelled": (_WIDE, ("--preset", "vanilla-quick", "--family", "clustered", "--clusters", "3", "--width", "0.05",
                           "--loss", "r3gan", "--image-size", "48")),
}  # fmt: skip


def own_recipe(name: str, folder: Path, num: int) -> list[str]:
    """Write `num` images below the folder, unless they are there, and return the flags of a training on them."""
    spec, flags = RECIPES[name]
    place = folder / f"{name}-images"
    if not place.exists():
        images = noise_images(num, spec)
        for number, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
            path = place / (spec.class_names[label] if spec.class_names else "") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels.permute(1, 2, 0) if spec.channels == 3 else pixels).numpy()).save(path)
    return [*flags, *_COMMON, "--data", str(place), "--cache-dir", str(folder / "cache")]
