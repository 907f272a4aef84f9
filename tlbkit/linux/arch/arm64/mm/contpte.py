"""Contiguous blocks of page entries: arch/arm64/mm/contpte.c.

A TLB may hold an aligned block of entries (16 with 4K pages) as one, if each of them
says so, and all map one run of frames with the same rights. The rest of the kernel
knows nothing of it: entries are made contiguous, and alone again, behind its back.

To change between the two, the whole block is cleared and flushed in between, because a
TLB must not see both forms. The access flag and the dirty state of a block are those of
all its entries together.

Source: arch/arm64/mm/contpte.c, and the wrappers in arch/arm64/include/asm/pgtable.h,
v6.19.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_cont,
    pte_dirty,
    pte_mkclean,
    pte_mkcont,
    pte_mkdirty,
    pte_mknoncont,
    pte_mkold,
    pte_mkyoung,
    pte_special,
    pte_valid,
    pte_valid_cont,
    pte_write,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.linux.mm_types import VmArea

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel


class Contpte:
    """Folds page entries into contiguous blocks, and unfolds them."""

    __slots__ = ("_kernel", "_machine", "_pgtable", "cont_pte_size")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable
        self.cont_pte_size = kernel.pgtable.cont_ptes * kernel.pgtable.page_size

    # -- a block ---------------------------------------------------------------------

    def _align_down(self, ptep: int) -> int:
        """Return where the block of *ptep* begins: contpte_align_down()."""
        return ptep & -(self._pgtable.cont_ptes * SLOT)

    def _block(self, ptep: int) -> range:
        """Return where the entries of the block of *ptep* stand."""
        first = self._align_down(ptep)
        return range(first, first + self._pgtable.cont_ptes * SLOT, SLOT)

    def contpte_ptep_get(self, ptep: int, pte: int) -> int:
        """Return *pte*, young or dirty if any entry of its block is.

        Hardware may set either in any one of them.

        Source: arch/arm64/mm/contpte.c, contpte_ptep_get()
        """
        read = self._pgtable.read
        for other in self._block(ptep):
            entry = read(other)
            if pte_dirty(entry):
                pte = pte_mkdirty(pte)
            if pte_young(entry):
                pte = pte_mkyoung(pte)
        return pte

    # -- fold and unfold -------------------------------------------------------------

    def contpte_convert(self, mm: MmStruct, addr: int, ptep: int, pte: int) -> None:
        """Rewrite a block as *pte* says, contiguous or not.

        CPUs that bear both forms at once (BBML2 without aborts) need no flush.

        Source: arch/arm64/mm/contpte.c, contpte_convert()
        """
        pgtable = self._pgtable
        first = self._align_down(ptep)
        start = addr & -self.cont_pte_size
        end = start + self.cont_pte_size
        pte = pgtable.pte_advance_pfn(pte, (first - ptep) >> 3)
        for other in self._block(ptep):
            entry = pgtable.ptep_get_and_clear_(other)
            if pte_dirty(entry):
                pte = pte_mkdirty(pte)
            if pte_young(entry):
                pte = pte_mkyoung(pte)
        if not self._machine.model.bbml2_noabort:
            self._kernel.tlbflush.flush_tlb_range_(
                VmArea(mm, start, end, 0, 0, 0),  # TLB_FLUSH_VMA()
                start,
                end,
                pgtable.page_size,
                last_level=True,
                level=3,
            )
        pgtable.set_ptes_(first, pte, pgtable.cont_ptes)

    def contpte_try_fold(self, mm: MmStruct, addr: int, ptep: int, pte: int) -> None:
        """Fold the block that *pte* has just completed, if it is one now.

        Blocks mostly fill from the front, so only the last entry is worth a look.

        Source: arch/arm64/include/asm/pgtable.h, contpte_try_fold()
        """
        last = self._pgtable.cont_ptes - 1
        if (
            addr >> self._pgtable.page_shift & last == last
            and self._pgtable.pte_pfn(pte) & last == last
            and pte_valid(pte)
            and not pte_cont(pte)
            and not pte_special(pte)
        ):
            self.contpte_try_fold_(mm, addr, ptep, pte)

    def contpte_try_fold_(self, mm: MmStruct, addr: int, ptep: int, pte: int) -> None:
        """Fold a block whose last entry is *pte* if one folio has it all.

        The entries must agree in all but the access flag and the dirty state.

        Source: arch/arm64/mm/contpte.c, __contpte_try_fold()
        """
        pgtable = self._pgtable
        pfn = pgtable.pte_pfn(pte)
        folio = self._kernel.page_alloc.folio_of(pfn)
        first = pfn - pgtable.cont_ptes + 1
        if first < folio.pfn or pfn >= folio.pfn + folio.nr_pages:
            return
        expected = pte_mkold(pte_mkclean(pte))
        expected = pgtable.pte_advance_pfn(expected, first - pfn)
        for other in self._block(ptep):
            if pte_mkold(pte_mkclean(pgtable.read(other))) != expected:
                return
            expected = pgtable.pte_advance_pfn(expected, 1)
        self.contpte_convert(mm, addr, ptep, pte_mkcont(pte))

    def contpte_try_unfold(self, mm: MmStruct, addr: int, ptep: int, pte: int) -> None:
        """Let every entry of the block of *pte* stand alone, if it is in one.

        Source: arch/arm64/include/asm/pgtable.h, contpte_try_unfold(), and
        arch/arm64/mm/contpte.c, __contpte_try_unfold()
        """
        if pte_valid_cont(pte):
            self.contpte_convert(mm, addr, ptep, pte_mknoncont(pte))

    def contpte_try_unfold_partial(
        self, mm: MmStruct, addr: int, ptep: int, nr: int
    ) -> None:
        """Unfold the blocks at both ends of a range that it covers only in part.

        Source: arch/arm64/mm/contpte.c, contpte_try_unfold_partial()
        """
        pgtable = self._pgtable
        if ptep != self._align_down(ptep) or nr < pgtable.cont_ptes:
            self.contpte_try_unfold(mm, addr, ptep, pgtable.read(ptep))
        end = ptep + nr * SLOT
        if end != self._align_down(end):
            last = addr + (nr - 1) * pgtable.page_size
            self.contpte_try_unfold(mm, last, end - SLOT, pgtable.read(end - SLOT))

    # -- what the page-table operations do to blocks ---------------------------------

    def contpte_set_ptes(self, addr: int, ptep: int, pte: int, nr: int) -> None:
        """Store several entries where nothing is, as blocks wherever they make one.

        Callers give frames of one folio only.

        Source: arch/arm64/mm/contpte.c, contpte_set_ptes()
        """
        pgtable = self._pgtable
        size = self.cont_pte_size
        end = addr + nr * pgtable.page_size
        while addr < end:
            following = min((addr // size + 1) * size, end)
            count = (following - addr) >> pgtable.page_shift
            frames = pgtable.pte_pfn(pte) << pgtable.page_shift
            whole = not (addr | following | frames) & (size - 1)
            pgtable.set_ptes_(ptep, pte_mkcont(pte) if whole else pte, count)
            ptep += count * SLOT
            pte = pgtable.pte_advance_pfn(pte, count)
            addr = following

    def contpte_ptep_test_and_clear_young(self, ptep: int) -> bool:
        """Clear the access flag of a whole block; tell whether any entry had it.

        Source: arch/arm64/mm/contpte.c, contpte_ptep_test_and_clear_young()
        """
        young = False
        for other in self._block(ptep):
            young |= self._pgtable.ptep_test_and_clear_young_(other)
        return young

    def contpte_ptep_clear_flush_young(self, vma: VmArea, addr: int, ptep: int) -> bool:
        """Clear the access flag of a block, start its flush, and do not wait for it.

        Source: arch/arm64/mm/contpte.c, contpte_ptep_clear_flush_young()
        """
        young = self.contpte_ptep_test_and_clear_young(ptep)
        if young:
            start = addr & -self.cont_pte_size
            self._kernel.tlbflush.flush_tlb_range_nosync_(
                vma.mm,
                start,
                start + self.cont_pte_size,
                self._pgtable.page_size,
                last_level=True,
                level=3,
            )
        return young

    def contpte_ptep_set_access_flags(
        self, vma: VmArea, addr: int, ptep: int, entry: int, *, dirty: bool
    ) -> bool:
        """Give an entry of a block more rights; tell whether it changed at all.

        The access flag and the dirty state are the whole block's. The write permission
        is the page's alone, so the block must be unfolded before one page gets it.

        Source: arch/arm64/mm/contpte.c, contpte_ptep_set_access_flags()
        """
        set_access_flags = self._kernel.fault.ptep_set_access_flags_
        old = pte_mknoncont(self._pgtable.ptep_get(ptep))
        if old == entry:
            return False
        if pte_write(old) != pte_write(entry):
            self.contpte_try_unfold(vma.mm, addr, ptep, self._pgtable.read(ptep))
            set_access_flags(vma, addr, ptep, entry, dirty=dirty)
            return True
        for other in self._block(ptep):
            set_access_flags(vma, addr, other, entry, dirty=False)
        if dirty:
            self.flush_relaxed_block(vma, addr & -self.cont_pte_size)
        return True

    def flush_relaxed_block(self, vma: VmArea, addr: int) -> None:
        """Drop the strict entries of a block that this CPU has just faulted on.

        Source: arch/arm64/mm/contpte.c, contpte_ptep_set_access_flags()
        """
        self._kernel.tlbflush.local_flush_tlb_contpte(vma, addr)
