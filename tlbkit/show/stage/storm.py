"""Thousands of equal deeds as a film: a heap of processes, a field of CPUs, two counts.

It has the form of every film (`tlbkit.show.stage.film`), and a heap instead of columns.
Slots of its own are ``["heap"]``, how many are left of ``"heap"``, its label and its
size; ``["tally"]``, a sentence under the field; and ``["strikes", -1]`` if all CPUs are
interrupted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tlbkit.lab.storm import exits
from tlbkit.observe.costs import COSTS
from tlbkit.show.stage.film import SPENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tlbkit.lab.storm import Exit
    from tlbkit.show.stage.film import Film

MOMENTS: Final = 100
"""How many moments the exits are folded to."""

_HEAP, _TALLY, _STRIKES = range(3)


def storm(version: str, *, sharers: int, tables: int, cpus: int) -> Film:
    """Return the exits of *sharers* processes (`tlbkit.lab.storm.exits`) as a film."""
    seen = list(exits(version, sharers=sharers, tables=tables, cpus=cpus))
    values: list[Any] = [0]
    texts = [""]
    moments = []
    left, broadcasts, interrupts = sharers, 0, 0
    start = [_HEAP, _new(values, left), _TALLY, _new(values, _tally(0, 0))]
    everyone = _new(values, list(range(cpus)))
    size = -(-sharers // MOMENTS)
    for some in (seen[n : n + size] for n in range(0, sharers, size)):
        left -= len(some)
        sent = sum(one.broadcasts for one in some)
        broadcasts += sent
        interrupts += sum(one.interrupts for one in some)
        delta = [_HEAP, _new(values, left), _TALLY]
        delta += [_new(values, _tally(broadcasts, interrupts))]
        delta += [_STRIKES, everyone if sent else 0]
        text = _new(texts, _said(some, cpus))
        moments.append([-1, text, 0, _time(some, sent), delta])
    return {
        "columns": [],
        "gaps": [],
        "spaces": [],
        "rows": [],
        "others": cpus,
        "cpus": cpus,
        "heap": ["processes", sharers],
        "slots": [["heap"], ["tally"], ["strikes", -1]],
        "values": values,
        "start": start,
        "moments": moments,
        "texts": texts,
        "says": [0] * (len(moments) + 1),
        "spent": list(SPENT),
    }


def _new(known: list[Any], what: Any) -> int:
    """Add to a list, and return the number of what was added."""
    known.append(what)
    return len(known) - 1


def _tally(broadcasts: int, interrupts: int) -> str:
    return f"{broadcasts:,} IPI broadcasts, {interrupts:,} interrupts taken"


def _said(some: Sequence[Exit], cpus: int) -> str:
    """Say what some exits did."""
    who = f"{len(some)} processes exit" if len(some) > 1 else "a process exits"
    sent = sum(one.broadcasts for one in some)
    if not sent:
        return f"{who[0].upper()}{who[1:]}, and no CPU is interrupted."
    often = "once" if sent == 1 else f"{sent} times"
    return f"{who[0].upper()}{who[1:]}: {cpus - 1} CPUs are interrupted {often}."


def _time(some: Sequence[Exit], sent: int) -> list[int]:
    """Tell how long it took, and how much of that was interrupting."""
    each = COSTS["ipi"].ns + COSTS["ipi_handler"].ns
    interrupting = round(sent * each * 10)
    rest = round(sum(one.ns for one in some) * 10) - interrupting
    return [SPENT.index("other work"), rest] + (
        [SPENT.index("interrupting others"), interrupting] if sent else []
    )
