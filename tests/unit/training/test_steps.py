"""A training step against plain loops written out here, one for each order of updates."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from helpers.runs import ON_CPU, MonkeyPatch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distgan.config.registry import LOSSES, MODELS, ORDERS
from distgan.config.schema import ModelConfig, OptimConfig
from distgan.distributed.runtime import Runtime
from distgan.distributed.sharding import BatchShard
from distgan.models.base import build_discriminator, build_generator
from distgan.models.layers import Dropout, attach_noise
from distgan.models.sampling import sample_z
from distgan.training.engines.compiling import compile_blocks
from distgan.training.gan import Gan, build_gan
from distgan.training.lr_schedule import Ema, Schedule
from distgan.training.noise import Noise
from distgan.training.step import build_step
from distgan.utils.counter_rng import counter_hash, counters, step_key

CPU = torch.device("cpu")


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(ON_CPU)


def holding(num: int, rank: int = 0, world_size: int = 1, start: int = 0) -> BatchShard:
    """A share of a batch of that many rows."""
    shard = BatchShard(rank, world_size)
    shard.rows = range(start, start + num)
    return shard


def batches(num: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.rand(8, 1, 28, 28, generator=generator) * 2 - 1, torch.randint(10, (8,), generator=generator))
        for _ in range(num)
    ]


def plain_loop(model: ModelConfig, order: str, num_steps: int) -> tuple[dict[str, Tensor], list[list[float]]]:
    """The textbook's loop: separate passes, no freezing, everything by torch's own functions."""
    torch.manual_seed(7)
    G, D = build_generator(model), build_discriminator(model)
    g_optim = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.9))
    d_optim = torch.optim.Adam(D.parameters(), lr=2e-3, betas=(0.5, 0.9))
    noise = Noise(G.latent_shape, CPU, holding(8))
    losses = []

    def bce(logits: Tensor, target: float) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    for index, (real, labels) in enumerate(batches(num_steps)):
        noise.begin_step(torch.tensor(step_key(7, index), dtype=torch.int32))
        fake = G(noise.z(), labels)
        d_loss = bce(D(real, labels), 1) + bce(D(fake.detach(), labels), 0)
        d_grads = torch.autograd.grad(d_loss, list(D.parameters()))
        if order == "simultaneous":
            g_grads = torch.autograd.grad(g_loss := bce(D(fake, labels), 1), list(G.parameters()))
        for parameter, gradient in zip(D.parameters(), d_grads, strict=True):
            parameter.grad = gradient
        d_optim.step()
        if order == "alternating":
            g_grads = torch.autograd.grad(g_loss := bce(D(fake, labels), 1), list(G.parameters()))
        if order == "alternating-fresh":
            g_loss = bce(D(G(noise.z(), labels), labels), 1)
            g_grads = torch.autograd.grad(g_loss, list(G.parameters()))
        for parameter, gradient in zip(G.parameters(), g_grads, strict=True):
            parameter.grad = gradient
        g_optim.step()
        losses.append([d_loss.item(), g_loss.item()])
    return {f"G.{k}": v for k, v in G.state_dict().items()} | {f"D.{k}": v for k, v in D.state_dict().items()}, losses


def our_loop(
    runtime: Runtime, model: ModelConfig, order: str, num_steps: int, **optim: object
) -> tuple[Gan, list[list[float]]]:
    config = OptimConfig(**({"order": order, "g_lr": 1e-3, "d_lr": 2e-3, "beta1": 0.5, "beta2": 0.9} | optim))
    gan = build_gan(model, config, 7, runtime)
    step = build_step(gan, config, 7, total_steps=num_steps)
    return gan, [step(real, labels, range(len(real))).tolist() for real, labels in batches(num_steps)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "family"), [("vanilla", "report2023"), ("cgan", "report2023"), ("cgan", "dcgan")])
def test_step_is_the_textbooks(runtime: Runtime, name: str, family: str, order: str) -> None:
    model = ModelConfig(name=name, family=family, width=0.1, dropout=0.0)
    expected, losses = plain_loop(model, order, 4)
    gan, ours = our_loop(runtime, model, order, 4)
    assert torch.allclose(torch.tensor(ours)[:, :2], torch.tensor(losses), rtol=1e-4, atol=1e-6)
    state = {f"G.{k}": v for k, v in gan.generator.state_dict().items()}
    state |= {f"D.{k}": v for k, v in gan.discriminator.state_dict().items()}
    for key, value in expected.items():
        # Adam's first steps are the sign of the gradient, which for one near 0 is rounding's.
        difference = (state[key].float() - value.float()).norm() / (value.float().norm() + 1e-3)
        assert difference < 2e-3, f"{key} differs by {difference:.1e}"


def test_the_three_orders_are_three_algorithms(runtime: Runtime) -> None:
    model = ModelConfig(family="dcgan", width=0.1, dropout=0.0)
    losses = [our_loop(runtime, model, order, 3)[1] for order in ORDERS]
    assert losses[0] != losses[1]
    assert losses[1] != losses[2]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("name", MODELS)
def test_every_loss_trains_every_model(runtime: Runtime, name: str, loss: str) -> None:
    gan, stats = our_loop(runtime, ModelConfig(name=name, family="dcgan", width=0.1), "alternating", 3, loss=loss)
    assert torch.tensor(stats).isfinite().all()
    assert gan.is_finite()
    assert gan.step == 3
    assert all(parameter.requires_grad for parameter in gan.discriminator.parameters())


def test_penalty_weight_acts(runtime: Runtime) -> None:
    model = ModelConfig(family="dcgan", width=0.1, dropout=0.0)
    states = [
        our_loop(runtime, model, "alternating", 3, loss="r1", penalty_weight=weight)[0].state()
        for weight in (None, 10, 0, 50)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), "r1's own weight is 10"
    for other in states[2:]:
        assert not torch.equal(states[0]["discriminator.read_out.weight"], other["discriminator.read_out.weight"])
    plain = our_loop(runtime, model, "alternating", 3, loss="bce")[0].state()
    assert all(torch.equal(states[2][key], plain[key]) for key in plain), "weight 0 is no penalty"


def test_linear_schedule_falls_to_zero(runtime: Runtime) -> None:
    model = ModelConfig(family="dcgan", width=0.1)
    gan, _ = our_loop(runtime, model, "alternating", 4, lr_schedule="linear")
    assert gan.g.lr == pytest.approx(1e-3 / 4)
    assert gan.d.lr == pytest.approx(2e-3 / 4)


def test_ema_is_its_recurrence() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    ema, expected = Ema(network), network[0].weight.detach().clone()
    schedule = Schedule(OptimConfig(ema_decay=0.8), 0, 100, CPU, num=7)
    for step in range(1, 30):
        torch.nn.init.normal_(network[0].weight)
        ema.update(network, schedule.at(step - 1).rates[2])
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network[0].weight.detach()
        assert torch.allclose(ema.network[0].weight, expected, atol=1e-6)


def test_ema_takes_batch_norm_statistics_as_they_are() -> None:
    network = torch.nn.BatchNorm1d(3)
    ema = Ema(network)
    network(torch.randn(8, 3) + 5)
    ema.update(network, torch.tensor(0.1))
    assert torch.equal(ema.network.running_mean, network.running_mean)
    assert ema.network.num_batches_tracked == 1


def test_state_goes_there_and_back(runtime: Runtime) -> None:
    model = ModelConfig(family="dcgan", width=0.1)
    gan, _ = our_loop(runtime, model, "alternating", 3, ema_decay=0.9)
    config = OptimConfig(ema_decay=0.9)
    other = build_gan(model, config, 8, runtime)
    other.load_state(gan.state(), gan.step, "there")
    assert gan.state().keys() == other.state().keys()
    for key, value in gan.state().items():
        assert torch.equal(value, other.state()[key]), key
    prefixes = {key.split(".")[0] for key in gan.state()}
    assert prefixes == {"generator", "discriminator", "generator_ema", "g_optim", "d_optim"}


# -- noise -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(num=st.integers(1, 30), start=st.integers(0, 40), world_size=st.integers(1, 5), blocks=st.integers(1, 2))
def test_shares_together_are_the_batch(num: int, start: int, world_size: int, blocks: int) -> None:
    """Each row once, where the images of that row are: what the rank's own list of images has at `places`."""
    for rank in range(world_size):
        shard = holding(num, rank, world_size, start)
        own = list(range(rank, start + num, world_size))[shard.local_slice(shard.rows)]
        assert all(start <= row < start + num for row in own)
        assert shard.num == len(own)
        assert shard.weight == len(own) * world_size / num
        assert [start + number for number in shard.row_indices(CPU).tolist()] == own
        if own:
            assert shard.num_rows_over_ranks(blocks * len(own)) == blocks * num
    assert sum(holding(num, rank, world_size, start).num for rank in range(world_size)) == num


@settings(max_examples=60, deadline=None)
@given(num=st.integers(1, 30), start=st.integers(0, 40), world_size=st.integers(1, 4), parts=st.integers(1, 5))
def test_parts_of_a_batch_are_the_same_rows_on_any_ranks(num: int, start: int, world_size: int, parts: int) -> None:
    everyones: list[set[int]] = [set() for _ in range(parts)]
    for rank in range(world_size):
        shard = holding(num, rank, world_size, start)
        own = shard.row_indices(CPU)
        weights, rows = [], []
        for index, (places, weight) in enumerate(shard.microbatches(parts)):
            weights.append(weight)
            rows += own[places].tolist()
            everyones[index] |= set(own[places].tolist())
        assert rows == own.tolist()
        assert sum(weights) == pytest.approx(shard.weight)
        assert shard.rows == range(start, start + num), "and afterwards the complete batch again"
    bounds = [num * index // parts for index in range(parts + 1)]
    assert everyones == [set(range(a, b)) for a, b in pairwise(bounds)]


def started(seed: int, step: int, shard: BatchShard, latent_shape: tuple[int, ...] = (5,)) -> Noise:
    noise = Noise(latent_shape, CPU, shard)
    noise.begin_step(torch.tensor(step_key(seed, step), dtype=torch.int32))
    return noise


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("num", [12, 10])
def test_ranks_together_draw_what_one_process_draws(world_size: int, num: int) -> None:
    full = started(3, 11, holding(num))
    draws = full.z(), full.z(), full.uniform()
    for rank in range(world_size):
        part = started(3, 11, holding(num, rank, world_size))
        for drawn, own in zip(draws, (part.z(), part.z(), part.uniform()), strict=True):
            assert torch.equal(own, drawn[rank::world_size])


def test_noise_depends_on_step_seed_pass_and_row() -> None:
    def draw(seed: int, step: int, rank: int) -> list[Tensor]:
        noise = started(seed, step, holding(8, rank, 2))
        drawn = [noise.z(), noise.z()]
        noise.begin_forward()
        return [*drawn, noise.bits(torch.Size([4, 6]), 0), noise.bits(torch.Size([4, 6]), 9)]

    drawn, again = draw(1, 2, 0), draw(1, 2, 0)
    assert all(map(torch.equal, drawn, again))
    for other in (draw(2, 2, 0), draw(1, 3, 0), draw(1, 2, 1)):
        assert not any(map(torch.equal, drawn, other))
    assert not torch.equal(drawn[0], drawn[1]), "each draw has its own numbers"
    assert not torch.equal(drawn[2], drawn[3]), "and each layer"
    assert len(drawn[0].unique()) == drawn[0].numel()
    assert len({step_key(seed, step) for seed in range(50) for step in range(50)}) == 2500


def test_noise_is_what_its_counters_and_key_say() -> None:
    """In Python's own integers: what wraps, and what a shift draws in, is not left to torch."""

    def expected(counter: int, key: tuple[int, int], salt: int) -> int:
        x = (counter * 0x9E3779B9 + key[0] + salt) % 2**32
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32 ^ key[1] % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        x ^= x >> 16
        return x - 2**32 if x >= 2**31 else x

    for key in ((5, 7), (-(2**31), 2**31 - 1), step_key(3, 4)):
        rows, columns = torch.tensor([0, 1, 250_000], dtype=torch.int32), torch.arange(5, dtype=torch.int32)
        counter = counters(rows, 90_001), counters(columns, 1)
        words = counter_hash(*counter, torch.tensor(key, dtype=torch.int32), salt=77)
        for row, drawn in zip(rows.tolist(), words.tolist(), strict=True):
            assert drawn == [expected(row * 90_001 + column, key, 77) for column in range(5)]


def test_noise_is_normal_uniform_and_without_pattern() -> None:
    """Means, spreads, tails and correlations of half a million numbers, within five standard errors."""
    noise = started(1, 2, holding(5000), (101,))
    noise.begin_forward()
    z = noise.z()
    assert z.shape == (5000, 101)
    num = z.numel()
    assert abs(z.mean()) < 5 / num**0.5
    assert abs(z.var() - 1) < 5 * (2 / num) ** 0.5
    for bound, share in ((1, 0.3173), (2, 0.0455), (3, 0.0027)):
        assert (z.abs() > bound).float().mean().item() == pytest.approx(share, abs=5 * (share / num) ** 0.5)
    other = noise.z()
    for one, two in ((z[:, 1:], z[:, :-1]), (z[1:], z[:-1]), (z, other), (z[:, :50], z[:, 51:])):
        assert abs((one * two).mean()) < 5 / one.numel() ** 0.5
    uniform = noise.uniform()
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert torch.histc(uniform, 10, 0, 1).sub(500).abs().max() < 5 * 500**0.5
    bits = noise.bits(torch.Size([5000, 64]), 1).flatten().int() + 2**15
    for low in range(16):
        assert abs((bits >> low & 1).float().mean() - 0.5) < 5 * 0.5 / bits.numel() ** 0.5, low
    cells = torch.bincount(bits >> 6, minlength=1024).float()
    chi = ((cells - bits.numel() / 1024).square() / (bits.numel() / 1024)).sum()
    assert abs(chi - 1023) < 5 * (2 * 1023) ** 0.5


@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (6, 1), (7, 5), (4, 3, 1, 1)])
def test_bits_are_the_same_however_they_are_made(shape: tuple[int, ...], monkeypatch: MonkeyPatch) -> None:
    """A compiler makes them element by element."""
    noise, other = (started(1, 2, holding(shape[0] // 2 if shape[0] % 2 == 0 else shape[0])) for _ in range(2))
    for each in (noise, other):
        each.begin_forward()
    eager, eager_again = (noise.bits(torch.Size(shape), 5) for _ in range(2))
    assert eager.shape == shape
    assert shape[1] != 6 or eager.is_contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    compiled, compiled_again = (other.bits(torch.Size(shape), 5) for _ in range(2))
    assert compiled.dtype == torch.int32
    assert torch.equal(eager.int(), compiled)
    assert torch.equal(eager_again.int(), compiled_again)


def test_a_layer_that_runs_several_times_in_a_pass_has_other_masks_each_time() -> None:
    """The same ones in the next step of that key, and other ones than the next pass and the next layer have."""
    found = []
    for _ in range(2):
        noise = started(1, 2, holding(16))
        for _ in range(2):
            noise.begin_forward()
            found += [noise.bits(torch.Size([16, 64]), salt) for salt in (0, 0x2545F491, 0, 0)]
    for one in range(8):
        assert torch.equal(found[one], found[one + 8])
        for other in range(one):
            assert (found[one] == found[other]).float().mean() < 0.01, (one, other)


def test_a_compiled_block_counts_the_calls_of_a_layer() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.dropout(x) + 2 * self.dropout(x)

    block, x = Twice(), torch.ones(8, 40)
    noise = started(1, 2, holding(8))
    attach_noise(block, noise)
    noise.begin_forward()
    eager = [block(x), block(x)]
    assert set(eager[0].unique().tolist()) == {0, 2, 4, 6}
    compile_blocks([block], "aot_eager")
    noise.begin_step(torch.tensor(step_key(1, 2), dtype=torch.int32))
    noise.begin_forward()
    assert all(map(torch.equal, eager, [block(x), block(x)]))


def test_real_and_fake_of_one_pass_have_masks_of_their_own() -> None:
    noise = started(1, 2, holding(16))
    noise.begin_forward()
    real, fake = noise.bits(torch.Size([32, 64]), 3).chunk(2)
    assert (real == fake).float().mean() < 0.01


@pytest.mark.parametrize("loss", ["bce", "r1", "r3gan", "wgan-gp"])
def test_each_pass_through_d_has_masks_of_its_own(runtime: Runtime, monkeypatch: MonkeyPatch, loss: str) -> None:
    """D's own, that of a penalty, and G's, in each of two steps."""
    keys, bits = set(), Noise.bits

    def watched(self: Noise, shape: torch.Size, salt: int) -> Tensor:
        keys.add((*self.key.tolist(), salt))
        return bits(self, shape, salt)

    monkeypatch.setattr(Noise, "bits", watched)
    our_loop(runtime, ModelConfig(name="vanilla", family="dcgan", width=0.1, dropout=0.3), "alternating", 2, loss=loss)
    num_layers, num_passes = 2, 2 if loss == "bce" else 3
    assert len(keys) == num_layers * num_passes * 2


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (6, 1), (7, 5)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_dropouts_mask_is_that_of_one_process(shape: tuple[int, ...], world_size: int, blocks: int) -> None:
    """Real and fake images joined in one pass as well, and where the ranks have unlike numbers of rows."""
    x = torch.rand(shape) + 1

    def dropped(shard: BatchShard) -> Tensor:
        module, noise = nn.Sequential(Dropout(0.4)), started(3, 1, shard)
        attach_noise(module, noise)
        noise.begin_forward()
        return module(x[shard.row_indices(CPU)].repeat(blocks, *[1] * (x.ndim - 1)))

    full = dropped(holding(len(x)))
    assert 0 < (full == 0).sum() < full.numel()
    for rank in range(world_size):
        expected = torch.cat([block[rank::world_size] for block in full.chunk(blocks)])
        assert torch.equal(dropped(holding(len(x), rank, world_size)), expected)


def test_sample_z_is_the_same_for_every_number() -> None:
    assert torch.equal(sample_z(600, (4,), 1)[:10], sample_z(10, (4,), 1))
    assert not torch.equal(sample_z(10, (4,), 1), sample_z(10, (4,), 2))
    assert len(torch.unique(sample_z(600, (4,), 1)[:, 0])) == 600


def test_dropout_is_dropout() -> None:
    """Ours, of 16 random bits an element, has nn.Dropout's mean, share and gradient."""
    layer, noise = Dropout(0.3), started(0, 0, holding(512))
    attach_noise(layer, noise)
    for shape in ((512, 128, 10, 10), (512, 256), (3, 1)):
        for memory in (torch.contiguous_format, torch.channels_last):
            if memory is torch.channels_last and len(shape) != 4:
                continue
            images = torch.ones(shape).to(memory_format=memory).requires_grad_()
            noise.shard.rows = range(shape[0])
            noise.begin_forward()
            output = layer(images)
            kept = output != 0
            assert output[kept].unique().tolist() == pytest.approx([1 / 0.7] * len(output[kept].unique()), rel=1e-4)
            output.sum().backward()
            assert torch.equal(images.grad, output.detach())
            if images.numel() > 1000:
                assert kept.float().mean().item() == pytest.approx(0.7, abs=0.01)
                assert kept.flatten(1).float().mean(1).std() < 0.05, "no row is favoured"
    noise.shard.rows = range(8)
    once, again = (noise.begin_forward() or layer(torch.ones(8, 8)) for _ in range(2))
    assert not torch.equal(once, again)
    assert torch.equal(layer.eval()(torch.ones(8, 8)), torch.ones(8, 8))
    assert torch.equal(Dropout(0.0)(torch.ones(8, 8)), torch.ones(8, 8))
    attach_noise(layer := Dropout(1 - 2**-40), noise)
    assert layer(torch.ones(8, 8)).isfinite().all(), "the largest that 16 bits have"
