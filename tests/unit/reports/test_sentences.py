"""Each sentence of a page and of a comparison, with a run of which it is true and one of which it is false."""

import html
import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from helpers.made_up_runs import about, environment_of, make_run, quality_of, read, training_lines

from distgan.evaluation.schema import Confusion
from distgan.reports.comparison import notes_on, plain_lines
from distgan.reports.comparison_rows import build_rows
from distgan.reports.pairwise import ComparedRun, compared_runs
from distgan.reports.report import RunPage, render
from distgan.reports.report2023 import add_checks, summarise_agreement

Settings = dict[str, Any]
FEW = {"num_samples": 1, "weights": False}
GAN: Settings = {"kind": "GAN", "quality": quality_of("GAN"), "lines": training_lines(6, kind="GAN")}
CGAN: Settings = {"kind": "C-GAN", "quality": quality_of(), "lines": training_lines(6)}
KMNIST = {"environment": environment_of(data={"name": "kmnist"}), "quality": quality_of(source={"data": "kmnist"})}
# Own images in colour, in a folder that has the name of a data set.
OWN: Settings = {
    "quality": None,
    "config": {
        "model": {
            "name": "cgan", "family": "dcgan",
            "images": {"channels": 3, "height": 32, "width": 32, "num_classes": 2, "class_names": ["cat", "dog"]},
        },
        "data": {"name": "/own/mnist"},
    },
    "environment": environment_of(data={"name": "mnist", "num_images": 800}),
}  # fmt: skip
CONFUSED = [Confusion(asked=0, read=1, share=about(0.3), jury=about(0.01), seen_by=3)]
# Own images without labels: three clusters of them.
UNLABELLED: Settings = {
    "kind": "GAN",
    "quality": quality_of(
        "GAN",
        num_classes=3,
        class_noun="cluster",
        class_names=["1", "2", "3"],
        expected_shares=[0.5, 0.3, 0.2],
        source={"data": "/own/photos"},
    ),
    "lines": training_lines(6, kind="GAN", num_classes=3),
    "config": {
        "model": {
            "name": "vanilla", "family": "dcgan",
            "images": {"channels": 3, "height": 32, "width": 32, "num_classes": 0, "class_names": []},
        },
        "data": {"name": "/own/photos"},
    },
    "environment": environment_of(data={"name": "photos", "num_images": 800}),
}  # fmt: skip
YOUNG: Settings = {"lines": [], "num_samples": 0, "quality": None}


def config(table: str, **settings: Any) -> Settings:
    return {"config": {table: settings}}


def environment(**facts: Any) -> Settings:
    return {"environment": environment_of(**facts)}


def quality(**more: Any) -> Settings:
    return {"quality": quality_of(**more)}


def status(**values: Any) -> Settings:
    return {"files": {"status.json": {"state": "done", "step": 468, "reason": None} | values}}


def lines(num: int = 6, **more: Any) -> Settings:
    return {"lines": training_lines(num, **more)}


@pytest.fixture(scope="module")
def text_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], str], Settings], str]:
    """Text about a run, made once for all tests that say the same of it."""
    found: dict[str, str] = {}

    def text_of(say: Callable[[Path], str], settings: Settings) -> str:
        key = f"{say.__name__} {settings!r}"
        if key not in found:
            found[key] = say(run_of(tmp_path_factory.mktemp("run") / "run", settings))
        return found[key]

    return text_of


def run_of(folder: Path, settings: Settings) -> Path:
    files = settings.get("files", {})
    run = make_run(folder, **FEW | CGAN | {key: value for key, value in settings.items() if key != "files"})
    for name, values in files.items():
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(json.dumps(values))
    return run


def page_text(run: Path) -> str:
    """Text of a page, without its marks, styles and scripts."""
    text = re.sub(r"<(style|script)>.*?</\1>", "", render("report.html", RunPage(read(run))), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r' alt="([^"]*)"', r"> \1 <", text))).split())


@pytest.mark.parametrize(
    ("sentence", "true", "false"),
    [
        # the head
        ("conditional GAN: both networks are conditioned on the label", CGAN, GAN),
        ("GAN without labels", GAN, CGAN),
        (", conditioned on one of",
         GAN | config("model", name="vanilla", family="clustered", clusters=7), GAN),
        ("the label and on one of 7 clusters", config("model", name="cgan", family="clustered", clusters=7), CGAN),
        ("; dcgan networks", config("model", name="cgan", family="dcgan"), {}),
        (", preset", {}, environment(preset=None)),
        ("mnist (60,000 images, 28 x 28, grey, 10 classes)", {}, environment(data={"name": "mnist"})),
        ("/own/mnist (800 images, 32 x 32, colour, 2 classes)", OWN, {}),
        ("images channels 3, height 32, width 32, num_classes 2, class_names cat, dog", OWN, {}),
        ("data not recorded", environment(data=None) | config("data", name="auto"), {}),
        ("state done", {}, {"state": "running"}),
        ("in training, or killed", {"state": "running"}, {}),
        ("stopped before its end", {"state": "stopped"}, {}),
        ("epoch 2 of 150", {}, config("run", epochs=7)),
        ("of at most", config("run", max_steps=600), {}),
        ("targets met at step 470", status(reason="targets met at step 470"), {}),
        ("This run was trained on other digits.", environment(data={"notice": "other digits"}), {}),
        ("trained on other digits", lines(data="other digits"), {}),
        ("not on MNIST", environment(data={"name": "qmnist"}), {}),
        ("not on MNIST", environment(data={"name": "qmnist"}), KMNIST),
        ("engine eager: no compiler", environment(engine={"is_fallback": True, "name": "eager", "why": "no compiler"}),
         {}),
        ("Its quality was measured at step", quality(source={"step": 78}),
         quality(source={"step": 468})),
        # samples
        ("one column per requested digit", CGAN, GAN),
        ("one column per requested class", KMNIST, CGAN),
        ("each from its own noise", GAN, CGAN),
        ("drawn with the moving average of G's weights (decay 0.99 a step)", config("optim", ema_decay=0.99), {}),
        ("drawn with G's own weights, not averaged", {}, config("optim", ema_decay=0.99)
         | {"quality": quality_of(source={"ema": True})}),
        ("pictures are shown", {"num_samples": 41}, {"num_samples": 3}),
        ("There are no samples yet", YOUNG, {}),
        # training
        ("There are no curves:", YOUNG, {}),
        ("D can't distinguish real from fake: 1.39", config("optim", loss="r1"), config("optim", loss="hinge")),
        ("undecided: 0", config("optim", loss="bce"), config("optim", loss="wgan-gp")),
        ("loss (nats)", {}, config("optim", loss="hinge")),
        # quality
        ("drawn with the moving average of G's weights, by an ensemble", {}, quality(source={"ema": False})),
        ("drawn with G's own weights, not averaged, by an ensemble", quality(source={"ema": False}), {}),
        ("(not recorded if averaged)", quality(source={"ema": None}), {}),
        ("drawn with weights", quality(source={"ema": None}),
         quality(source={"ema": None, "weights": None, "what": "images.npz"})),
        ("Measured on 10,000 images of weights/generator.safetensors after step 12,000 (epoch 51.06)", {},
         quality(n=70)),
        ("generator.safetensors after step", {}, quality(source={"step": None})),
        ("12,000 (epoch ", {}, quality(source={"epoch": None})),
        ("an ensemble of 3 small networks", {}, quality(judges=quality_of().judges[:2])),
        ("(the judges), trained on mnist", {}, quality(source={"judged_by": "kmnist"})),
        ("Other results of this run", {"files": {"eval-70/eval.json": {"n": 70}}}, {}),
        ("Alarm: collapse", quality(alarms=["collapse"]), {}),
        ("by chance: 10.0 %", {}, quality(num_classes=2)),
        ("by chance: 50.0 %", quality(num_classes=2), {}),
        ("GAN-train", {}, quality(gan_train=None)),
        ("the line is an equal share", GAN, CGAN),
        ("Requested and read classes", CGAN, GAN),
        ("How well the judges read real digits", GAN, CGAN),
        ("None: no pair is confused more often", quality(confusions=[]), {}),
        ("Pairs that are confused more often", {}, quality(confusions=[])),
        ("Between two digits", {}, quality(ambiguities=[])),
        ("Digit by digit", {}, KMNIST),
        ("Class by class", KMNIST, {}),
        ("The nearest real images", {}, {"quality": None}),
        ("the line is the share of the real images", UNLABELLED, GAN),
        ("from those of the real images, in nats", UNLABELLED, CGAN),
        ("from the requested ones, in nats", quality(expected_shares=[0.1] * 10), UNLABELLED),
        ("These images are among those that G was trained on", quality(source={"is_test_seen": True}),
         quality(source={"is_test_seen": False})),
        ("3 clusters of the real images stand for classes", UNLABELLED, CGAN),
        ("Cluster by cluster", UNLABELLED, GAN),
        ("cat read as dog", quality(num_classes=2, class_names=["cat", "dog"], confusions=CONFUSED),
         quality(num_classes=2, confusions=CONFUSED)),
        ("missing: dog", quality(num_classes=2, class_names=["cat", "dog"], missing=[1], alarms=["missing: dog"]), {}),
        ("The quality of this run was not measured yet.", {"quality": None, "weights": True}, {}),
        ("This run has no weights yet", {"quality": None}, {"quality": None, "weights": True}),
        # quality while it trained
        ("this run was trained without --eval-every", lines(fcd=None), config("run", eval_every=5) | lines(fcd=None)),
        ("from those of the real images (in runs", UNLABELLED, lines()),
        ("The rarest cluster", UNLABELLED, GAN),
        ("Not measured yet: it is measured every 5 epochs", config("run", eval_every=5) | YOUNG, YOUNG),
        ("every 5 epochs (--eval-every) and every 9 steps", config("run", eval_every=5, eval_every_steps=9) | YOUNG,
         config("run", eval_every=5) | YOUNG),
        ("as often as the --stop-at targets require", config("run", stop_at="mnist") | YOUNG, YOUNG),
        ("Measured on 2,000 images each time", {}, {"lines": [line | {"eval_n": 70} for line in training_lines(6)]}),
        ("digit 8 is missing (epochs 1 and 2)", {}, {"lines": [line | {"alarms": []} for line in training_lines(6)]}),
        ("Converged at epoch 20, after epoch 19, and held to epoch 23 (targets mnist", lines(90), lines(60)),
        ("Not converged by epoch", {}, lines(90)),
        ("Convergence unknown: there are no targets for kmnist", KMNIST, {}),
        ("Convergence unknown: there are no targets for /own/mnist; --stop-at sets some", OWN, {}),
        ("Convergence unknown: there are no targets for /own/photos; --stop-at sets some", UNLABELLED, {}),
        ("The digit with the lowest agreement", CGAN, GAN),
        ("The rarest digit", GAN, CGAN),
        ("The smallest of the 10 digits' shares", GAN, GAN | lines(num_classes=7, kind="GAN")),
        ("equal shares: 14.3 %", GAN | lines(num_classes=7, kind="GAN"), GAN),
        # the 2023 report
        ("The sentences of the 2023 report", {}, KMNIST),
        ("The sentences of the 2023 report", {}, quality(num_classes=7)),
        ("2023", {}, OWN),
        # again
        ("it ran on", environment(world_size=4), {}),
        ("it ran on", environment(world_size=4), environment(world_size=4) | config("processes", num=4)),
        ("how it was started", {}, environment(command=None)),
        ("resumed from step", environment(resumed_from=78), {}),
        ("parameters of G", {}, environment(networks=None)),
        ("precision fp32", {}, environment(precision="bf16")),
        ("precision fp32", environment(precision="no"), environment(precision="bf16")),
        ("and changes", {}, environment(git={"revision": "c0a8072d2ef3", "is_dirty": False})),
        ("engine eager", {}, environment(engine=None)),
        ("Machine and versions Not recorded.", {"files": {"environment.json": {}}}, {}),
        ("What could not be read", {"files": {"environment.json": 3}}, {}),
    ],
)  # fmt: skip
def test_a_page_says_it_only_where_it_is_so(
    text_of: Callable[..., str], sentence: str, true: Settings, false: Settings
) -> None:
    assert sentence in text_of(page_text, true)
    assert sentence not in text_of(page_text, false)


@cache
def others() -> Sequence[ComparedRun]:
    """A GAN and a C-GAN to compare with, in a folder that is gone."""
    with TemporaryDirectory() as folder:
        return compared_runs(
            [read(run_of(Path(folder) / kind, settings)) for kind, settings in (("gan", GAN), ("cgan", CGAN))]
        )


def compare_text(run: Path) -> str:
    """Text of a comparison of a run beside a C-GAN and a GAN."""
    subjects = [*compared_runs([read(run)]), *others()]
    rows = add_checks(build_rows(subjects), subjects)
    rows = [row._replace(cells=row.cells[:1]) for row in rows]
    return "\n".join([*plain_lines(subjects[:1], rows), summarise_agreement(rows), *notes_on(subjects)])


SLOWER = lines(rate=1000.0)


@pytest.mark.parametrize(
    ("sentence", "true", "false"),
    [
        ("no label input (by its settings)", GAN, CGAN),
        ("both networks are conditioned on one of",
         GAN | config("model", name="vanilla", family="clustered", clusters=7), GAN),
        ("images read as the requested digit; by chance 10 %", CGAN, GAN),
        ("by chance 50 %", quality(num_classes=2), {}),
        ("100 of noise and the label", CGAN, GAN),
        ("G 220 and D 30 parameters", {}, environment(networks=None)),
        ("number of parameters: not recorded", environment(networks=None), {}),
        ("10,000 images, drawn with the moving average of G's weights", {}, quality(source={"ema": False})),
        ("its interval lies below that of gan, cgan", quality(fcd=0.2), {}),
        ("its interval lies above that of gan, cgan", quality(fcd=9.0), {}),
        ("moving average of G's weights\n    its interval overlaps that of gan, cgan",
         {}, quality(fcd=9.0)),
        ("not to be compared with gan, cgan: they were measured on 70 and 10,000 images", quality(n=70), {}),
        ("its quality was not measured", {"quality": None}, {}),
        ("no cluster is missing", UNLABELLED, GAN),
        ("images 32 x 32, colour, 2 classes against 28 x 28, grey, 10 classes", OWN, {}),
        ("on A processor; engine eager, fp32", {}, environment(device="Another")),
        ("engine graph, bf16", environment(precision="bf16", engine={"name": "graph"}), {}),
        ("on a device that is not recorded", environment(device=None), {}),
        ("since it was resumed", environment(resumed_from=156), {}),
        ("device Another against A processor", environment(device="Another"), {}),
        ("number of images 500 against 60000", environment(data={"name": "mnist", "num_images": 500}), {}),
        ("not measured\n    the number of images is not recorded", environment(data={"name": "mnist"}), {}),
        ("not measured\n    too few lines in its log", lines(num=1), environment(data={"name": "mnist"})),
        ("not by epoch 2", {}, lines(90)),
        ("epoch 20 (after epoch 19, held to 23)", lines(90), lines(60)),
        ("targets mnist, to be held at 3 further evaluations; of the moving average of G's weights", {}, {"lines": [
            {key: value for key, value in line.items() if not key.startswith("ema_")} for line in training_lines(6)]}),
        ("where the targets are for", {},
         {"lines": [line | {"eval_n": 5000} for line in training_lines(6)]}),
        ("there are no targets for kmnist", KMNIST, {}),
        ("there are no targets for /own/mnist", OWN, {}),
        ("there are no targets for /own/photos", UNLABELLED, {}),
        ("it was trained without --eval-every", lines(fcd=None), {}),
        ("it was not evaluated yet", lines(fcd=None) | config("run", eval_every=5), lines(fcd=None)),
        ("no digit is missing", {}, quality(missing=[3])),
        ("missing: 3", quality(missing=[3]), {}),
        ("7 of 7 classes", KMNIST | quality(num_classes=7, source={"data": "kmnist"}), {}),
        # the 2023 report
        ("    2023 report: ", {}, KMNIST),
        ("    2023 report: ", {}, OWN),
        ("unsupervised tasks; agrees: it trains without labels", GAN, CGAN),
        ("agrees: agreement with the requested label is above chance", CGAN, GAN),
        ("noise and a condition; agrees: label input", CGAN, GAN),
        ("usually better; agrees", GAN | {"quality": quality_of("GAN", fcd=0.2)}, GAN),
        ("recognisable but noisier; agrees", quality(fcd=9.0), {}),
        ("usually faster; agrees", GAN | lines(rate=9000.0, kind="GAN"), GAN | SLOWER),
        ("slower; agrees", SLOWER, lines(rate=9000.0)),
        ("80; disagrees: converged by epoch 23", lines(90), {}),
        ("80; undecided: the run ended at epoch 2", {}, lines(90)),
        ("60; disagrees: converged by epoch 23", GAN | lines(90, kind="GAN"), lines(90)),
        ("holds all digits; agrees: no digit is missing", CGAN, quality(missing=[3])),
        ("does not hold all digits; agrees: missing: 3", GAN | {"quality": quality_of("GAN", missing=[3])}, GAN),
        ("with the requested label", {}, quality(agreement=None)),
        ("Of 6 cells", {}, KMNIST),
    ],
)  # fmt: skip
def test_a_comparison_says_it_only_where_it_is_so(
    text_of: Callable[..., str], sentence: str, true: Settings, false: Settings
) -> None:
    assert sentence in text_of(compare_text, true)
    assert sentence not in text_of(compare_text, false)
