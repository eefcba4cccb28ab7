"""The house rules that a reader can't see broken: who imports whom, and what a module may be called."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "distgan"

# Each layer imports only what stands in layers before it.
LAYERS = [
    {"settings", "errors", "wording", "share", "transfer"},
    {"run_config", "options"},
    {"config"},
    {"flags", "files", "noise", "clusters", "idx", "losses", "ema", "environment", "download", "devices"},
    {"models", "schedule"},
    {"presets", "launcher", "rendezvous", "trained"},
    {"zero_config"},
    {"zero"},
    {"data", "images", "runtime", "batchnorm", "manifest", "stop", "run_folder"},
    {"batches", "gan", "checkpoint"},
    {"steps", "resume", "replicas"},
    {"metrics", "weights", "compiling", "graphs", "parity"},
    {"engines"},
    {"quality"},
    {"curves", "progress", "saver", "inspection"},
    {"outputs", "plan", "slurm"},
    {"train", "sample", "pages"},
    {"machine"},
    {"all_reduce"},
    {"doctor"},
    {"benchmark"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """`models/seed.py` is part of `models`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, at its top or inside a function."""
    tree = ast.parse(path.read_text())
    # What a script runs as __main__ is no import of the module.
    body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))
    ]
    names = set()
    for node in ast.walk(ast.Module(body, [])):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import fails in a script"
            if node.module and node.module.startswith("distgan."):
                names.add(node.module.split(".")[1])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    name = module_of(path)
    if name == "__init__":
        assert not imported(path)
        return
    for other in imported(path) - {name}:
        assert LEVEL[other] < LEVEL[name], f"{name} imports {other}, which stands beside or above it"


def test_one_module_knows_accelerate() -> None:
    for path in FILES:
        if module_of(path) in ("runtime", "zero"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("accelerate", "deepspeed")], path


def test_no_module_hides_a_library() -> None:
    """`accelerate launch distgan/train.py` puts distgan/ before every library on sys.path."""
    libraries = set(sys.stdlib_module_names) | set(packages_distributions())
    libraries |= {"deepspeed", "evaluate", "datasets", "tensorboard", "accelerate"}
    ours = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.name for path in PACKAGE.iterdir() if path.is_dir()
    }
    assert not (ours - {"__init__", "__main__", "__pycache__"}) & (libraries - {"distgan"})


def test_modules_keep_their_budget() -> None:
    for path in FILES:
        lines = len(path.read_text().splitlines())
        assert lines <= (150 if path.name == "train.py" else 250), f"{path}: {lines} lines"


def test_train_defines_nothing_but_the_loop() -> None:
    """A class of train.py would live in __main__ when it is the script, and be another class there."""
    tree = ast.parse((PACKAGE / "train.py").read_text())
    assert not [node for node in tree.body if isinstance(node, ast.ClassDef | ast.Assign)]


def test_no_pickle() -> None:
    for path in FILES:
        text = path.read_text()
        assert "pickle" not in text, path
        assert "torch.load" not in text, path
