"""A SLURM of two machines, made of this one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, cluster, missing


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if why := missing():
        pytest.skip(f"no SLURM for tests: {why}")
    with cluster(tmp_path_factory.mktemp("slurm", numbered=True)) as running:
        if running is None:
            pytest.skip("no SLURM for tests: another test run has its cluster up")
        yield running


@pytest.fixture
def slurm(up: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    up.folder = tmp_path
    yield up
    up.quiet()
