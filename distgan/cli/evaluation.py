"""`distgan eval` and `distgan judge`: read their flags, and only then import what they need."""

from distgan.config.commands import EvalConfig, JudgeConfig
from distgan.config.flags import Parser, parse_settings
from distgan.errors import UserError

_EXIT_CODES = "exit codes: 0 done, 1 {}, 2 a mistake of yours, 130 Ctrl-C"


def eval_main(argv: list[str]) -> None:
    """Raises UserError."""
    parser = Parser(
        prog="distgan eval",
        usage="distgan eval RUN_OR_WEIGHTS_OR_NPZ [FLAGS]",
        description="Has images judged: digit by digit, with 95 % intervals, beside what as many real images measure "
        "and what\nthe judges themselves get wrong. Leaves eval.json and pictures; "
        "any number of processes finds\nthe same.",
        epilog=_EXIT_CODES.format("failed"),
    )
    parser.add_argument(
        "where",
        metavar="RUN_OR_WEIGHTS_OR_NPZ",
        help="a run's folder, its weights/, a checkpoint, a .safetensors file, or an .npz with images (uint8) and, if "
        "a digit was asked for, labels, of any program",
    )
    namespace, config = parse_settings(parser, argv, EvalConfig)

    from distgan.distributed import env as launcher
    from distgan.launch import local

    num = config.processes or 1
    if launcher.is_launched():
        if config.processes is not None:
            launcher.refuse_other_number(num)
    elif num > 1:
        raise SystemExit(local.launch(num, ["eval", *argv], script="__main__.py"))
    from distgan.evaluation.evaluate import evaluate, start_runtime
    from distgan.reports.eval_terminal import show

    with start_runtime(config) as runtime:
        quality, folder = evaluate(namespace.where, config, runtime)
        if runtime.is_main and config.as_json:
            print(quality.model_dump_json(indent=1))
        elif runtime.is_main:
            show(quality, folder)


def judge_main(argv: list[str]) -> None:
    """Raises UserError, and CommandFailed for judges that err too often."""
    parser = Parser(
        prog="distgan judge",
        usage="distgan judge (train | show) [FLAGS]",
        description="train: trains three judges on a data set, measures them on its test images, and puts them in "
        "the cache,\nwhere distgan eval looks for them (MNIST's are in the package; others by --judges). show: what\n"
        "those get wrong, and how they were made.",
        epilog=_EXIT_CODES.format("a judge of MNIST errs too often"),
    )
    parser.add_argument("action", metavar="train|show", help="what to do")
    namespace, config = parse_settings(parser, argv, JudgeConfig)
    if namespace.action not in ("train", "show"):
        raise UserError(f"{namespace.action}: unknown action; allowed: train, show")

    from distgan.evaluation.judge_training import show_judges, train_judges

    {"train": train_judges, "show": show_judges}[namespace.action](config)
