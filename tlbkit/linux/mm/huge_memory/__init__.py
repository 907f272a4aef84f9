"""Transparent huge pages: mm/huge_memory.c.

A PMD entry may map a huge page: anonymous, of a file, or frames that a driver brings. A
PUD entry may map what drivers and devices bring, and nothing else. What makes such an
entry, and what takes it apart again, is here; who faults, forks, unmaps or changes
rights meets it at the level of PMD entries and asks this part.

The C file is cut where it has its sections: ``settings`` (sysfs and the huge zero
folio), ``fault`` (faults on nothing, on an entry, copy on write), ``insert`` (what
drivers and DAX map), ``change`` (fork, unmap, mremap, mprotect, MOVE, and the lock of
an entry), ``split`` (entries and folios, and migration of a huge page as a whole).

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from tlbkit.linux.mm.huge_memory.insert import HugeInsert


class HugeMemory(HugeInsert):
    """Huge pages and large folios: each section of the file adds to the one before."""

    __slots__ = ()
