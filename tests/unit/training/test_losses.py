"""Each loss against its formula, written out with numpy or solved by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from distgan.config.registry import LOSSES
from distgan.training.losses import gradient_penalty, r1, r1_r2

REAL, FAKE = np.array([[2.0], [-1.0], [0.5]]), np.array([[-3.0], [0.25], [1.5]])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("name", "d_loss", "g_loss"),
    [
        ("bce", -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean(), -np.log(sigmoid(FAKE)).mean()),
        ("r1", -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean(), -np.log(sigmoid(FAKE)).mean()),
        ("hinge", np.maximum(0, 1 - REAL).mean() + np.maximum(0, 1 + FAKE).mean(), -FAKE.mean()),
        ("wgan-gp", FAKE.mean() - REAL.mean(), -FAKE.mean()),
        ("r3gan", -np.log(sigmoid(REAL - FAKE)).mean(), -np.log(sigmoid(FAKE - REAL)).mean()),
    ],
)
def test_losses_are_their_formulas(name: str, d_loss: float, g_loss: float) -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    assert LOSSES[name].d_loss(real, fake).item() == pytest.approx(d_loss, abs=1e-6)
    assert LOSSES[name].g_loss(fake, real).item() == pytest.approx(g_loss, abs=1e-6)


class Linear(nn.Module):
    """D(x) = scale * sum(x): its gradient is `scale` everywhere, of norm scale * 28."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.scale * images.flatten(1).sum(1, keepdim=True)


def test_r1_is_half_the_squared_norm_on_real() -> None:
    critic, images, labels = Linear(0.5), torch.randn(4, 1, 28, 28), torch.zeros(4)
    penalty = r1(critic, images, images, labels, lambda: torch.rand(len(images)))
    assert penalty.item() == pytest.approx((0.5 * 28) ** 2 / 2, rel=1e-5)
    penalty.backward()
    assert critic.scale.grad.item() == pytest.approx(0.5 * 28**2, rel=1e-5)


def test_r1_r2_is_half_the_squared_norm_on_real_and_on_fake() -> None:
    class Bowl(nn.Module):
        """D(x) = |x|^2 / 2: its gradient is x."""

        def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).square().sum(1, keepdim=True) / 2

    real, fake, labels = torch.randn(4, 1, 28, 28), torch.randn(4, 1, 28, 28), torch.zeros(4)
    expected = sum(images.square().sum((1, 2, 3)).mean() for images in (real, fake)) / 2
    assert r1_r2(Bowl(), real, fake, labels, lambda: torch.rand(4)).item() == pytest.approx(float(expected), rel=1e-5)


def test_gradient_penalty_is_the_squared_distance_from_one() -> None:
    critic, labels = Linear(0.5), torch.zeros(4)
    penalty = gradient_penalty(
        critic, torch.randn(4, 1, 28, 28), torch.randn(4, 1, 28, 28), labels, lambda: torch.rand(4)
    )
    assert penalty.item() == pytest.approx((0.5 * 28 - 1) ** 2, rel=1e-5)
    penalty.backward()
    assert critic.scale.grad.item() == pytest.approx(2 * 13 * 28, rel=1e-5)


def test_gradient_penalty_of_a_dead_critic_is_finite() -> None:
    critic = Linear(0.0)
    images = torch.randn(2, 1, 28, 28)
    gradient_penalty(
        critic, images, torch.randn(2, 1, 28, 28), torch.zeros(2), lambda: torch.rand(len(images))
    ).backward()
    assert critic.scale.grad.isfinite()
