"""03aa8e4f2732: what is pinned is not hidden for NUMA, in a shared mapping either."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm import is_cow_mapping
from tlbkit.linux.include.linux.mm_types import (
    PG_dirty,
    PG_ksm,
    PG_swapbacked,
    PG_zone_device,
    folio_maybe_mapped_shared,
)
from tlbkit.linux.mm.mempolicy import Mempolicy
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea


class MempolicyBefore(Mempolicy):
    """A pin mattered only where a write would copy the page.

    Source: mm/mprotect.c, v6.17.
    """

    __slots__ = ()

    @staticmethod
    def folio_can_map_prot_numa(folio: Folio | None, vma: VmArea) -> bool:
        """Tell whether it is worth hiding a folio's pages to learn who uses them.

        Source: mm/mprotect.c, prot_numa_skip(), v6.17
        """
        if folio is None or folio.flags & (PG_zone_device | PG_ksm):
            return False
        if is_cow_mapping(vma.flags) and (
            folio.maybe_dma_pinned() or folio_maybe_mapped_shared(folio)
        ):
            return False
        file_lru = not folio.flags & PG_swapbacked
        return not (file_lru and folio.flags & PG_dirty)


PATCH = Patch(
    commit="03aa8e4f273284a6abf28c0d86529cf3947328b2",
    subject="mprotect for NUMA hints skips pinned folios in shared mappings too",
    series=series.CONTEXT,
    kind=Kind.PERFORMANCE,
    role=Role.CONTEXT,
    author="",
    release="v6.19",
    touches={"mm/mprotect.c": ("prot_numa_skip",)},
    chapter="",
    sources=(
        "mm-stable 03aa8e4f2732, as pushed on 2025-11-17; known by its title",
        "mm/mprotect.c of v6.17 and v6.18, mm/mempolicy.c of v6.19, compared",
    ),
    reverts={"mempolicy": MempolicyBefore},
    note=(
        "The function became folio_can_map_prot_numa() in mm/mempolicy.c by "
        "ca43034cdb22 of the same series. Its text was not read."
    ),
)
