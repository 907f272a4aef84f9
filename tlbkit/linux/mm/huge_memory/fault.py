"""Faults where a PMD entry maps a huge page, or could.

From mm/huge_memory.c: faults on nothing, the access that an entry allows, copy on
write, and NUMA hinting. Counts of events (``THP_FAULT_ALLOC`` and its like) are left
out, as are control groups and the policy of nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_mkdirty,
    pte_mkyoung,
    pte_modify,
    pte_none,
    pte_write,
)
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_UNSHARE,
    FAULT_FLAG_WRITE,
    VM_FAULT_FALLBACK,
    VM_FAULT_OOM,
    VM_MAYSHARE,
    VM_SHARED,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
)
from tlbkit.linux.include.linux.mm_types import (
    Folio,
    LargeFolio,
    PG_swapcache,
)
from tlbkit.linux.include.linux.pagemap import (
    folio_lock,
    folio_trylock,
    folio_unlock,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    userfaultfd_missing,
    userfaultfd_pte_wp,
    userfaultfd_wp_async,
)
from tlbkit.linux.mm.huge_memory.change import HugeChange
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea, VmFault


class HugeFault(HugeChange):
    """Makes huge pages, and handles accesses to them."""

    __slots__ = ()

    # -- a fault on nothing ----------------------------------------------------------

    def vma_alloc_anon_folio_pmd(self) -> LargeFolio | None:
        """Return a huge page of zeros with one reference, or ``None`` without memory.

        Source: mm/huge_memory.c, vma_alloc_anon_folio_pmd()
        """
        order = self._pgtable.hpage_pmd_order
        folio = self._kernel.page_alloc.alloc_zeroed(order)
        assert folio is None or isinstance(folio, LargeFolio)
        return folio

    def map_anon_folio_pmd_nopf(
        self, folio: LargeFolio, pmd: int, vma: VmArea, haddr: int
    ) -> None:
        """Map a new huge page, dirty, and writable if *vma* is; the PTL is held.

        Source: mm/huge_memory.c, map_anon_folio_pmd_nopf()
        """
        entry = self._pgtable.mk_huge_pmd(folio.pfn, vma.page_prot)
        entry = self._kernel.memory.maybe_mkwrite(pte_mkdirty(entry), vma)
        self._kernel.rmap.folio_add_new_anon_rmap(folio, vma, haddr)
        self._kernel.swap.folio_add_lru(folio)
        self._pgtable.set_pte(pmd, entry)
        self.deferred_split_folio(folio, partially_mapped=False)

    def map_anon_folio_pmd_pf(
        self, folio: LargeFolio, pmd: int, vma: VmArea, haddr: int
    ) -> None:
        """Map a new huge page for a fault, where no page was before; the PTL is held.

        Source: mm/huge_memory.c, map_anon_folio_pmd_pf()
        """
        self.map_anon_folio_pmd_nopf(folio, pmd, vma, haddr)
        vma.mm.anonpages += self._pgtable.hpage_pmd_nr

    def do_huge_pmd_anonymous_page_(self, vmf: VmFault) -> int:
        """Map a new huge page; ``VM_FAULT_FALLBACK`` if there is none to be had.

        Source: mm/huge_memory.c, __do_huge_pmd_anonymous_page()
        Deviates: check_stable_address_space() is not asked: there is no OOM reaper.
        """
        vma = vmf.vma
        haddr = vmf.address & -self._pgtable.pmd_size
        folio = self.vma_alloc_anon_folio_pmd()
        if folio is None:
            return VM_FAULT_FALLBACK
        pgtable = self._kernel.page_alloc.alloc_table("PTE table")
        if pgtable is None:
            self._kernel.swap.folio_put(folio)
            return VM_FAULT_OOM
        ptl = vmf.ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        if not self._machine.holds("pmd_none", pte_none(self._pgtable.read(vmf.pmd))):
            ptl.release()
            self._kernel.page_alloc.free(pgtable)
            self._kernel.swap.folio_put(folio)
            return 0
        if userfaultfd_missing(vma):
            ptl.release()
            self._kernel.swap.folio_put(folio)
            self._kernel.page_alloc.free(pgtable)
            return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_MISSING)
        self._kernel.pgtable_generic.pgtable_trans_huge_deposit(vmf.pmd, pgtable)
        self.map_anon_folio_pmd_pf(folio, vmf.pmd, vma, haddr)
        vma.mm.pgtables[3] += 1
        ptl.release()
        return 0

    def set_huge_zero_folio(
        self,
        pgtable: Folio,
        mm: MmStruct,
        vma: VmArea,
        pmd: int,
        zero_folio: LargeFolio,
    ) -> None:
        """Map the huge zero folio by a special entry, and deposit *pgtable*.

        Source: mm/huge_memory.c, set_huge_zero_folio()
        """
        entry = self._pgtable.mk_huge_pmd(zero_folio.pfn, vma.page_prot)
        entry = self._pgtable.pmd_mkspecial(entry)
        self._kernel.pgtable_generic.pgtable_trans_huge_deposit(pmd, pgtable)
        self._pgtable.set_pte(pmd, entry)
        mm.pgtables[3] += 1

    def do_huge_pmd_anonymous_page(self, vmf: VmFault) -> int:
        """Map a huge page of private memory: zeros for a read, a new folio for a write.

        Returns:
            ``VM_FAULT_FALLBACK`` if small pages must do.

        Source: mm/huge_memory.c, do_huge_pmd_anonymous_page()
        Deviates: khugepaged is not told of the VMA: it only comes when it is called. No
        zero page is forbidden, as no guest of s390 runs here, and
        check_stable_address_space() is not asked: there is no OOM reaper.
        """
        vma = vmf.vma
        if not self.thp_vma_suitable_order(
            vma, vmf.address, self._pgtable.hpage_pmd_order
        ):
            return VM_FAULT_FALLBACK
        self._kernel.rmap.anon_vma_prepare(vma)
        if vmf.flags & FAULT_FLAG_WRITE or not self.use_zero_page:
            return self.do_huge_pmd_anonymous_page_(vmf)
        pgtable = self._kernel.page_alloc.alloc_table("PTE table")
        if pgtable is None:
            return VM_FAULT_OOM
        zero_folio = self.mm_get_huge_zero_folio(vma.mm)
        if zero_folio is None:
            self._kernel.page_alloc.free(pgtable)
            return VM_FAULT_FALLBACK
        ptl = vmf.ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        if not self._machine.holds("pmd_none", pte_none(self._pgtable.read(vmf.pmd))):
            ptl.release()
            self._kernel.page_alloc.free(pgtable)
            return 0
        if userfaultfd_missing(vma):
            ptl.release()
            self._kernel.page_alloc.free(pgtable)
            return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_MISSING)
        self.set_huge_zero_folio(pgtable, vma.mm, vma, vmf.pmd, zero_folio)
        ptl.release()
        return 0

    # -- an access that the entry allows ---------------------------------------------

    def touch_pmd(self, vma: VmArea, addr: int, pmd: int, *, write: bool) -> bool:
        """Make an entry young, and dirty for a write; tell whether that was news.

        Source: mm/huge_memory.c, touch_pmd()
        """
        entry = pte_mkyoung(self._pgtable.read(pmd))
        if write:
            entry = pte_mkdirty(entry)
        haddr = addr & -self._pgtable.pmd_size
        return self._kernel.fault.pmdp_set_access_flags(
            vma, haddr, pmd, entry, dirty=write
        )

    def touch_pud(self, vma: VmArea, addr: int, pud: int, *, write: bool) -> None:
        """Make the entry of a PUD young, and dirty for a write.

        Source: mm/huge_memory.c, touch_pud()
        """
        entry = pte_mkyoung(self._pgtable.read(pud))
        if write:
            entry = pte_mkdirty(entry)
        haddr = addr & -self._pgtable.pud_size
        self._kernel.fault.pmdp_set_access_flags(vma, haddr, pud, entry, dirty=write)

    def huge_pud_set_accessed(self, vmf: VmFault, orig_pud: int) -> None:
        """Note an access that the entry of a PUD allows, unless it has changed.

        Source: mm/huge_memory.c, huge_pud_set_accessed()
        """
        write = bool(vmf.flags & FAULT_FLAG_WRITE)
        vmf.ptl = self._kernel.memory.pud_lockptr(vmf.vma.mm)
        with vmf.ptl:
            if self._pgtable.read(vmf.pud) == orig_pud:
                self.touch_pud(vmf.vma, vmf.address, vmf.pud, write=write)

    def huge_pmd_set_accessed(self, vmf: VmFault) -> bool:
        """Note an access that the entry allows; tell whether that was news.

        The PTL is held. It is no news either if somebody has changed the entry.

        Source: mm/huge_memory.c, huge_pmd_set_accessed()
        """
        write = bool(vmf.flags & FAULT_FLAG_WRITE)
        same = self._pgtable.read(vmf.pmd) == vmf.orig_pmd
        if not self._machine.holds("pmd_same", same):
            return False
        return self.touch_pmd(vmf.vma, vmf.address, vmf.pmd, write=write)

    # -- copy on write ---------------------------------------------------------------

    def wp_huge_pmd(self, vmf: VmFault) -> int:
        """Handle a write to a huge page whose entry is not writable.

        Returns:
            ``VM_FAULT_FALLBACK`` if the entry was split: its pages can be handled now.

        Source: mm/memory.c, wp_huge_pmd()
        """
        vma = vmf.vma
        if vma.anonymous:
            unshare = vmf.flags & FAULT_FLAG_UNSHARE
            if not unshare and userfaultfd_pte_wp(vma, vmf.orig_pmd):
                if not userfaultfd_wp_async(vma):
                    return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_WP)
            else:
                return self.do_huge_pmd_wp_page(vmf)
        elif vma.flags & (VM_SHARED | VM_MAYSHARE) and vma.ops is not None:
            result = vma.ops.huge_fault(vmf, self._pgtable.hpage_pmd_order)
            if not result & VM_FAULT_FALLBACK:
                return result
        self.split_huge_pmd_(vma, vmf.pmd, vmf.address, freeze=False)
        return VM_FAULT_FALLBACK

    def do_huge_zero_wp_pmd(self, vmf: VmFault) -> int:
        """Put a new huge page in place of zeros; the deposited table stays.

        Source: mm/huge_memory.c, do_huge_zero_wp_pmd()
        Deviates: check_stable_address_space() is not asked: there is no OOM reaper.
        """
        vma = vmf.vma
        haddr = vmf.address & -self._pgtable.pmd_size
        folio = self.vma_alloc_anon_folio_pmd()
        if folio is None:
            return VM_FAULT_FALLBACK
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, haddr, haddr + self._pgtable.pmd_size
        ):
            vmf.ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
            with vmf.ptl:
                same = self._pgtable.read(vmf.pmd) == vmf.orig_pmd
                if self._machine.holds("pmd_same", same):
                    self._kernel.pgtable_generic.pmdp_huge_clear_flush(
                        vma, haddr, vmf.pmd
                    )
                    self.map_anon_folio_pmd_pf(folio, vmf.pmd, vma, haddr)
                else:
                    self._kernel.swap.folio_put(folio)
        return 0

    def do_huge_pmd_wp_page(self, vmf: VmFault) -> int:
        """Make a huge page writable if nobody else can reach it; otherwise split it.

        Not mappings are counted but references: whoever else holds one may look at the
        page, or have it in another address space. Copying is left to the small pages.

        Source: mm/huge_memory.c, do_huge_pmd_wp_page()
        """
        vma = vmf.vma
        vmf.ptl = ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        orig_pmd = vmf.orig_pmd
        if self.is_huge_zero_pmd(orig_pmd):
            result = self.do_huge_zero_wp_pmd(vmf)
            if not result & VM_FAULT_FALLBACK:
                return result
            self.split_huge_pmd_(vma, vmf.pmd, vmf.address, freeze=False)
            return VM_FAULT_FALLBACK
        ptl.acquire()
        same = self._pgtable.read(vmf.pmd) == orig_pmd
        if not self._machine.holds("pmd_same", same):
            ptl.release()
            return 0
        folio = self.pmd_folio(orig_pmd)
        if folio.page_exclusive(folio.pfn):
            return self._reuse(vmf)
        if not folio_trylock(folio):
            folio.refcount += 1
            ptl.release()
            folio_lock(self._machine, folio)
            ptl.acquire()
            same = self._pgtable.read(vmf.pmd) == orig_pmd
            if not self._machine.holds("pmd_same", same):
                ptl.release()
                folio_unlock(self._machine, folio)
                self._kernel.swap.folio_put(folio)
                return 0
            self._kernel.swap.folio_put(folio)
        if folio.page_exclusive(folio.pfn):
            folio_unlock(self._machine, folio)
            return self._reuse(vmf)
        cached = folio.nr_pages if folio.flags & PG_swapcache else 0
        if self._machine.holds("folio_ref_count", folio.refcount <= 1 + cached):
            if folio.flags & PG_swapcache:
                self._kernel.swapfile.folio_free_swap(folio)
            if self._machine.holds("folio_ref_count", folio.refcount == 1):
                self._kernel.rmap.folio_move_anon_rmap(folio, vma)
                self._kernel.rmap.set_page_anon_exclusive(folio, folio.pfn)
                folio_unlock(self._machine, folio)
                return self._reuse(vmf)
        folio_unlock(self._machine, folio)
        ptl.release()
        self.split_huge_pmd_(vma, vmf.pmd, vmf.address, freeze=False)
        return VM_FAULT_FALLBACK

    def _reuse(self, vmf: VmFault) -> int:
        """Make an entry whose page is exclusive writable, and release the PTL.

        Source: mm/huge_memory.c, do_huge_pmd_wp_page(), from its label "reuse" on
        """
        assert vmf.ptl is not None
        if not vmf.flags & FAULT_FLAG_UNSHARE:
            entry = pte_mkdirty(pte_mkyoung(vmf.orig_pmd))
            entry = self._kernel.memory.maybe_mkwrite(entry, vmf.vma)
            haddr = vmf.address & -self._pgtable.pmd_size
            self._kernel.fault.pmdp_set_access_flags(
                vmf.vma, haddr, vmf.pmd, entry, dirty=True
            )
        vmf.ptl.release()
        return 0

    # -- NUMA hinting ----------------------------------------------------------------

    def do_huge_pmd_numa_page(self, vmf: VmFault) -> int:
        """Make a huge page accessible again that was hidden to learn who uses it.

        Source: mm/huge_memory.c, do_huge_pmd_numa_page()
        Deviates: There is one node, so the page is where it should be: nothing migrates
        and nothing is told to the scheduler.
        """
        vma = vmf.vma
        vmf.ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        with vmf.ptl:
            old_pmd = self._pgtable.read(vmf.pmd)
            if not self._machine.holds("pmd_same", old_pmd == vmf.orig_pmd):
                return 0
            pmd = pte_modify(old_pmd, vma.page_prot)
            writable = pte_write(pmd) or (
                self._kernel.mprotect.vma_wants_manual_pte_write_upgrade(vma)
                and self.can_change_pmd_writable(vma, vmf.address, pmd)
            )
            pmd = pte_mkyoung(pmd)
            if writable:
                pmd = self._pgtable.pte_mkwrite(pmd)
            self._pgtable.set_pte(vmf.pmd, pmd)
        return 0
