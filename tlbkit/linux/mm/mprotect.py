"""Changing the rights of mappings: mm/mprotect.c.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    PAGE_NONE,
    pmd_leaf,
    pte_clear_uffd_wp,
    pte_dirty,
    pte_mkuffd_wp,
    pte_modify,
    pte_none,
    pte_present,
    pte_protnone,
    pte_write,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import PTE_SWP_UFFD_WP, SLOT
from tlbkit.linux.include.linux.huge_mm import pmd_is_huge
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    MM_CP_PROT_NUMA,
    MM_CP_TRY_CHANGE_WRITABLE,
    MM_CP_UFFD_WP,
    MM_CP_UFFD_WP_RESOLVE,
    VM_ACCESS_FLAGS,
    VM_ACCOUNT,
    VM_ARM64_BTI,
    VM_HUGETLB,
    VM_LOCKED,
    VM_NORESERVE,
    VM_SHARED,
    VM_WRITE,
)
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_GUARD,
    PTE_MARKER_POISONED,
    PTE_MARKER_UFFD_WP,
    SWP_MIGRATION_WRITE,
    make_pte_marker,
    make_readable_migration_pte,
    migration_entry_pfn,
    pte_marker_get,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    userfaultfd_pte_wp,
    userfaultfd_wp_use_markers,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EACCES,
    EAGAIN,
    EINVAL,
    ENOMEM,
)
from tlbkit.linux.mm.internal import FPB_RESPECT_WRITE, folio_pte_batch_flags
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_PROTECTION_VMA

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, Page, VmArea
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.mm.mmu_gather import MmuGather
    from tlbkit.linux.mm.mmu_notifier import MmuNotifierRange

_MAY_SHIFT = 4  # VM_MAYREAD is VM_READ << 4, and so on
_ULONG_MASK = (1 << 64) - 1


def maybe_change_pte_writable(vma: VmArea, pte: int) -> bool:
    """Tell whether a PTE may become writable, as far as the VMA and the PTE say.

    Source: mm/mprotect.c, maybe_change_pte_writable()
    Deviates: nothing tracks soft-dirty.
    """
    if not vma.flags & VM_WRITE:
        return False
    if pte_protnone(pte):
        return False
    return not userfaultfd_pte_wp(vma, pte)


def can_change_shared_pte_writable(vma: VmArea, pte: int) -> bool:
    """Tell whether a PTE of shared memory may become writable: if it is dirty.

    Then the file system knows of the page already.

    Source: mm/mprotect.c, can_change_shared_pte_writable()
    """
    if not maybe_change_pte_writable(vma, pte):
        return False
    return pte_dirty(pte)


def pgtable_split_needed(vma: VmArea, cp_flags: int) -> bool:
    """Tell whether a huge page must become pages, as only PTEs have markers.

    Source: mm/mprotect.c, pgtable_split_needed()
    """
    return bool(cp_flags & MM_CP_UFFD_WP) and not vma.anonymous


def pgtable_populate_needed(vma: VmArea, cp_flags: int) -> bool:
    """Tell whether tables are made where there are none, for markers.

    Source: mm/mprotect.c, pgtable_populate_needed()
    """
    if not cp_flags & MM_CP_UFFD_WP:
        return False
    return userfaultfd_wp_use_markers(vma)


class Mprotect:
    """mprotect(), and everybody else who changes the rights of a range."""

    __slots__ = ("_kernel", "_machine", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable

    # -- who may write at once -------------------------------------------------------

    def vma_wants_manual_pte_write_upgrade(self, vma: VmArea) -> bool:
        """Tell whether PTEs of *vma* become writable one by one, by their page.

        Shared memory that needs no notice of writes is writable from the start.

        Source: mm/vma.h, vma_wants_manual_pte_write_upgrade()
        """
        if vma.flags & VM_SHARED:
            return self._kernel.vma.vma_wants_writenotify(vma, vma.page_prot)
        return bool(vma.flags & VM_WRITE)

    def can_change_private_pte_writable(self, vma: VmArea, addr: int, pte: int) -> bool:
        """Tell whether a PTE of private memory may become writable.

        Only if its page is anonymous and exclusive: a write fault would do no more.

        Source: mm/mprotect.c, can_change_private_pte_writable()
        """
        if not maybe_change_pte_writable(vma, pte):
            return False
        page = self._kernel.memory.vm_normal_page(vma, addr, pte)
        if page is None:
            return False
        folio = self._kernel.page_alloc.folio_of(page)
        return folio.anon and folio.page_exclusive(page)

    def can_change_pte_writable(self, vma: VmArea, addr: int, pte: int) -> bool:
        """Tell whether a write fault on this PTE would only make it writable.

        Source: mm/mprotect.c, can_change_pte_writable()
        """
        if not vma.flags & VM_SHARED:
            return self.can_change_private_pte_writable(vma, addr, pte)
        return can_change_shared_pte_writable(vma, pte)

    # -- PTEs ------------------------------------------------------------------------

    def mprotect_folio_pte_batch(
        self, folio: Folio | None, ptep: int, pte: int, max_nr_ptes: int, flags: int
    ) -> int:
        """Return how many PTEs from *ptep* on can be changed as one.

        Source: mm/mprotect.c, mprotect_folio_pte_batch()
        """
        if folio is None or not folio.order:
            return 1
        nr, _ = folio_pte_batch_flags(
            self._pgtable, folio, ptep, pte, max_nr_ptes, flags
        )
        return nr

    def modify_prot_start_ptes(self, vma: VmArea, addr: int, ptep: int, nr: int) -> int:
        """Clear PTEs that are to be changed, so that no CPU changes them meanwhile.

        Source: arch/arm64/mm/mmu.c, modify_prot_start_ptes()
        Deviates: no CPU has erratum 2645198, for which executable pages are flushed.
        """
        return self._pgtable.get_and_clear_full_ptes(vma.mm, addr, ptep, nr)

    def prot_commit_flush_ptes(
        self,
        vma: VmArea,
        addr: int,
        ptep: int,
        oldpte: int,
        ptent: int,
        nr_ptes: int,
        idx: int,
        *,
        set_write: bool,
        tlb: MmuGather,
    ) -> None:
        """Store PTEs *idx* to *idx* + *nr_ptes* of a batch, and flush if need be.

        Source: mm/mprotect.c, prot_commit_flush_ptes()
        """
        pgtable = self._pgtable
        if idx:
            addr += idx * pgtable.page_size
            ptep += idx * SLOT
            oldpte = pgtable.pte_advance_pfn(oldpte, idx)
            ptent = pgtable.pte_advance_pfn(ptent, idx)
        if set_write:
            ptent = pgtable.pte_mkwrite(ptent)
        pgtable.set_ptes(vma.mm, addr, ptep, ptent, nr_ptes)
        if self._kernel.tlbflush.pte_needs_flush(oldpte, ptent):
            self._kernel.gather.tlb_flush_pte_range(
                tlb, addr, nr_ptes * pgtable.page_size
            )

    @staticmethod
    def page_anon_exclusive_sub_batch(
        start_idx: int,
        max_len: int,
        folio: Folio,
        first_page: Page,
        *,
        expected_anon_exclusive: bool,
    ) -> int:
        """Return how many pages from *start_idx* on agree in PageAnonExclusive.

        Source: mm/mprotect.c, page_anon_exclusive_sub_batch()
        """
        idx = start_idx + 1
        while idx < start_idx + max_len:
            if folio.page_exclusive(first_page + idx) != expected_anon_exclusive:
                break
            idx += 1
        return idx - start_idx

    def commit_anon_folio_batch(
        self,
        vma: VmArea,
        folio: Folio,
        first_page: Page,
        addr: int,
        ptep: int,
        oldpte: int,
        ptent: int,
        nr_ptes: int,
        tlb: MmuGather,
    ) -> None:
        """Store a batch of PTEs; those whose page is exclusive become writable.

        Each run of pages that agree in this is stored, and looked at for a flush, by
        itself.

        Source: mm/mprotect.c, commit_anon_folio_batch()
        """
        sub_batch_idx = 0
        while nr_ptes:
            exclusive = folio.page_exclusive(first_page + sub_batch_idx)
            length = 1
            if nr_ptes > 1:
                length = self.page_anon_exclusive_sub_batch(
                    sub_batch_idx,
                    nr_ptes,
                    folio,
                    first_page,
                    expected_anon_exclusive=exclusive,
                )
            self.prot_commit_flush_ptes(
                vma,
                addr,
                ptep,
                oldpte,
                ptent,
                length,
                sub_batch_idx,
                set_write=exclusive,
                tlb=tlb,
            )
            sub_batch_idx += length
            nr_ptes -= length

    def set_write_prot_commit_flush_ptes(
        self,
        vma: VmArea,
        folio: Folio | None,
        page: Page | None,
        addr: int,
        ptep: int,
        oldpte: int,
        ptent: int,
        nr_ptes: int,
        tlb: MmuGather,
    ) -> None:
        """Store a batch of PTEs, writable where a write fault would do no more.

        Source: mm/mprotect.c, set_write_prot_commit_flush_ptes()
        """
        if vma.flags & VM_SHARED:
            set_write = can_change_shared_pte_writable(vma, ptent)
        elif (
            maybe_change_pte_writable(vma, ptent)
            and folio is not None
            and page is not None
            and folio.anon
        ):
            self.commit_anon_folio_batch(
                vma, folio, page, addr, ptep, oldpte, ptent, nr_ptes, tlb
            )
            return
        else:
            set_write = False
        self.prot_commit_flush_ptes(
            vma, addr, ptep, oldpte, ptent, nr_ptes, 0, set_write=set_write, tlb=tlb
        )

    def change_pte_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pmd: int,
        addr: int,
        end: int,
        newprot: int,
        cp_flags: int,
    ) -> int:
        """Rewrite the PTEs of one table, and record those that need a flush.

        Returns:
            How many were changed; ``-EAGAIN`` if there is no table any more.

        Source: mm/mprotect.c, change_pte_range()
        Deviates: no page is of a device's own memory.
        """
        pgtable = self._pgtable
        kernel = self._kernel
        prot_numa = cp_flags & MM_CP_PROT_NUMA
        uffd_wp = cp_flags & MM_CP_UFFD_WP
        uffd_wp_resolve = cp_flags & MM_CP_UFFD_WP_RESOLVE
        found = kernel.pgtable_generic.pte_offset_map_lock(vma.mm, pmd, addr)
        if found is None:
            return -EAGAIN
        pte, ptl = found
        pages = 0
        kernel.rmap.flush_tlb_batched_pending(vma.mm)
        pgtable.arch_enter_lazy_mmu_mode()
        while addr < end:
            nr_ptes = 1
            oldpte = pgtable.ptep_get(pte)
            if pte_present(oldpte):
                if not prot_numa or not pte_protnone(oldpte):
                    max_nr_ptes = end - addr >> pgtable.page_shift
                    folio = None
                    page = kernel.memory.vm_normal_page(vma, addr, oldpte)
                    if page is not None:
                        folio = kernel.page_alloc.folio_of(page)
                    if prot_numa and not kernel.mempolicy.folio_can_map_prot_numa(
                        folio, vma
                    ):
                        nr_ptes = self.mprotect_folio_pte_batch(
                            folio, pte, oldpte, max_nr_ptes, 0
                        )
                    else:
                        nr_ptes = self.mprotect_folio_pte_batch(
                            folio, pte, oldpte, max_nr_ptes, FPB_RESPECT_WRITE
                        )
                        oldpte = self.modify_prot_start_ptes(vma, addr, pte, nr_ptes)
                        ptent = pte_modify(oldpte, newprot)
                        if uffd_wp:
                            ptent = pte_mkuffd_wp(ptent)
                        elif uffd_wp_resolve:
                            ptent = pte_clear_uffd_wp(ptent)
                        if cp_flags & MM_CP_TRY_CHANGE_WRITABLE and not pte_write(
                            ptent
                        ):
                            self.set_write_prot_commit_flush_ptes(
                                vma,
                                folio,
                                page,
                                addr,
                                pte,
                                oldpte,
                                ptent,
                                nr_ptes,
                                tlb,
                            )
                        else:
                            self.prot_commit_flush_ptes(
                                vma,
                                addr,
                                pte,
                                oldpte,
                                ptent,
                                nr_ptes,
                                0,
                                set_write=False,
                                tlb=tlb,
                            )
                        pages += nr_ptes
            elif pte_none(oldpte):
                if uffd_wp and userfaultfd_wp_use_markers(vma):
                    pgtable.set_pte(pte, make_pte_marker(PTE_MARKER_UFFD_WP))
                    pages += 1
            elif pte_marker_get(oldpte):
                # What is poisoned, or a guard, is a signal whoever may write.
                fixed = PTE_MARKER_POISONED | PTE_MARKER_GUARD
                if uffd_wp_resolve and not pte_marker_get(oldpte) & fixed:
                    pgtable.set_pte(pte, 0)
                    pages += 1
            else:
                newpte = oldpte
                entry = pte_to_swp_entry(oldpte)
                if entry.type == SWP_MIGRATION_WRITE:
                    folio = kernel.page_alloc.folio_of(migration_entry_pfn(entry))
                    newpte = make_readable_migration_pte(oldpte, exclusive=folio.anon)
                if uffd_wp:
                    newpte |= PTE_SWP_UFFD_WP
                elif uffd_wp_resolve:
                    newpte &= ~PTE_SWP_UFFD_WP
                if newpte != oldpte:
                    pgtable.set_pte(pte, newpte)
                    pages += 1
            pte += nr_ptes * SLOT
            addr += nr_ptes * pgtable.page_size
        pgtable.arch_leave_lazy_mmu_mode()
        ptl.release()
        return pages

    # -- the tables above ------------------------------------------------------------

    def change_pmd_prepare(self, vma: VmArea, pmd: int, cp_flags: int) -> int:
        """Make a PTE table for markers, if they are wanted; 0 or ``-ENOMEM``.

        Source: mm/mprotect.c, change_pmd_prepare()
        """
        if pgtable_populate_needed(vma, cp_flags) and not self._kernel.memory.pte_alloc(
            vma.mm, pmd
        ):
            return -ENOMEM
        return 0

    @staticmethod
    def change_prepare(
        vma: VmArea,
        alloc: Callable[[MmStruct, int], int | None],
        addr: int,
        cp_flags: int,
    ) -> int:
        """Make an upper table by *alloc*, if markers are wanted; 0 or ``-ENOMEM``.

        Source: mm/mprotect.c, change_prepare()
        """
        if pgtable_populate_needed(vma, cp_flags) and alloc(vma.mm, addr) is None:
            return -ENOMEM
        return 0

    def change_pmd_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pud: int,
        addr: int,
        end: int,
        newprot: int,
        cp_flags: int,
    ) -> int:
        """Rewrite what the PMDs of one table map.

        Returns:
            How many pages were changed, or ``-ENOMEM`` without a table for markers.

        Source: mm/mprotect.c, change_pmd_range()
        """
        pgtable = self._pgtable
        huge_memory = self._kernel.huge_memory
        pages = 0
        pmd = pgtable.pmd_offset(pud, addr)
        while addr < end:
            following = pgtable.addr_end(addr, end, pgtable.pmd_shift)
            ret = self.change_pmd_prepare(vma, pmd, cp_flags)
            if ret:
                return ret
            pmdval = pgtable.read(pmd)
            handled = pte_none(pmdval)
            if not handled and pmd_is_huge(pmdval):
                if following - addr != pgtable.pmd_size or pgtable_split_needed(
                    vma, cp_flags
                ):
                    huge_memory.split_huge_pmd_(vma, pmd, addr, freeze=False)
                    ret = self.change_pmd_prepare(vma, pmd, cp_flags)
                    if ret:
                        return ret
                else:
                    ret = huge_memory.change_huge_pmd(
                        tlb, vma, pmd, addr, newprot, cp_flags
                    )
                    if ret == pgtable.hpage_pmd_nr:
                        pages += ret
                    handled = ret != 0
            if not handled:
                ret = self.change_pte_range(
                    tlb, vma, pmd, addr, following, newprot, cp_flags
                )
                if ret < 0:
                    continue
                pages += ret
            pmd += SLOT
            addr = following
        return pages

    def change_pud_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        p4d: int,
        addr: int,
        end: int,
        newprot: int,
        cp_flags: int,
    ) -> int:
        """Rewrite what the PUDs of one table map.

        Devices are told of the range from the first PUD on that is not empty.

        Returns:
            How many pages were changed. An error number from below is added to that, as
            in the C; one from here takes its place.

        Source: mm/mprotect.c, change_pud_range()
        """
        pgtable = self._pgtable
        huge_memory = self._kernel.huge_memory
        notifier = self._kernel.mmu_notifier
        range_: MmuNotifierRange | None = None
        pages = 0
        pudp = pgtable.pud_offset(p4d, addr)
        while addr < end:
            following = pgtable.addr_end(addr, end, pgtable.pud_shift)
            ret = self.change_prepare(
                vma, self._kernel.memory.pmd_alloc, addr, cp_flags
            )
            if ret:
                pages = ret
                break
            pud = pgtable.read(pudp)
            if not pte_none(pud):
                if range_ is None:
                    range_ = notifier.mmu_notifier_range_init(
                        MMU_NOTIFY_PROTECTION_VMA, 0, vma.mm, addr, end
                    )
                    notifier.mmu_notifier_invalidate_range_start(range_)
                if not pmd_leaf(pud):
                    pages += self.change_pmd_range(
                        tlb, vma, pudp, addr, following, newprot, cp_flags
                    )
                elif following - addr != pgtable.pud_size or pgtable_split_needed(
                    vma, cp_flags
                ):
                    huge_memory.split_huge_pud_(vma, pudp, addr)
                    continue
                else:
                    ret = huge_memory.change_huge_pud(
                        tlb, vma, pudp, addr, newprot, cp_flags
                    )
                    if not ret:
                        continue
                    if ret == pgtable.hpage_pud_nr:
                        pages += ret
            pudp += SLOT
            addr = following
        if range_ is not None:
            notifier.mmu_notifier_invalidate_range_end(range_)
        return pages

    def change_p4d_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pgd: int,
        addr: int,
        end: int,
        newprot: int,
        cp_flags: int,
    ) -> int:
        """Rewrite what one P4D maps, which is the PGD.

        Source: mm/mprotect.c, change_p4d_range()
        Deviates: the level of the P4D is folded, so it is one entry.
        """
        ret = self.change_prepare(vma, self._kernel.memory.pud_alloc, addr, cp_flags)
        if ret:
            return ret
        if not self._pgtable.folded_pud and pte_none(self._pgtable.read(pgd)):
            return 0
        return self.change_pud_range(tlb, vma, pgd, addr, end, newprot, cp_flags)

    def change_protection_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        addr: int,
        end: int,
        newprot: int,
        cp_flags: int,
    ) -> int:
        """Rewrite what the tables of a range map.

        Source: mm/mprotect.c, change_protection_range()
        """
        pgtable = self._pgtable
        shift = pgtable.pud_shift if pgtable.folded_pud else pgtable.pgdir_shift
        pages = 0
        pgd = pgtable.pgd_offset(vma.mm, addr)
        while addr < end:
            following = pgtable.addr_end(addr, end, shift)
            pages += self.change_p4d_range(
                tlb, vma, pgd, addr, following, newprot, cp_flags
            )
            pgd += SLOT
            addr = following
        self._kernel.gather.tlb_end_vma(tlb, vma)
        return pages

    def change_protection(
        self, tlb: MmuGather, vma: VmArea, start: int, end: int, cp_flags: int
    ) -> int:
        """Rewrite the entries of a range of one VMA.

        Args:
            tlb: Records what must be flushed; the flush happens before this returns.
            vma: The VMA, with its new flags.
            start: Page-aligned, within it.
            end: Page-aligned, within it.
            cp_flags: The ``MM_CP_`` bits.

        Returns:
            How many pages changed, or ``-ENOMEM`` if there are no tables for markers.

        Source: mm/mprotect.c, change_protection()
        """
        newprot = vma.page_prot
        if cp_flags & MM_CP_PROT_NUMA:
            newprot = PAGE_NONE
        if is_vm_hugetlb_page(vma):
            return self._kernel.hugetlb.hugetlb_change_protection(
                vma, start, end, newprot, cp_flags
            )
        return self.change_protection_range(tlb, vma, start, end, newprot, cp_flags)

    # -- the system call -------------------------------------------------------------

    def mprotect_fixup(
        self, tlb: MmuGather, vma: VmArea, start: int, end: int, newflags: int
    ) -> int:
        """Give a part of one VMA *newflags*; 0 or a negative error number.

        A private mapping that becomes writable is charged, and stays so.

        Source: mm/mprotect.c, mprotect_fixup()
        Deviates: no VMA is sealed, and memory is never refused to a charge.
        """
        oldflags = vma.flags
        if newflags == oldflags:
            return 0
        if newflags & VM_WRITE:
            accountable = VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE
            if not oldflags & accountable:
                newflags |= VM_ACCOUNT
        elif oldflags & VM_ACCOUNT and vma.anonymous and vma.anon_vma is None:
            newflags &= ~VM_ACCOUNT
        result = self._kernel.vma.vma_modify(vma, start, end, newflags)
        if isinstance(result, int):
            return result
        vma = result
        self._kernel.mmap_lock.vma_start_write(vma)
        vma.flags = newflags
        mm_cp_flags = 0
        if self.vma_wants_manual_pte_write_upgrade(vma):
            mm_cp_flags |= MM_CP_TRY_CHANGE_WRITABLE
        self._kernel.vma.vma_set_page_prot(vma)
        self.change_protection(tlb, vma, start, end, mm_cp_flags)
        if (
            oldflags & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED
            and newflags & VM_WRITE
        ):
            self._kernel.gup.populate_vma_page_range(vma, start, end, unlockable=False)
        return 0

    def do_mprotect_pkey(self, mm: MmStruct, start: int, length: int, prot: int) -> int:
        """Give [start, start + length) the rights *prot*; 0 or a negative error number.

        What comes before the place of an error keeps its new rights, as in Linux.

        Args:
            mm: The address space.
            start: Page-aligned, or ``-EINVAL``.
            length: In bytes, a size_t; 0 is no change and no error.
            prot: ``VM_READ``, ``VM_WRITE``, ``VM_EXEC``, and ``VM_ARM64_BTI`` for
                PROT_BTI.

        Source: mm/mprotect.c, do_mprotect_pkey()
        Deviates: there are no protection keys, no stack is given rights as a whole, and
        no driver or security module is asked.
        """
        pgtable = self._pgtable
        if start & ~pgtable.page_mask:
            return -EINVAL
        if not length:
            return 0
        length = -(-length // pgtable.page_size) * pgtable.page_size & _ULONG_MASK
        end = start + length & _ULONG_MASK
        if end <= start:
            return -ENOMEM
        mm.mmap_lock.down_write()
        vma = self._kernel.vma.find_vma(mm, start)
        if vma is None or vma.start > start:
            mm.mmap_lock.up_write()
            return -ENOMEM
        tlb = self._kernel.gather.tlb_gather_mmu(mm)
        error = 0
        nstart = start
        while nstart < end:
            vma = self._kernel.vma.vma_lookup(mm, nstart)
            if vma is None:
                error = -ENOMEM
                break
            newflags = prot | (vma.flags & ~(VM_ACCESS_FLAGS | VM_ARM64_BTI))
            if newflags & ~(newflags >> _MAY_SHIFT) & VM_ACCESS_FLAGS:
                error = -EACCES
                break
            tmp = min(vma.end, end)
            error = self.mprotect_fixup(tlb, vma, nstart, tmp, newflags)
            if error:
                break
            nstart = tmp
        self._kernel.gather.tlb_finish_mmu(tlb)
        mm.mmap_lock.up_write()
        return error
