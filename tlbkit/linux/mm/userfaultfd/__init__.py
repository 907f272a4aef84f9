"""What user space lets the kernel do to missing pages: mm/userfaultfd.c.

It fills them (COPY, ZEROPAGE, CONTINUE), protects them (WRITEPROTECT), and moves pages
to them from elsewhere without copying (MOVE). MOVE takes a run of present pages at a
time and flushes once for all of them: their source PTEs are cleared one by one, their
destination PTEs become valid at once, and both tables stay locked until the flush of
the source is done. So other CPUs may reach a page by both addresses for a while, but
not by the old one when the call returns.

The modules follow the C file: `mfill` has its first part, `move` what MOVE needs, and
`register` what VMAs know of their context.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from tlbkit.linux.mm.userfaultfd.move import (
    MoveLivelockError,
    double_pt_lock,
    double_pt_unlock,
)
from tlbkit.linux.mm.userfaultfd.register import UffdRegister

__all__ = [
    "MoveLivelockError",
    "Userfaultfd",
    "double_pt_lock",
    "double_pt_unlock",
]


class Userfaultfd(UffdRegister):
    """Filling, protecting and moving pages on behalf of user space."""

    __slots__ = ()
