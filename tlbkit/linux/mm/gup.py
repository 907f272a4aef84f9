"""Pages that somebody outside the page tables holds: mm/gup.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pmd_trans_huge,
    pte_present,
    pte_protnone,
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
from tlbkit.linux.include.uapi.asm_generic.errno import EFAULT

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel

_TRIES: Final = 4


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

    def gup_fast_pmd_leaf(self, pmd: int, *, write: bool) -> bool:
        """Tell whether a walk without locks may take the pages of a block's entry.

        It has no area to ask what a marked entry maps, so it gives up there, and the
        caller goes the slow way, under the mmap lock.
        """
        if self._kernel.pgtable.pmd_special(pmd):
            return False
        return pte_present(pmd) and (pte_write(pmd) or not write)

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

    # -- from an address to its page ---------------------------------------------------

    def get_user_page(
        self, mm: MmStruct, addr: int, *, write: bool = False, dump: bool = False
    ) -> Folio | int:
        """Return the folio at *addr*, with a reference, faulting it in if need be.

        It is the slow way, with the lock of the address space. What is not normal has
        no page to give; the pages of zeros are given all the same.

        Args:
            mm: The address space; its lock is held for reading.
            addr: Any address.
            write: The page is to be written through the reference.
            dump: It is for a core dump, which leaves out what is full of zeros.

        Returns:
            The folio, or ``-EFAULT``.

        Source: get_user_pages() and what follows it down to follow_page_pte().
        """
        kernel = self._kernel
        vma = kernel.vma.vma_lookup(mm, addr)
        if vma is None or vma.flags & (VM_IO | VM_PFNMAP):
            return -EFAULT
        if write and not vma.flags & VM_WRITE:
            return -EFAULT
        for _ in range(_TRIES):
            found = self._follow_page(vma, addr, write=write, dump=dump)
            if found is not None:
                return found
            flags = FAULT_FLAG_WRITE if write else 0
            if kernel.memory.handle_mm_fault(vma, addr, flags) & VM_FAULT_ERROR:
                break
        return -EFAULT

    def _follow_page(
        self, vma: VmArea, addr: int, *, write: bool, dump: bool
    ) -> Folio | int | None:
        """Return what is mapped, with a reference; ``None`` if a fault is needed."""
        kernel = self._kernel
        pgtable = kernel.pgtable
        pmdp = pgtable.find_pmd(vma.mm, addr)
        if pmdp is None:
            return None
        pmd = pgtable.read(pmdp)
        if pmd_trans_huge(pmd):
            with kernel.memory.pmd_lockptr(pmdp):
                return self._follow_huge_pmd(pgtable.read(pmdp), write=write, dump=dump)
        if not pmd_table(pmd):
            return None
        with kernel.memory.pte_lockptr(pmd):
            pte = pgtable.ptep_get(pgtable.pte_offset(pmdp, addr))
            if not pte_present(pte) or pte_protnone(pte):
                return None
            if write and not pte_write(pte):
                return None
            page = kernel.memory.vm_normal_page(vma, addr, pte)
            if page is None:
                page = pgtable.pte_pfn(pte)
                if dump or not kernel.memory.is_zero_pfn(page):
                    return -EFAULT
            folio = kernel.page_alloc.folio_of(page)
            folio.refcount += 1
            return folio

    def _follow_huge_pmd(
        self, pmd: int, *, write: bool, dump: bool
    ) -> Folio | int | None:
        """Do so at a block, whether it is marked special or not."""
        if not pmd_trans_huge(pmd) or pte_protnone(pmd):
            return None
        if write and not pte_write(pmd):
            return None
        if dump and self._kernel.huge_memory.is_huge_zero_pmd(pmd):
            return -EFAULT
        folio = self._kernel.page_alloc.folio_of(self._kernel.pgtable.pmd_pfn(pmd))
        folio.refcount += 1
        return folio
