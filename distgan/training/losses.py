"""The losses and gradient penalties that `config.registry.LOSSES` names, and that of a user's file."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.config.image_spec import MNIST_SPEC
from distgan.config.registry import LOSSES, OWN_LOSS, Loss
from distgan.config.schema import ModelConfig, OptimConfig
from distgan.models.user_networks import loaded

Uniform = Callable[[], Tensor]


def find_loss(name: str, model: ModelConfig) -> Loss:
    """Return the loss of that name; OWN_LOSS is that of the model's file, which is loaded by now."""
    if name != OWN_LOSS:
        return LOSSES[name]
    networks = loaded(model)
    assert networks is not None, "models.user_networks.load_networks comes first"
    assert networks.loss is not None
    return networks.loss


def bce_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the cross-entropy with real = 1 and fake = 0, both means added (Goodfellow et al. 2014, eq. 1)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def bce_g(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Return the non-saturating loss: D's logits on fakes against 1 (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


def hinge_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return D's hinge loss (Lim and Ye 2017; Miyato et al. 2018, eq. 16)."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def wasserstein_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the critic's loss (Arjovsky et al. 2017, eq. 3)."""
    return fake_logits.mean() - real_logits.mean()


def minus_mean(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Return minus the mean logit of fakes: G's loss with hinge and Wasserstein."""
    return -fake_logits.mean()


def relativistic(own_logits: Tensor, other_logits: Tensor) -> Tensor:
    """Return the relativistic pairing loss (Jolicoeur-Martineau 2018); own_logits: D's of real images, G's of fakes."""
    return F.softplus(other_logits - own_logits).mean()


def _squared_gradient_norms(discriminator: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return |dD/dx|^2 of each image, (N,), differentiable once more."""
    images = images.detach().requires_grad_(True)
    logits = discriminator(images, labels)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, labels: Tensor, uniform: Uniform) -> Tensor:
    """Return (|dD/dx| - 1)^2 at random points between real and fake (Gulrajani et al. 2017, eq. 3)."""
    mix = uniform().view(-1, 1, 1, 1)
    squared = _squared_gradient_norms(discriminator, torch.lerp(real, fake, mix), labels)
    # The gradient of the root is infinite at 0, which would give NaN for a zero gradient.
    return ((squared + 1e-12).sqrt() - 1).square().mean()


def r1(discriminator: nn.Module, real: Tensor, fake: Tensor, labels: Tensor, uniform: Uniform) -> Tensor:
    """Return |dD/dx|^2 / 2 on real images (Mescheder et al. 2018, eq. 9); the weight is its gamma."""
    return _squared_gradient_norms(discriminator, real, labels).mean() / 2


def r1_r2(discriminator: nn.Module, real: Tensor, fake: Tensor, labels: Tensor, uniform: Uniform) -> Tensor:
    """Return |dD/dx|^2 / 2 on real images and on fakes, added (Huang et al. 2024); the weight is its gamma."""
    if getattr(discriminator, "_distgan_mixes_rows", False):
        return r1(discriminator, real, fake, labels, uniform) + r1(discriminator, fake, real, labels, uniform)
    images = torch.cat([real, fake])
    return _squared_gradient_norms(discriminator, images, torch.cat([labels, labels])).mean()


def with_penalty_weight(config: OptimConfig, model: ModelConfig, batch_size: int) -> OptimConfig:
    """Return the settings with a number for a `penalty_weight` of "auto", for the loss and the images of `model`.

    The weight scales with pixels / batch size, as R1's in StyleGAN2-ADA, 0.0002 * pixels / batch (Karras et al. 2020,
    appendix C). The loss's default weight sets the scale.
    """
    if config.penalty_weight != "auto":
        return config
    loss, images = find_loss(config.loss, model), model.images
    weight = loss.penalty_weight
    if loss.penalty_batch is not None:
        pixels = images.height * images.width / (MNIST_SPEC.height * MNIST_SPEC.width)
        weight = float(f"{weight * pixels * loss.penalty_batch / batch_size:.4g}")
    return config.model_copy(update={"penalty_weight": weight})


def penalty_weight(config: OptimConfig, loss: Loss) -> float:
    """Return the weight of the loss's gradient penalty, 0 for a loss without one."""
    if loss.penalty is None:
        return 0.0
    assert config.penalty_weight != "auto", "a Session replaces it by a number"
    return loss.penalty_weight if config.penalty_weight is None else config.penalty_weight
