"""What a run says and writes about its engine."""

import json
from pathlib import Path

from helpers.launchers import needs_deepspeed
from helpers.runs import Run, quick

from distgan.checkpoint.resume import newest_valid


def test_a_run_says_which_engine_it_has_and_why(distgan: Run, tmp_path: Path) -> None:
    result = distgan("train", *quick("run"))
    assert "engine eager: on a CPU compiling takes long and gains nothing" in result.stderr
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["engine"]["asked"] == "auto"
    assert environment["engine"]["name"] == "eager"
    found = newest_valid(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found[1].state.engine == "eager"


@needs_deepspeed
def test_a_run_says_what_took_the_place_of_its_engine(distgan: Run, tmp_path: Path) -> None:
    result = distgan("train", *quick("run", "--engine", "compile", "--zero-stage", 0))
    assert result.returncode == 0, result.stderr
    assert "engine eager: compile was not taken: ZeRO 0 takes its own way through the networks" in result.stderr
    engine = json.loads((tmp_path / "run" / "environment.json").read_text())["engine"]
    assert (engine["asked"], engine["name"]) == ("compile", "eager")
