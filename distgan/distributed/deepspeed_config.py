"""What DeepSpeed is asked for: by --zero-stage, or by accelerate launch and its JSON file; and what it can't do."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import distgan
from distgan.config.schema import Config
from distgan.distributed import env as launcher
from distgan.errors import UserError

# What a DeepSpeed config may not say, as it is said elsewhere, and where.
_ELSEWHERE = {
    "optimizer": "--g-lr, --d-lr, --beta1 and --beta2",
    "scheduler": "--lr-schedule",
    "fp16": "no flag: --precision bf16 is autocast here",
    "bf16": "--precision bf16, which is autocast: weights and Adam stay float32",
    "amp": "--precision bf16",
    "gradient_accumulation_steps": "--accumulate",
    "train_batch_size": "--batch-size",
    "train_micro_batch_size_per_gpu": "--batch-size",
}


def chosen(
    config: Config, precision: str, *, is_cpu: bool, has_cuda: bool, has_penalty: bool = False
) -> dict[str, Any] | None:
    """The DeepSpeed config of a run, None for one without DeepSpeed.

    Raises UserError for a combination that can't work, before anything is started.
    """
    stage = config.processes.zero
    if stage is None and not launcher.wants_deepspeed():
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "DeepSpeed: is not installed; allowed: pip install 'distgan[deepspeed]', or DDP without it"
        )
    if precision == "fp16":
        raise UserError(
            "--precision fp16: its loss scaler does not reach DeepSpeed's engines; allowed with DeepSpeed: no, bf16"
        )
    if is_cpu and has_cuda:
        raise UserError(
            "--device cpu: DeepSpeed takes the GPUs that it sees; allowed: CUDA_VISIBLE_DEVICES=-1 before the command"
        )
    settings = read_config(launcher.deepspeed_file(), launcher.zero_stage() if stage is None else stage)
    if settings["zero_optimization"]["stage"] == 3 and has_penalty:
        raise UserError(
            f"--loss {config.optim.loss}: the second derivative of its penalty needs weights of D that ZeRO 3 "
            "has shared out again; allowed: ZeRO 0, 1 or 2, or --loss bce, hinge"
        )
    return settings


def read_config(path: str | None, stage: int | None) -> dict[str, Any]:
    """A DeepSpeed config, from a file if there is one; `stage` is stronger than the file's. Raises UserError."""
    config: dict[str, Any] = {}
    if path:
        here, clone = Path(path), Path(distgan.__file__).resolve().parent.parent / path
        found = here if here.exists() or not clone.exists() else clone
        try:
            config = json.loads(found.read_text())
        except OSError as error:
            raise UserError(f"deepspeed_config_file {path}: can't be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"deepspeed_config_file {path}: is not JSON ({error})") from error
        if not isinstance(config, dict) or not isinstance(config.get("zero_optimization", {}), dict):
            raise UserError(f"deepspeed_config_file {path}: is no table of DeepSpeed's settings")
        for key, place in _ELSEWHERE.items():
            if key in config and config[key] != "auto":
                raise UserError(
                    f"deepspeed_config_file {path}: {key}: is set by {place}; allowed: leave it out"
                )
    zero = {"stage": 2} | config.get("zero_optimization", {}) | ({} if stage is None else {"stage": stage})
    for key in ("offload_optimizer", "offload_param"):
        if key in zero and zero[key] not in (None, {"device": "none"}):
            raise UserError(
                f"deepspeed_config_file {path}: {key}: needs DeepSpeed's own Adam, where this is torch's; allowed: "
                "leave it out"
            )
    if type(zero["stage"]) is not int or not 0 <= zero["stage"] <= 3:  # True is 1 to Python
        raise UserError(f"zero_optimization.stage {zero['stage']!r}: is no ZeRO stage; allowed: 0, 1, 2, 3")
    return config | {"zero_optimization": zero}


def completed(config: dict[str, Any], accumulate: int) -> dict[str, Any]:
    """With what an engine of ours needs. `accumulate`: its backward passes to a step."""
    return {
        "gradient_clipping": 0.0,  # Accelerate would fill in 1.0
        "zero_allow_untested_optimizer": True,
        **{key: value for key, value in config.items() if key not in _ELSEWHERE},
        "train_micro_batch_size_per_gpu": 1,  # for its own statistics only
        "gradient_accumulation_steps": accumulate,
        "steps_per_print": 2**31 - 1,
    }
