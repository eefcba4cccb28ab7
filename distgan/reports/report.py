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
from distgan.evaluation.schema import Quality
from distgan.reports.number_format import epochs, listed
from distgan.reports.options import ReportConfig
from distgan.reports.quality_view import View, class_noun, measured_on, view_of
from distgan.reports.report2023 import SENTENCES, Claim, claims_of, notice_of
from distgan.reports.reproduce import again
from distgan.reports.run_data import Picture, Run, eval_command, pictures, precision_of, read_picture, read_run
from distgan.reports.training_curves import Curves, curves_of, when
from distgan.training.engines.selection import fallback_notice
from distgan.utils.files import output_file, write_whole
from distgan.utils.paths import user_path

_TEMPLATES = Path(__file__).resolve().parent / "templates"


def write_page(path: Path, template: str, page: object) -> None:
    """Raises OSError that names `path`."""
    text = render(template, page)
    # A folder's name may hold bytes that are no text.
    write_whole(path, text.encode("utf-8", "replace"))


def render(template: str, page: object) -> str:
    """Whatever comes from a file is escaped; only what lies in templates/ is taken as it is."""
    style, head, script = (_own(name) for name in ("style.css", "head.js", "page.js"))
    hashes = " ".join(f"'sha256-{_digest(each)}'" for each in (head, script))
    # Should something slip through, it would neither run nor reach another host.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}"
    return _environment().get_template(template).render(
        style=Markup(style), head=Markup(head), script=Markup(script), policy=policy, version=__version__, contents=[],
        page=page,
    )  # fmt: skip


def data_uri(picture: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.data).decode()}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )


@cache
def _own(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# -- `distgan report`: a run on one page --

MOST_PICTURES = 40
_WIDE = 1200  # pixels of a picture that scrolls sideways, where a narrower one is made to fit

_STATES = {"running": "in training, or killed", "stopped": "stopped before its end", "failed": "failed", "done": "done"}
_FILES = {
    "confusions": ("What is confused", "Images that were asked for as one {noun} and read as another, a pair a row."),
    "digits": ("The best and the worst of each {noun}", "To the left those of which the jury is surest, to the right "
               "those of which it is least sure."),
    "neighbours": ("The nearest real images", "Each generated image beside the training image that is nearest to it: "
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

    @property
    def is_wide(self) -> bool:
        return self.width > _WIDE


class Page(NamedTuple):
    """What the template lays out."""

    run: Run
    facts: list[tuple[str, str]]
    notices: list[str]
    frames: list[Shown]
    frames_text: str
    curves: Curves
    course_text: str
    alarms: list[tuple[str, str]]
    quality: Quality | None
    quality_text: str
    view: View | None
    evaluation: list[Shown]
    claims: list[Claim]
    claims_title: str
    settings: list[tuple[str, list[tuple[str, str]]]]
    environment: list[tuple[str, str]]
    commands: list[tuple[str, str]]
    eval_command: str
    problems: list[str]


def page_file(out: str | Path) -> Path:
    """Return where a page is written. Raises UserError."""
    return output_file(out, b'name="generator" content="distgan', "page of distgan's")


def report(where: str, out: Path | None, config: ReportConfig) -> Path:
    """Writes the page; its path. Raises UserError."""
    folder = user_path(where)
    path = out or folder / "report.html"
    if folder.is_dir():  # before minutes are spent on measuring
        path = page_file(path)
    write_page(path, "report.html", page_of(read_run(where, config)))
    return path


def page_of(run: Run) -> Page:
    frames, num_pictures = samples_of(run)
    quality = run.quality
    return Page(
        run,
        facts_of(run),
        notices_of(run),
        frames,
        _frames_text(run, len(frames), num_pictures),
        curves_of(run),
        course_text(run),
        when(run.history.alarms),
        quality,
        quality_text(run, quality) if quality else "",
        view_of(quality) if quality else None,
        pictures_of_evaluation(run),
        claims_of(quality) if quality else [],
        SENTENCES,
        settings_of(run.config),
        environment_of(run),
        commands_of(run),
        eval_command(run),
        list(dict.fromkeys(run.problems)),
    )


def facts_of(run: Run) -> list[tuple[str, str]]:
    """What was trained, on what, and how far."""
    config, state = run.config, run.status.get(str, "state")
    kind = "conditional GAN: both networks are told the label" if run.kind == "C-GAN" else "GAN without labels"
    clusters = f", told one of {config.model.clusters:,} clusters" if config.model.clusters else ""
    preset = run.environment.get(str, "preset")
    num_images = run.environment.get(int, "data", "num_images")
    images = "" if num_images is None else f" ({num_images:,} images)"
    facts = [
        ("model", f"{kind}{clusters}; {config.model.family} networks" + (f", preset {preset}" if preset else "")),
        ("data", f"{run.data_name or 'not recorded'}{images}"),
        ("state", _STATES.get(state or "", "unknown")),
    ]
    if run.history.epoch is not None:
        facts.append(("epoch", f"{epochs(run.history.epoch)} of {config.run.epochs:,}"))
    if run.step is not None:
        most = config.run.max_steps
        facts.append(("step", f"{run.step:,}" + (f" of at most {most:,}" if most else "")))
    if reason := run.status.get(str, "reason"):
        facts.append(("reason", reason))
    return facts


def notices_of(run: Run) -> list[str]:
    """What a reader has to know before any number."""
    notices = [f"This run was trained on {run.notice}."] if run.notice else []
    fallback = fallback_notice(run.environment.values.get("engine"))
    notices += [text for text in (notice_of(run), fallback) if text]
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
    what = _columns(run) or ", each from its own noise"
    return [
        Shown(when_drawn, "", f"Grid of generated images after {when_drawn}{what}", *_embedded(picture))
        for when_drawn, picture in chosen
    ], len(found)


def _columns(run: Run) -> str:
    """Return what the columns of a grid are, "" of a run without labels."""
    return f", a column for each {class_noun(run.data_name)[0]} that was asked for" if run.kind == "C-GAN" else ""


def _frames_text(run: Run, num: int, num_pictures: int) -> str:
    decay = run.config.optim.ema_decay
    weights = (
        f"the moving average of G's weights (decay {decay:g} a step)" if decay else "G's own weights, not averaged"
    )
    some = f" {num} of {num_pictures} pictures are shown." if num < num_pictures else ""
    return f"The same noise at each of these times{_columns(run)}, drawn with {weights}.{some}"


def quality_text(run: Run, quality: Quality) -> str:
    others = f" Other results of this run are in {', '.join(run.other_results)}." if run.other_results else ""
    return (
        f"Measured on {measured_on(quality)}, by a jury of {len(quality.judges)} small networks that learnt from "
        f"{quality.source.judged_by}. The real images to compare with are {quality.source.reference}. Each number has "
        f"its 95 % interval, and beside it what real images measure. All of it is in {run.eval_folder.name}/eval.json."
        f"{others}"
    )


def course_text(run: Run) -> str:
    """Return why there are no evaluations during training."""
    settings = run.config.run
    if not settings.evaluates_quality:
        return (
            "Not measured: this run was trained without --eval-every. With --eval-every 1 it would be measured after "
            "each epoch."
        )
    often = [f"every {settings.eval_every} epochs (--eval-every)"] if settings.eval_every else []
    often += [f"every {settings.eval_every_steps} steps (--eval-every-steps)"] if settings.eval_every_steps else []
    return f"Not measured yet: that is done {listed(often) or 'as often as the targets of --stop-at have it'}."


def pictures_of_evaluation(run: Run) -> list[Shown]:
    shown, noun = [], class_noun(run.quality.source.data if run.quality else None)[0]
    for name, texts in _FILES.items() if run.quality else ():
        title, text = (each.format(noun=noun) for each in texts)
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
    facts = run.environment
    is_dirty = " and changes" if facts.get(bool, "git", "is_dirty") else ""
    revision, sizes = (
        facts.get(str, "git", "revision"),
        [facts.get(int, "networks", f"{name}_parameters") for name in "gd"],
    )
    lines = {
        "device": facts.get(str, "device"),
        "host": facts.get(str, "host"),
        "platform": facts.get(str, "platform"),
        "processes": facts.get(int, "world_size"),
        "threads": facts.get(int, "threads"),
        "precision": precision_of(run),
        "about the precision": facts.get(str, "precision_note") or None,
        "engine": facts.get(str, "engine", "name"),
        "why that engine": facts.get(str, "engine", "why"),
        "parameters of G": sizes[0],
        "parameters of D": sizes[1],
        "started": facts.get(str, "started_at"),
        "resumed from step": facts.get(int, "resumed_from"),
        "distgan": facts.get(str, "distgan"),
        "python": facts.get(str, "python"),
        **(facts.get(dict, "versions") or {}),
        "revision": revision and f"{revision}{is_dirty}",
        "data from": facts.get(str, "data", "source"),
        "fingerprint of the data": facts.get(str, "data", "fingerprint"),
        "warning about the data": facts.get(str, "data", "warning"),
    }
    return [
        (str(name), f"{value:,}" if type(value) is int else shown(value))
        for name, value in lines.items()
        if value is not None
    ]


def commands_of(run: Run) -> list[tuple[str, str]]:
    place, facts = shlex.quote(run.where), run.environment
    started, world = facts.get(list, "command"), facts.get(int, "world_size")
    ranks = f"; it ran on {world:,} processes" if world and world != (run.config.processes.num or 1) else ""
    return [
        *([("how it was started", shlex.join(map(str, started)))] if started else []),
        (f"train it again, in a new folder{ranks}", again(run)),
        ("measure its quality", eval_command(run)),
        ("draw more images", f"distgan sample {place} --num 100 --out samples.png"),
        ("write this page", f"distgan report {place}"),
    ]
