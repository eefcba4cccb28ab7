"""Check that a user's networks train under autocast: layers that mix float32 with autocast's results may not."""

import sys
from contextlib import redirect_stdout

import torch

from distgan.config.schema import Config
from distgan.distributed.wrappers import AUTOCAST_DTYPES, wrap_forward_in_autocast
from distgan.models.base import build_discriminator, build_generator
from distgan.training.gan import Traits
from distgan.training.network_trial import NetworkTrial
from distgan.training.resume_trial import ResumeTrial
from distgan.training.trial_inputs import with_noise
from distgan.utils.process_state import default_torch_state


def check_precision(config: Config, device: torch.device, traits: Traits, precision: str) -> None:
    """Take a pass of each network, and a step, in `precision`. Raises UserError that names the layer.

    `traits`: of these networks, which keep the contract in float32. Nothing is done for a precision without autocast.
    """
    if precision not in AUTOCAST_DTYPES:
        return
    trial = NetworkTrial(config, device)
    trial.where += f": --precision {precision}"
    trial.expected = ". Expected: --precision fp32, or operands of one dtype, for example by x.to(weight.dtype)"
    with default_torch_state(), redirect_stdout(sys.stderr):
        torch.manual_seed(0)
        pair = build_generator(config.model), build_discriminator(config.model)
        trial.draw_inputs(pair[0])
        inputs = trial.z
        for name, network in zip(("generator", "discriminator"), pair, strict=True):
            network = with_noise(network.to(device), device).train()
            wrap_forward_in_autocast(network, device.type, AUTOCAST_DTYPES[precision])
            inputs = trial.run(name, network, inputs, trial.labels).detach()
            if not inputs.isfinite().all():
                raise trial.contract_error(f"{name} gives NaN or infinite values{trial.expected}")
        with trial.errors_named(f"a step with --loss {config.optim.loss}"):
            ResumeTrial(config, device, traits, precision).take_steps(num=1)
