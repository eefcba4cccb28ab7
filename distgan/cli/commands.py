"""The commands of `distgan`, one entry each. Imports nothing slow: `run` and `settings` are names.

To add a command, write its settings (a Section), its function, and an entry here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from distgan.utils.paths import user_path

EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 usage error, 75 stopped before its time limit, 128 + N stopped and saved "
    "by signal N\n(130 Ctrl-C, 138 SIGUSR1, 140 SIGUSR2, 143 SIGTERM)"
)
_SHORT = "exit codes: 0 done, 1 {}, 2 usage error, 130 Ctrl-C"
_KEPT = f"{_SHORT} (what was measured is kept)"


class Argument(NamedTuple):
    """A positional argument, or a flag that is no setting, by options of argparse; the error for `choices` is ours."""

    name: str
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    action: str | None = None
    nargs: str | None = None
    type: Callable[[str], Any] | None = None


class Command(NamedTuple):
    """`run` is "module:function", called with the arguments in their order and the settings; its result is printed.

    `settings` is "module:Section". With `reads_flags` the function gets the parser and the words instead.
    """

    help: str  # its line in the list of commands
    usage: str  # after "distgan COMMAND"
    description: str
    epilog: str
    run: str
    settings: str | None = None
    arguments: tuple[Argument, ...] = ()
    reads_flags: bool = False
    needs_pydantic: bool = True
    less_memory: str = ""  # advice if memory runs out, as "a smaller --num"


class Group(NamedTuple):
    """Commands under one name. `heading` and `noun` are what help and messages call them."""

    help: str
    usage: str
    description: str
    heading: str
    noun: str
    epilog: str
    commands: "dict[str, Command | Group]"


_BENCHMARKS: dict[str, Command | Group] = {
    "throughput": Command(
        help="images per second of each preset, engine, precision, batch and order: distgan bench throughput --peers",
        usage="[FLAGS]",
        description="Measures the speed of training. A configuration is timed only if its first steps match those of "
        "the eager engine.\nLists are separated by commas.",
        epilog=_KEPT.format("a configuration failed, or did not match"),
        settings="distgan.benchmark.options:ThroughputConfig",
        run="distgan.benchmark.speed:throughput",
        less_memory="a smaller --batch-size or --width",
    ),
    "compare": Command(
        help="ratios of two results of a benchmark, with intervals: distgan bench compare A.json B.json",
        usage="A.json B.json [FLAGS]",
        description="Compares seconds per step, B over A, cell by cell: the ratio of the medians, and its 95% interval "
        "by a\nbootstrap over rounds and the repeats within them, for each file separately. Of bench convergence:\n"
        "epochs and seconds until the targets were met, preset by preset, with 95% intervals and log-rank tests.",
        epilog=_KEPT.format("a regression over --fail-above"),
        arguments=(
            Argument(
                "a", "results.json of bench throughput, scaling or convergence, or its folder", "A.json", type=user_path
            ),
            Argument("b", "the results to compare with it", "B.json", type=user_path),
        ),
        settings="distgan.benchmark.options:CompareConfig",
        run="distgan.benchmark.compare:compare",
    ),
    "scaling": Command(
        help="speedup by more processes of this machine: distgan bench scaling",
        usage="[FLAGS]",
        description="Measures the speed with several numbers of processes of this machine.",
        epilog=_KEPT.format("a number of processes failed"),
        settings="distgan.benchmark.options:ScalingConfig",
        run="distgan.benchmark.speed:scaling",
        less_memory="a smaller --batch-size, --per-rank-batch-size or --width",
    ),
    "plan": Command(
        help="predict the speedup by more processes from measurements: distgan bench plan RESULTS.json",
        usage="RESULTS.json [FLAGS]",
        description="Predicts from measured results, and prints the prediction's error where it was measured.",
        epilog=_KEPT.format("the results allow no prediction"),
        arguments=(Argument("path", "results.json of distgan bench, or its folder", "RESULTS.json", type=user_path),),
        settings="distgan.benchmark.options:PlanConfig",
        run="distgan.benchmark.plan:run",
    ),
    "convergence": Command(
        help="epochs and seconds to a fixed quality: distgan bench convergence --preset cgan-fast",
        usage="--preset NAME [--against NAME] [FLAGS]",
        description="Trains a preset with several seeds, each until it meets fixed quality targets and holds them, and "
        "reports\nthe epochs and seconds. The same command with --out resumes a benchmark that was killed.",
        epilog=_KEPT.format("a run crashed, or more processes need more epochs")
        + ",\n75 a training stopped before the time limit of a SLURM job",
        settings="distgan.benchmark.options:ConvergenceConfig",
        run="distgan.benchmark.convergence:run",
        less_memory="fewer --jobs",
    ),
}

_COMMANDS: dict[str, Command | Group] = {
    "train": Command(
        help="train a GAN: distgan train --preset cgan-fast",
        usage="(--model NAME | --preset NAME | --config FILE) [FLAGS]",
        description="Trains a GAN. accelerate launch distgan/train.py starts the same program.",
        epilog=f"Flags override the preset, which overrides the defaults above.\n{EXIT_CODES}",
        arguments=(
            Argument("--preset", "a preset; they are listed at the end (default: that of --model)", "NAME"),
            Argument("--config", "any preset, or a run's own config.json (default: unset)", "FILE"),
            Argument("--dry-run", "show the resolved settings and the plan, and exit (default: off)",
                     action="store_true"),
        ),
        reads_flags=True,
        run="distgan.cli.actions:train",
        less_memory="a smaller --batch-size, a higher --d-microbatches, or more --processes",
    ),
    "data": Command(
        help="inspect a data set or your own images, as training reads them: distgan data photos/",
        usage="NAME|PATH [FLAGS]",
        description="Shows what distgan train --data reads: format, sizes, classes, unreadable files, how images are "
        "converted;\nand a picture of some. Trains nothing.",
        epilog="exit codes: 0 networks can be trained on them (by which presets it says), 1 failed, 2 none can, or a "
        "usage\nerror, 130 Ctrl-C",
        arguments=(Argument("name", "as in train --data: a name, or the path of a folder, .zip, .npz or .parquet",
                            "NAME|PATH"),),
        settings="distgan.config.command_settings:InspectConfig",
        run="distgan.runs.data_inspection:inspect",
        less_memory="a smaller --image-size",
    ),
    "sample": Command(
        help="draw images of a run or of weights: distgan sample runs/cgan-1 --out grid.png",
        usage="RUN_OR_WEIGHTS [FLAGS]",
        description="Draws images: a grid (.png), an animated interpolation (.gif), or arrays for other tools (.npz).",
        epilog=EXIT_CODES,
        arguments=(Argument("where", "a run's folder, its weights/, or a .safetensors file", "RUN_OR_WEIGHTS"),),
        settings="distgan.config.command_settings:SampleConfig",
        run="distgan.runs.sample:sample",
        less_memory="a smaller --num",
    ),
    "eval": Command(
        help="measure image quality per class, with intervals: distgan eval runs/cgan-1",
        usage="RUN_OR_WEIGHTS_OR_NPZ [FLAGS]",
        description="Measures image quality per class by an ensemble of classifiers (the judges), with 95 % intervals, "
        "and the same\nof real images and the judges' own errors for comparison. Writes eval.json and pictures. The "
        "number of\nprocesses does not change the results.",
        epilog=_SHORT.format("failed"),
        arguments=(
            Argument(
                "where",
                "a run's folder, its weights/, a checkpoint, a .safetensors file, or an .npz with images (uint8) and, "
                "with labels if it has them, of any program",
                "RUN_OR_WEIGHTS_OR_NPZ",
            ),
        ),
        reads_flags=True,
        run="distgan.cli.actions:evaluate",
        less_memory="a smaller --num, or more --processes",
    ),
    "judge": Command(
        help="train the judges of a data set, or show their errors: distgan judge show",
        usage="(train | show) [FLAGS]",
        description="train: trains three judges on a data set, measures them on its test images, and puts them in "
        "the cache,\nwhere distgan eval looks for them, or in --out, for eval --judges. MNIST's are in the package; "
        "for other\ndata the first evaluation trains missing ones, in fewer passes. show: their errors, and how they "
        "were trained.",
        epilog=_SHORT.format("a judge of MNIST has too many errors"),
        arguments=(Argument("action", "what to do", choices=("train", "show")),),
        settings="distgan.config.command_settings:JudgeConfig",
        run="distgan.cli.actions:judge",
    ),
    "compare": Command(
        help="compare runs by measured values: distgan compare runs/vanilla-1 runs/cgan-1",
        usage="RUN RUN ... [FLAGS]",
        description="Compares runs: measured values, their 95 % intervals and the command of each.\n"
        "For runs on handwritten digits it shows where they agree with the comparison table of the 2023 report. Runs\n"
        "without eval/eval.json are measured first.",
        epilog=_SHORT.format("failed"),
        arguments=(
            Argument("runs", "two or more folders of runs", "RUN", nargs="+"),
        ),
        settings="distgan.reports.options:CompareConfig",
        run="distgan.cli.actions:compare",
        less_memory="a smaller --num",
    ),
    "report": Command(
        help="one HTML page about a run: distgan report runs/cgan-1",
        usage="RUN [FLAGS]",
        description="Writes one HTML page about a run: its samples, curves, measured quality, machine and settings.\n"
        "It needs no other file and loads nothing. A run without eval/eval.json is measured first.",
        epilog=_SHORT.format("failed"),
        arguments=(Argument("where", "a run's folder; the run may still be training", "RUN"),),
        settings="distgan.reports.options:ReportConfig",
        run="distgan.cli.actions:report",
        less_memory="a smaller --num",
    ),
    "checkpoint": Command(
        help="list, verify or compare the checkpoints of a run: distgan checkpoint ls|verify|diff RUN",
        usage="(ls RUN | verify RUN_OR_CHECKPOINT | diff RUN_OR_CHECKPOINT [OTHER])",
        description="ls: list the checkpoints of a run, and how it ended. verify: check every byte of each. diff: "
        "compare two\nby settings, counters and tensors; for a run, its newest two.",
        epilog="exit codes: 0 all valid (verify) or equal (diff), 1 damaged or different, 2 usage error",
        arguments=(
            Argument("action", "what to do", choices=("ls", "verify", "diff")),
            Argument("where", "a run's folder, or a checkpoint's", "RUN_OR_CHECKPOINT", type=user_path),
            Argument("other", "diff: the folder to compare with", "OTHER", nargs="?"),
        ),
        run="distgan.cli.actions:checkpoint",
    ),
    "slurm": Command(
        help="submit a training to SLURM: distgan slurm --nodes 2 --gpus-per-node 4 --model cgan",
        usage="[FLAGS] [FLAGS OF distgan train]",
        description="Submits a training to SLURM as slurm/cgan.sh does, with a process for each GPU: it saves before "
        "its limit or\nwhen it is preempted, and requeues itself until it is done. All other flags are those of "
        "distgan train.",
        epilog="exit codes: 0 submitted, 2 usage error, or sbatch rejects the job",
        arguments=(
            Argument("--dry-run", "print the script, and on stderr what SLURM would do with it; submit nothing "
                     "(default: off)", action="store_true"),
        ),
        reads_flags=True,
        run="distgan.cli.actions:slurm",
    ),
    "doctor": Command(
        help="check this machine for training, with a remedy for each problem: distgan doctor",
        usage="[FLAGS]",
        description="Checks this machine for training: each line is ok, a note, or a problem with its remedy.\n"
        "With --networks: checks a file of your own networks against the contract that training needs.",
        epilog="exit codes: 0 training can run here, 1 it can't",
        settings="distgan.config.command_settings:DoctorConfig",
        needs_pydantic=False,
        run="distgan.cli.actions:doctor",
    ),
    "bench": Group(
        help="measure speed, and compare measurements: distgan bench throughput --peers",
        usage="BENCHMARK [FLAGS]",
        description="Measures this machine, after checking that the measured steps are correct.",
        heading="benchmarks",
        noun="benchmark",
        epilog="distgan bench BENCHMARK --help lists its flags and their defaults.",
        commands=_BENCHMARKS,
    ),
}  # fmt: skip

TOP = Group(
    help="",
    usage="COMMAND [FLAGS]",
    description="Train GANs in PyTorch on one process or many, with results that can be checked.",
    heading="commands",
    noun="command",
    epilog=f"distgan COMMAND --help lists a command's flags and their defaults.\n{EXIT_CODES}",
    commands=_COMMANDS,
)
