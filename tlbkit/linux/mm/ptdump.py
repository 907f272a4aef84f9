"""A walk over the tables of an address space, for others to print: mm/ptdump.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pmd_table, pte_none
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel

    NotePage = Callable[[int, int, int], None]

PGD, P4D, PUD, PMD, PTE = range(5)
"""Depths, as the walk counts them: from the top, and folded levels too."""


class PtdumpWalk:
    """Shows every leaf and every hole, in the order of addresses."""

    __slots__ = ("_kernel", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable

    def ptdump_walk_pgd(self, mm: MmStruct, note_page: NotePage) -> None:
        """Call *note_page* with address, depth and value of each last entry.

        A hole has the depth of the entry that is empty, and no value. At the end it is
        called once more, with the depth -1.

        Source: mm/ptdump.c, ptdump_walk_pgd()
        """
        pgtable = self._pgtable
        self._walk(mm.pgd, 0, PUD if pgtable.folded_pud else PGD, note_page)
        note_page(pgtable.task_size, -1, 0)

    def _walk(self, table: int, addr: int, depth: int, note_page: NotePage) -> None:
        """Show what lies below one table."""
        pgtable = self._pgtable
        shift = {
            PGD: pgtable.pgdir_shift,
            PUD: pgtable.pud_shift,
            PMD: pgtable.pmd_shift,
            PTE: pgtable.page_shift,
        }[depth]
        below = PUD if depth == PGD else depth + 1
        entries = min(pgtable.ptrs_per_pte, pgtable.task_size - addr >> shift)
        for number in range(entries):
            at = addr + (number << shift)
            entry = pgtable.read(table + number * SLOT)
            if depth != PTE and not pte_none(entry) and pmd_table(entry):
                address = pgtable.pte_pfn(entry) << pgtable.page_shift
                self._walk(address, at, below, note_page)
            else:
                note_page(at, depth, entry)
