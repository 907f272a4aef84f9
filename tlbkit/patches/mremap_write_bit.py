"""04d1c9d60c6e: entries that mremap() moves at once agree in the write bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import LargeFolio
from tlbkit.linux.mm.internal import folio_pte_batch, pte_batch_hint
from tlbkit.linux.mm.mremap import Mremap
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea


class MremapBefore(Mremap):
    """All entries of a batch get the write bit of the first, whoever shares their page.

    Source: mm/mremap.c, v6.17.
    """

    __slots__ = ()

    def mremap_folio_pte_batch(
        self, vma: VmArea, addr: int, ptep: int, pte: int, max_nr: int
    ) -> int:
        """Return how many entries from *ptep* on move at once, at most *max_nr*.

        Source: mm/mremap.c, mremap_folio_pte_batch()
        """
        if max_nr == 1:
            return 1
        if pte_batch_hint(self._pgtable, ptep, pte) == 1:
            return 1
        folio = self._kernel.memory.vm_normal_folio(vma, addr, pte)
        if not isinstance(folio, LargeFolio):
            return 1
        return folio_pte_batch(self._pgtable, folio, ptep, pte, max_nr)


PATCH = Patch(
    commit="04d1c9d60c6ec4c0003d433572eaa45f8b217788",
    subject="mremap batches only entries that agree in the write bit",
    series=series.CONTEXT,
    kind=Kind.FIX,
    role=Role.CONTEXT,
    author="Dev Jain",
    release="v6.18",
    touches={"mm/mremap.c": ("mremap_folio_pte_batch",)},
    chapter="",
    sources=(
        "mainline 04d1c9d60c6e",
        "its review for 6.17-stable, which names what the fault can do",
    ),
    reverts={"mremap": MremapBefore},
    note=(
        "It repairs f822a9a81a31 (v6.17), which is not in the registry. A page that is "
        "shared with a child could be written through without a copy."
    ),
)
