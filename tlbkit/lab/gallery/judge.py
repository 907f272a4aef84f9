"""The verdict on each point: the shortest schedule that breaks, or why nothing does."""

from __future__ import annotations

import os
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, Final

from tlbkit.explore.search import PREEMPTIONS, shortest
from tlbkit.lab.gallery import harm
from tlbkit.lab.gallery.arguments import ARGUMENTS
from tlbkit.lab.gallery.census import Passed, census, points_of
from tlbkit.lab.gallery.names import check
from tlbkit.lab.gallery.programme import PROGRAMME
from tlbkit.lab.gallery.verdicts import ARGUED, BREAKS, OPEN, Harm, Verdict, gallery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tlbkit.explore.search import Breach


STEPS: Final = 120_000
"""After so many steps, over all its meetings, the search of a point begins no further
schedule: it is then not complete, and says so."""

OTHERS: Final = 12
"""In how many meetings beside the one that breaks harm is looked for."""


def judge(point: str, meetings: Sequence[str]) -> Verdict:
    """Take one point out of every meeting that comes by it, and search.

    Fewest preemptions come first, over all meetings, then fewest steps. What is not
    through after `STEPS` steps is not complete.

    Args:
        point: Its name.
        meetings: Those that come by it, those first that are quickly searched.
    """
    found = shortest(
        {name: PROGRAMME[name].scenario({point}) for name in meetings},
        preemptions=PREEMPTIONS,
        loads=True,
        max_steps=STEPS,
    )
    breach = found.breach
    if breach is None:
        why = ARGUMENTS.get(point, "")
        return Verdict(
            point,
            ARGUED if why else OPEN,
            tuple(meetings),
            preemptions=found.preemptions,
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
        _harm(point, found.name, breach, meetings),
        runs=found.runs,
        chapter=PROGRAMME[found.name].chapter,
    )


def _harm(
    point: str, meeting: str, breach: Breach, meetings: Sequence[str]
) -> Harm | None:
    """Go on from a broken rule to harm; if none comes of it, look in other meetings."""
    others = [name for name in meetings if name != meeting][:OTHERS]
    return harm.told(harm.find(point, meeting, breach, others))


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


def _points(meeting: str) -> Passed:
    return points_of(PROGRAMME[meeting])
