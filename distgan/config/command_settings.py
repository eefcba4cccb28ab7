"""Settings of the commands other than training."""

from functools import partial
from typing import Literal

from distgan.config.fields import Channels, Names, Real, Section, Table, free, setting
from distgan.config.model_config import ModelName
from distgan.config.schema import DataConfig
from distgan.config.shared_settings import (
    DataNameOrPath,
    Device,
    LossName,
    data_dir_setting,
    device_setting,
    networks_setting,
    test_data_setting,
    timeout_setting,
    trust_setting,
)


class SampleConfig(Section):
    """Settings of `distgan sample`."""

    out: str = setting("samples.png", "file to write: .png (grid), .gif (walk) or .npz (arrays)", metavar="FILE")
    num: int = setting(100, "number of images; with --interpolate, of interpolations", ge=1, le=10_000_000)
    classes: Names | None = setting(
        None,
        "cgan: the classes to draw in turn, by their names or numbers, such as 0,3,7; unset: all",
        old_flags=("digits",),
        allowed="names or numbers of classes, such as 0,3,7",
        metavar="CLASS,CLASS,...",
    )
    seed: int = setting(0, "random seed of z: the same seed gives the same images", ge=0, lt=2**31)
    interpolate: bool = setting(
        False, "interpolate from one z to the next, one row each; cgan: from one class to the next as well"
    )
    ema: bool = setting(True, "use the moving average of G's weights, if the run has one")
    networks: str | None = networks_setting()
    trust_networks: bool = trust_setting()
    device: Device = device_setting()


_DATA = DataConfig.model_fields


class _ReadImages(Section):
    """Flags of `distgan train` by which another command reads images as it would."""

    image_size: int | None = _DATA["image_size"]  # type: ignore[assignment]
    channels: Channels | None = _DATA["channels"]  # type: ignore[assignment]
    background: Literal["black", "white"] | None = _DATA["background"]  # type: ignore[assignment]
    skip_broken: bool = _DATA["skip_broken"]  # type: ignore[assignment]
    cache_dir: str | None = _DATA["cache_dir"]  # type: ignore[assignment]


class InspectConfig(_ReadImages):
    """Settings of `distgan data`, which reads images as `distgan train` would with the same flags."""

    data_dir: str | None = data_dir_setting()
    download: bool = setting(True, "download what the folder lacks")
    sheet: str | None = setting(
        None, "where to draw some of the images (.png); unset: data-NAME.png here, with --json none", metavar="FILE"
    )
    as_json: bool = setting(
        False, "print one JSON object on stdout, and draw no images unless --sheet is given", flag="json"
    )


class DoctorConfig(Section):
    """Settings of `distgan doctor`."""

    networks: str | None = setting(
        None,
        "check these networks of your own instead of this machine: a .py file, or a module as my_lab.nets",
        allowed="the path of a .py file, or a module as package.module",
        metavar="FILE",
    )
    args: Table = setting(
        {},
        "an argument of their two functions; may be repeated",
        flag="model-arg",
        allowed="key=value, with the value as in TOML (3, 0.5, true) or text",
        may_be_repeated=True,
    )
    model: ModelName = setting("cgan", "of --networks: {names}")
    loss: LossName | None = setting(
        None, "of --networks: the loss to take steps with; unset: that of build_loss(), or else bce"
    )
    data: str | None = setting(
        None, "of --networks: the --data to train on; unset: 28 x 28, grey, ten classes", metavar="NAME|PATH"
    )
    data_dir: str | None = data_dir_setting()
    processes: int = setting(2, "processes that test an all-reduce; 0: skip the test", ge=0, le=64)
    as_json: bool = setting(False, "print one JSON object on stdout instead of a table", flag="json")


_line = partial(setting, None, allowed="a line", pattern=r"^[^\n]+$", metavar="NAME")


class SlurmConfig(Section):
    """Settings of `distgan slurm`: the resources of the job. Unset: as in slurm/cgan.sh."""

    nodes: int | None = setting(None, "number of machines", ge=1)
    gpus_per_node: int | None = setting(
        None, "GPUs per machine, with one process each; 0: one process per machine, on its CPUs", ge=0
    )
    cpus_per_task: int | None = setting(None, "CPU cores per machine", ge=1)
    time: str | None = setting(
        None,
        "time limit of the job, such as 30, 04:00:00 or 1-12; a run that is not done resumes in the next job",
        allowed="minutes, or minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes:seconds",
        pattern=r"^\d+(:\d\d){0,2}$|^\d+-\d+(:\d\d){0,2}$",
        metavar="TIME",
    )
    signal: str | None = setting(
        None,
        "signal on which the job saves, and how many seconds before its limit",
        allowed="as B:USR1@180",
        pattern=r"^B:USR1@\d+$",
        metavar="SIGNAL",
    )
    partition: str | None = _line("SLURM partition")
    account: str | None = _line("SLURM account")
    qos: str | None = _line("quality of service")
    constraint: str | None = _line("features that the machines must have", metavar="FEATURES")
    mem: str | None = _line("memory of each machine, such as 64G", metavar="SIZE")
    job_name: str | None = setting(
        None, "name of the job, its log and its run", allowed="a line without /", pattern=r"^[^/\n]+$", metavar="NAME"
    )


class EvalConfig(_ReadImages):
    """Settings of `distgan eval`."""

    num: int = setting(10_000, "number of images to draw and evaluate; of an .npz, at most", ge=1, le=1_000_000)
    seed: int = setting(0, "random seed of z: the same seed gives the same images, and numbers", ge=0, lt=2**31)
    ema: bool = setting(True, "evaluate the moving average of G's weights, if the run has one")
    as_json: bool = free(False, "print one JSON object on stdout instead of tables", flag="json")
    out: str | None = free(
        None,
        "folder for eval.json and the pictures; unset: eval/ in the run's folder, eval-NAME here for anything else",
        metavar="DIR",
    )
    reference: str | None = setting(
        None,
        "folder of the real data; unset: the run's own, then $DISTGAN_DATA, then ./data",
        flag="data-dir",
        old_flags=("reference",),
        metavar="DIR",
    )
    data: DataNameOrPath | None = setting(
        None, "the real data to compare with, a name or a path; unset: what the run was trained on, mnist for an .npz"
    )
    test: str | None = test_data_setting()
    download: bool = free(True, "download real data that is missing")
    pixel_range: Literal["unit", "signed", "byte"] | None = setting(
        None,
        "range of the pixels of an .npz: unit is 0 to 1, signed -1 to 1, byte 0 to 255; values beyond it are clipped. "
        "Unset: detected from the values",
        flag="range",
    )
    judges: str | None = setting(
        None,
        "folder of other judges; unset: those of distgan or of the cache, trained first where there are none",
        metavar="DIR",
    )
    gan_train: bool = setting(
        True, "C-GAN: train a classifier on the images and another on real ones, and test both on real images"
    )
    networks: str | None = networks_setting()
    trust_networks: bool = trust_setting()
    processes: int | None = free(None, "processes of this machine that share the work", ge=1, le=4096)
    device: Device = device_setting(on_resume="free")
    threads: int | None = free(
        None, "CPU threads of each process; unset: the cores, shared by the processes", ge=1, le=1024
    )
    timeout: Real = timeout_setting()


class JudgeConfig(_ReadImages):
    """Settings of `distgan judge train`."""

    data: DataNameOrPath = setting("mnist", "what to train on: a name or a path")
    test: str | None = test_data_setting()
    data_dir: str | None = data_dir_setting()
    download: bool = setting(True, "download what the folder lacks")
    out: str | None = setting(
        None, "folder for the weights; unset: the cache, where distgan eval looks for them", metavar="DIR"
    )
    epochs: int | None = setting(
        None, "passes over the data; unset: 12, and more over fewer than 4,300 images", ge=1, le=10_000
    )
    seed: int = setting(
        0,
        "random seed of the three trainings, which count up from it in the order of the judges' names",
        ge=0,
        lt=2**31 - 2,
    )
    device: Device = device_setting()
