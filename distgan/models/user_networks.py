"""A user's own networks: a file with `build_generator(spec)` and `build_discriminator(spec)`, loaded by its path.

The same file on every rank gives the same module, whatever the working directory: its folder (for a module of a
package, the folder of that package) heads `sys.path` while it loads, and only then. What it imported from there belongs
to it: the hash is over all of these files, and a run keeps a copy of them in `networks/`.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch

from distgan.config.registry import LOSSES, OWN_LOSS, Family, Loss
from distgan.config.schema import Config, ModelConfig
from distgan.errors import UserError, not_readable
from distgan.models.late_imports import Home, find_known_late_import, forbid_late_imports, loading
from distgan.utils.paths import user_path
from distgan.utils.process_state import preserve_process_state, preserve_settings, seed_random_states

T = TypeVar("T")

MODULE = "distgan_networks"  # the name under which a file is loaded, on every rank
BUILDERS = ("build_generator", "build_discriminator")
_EXPECTED = (
    "a .py file with build_generator(spec) and build_discriminator(spec), or a module of a package as my_lab.nets"
)


class UserNetworks(NamedTuple):
    """`path` is that of the file itself; `files` are it and what it imported beside it, by their place below `root`."""

    path: Path
    root: Path
    files: dict[str, bytes]
    sha256: str
    family: Family
    loss: Loss | None

    @property
    def name(self) -> str:
        return self.path.relative_to(self.root).as_posix()


_loaded: dict[str, UserNetworks] = {}


def loaded(model: ModelConfig) -> UserNetworks | None:
    """Return the networks that a config names, if `load_networks` has loaded them with these contents."""
    return _loaded.get(model.networks_sha256 or "")


def replace_loaded(sha256: str, networks: UserNetworks | None) -> UserNetworks | None:
    """Let `networks` be those of that hash, None for none, and return those that were."""
    before = _loaded.pop(sha256, None)
    if networks is not None:
        _loaded[sha256] = networks
    return before


def load_family(model: ModelConfig) -> Family:
    """Return the two functions of a config's file, which is loaded by now. Raises UserError for one that is not."""
    if (networks := loaded(model)) is None:
        raise UserError(
            f"{model.networks}: the code of these networks is not loaded. Expected: --networks FILE, or "
            "--trust-networks to execute the copy that the run has",
            code="networks-not-trusted",
        )
    return networks.family


def load_networks(config: Config) -> Config:
    """Load the file that the config names, which is trusted by now, and return the config with its hash.

    A config that was returned by this function is returned as it is. Raises UserError for a file that can't be used.
    """
    model = config.model
    if model.networks is None or loaded(model):
        return _check_loss(config)
    networks = load(find_file(model.networks))
    _loaded[networks.sha256] = networks
    more = {"networks": str(networks.path), "networks_sha256": networks.sha256}
    return _check_loss(config.model_copy(update={"model": model.model_copy(update=more)}))


def with_own_loss(config: Config) -> Config:
    """Return the config with the loss of its file's `build_loss()`, if that has one."""
    networks = loaded(config.model)
    if networks is None or networks.loss is None:
        return config
    return config.model_copy(update={"optim": config.optim.model_copy(update={"loss": OWN_LOSS})})


def _check_loss(config: Config) -> Config:
    if config.optim.loss == OWN_LOSS:
        networks = loaded(config.model)
        if networks is None or networks.loss is None:
            where = config.model.networks or f"--family {config.model.family}"
            others = ", ".join(LOSSES)
            raise UserError(
                f"--loss: {where} has no build_loss() ({OWN_LOSS}). Expected: {others}, or --networks with one",
                code="bad-networks",
            )
    return config


# -- Loading --


def find_file(networks: str) -> Path:
    """Return the file that `--networks` names: a path, or a module as my_lab.nets. Nothing is executed.

    Raises UserError.
    """
    where = f"--networks {networks}"
    is_module = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", networks) and not networks.endswith(".py")
    if is_module and not Path(networks).exists():
        top, *below = networks.split(".")
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
        places = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
        origin = Path(spec.origin) if spec and spec.origin and not below and not places else None
        candidates = (
            [origin]
            if origin
            else [
                path
                for place in places
                for path in (place.joinpath(*below).with_suffix(".py"), place.joinpath(*below, "__init__.py"))
            ]
        )
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            here = Path(*networks.split(".")).with_suffix(".py")
            hint = f"--networks {here}" if here.is_file() else _EXPECTED
            raise UserError(f"{where}: no such module is installed. Expected: {hint}", code="no-networks")
        return path.absolute()
    path = user_path(networks, "--networks").absolute()
    # Its neighbours are those of the file that it links to, as for `python FILE`; but a package is as it lies there.
    while path.is_symlink() and path.exists() and not (path.parent / "__init__.py").is_file():
        path = path.parent / os.readlink(path)
    if not path.exists():
        raise UserError(f"{where}: does not exist ({path}). Expected: {_EXPECTED}", code="no-networks")
    if not path.is_file() or path.suffix != ".py":
        raise UserError(f"{where}: not a .py file ({path}). Expected: {_EXPECTED}", code="bad-path")
    return path


def load(path: Path) -> UserNetworks:
    """Execute a file and return what it defines. Raises UserError that says where it fails, or what it lacks.

    What it changes of the process, as torch's settings or signal handlers, is restored; so after each build.
    """
    root, name = _root_of(path)
    home = Home.of(root, path.stem if name == MODULE else name.partition(".")[0])
    try:
        source = path.read_bytes()
    except OSError as error:
        raise not_readable(f"--networks {path}", error) from error
    with loading(), preserve_process_state(), _importable(home, name) as imported:
        seed_random_states()
        module = call_user_code(f"--networks {path}: does not import", root, lambda: _execute(path, name))
        files = {path.relative_to(root).as_posix(): source} | _files_of(imported(), home)
        _check_names(path, imported(), home)
    if name == MODULE and (late := find_known_late_import(home, files)):
        raise UserError(
            f"--networks {path}: a function imports {late}, a name that the program has imported before, and would get "
            "that module. Expected: the import at the top of the file",
            code="bad-networks",
        )
    forbid_late_imports(home, files)
    missing = [f"{each}(spec)" for each in BUILDERS if getattr(module, each, None) is None]
    if missing:
        raise UserError(f"--networks {path}: lacks {' and '.join(missing)}. Expected: {_EXPECTED}", code="bad-networks")
    build_generator, build_discriminator = (_guarded(path, root, module, each) for each in BUILDERS)
    family = Family(f"those of {path.name}", build_generator, build_discriminator)
    own_name = path.relative_to(root).as_posix()
    digest = hashlib.sha256()
    for each in sorted(files):
        # The file itself may be renamed; a module that it imports, or that it is a part of, may not.
        known_as = "" if (each, name) == (own_name, MODULE) else each
        digest.update(f"{known_as}\0{len(files[each])}\0".encode() + files[each])
    with preserve_process_state():
        loss = _loss_of(path, root, module)
    return UserNetworks(path, root, files, digest.hexdigest()[:16], family, loss)


def _root_of(path: Path) -> tuple[Path, str]:
    """Return the folder to import from, and the name of the module: of a package's its own, else MODULE."""
    folder = path.parent
    names = [] if path.stem == "__init__" else [path.stem]
    if not (folder / "__init__.py").is_file():
        return folder, MODULE
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(names)


def _execute(path: Path, name: str) -> ModuleType:
    if name != MODULE:
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(home: Home, name: str) -> Iterator[Callable[[], dict[str, ModuleType]]]:
    """Let the modules of a home be imported first, and anew; yields a function that returns those that were.

    What was imported under these names from elsewhere is put back. They stay known to Python otherwise, as compilers
    look for a function's module by its name.
    """
    root = home.root

    def is_there(top: str) -> bool:
        if top in sys.stdlib_module_names or top == "distgan" or home.top not in ("", top):
            return False
        if name not in (MODULE, top) and top != name.partition(".")[0]:
            return False
        file = getattr(sys.modules.get(top), "__file__", None)
        return (root / f"{top}.py").is_file() or (
            (root / top / "__init__.py").is_file() or ((root / top).is_dir() and file is None)
        )

    tops = {each for each in {each.partition(".")[0] for each in list(sys.modules)} if is_there(each)}
    stashed = {each: sys.modules.pop(each) for each in list(sys.modules) if each.partition(".")[0] in tops}
    before, search, no_bytecode = set(sys.modules), list(sys.path), sys.dont_write_bytecode

    def imported() -> dict[str, ModuleType]:
        return {each: module for each, module in list(sys.modules.items()) if each not in before}

    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield imported
    except BaseException:
        for each in (*_modules_of(imported(), home), MODULE):
            sys.modules.pop(each, None)
        raise
    finally:
        sys.path[:] = search
        sys.dont_write_bytecode = no_bytecode
        for each, module in stashed.items():
            file = getattr(module, "__file__", None)
            if each not in sys.modules or not (file and Path(file).is_relative_to(root)):
                sys.modules[each] = module


def _modules_of(modules: dict[str, ModuleType], home: Home) -> dict[str, Path]:
    files = {name: getattr(module, "__file__", None) for name, module in modules.items()}
    return {name: Path(file) for name, file in files.items() if file and home.name_of(name, file) == name}


def _files_of(modules: dict[str, ModuleType], home: Home) -> dict[str, bytes]:
    return {path.relative_to(home.root).as_posix(): path.read_bytes() for path in _modules_of(modules, home).values()}


def _check_names(path: Path, modules: dict[str, ModuleType], home: Home) -> None:
    """Raise UserError for a module that was imported by another name than a copy of its file would have."""
    for name, module in modules.items():
        right = home.name_of(name, getattr(module, "__file__", None))
        if right not in ("", name):
            raise UserError(
                f"--networks {path}: imports {right} of its folder as {name}, which a copy would lack, as "
                f"{home.root.name} has no __init__.py. Expected: import {right}, or an __init__.py there",
                code="bad-networks",
            )


def call_user_code(what: str, root: Path, call: Callable[[], T]) -> T:
    """Return what a user's code returns; what it prints goes to stderr.

    Raises UserError that begins with `what` for an exception of it, with its last line and its place in the code.
    """
    try:
        with redirect_stdout(sys.stderr):
            return call()
    except (KeyboardInterrupt, MemoryError, UserError):
        raise
    except BaseException as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(f"{what}: {describe_error(error, root)}", code="bad-networks") from error


def describe_error(error: BaseException, root: Path) -> str:
    """Return `ValueError: its text (my_gan.py, line 12: the code)`: of the last place in the user's code.

    That is below `root`, or else in no library; an error without such a place, as of a backward pass, has none.
    """
    lines = traceback.format_exception_only(error)  # of a syntax error the place comes first, of others notes last
    text = " ".join(lines[-1 if isinstance(error, SyntaxError) else 0].split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{text} ({Path(error.filename).name}, line {error.lineno}: {(error.text or '').strip()})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_in(frame.filename, *_NEVER_OWN)]
    own = [frame for frame in frames if _is_in(frame.filename, root) and not _is_installed(frame.filename, root)]
    own = own or [frame for frame in frames if not _is_installed(frame.filename, Path())] or frames
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line})" if own else text


_PACKAGES = {"site-packages", "dist-packages"}
# torch, and this package.
_NEVER_OWN = (Path(torch.__file__).parent, Path(__file__).parents[1])


def _is_in(filename: str, *folders: Path) -> bool:
    return any(Path(filename).is_relative_to(folder) for folder in folders)


def _is_installed(filename: str, root: Path) -> bool:
    """True for a file of Python's libraries, though they may lie below `root`, as in a virtual environment."""
    path = Path(filename)
    if _PACKAGES & set(path.parts):
        return not path.is_relative_to(root) or bool(_PACKAGES & set(path.relative_to(root).parts))
    return filename.startswith("<frozen") or path.is_relative_to(sysconfig.get_path("stdlib"))


def _guarded(path: Path, root: Path, module: ModuleType, name: str) -> Callable[..., Any]:
    """Return a function of the file, with its errors as UserErrors."""
    function = getattr(module, name)
    _check_signature(path, name, function)

    def build(*arguments: Any, **settings: Any) -> Any:
        with preserve_settings():
            return call_user_code(f"--networks {path}: {name} fails", root, lambda: function(*arguments, **settings))

    build.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    build.__wrapped__ = function  # type: ignore[attr-defined]
    return build


def _loss_of(path: Path, root: Path, module: ModuleType) -> Loss | None:
    build = getattr(module, "build_loss", None)
    if build is None:
        return None
    loss = call_user_code(f"--networks {path}: build_loss fails", root, build)
    if not isinstance(loss, Loss):
        raise UserError(
            f"--networks {path}: build_loss returns {describe_value(loss)}. Expected: a distgan.config.registry.Loss",
            code="bad-networks",
        )
    return loss


# -- Arguments --


def _check_signature(path: Path, name: str, function: Any) -> None:
    if not callable(function):
        raise UserError(
            f"--networks {path}: {name} is {describe_value(function)}. Expected: a function {name}(spec)",
            code="bad-networks",
        )
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        raise UserError(
            f"--networks {path}: {name}{inspect.signature(function)} takes no spec. Expected: {name}(spec), and "
            "arguments for --model-arg behind it",
            code="bad-networks",
        )


def describe_value(value: Any) -> str:
    """Return `the class Generator`, `a list` or `an int`."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
