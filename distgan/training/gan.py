"""State of a training: two networks, their optimizers, the moving average, and the step count."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam

from distgan.config.registry import Loss
from distgan.config.schema import ModelConfig, OptimConfig
from distgan.data.base import Dataset
from distgan.data.clustering import check_clusters, cluster_within
from distgan.distributed.runtime import Runtime
from distgan.distributed.sharding import BatchShard
from distgan.distributed.sync_batchnorm import convert_sync_batchnorm
from distgan.distributed.wrappers import WrappedNetwork
from distgan.errors import TrainingFailed, UserError
from distgan.models.base import build_discriminator, build_generator
from distgan.models.layers import attach_noise
from distgan.training.losses import find_loss
from distgan.training.lr_schedule import Ema
from distgan.training.noise import Noise
from distgan.training.ranks_alike import check_built_alike, check_outputs_alike, sum_of_bits


class Traits(NamedTuple):
    """Properties of a user's networks that `contract.py` has found; those of a family have none of them.

    `d_mixes_rows`: D's logit of an image depends on the others of the batch. `eager_only`: see `Gan`.
    `needs_contiguous_weights`: they view tensors in a way that channels-last weights do not allow.
    `depends_on_processes`: the result does on their number.
    """

    d_mixes_rows: bool = False
    eager_only: str = ""
    needs_contiguous_weights: bool = False
    depends_on_processes: bool = False
    notes: tuple[str, ...] = ()


NO_TRAITS = Traits()


@dataclass
class Gan:
    """`g` and `d`: the wrapped networks. `shard`: this rank's rows of a batch. `noise`: random numbers for both.

    `noise` is what both draw from; `g_draws`: True if G has layers that do. `is_replicated`: True if BatchNorm's
    statistics too are the same on all ranks. `eager_only`: why only eager steps can be taken, "" if others can.
    """

    g: WrappedNetwork
    d: WrappedNetwork
    ema: Ema | None
    shard: BatchShard
    noise: Noise
    loss: Loss
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
        """Return the weights for sampling: the moving average, or G's without one or `is_raw`. All ranks call it."""
        if self.ema and not is_raw:
            return self.ema.network.state_dict()
        with self.g.full_params():
            weights = self.generator.state_dict()
            # Outside `full_params` only this rank's shards remain.
            return {key: value.clone() for key, value in weights.items()} if self.is_sharded else weights

    def prepare_labels(self, dataset: Dataset) -> Dataset:
        """Return the dataset with the labels that the networks take: clusters for the clustered family.

        Also records the images of each cluster in G and its moving average (`cluster_counts`). Every rank computes the
        same, without communication.
        """
        counts = getattr(self.generator, "cluster_counts", None)
        if counts is None:
            return dataset
        groups, num = counts.shape
        check_clusters(num, len(dataset.images), groups)
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
        """Return weights and Adam's state by name, as copies on the CPU. All ranks call it if `is_sharded`."""
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

    def load_state(self, tensors: dict[str, Tensor], step: int, source: str) -> None:
        """Load the result of `state`. Raises UserError, which names `source`, for a state of other networks.

        Without a moving average in the state, it starts at G's weights.
        """
        if not tensors_with_prefix(tensors, "generator_ema"):
            weights = tensors_with_prefix(tensors, "generator")
            tensors = tensors | {f"generator_ema.{key}": value for key, value in weights.items()}
        counts = getattr(self.generator, "cluster_counts", None)
        saved = tensors.get("generator.cluster_counts")
        # After `prepare_labels` the counts must match: the networks know clusters by their numbers only.
        if counts is not None and saved is not None and counts.any() and not torch.equal(counts.cpu(), saved):
            raise UserError(
                f"{source}: other clusters of the training images than this version of distgan computes. Expected: "
                "resume with the version that began the run",
                code="wrong-weights",
            )
        for name, network, optim in (("generator", self.g, "g_optim"), ("discriminator", self.d, "d_optim")):
            weights = tensors_with_prefix(tensors, name)
            with network.full_params():
                _check_trainable(network.module, weights, f"{source}: {name}")
                # Before the first step Adam has no state, and the file has none either.
                adam = tensors_with_prefix(tensors, optim)
                states = _adam_states(adam, network.module, f"{source}: {optim}") if adam or step else []
            network.load(weights, states)
        if self.ema:
            average = tensors_with_prefix(tensors, "generator_ema")
            _check_trainable(self.ema.network, average, f"{source}: generator_ema")
            self.ema.network.load_state_dict(average)
        self.step = step

    def is_finite(self) -> bool:
        """True if all weights are finite. Waits for the device. All ranks call it."""
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
    memory_format = torch.contiguous_format if traits.needs_contiguous_weights else runtime.memory_format

    def build() -> list[nn.Module]:
        pair = build_generator(model), build_discriminator(model)
        return [network.to(runtime.device).to(memory_format=memory_format) for network in pair]

    if runtime.world_size == 1:
        generator, discriminator = build()
    else:
        generator, discriminator = runtime.run_on_all_ranks(build)
        check_built_alike({"generator": generator, "discriminator": discriminator}, model, runtime)
        if model.networks:
            check_outputs_alike({"generator": generator, "discriminator": discriminator}, model, runtime)
    shard = BatchShard(runtime.rank, runtime.world_size)
    noise = Noise(generator.latent_shape, runtime.device, shard)  # type: ignore[arg-type]  # Module's have no types
    if runtime.world_size > 1 and sync_batch_norm:
        generator = convert_sync_batchnorm(generator, shard, runtime.device)
        discriminator = convert_sync_batchnorm(discriminator, shard, runtime.device)
    attach_noise(discriminator, noise)
    # On the module, as a penalty is given no more; by a name that no user's attribute has.
    discriminator._distgan_mixes_rows = traits.d_mixes_rows  # type: ignore[assignment]
    # Copied before it is wrapped: the wrapped forward runs under autocast.
    ema = Ema(generator) if optim.ema_decay else None
    g_draws = attach_noise(generator, noise)
    g = runtime.wrap_network("generator", generator, _adam(generator, optim.g_lr, optim, runtime))
    d = runtime.wrap_network("discriminator", discriminator, _adam(discriminator, optim.d_lr, optim, runtime))
    is_replicated = sync_batch_norm or runtime.world_size == 1
    loss = find_loss(optim.loss, model)
    return Gan(g, d, ema, shard, noise, loss, is_replicated, g_draws=g_draws, eager_only=traits.eager_only)


def _adam(network: nn.Module, lr: float, config: OptimConfig, runtime: Runtime) -> Adam:
    """Build Adam; on a GPU fused, with learning rate and step in device memory, as CUDA graphs need.

    On a CPU a fused Adam rounds differently by the position in memory, which differs under ZeRO.
    """
    betas = (config.beta1, config.beta2)
    if runtime.device.type != "cuda":
        return Adam(network.parameters(), lr=lr, betas=betas)
    rate = torch.tensor(lr, device=runtime.device)
    # fp16's scaler can't detect that a fused Adam has skipped an update (accelerate #4242).
    is_fused = runtime.precision != "fp16"
    return Adam(network.parameters(), lr=rate, betas=betas, fused=is_fused, capturable=True)


def load_weights(network: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load weights for sampling. Raises UserError for those of another network, and for non-finite ones."""
    check_weights(network, tensors, source)
    check_finite(tensors, source)
    network.load_state_dict(tensors)


def check_weights(network: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Raise UserError that names the first tensor that is missing, unknown, or of another shape or dtype.

    Another floating point precision is accepted.
    """
    expected = network.state_dict()
    for key, value in expected.items():
        if key not in tensors:
            raise UserError(
                f"{source}: lacks the tensor {key}. Expected: the weights of the network in its config",
                code="wrong-weights",
            )
        tensor = tensors[key]
        if tensor.shape != value.shape:
            raise UserError(
                f"{source}: {key} has shape {list(tensor.shape)}. Expected: {list(value.shape)}, the shape of the "
                "network that it is loaded into",
                code="wrong-weights",
            )
        if tensor.dtype != value.dtype and not (tensor.is_floating_point() and value.is_floating_point()):
            raise UserError(
                f"{source}: {key} has dtype {str(tensor.dtype)[6:]}. Expected: {str(value.dtype)[6:]}, that of the "
                "network that it is loaded into",
                code="wrong-weights",
            )
    for key in tensors:
        if key not in expected:
            raise UserError(
                f"{source}: unknown tensor ({key[:80]!r}). Expected: those of the network in its config",
                code="wrong-weights",
            )


def check_finite(tensors: dict[str, Tensor], source: str) -> None:
    """Raise UserError that names the first tensor with a NaN or infinity, also after conversion to float32."""
    for key, value in tensors.items():
        if value.is_floating_point() and not value.float().isfinite().all():
            raise UserError(f"{source}: {key} is NaN or infinite. Expected: finite weights", code="non-finite-values")


def _check_trainable(network: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Raise UserError for weights that do not fit or are non-finite; in fp16 BatchNorm's statistics may be infinite."""
    check_weights(network, tensors, source)
    check_finite({key: tensors[key] for key, _ in network.named_parameters()}, source)


def _adam_states(tensors: dict[str, Tensor], network: nn.Module, source: str) -> list[dict[str, Tensor]]:
    """Return Adam's state of each parameter. Raises UserError for one that is incomplete or of another shape.

    {} for a parameter without any: one without a gradient so far, as of a layer that some passes leave out.
    """
    states: list[dict[str, Tensor]] = []
    for name, parameter in network.named_parameters():
        state = tensors_with_prefix(tensors, name)
        if tensors and not state:
            states.append({})
            continue
        shapes = {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape, "step": torch.Size([])}
        for key, shape in shapes.items():
            if key not in state or state[key].shape != shape or not state[key].is_floating_point():
                actual = f"of shape {list(state[key].shape)}" if key in state else "missing"
                if key in state and not state[key].is_floating_point():
                    actual += f" and {str(state[key].dtype)[6:]}"
                raise UserError(
                    f"{source}: {name}.{key} is {actual}. Expected: a tensor of shape {list(shape)}",
                    code="wrong-weights",
                )
        states.append(state)
    return states


def tensors_with_prefix(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors whose key starts with `name.`, with that prefix removed."""
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(name + ".")}


# -- Check that all ranks have bit-identical weights, which DDP assumes but does not verify --


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
        sums = torch.stack([sum_of_bits(value).to(runtime.device) for value in tensors.values()])
    everywhere = runtime.all_gather(sums)
    differs = everywhere != everywhere[0]
    if differs.any():
        index = int(differs.any(0).nonzero()[0])
        rank = int(differs[:, index].nonzero()[0])
        raise TrainingFailed(
            f"rank {rank}: {list(tensors)[index]} differs from rank 0 after step {gan.step}: the ranks have diverged",
            advice="resume from a checkpoint, and check what may make ranks differ: memory, a library, a GPU",
        )
