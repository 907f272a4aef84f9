"""A write to an entry that is read-only: the part of mm/memory.c up to do_wp_page().

Compared with: v6.17, v6.18 and v6.19, which agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_clear_uffd_wp,
    pte_mkdirty,
    pte_mkuffd_wp,
    pte_mkyoung,
    pte_uffd_wp,
)
from tlbkit.linux.include.linux.fs import vma_is_fsdax
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

    def maybe_mkwrite(self, pte: int, vma: VmArea) -> int:
        """Make an entry writable if its VMA is.

        Source: include/linux/mm.h, maybe_mkwrite()
        """
        return self._pgtable.pte_mkwrite(pte) if vma.flags & VM_WRITE else pte

    def do_page_mkwrite(self, vmf: VmFault, folio: Folio) -> int:
        """Tell the owner that *folio* is about to be written.

        ``VM_FAULT_LOCKED`` with the folio locked; 0 if the fault must be tried again.

        Source: mm/memory.c, do_page_mkwrite()

        Deviates: no file that is mapped is swapped to.
        """
        assert vmf.vma.ops is not None
        old_flags = vmf.flags
        vmf.flags = FAULT_FLAG_WRITE | FAULT_FLAG_MKWRITE
        ret = vmf.vma.ops.page_mkwrite(vmf)
        vmf.flags = old_flags
        if ret & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
            return ret
        if not ret & VM_FAULT_LOCKED:
            folio_lock(self._machine, folio)
            if folio.mapping is None:
                folio_unlock(self._machine, folio)
                return 0
            ret |= VM_FAULT_LOCKED
        return ret

    def fault_dirty_shared_page(self, vmf: VmFault) -> int:
        """Note that a locked page of a shared VMA was written, and unlock it.

        Source: mm/memory.c, fault_dirty_shared_page()

        Deviates: files have no times, and who dirties pages is not slowed down.
        """
        folio = vmf.page
        assert folio is not None
        self._kernel.page_writeback.folio_mark_dirty(folio)
        folio_unlock(self._machine, folio)
        return 0

    def wp_page_reuse(self, vmf: VmFault) -> None:
        """Make the entry writable where it stands, and release the PTL.

        Source: mm/memory.c, wp_page_reuse()
        """
        vma, ptep, ptl = vmf.vma, vmf.pte, vmf.ptl
        assert ptep is not None
        assert ptl is not None
        entry = pte_mkyoung(vmf.orig_pte)
        entry = self.maybe_mkwrite(pte_mkdirty(entry), vma)
        self._kernel.fault.ptep_set_access_flags(
            vma, vmf.address, ptep, entry, dirty=True
        )
        ptl.release()

    def wp_page_copy(self, vmf: VmFault) -> int:
        """Give the faulting process its own copy of a page.

        The old entry is cleared and flushed everywhere before the new one is stored,
        so that no two CPUs ever translate the address to different frames.

        Source: mm/memory.c, wp_page_copy()

        Deviates: a frame that is no page is copied like one, and not by way of its
        address in user space, which can fail.
        """
        vma = vmf.vma
        mm = vma.mm
        pgtable = self._pgtable
        unshare = vmf.flags & FAULT_FLAG_UNSHARE
        old_folio = vmf.page
        self._kernel.rmap.anon_vma_prepare(vma)
        pfn = pgtable.pte_pfn(vmf.orig_pte)
        new_folio = self.folio_prealloc(need_zero=self.is_zero_pfn(pfn))
        if new_folio is None:
            if old_folio is not None:
                self._kernel.swap.folio_put(old_folio)
            return VM_FAULT_OOM
        if not self.is_zero_pfn(pfn):
            self._memory.copy_frame(pfn, new_folio.pfn)
        page_copied = False
        put: Folio | None = new_folio
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, mm, vmf.address, vmf.address + pgtable.page_size
        ):
            found = self._kernel.pgtable_generic.pte_offset_map_lock(
                mm, vmf.pmd, vmf.address
            )
            if found is not None:
                vmf.pte, vmf.ptl = ptep, ptl = found
                if self._machine.holds(
                    "pte_same", pgtable.ptep_get(ptep) == vmf.orig_pte
                ):
                    if old_folio is None:
                        mm.anonpages += 1
                    elif not old_folio.anon:
                        self._kernel.swap.dec_file_counter(mm, old_folio)
                        mm.anonpages += 1
                    entry = pte_mkyoung(pgtable.pfn_pte(new_folio.pfn, vma.page_prot))
                    if not unshare:
                        entry = self.maybe_mkwrite(pte_mkdirty(entry), vma)
                    elif pte_uffd_wp(vmf.orig_pte):
                        entry = pte_mkuffd_wp(entry)
                    self._kernel.pgtable_generic.ptep_clear_flush(
                        vma, vmf.address, ptep
                    )
                    self._kernel.rmap.folio_add_new_anon_rmap(
                        new_folio, vma, vmf.address
                    )
                    self._kernel.swap.folio_add_lru(new_folio)
                    pgtable.set_pte(ptep, entry)
                    if old_folio is not None:
                        # Only now: until the flush others could use the old page.
                        self._kernel.rmap.folio_remove_rmap_pte(old_folio, pfn, vma)
                    put = old_folio
                    page_copied = True
                ptl.release()
        if put is not None:
            self._kernel.swap.folio_put(put)
        if old_folio is not None:
            if page_copied:
                self._kernel.swap_state.free_swap_cache(old_folio)
            self._kernel.swap.folio_put(old_folio)
        return 0

    def folio_prealloc(self, *, need_zero: bool) -> Folio | None:
        """Return a page for a copy, or ``None`` without memory.

        Source: mm/memory.c, folio_prealloc()

        Deviates: nobody is charged for memory.
        """
        pages = self._kernel.page_alloc
        return pages.alloc_zeroed() if need_zero else pages.alloc()

    def finish_mkwrite_fault(self, vmf: VmFault) -> int:
        """Make the entry writable, now that the owner knows.

        ``VM_FAULT_NOPAGE`` if it has changed; 0 with the PTL released otherwise.

        Source: mm/memory.c, finish_mkwrite_fault()
        """
        found = self._kernel.pgtable_generic.pte_offset_map_lock(
            vmf.vma.mm, vmf.pmd, vmf.address
        )
        if found is None:
            return VM_FAULT_NOPAGE
        vmf.pte, vmf.ptl = found
        if self._pgtable.ptep_get(vmf.pte) != vmf.orig_pte:
            vmf.ptl.release()
            return VM_FAULT_NOPAGE
        self.wp_page_reuse(vmf)
        return 0

    def wp_pfn_shared(self, vmf: VmFault) -> int:
        """Let a shared frame that is no page be written; the PTL is held.

        Source: mm/memory.c, wp_pfn_shared()
        """
        ops = vmf.vma.ops
        if ops is not None and ops.has("pfn_mkwrite"):
            assert vmf.ptl is not None
            vmf.ptl.release()
            vmf.flags |= FAULT_FLAG_MKWRITE
            ret = ops.pfn_mkwrite(vmf)
            if ret & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
                return ret
            return self.finish_mkwrite_fault(vmf)
        self.wp_page_reuse(vmf)
        return 0

    def wp_page_shared(self, vmf: VmFault, folio: Folio) -> int:
        """Let a shared page be written, once its owner knows; the PTL is held.

        Source: mm/memory.c, wp_page_shared()
        """
        ops = vmf.vma.ops
        folio.refcount += 1
        if ops is not None and ops.has("page_mkwrite"):
            assert vmf.ptl is not None
            vmf.ptl.release()
            tmp = self.do_page_mkwrite(vmf, folio)
            if not tmp or tmp & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
                self._kernel.swap.folio_put(folio)
                return tmp
            tmp = self.finish_mkwrite_fault(vmf)
            if tmp & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
                folio_unlock(self._machine, folio)
                self._kernel.swap.folio_put(folio)
                return tmp
        else:
            self.wp_page_reuse(vmf)
            folio_lock(self._machine, folio)
        ret = self.fault_dirty_shared_page(vmf)
        self._kernel.swap.folio_put(folio)
        return ret

    def wp_can_reuse_large_anon_folio_(self, folio: LargeFolio) -> bool:
        """Tell whether only entries of one mm hold a large folio.

        One that only a single page is left of is better copied, and let go.

        Source: mm/memory.c, __wp_can_reuse_large_anon_folio()

        Deviates: counts do not change meanwhile, so they are read once and not again
        under the folio's own lock.
        """
        if folio.mapcount <= 1:
            return False
        if folio.maybe_mapped_shared:
            return False
        if folio.flags & PG_swapcache:
            if not folio_trylock(folio):
                return False
            self._kernel.swapfile.folio_free_swap(folio)
            folio_unlock(self._machine, folio)
        return folio.mapcount == folio.refcount

    def wp_can_reuse_anon_folio(self, folio: Folio, vma: VmArea) -> bool:
        """Tell whether nobody else can reach an anonymous folio, and make it *vma*'s.

        A reference from a batch on its way to the LRU lists is ours to drop; any other
        means that somebody may look at the page.

        Source: mm/memory.c, wp_can_reuse_anon_folio()
        """
        if isinstance(folio, LargeFolio):
            return self.wp_can_reuse_large_anon_folio_(folio)
        if folio.flags & PG_ksm or folio.refcount > 3:
            return False
        if not folio.flags & PG_lru:
            self._kernel.swap.lru_add_drain()
        sees = self._machine.sees
        expected = 1 + bool(folio.flags & PG_swapcache)
        if sees("folio_ref_count", folio.refcount > expected):
            return False
        if not folio_trylock(folio):
            return False
        if folio.flags & PG_swapcache:
            self._kernel.swapfile.folio_free_swap(folio)
        if folio.flags & PG_ksm or sees("folio_ref_count", folio.refcount != 1):
            folio_unlock(self._machine, folio)
            return False
        self._kernel.rmap.folio_move_anon_rmap(folio, vma)
        folio_unlock(self._machine, folio)
        return True

    def do_wp_page(self, vmf: VmFault) -> int:
        """Handle a write to a present entry that is not writable; the PTL is held.

        Or a pin that wants to read an anonymous page which may be shared
        (``FAULT_FLAG_UNSHARE``): it needs a page that stays, too.

        Source: mm/memory.c, do_wp_page()
        """
        vma = vmf.vma
        ptl = vmf.ptl
        assert ptl is not None
        assert vmf.pte is not None
        unshare = vmf.flags & FAULT_FLAG_UNSHARE
        if not unshare and userfaultfd_wp(vma):
            if pte_uffd_wp(self._pgtable.ptep_get(vmf.pte)):
                if not userfaultfd_wp_async(vma):
                    ptl.release()
                    return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_WP)
                pte = pte_clear_uffd_wp(self._pgtable.ptep_get(vmf.pte))
                self._pgtable.set_ptes(vma.mm, vmf.address, vmf.pte, pte, 1)
                vmf.orig_pte = pte
            if vma.mm.tlb_flush_pending:
                # Somebody protects pages and has not flushed yet: others may write to
                # the page that is about to be copied.
                self._kernel.tlbflush.flush_tlb_page(vma, vmf.address)
        page = self._pgtable.pte_pfn(vmf.orig_pte)
        folio = vmf.page = self.vm_normal_folio(vma, vmf.address, vmf.orig_pte)
        if vma.flags & (VM_SHARED | VM_MAYSHARE):
            if folio is None or vma_is_fsdax(vma):
                vmf.page = None
                return self.wp_pfn_shared(vmf)
            return self.wp_page_shared(vmf, folio)
        if folio is not None and isinstance(folio.mapping, AnonVma):
            exclusive = folio.page_exclusive(page)
            if exclusive or self.wp_can_reuse_anon_folio(folio, vma):
                if not exclusive:
                    self._kernel.rmap.set_page_anon_exclusive(folio, page)
                if unshare:
                    ptl.release()
                    return 0
                self.wp_page_reuse(vmf)
                return 0
        if folio is not None:
            folio.refcount += 1
        ptl.release()
        return self.wp_page_copy(vmf)
