"""DeepSpeed: every ZeRO stage ends where plain training does, and leaves and takes the same checkpoints."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import BIN, ROOT, Run, assert_same_run, assert_user_error, checkpoint, losses, quick
from parity_matrix import RECIPES
from safetensors.torch import load_file
from test_launch import accelerate, world_size
from test_parity import difference

from distgan.config.schema import Config, OptimConfig, ProcessesConfig
from distgan.distributed import deepspeed as zero_config
from distgan.errors import UserError

MATRIX = ROOT / "tests" / "parity_matrix.py"
NAMES = ["vanilla-simultaneous-1", "cgan-reuse-3", "cgan-fresh-3", "odd-batch", "odd-batch-accumulate"]
WITHOUT_PENALTY = [name for name in NAMES if RECIPES[name].loss == "bce"]

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install '.[deepspeed]'"
)


@pytest.fixture(scope="module", autouse=True)
def _sums_do_not_depend_on_addresses() -> Iterator[None]:
    """MKL takes other kernels for other alignments, and ZeRO's weights lie in the middle of a buffer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MKL_CBWR", "AVX2,STRICT")
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process without DeepSpeed ends with."""
    folder = tmp_path_factory.mktemp("plain")
    subprocess.run([sys.executable, MATRIX, folder, "1", "none", ",".join(NAMES)], check=True, timeout=240)
    return folder


@needs_deepspeed
@pytest.mark.parametrize("num", [1, 2])
def test_every_stage_ends_where_plain_training_does(run: Run, plain: Path, tmp_path: Path, num: int) -> None:
    """One process to the bit, two to rounding: weights, Adam's state, moving average, and the losses of each step."""
    door = (sys.executable,) if num == 1 else (BIN / "torchrun", "--standalone", "--nproc-per-node", num)
    for stages, names in (("0,1,2", NAMES[-3:] if num == 2 else NAMES), ("3", WITHOUT_PENALTY[-2:])):
        result = run(*door, MATRIX, tmp_path, num, stages, ",".join(names))
        assert result.returncode == 0, result.stderr
        for stage in stages.split(","):
            for name in names:
                ours = load_file(plain / f"{name}.safetensors")
                theirs = load_file(tmp_path / f"zero{stage}-{name}.safetensors")
                assert ours.keys() == theirs.keys(), "the same files as elsewhere"
                if num == 1:
                    assert all(torch.equal(ours[key], theirs[key]) for key in ours), (stage, name)
                else:
                    assert difference(ours, theirs, set()) < 1e-5, (stage, name)
                    assert torch.allclose(ours["stats"], theirs["stats"], rtol=1e-5, atol=1e-6), (stage, name)


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (1, 3))])
def test_launch_file_of_a_stage_starts(run: Run, tmp_path: Path, stage: int) -> None:
    result = run(*accelerate(f"deepspeed_zero{stage}"), *quick("run"))
    assert result.returncode == 0, result.stderr
    assert world_size(tmp_path / "run") == 2
    assert f'"strategy": "ZeRO {stage}"' in (tmp_path / "run" / "environment.json").read_text()
    assert f"2 x cpu in ZeRO {stage}" in result.stderr
    assert "G 72,701 and D 3,580 parameters" in result.stderr, "all of them, and not this rank's"


@needs_deepspeed
def test_a_stopped_run_goes_on_with_and_without_deepspeed(run: Run, distgan: Run, tmp_path: Path) -> None:
    """On one process with the same bits; on others, sharded or not, to rounding."""
    rates = ("--g-lr", "2e-4", "--d-lr", "2e-4")
    assert distgan("train", *quick("plain", *rates)).returncode == 0
    for stage in (0, 1, 2, 3):
        result = distgan("train", *quick("broken", *rates, "--zero-stage", stage, "--max-steps", stage + 2))
        assert result.returncode == 0, result.stderr
    assert distgan("train", *quick("broken", *rates)).returncode == 0
    assert_same_run(tmp_path / "broken", tmp_path / "plain")

    assert distgan("train", *quick("mixed", *rates, "--max-steps", 2)).returncode == 0
    for stage in (3, 2):
        flags = ("--processes", 2, "--zero-stage", stage, "--max-steps", 6 - stage)
        result = run(BIN / "distgan", "train", *quick("mixed", *rates, *flags))
        assert result.returncode == 0, result.stderr
    result = distgan("train", *quick("mixed", *rates))
    assert result.returncode == 0, result.stderr
    assert "on 1 processes instead of 2" in result.stderr
    (ours, _), (theirs, _) = checkpoint(tmp_path / "mixed"), checkpoint(tmp_path / "plain")
    assert difference(ours, theirs, set()) < 1e-5


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_processes_go_on_with_the_same_bits(run: Run, tmp_path: Path, stage: int) -> None:
    command = (BIN / "distgan", "train")
    flags = ("--processes", 2, "--zero-stage", stage)
    assert run(*command, *quick("straight", *flags)).returncode == 0
    assert run(*command, *quick("broken", *flags, "--max-steps", 3)).returncode == 0
    assert run(*command, *quick("broken", *flags)).returncode == 0
    assert_same_run(tmp_path / "straight", tmp_path / "broken")


@needs_deepspeed
def test_bf16_is_that_of_plain_training(distgan: Run, tmp_path: Path) -> None:
    for name, more in (("plain", ()), ("zero", ("--zero-stage", 2))):
        result = distgan("train", *quick(name, "--precision", "bf16", *more))
        assert result.returncode == 0, result.stderr
    assert losses(tmp_path / "zero") == losses(tmp_path / "plain")
    floats = {w.dtype for w in load_file(tmp_path / "zero" / "weights" / "generator.safetensors").values()}
    assert floats == {torch.float32, torch.int64}


SKIPPED = """
import torch
from distgan.config.schema import Config, ModelConfig, OptimConfig, ProcessesConfig, RunConfig
from distgan.distributed.runtime import Runtime
from distgan.training.gan import build_gan
from distgan.training.step import build_step

runtime = Runtime(Config(run=RunConfig(device="cpu"), processes=ProcessesConfig(zero=2)))
gan = build_gan(ModelConfig(family="small", width=0.1), OptimConfig(), 0, runtime)
step = build_step(gan, OptimConfig(), 0, 9)
step(torch.zeros(8, 1, 28, 28), torch.arange(8), range(8))
before = gan.num_skipped
step(torch.full((8, 1, 28, 28), torch.nan), torch.arange(8), range(8))
print(before, gan.num_skipped > 0, gan.is_finite())
"""


@needs_deepspeed
def test_an_update_that_zero_leaves_out_is_seen(run: Run) -> None:
    """A gradient that is no number: the weights stay finite, so they do not tell."""
    result = run(sys.executable, "-c", SKIPPED)
    assert result.stdout.split() == ["0", "True", "True"], result.stderr


@needs_deepspeed
def test_nothing_of_deepspeed_is_left_or_said(distgan: Run, tmp_path: Path) -> None:
    result = distgan("train", *quick("run", "--zero-stage", 2, "--accumulate", 2))
    assert result.returncode == 0, result.stderr
    for word in ("WARNING", "INFO", "RANK", "deepspeed", "Warning"):
        assert word not in result.stdout + result.stderr, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert not list((tmp_path / "run").rglob("*.pt"))


# -- what it can't do --------------------------------------------------------------------------------------


def test_without_deepspeed_there_is_a_hint(distgan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"DeepSpeed: is not installed; allowed: pip install 'distgan\[deepspeed\]'"):
        zero_config.chosen(Config(processes=ProcessesConfig(zero=2)), "no", is_cpu=True, has_cuda=False)


@pytest.mark.parametrize(
    ("config", "precision", "has_cuda", "words"),
    [
        ({}, "fp16", False, "--precision fp16: its loss scaler does not reach"),
        ({}, "no", True, "--device cpu: DeepSpeed takes the GPUs that it sees"),
        ({"loss": "wgan-gp"}, "no", False, "--loss wgan-gp: the second derivative of its penalty"),
    ],
)
def test_combinations_that_can_not_work_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, str], precision: str, has_cuda: bool, words: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    chosen = Config(optim=OptimConfig(**config), processes=ProcessesConfig(zero=3))
    with pytest.raises(UserError, match=words):
        zero_config.chosen(chosen, precision, is_cpu=True, has_cuda=has_cuda)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is no table of DeepSpeed's settings"),
        ('{"zero_optimization": 2}', "is no table of DeepSpeed's settings"),
        ('{"optimizer": {"type": "Adam"}}', "optimizer: is set by --g-lr, --d-lr"),
        ('{"bf16": {"enabled": true}}', "bf16: is set by --precision bf16, which is autocast"),
        ('{"train_batch_size": 64}', "train_batch_size: is set by --batch-size; allowed: leave it out"),
        (
            '{"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}',
            "offload_optimizer: needs DeepSpeed's own Adam",
        ),
        ('{"zero_optimization": {"stage": 4}}', "zero_optimization.stage 4: is no ZeRO stage; allowed: 0, 1, 2, 3"),
        ('{"zero_optimization": {"stage": true}}', "zero_optimization.stage True: is no ZeRO stage"),
    ],
)
def test_a_file_that_can_not_be_used_is_one_line(
    distgan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    (tmp_path / "my.json").write_text(text)
    with pytest.raises(UserError) as caught:
        zero_config.read_config(str(tmp_path / "my.json"), None)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_deepspeed
def test_a_missing_file_is_said_once(distgan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "nowhere.json")
    assert_user_error(distgan("train", *quick("run")), "deepspeed_config_file nowhere.json: can't be read")
    assert not (tmp_path / "run").exists()


@needs_deepspeed
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"zero_optimization": {"stage": 1, "overlap_com": true}}', "overlap_com"),
        ('{"gradient_clipping": "lots"}', "lots"),
        ('{"communication_data_type": "junk"}', "communication_data_type"),
        ('{"comms_logger": 7}', "CommsLoggerConfig"),
    ],
)
def test_a_setting_that_deepspeed_does_not_take_is_one_line(
    distgan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    (tmp_path / "my.json").write_text(text)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "my.json")
    assert_user_error(distgan("train", *quick("run")), "DeepSpeed does not take its settings (", words)
    assert not (tmp_path / "run").exists()


def test_the_files_stage_yields_to_the_flag(tmp_path: Path) -> None:
    (tmp_path / "my.json").write_text('{"zero_optimization": {"stage": 1, "overlap_comm": false}, "bf16": "auto"}')
    read = zero_config.read_config
    assert read(str(tmp_path / "my.json"), None)["zero_optimization"] == {"stage": 1, "overlap_comm": False}
    assert read(str(tmp_path / "my.json"), 3)["zero_optimization"] == {"stage": 3, "overlap_comm": False}
    assert read(None, None)["zero_optimization"] == {"stage": 2}
    # A relative name of launch/ is found from any folder.
    assert read("launch/deepspeed_zero3.json", None)["zero_optimization"]["stage"] == 3
