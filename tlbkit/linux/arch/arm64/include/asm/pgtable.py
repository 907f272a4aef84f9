"""Page-table entries of arm64: what their bits say, and how they are read and changed.

Entries are plain 64-bit integers; a pointer to one (``ptep``) is its physical address.

Source: arch/arm64/include/asm/pgtable.h, pgtable-types.h and pgtable-prot.h, v6.19.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    MT_NORMAL,
    PMD_TABLE_PXN,
    PMD_TYPE_TABLE,
    PTE_AF,
    PTE_ATTRINDX_MASK,
    PTE_ATTRINDX_SHIFT,
    PTE_CONT,
    PTE_DIRTY,
    PTE_GP,
    PTE_NG,
    PTE_PO_IDX_MASK,
    PTE_PRESENT_INVALID,
    PTE_PXN,
    PTE_RDONLY,
    PTE_SHARED,
    PTE_SPECIAL,
    PTE_TABLE_BIT,
    PTE_TYPE_PAGE,
    PTE_UFFD_WP,
    PTE_USER,
    PTE_UXN,
    PTE_VALID,
    PTE_WRITE,
)
from tlbkit.linux.include.linux.mm import (
    VM_EXEC,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel

_DEFAULT = PTE_TYPE_PAGE | PTE_AF | PTE_SHARED | MT_NORMAL << PTE_ATTRINDX_SHIFT
_USER = _DEFAULT | PTE_USER | PTE_NG | PTE_PXN | PTE_RDONLY

PAGE_NONE: Final = (
    (_DEFAULT & ~PTE_VALID) | PTE_PRESENT_INVALID | PTE_RDONLY | PTE_PXN | PTE_UXN
)
PAGE_READONLY: Final = _USER | PTE_UXN
PAGE_READONLY_EXEC: Final = _USER
PAGE_SHARED: Final = _USER | PTE_UXN | PTE_WRITE
PAGE_SHARED_EXEC: Final = _USER | PTE_WRITE
PAGE_EXECONLY: Final = _DEFAULT | PTE_RDONLY | PTE_NG | PTE_PXN

_MODIFY_MASK = (
    PTE_USER
    | PTE_PXN
    | PTE_UXN
    | PTE_RDONLY
    | PTE_PRESENT_INVALID
    | PTE_VALID
    | PTE_WRITE
    | PTE_GP
    | PTE_ATTRINDX_MASK
    | PTE_PO_IDX_MASK
)


def vm_get_page_prot(vm_flags: int) -> int:
    """Return the entry bits that a mapping with these flags starts from.

    A private mapping never starts writable: its write bit comes page by page.
    Source: arch/arm64/mm/mmap.c, protection_map.
    """
    write = vm_flags & VM_WRITE and vm_flags & VM_SHARED
    if vm_flags & VM_EXEC:
        if not vm_flags & (VM_READ | VM_WRITE):
            return PAGE_EXECONLY
        return PAGE_SHARED_EXEC if write else PAGE_READONLY_EXEC
    if not vm_flags & (VM_READ | VM_WRITE):
        return PAGE_NONE
    return PAGE_SHARED if write else PAGE_READONLY


def pte_none(pte: int) -> bool:
    """Tell whether nothing stands here."""
    return not pte


def pte_valid(pte: int) -> bool:
    """Tell whether the table walker may use this entry."""
    return bool(pte & PTE_VALID)


def pte_present_invalid(pte: int) -> bool:
    """Tell whether the entry maps a page that the hardware must not see (PROT_NONE)."""
    return pte & (PTE_VALID | PTE_PRESENT_INVALID) == PTE_PRESENT_INVALID


def pte_present(pte: int) -> bool:
    """Tell whether the entry maps a page, for software."""
    return bool(pte & PTE_VALID) or pte_present_invalid(pte)


def pte_write(pte: int) -> bool:
    """Tell whether the kernel takes the entry for writable."""
    return bool(pte & PTE_WRITE)


def pte_hw_dirty(pte: int) -> bool:
    """Tell whether the entry is writable and no longer clean for the hardware."""
    return pte & (PTE_WRITE | PTE_RDONLY) == PTE_WRITE


def pte_sw_dirty(pte: int) -> bool:
    """Tell whether software marked the entry dirty."""
    return bool(pte & PTE_DIRTY)


def pte_dirty(pte: int) -> bool:
    """Tell whether the page was written through this entry."""
    return bool(pte & PTE_DIRTY) or pte_hw_dirty(pte)


def pte_young(pte: int) -> bool:
    """Tell whether the page was used through this entry since the flag was cleared."""
    return bool(pte & PTE_AF)


def pte_special(pte: int) -> bool:
    """Tell whether the mapped frame must not be treated as a normal page."""
    return bool(pte & PTE_SPECIAL)


def pte_uffd_wp(pte: int) -> bool:
    """Tell whether userfaultfd write-protected the page."""
    return bool(pte & PTE_UFFD_WP)


def pte_cont(pte: int) -> bool:
    """Tell whether the entry belongs to a contiguous block."""
    return bool(pte & PTE_CONT)


def pte_protnone(pte: int) -> bool:
    """Tell whether the entry is present, invalid and not for user space."""
    return pte_present_invalid(pte) and not pte & PTE_USER


def pte_wrprotect(pte: int) -> int:
    """Take write permission away; a hardware-dirty entry stays dirty in software."""
    if pte_hw_dirty(pte):
        pte |= PTE_DIRTY
    return (pte & ~PTE_WRITE) | PTE_RDONLY


def pte_mkclean(pte: int) -> int:
    """Forget that the page was written."""
    return (pte & ~PTE_DIRTY) | PTE_RDONLY


def pte_mkdirty(pte: int) -> int:
    """Mark the page written; a writable entry becomes hardware-dirty too."""
    pte |= PTE_DIRTY
    return pte & ~PTE_RDONLY if pte & PTE_WRITE else pte


def pte_mkold(pte: int) -> int:
    """Clear the access flag."""
    return pte & ~PTE_AF


def pte_mkyoung(pte: int) -> int:
    """Set the access flag."""
    return pte | PTE_AF


def pte_mkspecial(pte: int) -> int:
    """Mark the frame as not a normal page."""
    return pte | PTE_SPECIAL


def pte_mkuffd_wp(pte: int) -> int:
    """Mark and write-protect for userfaultfd."""
    return pte_wrprotect(pte | PTE_UFFD_WP)


def pte_clear_uffd_wp(pte: int) -> int:
    """Clear the userfaultfd mark; the entry stays read-only."""
    return pte & ~PTE_UFFD_WP


def pte_mkinvalid(pte: int) -> int:
    """Hide a present entry from the hardware."""
    return (pte | PTE_PRESENT_INVALID) & ~PTE_VALID


def pte_modify(pte: int, prot: int) -> int:
    """Give an entry the protection *prot*; page, access flag and dirty state stay."""
    if pte_hw_dirty(pte):
        pte |= PTE_DIRTY
    pte = (pte & ~_MODIFY_MASK) | (prot & _MODIFY_MASK)
    return pte_mkdirty(pte) if pte & PTE_DIRTY else pte


def pmd_leaf(pmd: int) -> bool:
    """Tell whether an upper-level entry maps a block, as far as software is concerned.

    A block that was made invalid for the hardware still is one.
    """
    return pte_present(pmd) and not (pmd & PTE_VALID and pmd & PTE_TABLE_BIT)


def pmd_table(pmd: int) -> bool:
    """Tell whether an upper-level entry points to a table."""
    return pmd & PMD_TYPE_TABLE == PMD_TYPE_TABLE


class Pgtable:
    """Access to the page tables of a machine: arch/arm64/include/asm/pgtable.h.

    Attributes:
        page_shift, page_size, page_mask: Of one page.
        pmd_shift, pud_shift, pgdir_shift: log2 of what one entry of a level maps.
        ptrs_per_pte: Entries of one full table.
        task_size: First address that user space cannot have.
    """

    __slots__ = (
        "_addr_mask",
        "_fixed",
        "_machine",
        "folded_pud",
        "page_mask",
        "page_shift",
        "page_size",
        "pgdir_shift",
        "pmd_shift",
        "pmd_size",
        "ptrs_per_pte",
        "pud_shift",
        "pud_size",
        "task_size",
        "va_bits",
    )

    def __init__(self, kernel: Kernel) -> None:
        self._machine = kernel.machine
        shift = self.page_shift = kernel.machine.model.page_shift
        self.page_size = 1 << shift
        self.page_mask = ~(self.page_size - 1)
        self.ptrs_per_pte = 1 << (shift - 3)
        self.pmd_shift = shift + (shift - 3)
        self.pud_shift = self.pmd_shift + (shift - 3)
        self.pgdir_shift = self.pud_shift + (shift - 3)
        self.pmd_size = 1 << self.pmd_shift
        self.pud_size = 1 << self.pud_shift
        self.va_bits = 48
        self.folded_pud = self.pgdir_shift >= self.va_bits
        self.task_size = 1 << self.va_bits
        self._addr_mask = ((1 << 48) - 1) & self.page_mask
        self._fixed = PTE_SHARED if kernel.machine.model.lpa2 else 0

    # -- values ----------------------------------------------------------------------

    def pte_pfn(self, pte: int) -> int:
        """Return the frame number that *pte* names."""
        return (pte & self._addr_mask) >> self.page_shift

    def pfn_pte(self, pfn: int, prot: int) -> int:
        """Return an entry for frame *pfn* with protection *prot*."""
        return pfn << self.page_shift | (prot & ~self._fixed)

    @staticmethod
    def pte_mkwrite(pte: int) -> int:
        """Give write permission; only a dirty entry becomes writable for the hardware.

        Before 143937ca51cc a clean entry became hardware-dirty at once.
        """
        pte |= PTE_WRITE
        return pte & ~PTE_RDONLY if pte & PTE_DIRTY else pte

    # -- walking ---------------------------------------------------------------------

    def read(self, ptep: int) -> int:
        """Return the entry at *ptep*."""
        return self._machine.memory.read(ptep)

    def pgd_offset(self, mm: MmStruct, addr: int) -> int:
        """Return where the top-level entry for *addr* stands."""
        shift = self.pud_shift if self.folded_pud else self.pgdir_shift
        return mm.pgd + (addr >> shift & (self.ptrs_per_pte - 1)) * 8

    def pud_offset(self, pgdp: int, addr: int) -> int:
        """Return where the PUD entry for *addr* stands, below the entry at *pgdp*."""
        return pgdp if self.folded_pud else self._below(pgdp, addr, self.pud_shift)

    def pmd_offset(self, pudp: int, addr: int) -> int:
        """Return where the PMD entry for *addr* stands, below the entry at *pudp*."""
        return self._below(pudp, addr, self.pmd_shift)

    def pte_offset(self, pmdp: int, addr: int) -> int:
        """Return where the PTE for *addr* stands, below the entry at *pmdp*."""
        return self._below(pmdp, addr, self.page_shift)

    def _below(self, entry: int, addr: int, shift: int) -> int:
        table = self._machine.memory.read(entry) & self._addr_mask
        return table + (addr >> shift & (self.ptrs_per_pte - 1)) * 8

    @staticmethod
    def addr_end(addr: int, end: int, shift: int) -> int:
        """Return the next multiple of ``1 << shift`` after *addr*, at most *end*."""
        boundary = ((addr >> shift) + 1) << shift
        return min(boundary, end)

    def find_pmd(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PMD entry for *addr* stands, if the tables go that deep.

        Source: mm/rmap.c, mm_find_pmd().
        """
        pgdp = self.pgd_offset(mm, addr)
        if not pmd_table(self.read(pgdp)):
            return None
        pudp = self.pud_offset(pgdp, addr)
        return self.pmd_offset(pudp, addr) if pmd_table(self.read(pudp)) else None

    def find_pte(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PTE for *addr* stands, if there is a table of them."""
        pmdp = self.find_pmd(mm, addr)
        if pmdp is None or not pmd_table(self.read(pmdp)):
            return None
        return self.pte_offset(pmdp, addr)

    # -- changing --------------------------------------------------------------------

    def populate(self, entryp: int, table_pfn: int) -> None:
        """Point the entry at *entryp* to a table; user tables carry PXNTable."""
        table = table_pfn << self.page_shift | PMD_TYPE_TABLE | PMD_TABLE_PXN
        self._machine.running.store(entryp, table, "populate")

    def set_pte(self, ptep: int, pte: int) -> None:
        """Store a user entry; no barrier follows, a spurious fault would be retried."""
        self._machine.running.store(ptep, pte, "set_pte")

    def ptep_get_and_clear(self, ptep: int) -> int:
        """Exchange the entry with zero in one step; nothing is flushed."""
        return self._machine.running.swap(ptep, 0, "ptep_get_and_clear")

    def ptep_set_wrprotect(self, ptep: int) -> int:
        """Take write permission away in place and return the new entry; no flush."""
        cpu = self._machine.running
        old = self._machine.memory.read(ptep)
        while True:
            new = pte_wrprotect(old)
            was = cpu.compare_exchange(ptep, old, new, "ptep_set_wrprotect")
            if was == old:
                return new
            old = was

    def ptep_test_and_clear_young(self, ptep: int) -> bool:
        """Clear the access flag and tell whether it was set; no flush."""
        cpu = self._machine.running
        old = self._machine.memory.read(ptep)
        while True:
            was = cpu.compare_exchange(
                ptep, old, pte_mkold(old), "ptep_test_and_clear_young"
            )
            if was == old:
                return pte_young(old)
            old = was
