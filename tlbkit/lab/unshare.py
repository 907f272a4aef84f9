"""An unshare, moment by moment: what is counted, noted, cached and kept away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import SWITCH, Exploration, menu, switch
from tlbkit.linux.include.linux.mm_types import ptdesc_pmd_pts_count
from tlbkit.patches.unshare_trial import BASE, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value

SHARED: Final = "both use the table"
TAKEN: Final = "the entry is cleared, nothing is flushed"
FLUSHED: Final = "it is flushed, the locks are held"
RELEASED: Final = "the locks are released"
MOMENTS: Final = (SHARED, TAKEN, FLUSHED, RELEASED)
"""The moments, in their order."""

READINGS: Final = {
    SHARED: (
        "Two PUD entries point to the table, which has one reference. Code that "
        "counts references cannot tell that it is shared. A munmap by the stayer "
        "would clear the stayer's PUD entry, and leave the table as it is."
    ),
    TAKEN: (
        "The gather records all that the table maps, so a flush will cover it. No "
        "reference has changed. The leaver's CPU can still use its stale entries; the "
        "stayer waits for i_mmap_rwsem, and cannot use the table for anything else."
    ),
    FLUSHED: (
        "The stale entries are gone from every TLB. i_mmap_rwsem still keeps the "
        "stayer out, so the flush is sure to come first."
    ),
    RELEASED: (
        "The stayer may change the table, and needed no reference for that. If the "
        "flush had waited until now, the leaver could use entries that the stayer "
        "changes."
    ),
}
"""What there is to see at each moment."""

HELD: Final = " The passing reference changes none of this, because no code reads it."


def at(moment: str, *, held: bool) -> dict[str, str]:
    """Go to *moment* on a fresh kernel, and look.

    Args:
        moment: One of `MOMENTS`.
        held: Code that looks at memory by frames holds the table meanwhile.
    """
    trial = Trial()
    kernel, table = trial.kernel, trial.table
    table.refcount += held
    folio = kernel.hugetlb.folio(kernel.pgtable.read(trial.ptep))
    noted = "nothing"
    place = MOMENTS.index(moment)
    if place >= MOMENTS.index(TAKEN):
        tlb = trial.unshare()
        if moment == FLUSHED:
            kernel.hugetlb.huge_pmd_unshare_flush(tlb, trial.vma)
        elif moment == RELEASED:
            trial.release(tlb)
        if tlb.recorded:
            noted = f"{(tlb.end - tlb.start) >> 20:,} MiB"
    asid = kernel.context.asid(trial.leaver.mm)
    cached = [
        entry
        for entry in kernel.machine.cpu(0).tlb.entries()
        if entry.va == BASE and entry.asid == asid
    ]
    reached = kernel.pgtable.find_pmd(trial.leaver.mm, BASE) is not None
    seen = {
        "users beyond the first (pt_share_count)": str(ptdesc_pmd_pts_count(table)),
        "references of the table": str(table.refcount),
        "references, map count of the page": f"{folio.refcount}, {folio.mapcount}",
        "the leaver's tables lead to it": _say(reached),
        "the leaver's TLB leads to the page": _say(bool(cached)),
        "noted in the gather": noted,
    }
    # Last, because it changes what is asked about above.
    seen["the stayer can change the table"] = _say(trial.stayer_can_change_the_table())
    return seen


def _say(what: object) -> str:
    return "yes" if what else "no"


class Unshare(Exploration):
    """Two processes share a table, and one takes it away from itself.

    Columns: ``what``, ``seen``: the rows of the table.
    """

    name = "unshare"
    title = "One of two sharers leaves its table"
    parameters = (
        menu("moment", "look when", MOMENTS),
        switch("held", "a passing reference holds the table"),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Go to the moment, and look at it and at the first one."""
        settings = self.settings(params)
        moment, held = str(settings["moment"]), settings["held"] == SWITCH[1]
        first, now = at(SHARED, held=held), at(moment, held=held)
        return Answer(
            columns={"what": list(now), "seen": list(now.values())},
            header=["what", "at first", "now"],
            rows=[[name, first[name], now[name]] for name in now],
            text=READINGS[moment] + HELD * held,
        )
