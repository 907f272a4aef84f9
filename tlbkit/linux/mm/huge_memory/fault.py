"""Faults where a block is, or could be."""

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
from tlbkit.linux.mm.huge_memory.split import HugeSplit

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea, VmFault


class HugeFault(HugeSplit):
    """Makes blocks, and handles accesses to them."""

    __slots__ = ()

    # -- a fault where nothing is ----------------------------------------------------

    def do_huge_pmd_anonymous_page(self, vmf: VmFault) -> int:
        """Map a block of private memory: zeros for a read, a new folio for a write.

        Returns:
            ``VM_FAULT_FALLBACK`` if the fault must be handled with pages.
        """
        vma = vmf.vma
        order = self._pgtable.hpage_pmd_order
        if not self.thp_vma_suitable_order(vma, vmf.address, order):
            return VM_FAULT_FALLBACK
        self._kernel.rmap.anon_vma_prepare(vma)
        if vmf.flags & FAULT_FLAG_WRITE or not self.use_zero_page:
            return self.do_huge_pmd_anonymous_page_(vmf)
        table = self._kernel.page_alloc.alloc_table("PTE table")
        if table is None:
            return VM_FAULT_OOM
        zero = self.mm_get_huge_zero_folio(vma.mm)
        if zero is None:
            self._kernel.page_alloc.free(table)
            return VM_FAULT_FALLBACK
        ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        if self._machine.holds("pmd_none", pte_none(self._pgtable.read(vmf.pmd))):
            if not userfaultfd_missing(vma):
                self.set_huge_zero_folio(table, vma, vmf.pmd, zero)
                ptl.release()
                return 0
            ptl.release()
            self._kernel.page_alloc.free(table)
            return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_MISSING)
        ptl.release()
        self._kernel.page_alloc.free(table)
        return 0

    def set_huge_zero_folio(
        self, table: Folio, vma: VmArea, pmdp: int, zero: LargeFolio
    ) -> None:
        """Map the huge zero folio, marked as no normal page, and store *table*."""
        entry = self._pgtable.pmd_mkspecial(
            self._pgtable.mk_huge_pmd(zero.pfn, vma.page_prot)
        )
        self._deposit(vma.mm, pmdp, table)
        self._pgtable.set_pte(pmdp, entry)

    def do_huge_pmd_anonymous_page_(self, vmf: VmFault) -> int:
        """Map a new block: __do_huge_pmd_anonymous_page()."""
        vma = vmf.vma
        haddr = vmf.address & -self._pgtable.pmd_size
        folio = self.vma_alloc_anon_folio_pmd()
        if folio is None:
            return VM_FAULT_FALLBACK
        table = self._kernel.page_alloc.alloc_table("PTE table")
        if table is None:
            self._kernel.swap.folio_put(folio)
            return VM_FAULT_OOM
        ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        result = 0
        if self._machine.holds("pmd_none", pte_none(self._pgtable.read(vmf.pmd))):
            if not userfaultfd_missing(vma):
                self._deposit(vma.mm, vmf.pmd, table)
                self.map_anon_folio_pmd_pf(folio, vmf.pmd, vma, haddr)
                ptl.release()
                return 0
            result = VM_UFFD_MISSING
        ptl.release()
        self._kernel.swap.folio_put(folio)
        self._kernel.page_alloc.free(table)
        if result:
            return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_MISSING)
        return 0

    def vma_alloc_anon_folio_pmd(self) -> LargeFolio | None:
        """Return a block of zeros with one reference, or ``None`` without memory."""
        order = self._pgtable.hpage_pmd_order
        folio = self._kernel.page_alloc.alloc_zeroed(order)
        assert folio is None or isinstance(folio, LargeFolio)
        return folio

    def map_anon_folio_pmd_pf(
        self, folio: LargeFolio, pmdp: int, vma: VmArea, haddr: int
    ) -> None:
        """Map a new block for a fault, where no page was before; the lock is held."""
        self.map_anon_folio_pmd_nopf(folio, pmdp, vma, haddr)
        vma.mm.anonpages += folio.nr_pages

    def map_anon_folio_pmd_nopf(
        self, folio: LargeFolio, pmdp: int, vma: VmArea, haddr: int
    ) -> None:
        """Map a new block, dirty, and writable if *vma* is; the lock is held."""
        entry = pte_mkdirty(self._pgtable.mk_huge_pmd(folio.pfn, vma.page_prot))
        entry = self._kernel.memory.maybe_mkwrite(entry, vma)
        self._kernel.rmap.folio_add_new_anon_rmap(folio, vma, haddr)
        self._kernel.swap.folio_add_lru(folio)
        self._pgtable.set_pte(pmdp, entry)
        self.deferred_split_folio(folio, partially_mapped=False)

    # -- a fault on a block ----------------------------------------------------------

    def touch_pmd(self, vma: VmArea, addr: int, pmdp: int, *, write: bool) -> bool:
        """Note an access to a block, dirty for a write; tell whether that was news."""
        entry = self.touched(self._pgtable.read(pmdp), write=write)
        haddr = addr & -self._pgtable.pmd_size
        return self._kernel.fault.pmdp_set_access_flags(
            vma, haddr, pmdp, entry, dirty=write
        )

    def huge_pmd_set_accessed(self, vmf: VmFault) -> bool:
        """Note an access that the entry allows; tell whether that was news.

        The lock is held. It is no news either if somebody has changed the entry.
        """
        same = self._pgtable.read(vmf.pmd) == vmf.orig_pmd
        if not self._machine.holds("pmd_same", same):
            return False
        write = bool(vmf.flags & FAULT_FLAG_WRITE)
        return self.touch_pmd(vmf.vma, vmf.address, vmf.pmd, write=write)

    def wp_huge_pmd(self, vmf: VmFault) -> int:
        """Handle a write to a block whose entry is not writable.

        Returns:
            ``VM_FAULT_FALLBACK`` if the block was split: pages can be handled now.
        """
        vma = vmf.vma
        if vma.anonymous:
            watched = userfaultfd_pte_wp(vma, vmf.orig_pmd)
            if vmf.flags & FAULT_FLAG_UNSHARE or not watched:
                return self.do_huge_pmd_wp_page(vmf)
            if not userfaultfd_wp_async(vma):
                return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_WP)
        elif vma.ops is not None and vma.flags & (VM_SHARED | VM_MAYSHARE):
            result = vma.ops.huge_fault(vmf, self._pgtable.hpage_pmd_order)
            if not result & VM_FAULT_FALLBACK:
                return result
        self.split_huge_pmd_(vma, vmf.pmd, vmf.address)
        return VM_FAULT_FALLBACK

    def do_huge_zero_wp_pmd(self, vmf: VmFault) -> int:
        """Put a new block in place of zeros; the table in store stays where it is."""
        vma = vmf.vma
        haddr = vmf.address & -self._pgtable.pmd_size
        folio = self.vma_alloc_anon_folio_pmd()
        if folio is None:
            return VM_FAULT_FALLBACK
        with self._kernel.mmu_notifier.invalidate_range(
            vma.mm, "CLEAR", haddr, haddr + self._pgtable.pmd_size
        ):
            ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
            ptl.acquire()
            same = self._pgtable.read(vmf.pmd) == vmf.orig_pmd
            same = self._machine.holds("pmd_same", same)
            if same:
                self._kernel.pgtable_generic.pmdp_huge_clear_flush(vma, haddr, vmf.pmd)
                self.map_anon_folio_pmd_pf(folio, vmf.pmd, vma, haddr)
            ptl.release()
        if not same:
            self._kernel.swap.folio_put(folio)
        return 0

    def do_huge_pmd_wp_page(self, vmf: VmFault) -> int:
        """Make a block writable if nobody else can reach it; otherwise split it.

        Not mappings are counted but references: whoever else holds one may look at the
        block, or have it in another address space. Copying is left to the pages.
        """
        vma = vmf.vma
        if self.is_huge_zero_pmd(vmf.orig_pmd):
            result = self.do_huge_zero_wp_pmd(vmf)
            if result & VM_FAULT_FALLBACK:
                self.split_huge_pmd_(vma, vmf.pmd, vmf.address)
            return result
        ptl = vmf.ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        same = self._pgtable.read(vmf.pmd) == vmf.orig_pmd
        if not self._machine.holds("pmd_same", same):
            ptl.release()
            return 0
        folio = self.folio_of(vmf.orig_pmd)
        if folio.page_exclusive(folio.pfn):
            return self._reuse_pmd(vmf)
        if not folio_trylock(folio):
            folio.refcount += 1
            ptl.release()
            folio_lock(self._machine, folio)
            ptl.acquire()
            same = self._pgtable.read(vmf.pmd) == vmf.orig_pmd
            if not self._machine.holds("pmd_same", same):
                ptl.release()
                folio_unlock(self._machine, folio)
                self._kernel.swap.folio_put(folio)
                return 0
            self._kernel.swap.folio_put(folio)
        if folio.page_exclusive(folio.pfn):
            folio_unlock(self._machine, folio)
            return self._reuse_pmd(vmf)
        if self._machine.holds("folio_ref_count", folio.refcount == 1):
            self._kernel.rmap.folio_move_anon_rmap(folio, vma)
            self._kernel.rmap.set_page_anon_exclusive(folio, folio.pfn)
            folio_unlock(self._machine, folio)
            return self._reuse_pmd(vmf)
        folio_unlock(self._machine, folio)
        ptl.release()
        self.split_huge_pmd_(vma, vmf.pmd, vmf.address)
        return VM_FAULT_FALLBACK

    def _reuse_pmd(self, vmf: VmFault) -> int:
        """Make a block of one's own writable where it stands, and release the lock."""
        ptl = vmf.ptl
        assert ptl is not None
        if not vmf.flags & FAULT_FLAG_UNSHARE:
            entry = pte_mkdirty(pte_mkyoung(vmf.orig_pmd))
            entry = self._kernel.memory.maybe_mkwrite(entry, vmf.vma)
            haddr = vmf.address & -self._pgtable.pmd_size
            self._kernel.fault.pmdp_set_access_flags(
                vmf.vma, haddr, vmf.pmd, entry, dirty=True
            )
        ptl.release()
        return 0

    def do_huge_pmd_numa_page(self, vmf: VmFault) -> int:
        """Make a block accessible again that was hidden to learn who uses it.

        There is one node here, so it is where it should be.
        """
        vma = vmf.vma
        ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        if self._machine.holds("pmd_same", self._pgtable.read(vmf.pmd) == vmf.orig_pmd):
            pmd = pte_mkyoung(pte_modify(vmf.orig_pmd, vma.page_prot))
            if not pte_write(pmd) and self._wants_write(vma, vmf.address, pmd):
                pmd = self._pgtable.pte_mkwrite(pmd)
            self._pgtable.set_pte(vmf.pmd, pmd)
        ptl.release()
        return 0

    def _wants_write(self, vma: VmArea, addr: int, pmd: int) -> bool:
        """Tell whether an entry of *vma* is to be made writable by hand, and may be."""
        if not self._kernel.mprotect.vma_wants_manual_pte_write_upgrade(vma):
            return False
        return self._kernel.huge_memory.can_change_pmd_writable(vma, addr, pmd)
