"""Who maps a page: mm/rmap.c and include/linux/rmap.h.

Compared with: v6.17 and v6.19.

A large folio is mapped by page entries, by block entries, or by both at a time. What
its counts mean is told in `tlbkit.linux.include.linux.mm_types.LargeFolio`.
"""

from __future__ import annotations

from tlbkit.linux.mm.rmap.unmap import RmapUnmap


class Rmap(RmapUnmap):
    """Adds, removes and duplicates mappings; the mapcount is exact after each."""

    __slots__ = ()
