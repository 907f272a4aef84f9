"""What system calls do to an entry that maps a huge page: copy, clear, protect, move.

From mm/huge_memory.c: fork, MADV_FREE, unmapping, mremap, mprotect and UFFDIO_MOVE, of
PMD entries and of the PUD entries that only drivers and device DAX have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pmd_trans_huge,
    pte_clear_uffd_wp,
    pte_dirty,
    pte_mkclean,
    pte_mkdirty,
    pte_mkold,
    pte_mkuffd_wp,
    pte_modify,
    pte_none,
    pte_present,
    pte_protnone,
    pte_write,
    pte_wrprotect,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import PTE_SWP_UFFD_WP
from tlbkit.linux.include.linux.huge_mm import (
    pmd_is_huge,
    pmd_is_migration_entry,
    pmd_is_valid_softleaf,
)
from tlbkit.linux.include.linux.mm import (
    MM_CP_PROT_NUMA,
    MM_CP_TRY_CHANGE_WRITABLE,
    MM_CP_UFFD_WP,
    MM_CP_UFFD_WP_RESOLVE,
    VM_SHARED,
    VM_WRITE,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.mm_inline import vma_has_recency
from tlbkit.linux.include.linux.mm_types import PG_dirty
from tlbkit.linux.include.linux.pagemap import (
    folio_lock,
    folio_trylock,
    folio_unlock,
)
from tlbkit.linux.include.linux.swapops import (
    SWP_MIGRATION_READ,
    SWP_MIGRATION_WRITE,
    make_readable_migration_pte,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    userfaultfd_pte_wp,
    userfaultfd_wp,
    vma_has_uffd_without_event_remap,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EBUSY,
    EINVAL,
    ENOENT,
    ENOMEM,
)
from tlbkit.linux.mm.huge_memory.split import HugeSplit, vma_is_special_huge
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR
from tlbkit.linux.mm.userfaultfd import double_pt_lock, double_pt_unlock

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import (
        Folio,
        LargeFolio,
        MmStruct,
        VmArea,
    )
    from tlbkit.linux.kernel.locking import SpinLock
    from tlbkit.linux.mm.mmu_gather import MmuGather


class HugeChange(HugeSplit):
    """fork, MADV_FREE, munmap, mremap, mprotect and UFFDIO_MOVE, entry by entry."""

    __slots__ = ()

    # -- fork ------------------------------------------------------------------------

    def copy_huge_non_present_pmd(
        self,
        dst_mm: MmStruct,
        dst_pmd: int,
        src_pmd: int,
        dst_vma: VmArea,
        pmd: int,
        pgtable: Folio,
    ) -> None:
        """Give a child the migration entry of a huge page; both sides may only read.

        The page that comes back is exclusive to nobody. Both PTLs are held.

        Source: mm/huge_memory.c, copy_huge_non_present_pmd()
        Deviates: There is no memory of devices.
        """
        if pte_to_swp_entry(pmd).type != SWP_MIGRATION_READ:
            pmd = make_readable_migration_pte(pmd, exclusive=False)
            self._pgtable.set_pte(src_pmd, pmd)
        dst_mm.anonpages += self._pgtable.hpage_pmd_nr
        dst_mm.pgtables[3] += 1
        self._kernel.pgtable_generic.pgtable_trans_huge_deposit(dst_pmd, pgtable)
        if not userfaultfd_wp(dst_vma):
            pmd &= ~PTE_SWP_UFFD_WP
        self._pgtable.set_pte(dst_pmd, pmd)

    def copy_huge_pmd(
        self,
        dst_mm: MmStruct,
        dst_pmd: int,
        src_pmd: int,
        addr: int,
        dst_vma: VmArea,
        src_vma: VmArea,
    ) -> int:
        """Share a huge page with a child.

        Args:
            dst_mm: The child's address space.
            dst_pmd: Where the child's entry goes.
            src_pmd: Where the parent's stands; it becomes read-only.
            addr: Where the huge page begins.
            dst_vma: The child's VMA.
            src_vma: The parent's.

        Returns:
            0; ``-EAGAIN`` if there are, or now are, small pages to copy instead;
            ``-ENOMEM``.

        Source: mm/huge_memory.c, copy_huge_pmd()
        """
        memory = self._kernel.memory
        pmd = self._pgtable.read(src_pmd)
        special = pte_present(pmd) and self._pgtable.pmd_special(pmd)
        if special and not self.is_huge_zero_pmd(pmd):
            # It is not read again: mmap_lock is held for writing, so it cannot change.
            with memory.pmd_lockptr(dst_pmd), memory.pmd_lockptr(src_pmd):
                if is_cow_mapping(src_vma.flags) and pte_write(pmd):
                    self._kernel.panic.warn_on_once(
                        "copy_huge_pmd", "frames are writable in a private VMA"
                    )
                self._pgtable.set_pte(dst_pmd, pte_mkold(pmd))
            return 0
        if not dst_vma.anonymous:
            return 0  # the child's own faults find it again
        pgtable = self._kernel.page_alloc.alloc_table("PTE table")
        if pgtable is None:
            return -ENOMEM
        with memory.pmd_lockptr(dst_pmd), memory.pmd_lockptr(src_pmd):
            pmd = self._pgtable.read(src_pmd)
            if pmd_is_valid_softleaf(pmd):
                self.copy_huge_non_present_pmd(
                    dst_mm, dst_pmd, src_pmd, dst_vma, pmd, pgtable
                )
                return 0
            if not self._machine.holds("pmd_trans_huge", pmd_trans_huge(pmd)):
                self._kernel.page_alloc.free(pgtable)
                return -EAGAIN
            pinned = False
            if self.is_huge_zero_pmd(pmd):
                self.mm_get_huge_zero_folio(dst_mm)  # there is one, so this only counts
            else:
                src_folio = self.pmd_folio(pmd)
                src_folio.refcount += 1
                pinned = not self._kernel.rmap.folio_try_dup_anon_rmap_pmd(
                    src_folio, dst_vma, src_vma
                )
                if not pinned:
                    dst_mm.anonpages += src_folio.nr_pages
            if not pinned:
                dst_mm.pgtables[3] += 1
                self._kernel.pgtable_generic.pgtable_trans_huge_deposit(
                    dst_pmd, pgtable
                )
                self._pgtable.ptep_set_wrprotect_(src_pmd, pmd)
                if not userfaultfd_wp(dst_vma):
                    pmd = pte_clear_uffd_wp(pmd)
                self._pgtable.set_pte(dst_pmd, pte_mkold(pte_wrprotect(pmd)))
                return 0
            self._kernel.swap.folio_put(src_folio)
            self._kernel.page_alloc.free(pgtable)
        self.split_huge_pmd_(src_vma, src_pmd, addr, freeze=False)
        return -EAGAIN

    def copy_huge_pud(
        self,
        dst_mm: MmStruct,
        src_mm: MmStruct,
        dst_pud: int,
        src_pud: int,
        vma: VmArea,
    ) -> int:
        """Copy the huge entry of a PUD for a child.

        What it maps is not counted: VMAs whose pages are leave it to the child's own
        faults to find them again.

        Returns:
            0, or ``-EAGAIN`` if it is no huge entry any more.

        Source: mm/huge_memory.c, copy_huge_pud()
        """
        memory = self._kernel.memory
        with memory.pud_lockptr(dst_mm), memory.pud_lockptr(src_mm):
            pud = self._pgtable.read(src_pud)
            if not pmd_leaf(pud):
                return -EAGAIN
            if is_cow_mapping(vma.flags) and pte_write(pud):
                pud = self._pgtable.ptep_set_wrprotect_(src_pud, pud)
            self._pgtable.set_pte(dst_pud, pte_mkold(pud))
        return 0

    # -- MADV_FREE -------------------------------------------------------------------

    def madvise_free_huge_pmd(
        self, tlb: MmuGather, vma: VmArea, pmd: int, addr: int, end: int
    ) -> bool:
        """Let reclaim drop a huge page; false if there are small ones to look at.

        One of which the range holds only a part is split. One that another process may
        map stays as it is, and so do its pages.

        Source: mm/huge_memory.c, madvise_free_huge_pmd()
        """
        ptl = self.pmd_trans_huge_lock(pmd, vma)
        if ptl is None:
            return False
        orig_pmd = self._pgtable.read(pmd)
        if self.is_huge_zero_pmd(orig_pmd) or not pte_present(orig_pmd):
            ptl.release()
            return False
        folio = self.pmd_folio(orig_pmd)
        if folio.maybe_mapped_shared or not folio_trylock(folio):
            ptl.release()
            return False
        if end - addr != self._pgtable.pmd_size:
            folio.refcount += 1
            ptl.release()
            head = self.split_folio(folio)
            left = folio if isinstance(head, int) else head
            folio_unlock(self._machine, left)
            self._kernel.swap.folio_put(left)
            return False
        folio.flags &= ~PG_dirty
        folio_unlock(self._machine, folio)
        if pte_young(orig_pmd) or pte_dirty(orig_pmd):
            self._kernel.pgtable_generic.pmdp_invalidate(vma, addr, pmd)
            self._pgtable.set_pte(pmd, pte_mkclean(pte_mkold(orig_pmd)))
            self._kernel.gather.tlb_remove_pmd_tlb_entry(tlb, addr)
        self._kernel.swap.folio_mark_lazyfree(folio)
        ptl.release()
        return True

    # -- munmap and its like ---------------------------------------------------------

    def zap_huge_pmd(self, tlb: MmuGather, vma: VmArea, pmd: int, addr: int) -> bool:
        """Clear an entry, and keep its folio until the flush.

        A migration entry holds no reference, and no TLB has seen it: nothing is kept.

        Returns:
            False if it is no huge page any more, and nothing was done.

        Source: mm/huge_memory.c, zap_huge_pmd()
        Deviates: There is no memory of devices.
        """
        gather = self._kernel.gather
        ptl = self.pmd_trans_huge_lock_(pmd, vma)
        if ptl is None:
            return False
        orig_pmd = self._pgtable.ptep_get_and_clear_(pmd)
        gather.tlb_remove_pmd_tlb_entry(tlb, addr)
        deposit = self._kernel.pgtable_generic.arch_needs_pgtable_deposit
        if not vma.dax and vma_is_special_huge(vma):
            if deposit:
                self.zap_deposited_table(vma.mm, pmd)
            ptl.release()
            return True
        if self.is_huge_zero_pmd(orig_pmd):
            if not vma.dax or deposit:
                self.zap_deposited_table(vma.mm, pmd)
            ptl.release()
            return True
        flush_needed = pte_present(orig_pmd)
        if flush_needed:
            folio: Folio = self.pmd_folio(orig_pmd)
            self._kernel.rmap.folio_remove_rmap_pmd(self.pmd_folio(orig_pmd), vma)
        else:
            folio = self.softleaf_to_folio(orig_pmd)
        if folio.anon:
            self.zap_deposited_table(vma.mm, pmd)
            vma.mm.anonpages -= self._pgtable.hpage_pmd_nr
        else:
            if deposit:
                self.zap_deposited_table(vma.mm, pmd)
            self._kernel.swap.dec_file_counter(vma.mm, folio, folio.nr_pages)
            if flush_needed and pte_young(orig_pmd) and vma_has_recency(vma):
                self._kernel.filemap.folio_mark_accessed(folio)
        ptl.release()
        if flush_needed:
            gather.tlb_remove_page_size(tlb, folio)
        return True

    # -- mremap ----------------------------------------------------------------------

    def move_huge_pmd(
        self, vma: VmArea, old_addr: int, old_pmd: int, new_pmd: int
    ) -> bool:
        """Move a huge page to another address of the same process, and flush the old.

        Both addresses are aligned. False if there is no huge page, or the place is
        taken.

        Source: mm/huge_memory.c, move_huge_pmd()
        """
        if not pte_none(self._pgtable.read(new_pmd)):
            return False
        old_ptl = self.pmd_trans_huge_lock_(old_pmd, vma)
        if old_ptl is None:
            return False
        new_ptl = self._kernel.memory.pmd_lockptr(new_pmd)
        if new_ptl is not old_ptl:
            new_ptl.acquire()
        pmd = self._pgtable.ptep_get_and_clear_(old_pmd)
        force_flush = pte_present(pmd)
        if pmd_move_must_withdraw(new_ptl, old_ptl, vma):
            store = self._kernel.pgtable_generic
            pgtable = store.pgtable_trans_huge_withdraw(old_pmd)
            store.pgtable_trans_huge_deposit(new_pmd, pgtable)
        if vma_has_uffd_without_event_remap(vma):
            pmd = clear_uffd_wp_pmd(pmd)
        self._pgtable.set_pte(new_pmd, pmd)
        if force_flush:
            end = old_addr + self._pgtable.pmd_size
            self._kernel.tlbflush.flush_pmd_tlb_range(vma, old_addr, end)
        if new_ptl is not old_ptl:
            new_ptl.release()
        old_ptl.release()
        return True

    # -- mprotect --------------------------------------------------------------------

    def can_change_pmd_writable(self, vma: VmArea, addr: int, pmd: int) -> bool:
        """Tell whether a write to this entry would only be made writable by a fault.

        Source: mm/huge_memory.c, can_change_pmd_writable()
        Deviates: Nothing tracks soft-dirty pages.
        """
        if not vma.flags & VM_WRITE or pte_protnone(pmd):
            return False
        if userfaultfd_pte_wp(vma, pmd):
            return False
        if vma.flags & VM_SHARED:
            return pte_dirty(pmd)
        folio = self._kernel.memory.vm_normal_folio_pmd(vma, addr, pmd)
        return (
            folio is not None
            and folio.anon
            and folio.page_exclusive(self._pgtable.pmd_pfn(pmd))
        )

    def change_non_present_huge_pmd(
        self, pmd: int, *, uffd_wp: bool, uffd_wp_resolve: bool
    ) -> None:
        """Let a huge page that migrates come back read-only; the PTL is held.

        It may be made writable by a fault: an anonymous one stays exclusive.

        Source: mm/huge_memory.c, change_non_present_huge_pmd()
        Deviates: There is no memory of devices.
        """
        oldpmd = newpmd = self._pgtable.read(pmd)
        if pte_to_swp_entry(oldpmd).type == SWP_MIGRATION_WRITE:
            folio = self.softleaf_to_folio(oldpmd)
            newpmd = make_readable_migration_pte(oldpmd, exclusive=folio.anon)
        if uffd_wp:
            newpmd |= PTE_SWP_UFFD_WP
        elif uffd_wp_resolve:
            newpmd &= ~PTE_SWP_UFFD_WP
        if newpmd != oldpmd:
            self._pgtable.set_pte(pmd, newpmd)

    def change_huge_pmd(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pmd: int,
        addr: int,
        newprot: int,
        cp_flags: int,
    ) -> int:
        """Give a huge page the rights *newprot*.

        The entry is invalidated and flushed before it is rewritten, so that no dirty
        state is lost. That flush always comes; what is recorded in *tlb* is a second
        one, for what other CPUs may have done since: nothing if the old entry was
        invalid before.

        Returns:
            0 if it is no huge page any more, 1 if nothing needs a flush, otherwise how
            many pages were changed.

        Source: mm/huge_memory.c, change_huge_pmd()
        """
        prot_numa = cp_flags & MM_CP_PROT_NUMA
        uffd_wp = bool(cp_flags & MM_CP_UFFD_WP)
        uffd_wp_resolve = bool(cp_flags & MM_CP_UFFD_WP_RESOLVE)
        ptl = self.pmd_trans_huge_lock_(pmd, vma)
        if ptl is None:
            return 0
        oldpmd = self._pgtable.read(pmd)
        if pmd_is_valid_softleaf(oldpmd):
            self.change_non_present_huge_pmd(
                pmd, uffd_wp=uffd_wp, uffd_wp_resolve=uffd_wp_resolve
            )
            ptl.release()
            return 1
        if prot_numa and (
            self.is_huge_zero_pmd(oldpmd)
            or pte_protnone(oldpmd)
            or not self._kernel.mempolicy.folio_can_map_prot_numa(
                self.pmd_folio(oldpmd), vma
            )
        ):
            ptl.release()
            return 1
        oldpmd = self._kernel.pgtable_generic.pmdp_invalidate_ad(vma, addr, pmd)
        entry = pte_modify(oldpmd, newprot)
        if uffd_wp:
            entry = pte_mkuffd_wp(entry)
        elif uffd_wp_resolve:
            entry = pte_clear_uffd_wp(entry)
        if (
            cp_flags & MM_CP_TRY_CHANGE_WRITABLE
            and not pte_write(entry)
            and self.can_change_pmd_writable(vma, addr, entry)
        ):
            entry = self._pgtable.pte_mkwrite(entry)
        self._pgtable.set_pte(pmd, entry)
        if self._kernel.tlbflush.huge_pmd_needs_flush(oldpmd, entry):
            size = self._pgtable.pmd_size
            self._kernel.gather.tlb_flush_pmd_range(tlb, addr, size)
        ptl.release()
        return self._pgtable.hpage_pmd_nr

    def change_huge_pud(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pudp: int,
        addr: int,
        newprot: int,
        cp_flags: int,
    ) -> int:
        """Give the huge entry of a PUD the rights *newprot*; it is flushed twice.

        Returns:
            0 if it is no huge entry any more, 1 if it is left as it is, otherwise how
            many pages were changed.

        Source: mm/huge_memory.c, change_huge_pud()
        """
        if cp_flags & MM_CP_PROT_NUMA:
            return 1
        if cp_flags & (MM_CP_UFFD_WP | MM_CP_UFFD_WP_RESOLVE):
            self._kernel.panic.warn_on_once(
                "change_huge_pud", "no userfaultfd watches huge entries of PUDs"
            )
            return 1
        ptl = self.pud_trans_huge_lock_(pudp, vma)
        if ptl is None:
            return 0
        oldpud = self._kernel.pgtable_generic.pudp_invalidate(vma, addr, pudp)
        self._pgtable.set_pte(pudp, pte_modify(oldpud, newprot))
        self._kernel.gather.tlb_flush_pud_range(tlb, addr, self._pgtable.pud_size)
        ptl.release()
        return self._pgtable.hpage_pud_nr

    # -- userfaultfd MOVE ------------------------------------------------------------

    def move_pages_huge_pmd(
        self,
        mm: MmStruct,
        dst_pmd: int,
        src_pmd: int,
        dst_pmdval: int,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_addr: int,
        src_addr: int,
    ) -> int:
        """Move a huge page from one VMA to another of the same process.

        The PTL of the source is held, and is released; both VMAs are locked for
        reading.

        Args:
            mm: The process's address space.
            dst_pmd: Where the destination's entry stands.
            src_pmd: Where the source's stands.
            dst_pmdval: What the destination's said: nothing.
            dst_vma: The destination's VMA.
            src_vma: The source's VMA.
            dst_addr: Of the destination.
            src_addr: Of the source.

        Returns:
            0 or a negative error number; after ``-EAGAIN`` it may be tried again.

        Source: mm/huge_memory.c, move_pages_huge_pmd()
        """
        kernel = self._kernel
        pgtable = self._pgtable
        size = pgtable.pmd_size
        src_pmdval = pgtable.read(src_pmd)
        src_ptl = kernel.memory.pmd_lockptr(src_pmd)
        src_ptl.assert_held()
        if not pte_none(dst_pmdval) or (src_addr | dst_addr) & (size - 1):
            kernel.panic.warn_on_once("move_pages_huge_pmd", "it is no whole move")
            src_ptl.release()
            return -EINVAL
        if not pmd_trans_huge(src_pmdval):
            src_ptl.release()
            if pmd_is_migration_entry(src_pmdval):
                self.pmd_migration_entry_wait(src_pmd)
                return -EAGAIN
            return -ENOENT
        src_folio = None
        if not self.is_huge_zero_pmd(src_pmdval):
            src_folio = self.pmd_folio(src_pmdval)
            if not src_folio.page_exclusive(src_folio.pfn):
                src_ptl.release()
                return -EBUSY
            src_folio.refcount += 1
        src_ptl.release()
        with kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, mm, src_addr, src_addr + size
        ):
            if src_folio is not None:
                folio_lock(self._machine, src_folio)
            dst_ptl = kernel.memory.pmd_lockptr(dst_pmd)
            double_pt_lock(src_ptl, dst_ptl)
            same = pgtable.read(src_pmd) == src_pmdval
            same = same and pgtable.read(dst_pmd) == dst_pmdval
            err = 0
            if not self._machine.holds("pmd_same", same):
                err = -EAGAIN
            elif src_folio is None:
                src_pmdval = kernel.pgtable_generic.pmdp_huge_clear_flush(
                    src_vma, src_addr, src_pmd
                )
                pgtable.set_pte(dst_pmd, clear_uffd_wp_pmd(src_pmdval))
            else:
                err = self._move_folio(
                    dst_pmd, src_pmd, dst_vma, src_vma, dst_addr, src_addr, src_folio
                )
            if not err:
                store = kernel.pgtable_generic
                src_pgtable = store.pgtable_trans_huge_withdraw(src_pmd)
                store.pgtable_trans_huge_deposit(dst_pmd, src_pgtable)
            double_pt_unlock(src_ptl, dst_ptl)
            if src_folio is not None:
                folio_unlock(self._machine, src_folio)
        if src_folio is not None:
            kernel.swap.folio_put(src_folio)
        return err

    def _move_folio(
        self,
        dst_pmd: int,
        src_pmd: int,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_addr: int,
        src_addr: int,
        src_folio: LargeFolio,
    ) -> int:
        """Move the entry of a locked folio; both PTLs are held. 0 or ``-EBUSY``.

        Source: mm/huge_memory.c, the part of move_pages_huge_pmd() that has a folio
        """
        pgtable = self._pgtable
        if src_folio.maybe_dma_pinned() or not src_folio.page_exclusive(src_folio.pfn):
            return -EBUSY
        src_pmdval = self._kernel.pgtable_generic.pmdp_huge_clear_flush(
            src_vma, src_addr, src_pmd
        )
        if src_folio.maybe_dma_pinned():  # lockless GUP came in between
            pgtable.set_pte(src_pmd, src_pmdval)
            return -EBUSY
        rmap = self._kernel.rmap
        rmap.folio_move_anon_rmap(src_folio, dst_vma)
        src_folio.index = rmap.linear_page_index(dst_vma, dst_addr)
        entry = pte_mkdirty(pgtable.mk_huge_pmd(src_folio.pfn, dst_vma.page_prot))
        pgtable.set_pte(dst_pmd, pgtable.pte_mkwrite(entry))
        return 0

    # -- the lock of an entry that maps a huge page ----------------------------------

    def pmd_trans_huge_lock(self, pmd: int, vma: VmArea) -> SpinLock | None:
        """Return the PTL of an entry that maps a huge page, taken; else ``None``.

        What is no huge page now is not locked at all.

        Source: include/linux/huge_mm.h, pmd_trans_huge_lock()
        """
        if pmd_is_huge(self._pgtable.read(pmd)):
            return self.pmd_trans_huge_lock_(pmd, vma)
        return None

    def pmd_trans_huge_lock_(self, pmd: int, vma: VmArea) -> SpinLock | None:
        """Take the PTL, and give it back if the entry maps no huge page any more.

        Source: mm/huge_memory.c, __pmd_trans_huge_lock()
        """
        del vma
        ptl = self._kernel.memory.pmd_lockptr(pmd)
        ptl.acquire()
        huge = pmd_is_huge(self._pgtable.read(pmd))
        if self._machine.holds("pmd_trans_huge", huge):
            return ptl
        ptl.release()
        return None

    def pud_trans_huge_lock_(self, pud: int, vma: VmArea) -> SpinLock | None:
        """Do the same for the entry of a PUD.

        Source: mm/huge_memory.c, __pud_trans_huge_lock()
        """
        ptl = self._kernel.memory.pud_lockptr(vma.mm)
        ptl.acquire()
        if pmd_leaf(self._pgtable.read(pud)):
            return ptl
        ptl.release()
        return None

    def pmd_migration_entry_wait(self, pmd: int) -> None:
        """Wait until a huge page has migrated, if it still does; no lock is held.

        Source: mm/migrate.c, pmd_migration_entry_wait()
        """
        ptl = self._kernel.memory.pmd_lockptr(pmd)
        ptl.acquire()
        pmdval = self._pgtable.read(pmd)
        ptl.release()
        if pmd_is_migration_entry(pmdval):
            self._kernel.migrate.migration_entry_wait(pte_to_swp_entry(pmdval))

    # -- munmap of a PUD's entry -----------------------------------------------------

    def zap_huge_pud(self, tlb: MmuGather, vma: VmArea, pud: int, addr: int) -> bool:
        """Clear the huge entry of a PUD, and keep its folio until the flush.

        Returns:
            False if it is no huge entry any more, and nothing was done.

        Source: mm/huge_memory.c, zap_huge_pud()
        """
        gather = self._kernel.gather
        ptl = self.pud_trans_huge_lock_(pud, vma)
        if ptl is None:
            return False
        orig_pud = self._pgtable.ptep_get_and_clear_(pud)
        gather.tlb_remove_pud_tlb_entry(tlb, addr)
        if not vma.dax and vma_is_special_huge(vma):
            ptl.release()
            return True
        folio = self.pmd_folio(orig_pud)
        self._kernel.rmap.folio_remove_rmap_pud(folio, vma)
        self._kernel.swap.dec_file_counter(vma.mm, folio, folio.nr_pages)
        ptl.release()
        gather.tlb_remove_page_size(tlb, folio)
        return True


def pmd_move_must_withdraw(
    new_pmd_ptl: SpinLock, old_pmd_ptl: SpinLock, vma: VmArea
) -> bool:
    """Tell whether a deposited table must follow a huge page to another PMD table.

    Source: mm/huge_memory.c, pmd_move_must_withdraw()
    """
    return new_pmd_ptl is not old_pmd_ptl and vma.anonymous


def clear_uffd_wp_pmd(pmd: int) -> int:
    """Take the write protection of a userfaultfd from a PMD entry of any kind.

    Source: mm/huge_memory.c, clear_uffd_wp_pmd()
    """
    if pte_none(pmd):
        return pmd
    if pte_present(pmd):
        return pte_clear_uffd_wp(pmd)
    return pmd & ~PTE_SWP_UFFD_WP
