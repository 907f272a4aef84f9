"""What a child gets of huge pages, and what an owner is told of its VMAs: hugetlb.c."""

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
    PTE_MARKER_GUARD,
    PTE_MARKER_POISONED,
    PTE_MARKER_UFFD_WP,
    SWP_MIGRATION_READ,
    is_migration_entry,
    make_pte_marker,
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
    """What VMAs of huge pages do: hugetlb_vm_ops. Faults do not come this way."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def open(self, vma: VmArea) -> None:
        """Give a copy of a VMA its own lock, or its share of the reserve map.

        Source: mm/hugetlb.c, hugetlb_vm_ops
        """
        self._kernel.hugetlb.hugetlb_vm_op_open(vma)

    def close(self, vma: VmArea) -> None:
        """Take the lock away, and give promises back that were not used.

        Source: mm/hugetlb.c, hugetlb_vm_ops
        """
        self._kernel.hugetlb.hugetlb_vm_op_close(vma)

    def may_split(self, vma: VmArea, addr: int) -> int:
        """Refuse to cut a huge page.

        Source: mm/hugetlb.c, hugetlb_vm_op_split()
        """
        size = self._kernel.hugetlb.hstate_vma(vma).size
        return -EINVAL if addr & (size - 1) else 0


class HugetlbCopy(HugetlbChange):
    """Copies VMAs and entries."""

    __slots__ = ()

    # -- areas -----------------------------------------------------------------------

    def hugetlb_vm_op_open(self, vma: VmArea) -> None:
        """Make what *vma* was given by the VMA that it is a copy of its own.

        Source: mm/hugetlb.c, hugetlb_vm_op_open()
        """
        data = vma.private_data
        if vma.flags & VM_MAYSHARE:
            if isinstance(data, HugetlbVmaLock) and data.vma is not vma:
                vma.private_data = None
            self.hugetlb_vma_lock_alloc(vma)
        elif isinstance(data, PrivateReservation) and data.resv_map is not None:
            data.resv_map.refs += 1
            vma.private_data = PrivateReservation(data.resv_map, data.flags)

    def hugetlb_vm_op_close(self, vma: VmArea) -> None:
        """Give back what a private VMA was promised and did not use.

        Source: mm/hugetlb.c, hugetlb_vm_op_close()
        """
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
        """Let a VMA whose pages have moved forget its promises; the copy has them.

        Source: mm/hugetlb.c, clear_vma_resv_huge_pages()
        """
        data = vma.private_data
        if self.is_vma_resv_set(vma, HPAGE_RESV_OWNER):
            assert isinstance(data, PrivateReservation)
            assert data.resv_map is not None
            data.resv_map.refs -= 1
        if not isinstance(data, HugetlbVmaLock):
            vma.private_data = None

    # -- fork ------------------------------------------------------------------------

    def hugetlb_install_folio(
        self,
        vma: VmArea,
        ptep: int,
        addr: int,
        new_folio: HugetlbFolio,
        old: int,
        size: int,
    ) -> None:
        """Map a child's copy of a page that the parent may have pinned.

        Source: mm/hugetlb.c, hugetlb_install_folio()
        """
        newpte = self.make_huge_pte(vma, new_folio, try_mkwrite=True)
        new_folio.flags |= PG_uptodate
        self._kernel.rmap.hugetlb_add_new_anon_rmap(new_folio, vma, addr)
        if userfaultfd_wp(vma) and pte_uffd_wp(old):
            newpte = pte_mkuffd_wp(newpte)
        self._kernel.hugetlbpage.set_huge_pte_at(vma.mm, addr, ptep, newpte, size)
        vma.mm.hugetlb_usage += new_folio.nr_pages

    def copy_hugetlb_page_range(self, dst_vma: VmArea, src_vma: VmArea) -> int:
        """Copy the entries of a VMA for a child; 0 or a negative error number.

        If the child gets a table that is shared, all that is in it is there already.
        Lockless GUP pins nothing that becomes shared meanwhile: it sees that the count
        of changes is odd, or another one, and gives up.

        Source: mm/hugetlb.c, copy_hugetlb_page_range()
        Deviates: A copy of memory never fails here.
        """
        h = self.hstate_vma(src_vma)
        huge = self._kernel.hugetlbpage
        cow = is_cow_mapping(src_vma.flags)
        notifier = self._kernel.mmu_notifier
        range_ = notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, src_vma.mm, src_vma.start, src_vma.end
        )
        if cow:
            notifier.mmu_notifier_invalidate_range_start(range_)
            src_vma.mm.write_protect_seq += 1  # raw_write_seqcount_begin()
        else:
            self.hugetlb_vma_lock_read(src_vma)
        error = 0
        entries = self.huge_entries(src_vma, src_vma.start, src_vma.end)
        for addr, src_pte in entries:
            dst_pte = huge.huge_pte_alloc(dst_vma.mm, dst_vma, addr, h.size)
            if dst_pte is None:
                error = -ENOMEM
                break
            if self.shares_pmd_tables and ptdesc_pmd_is_shared(self.ptdesc(dst_pte)):
                entries.skip_table()
                continue
            error = self._copy_entry(dst_vma, src_vma, addr, dst_pte, src_pte, cow=cow)
            if error:
                break
        if cow:
            src_vma.mm.write_protect_seq += 1  # raw_write_seqcount_end()
            notifier.mmu_notifier_invalidate_range_end(range_)
        else:
            self.hugetlb_vma_unlock_read(src_vma)
        return error

    def _copy_entry(
        self,
        dst_vma: VmArea,
        src_vma: VmArea,
        addr: int,
        dst_pte: int,
        src_pte: int,
        *,
        cow: bool,
    ) -> int:
        """Copy one entry; 0 or a negative error number.

        Source: mm/hugetlb.c, copy_hugetlb_page_range(), one round of its loop
        """
        h = self.hstate_vma(src_vma)
        huge = self._kernel.hugetlbpage
        rmap = self._kernel.rmap
        dst, src = dst_vma.mm, src_vma.mm
        dst_ptl = self.huge_pte_lockptr(dst_vma, dst_pte)
        src_ptl = self.huge_pte_lockptr(src_vma, src_pte)
        new_folio: HugetlbFolio | None = None
        src_pte_old = 0
        while True:
            with dst_ptl, src_ptl:
                entry = huge.huge_ptep_get(src_pte, h.size)
                if new_folio is not None:
                    if self._machine.holds("pte_same", entry == src_pte_old):
                        self.hugetlb_install_folio(
                            dst_vma, dst_pte, addr, new_folio, src_pte_old, h.size
                        )
                        return 0
                    self.restore_reserve_on_error(h, dst_vma, addr, new_folio)
                    self._kernel.swap.folio_put(new_folio)
                if pte_none(entry):
                    return 0
                if pte_marker_get(entry):
                    marker = copy_pte_marker(pte_marker_get(entry), dst_vma)
                    if marker:
                        entry = make_pte_marker(marker)
                        huge.set_huge_pte_at(dst, addr, dst_pte, entry, h.size)
                    return 0
                if not pte_present(entry):
                    softleaf = pte_to_swp_entry(entry)
                    if (
                        is_migration_entry(softleaf)
                        and softleaf.type != SWP_MIGRATION_READ
                        and cow
                    ):
                        entry = make_readable_migration_pte(entry, exclusive=False)
                        if not userfaultfd_wp(src_vma):
                            entry &= ~PTE_SWP_UFFD_WP
                        huge.set_huge_pte_at(src, addr, src_pte, entry, h.size)
                    if not userfaultfd_wp(dst_vma):
                        entry &= ~PTE_SWP_UFFD_WP
                    huge.set_huge_pte_at(dst, addr, dst_pte, entry, h.size)
                    return 0
                pte_folio = self.folio(entry)
                pte_folio.refcount += 1
                shared = True
                if not pte_folio.anon:
                    rmap.hugetlb_add_file_rmap(pte_folio, dst_vma)
                else:
                    shared = rmap.hugetlb_try_dup_anon_rmap(pte_folio, dst_vma, src_vma)
                if shared:
                    if cow:
                        huge.huge_ptep_set_wrprotect(src, addr, src_pte, h.size)
                        entry = pte_wrprotect(entry)
                    if not userfaultfd_wp(dst_vma):
                        entry = pte_clear_uffd_wp(entry)
                    huge.set_huge_pte_at(dst, addr, dst_pte, entry, h.size)
                    dst.hugetlb_usage += pte_folio.nr_pages
                    return 0
            # The page may be pinned: the child gets a copy of its own at once.
            src_pte_old = entry
            new_folio = self.alloc_hugetlb_folio(dst_vma, addr, cow_from_owner=False)
            if new_folio is not None:
                self.copy_user_large_folio(new_folio, pte_folio)
            self._kernel.swap.folio_put(pte_folio)
            if new_folio is None:
                return -ENOMEM


def copy_pte_marker(marker: int, dst_vma: VmArea) -> int:
    """Return what a child inherits of a marker; uffd-wp only with its userfaultfd.

    Source: include/linux/mm_inline.h, copy_pte_marker()
    """
    kept = marker & (PTE_MARKER_POISONED | PTE_MARKER_GUARD)
    if userfaultfd_wp(dst_vma):
        kept |= marker & PTE_MARKER_UFFD_WP
    return kept
