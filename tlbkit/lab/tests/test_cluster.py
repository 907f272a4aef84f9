"""Long work on a Dask cluster: two workers, each a process of its own."""

import os
from pathlib import Path

import pytest

from tlbkit import lab
from tlbkit.__main__ import main
from tlbkit.lab.work import Task, rows

distributed = pytest.importorskip(
    "distributed", reason="the extra 'cluster' is not installed"
)

MPROTECT = lab.find("mprotect")


@pytest.fixture(scope="module")
def cluster():
    """Start a scheduler and two workers on this machine."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as started:
        yield started


def dies_once(mark):
    """End the worker the first time, and answer the second."""
    if not Path(mark).exists():
        Path(mark).touch()
        os._exit(9)
    return {"answered": True}


def test_a_cluster_changes_nothing(cluster):
    """The sweep that two workers do is the one that is done here."""
    axes: dict[str, list[lab.Value]] = {"pages": [1, 2, 5], "cpus": [2, 4]}
    with distributed.Client(cluster) as client:
        there = lab.sweep(MPROTECT, axes, executor=client.get_executor())
    assert there == lab.sweep(MPROTECT, axes)


def test_the_command_line_reaches_a_cluster(cluster, tmp_path, capsys):
    """`--cluster` gives the file that is written without it."""
    asked = ["sweep", "mprotect", "--over", "pages=1..4", "--out"]
    assert main([*asked, str(tmp_path / "here.csv")]) == 0
    there = ["--cluster", cluster.scheduler_address]
    assert main([*asked, str(tmp_path / "there.csv"), *there]) == 0
    assert "8 rows are in" in capsys.readouterr().out
    here, far = (tmp_path / name for name in ("here.csv", "there.csv"))
    assert here.read_bytes() == far.read_bytes()


def test_a_worker_that_dies_loses_nothing(cluster, tmp_path):
    """The scheduler gives its call to another, and every row comes."""
    tasks = [Task(str(n), dies_once, (str(tmp_path / "mark"),)) for n in range(4)]
    with distributed.Client(cluster) as client:
        assert rows(tasks, client.get_executor()) == [{"answered": True}] * 4


def test_no_scheduler_is_said(capsys):
    """An address where nobody answers, or that is none, ends with status 2."""
    asked = ["sweep", "mprotect", "--over", "pages=1", "--cluster"]
    assert main([*asked, "nonsense://x"]) == 2
    assert "--cluster nonsense://x" in capsys.readouterr().err
