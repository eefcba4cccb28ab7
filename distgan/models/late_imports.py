"""Which modules belong to a user's networks, and that they import none of these once they are loaded.

A copy of the networks holds the files of the modules that belong to them, as far as they were imported by then.
"""

import ast
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

_IMPORTLIB = (os.path.dirname(importlib.__file__), "<frozen importlib")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_INSTALLED = ("site-packages", "dist-packages")


class Home(NamedTuple):
    """`root`: the folder to import from. `top`: the module or package of it that belongs to the networks, "" for all.

    Of installed packages only their own does: what lies beside them are other packages.
    """

    root: Path
    top: str = ""

    @classmethod
    def of(cls, root: Path, top: str) -> "Home":
        """Return the home of networks in the module or package `top` of `root`."""
        return cls(root, top if root.name in _INSTALLED else "")

    def name_of(self, name: str, file: str | None) -> str:
        """Return the name by which `root` imports a module: `parts` for `lab.parts` in root/parts.py.

        "" for a module that lies elsewhere, as one of a virtual environment below `root` does.
        """
        if not file or name.partition(".")[0] in ("distgan", *sys.stdlib_module_names):
            return ""
        parts = name.split(".")
        for tail in (parts[num:] for num in range(len(parts)) if self.top in ("", parts[num])):
            place = self.root.joinpath(*tail)
            if Path(file) in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
                return ".".join(tail)
        return ""


class _LateImports:
    """A finder of `sys.meta_path` that finds nothing, and raises for an import by the code of loaded networks.

    `homes`: of each of their files, by its path.
    """

    def __init__(self) -> None:
        self.homes: dict[str, Home] = {}
        self.is_loading = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Raise ImportError for a module that belongs to the networks that import it."""
        if self.is_loading or (home := self.homes.get(_importing_file())) is None:
            return None
        spec = PathFinder.find_spec(name, path or [str(home.root)])
        is_folder = spec is not None and spec.origin is None and path is None and PathFinder.find_spec(name) is None
        if spec and (home.name_of(name, spec.origin) or is_folder):
            raise ImportError(
                f"{name} is imported after the file has loaded, so that the copy in the run would lack it. Expected: "
                "the import at the top of the file",
                name=name,
            )
        return None


_finder = _LateImports()


@contextmanager
def loading() -> Iterator[None]:
    """Allow all imports within the block."""
    before, _finder.is_loading = _finder.is_loading, True
    try:
        yield
    finally:
        _finder.is_loading = before


def forbid_late_imports(home: Home, files: dict[str, bytes]) -> None:
    """From now on let none of these files, named by their place below `home.root`, import what belongs to them.

    It holds for as long as their code may run, so to the end of the process.
    """
    _finder.homes |= {str(home.root / name): home for name in files}
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def find_known_late_import(home: Home, files: dict[str, bytes]) -> str:
    """Return `parts (my_gan.py, line 12)`: an import in a function, of a name that is in sys.modules already. Or "".

    Python takes such a name from there: the function would get what was imported before the networks.
    """
    for file, source in files.items():
        functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, _FUNCTIONS))
        for node in chain.from_iterable(map(ast.walk, functions)):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                place = home.root.joinpath(*name.split("."))
                paths = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
                known = getattr(sys.modules.get(name), "__file__", None)
                is_own = known in [str(home.root / each) for each in files]
                if known and not is_own and home.name_of(name, str(paths[0]) if paths else None):
                    return f"{name} ({file}, line {node.lineno})"
    return ""


def _importing_file() -> str:
    """Return the file whose code imports: that of the first frame outside of importlib."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_code.co_filename.startswith(_IMPORTLIB):
        frame = frame.f_back
    return frame.f_code.co_filename
