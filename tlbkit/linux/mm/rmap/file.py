"""Whether a folio was used, and how all that map a file's tell when they write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_dirty,
    pte_mkclean,
    pte_present,
    pte_write,
    pte_wrprotect,
)
from tlbkit.linux.include.linux.mm import VM_LOCKED, VM_SHARED
from tlbkit.linux.include.linux.mm_inline import vma_has_recency
from tlbkit.linux.include.linux.mm_types import (
    PG_swapbacked,
    folio_maybe_mapped_shared,
)
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_PROTECTION_PAGE
from tlbkit.linux.mm.page_vma_mapped import PVMW_PGTABLE_CROSSED, PVMW_SYNC
from tlbkit.linux.mm.rmap.walk import RmapWalk

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.mm.page_vma_mapped import PageVmaMappedWalk


class FolioReferencedArg:
    """What a walk has seen: struct folio_referenced_arg.

    Attributes:
        mapcount: Entries that were not come by yet.
        referenced: VMAs through which the folio was used; -1 if it should go.
        vm_flags: Flags of these VMAs, and VM_LOCKED if it must stay.
    """

    __slots__ = ("mapcount", "referenced", "vm_flags")

    def __init__(self, mapcount: int) -> None:
        self.mapcount = mapcount
        self.referenced = 0
        self.vm_flags = 0


class RmapFile(RmapWalk):
    """Looks at the access flags of a folio's entries, and makes them clean."""

    __slots__ = ()

    def folio_referenced_one(
        self, folio: Folio, vma: VmArea, address: int, pra: FolioReferencedArg
    ) -> bool:
        """Clear the access flags of the entries of one VMA; false ends the walk.

        Entries of single pages are not flushed: a CPU that goes on by its TLB only lets
        the folio look idle.

        Source: mm/rmap.c, folio_referenced_one(), and lru_gen_look_around() of
        mm/vmscan.c
        Deviates: only the folio's own entries are looked at, not their neighbours; and
        what is locked in memory is not put on a list of its own.
        """
        walk = self._kernel.page_vma_mapped
        pvmw = walk.define_folio_vma_walk(folio, vma, address)
        ptes = 0
        referenced = False
        while walk.page_vma_mapped_walk(pvmw):
            address = pvmw.address
            if vma.flags & VM_LOCKED:
                ptes += 1
                pra.mapcount -= 1
                if pvmw.pte is not None and ptes != pvmw.nr_pages:
                    continue
                if pvmw.flags & PVMW_PGTABLE_CROSSED:
                    continue
                walk.page_vma_mapped_walk_done(pvmw)
                pra.vm_flags |= VM_LOCKED
                return False
            if (
                not vma.mm.users
                and folio.anon
                and folio.flags & PG_swapbacked
                and not folio_maybe_mapped_shared(folio)
            ):
                pra.referenced = -1
                walk.page_vma_mapped_walk_done(pvmw)
                return False
            if pvmw.pte is not None:
                young = self._kernel.pgtable.ptep_test_and_clear_young(pvmw.pte)
            else:
                assert pvmw.pmd is not None
                young = self._kernel.pgtable_generic.pmdp_clear_flush_young(
                    vma, address, pvmw.pmd
                )
            referenced |= young
            pra.mapcount -= 1
        if referenced:
            pra.referenced += 1
            pra.vm_flags |= vma.flags & ~VM_LOCKED
        return bool(pra.mapcount)

    @staticmethod
    def invalid_folio_referenced_vma(vma: VmArea) -> bool:
        """Tell whether that a page was used through *vma* means nothing.

        Source: mm/rmap.c, invalid_folio_referenced_vma()
        Deviates: there are no control groups of memory.
        """
        return not vma_has_recency(vma)

    def folio_referenced(self, folio: Folio) -> tuple[int, int]:
        """Return through how many VMAs a locked folio was used, and their flags.

        The access flags are cleared. -1 if somebody has the lock of all its VMAs for
        writing, or if the folio should go at once.

        Source: mm/rmap.c, folio_referenced()
        Deviates: the caller has the folio locked, and there are no control groups.
        """
        pra = FolioReferencedArg(folio.mapcount)
        if not pra.mapcount or folio.mapping is None:
            return 0, 0
        contended = self.rmap_walk(
            folio,
            lambda vma, address: self.folio_referenced_one(folio, vma, address, pra),
            invalid_vma=self.invalid_folio_referenced_vma,
            try_lock=True,
        )
        return -1 if contended else pra.referenced, pra.vm_flags

    def page_vma_mkclean_one(self, pvmw: PageVmaMappedWalk) -> int:
        """Write-protect what a walk finds; return how many entries had to be.

        Each entry is flushed before the next is looked at.

        Source: mm/rmap.c, page_vma_mkclean_one()
        """
        kernel = self._kernel
        pgtable = kernel.pgtable
        walk = kernel.page_vma_mapped
        vma = pvmw.vma
        cleaned = 0
        with kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_PROTECTION_PAGE,
            0,
            vma.mm,
            pvmw.address,
            walk.vma_address_end(pvmw),
        ):
            while walk.page_vma_mapped_walk(pvmw):
                if pvmw.pte is not None:
                    entry = pgtable.ptep_get(pvmw.pte)
                    if not pte_present(entry):
                        continue
                    if not pte_dirty(entry) and not pte_write(entry):
                        continue
                    entry = kernel.pgtable_generic.ptep_clear_flush(
                        vma, pvmw.address, pvmw.pte
                    )
                    entry = pte_mkclean(pte_wrprotect(entry))
                    pgtable.set_ptes(vma.mm, pvmw.address, pvmw.pte, entry, 1)
                else:
                    assert pvmw.pmd is not None
                    entry = pgtable.read(pvmw.pmd)
                    if not pte_present(entry):
                        continue
                    if not pte_dirty(entry) and not pte_write(entry):
                        continue
                    entry = kernel.pgtable_generic.pmdp_invalidate(
                        vma, pvmw.address, pvmw.pmd
                    )
                    entry = pte_mkclean(pte_wrprotect(entry))
                    pgtable.set_pte(pvmw.pmd, entry)
                cleaned += 1
        return cleaned

    def page_mkclean_one(self, folio: Folio, vma: VmArea, address: int) -> int:
        """Write-protect a folio in one VMA; return how many entries had to be.

        Source: mm/rmap.c, page_mkclean_one()
        """
        return self.page_vma_mkclean_one(
            self._kernel.page_vma_mapped.define_folio_vma_walk(
                folio, vma, address, PVMW_SYNC
            )
        )

    @staticmethod
    def invalid_mkclean_vma(vma: VmArea) -> bool:
        """Tell whether nobody can write to the file through *vma*.

        Source: mm/rmap.c, invalid_mkclean_vma()
        """
        return not vma.flags & VM_SHARED

    def folio_mkclean(self, folio: Folio) -> int:
        """Write-protect a locked folio of a file wherever it is mapped shared.

        Who writes from now on faults, and is noticed.

        Returns:
            How many entries were dirty or writable.

        Source: mm/rmap.c, folio_mkclean()
        """
        cleaned = 0

        def rmap_one(vma: VmArea, address: int) -> bool:
            nonlocal cleaned
            cleaned += self.page_mkclean_one(folio, vma, address)
            return True

        if not folio.mapcount or folio.mapping is None:
            return 0
        self.rmap_walk(folio, rmap_one, invalid_vma=self.invalid_mkclean_vma)
        return cleaned
