"""fork's copy of the tables of an area."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_clear_uffd_wp,
    pte_mkclean,
    pte_mkdirty,
    pte_mkold,
    pte_none,
    pte_present,
    pte_wrprotect,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    PTE_CONT,
    PTE_SWP_EXCLUSIVE,
    PTE_SWP_UFFD_WP,
    PTE_UFFD_WP,
    PTE_VALID,
    PTE_WRITE,
)
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SHARED,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.mm_types import (
    AnonVma,
    Folio,
    LargeFolio,
)
from tlbkit.linux.include.linux.swapops import (
    is_migration_entry,
    make_readable_migration_pte,
    non_swap_entry,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import userfaultfd_wp
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN, ENOMEM
from tlbkit.linux.mm.internal import (
    FPB_MERGE_WRITE,
    FPB_RESPECT_DIRTY,
    folio_pte_batch_flags,
)
from tlbkit.linux.mm.memory.normal import MemoryNormal

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea


class MemoryCopy(MemoryNormal):
    """Shares pages with a child."""

    __slots__ = ()

    def copy_page_range(self, child: VmArea, parent: VmArea) -> int:
        """Copy the entries of an area for a child; 0 or a negative error number."""
        if not self.vma_needs_copy(child, parent):
            return 0
        if is_vm_hugetlb_page(parent):
            return self._kernel.hugetlb.copy_hugetlb_page_range(child, parent)
        is_cow = is_cow_mapping(parent.flags)
        notifier = self._kernel.mmu_notifier
        span = (parent.mm, "PROTECTION_PAGE", parent.start, parent.end)
        if is_cow:
            notifier.invalidate_range_start(*span)
            parent.mm.write_protect_seq += 1  # raw_write_seqcount_begin()
        error = self.copy_pud_leaves(child, parent)
        for pmdp, addr, end in self.pmd_entries(parent.mm, parent.start, parent.end):
            if error:
                break
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
            parent.mm.write_protect_seq += 1  # raw_write_seqcount_end()
            notifier.invalidate_range_end(*span)
        return error

    def copy_pud_leaves(self, child: VmArea, parent: VmArea) -> int:
        """Copy the blocks that PUD entries map; 0 or a negative error number."""
        if parent.anonymous:
            return 0
        for pudp, addr, _ in self.pud_leaves(parent.mm, parent.start, parent.end):
            child_pudp = self.pud_alloc(child.mm, addr)
            if child_pudp is None:
                return -ENOMEM
            huge = self._kernel.huge_memory
            error = huge.copy_huge_pud(child, parent, child_pudp, pudp)
            if error:
                return error
        return 0

    @staticmethod
    def vma_needs_copy(child: VmArea, parent: VmArea) -> bool:
        """Tell whether a child could not simply fault its pages in again."""
        if userfaultfd_wp(child) or parent.flags & (VM_PFNMAP | VM_MIXEDMAP):
            return True
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
        last = pgtable.ptrs_per_pte - 1
        maps = self._kernel.pgtable_generic
        prealloc: Folio | None = None
        while addr < end:
            child_found = maps.pte_offset_map_lock(child.mm, child_pmdp, addr)
            if child_found is None:
                return -ENOMEM
            target, child_ptl = child_found
            found = maps.pte_offset_map_rw_nolock(parent.mm, pmdp, addr)
            if found is None:
                child_ptl.release()
                break  # it was huge, and another CPU has taken it away
            source, _, ptl = found
            ptl.acquire()
            table = self._memory.frame(source >> pgtable.page_shift)
            error = 0
            while addr < end:
                pte = table[source >> 3 & last]
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

        A page that is in swap, or migrates, belongs to both from now on.
        """
        entry = pte_to_swp_entry(pte)
        if is_migration_entry(entry):
            child.mm.anonpages += 1
            pte = make_readable_migration_pte(pte, exclusive=False)
        elif not non_swap_entry(entry):
            self._kernel.swapfile.swap_duplicate(entry)
            child.mm.swapents += 1
            pte &= ~PTE_SWP_EXCLUSIVE
        else:
            return
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
        page = self.vm_normal_page(parent, addr, pte)
        if page is not None:
            folio = self._kernel.page_alloc.folio_of(page)
            if folio.order and prealloc is None:
                return self._copy_large(
                    folio, child, parent, target, source, pte, addr, end
                )
            folio.refcount += 1
            if isinstance(folio.mapping, AnonVma):
                if not self._kernel.rmap.folio_try_dup_anon_rmap_pte(
                    folio, page, child, parent
                ):
                    folio.refcount -= 1
                    return self.copy_present_page(child, target, pte, addr, prealloc)
                child.mm.anonpages += 1
            else:
                self._kernel.rmap.folio_dup_file_rmap_ptes(folio, page, 1, child)
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
        pgtable.set_pte(
            target, self._kernel.memory.maybe_mkwrite(pte_mkdirty(entry), child)
        )
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
        if pte & PTE_WRITE and is_cow_mapping(parent.flags):
            if several:
                pgtable.wrprotect_ptes(parent.mm, addr, source, nr)
                pte = pte_wrprotect(pte)
            else:
                # Read anew: a pin by GUP-fast may come between, __ptep_set_wrprotect().
                pte = pgtable.ptep_set_wrprotect_(source, pgtable.read(source))
        if parent.flags & VM_SHARED:
            pte = pte_mkclean(pte)
        pte = pte_mkold(pte)
        if pte & PTE_UFFD_WP:
            pte = pte_clear_uffd_wp(pte)
        if several:
            pgtable.set_ptes(child.mm, addr, target, pte, nr)
        else:
            pgtable.set_pte(target, pte)
