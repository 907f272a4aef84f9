"""What a process says of its memory: mm/madvise.c, v6.17 to v6.19."""

from __future__ import annotations

from tlbkit.linux.mm.madvise.call import MadviseCall


class Madvise(MadviseCall):
    """The system call, and what it does for each piece of advice."""

    __slots__ = ()
