"""The verdict on each point: the shortest schedule that breaks, or why nothing does."""

from __future__ import annotations

import os
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tlbkit.errors import InputError
from tlbkit.explore.search import PREEMPTIONS, Breach, explore, replay
from tlbkit.lab.gallery.arguments import ARGUMENTS
from tlbkit.lab.gallery.census import census
from tlbkit.lab.gallery.programme import PROGRAMME
from tlbkit.lab.gallery.verdicts import ARGUED, BREAKS, OPEN, Verdict
from tlbkit.observe.recorder import recording

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from tlbkit.arm64.machine import Machine
    from tlbkit.explore.scheduler import Schedule
    from tlbkit.observe.recorder import Recorder
    from tlbkit.observe.recording import Recording


def judge(point: str, meetings: Sequence[str]) -> Verdict:
    """Take one point out of every meeting that comes by it, and search.

    Fewest preemptions come first, over all meetings, then fewest steps.
    """
    best: tuple[tuple[int, int], str, Breach] | None = None
    runs = 0
    for bound in range(PREEMPTIONS + 1):
        for name in meetings:
            scenario = PROGRAMME[name].scenario({point})
            found = explore(scenario, preemptions=bound, loads=True)
            runs += found.runs
            breach = found.breach
            if breach is None:
                continue
            length = breach.preemptions, len(breach.steps)
            if best is None or length < best[0]:
                best = length, name, breach
        if best is not None:
            break
    if best is None:
        why = ARGUMENTS.get(point, "")
        return Verdict(
            point,
            ARGUED if why else OPEN,
            tuple(meetings),
            preemptions=PREEMPTIONS,
            why=why,
            runs=runs,
            chapter=PROGRAMME[meetings[0]].chapter,
        )
    (preemptions, steps), name, breach = best
    return Verdict(
        point,
        BREAKS,
        tuple(meetings),
        name,
        preemptions,
        steps,
        tuple((step, flow) for step, flow in breach.schedule),
        str(breach.error).split("\n", 1)[0],
        runs=runs,
        chapter=PROGRAMME[name].chapter,
    )


def mutate(
    points: Iterable[str] | None = None, executor: Executor | None = None
) -> list[Verdict]:
    """Take every point out, one at a time, and judge each anew.

    Args:
        points: Which; all that there are if not given.
        executor: Where the searches run; a pool of processes, one for each CPU, if not
            given.

    Errors:
        InputError: No meeting comes by a point.
    """
    known = census(PROGRAMME)
    wanted = list(known if points is None else points)
    for point in wanted:
        if point not in known:
            raise InputError(f"{point!r}: no meeting comes by it; see the gallery")
    meetings = [known[point] for point in wanted]
    if executor is not None:
        return list(executor.map(judge, wanted, meetings))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(judge, wanted, meetings))


def record(
    meeting: str, schedule: Schedule, without: Collection[str] = (), *, loads: bool
) -> Recording:
    """Run one schedule of a meeting again, and return it as a recording.

    Args:
        meeting: Its name.
        schedule: Of a breach, or any other.
        without: What is taken out; the same schedule with and without it shows what
            the thing taken out is for.
        loads: As the breach says.
    """
    recorders: list[Recorder] = []

    @contextmanager
    def around(machine: Machine) -> Iterator[None]:
        with recording(machine) as recorder:
            recorders.append(recorder)
            yield

    replay(PROGRAMME[meeting].scenario(without), schedule, around, loads=loads)
    return recorders[0].finish()
