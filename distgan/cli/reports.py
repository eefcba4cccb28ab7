"""`distgan report` and `distgan compare`: read their flags, and only then import what they need."""

from pathlib import Path

from distgan.config.flags import Parser, parse_settings
from distgan.errors import UserError
from distgan.reports.options import CompareConfig, ReportConfig

# In the head of each page: a later one may take its place.
_MARK = b'name="generator" content="distgan'
_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 a mistake of yours, 130 Ctrl-C"


def report_main(argv: list[str]) -> None:
    """a run as one page that opens from disk: distgan report runs/cgan-1"""
    parser = Parser(
        prog="distgan report",
        usage="distgan report RUN [FLAGS]",
        description="Writes one HTML page about a run: its samples, curves, measured quality, machine and settings.\n"
        "It needs no other file and no network. A run without eval/eval.json is measured first.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("where", metavar="RUN", help="a run's folder, of one that still trains too")
    namespace, config = parse_settings(parser, argv, ReportConfig)
    out = _page(config.out)

    from distgan.reports.report import report

    print(f"report: {report(namespace.where, out, config)}")


def compare_main(argv: list[str]) -> None:
    """runs beside each other in the table of the 2023 report: distgan compare runs/vanilla-1 runs/cgan-1"""
    parser = Parser(
        prog="distgan compare",
        usage="distgan compare RUN RUN ... [FLAGS]",
        description="Fills the comparison table of the 2023 report with measured values, their 95 % intervals and the\n"
        "command behind each, and says where they agree with it. Runs without eval/eval.json are measured first.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="two or more folders of runs, best a GAN and a C-GAN among them"
    )
    namespace, config = parse_settings(parser, argv, CompareConfig)
    places = [Path(where).expanduser().resolve() for where in namespace.runs]
    if len(places) < 2:
        raise UserError(f"{namespace.runs[0]}: is one run; allowed: two or more (see distgan compare --help)")
    if twice := [where for where, place in zip(namespace.runs, places, strict=True) if places.count(place) > 1]:
        raise UserError(f"{twice[-1]}: is named twice; allowed: each run once")
    out = _page(config.out)

    from distgan.reports.comparison import compare

    compare(namespace.runs, out, config)


def _page(out: str | None) -> Path | None:
    """Where to write, asked before minutes are spent on measuring. Raises UserError."""
    if out is None:
        return None
    path = Path(out).expanduser()
    if path.suffix not in (".html", ".htm"):
        raise UserError(f"--out {out}: ends in {path.suffix or 'nothing'}; allowed: a file that ends in .html")
    if path.is_dir():
        raise UserError(f"--out {out}: is a folder; allowed: a file that ends in .html")
    if path.exists() and _MARK not in path.read_bytes()[:2000]:
        raise UserError(
            f"--out {out}: is there already, and no page of distgan's; allowed: a new file, or one of those"
        )
    if not path.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {path.parent}; allowed: a file in one that is there")
    return path
