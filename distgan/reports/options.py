"""Settings of `distgan report` and `distgan compare`."""

from typing import Literal

from distgan.config.fields import Section, setting
from distgan.config.shared_settings import networks_setting, trust_setting


class PagesConfig(Section):
    """Settings common to `distgan report` and `distgan compare`: how to evaluate runs without an evaluation."""

    out: str | None = setting(None, "the page to write, a file that ends in .html", metavar="FILE")
    evaluate: bool = setting(True, "evaluate a run that has no eval/eval.json yet, as distgan eval does", flag="eval")
    num: int = setting(10_000, "images to draw for that evaluation", ge=1, le=1_000_000)
    reference: str | None = setting(
        None,
        "folder of the real data for that evaluation; unset: the run's, then $DISTGAN_DATA, then ./data",
        flag="data-dir",
        old_flags=("reference",),
        metavar="DIR",
    )
    networks: str | None = networks_setting()
    trust_networks: bool = trust_setting()
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "device of that evaluation; auto: cuda if available")


class ReportConfig(PagesConfig):
    """Settings of `distgan report`."""

    out: str | None = setting(
        None, "the page to write, a file that ends in .html; unset: report.html in the run's folder", metavar="FILE"
    )


class CompareConfig(PagesConfig):
    """Settings of `distgan compare`."""

    out: str | None = setting(
        None, "write a page too, a file that ends in .html; unset: only the table on the screen", metavar="FILE"
    )
