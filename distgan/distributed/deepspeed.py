"""DeepSpeed: each network in its own engine; ZeRO shards gradients, Adam's state and weights.

Through Accelerate with a plugin for each network. Imported only for a run with DeepSpeed.
"""

import importlib
import importlib.util
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs
from torch import Tensor, nn

import distgan
from distgan.config.registry import LOSSES
from distgan.config.schema import Config
from distgan.distributed import env
from distgan.distributed.wrappers import DDPNetwork
from distgan.errors import UserError, not_readable

# What a DeepSpeed config may not say, as it is said elsewhere, and where.
_ELSEWHERE = {
    "optimizer": "--g-lr, --d-lr, --beta1 and --beta2",
    "scheduler": "--lr-schedule",
    "fp16": "no flag: --precision bf16 is autocast here",
    "bf16": "--precision bf16, which is autocast: weights and Adam stay float32",
    "amp": "--precision bf16",
    "gradient_accumulation_steps": "--d-microbatches",
    "train_batch_size": "--batch-size",
    "train_micro_batch_size_per_gpu": "--batch-size",
}


def choose_config(
    config: Config, precision: str, *, is_cpu: bool, has_cuda: bool, has_penalty: bool = False
) -> dict[str, Any] | None:
    """Return the DeepSpeed config of a run, None for one without DeepSpeed.

    Raises UserError for a combination that can't work, before anything is started.
    """
    stage = config.processes.zero
    if stage is None and not env.wants_deepspeed():
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "DeepSpeed: not installed. Expected: pip install 'distgan[deepspeed]', or DDP without it",
            code="missing-package",
        )
    if precision == "fp16":
        raise UserError(
            "--precision: the loss scaler does not reach DeepSpeed's engines (fp16). Expected with DeepSpeed: fp32, "
            "bf16",
            code="conflicting-settings",
        )
    if is_cpu and has_cuda:
        raise UserError(
            "--device: DeepSpeed uses the GPUs that it sees (cpu). Expected: CUDA_VISIBLE_DEVICES=-1 before the "
            "command",
            code="conflicting-settings",
        )
    settings = read_config(env.deepspeed_file(), env.zero_stage() if stage is None else stage)
    if settings["zero_optimization"]["stage"] == 3 and has_penalty:
        plain = ", ".join(name for name, loss in LOSSES.items() if loss.penalty is None)
        raise UserError(
            f"--loss: the second derivative of its penalty needs weights of D that ZeRO 3 has sharded again "
            f"({config.optim.loss}). Expected: ZeRO 0, 1 or 2, or --loss {plain}",
            code="conflicting-settings",
        )
    return settings


def read_config(path: str | None, stage: int | None) -> dict[str, Any]:
    """Read a DeepSpeed config, from a file if there is one; `stage` overrides the file's. Raises UserError."""
    config: dict[str, Any] = {}
    if path:
        here, clone = Path(path), Path(distgan.__file__).resolve().parent.parent / path
        found = here if here.exists() or not clone.exists() else clone
        try:
            config = json.loads(found.read_text())
        except OSError as error:
            raise not_readable(f"deepspeed_config_file {path}", error) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"deepspeed_config_file {path}: not JSON ({error})", code="bad-config-file") from error
        if not isinstance(config, dict) or not isinstance(config.get("zero_optimization", {}), dict):
            raise UserError(
                f"deepspeed_config_file {path}: not a table of DeepSpeed's settings", code="bad-config-file"
            )
        for key, place in _ELSEWHERE.items():
            if key in config and config[key] != "auto":
                raise UserError(
                    f"deepspeed_config_file {path}: {key}: set by {place}. Expected: no such key",
                    code="deepspeed-config",
                )
    zero = {"stage": 2} | config.get("zero_optimization", {}) | ({} if stage is None else {"stage": stage})
    for key in ("offload_optimizer", "offload_param"):
        if key in zero and zero[key] not in (None, {"device": "none"}):
            raise UserError(
                f"deepspeed_config_file {path}: {key}: needs DeepSpeed's Adam, and this is torch's. Expected: no "
                "such key",
                code="deepspeed-config",
            )
    if type(zero["stage"]) is not int or not 0 <= zero["stage"] <= 3:  # True is 1 to Python
        raise UserError(
            f"zero_optimization.stage: not a ZeRO stage ({zero['stage']!r}). Expected: 0, 1, 2, 3",
            code="deepspeed-config",
        )
    return config | {"zero_optimization": zero}


def complete_config(config: dict[str, Any], d_microbatches: int) -> dict[str, Any]:
    """Return the config with all that an engine here needs. `d_microbatches`: backward passes per step."""
    return {
        "gradient_clipping": 0.0,  # Accelerate would fill in 1.0
        "zero_allow_untested_optimizer": True,
        **{key: value for key, value in config.items() if key not in _ELSEWHERE},
        "train_micro_batch_size_per_gpu": 1,  # for its own statistics only
        "gradient_accumulation_steps": d_microbatches,
        "steps_per_print": 2**31 - 1,
    }


# -- Networks in DeepSpeed engines --

NAMES = ("generator", "discriminator")
MOMENTS = ("exp_avg", "exp_avg_sq")


class _Plugin(DeepSpeedPlugin):
    def set_deepspeed_weakref(self) -> None:
        """Do nothing: the original fails where transformers is not installed."""


def build_accelerators(config: dict[str, Any], d_microbatches: int, device_type: str) -> dict[str, Accelerator]:
    """Return an Accelerator per network, by NAMES. Call it after torch.distributed is initialised.

    `d_microbatches` is the number of D's backward passes to a step of D.
    """
    _quieten(device_type)
    _check_known(complete_config(config, d_microbatches))
    os.environ.setdefault("LOCAL_RANK", "0")  # plain python
    plugins = {
        name: _Plugin(hf_ds_config=complete_config(config, d_microbatches if name == "discriminator" else 1))
        for name in NAMES
    }
    # Without its backend each rank of a CPU counts itself alone.
    group = InitProcessGroupKwargs(backend=dist.get_backend())
    first = Accelerator(
        deepspeed_plugins=plugins,
        mixed_precision="no",
        gradient_accumulation_steps=1,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[group],
    )
    second = Accelerator(mixed_precision="no", gradient_accumulation_steps=d_microbatches)
    return dict(zip(NAMES, (first, second), strict=True))


def leave_process_group() -> None:
    """Destroy the process group as DeepSpeed does, which holds references to it that a later one must not meet."""
    comm: Any = sys.modules.get("deepspeed.comm.comm")
    if comm is None or comm.cdb is None:
        return
    if comm.cdb.is_initialized():
        comm.destroy_process_group()
    comm.cdb = None


def _check_known(config: dict[str, Any]) -> None:
    """Raise UserError for settings that DeepSpeed would reject later, with a traceback."""
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        float(config["gradient_clipping"])
        DeepSpeedConfig(config)
    except Exception as error:  # of many types, without a common base
        words = " ".join(str(error).split())[:200]
        raise UserError(
            f"deepspeed_config_file: rejected by DeepSpeed ({type(error).__name__}: {words})", code="deepspeed-config"
        ) from error


def _quieten(device_type: str) -> None:
    """Set the environment that DeepSpeed reads at import, and silence what it would print."""
    if device_type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    logging.getLogger("accelerate.accelerator").setLevel(logging.ERROR)  # of its backward, which is not used
    # torch 2.14 renames the collectives that DeepSpeed calls.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # An all-reduce for inference that is compiled at first use, with a line on stdout; training never calls it.
    # Not `import deepspeed.comm.torch`: that name is torch itself there.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]


class DeepSpeedNetwork(DDPNetwork):
    """A network in a DeepSpeed engine, with the interface of DDPNetwork; all ranks call each method."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        optim: torch.optim.Optimizer,
        *,
        accelerators: dict[str, Accelerator],
        is_bf16: bool,
    ):
        accelerator = accelerators[name]
        if is_bf16:
            _put_under_autocast(network, accelerator.device.type)
        accelerator.state.select_deepspeed_plugin(name)
        self._engine, _ = accelerator.prepare(network, optim)
        self._stage = int(self._engine.zero_optimization_stage())
        self._num_parts = int(self._engine.gradient_accumulation_steps())
        self.is_sharded = self._stage > 0
        self.module = self._engine.module
        self.optim = self._engine.basic_optimizer

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self._engine(*inputs)

    def zero_grad(self) -> None:
        """Do nothing: an update drops its gradients itself."""

    @contextmanager
    def accumulating(self, is_last: bool) -> Iterator[None]:
        yield
        if not is_last:
            self._engine.step()  # which updates nothing before the last

    def backward(self, loss: Tensor) -> None:
        # The engine means to take the mean over the parts, of which each loss has its weight already.
        self._engine.backward(loss * self._num_parts)

    def backward_to_leaf(self, loss: Tensor) -> None:
        loss.backward()

    def backward_from(self, output: Tensor, gradient: Tensor) -> None:
        self._engine.backward((output * gradient).sum())

    def step(self) -> None:
        self._engine.step()

    @property
    def num_skipped(self) -> int:  # type: ignore[override]
        """ZeRO 1 to 3 leave out, without a word, an update with a non-finite gradient."""
        return int(self._engine.skipped_steps)

    # -- what a checkpoint keeps ----------------------------------------------------------------------

    @contextmanager
    def full_params(self) -> Iterator[None]:
        with self._gathered(modifier_rank=None):
            yield

    @contextmanager
    def _gathered(self, modifier_rank: int | None) -> Iterator[None]:
        if self._stage < 3:
            yield
            return
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters(list(self.module.parameters()), modifier_rank=modifier_rank):
            yield

    def adam_state(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_optimizer_state

        state, masters = self.optim.state, self._masters()
        if not all(state.get(master) for master in masters):
            return {}
        tensors = {}
        for name, parameter in self.module.named_parameters():
            own = state[parameter] if self._stage == 0 else None
            for key in MOMENTS:
                value = own[key] if own else safe_get_full_optimizer_state(parameter, key)
                tensors[f"{name}.{key}"] = value.detach().cpu()
            tensors[f"{name}.step"] = (own or state[masters[0]])["step"].detach().cpu()
        return tensors

    def load(self, weights: dict[str, Tensor], adam: list[dict[str, Tensor]]) -> None:
        with self._gathered(modifier_rank=0):
            self.module.load_state_dict(weights)
        if self._stage:
            self._engine.optimizer.refresh_fp32_params()
        state = self.optim.state
        if not adam:
            state.clear()
            return
        for master in self._masters():
            moments = {key: torch.zeros_like(master) for key in MOMENTS}
            state[master] = {"step": adam[0]["step"].clone()} | moments
        if self._stage in (1, 2):
            # What an engine does after its first update: each parameter's part of the flat moments.
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        for parameter, own in zip(self.module.parameters(), adam, strict=True):
            for key in MOMENTS:
                self._set_moment(parameter, key, own[key].to(parameter.device))
            if self._stage == 0:
                state[parameter]["step"] = own["step"].clone()

    def _set_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self._stage == 0:
            self.optim.state[parameter][key].copy_(value)
        elif self._stage < 3:
            safe_set_full_optimizer_state(parameter, value, key)
        else:
            # The setter of full values fails where their number is no multiple of the ranks'.
            size, rank = parameter.ds_tensor.numel(), dist.get_rank(parameter.ds_process_group)
            part = torch.zeros(size, dtype=value.dtype, device=value.device)
            own = value.flatten()[rank * size : (rank + 1) * size]
            part[: len(own)] = own
            safe_set_local_optimizer_state(parameter, part, key)

    def _masters(self) -> list[Tensor]:
        """Return the tensors that the optimizer updates: the parameters, or this rank's flat parts of them."""
        if self._stage == 0:
            return list(self.module.parameters())
        optimizer = self._engine.optimizer
        return optimizer.single_partition_of_fp32_groups if self._stage < 3 else optimizer.fp32_partitioned_groups_flat


def _put_under_autocast(network: nn.Module, device_type: str) -> None:
    """Run the forward pass in bf16 as Accelerate does under DDP; weights and outputs stay float32."""
    forward = network.forward

    def under_autocast(*inputs: Tensor) -> Tensor:
        with torch.autocast(device_type, torch.bfloat16):
            return forward(*inputs).float()

    network.forward = under_autocast
