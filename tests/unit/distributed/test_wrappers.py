"""A layer that some passes leave out: an error that names it on several processes, and an exact resume on one."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.runs import expect_user_error
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from distgan.distributed.wrappers import FlatAllReduceNetwork, PlainNetwork, WrappedNetwork


class Skips(nn.Module):
    """Three layers, of which a pass leaves out the middle one unless `is_full`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(3, 3) for _ in range(3))
        self.is_full = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.middle(x) if self.is_full else x)


@pytest.fixture
def accelerator() -> Iterator[Any]:
    """An Accelerator of a group of this process alone, in DDP all the same."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield SimpleNamespace(
        prepare=lambda network, optim: (DistributedDataParallel(network), optim),
        prepare_model=lambda network, evaluation_mode: network,
        prepare_optimizer=lambda optim: optim,
        backward=lambda loss: loss.backward(),
        no_sync=lambda network: network.no_sync(),
    )
    dist.destroy_process_group()


@pytest.mark.parametrize("wrapper", [WrappedNetwork, FlatAllReduceNetwork])
@pytest.mark.parametrize("first_is_full", [False, True])
def test_a_layer_that_a_pass_leaves_out_is_named(accelerator: Any, wrapper: Any, first_is_full: bool) -> None:
    """Also where only the last of several backward passes of a step leaves it out, which DDP does not average."""
    network = Skips()
    wrapped = wrapper("discriminator", network, torch.optim.Adam(network.parameters()), accelerator=accelerator)

    def take_step() -> None:
        for is_last in (False, True):
            with wrapped.accumulating(is_last):
                network.is_full = first_is_full and not is_last
                wrapped.backward(wrapped(torch.ones(2, 3)).sum())
        wrapped.step()

    if first_is_full and wrapper is FlatAllReduceNetwork:
        take_step()  # it averages at the step, all that there is
        return
    with expect_user_error("rank 0: discriminator.middle.weight ... [bad-networks]"):
        for _ in range(2):
            take_step()


def test_adams_state_is_that_of_parameters_with_a_gradient() -> None:
    def build() -> tuple[Skips, PlainNetwork]:
        network = Skips()
        return network, PlainNetwork(network, torch.optim.Adam(network.parameters()))

    def take_step(network: Skips, wrapped: PlainNetwork) -> None:
        wrapped.zero_grad()
        wrapped.backward(network(torch.ones(2, 3)).square().sum())
        wrapped.step()

    (straight, wrapped), (resumed, other) = build(), build()
    take_step(straight, wrapped)
    state = wrapped.adam_state()
    assert {key.partition(".")[0] for key in state} == {"first", "last"}
    states = [
        {key[len(name) + 1 :]: value.clone() for key, value in state.items() if key.startswith(f"{name}.")}
        for name, _ in straight.named_parameters()
    ]
    other.load({key: value.clone() for key, value in straight.state_dict().items()}, states)
    straight.is_full = resumed.is_full = True
    for pair in ((straight, wrapped), (resumed, other)):
        take_step(*pair)
    for key, value in (straight.state_dict() | wrapped.adam_state()).items():
        assert torch.equal(value, (resumed.state_dict() | other.adam_state())[key]), key
