"""What can be set of the commands that are no training run."""

from typing import Literal

from distgan.settings import Digits, Section, setting


class SampleConfig(Section):
    """What `distgan sample` draws."""

    out: str = setting(
        "samples.png", "where to write: .png (a grid), .gif (a walk) or .npz (arrays)", min_length=1
    )
    num: int = setting(100, "how many images; with --interpolate, how many walks", ge=1, le=10_000_000)
    digits: Digits | None = setting(None, "cgan: the digits to ask for in turn, as 0,3,7; unset: all ten")
    seed: int = setting(0, "of z: the same seed gives the same images", ge=0, lt=2**31)
    interpolate: bool = setting(
        False, "walk from one z to the next, a walk a row; cgan: from one digit to the next as well"
    )
    ema: bool = setting(True, "take the moving average of G where the run has one")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: cuda where there is one")


class DoctorConfig(Section):
    """What `distgan doctor` looks at."""

    data_dir: str | None = setting(
        None, "folder of the data; unset: $DISTGAN_DATA, then ./data", min_length=1
    )
    processes: int = setting(2, "how many try a sum together", ge=2, le=64)
