"""29f40594a281: what MADV_FREE gave up is restored with each entry's own write bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import LargeFolio, PG_swapbacked
from tlbkit.linux.mm.internal import folio_pte_batch
from tlbkit.linux.mm.rmap import Rmap
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio


class RmapBefore(Rmap):
    """Entries that had to stay all got the write bit of the first of their batch.

    Source: mm/rmap.c, v6.19.
    """

    __slots__ = ()

    def folio_unmap_pte_batch(
        self, folio: Folio, ptep: int, pte: int, addr: int, end: int
    ) -> int:
        """Return how many entries are unmapped at once: several only to be dropped.

        Source: mm/rmap.c, folio_unmap_pte_batch()
        """
        if not isinstance(folio, LargeFolio):
            return 1
        if not folio.anon or folio.flags & PG_swapbacked:
            return 1
        pgtable = self._kernel.pgtable
        most = (end - addr) >> pgtable.page_shift
        return folio_pte_batch(pgtable, folio, ptep, pte, most)


PATCH = Patch(
    commit="29f40594a28114b9a9bc87f6cf7bbee9609628f2",
    subject="rmap restores each entry of a folio given up with its own write bit",
    series=series.CONTEXT,
    kind=Kind.FIX,
    role=Role.CONTEXT,
    author="Dev Jain",
    release="v7.0",
    touches={"mm/rmap.c": ("folio_unmap_pte_batch",)},
    chapter="",
    sources=("mainline 29f40594a281", "OSV record of CVE-2026-31398"),
    reverts={"rmap": RmapBefore},
    note=(
        "It repairs 354dffd29575 (v6.15), which is not in the registry. A page that is "
        "shared with a child could be written through without a copy."
    ),
)
