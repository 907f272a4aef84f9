"""The verdict on each point: the shortest schedule that breaks, or why nothing does."""

from __future__ import annotations

import os
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tlbkit.explore.search import PREEMPTIONS, replay, shortest
from tlbkit.lab.gallery.arguments import ARGUMENTS
from tlbkit.lab.gallery.census import census, points_of
from tlbkit.lab.gallery.names import check
from tlbkit.lab.gallery.programme import PROGRAMME
from tlbkit.lab.gallery.verdicts import ARGUED, BREAKS, OPEN, Verdict, gallery
from tlbkit.observe.recorder import recording

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from tlbkit.arm64.machine import Machine
    from tlbkit.explore.scheduler import Schedule
    from tlbkit.observe.recorder import Recorder
    from tlbkit.observe.recording import Recording


MANY: Final = 40
"""From how many meetings on a search goes less deep."""


def judge(point: str, meetings: Sequence[str]) -> Verdict:
    """Take one point out of every meeting that comes by it, and search.

    Fewest preemptions come first, over all meetings, then fewest steps. What more than
    `MANY` meetings come by is tried with one preemption only.
    """
    preemptions = PREEMPTIONS if len(meetings) <= MANY else 1
    found = shortest(
        {name: PROGRAMME[name].scenario({point}) for name in meetings},
        preemptions=preemptions,
        loads=True,
    )
    breach = found.breach
    if breach is None:
        why = ARGUMENTS.get(point, "")
        return Verdict(
            point,
            ARGUED if why else OPEN,
            tuple(meetings),
            preemptions=preemptions,
            why=why,
            runs=found.runs,
            complete=found.complete,
            chapter=PROGRAMME[meetings[0]].chapter,
        )
    return Verdict(
        point,
        BREAKS,
        tuple(meetings),
        found.name,
        breach.preemptions,
        len(breach.steps),
        tuple((step, flow) for step, flow in breach.schedule),
        str(breach.error).split("\n", 1)[0],
        runs=found.runs,
        chapter=PROGRAMME[found.name].chapter,
    )


def mutate(
    points: Iterable[str] | None = None,
    executor: Executor | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Verdict]:
    """Take every point out, one at a time, and judge each anew.

    Args:
        points: Which; all that there are if not given.
        executor: Where the searches run; a pool of processes, one for each CPU, if not
            given.
        tell: Called with one line for each step of the work.

    Errors:
        InputError: No meeting comes by a point.
    """
    if executor is None:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            return mutate(points, pool, tell)
    tell(f"looking through {len(PROGRAMME)} meetings for what can be taken out")
    known = census(PROGRAMME, executor.map(_points, PROGRAMME))
    wanted = list(known if points is None else points)
    for point in wanted:
        check("point", point, known, "python -m tlbkit gallery")
    # Those that took longest the last time begin first, and the unknown before them.
    runs = {verdict.point: verdict.runs for verdict in gallery()}
    longest = sorted(
        dict.fromkeys(wanted), key=lambda point: -runs.get(point, sys.maxsize)
    )
    searches = {executor.submit(judge, point, known[point]) for point in longest}
    found: dict[str, Verdict] = {}
    for search in as_completed(searches):
        verdict = search.result()
        found[verdict.point] = verdict
        count = f"{len(found)} of {len(longest)}"
        tell(f"{count}: {verdict.point}: {verdict.verdict}, {verdict.runs:,} schedules")
    return [found[point] for point in wanted]


def _points(meeting: str) -> frozenset[str]:
    return points_of(PROGRAMME[meeting])


def record(
    meeting: str, schedule: Schedule, taken_out: Collection[str] = (), *, loads: bool
) -> Recording:
    """Run one schedule of a meeting again, and return it as a recording.

    Args:
        meeting: Its name.
        schedule: Of a breach, or any other.
        taken_out: What is taken out; the same schedule with and without it shows what
            the thing taken out is for.
        loads: As the breach says.
    """
    recorders: list[Recorder] = []

    @contextmanager
    def around(machine: Machine) -> Iterator[None]:
        with recording(machine) as recorder:
            recorders.append(recorder)
            yield

    replay(PROGRAMME[meeting].scenario(taken_out), schedule, around, loads=loads)
    return recorders[0].finish()
