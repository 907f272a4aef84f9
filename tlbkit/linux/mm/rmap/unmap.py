"""Taking every entry of a folio away: to swap it out, to drop it, or to migrate it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_dirty,
    pte_uffd_wp,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    PTE_SWP_EXCLUSIVE,
    PTE_SWP_UFFD_WP,
)
from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
from tlbkit.linux.include.linux.mm import VM_LOCKED
from tlbkit.linux.include.linux.mm_types import (
    LargeFolio,
    PG_dirty,
    PG_swapbacked,
    PG_swapcache,
)
from tlbkit.linux.include.linux.swapops import (
    SWP_HWPOISON,
    SwpEntry,
    make_migration_pte,
    swp_entry_to_pte,
)
from tlbkit.linux.kernel.panic import BugError
from tlbkit.linux.mm.internal import FPB_RESPECT_WRITE, folio_pte_batch_flags
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR
from tlbkit.linux.mm.page_vma_mapped import PVMW_SYNC
from tlbkit.linux.mm.rmap.file import RmapFile
from tlbkit.linux.mm.rmap.walk import (
    TTU_BATCH_FLUSH,
    TTU_HWPOISON,
    TTU_IGNORE_MLOCK,
    TTU_RMAP_LOCKED,
    TTU_SPLIT_HUGE_PMD,
    TTU_SYNC,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.mm.page_vma_mapped import PageVmaMappedWalk


class RmapUnmap(RmapFile):
    """Unmaps folios, and says in each entry what is right."""

    __slots__ = ()

    def folio_unmap_pte_batch(
        self, folio: Folio, ptep: int, pte: int, addr: int, end: int
    ) -> int:
        """Return how many entries are unmapped at once: several only to be dropped.

        They agree in the write bit, for they may have to be restored as they were.

        Source: mm/rmap.c, folio_unmap_pte_batch()
        Deviates: the caller says where the table and the VMA end, and does not ask for
        a page that went bad.
        """
        if not isinstance(folio, LargeFolio):
            return 1
        if not folio.anon or folio.flags & PG_swapbacked:
            return 1
        pgtable = self._kernel.pgtable
        most = (end - addr) >> pgtable.page_shift
        return folio_pte_batch_flags(
            pgtable, folio, ptep, pte, most, FPB_RESPECT_WRITE
        )[0]

    def _range_of(self, folio: Folio, pvmw: PageVmaMappedWalk) -> tuple[int, int]:
        """Return what devices are told of: more than the folio with shared tables."""
        start, end = pvmw.address, self._kernel.page_vma_mapped.vma_address_end(pvmw)
        if isinstance(folio, HugetlbFolio):
            hugetlb = self._kernel.hugetlb
            return hugetlb.adjust_range_if_pmd_sharing_possible(pvmw.vma, start, end)
        return start, end

    def try_to_unmap_one(
        self, folio: Folio, vma: VmArea, address: int, flags: int
    ) -> bool:
        """Unmap a folio from one VMA; false if an entry has to stay.

        A CPU may go on writing through what its TLB still holds of an entry. If that
        was clean, the hardware must look at it before the first write, and faults.

        Source: mm/rmap.c, try_to_unmap_one()
        Deviates: what is locked in memory is not put on a list of its own. That a page
        went bad is taken from TTU_HWPOISON alone. No guest says that a page is unused,
        and there is no memory of devices.
        """
        kernel = self._kernel
        pgtable = kernel.pgtable
        walk = kernel.page_vma_mapped
        mm = vma.mm
        pvmw = walk.define_folio_vma_walk(folio, vma, address)
        if flags & TTU_SYNC:
            pvmw.flags = PVMW_SYNC
        ret = True
        ptes = 0
        span = self._range_of(folio, pvmw)
        with kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, mm, *span
        ):
            while walk.page_vma_mapped_walk(pvmw):
                if not flags & TTU_IGNORE_MLOCK and vma.flags & VM_LOCKED:
                    ptes += 1
                    ret = False
                    if pvmw.pte is not None and ptes != pvmw.nr_pages:
                        continue
                    break
                assert pvmw.pmd is not None or isinstance(folio, HugetlbFolio)
                if pvmw.pte is None:
                    assert pvmw.pmd is not None
                    assert isinstance(folio, LargeFolio)
                    if folio.anon and not folio.flags & PG_swapbacked:
                        ret = kernel.huge_memory.unmap_huge_pmd_locked(
                            vma, pvmw.address, pvmw.pmd, folio
                        )
                        break
                    if not flags & TTU_SPLIT_HUGE_PMD:
                        raise BugError("a huge page is to be unmapped, and not split")
                    kernel.huge_memory.split_huge_pmd_locked(
                        vma, pvmw.address, pvmw.pmd, freeze=False
                    )
                    flags &= ~TTU_SPLIT_HUGE_PMD
                    walk.page_vma_mapped_walk_restart(pvmw)
                    continue
                pte, address = pvmw.pte, pvmw.address
                if isinstance(folio, HugetlbFolio):
                    if not folio.anon:
                        if not kernel.hugetlb.hugetlb_vma_trylock_write(vma):
                            ret = False
                            break
                        if self.unshare_hugetlb(vma, address, pte, span):
                            break
                    self._unmap_poisoned_hugetlb(folio, vma, address, pte)
                    continue
                pteval = pgtable.ptep_get(pte)
                pfn = pgtable.pte_pfn(pteval)
                end = pgtable.addr_end(address, vma.end, pgtable.pmd_shift)
                nr_pages = self.folio_unmap_pte_batch(folio, pte, pteval, address, end)
                end = address + nr_pages * pgtable.page_size
                pteval = pgtable.get_and_clear_full_ptes(mm, address, pte, nr_pages)
                if self.should_defer_flush(flags):
                    self.set_tlb_ubc_flush_pending(mm, pteval, address, end)
                else:
                    kernel.tlbflush.flush_tlb_range(vma, address, end)
                if pte_dirty(pteval):
                    folio.flags |= PG_dirty
                kernel.memory.pte_install_uffd_wp_if_needed(vma, pte, pteval)
                if flags & TTU_HWPOISON:
                    self._count_off(folio, vma)
                    entry = SwpEntry(SWP_HWPOISON, pfn)
                    pgtable.set_pte(pte, swp_entry_to_pte(entry))
                elif not folio.anon:
                    kernel.swap.dec_file_counter(mm, folio)
                else:
                    cached = bool(folio.flags & PG_swapcache)
                    if bool(folio.flags & PG_swapbacked) != cached:
                        kernel.panic.warn_on_once(
                            "try_to_unmap_one", "a page has nowhere to go"
                        )
                        ret = False
                        break
                    if not cached:
                        ref_count, map_count = folio.refcount, folio.mapcount
                        dirty = folio.flags & PG_dirty
                        if kernel.machine.sees("folio_test_dirty", dirty):
                            # It was written since it was given up: keep it.
                            pgtable.set_ptes(mm, address, pte, pteval, nr_pages)
                            folio.flags |= PG_swapbacked
                            ret = False
                            break
                        if ref_count != 1 + map_count:
                            # Who holds it may have written to it, or may yet.
                            pgtable.set_ptes(mm, address, pte, pteval, nr_pages)
                            ret = False
                            break
                        mm.anonpages -= nr_pages
                    elif not self._swap_out(folio, pfn, vma, pte, pteval):
                        pgtable.set_ptes(mm, address, pte, pteval, 1)
                        ret = False
                        break
                self.folio_remove_rmap_ptes(folio, pfn, nr_pages, vma)
                for _ in range(nr_pages):
                    kernel.swap.folio_put(folio)
                if nr_pages == folio.nr_pages:
                    break
            walk.page_vma_mapped_walk_done(pvmw)
        return ret

    def _swap_out(
        self, folio: Folio, pfn: int, vma: VmArea, pte: int, pteval: int
    ) -> bool:
        """Let an entry say which slot has its page; false if that is pinned."""
        kernel = self._kernel
        entry = kernel.swap_state.page_swap_entry(folio, pfn)
        kernel.swapfile.swap_duplicate(entry)
        anon_exclusive = folio.page_exclusive(pfn)
        if anon_exclusive and not self.folio_try_share_anon_rmap(folio, pfn):
            kernel.swapfile.swap_free(entry)
            return False
        vma.mm.anonpages -= 1
        vma.mm.swapents += 1
        swp_pte = swp_entry_to_pte(entry)
        if anon_exclusive:
            swp_pte |= PTE_SWP_EXCLUSIVE
        if pte_uffd_wp(pteval):
            swp_pte |= PTE_SWP_UFFD_WP
        kernel.pgtable.set_pte(pte, swp_pte)
        return True

    def _count_off(self, folio: Folio, vma: VmArea) -> None:
        """Count one page less that *vma*'s process has of a folio."""
        if folio.anon:
            vma.mm.anonpages -= 1
        else:
            self._kernel.swap.dec_file_counter(vma.mm, folio)

    def _unmap_poisoned_hugetlb(
        self, folio: HugetlbFolio, vma: VmArea, address: int, pte: int
    ) -> None:
        """Let the entry of a huge page say that its memory went bad."""
        huge = self._kernel.hugetlbpage
        size = folio.hstate.size
        pteval = huge.huge_ptep_clear_flush(vma, address, pte, size)
        if pte_dirty(pteval):
            folio.flags |= PG_dirty
        vma.mm.hugetlb_usage -= folio.nr_pages
        entry = swp_entry_to_pte(SwpEntry(SWP_HWPOISON, folio.pfn))
        huge.set_huge_pte_at(vma.mm, address, pte, entry, size)
        self.hugetlb_remove_rmap(folio, vma)
        self._kernel.swap.folio_put(folio)

    def unshare_hugetlb(
        self, vma: VmArea, addr: int, ptep: int, span: tuple[int, int]
    ) -> bool:
        """Unmap a page by unsharing the table that maps it; false if it is not shared.

        With the table this VMA lost the page, and every other page of the table. It is
        the table that was unmapped: neither is a reference dropped, nor the page's own
        count touched. The lock of the VMA, which is held, is released.

        Source: mm/rmap.c, try_to_unmap_one() and try_to_migrate_one()
        """
        del span
        hugetlb = self._kernel.hugetlb
        gather = self._kernel.gather
        tlb = gather.tlb_gather_mmu_vma(vma)
        unshared = hugetlb.huge_pmd_unshare(tlb, vma, addr, ptep)
        hugetlb.hugetlb_vma_unlock_write(vma)
        if unshared:
            hugetlb.huge_pmd_unshare_flush(tlb, vma)
        gather.tlb_finish_mmu(tlb)
        return unshared

    def try_to_unmap(self, folio: Folio, flags: int) -> None:
        """Take away the entries that map a locked folio; some may have to stay.

        With TTU_BATCH_FLUSH the flushes are started and not waited for: before the
        pages are written out or given away, `try_to_unmap_flush` must follow.

        Source: mm/rmap.c, try_to_unmap()
        """
        self.rmap_walk(
            folio,
            lambda vma, address: self.try_to_unmap_one(folio, vma, address, flags),
            done=self.folio_not_mapped,
            locked=bool(flags & TTU_RMAP_LOCKED),
        )

    def try_to_migrate_one(
        self, folio: Folio, vma: VmArea, address: int, flags: int
    ) -> bool:
        """Let each entry of one VMA that maps a folio say that it migrates.

        Returns:
            False ends the walk: an entry has to stay since its page may be pinned.

        Source: mm/rmap.c, try_to_migrate_one()
        Deviates: after the split of a PMD entry the walk looks again, and goes on to
        the next VMA, as kernels do since v7.0; up to v6.19 it ends there, so that a
        huge page that two processes map is not split. No page that went bad is
        migrated, no guest says that a page is unused, and there is no memory of
        devices.
        """
        kernel = self._kernel
        pgtable = kernel.pgtable
        walk = kernel.page_vma_mapped
        mm = vma.mm
        pvmw = walk.define_folio_vma_walk(folio, vma, address)
        if flags & TTU_SYNC:
            pvmw.flags = PVMW_SYNC
        ret = True
        span = self._range_of(folio, pvmw)
        with kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, mm, *span
        ):
            while walk.page_vma_mapped_walk(pvmw):
                if pvmw.pte is None:
                    assert pvmw.pmd is not None
                    assert isinstance(folio, LargeFolio)
                    huge = kernel.huge_memory
                    if flags & TTU_SPLIT_HUGE_PMD:
                        huge.split_huge_pmd_locked(
                            vma, pvmw.address, pvmw.pmd, freeze=True
                        )
                        flags &= ~TTU_SPLIT_HUGE_PMD
                        walk.page_vma_mapped_walk_restart(pvmw)
                        continue
                    if huge.set_pmd_migration_entry(vma, pvmw.address, pvmw.pmd, folio):
                        ret = False
                        break
                    continue
                pte, address = pvmw.pte, pvmw.address
                if isinstance(folio, HugetlbFolio):
                    if not folio.anon:
                        if not kernel.hugetlb.hugetlb_vma_trylock_write(vma):
                            ret = False
                            break
                        if self.unshare_hugetlb(vma, address, pte, span):
                            break
                    if not self._migrate_hugetlb(folio, vma, address, pte):
                        ret = False
                        break
                    continue
                pfn = pgtable.pte_pfn(pgtable.ptep_get(pte))
                anon_exclusive = folio.anon and folio.page_exclusive(pfn)
                if self.should_defer_flush(flags):
                    pteval = pgtable.ptep_get_and_clear(mm, address, pte)
                    end = address + pgtable.page_size
                    self.set_tlb_ubc_flush_pending(mm, pteval, address, end)
                else:
                    pteval = kernel.pgtable_generic.ptep_clear_flush(vma, address, pte)
                if pte_dirty(pteval):
                    folio.flags |= PG_dirty
                if anon_exclusive and not self.folio_try_share_anon_rmap(folio, pfn):
                    pgtable.set_ptes(mm, address, pte, pteval, 1)
                    ret = False
                    break
                swp_pte = make_migration_pte(pteval, pfn, exclusive=anon_exclusive)
                pgtable.set_pte(pte, swp_pte)
                self.folio_remove_rmap_pte(folio, pfn, vma)
                kernel.swap.folio_put(folio)
            walk.page_vma_mapped_walk_done(pvmw)
        return ret

    def _migrate_hugetlb(
        self, folio: HugetlbFolio, vma: VmArea, address: int, pte: int
    ) -> bool:
        """Let the entry of a huge page say that it migrates; false if it is pinned."""
        huge = self._kernel.hugetlbpage
        size = folio.hstate.size
        anon_exclusive = folio.anon and folio.page_exclusive(folio.pfn)
        pteval = huge.huge_ptep_clear_flush(vma, address, pte, size)
        if pte_dirty(pteval):
            folio.flags |= PG_dirty
        if anon_exclusive and not self.hugetlb_try_share_anon_rmap(folio):
            huge.set_huge_pte_at(vma.mm, address, pte, pteval, size)
            return False
        swp_pte = make_migration_pte(pteval, folio.pfn, exclusive=anon_exclusive)
        huge.set_huge_pte_at(vma.mm, address, pte, swp_pte, size)
        self.hugetlb_remove_rmap(folio, vma)
        self._kernel.swap.folio_put(folio)
        return True

    def try_to_migrate(self, folio: Folio, flags: int) -> None:
        """Let every entry that maps a locked folio say that it migrates.

        Source: mm/rmap.c, try_to_migrate()
        Deviates: there is no memory of devices, and no stack of a program that is just
        being started.
        """
        known = TTU_RMAP_LOCKED | TTU_SPLIT_HUGE_PMD | TTU_SYNC | TTU_BATCH_FLUSH
        if flags & ~known:
            self._kernel.panic.warn_on_once("try_to_migrate", "a flag it does not take")
            return
        self.rmap_walk(
            folio,
            lambda vma, address: self.try_to_migrate_one(folio, vma, address, flags),
            done=self.folio_not_mapped,
            locked=bool(flags & TTU_RMAP_LOCKED),
        )
