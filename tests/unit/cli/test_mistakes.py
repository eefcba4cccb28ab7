"""A user's mistake is one line with the flag, its value and what is allowed; nothing is started or left behind."""

import shlex
from pathlib import Path

import pytest
from helpers.fake_bench import TINY, fake_training
from helpers.made_up_runs import weights
from helpers.runs import MonkeyPatch, Run, assert_user_error

SIX = "train --preset cgan-quick --data digits --family small --width 0.1 --batch-size 32 --max-steps 6 --out run"
FAST = "train --preset cgan-fast --data digits --width 0.1 --max-steps 2"
BENCH = "bench convergence --preset cgan"
FP16_ON_CPU = ["--precision fp16", "allowed on a CPU: no, bf16"]

MISTAKES: dict[str, list[str]] = {
    "": ["names no command; allowed: train, data, sample"],
    "trian": ["trian: unknown command; allowed: train, data, sample"],
    "--verison": ["--verison: unknown flag"],
    # -- train
    "train": ["names no network; allowed: --model vanilla, --model cgan"],
    "train --preset cgan-quik": [
        "--preset cgan-quik: unknown preset, did you mean cgan-quick?",
        "vanilla",
        "[bad-value]",
    ],
    "train --config my.toml": ["my.toml: can't be read (No such file or directory) [not-found]"],
    "train --preset cgan --config my.toml": ["allowed: one of the two"],
    "train --model cgan --preset vanilla-quick": ["--model cgan", "trains vanilla"],
    "train --model dcgan": ["--model dcgan: unknown network; allowed: vanilla, cgan"],
    "train --model cgan --epcohs 3": ["--epcohs: unknown flag, did you mean --epochs?"],
    "train --model cgan --precision fp16 --device cpu --out run": FP16_ON_CPU,
    "train --model cgan --data digits --batch-size 20000 --drop-last --out run": ["--batch-size 20000", "17,970"],
    "train --model vanilla --data-dir no --no-download --out run": ["--data-dir no: no mnist there", "--data digits"],
    "train --model vanilla --data-dir no --data-mirror http://127.0.0.1:9 --out run": ["the download failed"],
    "train --preset cgan-quick --data digits --out /proc/run": ["--out", "can't be written to"],
    "train --preset cgan-quick --data digits --out one.toml/run": ["--out", "can't be written to"],
    f"{SIX.removesuffix(' --out run')} --dry-run --resume auto": ["--resume auto: resumes the run in --out"],
    f"{SIX} --keep 1": ["--keep: '1' is not allowed", "2 or more"],
    f"{SIX} --keep-best min:fid": ["--keep-best: 'min:fid' is not allowed; allowed: min: or max: and one of d_loss"],
    f"{SIX} --keep-best min:raw_fcd": ["--keep-best min:raw_fcd", "allowed with --eval-every 1 or more"],
    **{
        f"{SIX} --device cpu --engine {engine}": [
            f"--engine {engine}: CUDA graphs need a CUDA device; allowed on a CPU: auto, eager, compile"
        ]
        for engine in ("graph", "graph-compiled")
    },
    **{
        f"{SIX} --dry-run '--time-limit={text}'": [
            "--time-limit: ",
            "allowed: a time as 90s, 45m, 1h30m, 1:30:00 or 1-12:00:00",
        ]
        for text in ("90", "soon", "1h30", "-5s", "", "1:5", "1.5h", "10 m")
    },
    f"{FAST} --clusters 5000": ["--clusters 5000: of 17,970 images; allowed: at most 1797"],
    f"{FAST} --clusters 0": ["--clusters: '0' is not allowed", "1 or more"],
    f"{FAST} --family small": ["--clusters 25: with --family small", "allowed:"],
    "train --model cgan --family clustered": ["--clusters unset: with --family clustered"],
    f"{SIX} --batch-size 2048 --processes 1024": ["--processes 1024: a process takes 0.5 GiB", "here: at most "],
    f"{SIX} --processes 33": ["--batch-size 32: too few for the processes", "allowed: at least 33"],
    # -- checkpoint, sample, judge
    "checkpoint look run": ["look: unknown action; allowed: ls, verify, diff"],
    "checkpoint ls empty": ["empty: holds no checkpoint"],
    "checkpoint verify nowhere": ["nowhere: holds no checkpoint"],
    "checkpoint ls empty other": ["other: ls takes one folder"],
    "checkpoint diff empty": ["empty: holds no checkpoint"],
    "sample": ["the following arguments are required: RUN_OR_WEIGHTS"],
    "sample nowhere": ["nowhere: is not there; allowed: a run's folder"],
    "sample drawn --digits 1,12": ["--classes 12: is no class of these weights", "allowed: 0, 1, 2"],
    "sample drawn --digits 3,,8": ["--classes: '3,,8' is not allowed; allowed: names or numbers of classes"],
    **{
        line: ["~nosuch-user/x", "there is no such home", "[bad-value]"]
        for line in (
            "sample drawn --out '~nosuch-user/x.png'",
            "sample '~nosuch-user/x'",
            "eval '~nosuch-user/x'",
            "report '~nosuch-user/x'",
            "compare empty '~nosuch-user/x'",
            "checkpoint ls '~nosuch-user/x'",
            "judge show --out '~nosuch-user/x'",
            "bench plan '~nosuch-user/x'",
            "bench convergence --join '~nosuch-user/x'",
            f"{SIX.removesuffix('run')} '~nosuch-user/x'",
            f"{SIX} --data mnist --data-dir '~nosuch-user/x'",
        )
    },
    "sample drawn --num 0": ["--num: '0' is not allowed"],
    "sample drawn --out none/x.png": ["none/x.png: No such file or directory"],
    "judge tarin": ["tarin: unknown action; allowed: train, show"],
    # -- bench
    "bench": ["names no benchmark"],
    "bench fast": ["fast: unknown benchmark", "throughput, compare, scaling, plan"],
    "bench throughput --engine eager,fast": ["--engine: 'fast'", "one or more of auto, eager"],
    "bench throughput --preset ''": ["--preset: []", "one or more"],
    "bench throughput --preset moon": ["--preset moon: unknown preset", "vanilla-fast"],
    "bench throughput --batch-size 64,1": ["--batch-size: '1'", "whole numbers from 2"],
    "bench throughput --repeats 4": ["--repeats: '4'", "5 or more"],
    "bench throughput --device tpu": ["--device: 'tpu'", "auto, cpu, cuda"],
    "bench throughput --peers --data digits": ["--data digits", "--peers", "allowed: mnist"],
    "bench throughput --peers --order fresh": ["--order fresh", "reuse"],
    "bench throughput --peers --data-dir nowhere": ["nowhere/MNIST/raw", "--data-dir"],
    "bench throughput --precision no,fp16 --device cpu --out out": ["--precision fp16: needs a CUDA device"],
    "bench compare nowhere.json nowhere.json": ["nowhere.json: is not there", "results.json"],
    "bench compare one.json": ["B.json"],
    "bench compare a b --fail-above -1": ["--fail-above: '-1'", "more than 0"],
    "bench convergence": ["names no preset", "--preset NAME"],
    "bench convergence cgan": ["cgan: belongs to no flag"],
    "bench convergence --preset cgan-quik": ["--preset cgan-quik: unknown preset, did you mean cgan-quick?"],
    "bench convergence --preset nowhere.toml": ["nowhere.toml: can't be read"],
    "bench convergence --preset one.toml --targets .": [".: is no regular file"],
    f"{BENCH} --against x": ["--against x: unknown preset"],
    f"{BENCH} --against cgan": ["--against cgan: has the name of --preset cgan"],
    f"{BENCH} --against vanilla": ["--against vanilla: trains vanilla, cgan cgan"],
    f"{BENCH} --seeds 0": ["--seeds: '0'", "1 or more"],
    f"{BENCH} --seeds many": ["--seeds: 'many'", "a whole number"],
    f"{BENCH} --num 64": ["--num: '64'", "65 or more"],
    f"{BENCH} --jobs 0": ["--jobs: '0'", "1 or more"],
    f"{BENCH} --targets nowhere.toml": ["--targets nowhere.toml: is no file"],
    f"{BENCH} --engine graph --device cpu": ["--engine graph: needs a CUDA device"],
    f"{BENCH} --precision fp16 --device cpu": ["--precision fp16: needs a CUDA"],
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistake_is_one_line_and_leaves_nothing(
    distgan: Run, tmp_path: Path, monkeypatch: MonkeyPatch, line: str
) -> None:
    if "bench convergence" in line:
        fake_training(monkeypatch.setattr)
    (tmp_path / "one.toml").write_text(TINY)
    (tmp_path / "empty").mkdir()
    if "drawn" in line:
        weights(tmp_path / "drawn")
    before = sorted(tmp_path.rglob("*"))
    assert_user_error(distgan(*shlex.split(line)), *MISTAKES[line])
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_in_use_is_never_overwritten(distgan: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    for more, words in (
        ((), ["--out run: holds no run to resume", "name a new folder"]),
        (("--dry-run",), ["--out run: holds no run to resume"]),
        (("--resume", "never"), ["--out run: is there already and is not overwritten", "--resume auto"]),
    ):
        assert_user_error(distgan(*SIX.split(), *more), *words)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]
