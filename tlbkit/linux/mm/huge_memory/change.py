"""What system calls do to a block entry: copy, clear, protect, move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_clear_uffd_wp,
    pte_dirty,
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
from tlbkit.linux.include.linux.mm import (
    MM_CP_PROT_NUMA,
    MM_CP_TRY_CHANGE_WRITABLE,
    MM_CP_UFFD_WP,
    MM_CP_UFFD_WP_RESOLVE,
    VM_SHARED,
    VM_UFFD_WP,
    VM_WRITE,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.mm_types import PG_referenced
from tlbkit.linux.include.linux.pagemap import (
    folio_lock,
    folio_unlock,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    userfaultfd_pte_wp,
    vma_has_uffd_without_event_remap,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EBUSY,
    EINVAL,
    ENOENT,
    ENOMEM,
)
from tlbkit.linux.mm.huge_memory.split import HugeSplit
from tlbkit.linux.mm.userfaultfd import double_pt_lock, double_pt_unlock

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.kernel.locking import SpinLock
    from tlbkit.linux.mm.mmu_gather import MmuGather


class HugeChange(HugeSplit):
    """fork, munmap, mprotect, mremap and UFFDIO_MOVE, at the level of PMD entries."""

    __slots__ = ()

    # -- fork ------------------------------------------------------------------------

    def copy_huge_pmd(
        self, child: VmArea, parent: VmArea, target: int, source: int, addr: int
    ) -> int:
        """Share a block with a child.

        Args:
            child: The child's area.
            parent: The parent's area; its entry becomes read-only.
            target: Where the child's entry goes.
            source: Where the parent's stands.
            addr: Of the block.

        Returns:
            0; ``-EAGAIN`` if there are, or now are, pages to copy instead; ``-ENOMEM``.
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        pmd = pgtable.read(source)
        # Nothing can change it before the lock is taken: fork has the areas to itself.
        if self.is_raw_pmd(pmd):
            with memory.pmd_lockptr(target), memory.pmd_lockptr(source):
                if is_cow_mapping(parent.flags) and pte_write(pmd):
                    self._kernel.panic.warn_on_once(
                        "copy_huge_pmd", "frames are writable in a private area"
                    )
                self._set_child_pmd(target, pmd)
            return 0
        if not child.anonymous:
            return 0  # the child's own faults find it again
        table = self._kernel.page_alloc.alloc_table("PTE table")
        if table is None:
            return -ENOMEM
        target_ptl = memory.pmd_lockptr(target)
        ptl = memory.pmd_lockptr(source)
        target_ptl.acquire()
        ptl.acquire()
        pmd = pgtable.read(source)
        if not self._machine.holds("pmd_trans_huge", pmd_trans_huge(pmd)):
            ptl.release()
            target_ptl.release()
            self._kernel.page_alloc.free(table)
            return -EAGAIN
        if self.is_huge_zero_pmd(pmd):
            # It is there already, so this only counts the child.
            self.mm_get_huge_zero_folio(child.mm)
        else:
            folio = self.folio_of(pmd)
            folio.refcount += 1
            if not self._kernel.rmap.folio_try_dup_anon_rmap_pmd(folio, child, parent):
                self._kernel.swap.folio_put(folio)
                ptl.release()
                target_ptl.release()
                self._kernel.page_alloc.free(table)
                self.split_huge_pmd_(parent, source, addr)
                return -EAGAIN
            child.mm.anonpages += folio.nr_pages
        self._deposit(child.mm, target, table)
        pgtable.ptep_set_wrprotect_(source, pmd)
        if not child.flags & VM_UFFD_WP:
            pmd = pte_clear_uffd_wp(pmd)
        self._set_child_pmd(target, pte_wrprotect(pmd))
        ptl.release()
        target_ptl.release()
        return 0

    def is_raw_pmd(self, pmd: int) -> bool:
        """Tell whether an entry maps frames, so that its value is all there is of it.

        The huge zero folio's entry is marked as well, but a child that maps it must
        hold it, and have a table in store.
        """
        special = pte_present(pmd) and self._pgtable.pmd_special(pmd)
        return special and not self.is_huge_zero_pmd(pmd)

    def _set_child_pmd(self, target: int, pmd: int) -> None:
        """Store a child's block entry, old."""
        self._pgtable.set_pte(target, pte_mkold(pmd))

    # -- zap -------------------------------------------------------------------------

    def zap_huge_pmd(self, tlb: MmuGather, vma: VmArea, pmdp: int, addr: int) -> bool:
        """Clear a block entry, and keep its folio until the flush.

        Returns:
            False if it is no block any more, and nothing was done.
        """
        pgtable = self._pgtable
        gather = self._kernel.gather
        ptl = self._kernel.memory.pmd_lockptr(pmdp)
        ptl.acquire()
        huge = pmd_trans_huge(pgtable.read(pmdp))
        if not self._machine.holds("pmd_trans_huge", huge):
            ptl.release()
            return False
        pmd = pgtable.ptep_get_and_clear_(pmdp)
        gather.tlb_remove_pmd_tlb_entry(tlb, addr)
        if vma.anonymous:
            self.zap_deposited_table(vma.mm, pmdp)
        else:
            self.zap_file_table(vma.mm, pmdp)
        if self.maps_raw_frames(vma) or self.is_huge_zero_pmd(pmd):
            ptl.release()
            return True
        folio = self.folio_of(pmd)
        self._kernel.rmap.folio_remove_rmap_pmd(folio, vma)
        if folio.anon:
            vma.mm.anonpages -= folio.nr_pages
        else:
            self._kernel.swap.dec_file_counter(vma.mm, folio, folio.nr_pages)
            if pte_young(pmd):
                folio.flags |= PG_referenced  # folio_mark_accessed()
        ptl.release()
        if gather.tlb_remove_folio_pages(tlb, folio, 1):
            gather.tlb_flush_mmu(tlb)
        return True

    # -- mprotect --------------------------------------------------------------------

    def change_huge_pmd(
        self, tlb: MmuGather, vma: VmArea, pmdp: int, addr: int, prot: int, how: int
    ) -> int:
        """Give a block the rights *prot*.

        The entry is hidden and flushed before it is rewritten, so that no dirty state
        is lost. That flush always comes; what is recorded in *tlb* is a second one, for
        what other CPUs may have done since: nothing if the old entry was hidden before.

        Returns:
            0 if it is no block any more, 1 if it stays as it is, otherwise how many
            pages were changed.
        """
        pgtable = self._pgtable
        ptl = self._kernel.memory.pmd_lockptr(pmdp)
        ptl.acquire()
        pmd = pgtable.read(pmdp)
        if not self._machine.holds("pmd_trans_huge", pmd_trans_huge(pmd)):
            ptl.release()
            return 0
        if how & MM_CP_PROT_NUMA and (self.is_huge_zero_pmd(pmd) or pte_protnone(pmd)):
            ptl.release()
            return 1
        old = self._kernel.pgtable_generic.pmdp_invalidate_ad(vma, addr, pmdp)
        entry = pte_modify(old, prot)
        if how & MM_CP_UFFD_WP:
            entry = pte_mkuffd_wp(entry)
        elif how & MM_CP_UFFD_WP_RESOLVE:
            entry = pte_clear_uffd_wp(entry)
        if (
            how & MM_CP_TRY_CHANGE_WRITABLE
            and not pte_write(entry)
            and self.can_change_pmd_writable(vma, addr, entry)
        ):
            entry = pgtable.pte_mkwrite(entry)
        pgtable.set_pte(pmdp, entry)
        if self._kernel.tlbflush.huge_pmd_needs_flush(old, entry):
            self._kernel.gather.tlb_flush_pmd_range(tlb, addr, pgtable.pmd_size)
        ptl.release()
        return pgtable.hpage_pmd_nr

    def can_change_pmd_writable(self, vma: VmArea, addr: int, pmd: int) -> bool:
        """Tell whether a write to this block would only be made writable by a fault."""
        if not vma.flags & VM_WRITE or pte_protnone(pmd):
            return False
        if userfaultfd_pte_wp(vma, pmd):
            return False
        if vma.flags & VM_SHARED:
            return pte_dirty(pmd)
        folio = self._kernel.memory.vm_normal_folio_pmd(vma, addr, pmd)
        if folio is None or not folio.anon:
            return False
        return folio.page_exclusive(self._pgtable.pte_pfn(pmd))

    # -- mremap ----------------------------------------------------------------------

    def move_huge_pmd(
        self, vma: VmArea, old_addr: int, old_pmdp: int, new_pmdp: int
    ) -> bool:
        """Move a block to another address of the same process, and flush the old one.

        Both addresses are a block's. False if there is no block, or the place is taken.
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        if not pte_none(pgtable.read(new_pmdp)):
            return False
        old_ptl = memory.pmd_lockptr(old_pmdp)
        new_ptl = memory.pmd_lockptr(new_pmdp)
        old_ptl.acquire()
        huge = pmd_trans_huge(pgtable.read(old_pmdp))
        if not self._machine.holds("pmd_trans_huge", huge):
            old_ptl.release()
            return False
        if new_ptl is not old_ptl:
            new_ptl.acquire()
        pmd = pgtable.ptep_get_and_clear_(old_pmdp)
        if new_ptl is not old_ptl and vma.anonymous:  # pmd_move_must_withdraw()
            self._move_deposited(old_pmdp, new_pmdp)
        if vma_has_uffd_without_event_remap(vma):
            pmd = pte_clear_uffd_wp(pmd)
        pgtable.set_pte(new_pmdp, pmd)
        self._kernel.tlbflush.flush_pmd_tlb_range(
            vma, old_addr, old_addr + pgtable.pmd_size
        )
        if new_ptl is not old_ptl:
            new_ptl.release()
        old_ptl.release()
        return True

    def _move_deposited(self, old_pmdp: int, new_pmdp: int) -> None:
        """Let a stored table follow its block; both locks are held."""
        store = self._kernel.pgtable_generic
        store.pgtable_trans_huge_deposit(
            new_pmdp, store.pgtable_trans_huge_withdraw(old_pmdp)
        )

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
        """Move a block from one area to another of the same process.

        The source entry is locked, and is released; both areas are locked for reading.

        Args:
            mm: The process's address space.
            dst_pmd: Where the destination's entry stands.
            src_pmd: Where the source's stands.
            dst_pmdval: What the destination's said: nothing.
            dst_vma: The destination's area.
            src_vma: The source's area.
            dst_addr: Of the destination block.
            src_addr: Of the source block.

        Returns:
            0 or a negative error number; after ``-EAGAIN`` it may be tried again.
        """
        size = self._pgtable.pmd_size
        src_ptl = self._kernel.memory.pmd_lockptr(src_pmd)
        src_ptl.assert_held()
        src_pmdval = self._pgtable.read(src_pmd)
        if not pte_none(dst_pmdval) or (src_addr | dst_addr) & (size - 1):
            src_ptl.release()
            return -EINVAL
        if not pmd_trans_huge(src_pmdval):
            src_ptl.release()
            return -ENOENT
        folio = None
        if not self.is_huge_zero_pmd(src_pmdval):
            folio = self.folio_of(src_pmdval)
            if not folio.page_exclusive(folio.pfn):
                src_ptl.release()
                return -EBUSY
            folio.refcount += 1
        src_ptl.release()
        with self._kernel.mmu_notifier.invalidate_range(
            mm, "CLEAR", src_addr, src_addr + size
        ):
            if folio is None:
                return self._move_block(
                    dst_pmd, src_pmd, src_pmdval, dst_vma, src_vma, dst_addr, src_addr
                )
            folio_lock(self._machine, folio)
            rmap = self._kernel.rmap
            anon_vma = rmap.folio_get_anon_vma(folio)
            error = -EAGAIN
            if anon_vma is not None:
                # A split looks for the folio's entries under this lock alone.
                rmap.anon_vma_lock_write(anon_vma)
                error = self._move_block(
                    dst_pmd, src_pmd, src_pmdval, dst_vma, src_vma, dst_addr, src_addr
                )
                rmap.anon_vma_unlock_write(anon_vma)
                rmap.put_anon_vma(anon_vma)
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
        return error

    # -- the lock of a huge entry ----------------------------------------------------

    def pmd_trans_huge_lock(self, pmdp: int, vma: VmArea) -> SpinLock | None:
        """Return the PTL of a huge PMD entry, taken; ``None`` if it is not huge.

        Source: include/linux/huge_mm.h, pmd_trans_huge_lock()
        """
        if not pmd_trans_huge(self._pgtable.read(pmdp)):
            return None
        return self.pmd_trans_huge_lock_(pmdp, vma)

    def pmd_trans_huge_lock_(self, pmdp: int, vma: VmArea) -> SpinLock | None:
        """Do so without a look before the lock is taken.

        Source: mm/huge_memory.c, __pmd_trans_huge_lock()
        """
        del vma
        ptl = self._kernel.memory.pmd_lockptr(pmdp)
        ptl.acquire()
        if pmd_trans_huge(self._pgtable.read(pmdp)):
            return ptl
        ptl.release()
        return None

    def _move_block(
        self,
        dst_pmd: int,
        src_pmd: int,
        src_pmdval: int,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_addr: int,
        src_addr: int,
    ) -> int:
        """Move a block entry and its stored table; the folio, if any, is locked."""
        pgtable = self._pgtable
        rmap = self._kernel.rmap
        src_ptl = self._kernel.memory.pmd_lockptr(src_pmd)
        dst_ptl = self._kernel.memory.pmd_lockptr(dst_pmd)
        double_pt_lock(src_ptl, dst_ptl)
        error = 0
        same = pgtable.read(src_pmd) == src_pmdval and pte_none(pgtable.read(dst_pmd))
        if not self._machine.holds("pmd_same", same):
            error = -EAGAIN
        elif self.is_huge_zero_pmd(src_pmdval):
            pmd = self._kernel.pgtable_generic.pmdp_huge_clear_flush(
                src_vma, src_addr, src_pmd
            )
            pgtable.set_pte(dst_pmd, self.moved_huge_zero_pmd(pmd, dst_vma))
            self._move_deposited(src_pmd, dst_pmd)
        else:
            folio = self.folio_of(src_pmdval)
            if folio.maybe_dma_pinned() or not folio.page_exclusive(folio.pfn):
                error = -EBUSY
            else:
                pmd = self._kernel.pgtable_generic.pmdp_huge_clear_flush(
                    src_vma, src_addr, src_pmd
                )
                if folio.maybe_dma_pinned():
                    pgtable.set_pte(src_pmd, pmd)
                    error = -EBUSY
                else:
                    rmap.folio_move_anon_rmap(folio, dst_vma)
                    folio.index = rmap.linear_page_index(dst_vma, dst_addr)
                    entry = pgtable.mk_huge_pmd(folio.pfn, dst_vma.page_prot)
                    entry = self._kernel.memory.maybe_mkwrite(
                        pte_mkdirty(entry), dst_vma
                    )
                    pgtable.set_pte(dst_pmd, entry)
                    self._move_deposited(src_pmd, dst_pmd)
        double_pt_unlock(src_ptl, dst_ptl)
        return error

    def moved_huge_zero_pmd(self, pmd: int, dst_vma: VmArea) -> int:
        """Return what maps the huge zero folio at its new place, given what did before.

        The entry moves as it is: what marks it as no normal page moves along.
        """
        del dst_vma
        return pte_clear_uffd_wp(pmd)
