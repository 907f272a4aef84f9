"""The part of one area that a piece of advice is for, and the walk over its pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_none,
    pte_present,
)
from tlbkit.linux.include.linux.mm_types import LargeFolio
from tlbkit.linux.include.linux.pagemap import folio_trylock, folio_unlock
from tlbkit.linux.mm.internal import FPB_MERGE_YOUNG_DIRTY, folio_pte_batch_flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.mm.mmu_gather import MmuGather


@dataclass(slots=True)
class Part:
    """A part of one area: what is left of struct madvise_behavior.

    Attributes:
        vma: The area.
        start, end: The range within it.
        tlb: The gather of the whole call, for advice that clears entries.
        lock_dropped: The mmap lock was released meanwhile, and *vma* may be gone.
    """

    vma: VmArea
    start: int
    end: int
    tlb: MmuGather | None = None
    lock_dropped: bool = False


class Mapped(NamedTuple):
    """Present entries of consecutive pages of one folio; their table is locked.

    Attributes:
        vma: Their area.
        addr: The first address.
        ptep: Where the first entry stands.
        pte: What it says; young or dirty if any of them is.
        nr: How many.
        folio: What they map, all of it.
    """

    vma: VmArea
    addr: int
    ptep: int
    pte: int
    nr: int
    folio: Folio


class MadviseWalk:
    """The walk over the page entries of a range."""

    __slots__ = ("_kernel", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable

    def walk_ptes(
        self,
        vma: VmArea,
        pmdp: int,
        addr: int,
        end: int,
        visit: Callable[[Mapped], None],
        nonpresent: Callable[[VmArea, int, int], None] | None = None,
    ) -> None:
        """Visit the folios that the entries of one table map in [addr, end).

        A large folio of which the range holds only a part is split first, so that the
        advice is followed for that part alone; if that fails, it is stepped over.

        Args:
            vma: The area.
            pmdp: Where the entry stands that points to the table.
            addr: Of the first page.
            end: After the last.
            visit: Called under the lock of the table.
            nonpresent: Called with the area, place and value of an entry that is not
                empty and maps nothing.
        """
        pgtable = self._pgtable
        while addr < end:
            found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, pmdp, addr)
            if found is None:
                return
            start_pte, ptl = found
            start = addr
            partial: Mapped | None = None
            try:
                if vma.mm.tlb_flush_batched:
                    self._kernel.rmap.flush_tlb_batched_pending(vma.mm)
                pgtable.arch_enter_lazy_mmu_mode()
                while addr < end:
                    ptep = start_pte + (addr - start) // pgtable.page_size * 8
                    pte = pgtable.ptep_get(ptep)
                    if not pte_present(pte):
                        if nonpresent is not None and not pte_none(pte):
                            nonpresent(vma, ptep, pte)
                        addr += pgtable.page_size
                        continue
                    mapped = self._mapped(vma, addr, ptep, pte, end)
                    if mapped is None:
                        addr += pgtable.page_size
                        continue
                    if mapped.nr == mapped.folio.nr_pages:
                        visit(mapped)
                    elif self._hold_to_split(mapped.folio):
                        partial = mapped
                        break
                    addr += mapped.nr * pgtable.page_size
            finally:
                pgtable.arch_leave_lazy_mmu_mode()
                ptl.release()
            if partial is not None and not self.split_held(partial.folio):
                addr += partial.nr * pgtable.page_size

    def _mapped(
        self, vma: VmArea, addr: int, ptep: int, pte: int, end: int
    ) -> Mapped | None:
        """Return what an entry maps, with the entries after it of the same folio."""
        folio = self._kernel.memory.vm_normal_folio(vma, addr, pte)
        if folio is None:
            return None
        nr = 1
        if isinstance(folio, LargeFolio):
            most = (end - addr) >> self._pgtable.page_shift
            nr, pte = folio_pte_batch_flags(
                self._pgtable, folio, ptep, pte, most, FPB_MERGE_YOUNG_DIRTY
            )
        return Mapped(vma, addr, ptep, pte, nr, folio)

    @staticmethod
    def _hold_to_split(folio: Folio) -> bool:
        """Lock and hold a folio that may be split; tell whether it may."""
        assert isinstance(folio, LargeFolio)
        if folio.maybe_mapped_shared or not folio_trylock(folio):
            return False
        folio.refcount += 1
        return True

    def split_held(self, folio: Folio) -> bool:
        """Split a folio that is locked and held, and let go; tell whether it split."""
        head = self._kernel.huge_memory.split_folio(folio)
        left = folio if isinstance(head, int) else head
        folio_unlock(self._kernel.machine, left)
        self._kernel.swap.folio_put(left)
        return left is not folio
