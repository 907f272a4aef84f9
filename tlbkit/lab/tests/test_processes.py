"""A pool of processes in which a call outlives the process that it ran in."""

import os
from pathlib import Path

import pytest

from tlbkit.lab.processes import Processes, WorkerLostError


def dies_once(mark):
    """End the process the first time, and answer the second."""
    if not Path(mark).exists():
        Path(mark).touch()
        os._exit(9)
    return "answered"


def dies():
    """End the process, always."""
    os._exit(9)


def test_a_worker_that_dies_loses_nothing(tmp_path):
    """What it was at is run anew, and nothing else is."""
    with Processes(2) as pool:
        lost = pool.submit(dies_once, str(tmp_path / "mark"))
        others = [pool.submit(divmod, number, 7) for number in range(20)]
        assert lost.result() == "answered"
        assert [one.result() for one in others] == [divmod(n, 7) for n in range(20)]


def test_a_call_that_always_ends_its_process_is_named():
    """It is given up after three times, and the pool goes on."""
    with Processes(1) as pool:
        with pytest.raises(WorkerLostError, match="dies ended its process 3 times"):
            pool.submit(dies).result()
        assert pool.submit(divmod, 7, 2).result() == (3, 1)


def test_an_error_of_a_call_is_its_own():
    """It is not taken for a lost process."""
    with Processes(1) as pool, pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()
