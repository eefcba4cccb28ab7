"""The page about the 2023 report's trainings against the measurements that stand beside it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers.runs import Capture, MonkeyPatch
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "report_2023.md"
FOLDER = PAGE.with_suffix("")
MAX_BYTES = 4 * 2**20


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "benchmarks" / "report_2023.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copy_measurements(folder: Path) -> None:
    for path in FOLDER.iterdir():
        if path.suffix in (".csv", ".jsonl") or path.stem.endswith("same-z"):
            (folder / path.name).write_bytes(path.read_bytes())


def test_numbers_are_those_of_the_measurements(script: ModuleType) -> None:
    """`python benchmarks/report_2023.py page` would change nothing, and each part stands on the page."""
    text = PAGE.read_text()
    assert script.fill_page(text, script.read_trainings(FOLDER)) == text
    assert {part for part, _ in script.PART.findall(text)} == set(script.PARTS)


def test_pictures_are_drawn_from_the_measurements(script: ModuleType, tmp_path: Path) -> None:
    script.draw(script.read_trainings(FOLDER), tmp_path)
    drawn = sorted(tmp_path.iterdir())
    assert drawn
    for path in drawn:
        with Image.open(path) as ours, Image.open(FOLDER / path.name) as committed:
            assert ours.size == committed.size, path.name
            difference = np.abs(np.asarray(ours.convert("L"), int) - np.asarray(committed.convert("L"), int))
            # Versions of matplotlib differ in their text.
            is_same_version = ours.info.get("Software") == committed.info.get("Software")
            assert (difference > 64).mean() < (0.0005 if is_same_version else 0.01), path.name


def test_samples_are_arrays_as_distgan_sample_writes_them(script: ModuleType) -> None:
    for training in script.pair_of(script.read_trainings(FOLDER)):
        with np.load(FOLDER / f"{training.name}.npz") as arrays:
            assert arrays["images"].shape == (script.NUM_SAMPLES, 28, 28)
            assert arrays["images"].dtype == np.uint8
            if training.is_conditional:
                assert np.bincount(arrays["labels"]).tolist() == [script.NUM_SAMPLES // 10] * 10


def test_folder_is_small_and_names_no_path_of_a_machine(script: ModuleType) -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MAX_BYTES
    for training in script.read_trainings(FOLDER).values():
        for quality in training.qualities:
            assert "/" not in quality.source.model_dump_json()


@pytest.mark.parametrize(
    ("file", "old", "new", "part"),
    [("cgan-epochs.csv", ",1.", ",7.", "losses"),
     ("gan-quality.jsonl", '"fcd":{"value":1', '"fcd":{"value":7', "summary")],
)  # fmt: skip
def test_a_changed_measurement_changes_the_page(
    script: ModuleType, file: str, old: str, new: str, part: str, tmp_path: Path
) -> None:
    """So that the comparison above can fail."""
    copy_measurements(tmp_path)
    lines = (tmp_path / file).read_text().splitlines()
    assert old in lines[-1]
    lines[-1] = lines[-1].replace(old, new, 1)
    (tmp_path / file).write_text("\n".join(lines) + "\n")
    before, after = (script.PARTS[part](script.read_trainings(folder)) for folder in (FOLDER, tmp_path))
    assert before != after
    text = PAGE.read_text()
    assert before in text
    assert after in script.fill_page(text, script.read_trainings(tmp_path))


def test_the_distance_from_the_centre_is_that_of_the_mass(script: ModuleType) -> None:
    images = torch.zeros(3, 28, 28, dtype=torch.uint8)
    images[0, 13:15, 13:15] = 200
    images[1, 13:15, 17:19] = 200
    images[2, 0, 0] = 255
    assert script.distance_from_centre(images).tolist() == pytest.approx([0, 4, 13.5 * 2**0.5])


def test_the_same_z_are_read_and_their_border_is_measured(
    script: ModuleType, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """The first epoch has 40 images, half with a white border; those of the second are blank."""
    with np.load(FOLDER / "gan.npz") as arrays:
        images = arrays["images"][:40]
    inner = images[:, 4:-4, 4:-4].copy()
    images[:] = 0
    images[20:] = 255
    images[:, 4:-4, 4:-4] = inner
    drawn = {"first": images, "second": np.zeros_like(images)}

    def draw(*words: str) -> str:
        np.savez(words[words.index("--out") + 1], images=drawn[words[1]])
        return ""

    monkeypatch.setattr(script, "run_distgan", draw)
    script.measure_same_z({20: Path("first"), 149: Path("second")}, tmp_path, tmp_path / "gan-same-z.npz")
    first, second = (script.Training("gan", tmp_path).same_z[epoch] for epoch in (20, 149))
    assert first.border.value == pytest.approx(0.5)
    assert 0.3 < first.border.low < 0.5 < first.border.high < 0.7
    assert (second.border.value, second.off_centre.value) == (0, 0)
    assert len(set(first.digits[:20].tolist()) & set(range(10))) >= 5


@pytest.mark.parametrize(
    ("later", "holds", "says"),
    [([8, 8, 9, 0, 9, 1], True, "still 0 20.0%"), ([8, 8, 7, 0, 255, 1], False, "of 5 z still 0 20.0%"),
     ([8, 7, 7, 9, 9, 1], False, "most often 7 40.0%"), ([8, 9, 255, 255, 0, 1], True, "not recognisable 40.0%")],
)  # fmt: skip
def test_what_a_digit_turns_into_is_counted_over_the_same_z(
    script: ModuleType, later: list[int], holds: bool, says: str, tmp_path: Path
) -> None:
    """Five z gave a 0, the sixth a 1, the seventh nothing recognisable; then the last is a 3, which does not count."""
    sentences = sys.modules["report_2023_sentences"]
    digits = np.array([[0, 0, 0, 0, 0, 1, 255], [*later, 3]], np.uint8)
    means = np.zeros((2, 3))
    np.savez(tmp_path / "gan-same-z.npz", epochs=np.array([20, 149]), digits=digits, border=means, off_centre=means)
    judge = sentences.turns_into(0, {8, 9})
    found = judge(script.Training("gan", tmp_path), 20, 149)
    assert found[0] is holds
    assert says in found[1]
    assert judge(script.Training("gan", tmp_path), 20, 148) is None


def test_a_line_is_not_written_for_other_verdicts_than_its_own(script: ModuleType, tmp_path: Path) -> None:
    """The C-GAN lacks a digit at its end, which contradicts the last line and changes no other one."""
    copy_measurements(tmp_path)
    lines = (tmp_path / "cgan-quality.jsonl").read_text().splitlines()
    before, _, after = lines[-1].rpartition('"verdict":"made poorly"')
    lines[-1] = f'{before}"verdict":"missing"{after}'
    (tmp_path / "cgan-quality.jsonl").write_text("\n".join(lines) + "\n")
    written, changed = (script.PARTS["summary"](script.read_trainings(folder)) for folder in (FOLDER, tmp_path))
    assert "anew" not in written
    assert next(line for line in changed.splitlines() if line not in written.splitlines()).startswith("10. To be")
    assert "the C-GAN holds all digits (**no**)" in changed


def test_a_line_on_an_epoch_that_was_not_measured_is_not_written(script: ModuleType, tmp_path: Path) -> None:
    copy_measurements(tmp_path)
    lines = (tmp_path / "cgan-quality.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"epoch":130.0' not in line]
    assert len(kept) == len(lines) - 1
    (tmp_path / "cgan-quality.jsonl").write_text("\n".join(kept) + "\n")
    summary = script.PARTS["summary"](script.read_trainings(tmp_path))
    assert [line[0] for line in summary.splitlines() if "measured (130)" in line] == ["4", "7"]


@pytest.mark.parametrize(("first", "says"), [(0, "| GAN, epoch 1 |"), (4, "No epoch was evaluated of both.")])
def test_a_training_that_has_just_begun_is_not_judged_as_ended(
    script: ModuleType, first: int, says: str, tmp_path: Path
) -> None:
    """The GAN has one epoch, and the C-GAN was evaluated at the same or at another one."""
    for name, begin in (("gan", 0), ("cgan", first)):
        for file, lines in ((f"{name}-epochs.csv", range(2)), (f"{name}-quality.jsonl", range(begin, begin + 1))):
            text = (FOLDER / file).read_text().splitlines()
            (tmp_path / file).write_text("".join(f"{text[line]}\n" for line in lines))
    page = script.fill_page(PAGE.read_text(), script.read_trainings(tmp_path))
    assert says in page
    ends = [line for line in page.splitlines() if "as `distgan report`" in line]
    assert len(ends) == 8
    assert all("| not reached |" in line for line in ends)


@pytest.mark.parametrize(
    ("words", "named"),
    [(["measure", "cgn=runs/x"], "cgn=runs/x"), (["measure", "cgan=runs/nowhere"], "runs/nowhere"),
     (["measure", "cgan=bare"], "no metrics.jsonl (bare)"),
     (["measure", "cgan=trained", "gan=bare"], "no metrics.jsonl (bare)"),
     (["measure"], "no run"), (["page", "cgan=trained"], "cgan=trained"), (["page", "--num", "9"], "--num 9"),
     (["page", "--page", "damaged.md"], "damaged"), (["page", "--page", "short.md"], "short"),
     (["page", "--page", "none.md"], "none.md"), (["page", "--page", "typo.md"], "typo.md")],
)  # fmt: skip
def test_a_wrong_input_is_one_line_and_changes_nothing(
    script: ModuleType, words: list[str], named: str, tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("typo").mkdir()
    for run in ("bare", "trained"):
        Path(run, "checkpoints", "latest").mkdir(parents=True)
    Path("trained/metrics.jsonl").touch()
    for name in ("cgan-epochs.csv", "cgan-quality.jsonl"):
        (Path("typo") / name).write_bytes((FOLDER / name).read_bytes())
    Path("typo.md").write_text("<!-- measured: typo -->\n<!-- end -->\n")
    for name in ("damaged", "short"):
        Path(name).mkdir()
        Path(f"{name}.md").write_text("<!-- measured: losses -->\n<!-- end -->\n")
    Path("damaged/cgan-quality.jsonl").write_text("{]")
    Path("short/cgan-quality.jsonl").write_bytes((FOLDER / "cgan-quality.jsonl").read_bytes())
    before = sorted(Path().rglob("*"))
    monkeypatch.setattr(sys, "argv", ["report_2023.py", *words])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert named in last
    assert "Expected: " in last
    assert sorted(Path().rglob("*")) == before
