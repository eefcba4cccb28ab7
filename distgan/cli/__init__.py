"""`distgan ...`: finds the command, reads its flags, and only then imports what it needs."""

import argparse
import os
import sys
from pathlib import Path

import distgan
from distgan.errors import UserError, exit_code_of

_EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 a mistake of yours, 75 stopped before its time limit, 128 + N stopped and saved "
    "by signal N\n(130 Ctrl-C, 138 SIGUSR1, 140 SIGUSR2, 143 SIGTERM)"
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    code = exit_code_of(lambda: _dispatch(arguments), debug="--debug" in arguments)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # Threads of gloo, which DDP keeps alive, may abort an interpreter that ends in good order.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _dispatch(argv: list[str]) -> None:
    commands = {
        "train": (_train, _train.__doc__),
        "sample": (_sample, _sample.__doc__),
        "eval": (_eval, _eval.__doc__),
        "judge": (_judge, _judge.__doc__),
        "compare": (_compare, _compare.__doc__),
        "report": (_report, _report.__doc__),
        "checkpoint": (_checkpoint, _checkpoint.__doc__),
        "slurm": (_slurm, _slurm.__doc__),
        "doctor": (_doctor, _doctor.__doc__),
        "bench": (_bench, _bench.__doc__),
    }
    if argv and argv[0] in commands:
        commands[argv[0]][0](argv[1:])
        return
    # A parser without pydantic, whose import is the larger part of half a second on a slow disk.
    parser = argparse.ArgumentParser(
        prog="distgan",
        description=distgan.__doc__.split(".")[0] + "." if distgan.__doc__ else None,
        epilog="\n".join(
            [
                "commands:",
                *(f"  {name:<11}{doc}" for name, (_, doc) in commands.items()),
                "",
                "distgan COMMAND --help lists a command's flags and their defaults.",
                _EXIT_CODES,
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="distgan COMMAND [FLAGS]",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"distgan {distgan.__version__}")
    if not argv:
        parser.print_help()
        raise UserError(f"names no command; allowed: {', '.join(commands)}")
    parser.parse_known_args(argv)
    kind = "flag" if argv[0].startswith("-") else "command"
    raise UserError(f"{argv[0]}: unknown {kind}; allowed: {', '.join(commands)} (see distgan --help)")


def _train(argv: list[str]) -> None:
    """train a GAN: distgan train --preset cgan-quick"""
    from distgan.config.flags import Parser, add_flags, from_flags
    from distgan.config.presets import base_of, config_folder
    from distgan.config.schema import Config

    presets = ", ".join(path.stem for path in sorted(config_folder().glob("*.toml")))
    parser = Parser(
        prog="distgan train",
        usage="distgan train (--model NAME | --preset NAME | --config FILE) [FLAGS]",
        description="Trains a GAN. The same program starts by accelerate launch distgan/train.py.",
        epilog=f"presets: {presets}\nWeakest first: the defaults above, the preset, flags.\n{_EXIT_CODES}",
    )
    parser.add_argument("--preset", metavar="NAME", help="a file of configs/ by its name (default: that of --model)")
    parser.add_argument("--config", metavar="FILE", help="any preset, or a run's own config.json (default: unset)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing (default: off)")
    add_flags(parser, Config)
    namespace = parser.parse(argv)
    base, preset = base_of(namespace)
    config = from_flags(Config, namespace, base)

    from distgan.distributed import env as launcher
    from distgan.launch import local
    from distgan.utils.provenance import Startup

    num = config.processes.num or 1
    if launcher.is_launched():
        if "processes.num" in namespace:
            launcher.refuse_other_number(num)
    elif num > 1 and not namespace.dry_run:
        from distgan.data.loader import fewest_rows, global_batch_size, refuse_small

        refuse_small(global_batch_size(config.data, num), fewest_rows(config, num))
        raise SystemExit(local.launch(num, argv, timeout_s=config.processes.timeout))
    startup = Startup()
    if namespace.dry_run:
        from distgan.runs.dry_run import plan

        if text := plan(config, preset):
            print(text)
        return
    from distgan.train import train

    startup.mark("imports")
    train(config, preset, startup)


def _checkpoint(argv: list[str]) -> None:
    """look at the checkpoints of a run: distgan checkpoint ls|verify|diff RUN"""
    from distgan.config.flags import Parser

    parser = Parser(
        prog="distgan checkpoint",
        usage="distgan checkpoint (ls RUN | verify RUN_OR_CHECKPOINT | diff RUN_OR_CHECKPOINT [OTHER])",
        description="ls: the checkpoints of a run, and what became of it. verify: reads every byte of each. diff: how "
        "two\ndiffer, in settings, counters and tensors; of one run, its newest two.",
        epilog="exit codes: 0 all whole (verify) or equal (diff), 1 damaged or different, 2 a mistake of yours",
    )
    parser.add_argument("action", metavar="ls|verify|diff", help="what to do")
    parser.add_argument("where", metavar="RUN_OR_CHECKPOINT", help="a run's folder, or a checkpoint's")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="diff: what to compare with")
    namespace = parser.parse(argv)
    if namespace.action not in ("ls", "verify", "diff"):
        raise UserError(f"{namespace.action}: unknown action; allowed: ls, verify, diff")
    if namespace.other and namespace.action != "diff":
        raise UserError(f"{namespace.other}: {namespace.action} takes one folder; allowed: a second one for diff")

    from distgan.runs.inspection import diff, list_checkpoints, verify

    where = Path(namespace.where).expanduser()
    if namespace.action == "diff":
        diff(where, Path(namespace.other).expanduser() if namespace.other else None)
    else:
        {"ls": list_checkpoints, "verify": verify}[namespace.action](where)


def _slurm(argv: list[str]) -> None:
    """submit a training to SLURM: distgan slurm --nodes 2 --gpus-per-node 4 --model cgan"""
    from distgan.launch.slurm import main

    main(argv)


def _sample(argv: list[str]) -> None:
    """draw images of a run or of weights: distgan sample runs/cgan-1 --out grid.png"""
    from distgan.config.commands import SampleConfig
    from distgan.config.flags import Parser, parse_settings

    parser = Parser(
        prog="distgan sample",
        usage="distgan sample RUN_OR_WEIGHTS [FLAGS]",
        description="Draws images: a grid (.png), a walk that moves (.gif), or arrays for other tools (.npz).",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("where", metavar="RUN_OR_WEIGHTS", help="a run's folder, its weights/, or a .safetensors file")
    namespace, config = parse_settings(parser, argv, SampleConfig)

    from distgan.sample import sample

    print(sample(namespace.where, config))


def _doctor(argv: list[str]) -> None:
    """tell what this machine has for training, and what to do about what it lacks: distgan doctor"""
    from distgan.launch.doctor import examine

    try:
        from distgan.config.commands import DoctorConfig
        from distgan.config.flags import Parser, add_flags, from_flags
    except ImportError:  # pydantic may be what is missing
        examine(None)
        return
    parser = Parser(
        prog="distgan doctor",
        usage="distgan doctor [FLAGS]",
        description="What this machine has for training: each line ok, a note, or a problem and what to do about it.",
        epilog="exit codes: 0 training can run here, 1 it can't",
    )
    add_flags(parser, DoctorConfig)
    config = from_flags(DoctorConfig, parser.parse(argv))
    examine(config.data_dir, config.processes)


def _eval(argv: list[str]) -> None:
    """have images judged, digit by digit, with intervals: distgan eval runs/cgan-1"""
    from distgan.cli.evaluation import eval_main

    eval_main(argv)


def _judge(argv: list[str]) -> None:
    """train the judges of a data set, or show what they err in: distgan judge show"""
    from distgan.cli.evaluation import judge_main

    judge_main(argv)


def _compare(argv: list[str]) -> None:
    """the 2023 report's table of runs, measured: distgan compare runs/vanilla-1 runs/cgan-1"""
    from distgan.cli.reports import compare_main

    compare_main(argv)


def _report(argv: list[str]) -> None:
    """one HTML page about a run: distgan report runs/cgan-1"""
    from distgan.cli.reports import report_main

    report_main(argv)


def _bench(argv: list[str]) -> None:
    """measure speed, and compare measurements: distgan bench throughput --peers"""
    from distgan.cli.bench import main

    main(argv)
