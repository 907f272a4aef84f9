"""6a288a4ddb4a: the huge zero folio's tags are cleared with init_on_free as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.mm.page_alloc import PageAlloc
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio


class PageAllocBefore(PageAlloc):
    """Tags are cleared only where the page is.

    Source: mm/page_alloc.c, v6.18 to v7.0.
    """

    __slots__ = ()

    def post_alloc_hook(self, folio: Folio, *, zero_tags: bool) -> None:
        """Fill a new folio with zeros; if that is still to be done, see to its tags."""
        init = not self.init_on_free
        mte = self._kernel.mte
        if init and zero_tags and mte.supported:
            mte.tag_clear_highpages(folio.pfn, folio.nr_pages, clear_pages=True)
        elif init:
            self.kernel_init_pages(folio)


PATCH = Patch(
    commit="6a288a4ddb4a994490505ab5f41c445f8e6b6467",
    subject="page_alloc: clear the tags when asked, also if the page is zero already",
    series=series.LATER,
    kind=Kind.FIX,
    role=Role.LATER_FIX,
    author="David Hildenbrand",
    release="v7.1",
    touches={
        "arch/arm64/include/asm/page.h": ("tag_clear_highpages",),
        "arch/arm64/mm/fault.c": ("tag_clear_highpages",),
        "include/linux/gfp_types.h": ("__GFP_ZEROTAGS",),
        "include/linux/highmem.h": ("tag_clear_highpages",),
        "mm/page_alloc.c": ("post_alloc_hook",),
    },
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline 6a288a4ddb4a, merged 2026-05-18",
        "Message-ID 20260421-zerotags-v2-1-05cb1035482e@kernel.org (v2)",
        "Message-ID 20260528194639.794101868@linuxfoundation.org (6.18 review)",
    ),
    needs={
        "adfb6609c680": "it completes what that one asks the allocator for",
        "5bebe8de1926": "it changes the tag helper in the form given to it there",
    },
    repairs="adfb6609c680",
    reverts={"page_alloc": PageAllocBefore},
)
