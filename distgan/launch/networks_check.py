"""`distgan doctor --networks FILE`: the contract, and what takes more than one process or a compiler to show."""

import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from distgan.config.command_settings import DoctorConfig
from distgan.config.image_spec import MNIST_SPEC, ImageSpec
from distgan.config.model_config import ModelConfig
from distgan.config.schema import Config, DataConfig, OptimConfig, ProcessesConfig, RunConfig
from distgan.data.base import Dataset, load_dataset
from distgan.distributed.runtime import Runtime
from distgan.errors import UserError, first_line
from distgan.launch.all_reduce_check import Finding
from distgan.launch.trial_ranks import TrialRank, run_ranks
from distgan.models.base import build_discriminator, build_generator, num_parameters
from distgan.models.network_copies import choose_networks
from distgan.models.user_networks import load_networks, loaded, with_own_loss
from distgan.training.contract import check_contract
from distgan.training.engines.compiling import compile_blocks
from distgan.training.gan import Traits, check_ranks_equal
from distgan.training.precision_check import check_precision
from distgan.training.session import Session
from distgan.training.trial_inputs import draw_inputs, with_noise
from distgan.utils.child_process import build_child_env
from distgan.utils.files import pack_tensors, read_tensors

_STEPS, _NUM, _BATCH = 3, 22, 8
_LIMIT_S = 120.0
_TOLERANCES = {"float64": 1e-9, "float32": 1e-2}


def check_networks(config: DoctorConfig) -> Iterator[Finding]:
    """Yield what was found of a file, check by check; the first problem is the last."""
    try:
        images, origin = _images(config)
        model = ModelConfig(networks=config.networks, args=config.args, images=images, name=config.model)
        run = load_networks(Config(model=model, optim=OptimConfig(loss=config.loss or "bce")))
        run = run if config.loss else with_own_loss(run)
        networks = loaded(run.model)
        assert networks is not None
        files = f"with {', '.join(name for name in networks.files if name != networks.name)}, " * (
            len(networks.files) > 1
        )
        yield Finding("file", "ok", f"{networks.path}, {files}contents {networks.sha256}")
        yield Finding("images", "note", f"{origin}, --model {config.model}")
        began = time.monotonic()
        traits = check_contract(run, torch.device("cpu"))
        num_g, num_d = (num_parameters(build(run.model)) for build in (build_generator, build_discriminator))
        yield Finding(
            "contract",
            "ok",
            f"G {num_g:,} and D {num_d:,} parameters, --loss {run.optim.loss}: shapes, range, gradients, state, "
            f"copies, and 3 steps, a checkpoint and 3 more ({time.monotonic() - began:.1f} s)",
        )
    except UserError as error:
        yield Finding("contract", "problem", str(error))
        return
    for note in traits.notes:
        yield Finding("contract", "note", note)
    yield _precisions(run, traits)
    yield _compiled(run, traits)
    yield _processes(run, traits)


def _images(config: DoctorConfig) -> tuple[ImageSpec, str]:
    if config.data is None:
        return MNIST_SPEC, "1 x 28 x 28 and ten classes, as --data does not say otherwise"
    dataset = load_dataset(DataConfig(name=config.data, dir=config.data_dir))
    return dataset.spec, f"those of {config.data}: {dataset.spec.describe()}"


def _precisions(run: Config, traits: Traits) -> Finding:
    try:
        check_precision(run, torch.device("cpu"), traits, "bf16")
    except UserError as error:
        return Finding("precisions", "note", str(error))
    return Finding("precisions", "ok", "float32 and bf16")


# -- compiled --


def _compiled(run: Config, traits: Traits) -> Finding:
    """Run both networks in pieces that torch.compile traces, but without its slow code generation."""
    if traits.eager_only:
        return Finding("engines", "note", f"eager alone: {traits.eager_only}")
    cpu = torch.device("cpu")
    try:
        with torch.random.fork_rng(devices=[]):
            pair = {"generator": build_generator(run.model), "discriminator": build_discriminator(run.model)}
            inputs = draw_inputs(pair["generator"], run.model, cpu)
            for name, network in pair.items():
                state = {key: value.clone() for key, value in network.state_dict().items()}
                outputs = []
                for is_compiled in (False, True):
                    network.load_state_dict(state)
                    with_noise(network.train(), cpu)
                    if is_compiled:
                        compile_blocks(list(network.children()), "aot_eager")
                    outputs.append(network(inputs.of(name), inputs.labels).detach())
                if not torch.allclose(outputs[0], outputs[1], rtol=1e-3, atol=1e-4):
                    return Finding("engines", "note", f"compiled, {name} gives other values; steps stay eager or graph")
    except Exception as error:  # compilers raise what they like
        text = f"torch.compile does not take them ({first_line(error)}); steps stay eager or graph"
        return Finding("engines", "note", text)
    finally:
        torch.compiler.reset()
    return Finding(
        "engines", "ok", "torch.compile takes both; each engine is compared with eager steps when a run starts"
    )


# -- two processes --


def _processes(run: Config, traits: Traits) -> Finding:
    """Take the same steps on one process and on two, in float64, or in float32 where the networks take no other."""
    reason = ""
    for dtype, tolerance in _TOLERANCES.items():
        with tempfile.TemporaryDirectory(prefix="distgan-doctor-") as folder:
            if reason := _train_both(run, traits, dtype, Path(folder)):
                continue
            one, two = (read_tensors(Path(folder, f"{num}.safetensors"))[0] for num in (1, 2))
        key, difference = _largest_difference(one, two)
        if difference <= tolerance:
            text = f"{_STEPS} steps on 2 processes end as on 1, to {difference:.0e} in {dtype}"
            return Finding("processes", "ok", text)
        text = f"{_STEPS} steps on 2 processes do not end as on 1: {key} differs by {difference:.1e} in {dtype}"
        expected = traits.depends_on_processes
        return Finding("processes", "note" if expected else "problem", text + ", as noted above" * expected)
    return Finding("processes", "problem", f"2 processes: {reason}")


def _largest_difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> tuple[str, float]:
    differences = {
        key: float((one[key].double() - two[key].double()).norm() / (one[key].double().norm() + 1e-12))
        for key in one
        if key.startswith(("generator.", "discriminator.")) and one[key].is_floating_point()
    }
    key = max(differences, key=lambda key: differences[key])
    return key, differences[key]


def _train_both(run: Config, traits: Traits, dtype: str, folder: Path) -> str:
    """Start one process and two, which leave what they end with in `folder`. Return why one failed, "" if none did."""
    ranks = []
    for num in (1, 2):
        port = str(_free_port())
        words = [
            json.dumps(run.model_dump(mode="json")),
            json.dumps(traits._asdict()),
            dtype,
            str(folder / f"{num}.safetensors"),
        ]
        for rank in range(num):
            env = build_child_env() | {
                "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1", "WORLD_SIZE": str(num), "RANK": str(rank),
                "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            }  # fmt: skip
            command = (sys.executable, "-m", "distgan.launch.networks_check", *words)
            ranks.append(TrialRank(f"rank {rank} of {num}", command, env))
    failures, unfinished = run_ranks(ranks, _LIMIT_S)
    if failures:
        return "; ".join(failures)
    return f"not finished after {_LIMIT_S:g} s: {', '.join(unfinished)}" if unfinished else ""


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _take_part(config_text: str, traits_text: str, dtype: str, out: str) -> None:
    """Train as one rank of those that the environment says, on images of noise."""
    config = Config.model_validate_json(config_text)
    values = json.loads(traits_text)
    traits = Traits(**values | {"notes": tuple(values["notes"])})
    config = config.model_copy(
        update={
            "model": choose_networks(config.model, Path(), config.model.networks, is_trusted=False),
            "data": DataConfig(batch_size=_BATCH),
            "run": RunConfig(device="cpu", engine="eager", threads=1),
            "processes": ProcessesConfig(timeout=60),
        }
    )
    config = load_networks(config)
    runtime = Runtime(config)
    torch.set_default_dtype(getattr(torch, dtype))
    session = Session(config, runtime, dataset=_noise(config.model.images), traits=traits)
    engine = session.build_engine(total_steps=_STEPS)
    while session.gan.step < _STEPS:
        engine.advance(_STEPS)
    check_ranks_equal(session.gan, runtime)
    if runtime.is_main:
        Path(out).write_bytes(pack_tensors(session.gan.state(), {}))
    sys.stdout.flush()
    # Threads of gloo, which DDP keeps alive, may abort an interpreter that ends in good order.
    os._exit(0)


def _noise(images: ImageSpec) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    colours = [3] if images.channels == 3 else []
    shape = (_NUM, *colours, images.height, images.width)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.arange(_NUM) % max(1, images.num_classes)
    return Dataset("noise", pixels, labels, "memory", class_names=images.class_names)


if __name__ == "__main__":
    _take_part(*sys.argv[1:])
