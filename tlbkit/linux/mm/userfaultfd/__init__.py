"""What user space lets the kernel do to missing pages: mm/userfaultfd.c.

It fills them (COPY, ZEROPAGE), protects them (WRITEPROTECT), and moves pages to them
from elsewhere without copying (MOVE). MOVE takes a run of present pages at a time and
flushes once for all of them: their source entries are cleared one by one, their
destination entries become valid at once, and both tables stay locked until the flush of
the source is done. So other CPUs may reach a page by both addresses for a while, but
not by the old one when the call returns.
"""

from __future__ import annotations

from tlbkit.linux.mm.userfaultfd.fill import UffdFill
from tlbkit.linux.mm.userfaultfd.held import (
    HeldFolio,
    Move,
    PtePair,
    double_pt_lock,
    double_pt_unlock,
)
from tlbkit.linux.mm.userfaultfd.move import MoveLivelockError, UffdMove
from tlbkit.linux.mm.userfaultfd.watch import UffdWatch

__all__ = [
    "HeldFolio",
    "Move",
    "MoveLivelockError",
    "PtePair",
    "Userfaultfd",
    "double_pt_lock",
    "double_pt_unlock",
]


class Userfaultfd(UffdMove, UffdFill, UffdWatch):
    """Filling, protecting and moving pages on behalf of user space."""

    __slots__ = ()
