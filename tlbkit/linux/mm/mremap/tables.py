"""How entries move from one address to another: the lower half of mm/mremap.c."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pte_clear_uffd_wp,
    pte_none,
    pte_present,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import PTE_SWP_UFFD_WP, SLOT
from tlbkit.linux.include.linux.huge_mm import pmd_is_huge
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm_types import LargeFolio
from tlbkit.linux.include.linux.swapops import PTE_MARKER_UFFD_WP, pte_marker_get
from tlbkit.linux.include.linux.userfaultfd_k import (
    vma_has_uffd_without_event_remap,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN, ENOMEM
from tlbkit.linux.mm.internal import (
    FPB_RESPECT_WRITE,
    folio_pte_batch_flags,
    pte_batch_hint,
)
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_UNMAP

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class PgtEntry(Enum):
    """What an entry that moves as a whole points to: enum pgt_entry."""

    NORMAL_PMD = auto()
    HPAGE_PMD = auto()
    NORMAL_PUD = auto()


@dataclass(slots=True)
class PagetableMoveControl:
    """How far the entries of a range have moved: struct pagetable_move_control.

    Attributes:
        old, new: The two VMAs.
        old_addr, new_addr: The next addresses.
        old_end: Where the old range ends.
        len_in: Of the range as it was asked for.
        need_rmap_locks: A walk from a page to its entries could come to the new place
            before the old, and miss an entry that moves meanwhile.
    """

    old: VmArea
    new: VmArea
    old_addr: int
    new_addr: int
    old_end: int
    len_in: int
    need_rmap_locks: bool


def pagetable_move(
    old: VmArea, new: VmArea, old_addr: int, new_addr: int, length: int
) -> PagetableMoveControl:
    """Return what is to be done to move *length* bytes.

    Source: mm/mremap.c, PAGETABLE_MOVE()
    Deviates: rmap walks look through VMAs in the order of their addresses here, so the
    locks are needed where the new one comes first.
    """
    end = old_addr + length
    need = new_addr < old_addr
    return PagetableMoveControl(old, new, old_addr, new_addr, end, length, need)


def pmc_done(pmc: PagetableMoveControl) -> bool:
    """Tell whether all has moved.

    Source: mm/mremap.c, pmc_done()
    """
    return pmc.old_addr >= pmc.old_end


def pmc_next(pmc: PagetableMoveControl, extent: int) -> None:
    """Go on by *extent* bytes.

    Source: mm/mremap.c, pmc_next()
    """
    pmc.old_addr += extent
    pmc.new_addr += extent


def pmc_progress(pmc: PagetableMoveControl) -> int:
    """Return how many bytes have moved, of those that were asked for.

    Source: mm/mremap.c, pmc_progress()
    """
    return max(pmc.old_addr - (pmc.old_end - pmc.len_in), 0)


class MremapTables:
    """Moves entries, one by one or with the table that they stand in."""

    __slots__ = ("_kernel", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable

    def get_old_pud(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PUD entry of *addr* stands, if it points to a table.

        Source: mm/mremap.c, get_old_pud()
        Deviates: an entry that maps a huge page (of device DAX) is stepped over, and
        its page is found by a fault at the new place; pud_none_or_clear_bad() takes it
        for a broken one, and clears it.
        """
        pgtable = self._pgtable
        pgdp = pgtable.pgd_offset(mm, addr)
        if not pmd_table(pgtable.read(pgdp)):
            return None
        pudp = pgtable.pud_offset(pgdp, addr)
        return pudp if pmd_table(pgtable.read(pudp)) else None

    def get_old_pmd(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PMD entry of *addr* stands, unless it is empty.

        Source: mm/mremap.c, get_old_pmd()
        """
        pud = self.get_old_pud(mm, addr)
        if pud is None:
            return None
        pmd = self._pgtable.pmd_offset(pud, addr)
        return None if pte_none(self._pgtable.read(pmd)) else pmd

    def alloc_new_pud(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PUD entry of *addr* stands, making a table for it.

        Source: mm/mremap.c, alloc_new_pud()
        """
        return self._kernel.memory.pud_alloc(mm, addr)

    def alloc_new_pmd(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PMD entry of *addr* stands, making tables for it.

        Source: mm/mremap.c, alloc_new_pmd()
        """
        return self._kernel.memory.pmd_alloc(mm, addr)

    def take_rmap_locks(self, vma: VmArea) -> None:
        """Keep everybody out who walks from a page of *vma* to its entries.

        Source: mm/mremap.c, take_rmap_locks()
        """
        if vma.file is not None:
            vma.file.mapping.i_mmap_rwsem.down_write()
        if vma.anon_vma is not None:
            self._kernel.rmap.anon_vma_lock_write(vma.anon_vma)

    def drop_rmap_locks(self, vma: VmArea) -> None:
        """Undo `take_rmap_locks`.

        Source: mm/mremap.c, drop_rmap_locks()
        """
        if vma.anon_vma is not None:
            self._kernel.rmap.anon_vma_unlock_write(vma.anon_vma)
        if vma.file is not None:
            vma.file.mapping.i_mmap_rwsem.up_write()

    def mremap_folio_pte_batch(
        self, vma: VmArea, addr: int, ptep: int, pte: int, max_nr: int
    ) -> int:
        """Return how many entries from *ptep* on move at once, at most *max_nr*.

        Only a contiguous block is worth the look at its folio. All that move with it
        are writable or none is, because they take the first one's word.

        Source: mm/mremap.c, mremap_folio_pte_batch()
        """
        if max_nr == 1:
            return 1
        if pte_batch_hint(self._pgtable, ptep, pte) == 1:
            return 1
        folio = self._kernel.memory.vm_normal_folio(vma, addr, pte)
        if not isinstance(folio, LargeFolio):
            return 1
        nr, _ = folio_pte_batch_flags(
            self._pgtable, folio, ptep, pte, max_nr, FPB_RESPECT_WRITE
        )
        return nr

    def move_ptes(
        self, pmc: PagetableMoveControl, extent: int, old_pmd: int, new_pmd: int
    ) -> int:
        """Move entries one by one, within one table on either side; 0 or ``-EAGAIN``.

        If one of them was present, all of *extent* is flushed: under both locks, since
        who takes the old one next may write to the page, and who takes the new one may
        free it.

        Source: mm/mremap.c, move_ptes()
        """
        pgtable = self._pgtable
        generic = self._kernel.pgtable_generic
        vma = pmc.old
        mm = vma.mm
        need_clear_uffd_wp = vma_has_uffd_without_event_remap(vma)
        old_addr, new_addr = pmc.old_addr, pmc.new_addr
        old_end = old_addr + extent
        force_flush = False
        if pmc.need_rmap_locks:
            self.take_rmap_locks(vma)
        old_found = generic.pte_offset_map_lock(mm, old_pmd, old_addr)
        new_found = None
        if old_found is not None:
            new_found = generic.pte_offset_map_rw_nolock(mm, new_pmd, new_addr)
            if new_found is None:
                old_found[1].release()
        if old_found is None or new_found is None:
            if pmc.need_rmap_locks:
                self.drop_rmap_locks(vma)
            return -EAGAIN
        old_ptep, old_ptl = old_found
        new_ptep, _, new_ptl = new_found
        if new_ptl is not old_ptl:
            new_ptl.acquire()
        if mm.tlb_flush_batched:
            self._kernel.rmap.flush_tlb_batched_pending(mm)
        pgtable.arch_enter_lazy_mmu_mode()
        while old_addr < old_end:
            nr_ptes = 1
            old_pte = pgtable.ptep_get(old_ptep)
            if not pte_none(old_pte):
                if pte_present(old_pte):
                    max_nr_ptes = old_end - old_addr >> pgtable.page_shift
                    nr_ptes = self.mremap_folio_pte_batch(
                        vma, old_addr, old_ptep, old_pte, max_nr_ptes
                    )
                    force_flush = True
                pte = pgtable.get_and_clear_full_ptes(mm, old_addr, old_ptep, nr_ptes)
                if need_clear_uffd_wp:
                    if pte_marker_get(pte) == PTE_MARKER_UFFD_WP:
                        pte = 0
                    elif pte_present(pte):
                        pte = pte_clear_uffd_wp(pte)
                    else:
                        pte &= ~PTE_SWP_UFFD_WP
                if pte:
                    pgtable.set_ptes(mm, new_addr, new_ptep, pte, nr_ptes)
            old_ptep += nr_ptes * SLOT
            new_ptep += nr_ptes * SLOT
            old_addr += nr_ptes * pgtable.page_size
            new_addr += nr_ptes * pgtable.page_size
        pgtable.arch_leave_lazy_mmu_mode()
        if force_flush:
            self._kernel.tlbflush.flush_tlb_range(vma, old_end - extent, old_end)
        if new_ptl is not old_ptl:
            new_ptl.release()
        old_ptl.release()
        if pmc.need_rmap_locks:
            self.drop_rmap_locks(vma)
        return 0

    @staticmethod
    def uffd_supports_page_table_move(pmc: PagetableMoveControl) -> bool:
        """Tell whether no entry must be looked at to forget that it is protected.

        Source: mm/mremap.c, uffd_supports_page_table_move()
        """
        return not vma_has_uffd_without_event_remap(
            pmc.old
        ) and not vma_has_uffd_without_event_remap(pmc.new)

    def move_normal_pmd(
        self, pmc: PagetableMoveControl, old_pmd: int, new_pmd: int
    ) -> bool:
        """Move a PTE table by the entry that points to it; tell whether it moved.

        Source: mm/mremap.c, move_normal_pmd()
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        if not self.uffd_supports_page_table_move(pmc):
            return False
        if not pte_none(pgtable.read(new_pmd)):
            return False
        old_ptl = memory.pmd_lockptr(old_pmd)
        new_ptl = memory.pmd_lockptr(new_pmd)
        old_ptl.acquire()
        if new_ptl is not old_ptl:
            new_ptl.acquire()
        pmd = pgtable.read(old_pmd)
        res = pmd_table(pmd)  # it may have been collapsed meanwhile
        if res:
            pgtable.pmd_clear(old_pmd)
            pgtable.pmd_populate(new_pmd, pgtable.pte_pfn(pmd))
            self._kernel.tlbflush.flush_tlb_range(
                pmc.old, pmc.old_addr, pmc.old_addr + pgtable.pmd_size
            )
        if new_ptl is not old_ptl:
            new_ptl.release()
        old_ptl.release()
        return res

    def move_normal_pud(
        self, pmc: PagetableMoveControl, old_pud: int, new_pud: int
    ) -> bool:
        """Move a PMD table by the entry that points to it; tell whether it moved.

        Source: mm/mremap.c, move_normal_pud()
        """
        pgtable = self._pgtable
        if not self.uffd_supports_page_table_move(pmc):
            return False
        if not pte_none(pgtable.read(new_pud)):
            return False
        with self._kernel.memory.pud_lockptr(pmc.old.mm):
            pud = pgtable.read(old_pud)
            pgtable.pud_clear(old_pud)
            pgtable.pud_populate(new_pud, pgtable.pte_pfn(pud))
            self._kernel.tlbflush.flush_tlb_range(
                pmc.old, pmc.old_addr, pmc.old_addr + pgtable.pud_size
            )
        return True

    def get_extent(self, entry: PgtEntry, pmc: PagetableMoveControl) -> int:
        """Return how far one entry of a level can reach, on either side.

        Source: mm/mremap.c, get_extent()
        """
        pgtable = self._pgtable
        is_pud = entry is PgtEntry.NORMAL_PUD
        size = pgtable.pud_size if is_pud else pgtable.pmd_size
        return min(
            size - pmc.old_addr % size,
            pmc.old_end - pmc.old_addr,
            size - pmc.new_addr % size,
        )

    @staticmethod
    def should_take_rmap_locks(pmc: PagetableMoveControl, entry: PgtEntry) -> bool:
        """Tell whether walks from a page must be kept off while an entry moves.

        Source: mm/mremap.c, should_take_rmap_locks()
        """
        return entry is not PgtEntry.HPAGE_PMD or pmc.need_rmap_locks

    def move_pgt_entry(
        self,
        pmc: PagetableMoveControl,
        entry: PgtEntry,
        old_entry: int,
        new_entry: int,
    ) -> bool:
        """Move what one entry points to as a whole; tell whether it moved.

        Source: mm/mremap.c, move_pgt_entry()
        """
        need_rmap_locks = self.should_take_rmap_locks(pmc, entry)
        if need_rmap_locks:
            self.take_rmap_locks(pmc.old)
        if entry is PgtEntry.NORMAL_PMD:
            moved = self.move_normal_pmd(pmc, old_entry, new_entry)
        elif entry is PgtEntry.NORMAL_PUD:
            moved = self.move_normal_pud(pmc, old_entry, new_entry)
        else:
            moved = self._kernel.huge_memory.move_huge_pmd(
                pmc.old, pmc.old_addr, old_entry, new_entry
            )
        if need_rmap_locks:
            self.drop_rmap_locks(pmc.old)
        return moved

    def can_align_down(self, vma: VmArea, addr_to_align: int, mask: int) -> bool:
        """Tell whether nothing is mapped before an address that begins *vma*.

        Source: mm/mremap.c, can_align_down()
        Deviates: no stack of a new program is moved (for_stack).
        """
        if vma.start != addr_to_align:
            return False
        found = self._kernel.vma.overlapping(vma.mm, addr_to_align & mask, vma.start)
        return not found

    def can_realign_addr(self, pmc: PagetableMoveControl, pagetable_mask: int) -> bool:
        """Tell whether a move may begin at the beginning of a table.

        Source: mm/mremap.c, can_realign_addr()
        """
        old_align = pmc.old_addr & ~pagetable_mask
        new_align = pmc.new_addr & ~pagetable_mask
        if pmc.len_in < -pagetable_mask - old_align:
            return False
        if not old_align or old_align != new_align:
            return False
        return self.can_align_down(
            pmc.old, pmc.old_addr, pagetable_mask
        ) and self.can_align_down(pmc.new, pmc.new_addr, pagetable_mask)

    def try_realign_addr(self, pmc: PagetableMoveControl, pagetable_mask: int) -> None:
        """Begin a move at the beginning of a table, if nothing else is in that.

        Source: mm/mremap.c, try_realign_addr()
        """
        if self.can_realign_addr(pmc, pagetable_mask):
            pmc.old_addr &= pagetable_mask
            pmc.new_addr &= pagetable_mask

    def move_page_tables(self, pmc: PagetableMoveControl) -> int:
        """Move the entries of a range, table by table where that is possible.

        Both VMAs are locked for writing, and nothing is at the new addresses.

        Returns:
            Bytes moved: less than the range if there was no memory for tables.

        Source: mm/mremap.c, move_page_tables()
        """
        pgtable = self._pgtable
        mm = pmc.old.mm
        if not pmc.len_in:
            return 0
        if is_vm_hugetlb_page(pmc.old):
            return self._kernel.hugetlb.move_hugetlb_page_tables(
                pmc.old, pmc.new, pmc.old_addr, pmc.new_addr, pmc.len_in
            )
        self.try_realign_addr(pmc, -pgtable.pmd_size)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_UNMAP, 0, mm, pmc.old_addr, pmc.old_end
        ):
            while not pmc_done(pmc):
                extent = self.get_extent(PgtEntry.NORMAL_PUD, pmc)
                old_pud = self.get_old_pud(mm, pmc.old_addr)
                if old_pud is not None:
                    new_pud = self.alloc_new_pud(mm, pmc.new_addr)
                    if new_pud is None:
                        break
                    if extent != pgtable.pud_size or not self.move_pgt_entry(
                        pmc, PgtEntry.NORMAL_PUD, old_pud, new_pud
                    ):
                        extent = self.get_extent(PgtEntry.NORMAL_PMD, pmc)
                        if self._move_pmd(pmc, extent):
                            break
                pmc_next(pmc, extent)
        return pmc_progress(pmc)

    def _move_pmd(self, pmc: PagetableMoveControl, extent: int) -> int:
        """Move what one PMD entry maps, or a part of that; 0 or ``-ENOMEM``.

        An entry that changed its kind meanwhile is looked at again.
        """
        pgtable = self._pgtable
        old_pmd = self.get_old_pmd(pmc.old.mm, pmc.old_addr)
        if old_pmd is None:
            return 0
        new_pmd = self.alloc_new_pmd(pmc.new.mm, pmc.new_addr)
        if new_pmd is None:
            return -ENOMEM
        whole = extent == pgtable.pmd_size
        while True:
            if pmd_is_huge(pgtable.read(old_pmd)):
                if whole and self.move_pgt_entry(
                    pmc, PgtEntry.HPAGE_PMD, old_pmd, new_pmd
                ):
                    return 0
                self._kernel.huge_memory.split_huge_pmd(pmc.old, old_pmd, pmc.old_addr)
            elif whole and self.move_pgt_entry(
                pmc, PgtEntry.NORMAL_PMD, old_pmd, new_pmd
            ):
                return 0
            if pte_none(pgtable.read(old_pmd)):
                return 0
            if not self._kernel.memory.pte_alloc(pmc.new.mm, new_pmd):
                return -ENOMEM
            if self.move_ptes(pmc, extent, old_pmd, new_pmd) >= 0:
                return 0
