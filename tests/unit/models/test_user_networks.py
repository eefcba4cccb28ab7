"""A user's file of networks: loaded, copied, hashed, trusted or not, and each mistake in one line."""

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import getstate
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.own_networks import LOSS, PAIR, none_loaded, write_pair
from helpers.runs import TINY, MonkeyPatch, Run, assert_same_run, assert_user_error, expect_user_error

from distgan.config.image_spec import ImageSpec
from distgan.config.registry import LOSSES
from distgan.config.schema import Config, ModelConfig, OptimConfig
from distgan.distributed.rendezvous import _collect_facts, _find_difference
from distgan.models import network_copies, user_networks
from distgan.models.base import build_discriminator, build_generator
from distgan.models.given_modules import given_modules, with_modules
from distgan.models.user_networks import describe_error, find_file, load, load_networks, with_own_loss
from distgan.reports.reproduce import train_words
from distgan.training.losses import find_loss
from distgan.training.ranks_alike import check_built_alike, check_outputs_alike

COLOUR = ImageSpec(channels=3, height=10, width=12, num_classes=3, class_names=["a", "b", "c"])
SHORT = (*TINY[2:], "--data", "digits", "--sample-epochs", "9", "--threads", "1")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    with none_loaded():
        yield


def config_of(path: Path, **model: Any) -> Config:
    return Config(model=ModelConfig(networks=str(path), images=COLOUR, **model))


# -- what is loaded ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vanilla", "cgan"])
def test_a_file_builds_networks_for_the_images_of_a_run(tmp_path: Path, name: str) -> None:
    model = load_networks(config_of(write_pair(tmp_path), name=name, args={"width": 5}, latent_dim=7)).model
    generator, discriminator = build_generator(model), build_discriminator(model)
    assert generator.latent_shape == (7,)
    assert generator.main[0].out_features == discriminator.read_out.in_features == 5
    labels = torch.tensor([0, 2])
    images = generator(torch.randn(2, 7), labels)
    assert images.shape == (2, 3, 10, 12)
    assert discriminator(images, labels).shape == (2, 1)
    assert (generator.embed is None) == (name == "vanilla"), "without labels they get None"


def test_random_numbers_of_a_file_are_the_same_each_time_it_loads(tmp_path: Path) -> None:
    drawn = "import random\nimport numpy as np\nBANDS = torch.rand(2), np.random.rand(), random.random()\n"
    values = []
    for folder in ("a", "b"):
        user_networks.load(write_pair(tmp_path, f"{folder}/my_gan.py", ("\n\nclass Gen", f"\n{drawn}\nclass Gen")))
        values.append(str(sys.modules[user_networks.MODULE].BANDS))
        torch.rand(1), np.random.rand(), getstate()
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("annotation", "value", "built", "expected"),
    [
        ("Optional[int]", 3, 3, ""),
        ("Optional[int]", "none", None, "Optional[int]"),
        ("list[int]", [1, 2], [1, 2], ""),
        ("list[int]", "1,2", None, "list[int]"),
        ("Literal['relu', 'silu']", "silu", "silu", ""),
        ("Literal['relu', 'silu']", "gelu", None, "Literal['relu', 'silu']"),
        ("Mode", "b", "Mode.B", ""),
        ("Mode", "c", None, "a, b"),
        ("nn.Module", 3, 3, ""),
        ("Undefined", 3, 3, ""),
    ],
)
def test_arguments_fit_their_annotations(
    tmp_path: Path, annotation: str, value: object, built: object, expected: str
) -> None:
    head = "from __future__ import annotations\nfrom enum import Enum\nfrom typing import Literal, Optional\n"
    head += "import torch\nclass Mode(Enum):\n    A = 'a'\n    B = 'b'\n"
    line = f"(spec, width: int = 24, more: {annotation} = 1):\n    Generator.more = str(more)\n    return Gen"
    changes = ("import torch\n", head), ("(spec, width: int = 24):\n    return Gen", line)
    config = config_of(write_pair(tmp_path, "my_gan.py", *changes), args={"more": value})
    if expected:
        with expect_user_error(f"--model-arg: more ... ({value!r}). Expected: {expected}"):
            build_generator(load_networks(config).model)
        return
    assert build_generator(load_networks(config).model).more == str(built)


def test_what_a_file_imports_from_its_folder_belongs_to_it(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """From any working directory, and not what lies in a virtual environment below it, or is loaded under its name."""
    head = "import torch\nfrom shapes import SLOPE\nfrom lib.norms import *\nimport heavy\n"
    path = write_pair(tmp_path / "lab", "my_gan.py", ("import torch\n", head), ("0.2", "SLOPE"))
    (tmp_path / "lab" / "shapes.py").write_text("SLOPE = 0.1\n")
    (tmp_path / "lab" / "unused.py").write_text("raise SystemExit\n")
    (tmp_path / "lab" / "lib").mkdir()
    (tmp_path / "lab" / "lib" / "norms.py").write_text("EPS = 1\n")
    site = tmp_path / "lab" / ".venv" / "site-packages"
    site.mkdir(parents=True)
    (site / "heavy.py").write_text("")
    other = tmp_path / "elsewhere" / "shapes.py"
    other.parent.mkdir()
    other.write_text("SLOPE = 'of another'\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.syspath_prepend(other.parent)
    import shapes  # type: ignore[import-not-found]

    monkeypatch.chdir(tmp_path / "elsewhere")
    search = list(sys.path)
    networks = load(path)
    assert sorted(networks.files) == ["lib/norms.py", "my_gan.py", "shapes.py"]
    assert sys.path == search
    assert sys.modules["shapes"] is shapes
    assert not list((tmp_path / "lab").glob("__pycache__")), "nothing is written beside it"
    monkeypatch.chdir(tmp_path)
    assert load(Path("lab/my_gan.py").absolute()).sha256 == networks.sha256
    copied = tmp_path / "renamed.py"
    path.rename(tmp_path / "lab" / "renamed.py")
    assert load(tmp_path / "lab" / copied.name).sha256 == networks.sha256, "its name does not count"
    (tmp_path / "lab" / "shapes.py").write_text("SLOPE = 0.3\n")
    assert load(tmp_path / "lab" / copied.name).sha256 != networks.sha256, "what it imports does"


def test_a_module_of_a_package_with_relative_imports(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    path = write_pair(
        tmp_path / "src" / "my_lab", "nets.py", ("import torch\n", "import torch\nfrom .parts import X\n")
    )
    for name in ("__init__", "parts"):
        (path.parent / f"{name}.py").write_text("X = 1\n")
    with expect_user_error("my_lab.nets: ... [no-networks]"):
        find_file("my_lab.nets")
    monkeypatch.chdir(tmp_path / "src")
    with expect_user_error("my_lab.nets: ... Expected: --networks my_lab/nets.py"):
        find_file("my_lab.nets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "src")
    assert find_file("my_lab.nets") == path
    networks = load(path)
    assert sorted(networks.files) == ["my_lab/__init__.py", "my_lab/nets.py", "my_lab/parts.py"]
    config = load_networks(config_of(path))
    network_copies.write_copy(tmp_path / "run", config.model)
    copy = network_copies.find_copy(tmp_path / "run" / "checkpoints" / "step-1", str(path))
    assert copy == tmp_path / "run" / "networks" / "my_lab" / "nets.py"
    assert load(copy).sha256 == networks.sha256
    for name in [name for name in sys.modules if name.startswith("my_lab")]:
        del sys.modules[name]


def test_a_link_stands_for_the_file_that_it_links_to(tmp_path: Path) -> None:
    """So that its neighbours are those of the file, as for Python; in a package the package's are."""
    real = write_pair(tmp_path / "real", "my_gan.py", ("import torch\n", "import torch\nfrom slopes import X\n"))
    (real.parent / "slopes.py").write_text("X = 1\n")
    links = tmp_path / "links"
    links.mkdir()
    (links / "slopes.py").write_text("raise ValueError\n")
    (links / "near.py").symlink_to("../real/my_gan.py")
    (links / "link.py").symlink_to(links / "near.py")
    assert os.path.samefile(find_file(str(links / "link.py")).parent, real.parent)
    assert sorted(load(find_file(str(links / "link.py"))).files) == ["my_gan.py", "slopes.py"]
    (links / "no.py").symlink_to("no.py")
    with expect_user_error("links/no.py: ... [no-networks]"):
        find_file(str(links / "no.py"))
    (links / "__init__.py").write_text("")
    assert find_file(str(links / "link.py")) == links / "link.py"
    for name in ("slopes", user_networks.MODULE):
        sys.modules.pop(name, None)


def test_of_installed_packages_only_its_own_belongs_to_it(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    site = tmp_path / "site-packages"
    head = "import torch\nimport other_lib\nfrom .parts import X\n"
    path = write_pair(site / "gan_lib", "nets.py", ("import torch\n", head))
    for name in ("gan_lib/__init__", "gan_lib/parts", "other_lib"):
        (site / f"{name}.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(site)
    before = set(sys.modules)
    assert sorted(load(find_file("gan_lib.nets")).files) == [
        "gan_lib/__init__.py", "gan_lib/nets.py", "gan_lib/parts.py"
    ]  # fmt: skip
    assert find_file("gan_lib.nets") == path
    alone = write_pair(site, "gan_module.py", ("import torch\n", "import torch\nimport other_lib\n"))
    (site / "torch.py").write_text("raise ValueError('imported anew')\n")
    assert sorted(load(find_file("gan_module")).files) == [alone.name]
    for each in set(sys.modules) - before:
        del sys.modules[each]


def test_a_folder_without_init_is_no_package(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Its modules are copied by their names from that folder."""
    path = write_pair(tmp_path / "spaced", "nets.py", ("import torch\n", "import torch\nfrom spaced import parts\n"))
    (path.parent / "parts.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    assert find_file("spaced.nets") == path
    with expect_user_error("... parts ... spaced.parts ... [bad-networks]"):
        load(path)
    for each in set(sys.modules) - before:
        del sys.modules[each]
    path.write_text(path.read_text().replace("from spaced import parts", "import parts"))
    assert sorted(load(path).files) == ["nets.py", "parts.py"]


def test_a_copy_lies_below_its_run(tmp_path: Path) -> None:
    write_pair(tmp_path, "evil.py")
    (tmp_path / "run" / "networks").mkdir(parents=True)
    assert network_copies.find_copy(tmp_path / "run", "../../evil.py") is None
    assert network_copies.find_copy(tmp_path / "run", str(tmp_path / "evil.py")) is None
    copy = write_pair(tmp_path / "run", "networks/evil.py")
    assert network_copies.find_copy(tmp_path / "run" / "weights", r"C:\\user\\evil.py") == copy


def test_of_copies_of_one_name_that_of_the_full_one_is_taken(tmp_path: Path) -> None:
    write_pair(tmp_path / "run", "networks/nets.py")
    copy = write_pair(tmp_path / "run", "networks/my_lab/nets.py")
    assert network_copies.find_copy(tmp_path / "run", "/src/my_lab/nets.py") == copy


def test_own_is_the_loss_of_each_configs_file(tmp_path: Path) -> None:
    """In several trainings of one process too; the registry has no entry of it."""
    configs = {}
    for name in ("hinge", "r1"):
        path = write_pair(tmp_path, f"{name}.py")
        path.write_text(PAIR + LOSS.format(name))
        configs[name] = with_own_loss(load_networks(config_of(path)))
    for name, config in configs.items():
        assert config.optim.loss == "own"
        assert find_loss("own", config.model) is LOSSES[name]
        assert find_loss("bce", config.model) is LOSSES["bce"]
    assert "own" not in LOSSES


def test_loading_takes_no_random_number_and_prints_nothing_on_stdout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_pair(tmp_path, "my_gan.py", ("class Generator", "print('hello', torch.rand(1))\n\n\nclass Generator"))
    before = torch.get_rng_state()
    load(path)
    assert torch.equal(torch.get_rng_state(), before)
    out, err = capfd.readouterr()
    assert not out
    assert "hello" in err


EFFECTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "grad mode": ("torch.set_grad_enabled(False)", torch.is_grad_enabled),
    "dtype": ("torch.set_default_dtype(torch.float64)", torch.get_default_dtype),
    "device": ("torch.set_default_device('meta')", torch.get_default_device),
    "threads": ("torch.set_num_threads(torch.get_num_threads() + 1)", torch.get_num_threads),
    "algorithms": ("torch.use_deterministic_algorithms(True)", torch.are_deterministic_algorithms_enabled),
    "cuDNN": ("torch.backends.cudnn.benchmark = True", lambda: torch.backends.cudnn.benchmark),
    "oneDNN": ("torch.backends.mkldnn.enabled = False", lambda: torch.backends.mkldnn.enabled),
    "attention": ("torch.backends.cuda.enable_flash_sdp(False)", torch.backends.cuda.flash_sdp_enabled),
    "precision": ("torch.set_float32_matmul_precision('medium')", torch.get_float32_matmul_precision),
    "newer precision": (
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
        lambda: (torch.backends.cuda.matmul.fp32_precision, torch.get_float32_matmul_precision()),
    ),
    "folder": ("import os; os.chdir('/')", os.getcwd),
    "environment": ("import os; os.environ['DISTGAN_TEST'] = '1'", lambda: os.environ.get("DISTGAN_TEST")),
    "warnings": ("import warnings; warnings.simplefilter('error')", lambda: list(warnings.filters)),
    "signals": ("import signal; signal.signal(signal.SIGTERM, print)", lambda: signal.getsignal(signal.SIGTERM)),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_what_a_file_changes_of_the_process_is_restored(tmp_path: Path, name: str) -> None:
    code, state = EFFECTS[name]
    before = state()
    place = "class Generator"
    build_loss = f"\n\ndef build_loss():\n    {code}" + LOSS.format("hinge").partition("def build_loss():")[2]
    path = write_pair(tmp_path, "my_gan.py", (place, f"{code}\n\n\n{place}"))
    path.write_text(path.read_text() + build_loss)
    load(path)
    assert state() == before
    path = write_pair(tmp_path, "built.py", ("return Discriminator(", f"{code}; return Discriminator("))
    build_discriminator(load_networks(config_of(path)).model)
    assert state() == before


@pytest.mark.parametrize("random", ["torch.manual_seed(3)", "import random; random.seed(3)", "np.random.seed(3)"])
def test_a_seed_that_a_file_sets_is_forgotten(tmp_path: Path, random: str) -> None:
    before = [torch.get_rng_state().tolist(), getstate(), str(np.random.get_state())]
    load(write_pair(tmp_path, "my_gan.py", ("class Generator", f"import numpy as np; {random}\n\n\nclass Generator")))
    assert [torch.get_rng_state().tolist(), getstate(), str(np.random.get_state())] == before


# -- mistakes ----------------------------------------------------------------------------------------------

BAD = {
    "syntax": (
        "def build_generator(spec):\n  return (\n",
        "does not import: SyntaxError: ... (my_gan.py, line 2: return",
    ),
    "import": ("import torch\nimport no_such\n", "... ModuleNotFoundError: ... (my_gan.py, line 2:"),
    "raises": (
        "x = 1\ndef f():\n  return 1 / 0\nf()\n",
        "... ZeroDivisionError: ... (my_gan.py, line 3: return 1 / 0)",
    ),
    "exits": ("import sys\nsys.exit('no')\n", "... SystemExit: no (my_gan.py, line 2:"),
    "lacks": ("def build_generator(spec): ...\n", "lacks build_discriminator(spec). Expected:"),
    "lacks both": ("", "lacks build_generator(spec) and build_discriminator(spec)"),
    "no function": ("build_generator = build_discriminator = 3\n", "build_generator is an int. Expected: a function"),
    "no spec": (
        "def build_generator(): ...\nbuild_discriminator = build_generator\n",
        "build_generator() takes no spec",
    ),
    "loss": (PAIR + "def build_loss(): return 'bce'\n", "build_loss returns a str. Expected: ... Loss"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_can_not_be_used_is_one_line(tmp_path: Path, name: str) -> None:
    text, pattern = BAD[name]
    (tmp_path / "my_gan.py").write_text(text)
    sys.modules.pop(user_networks.MODULE, None)
    with expect_user_error(f"--networks {tmp_path / 'my_gan.py'}: {pattern} ... [bad-networks]"):
        load(tmp_path / "my_gan.py")
    if name in ("syntax", "import", "raises", "exits"):
        assert user_networks.MODULE not in sys.modules


def test_the_place_of_an_error_is_the_last_line_of_the_users_code(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Though a virtual environment, with torch in it, may lie beside the file."""
    site = tmp_path / ".venv" / "lib" / "site-packages"
    site.mkdir(parents=True)
    (site / "heavy.py").write_text("def fails():\n    raise ValueError('no')\n")
    monkeypatch.syspath_prepend(site)
    (tmp_path / "beside.py").write_text("import json, heavy, torch\n\ndef call(name):\n    return CALLS[name]()\n")
    calls = {"heavy": "heavy.fails()", "json": "json.loads('{')", "torch": "torch.nn.functional.pad(torch.ones(1), 3)"}
    with (tmp_path / "beside.py").open("a") as file:
        file.writelines(["CALLS = {\n", *(f"    '{key}': lambda: {code},\n" for key, code in calls.items()), "}\n"])
    for line, key in enumerate(calls, 6):
        (tmp_path / "my_gan.py").write_text(f"import beside\nbeside.call({key!r})\n")
        with expect_user_error(f"... (beside.py, line {line}: ... [bad-networks]"):
            load(tmp_path / "my_gan.py")
    with pytest.raises(RuntimeError) as error:
        torch.zeros(1).backward()
    assert "graph.py" not in describe_error(error.value, tmp_path)
    for name in ("heavy", "beside"):
        sys.modules.pop(name, None)


BUILT = {
    "class": (
        "return Generator(spec, width)",
        "return Generator",
        "returns the class Generator ... as Generator(spec)",
    ),
    "other": ("return Generator(spec, width)", "return [1]", "returns a list. Expected: an nn.Module"),
    "raises": (
        "return Generator(spec, width)",
        "return spec.nope",
        "... AttributeError: ... 'nope' ... (my_gan.py, line 39:",
    ),
    "late": (
        "return Generator(spec, width)",
        "import late",
        "... late ... at the top of the file (my_gan.py, line 39: ...",
    ),
}


LATE = {
    "a module": "import late",
    "of a folder": "import inner.late",
    "relative": "from . import late",
    "by name": "import importlib; importlib.import_module('late')",
}


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("is_on_path", [True, False])
def test_an_import_in_forward_from_beside_the_file_is_an_error(
    tmp_path: Path, monkeypatch: MonkeyPatch, name: str, is_on_path: bool
) -> None:
    """Also by a module that the file imports; a module of elsewhere may be imported late."""
    statement, folder, others = LATE[name], tmp_path / "lab", tmp_path / "others"
    dot = "." * (name == "relative")
    head = f"import torch\nfrom {dot}other import use\n"
    path = write_pair(folder, "my_gan.py", ("import torch\n", head), ("z = z if", "use()\n        z = z if"))
    (folder / "inner").mkdir()
    others.mkdir()
    (folder / "other.py").write_text(f"def use():\n    import colorsys, elsewhere\n    {statement}\n")
    for place in ("late.py", "inner/late.py", "../others/elsewhere.py", *(["__init__.py"] if dot else [])):
        (folder / place).write_text("")
    monkeypatch.syspath_prepend(others)
    if is_on_path:
        monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    generator = build_generator(load_networks(config_of(path)).model)
    try:
        with pytest.raises(ImportError) as error:
            generator(torch.zeros(2, 100), torch.zeros(2, dtype=torch.int64))
        assert not isinstance(error.value, ModuleNotFoundError)
        assert "elsewhere" in sys.modules
    finally:
        for each in set(sys.modules) - before:
            del sys.modules[each]


@pytest.mark.parametrize("where", ["lab", "elsewhere"])
def test_what_the_program_knows_by_the_name_of_a_late_import_is_not_taken(
    tmp_path: Path, monkeypatch: MonkeyPatch, where: str
) -> None:
    path = write_pair(tmp_path / "lab", "my_gan.py", ("z = z if", "import known_late\n        z = z if"))
    for folder in (path.parent, tmp_path / "elsewhere"):
        folder.mkdir(exist_ok=True)
        (folder / "known_late.py").write_text("")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / where)
        import known_late  # type: ignore[import-not-found]
    try:
        with expect_user_error("known_late (my_gan.py, line 18) ... [bad-networks]"):
            load(path)
        path.write_text("import known_late\n" + path.read_text())
        if where == "lab":
            for _ in range(2):
                assert sorted(load(path).files) == ["known_late.py", "my_gan.py"]
        assert known_late
    finally:
        del sys.modules["known_late"]


@pytest.mark.parametrize("name", BUILT)
def test_functions_that_build_no_network_are_one_line(tmp_path: Path, monkeypatch: MonkeyPatch, name: str) -> None:
    old, new, pattern = BUILT[name]
    path = write_pair(tmp_path, "my_gan.py", (old, new))
    (tmp_path / "late.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    config = load_networks(config_of(path))
    try:
        with expect_user_error(f"--networks {path}: build_generator {pattern} ... [bad-networks]"):
            build_generator(config.model)
    finally:
        sys.modules.pop("late", None)


ARGUMENTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"widht": 3}, "... takes no widht, did you mean width? (3). Expected: width, dropout [unknown-setting]"),
    ({"width": 3.5}, "width of my_gan.py is a float (3.5). Expected: an integer"),
    ({"width": True}, "width of my_gan.py is a bool (True). Expected: an integer"),
    ({"dropout": "a"}, "dropout of my_gan.py is a str ('a'). Expected: a number"),
)


@pytest.mark.parametrize("shape", [8, "8", (0,), (4, -3), (8.0,), (True, 8), {8}, (10**14,), (1001, 1000)])
def test_a_shape_that_no_z_has_is_one_line_wherever_the_generator_is_built(shape: Any) -> None:
    module = torch.nn.Linear(8, 784)
    module.latent_shape = shape
    with given_modules(module, None) as sha256:
        config = with_modules(Config(), sha256 or "")
        with expect_user_error("generator.latent_shape ... [bad-networks]"):
            build_generator(config.model)


@pytest.mark.parametrize(("args", "pattern"), ARGUMENTS)
def test_arguments_are_those_of_the_functions(tmp_path: Path, args: dict[str, Any], pattern: str) -> None:
    config = load_networks(config_of(write_pair(tmp_path), args=args))
    with expect_user_error(f"--model-arg: {pattern}"):
        build_generator(config.model)
    model = load_networks(config_of(write_pair(tmp_path), args={"dropout": 0, "width": 3})).model
    assert build_discriminator(model).features[3].p == 0, "that of one function alone, and an integer for a number"


def test_an_argument_without_a_default_must_be_set(tmp_path: Path) -> None:
    path = write_pair(tmp_path, "my_gan.py", ("width: int = 24, dropout", "width, dropout"))
    with expect_user_error("--model-arg: build_discriminator ... width ... [missing-value]"):
        build_generator(load_networks(config_of(path)).model)
    with expect_user_error("--model-arg: report2023 ... (3) ... [unknown-setting]"):
        build_generator(ModelConfig(args={"depth": 3}))


def test_flags_that_exclude_each_other(distgan: Run, tmp_path: Path) -> None:
    path = write_pair(tmp_path)
    train = ("train", "--preset", "cgan-quick", *SHORT, "--networks", path)
    assert_user_error(distgan(*train, "--family", "dcgan"), "--family, --networks: ... [conflicting-settings]")
    assert_user_error(distgan(*train, "--clusters", 3), "--clusters: ... (3", code="conflicting-settings")
    for words in (("--dropout", 0.1), ("--leaky-slope", 0.1), ("--stem", "linear"), ("--no-logit-tail",)):
        pattern = f"{words[0].replace('no-', '')}: ... --networks my_gan.py ... Expected: --model-arg"
        assert_user_error(distgan(*train, *words), pattern, code="setting-not-applicable")
    assert_user_error(distgan(*train, "--loss", "own"), "--loss: ... build_loss() ... [bad-networks]")
    assert_user_error(distgan(*train, "--model-arg", "width"), "--model-arg: ... Expected: key=value")
    result = distgan("train", "--preset", "cgan-fast", "--networks", path, "--data", "digits", "--dry-run")
    config = json.loads(result.stdout.partition("\npreset ")[0])
    assert config["model"]["clusters"] is None, "those of the preset's family are not its other settings"
    assert config["optim"]["loss"] == "r3gan"
    assert config["model"]["networks_sha256"]
    write_pair(tmp_path, "lab/sub/my.py")
    preset = tmp_path / "lab" / "preset.toml"
    preset.write_text("[model]\nname='cgan'\nnetworks='sub/my.py'\ndropout=0.1\n[model.args]\nwidth=9\n")
    (tmp_path / "cwd").mkdir()
    os.chdir(tmp_path / "cwd")
    result = distgan("train", "--config", preset, "--data", "digits", "--model-arg", "dropout=0.5", "--dry-run")
    model = json.loads(result.stdout.partition("\npreset ")[0])["model"]
    assert model["args"] == {"width": 9, "dropout": 0.5}
    assert model["networks"] == str(tmp_path / "lab/sub/my.py"), "relative to the file that names it, unlike a flag's"
    result = distgan("train", "--config", preset, "--networks", "sub/my.py", "--dry-run")
    assert_user_error(result, str(tmp_path / "sub/my.py"), code="no-networks")


# -- a run -------------------------------------------------------------------------------------------------


@pytest.fixture
def train(distgan: Run, tmp_path: Path) -> Any:
    def call(*words: object, networks: object = "my_gan.py") -> Any:
        named = ("--networks", networks) if networks else ()
        return distgan("train", "--preset", "cgan-quick", *SHORT, *named, "--model-arg", "width=9", *words)

    write_pair(tmp_path)
    return call


def test_a_run_resumes_to_the_same_bits_and_executes_what_is_trusted(train: Any, distgan: Run, tmp_path: Path) -> None:
    for words in (("--max-steps", 4, "--out", "straight"), ("--max-steps", 2, "--out", "broken")):
        result = train(*words)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "broken/networks/my_gan.py").read_text() == PAIR
    user_networks._loaded.clear()
    stranger = "broken ... code that would be executed (... networks/my_gan.py). Expected: --trust-networks ..."
    assert_user_error(distgan("train", "--out", "broken"), stranger, code="networks-not-trusted")
    assert_user_error(distgan("sample", "broken", "--num", 2), stranger, code="networks-not-trusted")
    assert_user_error(distgan("sample", "broken/checkpoints/latest", "--num", 2), code="networks-not-trusted")
    assert distgan("checkpoint", "verify", "broken").returncode == 0, "executes nothing"
    assert not user_networks._loaded
    assert_user_error(distgan("train", "--config", "broken/config.json", "--out", "new"), code="networks-not-trusted")
    os.rename(tmp_path / "my_gan.py", tmp_path / "elsewhere.py")
    result = distgan("train", "--out", "broken", "--max-steps", 3, "--trust-networks")
    assert result.returncode == 0, result.stderr
    result = distgan("train", "--out", "broken", "--max-steps", 4, "--networks", "elsewhere.py")
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path / "straight", tmp_path / "broken")
    (tmp_path / "broken").rename(tmp_path / "moved")
    for where in ("moved", "moved/weights", "moved/checkpoints/latest", "moved/weights/generator.safetensors"):
        for flag in (("--trust-networks",), ("--networks", "elsewhere.py")):
            result = distgan("sample", where, "--num", 2, *flag)
            assert result.returncode == 0, result.stderr
            assert "warning" not in result.stderr
    result = distgan("sample", "moved", "--num", 2, "--interpolate", "--trust-networks", "--out", "walk.npz")
    assert result.returncode == 0, result.stderr


def test_a_changed_file_is_an_error_with_the_difference(train: Any, distgan: Run, tmp_path: Path) -> None:
    assert train("--max-steps", 2, "--out", "run").returncode == 0
    write_pair(tmp_path, "my_gan.py", ("LeakyReLU(0.2)", "LeakyReLU(0.3)"))
    again = ("--max-steps", 3, "--out", "run")
    result = train(*again)
    assert_user_error(
        result, "[model] networks_sha256: ... my_gan.py, line 27: - ...(0.2) ...+ ...(0.3)", code="resume-mismatch"
    )
    result = distgan("sample", "run", "--networks", "my_gan.py", "--num", 2)
    assert result.returncode == 0
    assert str(tmp_path / "my_gan.py") in result.stderr
    result = train(*again, "--allow-config-change")
    assert result.returncode == 0, result.stderr
    assert "LeakyReLU(0.3)" in (tmp_path / "run/networks/my_gan.py").read_text()
    # Of another shape: no checkpoint is taken for damaged.
    write_pair(tmp_path, "my_gan.py", ("nn.Linear(width, 1)", "nn.Linear(width, 1, bias=False)"))
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert_user_error(train(*again, "--allow-config-change"), "read_out.bias", code="wrong-weights")
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == names


def test_a_loss_of_the_file_is_taken_unless_a_flag_says_otherwise(train: Any, distgan: Run, tmp_path: Path) -> None:
    (tmp_path / "my_gan.py").write_text(PAIR + LOSS.format("hinge"))
    assert train("--max-steps", 2, "--out", "own").returncode == 0
    assert json.loads((tmp_path / "own" / "config.json").read_text())["optim"]["loss"] == "own"
    planned = train("--loss", "bce", "--dry-run").stdout.partition("\npreset ")[0]
    assert json.loads(planned)["optim"]["loss"] == "bce"
    user_networks._loaded.clear()
    result = distgan("report", "own", "--no-eval", "--out", "page.html")
    assert result.returncode == 0, result.stderr


def test_ranks_with_other_files_do_not_meet(tmp_path: Path) -> None:
    """The path may differ from machine to machine, the contents may not."""
    paths = (write_pair(tmp_path), write_pair(tmp_path, "b/other.py"), write_pair(tmp_path, "c.py", ("0.2", "0.3")))
    facts = [_collect_facts(load_networks(config_of(path)), "gloo", "fp32") for path in paths]
    assert _find_difference(facts[:2]) is None
    assert "rank 1: its [model] networks_sha256 is" in (_find_difference(facts[::2]) or "")


def test_the_command_of_a_run_names_file_and_arguments(tmp_path: Path) -> None:
    config = Config(
        model=ModelConfig(name="cgan", networks="/a b/my_gan.py", args={"width": 3, "kind": "x y", "on": True}),
        optim=OptimConfig(loss="own"),
    )
    words = train_words(config, None)
    assert words is not None
    assert {"--networks=/a b/my_gan.py", "--model-arg=width=3", "--model-arg=on=true", "--loss=own"} <= set(words)


RANKS = {
    "shape": (
        ("width: int = 24):\n    return G", "width: int = 25):\n    return G"),
        "generator.main.0.weight ... [25, ",
    ),
    "more": (("nn.Dropout(dropout)", "nn.Linear(width, width)"), "discriminator.features.3.weight ... missing"),
    "fewer": (
        ("if spec.num_classes else None\n        num", "if 0 else None\n        num"),
        "generator.embed.weight ... missing",
    ),
    "values": (
        ("        self.main = nn.S", "        nn.Linear(9, 9)\n        self.main = nn.S"),
        "generator.main.0.weight ... values",
    ),
}


@pytest.mark.parametrize("name", RANKS)
def test_networks_that_a_rank_builds_otherwise_are_named_before_they_are_wrapped(tmp_path: Path, name: str) -> None:
    """Whatever made the same file build others: the rank, a clock, another library."""
    change, pattern = RANKS[name]
    pairs = []
    for path in (write_pair(tmp_path), write_pair(tmp_path, "other.py", change)):
        model = load_networks(config_of(path, name="cgan")).model
        torch.manual_seed(0)
        pairs.append({"generator": build_generator(model), "discriminator": build_discriminator(model)})
    sent: list[Any] = []
    listening: Any = SimpleNamespace(all_gather_object=lambda built: sent.append(built) or [built])
    check_built_alike(pairs[0], model, listening)
    ranks: Any = SimpleNamespace(all_gather_object=lambda built: [*sent, sent[0], built])
    with expect_user_error(f"rank 2: {pattern} ... [ranks-differ]"):
        check_built_alike(pairs[1], model, ranks)


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_constants_that_depend_on_the_rank_are_named(tmp_path: Path, name: str, monkeypatch: MonkeyPatch) -> None:
    line = {"generator": "self.main(z)", "discriminator": "self.features(images)"}[name]
    changes = ("import torch\n", "import os\nimport torch\n"), (line, f"(1 + int(os.environ['RANK']) / 10) * {line}")
    path = write_pair(tmp_path, "my_gan.py", *changes)
    model = load_networks(config_of(path, name="cgan")).model
    pair = {"generator": build_generator(model), "discriminator": build_discriminator(model)}
    before, sent = torch.get_rng_state(), []

    def runtime(gathered: Callable[[Any], list[Any]]) -> Any:
        cpu = torch.device("cpu")
        return SimpleNamespace(device=cpu, run_on_all_ranks=lambda run: run(), all_gather_object=gathered)

    monkeypatch.setenv("RANK", "0")
    check_outputs_alike(pair, model, runtime(lambda outputs: sent.append(outputs) or [outputs, outputs]))
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setenv("RANK", "1")
    with expect_user_error(f"rank 1: {name} ... [ranks-differ]"):
        check_outputs_alike(pair, model, runtime(lambda outputs: [*sent, outputs]))
