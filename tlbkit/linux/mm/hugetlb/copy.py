"""What a child gets of huge pages, and what an owner is told of its areas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_clear_uffd_wp,
    pte_mkuffd_wp,
    pte_none,
    pte_present,
    pte_uffd_wp,
    pte_wrprotect,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import PTE_SWP_UFFD_WP
from tlbkit.linux.include.linux.hugetlb import (
    HPAGE_RESV_OWNER,
    HugetlbFolio,
    HugetlbVmaLock,
    PrivateReservation,
)
from tlbkit.linux.include.linux.mm import (
    VM_MAYSHARE,
    VmOperations,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.mm_types import PG_uptodate, ptdesc_pmd_is_shared
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_UFFD_WP,
    SWP_MIGRATION_READ,
    is_migration_entry,
    make_readable_migration_pte,
    pte_marker_get,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import userfaultfd_wp
from tlbkit.linux.include.uapi.asm_generic.errno import EINVAL, ENOMEM
from tlbkit.linux.mm.hugetlb.change import HugetlbChange
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class HugetlbVmOperations(VmOperations):
    """What areas of huge pages do: hugetlb_vm_ops. Faults do not come this way."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def open(self, vma: VmArea) -> None:
        """Give a copy of an area its own lock, or its share of the reserve map."""
        self._kernel.hugetlb.hugetlb_vm_op_open(vma)

    def close(self, vma: VmArea) -> None:
        """Take the lock away, and give promises back that were not used."""
        self._kernel.hugetlb.hugetlb_vm_op_close(vma)

    def may_split(self, vma: VmArea, addr: int) -> int:
        """Refuse to cut a huge page."""
        size = self._kernel.hugetlb.hstate_vma(vma).size
        return -EINVAL if addr & (size - 1) else 0


class HugetlbCopy(HugetlbChange):
    """Copies areas and entries."""

    __slots__ = ()

    # -- areas -----------------------------------------------------------------------

    def hugetlb_vm_op_open(self, vma: VmArea) -> None:
        """Make what *vma* was given by the area that it is a copy of its own."""
        data = vma.private_data
        if vma.flags & VM_MAYSHARE:
            if isinstance(data, HugetlbVmaLock) and data.vma is not vma:
                vma.private_data = None
            self.hugetlb_vma_lock_alloc(vma)
        elif isinstance(data, PrivateReservation) and data.resv_map is not None:
            data.resv_map.refs += 1
            vma.private_data = PrivateReservation(data.resv_map, data.flags)

    def hugetlb_vm_op_close(self, vma: VmArea) -> None:
        """Give back what a private area was promised and did not use."""
        self.hugetlb_vma_lock_free(vma)
        data = vma.private_data
        if not isinstance(data, PrivateReservation) or data.resv_map is None:
            return
        h = self.hstate_vma(vma)
        start = self.vma_hugecache_offset(h, vma, vma.start)
        end = self.vma_hugecache_offset(h, vma, vma.end)
        used = data.resv_map.region_count(start, end)
        self.hugetlb_acct_memory(h, used - (end - start))
        data.resv_map.refs -= 1
        vma.private_data = None

    def clear_vma_resv_huge_pages(self, vma: VmArea) -> None:
        """Let an area whose pages have moved forget its promises; the copy has them."""
        data = vma.private_data
        if self.is_vma_resv_set(vma, HPAGE_RESV_OWNER):
            assert isinstance(data, PrivateReservation)
            assert data.resv_map is not None
            data.resv_map.refs -= 1
        if not isinstance(data, HugetlbVmaLock):
            vma.private_data = None

    # -- fork ------------------------------------------------------------------------

    def copy_hugetlb_page_range(self, child: VmArea, parent: VmArea) -> int:
        """Copy the entries of an area for a child; 0 or a negative error number.

        If the child gets a table that is shared, all that is in it is there already.
        """
        cow = is_cow_mapping(parent.flags)
        notifier = self._kernel.mmu_notifier
        range_ = notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, parent.mm, parent.start, parent.end
        )
        if cow:
            notifier.mmu_notifier_invalidate_range_start(range_)
        else:
            self.hugetlb_vma_lock_read(parent)
        error = self._copy_range(child, parent, cow=cow)
        if cow:
            notifier.mmu_notifier_invalidate_range_end(range_)
        else:
            self.hugetlb_vma_unlock_read(parent)
        return error

    def _copy_range(self, child: VmArea, parent: VmArea, *, cow: bool) -> int:
        huge = self._kernel.hugetlbpage
        size = self.hstate_vma(parent).size
        entries = self.huge_entries(parent, parent.start, parent.end)
        for addr, source in entries:
            target = huge.huge_pte_alloc(child.mm, child, addr, size)
            if target is None:
                return -ENOMEM
            if self.hugetlb_table_shared(target, size):
                entries.skip_table()
                continue
            error = self.copy_huge_pte(child, parent, addr, target, source, cow=cow)
            if error:
                return error
        return 0

    def hugetlb_table_shared(self, ptep: int, size: int) -> bool:
        """Tell whether an entry stands in a table that others use too."""
        return size == self._pgtable.pmd_size and ptdesc_pmd_is_shared(
            self.ptdesc(ptep)
        )

    def copy_huge_pte(
        self,
        child: VmArea,
        parent: VmArea,
        addr: int,
        target: int,
        source: int,
        *,
        cow: bool,
    ) -> int:
        """Copy one entry; 0 or a negative error number."""
        h = self.hstate_vma(parent)
        huge = self._kernel.hugetlbpage
        while True:
            target_ptl = self.huge_pte_lockptr(child, target)
            source_ptl = self.huge_pte_lockptr(parent, source)
            with target_ptl, source_ptl:
                pte = huge.huge_ptep_get(source, h.size)
                if not pte_present(pte):
                    self._copy_absent(child, parent, addr, target, source, pte, cow=cow)
                    return 0
                folio = self.folio(pte)
                if self._copy_present(
                    child, parent, addr, target, source, pte, folio, cow=cow
                ):
                    return 0
                folio.refcount += 1
            error = self._copy_pinned(child, parent, addr, target, source, pte, folio)
            self._kernel.swap.folio_put(folio)
            if error <= 0:
                return error

    def _copy_absent(
        self,
        child: VmArea,
        parent: VmArea,
        addr: int,
        target: int,
        source: int,
        pte: int,
        *,
        cow: bool,
    ) -> None:
        """Copy an entry that maps nothing now."""
        if pte_none(pte):
            return
        huge = self._kernel.hugetlbpage
        size = self.hstate_vma(parent).size
        if pte_marker_get(pte):
            if pte_marker_get(pte) & PTE_MARKER_UFFD_WP and not userfaultfd_wp(child):
                return
            huge.set_huge_pte_at(child.mm, addr, target, pte, size)
            return
        entry = pte_to_swp_entry(pte)
        if is_migration_entry(entry) and cow and entry.type != SWP_MIGRATION_READ:
            pte = make_readable_migration_pte(pte, exclusive=False)
            huge.set_huge_pte_at(parent.mm, addr, source, pte, size)
        if not userfaultfd_wp(child):
            pte &= ~PTE_SWP_UFFD_WP
        huge.set_huge_pte_at(child.mm, addr, target, pte, size)

    def _copy_present(
        self,
        child: VmArea,
        parent: VmArea,
        addr: int,
        target: int,
        source: int,
        pte: int,
        folio: HugetlbFolio,
        *,
        cow: bool,
    ) -> bool:
        """Let the child map the parent's page; false if it may be pinned."""
        rmap = self._kernel.rmap
        huge = self._kernel.hugetlbpage
        if not folio.anon:
            rmap.hugetlb_add_file_rmap(folio, child)
        elif not rmap.hugetlb_try_dup_anon_rmap(folio, child, parent):
            return False
        folio.refcount += 1
        if cow:
            size = folio.hstate.size
            huge.huge_ptep_set_wrprotect(parent.mm, addr, source, size)
            pte = pte_wrprotect(pte)
        if not userfaultfd_wp(child):
            pte = pte_clear_uffd_wp(pte)
        huge.set_huge_pte_at(child.mm, addr, target, pte, folio.hstate.size)
        child.mm.hugetlb_usage += folio.nr_pages
        return True

    def _copy_pinned(
        self,
        child: VmArea,
        parent: VmArea,
        addr: int,
        target: int,
        source: int,
        pte: int,
        folio: HugetlbFolio,
    ) -> int:
        """Give the child a copy of a page at once.

        Returns:
            0, a negative error number, or 1 if the parent's entry has changed.
        """
        h = self.hstate_vma(parent)
        huge = self._kernel.hugetlbpage
        new = self.alloc_hugetlb_folio(child, addr, cow_from_owner=False)
        if new is None:
            return -ENOMEM
        self.copy_user_large_folio(new, folio)
        with (
            self.huge_pte_lockptr(child, target),
            self.huge_pte_lockptr(parent, source),
        ):
            same = huge.huge_ptep_get(source, h.size) == pte
            if not self._machine.holds("pte_same", same):
                self.restore_reserve_on_error(h, child, addr, new)
                self._kernel.swap.folio_put(new)
                return 1
            new.flags |= PG_uptodate
            self._kernel.rmap.hugetlb_add_new_anon_rmap(new, child, addr)
            entry = self.make_huge_pte(child, new, try_mkwrite=True)
            if userfaultfd_wp(child) and pte_uffd_wp(pte):
                entry = pte_mkuffd_wp(entry)
            huge.set_huge_pte_at(child.mm, addr, target, entry, h.size)
            child.mm.hugetlb_usage += new.nr_pages
        return 0
