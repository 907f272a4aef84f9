"""Pages that somebody outside the page tables holds: mm/gup.c.

Whoever lets a device at user memory, or reads it past the MMU, must first find the
pages and hold them. The fast way walks the tables without a lock, with interrupts off;
what it cannot be sure of it leaves to the slow way, which takes the mmap lock and
faults in what is missing.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from tlbkit.linux.mm.gup.fast import GupFast


class Gup(GupFast):
    """Finding and holding user pages."""

    __slots__ = ()
