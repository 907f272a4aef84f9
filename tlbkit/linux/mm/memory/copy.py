"""fork's copy of page tables: the part of mm/memory.c from copy_nonpresent_pte() on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pte_clear_uffd_wp,
    pte_mkclean,
    pte_mkdirty,
    pte_mkold,
    pte_mkuffd_wp,
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
    SLOT,
)
from tlbkit.linux.include.linux.huge_mm import pmd_is_huge
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    VM_COPY_ON_FORK,
    VM_SHARED,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.mm_types import (
    AnonVma,
    Folio,
    LargeFolio,
)
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_GUARD,
    PTE_MARKER_POISONED,
    PTE_MARKER_UFFD_WP,
    SWP_MIGRATION_READ,
    SWP_PTE_MARKER,
    is_migration_entry,
    make_pte_marker,
    make_readable_migration_pte,
    non_swap_entry,
    pte_swp_exclusive,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import userfaultfd_pte_wp, userfaultfd_wp
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN, ENOMEM
from tlbkit.linux.mm.internal import (
    FPB_MERGE_WRITE,
    FPB_RESPECT_DIRTY,
    folio_pte_batch_flags,
)
from tlbkit.linux.mm.memory.normal import MemoryNormal
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_PROTECTION_PAGE

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.include.linux.swapops import SwpEntry


class MemoryCopy(MemoryNormal):
    """Shares pages with a child.

    The source of a copy is called *src* and its target *dst*, as in the kernel: areas
    (``dst_vma``), and where entries stand (``dst_pte``).
    """

    __slots__ = ()

    @staticmethod
    def copy_pte_marker(entry: SwpEntry, dst_vma: VmArea) -> int:
        """Return the bits of a marker that *dst_vma* takes over.

        That a page is write-protected is of no use to an area that nobody watches.

        Source: include/linux/mm_inline.h, copy_pte_marker()
        """
        marker = entry.offset & (PTE_MARKER_POISONED | PTE_MARKER_GUARD)
        if entry.offset & PTE_MARKER_UFFD_WP and userfaultfd_wp(dst_vma):
            marker |= PTE_MARKER_UFFD_WP
        return marker

    def copy_nonpresent_pte(
        self, dst_vma: VmArea, src_vma: VmArea, dst_pte: int, src_pte: int
    ) -> None:
        """Copy an entry that maps nothing now.

        A page that is in swap, or migrates, belongs to both from now on.

        Source: mm/memory.c, copy_nonpresent_pte()
        Deviates: swap counts have no continuation pages, so nothing can fail; there is
        no device memory.
        """
        pgtable = self._pgtable
        orig_pte = pte = pgtable.read(src_pte)
        entry = pte_to_swp_entry(orig_pte)
        if not non_swap_entry(entry):
            self._kernel.swapfile.swap_duplicate(entry)
            if pte_swp_exclusive(orig_pte):
                pte = orig_pte & ~PTE_SWP_EXCLUSIVE
                pgtable.set_pte(src_pte, pte)
            dst_vma.mm.swapents += 1
        elif is_migration_entry(entry):
            dst_vma.mm.anonpages += 1
            if entry.type != SWP_MIGRATION_READ and is_cow_mapping(src_vma.flags):
                pte = make_readable_migration_pte(orig_pte, exclusive=False)
                pgtable.set_pte(src_pte, pte)
        elif entry.type == SWP_PTE_MARKER:
            marker = self.copy_pte_marker(entry, dst_vma)
            if marker:
                pgtable.set_pte(dst_pte, make_pte_marker(marker))
            return
        if not userfaultfd_wp(dst_vma):
            pte &= ~PTE_SWP_UFFD_WP
        pgtable.set_pte(dst_pte, pte)

    def copy_present_page(
        self,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_pte: int,
        src_pte: int,
        addr: int,
        prealloc: list[Folio],
        page: int,
    ) -> int:
        """Give the child its own copy of a pinned page at once; the parent's stays.

        Returns:
            0, or ``-EAGAIN`` without a page to copy to.

        Source: mm/memory.c, copy_present_page()
        Deviates: a read of memory never fails (EHWPOISON).
        """
        del src_vma
        if not prealloc:
            return -EAGAIN
        new_folio = prealloc[0]
        self._memory.copy_frame(page, new_folio.pfn)
        prealloc.clear()
        self._kernel.rmap.folio_add_new_anon_rmap(new_folio, dst_vma, addr)
        self._kernel.swap.folio_add_lru(new_folio)
        dst_vma.mm.anonpages += 1
        pte = self._pgtable.pfn_pte(new_folio.pfn, dst_vma.page_prot)
        pte = self._kernel.memory.maybe_mkwrite(pte_mkdirty(pte), dst_vma)
        if userfaultfd_pte_wp(dst_vma, self._pgtable.ptep_get(src_pte)):
            pte = pte_mkuffd_wp(pte)
        self._pgtable.set_ptes(dst_vma.mm, addr, dst_pte, pte, 1)
        return 0

    def copy_present_ptes_(
        self,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_pte: int,
        src_pte: int,
        pte: int,
        addr: int,
        nr: int,
    ) -> None:
        """Write-protect the parent's entries if need be, and store the child's, old.

        Source: mm/memory.c, __copy_present_ptes()
        """
        pgtable = self._pgtable
        if pte & PTE_WRITE and is_cow_mapping(src_vma.flags):
            pgtable.wrprotect_ptes(src_vma.mm, addr, src_pte, nr)
            pte = pte_wrprotect(pte)
        if src_vma.flags & VM_SHARED:
            pte = pte_mkclean(pte)
        pte = pte_mkold(pte)
        if pte & PTE_UFFD_WP and not userfaultfd_wp(dst_vma):
            pte = pte_clear_uffd_wp(pte)
        pgtable.set_ptes(dst_vma.mm, addr, dst_pte, pte, nr)

    def copy_present_ptes(
        self,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_pte: int,
        src_pte: int,
        pte: int,
        addr: int,
        max_nr: int,
        prealloc: list[Folio],
    ) -> int:
        """Copy one present entry, or those of a large folio that follow it as well.

        The entries of private memory must agree in the dirty state, because the child's
        all get the first one's. It does not matter for shared memory, where the child's
        are clean.

        Args:
            dst_vma: The child's area.
            src_vma: The parent's.
            dst_pte: Where the child's entry goes.
            src_pte: Where the parent's stands.
            pte: What it says.
            addr: The address.
            max_nr: Entries that are left of the area in this table.
            prealloc: The page that was set aside to copy a pinned one to, if any; it is
                taken out once it is used.

        Returns:
            How many were copied. ``-EAGAIN`` asks for a page to copy to; while there is
            one, pages are copied one at a time.

        Source: mm/memory.c, copy_present_ptes()
        """
        rmap = self._kernel.rmap
        page = self.vm_normal_page(src_vma, addr, pte)
        if page is None:
            self.copy_present_ptes_(dst_vma, src_vma, dst_pte, src_pte, pte, addr, 1)
            return 1
        folio = self._kernel.page_alloc.folio_of(page)
        if folio.order and not prealloc and max_nr != 1:
            assert isinstance(folio, LargeFolio)
            flags = FPB_MERGE_WRITE
            if not src_vma.flags & VM_SHARED:
                flags |= FPB_RESPECT_DIRTY
            nr, pte = folio_pte_batch_flags(
                self._pgtable, folio, src_pte, pte, max_nr, flags
            )
            folio.refcount += nr
            if folio.anon:
                if not rmap.folio_try_dup_anon_rmap_ptes(
                    folio, page, nr, dst_vma, src_vma
                ):
                    folio.refcount -= nr
                    return -EAGAIN
                dst_vma.mm.anonpages += nr
            else:
                rmap.folio_dup_file_rmap_ptes(folio, page, nr, dst_vma)
                self._kernel.swap.inc_file_counter(dst_vma.mm, folio, nr)
            self.copy_present_ptes_(dst_vma, src_vma, dst_pte, src_pte, pte, addr, nr)
            return nr
        folio.refcount += 1
        if isinstance(folio.mapping, AnonVma):  # folio_test_anon()
            if not rmap.folio_try_dup_anon_rmap_pte(folio, page, dst_vma, src_vma):
                self._kernel.swap.folio_put(folio)
                error = self.copy_present_page(
                    dst_vma, src_vma, dst_pte, src_pte, addr, prealloc, page
                )
                return error or 1
            dst_vma.mm.anonpages += 1
        else:
            rmap.folio_dup_file_rmap_ptes(folio, page, 1, dst_vma)
            self._kernel.swap.inc_file_counter(dst_vma.mm, folio)
        self.copy_present_ptes_(dst_vma, src_vma, dst_pte, src_pte, pte, addr, 1)
        return 1

    def copy_pte_range(
        self,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_pmd: int,
        src_pmd: int,
        addr: int,
        end: int,
    ) -> int:
        """Copy the entries of one table; 0 or ``-ENOMEM``.

        Source: mm/memory.c, copy_pte_range()
        Deviates: the resident set is counted page by page, not once a round; nobody
        asks for the CPU, so a round ends only where a page must be set aside.
        """
        pgtable = self._pgtable
        size = pgtable.page_size
        last = pgtable.ptrs_per_pte - 1
        maps = self._kernel.pgtable_generic
        prealloc: list[Folio] = []
        ret = 0
        while addr != end:
            if not self.pte_alloc(dst_vma.mm, dst_pmd):
                ret = -ENOMEM
                break
            dst = maps.pte_offset_map_lock(dst_vma.mm, dst_pmd, addr)
            if dst is None:
                ret = -ENOMEM
                break
            dst_pte, dst_ptl = dst
            src = maps.pte_offset_map_rw_nolock(src_vma.mm, src_pmd, addr)
            if src is None:
                dst_ptl.release()
                break
            src_pte, _, src_ptl = src
            src_ptl.acquire()
            pgtable.arch_enter_lazy_mmu_mode()
            table = self._memory.frame(src_pte >> pgtable.page_shift)
            while addr != end:
                nr = 1
                ptent = table[src_pte >> 3 & last]
                if ptent & PTE_CONT:
                    ptent = pgtable.ptep_get(src_pte)
                if ptent & PTE_VALID or pte_present(ptent):
                    ret = self.copy_present_ptes(
                        dst_vma,
                        src_vma,
                        dst_pte,
                        src_pte,
                        ptent,
                        addr,
                        (end - addr) // size,
                        prealloc,
                    )
                    if ret == -EAGAIN:
                        break
                    if prealloc:
                        # It was for another page, which is not pinned any more.
                        self._kernel.swap.folio_put(prealloc.pop())
                    nr = ret
                elif ptent:
                    self.copy_nonpresent_pte(dst_vma, src_vma, dst_pte, src_pte)
                dst_pte += nr * SLOT
                src_pte += nr * SLOT
                addr += nr * size
            pgtable.arch_leave_lazy_mmu_mode()
            src_ptl.release()
            dst_ptl.release()
            if ret == -EAGAIN:
                folio = self._kernel.page_alloc.alloc()
                if folio is None:
                    return -ENOMEM
                prealloc.append(folio)
            ret = 0
        if prealloc:
            self._kernel.swap.folio_put(prealloc.pop())
        return ret

    def copy_pmd_range(
        self,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_pud: int,
        src_pud: int,
        addr: int,
        end: int,
    ) -> int:
        """Copy what one PMD table holds; 0 or ``-ENOMEM``.

        The child gets a PMD table before anybody looks whether it needs one.

        Source: mm/memory.c, copy_pmd_range()
        """
        pgtable = self._pgtable
        dst_pmd = self.pmd_alloc(dst_vma.mm, addr)
        if dst_pmd is None:
            return -ENOMEM
        del dst_pud
        src_pmd = pgtable.pmd_offset(src_pud, addr)
        while addr != end:
            following = pgtable.addr_end(addr, end, pgtable.pmd_shift)
            pmd = pgtable.read(src_pmd)
            copied = -EAGAIN
            if pmd_is_huge(pmd):
                copied = self._kernel.huge_memory.copy_huge_pmd(
                    dst_vma.mm, dst_pmd, src_pmd, addr, dst_vma, src_vma
                )
                if copied == -ENOMEM:
                    return -ENOMEM
            if (
                copied
                and not pte_none(pgtable.read(src_pmd))
                and self.copy_pte_range(
                    dst_vma, src_vma, dst_pmd, src_pmd, addr, following
                )
            ):
                return -ENOMEM
            dst_pmd += SLOT
            src_pmd += SLOT
            addr = following
        return 0

    def copy_pud_range(
        self,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_pgd: int,
        src_pgd: int,
        addr: int,
        end: int,
    ) -> int:
        """Copy what one PUD table holds; 0 or ``-ENOMEM``.

        Source: mm/memory.c, copy_pud_range()
        """
        pgtable = self._pgtable
        dst_pud = self.pud_alloc(dst_vma.mm, addr)
        if dst_pud is None:
            return -ENOMEM
        del dst_pgd
        src_pud = pgtable.pud_offset(src_pgd, addr)
        while addr != end:
            following = pgtable.addr_end(addr, end, pgtable.pud_shift)
            copied = -EAGAIN
            if pmd_leaf(pgtable.read(src_pud)):
                copied = self._kernel.huge_memory.copy_huge_pud(
                    dst_vma.mm, src_vma.mm, dst_pud, src_pud, src_vma
                )
                if copied == -ENOMEM:
                    return -ENOMEM
            if (
                copied
                and not pte_none(pgtable.read(src_pud))
                and self.copy_pmd_range(
                    dst_vma, src_vma, dst_pud, src_pud, addr, following
                )
            ):
                return -ENOMEM
            dst_pud += SLOT
            src_pud += SLOT
            addr = following
        return 0

    @staticmethod
    def vma_needs_copy(dst_vma: VmArea, src_vma: VmArea) -> bool:
        """Tell whether a child could not simply fault its pages in again.

        Source: mm/memory.c, vma_needs_copy()
        Deviates: guard regions of a file without a private page are copied by every
        kernel, where only v6.19 and newer ones do.
        """
        if dst_vma.flags & VM_COPY_ON_FORK or dst_vma.maybe_guard:
            return True
        return src_vma.anon_vma is not None

    def copy_page_range(self, dst_vma: VmArea, src_vma: VmArea) -> int:
        """Copy the entries of an area for a child; 0 or a negative error number.

        Source: mm/memory.c, copy_page_range()
        Deviates: copy_p4d_range() is left out, whose level is always folded here.
        """
        if not self.vma_needs_copy(dst_vma, src_vma):
            return 0
        if is_vm_hugetlb_page(src_vma):
            return self._kernel.hugetlb.copy_hugetlb_page_range(dst_vma, src_vma)
        pgtable = self._pgtable
        src_mm = src_vma.mm
        addr, end = src_vma.start, src_vma.end
        is_cow = is_cow_mapping(src_vma.flags)
        notifier = self._kernel.mmu_notifier
        range_ = notifier.mmu_notifier_range_init(
            MMU_NOTIFY_PROTECTION_PAGE, 0, src_mm, addr, end
        )
        if is_cow:
            notifier.mmu_notifier_invalidate_range_start(range_)
            src_mm.write_protect_seq += 1  # raw_write_seqcount_begin()
        ret = 0
        shift = pgtable.pud_shift if pgtable.folded_pud else pgtable.pgdir_shift
        dst_pgd = pgtable.pgd_offset(dst_vma.mm, addr)
        src_pgd = pgtable.pgd_offset(src_mm, addr)
        while addr != end:
            following = pgtable.addr_end(addr, end, shift)
            if (
                pgtable.folded_pud or not pte_none(pgtable.read(src_pgd))
            ) and self.copy_pud_range(
                dst_vma, src_vma, dst_pgd, src_pgd, addr, following
            ):
                ret = -ENOMEM
                break
            dst_pgd += SLOT
            src_pgd += SLOT
            addr = following
        if is_cow:
            src_mm.write_protect_seq += 1  # raw_write_seqcount_end()
            notifier.mmu_notifier_invalidate_range_end(range_)
        return ret
