"""`distgan report`: a run on one page."""

import base64
import hashlib
import shlex
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distgan import __version__
from distgan.config import fields
from distgan.config.schema import Config
from distgan.reports.number_format import epochs
from distgan.reports.options import ReportConfig
from distgan.reports.quality_view import view_of
from distgan.reports.report2023 import claims_of
from distgan.reports.run_data import Picture, Run, eval_command, pictures, read_picture, read_run, train_command
from distgan.reports.training_curves import curves_of, when
from distgan.training.engines.selection import fallback_notice
from distgan.utils.files import output_file, write_atomic
from distgan.utils.paths import user_path

_TEMPLATES = Path(__file__).resolve().parent / "templates"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Raises OSError that names `path`."""
    text = render(template, **values)
    # A folder's name may hold bytes that are no text.
    write_atomic(path, text.encode("utf-8", "replace"))


def render(template: str, **values: Any) -> str:
    """Whatever comes from a file is escaped; only what lies in templates/ is taken as it is."""
    style, head, script = (_own(name) for name in ("style.css", "head.js", "page.js"))
    hashes = " ".join(f"'sha256-{_digest(each)}'" for each in (head, script))
    # Should something slip through, it would neither run nor reach another host.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}"
    return _environment().get_template(template).render(
        style=Markup(style), head=Markup(head), script=Markup(script), policy=policy, version=__version__, **values
    )  # fmt: skip


def data_uri(picture: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.data).decode()}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["epochs"] = epochs
    return environment


@cache
def _own(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# -- `distgan report`: a run on one page --

MOST_PICTURES = 40

_STATES = {"running": "in training, or killed", "stopped": "stopped before its end", "failed": "failed", "done": "done"}
_FILES = {
    "confusions": ("What is confused", "Images that were asked for as one digit and read as another, a pair a row."),
    "digits": ("The best and the worst of each digit", "To the left those of which the jury is surest, to the right "
               "those of which it is least sure."),
    "neighbours": ("The nearest real digits", "Each generated image beside the training image that is nearest to it: "
                   "the closest pairs, then usual ones. A copy would show."),
}  # fmt: skip


class Shown(NamedTuple):
    """A picture on a page."""

    title: str
    text: str
    alt: str
    uri: str
    width: int
    height: int


def page_file(out: str | Path) -> Path:
    """Return where a page is written. Raises UserError."""
    return output_file(out, b'name="generator" content="distgan', "page of distgan's")


def report(where: str, out: Path | None, config: ReportConfig) -> Path:
    """Writes the page; its path. Raises UserError."""
    folder = user_path(where)
    path = out or folder / "report.html"
    if folder.is_dir():  # before minutes are spent on measuring
        path = page_file(path)
    run = read_run(where, config)
    write_page(path, "report.html", **page_of(run))
    return path


def page_of(run: Run) -> dict[str, Any]:
    """What the template lays out."""
    frames, num_pictures = samples_of(run)
    return {
        "run": run,
        "facts": facts_of(run),
        "notices": notices_of(run),
        "frames": frames,
        "num_pictures": num_pictures,
        "curves": curves_of(run),
        "alarms": when(run.history.alarms),
        "view": view_of(run.quality) if run.quality else None,
        "quality": run.quality,
        "evaluation": pictures_of_evaluation(run),
        "claims": claims_of(run.quality) if run.quality else [],
        "settings": settings_of(run.config),
        "environment": environment_of(run),
        "commands": commands_of(run),
        "eval_command": eval_command(run),
        "problems": list(dict.fromkeys(run.problems)),
    }


def facts_of(run: Run) -> list[tuple[str, str]]:
    """What was trained, on what, and how far."""
    config, state = run.config, run.status.get("state")
    kind = "conditional GAN: both networks see the label" if run.kind == "C-GAN" else "GAN without labels"
    preset = run.fact("preset")
    num_images = run.fact("data", "num_images")
    images = f" ({num_images:,} images)" if type(num_images) is int else ""
    facts = [
        ("model", f"{kind}; {config.model.family} networks" + (f", preset {preset}" if preset else "")),
        ("data", f"{run.fact('data', 'name') or config.data.name}{images}"),
        ("state", _STATES.get(state, "unknown") if isinstance(state, str) else "unknown"),
    ]
    if run.history.epoch is not None:
        facts.append(("epoch", f"{epochs(run.history.epoch)} of {config.run.epochs:,}"))
    if run.step is not None:
        facts.append(("step", f"{run.step:,}"))
    if state in ("stopped", "failed") and isinstance(reason := run.status.get("reason"), str):
        facts.append(("reason", reason))
    return facts


def notices_of(run: Run) -> list[str]:
    """What a reader has to know before any number."""
    notices = [f"This run was trained on {run.notice}."] if run.notice else []
    name = run.fact("data", "name") or run.config.data.name
    if not run.notice and name != "mnist":
        notices.append(f"This run was trained on {name}, not on MNIST.")
    if fallback := fallback_notice(run.fact("engine")):
        notices.append(fallback)
    quality = run.quality
    if quality and quality.source.step is not None and run.step is not None and quality.source.step < run.step:
        notices.append(
            f"Its quality was measured at step {quality.source.step:,}, the run is at step {run.step:,} by now; "
            f"measure it anew by distgan eval {shlex.quote(run.where)}"
        )
    return notices + [text for text in (quality.notices if quality else []) if text not in notices]


def samples_of(run: Run) -> tuple[list[Shown], int]:
    """The grids in order, of very many an even choice with the first and the last; and how many there are."""
    found = pictures(run)
    chosen = found
    if len(found) > MOST_PICTURES:
        chosen = [found[round(n * (len(found) - 1) / (MOST_PICTURES - 1))] for n in range(MOST_PICTURES)]
    what = "a column for each digit from 0 to 9" if run.kind == "C-GAN" else "each from its own noise"
    return [
        Shown(when_drawn, "", f"Grid of generated images after {when_drawn}, {what}", *_embedded(picture))
        for when_drawn, picture in chosen
    ], len(found)


def pictures_of_evaluation(run: Run) -> list[Shown]:
    shown = []
    for name, (title, text) in _FILES.items() if run.quality else ():
        if picture := read_picture(run.eval_folder / f"{name}.png", run.problems):
            shown.append(Shown(title, text, f"{title}: {text}", *_embedded(picture)))
    return shown


def _embedded(picture: Picture) -> tuple[str, int, int]:
    return data_uri(picture), picture.width, picture.height


def settings_of(config: Config) -> list[tuple[str, list[tuple[str, str]]]]:
    tables = config.model_dump(mode="json")
    return [(table, [(key, shown(value)) for key, value in keys.items()]) for table, keys in tables.items()]


def shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else fields.shown(value)


def environment_of(run: Run) -> list[tuple[str, str]]:
    """Of a machine and its libraries, what is recorded."""
    versions = run.fact("versions")
    git = run.fact("git")
    lines = {
        "device": run.fact("device"),
        "host": run.fact("host"),
        "platform": run.fact("platform"),
        "processes": run.fact("world_size"),
        "threads": run.fact("threads"),
        "precision": run.fact("precision") if isinstance(run.fact("precision"), str) else None,
        "about the precision": run.fact("precision_note") or None,
        "engine": run.fact("engine", "name"),
        "why that engine": run.fact("engine", "why"),
        "started": run.fact("started_at"),
        "distgan": run.fact("distgan"),
        "python": run.fact("python"),
        **(versions if isinstance(versions, dict) else {}),
        "revision": f"{git.get('revision')}{' and changes' if git.get('is_dirty') else ''}"
        if isinstance(git, dict)
        else None,
        "data from": run.fact("data", "source"),
        "fingerprint of the data": run.fact("data", "fingerprint"),
        "warning about the data": run.fact("data", "warning"),
    }
    return [(str(name), shown(value)) for name, value in lines.items() if value is not None]


def commands_of(run: Run) -> list[tuple[str, str]]:
    place = shlex.quote(run.where)
    commands = []
    recorded = run.fact("command")
    if isinstance(recorded, list) and recorded:
        commands.append(("how it was started", shlex.join(map(str, recorded))))
    return [
        *commands,
        ("train it again, in a new folder", train_command(run)),
        ("measure its quality", eval_command(run)),
        ("draw more images", f"distgan sample {place} --num 100 --out samples.png"),
        ("write this page", f"distgan report {place}"),
    ]
