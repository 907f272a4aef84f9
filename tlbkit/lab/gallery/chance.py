"""Meetings run by chance: for schedules with more preemptions than a search can try."""

from __future__ import annotations

import os
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from tlbkit.explore.search import wander
from tlbkit.lab.gallery.names import check
from tlbkit.lab.gallery.programme import PROGRAMME

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from tlbkit.explore.scheduler import Schedule


class Walk(NamedTuple):
    """What a random walk through the schedules of one meeting found.

    Attributes:
        meeting: Its name.
        runs: How many schedules were tried.
        steps: How many steps were made in them.
        error: What was broken, in one line; "" if nothing was.
        schedule: Of the breach; `replay` runs it again.
        crossings: Locks that were taken in orders that can end in a deadlock.
    """

    meeting: str
    runs: int
    steps: int
    error: str
    schedule: Schedule
    crossings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain dictionaries and lists."""
        return {
            **self._asdict(),
            "schedule": [list(choice) for choice in self.schedule],
            "crossings": list(self.crossings),
        }


def walks(
    seed: int,
    runs: int,
    meetings: Iterable[str] | None = None,
    taken_out: Collection[str] = (),
    executor: Executor | None = None,
) -> list[Walk]:
    """Try schedules of meetings at random; the same seed tries the same ones.

    Args:
        seed: Names the schedules.
        runs: How many of each meeting, at most: a breach ends its walk.
        meetings: By name; all if not given.
        taken_out: What is taken out of them.
        executor: Where they run; a pool of processes, one for each CPU, if not given.

    Errors:
        InputError: There is no such meeting.
    """
    names = list(PROGRAMME if meetings is None else meetings)
    for name in names:
        check("meeting", name, PROGRAMME, "python -m tlbkit meetings")
    if executor is None:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            return walks(seed, runs, names, taken_out, pool)
    return list(executor.map(partial(_walk, seed, runs, frozenset(taken_out)), names))


def _walk(seed: int, runs: int, taken_out: frozenset[str], name: str) -> Walk:
    """Walk through one meeting; what others do does not change its schedules."""
    scenario = PROGRAMME[name].scenario(taken_out)
    found = wander(scenario, Random(f"{seed} {name}"), runs=runs, loads=True)
    breach = found.breach
    return Walk(
        name,
        found.runs,
        found.steps,
        str(breach.error).split("\n", 1)[0] if breach else "",
        breach.schedule if breach else (),
        tuple(map(str, found.crossings)),
    )
