"""Contract of a user's networks, each failure in one sentence; public architectures train, as written or noted."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.own_architectures import HEAD, TRAINS
from helpers.own_networks import LOSS, PAIR, none_loaded, write_pair
from helpers.runs import ROOT, Capture, expect_user_error, fits
from torch import nn

from distgan.config.image_spec import ImageSpec
from distgan.config.registry import FAMILIES
from distgan.config.schema import Config, ModelConfig, OptimConfig, RunConfig
from distgan.distributed.wrappers import LocalRuntime
from distgan.models.base import build_discriminator
from distgan.models.layers import AlphaDropout, ChannelDropout, Dropout, Normal, list_noise_layers, swap_dropout
from distgan.models.user_networks import load_networks, with_own_loss
from distgan.training.contract import check_contract
from distgan.training.gan import Traits, build_gan
from distgan.training.losses import bce_d
from distgan.training.lr_schedule import Schedule
from distgan.training.resume_trial import find_difference
from distgan.training.step import build_step

CPU = torch.device("cpu")
SPEC = ImageSpec(channels=3, height=16, width=16, num_classes=3, class_names=["a", "b", "c"])


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    with none_loaded():
        yield


def check(folder: Path, text: str, name: str = "cgan", loss: str = "bce", precision: str | None = None) -> Traits:
    path = folder / "my_gan.py"
    path.write_text(text)
    model = ModelConfig(name=name, networks=str(path), images=SPEC, latent_dim=8)
    settings = {"optim": OptimConfig(loss=loss), "run": RunConfig(precision=precision)}
    config = load_networks(Config(model=model, **settings))
    return check_contract(with_own_loss(config), CPU)


@pytest.mark.parametrize("name", TRAINS)
def test_public_architectures_fit(tmp_path: Path, name: str) -> None:
    text, notes = TRAINS[name]
    loss = "r3gan" if name in ("sngan", "dcgan", "lstm") else "bce"
    before = torch.get_rng_state()
    traits = check(tmp_path, HEAD + text, loss=loss)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(traits.notes) == len(notes), traits.notes
    for note, start in zip(traits.notes, notes, strict=True):
        assert fits(start, note), note
    assert bool(traits.eager_only) == any("draws" in note for note in notes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["vanilla", "cgan"])
def test_the_families_fit_without_a_note(family: str, name: str) -> None:
    clusters = 2 if FAMILIES[family].takes_clusters else None
    config = Config(model=ModelConfig(name=name, family=family, clusters=clusters, width=0.1))
    assert check_contract(config, CPU) == Traits()


# -- rejections --------------------------------------------------------------------------------------------

G_LINE, D_LINE = "return self.main(z).view(-1, *self.shape)", "features = self.features(images)"
FORWARD = "    def forward(self, z"
G, D = "generator (Generator)", "discriminator (Discriminator)"
D_LOGITS = "logits + (self.embed(labels) * features).sum(1, keepdim=True)"
D_RETURN = f"return logits if labels is None else {D_LOGITS}"
Z_LINE = "z = z if labels is None else z * self.embed(labels)"
G_INIT = "        self.shape = (spec.channels, spec.height, spec.width)\n"
Changes = tuple[tuple[str, str], ...]


def first(line: str) -> Changes:
    """Let the generator's constructor run a line before its layers are built."""
    return ((G_INIT, f"{G_INIT}        {line}\n"),)


def in_forward(line: str, result: str = G_LINE) -> tuple[str, str]:
    return G_LINE, f"{line}; {result}"


BAD: dict[str, tuple[Changes, str]] = {
    "G's shape": (((G_LINE, "return self.main(z)"),), "generator gives the shape (4, 768). Expected: (4, 3, 16, 16)"),
    "G's range": ((("nn.Tanh(),", "nn.Identity(),"),), "generator gives pixels up to"),
    "G's range in eval alone": (((G_LINE, f"{G_LINE} * (1 if self.training else 2)"),), "generator gives pixels up to"),
    "G's dtype": (((G_LINE, G_LINE + ".double()"),), "generator gives torch.float64. Expected: torch.float32"),
    "G's tuple": (((G_LINE, "return z, z"),), "generator returns a tuple. Expected: a tensor"),
    "NaN": (((G_LINE, G_LINE + " * float('nan')"),), "generator gives NaN"),
    "D's shape": (
        (("nn.Linear(width, 1)", "nn.Linear(width, 2)"),),
        "discriminator gives the shape (4, 2). Expected: (4, 1)",
    ),
    "latent shape": (first("self.latent_shape = 8"), "generator.latent_shape is an int (8). Expected: ... (8,)"),
    "TorchScript": (
        first("self.s = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))"),
        "generator.s is a TorchScript",
    ),
    "extra state": (
        ((FORWARD, f"    def get_extra_state(self):\n        return [1]\n\n{FORWARD}"),),
        "generator._extra_state is a list in state_dict. Expected: tensors",
    ),
    "infinite buffer": (
        first("self.register_buffer('b', torch.full((2,), -torch.inf))"),
        "generator.b has NaN or infinite values ... persistent=False",
    ),
    **{
        f"{what} buffer": (first(f"self.register_buffer('b', torch.ones(2{more})"), "generator.b is sparse, quantized")
        for what, more in (("sparse", ").to_sparse()"), ("meta", ", device='meta')"))
    },
    "latent shape of no z": (first("self.latent_shape = (10**14,)"), "... has 100,000,000,000,000 numbers"),
    "exits": (((G_LINE, "raise SystemExit(3)"),), f"{G} fails: SystemExit: 3 (my_gan.py, line 19:"),
    "other layers": (
        first("type(self).n = getattr(self, 'n', 0) + 1; self.register_buffer(f'b{self.n}', torch.ones(1))"),
        "generator.b1 is in one of two builds",
    ),
    "unused": (first("self.extra = nn.Linear(2, 2)"), "generator.extra.weight gets no gradient, nor"),
    "detached": (((D_LINE, D_LINE + ".detach()"),), "discriminator.features.1.bias gets no gradient"),
    "detached images": (((D_LINE, f"images = images.detach(); {D_LINE}"),), "discriminator gives G no gradient"),
    "NaN gradient by D": (
        ((D_LINE, f"{D_LINE} + (images.flatten(1).sum(1, keepdim=True) * 0).sqrt()"),),
        "discriminator has a gradient by the images that is NaN",
    ),
    **{
        f"{name} without gradients": (
            ((line, f"torch.set_grad_enabled(False); {line}"),),
            f"{name} gives {what} without a gradient",
        )
        for name, line, what in (("generator", G_LINE, "images"), ("discriminator", D_LINE, "logits"))
    },
    "frozen": (first("self.f = nn.Parameter(torch.ones(2), requires_grad=False)"), "generator.f does not require"),
    "half": (first("self.f = nn.Parameter(torch.ones(2).half())"), "generator.f is of torch.float16"),
    "lazy": (
        (("nn.Linear(spec.latent_dim, width, bias=False)", "nn.LazyLinear(width)"),),
        "generator.main.0 has no shape before",
    ),
    "fails": (
        (("nn.Linear(num, width)", "nn.Linear(num + 1, width)"),),
        "discriminator.features.1 ... Linear) fails: RuntimeError",
    ),
    "fails in its own code": (((G_LINE, "return self.nope"),), f"{G} fails: AttributeError: ... (my_gan.py, line 19:"),
    **{
        f"fails in {what}": (
            (in_forward(f"type(self).calls = getattr(self, 'calls', 0) + 1; assert self.calls != {num}"),),
            f"{what} fails: AssertionError (my_gan.py, line 19:",
        )
        for num, what in (
            (3, "generator with larger weights"),
            (5, "a copy of generator"),
            (8, "the backward pass"),
            (9, "a pass of generator in training"),
        )
    },
    **{
        f"a seed in build_{name}": (
            ((f"return {name.title()}(", f"torch.manual_seed(3); return {name.title()}("),),
            f"build_{name} sets the seed of torch's random numbers",
        )
        for name in ("generator", "discriminator")
    },
    "numpy's weights": (
        first("import numpy; self.f = nn.Parameter(torch.ones(2) * numpy.random.rand())"),
        "generator.f differs between two builds",
    ),
    "Python's random": (
        ((G_LINE, "import random; " + G_LINE + " * random.random()"),),
        "generator draws from Python's random",
    ),
    "numpy's random": (
        ((G_LINE, "import numpy; " + G_LINE + " * numpy.random.rand()"),),
        "generator draws from numpy.random",
    ),
    "a count": ((in_forward("self.n = getattr(self, 'n', 0) + 1"),), "generator.n (Generator) changes in forward"),
    "a buffer anew": (
        (*first("self.register_buffer('b', torch.zeros(1))"), in_forward("self.b = self.b + 1")),
        "generator.b is a new tensor",
    ),
    "a buffer that is not saved": (
        (*first("self.register_buffer('b', torch.zeros(1), persistent=False)"), in_forward("self.b.add_(1)")),
        "generator.b changes in forward",
    ),
    "a tensor that is not saved": (
        (
            *first("self.kept = torch.zeros(1)"),
            in_forward("self.kept = self.kept + 1", f"{G_LINE} * self.kept.sigmoid()"),
        ),
        "generator.kept (Generator) changes in forward",
    ),
    "an array that is not saved": (
        (*first("import numpy; self.kept = numpy.zeros(1)"), in_forward("self.kept = self.kept + 1")),
        "generator.kept (Generator) changes in forward",
    ),
    "a layer in a list": (first("self.hidden = [nn.PReLU()]"), "generator.hidden holds a PReLU"),
    "a weight that is a plain tensor": (
        first("self.gain = torch.zeros(1, requires_grad=True)"),
        "generator.gain holds a Tensor",
    ),
    "max_norm": (
        (
            *first("self.norm = nn.Embedding(3, 1, max_norm=1e-3)"),
            in_forward(
                "shift = self.norm(torch.arange(3, device=z.device)).sum()", f"return ({G_LINE[7:]} + shift).tanh()"
            ),
        ),
        "generator.norm.weight changes in forward",
    ),
    "a sparse gradient": (
        (
            *first("self.sparse = nn.Embedding(3, 1, sparse=True)"),
            in_forward(
                "shift = self.sparse(torch.arange(3, device=z.device)).sum()", f"return ({G_LINE[7:]} + shift).tanh()"
            ),
        ),
        "generator.sparse.weight gets a sparse gradient",
    ),
    "checkpointing": (
        ((D_LINE, "features = torch.utils.checkpoint.checkpoint(self.features, images, use_reentrant=False)"),),
        "discriminator.features.3 (Dropout) draws anew in the backward pass",
    ),
    "old weight norm": (
        (("spectral_norm(nn.Linear(width, 1))", "nn.utils.weight_norm(nn.Linear(width, 1))"),),
        "discriminator can't be copied ... discriminator.read_out.weight (Linear) holds a tensor ... with its history",
    ),
    **{
        f"a state of {name} in {what}": (
            (*first(before), *changes),
            f"{name} depends on earlier passes by more than its parameters and buffers ... its output differs",
        )
        for name, line, factor in (("generator", Z_LINE, "z"), ("discriminator", D_LINE, "images"))
        for what, before, variable in (
            ("a variable", "global N; N = [0]", "N"),
            ("a class", "nn.Module.counts = [0]", "nn.Module.counts"),
            (
                "an object",
                "self.f = lambda n=[0]: n; Generator.box = type('Box', (), {'n': self.f})",
                "Generator.box.n()",
            ),
        )
        for changes in [((line, f"{variable}[0] += 1; {factor} = {factor} * (1 + 0.1 * {variable}[0]); {line}"),)]
    },
    "no mixtures": (
        (("class Generator(nn.Module):", "class Generator(nn.Module):\n    takes_mixtures = True\n"),),
        "generator.embed (Embedding) fails: RuntimeError: ... Expected: weights (4, 3) as labels too, or ... takes_mix",
    ),
    "mixtures of other images": (
        (
            ("class Generator(nn.Module):", "class Generator(nn.Module):\n    takes_mixtures = True\n"),
            ("z * self.embed(labels)", "z * self.embed(labels if labels.ndim == 1 else labels.argmin(1))"),
        ),
        "generator gives other images for a class as weights",
    ),
    "a late state of D": (
        (
            ("        self.read_out", "        self.box = type('Box', (), {'n': 0})()\n        self.read_out"),
            (D_LINE, f"self.box.n += 1; images = images * (1 + (self.box.n > 9)); {D_LINE}"),
        ),
        "discriminator depends on earlier passes ... its output differs",
    ),
    "a hook that keeps outputs": (
        (
            *first("self.kept = []"),
            (FORWARD, f"        self.main.register_forward_hook(lambda *all: self.kept.append(all[2]))\n\n{FORWARD}"),
        ),
        "generator can't be copied ... generator.kept (Generator) holds a tensor of a pass with its history. Expected:",
    ),
    "a lock": (
        first("import threading; self.lock = threading.Lock()"),
        "generator can't be copied ... generator.lock (Generator) raises TypeError",
    ),
    **{
        f"changes {what} by {operator}": (((line, f"{code}; {line}"),), f"{layer}: {operator} changes {what} in place")
        for line, layer, what, operator, code in (
            (Z_LINE, G, "z", "clamp_", "z.clamp_(-1, 1)"),
            (G_LINE, G, "labels", "add_", "labels.add_(1).remainder_(3)"),
            (D_LINE, D, "labels", "add_", "labels.add_(1).remainder_(3)"),
            (D_LINE, D, "images", "mul_", "images.flatten(1)[:, 0].mul_(2)"),
        )
    },
    "changes images in a layer": (
        (("nn.Flatten(), spectral", "nn.LeakyReLU(0.2, True), nn.Flatten(), spectral"),),
        "discriminator.features.0 (LeakyReLU): leaky_relu_ changes images in place",
    ),
    "a function": (
        (
            (FORWARD, f"        main = self.main\n        self.call = lambda z: main(z)\n\n{FORWARD}"),
            (G_LINE, "return self.call(z).view(-1, *self.shape)"),
        ),
        "a copy of generator still uses the weights of the original",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD)
def test_what_breaks_the_contract_is_named_with_its_layer(tmp_path: Path, name: str) -> None:
    changes, pattern = BAD[name]
    text = write_pair(tmp_path, "my_gan.py", *changes).read_text()
    with expect_user_error(f"--networks {tmp_path / 'my_gan.py'}: {pattern} ... [bad-networks]"):
        check(tmp_path, text)


INTO_FLOAT32 = "out = torch.zeros(len({0}), 24); out[:, torch.arange(24)] = {1}; "
FLOAT32_ALONE = {
    "G": (
        ((G_LINE, INTO_FLOAT32.format("z", "self.main[0](z)") + "return self.main[1:](out).view(-1, *self.shape)"),),
        f"{G} fails: RuntimeError: ... (my_gan.py, line 19:",
    ),
    "D": (
        ((D_LINE, INTO_FLOAT32.format("images", "self.features(images)") + "features = out"),),
        f"{D} fails: RuntimeError: ... (my_gan.py, line 33:",
    ),
}


@pytest.mark.parametrize("name", FLOAT32_ALONE)
def test_networks_of_float32_alone_name_their_layer_and_the_precision(tmp_path: Path, name: str) -> None:
    changes, pattern = FLOAT32_ALONE[name]
    text = write_pair(tmp_path, "my_gan.py", *changes).read_text()
    check(tmp_path, text, precision="fp32")
    with expect_user_error(f"... --precision bf16: {pattern} ... Expected: --precision fp32, or ... [bad-networks]"):
        check(tmp_path, text, precision="bf16")


NOTED = {
    "random": ((D_LINE, D_LINE + " * (1 + 0.1 * torch.rand(1))"), f"{D}: rand draws torch's random", True),
    "item": ((D_LINE, D_LINE + " * (1 + 0 * float(images.mean()))"), f"{D}: item reads", True),
    "tolist": ((D_LINE, "images.mean().tolist(); " + D_LINE), f"{D}: tolist reads", True),
    "one-hot": ((D_LINE, "F = nn.functional; F.one_hot(labels, 3); " + D_LINE), f"{D}: item reads", True),
    "mask": ((G_LINE, "z[z > 0].sum(); " + G_LINE), f"{G}: index reads", True),
    "a tensor of the host": ((G_LINE, G_LINE + " * torch.tensor(0.5)"), f"{G}: lift_fresh reads or makes", True),
    "prints": (
        (G_LINE, "print('hello', z.shape); " + G_LINE),
        "generator prints in forward, in every step: 'hello",
        False,
    ),
    "G's sigmoid": (("nn.Tanh()", "nn.Sigmoid()"), "generator.main.4 (Sigmoid) ends G with a sigmoid: it gives", False),
    "G's range": (("nn.Tanh(),", "nn.Tanh(), nn.ReLU(),"), "generator gives pixels in [0, 1]", False),
    "D's sigmoid": (
        (D_RETURN, f"logits = {D_LOGITS}; return logits.sigmoid().view(-1, 1)"),
        f"{D} ends D with a sigmoid: its logits are in [0, 1], and --loss bce takes",
        False,
    ),
    "rows": ((G_LINE, "z = z - z.mean(0); " + G_LINE), "G: an output depends on the other images", False),
    "rows of D": (
        (D_LINE, "images = images - images.mean(0); " + D_LINE),
        "D: an output depends on the other images",
        False,
    ),
    "rows of D, random": (
        (D_LINE, "images = images - images.mean(0) + 0.1 * torch.randn_like(images); " + D_LINE),
        "D: an output depends on the other images",
        True,
    ),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_costs_something_is_noted(tmp_path: Path, name: str, capfd: Capture) -> None:
    change, start, is_eager = NOTED[name]
    assert change[0] in PAIR
    traits = check(tmp_path, PAIR.replace(*change))
    assert traits.notes[0].startswith(start), traits.notes
    assert bool(traits.eager_only) == is_eager
    assert traits.d_mixes_rows == name.startswith("rows of D")
    assert traits.depends_on_processes == ("rows" in name or "random" in name)
    assert not capfd.readouterr().out


@pytest.mark.parametrize("gain", ["torch.zeros(1)", "torch.full((1,), 1e-6)"])
def test_rows_that_only_training_would_mix_are_noted(tmp_path: Path, gain: str) -> None:
    """A gate that is closed at first, and an influence that is small at first."""
    init = "        self.read_out"
    text = PAIR.replace(init, f"        self.gain = nn.Parameter({gain})\n{init}", 1)
    assert not check(tmp_path, text.replace(D_LINE, f"{D_LINE}; features = features * (1 + self.gain)")).d_mixes_rows
    traits = check(tmp_path, text.replace(D_LINE, f"{D_LINE}; features = features + self.gain * features.mean(0)"))
    assert traits.d_mixes_rows
    assert traits.depends_on_processes


def test_rows_of_small_outputs_are_compared_by_their_size(tmp_path: Path) -> None:
    text = PAIR.replace(D_LINE, f"images = images - images.mean(0); {D_LINE}")
    assert check(tmp_path, text.replace(D_RETURN, f"return ({D_LOGITS}) * 1e-5")).d_mixes_rows


@pytest.mark.parametrize(
    "change",
    [
        (D_RETURN, f"logits = {D_LOGITS}; return logits.sigmoid() * 4"),
        (D_LINE, f"{D_LINE}; features = features.sigmoid()"),
        (G_INIT, f"{G_INIT}        self.gain = nn.Parameter(torch.zeros(1))\n"),
    ],
)
def test_a_sigmoid_elsewhere_is_not_noted(tmp_path: Path, change: tuple[str, str]) -> None:
    text = write_pair(tmp_path, "my_gan.py", change).read_text()
    if "gain" in text:
        text = text.replace(G_LINE, f"{G_LINE} * self.gain")  # all 0 at first
    assert not check(tmp_path, text).notes


def test_a_loss_of_the_file_may_take_probabilities(tmp_path: Path) -> None:
    text = PAIR.replace(D_RETURN, f"logits = {D_LOGITS}; return logits.sigmoid()")
    assert check(tmp_path, text).notes
    assert not check(tmp_path, text + LOSS.format("hinge")).notes


LOSSES_OF_FILES = {
    "r - f": "d_loss gives the shape (4, 1). Expected: (), a scalar",
    "1.0": "d_loss returns a float. Expected: a tensor, a scalar",
    "(f - r).mean() * float('nan')": "d_loss gives NaN",
    "(f - r).mean().detach()": "d_loss gives a scalar without a gradient",
    "N.append(0) or (f - r).mean() * len(N)": "d_loss depends on earlier calls",
    "nope(r)": "d_loss (LossFunction) fails: NameError: ... (my_gan.py, line 5",
    "(f - r).mean() * torch.rand(())": "",
}


@pytest.mark.parametrize("d_loss", LOSSES_OF_FILES)
def test_a_loss_of_the_file_is_two_scalars(tmp_path: Path, d_loss: str) -> None:
    loss = "from distgan.config.registry import Loss\nN = []\n\ndef build_loss():\n    return Loss('', lambda r, f: "
    text = loss + d_loss + ", lambda f, r: -f.mean())\n\n\n" + PAIR
    if pattern := LOSSES_OF_FILES[d_loss]:
        with expect_user_error(f"--loss own: {pattern}", code="bad-networks"):
            check(tmp_path, text)
        return
    traits = check(tmp_path, text)
    assert fits("--loss own: d_loss (LossFunction): rand draws", traits.notes[0])
    assert traits.eager_only
    assert traits.depends_on_processes


def test_the_page_keeps_the_contract(tmp_path: Path) -> None:
    pair, loss = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "your_networks.md").read_text(), re.DOTALL)
    assert check(tmp_path, pair + loss) == Traits()


def test_what_forward_prints_is_shown_where_it_fails_too(tmp_path: Path, capfd: Capture) -> None:
    with expect_user_error("generator (Generator) fails: ZeroDivisionError"):
        check(tmp_path, PAIR.replace(G_LINE, f"print('hello', z.shape); 1 / 0; {G_LINE}"))
    assert "hello" in capfd.readouterr().err


def test_steps_that_are_not_repeated_to_the_bit_are_compared_by_how_far_they_are() -> None:
    one, near, far = ({"w": torch.ones(100) + shift} for shift in (0, 1e-4, 0.5))
    assert not find_difference(one, one, one)
    assert find_difference(near, one, one) == "w", "all bits count where they are repeated"
    assert not find_difference(near, one, {"w": torch.ones(100) + 1e-5})
    assert find_difference(far, one, near) == "w"
    assert find_difference(one | {"more": torch.ones(())}, one, one) == "more"
    assert not find_difference({"w": torch.tensor(torch.nan)}, {"w": torch.ones(())}, {"w": torch.ones(())})


def test_an_attribute_of_a_users_own_stays(tmp_path: Path) -> None:
    text = PAIR.replace("self.read_out = ", "self.mixes_rows = 5\n        self.read_out = ")
    (tmp_path / "my_gan.py").write_text(text)
    config = load_networks(Config(model=ModelConfig(networks=str(tmp_path / "my_gan.py"), images=SPEC)))
    gan = build_gan(config.model, config.optim, 3, LocalRuntime(CPU), traits=Traits(d_mixes_rows=True))  # type: ignore[arg-type]
    assert gan.discriminator.mixes_rows == 5


def test_a_layer_without_a_gradient_so_far_resumes(tmp_path: Path) -> None:
    """As where passes leave it out: Adam has no state of it before its first gradient."""
    init = "        self.read_out"
    text = PAIR.replace(init, f"        self.more = nn.Linear(width, width)\n        self.is_on = False\n{init}", 1)
    path = tmp_path / "my_gan.py"
    path.write_text(
        text.replace(D_LINE, f"{D_LINE}\n        features = self.more(features) if self.is_on else features")
    )
    config = load_networks(Config(model=ModelConfig(networks=str(path), images=SPEC)))
    real, labels = torch.rand(6, 3, 16, 16) * 2 - 1, torch.zeros(6, dtype=torch.int64)
    ends, saved = [], None
    for seed in (1, 2):
        gan = build_gan(config.model, config.optim, seed, LocalRuntime(CPU))  # type: ignore[arg-type]
        step = build_step(gan, config.optim, 0, 10)
        if saved is None:
            step(real, labels, range(6))
            saved = gan.state()
        else:
            gan.load_state(saved, 1, "a checkpoint")
        gan.discriminator.is_on = True  # type: ignore[assignment]
        step(real, labels, range(6))
        ends.append(gan.state())
    assert "d_optim.more.weight.exp_avg" not in saved  # type: ignore[operator]
    assert "d_optim.more.weight.exp_avg" in ends[0]
    assert not find_difference(*ends, ends[1])


def test_real_and_fake_take_separate_passes_through_batch_norm(tmp_path: Path) -> None:
    """The losses of a step are those of the textbook's two passes, and not those of one over both."""
    (tmp_path / "my_gan.py").write_text(HEAD + TRAINS["dcgan"][0])
    config = load_networks(Config(model=ModelConfig(networks=str(tmp_path / "my_gan.py"), images=SPEC)))
    real, labels = torch.rand(6, 3, 16, 16) * 2 - 1, torch.zeros(6, dtype=torch.int64)
    found = {}
    for mixes in (True, False):
        gan = build_gan(config.model, config.optim, 3, LocalRuntime(CPU), traits=Traits(mixes))  # type: ignore[arg-type]
        g, d = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
        found[mixes] = float(build_step(gan, config.optim, 0, 10)(real, labels, range(6))[0])
        gan.noise.begin_step(Schedule(config.optim, 0, 10, CPU).at(0).key)
        with gan.shard.bind(range(6)), torch.no_grad():
            fake = g(gan.noise.z(), labels)
        expected = float(bce_d(d(real, labels), d(fake, labels)))
        assert (abs(found[mixes] - expected) < 1e-5) == mixes, (found[mixes], expected)


@pytest.mark.parametrize(("flat", "is_contiguous"), [("x.view(len(x), -1)", True), ("x.flatten(1)", False)])
def test_weights_stay_contiguous_where_a_view_needs_it(tmp_path: Path, flat: str, is_contiguous: bool) -> None:
    layers = "nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))"
    text = PAIR.replace("nn.Flatten(), spectral_norm(nn.Linear(num, width))", "spectral_norm(nn.Linear(128, width))")
    text = text.replace("        self.read_out", f"        self.convs = {layers}\n        self.read_out")
    text = text.replace(D_LINE, f"x = self.convs(images)\n        features = self.features({flat})")
    assert check(tmp_path, text).needs_contiguous_weights == is_contiguous


def test_weights_of_five_dimensions_stay_contiguous(tmp_path: Path) -> None:
    change = in_forward("gain = self.gain.sum()", f"return ({G_LINE[7:]} * gain).tanh()")
    text = PAIR
    for old, new in (*first("self.gain = nn.Parameter(torch.ones(1, 1, 1, 1, 1))"), change):
        text = text.replace(old, new, 1)
    assert check(tmp_path, text).needs_contiguous_weights


def test_a_buffer_that_a_batch_sets_is_for_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAIR
    change = in_forward("self.mean.lerp_(z.detach().mean(), 0.1)")
    for old, new in (*first("self.register_buffer('mean', torch.zeros(()))"), change):
        text = text.replace(old, new, 1)
    (note,) = check(tmp_path, text).notes
    assert note.startswith("generator.mean depends")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with expect_user_error("... generator.mean depends ... [bad-networks] ..."):
        check(tmp_path, text)


def test_parts_of_a_batch_are_rejected_where_rows_are_mixed(tmp_path: Path) -> None:
    (tmp_path / "my_gan.py").write_text(HEAD + TRAINS["dcgan"][0])
    model = ModelConfig(networks=str(tmp_path / "my_gan.py"), images=SPEC)
    config = load_networks(Config(model=model, optim=OptimConfig(d_microbatches=2)))
    with expect_user_error("--d-microbatches: ... (2). Expected: 1 ... [conflicting-settings]"):
        check_contract(config, CPU)


def test_a_first_tensor_of_a_batch_that_is_no_row_is_named(tmp_path: Path) -> None:
    text = PAIR.replace(D_LINE, "features = self.features(images.repeat(2, 1, 1, 1)[:5])[:4]")
    with expect_user_error("discriminator.features.3 (Dropout) fails: ValueError: ... (5, 24) ... batch of 4"):
        check(tmp_path, text)


# -- layers that draw --------------------------------------------------------------------------------------


def test_dropout_of_torch_is_swapped_and_a_subclass_is_not(tmp_path: Path) -> None:
    class Mine(nn.Dropout):
        pass

    layers = [nn.Dropout(0.1), nn.Dropout1d(0.2), nn.Dropout2d(), nn.Dropout3d(), nn.AlphaDropout(), Mine(0.3)]
    network = swap_dropout(nn.Sequential(nn.Sequential(*layers), nn.FeatureAlphaDropout(0.4).eval()))
    kinds = [type(layer) for layer in list_noise_layers(network)]
    assert kinds == [Dropout, ChannelDropout, ChannelDropout, ChannelDropout, AlphaDropout, AlphaDropout]
    assert isinstance(network[0][5], Mine)
    assert network[1].of_channels
    assert not network[1].training
    assert len({layer.salt for layer in list_noise_layers(network)}) == 6
    assert isinstance(swap_dropout(nn.Dropout(0.5)), Dropout)
    shared = nn.Dropout(0.5)
    twice = swap_dropout(nn.Sequential(shared, nn.Sequential(shared), shared))
    assert isinstance(twice[0], Dropout)
    assert twice[0] is twice[1][0] is twice[2], "one layer stays one"
    path = tmp_path / "my_gan.py"
    path.write_text(PAIR)
    model = load_networks(Config(model=ModelConfig(networks=str(path), images=SPEC))).model
    assert type(build_discriminator(model).features[3]) is Dropout


class Source:
    """A BitSource of torch's own numbers."""

    def bits(self, shape: torch.Size, salt: int) -> torch.Tensor:
        return torch.randint(-(2**15), 2**15, shape, dtype=torch.int32, generator=torch.Generator().manual_seed(salt))


@pytest.mark.parametrize(
    ("layer", "reference"),
    [
        (ChannelDropout(0.3), nn.Dropout2d(0.3)),
        (AlphaDropout(0.3), nn.AlphaDropout(0.3)),
        (AlphaDropout(0.3, of_channels=True), nn.FeatureAlphaDropout(0.3)),
    ],
)
def test_swapped_dropout_has_torchs_distribution(layer: nn.Module, reference: nn.Module) -> None:
    x = torch.full((200, 100, 3, 4), 1.5)
    layer.noise = Source()
    ours, theirs = layer(x), reference(x)
    (low, high), counts = ours.unique(return_counts=True)
    (their_low, their_high), _ = theirs.unique(return_counts=True)
    assert torch.allclose(torch.stack([low, high]), torch.stack([their_low, their_high]), atol=1e-3)
    assert 0.28 < counts[0] / x.numel() < 0.32
    assert (ours.flatten(2).std(2) == 0).all() == (not isinstance(layer, AlphaDropout) or layer.of_channels)
    assert torch.equal(layer.eval()(x), x)


def test_normal_is_normal_in_training_and_the_same_for_each_row_in_eval() -> None:
    layer = Normal()
    layer.noise, layer.salt = Source(), 5
    like = torch.zeros(500, 1, 16, 16)
    drawn = layer(like)
    assert drawn.shape == like.shape
    assert abs(float(drawn.mean())) < 0.01
    assert abs(float(drawn.std()) - 1) < 0.01
    fixed = layer.eval()(like)
    assert torch.equal(fixed[0], fixed[-1])
    assert 0.8 < float(fixed[0].std()) < 1.2
    assert torch.equal(fixed[:3], layer(like[:3])), "whatever stands beside it"
    layer.salt = 6
    assert not torch.equal(fixed, layer(like))
