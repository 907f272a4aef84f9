"""Giving a mapping another size or another place: mm/mremap.c, v6.17 to v6.19.

The pages stay where they are; their entries move. A whole table moves by the entry that
points to it, where both addresses allow that. The old addresses are flushed before the
locks of their tables are released, so nobody can reuse a page that a TLB still knows
under the old address.

Compared with: v6.19, in December 2026.
"""

from tlbkit.linux.mm.mremap.call import (
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    Mremap,
)

__all__ = ["MREMAP_DONTUNMAP", "MREMAP_FIXED", "MREMAP_MAYMOVE", "Mremap"]
