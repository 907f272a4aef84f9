"""5bebe8de1926: asking for cleared tags no longer loses the zeroing of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.mm.page_alloc import PageAlloc
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio


class PageAllocBefore(PageAlloc):
    """Who asks for cleared tags gets what the architecture's helper does, and no more.

    Inferred from the state after it: see the note.
    """

    __slots__ = ()

    def post_alloc_hook(self, folio: Folio, *, zero_tags: bool) -> None:
        """Fill a new folio with zeros, and leave it to the helper if tags matter."""
        init = not self.init_on_free
        if init and zero_tags:
            self.tag_clear_highpage(folio)
        elif init:
            self.kernel_init_pages(folio)

    def tag_clear_highpage(self, folio: Folio) -> None:
        """Clear pages and tags; arm64 sees to the pages also where it has no tags.

        Other architectures had a helper that does nothing: nobody called it there.
        """
        mte = self._kernel.mte
        if mte.supported:
            mte.tag_clear_highpages(folio.pfn, folio.nr_pages, clear_pages=True)
        elif self._kernel.config.arch_has_tag_helper:
            self.kernel_init_pages(folio)


PATCH = Patch(
    commit="5bebe8de19264946d398ead4e6c20c229454a552",
    subject="THP: the huge zero folio is zeroed also where there are no memory tags",
    series=series.LATER,
    kind=Kind.FIX,
    role=Role.LATER_FIX,
    author="",
    release="v6.18",
    touches={
        "arch/arm64/include/asm/page.h": ("tag_clear_highpages",),
        "arch/arm64/mm/fault.c": ("tag_clear_highpages",),
        "include/linux/highmem.h": ("tag_clear_highpages",),
        "mm/page_alloc.c": ("post_alloc_hook",),
    },
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline 5bebe8de1926, in v6.18-rc7",
        "Message-ID aTErsX-wfnxkNJ1G@kernel.org (which commits bound the breakage)",
    ),
    needs={
        "adfb6609c680": "only that one asks for cleared tags without asking for MTE"
    },
    repairs="adfb6609c680",
    note=(
        "Its diff was not read: the functions are inferred from their state just "
        "before 6a288a4ddb4a, where the tag helper answers whether it has initialised "
        "the pages."
    ),
    reverts={"page_alloc": PageAllocBefore},
)
