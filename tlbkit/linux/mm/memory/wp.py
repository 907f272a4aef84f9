"""A write to an entry that is read-only: reuse the page, or copy it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_clear_uffd_wp,
    pte_mkdirty,
    pte_mkuffd_wp,
    pte_mkyoung,
    pte_uffd_wp,
)
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_MKWRITE,
    FAULT_FLAG_UNSHARE,
    FAULT_FLAG_WRITE,
    VM_FAULT_ERROR,
    VM_FAULT_LOCKED,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_MAYSHARE,
    VM_SHARED,
    VM_UFFD_WP,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import (
    AnonVma,
    Folio,
    LargeFolio,
    PG_ksm,
    PG_locked,
    PG_lru,
    PG_swapcache,
    VmFault,
)
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_trylock, folio_unlock
from tlbkit.linux.include.linux.userfaultfd_k import (
    userfaultfd_wp,
    userfaultfd_wp_async,
)
from tlbkit.linux.mm.memory.normal import MemoryNormal
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea


class MemoryWrite(MemoryNormal):
    """Copy on write."""

    __slots__ = ()

    def do_wp_page(self, vmf: VmFault) -> int:
        """Handle a write to a present entry that is not writable; the lock is held."""
        vma = vmf.vma
        ptl = vmf.ptl
        assert ptl is not None
        if not vmf.flags & FAULT_FLAG_UNSHARE and userfaultfd_wp(vma):
            if pte_uffd_wp(vmf.orig_pte):
                if not userfaultfd_wp_async(vma):
                    ptl.release()
                    return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_WP)
                self._clear_uffd_wp(vmf)
            if vma.mm.tlb_flush_pending:
                # Somebody protects pages and has not flushed yet: others may write to
                # the page that is about to be copied.
                self._kernel.tlbflush.flush_tlb_page(vma, vmf.address)
        pfn = self._pgtable.pte_pfn(vmf.orig_pte)
        folio = self.vm_normal_folio(vma, vmf.address, vmf.orig_pte)
        if vma.flags & (VM_SHARED | VM_MAYSHARE):
            # An area that only may be shared is not writable, and so does not get here.
            vmf.page = folio
            if folio is None or vma.dax:
                vmf.page = None
                return self.wp_pfn_shared(vmf)
            return self.wp_page_shared(vmf, folio)
        if folio is not None and isinstance(folio.mapping, AnonVma):
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
        cached = bool(folio.flags & PG_swapcache)
        used = folio.refcount > 1 + cached or folio.flags & PG_locked
        if self._machine.sees("folio_ref_count", used):
            return False
        if cached and not self._leave_swap_cache(folio):
            return False
        self._kernel.rmap.folio_move_anon_rmap(folio, vma)
        return True

    def _wp_can_reuse_large_anon_folio(self, folio: LargeFolio, vma: VmArea) -> bool:
        """Tell the same of a large folio: only entries of *vma*'s mm may hold it.

        One that only a single page is left of is better copied, and let go.
        """
        if folio.mapcount <= 1 or folio.maybe_mapped_shared:
            return False
        if folio.flags & PG_swapcache and not self._leave_swap_cache(folio):
            return False
        if folio.mapcount != folio.refcount:
            return False
        self._kernel.rmap.folio_move_anon_rmap(folio, vma)
        return True

    def _leave_swap_cache(self, folio: Folio) -> bool:
        """Free the slots of a folio; false if it is locked or an entry needs them."""
        if not folio_trylock(folio):
            return False
        freed = self._kernel.swapfile.folio_free_swap(folio)
        folio_unlock(self._machine, folio)
        return freed

    def wp_page_reuse(self, vmf: VmFault) -> None:
        """Make the entry writable where it stands, and release the lock."""
        vma, ptep, ptl = vmf.vma, vmf.pte, vmf.ptl
        assert ptep is not None
        assert ptl is not None
        entry = pte_mkyoung(vmf.orig_pte)
        entry = self.maybe_mkwrite(pte_mkdirty(entry), vma)
        self._kernel.fault.ptep_set_access_flags(
            vma, vmf.address, ptep, entry, dirty=True
        )
        ptl.release()

    def maybe_mkwrite(self, pte: int, vma: VmArea) -> int:
        """Make an entry writable if its area is."""
        return self._pgtable.pte_mkwrite(pte) if vma.flags & VM_WRITE else pte

    def wp_page_shared(self, vmf: VmFault, folio: Folio) -> int:
        """Let a shared page be written, once its owner knows; the lock is held."""
        assert vmf.vma.ops is not None
        assert vmf.ptl is not None
        folio.refcount += 1
        result = 0
        if vmf.vma.ops.has("page_mkwrite"):
            vmf.ptl.release()
            told = self.do_page_mkwrite(vmf)
            if not told or told & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
                self._kernel.swap.folio_put(folio)
                return told
            if not self.finish_mkwrite_fault(vmf):
                folio_unlock(self._machine, folio)
                self._kernel.swap.folio_put(folio)
                return 0
        else:
            self.wp_page_reuse(vmf)
            folio_lock(self._machine, folio)
        result |= self.fault_dirty_shared_page(vmf)
        self._kernel.swap.folio_put(folio)
        return result

    def wp_pfn_shared(self, vmf: VmFault) -> int:
        """Let a shared frame that is no page be written; the lock is held."""
        assert vmf.vma.ops is not None
        assert vmf.ptl is not None
        if vmf.vma.ops.has("pfn_mkwrite"):
            vmf.ptl.release()
            vmf.flags |= FAULT_FLAG_MKWRITE
            told = vmf.vma.ops.pfn_mkwrite(vmf)
            if told & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
                return told
            self.finish_mkwrite_fault(vmf)
            return 0
        self.wp_page_reuse(vmf)
        return 0

    def finish_mkwrite_fault(self, vmf: VmFault) -> bool:
        """Make the entry writable, now that the owner knows; false if it changed."""
        found = self._kernel.pgtable_generic.pte_offset_map_lock(
            vmf.vma.mm, vmf.pmd, vmf.address
        )
        if found is None:
            return False
        vmf.pte, vmf.ptl = found
        if self._pgtable.ptep_get(vmf.pte) != vmf.orig_pte:
            vmf.ptl.release()
            return False
        self.wp_page_reuse(vmf)
        return True

    def do_page_mkwrite(self, vmf: VmFault) -> int:
        """Tell the owner that ``vmf.page`` is about to be written.

        ``VM_FAULT_LOCKED`` with the page locked; 0 if the fault must be tried again.
        """
        folio = vmf.page
        assert vmf.vma.ops is not None
        assert folio is not None
        flags = vmf.flags
        vmf.flags = FAULT_FLAG_WRITE | FAULT_FLAG_MKWRITE
        result = vmf.vma.ops.page_mkwrite(vmf)
        vmf.flags = flags
        if result & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
            return result
        if not result & VM_FAULT_LOCKED:
            folio_lock(self._machine, folio)
            if folio.mapping is None:
                folio_unlock(self._machine, folio)
                return 0
        return result | VM_FAULT_LOCKED

    def fault_dirty_shared_page(self, vmf: VmFault) -> int:
        """Note that a locked page of a shared area was written, and unlock it."""
        folio = vmf.page
        assert folio is not None
        self._kernel.page_writeback.folio_mark_dirty(folio)
        folio_unlock(self._machine, folio)
        return 0

    def wp_page_copy(self, vmf: VmFault) -> int:
        """Give the faulting process its own copy of a page.

        The old entry is cleared and flushed everywhere before the new one is stored,
        so that no two CPUs ever translate the address to different frames.
        """
        vma = vmf.vma
        pgtable = self._pgtable
        old = vmf.page
        self._kernel.rmap.anon_vma_prepare(vma)
        new = self._kernel.page_alloc.alloc()
        if new is None:
            if old is not None:
                self._kernel.swap.folio_put(old)
            return VM_FAULT_OOM
        self._memory.copy_frame(pgtable.pte_pfn(vmf.orig_pte), new.pfn)
        copied = False
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, vmf.address, vmf.address + pgtable.page_size
        ):
            found = self._kernel.pgtable_generic.pte_offset_map_lock(
                vma.mm, vmf.pmd, vmf.address
            )
            if found is not None:
                vmf.pte, vmf.ptl = ptep, ptl = found
                same = pgtable.ptep_get(ptep) == vmf.orig_pte
                if self._machine.holds("pte_same", same):
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
                    self._kernel.pgtable_generic.ptep_clear_flush(
                        vma, vmf.address, ptep
                    )
                    self._kernel.rmap.folio_add_new_anon_rmap(new, vma, vmf.address)
                    self._kernel.swap.folio_add_lru(new)
                    pgtable.set_pte(ptep, entry)
                    if old is not None:
                        # Only now: until the flush others could use the old page.
                        pfn = pgtable.pte_pfn(vmf.orig_pte)
                        self._kernel.rmap.folio_remove_rmap_pte(old, pfn, vma)
                ptl.release()
        if not copied:
            self._kernel.swap.folio_put(new)
        elif old is not None:
            self._kernel.swap.folio_put(old)
            self._kernel.swap_state.free_swap_cache(old)
        if old is not None:
            self._kernel.swap.folio_put(old)
        return 0
