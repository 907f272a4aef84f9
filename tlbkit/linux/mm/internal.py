"""Runs of page entries that can be treated as one: mm/internal.h and mm/util.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_dirty,
    pte_mkclean,
    pte_mkdirty,
    pte_mkold,
    pte_mkyoung,
    pte_valid_cont,
    pte_write,
    pte_wrprotect,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT

if TYPE_CHECKING:
    from tlbkit.linux.arch.arm64.include.asm.pgtable import Pgtable
    from tlbkit.linux.include.linux.mm_types import Folio

FPB_RESPECT_DIRTY: Final = 1 << 0
FPB_RESPECT_WRITE: Final = 1 << 2
FPB_MERGE_WRITE: Final = 1 << 3
FPB_MERGE_YOUNG_DIRTY: Final = 1 << 4


def folio_pte_batch_flags(
    pgtable: Pgtable, folio: Folio, ptep: int, pte: int, max_nr: int, flags: int
) -> tuple[int, int]:
    """Return how many entries from *ptep* on map consecutive pages of one folio alike.

    Args:
        pgtable: For reading the entries.
        folio: What they map; it is not worth asking for one of a single page.
        ptep: Where the first entry stands; it is present, and its table is locked.
        pte: What it says.
        max_nr: Entries to look at, at most.
        flags: Which differences end a run besides those that always do. The access flag
            never does; the dirty state and the write permission only if respected.

    Returns:
        The number, and *pte*: with FPB_MERGE_WRITE it is writable if any of them is,
        with FPB_MERGE_YOUNG_DIRTY young or dirty likewise.

    Source: mm/internal.h, folio_pte_batch_flags()
    """
    max_nr = min(max_nr, folio.pfn + folio.nr_pages - pgtable.pte_pfn(pte))
    first = pte
    writable = young = dirty = False
    nr = pte_batch_hint(pgtable, ptep, pte)
    expected = _clear_ignored(pgtable.pte_advance_pfn(pte, nr), flags)
    while nr < max_nr:
        at = ptep + nr * SLOT
        pte = pgtable.ptep_get(at)
        if _clear_ignored(pte, flags) != expected:
            break
        writable = writable or pte_write(pte)
        young = young or pte_young(pte)
        dirty = dirty or pte_dirty(pte)
        hint = pte_batch_hint(pgtable, at, pte)
        expected = pgtable.pte_advance_pfn(expected, hint)
        nr += hint
    if writable and flags & FPB_MERGE_WRITE:
        first = pgtable.pte_mkwrite(first)
    if flags & FPB_MERGE_YOUNG_DIRTY:
        first = pte_mkyoung(first) if young else first
        first = pte_mkdirty(first) if dirty else first
    return min(nr, max_nr), first


def folio_pte_batch(
    pgtable: Pgtable, folio: Folio, ptep: int, pte: int, max_nr: int
) -> int:
    """Return the same number where neither dirty state nor write permission matters.

    Source: mm/util.c, folio_pte_batch()
    """
    return folio_pte_batch_flags(pgtable, folio, ptep, pte, max_nr, 0)[0]


def pte_batch_hint(pgtable: Pgtable, ptep: int, pte: int) -> int:
    """Return how many entries need not be read: the rest of a contiguous block.

    Source: arch/arm64/include/asm/pgtable.h, pte_batch_hint()
    """
    if not pte_valid_cont(pte):
        return 1
    return pgtable.cont_ptes - (ptep >> 3 & (pgtable.cont_ptes - 1))


def _clear_ignored(pte: int, flags: int) -> int:
    """Return *pte* without the state that may differ within a run."""
    if not flags & FPB_RESPECT_DIRTY:
        pte = pte_mkclean(pte)
    if not flags & FPB_RESPECT_WRITE:
        pte = pte_wrprotect(pte)
    return pte_mkold(pte)
