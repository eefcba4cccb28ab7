"""Plain words: how docstrings begin, words that stand for a standard term, and assertions on the prose of a message."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.runs import ROOT, TESTS

# Assertions that name three words in a row of a message, instead of its code, thing and value. It may only fall.
MOST_PROSE = 16
PROSE = re.compile(r"[A-Za-z']{2,}( [a-z']+){2,}")
MESSAGE = re.compile(
    r"str\(\w*error\.value\)|\.stderr|\.stdout|readouterr|\b(said|line|message|err|out)\b|warning"
)  # what a comparison is made with

# Words that stand for a standard term (reject, repair, request, report, full, non-finite, each its own, resume), as a
# word of a sentence or a part of a name. Left are JSON keys, a flag, and the operating system's "connection refused".
MOST_DIALECT = {"distgan examples README.md docs CONTRIBUTING.md CHANGELOG.md": 20, "tests benchmarks": 27}
DIALECT = re.compile(
    r"(?<![a-z])(refus(e|es|ed|al|als|ing)|mend(s|ed|ing)?|ask(s|ed|ing)?|told|whole|no numbers?|of (its|their) own|"
    r"goes on|go on|went on|going on)(?![a-z])",
    re.IGNORECASE,
)


def docstrings() -> Iterator[tuple[Path, str, str]]:
    for path in sorted(path for folder in ("distgan", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield path, getattr(node, "name", "Module"), text


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    for path, name, text in docstrings():
        first = text.split()[0].rstrip(",:")
        assert first not in ("Whether", "What", "Of", "That", "How"), f"{path}: {name}"


def test_functions_begin_imperatively() -> None:
    """`Return`, not `Returns`: as pydocstyle's D401, which knows no `True if`."""
    third_person = re.compile(r"(Return|Raise|Make|Take|Call|Write|Read|Print|Wait|Give|Say|Add|Draw|Run|Put|Tell)s")
    for path, name, text in docstrings():
        if name[:1].islower():
            assert not third_person.fullmatch(text.split()[0]), f"{path}: {name}"


def prose_in(path: Path) -> list[int]:
    """Return the lines of a test module with an assertion on the prose of a message."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text())):
        matched: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            matched += [each.value for each in node.keywords if name == "raises" and each.arg == "match"]
            if name in ("expect_user_error", "assert_user_error"):
                matched += node.args[name == "assert_user_error" :]  # the patterns
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn | ast.Eq):
            if any(MESSAGE.search(ast.unparse(side)) for side in node.comparators):
                matched.append(node.left)
            elif isinstance(node.ops[0], ast.Eq) and "str(" in ast.unparse(node.left):
                matched += node.comparators
        lines += [
            node.lineno  # type: ignore[attr-defined]
            for each in matched
            if any(
                isinstance(part, ast.Constant) and isinstance(part.value, str) and PROSE.search(part.value)
                for part in ast.walk(each)
            )
        ]
    return lines


def test_few_assertions_match_prose() -> None:
    found = {path: lines for path in sorted(TESTS.rglob("*.py")) if (lines := prose_in(path))}
    total = sum(map(len, found.values()))
    assert total <= MOST_PROSE, "\n".join(f"{path.relative_to(ROOT)}: {lines}" for path, lines in found.items())


@pytest.mark.parametrize("paths", MOST_DIALECT)
def test_few_lines_have_words_for_a_standard_term(paths: str) -> None:
    roots = [ROOT / name for name in paths.split()]
    files = [file for root in roots for file in (sorted(root.rglob("*")) if root.is_dir() else [root])]
    lines = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        if file.suffix in (".py", ".md", ".ipynb", ".cpp", ".h", ".sh") and file != Path(__file__)
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if DIALECT.search(line)
    ]
    assert len(lines) <= MOST_DIALECT[paths], "\n".join(lines)
