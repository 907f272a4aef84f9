"""How entries move from one address to another: the lower half of mm/mremap.c."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pte_clear_uffd_wp,
    pte_none,
    pte_present,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import PTE_SWP_UFFD_WP
from tlbkit.linux.include.linux.huge_mm import pmd_is_huge
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm_types import LargeFolio
from tlbkit.linux.include.linux.swapops import PTE_MARKER_UFFD_WP, pte_marker_get
from tlbkit.linux.include.linux.userfaultfd_k import (
    vma_has_uffd_without_event_remap,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
)
from tlbkit.linux.mm.internal import (
    FPB_RESPECT_WRITE,
    folio_pte_batch_flags,
    pte_batch_hint,
)
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_UNMAP

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.kernel.locking import SpinLock


@dataclass(slots=True)
class PagetableMove:
    """How far the entries of a range have moved: struct pagetable_move_control.

    Attributes:
        old, new: The two areas.
        old_addr, new_addr: The next addresses.
        old_end: Where the old range ends.
        length: Of the range as it was asked for.
        need_rmap_locks: A walk from a page to its entries could come to the new place
            before the old, and miss an entry that moves meanwhile.
    """

    old: VmArea
    new: VmArea
    old_addr: int
    new_addr: int
    old_end: int
    length: int
    need_rmap_locks: bool

    @classmethod
    def of(
        cls, old: VmArea, new: VmArea, old_addr: int, new_addr: int, length: int
    ) -> PagetableMove:
        """Begin to move *length* bytes. Areas are walked here in order of address."""
        need = new_addr < old_addr
        return cls(old, new, old_addr, new_addr, old_addr + length, length, need)

    def extent(self, size: int) -> int:
        """Return how far it is to the next multiple of *size*, on either side."""
        return min(
            size - self.old_addr % size,
            self.old_end - self.old_addr,
            size - self.new_addr % size,
        )

    @property
    def progress(self) -> int:
        """How many bytes have moved, of those that were asked for: pmc_progress()."""
        return max(self.old_addr - (self.old_end - self.length), 0)


class MremapTables:
    """Moves entries, one by one or with the table that they stand in."""

    __slots__ = ("_kernel", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable

    # -- entries ---------------------------------------------------------------------

    def move_page_tables(self, move: PagetableMove) -> int:
        """Move the entries of a range, table by table where that is possible.

        Both areas are marked as being changed, and nothing is at the new addresses.

        Returns:
            Bytes moved: less than the range if there was no memory for tables.

        Source: mm/mremap.c, move_page_tables()
        """
        if not move.length:
            return 0
        if is_vm_hugetlb_page(move.old):
            return self._kernel.hugetlb.move_hugetlb_page_tables(
                move.old, move.new, move.old_addr, move.new_addr, move.length
            )
        self.try_realign_addr(move)
        notifier = self._kernel.mmu_notifier
        with notifier.mmu_notifier_range_init(
            MMU_NOTIFY_UNMAP, 0, move.old.mm, move.old_addr, move.old_end
        ):
            while move.old_addr < move.old_end:
                extent = self.move_next(move)
                if not extent:
                    break
                move.old_addr += extent
                move.new_addr += extent
        return move.progress

    def move_next(self, move: PagetableMove) -> int:
        """Move the entries up to the next end of a table; bytes, or 0 without memory.

        What a whole entry points to is tried first: a PMD table, a block or PTE table.
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        mm = move.old.mm
        extent = move.extent(pgtable.pud_size)
        old_pud = self.get_old_pud(mm, move.old_addr)
        if old_pud is None:
            return extent
        new_pud = memory.pud_alloc(mm, move.new_addr)
        if new_pud is None:
            return 0
        if extent == pgtable.pud_size and self.move_normal_pud(move, old_pud, new_pud):
            return extent
        extent = move.extent(pgtable.pmd_size)
        old_pmd = pgtable.find_pmd(mm, move.old_addr)
        if old_pmd is None or pte_none(pgtable.read(old_pmd)):
            return extent
        new_pmd = memory.pmd_alloc(mm, move.new_addr)
        if new_pmd is None:
            return 0
        while True:
            if self.move_pmd(move, extent, old_pmd, new_pmd):
                return extent
            if pte_none(pgtable.read(old_pmd)):
                return extent
            if not memory.pte_alloc(mm, new_pmd):
                return 0
            if not self.move_ptes(move, extent, old_pmd, new_pmd):
                return extent

    def get_old_pud(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PUD entry of *addr* stands, if it points to a table.

        Source: mm/mremap.c, get_old_pud()
        """
        pgtable = self._pgtable
        pgdp = pgtable.pgd_offset(mm, addr)
        if not pmd_table(pgtable.read(pgdp)):
            return None
        pudp = pgtable.pud_offset(pgdp, addr)
        return pudp if pmd_table(pgtable.read(pudp)) else None

    def move_pmd(
        self, move: PagetableMove, extent: int, old_pmd: int, new_pmd: int
    ) -> bool:
        """Move what one PMD entry says as a whole; tell whether it moved.

        A block of which only a part moves is split.
        """
        whole = extent == self._pgtable.pmd_size
        huge = self._kernel.huge_memory
        if not pmd_is_huge(self._pgtable.read(old_pmd)):
            return whole and self.move_normal_pmd(move, old_pmd, new_pmd)
        if whole:
            locked = move.need_rmap_locks
            self.take_rmap_locks(move.old, needed=locked)
            moved = huge.move_huge_pmd(move.old, move.old_addr, old_pmd, new_pmd)
            self.drop_rmap_locks(move.old, needed=locked)
            if moved:
                return True
        huge.split_huge_pmd(move.old, old_pmd, move.old_addr)
        return False

    def move_normal_pud(self, move: PagetableMove, old_pud: int, new_pud: int) -> bool:
        """Move a PMD table by the entry that points to it; tell whether it moved.

        Source: mm/mremap.c, move_normal_pud()
        """
        lock = move.old.mm.page_table_lock
        return self._move_table(
            move, old_pud, new_pud, (lock, lock), self._pgtable.pud_size
        )

    def move_normal_pmd(self, move: PagetableMove, old_pmd: int, new_pmd: int) -> bool:
        """Move a PTE table by the entry that points to it; tell whether it moved.

        Source: mm/mremap.c, move_normal_pmd()
        """
        memory = self._kernel.memory
        locks = memory.pmd_lockptr(old_pmd), memory.pmd_lockptr(new_pmd)
        return self._move_table(move, old_pmd, new_pmd, locks, self._pgtable.pmd_size)

    def _move_table(
        self,
        move: PagetableMove,
        old: int,
        new: int,
        locks: tuple[SpinLock, SpinLock],
        size: int,
    ) -> bool:
        """Move the table that the entry at *old* points to, and flush all it maps.

        A table with entries of a watched area that forgets its protection cannot: each
        entry must be looked at.
        """
        pgtable = self._pgtable
        if not pte_none(pgtable.read(new)):
            return False
        if vma_has_uffd_without_event_remap(move.old):
            return False
        old_ptl, new_ptl = locks
        self.take_rmap_locks(move.old)
        old_ptl.acquire()
        if new_ptl is not old_ptl:
            new_ptl.acquire()
        entry = pgtable.read(old)
        moved = pmd_table(entry)
        if moved:
            if size == pgtable.pmd_size:
                pgtable.pmd_clear(old)
                pgtable.pmd_populate(new, pgtable.pte_pfn(entry))
            else:
                pgtable.pud_clear(old)
                pgtable.pud_populate(new, pgtable.pte_pfn(entry))
            self._kernel.tlbflush.flush_tlb_range(
                move.old, move.old_addr, move.old_addr + size
            )
        if new_ptl is not old_ptl:
            new_ptl.release()
        old_ptl.release()
        self.drop_rmap_locks(move.old)
        return moved

    def move_ptes(
        self, move: PagetableMove, extent: int, old_pmd: int, new_pmd: int
    ) -> int:
        """Move entries one by one, within one table on either side; 0 or ``-EAGAIN``.

        If one of them was present, all of *extent* is flushed: under both locks, since
        who takes the old one next may write to the page, and who takes the new one may
        free it.

        Source: mm/mremap.c, move_ptes()
        """
        pgtable = self._pgtable
        maps = self._kernel.pgtable_generic
        mm = move.old.mm
        self.take_rmap_locks(move.old, needed=move.need_rmap_locks)
        old_found = maps.pte_offset_map_lock(mm, old_pmd, move.old_addr)
        if old_found is None:
            self.drop_rmap_locks(move.old, needed=move.need_rmap_locks)
            return -EAGAIN
        old_ptep, old_ptl = old_found
        new_found = maps.pte_offset_map_rw_nolock(mm, new_pmd, move.new_addr)
        if new_found is None:
            old_ptl.release()
            self.drop_rmap_locks(move.old, needed=move.need_rmap_locks)
            return -EAGAIN
        new_ptep, _, new_ptl = new_found
        if new_ptl is not old_ptl:
            new_ptl.acquire()
        if mm.tlb_flush_batched:
            self._kernel.rmap.flush_tlb_batched_pending(mm)
        pgtable.arch_enter_lazy_mmu_mode()
        force_flush = False
        done = 0
        while done < extent:
            nr, present = self.move_one(move, done, extent, old_ptep, new_ptep)
            force_flush |= present
            done += nr * pgtable.page_size
            old_ptep += nr * 8
            new_ptep += nr * 8
        pgtable.arch_leave_lazy_mmu_mode()
        if force_flush:
            self._kernel.tlbflush.flush_tlb_range(
                move.old, move.old_addr, move.old_addr + extent
            )
        if new_ptl is not old_ptl:
            new_ptl.release()
        old_ptl.release()
        self.drop_rmap_locks(move.old, needed=move.need_rmap_locks)
        return 0

    def move_one(
        self, move: PagetableMove, done: int, extent: int, old_ptep: int, new_ptep: int
    ) -> tuple[int, bool]:
        """Move one entry, or those of consecutive pages of one folio.

        Returns:
            How many, and whether they were present.
        """
        pgtable = self._pgtable
        mm = move.old.mm
        old_addr = move.old_addr + done
        pte = pgtable.ptep_get(old_ptep)
        if pte_none(pte):
            return 1, False
        forget = vma_has_uffd_without_event_remap(move.old)
        if not pte_present(pte):
            pte = pgtable.ptep_get_and_clear_(old_ptep)
            if forget:
                pte = without_uffd_wp(pte)
            if not pte_none(pte):
                pgtable.set_pte(new_ptep, pte)
            return 1, False
        nr = self.mremap_folio_pte_batch(
            move.old, old_addr, old_ptep, pte, extent - done >> pgtable.page_shift
        )
        pte = pgtable.get_and_clear_full_ptes(mm, old_addr, old_ptep, nr)
        if forget:
            pte = pte_clear_uffd_wp(pte)
        pgtable.set_ptes(mm, move.new_addr + done, new_ptep, pte, nr)
        return nr, True

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

    # -- locks of who looks for the entries of a page --------------------------------

    def take_rmap_locks(self, vma: VmArea, *, needed: bool = True) -> None:
        """Keep everybody out who walks from a page of *vma* to its entries.

        Source: mm/mremap.c, take_rmap_locks()
        """
        if not needed:
            return
        if vma.file is not None:
            vma.file.mapping.i_mmap_rwsem.down_write()
        if vma.anon_vma is not None:
            self._kernel.rmap.anon_vma_lock_write(vma.anon_vma)

    def drop_rmap_locks(self, vma: VmArea, *, needed: bool = True) -> None:
        """Undo `take_rmap_locks`.

        Source: mm/mremap.c, drop_rmap_locks()
        """
        if not needed:
            return
        if vma.anon_vma is not None:
            self._kernel.rmap.anon_vma_unlock_write(vma.anon_vma)
        if vma.file is not None:
            vma.file.mapping.i_mmap_rwsem.up_write()

    # -- whole tables ----------------------------------------------------------------

    def try_realign_addr(self, move: PagetableMove) -> None:
        """Begin a move at the beginning of a table, if nothing else is in that.

        Source: mm/mremap.c, try_realign_addr()
        """
        size = self._pgtable.pmd_size
        offset = move.old_addr % size
        if not offset or offset != move.new_addr % size:
            return
        if move.length < size - offset:
            return
        if self._can_align_down(move.old, move.old_addr) and self._can_align_down(
            move.new, move.new_addr
        ):
            move.old_addr -= offset
            move.new_addr -= offset

    def _can_align_down(self, vma: VmArea, addr: int) -> bool:
        """Tell whether the table of *vma*'s first address maps nothing before it."""
        if vma.start != addr:
            return False
        start = addr & -self._pgtable.pmd_size
        return not self._kernel.vma.overlapping(vma.mm, start, addr)


def without_uffd_wp(pte: int) -> int:
    """Return an entry that maps nothing now, without the mark of a userfaultfd."""
    if pte_marker_get(pte) & PTE_MARKER_UFFD_WP:
        return 0
    return pte & ~PTE_SWP_UFFD_WP
