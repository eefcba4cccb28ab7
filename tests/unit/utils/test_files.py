"""JSON files and models: what is wrong with one is said in one line that names the file and the key."""

import errno
import json
import os
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers.memory import at_most
from helpers.runs import expect_user_error
from pydantic import BaseModel, ConfigDict, Field, model_validator

from distgan.errors import UserError
from distgan.utils.files import is_leftover, metric_lines, read_json, read_metrics, read_model, write_atomic


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    share: float = Field(ge=0, le=1)
    kind: Literal["a", "b"] = "a"


class Outer(Inner):
    format: int
    share: float = 0.0
    parts: list[Inner] = Field(min_length=1)

    @model_validator(mode="after")
    def _first_is_a(self) -> "Outer":
        if self.parts[0].kind == "b":
            raise ValueError("its first part is b")
        return self


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 1}, "parts: is missing. Expected: ours [damaged-file]"),
        ({"format": 1, "parts": []}, "parts: ... (a list) ... at least 1 item"),
        ({"format": 1, "parts": [{"share": 2}]}, "parts.0.share: ... (2) ... less than or equal to 1"),
        ({"format": 1, "parts": [{"share": "1"}]}, "parts.0.share: ... ('1') ... number"),
        ({"format": 1, "parts": [{"share": 1, "kind": "c"}]}, "kind: ... ('c') ... 'a' or 'b'"),
        ({"format": 1, "parts": [{"share": 1, "more": 1}]}, "parts.0.more: unknown key"),
        ({"format": 1, "parts": [{"share": 1, "kind": "b"}]}, "first part is b"),
        ({"format": 1, "parts": [{"share": 10**400}]}, "parts.0.share: ... (a int)"),
        ({"format": 1, "parts": [{"share": "x\n" * 99}]}, "parts.0.share: ... ('x\\nx"),
        ({"format": 2}, "(2) ... 1 (update distgan) [unknown-format]"),
        ({"parts": []}, "(None) ... [unknown-format]"),
        ("[1]", "JSON ... [damaged-file]"),
        ("{", "JSON (Expecting ... [damaged-file]"),
        ("[" * 100_000, "JSON ... [damaged-file]"),
        ("\x00", "JSON ... [damaged-file]"),
        (" " * 2000, "2,000 bytes ... at most 1,000 [damaged-file]"),
    ],
)
def test_a_damaged_model_is_named_in_one_line(content: Any, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "file.json", content)
    limit = 200_000 if content == "[" * 100_000 else 1000
    with expect_user_error(f"{path}: ... {message}"):
        read_model(path, Outer, limit, version=1, rule="ours")
    with pytest.raises(UserError) as error:
        read_model(path, Outer, limit, version=1, rule="ours")
    assert len(str(error.value)) < len(str(path)) + 300


def test_a_complete_model_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "file.json", {"format": 1, "parts": [{"share": 0.5}]})
    assert read_model(path, Outer, 1000, version=1, rule="ours").parts[0].share == 0.5
    with expect_user_error("[not-found]"):
        read_model(tmp_path / "none.json", Outer, 1000, version=1, rule="ours")


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    """The temporary name beside it is not longer."""
    write_atomic(path := tmp_path / f"{'x' * 251}.png", b"1")
    write_atomic(path, lambda file: file.write(b"2"))
    assert path.read_bytes() == b"2"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999"])
def test_only_finite_numbers(text: str, tmp_path: Path) -> None:
    path = written(tmp_path / "file.json", f'{{"x": {text}}}')
    assert list(read_json(path, 100)) == ["x"]
    with expect_user_error(f"file.json: ... JSON ... {text}", code="damaged-file"):
        read_json(path, 100, only_finite=True)


@pytest.mark.parametrize("name", ["a", "a.png", "x" * 255, "ü" * 127, "x" * 240 + ".png", "x." + "y" * 253])
def test_a_name_may_have_the_length_that_the_disk_allows(tmp_path: Path, name: str) -> None:
    """A long one's temporary name is no longer than itself; a reader never sees it under its own ending."""
    names: list[str] = []
    write_atomic(tmp_path / name, lambda file: names.extend(os.listdir(tmp_path)))
    assert os.listdir(tmp_path) == [name]
    (temporary,) = names
    assert len(os.fsencode(temporary)) <= max(len(os.fsencode(name)), 111)
    assert is_leftover(temporary), "which a run clears away that was killed"
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        write_atomic(tmp_path / ("x" * 256), b"")


def test_lines_of_other_editors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"step": 1}\r\n{"step": 2, "a": "\xff"}\r\n{"step": 3')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with path.open("wb") as file:
        file.write(b'{"step": 1}\n{"step": 2, "a": "')
        file.writelines(b"x" * 2**20 for _ in range(64))
        file.write(b'"}\n\n{"step": 3}\n[]\n')
    with at_most(8):
        found = list(metric_lines(path))
    assert found == [{"step": 1}, None, {"step": 3}, None]


def test_a_file_keeps_its_mode_when_it_is_written_anew(tmp_path: Path) -> None:
    path = written(tmp_path / "private", "1")
    path.chmod(0o600)
    write_atomic(path, b"2")
    assert path.stat().st_mode & 0o777 == 0o600
