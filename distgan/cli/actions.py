"""Actions of commands: from parsed flags to the function that does the work, which is imported last."""

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from distgan.errors import UserError, print_line
from distgan.utils.paths import user_path

if TYPE_CHECKING:
    from distgan.config.command_settings import DoctorConfig, JudgeConfig
    from distgan.config.flags import Parser
    from distgan.reports.options import CompareConfig, ReportConfig


def train(parser: "Parser", argv: list[str]) -> None:
    """Run `distgan train`. Raises UserError, and what the training raises."""
    from distgan.config.flags import add_flags
    from distgan.config.presets import config_folder, config_from, load_base
    from distgan.config.schema import Config

    presets = ", ".join(path.stem for path in sorted(config_folder().glob("*.toml")))
    parser.epilog = f"presets: {presets}\n{parser.epilog}"
    add_flags(parser, Config)
    namespace = parser.parse(argv)
    config = config_from(namespace, *load_base(namespace))
    preset = config.origin.preset

    from distgan.distributed import env
    from distgan.launch import local
    from distgan.utils.provenance import Startup

    env.check_before_imports()
    if "run.precision" not in namespace:
        env.check_launcher_precision(config.run.precision)
    num = config.processes.num or 1
    if env.is_launched():
        if "processes.num" in namespace:
            env.check_num_processes(num)
    elif num > 1 and not namespace.dry_run:
        from distgan.data.loader import check_batch_size, global_batch_size, min_batch_size

        check_batch_size(global_batch_size(config.data, num), min_batch_size(config, num))
        raise SystemExit(local.launch_processes(num, argv, timeout_s=config.processes.timeout))
    startup = Startup()
    from distgan.models.network_copies import with_networks

    config = with_networks(config)
    if namespace.dry_run:
        from distgan.runs.dry_run import plan

        if text := plan(config, preset):
            print_line(text)
        return
    from distgan.train import train

    startup.mark("imports")
    train(config, preset, startup)


def evaluate(parser: "Parser", argv: list[str]) -> None:
    """Run `distgan eval`. Raises UserError."""
    from distgan.config.command_settings import EvalConfig
    from distgan.config.flags import parse_settings

    namespace, config = parse_settings(parser, argv, EvalConfig)

    from distgan.distributed import env
    from distgan.launch import local

    env.check_before_imports()
    num = config.processes or 1
    if env.is_launched():
        if config.processes is not None:
            env.check_num_processes(num)
    elif num > 1:
        raise SystemExit(local.launch_processes(num, ["eval", *argv], script="__main__.py", timeout_s=config.timeout))
    from distgan.evaluation.evaluate import evaluate, start_runtime
    from distgan.reports.eval_terminal import show

    with start_runtime(config) as runtime:
        with redirect_stdout(sys.stderr) if config.as_json else nullcontext():  # what a user's networks print
            quality, folder = evaluate(namespace.where, config, runtime)
        if runtime.is_main and config.as_json:
            print(json.dumps(quality.model_dump(mode="json"), indent=1))  # ASCII, for any encoding of stdout
        elif runtime.is_main:
            show(quality, folder)


def judge(action: str, config: "JudgeConfig") -> None:
    """Run `distgan judge train` or `show`. Raises UserError and CommandFailed."""
    from distgan.evaluation.train_judges import show_judges, train_judges

    {"train": train_judges, "show": show_judges}[action](config)


def report(run: str, config: "ReportConfig") -> str:
    """Write the page of a run. Return its path. Raises UserError."""
    out = _check_page_path(config.out)

    from distgan.reports.report import report

    return f"report: {report(run, out, config)}"


def compare(runs: list[str], config: "CompareConfig") -> None:
    """Write the page that compares runs. Raises UserError."""
    paths = [user_path(run).resolve() for run in runs]
    if len(paths) < 2:
        raise UserError(
            f"{runs[0]}: only one run. Expected: two or more (see distgan compare --help)", code="missing-value"
        )
    if duplicates := [run for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1]:
        raise UserError(f"{duplicates[-1]}: given twice. Expected: each run once", code="conflicting-settings")
    out = _check_page_path(config.out)

    from distgan.reports.comparison import compare

    compare(runs, out, config)


def _check_page_path(out: str | None) -> Path | None:
    """Return the path of --out, checked before minutes of measuring. Raises UserError."""
    if out is None:
        return None
    suffix = Path(out).suffix
    if suffix not in (".html", ".htm"):
        raise UserError(
            f"--out: ends in {suffix or 'nothing'} ({out}). Expected: a file that ends in .html", code="bad-path"
        )
    from distgan.reports.report import page_file

    return page_file(out)


def checkpoint(action: str, path: Path, other: str | None) -> None:
    """Run `distgan checkpoint ls`, `verify` or `diff`. Raises UserError and CommandFailed."""
    if other and action != "diff":
        raise UserError(
            f"{other}: {action} takes one folder. Expected: a second one only with diff", code="conflicting-settings"
        )

    from distgan.runs.inspection import diff, list_checkpoints, verify

    if action == "diff":
        diff(path, user_path(other) if other else None)
    else:
        {"ls": list_checkpoints, "verify": verify}[action](path)


def slurm(parser: "Parser", argv: list[str]) -> None:
    """Run `distgan slurm`. Raises UserError."""
    from distgan.config.command_settings import SlurmConfig
    from distgan.config.flags import add_flags, from_flags
    from distgan.launch.slurm import submit

    add_flags(parser, SlurmConfig)
    namespace, train_flags = parser.parse_known_args(argv)
    submit(from_flags(SlurmConfig, namespace), train_flags, dry_run=namespace.dry_run)


def doctor(config: "DoctorConfig | None" = None) -> None:
    """Run `distgan doctor`; without `config` where pydantic, which reads the flags, is missing."""
    from distgan.launch.doctor import check_machine, check_user_networks

    if config is None:
        check_machine(None)
    elif config.networks is None:
        check_machine(config.data_dir, config.processes, as_json=config.as_json)
    else:
        check_user_networks(config)
