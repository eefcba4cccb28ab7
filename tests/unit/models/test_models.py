"""The networks are the report's, layer by layer."""

import pytest
import torch
from helpers.runs import MonkeyPatch
from torch import nn

from distgan.config.registry import FAMILIES, MODELS
from distgan.config.schema import ModelConfig
from distgan.models.base import build_discriminator, build_generator, num_parameters
from distgan.models.layers import (
    BatchNorm2d,
    ChannelsLastFlatten,
    Conv2d,
    ReadOut,
    TransposedConv2d,
    channels_last,
    fourier_convolve,
)

# The report's layers, counted by hand: D pads by 5, so its last layer has 10 * 10 * 128 inputs.
SEED_G = 100 * 12_544 + 2 * 12_544 + 256 * 128 * 25 + 2 * 128 + 128 * 64 * 25 + 2 * 64 + 64 * 25
SEED_D = 64 * 25 + 64 + 64 * 128 * 25 + 128 + 10 * 10 * 128 + 1


# Families that take both models and no clusters.
PLAIN = [name for name, entry in FAMILIES.items() if not entry.takes_clusters and set(entry.models) == set(MODELS)]
CLUSTERS = {"vanilla": 250, "cgan": 25}  # those of the fast presets


@pytest.mark.parametrize(
    ("name", "family", "g", "d"),
    [
        ("vanilla", "report2023", 2_305_472, 219_393),
        ("cgan", "report2023", 2_430_912, 236_545),
        ("vanilla", "dcgan", 771_969, 36_513),
        ("cgan", "dcgan", 834_689, 67_873),
        ("vanilla", "clustered", 980_673, 144_897),
        ("cgan", "clustered", 980_673, 144_897),
    ],
)
def test_parameter_counts_are_pinned(name: str, family: str, g: int, d: int) -> None:
    config = ModelConfig(name=name, family=family, clusters=CLUSTERS[name] if family == "clustered" else None)
    assert num_parameters(build_generator(config)) == g
    assert num_parameters(build_discriminator(config)) == d


def test_seed_counts_follow_from_the_reports_layers() -> None:
    assert SEED_G == 2_305_472
    assert SEED_D == 219_393
    assert SEED_G + 10 * 12_544 == 2_430_912
    assert 794 * 256 + 256 + 256 * 128 + 128 + 128 + 1 == 236_545


def test_seed_discriminator_sees_10x10_maps() -> None:
    main = build_discriminator(ModelConfig(name="vanilla")).main
    features = main[:6](torch.zeros(1, 1, 28, 28))
    assert features.shape == (1, 128, 10, 10)
    assert main[7].in_features == 12_800


def test_seed_generator_grows_7_7_14_28() -> None:
    generator = build_generator(ModelConfig(name="vanilla"))
    sizes = []
    for layer in generator.main:
        if isinstance(layer, nn.ConvTranspose2d):
            layer.register_forward_hook(
                lambda _, inputs, output: sizes.append((*inputs[0].shape[1:], *output.shape[1:]))
            )
    generator(torch.zeros(2, 100), torch.zeros(2, dtype=torch.long))
    assert sizes == [(256, 7, 7, 128, 7, 7), (128, 7, 7, 64, 14, 14), (64, 14, 14, 1, 28, 28)]


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("width", [0.05, 0.5, 1.0])
def test_shapes_and_range(family: str, name: str, width: float) -> None:
    config = ModelConfig(name=name, family=family, width=width)
    generator, discriminator = build_generator(config), build_discriminator(config)
    z, labels = torch.randn(3, *generator.latent_shape), torch.tensor([0, 5, 9])
    images = generator(z, labels)
    assert images.shape == (3, 1, 28, 28)
    assert images.abs().max() <= 1
    assert discriminator(images, labels).shape == (3, 1)


@pytest.mark.parametrize("family", PLAIN)
def test_only_the_conditional_networks_see_the_label(family: str) -> None:
    for name, matters in (("vanilla", False), ("cgan", True)):
        config = ModelConfig(name=name, family=family)
        generator, discriminator = build_generator(config).eval(), build_discriminator(config).eval()
        z = torch.randn(4, *generator.latent_shape)
        zeros, ones = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
        images = generator(z, zeros)
        assert torch.equal(images, generator(z, ones)) != matters
        assert torch.equal(discriminator(images, zeros), discriminator(images, ones)) != matters


@pytest.mark.parametrize("family", PLAIN)
def test_weights_over_classes_include_the_class(family: str) -> None:
    """A label as a one-hot row is that label: between two rows lies a walk between two digits."""
    generator = build_generator(ModelConfig(name="cgan", family=family)).eval()
    z, labels = torch.randn(3, 100), torch.tensor([1, 2, 3])
    assert torch.equal(generator(z, labels), generator(z, nn.functional.one_hot(labels, 10).float()))


def test_noise_map_stem_is_the_literal_reading() -> None:
    generator = build_generator(ModelConfig(name="vanilla", stem="noise-map"))
    assert generator.latent_shape == (256, 7, 7)
    assert num_parameters(generator) == 2_305_472 - 100 * 12_544 - 2 * 12_544
    assert generator(torch.randn(2, 256, 7, 7), torch.zeros(2)).shape == (2, 1, 28, 28)


def test_logit_tail_shrinks_negative_logits() -> None:
    """The report's D: LeakyReLU on the logit, then dropout, which is off in eval mode."""
    with_tail = build_discriminator(ModelConfig(name="cgan", logit_tail=True)).eval()
    without = build_discriminator(ModelConfig(name="cgan", logit_tail=False)).eval()
    without.load_state_dict(with_tail.state_dict())
    images, labels = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))
    plain = without(images, labels)
    assert (plain < 0).any()
    assert torch.allclose(with_tail(images, labels), torch.where(plain < 0, 0.2 * plain, plain))
    dropped = with_tail.train()(images, labels)
    assert (dropped == 0).any()


def test_linear_stem_has_no_bias_and_a_batch_norm() -> None:
    linear, norm, activation = build_generator(ModelConfig()).stem
    assert linear.bias is None
    assert isinstance(norm, nn.BatchNorm1d)
    assert activation.negative_slope == 0.2


@pytest.mark.parametrize(
    ("kernel", "padding", "output_padding", "bias"),
    [(5, 2, 1, False), (4, 1, 0, True), (3, 1, 1, True), (6, 2, 0, False), (2, 0, 0, True), (7, 3, 1, False),
     (5, 2, 0, True), (3, 0, 0, False)],
)  # fmt: skip
def test_transposed_convolution_is_torchs(kernel: int, padding: int, output_padding: int, bias: bool) -> None:
    """Outputs and gradients, in float64; the last two do not double the size, and are torch's own."""
    layer = TransposedConv2d(6, 1, kernel, stride=2, padding=padding, output_padding=output_padding, bias=bias).double()
    images = torch.randn(3, 6, 7, 9, dtype=torch.float64, requires_grad=True)
    results = []
    for forward in (layer.forward, lambda x: nn.ConvTranspose2d.forward(layer, x)):
        output = forward(images)
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
        gradients = torch.autograd.grad((output * weights).sum(), [images, *layer.parameters()])
        results.append([output, *gradients])
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_transposed_convolution_takes_the_other_form_where_it_may(monkeypatch: MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(nn.ConvTranspose2d, "forward", lambda self, *_: taken.append(self.out_channels))
    TransposedConv2d(6, 1, 5, stride=2, padding=2, output_padding=1)(torch.zeros(1, 6, 7, 7))
    TransposedConv2d(6, 2, 5, stride=2, padding=2, output_padding=1)(torch.zeros(1, 6, 7, 7))
    TransposedConv2d(6, 1, 5, stride=1, padding=2)(torch.zeros(1, 6, 7, 7))
    assert taken == [2, 1]


@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [((7, 7), (5, 5), 2), ((6, 9), (5, 5), 2), ((4, 5), (3, 3), 0), ((5, 4), (2, 4), 1), ((3, 3), (4, 4), 3),
     ((1, 1), (3, 3), 1)],
)  # fmt: skip
def test_fourier_convolution_is_torchs(size: tuple[int, int], kernel: tuple[int, int], padding: int) -> None:
    """In float64; also if the first call was in inference mode."""
    images = torch.randn(4, 3, *size, requires_grad=True, dtype=torch.float64)
    weight = torch.randn(6, 3, *kernel, requires_grad=True, dtype=torch.float64)
    with torch.inference_mode():
        fourier_convolve(images, weight, padding)
    results = []
    for output in (fourier_convolve(images, weight, padding), nn.functional.conv2d(images, weight, padding=padding)):
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
        results.append([output, *torch.autograd.grad((output * weights).sum(), [images, weight])])
    for name, ours, theirs in zip(("output", "images", "kernel"), *results, strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12), name


@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolution_by_fourier_is_torchs(bias: bool) -> None:
    """A batch of 40 images goes by Fourier, one of 8 is torch's own."""
    layer = TransposedConv2d(6, 4, 5, stride=1, padding=2, bias=bias)
    images = torch.randn(40, 6, 7, 7)
    theirs = nn.ConvTranspose2d.forward(layer, images)
    assert torch.allclose(layer(images), theirs, rtol=1e-5, atol=1e-5)
    assert not torch.equal(layer(images), theirs)
    assert torch.equal(layer(images[:8]), nn.ConvTranspose2d.forward(layer, images[:8]))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [(5, 2, 5, (14, 14)), (5, 2, 5, (15, 12)), (3, 1, 4, (6, 6)), (3, 3, 5, (7, 9)), (4, 2, 7, (5, 5)),
     (1, 1, 2, (3, 4))],
)  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_without_its_empty_border_is_torchs(
    kernel: int, stride: int, padding: int, size: tuple[int, int], bias: bool, monkeypatch: MonkeyPatch
) -> None:
    layer = Conv2d(3, 6, kernel, stride=stride, padding=padding, bias=bias)
    images = torch.randn(4, 3, *size, requires_grad=True)
    results = []
    for forward in (layer.forward, lambda x: nn.Conv2d.forward(layer, x)):
        output = forward(images)
        weights = torch.linspace(-1, 1, output.numel()).view_as(output)
        results.append([output, *torch.autograd.grad((output * weights).sum(), [images, *layer.parameters()])])
    for name, ours, theirs in zip(("output", "images", "weight", "bias"), *results, strict=False):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-4), name
    taken = []
    monkeypatch.setattr(nn.Conv2d, "forward", lambda *_: taken.append("torch's"))
    layer(images)
    assert not taken
    # Nothing is gained for the input's gradient alone, in bfloat16, or where each output sees some input.
    layer.requires_grad_(False)(images)
    layer.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        layer(images)
    Conv2d(3, 6, 5, padding=4)(images)
    assert len(taken) == 3


def test_read_out_is_a_linear_layer_on_what_torch_flattens() -> None:
    images, linear = torch.randn(4, 3, 5, 2), ReadOut(3, 5, 2, 7)
    expected = nn.functional.linear(images.flatten(1), linear.weight, linear.bias)
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        assert torch.allclose(linear(ChannelsLastFlatten()(given)), expected, atol=1e-6)
    assert linear.weight.shape == (7, 30), "a checkpoint's Linear"


@pytest.mark.parametrize("channels", [1, 5])
def test_channels_last_moves_memory_alone(channels: int) -> None:
    images = torch.randn(4, channels, 3, 2)
    moved = channels_last(images)
    assert torch.equal(moved, images)
    assert moved.stride() == (6 * channels, 1, 2 * channels, channels)


def test_batch_norm_of_many_images_keeps_its_digits() -> None:
    """torch's own loses three where the channels come last: it fails this by 6e-4."""
    generator = torch.Generator().manual_seed(0)
    images = channels_last(torch.randn(3000, 6, 14, 14, generator=generator) * 0.3 + 1)
    expected = nn.BatchNorm2d(6).double()(images.double())
    assert (BatchNorm2d(6)(images).double() - expected).abs().max() < 5e-6
