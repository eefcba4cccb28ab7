"""The commands of `distgan`: one entry each. Imports nothing of ours that is slow; `run` and `settings` are names.

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
    """A positional argument, or a flag that is no setting: options of argparse, but that `choices` has our words."""

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

    help: str  # a line of the list of commands
    usage: str  # behind "distgan COMMAND"
    description: str
    epilog: str
    run: str
    settings: str | None = None
    arguments: tuple[Argument, ...] = ()
    reads_flags: bool = False
    needs_pydantic: bool = True
    less_memory: str = ""  # what to change where there is too little: a smaller --num, say


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
        help="images a second of each preset, engine, precision, batch and order: distgan bench throughput --peers",
        usage="[FLAGS]",
        description="Speed of training. Each cell has to end a few steps as the eager engine does, or has no speed; "
        "lists\nare written with commas.",
        epilog=_KEPT.format("a cell failed, or was not right"),
        settings="distgan.benchmark.options:ThroughputConfig",
        run="distgan.benchmark.speed:throughput",
        less_memory="a smaller --batch-size or --width",
    ),
    "compare": Command(
        help="ratios of two results of throughput or scaling, with intervals: distgan bench compare A.json B.json",
        usage="A.json B.json [FLAGS]",
        description="Seconds per step of B over those of A, cell by cell: the ratio of the medians, and its 95% "
        "interval by a\nbootstrap over rounds and the repeats within them, of each file by itself.",
        epilog=_KEPT.format("a regression over --fail-above"),
        arguments=(
            Argument("a", "results.json of bench throughput or scaling, or its folder", "A.json", type=user_path),
            Argument("b", "another, which is compared with it", "B.json", type=user_path),
        ),
        settings="distgan.benchmark.options:CompareConfig",
        run="distgan.benchmark.compare:compare",
    ),
    "scaling": Command(
        help="what more processes gain on this machine: distgan bench scaling",
        usage="[FLAGS]",
        description="Speed on several numbers of processes of this machine.",
        epilog=_KEPT.format("a number of processes failed"),
        settings="distgan.benchmark.options:ScalingConfig",
        run="distgan.benchmark.speed:scaling",
        less_memory="a smaller --batch-size, --per-rank-batch-size or --width",
    ),
    "plan": Command(
        help="predict from measurements what more processes would gain: distgan bench plan RESULTS.json",
        usage="RESULTS.json [FLAGS]",
        description="Predicts from measured results, and says how far off it is where it was measured.",
        epilog=_KEPT.format("the results allow no prediction"),
        arguments=(Argument("path", "of distgan bench, or its folder", "RESULTS.json", type=user_path),),
        settings="distgan.benchmark.options:PlanConfig",
        run="distgan.benchmark.plan:run",
    ),
    "convergence": Command(
        help="epochs and seconds to a frozen quality: distgan bench convergence --preset cgan-fast",
        usage="--preset NAME [--against NAME] [FLAGS]",
        description="Trains a preset with several seeds, each until it meets frozen targets of quality and holds them, "
        "and reports\nthe epochs and seconds that this takes. The same command with --out resumes a bench that was "
        "killed.",
        epilog=_KEPT.format("a run crashed, or more processes need more epochs")
        + "; that of\na training that stops of itself (75: before the time limit of a SLURM job)",
        settings="distgan.benchmark.options:ConvergenceConfig",
        run="distgan.benchmark.convergence:run",
        less_memory="fewer --jobs",
    ),
}

_COMMANDS: dict[str, Command | Group] = {
    "train": Command(
        help="train a GAN: distgan train --preset cgan-fast",
        usage="(--model NAME | --preset NAME | --config FILE) [FLAGS]",
        description="Trains a GAN. The same program starts by accelerate launch distgan/train.py.",
        epilog=f"Weakest first: the defaults above, the preset, flags.\n{EXIT_CODES}",
        arguments=(
            Argument("--preset", "a file of configs/ by its name (default: that of --model)", "NAME"),
            Argument("--config", "any preset, or a run's own config.json (default: unset)", "FILE"),
            Argument("--dry-run", "show what would be done, and do nothing (default: off)",
                     action="store_true"),
        ),
        reads_flags=True,
        run="distgan.cli.actions:train",
        less_memory="a smaller --batch-size, a higher --d-microbatches, or more --processes",
    ),
    "data": Command(
        help="tell what a data set, or your own images, would be to a training: distgan data photos/",
        usage="NAME|PATH [FLAGS]",
        description="What distgan train --data would find: format, sizes, classes, unreadable files, and what becomes "
        "of\nthem; and a picture of some. Trains nothing.",
        epilog="exit codes: 0 training can use them, 1 failed, 2 it can't, or a mistake of yours, 130 Ctrl-C",
        arguments=(Argument("name", "as train --data has it: a name, or the path of a folder, .zip, .npz or .parquet",
                            "NAME|PATH"),),
        settings="distgan.config.command_settings:InspectConfig",
        run="distgan.runs.data_inspection:inspect",
        less_memory="a smaller --image-size",
    ),
    "sample": Command(
        help="draw images of a run or of weights: distgan sample runs/cgan-1 --out grid.png",
        usage="RUN_OR_WEIGHTS [FLAGS]",
        description="Draws images: a grid (.png), a walk that moves (.gif), or arrays for other tools (.npz).",
        epilog=EXIT_CODES,
        arguments=(Argument("where", "a run's folder, its weights/, or a .safetensors file", "RUN_OR_WEIGHTS"),),
        settings="distgan.config.command_settings:SampleConfig",
        run="distgan.sample:sample",
        less_memory="a smaller --num",
    ),
    "eval": Command(
        help="have images judged, digit by digit, with intervals: distgan eval runs/cgan-1",
        usage="RUN_OR_WEIGHTS_OR_NPZ [FLAGS]",
        description="Has images judged: digit by digit, with 95 % intervals, beside what as many real images measure "
        "and what\nthe judges themselves get wrong. Leaves eval.json and pictures; any number of processes finds\n"
        "the same.",
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
        help="train the judges of a data set, or show what they err in: distgan judge show",
        usage="(train | show) [FLAGS]",
        description="train: trains three judges on a data set, measures them on its test images, and puts them in "
        "the cache,\nwhere distgan eval looks for them (MNIST's are in the package; others by --judges). show: what\n"
        "those get wrong, and how they were made.",
        epilog=_SHORT.format("a judge of MNIST errs too often"),
        arguments=(Argument("action", "what to do", choices=("train", "show")),),
        settings="distgan.config.command_settings:JudgeConfig",
        run="distgan.cli.actions:judge",
    ),
    "compare": Command(
        help="runs beside each other, measured: distgan compare runs/vanilla-1 runs/cgan-1",
        usage="RUN RUN ... [FLAGS]",
        description="Puts runs beside each other: measured values, their 95 % intervals and the command behind each.\n"
        "Of runs on handwritten digits it says where they agree with the comparison table of the 2023 report. Runs\n"
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
        "It needs no other file and no network. A run without eval/eval.json is measured first.",
        epilog=_SHORT.format("failed"),
        arguments=(Argument("where", "a run's folder, of one that still trains too", "RUN"),),
        settings="distgan.reports.options:ReportConfig",
        run="distgan.cli.actions:report",
        less_memory="a smaller --num",
    ),
    "checkpoint": Command(
        help="look at the checkpoints of a run: distgan checkpoint ls|verify|diff RUN",
        usage="(ls RUN | verify RUN_OR_CHECKPOINT | diff RUN_OR_CHECKPOINT [OTHER])",
        description="ls: the checkpoints of a run, and what became of it. verify: reads every byte of each. diff: how "
        "two\ndiffer, in settings, counters and tensors; of one run, its newest two.",
        epilog="exit codes: 0 all valid (verify) or equal (diff), 1 damaged or different, 2 usage error",
        arguments=(
            Argument("action", "what to do", choices=("ls", "verify", "diff")),
            Argument("where", "a run's folder, or a checkpoint's", "RUN_OR_CHECKPOINT", type=user_path),
            Argument("other", "diff: what to compare with", "OTHER", nargs="?"),
        ),
        run="distgan.cli.actions:checkpoint",
    ),
    "slurm": Command(
        help="submit a training to SLURM: distgan slurm --nodes 2 --gpus-per-node 4 --model cgan",
        usage="[FLAGS] [FLAGS OF distgan train]",
        description="Submits a training to SLURM as slurm/cgan.sh does, with a process for each GPU: it saves before "
        "its limit or\nwhen it has to make way, and requeues itself until it is done. Every other flag is one of "
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
        description="What this machine has for training: each line ok, a note, or a problem and what to do about it.\n"
        "With --networks: what a file of your own networks keeps of the contract that training needs.",
        epilog="exit codes: 0 training can run here, 1 it can't",
        settings="distgan.config.command_settings:DoctorConfig",
        needs_pydantic=False,
        run="distgan.cli.actions:doctor",
    ),
    "bench": Group(
        help="measure speed, and compare measurements: distgan bench throughput --peers",
        usage="WHAT [FLAGS]",
        description="Measures this machine, after checking that what it measures is right.",
        heading="what",
        noun="benchmark",
        epilog="distgan bench WHAT --help lists its flags and their defaults.",
        commands=_BENCHMARKS,
    ),
}  # fmt: skip

TOP = Group(
    help="",
    usage="COMMAND [FLAGS]",
    description="GAN training as a systems problem: two networks, one process or many.",
    heading="commands",
    noun="command",
    epilog=f"distgan COMMAND --help lists a command's flags and their defaults.\n{EXIT_CODES}",
    commands=_COMMANDS,
)
