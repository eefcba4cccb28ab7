"""README, CONTRIBUTING and docs/: links, files, commands and flags exist; what is generated is what the code says."""

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import generate_reference
import pytest
import yaml
from generate_reference import commands_below, parser_of
from helpers.runs import ROOT, MonkeyPatch

import distgan
import distgan.cli
from distgan.cli.commands import TOP
from distgan.config.command_settings import EvalConfig, SlurmConfig
from distgan.config.flags import Parser, add_flags, parse_settings
from distgan.config.presets import config_folder, parse_training
from distgan.config.registry import DATASETS, ENGINES, FAMILIES, LOSSES, ORDERS, PRECISIONS

PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCS = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")), *PAGES]
CODE_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
# Flags in the docs that are other programs'.
FOREIGN_FLAGS = {
    *("--config_file", "--num_processes", "--main_process_ip", "--machine_rank"),  # accelerate launch
    *("--standalone", "--nproc-per-node", "--max-restarts"),  # torchrun
    *("--array", "--gpus", "--no-requeue", "--nv"),  # sbatch, apptainer
    *("--logdir", "--backend-store-uri", "--project"),  # tensorboard, mlflow, trackio
    *("--python", "--budget-s", "--flag"),  # uv, benchmarks/, one that stands for any
}
PROGRAMS = {"distgan", "make", "pip", "uv", "source", "python", "accelerate", "torchrun", "sbatch"}
# A command of the docs, and the words behind it: of distgan, and of what starts its training.
COMMAND = re.compile(r"^(?:.* )?(distgan(?= )|distgan/(?:train|__main__)\.py|slurm/(?:cgan|vanilla)\.sh)(.*)$")
COMMANDS = dict(commands_below(TOP))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, which a site and a viewer of the repository make alike."""
    headings = re.findall(r"^#+ (.*)$", CODE_BLOCK.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.name)
def test_links_files_and_make_targets_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)]+)\)|<img src=\"([^\"]+)\"", text):
        target, _, anchor = "".join(link).partition("#")
        path = page.parent / target if target else page
        assert target.startswith("https:") or path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"
    for name in re.findall(
        r"`((?:benchmarks|configs|distgan|docs|launch|slurm|tests)/[\w./*-]*|[a-z]+/[\w/]+\.py)`", text
    ):
        assert list(ROOT.glob(name)) or list((ROOT / "distgan").glob(name)), name
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets


def test_readme_stays_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 160
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert not [path.name for path in PAGES if f"(docs/{path.name})" not in readme]


def test_generated_parts_are_what_the_code_says() -> None:
    """`make reference` writes them anew."""
    assert not list(generate_reference.stale_pages())
    used = re.findall(r"<!-- generated: ([\w-]+) -->", "".join(path.read_text() for path in PAGES))
    assert sorted(used) == sorted(generate_reference.PARTS)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("data", DATASETS),
        ("engines", [*ENGINES, *PRECISIONS]),
        ("training", [*LOSSES, *ORDERS, *FAMILIES, *(path.stem for path in config_folder().glob("*.toml"))]),
    ],
)
def test_each_name_that_a_setting_takes_is_explained(page: str, names: list[str]) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert not [name for name in names if f"`{name}`" not in text]


def console_lines(page: Path) -> list[str]:
    """Return the commands of a page's console blocks, without comments."""
    blocks = "\n".join(re.findall(r"^```console$(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))
    return [line.partition(" #")[0].strip() for line in blocks.replace("\\\n", "").splitlines() if line.strip()]


def commands_of(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command of distgan, also of those that another program starts."""
    for line in console_lines(page):
        if match := COMMAND.match(line):
            yield [*(["train"] if match[1].endswith(("train.py", ".sh")) else []), *shlex.split(match[2])]


def read_only(name: str) -> Callable[..., Any]:
    """Return a function that reads a command's flags as `name` does, and stops there."""

    def train(parser: Parser, words: list[str]) -> None:
        has_network = {"--model", "--preset", "--config"} & set(words)
        parse_training([word for word in words if word != "--dry-run"] + ([] if has_network else ["--model", "cgan"]))

    def slurm(parser: Parser, words: list[str]) -> None:
        add_flags(parser, SlurmConfig)
        train(parser, parser.parse_known_args(words)[1])

    def evaluate(parser: Parser, words: list[str]) -> None:
        parse_settings(parser, words, EvalConfig)

    readers: dict[str, Callable[..., Any]] = {"train": train, "slurm": slurm, "evaluate": evaluate}
    return readers.get(name, lambda *values: None)


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.name)
def test_each_command_of_a_page_can_be_parsed(page: Path, monkeypatch: MonkeyPatch) -> None:
    load = distgan.cli._load
    functions = {command.run for command in COMMANDS.values()}
    monkeypatch.setattr(
        distgan.cli, "_load", lambda name: read_only(name.partition(":")[2]) if name in functions else load(name)
    )
    for words in commands_of(page):
        with suppress(SystemExit):  # --help
            distgan.cli.run_command(*words)


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.name)
def test_programs_files_and_extras_that_a_command_names_exist(page: Path) -> None:
    for line in console_lines(page):
        assert line.split()[0] in PROGRAMS, line
        for name in re.findall(r"(?<!\S)(?:benchmarks|configs|distgan|launch|slurm)/\S+", line):
            assert (ROOT / name).exists(), line
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"\.\[(\w+)\]'", page.read_text())) <= extras.keys()


def test_flags_in_the_docs_exist() -> None:
    flags = {each for words in COMMANDS for action in parser_of(words)._actions for each in action.option_strings}
    for page in DOCS:
        assert set(FLAG.findall(page.read_text())) <= flags | FOREIGN_FLAGS, page


def test_the_site_has_each_page_once() -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for each in (entry.values() if isinstance(entry, dict) else entry) for page in pages(each)]

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = pages(site["nav"])
    assert len(listed) == len(set(listed))
    assert {path.name for path in PAGES} <= set(listed)


# -- What stands beside the docs --


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == distgan.__version__


def test_the_citation_has_what_its_schema_requires() -> None:
    """Citation File Format 1.2.0, and the package's version."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation.keys() <= {
        *("cff-version", "message", "title", "authors", "type", "abstract", "version", "license", "keywords")
    }
    assert citation["version"] == distgan.__version__
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    assert citation["authors"]
    assert all(author.keys() & {"name", "family-names", "given-names", "alias"} for author in citation["authors"])
    assert citation["license"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]


def test_hooks_before_a_commit_are_a_part_of_lint() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["id"] for hook in repo["hooks"]] == ["ruff", "ruff-format", "mypy", "shellcheck"]
    lint = (ROOT / "Makefile").read_text()
    for hook in repo["hooks"]:
        words = hook["entry"].replace(".venv/bin", "$(BIN)").removesuffix(" --force-exclude")
        assert re.search(rf"\t{re.escape(words)}\s", lint)
        assert hook["language"] == "system"


def test_issue_templates_request_what_doctor_prints() -> None:
    templates = ROOT / ".github"
    assert "`distgan doctor --json`" in (templates / "pull_request_template.md").read_text()
    for path in (templates / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        assert form.keys() >= {"name", "description", "body"}
        assert all(part["attributes"]["label"] for part in form["body"])
        assert "`distgan doctor --json`" in str(form)
