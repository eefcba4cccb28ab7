"""`distgan bench ...`: finds the benchmark, reads its flags, and only then imports what it needs."""

import argparse
import signal
from pathlib import Path
from types import FrameType

from distgan.config.flags import Parser, parse_settings
from distgan.errors import UserError

_EXIT_CODES = "exit codes: 0 done, 1 {}, 2 a mistake of yours, 130 Ctrl-C (what was measured is kept)"


def main(argv: list[str]) -> None:
    """Raises UserError, and CommandFailed for what each benchmark calls a failure."""
    actions = {
        "throughput": _throughput,
        "compare": _compare,
        "scaling": _scaling,
        "plan": _plan,
        "convergence": _convergence,
    }
    if argv and argv[0] in actions:
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup wants it to outlive the terminal
                signal.signal(signum, _interrupt)
        actions[argv[0]](argv[1:])
        return
    parser = argparse.ArgumentParser(
        prog="distgan bench",
        usage="distgan bench WHAT [FLAGS]",
        description="Measures this machine, after checking that what it measures is right.",
        epilog="\n".join(
            [
                "what:",
                *(f"  {name:<13}{action.__doc__}" for name, action in actions.items()),
                "",
                "distgan bench WHAT --help lists its flags and their defaults.",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if not argv:
        parser.print_help()
        raise UserError(f"names no benchmark; allowed: {', '.join(actions)}")
    parser.parse_known_args(argv)
    kind = "flag" if argv[0].startswith("-") else "benchmark"
    raise UserError(f"{argv[0]}: unknown {kind}; allowed: {', '.join(actions)} (see distgan bench --help)")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """As Ctrl-C does: what was measured is kept, and no process of a turn is left behind."""
    raise KeyboardInterrupt


def _throughput(argv: list[str]) -> None:
    """images a second of each model, engine, precision, batch and order: distgan bench throughput --peers"""
    from distgan.benchmark.options import ThroughputConfig

    parser = Parser(
        prog="distgan bench throughput",
        usage="distgan bench throughput [FLAGS]",
        description="Speed of training. Each cell has to end a few steps as the eager engine does, or has no speed; "
        "lists\nare written with commas.",
        epilog=_EXIT_CODES.format("a cell failed, or was not right"),
    )
    _, config = parse_settings(parser, argv, ThroughputConfig)

    from distgan.benchmark.throughput import run

    run(config)


def _compare(argv: list[str]) -> None:
    """ratios of two results of throughput, with intervals: distgan bench compare A.json B.json"""
    from distgan.benchmark.options import CompareConfig

    parser = Parser(
        prog="distgan bench compare",
        usage="distgan bench compare A.json B.json [FLAGS]",
        description="Seconds a step of B over those of A, cell by cell: the ratio of the medians, and its 95% interval "
        "by a\nbootstrap over rounds and the repeats within them, of each file by itself.",
        epilog=_EXIT_CODES.format("a regression over --fail-above"),
    )
    parser.add_argument("a", metavar="A.json", help="results.json of distgan bench throughput, or its folder")
    parser.add_argument("b", metavar="B.json", help="another, which is compared with it")
    namespace, config = parse_settings(parser, argv, CompareConfig)

    from distgan.benchmark.comparison import compare

    compare(Path(namespace.a).expanduser(), Path(namespace.b).expanduser(), config)


def _scaling(argv: list[str]) -> None:
    """what more processes gain on this machine: distgan bench scaling"""
    from distgan.benchmark.options import ScalingConfig

    parser = Parser(
        prog="distgan bench scaling",
        usage="distgan bench scaling [FLAGS]",
        description="Speed on several numbers of processes of this machine.",
        epilog=_EXIT_CODES.format("a number of processes failed"),
    )
    _, config = parse_settings(parser, argv, ScalingConfig)

    from distgan.benchmark.scaling import run

    run(config)


def _plan(argv: list[str]) -> None:
    """predict from measurements what more processes would gain: distgan bench plan RESULTS.json"""
    from distgan.benchmark.options import PlanConfig

    parser = Parser(
        prog="distgan bench plan",
        usage="distgan bench plan RESULTS.json [FLAGS]",
        description="Predicts from measured results, and says how far off it is where it was measured.",
        epilog=_EXIT_CODES.format("the results allow no prediction"),
    )
    parser.add_argument("path", metavar="RESULTS.json", help="of distgan bench, or its folder")
    namespace, config = parse_settings(parser, argv, PlanConfig)

    from distgan.benchmark.plan import run

    run(Path(namespace.path).expanduser(), config)


def _convergence(argv: list[str]) -> None:
    """epochs and seconds to a frozen quality: distgan bench convergence --preset cgan-fast"""
    from distgan.benchmark.options import ConvergenceConfig

    parser = Parser(
        prog="distgan bench convergence",
        usage="distgan bench convergence --preset NAME [--against NAME] [FLAGS]",
        description="Trains a preset with several seeds, each until it meets frozen targets of quality and holds them, "
        "and tells\nthe epochs and seconds that this takes. The same command with --out goes on with a bench that was "
        "killed.",
        epilog=_EXIT_CODES.format("a run crashed, or more processes need more epochs")
        + "; that of\na training that stops of itself (75: before the time limit of a SLURM job)",
    )
    _, config = parse_settings(parser, argv, ConvergenceConfig)

    from distgan.benchmark.convergence import run

    run(config)
