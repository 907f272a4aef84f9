"""The fault, from the upper tables down to a page entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pmd_table,
    pte_mkdirty,
    pte_mkuffd_wp,
    pte_mkyoung,
    pte_modify,
    pte_none,
    pte_present,
    pte_protnone,
    pte_write,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    PTE_VALID,
)
from tlbkit.linux.include.linux.huge_mm import pmd_is_migration_entry
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_TRIED,
    FAULT_FLAG_UNSHARE,
    FAULT_FLAG_WRITE,
    VM_ACCESS_FLAGS,
    VM_FAULT_FALLBACK,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_NOHUGEPAGE,
    VM_SHARED,
    VM_UFFD_MISSING,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import (
    Folio,
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
    non_swap_entry,
    pte_marker_get,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    userfaultfd_armed,
    userfaultfd_missing,
    userfaultfd_wp,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN
from tlbkit.linux.mm.memory.swapin import MemorySwapin

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm import VmOperations
    from tlbkit.linux.include.linux.mm_types import VmArea


class MemoryFault(MemorySwapin):
    """Finds out what is missing, and maps it."""

    __slots__ = ()

    def handle_mm_fault(self, vma: VmArea, address: int, flags: int) -> int:
        """Make an access to *address* possible, or say why not: ``VM_FAULT_`` bits."""
        if is_vm_hugetlb_page(vma):
            return self._kernel.hugetlb.hugetlb_fault(vma, address, flags)
        vmf = VmFault(vma, address & self._pgtable.page_mask, address, flags)
        if vma.ops is not None:
            vmf.pgoff = self._kernel.rmap.linear_page_index(vma, address)
            if vma.ops.has("huge_fault"):
                result = self.handle_pud_fault(vmf, vma.ops)
                if not result & VM_FAULT_FALLBACK:
                    return result
        pmdp = self.pmd_alloc(vma.mm, address)
        if pmdp is None:
            return VM_FAULT_OOM
        vmf.pmd = pmdp
        vmf.orig_pmd = pmd = self._memory.read(pmdp)
        if not pmd_table(pmd):
            result = self.handle_pmd_fault(vmf)
            if not result & VM_FAULT_FALLBACK:
                return result
        return self.handle_pte_fault(vmf)

    def handle_pud_fault(self, vmf: VmFault, ops: VmOperations) -> int:
        """Handle a fault where a PUD entry maps a block, or could; none is anonymous.

        Returns:
            ``VM_FAULT_FALLBACK`` if it must be handled further down.

        Source: the PUD's part of __handle_mm_fault().
        """
        if self._pgtable.page_shift != 12:
            return VM_FAULT_FALLBACK  # only this granule has blocks so high up
        huge = self._kernel.huge_memory
        vma = vmf.vma
        pudp = self.pud_alloc(vma.mm, vmf.address)
        if pudp is None:
            return VM_FAULT_OOM
        vmf.pud = pudp
        pud = self._memory.read(pudp)
        order = self._pgtable.hpage_pud_order
        if pte_none(pud):
            if vma.flags & VM_NOHUGEPAGE:
                return VM_FAULT_FALLBACK
            return ops.huge_fault(vmf, order)
        if not pmd_leaf(pud):
            return VM_FAULT_FALLBACK
        if vmf.flags & FAULT_FLAG_WRITE and not pte_write(pud):
            result = VM_FAULT_FALLBACK
            if vma.flags & VM_SHARED:
                result = ops.huge_fault(vmf, order)
            if result & VM_FAULT_FALLBACK:
                huge.split_huge_pud(vma, pudp, vmf.address)
            return result
        huge.huge_pud_set_accessed(vmf, pud)
        return 0

    def handle_pmd_fault(self, vmf: VmFault) -> int:
        """Handle a fault where a block is, or could be.

        Returns:
            ``VM_FAULT_FALLBACK`` if it must be handled at page level.

        Source: the PMD's part of __handle_mm_fault().
        """
        huge = self._kernel.huge_memory
        vma = vmf.vma
        if pte_none(vmf.orig_pmd):
            if vma.ops is not None:
                if vma.flags & VM_NOHUGEPAGE:
                    return VM_FAULT_FALLBACK
                return vma.ops.huge_fault(vmf, self._pgtable.hpage_pmd_order)
            if huge.thp_vma_allowable_orders(vma, 1 << self._pgtable.hpage_pmd_order):
                return huge.do_huge_pmd_anonymous_page(vmf)
            return VM_FAULT_FALLBACK
        if pmd_is_migration_entry(vmf.orig_pmd):
            huge.pmd_migration_entry_wait(vmf.pmd)
            return 0
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
        if self._memory.read(vmf.pmd):
            found = self._kernel.pgtable_generic.pte_offset_map_rw_nolock(
                vmf.vma.mm, vmf.pmd, vmf.address
            )
            if found is None:
                return 0
            ptep, _, vmf.ptl = found
            vmf.orig_pte = entry = pgtable.ptep_get(ptep)
            if not pte_none(entry):
                vmf.pte = ptep
        if vmf.pte is None:
            return self.do_pte_missing(vmf)
        if not entry & PTE_VALID:
            if not pte_present(entry):
                return self.do_swap_page(vmf)
            if vmf.vma.flags & VM_ACCESS_FLAGS:
                return self.do_numa_page(vmf)  # pte_protnone()
        ptl = vmf.ptl
        assert ptl is not None
        ptl.acquire()
        if not self._machine.holds("pte_same", pgtable.ptep_get(ptep) == entry):
            ptl.release()  # somebody else was faster; the access is simply repeated
            return 0
        flags = vmf.flags
        if flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE):
            if not pte_write(entry):
                return self.do_wp_page(vmf)
            if flags & FAULT_FLAG_WRITE:
                entry = pte_mkdirty(entry)
        entry = pte_mkyoung(entry)
        if not self._kernel.fault.ptep_set_access_flags(
            vmf.vma, vmf.address, ptep, entry, dirty=bool(flags & FAULT_FLAG_WRITE)
        ):
            self.fix_spurious_fault(vmf, PGTABLE_LEVEL_PTE)
        ptl.release()
        return 0

    def fix_spurious_fault(self, vmf: VmFault, level: PgtableLevel) -> None:
        """Drop the stale entry that made this CPU fault although the tables allow it.

        A retried fault is left alone: it comes again if it must, and is fixed then.
        """
        if self._machine.sees("FAULT_FLAG_TRIED", vmf.flags & FAULT_FLAG_TRIED):
            return
        if vmf.flags & FAULT_FLAG_WRITE:
            if "spurious" in self._machine.events.heard:
                cpu = self._machine.running.number
                self._machine.events.emit(
                    cpu, "spurious", vmf.real_address, new=str(level)
                )
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
        assert vmf.ptl is not None
        with vmf.ptl:
            same = pgtable.ptep_get(vmf.pte) == vmf.orig_pte
            if not self._machine.holds("pte_same", same):
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

    def do_pte_missing(self, vmf: VmFault) -> int:
        """Map a page where there is none, or only a marker."""
        if vmf.vma.anonymous:
            return self.do_anonymous_page(vmf)
        return self.do_fault(vmf)

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
            entry = pgtable.pte_mkspecial(entry)
        else:
            self._kernel.rmap.anon_vma_prepare(vma)
            if self._kernel.huge_memory.mthp_orders:
                allocated = self.alloc_anon_folio(vmf)
                if isinstance(allocated, int):
                    return 0
                folio = allocated
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
        found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, vmf.pmd, addr)
        if found is None:
            if folio is not None:
                self._kernel.swap.folio_put(folio)
            return 0
        ptep, ptl = found
        if nr == 1:
            changed = self._memory.read(ptep) != vmf.orig_pte
        else:
            changed = not self.pte_range_none(ptep, nr)
        changed = self._machine.sees("pte_none", changed)
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
        if vmf.orig_pte and pte_marker_get(vmf.orig_pte) & PTE_MARKER_UFFD_WP:
            entry = pte_mkuffd_wp(entry)
        if nr == 1:
            pgtable.set_pte(ptep, entry)
        else:
            pgtable.set_ptes(vma.mm, addr, ptep, entry, nr)
        ptl.release()
        return 0

    def alloc_anon_folio(self, vmf: VmFault) -> Folio | int | None:
        """Return a folio of zeros, as large as settings, area and tables allow.

        Around the address there must be room for all of it. A watched area gets single
        pages, because its owner wants to hear of each. ``None`` without memory,
        ``-EAGAIN`` if there is no page table any more.
        """
        huge = self._kernel.huge_memory
        pgtable = self._pgtable
        vma = vmf.vma
        orders = 0
        if not userfaultfd_armed(vma):
            orders = huge.thp_vma_allowable_orders(vma, huge.mthp_orders)
        table = vmf.address & -pgtable.pmd_size
        ptep = None
        if orders:
            ptep = self._kernel.pgtable_generic.pte_offset_map(vmf.pmd, table)
            if ptep is None:
                return -EAGAIN
        for order in range(orders.bit_length() - 1, 0, -1):
            if not orders & 1 << order or not huge.thp_vma_suitable_order(
                vma, vmf.address, order
            ):
                continue
            addr = vmf.address & -(pgtable.page_size << order)
            assert ptep is not None
            at = ptep + (addr - table) // pgtable.page_size * 8
            if not self.pte_range_none(at, 1 << order):
                continue
            folio = self._kernel.page_alloc.alloc_zeroed(order)
            if folio is not None:
                return folio
        return self._kernel.page_alloc.alloc_zeroed()

    def do_swap_page(self, vmf: VmFault) -> int:
        """Handle a fault on an entry that maps nothing now, but is not empty."""
        entry = pte_to_swp_entry(vmf.orig_pte)
        if is_migration_entry(entry):
            self._kernel.migrate.migration_entry_wait(entry)
            return 0
        if not non_swap_entry(entry):
            return self.swapin_page(vmf)
        return self.handle_pte_marker(vmf)

    def handle_pte_marker(self, vmf: VmFault) -> int:
        """Handle a fault on a place that has no page but was write-protected.

        The page that is mapped there inherits that; a marker that is out of date goes.
        """
        if userfaultfd_wp(vmf.vma):
            return self.do_pte_missing(vmf)
        pgtable = self._pgtable
        found = self._kernel.pgtable_generic.pte_offset_map_lock(
            vmf.vma.mm, vmf.pmd, vmf.address
        )
        if found is None:
            return 0
        ptep, ptl = found
        if self._machine.holds("pte_same", pgtable.read(ptep) == vmf.orig_pte):
            pgtable.set_pte(ptep, 0)
        ptl.release()
        return 0
