"""8ce720d5bd91: unsharing hugetlb PMD tables is gathered, and rarely needs an IPI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm import VM_MAYSHARE
from tlbkit.linux.include.linux.mm_types import (
    ptdesc_pmd_is_shared,
    ptdesc_pmd_pts_dec,
)
from tlbkit.linux.mm.hugetlb import Hugetlb
from tlbkit.linux.mm.mmu_gather import MmuGather
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR, MMU_NOTIFY_PROTECTION_VMA
from tlbkit.linux.mm.rmap import Rmap
from tlbkit.patches import series
from tlbkit.patches.patch import Figure, Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
    from tlbkit.linux.include.linux.mm_types import VmArea


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

    What `huge_pmd_unshare` is given here is no gather of the kernel's: it is never
    begun nor ended, and only carries the word that a table was unshared.
    """

    __slots__ = ()

    def huge_pmd_unshare(
        self, tlb: MmuGather, vma: VmArea, addr: int, ptep: int
    ) -> bool:
        """Take a shared table away, once no CPU can be in a lockless walk of it.

        Callers flush, before they release i_mmap_rwsem.
        """
        if self.hstate_vma(vma).size != self._pgtable.pmd_size:
            return False
        table = self.ptdesc(ptep)
        if not ptdesc_pmd_is_shared(table):
            return False
        self.mapping(vma).i_mmap_rwsem.assert_write_held()
        self.hugetlb_vma_assert_locked(vma)
        pgtable = self._pgtable
        pgdp = pgtable.pgd_offset(vma.mm, addr)
        pgtable.pud_clear(pgtable.pud_offset(pgdp, addr))
        self._kernel.gather.tlb_remove_table_sync_one()
        ptdesc_pmd_pts_dec(table)
        vma.mm.pgtables[2] -= 1
        tlb.unshared_tables = True
        return True

    def unmap_hugepage_range_(
        self,
        tlb: MmuGather,
        vma: VmArea,
        start: int,
        end: int,
        folio: HugetlbFolio | None = None,
        *,
        drop_marker: bool = False,
    ) -> None:
        """Clear the entries of a range; flush at the end if a table was unshared."""
        gather = self._kernel.gather
        size = self._pgtable.pud_size
        done = MmuGather(vma.mm)
        gather.tlb_start_vma(tlb, vma)
        entries = self.huge_entries(vma, start, end)
        for addr, ptep in entries:
            ptl = self.huge_pte_lockptr(vma, ptep)
            ptl.acquire()
            if self.huge_pmd_unshare(done, vma, addr, ptep):
                ptl.release()
                gather.tlb_flush_pmd_range(tlb, addr & -size, size)
                entries.skip_table()
            elif self.zap_huge_pte(
                tlb, vma, entries, addr, ptep, ptl, folio, drop_marker=drop_marker
            ):
                break
        gather.tlb_end_vma(tlb, vma)
        if done.unshared_tables:  # force_flush
            gather.tlb_flush_mmu_tlbonly(tlb)

    def hugetlb_change_protection(
        self, vma: VmArea, start: int, end: int, prot: int, how: int
    ) -> int:
        """Give a range other rights, and flush it once, whatever has changed."""
        h = self.hstate_vma(vma)
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        span = self.adjust_range_if_pmd_sharing_possible(vma, start, end)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_PROTECTION_VMA, 0, vma.mm, *span
        ):
            self.hugetlb_vma_lock_write(vma)
            i_mmap_rwsem.down_write()
            done = MmuGather(vma.mm)
            changed = self._change_range(done, vma, start, end, prot, how)
            flushed = span if done.unshared_tables else (start, end)
            self._kernel.hugetlbpage.flush_hugetlb_tlb_range(vma, *flushed, h.size)
            i_mmap_rwsem.up_write()
            self.hugetlb_vma_unlock_write(vma)
        return changed << h.order if changed > 0 else changed

    def move_hugetlb_page_tables(
        self, vma: VmArea, new_vma: VmArea, old_addr: int, new_addr: int, length: int
    ) -> int:
        """Move the entries of a range, and flush it once, whatever has moved."""
        i_mmap_rwsem = self.mapping(vma).i_mmap_rwsem
        end = old_addr + length
        span = self.adjust_range_if_pmd_sharing_possible(vma, old_addr, end)
        with self._kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, vma.mm, *span
        ):
            self.hugetlb_vma_lock_write(vma)
            i_mmap_rwsem.down_write()
            done = MmuGather(vma.mm)
            moved = self._move_range(done, vma, new_vma, old_addr, new_addr, length)
            flushed = span if done.unshared_tables else (old_addr, end)
            size = self.hstate_vma(vma).size
            self._kernel.hugetlbpage.flush_hugetlb_tlb_range(vma, *flushed, size)
        i_mmap_rwsem.up_write()
        self.hugetlb_vma_unlock_write(vma)
        return moved

    def hugetlb_unshare_pmds(
        self, vma: VmArea, start: int, end: int, *, take_locks: bool
    ) -> None:
        """Unshare all tables of a range, and flush it once, shared or not."""
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
                        self.huge_pmd_unshare(MmuGather(vma.mm), vma, addr, ptep)
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
        unshared = hugetlb.huge_pmd_unshare(MmuGather(vma.mm), vma, addr, ptep)
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
