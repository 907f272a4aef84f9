"""Huge pages of hugetlb in arm64's tables: which sizes there are, and their entries.

Four sizes: one PUD or PMD leaf each, and the contiguous ones, which are an aligned run
of PMD leaves or of page entries that a TLB may hold as one. A contiguous huge page is
changed as a whole: its entries are cleared, flushed, and stored anew, because a TLB
must not see both forms. Its access flag and dirty state are those of all its entries.

A pointer to the first entry stands for the page: ``ptep``, whatever its level.

Source: arch/arm64/mm/hugetlbpage.c and arch/arm64/include/asm/hugetlb.h, v6.19.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pmd_mkhuge,
    pte_cont,
    pte_dirty,
    pte_mkcont,
    pte_mkdirty,
    pte_mkyoung,
    pte_none,
    pte_present,
    pte_valid,
    pte_write,
    pte_wrprotect,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.arch.arm64.include.asm.tlbflush import TLBI_TTL_UNKNOWN
from tlbkit.linux.include.linux.mm_types import VmArea

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel

_CONT_PMD_SHIFT: Final = {12: 4, 14: 5, 16: 5}
"""log2 of the PMD leaves of a contiguous run, by log2 of the page size."""


class Hugetlbpage:
    """The entries of huge pages.

    Attributes:
        cont_pmds: PMD leaves of one contiguous huge page.
        cont_pmd_size: Its bytes.
        sizes: All sizes of huge pages in bytes, smallest first.
    """

    __slots__ = (
        "_kernel",
        "_machine",
        "_pgtable",
        "_read",
        "cont_pmd_size",
        "cont_pmds",
        "sizes",
    )

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        pgtable = self._pgtable = kernel.pgtable
        self._read = pgtable.read
        self.cont_pmds = 1 << _CONT_PMD_SHIFT[pgtable.page_shift]
        self.cont_pmd_size = self.cont_pmds * pgtable.pmd_size
        sizes = [
            kernel.contpte.cont_pte_size,
            pgtable.pmd_size,
            self.cont_pmd_size,
        ]
        if self.pud_sect_supported():
            sizes.append(pgtable.pud_size)
        self.sizes: tuple[int, ...] = tuple(sizes)

    def pud_sect_supported(self) -> bool:
        """Tell whether a PUD entry can be a leaf: with pages of 4 KiB only.

        Source: arch/arm64/include/asm/pgtable.h, pud_sect_supported()
        """
        return self._pgtable.page_shift == 12

    def num_contig_ptes(self, size: int) -> tuple[int, int]:
        """Return how many entries a huge page has, and the bytes of each.

        Source: arch/arm64/mm/hugetlbpage.c, num_contig_ptes()
        """
        pgtable = self._pgtable
        if size == self.cont_pmd_size:
            return self.cont_pmds, pgtable.pmd_size
        if size == self._kernel.contpte.cont_pte_size:
            return pgtable.cont_ptes, pgtable.page_size
        return 1, size

    def hugetlb_mask_last_page(self, size: int) -> int:
        """Return the address bits to set to get to the last page of a table.

        Whoever finds no table for an address goes on behind all that it could map.

        Source: arch/arm64/mm/hugetlbpage.c, hugetlb_mask_last_page()
        """
        pgtable = self._pgtable
        if size == pgtable.pud_size:
            return (1 << pgtable.pgdir_shift) - size
        if size in (pgtable.pmd_size, self.cont_pmd_size):
            return pgtable.pud_size - size
        return pgtable.pmd_size - size

    # -- finding entries -------------------------------------------------------------

    def huge_pte_alloc(
        self, mm: MmStruct, vma: VmArea, addr: int, size: int
    ) -> int | None:
        """Return where the entry of a huge page stands, making tables; or ``None``.

        A table of PMD leaves may be one that another address space already has.

        Source: arch/arm64/mm/hugetlbpage.c, huge_pte_alloc()
        """
        memory = self._kernel.memory
        pgtable = self._pgtable
        pudp = memory.pud_alloc(mm, addr)
        if pudp is None or size == pgtable.pud_size:
            return pudp
        if size == pgtable.pmd_size:
            hugetlb = self._kernel.hugetlb
            if pte_none(self._read(pudp)) and hugetlb.want_pmd_share(vma, addr):
                return hugetlb.huge_pmd_share(mm, vma, addr, pudp)
            return memory.pmd_alloc(mm, addr)
        pmdp = memory.pmd_alloc(mm, addr)
        if pmdp is None or size == self.cont_pmd_size:
            return pmdp
        return pgtable.pte_offset(pmdp, addr) if memory.pte_alloc(mm, pmdp) else None

    def huge_pte_offset(self, mm: MmStruct, addr: int, size: int) -> int | None:
        """Return where the entry of a huge page stands, if tables go that deep.

        Source: arch/arm64/mm/hugetlbpage.c, huge_pte_offset()
        """
        pgtable = self._pgtable
        pgdp = pgtable.pgd_offset(mm, addr)
        if not pgtable.folded_pud and pte_none(self._read(pgdp)):
            return None
        pudp = pgtable.pud_offset(pgdp, addr)
        if size == pgtable.pud_size:
            return pudp
        pud = self._read(pudp)
        if pte_none(pud):
            return None
        if size == self.cont_pmd_size:
            addr &= -size
        pmdp = pgtable.pmd_offset(pudp, addr)
        if size in (pgtable.pmd_size, self.cont_pmd_size):
            return pmdp
        pmd = self._read(pmdp)
        if pte_none(pmd) or pmd_leaf(pmd) or not pte_present(pmd):
            return None
        return pgtable.pte_offset(pmdp, addr & -size)

    def next_pud(self, mm: MmStruct, addr: int) -> int:
        """Return the next multiple of a PUD's span for which an entry is not empty.

        Only within the table that has the entry for *addr*, which is empty; its end if
        there is no other. It is what many steps of a walk would come to.

        Source: none; it tells a walk how many entries it need not look at.
        """
        pgtable = self._pgtable
        shift = pgtable.pud_shift
        following = (addr >> shift) + 1
        if pgtable.folded_pud:
            return following << shift
        pgd = self._read(pgtable.pgd_offset(mm, addr))
        if pte_none(pgd):
            return ((addr >> pgtable.pgdir_shift) + 1) << pgtable.pgdir_shift
        entries = self._machine.memory.frame(pgtable.pte_pfn(pgd))
        mask = pgtable.ptrs_per_pte - 1
        while following & mask and not entries[following & mask]:
            following += 1
        return following << shift

    # -- values ----------------------------------------------------------------------

    def arch_make_huge_pte(self, entry: int, size: int) -> int:
        """Return a page entry as the first entry of a huge page of *size* bytes.

        Source: arch/arm64/mm/hugetlbpage.c, arch_make_huge_pte()
        """
        contiguous, each = self.num_contig_ptes(size)
        if contiguous > 1:
            entry = pte_mkcont(entry)
        return entry if each == self._pgtable.page_size else pmd_mkhuge(entry)

    def huge_ptep_get(self, ptep: int, size: int) -> int:
        """Return the first entry; young or dirty if any entry of the page is.

        Source: arch/arm64/mm/hugetlbpage.c, huge_ptep_get()
        """
        pte = self._read(ptep)
        if not pte_cont(pte) or not pte_present(pte):
            return pte
        for n in range(1, self.num_contig_ptes(size)[0]):
            pte = self._collect(pte, self._read(ptep + SLOT * n))
        return pte

    @staticmethod
    def _collect(pte: int, other: int) -> int:
        """Return *pte*, young and dirty if *other* is."""
        if pte_dirty(other):
            pte = pte_mkdirty(pte)
        return pte_mkyoung(pte) if pte_young(other) else pte

    # -- changing --------------------------------------------------------------------

    def set_huge_pte_at(
        self, mm: MmStruct, addr: int, ptep: int, pte: int, size: int
    ) -> None:
        """Store an entry in all places of a huge page.

        A contiguous one that is mapped now is cleared and flushed first.

        Source: arch/arm64/mm/hugetlbpage.c, set_huge_pte_at()
        """
        contiguous, each = self.num_contig_ptes(size)
        step = each if pte_present(pte) else 0
        if step and contiguous > 1 and pte_valid(self._read(ptep)):
            self.clear_flush(mm, addr, ptep, each, contiguous)
        store = self._machine.running.store
        for n in range(contiguous):
            store(ptep + SLOT * n, pte + n * step, "set_huge_pte")

    def huge_pte_clear(self, ptep: int, size: int) -> None:
        """Empty all places of a huge page that is not mapped.

        Source: arch/arm64/mm/hugetlbpage.c, huge_pte_clear()
        """
        for n in range(self.num_contig_ptes(size)[0]):
            self._machine.running.store(ptep + SLOT * n, 0, "huge_pte_clear")

    def clear_flush(
        self, mm: MmStruct, addr: int, ptep: int, each: int, contiguous: int
    ) -> None:
        """Break a contiguous huge page: clear, then flush.

        Source: arch/arm64/mm/hugetlbpage.c, clear_flush()
        """
        self.get_clear_contig_flush(mm, addr, ptep, each, contiguous)

    def get_clear_contig(self, ptep: int, contiguous: int) -> int:
        """Clear all entries; return the first, young or dirty if any was.

        Source: arch/arm64/mm/hugetlbpage.c, get_clear_contig()
        """
        swap = self._machine.running.swap
        pte = swap(ptep, 0, "huge_ptep_get_and_clear")
        for n in range(1, contiguous):
            other = swap(ptep + SLOT * n, 0, "huge_ptep_get_and_clear")
            if pte_present(pte):
                pte = self._collect(pte, other)
        return pte

    def get_clear_contig_flush(
        self, mm: MmStruct, addr: int, ptep: int, each: int, contiguous: int
    ) -> int:
        """Do so and flush the leaves of all entries; return what they were.

        Source: arch/arm64/mm/hugetlbpage.c, get_clear_contig_flush()
        """
        pte = self.get_clear_contig(ptep, contiguous)
        self.flush_hugetlb_tlb_range_(
            mm, addr, addr + each * contiguous, each, last_level=True
        )
        return pte

    def huge_ptep_get_and_clear(self, ptep: int, size: int) -> int:
        """Clear a huge page and return what it was; nothing is flushed.

        Source: arch/arm64/mm/hugetlbpage.c, huge_ptep_get_and_clear()
        """
        return self.get_clear_contig(ptep, self.num_contig_ptes(size)[0])

    def huge_ptep_clear_flush(
        self, vma: VmArea, addr: int, ptep: int, size: int
    ) -> int:
        """Clear a huge page and flush it everywhere; return what it was.

        Source: arch/arm64/mm/hugetlbpage.c, huge_ptep_clear_flush()
        """
        contiguous, each = self.num_contig_ptes(size)
        return self.get_clear_contig_flush(vma.mm, addr, ptep, each, contiguous)

    def huge_ptep_set_wrprotect(
        self, mm: MmStruct, addr: int, ptep: int, size: int
    ) -> None:
        """Take write permission away; of a contiguous page by clearing and flushing.

        Source: arch/arm64/mm/hugetlbpage.c, huge_ptep_set_wrprotect()
        """
        pte = self._read(ptep)
        if not pte_cont(pte):
            self._pgtable.ptep_set_wrprotect_(ptep, pte)
            return
        contiguous, each = self.num_contig_ptes(size)
        pte = self.get_clear_contig_flush(mm, addr, ptep, each, contiguous)
        self._store_run(ptep, pte_wrprotect(pte), each, contiguous)

    def huge_ptep_set_access_flags(
        self, vma: VmArea, addr: int, ptep: int, pte: int, size: int, *, dirty: bool
    ) -> bool:
        """Give a huge page more rights; tell whether that changed anything.

        Source: arch/arm64/mm/hugetlbpage.c, huge_ptep_set_access_flags()
        """
        fault = self._kernel.fault
        if not pte_cont(pte):
            return fault.ptep_set_access_flags_(vma, addr, ptep, pte, dirty=dirty)
        contiguous, each = self.num_contig_ptes(size)
        if not self._cont_access_flags_changed(ptep, pte, contiguous):
            return False
        old = self.get_clear_contig_flush(vma.mm, addr, ptep, each, contiguous)
        self._store_run(ptep, self._collect(pte, old), each, contiguous)
        return True

    def _cont_access_flags_changed(self, ptep: int, pte: int, contiguous: int) -> bool:
        """Tell whether *pte* says more than any entry of a contiguous page."""
        if pte_write(pte) != pte_write(self._read(ptep)):
            return True
        entries = [self._read(ptep + SLOT * n) for n in range(contiguous)]
        return any(
            pte_dirty(pte) != pte_dirty(old) or pte_young(pte) != pte_young(old)
            for old in entries
        )

    def _store_run(self, ptep: int, pte: int, each: int, contiguous: int) -> None:
        for n in range(contiguous):
            self._machine.running.store(ptep + SLOT * n, pte + n * each, "set_huge_pte")

    # -- flushing --------------------------------------------------------------------

    def flush_hugetlb_tlb_range(
        self, vma: VmArea, start: int, end: int, size: int
    ) -> None:
        """Drop huge pages of *size* bytes, and the tables above them.

        Source: arch/arm64/include/asm/hugetlb.h, flush_hugetlb_tlb_range()
        """
        self.flush_hugetlb_tlb_range_(vma.mm, start, end, size, last_level=False)

    def flush_hugetlb_tlb_range_(
        self, mm: MmStruct, start: int, end: int, stride: int, *, last_level: bool
    ) -> None:
        """Drop a range of huge pages and wait: __flush_hugetlb_tlb_range().

        Source: arch/arm64/include/asm/hugetlb.h, __flush_hugetlb_tlb_range()
        """
        pgtable = self._pgtable
        level: int | None = TLBI_TTL_UNKNOWN
        if stride == pgtable.pud_size:
            level = 1
        elif stride in (pgtable.pmd_size, self.cont_pmd_size):
            stride, level = pgtable.pmd_size, 2
        elif stride in (pgtable.page_size, self._kernel.contpte.cont_pte_size):
            stride, level = pgtable.page_size, 3
        self._kernel.tlbflush.flush_tlb_range_(
            VmArea(mm, start, end, 0, 0, 0),
            start,
            end,
            stride,
            last_level=last_level,
            level=level,
        )
