"""DeepSpeed: each network in its own engine; ZeRO shards gradients, Adam's state and weights.

Uses Accelerate with one plugin per network. DeepSpeed itself is imported only for a run with it.
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
from distgan.distributed.wrappers import WrappedNetwork, wrap_forward_in_autocast
from distgan.errors import UserError, not_readable

_EXPECTED = "Expected: a JSON object of DeepSpeed settings"

# Keys that a DeepSpeed config may not have, and the flags that set them.
_SET_BY_FLAG = {
    "optimizer": "--g-lr, --d-lr, --beta1 and --beta2",
    "scheduler": "--lr-schedule",
    "fp16": "no flag: --precision bf16 is autocast here",
    "bf16": "--precision bf16, which is autocast: weights and Adam stay float32",
    "amp": "--precision bf16",
    "gradient_accumulation_steps": "--d-microbatches",
    "train_batch_size": "--batch-size",
    "train_micro_batch_size_per_gpu": "--batch-size",
}


def resolve_config(
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
    settings = read_config(env.deepspeed_config_file(), env.zero_stage() if stage is None else stage)
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
        file, in_clone = Path(path), Path(distgan.__file__).resolve().parent.parent / path
        if not file.exists() and in_clone.exists():
            file = in_clone
        try:
            config = json.loads(file.read_text())
        except OSError as error:
            raise not_readable(f"deepspeed_config_file {path}", error) from error
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"deepspeed_config_file {path}: not JSON ({error}). {_EXPECTED}", code="bad-config-file"
            ) from error
        if not isinstance(config, dict) or not isinstance(config.get("zero_optimization", {}), dict):
            raise UserError(f"deepspeed_config_file {path}: no table. {_EXPECTED}", code="bad-config-file")
        for key, flag in _SET_BY_FLAG.items():
            if key in config and config[key] != "auto":
                raise UserError(
                    f"deepspeed_config_file {path}: {key}: set by {flag}. Expected: no such key",
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
    """Return the config with the keys that an engine needs. `d_microbatches`: backward passes per step."""
    return {
        "gradient_clipping": 0.0,  # Accelerate would fill in 1.0
        "zero_allow_untested_optimizer": True,
        **{key: value for key, value in config.items() if key not in _SET_BY_FLAG},
        "train_micro_batch_size_per_gpu": 1,  # only for DeepSpeed's statistics
        "gradient_accumulation_steps": d_microbatches,
        "steps_per_print": 2**31 - 1,
    }


NAMES = ("generator", "discriminator")
MOMENTS = ("exp_avg", "exp_avg_sq")


class _Plugin(DeepSpeedPlugin):
    def set_deepspeed_weakref(self) -> None:
        """Do nothing: the original fails where transformers is not installed."""


def build_accelerators(config: dict[str, Any], d_microbatches: int, device_type: str) -> dict[str, Accelerator]:
    """Return an Accelerator per network, by NAMES. Call it after torch.distributed is initialised.

    `d_microbatches`: backward passes per step of D.
    """
    _silence_deepspeed(device_type)
    _check_accepted(complete_config(config, d_microbatches))
    os.environ.setdefault("LOCAL_RANK", "0")  # plain python
    plugins = {
        name: _Plugin(hf_ds_config=complete_config(config, d_microbatches if name == "discriminator" else 1))
        for name in NAMES
    }
    # Without the backend, a rank on a CPU would have world size 1.
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
    """Destroy the process group by DeepSpeed, which keeps references to it that would break a later group."""
    comm: Any = sys.modules.get("deepspeed.comm.comm")
    if comm is None or comm.cdb is None:
        return
    if comm.cdb.is_initialized():
        comm.destroy_process_group()
    comm.cdb = None


def _check_accepted(config: dict[str, Any]) -> None:
    """Raise UserError for settings that DeepSpeed would reject later, with a traceback."""
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        float(config["gradient_clipping"])
        DeepSpeedConfig(config)
    except Exception as error:  # types without a common base
        message = " ".join(str(error).split())[:200]
        raise UserError(
            f"deepspeed_config_file: rejected by DeepSpeed ({type(error).__name__}: {message}). {_EXPECTED}",
            code="deepspeed-config",
        ) from error


def _silence_deepspeed(device_type: str) -> None:
    """Set the environment that DeepSpeed reads at import, and turn off its log messages."""
    if device_type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    logging.getLogger("accelerate.accelerator").setLevel(logging.ERROR)  # about its backward(), which is not used
    # torch 2.14 renames the collectives that DeepSpeed calls.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # An all-reduce for inference that is compiled at first use and prints to stdout; training never calls it.
    # By import_module, since the attribute `torch` of deepspeed.comm is torch itself.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]


class DeepSpeedNetwork(WrappedNetwork):
    """A network in a DeepSpeed engine, with the interface of WrappedNetwork; all ranks call each method."""

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
            wrap_forward_in_autocast(network, accelerator.device.type, torch.bfloat16)
        accelerator.state.select_deepspeed_plugin(name)
        self._engine, _ = accelerator.prepare(network, optim)
        self._stage = int(self._engine.zero_optimization_stage())
        self._num_microbatches = int(self._engine.gradient_accumulation_steps())
        self.is_sharded = self._stage > 0
        self.module = self._engine.module
        self.optim = self._engine.basic_optimizer

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self._engine(*inputs)

    def zero_grad(self) -> None:
        """Do nothing: the engine clears gradients after an update."""

    @contextmanager
    def accumulating(self, is_last: bool) -> Iterator[None]:
        yield
        if not is_last:
            self._engine.step()  # which updates nothing before the last

    def backward(self, loss: Tensor) -> None:
        # The engine divides by the number of microbatches, but the loss has its weight already.
        self._engine.backward(loss * self._num_microbatches)

    def backward_to_leaf(self, loss: Tensor) -> None:
        loss.backward()

    def backward_from(self, output: Tensor, gradient: Tensor) -> None:
        self._engine.backward((output * gradient).sum())

    def step(self) -> None:
        self._engine.step()

    @property
    def num_skipped(self) -> int:  # type: ignore[override]
        """Updates that ZeRO 1 to 3 have silently skipped for a non-finite gradient."""
        return int(self._engine.skipped_steps)

    @contextmanager
    def full_params(self) -> Iterator[None]:
        with self._gather(modifier_rank=None):
            yield

    @contextmanager
    def _gather(self, modifier_rank: int | None) -> Iterator[None]:
        if self._stage < 3:
            yield
            return
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters(list(self.module.parameters()), modifier_rank=modifier_rank):
            yield

    def adam_state(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_optimizer_state

        state, masters = self.optim.state, self._master_params()
        if not all(state.get(master) for master in masters):
            return {}
        tensors = {}
        for name, parameter in self.module.named_parameters():
            local = state[parameter] if self._stage == 0 else None
            for key in MOMENTS:
                value = local[key] if local else safe_get_full_optimizer_state(parameter, key)
                tensors[f"{name}.{key}"] = value.detach().cpu()
            tensors[f"{name}.step"] = (local or state[masters[0]])["step"].detach().cpu()
        return tensors

    def load(self, weights: dict[str, Tensor], adam: list[dict[str, Tensor]]) -> None:
        if not all(adam):
            raise UserError(
                "a parameter has no state of Adam, as a pass has left out its layer each time, and DeepSpeed takes one "
                "for all. Expected: a resume without DeepSpeed",
                code="wrong-weights",
            )
        with self._gather(modifier_rank=0):
            self.module.load_state_dict(weights)
        if self._stage:
            self._engine.optimizer.refresh_fp32_params()
        state = self.optim.state
        if not adam:
            state.clear()
            return
        for master in self._master_params():
            moments = {key: torch.zeros_like(master) for key in MOMENTS}
            state[master] = {"step": adam[0]["step"].clone()} | moments
        if self._stage in (1, 2):
            # As the engine does after its first update: link each parameter to its part of the flat moments.
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        for parameter, loaded in zip(self.module.parameters(), adam, strict=True):
            for key in MOMENTS:
                self._set_moment(parameter, key, loaded[key].to(parameter.device))
            if self._stage == 0:
                state[parameter]["step"] = loaded["step"].clone()

    def _set_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self._stage == 0:
            self.optim.state[parameter][key].copy_(value)
        elif self._stage < 3:
            safe_set_full_optimizer_state(parameter, value, key)
        else:
            # The setter of full values fails where their number is not a multiple of the number of ranks.
            size, rank = parameter.ds_tensor.numel(), dist.get_rank(parameter.ds_process_group)
            shard = torch.zeros(size, dtype=value.dtype, device=value.device)
            values = value.flatten()[rank * size : (rank + 1) * size]
            shard[: len(values)] = values
            safe_set_local_optimizer_state(parameter, shard, key)

    def _master_params(self) -> list[Tensor]:
        """Return the tensors that the optimizer updates: the parameters, or this rank's flat shards of them."""
        if self._stage == 0:
            return list(self.module.parameters())
        optimizer = self._engine.optimizer
        return optimizer.single_partition_of_fp32_groups if self._stage < 3 else optimizer.fp32_partitioned_groups_flat
