"""State of a training: two networks, their optimizers, the moving average, and a step count."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam

from distgan.config.schema import ModelConfig, OptimConfig
from distgan.data.base import Dataset
from distgan.data.clustering import cluster_within
from distgan.distributed.runtime import Runtime
from distgan.distributed.sharding import BatchShard
from distgan.distributed.sync_batchnorm import convert_sync_batchnorm
from distgan.distributed.wrappers import DDPNetwork
from distgan.errors import TrainingFailed, UserError
from distgan.models.base import build_discriminator, build_generator
from distgan.models.layers import draw_from
from distgan.training.lr_schedule import Ema
from distgan.training.noise import Noise


class Traits(NamedTuple):
    """Properties of a user's networks that `contract.py` has found; those of a family have none of them.

    `d_mixes_rows`: D's logit of an image depends on the others of the batch. `eager_only`: see `Gan`.
    `is_contiguous`: they view tensors in a way that weights with channels last do not allow.
    """

    d_mixes_rows: bool = False
    eager_only: str = ""
    is_contiguous: bool = False
    notes: tuple[str, ...] = ()


NO_TRAITS = Traits()


@dataclass
class Gan:
    """`g` and `d` are the two networks in training; `shard` is what this rank has of each batch.

    `noise` is what both draw from; `g_draws`: whether G has layers that do. `is_replicated`: whether BatchNorm's
    statistics too are the same on all ranks. `eager_only`: why only eager steps can be taken, "" if others can.
    """

    g: DDPNetwork
    d: DDPNetwork
    ema: Ema | None
    shard: BatchShard
    noise: Noise
    is_replicated: bool = True
    step: int = 0
    g_draws: bool = False
    eager_only: str = ""

    @property
    def generator(self) -> nn.Module:
        return self.g.module

    @property
    def discriminator(self) -> nn.Module:
        return self.d.module

    @property
    def device(self) -> torch.device:
        return self.noise.device

    @property
    def is_sharded(self) -> bool:
        return self.g.is_sharded or self.d.is_sharded

    @property
    def num_skipped(self) -> int:
        return self.g.num_skipped + self.d.num_skipped

    def sampling_state(self, *, is_raw: bool = False) -> dict[str, Tensor]:
        """Return the weights to draw samples with: the moving average, or G's own without one. All ranks call it."""
        if self.ema and not is_raw:
            return self.ema.network.state_dict()
        with self.g.full_params():
            weights = self.generator.state_dict()
            # Outside of `full_params` the shards of other ranks are gone.
            return {key: value.clone() for key, value in weights.items()} if self.is_sharded else weights

    def labelled(self, dataset: Dataset) -> Dataset:
        """Return the dataset with labels as the networks take them; clusters for a clustered pair.

        The same on every rank, without a word between them.
        """
        counts = getattr(self.generator, "cluster_counts", None)
        if counts is None:
            return dataset
        groups, num = counts.shape
        most = len(dataset.images) // groups
        if num > most:
            raise UserError(
                f"--clusters: too many for {len(dataset.images):,} images ({num}). Expected: at most {most}"
            )
        classes = dataset.labels if groups > 1 else torch.zeros_like(dataset.labels)
        labels = cluster_within(dataset.images, classes, num)
        for network in (self.generator, self.ema.network if self.ema else self.generator):
            network.cluster_counts.copy_(labels.bincount(minlength=groups * num).view(groups, num))  # type: ignore
        return dataset._replace(labels=labels)

    def networks(self) -> dict[str, nn.Module]:
        """Return each network by the name of its file."""
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        return networks | {"generator_ema": self.ema.network} if self.ema else networks

    def state(self) -> dict[str, Tensor]:
        """Return all that the next step depends on, as flat tensors on the CPU that later steps do not change.

        All ranks call it where `is_sharded`.
        """
        with self.g.full_params(), self.d.full_params():
            tensors = {
                f"{name}.{key}": value.detach().to("cpu", copy=True).contiguous()
                for name, network in self.networks().items()
                for key, value in network.state_dict().items()
            }
        for name, trained in (("g_optim", self.g), ("d_optim", self.d)):
            for key, value in trained.adam_state().items():
                tensors[f"{name}.{key}"] = value.to("cpu", copy=True).contiguous()
        return tensors

    def load_state(self, tensors: dict[str, Tensor], step: int, where: str) -> None:
        """Load the result of `state`. Raises UserError that names `where` for a state of other networks.

        A moving average that the state does not have starts at G's weights.
        """
        if not tensors_below(tensors, "generator_ema"):
            average = {f"generator_ema.{key}": value for key, value in tensors_below(tensors, "generator").items()}
            tensors = tensors | average
        found = getattr(self.generator, "cluster_counts", None)
        theirs = tensors.get("generator.cluster_counts")
        # Of a run that `labelled` has prepared. The networks know clusters by their numbers alone.
        if found is not None and theirs is not None and found.any() and not torch.equal(found.cpu(), theirs):
            raise UserError(
                f"{where}: has other clusters of the training images than this version of distgan finds. Expected on "
                "resume: the version that began the run",
                code="wrong-weights",
            )
        for name, trained, optim in (("generator", self.g, "g_optim"), ("discriminator", self.d, "d_optim")):
            own = tensors_below(tensors, name)
            with trained.full_params():
                _check_trained(trained.module, own, f"{where}: {name}")
                # Before the first step Adam has no moments, and so they are not in the file either.
                adam = tensors_below(tensors, optim)
                moments = _moments(adam, trained.module, f"{where}: {optim}") if adam or step else []
            trained.load(own, moments)
        if self.ema:
            average = tensors_below(tensors, "generator_ema")
            _check_trained(self.ema.network, average, f"{where}: generator_ema")
            self.ema.network.load_state_dict(average)
        self.step = step

    def is_finite(self) -> bool:
        """Return whether every weight is finite. Waits for the device. All ranks call it."""
        with self.g.full_params(), self.d.full_params():
            weights: list[Tensor] = [p for n in self.networks().values() for p in n.parameters()]
            return bool(torch.stack(list(torch._foreach_norm(weights))).isfinite().all())


def build_gan(
    model: ModelConfig,
    optim: OptimConfig,
    seed: int,
    runtime: Runtime,
    *,
    sync_batch_norm: bool = True,
    traits: Traits = NO_TRAITS,
) -> Gan:
    """Build both networks with weights drawn from `seed`, the same on every rank. `traits`: of a user's networks."""
    torch.manual_seed(seed)
    memory_format = torch.contiguous_format if traits.is_contiguous else runtime.memory_format
    generator, discriminator = (
        network.to(runtime.device).to(memory_format=memory_format)
        for network in (build_generator(model), build_discriminator(model))
    )
    shard = BatchShard(runtime.rank, runtime.world_size)
    noise = Noise(generator.latent_shape, runtime.device, shard)  # type: ignore[arg-type]  # Module's have no types
    if runtime.world_size > 1 and sync_batch_norm:
        generator = convert_sync_batchnorm(generator, shard, runtime.device)
        discriminator = convert_sync_batchnorm(discriminator, shard, runtime.device)
    draw_from(discriminator, noise)
    discriminator.mixes_rows = traits.d_mixes_rows  # type: ignore[assignment]  # Module's have no types
    # Copied before it is wrapped, which puts autocast around the forward.
    ema = Ema(generator) if optim.ema_decay else None
    g_draws = draw_from(generator, noise)
    g = runtime.wrap_network("generator", generator, _adam(generator, optim.g_lr, optim, runtime))
    d = runtime.wrap_network("discriminator", discriminator, _adam(discriminator, optim.d_lr, optim, runtime))
    is_replicated = sync_batch_norm or runtime.world_size == 1
    return Gan(g, d, ema, shard, noise, is_replicated, g_draws=g_draws, eager_only=traits.eager_only)


def _adam(network: nn.Module, lr: float, config: OptimConfig, runtime: Runtime) -> Adam:
    """Build Adam; on a GPU fused, with rate and counter in device memory, as a graph needs.

    On a CPU a fused Adam rounds by where in memory an element lies, and ZeRO puts it elsewhere.
    """
    betas = (config.beta1, config.beta2)
    if runtime.device.type != "cuda":
        return Adam(network.parameters(), lr=lr, betas=betas)
    rate = torch.tensor(lr, device=runtime.device)
    # fp16's scaler can't detect that a fused Adam has skipped an update (accelerate #4242).
    is_fused = runtime.precision != "fp16"
    return Adam(network.parameters(), lr=rate, betas=betas, fused=is_fused, capturable=True)


def load_weights(network: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load the weights to draw with. Raises UserError for those of another network, and for non-finite ones."""
    check_weights(network, tensors, where)
    check_finite(tensors, where)
    network.load_state_dict(tensors)


def check_weights(network: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Raise UserError that names the first tensor that is missing, unknown, or of another shape or kind of number.

    Floating point numbers of another precision are taken.
    """
    expected = network.state_dict()
    for key, value in expected.items():
        if key not in tensors:
            raise UserError(
                f"{where}: lacks the tensor {key}. Expected: the weights of the network in its config",
                code="wrong-weights",
            )
        found = tensors[key]
        if found.shape != value.shape:
            raise UserError(
                f"{where}: {key} has the shape {list(found.shape)}. Expected, by its config: {list(value.shape)}",
                code="wrong-weights",
            )
        if found.dtype != value.dtype and not (found.is_floating_point() and value.is_floating_point()):
            raise UserError(
                f"{where}: {key} has the type {str(found.dtype)[6:]}. Expected, by its config: {str(value.dtype)[6:]}",
                code="wrong-weights",
            )
    for key in tensors:
        if key not in expected:
            raise UserError(f"{where}: {key[:80]!r} is not a tensor of the network in its config", code="wrong-weights")


def check_finite(tensors: dict[str, Tensor], where: str) -> None:
    """Raise UserError that names the first tensor with a number that is NaN or infinite, in float32 too."""
    for key, value in tensors.items():
        if value.is_floating_point() and not value.float().isfinite().all():
            raise UserError(f"{where}: {key} has non-finite values (NaN or infinite)", code="non-finite-values")


def _check_trained(network: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Raise UserError for what no training can resume from: statistics of BatchNorm may be infinite, as in fp16."""
    check_weights(network, tensors, where)
    check_finite({key: tensors[key] for key, _ in network.named_parameters()}, where)


def _moments(tensors: dict[str, Tensor], network: nn.Module, where: str) -> list[dict[str, Tensor]]:
    """Return Adam's state of each parameter. Raises UserError for one that is missing or of another shape."""
    moments = []
    for name, parameter in network.named_parameters():
        own = tensors_below(tensors, name)
        shapes = {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape, "step": torch.Size([])}
        for key, shape in shapes.items():
            if key not in own or own[key].shape != shape or not own[key].is_floating_point():
                found = f"{list(own[key].shape)}" if key in own else "not there"
                if key in own and not own[key].is_floating_point():
                    found += f" of {str(own[key].dtype)[6:]}"
                raise UserError(
                    f"{where}: {name}.{key} is {found}. Expected: a tensor of the shape {list(shape)}",
                    code="wrong-weights",
                )
        moments.append(own)
    return moments


def tensors_below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors whose key starts with `name.`, without it."""
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(name + ".")}


# -- Check that all ranks hold bit-identical weights, which DDP relies on and does not verify --

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_ranks_equal(gan: Gan, runtime: Runtime) -> None:
    """Raise TrainingFailed that names the first tensor that differs between ranks. All ranks call it."""
    if runtime.world_size == 1:
        return
    with gan.g.full_params(), gan.d.full_params():
        tensors = {
            f"{name}.{key}": value
            for name, network in gan.networks().items()
            for key, value in (network.state_dict() if gan.is_replicated else dict(network.named_parameters())).items()
        }
        if not gan.is_sharded:
            tensors |= {f"g_optim.{key}": value for key, value in gan.g.adam_state().items()}
            tensors |= {f"d_optim.{key}": value for key, value in gan.d.adam_state().items()}
        sums = torch.stack([_sum_of_bits(value).to(runtime.device) for value in tensors.values()])
    everywhere = runtime.all_gather(sums)
    differs = everywhere != everywhere[0]
    if differs.any():
        index = int(differs.any(0).nonzero()[0])
        rank = int(differs[:, index].nonzero()[0])
        raise TrainingFailed(
            f"rank {rank}: {list(tensors)[index]} is not that of rank 0 after step {gan.step}: the processes no longer "
            "train one network",
            advice="resume from a checkpoint, and look for what made them differ: memory, a library, a GPU",
        )


def _sum_of_bits(tensor: Tensor) -> Tensor:
    """Return a sum that changes with any one bit, and not with the order of addition."""
    return tensor.detach().contiguous().view(_BITS[tensor.element_size()]).sum(dtype=torch.int64)
