"""Fake `distgan train` for tests of the benchmark: its files, signals and exit codes within a second.

$FAKE_TRAINER is a JSON file that has for each run, by its folder's name, the fcd of each evaluation and how it ends.
Each start is recorded as a line of `starts` beside that file.
"""

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

ENDS = {"done": 0, "nan": 1, "crash": 1, "hang": 0, "limit": 75}
REASONS = {
    "nan": "d_loss is nan at step 12; the last good state, of step 0, is kept",
    "crash": "rank 1: it is gone",
    "limit": "stopped before its time limit at step 10",
}


def line(index: int, fcd: float | None) -> str:
    """Return a line of metrics.jsonl: four evaluations per epoch, each after 1 s of training and taking 0.5 s."""
    values = {
        "step": 5 * (index + 1), "epoch": (index + 1) / 4, "elapsed_s": index + 1.0, "eval_s": 0.5,
        "since_start_s": index + 7.0,
        "raw_fcd": fcd, "raw_recognisable": 0.99, "raw_digits": [0.99] * 10, "raw_coverage_digits": [0.9] * 10,
    }  # fmt: skip
    return json.dumps(values) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--out", "--seed", "--processes", "--threads"):
        parser.add_argument(flag)
    out = Path(parser.parse_known_args()[0].out)
    script = Path(os.environ["FAKE_TRAINER"])
    run = json.loads(script.read_text())[out.name]
    with script.with_name("starts").open("a") as starts:
        starts.write(f"{out.name} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    handle = os.open(out / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def leave(state: str, reason: str | None, code: int) -> None:
        status = {"state": state, "reason": reason, "exit_code": code, "pid": os.getpid(), "host": "here"}
        (out / "status.json").write_text(json.dumps(status))
        if reason:
            print(f"distgan: {reason}", file=sys.stderr)
        sys.exit(code)

    signal.signal(signal.SIGTERM, lambda *_: leave("stopped", "stopped by SIGTERM", 143))
    metrics = out / "metrics.jsonl"
    metrics.touch()
    for index in range(len(metrics.read_text().splitlines()), len(run["fcd"])):
        time.sleep(run.get("pause", 0.03))
        with metrics.open("a") as file:
            file.write(line(index, run["fcd"][index]))
        last_two = [json.loads(text)["raw_fcd"] for text in metrics.read_text().splitlines()[-2:]]
        if len(last_two) == 2 and all(fcd is not None and fcd <= 1 for fcd in last_two):  # as --stop-at does
            leave("done", "targets met", 0)
    end = run.get("end", "done")
    if end == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if end == "usr1":
        os.kill(os.getpid(), signal.SIGUSR1)  # as a signal before the handler is set
    leave({"done": "done", "limit": "stopped"}.get(end, "failed"), REASONS.get(end), ENDS[end])


if __name__ == "__main__":
    main()
