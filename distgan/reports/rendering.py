"""Templates -> one page with all in it: styles, scripts, pictures; and no other host, whatever a file says."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distgan import __version__
from distgan.reports.run_data import Picture
from distgan.utils.files import write_whole

_TEMPLATES = Path(__file__).resolve().parent / "templates"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Raises OSError that names `path`."""
    text = render(template, **values)
    # A folder's name may hold bytes that are no text.
    write_whole(path, lambda file: file.write(text.encode("utf-8", "replace")))


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
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _own(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
