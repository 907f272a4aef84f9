"""The huge zero folio: who holds it, and when it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_present,
)
from tlbkit.linux.include.linux.mm_types import (
    Folio,
    LargeFolio,
)
from tlbkit.linux.mm.huge_memory.settings import HugeSettings
from tlbkit.linux.mm.page_alloc import BadPageError

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct


class HugeZero(HugeSettings):
    """The block of zeros that all processes share."""

    __slots__ = ()

    def is_huge_zero_pmd(self, pmd: int) -> bool:
        """Tell whether an entry maps the huge zero folio."""
        return pte_present(pmd) and self.is_huge_zero_pfn(self._pgtable.pte_pfn(pmd))

    def is_huge_zero_pfn(self, pfn: int) -> bool:
        """Tell whether a frame is any page of the huge zero folio."""
        zero = self.huge_zero_folio
        return zero is not None and pfn & -zero.nr_pages == zero.pfn

    def mm_get_huge_zero_folio(self, mm: MmStruct) -> LargeFolio | None:
        """Return the huge zero folio, held until *mm* ends; ``None`` without memory.

        It counts processes, not mappings: the entries that map it hold nothing. One
        that was made at boot, to stay, is not counted at all.
        """
        if self._kernel.config.persistent_huge_zero_folio:
            return self.huge_zero_folio
        if not mm.huge_zero:
            if not self._get_huge_zero_page():
                return None
            if mm.huge_zero:
                self._put_huge_zero_page()  # another thread was faster
            mm.huge_zero = True
        return self.huge_zero_folio

    def mm_put_huge_zero_folio(self, mm: MmStruct) -> None:
        """Drop what `mm_get_huge_zero_folio` took, as *mm* goes away."""
        if not mm.huge_zero:
            return
        mm.huge_zero = False
        self._put_huge_zero_page()

    def _put_huge_zero_page(self) -> None:
        """Drop a reference; the last is the shrinker's: put_huge_zero_folio()."""
        self.huge_zero_refcount -= 1
        if not self.huge_zero_refcount:
            assert self.huge_zero_folio is not None
            raise BadPageError(
                self.huge_zero_folio, "only the shrinker may drop the last reference"
            )

    def _get_huge_zero_page(self) -> bool:
        """Take a reference, making the folio if need be: get_huge_zero_folio()."""
        if self.huge_zero_folio is None:
            folio = self.alloc_huge_zero_folio()
            if folio is None:
                return False
            if self.huge_zero_folio is None:
                assert isinstance(folio, LargeFolio)
                self.huge_zero_folio = folio
                self.huge_zero_refcount = 1  # the shrinker's
            else:
                self._kernel.swap.folio_put(folio)  # another CPU was faster
        self.huge_zero_refcount += 1
        return True

    def alloc_huge_zero_folio(self) -> Folio | None:
        """Return a block of zeros, with tags of zero, or ``None`` without memory.

        Its entries are special, so nobody looks at its tags when it is mapped.
        """
        order = self._pgtable.hpage_pmd_order
        return self._kernel.page_alloc.alloc_zeroed(order, zero_tags=True)

    def thp_shrinker_init(self) -> None:
        """At boot, make the huge zero folio that stays, if the kernel is to have one.

        Without memory for it there never will be one.
        """
        if self._kernel.config.persistent_huge_zero_folio:
            self._get_huge_zero_page()

    def shrink_huge_zero_folio(self) -> int:
        """Free the huge zero folio unless a process holds it; return pages freed."""
        folio = self.huge_zero_folio
        if folio is None or self.huge_zero_refcount > 1:
            return 0
        self.huge_zero_refcount = 0
        self.huge_zero_folio = None
        self._kernel.swap.folio_put(folio)
        return folio.nr_pages
