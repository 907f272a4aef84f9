"""Making a block of pages: mm/khugepaged.c, as far as user space can ask for it.

The kernel thread that does the same by itself, in memory that looks worth it, is left
out; so are files.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pmd_trans_huge,
    pte_none,
    pte_present,
    pte_uffd_wp,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.linux.mm import FAULT_FLAG_ALLOW_RETRY, VM_FAULT_ERROR
from tlbkit.linux.include.linux.mm_types import (
    LargeFolio,
    PG_locked,
    PG_lru,
    PG_swapcache,
    VmFault,
)
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_UFFD_WP,
    pte_marker_get,
    pte_swp_uffd_wp,
)
from tlbkit.linux.include.linux.userfaultfd_k import userfaultfd_armed
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN, EBUSY, EINVAL, ENOMEM
from tlbkit.linux.mm.internal import folio_pte_batch
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class ScanResult(Enum):
    """What came of looking at a range, or of collapsing it: enum scan_result."""

    SUCCEED = auto()
    FAIL = auto()
    NO_PTE_TABLE = auto()
    PMD_MAPPED = auto()
    EXCEED_NONE_PTE = auto()
    PTE_NON_PRESENT = auto()
    PTE_UFFD_WP = auto()
    PAGE_NULL = auto()
    PAGE_ANON = auto()
    PAGE_COUNT = auto()
    PAGE_LRU = auto()
    PAGE_LOCK = auto()
    VMA_CHECK = auto()
    ALLOC_HUGE_PAGE_FAIL = auto()


_DONE = frozenset({ScanResult.SUCCEED, ScanResult.PMD_MAPPED})
_TRY_NEXT_BLOCK = frozenset(
    {
        ScanResult.NO_PTE_TABLE,
        ScanResult.PTE_NON_PRESENT,
        ScanResult.PTE_UFFD_WP,
        ScanResult.PAGE_NULL,
        ScanResult.PAGE_COUNT,
        ScanResult.PAGE_LRU,
        ScanResult.PAGE_LOCK,
    }
)
_TRY_AGAIN = frozenset(
    {ScanResult.PAGE_COUNT, ScanResult.PAGE_LRU, ScanResult.PAGE_LOCK}
)


class Khugepaged:
    """Puts the pages of an aligned range into one block."""

    __slots__ = ("_kernel", "_machine", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable

    def madvise_collapse(self, vma: VmArea, start: int, end: int) -> int:
        """Make blocks of all whole blocks of [start, end); 0 or an error number.

        Settings do not matter, since user space asks for it. The mmap lock is held for
        reading; it is released and taken again meanwhile.

        Source: mm/khugepaged.c, madvise_collapse()
        Deviates: files are left out.
        """
        mm = vma.mm
        size = self._pgtable.pmd_size
        last_addr = (vma.end - size) & -size
        if last_addr < vma.start or not self._allowed(vma):
            return -EINVAL
        self._kernel.swap.lru_add_drain_all()
        first = -(-start // size) * size
        last = end // size * size
        failed = ScanResult.FAIL
        done = 0
        mmap_locked = True
        addr = first
        while addr < last:
            if not mmap_locked:
                mm.mmap_lock.down_read()
                mmap_locked = True
                found = self.hugepage_vma_revalidate(mm, addr, expect_anon=False)
                if isinstance(found, ScanResult):
                    failed = found
                    break
                vma = found
                last = min(last, vma.end & -size)
            scan, unmapped = self.hpage_collapse_scan_pmd(vma, addr)
            if scan is ScanResult.SUCCEED:
                mm.mmap_lock.up_read()
                mmap_locked = False
                scan = self.collapse_huge_page(mm, addr, unmapped)
            addr += size
            if scan in _DONE:
                done += 1
                continue
            failed = scan
            if scan not in _TRY_NEXT_BLOCK:
                break
        if not mmap_locked:
            mm.mmap_lock.down_read()
        if done == (last - first) // size:
            return 0
        return self.madvise_collapse_errno(failed)

    @staticmethod
    def madvise_collapse_errno(result: ScanResult) -> int:
        """Return the error number for what went wrong last.

        Source: mm/khugepaged.c, madvise_collapse_errno()
        """
        if result is ScanResult.ALLOC_HUGE_PAGE_FAIL:
            return -ENOMEM
        if result is ScanResult.EXCEED_NONE_PTE:
            return -EBUSY
        return -EAGAIN if result in _TRY_AGAIN else -EINVAL

    def _allowed(self, vma: VmArea) -> bool:
        """Tell whether *vma* may have huge pages, if it is asked for them.

        One that never had a page may not: only a fault makes its anon_vma.
        """
        if vma.anonymous and vma.anon_vma is None:
            return False
        order = 1 << self._pgtable.hpage_pmd_order
        return bool(
            self._kernel.huge_memory.thp_vma_allowable_orders(vma, order, forced=True)
        )

    def hugepage_vma_revalidate(
        self, mm: MmStruct, addr: int, *, expect_anon: bool
    ) -> VmArea | ScanResult:
        """Return the VMA that can have a huge page at *addr*, or why there is none.

        Source: mm/khugepaged.c, hugepage_vma_revalidate()
        """
        vma = self._kernel.vma.vma_lookup(mm, addr)
        if (
            vma is None
            or addr + self._pgtable.pmd_size > vma.end
            or not self._allowed(vma)
        ):
            return ScanResult.VMA_CHECK
        if expect_anon and vma.anon_vma is None:
            return ScanResult.PAGE_ANON
        return vma

    def _find_pmd(self, mm: MmStruct, addr: int) -> int | ScanResult:
        """Return where the entry stands that points to the table of *addr*."""
        pmdp = self._pgtable.find_pmd(mm, addr)
        pmd = 0 if pmdp is None else self._pgtable.read(pmdp)
        if pmd_trans_huge(pmd):
            return ScanResult.PMD_MAPPED
        if pmdp is None or not pmd_table(pmd):
            return ScanResult.NO_PTE_TABLE
        return pmdp

    def hpage_collapse_scan_pmd(self, vma: VmArea, addr: int) -> tuple[ScanResult, int]:
        """Tell whether the pages of a table can be put into one huge page.

        Returns:
            What was found, and how many pages must be swapped in first.

        Source: mm/khugepaged.c, hpage_collapse_scan_pmd()
        Deviates: the caller goes on with collapse_huge_page().
        """
        pgtable = self._pgtable
        pmdp = self._find_pmd(vma.mm, addr)
        if isinstance(pmdp, ScanResult):
            return pmdp, 0
        found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, pmdp, addr)
        if found is None:
            return ScanResult.NO_PTE_TABLE, 0
        ptep, ptl = found
        unmapped = 0
        result = ScanResult.SUCCEED
        for at in range(ptep, ptep + pgtable.hpage_pmd_nr * SLOT, SLOT):
            pte = pgtable.read(at)
            if not pte_none(pte) and not pte_present(pte):
                unmapped += 1
                if pte_swp_uffd_wp(pte) or pte_marker_get(pte) & PTE_MARKER_UFFD_WP:
                    result = ScanResult.PTE_UFFD_WP
            else:
                result = self._check_pte(vma, addr, pte)
            if result is not ScanResult.SUCCEED:
                break
        ptl.release()
        return result, unmapped

    def _collapse_huge_page_isolate(
        self, vma: VmArea, addr: int, ptep: int
    ) -> ScanResult:
        """Tell what stands against it; the table that begins at *ptep* is locked.

        Source: mm/khugepaged.c, __collapse_huge_page_isolate()
        Deviates: folios are neither locked nor taken off the LRU lists: while the table
        is unhooked and the VMA locked nobody comes to them.
        """
        pgtable = self._pgtable
        for at in range(ptep, ptep + pgtable.hpage_pmd_nr * SLOT, SLOT):
            pte = pgtable.read(at)
            if not pte_none(pte) and not pte_present(pte):
                return ScanResult.PTE_NON_PRESENT
            result = self._check_pte(vma, addr, pte)
            if result is not ScanResult.SUCCEED:
                return result
        return ScanResult.SUCCEED

    def _check_pte(self, vma: VmArea, addr: int, pte: int) -> ScanResult:
        """Tell what stands against one entry that is empty or maps a page.

        Places without a page, and the zero page, are welcome. A page that somebody
        holds besides the tables and the swap cache is not: it would be left behind.
        """
        if pte_none(pte) or self._is_zero(pte):
            if userfaultfd_armed(vma):
                return ScanResult.EXCEED_NONE_PTE
            return ScanResult.SUCCEED
        if pte_uffd_wp(pte):
            return ScanResult.PTE_UFFD_WP
        folio = self._kernel.memory.vm_normal_folio(vma, addr, pte)
        if folio is None:
            return ScanResult.PAGE_NULL
        if not folio.anon:
            return ScanResult.PAGE_ANON
        if not folio.flags & PG_lru:
            return ScanResult.PAGE_LRU
        if folio.flags & PG_locked:
            return ScanResult.PAGE_LOCK
        expected = folio.mapcount
        if folio.flags & PG_swapcache:
            expected += folio.nr_pages
        if folio.refcount != expected:
            return ScanResult.PAGE_COUNT
        return ScanResult.SUCCEED

    def _is_zero(self, pte: int) -> bool:
        """Tell whether an entry maps the zero page."""
        return pte_present(pte) and self._pgtable.pte_pfn(pte) == self._kernel.zero_pfn

    def _collapse_huge_page_swapin(
        self, mm: MmStruct, vma: VmArea, start_addr: int, pmdp: int
    ) -> ScanResult:
        """Bring in what is swapped out.

        The mmap lock is held for reading.

        Source: mm/khugepaged.c, __collapse_huge_page_swapin()
        Deviates: the caller releases the mmap lock also where this fails.
        """
        pgtable = self._pgtable
        swapped_in = 0
        end = start_addr + pgtable.pmd_size
        for addr in range(start_addr, end, pgtable.page_size):
            found = self._kernel.pgtable_generic.pte_offset_map_ro_nolock(
                mm, pmdp, addr
            )
            if found is None:
                return ScanResult.NO_PTE_TABLE
            ptep = found[0]
            orig_pte = pgtable.ptep_get(ptep)
            if pte_none(orig_pte) or pte_present(orig_pte):
                continue
            vmf = VmFault(vma, addr, addr, FAULT_FLAG_ALLOW_RETRY)
            vmf.pmd = pmdp
            vmf.pte = ptep
            vmf.orig_pte = orig_pte
            vmf.pgoff = self._kernel.rmap.linear_page_index(vma, addr)
            if self._kernel.memory.do_swap_page(vmf) & VM_FAULT_ERROR:
                return ScanResult.FAIL
            swapped_in += 1
        if swapped_in:
            self._kernel.swap.lru_add_drain()
        return ScanResult.SUCCEED

    def collapse_huge_page(self, mm: MmStruct, addr: int, unmapped: int) -> ScanResult:
        """Put the pages at *addr* into one block; no lock is held.

        Nobody can fault on the range while the areas are locked. Its table is unhooked
        and everything it led to is flushed, and the other CPUs are interrupted, which
        ends lockless walks of it. Then the pages are copied at leisure.

        Source: mm/khugepaged.c, collapse_huge_page()
        """
        order = self._pgtable.hpage_pmd_order
        folio = self._kernel.page_alloc.alloc(order)
        if folio is None:
            return ScanResult.ALLOC_HUGE_PAGE_FAIL
        assert isinstance(folio, LargeFolio)
        result = ScanResult.SUCCEED
        mm.mmap_lock.down_read()
        vma = self.hugepage_vma_revalidate(mm, addr, expect_anon=True)
        pmdp = vma if isinstance(vma, ScanResult) else self._find_pmd(mm, addr)
        if isinstance(vma, ScanResult) or isinstance(pmdp, ScanResult):
            assert isinstance(pmdp, ScanResult)
            result = pmdp
        elif unmapped:
            result = self._collapse_huge_page_swapin(mm, vma, addr, pmdp)
        mm.mmap_lock.up_read()
        if result is ScanResult.SUCCEED:
            mm.mmap_lock.down_write()
            vma = self.hugepage_vma_revalidate(mm, addr, expect_anon=True)
            if isinstance(vma, ScanResult):
                result = vma
            else:
                result = self._collapse_locked(vma, addr, folio)
            mm.mmap_lock.up_write()
        if result is not ScanResult.SUCCEED:
            self._kernel.swap.folio_put(folio)
        return result

    def _collapse_locked(self, vma: VmArea, addr: int, folio: LargeFolio) -> ScanResult:
        """Do so; the mmap lock is held for writing."""
        kernel = self._kernel
        pgtable = self._pgtable
        mm = vma.mm
        pmdp = self._find_pmd(mm, addr)
        if isinstance(pmdp, ScanResult):
            return pmdp
        assert vma.anon_vma is not None
        kernel.mmap_lock.vma_start_write(vma)
        kernel.rmap.anon_vma_lock_write(vma.anon_vma)
        pmd_ptl = kernel.memory.pmd_lockptr(pmdp)
        end = addr + pgtable.pmd_size
        with (
            kernel.mmu_notifier.mmu_notifier_range_init(
                MMU_NOTIFY_CLEAR, 0, mm, addr, end
            ),
            pmd_ptl,
        ):
            pmd = kernel.pgtable_generic.pmdp_collapse_flush(vma, addr, pmdp)
        kernel.gather.tlb_remove_table_sync_one()
        table = kernel.page_alloc.folio_of(pgtable.pte_pfn(pmd))
        pte_ptl = kernel.memory.pte_lockptr(pmd)
        with pte_ptl:
            start_pte = table.pfn << pgtable.page_shift
            result = self._collapse_huge_page_isolate(vma, addr, start_pte)
        kernel.rmap.anon_vma_unlock_write(vma.anon_vma)
        failed = result is not ScanResult.SUCCEED
        if self._machine.sees("collapse_huge_page_isolate", failed):
            with pmd_ptl:
                pgtable.pmd_populate(pmdp, table.pfn)
            return result
        with pte_ptl:
            self._copy(vma, addr, table.pfn << pgtable.page_shift, folio)
        with pmd_ptl:
            kernel.pgtable_generic.pgtable_trans_huge_deposit(pmdp, table)
            kernel.huge_memory.map_anon_folio_pmd_nopf(folio, pmdp, vma, addr)
        return ScanResult.SUCCEED

    def _copy(self, vma: VmArea, addr: int, ptep: int, target: LargeFolio) -> None:
        """Copy the pages of an unhooked table, and let go of them.

        Source: __collapse_huge_page_copy(). What is cleared is in no TLB any more.
        """
        pgtable = self._pgtable
        kernel = self._kernel
        memory = self._machine.memory
        place = 0
        while place < pgtable.hpage_pmd_nr:
            at = ptep + place * SLOT
            pte = pgtable.ptep_get(at)
            if pte_none(pte) or self._is_zero(pte):
                memory.clear_frame(target.pfn + place)
                pgtable.set_pte(at, 0)
                vma.mm.anonpages += 1
                place += 1
                continue
            pfn = pgtable.pte_pfn(pte)
            folio = kernel.page_alloc.folio_of(pfn)
            nr = 1
            if isinstance(folio, LargeFolio):
                most = pgtable.hpage_pmd_nr - place
                nr = folio_pte_batch(pgtable, folio, at, pte, most)
            for page in range(nr):
                memory.copy_frame(pfn + page, target.pfn + place + page)
            pgtable.get_and_clear_full_ptes(
                vma.mm, addr + place * pgtable.page_size, at, nr
            )
            if isinstance(folio, LargeFolio):
                kernel.rmap.folio_remove_rmap_ptes(folio, pfn, nr, vma)
            else:
                kernel.rmap.folio_remove_rmap_pte(folio, pfn, vma)
            kernel.swap_state.free_pages_and_swap_cache([folio] * nr)
            place += nr
