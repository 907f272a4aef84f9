"""Sharing tables of PMD leaves between address spaces, and its locks.

Areas that map the same aligned piece of a file, as much as one PUD entry maps, with the
same rights, need only one table for it: 512 huge pages of 2 MiB, with pages of 4 KiB.
Each PUD entry that points to the table beyond the first is counted in the table's
``pt_share_count``. To unshare is to clear one's own PUD entry and to count it off; the
table and its entries stay as they are, and belong to the others.

Order of locks: fault mutex, lock of the area, i_mmap_rwsem, page-table lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_none
from tlbkit.linux.include.linux.hugetlb import (
    HugetlbFolio,
    HugetlbVmaLock,
    PrivateReservation,
)
from tlbkit.linux.include.linux.mm import (
    VM_LOCKED,
    VM_MAYSHARE,
)
from tlbkit.linux.include.linux.mm_types import (
    ptdesc_pmd_is_shared,
    ptdesc_pmd_pts_dec,
    ptdesc_pmd_pts_inc,
)
from tlbkit.linux.include.linux.userfaultfd_k import uffd_disable_huge_pmd_share
from tlbkit.linux.kernel.locking import LockError
from tlbkit.linux.mm.hugetlb.entries import HugeEntries
from tlbkit.linux.mm.hugetlb.pool import HugetlbPool
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import AddressSpace
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.locking import RwSemaphore, SpinLock
    from tlbkit.linux.mm.mmu_gather import MmuGather


class HugetlbShare(HugetlbPool):
    """Finds, shares and unshares tables."""

    __slots__ = ()

    # -- the lock of an area ---------------------------------------------------------

    @staticmethod
    def _rw_sema(vma: VmArea) -> RwSemaphore | None:
        """Return the lock of an area, or ``None`` if it has none."""
        data = vma.private_data
        if isinstance(data, HugetlbVmaLock):
            return data.rw_sema
        if isinstance(data, PrivateReservation) and data.resv_map is not None:
            return data.resv_map.rw_sema
        return None

    def _before_i_mmap(self, vma: VmArea, lock: RwSemaphore) -> None:
        """Complain if i_mmap_rwsem is held: it comes after the lock of an area."""
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        if i_mmap_rwsem.held:
            cpu = self._machine.running.number
            raise LockError(cpu, lock.name, f"must be taken before {i_mmap_rwsem.name}")

    def hugetlb_vma_lock_read(self, vma: VmArea) -> None:
        """Keep the tables of *vma* from being unshared.

        Source: mm/hugetlb.c, hugetlb_vma_lock_read()
        """
        lock = self._rw_sema(vma)
        if lock is not None:
            self._before_i_mmap(vma, lock)
            lock.down_read()

    def hugetlb_vma_unlock_read(self, vma: VmArea) -> None:
        """Let them be unshared again.

        Source: mm/hugetlb.c, hugetlb_vma_unlock_read()
        """
        lock = self._rw_sema(vma)
        if lock is not None:
            lock.up_read()

    def hugetlb_vma_lock_write(self, vma: VmArea) -> None:
        """Keep everybody else out of the tables of *vma*.

        Source: mm/hugetlb.c, hugetlb_vma_lock_write()
        """
        lock = self._rw_sema(vma)
        if lock is not None:
            self._before_i_mmap(vma, lock)
            lock.down_write()

    def hugetlb_vma_trylock_write(self, vma: VmArea) -> bool:
        """Do so unless somebody is in them; tell whether it was done.

        Source: mm/hugetlb.c, hugetlb_vma_trylock_write()
        """
        lock = self._rw_sema(vma)
        return lock is None or lock.down_write_trylock()

    def hugetlb_vma_unlock_write(self, vma: VmArea) -> None:
        """Let others in again.

        Source: mm/hugetlb.c, hugetlb_vma_unlock_write()
        """
        lock = self._rw_sema(vma)
        if lock is not None:
            lock.up_write()

    def hugetlb_vma_unlock_write_free_(self, vma: VmArea) -> None:
        """Release the lock, and take it away from an area that may share.

        Source: mm/hugetlb.c, __hugetlb_vma_unlock_write_free()
        """
        data = vma.private_data
        if isinstance(data, HugetlbVmaLock):
            self._unlock_write_put(data)
        else:
            self.hugetlb_vma_unlock_write(vma)

    def hugetlb_vma_assert_locked(self, vma: VmArea) -> None:
        """Complain unless the area's lock is held, or nobody else can be in it.

        While an area is being split, it is locked for writing itself.

        Source: mm/hugetlb.c, hugetlb_vma_assert_locked()
        """
        lock = self._rw_sema(vma)
        if lock is not None and not self._kernel.mmap_lock.vma_is_write_locked(vma):
            lock.assert_held()

    @staticmethod
    def mapping(vma: VmArea) -> AddressSpace:
        """Return the pages of the file that an area maps.

        Source: none; it only says that there is a file.
        """
        assert vma.file is not None
        return vma.file.mapping

    # -- entries ---------------------------------------------------------------------

    def huge_pte_lockptr(self, vma: VmArea, ptep: int) -> SpinLock:
        """Return the lock of the table in which the entry of a huge page stands.

        Those who share a table share its lock.

        Source: include/linux/hugetlb.h, huge_pte_lockptr()
        """
        if self.hstate_vma(vma).size >= self._pgtable.pud_size:
            return vma.mm.page_table_lock
        return self._kernel.memory.pmd_lockptr(ptep)

    def hugetlb_walk(self, vma: VmArea, addr: int, size: int) -> int | None:
        """Return where the entry of a huge page stands, or ``None``.

        In an area that may share, its lock or i_mmap_rwsem is held: the table could be
        unshared, and then be reused, otherwise.

        Source: include/linux/hugetlb.h, hugetlb_walk()
        """
        lock = vma.private_data
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        if isinstance(lock, HugetlbVmaLock) and not i_mmap_rwsem.held:
            lock.rw_sema.assert_held()
        return self._kernel.hugetlbpage.huge_pte_offset(vma.mm, addr, size)

    def huge_entries(self, vma: VmArea, start: int, end: int) -> HugeEntries:
        """Return a walk over the entries of [start, end), whole huge pages.

        Source: none; it is the loop that each caller has in the kernel.
        """
        size = self.hstate_vma(vma).size
        huge = self._kernel.hugetlbpage
        skip = huge.hugetlb_mask_last_page(size)
        above_pmds = skip + size == self._pgtable.pud_size
        jump = huge.next_pud if above_pmds else None
        width, _ = huge.num_contig_ptes(size)
        zeros = self._machine.memory.zeros

        def empty(ptep: int) -> int:
            return zeros(ptep) // width

        return HugeEntries(self, vma, start, end, skip, empty, jump)

    def folio(self, pte: int) -> HugetlbFolio:
        """Return the huge page that an entry maps.

        Source: none; it only says what kind of folio it is.
        """
        folio = self._kernel.page_alloc.folio_of(self._pgtable.pte_pfn(pte))
        assert isinstance(folio, HugetlbFolio)
        return folio

    def ptdesc(self, ptep: int) -> Folio:
        """Return the table in which an entry stands: virt_to_ptdesc().

        Source: include/linux/mm.h, virt_to_ptdesc()
        """
        return self._kernel.page_alloc.folio_of(ptep >> self._pgtable.page_shift)

    def hugetlb_pmd_shared(self, ptep: int) -> bool:
        """Tell whether others use the table in which a huge page's entry stands.

        Source: include/linux/hugetlb.h.
        """
        return ptdesc_pmd_is_shared(self.ptdesc(ptep))

    # -- whether tables can be shared ------------------------------------------------

    @property
    def shares_pmd_tables(self) -> bool:
        """Whether tables of huge pages may be shared at all, with this granule.

        Source: none; it is CONFIG_HUGETLB_PMD_PAGE_TABLE_SHARING, which arm64 selects.
        """
        return self._pgtable.page_shift in (12, 14)

    def want_pmd_share(self, vma: VmArea, addr: int) -> bool:
        """Tell whether the table for *addr* may be a shared one.

        Source: mm/hugetlb.c, want_pmd_share()
        """
        if uffd_disable_huge_pmd_share(vma):
            return False
        if not self.shares_pmd_tables or not vma.flags & VM_MAYSHARE:
            return False
        if vma.private_data is None:
            return False
        start = addr & -self._pgtable.pud_size
        return vma.start <= start and start + self._pgtable.pud_size <= vma.end

    def page_table_shareable(
        self, other: VmArea, vma: VmArea, addr: int, index: int
    ) -> int:
        """Return where *other* maps page *index*, if *vma* can use its table; else 0.

        Args:
            other: Who may have the table.
            vma: Who needs one.
            addr: Where it maps the page.
            index: The place of the page in the file, in pages.

        Source: mm/hugetlb.c, page_table_shareable()
        """
        pgtable = self._pgtable
        there = (index - other.pgoff << pgtable.page_shift) + other.start
        base = there & -pgtable.pud_size
        if (
            (addr ^ there) >> pgtable.pmd_shift & (pgtable.ptrs_per_pte - 1)
            or (vma.flags ^ other.flags) & ~VM_LOCKED
            or base < other.start
            or base + pgtable.pud_size > other.end
            or other.private_data is None
        ):
            return 0
        return there

    def adjust_range_if_pmd_sharing_possible(
        self, vma: VmArea, start: int, end: int
    ) -> tuple[int, int]:
        """Return a range widened to all that shared tables in it may map.

        Source: mm/hugetlb.c, adjust_range_if_pmd_sharing_possible()
        """
        size = self._pgtable.pud_size
        first = -(-vma.start // size) * size
        last = vma.end // size * size
        if (
            not self.shares_pmd_tables
            or not vma.flags & VM_MAYSHARE
            or last <= first
            or end <= first
            or start >= last
        ):
            return start, end
        if start > first:
            start = start // size * size
        if end < last:
            end = -(-end // size) * size
        return start, end

    # -- share -----------------------------------------------------------------------

    def huge_pmd_share(
        self, mm: MmStruct, vma: VmArea, addr: int, pudp: int
    ) -> int | None:
        """Point an empty PUD entry to a table that somebody has, or to a new one.

        Search and store are one section of i_mmap_rwsem: two who look at the same time
        would miss each other otherwise.

        Returns:
            Where the entry for *addr* stands, or ``None`` without memory.

        Source: mm/hugetlb.c, huge_pmd_share()
        """
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        i_mmap_rwsem.down_read()
        table = self._find_shareable(vma, addr)
        if table is not None:
            ptdesc_pmd_pts_inc(table)
            with mm.page_table_lock:
                if self._machine.holds("pud_none", pte_none(self._pgtable.read(pudp))):
                    self._pgtable.pud_populate(pudp, table.pfn)
                    mm.pgtables[2] += 1
                else:
                    ptdesc_pmd_pts_dec(table)  # another thread was first
        pmdp = self._kernel.memory.pmd_alloc(mm, addr)
        i_mmap_rwsem.up_read()
        return pmdp

    def _find_shareable(self, vma: VmArea, addr: int) -> Folio | None:
        """Return the table that another area has for the same piece of the file."""
        pgtable = self._pgtable
        index = (addr - vma.start >> pgtable.page_shift) + vma.pgoff
        for other in self.mapping(vma).i_mmap:
            pages = other.end - other.start >> pgtable.page_shift
            if other is vma or not other.pgoff <= index < other.pgoff + pages:
                continue
            there = self.page_table_shareable(other, vma, addr, index)
            if there:
                ptep = self.hugetlb_walk(other, there, pgtable.pmd_size)
                if ptep is not None:
                    return self.ptdesc(ptep)
        return None

    # -- unshare ---------------------------------------------------------------------

    def huge_pmd_unshare(
        self, tlb: MmuGather, vma: VmArea, addr: int, ptep: int
    ) -> bool:
        """Take a shared table out of *vma*'s address space; tell whether it was one.

        All that the table maps goes from this address space, not only *addr*; faults
        bring it back. The table's lock is held, and i_mmap_rwsem and the area's lock
        for writing; `huge_pmd_unshare_flush` must follow before the i_mmap_rwsem is
        released.

        Source: mm/hugetlb.c, huge_pmd_unshare()
        """
        if self.hstate_vma(vma).size != self._pgtable.pmd_size:
            return False
        table = self.ptdesc(ptep)
        if not ptdesc_pmd_is_shared(table):
            return False
        self.mapping(vma).i_mmap_rwsem.assert_write_held()
        self.hugetlb_vma_assert_locked(vma)
        pgtable = self._pgtable
        pgdp = pgtable.pgd_offset(vma.mm, addr)
        pgtable.pud_clear(pgtable.pud_offset(pgdp, addr))
        self._kernel.gather.tlb_unshare_pmd_ptdesc(tlb, table, addr)
        vma.mm.pgtables[2] -= 1
        return True

    def huge_pmd_unshare_flush(self, tlb: MmuGather, vma: VmArea) -> None:
        """Make sure that nobody of this address space is in an unshared table any more.

        Whoever is left with a table may put it to another use as soon as i_mmap_rwsem
        is released; by then no TLB may lead there, and no lockless walk be in it.

        Source: mm/hugetlb.c, huge_pmd_unshare_flush()
        """
        self.mapping(vma).i_mmap_rwsem.assert_write_held()
        self._kernel.gather.tlb_flush_unshared_tables(tlb)

    def hugetlb_unshare_pmds(
        self, vma: VmArea, start: int, end: int, *, take_locks: bool
    ) -> None:
        """Unshare all tables of a range, which begins and ends with a table's span.

        With *take_locks* false, the caller holds i_mmap_rwsem for writing, and nobody
        else can be in the area.

        Source: mm/hugetlb.c, hugetlb_unshare_pmds()
        """
        if not vma.flags & VM_MAYSHARE or start >= end:
            return
        h = self.hstate_vma(vma)
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        gather = self._kernel.gather
        tlb = gather.tlb_gather_mmu_vma(vma)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, start, end
        ):
            if take_locks:
                self.hugetlb_vma_lock_write(vma)
                i_mmap_rwsem.down_write()
            else:
                i_mmap_rwsem.assert_write_held()
            for addr in range(start, end, self._pgtable.pud_size):
                ptep = self.hugetlb_walk(vma, addr, h.size)
                if ptep is not None:
                    with self.huge_pte_lockptr(vma, ptep):
                        self.huge_pmd_unshare(tlb, vma, addr, ptep)
            self.huge_pmd_unshare_flush(tlb, vma)
            if take_locks:
                i_mmap_rwsem.up_write()
                self.hugetlb_vma_unlock_write(vma)
        gather.tlb_finish_mmu(tlb)

    def hugetlb_unshare_all_pmds(self, vma: VmArea) -> None:
        """Unshare all tables of an area, as one that is to be watched must.

        Source: mm/hugetlb.c, hugetlb_unshare_all_pmds()
        """
        size = self._pgtable.pud_size
        self.hugetlb_unshare_pmds(
            vma,
            -(-vma.start // size) * size,
            vma.end // size * size,
            take_locks=True,
        )

    def hugetlb_split(self, vma: VmArea, addr: int) -> None:
        """Unshare the table that an area, cut in two at *addr*, can no longer share.

        Areas and i_mmap_rwsem are locked for writing. The lock of the area cannot be
        taken now, as it comes before i_mmap_rwsem, and need not be: who could be kept
        out by it is kept out already.

        Source: mm/hugetlb.c, hugetlb_split()
        """
        size = self._pgtable.pud_size
        floor = addr // size * size
        if addr != floor and floor >= vma.start and floor + size <= vma.end:
            self.hugetlb_unshare_pmds(vma, floor, floor + size, take_locks=False)
