"""House rules that no linter checks: names of modules, their length and what train.py may define.

Import-linter, in pyproject.toml, has the order of the packages, and that only distributed/ imports Accelerate.
"""

import ast
import importlib
import re
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec

from helpers.runs import ROOT
from helpers.without_posix import MODULES as POSIX_MODULES
from helpers.without_posix import OS_NAMES as POSIX_OS
from helpers.without_posix import SIGNAL_CALLS, WINDOWS_SIGNALS

# How text would reach a terminal without `errors.print_line`.
RAW_OUTPUT = re.compile(
    r"\b(stdout|stderr)\.(buffer\.)?(write|writelines)$|^traceback\.print_|^warnings\.warn$|^os\.write$"
)
PACKAGE = ROOT / "distgan"
FILES = sorted(PACKAGE.rglob("*.py"))


def test_the_top_of_the_package_can_be_held_in_the_head() -> None:
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert len(names - {"__init__", "__main__"}) <= 16


def test_no_module_hides_a_library() -> None:
    """`accelerate launch distgan/train.py` puts distgan/ before every library on sys.path."""
    libraries = set(sys.stdlib_module_names) | set(packages_distributions())
    libraries |= {"deepspeed", "evaluate", "datasets", "tensorboard", "accelerate"}
    ours = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    # `distributed` is dask's name, which no library that we use imports unless dask is requested.
    assert not (ours - {"__init__", "__main__", "__pycache__", "distributed"}) & (libraries - {"distgan"})


def test_modules_keep_their_budget() -> None:
    """A file holds one concept; beyond 400 lines it is likely to hold two."""
    for path in FILES:
        lines = len(path.read_text().splitlines())
        assert lines <= (120 if path == PACKAGE / "train.py" else 400), f"{path}: {lines} lines"


def test_what_tests_and_benchmarks_import_exists() -> None:
    """Also within a function that runs only on a GPU or a cluster, where a rename would go unnoticed."""
    missing = []
    for path in (path for folder in ("tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "distgan":
                module = importlib.import_module(str(node.module))
                names = [name.name for name in node.names if not hasattr(module, name.name)]
                is_package = hasattr(module, "__path__")  # whose modules need not be imported yet
                missing += [(path, name) for name in names if not is_package or not find_spec(f"{node.module}.{name}")]
    assert not missing


def test_train_defines_nothing_but_the_loop() -> None:
    """A class of train.py would live in __main__ when it is the script, and be another class there."""
    tree = ast.parse((PACKAGE / "train.py").read_text())
    assert not [node for node in tree.body if isinstance(node, ast.ClassDef | ast.Assign)]


def test_imports_are_absolute() -> None:
    """A relative import fails in a script."""
    for path in FILES:
        assert not [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.level], path


def test_homes_are_found_by_one_function() -> None:
    """By `user_path`, which rejects the home of nobody."""
    for path in FILES:
        assert path.name == "paths.py" or ".expanduser(" not in path.read_text(), path


def test_no_pickle() -> None:
    for path in FILES:
        text = path.read_text()
        assert "pickle" not in text, path
        assert "torch.load" not in text, path


def test_text_reaches_a_terminal_by_one_way() -> None:
    """By `errors.print_line` and `utils/terminal.TerminalConsole`, which let no name and no file steer it.

    What is for programs may be printed: JSON, and a job's script to the byte. The plain loops are as others write them.
    """
    for path in FILES:
        if (
            path in (PACKAGE / "errors" / "__init__.py", PACKAGE / "utils" / "terminal.py")
            or path.parent.name == "peers"
        ):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                shown = ast.unparse(node.args[0]) if node.args else ""
                is_for_programs = shown.startswith("json.dumps(") or (path.name == "slurm.py" and shown == "script")
                assert node.func.id != "Console", f"{path}:{node.lineno}"
                assert node.func.id != "print" or is_for_programs, f"{path}:{node.lineno}: {shown}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                assert not RAW_OUTPUT.search(called), f"{path}:{node.lineno}: {called}"
                is_text = bool(node.args) and isinstance(node.args[0], ast.JoinedStr | ast.BinOp)
                is_child = path.name == "all_reduce_check.py"  # whose stderr the parent reads
                assert called != "sys.exit" or not is_text or is_child, f"{path}:{node.lineno}: {called}"


def test_files_and_folders_are_made_by_plain_open_and_mkdir() -> None:
    """So they have the modes that the user's umask says. What tempfile makes is its owner's alone."""
    for path in FILES:
        text = path.read_text()
        assert not [name for name in ("NamedTemporaryFile", "mkstemp", "mkdtemp", "chmod") if name in text], path


def test_what_only_posix_has_is_named_in_one_module() -> None:
    """So that the rest of the package imports and trains on Windows (tests/helpers/without_posix.py)."""
    for path in FILES:
        if path == PACKAGE / "utils" / "operating_system.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not POSIX_MODULES & set(names), f"{path}: {names}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owner, name = node.value.id, node.attr
                assert owner != "os" or name not in POSIX_OS, f"{path}: os.{name}"
                is_other = name in SIGNAL_CALLS or (name.startswith("SIG") and name not in WINDOWS_SIGNALS)
                assert owner != "signal" or not is_other, f"{path}: signal.{name}"
