"""A user's mistake is one line with the flag, its value and what is allowed; nothing is started or left behind."""

import shlex
from pathlib import Path

import pytest
from helpers.fake_bench import TINY, fake_training
from helpers.made_up_runs import weights
from helpers.runs import MonkeyPatch, Run, assert_user_error

SIX = "train --preset cgan-quick --data digits --family dcgan --width 0.1 --batch-size 32 --max-steps 6 --out run"
FAST = "train --preset cgan-fast --data digits --width 0.1 --max-steps 2"
BENCH = "bench convergence --preset cgan"
FP16_ON_CPU = ["--precision ... fp16 ... [precision-unavailable]", "CPU: fp32 ... bf16 ... [precision-unavailable]"]

MISTAKES: dict[str, list[str]] = {
    "": ["[missing-value]"],
    "trian": ["trian ... [unknown-name]"],
    "--verison": ["--verison: unknown flag"],
    # -- train
    "train": ["--model vanilla ... --model cgan ... [missing-value]"],
    "train --preset cgan-quik": ["--preset ... cgan-quik ... [unknown-name]", "vanilla", "[bad-value]"],
    "train --config my.toml": ["my.toml ... [not-found]"],
    "train --preset cgan-quick --data digits --stop-at nope.toml --dry-run": [
        "--stop-at: ... (nope.toml) ... [not-found]"
    ],
    "train --preset cgan --config my.toml": ["[conflicting-settings]"],
    "train --model cgan --preset vanilla-quick": ["--model ... cgan ... [conflicting-settings]", "trains vanilla"],
    "train --model dcgan": ["--model ... dcgan ... [unknown-name]"],
    "train --model cgan --epcohs 3": ["--epcohs: unknown flag, did you mean --epochs?"],
    "train --model cgan --precision fp16 --device cpu --out run": FP16_ON_CPU,
    "train --model cgan --data digits --batch-size 20000 --drop-last --out run": [
        "--batch-size ... 20000 ... [bad-value]",
        "17,970",
    ],
    "train --model vanilla --data-dir no --no-download --out run": ["--data-dir: no ... [no-data]", "--data digits"],
    "train --model vanilla --data-dir no --data-mirror http://127.0.0.1:9 --out run": ["the download ... failed"],
    "train --preset cgan-quick --data digits --out /proc/run": ["--out", "[unwritable]"],
    "train --preset cgan-quick --data digits --out one.toml/run": ["--out", "[unwritable]"],
    f"{SIX.removesuffix(' --out run')} --dry-run --resume auto": [
        "--resume ... auto ... --out ... [conflicting-settings]"
    ],
    f"{SIX} --keep 1": ["--keep ... '1' ... [bad-value]", "2 or more"],
    f"{SIX} --keep-best min:fid": ["--keep-best ... 'min:fid' ... min ... max ... d_loss ... [bad-value]"],
    f"{SIX} --keep-best min:raw_fcd": [
        "--keep-best ... min:raw_fcd ... [conflicting-settings]",
        "--eval-every 1 or more ... [conflicting-settings]",
    ],
    **{
        f"{SIX} --device cpu --engine {engine}": [f"--engine: ... ({engine}) ... auto, eager, compile ... [no-gpu]"]
        for engine in ("graph", "graph-compiled")
    },
    **{
        f"{SIX} --dry-run '--time-limit={text}'": [
            "--time-limit: ",
            "90s, 45m, 1h30m, 1 ... 30:00 ... 1-12:00:00 ... [bad-value]",
        ]
        for text in ("90", "soon", "1h30", "-5s", "", "1:5", "1.5h", "10 m")
    },
    f"{FAST} --clusters 5000": ["--clusters ... 5000 ... at most 1797 ... [bad-value]"],
    f"{FAST} --clusters 0": ["--clusters ... '0' ... [bad-value]", "1 or more"],
    f"{FAST} --family dcgan": [
        "--clusters: --family dcgan ... (25) ... --family clustered ... [conflicting-settings]",
        "[conflicting-settings]",
    ],
    "train --model cgan --family clustered": ["--clusters ... unset ... --family clustered ... [conflicting-settings]"],
    f"{SIX} --batch-size 2048 --processes 1024": ["--processes ... 1024 ... [not-enough-memory]", "here: at most "],
    f"{SIX} --processes 33": ["--batch-size ... 32 ... [batch-too-small]", "at least 33 ... [batch-too-small]"],
    # -- checkpoint, sample, judge
    "checkpoint look run": ["look ... ls, verify, diff ... [unknown-name]"],
    "checkpoint ls empty": ["empty ... [no-checkpoint]"],
    "checkpoint verify nowhere": ["nowhere ... [no-checkpoint]"],
    "checkpoint ls empty other": ["other: ls takes one folder"],
    "checkpoint diff empty": ["empty ... [no-checkpoint]"],
    "sample": ["the following arguments are required: RUN_OR_WEIGHTS"],
    "sample nowhere": ["nowhere ... [no-weights]"],
    "sample drawn --digits 1,12": ["--classes: ... (12) ... 0, 1, 2 ... [unknown-name]"],
    "sample drawn --digits 3,,8": ["--classes: ... ('3,,8') ... names or numbers of classes ... [bad-value]"],
    **{
        line: ["~nosuch-user/x", "[bad-path]", "[bad-value]"]
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
    "sample drawn --num 0": ["--num ... '0' ... [bad-value]"],
    "sample drawn --out none/x.png": ["none/x.png ... [not-found]"],
    "judge tarin": ["tarin ... [unknown-name]"],
    # -- bench
    "bench": ["[missing-value]"],
    "bench fast": ["fast: unknown benchmark", "throughput, compare, scaling, plan"],
    "bench throughput --engine eager,fast": ["--engine ... 'fast' ... [unknown-name]", "one or more of auto, eager"],
    "bench throughput --preset ''": ["--preset ... [] ... [bad-value]", "one or more"],
    "train --out nowhere --resume auto": ["--out: ... (nowhere) ... [no-run]"],
    "bench throughput --preset moon": ["--preset ... moon ... [unknown-name]", "vanilla-fast"],
    "bench throughput --batch-size 64,1": ["--batch-size ... '1' ... [bad-value]", "integers from 2"],
    "bench throughput --repeats 4": ["--repeats ... '4' ... [bad-value]", "5 or more"],
    "bench throughput --device tpu": ["--device ... 'tpu' ... [bad-value]", "auto, cpu, cuda"],
    "bench throughput --peers --data digits": ["--data: ... --peers (digits) ... mnist ... [conflicting-settings]"],
    "bench throughput --peers --order alternating-fresh": [
        "--order: ... --peers ... (alternating-fresh) ... alternating ... [conflicting-settings]"
    ],
    "bench throughput --peers --data-dir nowhere": ["--peers: ... nowhere/MNIST/raw ... --data-dir ... [no-data]"],
    "bench throughput --precision fp32,fp16 --device cpu --out out": ["--precision: ... (fp16) ... [no-gpu]"],
    "bench compare nowhere.json nowhere.json": ["nowhere.json: ... results.json ... [no-results]"],
    "bench compare one.json": ["B.json"],
    "bench compare a b --fail-above -1": ["--fail-above ... '-1' ... [bad-value]", "more than 0"],
    "bench convergence": ["--preset: ... --preset NAME ... [missing-value]"],
    "bench convergence cgan": ["cgan ... [unknown-setting]"],
    "bench convergence --preset cgan-quik": ["--preset ... cgan-quik ... [unknown-name]"],
    "bench convergence --preset nowhere.toml": ["nowhere.toml ... [not-found]"],
    "bench convergence --preset one.toml --targets .": ["[unreadable]"],
    f"{BENCH} --against x": ["--against ... x ... [unknown-name]"],
    f"{BENCH} --against cgan": ["--against: ... --preset cgan (cgan) ... [conflicting-settings]"],
    f"{BENCH} --against vanilla": ["--against: model ... (vanilla: vanilla, cgan: cgan) ... [conflicting-settings]"],
    f"{BENCH} --seeds 0": ["--seeds ... '0' ... [bad-value]", "1 or more"],
    f"{BENCH} --seeds many": ["--seeds ... 'many' ... [bad-value]", "an integer"],
    f"{BENCH} --num 64": ["--num ... '64' ... [bad-value]", "65 or more"],
    f"{BENCH} --jobs 0": ["--jobs ... '0' ... [bad-value]", "1 or more"],
    f"{BENCH} --targets nowhere.toml": ["--targets ... nowhere.toml ... [not-found]"],
    f"{BENCH} --engine graph --device cpu": ["--engine: ... (graph) ... [no-gpu]"],
    f"{BENCH} --precision fp16 --device cpu": ["--precision: ... (fp16) ... [no-gpu]"],
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
        ((), ["--out ... run ... [no-run]", "[no-run]"]),
        (("--dry-run",), ["--out ... run ... [no-run]"]),
        (("--resume", "never"), ["--out ... run ... [output-exists]", "--resume auto"]),
    ):
        assert_user_error(distgan(*SIX.split(), *more), *words)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]
