"""The networks are the report's, layer by layer."""

import pytest
import torch
from torch import nn

from distgan.config import ModelConfig
from distgan.models import build_discriminator, build_generator, num_parameters

# The report's layers, counted by hand: D pads by 5, so its last layer has 10 * 10 * 128 inputs.
SEED_G = 100 * 12_544 + 2 * 12_544 + 256 * 128 * 25 + 2 * 128 + 128 * 64 * 25 + 2 * 64 + 64 * 25
SEED_D = 64 * 25 + 64 + 64 * 128 * 25 + 128 + 10 * 10 * 128 + 1


@pytest.mark.parametrize(
    ("name", "family", "g", "d"),
    [
        ("vanilla", "seed", 2_305_472, 219_393),
        ("cgan", "seed", 2_430_912, 236_545),
        ("vanilla", "small", 771_969, 36_513),
        ("cgan", "small", 834_689, 67_873),
    ],
)
def test_parameter_counts_are_pinned(name: str, family: str, g: int, d: int) -> None:
    config = ModelConfig(name=name, family=family)
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


@pytest.mark.parametrize("family", ["seed", "small"])
@pytest.mark.parametrize("name", ["vanilla", "cgan"])
@pytest.mark.parametrize("width", [0.05, 0.5, 1.0])
def test_shapes_and_range(family: str, name: str, width: float) -> None:
    config = ModelConfig(name=name, family=family, width=width)
    generator, discriminator = build_generator(config), build_discriminator(config)
    z, labels = torch.randn(3, *generator.latent_shape), torch.tensor([0, 5, 9])
    images = generator(z, labels)
    assert images.shape == (3, 1, 28, 28)
    assert images.abs().max() <= 1
    assert discriminator(images, labels).shape == (3, 1)


@pytest.mark.parametrize("family", ["seed", "small"])
def test_only_the_conditional_networks_see_the_label(family: str) -> None:
    for name, matters in (("vanilla", False), ("cgan", True)):
        config = ModelConfig(name=name, family=family)
        generator, discriminator = build_generator(config).eval(), build_discriminator(config).eval()
        z = torch.randn(4, *generator.latent_shape)
        zeros, ones = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
        images = generator(z, zeros)
        assert torch.equal(images, generator(z, ones)) != matters
        assert torch.equal(discriminator(images, zeros), discriminator(images, ones)) != matters


@pytest.mark.parametrize("family", ["seed", "small"])
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
