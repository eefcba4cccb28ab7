"""Check that all ranks have built the same networks: their tensors, and what these give."""

import sys
from contextlib import redirect_stdout
from itertools import chain

import torch
from torch import Tensor, nn

from distgan.config.schema import ModelConfig
from distgan.distributed.runtime import Runtime
from distgan.errors import AllRanksUserError, UserError, first_line
from distgan.models.module_copy import copy_network
from distgan.training.trial_inputs import draw_inputs, with_noise
from distgan.utils.process_state import default_torch_state

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ROUNDING = 1e-3  # of the largest output: processors and libraries differ
_MOST_COMPARED = 2**16


def check_built_alike(networks: dict[str, nn.Module], model: ModelConfig, runtime: Runtime) -> None:
    """Raise UserError that names the first tensor which a rank has built otherwise than rank 0. All ranks call it.

    DDP would stop on another shape without naming the tensor, and replace other values by those of rank 0.
    """
    tensors = {
        f"{name}.{key}": value
        for name, network in networks.items()
        for key, value in chain(network.named_parameters(), network.named_buffers())
    }
    forms = {key: f"{list(value.shape)} of {str(value.dtype)[6:]}" for key, value in tensors.items()}
    sums = {key: int(sum_of_bits(value)) for key, value in tensors.items()}
    (first_forms, first_sums), *others = runtime.all_gather_object((forms, sums))
    for rank, (forms, sums) in enumerate(others, 1):
        problem = ""
        # Another form shifts the random numbers of what is built after it, so it comes first.
        if key := next((key for key in first_forms | forms if forms.get(key) != first_forms.get(key)), None):
            problem = f"is {forms.get(key, 'missing')}, on rank 0 {first_forms.get(key, 'missing')}"
        elif key := next((key for key, value in sums.items() if value != first_sums[key]), None):
            problem = "has other initial values than on rank 0"
        if problem:
            raise AllRanksUserError(
                f"rank {rank}: {key} of {model.networks_name} {problem}. Expected: networks of their arguments and "
                "torch's random numbers alone, the same on all ranks",
                code="ranks-differ",
            )


def check_outputs_alike(networks: dict[str, nn.Module], model: ModelConfig, runtime: Runtime) -> None:
    """Raise UserError that names the first network which gives other outputs than on rank 0. All ranks call it.

    In eval mode, on equal inputs: what depends on the rank beside tensors would let each rank train another network.
    """

    def run_both() -> dict[str, Tensor]:
        inputs, outputs = draw_inputs(networks["generator"], model, runtime.device), {}
        devices = [runtime.device] if runtime.device.type == "cuda" else []
        for name, network in networks.items():
            copied = with_noise(copy_network(network, name, model.networks_name), runtime.device).eval()
            try:
                with torch.random.fork_rng(devices), default_torch_state(), redirect_stdout(sys.stderr):
                    torch.manual_seed(0)
                    with torch.no_grad():
                        outputs[name] = copied(inputs.of(name), inputs.labels).flatten()[:_MOST_COMPARED].cpu()
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                raise UserError(
                    f"{model.networks_name}: {name} fails in eval mode: {type(error).__name__}: {first_line(error)}. "
                    "Expected: networks that run on each rank",
                    code="bad-networks",
                ) from error
        return outputs

    first, *others = runtime.all_gather_object(runtime.run_on_all_ranks(run_both))
    for rank, outputs in enumerate(others, 1):
        for name, values in outputs.items():
            limit = _ROUNDING * float(first[name].abs().max())
            if values.shape != first[name].shape or float((values - first[name]).abs().max()) > limit:
                raise AllRanksUserError(
                    f"rank {rank}: {name} of {model.networks_name} gives other outputs than on rank 0, by the same "
                    "weights for the same inputs. Expected: networks of their arguments and torch's random numbers "
                    "alone, the same on all ranks",
                    code="ranks-differ",
                )


def sum_of_bits(tensor: Tensor) -> Tensor:
    """Return a sum that changes with any single bit, but not with the order of addition."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.detach().contiguous().view(_BITS[tensor.element_size()]).sum(dtype=torch.int64)
