"""Page faults, copy on write, fork's copy of tables, and zapping: mm/memory.c."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pmd_trans_huge,
    pte_clear_uffd_wp,
    pte_mkclean,
    pte_mkdirty,
    pte_mkold,
    pte_mkspecial,
    pte_mkuffd_wp,
    pte_mkyoung,
    pte_modify,
    pte_none,
    pte_present,
    pte_protnone,
    pte_special,
    pte_uffd_wp,
    pte_write,
    pte_wrprotect,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    PTE_CONT,
    PTE_SWP_UFFD_WP,
    PTE_VALID,
)
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_TRIED,
    FAULT_FLAG_UNSHARE,
    FAULT_FLAG_WRITE,
    VM_ACCESS_FLAGS,
    VM_FAULT_FALLBACK,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_SHARED,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
    VM_WRITE,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.mm_types import (
    Folio,
    LargeFolio,
    PG_ksm,
    PG_locked,
    PG_lru,
    VmFault,
)
from tlbkit.linux.include.linux.pgtable import (
    PGTABLE_LEVEL_PMD,
    PGTABLE_LEVEL_PTE,
    PgtableLevel,
)
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_UFFD_WP,
    is_migration_entry,
    make_readable_migration_pte,
    pte_marker_get,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    userfaultfd_armed,
    userfaultfd_missing,
    userfaultfd_pte_wp,
    userfaultfd_wp,
    userfaultfd_wp_async,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN, ENOMEM
from tlbkit.linux.kernel.locking import SpinLock
from tlbkit.linux.mm.internal import (
    FPB_MERGE_WRITE,
    FPB_RESPECT_DIRTY,
    folio_pte_batch,
    folio_pte_batch_flags,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.mm.mmu_gather import MmuGather


class Memory:
    """The fault handlers and range walks of mm/memory.c."""

    __slots__ = ("_kernel", "_machine", "_memory", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._memory = kernel.machine.memory
        self._pgtable = kernel.pgtable

    # -- tables ----------------------------------------------------------------------

    def pte_lockptr(self, pmd: int) -> SpinLock:
        """Return the lock of the PTE table that the entry *pmd* points to."""
        lock = self._kernel.page_alloc.folio_of(self._pgtable.pte_pfn(pmd)).mapping
        assert isinstance(lock, SpinLock)
        return lock

    def pmd_lockptr(self, pmdp: int) -> SpinLock:
        """Return the lock of the PMD table in which the entry at *pmdp* stands."""
        pfn = pmdp >> self._pgtable.page_shift
        lock = self._kernel.page_alloc.folio_of(pfn).mapping
        assert isinstance(lock, SpinLock)
        return lock

    def _table_alloc(self, mm: MmStruct, entryp: int, level: int, name: str) -> bool:
        """Point an empty entry to a new table at *level*; false without memory."""
        if not pte_none(self._pgtable.read(entryp)):
            return True
        table = self._kernel.page_alloc.alloc_table(name)
        if table is None:
            return False
        with mm.page_table_lock:
            if pte_none(self._pgtable.read(entryp)):
                self._pgtable.populate(entryp, table.pfn)
                mm.pgtables[level] += 1
                return True
        self._kernel.page_alloc.free(table)  # another CPU was first
        return True

    def pmd_alloc(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PMD entry for *addr* stands, making tables; or ``None``."""
        pgtable = self._pgtable
        pmdp = pgtable.find_pmd(mm, addr)
        if pmdp is not None:
            return pmdp
        pgdp = pgtable.pgd_offset(mm, addr)
        if not pgtable.folded_pud and not self._table_alloc(mm, pgdp, 1, "PUD table"):
            return None
        pudp = pgtable.pud_offset(pgdp, addr)
        if not self._table_alloc(mm, pudp, 2, "PMD table"):
            return None
        return pgtable.pmd_offset(pudp, addr)

    def pte_alloc(self, mm: MmStruct, pmdp: int) -> bool:
        """Make sure that *pmdp* points to a PTE table; false without memory."""
        return self._table_alloc(mm, pmdp, 3, "PTE table")

    def pmd_entries(
        self, mm: MmStruct, addr: int, end: int
    ) -> Iterator[tuple[int, int, int]]:
        """Yield ``(pmdp, addr, next)`` for each PMD entry of a range that has a table.

        Upper entries that are empty are stepped over whole. The entry itself may be
        anything, also empty; callers read it.
        """
        pgtable = self._pgtable
        while addr < end:
            pgdp = pgtable.pgd_offset(mm, addr)
            if not pmd_table(pgtable.read(pgdp)):
                shift = pgtable.pud_shift if pgtable.folded_pud else pgtable.pgdir_shift
                addr = pgtable.addr_end(addr, end, shift)
                continue
            pudp = pgtable.pud_offset(pgdp, addr)
            if not pmd_table(pgtable.read(pudp)):
                addr = pgtable.addr_end(addr, end, pgtable.pud_shift)
                continue
            pmdp = pgtable.pmd_offset(pudp, addr)
            for _ in range(pgtable.ptrs_per_pte):
                following = pgtable.addr_end(addr, end, pgtable.pmd_shift)
                yield pmdp, addr, following
                crossed = (addr ^ following) >> pgtable.pud_shift
                addr = following
                pmdp += 8
                if addr >= end or crossed:
                    break

    # -- what a page-table entry maps ------------------------------------------------

    def vm_normal_folio(self, vma: VmArea, addr: int, pte: int) -> Folio | None:
        """Return the folio that a present entry maps, if it is counted like one."""
        del vma, addr
        if pte_special(pte):
            return None
        return self._kernel.page_alloc.folio_of(self._pgtable.pte_pfn(pte))

    def vm_normal_folio_pmd(self, vma: VmArea, addr: int, pmd: int) -> Folio | None:
        """Return the same of a block entry."""
        return self.vm_normal_folio(vma, addr, pmd)

    # -- the fault ----------------------------------------------------------------

    def handle_mm_fault(self, vma: VmArea, address: int, flags: int) -> int:
        """Make an access to *address* possible, or say why not: ``VM_FAULT_`` bits."""
        vmf = VmFault(vma, address & self._pgtable.page_mask, address, flags)
        pmdp = self.pmd_alloc(vma.mm, address)
        if pmdp is None:
            return VM_FAULT_OOM
        vmf.pmd = pmdp
        vmf.orig_pmd = self._memory.read(pmdp)
        if not pmd_table(vmf.orig_pmd):
            result = self.handle_pmd_fault(vmf)
            if not result & VM_FAULT_FALLBACK:
                return result
        return self.handle_pte_fault(vmf)

    def handle_pmd_fault(self, vmf: VmFault) -> int:
        """Handle a fault where a block is, or could be.

        Returns:
            ``VM_FAULT_FALLBACK`` if it must be handled at page level.

        Source: the PMD's part of __handle_mm_fault().
        """
        huge = self._kernel.huge_memory
        vma = vmf.vma
        if pte_none(vmf.orig_pmd):
            if huge.thp_vma_allowable_orders(vma, 1 << self._pgtable.hpage_pmd_order):
                return huge.do_huge_pmd_anonymous_page(vmf)
            return VM_FAULT_FALLBACK
        if pte_protnone(vmf.orig_pmd) and vma.flags & VM_ACCESS_FLAGS:
            return huge.do_huge_pmd_numa_page(vmf)
        if vmf.flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE) and not pte_write(
            vmf.orig_pmd
        ):
            return huge.wp_huge_pmd(vmf)
        self.handle_pmd_access(vmf)
        return 0

    def handle_pmd_access(self, vmf: VmFault) -> None:
        """Handle a fault of an access that the block's entry allows."""
        with self.pmd_lockptr(vmf.pmd):
            if not self._kernel.huge_memory.huge_pmd_set_accessed(vmf):
                self.fix_spurious_fault(vmf, PGTABLE_LEVEL_PMD)

    def handle_pte_fault(self, vmf: VmFault) -> int:
        """Handle a fault at page level."""
        pgtable = self._pgtable
        vmf.pte = None
        pmd = self._memory.read(vmf.pmd)
        if pmd_table(pmd):
            vmf.pte = pgtable.pte_offset(vmf.pmd, vmf.address)
            vmf.orig_pte = pgtable.ptep_get(vmf.pte)
            if pte_none(vmf.orig_pte):
                vmf.pte = None
            elif not vmf.orig_pte & PTE_VALID:
                if not pte_present(vmf.orig_pte):
                    return self.do_swap_page(vmf)
                if vmf.vma.flags & VM_ACCESS_FLAGS:
                    return self.do_numa_page(vmf)  # pte_protnone()
        if vmf.pte is None:
            return self.do_anonymous_page(vmf)
        vmf.ptl = ptl = self.pte_lockptr(pmd)
        ptl.acquire()
        entry = vmf.orig_pte
        if pgtable.ptep_get(vmf.pte) != entry:
            ptl.release()  # somebody else was faster; the access is simply repeated
            return 0
        if vmf.flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE):
            if not pte_write(entry):
                return self.do_wp_page(vmf)
            if vmf.flags & FAULT_FLAG_WRITE:
                entry = pte_mkdirty(entry)
        entry = pte_mkyoung(entry)
        if not self._kernel.fault.ptep_set_access_flags(
            vmf.vma,
            vmf.address,
            vmf.pte,
            entry,
            dirty=bool(vmf.flags & FAULT_FLAG_WRITE),
        ):
            self.fix_spurious_fault(vmf, PGTABLE_LEVEL_PTE)
        ptl.release()
        return 0

    def fix_spurious_fault(self, vmf: VmFault, level: PgtableLevel) -> None:
        """Drop the stale entry that made this CPU fault although the tables allow it.

        A retried fault is left alone: it comes again if it must, and is fixed then.
        """
        if vmf.flags & FAULT_FLAG_TRIED:
            return
        if vmf.flags & FAULT_FLAG_WRITE:
            if "spurious" in self._machine.events.heard:
                cpu = self._machine.running.number
                self._machine.events.emit(cpu, "spurious", vmf.real_address, new=level)
            self._kernel.fault.flush_tlb_fix_spurious_fault(vmf.vma, vmf.address, level)

    # -- hidden to learn who uses it -------------------------------------------------

    def do_numa_page(self, vmf: VmFault) -> int:
        """Make a page accessible again that was hidden to learn who uses it.

        There is one node here, so it is where it should be. What was hidden is in no
        TLB, and nothing is flushed.
        """
        vma = vmf.vma
        pgtable = self._pgtable
        assert vmf.pte is not None
        with self.pte_lockptr(pgtable.read(vmf.pmd)):
            if pgtable.ptep_get(vmf.pte) != vmf.orig_pte:
                return 0
            folio = self.vm_normal_folio(vma, vmf.address, vmf.orig_pte)
            if folio is None or not folio.order:
                self.numa_rebuild_single_mapping(vma, vmf.address, vmf.pte)
            else:
                self.numa_rebuild_large_mapping(vmf, folio)
        return 0

    def numa_rebuild_single_mapping(self, vma: VmArea, addr: int, ptep: int) -> None:
        """Give one hidden entry its rights back."""
        pgtable = self._pgtable
        mprotect = self._kernel.mprotect
        old = pgtable.ptep_get_and_clear(vma.mm, addr, ptep)
        pte = pte_mkyoung(pte_modify(old, vma.page_prot))
        if (
            not pte_write(pte)
            and mprotect.vma_wants_manual_pte_write_upgrade(vma)
            and mprotect.can_change_pte_writable(vma, addr, pte)
        ):
            pte = pgtable.pte_mkwrite(pte)
        pgtable.set_ptes(vma.mm, addr, ptep, pte, 1)

    def numa_rebuild_large_mapping(self, vmf: VmFault, folio: Folio) -> None:
        """Give all hidden entries of a folio in this table their rights back."""
        pgtable = self._pgtable
        vma = vmf.vma
        assert vmf.pte is not None
        before = pgtable.pte_pfn(vmf.orig_pte) - folio.pfn
        base = vmf.address - before * pgtable.page_size
        table = vmf.address & -pgtable.pmd_size
        start = max(base, table, vma.start)
        end = min(
            base + folio.nr_pages * pgtable.page_size,
            table + pgtable.pmd_size,
            vma.end,
        )
        ptep = vmf.pte + (start - vmf.address) // pgtable.page_size * 8
        for addr in range(start, end, pgtable.page_size):
            pte = pgtable.ptep_get(ptep)
            if pte_protnone(pte) and self.vm_normal_folio(vma, addr, pte) is folio:
                self.numa_rebuild_single_mapping(vma, addr, ptep)
            ptep += 8

    # -- nothing there ---------------------------------------------------------------

    def do_anonymous_page(self, vmf: VmFault) -> int:
        """Map a page of private memory that nothing maps yet.

        A read maps the zero page; a write maps a new page, dirty and writable.
        """
        vma = vmf.vma
        if vma.flags & VM_SHARED:
            return VM_FAULT_SIGBUS
        if not self.pte_alloc(vma.mm, vmf.pmd):
            return VM_FAULT_OOM
        pgtable = self._pgtable
        addr = vmf.address
        nr = 1
        folio = None
        if not vmf.flags & FAULT_FLAG_WRITE:
            entry = pgtable.pfn_pte(self._kernel.zero_pfn, vma.page_prot)
            entry = pte_mkspecial(entry)
        else:
            self._kernel.rmap.anon_vma_prepare(vma)
            if self._kernel.huge_memory.mthp_orders:
                folio = self.alloc_anon_folio(vmf)
            else:
                folio = self._kernel.page_alloc.alloc_zeroed()
            if folio is None:
                return VM_FAULT_OOM
            if folio.order:
                nr = folio.nr_pages
                addr &= -nr * pgtable.page_size
            entry = pgtable.pfn_pte(folio.pfn, vma.page_prot)
            if vma.flags & VM_WRITE:
                entry = pgtable.pte_mkwrite(pte_mkdirty(entry))
        ptep = pgtable.pte_offset(vmf.pmd, addr)
        ptl = self.pte_lockptr(self._memory.read(vmf.pmd))
        ptl.acquire()
        if nr == 1:
            changed = self._memory.read(ptep) != vmf.orig_pte
        else:
            changed = not self.pte_range_none(ptep, nr)
        if changed or userfaultfd_missing(vma):
            ptl.release()
            if folio is not None:
                self._kernel.swap.folio_put(folio)
            if changed:
                return 0
            return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_MISSING)
        if folio is not None:
            folio.refcount += nr - 1
            vma.mm.anonpages += nr
            self._kernel.rmap.folio_add_new_anon_rmap(folio, vma, addr)
            self._kernel.swap.folio_add_lru(folio)
        if pte_marker_get(vmf.orig_pte) & PTE_MARKER_UFFD_WP:
            entry = pte_mkuffd_wp(entry)
        if nr == 1:
            pgtable.set_pte(ptep, entry)
        else:
            pgtable.set_ptes(vma.mm, addr, ptep, entry, nr)
        ptl.release()
        return 0

    def alloc_anon_folio(self, vmf: VmFault) -> Folio | None:
        """Return a folio of zeros, as large as settings, area and tables allow.

        Around the address there must be room for all of it. A watched area gets single
        pages, because its owner wants to hear of each.
        """
        huge = self._kernel.huge_memory
        pgtable = self._pgtable
        vma = vmf.vma
        orders = 0
        if not userfaultfd_armed(vma):
            orders = huge.thp_vma_allowable_orders(vma, huge.mthp_orders)
        for order in range(orders.bit_length() - 1, 0, -1):
            if not orders & 1 << order or not huge.thp_vma_suitable_order(
                vma, vmf.address, order
            ):
                continue
            addr = vmf.address & -(pgtable.page_size << order)
            if not self.pte_range_none(pgtable.pte_offset(vmf.pmd, addr), 1 << order):
                continue
            folio = self._kernel.page_alloc.alloc_zeroed(order)
            if folio is not None:
                return folio
        return self._kernel.page_alloc.alloc_zeroed()

    def pte_range_none(self, ptep: int, nr: int) -> bool:
        """Tell whether *nr* entries are all empty."""
        return not any(self._memory.read(ptep + n * 8) for n in range(nr))

    def do_swap_page(self, vmf: VmFault) -> int:
        """Handle a fault on an entry that maps nothing now, but is not empty."""
        entry = pte_to_swp_entry(vmf.orig_pte)
        if is_migration_entry(entry):
            self._kernel.migrate.migration_entry_wait(entry)
            return 0
        return self.handle_pte_marker(vmf)

    def handle_pte_marker(self, vmf: VmFault) -> int:
        """Handle a fault on a place that has no page but was write-protected.

        The page that is mapped there inherits that; a marker that is out of date goes.
        """
        if userfaultfd_wp(vmf.vma):
            return self.do_anonymous_page(vmf)
        pgtable = self._pgtable
        assert vmf.pte is not None
        with self.pte_lockptr(pgtable.read(vmf.pmd)):
            if pgtable.read(vmf.pte) == vmf.orig_pte:
                pgtable.set_pte(vmf.pte, 0)
        return 0

    # -- write to a read-only entry --------------------------------------------------

    def do_wp_page(self, vmf: VmFault) -> int:
        """Handle a write to a present entry that is not writable; the lock is held."""
        vma = vmf.vma
        ptl = vmf.ptl
        assert ptl is not None
        if not vmf.flags & FAULT_FLAG_UNSHARE:
            if userfaultfd_pte_wp(vma, vmf.orig_pte):
                if not userfaultfd_wp_async(vma):
                    ptl.release()
                    return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_WP)
                self._clear_uffd_wp(vmf)
            if userfaultfd_wp(vma) and vma.mm.tlb_flush_pending:
                # Somebody protects pages and has not flushed yet: others may write to
                # the page that is about to be copied.
                self._kernel.tlbflush.flush_tlb_page(vma, vmf.address)
        pfn = self._pgtable.pte_pfn(vmf.orig_pte)
        folio = self.vm_normal_folio(vma, vmf.address, vmf.orig_pte)
        if folio is not None and folio.anon:
            exclusive = folio.page_exclusive(pfn)
            if exclusive or self.wp_can_reuse_anon_folio(folio, vma):
                if not exclusive:
                    self._kernel.rmap.set_page_anon_exclusive(folio, pfn)
                if vmf.flags & FAULT_FLAG_UNSHARE:
                    ptl.release()
                    return 0
                self.wp_page_reuse(vmf)
                return 0
        if folio is not None:
            folio.refcount += 1
        vmf.page = folio
        ptl.release()
        return self.wp_page_copy(vmf)

    def _clear_uffd_wp(self, vmf: VmFault) -> None:
        """Note that a protected page is written, where nobody wants to be told."""
        assert vmf.pte is not None
        pgtable = self._pgtable
        pte = pte_clear_uffd_wp(pgtable.ptep_get(vmf.pte))
        pgtable.set_ptes(vmf.vma.mm, vmf.address, vmf.pte, pte, 1)
        vmf.orig_pte = pte

    def wp_can_reuse_anon_folio(self, folio: Folio, vma: VmArea) -> bool:
        """Tell whether nobody else can reach an anonymous folio, and make it *vma*'s.

        A reference from a batch on its way to the LRU lists is ours to drop; any other
        means that somebody may look at the page.
        """
        if isinstance(folio, LargeFolio):
            return self._wp_can_reuse_large_anon_folio(folio, vma)
        if folio.flags & PG_ksm or folio.refcount > 3:
            return False
        if not folio.flags & PG_lru:
            self._kernel.swap.lru_add_drain()
        if folio.refcount > 1 or folio.flags & PG_locked:
            return False
        self._kernel.rmap.folio_move_anon_rmap(folio, vma)
        return True

    def _wp_can_reuse_large_anon_folio(self, folio: LargeFolio, vma: VmArea) -> bool:
        """Tell the same of a large folio: only entries of *vma*'s mm may hold it.

        One that only a single page is left of is better copied, and let go.
        """
        if folio.mapcount <= 1 or folio.maybe_mapped_shared:
            return False
        if folio.mapcount != folio.refcount:
            return False
        self._kernel.rmap.folio_move_anon_rmap(folio, vma)
        return True

    def wp_page_reuse(self, vmf: VmFault) -> None:
        """Make the entry writable where it stands, and release the lock."""
        assert vmf.pte is not None
        assert vmf.ptl is not None
        entry = pte_mkyoung(vmf.orig_pte)
        entry = self.maybe_mkwrite(pte_mkdirty(entry), vmf.vma)
        self._kernel.fault.ptep_set_access_flags(
            vmf.vma, vmf.address, vmf.pte, entry, dirty=True
        )
        vmf.ptl.release()

    def maybe_mkwrite(self, pte: int, vma: VmArea) -> int:
        """Make an entry writable if its area is."""
        return self._pgtable.pte_mkwrite(pte) if vma.flags & VM_WRITE else pte

    def wp_page_copy(self, vmf: VmFault) -> int:
        """Give the faulting process its own copy of a page.

        The old entry is cleared and flushed everywhere before the new one is stored,
        so that no two CPUs ever translate the address to different frames.
        """
        vma = vmf.vma
        pgtable = self._pgtable
        old = vmf.page
        assert vmf.pte is not None
        self._kernel.rmap.anon_vma_prepare(vma)
        new = self._kernel.page_alloc.alloc()
        if new is None:
            if old is not None:
                self._kernel.swap.folio_put(old)
            return VM_FAULT_OOM
        self._memory.copy_frame(pgtable.pte_pfn(vmf.orig_pte), new.pfn)
        copied = False
        with self._kernel.mmu_notifier.invalidate_range(
            vma.mm, "CLEAR", vmf.address, vmf.address + pgtable.page_size
        ):
            ptl = self.pte_lockptr(pgtable.read(vmf.pmd))
            ptl.acquire()
            if pgtable.ptep_get(vmf.pte) == vmf.orig_pte:
                copied = True
                if old is None:
                    vma.mm.anonpages += 1
                elif not old.anon:
                    self._kernel.swap.dec_file_counter(vma.mm, old)
                    vma.mm.anonpages += 1
                entry = pte_mkyoung(pgtable.pfn_pte(new.pfn, vma.page_prot))
                if not vmf.flags & FAULT_FLAG_UNSHARE:
                    entry = self.maybe_mkwrite(pte_mkdirty(entry), vma)
                elif pte_uffd_wp(vmf.orig_pte):
                    entry = pte_mkuffd_wp(entry)
                self._kernel.pgtable_generic.ptep_clear_flush(vma, vmf.address, vmf.pte)
                self._kernel.rmap.folio_add_new_anon_rmap(new, vma, vmf.address)
                self._kernel.swap.folio_add_lru(new)
                pgtable.set_pte(vmf.pte, entry)
                if old is not None:
                    # Only now: until the flush, others could still use the old page.
                    pfn = pgtable.pte_pfn(vmf.orig_pte)
                    self._kernel.rmap.folio_remove_rmap_pte(old, pfn, vma)
            ptl.release()
        if not copied:
            self._kernel.swap.folio_put(new)
        elif old is not None:
            self._kernel.swap.folio_put(old)
        if old is not None:
            self._kernel.swap.folio_put(old)
        return 0

    # -- fork ------------------------------------------------------------------------

    def copy_page_range(self, child: VmArea, parent: VmArea) -> int:
        """Copy the entries of an area for a child; 0 or a negative error number."""
        if not self.vma_needs_copy(child, parent):
            return 0
        is_cow = is_cow_mapping(parent.flags)
        notifier = self._kernel.mmu_notifier
        span = (parent.mm, "PROTECTION_PAGE", parent.start, parent.end)
        if is_cow:
            notifier.invalidate_range_start(*span)
        error = 0
        for pmdp, addr, end in self.pmd_entries(parent.mm, parent.start, parent.end):
            pmd = self._pgtable.read(pmdp)
            if pte_none(pmd):
                continue
            child_pmdp = self.pmd_alloc(child.mm, addr)
            if child_pmdp is None:
                error = -ENOMEM
                break
            if pmd_trans_huge(pmd):
                error = self._kernel.huge_memory.copy_huge_pmd(
                    child, parent, child_pmdp, pmdp, addr
                )
                if not error:
                    continue
                if error != -EAGAIN:
                    break
            if not self.pte_alloc(child.mm, child_pmdp):
                error = -ENOMEM
                break
            error = self.copy_pte_range(child, parent, child_pmdp, pmdp, addr, end)
            if error:
                break
        if is_cow:
            notifier.invalidate_range_end(*span)
        return error

    @staticmethod
    def vma_needs_copy(child: VmArea, parent: VmArea) -> bool:
        """Tell whether a child could not simply fault its pages in again."""
        del child
        return parent.anon_vma is not None

    def copy_pte_range(
        self,
        child: VmArea,
        parent: VmArea,
        child_pmdp: int,
        pmdp: int,
        addr: int,
        end: int,
    ) -> int:
        """Copy the entries of one table; 0 or a negative error number."""
        pgtable = self._pgtable
        size = pgtable.page_size
        read = self._memory.read
        prealloc: Folio | None = None
        while addr < end:
            source = pgtable.pte_offset(pmdp, addr)
            target = pgtable.pte_offset(child_pmdp, addr)
            child_ptl = self.pte_lockptr(read(child_pmdp))
            ptl = self.pte_lockptr(read(pmdp))
            child_ptl.acquire()
            ptl.acquire()
            error = 0
            while addr < end:
                pte = read(source)
                if pte & PTE_VALID or pte_present(pte):
                    nr = self.copy_present_ptes(
                        child, parent, target, source, pte, addr, end, prealloc
                    )
                    if nr < 0:
                        error = nr
                        break
                    if prealloc is not None and prealloc.mapcount:
                        prealloc = None  # used up
                    if nr > 1:
                        source += (nr - 1) * 8
                        target += (nr - 1) * 8
                        addr += (nr - 1) * size
                elif pte:
                    self.copy_nonpresent_pte(child, target, source, pte)
                source += 8
                target += 8
                addr += size
            ptl.release()
            child_ptl.release()
            if error == -EAGAIN:
                prealloc = self._kernel.page_alloc.alloc()
                if prealloc is None:
                    return -ENOMEM
            elif error:
                return error
        if prealloc is not None:
            self._kernel.swap.folio_put(prealloc)
        return 0

    def copy_nonpresent_pte(
        self, child: VmArea, target: int, source: int, pte: int
    ) -> None:
        """Copy an entry that maps nothing now; a child is not watched, has no marker.

        A page that migrates belongs to both from now on.
        """
        if not is_migration_entry(pte_to_swp_entry(pte)):
            return
        child.mm.anonpages += 1
        pte = make_readable_migration_pte(pte, exclusive=False)
        self._pgtable.set_pte(source, pte)
        self._pgtable.set_pte(target, pte & ~PTE_SWP_UFFD_WP)

    def copy_present_ptes(
        self,
        child: VmArea,
        parent: VmArea,
        target: int,
        source: int,
        pte: int,
        addr: int,
        end: int,
        prealloc: Folio | None,
    ) -> int:
        """Copy one present entry, or those of a large folio that follow it as well.

        Returns:
            How many were copied. ``-EAGAIN`` asks for a page, to copy a pinned one to;
            once there is one, pages are copied one at a time.
        """
        folio = self.vm_normal_folio(parent, addr, pte)
        if folio is not None:
            if folio.order and prealloc is None:
                return self._copy_large(
                    folio, child, parent, target, source, pte, addr, end
                )
            pfn = self._pgtable.pte_pfn(pte)
            folio.refcount += 1
            if folio.anon:
                if not self._kernel.rmap.folio_try_dup_anon_rmap_pte(
                    folio, pfn, child, parent
                ):
                    folio.refcount -= 1
                    return self.copy_present_page(child, target, pte, addr, prealloc)
                child.mm.anonpages += 1
            else:
                self._kernel.rmap.folio_dup_file_rmap_ptes(folio, pfn, 1, child)
                self._kernel.swap.inc_file_counter(child.mm, folio)
        self.copy_present_ptes_(child, parent, target, source, pte, addr, 1)
        return 1

    def _copy_large(
        self,
        folio: Folio,
        child: VmArea,
        parent: VmArea,
        target: int,
        source: int,
        pte: int,
        addr: int,
        end: int,
    ) -> int:
        """Copy the entries of consecutive pages of one folio: `copy_present_ptes`."""
        assert isinstance(folio, LargeFolio)
        pgtable = self._pgtable
        rmap = self._kernel.rmap
        flags = FPB_MERGE_WRITE
        if parent.flags & VM_SHARED:
            flags |= FPB_RESPECT_DIRTY
        most = (end - addr) >> pgtable.page_shift
        nr, pte = folio_pte_batch_flags(pgtable, folio, source, pte, most, flags)
        pfn = pgtable.pte_pfn(pte)
        folio.refcount += nr
        if folio.anon:
            if not rmap.folio_try_dup_anon_rmap_ptes(folio, pfn, nr, child, parent):
                folio.refcount -= nr
                return -EAGAIN
            child.mm.anonpages += nr
        else:
            rmap.folio_dup_file_rmap_ptes(folio, pfn, nr, child)
            self._kernel.swap.inc_file_counter(child.mm, folio, nr)
        self.copy_present_ptes_(child, parent, target, source, pte, addr, nr)
        return nr

    def copy_present_page(
        self, child: VmArea, target: int, pte: int, addr: int, prealloc: Folio | None
    ) -> int:
        """Give the child its own copy of a pinned page at once; the parent's stays.

        Returns:
            1 for the entry, or ``-EAGAIN`` without a page to copy to.
        """
        if prealloc is None:
            return -EAGAIN
        pgtable = self._pgtable
        self._memory.copy_frame(pgtable.pte_pfn(pte), prealloc.pfn)
        self._kernel.rmap.anon_vma_prepare(child)
        self._kernel.rmap.folio_add_new_anon_rmap(prealloc, child, addr)
        self._kernel.swap.folio_add_lru(prealloc)
        child.mm.anonpages += 1
        entry = pgtable.pfn_pte(prealloc.pfn, child.page_prot)
        pgtable.set_pte(target, self.maybe_mkwrite(pte_mkdirty(entry), child))
        return 1

    def copy_present_ptes_(
        self,
        child: VmArea,
        parent: VmArea,
        target: int,
        source: int,
        pte: int,
        addr: int,
        nr: int,
    ) -> None:
        """Write-protect the parent's entries if need be, and store the child's, old."""
        pgtable = self._pgtable
        several = nr > 1 or pte & PTE_CONT
        if is_cow_mapping(parent.flags) and pte_write(pte):
            if several:
                pgtable.wrprotect_ptes(parent.mm, addr, source, nr)
            else:
                pgtable.ptep_set_wrprotect_(source)
            pte = pte_wrprotect(pte)
        if parent.flags & VM_SHARED:
            pte = pte_mkclean(pte)
        pte = pte_mkold(pte)
        if pte_uffd_wp(pte):
            pte = pte_clear_uffd_wp(pte)
        if several:
            pgtable.set_ptes(child.mm, addr, target, pte, nr)
        else:
            pgtable.set_pte(target, pte)

    # -- zap -------------------------------------------------------------------------

    def unmap_vmas(
        self, tlb: MmuGather, vmas: list[VmArea], start: int, end: int
    ) -> None:
        """Clear all entries of *vmas* within [start, end), and keep their pages."""
        for vma in vmas:
            first, last = max(vma.start, start), min(vma.end, end)
            if first >= last:
                continue
            with self._kernel.mmu_notifier.invalidate_range(
                vma.mm, "UNMAP", first, last
            ):
                self.unmap_page_range(tlb, vma, first, last)

    def unmap_page_range(
        self, tlb: MmuGather, vma: VmArea, addr: int, end: int
    ) -> None:
        """Clear the entries of one area within [addr, end)."""
        for pmdp, first, last in self.pmd_entries(vma.mm, addr, end):
            pmd = self._pgtable.read(pmdp)
            if pmd_trans_huge(pmd):
                huge = self._kernel.huge_memory
                if last - first < self._pgtable.pmd_size:
                    huge.split_huge_pmd_(vma, pmdp, first)
                elif huge.zap_huge_pmd(tlb, vma, pmdp, first):
                    continue
            at = first
            while at < last and not pte_none(self._pgtable.read(pmdp)):
                at = self.zap_pte_range(tlb, vma, pmdp, at, last)
        self._kernel.gather.tlb_end_vma(tlb, vma)

    def zap_pte_range(
        self, tlb: MmuGather, vma: VmArea, pmdp: int, addr: int, end: int
    ) -> int:
        """Clear the entries of one table, until it ends or the gather is full.

        Returns:
            The address up to which it came.
        """
        pgtable = self._pgtable
        size = pgtable.page_size
        read = self._memory.read
        gather = self._kernel.gather
        force_flush = False
        ptep = pgtable.pte_offset(pmdp, addr)
        ptl = self.pte_lockptr(pgtable.read(pmdp))
        ptl.acquire()
        if vma.mm.tlb_flush_batched:
            self._kernel.rmap.flush_tlb_batched_pending(vma.mm)
        while addr < end and not force_flush:
            pte = read(ptep)
            if pte & PTE_VALID or pte_present(pte):
                folio = self.vm_normal_folio(vma, addr, pte)
                if isinstance(folio, LargeFolio):
                    nr, force_flush = self.zap_present_folio_ptes(
                        tlb, vma, folio, ptep, addr, end
                    )
                    ptep += (nr - 1) * 8
                    addr += (nr - 1) * size
                else:
                    force_flush = self.zap_present_pte(tlb, vma, folio, ptep, pte, addr)
            elif pte:
                self.zap_nonpresent_pte(vma, ptep, pte)
            ptep += 8
            addr += size
        if force_flush:
            gather.tlb_flush_mmu_tlbonly(tlb)
        ptl.release()
        if force_flush:
            gather.tlb_flush_mmu(tlb)
        return addr

    def zap_nonpresent_pte(self, vma: VmArea, ptep: int, pte: int) -> None:
        """Clear an entry of which no TLB and no folio's count knows."""
        if is_migration_entry(pte_to_swp_entry(pte)):
            vma.mm.anonpages -= 1
        self._pgtable.set_pte(ptep, 0)

    def zap_present_pte(
        self,
        tlb: MmuGather,
        vma: VmArea,
        folio: Folio | None,
        ptep: int,
        pte: int,
        addr: int,
    ) -> bool:
        """Clear one present entry; true if the gather must be flushed now."""
        self._pgtable.ptep_get_and_clear_(ptep)
        self._kernel.gather.tlb_remove_tlb_entry(tlb, addr)
        if folio is None:
            return False
        if folio.anon:
            vma.mm.anonpages -= 1
        else:
            self._kernel.swap.dec_file_counter(vma.mm, folio)
        pfn = self._pgtable.pte_pfn(pte)
        self._kernel.rmap.folio_remove_rmap_pte(folio, pfn, vma)
        return self._kernel.gather.tlb_remove_folio_pages(tlb, folio, 1)

    def zap_present_folio_ptes(
        self,
        tlb: MmuGather,
        vma: VmArea,
        folio: LargeFolio,
        ptep: int,
        addr: int,
        end: int,
    ) -> tuple[int, bool]:
        """Clear the entries of consecutive pages of one large folio.

        Returns:
            How many, and whether the gather must be flushed now.
        """
        pgtable = self._pgtable
        pte = pgtable.ptep_get(ptep)
        most = (end - addr) >> pgtable.page_shift
        nr = folio_pte_batch(pgtable, folio, ptep, pte, most)
        pgtable.get_and_clear_full_ptes(vma.mm, addr, ptep, nr)
        if folio.anon:
            vma.mm.anonpages -= nr
        else:
            self._kernel.swap.dec_file_counter(vma.mm, folio, nr)
        self._kernel.gather.tlb_flush_pte_range(tlb, addr, nr * pgtable.page_size)
        self._kernel.rmap.folio_remove_rmap_ptes(folio, pgtable.pte_pfn(pte), nr, vma)
        return nr, self._kernel.gather.tlb_remove_folio_pages(tlb, folio, nr)

    def free_pgtables(
        self, tlb: MmuGather, vmas: list[VmArea], floor: int, ceiling: int
    ) -> None:
        """Unhook the tables that only *vmas* used.

        A table stays if an area before *floor* or from *ceiling* on may use it too;
        a ceiling of 0 stands for the end of the address space.
        """
        for vma, above in zip_longest(vmas, vmas[1:]):
            high = above.start if above else ceiling
            self.free_pgd_range(tlb, vma.start, vma.end, floor, high)

    def free_pgd_range(
        self, tlb: MmuGather, addr: int, end: int, floor: int, ceiling: int
    ) -> None:
        """Unhook the PTE, PMD and PUD tables that lie between the limits."""
        pgtable = self._pgtable
        mm = tlb.mm
        top = ceiling or pgtable.task_size
        levels = [
            (3, pgtable.pmd_shift, self._kernel.gather.tlb_flush_pmd_range),
            (2, pgtable.pud_shift, self._kernel.gather.tlb_flush_pud_range),
        ]
        if not pgtable.folded_pud:
            levels.append(
                (1, pgtable.pgdir_shift, self._kernel.gather.tlb_flush_p4d_range)
            )
        for level, shift, record in levels:
            # Rounded inwards: a table that reaches over a limit is not ours to free.
            first = -(-floor >> shift) if floor else 0
            last = top >> shift
            for span in range(max(addr >> shift, first), min(-(-end >> shift), last)):
                entryp = self._entry_above(mm, span << shift, level)
                if entryp is None:
                    continue
                entry = pgtable.read(entryp)
                if not pmd_table(entry):
                    continue
                self._machine.running.store(entryp, 0, "table unhooked")
                table = self._kernel.page_alloc.folio_of(pgtable.pte_pfn(entry))
                record(tlb, span << shift, pgtable.page_size)
                tlb.freed_tables = True
                mm.pgtables[level] -= 1
                self._kernel.gather.tlb_remove_table(tlb, table)

    def _entry_above(self, mm: MmStruct, addr: int, level: int) -> int | None:
        """Return where the entry stands that points to the table at *level*."""
        pgtable = self._pgtable
        if level == 3:
            return pgtable.find_pmd(mm, addr)
        pgdp = pgtable.pgd_offset(mm, addr)
        if level == 1:
            return pgdp
        if not pgtable.folded_pud and not pmd_table(pgtable.read(pgdp)):
            return None
        return pgtable.pud_offset(pgdp, addr)
