"""8ce720d5bd91: unsharing hugetlb PMD tables is gathered, and rarely needs an IPI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_dirty,
    pte_none,
    pte_present,
    pte_uffd_wp,
)
from tlbkit.linux.include.linux.hugetlb import HPAGE_RESV_OWNER, HPAGE_RESV_UNMAPPED
from tlbkit.linux.include.linux.mm import (
    MM_CP_UFFD_WP,
    VM_MAYSHARE,
    ZAP_FLAG_DROP_MARKER,
)
from tlbkit.linux.include.linux.mm_types import (
    MmStruct,
    ptdesc_pmd_is_shared,
    ptdesc_pmd_pts_dec,
)
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_UFFD_WP,
    make_pte_marker,
    pte_swp_uffd_wp_any,
)
from tlbkit.linux.include.uapi.asm_generic.errno import ENOMEM
from tlbkit.linux.mm.hugetlb import Hugetlb
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR, MMU_NOTIFY_PROTECTION_VMA
from tlbkit.linux.mm.rmap import Rmap
from tlbkit.patches import series
from tlbkit.patches.patch import Figure, Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.mm.mmu_gather import MmuGather


_REPORT = "Message-ID 4d3878531c76479d9f8ca9789dc6485d@amazon.de"
_REPRODUCER = (
    "1000 children of a process with 1200 GiB of shared hugetlb memory, each reading "
    "100 pages; 196 CPUs, 1.5 TB"
)


def _time(name: str, value: float, which: str, kernel: str) -> Figure:
    """Name one time of the report that led to this commit."""
    return Figure(
        name=name,
        value=value,
        unit="s",
        what=f"{which} time, {kernel} 1013af4f585f; {_REPRODUCER}",
        source=_REPORT,
    )


class HugetlbBefore(Hugetlb):
    """One interrupt of every CPU for each table, and a flush by whoever unshared.

    Source: mm/hugetlb.c, v6.17.
    """

    __slots__ = ()

    def huge_pmd_unshare(  # type: ignore[override] # it took the address space
        self, mm: MmStruct, vma: VmArea, addr: int, ptep: int
    ) -> bool:
        """Take a shared table away, once no CPU can be in a lockless walk of it.

        Callers flush, before they release i_mmap_rwsem.

        Source: mm/hugetlb.c, huge_pmd_unshare(), v6.17
        """
        if self.hstate_vma(vma).size != self._pgtable.pmd_size:
            return False
        table = self.ptdesc(ptep)
        if not ptdesc_pmd_is_shared(table):
            return False
        self.mapping(vma).i_mmap_rwsem.assert_write_held()
        self.hugetlb_vma_assert_locked(vma)
        pgtable = self._pgtable
        pgdp = pgtable.pgd_offset(mm, addr)
        pgtable.pud_clear(pgtable.pud_offset(pgdp, addr))
        self._kernel.gather.tlb_remove_table_sync_one()
        ptdesc_pmd_pts_dec(table)
        mm.pgtables[2] -= 1
        return True

    def unmap_hugepage_range_(
        self,
        tlb: MmuGather,
        vma: VmArea,
        start: int,
        end: int,
        folio: HugetlbFolio | None = None,
        zap_flags: int = 0,
    ) -> None:
        """Clear the entries of a range; flush at the end if a table was unshared.

        Source: mm/hugetlb.c, __unmap_hugepage_range(), v6.17
        """
        h = self.hstate_vma(vma)
        huge = self._kernel.hugetlbpage
        gather = self._kernel.gather
        keep_marker = not zap_flags & ZAP_FLAG_DROP_MARKER
        marker = make_pte_marker(PTE_MARKER_UFFD_WP)
        folio_provided = folio is not None
        force_flush = False
        gather.tlb_start_vma(tlb, vma)
        entries = self.huge_entries(vma, start, end)
        for address, ptep in entries:
            ptl = self.huge_pte_lockptr(vma, ptep)
            ptl.acquire()
            if self.huge_pmd_unshare(vma.mm, vma, address, ptep):
                ptl.release()
                pud_size = self._pgtable.pud_size
                gather.tlb_flush_pmd_range(tlb, address & -pud_size, pud_size)
                force_flush = True
                entries.skip_table()
                continue
            pte = huge.huge_ptep_get(ptep, h.size)
            if pte_none(pte):
                entries.skip_empty(ptep)
                ptl.release()
                continue
            if not pte_present(pte):
                if keep_marker and pte_swp_uffd_wp_any(pte):
                    huge.set_huge_pte_at(vma.mm, address, ptep, marker, h.size)
                else:
                    huge.huge_pte_clear(ptep, h.size)
                ptl.release()
                continue
            if folio_provided:
                if folio is not self.folio(pte):
                    ptl.release()
                    continue
                self.set_vma_resv_flags(vma, HPAGE_RESV_UNMAPPED)
            folio = self.folio(pte)
            pte = huge.huge_ptep_get_and_clear(ptep, h.size)
            gather.tlb_remove_huge_tlb_entry(tlb, address, h.size)
            if pte_dirty(pte) and folio.mapping is not None and not folio.anon:
                folio.mapping.ops.dirty_folio(folio.mapping, folio)
            if pte_uffd_wp(pte) and keep_marker:
                huge.set_huge_pte_at(vma.mm, address, ptep, marker, h.size)
            vma.mm.hugetlb_usage -= folio.nr_pages
            self._kernel.rmap.hugetlb_remove_rmap(folio, vma)
            ptl.release()
            with self.hugetlb_lock:
                adjust_reservation = (
                    not h.surplus_huge_pages
                    and self.is_vma_resv_set(vma, HPAGE_RESV_OWNER)
                    and folio.anon
                )
                if adjust_reservation:
                    folio.restore_reserve = True
            if adjust_reservation and self.vma_needs_reservation(h, vma, address):
                self.vma_add_reservation(h, vma, address)
            gather.tlb_remove_page_size(tlb, folio)
            if folio_provided:
                break
        gather.tlb_end_vma(tlb, vma)
        if force_flush:
            gather.tlb_flush_mmu_tlbonly(tlb)

    def hugetlb_change_protection(
        self, vma: VmArea, start: int, end: int, newprot: int, cp_flags: int
    ) -> int:
        """Give a range other rights, and flush it once, whatever has changed.

        Source: mm/hugetlb.c, hugetlb_change_protection(), v6.17
        """
        h = self.hstate_vma(vma)
        huge = self._kernel.hugetlbpage
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        uffd_wp = cp_flags & MM_CP_UFFD_WP
        last_addr_mask = huge.hugetlb_mask_last_page(h.size)
        span = self.adjust_range_if_pmd_sharing_possible(vma, start, end)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_PROTECTION_VMA, 0, vma.mm, *span
        ):
            self.hugetlb_vma_lock_write(vma)
            i_mmap_rwsem.down_write()
            pages = 0
            shared_pmd = False
            address = start
            while address < end:
                ptep = self.hugetlb_walk(vma, address, h.size)
                if ptep is None:
                    if not uffd_wp:
                        address = (address | last_addr_mask) + h.size
                        continue
                    ptep = huge.huge_pte_alloc(vma.mm, vma, address, h.size)
                    if ptep is None:
                        pages = -ENOMEM
                        break
                with self.huge_pte_lockptr(vma, ptep):
                    pte = huge.huge_ptep_get(ptep, h.size)
                    if self.huge_pmd_unshare(vma.mm, vma, address, ptep):
                        self.warn_on_unshared(cp_flags)
                        pages += 1
                        shared_pmd = True
                        address |= last_addr_mask
                    elif not pte_present(pte):
                        pages += self.change_non_present_huge_pte(
                            vma, address, ptep, pte, cp_flags
                        )
                    else:
                        self.modify_huge_pte(vma, address, ptep, newprot, cp_flags)
                        pages += 1
                address += h.size
            flushed = span if shared_pmd else (start, end)
            huge.flush_hugetlb_tlb_range(vma, *flushed, h.size)
            i_mmap_rwsem.up_write()
            self.hugetlb_vma_unlock_write(vma)
        return pages << h.order if pages > 0 else pages

    def move_hugetlb_page_tables(
        self, vma: VmArea, new_vma: VmArea, old_addr: int, new_addr: int, length: int
    ) -> int:
        """Move the entries of a range, and flush it once, whatever has moved.

        Source: mm/hugetlb.c, move_hugetlb_page_tables(), v6.17
        """
        h = self.hstate_vma(vma)
        huge = self._kernel.hugetlbpage
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        old_end = old_addr + length
        span = self.adjust_range_if_pmd_sharing_possible(vma, old_addr, old_end)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, *span
        ):
            self.hugetlb_vma_lock_write(vma)
            i_mmap_rwsem.down_write()
            moved = length
            shared_pmd = False
            entries = self.huge_entries(vma, old_addr, old_end)
            for addr, src_pte in entries:
                if pte_none(huge.huge_ptep_get(src_pte, h.size)):
                    continue
                if self.huge_pmd_unshare(vma.mm, vma, addr, src_pte):
                    shared_pmd = True
                    entries.skip_table()
                    continue
                to = new_addr + addr - old_addr
                dst_pte = huge.huge_pte_alloc(vma.mm, new_vma, to, h.size)
                if dst_pte is None:
                    moved = addr - old_addr
                    break
                self.move_huge_pte(vma, addr, to, src_pte, dst_pte)
            flushed = span if shared_pmd else (old_addr, old_end)
            huge.flush_hugetlb_tlb_range(vma, *flushed, h.size)
        i_mmap_rwsem.up_write()
        self.hugetlb_vma_unlock_write(vma)
        return moved

    def hugetlb_unshare_pmds(
        self, vma: VmArea, start: int, end: int, *, take_locks: bool
    ) -> None:
        """Unshare all tables of a range, and flush it once, shared or not.

        Source: mm/hugetlb.c, hugetlb_unshare_pmds(), v6.17
        """
        if not vma.flags & VM_MAYSHARE or start >= end:
            return
        h = self.hstate_vma(vma)
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, start, end
        ):
            if take_locks:
                self.hugetlb_vma_lock_write(vma)
                i_mmap_rwsem.down_write()
            else:
                i_mmap_rwsem.assert_write_held()
            for addr in range(start, end, self._pgtable.pud_size):
                ptep = self.hugetlb_walk(vma, addr, h.size)
                if ptep is not None:
                    with self.huge_pte_lockptr(vma, ptep):
                        self.huge_pmd_unshare(vma.mm, vma, addr, ptep)
            self._kernel.hugetlbpage.flush_hugetlb_tlb_range(vma, start, end, h.size)
            if take_locks:
                i_mmap_rwsem.up_write()
                self.hugetlb_vma_unlock_write(vma)


class RmapBefore(Rmap):
    """A flush of its own for each area, after the area's lock was released."""

    __slots__ = ()

    def unshare_hugetlb(
        self, vma: VmArea, addr: int, ptep: int, span: tuple[int, int]
    ) -> bool:
        """Unmap a page by unsharing the table that maps it, and flush the span."""
        hugetlb = self._kernel.hugetlb
        assert isinstance(hugetlb, HugetlbBefore)
        unshared = hugetlb.huge_pmd_unshare(vma.mm, vma, addr, ptep)
        hugetlb.hugetlb_vma_unlock_write(vma)
        if unshared:
            self._kernel.tlbflush.flush_tlb_range(vma, *span)
        return unshared


PATCH = Patch(
    commit="8ce720d5bd91e9dc16db3604aa4b1bf76770a9a1",
    subject="hugetlb: unshare through mmu_gather; only the last sharer sends an IPI",
    series=series.HUGETLB,
    kind=Kind.PERFORMANCE,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.19",
    touches={
        "include/asm-generic/tlb.h": (
            "struct mmu_gather",
            "__tlb_reset_range",
            "tlb_flush_mmu_tlbonly",
            "tlb_unshare_pmd_ptdesc",
            "tlb_flush_unshared_tables",
        ),
        "include/linux/hugetlb.h": ("huge_pmd_unshare", "huge_pmd_unshare_flush"),
        "include/linux/mm_types.h": ("tlb_gather_mmu_vma",),
        "mm/hugetlb.c": (
            "__unmap_hugepage_range",
            "hugetlb_change_protection",
            "move_hugetlb_page_tables",
            "hugetlb_unshare_pmds",
            "huge_pmd_unshare",
            "huge_pmd_unshare_flush",
        ),
        "mm/mmu_gather.c": (
            "__tlb_gather_mmu",
            "tlb_gather_mmu_vma",
            "tlb_finish_mmu",
        ),
        "mm/rmap.c": ("try_to_unmap_one", "try_to_migrate_one"),
    },
    chapter="book/commits/hugetlb-unshare.md",
    sources=(
        "mainline 8ce720d5bd91, in v6.19-rc7",
        "Message-ID 20251223214037.580860-5-david@kernel.org (v3 4/4)",
        f"{_REPORT} (the report)",
        "mainline 1013af4f585f, in v6.16 (each unshare interrupts every CPU)",
    ),
    figures=(
        _time("real without the IPI", 2.475, "real", "before"),
        _time("real with the IPI", 11.275, "real", "with"),
        _time("user without the IPI", 1.398, "user", "before"),
        _time("user with the IPI", 0.177, "user", "with"),
        _time("sys without the IPI", 2.501, "sys", "before"),
        _time("sys with the IPI", 23.905, "sys", "with"),
    ),
    needs={
        "3937027caecb": "it moves the two comments corrected there into one helper",
        "a8682d500f69": "it changes the code under the two comments corrected there",
    },
    note=(
        "No run time of the repaired kernel was found; the figures are those of the "
        "regression. On arm64 it turned flushes that reached the walk cache into "
        "leaf-only ones, until c2ff4764e03e."
    ),
    reverts={"hugetlb": HugetlbBefore, "rmap": RmapBefore},
)
