"""2db308160b5a: PUDs get ``vm_normal_page_pud()``; ``folio_walk_start()`` asks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.mm.pagewalk import Pagewalk
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Page, VmArea


class PagewalkBefore(Pagewalk):
    """A PUD leaf that was not marked was taken for a folio, whatever its area.

    Source: mm/pagewalk.c, v6.17.
    """

    __slots__ = ()

    def page_of_pud(self, vma: VmArea, addr: int, pud: int) -> Page | None:
        """Return the first page of what a present PUD leaf maps, unless marked."""
        del vma, addr
        if self._pgtable.pud_special(pud):
            return None
        return self._pgtable.pud_pfn(pud)


PATCH = Patch(
    commit="2db308160b5a191b494746fd167dbbaaead3fb26",
    subject="mm: vm_normal_page_pud() for PUD leaves, used by folio_walk_start()",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "include/linux/mm.h": ("vm_normal_page_pud",),
        "mm/memory.c": ("vm_normal_page_pud",),
        "mm/pagewalk.c": ("folio_walk_start",),
    },
    chapter="book/commits/normal-page.md",
    sources=(
        "mainline 2db308160b5a",
        "Message-ID 20250811112631.759341-11-david@redhat.com (v3 10/11)",
    ),
    reverts={"pagewalk": PagewalkBefore},
    needs={"af38538801c6": "it is a third caller of the decision made common there"},
)
