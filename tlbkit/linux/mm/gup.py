"""Pages that somebody outside the page tables holds: mm/gup.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_present,
    pte_write,
)
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_WRITE,
    VM_ACCESS_FLAGS,
    VM_FAULT_ERROR,
    VM_IO,
    VM_PFNMAP,
    VM_SHARED,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import GUP_PIN_COUNTING_BIAS, LargeFolio

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class Gup:
    """Pins and their consequences."""

    __slots__ = ("_kernel", "has_pinned")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.has_pinned = False

    def try_grab_folio(self, folio: Folio) -> None:
        """Pin *folio*: its contents may be read or written by a device from now on."""
        self.has_pinned = True
        if isinstance(folio, LargeFolio):
            folio.refcount += 1
            folio.pincount += 1
        else:
            folio.refcount += GUP_PIN_COUNTING_BIAS

    def unpin_user_page(self, folio: Folio) -> None:
        """Undo one pin."""
        if isinstance(folio, LargeFolio):
            folio.pincount -= 1
        else:
            folio.refcount -= GUP_PIN_COUNTING_BIAS - 1
        self._kernel.swap.folio_put(folio)

    def folio_needs_cow_for_dma(self, vma: VmArea, folio: Folio) -> bool:
        """Tell whether fork must copy *folio* at once, because it may be pinned."""
        del vma
        return self.has_pinned and folio.maybe_dma_pinned()

    def mm_populate(self, mm: MmStruct, start: int, length: int) -> None:
        """Fault in what [start, start + length) maps; who cannot be is left alone.

        Private writable areas get their copies at once; shared ones are only read, so
        that nobody takes their pages for written.
        """
        kernel = self._kernel
        pgtable = kernel.pgtable
        mm.mmap_lock.down_read()
        for vma in kernel.vma.overlapping(mm, start, start + length):
            if not vma.flags & VM_ACCESS_FLAGS or vma.flags & (VM_IO | VM_PFNMAP):
                continue
            private = vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE
            flags = FAULT_FLAG_WRITE if private else 0
            last = min(vma.end, start + length)
            for addr in range(max(vma.start, start), last, pgtable.page_size):
                if not self._present(mm, addr, write=private) and (
                    kernel.memory.handle_mm_fault(vma, addr, flags) & VM_FAULT_ERROR
                ):
                    break
        mm.mmap_lock.up_read()

    def _present(self, mm: MmStruct, addr: int, *, write: bool) -> bool:
        """Tell whether a page is mapped with the right to read, or to write."""
        pgtable = self._kernel.pgtable
        pmdp = pgtable.find_pmd(mm, addr)
        if pmdp is None:
            return False
        entry = pgtable.read(pmdp)
        if not pmd_trans_huge(entry):
            ptep = pgtable.find_pte(mm, addr)
            entry = 0 if ptep is None else pgtable.read(ptep)
        return pte_present(entry) and (pte_write(entry) or not write)
