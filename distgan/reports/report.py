"""`distgan report`: an HTML page about a run."""

import base64
import hashlib
import shlex
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distgan import __version__
from distgan.config import fields
from distgan.errors import print_line
from distgan.reports.convergence import convergence_of
from distgan.reports.number_format import epochs, join, join_and
from distgan.reports.options import ReportConfig
from distgan.reports.quality_view import AVERAGE, OWN_WEIGHTS, View, build_view, class_noun, image_text, real_notes
from distgan.reports.report2023 import CAPTION, SENTENCES, Claim, check_claims, notice_of
from distgan.reports.reproduce import reproduce_command
from distgan.reports.run_data import Picture, Run, eval_command, pictures, read_picture, read_run
from distgan.reports.training_curves import Curves, build_curves, when
from distgan.training.engines.selection import fallback_notice
from distgan.utils.files import output_file, write_atomic
from distgan.utils.paths import user_path
from distgan.utils.text import pluralize

_TEMPLATES = Path(__file__).resolve().parent / "templates"


def write_page(path: Path, template: str, page: object) -> None:
    """Render a template and write the page. Raises OSError that names `path`."""
    text = render(template, page)
    # A folder's name may hold bytes that are not UTF-8.
    write_atomic(path, text.encode("utf-8", "replace"))


def render(template: str, page: object) -> str:
    """Return the HTML of a page. Everything read from a file is escaped, except the files in templates/."""
    style, head, script = (_own(name) for name in ("style.css", "head.js", "page.js"))
    hashes = " ".join(f"'sha256-{_digest(part)}'" for part in (head, script))
    # Even unescaped content could neither run nor connect to another host.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}"
    return _environment().get_template(template).render(
        style=Markup(style), head=Markup(head), script=Markup(script), policy=policy, version=__version__, contents=[],
        page=page,
    )  # fmt: skip


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


Pairs = list[tuple[str, str]]

MOST_PICTURES = 40
_WIDE = 1200  # pixels from which a picture scrolls sideways; a narrower one is scaled to fit

_STATES = {"running": "in training, or killed", "stopped": "stopped before its end", "failed": "failed", "done": "done"}
_FILES = {
    "confusions": ("What is confused", "Images requested as one {noun} and read as another, one pair per row."),
    "digits": ("The best and the worst of each {noun}", "Left: highest confidence of the judges; right: lowest."),
    "neighbours": ("The nearest real images", "Each generated image next to its nearest training image: the "
                   "closest pairs, then typical ones. Copies would be visible."),
}  # fmt: skip


class Shown(NamedTuple):
    """A picture on a page."""

    title: str
    text: str
    alt: str
    uri: str
    width: int
    height: int

    @classmethod
    def of(cls, picture: Picture, title: str, alt: str, text: str = "") -> "Shown":
        uri = f"data:image/png;base64,{base64.b64encode(picture.data).decode()}"
        return cls(title, text, alt, uri, picture.width, picture.height)

    @property
    def is_wide(self) -> bool:
        return self.width > _WIDE


def page_file(out: str | Path) -> Path:
    """Return the path of a page. Raises UserError if it can't be written there."""
    return output_file(out, b'name="generator" content="distgan', "page of distgan's")


def report(where: str, out: Path | None, config: ReportConfig) -> Path:
    """Write the page and return its path. Raises UserError."""
    folder = user_path(where)
    path = out or folder / "report.html"
    if folder.is_dir():  # before minutes are spent on measuring
        path = page_file(path)
    run = read_run(where, config)
    write_page(path, "report.html", RunPage(run))
    if config.evaluate and run.unmeasurable:
        print_line(f"warning: {where}: its quality is not measured: {run.unmeasurable}", error=True)
    return path


class RunPage:
    """View of a run for a page: each part is computed on first access."""

    claims_title, claims_caption = SENTENCES, CAPTION

    def __init__(self, run: Run, name: str | None = None):
        self.run, self.quality, self.name = run, run.quality, name or run.name

    @property
    def facts(self) -> Pairs:
        """Return the model, the data, the state, the epoch and the step."""
        run, config, state = self.run, self.run.config, self.run.status.get(str, "state")
        kind = (
            "conditional GAN: both networks are conditioned on the label"
            if run.kind == "C-GAN"
            else "GAN without labels"
        )
        link = " and on" if run.kind == "C-GAN" else ", conditioned on"
        clusters = f"{link} one of {config.model.clusters:,} clusters" if config.model.clusters else ""
        preset = run.environment.get(str, "preset")
        num_images = run.environment.get(int, "data", "num_images")
        number = "" if num_images is None else f"{num_images:,} images, "
        facts = [
            (
                "model",
                f"{kind}{clusters}; {config.model.networks_name} networks" + (f", preset {preset}" if preset else ""),
            ),
            ("data", f"{run.data_name or 'not recorded'} ({number}{config.model.images.describe()})"),
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

    @property
    def notices(self) -> list[str]:
        """Return the notices above all numbers."""
        run, quality = self.run, self.quality
        notices = [f"This run was trained on {run.notice}."] if run.notice else []
        fallback = fallback_notice(run.environment.values.get("engine"))
        notices += [text for text in (notice_of(run), fallback) if text]
        if quality and quality.source.step is not None and run.step is not None and quality.source.step < run.step:
            notices.append(
                f"Its quality was measured at step {quality.source.step:,}, but the run is now at step {run.step:,}; "
                f"evaluate it again by distgan eval {shlex.quote(run.where)}"
            )
        known = [*notices, f"trained on {run.notice}"]  # as an evaluation says it
        return notices + [text for text in (quality.notices if quality else []) if text not in known]

    @cached_property
    def frames(self) -> list[Shown]:
        """Return the sample grids in order; of very many an even selection with the first and the last."""
        pictures = self._pictures
        if len(pictures) > MOST_PICTURES:
            pictures = [pictures[round(n * (len(pictures) - 1) / (MOST_PICTURES - 1))] for n in range(MOST_PICTURES)]
        what = self._columns or ", each from its own noise"
        return [Shown.of(picture, when, f"Grid of generated images after {when}{what}") for when, picture in pictures]

    @cached_property
    def _pictures(self) -> list[tuple[str, Picture]]:
        return pictures(self.run)

    @property
    def _columns(self) -> str:
        """Return the meaning of a grid's columns, "" for a run without labels."""
        noun = self.run.class_nouns[0]
        return f", one column per requested {noun}" if self.run.kind == "C-GAN" else ""

    @property
    def frames_text(self) -> str:
        decay, num = self.run.config.optim.ema_decay, len(self._pictures)
        weights = f"{AVERAGE} (decay {decay:g} a step)" if decay else OWN_WEIGHTS
        some = f" {len(self.frames)} of {num} pictures are shown." if len(self.frames) < num else ""
        return f"The same noise at each of these times{self._columns}, drawn with {weights}.{some}"

    @cached_property
    def curves(self) -> Curves:
        return build_curves(self.run)

    @property
    def alarms(self) -> Pairs:
        return when(self.run.history.alarms)

    @property
    def course_text(self) -> str:
        """Return if the run converged, or why there are no evaluations during training."""
        settings = self.run.config.run
        if self.run.history.evaluations:
            return convergence_of(self.run).describe()
        if self.run.unmeasurable:
            return f"Not measured: {self.run.unmeasurable}."
        if not settings.evaluates_quality:
            more = "--eval-every 1 measures it after each epoch."
            return f"Not measured: this run was trained without --eval-every. {more}"
        often = [f"every {pluralize(settings.eval_every, 'epoch')} (--eval-every)"] if settings.eval_every else []
        often += (
            [f"every {pluralize(settings.eval_every_steps, 'step')} (--eval-every-steps)"]
            if settings.eval_every_steps
            else []
        )
        return f"Not measured yet: it is measured {join_and(often) or 'as often as the --stop-at targets require'}."

    @cached_property
    def view(self) -> View | None:
        return build_view(self.quality) if self.quality else None

    @property
    def quality_text(self) -> str:
        if (quality := self.quality) is None:
            return ""
        others = f" Other results of this run are in {join(self.run.other_results)}." if self.run.other_results else ""
        limits = "".join(f" {sentence}" for sentence in real_notes(quality))
        return (
            f"Measured on {image_text(quality)}, by an ensemble of {len(quality.judges)} small networks (the judges), "
            f"trained on {quality.source.judged_by}. The reference images are {quality.source.reference}.{limits} Each "
            f"number has its 95 % interval, and the value of real images for comparison. All results are in "
            f"{self.run.eval_folder.name}/eval.json.{others}"
        )

    @property
    def evaluation(self) -> list[Shown]:
        """Return the pictures of the evaluation."""
        shown, noun = [], class_noun(self.quality)[0] if self.quality else ""
        for name, texts in _FILES.items() if self.quality else ():
            title, text = (template.format(noun=noun) for template in texts)
            if picture := read_picture(self.run.eval_folder / f"{name}.png", self.run.problems):
                shown.append(Shown.of(picture, title, f"{title}: {text}", text))
        return shown

    @property
    def claims(self) -> list[Claim]:
        return check_claims(self.quality) if self.quality else []

    @property
    def settings(self) -> list[tuple[str, Pairs]]:
        tables = self.run.config.model_dump(mode="json")
        return [
            (table, [(key, as_text(value) or "none") for key, value in keys.items()]) for table, keys in tables.items()
        ]

    @property
    def environment(self) -> Pairs:
        """Return the recorded facts about the machine and its libraries."""
        facts = self.run.environment
        revision, is_dirty = facts.get(str, "git", "revision"), facts.get(bool, "git", "is_dirty")
        lines = {
            "device": facts.get(str, "device"),
            "host": facts.get(str, "host"),
            "platform": facts.get(str, "platform"),
            "processes": facts.get(int, "world_size"),
            "threads": facts.get(int, "threads"),
            "precision": facts.get(str, "precision"),
            "about the precision": facts.get(str, "precision_note") or None,
            "engine": facts.get(str, "engine", "name"),
            "why that engine": facts.get(str, "engine", "why"),
            "parameters of G": facts.get(int, "networks", "g_parameters"),
            "parameters of D": facts.get(int, "networks", "d_parameters"),
            "started": facts.get(str, "started_at"),
            "resumed from step": facts.get(int, "resumed_from"),
            "distgan": facts.get(str, "distgan"),
            "python": facts.get(str, "python"),
            **(facts.get(dict, "versions") or {}),
            "revision": revision and revision + (" and changes" if is_dirty else ""),
            "data from": facts.get(str, "data", "source"),
            "fingerprint of the data": facts.get(str, "data", "fingerprint"),
            "warning about the data": facts.get(str, "data", "warning"),
        }
        return [(str(name), as_text(value)) for name, value in lines.items() if value is not None]

    @property
    def commands(self) -> Pairs:
        run, place = self.run, shlex.quote(self.run.where)
        networks = run.config.model.networks
        named = f" --networks {shlex.quote(networks)}" if networks else ""
        started, world = run.environment.get(list, "command"), run.environment.get(int, "world_size")
        ranks = f"; it ran on {world:,} processes" if world and world != (run.config.processes.num or 1) else ""
        return [
            *([("how it was started", shlex.join(map(str, started)))] if started else []),
            (f"train it again, in a new folder{ranks}", reproduce_command(run)),
            *([] if run.unmeasurable else [("measure its quality", self.eval_command)]),
            ("draw more images", f"distgan sample {place}{named} --num 100 --out samples.png"),
            ("write this page", f"distgan report {place}"),
        ]

    @property
    def eval_command(self) -> str:
        return eval_command(self.run)

    @property
    def problems(self) -> list[str]:
        """Return the read errors of the run, so far."""
        return list(dict.fromkeys(self.run.problems))


def as_text(value: Any) -> str:
    """Return a recorded value as text."""
    if isinstance(value, dict):
        return join(f"{key} {as_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return join(value)
    return f"{value:,}" if type(value) is int else fields.fmt_default(value)
