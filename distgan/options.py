"""What can be set of the commands that are no training run."""

from typing import Literal

from distgan.settings import Digits, Section, setting

DataName = Literal["mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits", "digits"]


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


class EvalConfig(Section):
    """What `distgan eval` measures, and with what."""

    num: int = setting(
        10_000, "how many images to draw and judge; of an .npz, how many at most", ge=1, le=1_000_000
    )
    seed: int = setting(0, "of z: the same seed gives the same images, and numbers", ge=0, lt=2**31)
    ema: bool = setting(True, "judge the moving average of G where the run has one")
    as_json: bool = setting(False, "print one JSON object on stdout instead of tables", flag="json")
    out: str | None = setting(
        None,
        "folder for eval.json and the pictures; unset: eval/ in the run's folder, eval-NAME here for anything else",
        min_length=1,
    )
    reference: str | None = setting(
        None, "folder of the real data; unset: the run's own, then $DISTGAN_DATA, then ./data", min_length=1
    )
    data: DataName | None = setting(
        None, "the real data to compare with; unset: what the run was trained on, mnist for an .npz"
    )
    download: bool = setting(True, "download real data that is missing")
    judges: str | None = setting(
        None, "folder of other judges; unset: those of distgan, or of the cache", min_length=1
    )
    gan_train: bool = setting(
        True, "C-GAN: train a classifier on the images, and one on real ones, and test both on real ones"
    )
    processes: int | None = setting(
        None, "share the work over that many processes of this machine", ge=1, le=4096
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: cuda where there is one")
    threads: int | None = setting(
        None, "CPU threads of each process; unset: the cores, shared by the processes", ge=1, le=1024
    )


class JudgeConfig(Section):
    """How `distgan judge train` trains judges, and where it puts them."""

    data: DataName = setting("mnist", "what to train on")
    data_dir: str | None = setting(
        None, "folder of the data; unset: $DISTGAN_DATA, then ./data", min_length=1
    )
    download: bool = setting(True, "download what the folder lacks")
    out: str | None = setting(
        None, "folder for the weights; unset: the cache, where distgan eval looks for them", min_length=1
    )
    epochs: int = setting(12, "passes over the data", ge=1, le=10_000)
    seed: int = setting(
        0,
        "of the three trainings, which count up from it in the order of the judges' names",
        ge=0,
        lt=2**31 - 2,
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: cuda where there is one")
