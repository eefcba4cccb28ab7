"""`distgan ...`: finds the command, reads its flags, and only then imports what it needs."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args

import distgan
from distgan.errors import UserError, exit_code_of

_EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 a mistake of yours, 75 stopped before its time limit, 128 + N stopped and saved "
    "by signal N\n(130 Ctrl-C, 138 SIGUSR1, 140 SIGUSR2, 143 SIGTERM)"
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return exit_code_of(lambda: _dispatch(arguments), debug="--debug" in arguments)


def _dispatch(argv: list[str]) -> None:
    commands = {
        "train": (_train, _train.__doc__),
        "sample": (_sample, _sample.__doc__),
        "checkpoint": (_checkpoint, _checkpoint.__doc__),
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
    from distgan.config import Config
    from distgan.flags import Parser, add_flags, config_folder, from_flags

    presets = ", ".join(path.stem for path in sorted(config_folder().glob("*.toml")))
    parser = Parser(
        prog="distgan train",
        usage="distgan train (--model NAME | --preset NAME | --config FILE) [FLAGS]",
        description="Trains a GAN. The same program starts by accelerate launch distgan/train.py.",
        epilog=f"presets: {presets}\nWeakest first: the defaults above, the preset, flags.\n{_EXIT_CODES}",
    )
    parser.add_argument(
        "--preset", metavar="NAME", help="a file of configs/ by its name (default: that of --model)"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="any preset, or a run's own config.json (default: unset)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be done, and do nothing (default: off)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error (default: off)")
    add_flags(parser, Config)
    namespace = parser.parse(argv)
    base, preset = _base(namespace)
    config = from_flags(Config, namespace, base)

    from distgan import launcher
    from distgan.environment import Startup

    num = config.processes.num or 1
    if launcher.is_launched():
        if "processes.num" in namespace:
            launcher.refuse_other_number(num)
    elif num > 1 and not namespace.dry_run:
        raise SystemExit(launcher.launch(config, argv))
    startup = Startup()
    if namespace.dry_run:
        from distgan.plan import plan

        if text := plan(config, preset):
            print(text)
        return
    from distgan.rendezvous import losses_named
    from distgan.train import train

    startup.mark("imports")
    with losses_named():
        train(config, preset, startup)


def _base(namespace: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What the flags are laid over, and its name. Raises UserError."""
    from distgan.config import ModelConfig
    from distgan.flags import preset_path, read_file

    model = getattr(namespace, "model.name", None)
    out = getattr(namespace, "run.out", None)
    resume = getattr(namespace, "run.resume", None)
    models = get_args(ModelConfig.model_fields["name"].annotation)
    if model is not None and model not in models:
        raise UserError(f"--model {model}: unknown network; allowed: {', '.join(models)} (see also --preset)")
    if resume == "auto" and not out:
        raise UserError(
            "--resume auto: goes on with the run in --out, which is not given; allowed: with --out DIR"
        )
    if namespace.preset and namespace.config:
        raise UserError(f"--preset {namespace.preset}, --config {namespace.config}: allowed: one of the two")
    if namespace.preset:
        path, name = preset_path(namespace.preset, "--preset"), namespace.preset
    elif namespace.config:
        path = Path(namespace.config).expanduser()
        # A run's own config is that run's preset again.
        name = path.parent.name if path.name == "config.json" else path.stem
    elif own := _config_to_go_on_with(out, resume):
        # The limits of one sitting are not the next one's.
        base = read_file(own, str(own))
        sitting = ("out", "resume", "max_steps", "time_limit", "allow_config_change")
        run = {key: value for key, value in base.get("run", {}).items() if key not in sitting}
        return base | {"run": run}, Path(out or "").name or str(base.get("model", {}).get("name", "run"))
    elif model:
        path, name = preset_path(model, "--model"), model
    else:
        raise UserError(
            "names no network; allowed: --model vanilla, --model cgan, --preset NAME or --config FILE"
        )
    base = read_file(path, str(path) if namespace.config else f"preset {name} ({path})")
    trained = base.get("model", {}).get("name")
    if model and trained and model != trained:
        raise UserError(
            f"--model {model}: {path} trains {trained}; allowed: --model {trained}, or without --model"
        )
    if path.suffix == ".json":
        # A run's config names its own folder, which a second run must not take.
        base = json.loads(json.dumps(base))
        for key in ("out", "resume", "allow_config_change"):
            base.get("run", {}).pop(key, None)
    return base, name


def _config_to_go_on_with(out: str | None, resume: str | None) -> Path | None:
    """The config.json of the run or the checkpoint that the flags name, if they do."""
    is_named = resume not in (None, "auto", "never")
    name = resume if is_named else out
    if name is None or resume == "never":
        return None
    path = Path(name).expanduser() / "config.json"
    if is_named and not path.is_file():
        raise UserError(
            f"--resume {resume}: there is no config.json in it; allowed: auto, never, or the folder of a checkpoint "
            "or of a run"
        )
    return path if path.is_file() else None


def _checkpoint(argv: list[str]) -> None:
    """look at the checkpoints of a run: distgan checkpoint ls|verify|diff RUN"""
    from distgan.flags import Parser

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
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error (default: off)")
    namespace = parser.parse(argv)
    if namespace.action not in ("ls", "verify", "diff"):
        raise UserError(f"{namespace.action}: unknown action; allowed: ls, verify, diff")
    if namespace.other and namespace.action != "diff":
        raise UserError(
            f"{namespace.other}: {namespace.action} takes one folder; allowed: a second one for diff"
        )

    from distgan.inspection import diff, list_checkpoints, verify

    where = Path(namespace.where).expanduser()
    if namespace.action == "diff":
        diff(where, Path(namespace.other).expanduser() if namespace.other else None)
    else:
        {"ls": list_checkpoints, "verify": verify}[namespace.action](where)


def _sample(argv: list[str]) -> None:
    """draw images of a run or of weights: distgan sample runs/cgan-1 --out grid.png"""
    from distgan.flags import Parser, add_flags, from_flags
    from distgan.options import SampleConfig

    parser = Parser(
        prog="distgan sample",
        usage="distgan sample RUN_OR_WEIGHTS [FLAGS]",
        description="Draws images: a grid (.png), a walk that moves (.gif), or arrays for other tools (.npz).",
        epilog=_EXIT_CODES,
    )
    parser.add_argument(
        "where", metavar="RUN_OR_WEIGHTS", help="a run's folder, its weights/, or a .safetensors file"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error (default: off)")
    add_flags(parser, SampleConfig)
    namespace = parser.parse(argv)
    config = from_flags(SampleConfig, namespace)

    from distgan.sample import sample

    print(sample(namespace.where, config))
