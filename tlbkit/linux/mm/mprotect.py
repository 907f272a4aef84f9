"""Changing the rights of mappings: mm/mprotect.c."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    PAGE_NONE,
    pte_clear_uffd_wp,
    pte_dirty,
    pte_mkuffd_wp,
    pte_modify,
    pte_none,
    pte_present,
    pte_protnone,
    pte_uffd_wp,
    pte_write,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import PTE_SWP_UFFD_WP
from tlbkit.linux.include.linux.huge_mm import pmd_is_huge
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    MM_CP_PROT_NUMA,
    MM_CP_TRY_CHANGE_WRITABLE,
    MM_CP_UFFD_WP,
    MM_CP_UFFD_WP_RESOLVE,
    VM_ACCESS_FLAGS,
    VM_ACCOUNT,
    VM_NORESERVE,
    VM_SHARED,
    VM_WRITE,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.mm_types import (
    LargeFolio,
    PG_dirty,
    PG_ksm,
    PG_swapbacked,
)
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_UFFD_WP,
    SWP_MIGRATION_WRITE,
    make_pte_marker,
    make_readable_migration_pte,
    pte_marker_get,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import userfaultfd_wp_use_markers
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EACCES,
    EAGAIN,
    EINVAL,
    ENOMEM,
)
from tlbkit.linux.mm.internal import FPB_RESPECT_WRITE, folio_pte_batch_flags
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_PROTECTION_VMA

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.mm.mmu_gather import MmuGather

_MAY_SHIFT = 4  # VM_MAYREAD is VM_READ << 4, and so on


class Mprotect:
    """mprotect(), and everybody else who changes the rights of a range."""

    __slots__ = ("_kernel", "_machine", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable

    # -- the system call -------------------------------------------------------------

    def do_mprotect_pkey(self, mm: MmStruct, start: int, length: int, prot: int) -> int:
        """Give [start, start + length) the rights *prot*; 0 or a negative error number.

        What comes before the place of an error keeps its new rights, as in Linux.

        Args:
            mm: The address space.
            start: Page-aligned, or ``-EINVAL``.
            length: In bytes; 0 is no change and no error.
            prot: ``VM_READ``, ``VM_WRITE``, ``VM_EXEC``.
        """
        pgtable = self._pgtable
        if start & ~pgtable.page_mask:
            return -EINVAL
        if not length:
            return 0
        length = -(-length // pgtable.page_size) * pgtable.page_size
        end = start + length
        if end <= start or end > 1 << 64:
            return -ENOMEM
        mm.mmap_lock.down_write()
        vma = self._kernel.vma.find_vma(mm, start)
        if vma is None or vma.start > start:
            mm.mmap_lock.up_write()
            return -ENOMEM
        tlb = self._kernel.gather.tlb_gather_mmu(mm)
        error = 0
        at = start
        while at < end:
            vma = self._kernel.vma.vma_lookup(mm, at)
            if vma is None:
                error = -ENOMEM
                break
            flags = prot | (vma.flags & ~VM_ACCESS_FLAGS)
            if flags & ~(flags >> _MAY_SHIFT) & VM_ACCESS_FLAGS:
                error = -EACCES
                break
            until = min(vma.end, end)
            error = self.mprotect_fixup(tlb, vma, at, until, flags)
            if error:
                break
            at = until
        self._kernel.gather.tlb_finish_mmu(tlb)
        mm.mmap_lock.up_write()
        return error

    def mprotect_fixup(
        self, tlb: MmuGather, vma: VmArea, start: int, end: int, flags: int
    ) -> int:
        """Give a part of one area *flags*; 0 or a negative error number."""
        if flags == vma.flags:
            return 0
        # A private mapping that becomes writable is charged, and stays so.
        accountable = VM_ACCOUNT | VM_WRITE | VM_SHARED | VM_NORESERVE
        if flags & VM_WRITE and not vma.flags & accountable:
            flags |= VM_ACCOUNT
        elif (
            vma.flags & VM_ACCOUNT and vma.anonymous and vma.anon_vma is None
        ) and not flags & VM_WRITE:
            flags &= ~VM_ACCOUNT
        result = self._kernel.vma.vma_modify(vma, start, end, flags)
        if isinstance(result, int):
            return result
        vma = result
        self._kernel.mmap_lock.vma_start_write(vma)
        vma.flags = flags
        how = 0
        if self.vma_wants_manual_pte_write_upgrade(vma):
            how |= MM_CP_TRY_CHANGE_WRITABLE
        self._kernel.vma.vma_set_page_prot(vma)
        self.change_protection(tlb, vma, start, end, how)
        return 0

    def vma_wants_manual_pte_write_upgrade(self, vma: VmArea) -> bool:
        """Tell whether entries of *vma* become writable one by one, by their page.

        Shared memory that needs no notice of writes is writable from the start.
        """
        if vma.flags & VM_SHARED:
            return self._kernel.vma.vma_wants_writenotify(vma)
        return bool(vma.flags & VM_WRITE)

    # -- the range -------------------------------------------------------------------

    def change_protection(
        self, tlb: MmuGather, vma: VmArea, start: int, end: int, how: int
    ) -> int:
        """Rewrite the entries of a range of one area.

        Args:
            tlb: Records what must be flushed; the flush happens before this returns.
            vma: The area, with its new flags.
            start: Page-aligned, within it.
            end: Page-aligned, within it.
            how: The ``MM_CP_`` bits.

        Returns:
            How many pages changed, or ``-ENOMEM`` if there are no tables for markers.
        """
        prot = PAGE_NONE if how & MM_CP_PROT_NUMA else vma.page_prot
        if is_vm_hugetlb_page(vma):
            return self._kernel.hugetlb.hugetlb_change_protection(
                vma, start, end, prot, how
            )
        changed = self.change_protection_range(tlb, vma, start, end, prot, how)
        self._kernel.gather.tlb_end_vma(tlb, vma)
        return changed

    def change_protection_range(
        self, tlb: MmuGather, vma: VmArea, start: int, end: int, prot: int, how: int
    ) -> int:
        """Rewrite entries table by table."""
        if how & MM_CP_UFFD_WP and userfaultfd_wp_use_markers(vma):
            error = self.populate(vma.mm, start, end)
            if error:
                return error
        notifier = self._kernel.mmu_notifier
        changed = 0
        range_ = None
        pgtable = self._pgtable
        top = pgtable.pud_shift if pgtable.folded_pud else pgtable.pgdir_shift
        for pmdp, addr, following in self._kernel.memory.pmd_entries(
            vma.mm, start, end
        ):
            if range_ is not None and addr >= range_.end:
                notifier.mmu_notifier_invalidate_range_end(range_)
                range_ = None
            if range_ is None:
                range_ = notifier.mmu_notifier_range_init(
                    MMU_NOTIFY_PROTECTION_VMA,
                    0,
                    vma.mm,
                    addr,
                    pgtable.addr_end(addr, end, top),
                )
                notifier.mmu_notifier_invalidate_range_start(range_)
            pages = -EAGAIN
            while pages == -EAGAIN:
                pmd = self._pgtable.read(pmdp)
                if pte_none(pmd):
                    break
                pages = self._change_pmd(
                    tlb, vma, pmdp, pmd, addr, following, prot, how
                )
            changed += max(pages, 0)
        if range_ is not None:
            notifier.mmu_notifier_invalidate_range_end(range_)
        return changed

    def _change_pmd(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pmdp: int,
        pmd: int,
        addr: int,
        end: int,
        prot: int,
        how: int,
    ) -> int:
        """Change a block, or the entries of a table.

        Returns:
            How many pages were changed; ``-EAGAIN`` if there is no table any more.
        """
        if pmd_is_huge(pmd):
            huge = self._kernel.huge_memory
            if end - addr < self._pgtable.pmd_size or (
                how & MM_CP_UFFD_WP and not vma.anonymous
            ):
                huge.split_huge_pmd_(vma, pmdp, addr, freeze=False)
            else:
                pages = huge.change_huge_pmd(tlb, vma, pmdp, addr, prot, how)
                if pages:
                    return pages if pages > 1 else 0
        return self.change_pte_range(tlb, vma, pmdp, addr, end, prot, how)

    def populate(self, mm: MmStruct, start: int, end: int) -> int:
        """Make all tables of a range, for markers; 0 or ``-ENOMEM``."""
        memory = self._kernel.memory
        addr = start
        while addr < end:
            pmdp = memory.pmd_alloc(mm, addr)
            if pmdp is None or not memory.pte_alloc(mm, pmdp):
                return -ENOMEM
            addr = self._pgtable.addr_end(addr, end, self._pgtable.pmd_shift)
        return 0

    def change_pte_range(
        self,
        tlb: MmuGather,
        vma: VmArea,
        pmdp: int,
        addr: int,
        end: int,
        prot: int,
        how: int,
    ) -> int:
        """Rewrite the entries of one table, and record those that need a flush.

        Returns:
            How many were changed; ``-EAGAIN`` if there is no table any more.
        """
        pgtable = self._pgtable
        found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, pmdp, addr)
        if found is None:
            return -EAGAIN
        ptep, ptl = found
        memory = self._kernel.memory
        needs_flush = self._kernel.tlbflush.pte_needs_flush
        record = self._kernel.gather.tlb_flush_pte_range
        changed = 0
        if vma.mm.tlb_flush_batched:
            self._kernel.rmap.flush_tlb_batched_pending(vma.mm)
        pgtable.arch_enter_lazy_mmu_mode()
        while addr < end:
            old = pgtable.read(ptep)
            nr = 1
            if not pte_present(old):
                changed += self.change_nonpresent_pte(vma, ptep, how)
            else:
                folio = memory.vm_normal_folio(vma, addr, old)
                if how & MM_CP_PROT_NUMA and self.prot_numa_skip(vma, folio, old):
                    pass
                elif isinstance(folio, LargeFolio):
                    most = (end - addr) >> pgtable.page_shift
                    nr = self.change_large(tlb, vma, folio, ptep, addr, most, prot, how)
                    changed += nr
                else:
                    old = pgtable.ptep_get_and_clear_(ptep)
                    new = self.changed_pte(old, prot, how)
                    if (
                        how & MM_CP_TRY_CHANGE_WRITABLE
                        and not pte_write(new)
                        and self.can_change_pte_writable(vma, addr, new)
                    ):
                        new = pgtable.pte_mkwrite(new)
                    pgtable.set_pte(ptep, new)
                    if needs_flush(old, new):
                        record(tlb, addr, pgtable.page_size)
                    changed += 1
            ptep += nr * 8
            addr += nr * pgtable.page_size
        pgtable.arch_leave_lazy_mmu_mode()
        ptl.release()
        return changed

    @staticmethod
    def changed_pte(old: int, prot: int, how: int) -> int:
        """Return a present entry with the rights *prot* and what else *how* says."""
        new = pte_modify(old, prot)
        if how & MM_CP_UFFD_WP:
            return pte_mkuffd_wp(new)
        if how & MM_CP_UFFD_WP_RESOLVE:
            return pte_clear_uffd_wp(new)
        return new

    def change_large(
        self,
        tlb: MmuGather,
        vma: VmArea,
        folio: LargeFolio,
        ptep: int,
        addr: int,
        most: int,
        prot: int,
        how: int,
    ) -> int:
        """Rewrite entries of consecutive pages of one folio; return how many.

        The first entry, and at most *most*. They are cleared and stored together, so a
        contiguous block stays one, and pages that make a block become one.
        """
        pgtable = self._pgtable
        first = pgtable.ptep_get(ptep)
        nr, _ = folio_pte_batch_flags(
            pgtable, folio, ptep, first, most, FPB_RESPECT_WRITE
        )
        # modify_prot_start_ptes()
        old = pgtable.get_and_clear_full_ptes(vma.mm, addr, ptep, nr)
        new = self.changed_pte(old, prot, how)
        if not how & MM_CP_TRY_CHANGE_WRITABLE or pte_write(new):
            self.prot_commit_flush_ptes(tlb, vma, addr, ptep, old, new, nr)
        elif vma.flags & VM_SHARED or not folio.anon:
            if self.can_change_pte_writable(vma, addr, new):
                new = pgtable.pte_mkwrite(new)
            self.prot_commit_flush_ptes(tlb, vma, addr, ptep, old, new, nr)
        else:
            self.commit_anon_folio_batch(tlb, vma, folio, addr, ptep, old, new, nr)
        return nr

    def commit_anon_folio_batch(
        self,
        tlb: MmuGather,
        vma: VmArea,
        folio: LargeFolio,
        addr: int,
        ptep: int,
        old: int,
        new: int,
        nr: int,
    ) -> None:
        """Store rewritten entries; those whose page is one's own become writable.

        Each run of pages that agree in this is stored, and looked at for a flush, by
        itself.
        """
        pgtable = self._pgtable
        start = pgtable.pte_pfn(new) - folio.pfn
        marks = folio.exclusive[start : start + nr]
        done = 0
        for _, run in groupby(marks):
            count = len(list(run))
            at = addr + done * pgtable.page_size
            commit = pgtable.pte_advance_pfn(new, done)
            if self.can_change_pte_writable(vma, at, commit):
                commit = pgtable.pte_mkwrite(commit)
            self.prot_commit_flush_ptes(
                tlb,
                vma,
                at,
                ptep + done * 8,
                pgtable.pte_advance_pfn(old, done),
                commit,
                count,
            )
            done += count

    def prot_commit_flush_ptes(
        self,
        tlb: MmuGather,
        vma: VmArea,
        addr: int,
        ptep: int,
        old: int,
        new: int,
        nr: int,
    ) -> None:
        """Store *nr* rewritten entries, and record them if they need a flush."""
        self._pgtable.set_ptes(vma.mm, addr, ptep, new, nr)
        if self._kernel.tlbflush.pte_needs_flush(old, new):
            self._kernel.gather.tlb_flush_pte_range(
                tlb, addr, nr * self._pgtable.page_size
            )

    @staticmethod
    def prot_numa_skip(vma: VmArea, folio: Folio | None, pte: int) -> bool:
        """Tell whether an entry is not worth hiding to learn who uses its page.

        A page that several processes have, or that is pinned, does not move anyway.
        """
        if pte_protnone(pte) or folio is None or folio.flags & PG_ksm:
            return True
        if not is_cow_mapping(vma.flags):
            return not folio.flags & PG_swapbacked and bool(folio.flags & PG_dirty)
        if isinstance(folio, LargeFolio):
            shared = folio.maybe_mapped_shared
        else:
            shared = folio.mapcount > 1
        return shared or folio.maybe_dma_pinned()

    def change_prot_numa(self, vma: VmArea, start: int, end: int) -> int:
        """Hide the pages of a range, to learn by their faults who uses them.

        Returns:
            How many were hidden.

        Source: mm/mempolicy.c; the scheduler calls it from time to time.
        """
        tlb = self._kernel.gather.tlb_gather_mmu(vma.mm)
        changed = self.change_protection(tlb, vma, start, end, MM_CP_PROT_NUMA)
        self._kernel.gather.tlb_finish_mmu(tlb)
        return changed

    def change_nonpresent_pte(self, vma: VmArea, ptep: int, how: int) -> int:
        """Protect a place that has no page, or free it again; return if it changed.

        No TLB holds anything of it.
        """
        pgtable = self._pgtable
        pte = pgtable.read(ptep)
        if pte_none(pte):
            if how & MM_CP_UFFD_WP and userfaultfd_wp_use_markers(vma):
                pgtable.set_pte(ptep, make_pte_marker(PTE_MARKER_UFFD_WP))
                return 1
        elif pte_marker_get(pte):
            if how & MM_CP_UFFD_WP_RESOLVE:
                pgtable.set_pte(ptep, 0)
                return 1
        else:
            new = self._change_swap_pte(pte, how)
            if new != pte:
                pgtable.set_pte(ptep, new)
                return 1
        return 0

    @staticmethod
    def _change_swap_pte(pte: int, how: int) -> int:
        """Return what becomes of an entry whose page is swapped out, or migrates.

        A page that migrates comes back without the right to write.
        """
        if pte_to_swp_entry(pte).type == SWP_MIGRATION_WRITE:
            pte = make_readable_migration_pte(pte, exclusive=True)
        if how & MM_CP_UFFD_WP:
            return pte | PTE_SWP_UFFD_WP
        if how & MM_CP_UFFD_WP_RESOLVE:
            return pte & ~PTE_SWP_UFFD_WP
        return pte

    def can_change_pte_writable(self, vma: VmArea, addr: int, pte: int) -> bool:
        """Tell whether a write to this entry would only be made writable by a fault.

        Then it may as well be writable now. A private page must be its process's own; a
        shared one must be dirty, for then its owner knows of it.
        """
        if not vma.flags & VM_WRITE or pte_protnone(pte) or pte_uffd_wp(pte):
            return False
        if vma.flags & VM_SHARED:
            return pte_dirty(pte)
        folio = self._kernel.memory.vm_normal_folio(vma, addr, pte)
        return (
            folio is not None
            and folio.anon
            and folio.page_exclusive(self._pgtable.pte_pfn(pte))
        )
