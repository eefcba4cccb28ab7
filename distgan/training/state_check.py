"""Checks of what a pass of a user's network changes, and of what a copy of it shares with the original."""

import torch
from torch import Tensor, nn

from distgan.distributed import env
from distgan.training.forward_watch import module_state
from distgan.training.network_trial import NetworkTrial
from distgan.training.trial_inputs import with_noise
from distgan.training.weights_check import find_differing_buffer


def check_state(trial: NetworkTrial, name: str, network: nn.Module) -> None:
    """Look for what a pass changes and a checkpoint does not keep."""
    network = trial.copy(name, network).train()
    saved = set(network.state_dict())
    buffers = {key: (value, value.clone()) for key, value in network.named_buffers()}
    before = {path: module_state(module) for path, module in network.named_modules()}
    weights = {key: value.detach().clone() for key, value in network.named_parameters()}
    _check_batch_buffers(trial, name, network)
    with trial.errors_named(f"a pass of {name} in training"):
        network(trial.inputs.of(name), trial.labels).sum().backward()
    for key, weight in network.named_parameters():
        if not torch.equal(weight, weights[key]):
            raise trial.contract_error(
                f"{name}.{key} changes in forward, for example by max_norm. Expected: weights that only a step changes"
            )
    now = dict(network.named_buffers())
    for key, (value, old) in buffers.items():
        if now.get(key) is not value:
            raise trial.contract_error(
                f"{name}.{key} is a new tensor after a pass, which leaves the old one in the moving average and in "
                "graphs. Expected: a buffer that is changed in place, for example by copy_() or add_()"
            )
        if key not in saved and not torch.equal(value, old):
            raise trial.contract_error(
                f"{name}.{key} changes in forward, and no checkpoint keeps it. Expected: register_buffer with "
                "persistent=True"
            )
    for path, module in network.named_modules():
        for key, value in module_state(module).items():
            if before.get(path, {}).get(key) != value:
                full = ".".join(filter(None, (name, path, key)))
                raise trial.contract_error(
                    f"{full} ({type(module).__name__}) changes in forward, and no checkpoint keeps a Python "
                    "attribute. Expected: register_buffer, changed in place"
                )


def _check_batch_buffers(trial: NetworkTrial, name: str, network: nn.Module) -> None:
    """Look for buffers that differ between processes, as a pass sets them by the images of its batch."""
    one, other = (trial.copy(name, network).train() for _ in range(2))
    with trial.errors_named(f"a pass of {name} in training"), torch.no_grad():
        one(trial.inputs.of(name), trial.labels)
        other(trial.others.of(name), trial.labels)
    if key := find_differing_buffer(one, other):
        text = f"{name}.{key} depends on the images of a batch, and so differs between processes"
        if env.world_size() > 1:
            raise trial.contract_error(f"{text}. Expected: one process, or a buffer that does not")
        trial.notes.append(f"{text}: the networks train on one process only")


def check_copy(trial: NetworkTrial, name: str, network: nn.Module) -> None:
    """Copy the network as the moving average does: the copy may know nothing of the original."""
    original = trial.copy(name, network)
    copies = [trial.copy(name, original) for _ in range(3)]
    inputs = trial.inputs.of(name)
    with torch.no_grad(), trial.errors_named(f"a copy of {name}"):
        before, again = (each.eval()(inputs, trial.labels) for each in copies[:2])
        kept = [parameter.clone() for parameter in network.parameters()]
        for parameter in (*network.parameters(), *original.parameters()):
            parameter.add_(1)
        after = copies[2].eval()(inputs, trial.labels)
        for parameter, value in zip(network.parameters(), kept, strict=True):
            parameter.copy_(value)
    # Of equal copies that differ some other state is the cause, which `check_hidden_state` names.
    if torch.equal(before, again) and not torch.equal(before, after) and not trial.draws[name]:
        raise trial.contract_error(
            f"a copy of {name} still uses the weights of the original, by a function or a list that holds them. "
            "Expected: layers as attributes, or in an nn.ModuleList"
        )


def check_hidden_state(trial: NetworkTrial, name: str, network: nn.Module, trained: nn.Module | None = None) -> None:
    """Compare a network after a pass with a new one that is given its parameters and buffers, as by a resume.

    `trained`: the same one after more passes.
    """
    resumed = trial.copy(name, network).train()
    with trial.errors_named(f"a pass of {name} in training"):
        if trained is None:
            trained = trial.copy(name, network).train()
            _pass(trial, name, trained)
        resumed.load_state_dict(trained.state_dict())
        results = [_pass(trial, name, each) for each in (trained, resumed)]
    for key, value in results[0].items():
        other = results[1][key]
        # A GPU may add up gradients in any order, and some are no more than rounding.
        is_equal = key != "output" or torch.allclose(value, other, rtol=1e-3, atol=1e-4)
        if not (is_equal if value.is_cuda else torch.equal(value, other)):
            raise trial.contract_error(
                f"{name} depends on earlier passes by more than its parameters and buffers, perhaps a variable of the "
                f"file, of a class or of an object: its {key} differs in a copy with the same ones. Expected: "
                "register_buffer, changed in place"
            )


def _pass(trial: NetworkTrial, name: str, network: nn.Module) -> dict[str, Tensor]:
    """Return the output of a pass in training and the gradients, by name, with the same random numbers each time."""
    torch.manual_seed(0)
    network.zero_grad()
    output = with_noise(network, trial.device)(trial.inputs.of(name), trial.labels)
    output.sum().backward()
    gradients = {f"gradient of {key}": each.grad for key, each in network.named_parameters() if each.grad is not None}
    return {"output": output.detach()} | gradients
