"""Entries that map nothing now: pages swapped out or migrating, and markers.

The hardware sees an invalid descriptor; software reads a type and an offset from it.
Bit 56 is part of the offset here: "special" says nothing of an entry that maps nothing.

Source: include/linux/swapops.h and swap.h, and the layout in
arch/arm64/include/asm/pgtable.h (bits 10:6 type, 61:12 offset), v6.19.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_dirty,
    pte_none,
    pte_present,
    pte_uffd_wp,
    pte_write,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    PTE_SWP_EXCLUSIVE,
    PTE_SWP_UFFD_WP,
)

_TYPE_SHIFT: Final = 6
_TYPE_MASK: Final = 31
_OFFSET_SHIFT: Final = 12
_OFFSET_MASK: Final = (1 << 50) - 1

MAX_SWAPFILES: Final = 27
"""Types from here on are not swap files (without memory of devices)."""
SWP_HWPOISON: Final = 27
SWP_MIGRATION_READ: Final = 28
SWP_MIGRATION_READ_EXCLUSIVE: Final = 29
SWP_MIGRATION_WRITE: Final = 30
SWP_PTE_MARKER: Final = 31

_MIGRATION_PFN_MASK: Final = (1 << 40) - 1
_MIGRATION_YOUNG: Final = 1 << 40
_MIGRATION_DIRTY: Final = 1 << 41

PTE_MARKER_UFFD_WP: Final = 1 << 0
PTE_MARKER_POISONED: Final = 1 << 1
PTE_MARKER_GUARD: Final = 1 << 2


class SwpEntry(NamedTuple):
    """What stands in place of a page: swp_entry_t.

    Attributes:
        type: Number of the swap file, or one of the ``SWP_`` types.
        offset: The slot in the file, the frame that migrates, or the marker's bits.
    """

    type: int
    offset: int


def pte_to_swp_entry(pte: int) -> SwpEntry:
    """Return what an entry that is neither none nor present stands for.

    Source: include/linux/swapops.h, pte_to_swp_entry()
    """
    return SwpEntry(
        pte >> _TYPE_SHIFT & _TYPE_MASK, pte >> _OFFSET_SHIFT & _OFFSET_MASK
    )


def swp_entry_to_pte(entry: SwpEntry) -> int:
    """Return the page-table entry that stands for *entry*.

    Source: include/linux/swapops.h, swp_entry_to_pte()
    """
    return entry.type << _TYPE_SHIFT | entry.offset << _OFFSET_SHIFT


def pte_swp_exclusive(pte: int) -> bool:
    """Tell whether the page that was swapped out belongs to one process.

    Source: arch/arm64/include/asm/pgtable.h, pte_swp_exclusive()
    """
    return bool(pte & PTE_SWP_EXCLUSIVE)


def pte_swp_uffd_wp(pte: int) -> bool:
    """Tell whether userfaultfd write-protected the page that was swapped out.

    Source: arch/arm64/include/asm/pgtable.h, pte_swp_uffd_wp()
    """
    return bool(pte & PTE_SWP_UFFD_WP)


def non_swap_entry(entry: SwpEntry) -> bool:
    """Tell whether the entry is anything but a slot of a swap file.

    Source: include/linux/swapops.h, non_swap_entry()
    """
    return entry.type >= MAX_SWAPFILES


def is_migration_entry(entry: SwpEntry) -> bool:
    """Tell whether a page is on its way to another frame.

    Source: include/linux/swapops.h, is_migration_entry()
    """
    return SWP_MIGRATION_READ <= entry.type <= SWP_MIGRATION_WRITE


def make_migration_pte(pte: int, pfn: int, *, exclusive: bool) -> int:
    """Return what stands in place of the present entry *pte* while its page migrates.

    It remembers whether a write was allowed, whether the page was one process's own,
    and the access flag, the dirty state and the mark of userfaultfd.

    Args:
        pte: What is replaced; also a PMD entry that is being split.
        pfn: The frame.
        exclusive: The page belongs to one process.

    Source: include/linux/swapops.h, make_writable_migration_entry(),
    make_readable_exclusive_migration_entry() and make_readable_migration_entry()
    """
    kind = SWP_MIGRATION_READ_EXCLUSIVE if exclusive else SWP_MIGRATION_READ
    if pte_write(pte):
        kind = SWP_MIGRATION_WRITE
    offset = pfn
    if pte_young(pte):
        offset |= _MIGRATION_YOUNG
    if pte_dirty(pte):
        offset |= _MIGRATION_DIRTY
    entry = swp_entry_to_pte(SwpEntry(kind, offset))
    return entry | PTE_SWP_UFFD_WP if pte_uffd_wp(pte) else entry


def migration_entry_pfn(entry: SwpEntry) -> int:
    """Return the frame that is on its way: swp_offset_pfn().

    Source: include/linux/swapops.h, swp_offset_pfn()
    """
    return entry.offset & _MIGRATION_PFN_MASK


def is_migration_entry_young(entry: SwpEntry) -> bool:
    """Tell whether the entry that it stands for was young.

    Source: include/linux/swapops.h, is_migration_entry_young()
    """
    return bool(entry.offset & _MIGRATION_YOUNG)


def is_migration_entry_dirty(entry: SwpEntry) -> bool:
    """Tell whether the entry that it stands for was dirty.

    Source: include/linux/swapops.h, is_migration_entry_dirty()
    """
    return bool(entry.offset & _MIGRATION_DIRTY)


def make_readable_migration_pte(pte: int, *, exclusive: bool) -> int:
    """Return a migration entry without the right to write, in place of *pte*.

    Source: include/linux/swapops.h, make_readable_exclusive_migration_entry() and
    make_readable_migration_entry()
    """
    kind = SWP_MIGRATION_READ_EXCLUSIVE if exclusive else SWP_MIGRATION_READ
    entry = pte_to_swp_entry(pte)._replace(type=kind)
    return swp_entry_to_pte(entry) | (pte & PTE_SWP_UFFD_WP)


def make_pte_marker(marker: int) -> int:
    """Return an entry that only says something of an empty place.

    Source: include/linux/swapops.h, make_pte_marker()
    """
    return swp_entry_to_pte(SwpEntry(SWP_PTE_MARKER, marker))


def pte_marker_get(pte: int) -> int:
    """Return the bits of a marker, or 0 if the entry is none.

    Source: include/linux/swapops.h, pte_marker_get()
    """
    if pte_none(pte) or pte_present(pte):
        return 0
    entry = pte_to_swp_entry(pte)
    return entry.offset if entry.type == SWP_PTE_MARKER else 0


def pte_none_mostly(pte: int) -> bool:
    """Tell whether no page was ever here: the entry is empty, or a marker.

    Source: include/linux/swapops.h, pte_none_mostly()
    """
    return pte_none(pte) or bool(pte_marker_get(pte))


def pte_swp_uffd_wp_any(pte: int) -> bool:
    """Tell whether what is no present entry says that a page is write-protected.

    Source: include/linux/mm_inline.h, pte_swp_uffd_wp_any()
    """
    return pte_swp_uffd_wp(pte) or bool(pte_marker_get(pte) & PTE_MARKER_UFFD_WP)
