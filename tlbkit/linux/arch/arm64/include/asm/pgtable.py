"""Page-table entries of arm64: what their bits say, and how they are read and changed.

Entries are plain 64-bit integers; a pointer to one (``ptep``) is its physical address.

Source: arch/arm64/include/asm/pgtable.h, pgtable-types.h and pgtable-prot.h, v6.19.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    MT_NORMAL,
    MT_NORMAL_TAGGED,
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
    SLOT,
)
from tlbkit.linux.include.linux.mm import (
    VM_ARM64_BTI,
    VM_EXEC,
    VM_MTE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)
from tlbkit.linux.include.linux.pgtable import (
    PGTABLE_LEVEL_PMD,
    PGTABLE_LEVEL_PTE,
    PGTABLE_LEVEL_PUD,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, Page
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

_ULONG: Final = (1 << 64) - 1

_CONT_PTE_SHIFT: Final = {12: 4, 14: 7, 16: 5}
"""log2 of the entries of a contiguous block, by log2 of the page size."""


def vm_get_page_prot(vm_flags: int, *, epan: bool = False) -> int:
    """Return the entry bits that a mapping with these flags starts from.

    A private mapping never starts writable: its write bit comes page by page. Memory
    that may only be executed is readable too, unless the CPU has FEAT_PAN3 (*epan*).
    Source: arch/arm64/mm/mmap.c, protection_map.
    """
    prot = _protection_map(vm_flags, epan=epan)
    if vm_flags & VM_ARM64_BTI:
        prot |= PTE_GP
    if vm_flags & VM_MTE:
        prot = (prot & ~PTE_ATTRINDX_MASK) | MT_NORMAL_TAGGED << PTE_ATTRINDX_SHIFT
    return prot


def _protection_map(vm_flags: int, *, epan: bool) -> int:
    """Return the rights of a mapping, as entry bits: protection_map[]."""
    write = vm_flags & VM_WRITE and vm_flags & VM_SHARED
    if vm_flags & VM_EXEC:
        if not vm_flags & (VM_READ | VM_WRITE):
            return PAGE_EXECONLY if epan else PAGE_READONLY_EXEC
        return PAGE_SHARED_EXEC if write else PAGE_READONLY_EXEC
    if not vm_flags & (VM_READ | VM_WRITE):
        return PAGE_NONE
    return PAGE_SHARED if write else PAGE_READONLY


def pte_none(pte: int) -> bool:
    """Tell whether nothing stands here.

    Source: arch/arm64/include/asm/pgtable.h, pte_none()
    """
    return not pte


def pte_valid(pte: int) -> bool:
    """Tell whether the table walker may use this entry.

    Source: arch/arm64/include/asm/pgtable.h, pte_valid()
    """
    return bool(pte & PTE_VALID)


def pte_present_invalid(pte: int) -> bool:
    """Tell whether the entry maps a page that the hardware must not see (PROT_NONE).

    Source: arch/arm64/include/asm/pgtable.h, pte_present_invalid()
    """
    return pte & (PTE_VALID | PTE_PRESENT_INVALID) == PTE_PRESENT_INVALID


def pte_present(pte: int) -> bool:
    """Tell whether the entry maps a page, for software.

    Source: arch/arm64/include/asm/pgtable.h, pte_present()
    """
    return bool(pte & PTE_VALID) or pte_present_invalid(pte)


def pte_write(pte: int) -> bool:
    """Tell whether the kernel takes the entry for writable.

    Source: arch/arm64/include/asm/pgtable.h, pte_write()
    """
    return bool(pte & PTE_WRITE)


def pte_hw_dirty(pte: int) -> bool:
    """Tell whether the entry is writable and no longer clean for the hardware.

    Source: arch/arm64/include/asm/pgtable.h, pte_hw_dirty()
    """
    return pte & (PTE_WRITE | PTE_RDONLY) == PTE_WRITE


def pte_dirty(pte: int) -> bool:
    """Tell whether the page was written through this entry.

    Source: arch/arm64/include/asm/pgtable.h, pte_dirty()
    """
    return bool(pte & PTE_DIRTY) or pte_hw_dirty(pte)


def pte_young(pte: int) -> bool:
    """Tell whether the page was used through this entry since the flag was cleared.

    Source: arch/arm64/include/asm/pgtable.h, pte_young()
    """
    return bool(pte & PTE_AF)


def pte_special(pte: int) -> bool:
    """Tell whether the mapped frame must not be treated as a normal page.

    Source: arch/arm64/include/asm/pgtable.h, pte_special()
    """
    return bool(pte & PTE_SPECIAL)


def pte_uffd_wp(pte: int) -> bool:
    """Tell whether userfaultfd write-protected the page.

    Source: arch/arm64/include/asm/pgtable.h, pte_uffd_wp()
    """
    return bool(pte & PTE_UFFD_WP)


def pte_cont(pte: int) -> bool:
    """Tell whether the entry belongs to a contiguous block.

    Source: arch/arm64/include/asm/pgtable.h, pte_cont()
    """
    return bool(pte & PTE_CONT)


def pte_valid_cont(pte: int) -> bool:
    """Tell whether the hardware may take the entry for one of a contiguous block.

    Source: arch/arm64/include/asm/pgtable.h, pte_valid_cont()
    """
    return pte & (PTE_VALID | PTE_CONT) == PTE_VALID | PTE_CONT


def pte_protnone(pte: int) -> bool:
    """Tell whether the entry is present, invalid and not for user space.

    Source: arch/arm64/include/asm/pgtable.h, pte_protnone()
    """
    return pte_present_invalid(pte) and not pte & PTE_USER


def pte_access_permitted(pte: int, *, write: bool) -> bool:
    """Tell whether user space may read, or write, through the entry right now.

    Source: arch/arm64/include/asm/pgtable.h, pte_access_permitted()
    """
    user = PTE_VALID | PTE_USER
    return pte & user == user and (not write or pte_write(pte))


def pte_wrprotect(pte: int) -> int:
    """Take write permission away; a hardware-dirty entry stays dirty in software.

    Source: arch/arm64/include/asm/pgtable.h, pte_wrprotect()
    """
    if pte & (PTE_WRITE | PTE_RDONLY) == PTE_WRITE:  # pte_hw_dirty()
        pte |= PTE_DIRTY
    return (pte & ~PTE_WRITE) | PTE_RDONLY


def pte_mkclean(pte: int) -> int:
    """Forget that the page was written.

    Source: arch/arm64/include/asm/pgtable.h, pte_mkclean()
    """
    return (pte & ~PTE_DIRTY) | PTE_RDONLY


def pte_mkdirty(pte: int) -> int:
    """Mark the page written; a writable entry becomes hardware-dirty too.

    Source: arch/arm64/include/asm/pgtable.h, pte_mkdirty()
    """
    pte |= PTE_DIRTY
    return pte & ~PTE_RDONLY if pte & PTE_WRITE else pte


def pte_mkold(pte: int) -> int:
    """Clear the access flag.

    Source: arch/arm64/include/asm/pgtable.h, pte_mkold()
    """
    return pte & ~PTE_AF


def pte_mkyoung(pte: int) -> int:
    """Set the access flag.

    Source: arch/arm64/include/asm/pgtable.h, pte_mkyoung()
    """
    return pte | PTE_AF


def pte_mkspecial(pte: int) -> int:
    """Mark the frame as not a normal page.

    Source: arch/arm64/include/asm/pgtable.h, pte_mkspecial()
    """
    return pte | PTE_SPECIAL


def pte_mkuffd_wp(pte: int) -> int:
    """Mark and write-protect for userfaultfd.

    Source: arch/arm64/include/asm/pgtable.h, pte_mkuffd_wp()
    """
    return pte_wrprotect(pte | PTE_UFFD_WP)


def pte_clear_uffd_wp(pte: int) -> int:
    """Clear the userfaultfd mark; the entry stays read-only.

    Source: arch/arm64/include/asm/pgtable.h, pte_clear_uffd_wp()
    """
    return pte & ~PTE_UFFD_WP


def pte_mkcont(pte: int) -> int:
    """Make an entry one of a contiguous block.

    Source: arch/arm64/include/asm/pgtable.h, pte_mkcont()
    """
    return pte | PTE_CONT


def pte_mknoncont(pte: int) -> int:
    """Let an entry stand alone.

    Source: arch/arm64/include/asm/pgtable.h, pte_mknoncont()
    """
    return pte & ~PTE_CONT


def pte_mkinvalid(pte: int) -> int:
    """Hide a present entry from the hardware.

    Source: arch/arm64/include/asm/pgtable.h, pte_mkinvalid()
    """
    return (pte | PTE_PRESENT_INVALID) & ~PTE_VALID


def pte_modify(pte: int, prot: int) -> int:
    """Give an entry the protection *prot*; page, access flag and dirty state stay.

    Source: arch/arm64/include/asm/pgtable.h, pte_modify()
    """
    if pte_hw_dirty(pte):
        pte |= PTE_DIRTY
    pte = (pte & ~_MODIFY_MASK) | (prot & _MODIFY_MASK)
    return pte_mkdirty(pte) if pte & PTE_DIRTY else pte


def pmd_leaf(pmd: int) -> bool:
    """Tell whether an upper-level entry maps a block, as far as software is concerned.

    A block that was made invalid for the hardware still is one.

    Source: arch/arm64/include/asm/pgtable.h, pmd_leaf()
    """
    return pte_present(pmd) and not pmd & PTE_TABLE_BIT


def pmd_trans_huge(pmd: int) -> bool:
    """Tell the same of a PMD entry, whose blocks are transparent huge pages here.

    Source: arch/arm64/include/asm/pgtable.h, pmd_trans_huge()
    """
    return pmd_leaf(pmd)


def pmd_mkhuge(pmd: int) -> int:
    """Make a page entry a block; it stays valid or invalid as it was.

    Source: arch/arm64/include/asm/pgtable.h, pmd_mkhuge()
    """
    return pmd & ~PTE_TABLE_BIT


def pmd_table(pmd: int) -> bool:
    """Tell whether an upper-level entry points to a table.

    Source: arch/arm64/include/asm/pgtable.h, pmd_table()
    """
    return pmd & PMD_TYPE_TABLE == PMD_TYPE_TABLE


class Pgtable:
    """Access to the page tables of a machine: arch/arm64/include/asm/pgtable.h.

    Attributes:
        page_shift, page_size, page_mask: Of one page.
        pmd_shift, pud_shift, pgdir_shift: log2 of what one entry of a level maps.
        ptrs_per_pte: Entries of one full table.
        cont_ptes: Page entries of one contiguous block.
        hpage_pmd_order, hpage_pmd_nr: Of a block that one PMD entry maps, in pages.
        hpage_pud_order, hpage_pud_nr: Of a block that one PUD entry maps, in pages.
        task_size: First address that user space cannot have.
    """

    __slots__ = (
        "_addr_mask",
        "_fixed",
        "_has_tags",
        "_kernel",
        "_last",
        "_lazy_mmu",
        "_machine",
        "_read",
        "_special_pmd",
        "_special_pte",
        "_special_pud",
        "_top_shift",
        "cont_ptes",
        "epan",
        "folded_pud",
        "hpage_pmd_nr",
        "hpage_pmd_order",
        "hpage_pud_nr",
        "hpage_pud_order",
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
        self._kernel = kernel
        self._machine = kernel.machine
        self._read = kernel.machine.memory.read
        self._lazy_mmu: dict[int, bool] = {}  # CPUs in the mode: are barriers pending?
        shift = self.page_shift = kernel.machine.model.page_shift
        self.page_size = 1 << shift
        self.page_mask = ~(self.page_size - 1)
        self.ptrs_per_pte = 1 << (shift - 3)
        self.pmd_shift = shift + (shift - 3)
        self.pud_shift = self.pmd_shift + (shift - 3)
        self.pgdir_shift = self.pud_shift + (shift - 3)
        self.pmd_size = 1 << self.pmd_shift
        self.cont_ptes = 1 << _CONT_PTE_SHIFT[shift]
        self.hpage_pmd_order = shift - 3
        self.hpage_pmd_nr = 1 << self.hpage_pmd_order
        self.hpage_pud_order = 2 * self.hpage_pmd_order
        self.hpage_pud_nr = 1 << self.hpage_pud_order
        self.pud_size = 1 << self.pud_shift
        self.va_bits = 48
        self.epan = kernel.machine.model.epan
        self.folded_pud = self.pgdir_shift >= self.va_bits
        self._top_shift = self.pud_shift if self.folded_pud else self.pgdir_shift
        self._last = self.ptrs_per_pte - 1
        self.task_size = 1 << self.va_bits
        self._addr_mask = ((1 << 48) - 1) & self.page_mask
        self._has_tags = kernel.machine.model.mte
        self._fixed = PTE_SHARED if kernel.machine.model.lpa2 else 0
        self._special_pte, self._special_pmd, self._special_pud = (
            PTE_SPECIAL if kernel.config.has_special(level) else 0
            for level in (PGTABLE_LEVEL_PTE, PGTABLE_LEVEL_PMD, PGTABLE_LEVEL_PUD)
        )

    # -- values ----------------------------------------------------------------------

    def pte_pfn(self, pte: int) -> int:
        """Return the frame number that *pte* names.

        Source: arch/arm64/include/asm/pgtable.h, pte_pfn()
        """
        return (pte & self._addr_mask) >> self.page_shift

    def pfn_pte(self, pfn: int, prot: int) -> int:
        """Return an entry for frame *pfn* with protection *prot*.

        Source: arch/arm64/include/asm/pgtable.h, pfn_pte()
        """
        return pfn << self.page_shift | (prot & ~self._fixed)

    @staticmethod
    def pte_mkwrite(pte: int) -> int:
        """Give write permission; only a dirty entry becomes writable for the hardware.

        Source: arch/arm64/include/asm/pgtable.h, pte_mkwrite_novma()
        Deviates: All kernels have the form of 143937ca51cc (v6.18-rc3, and 6.17.13).
        Before it a clean entry became hardware-dirty at once.
        """
        pte |= PTE_WRITE
        return pte & ~PTE_RDONLY if pte & PTE_DIRTY else pte

    def pmd_pfn(self, pmd: int) -> int:
        """Return the first frame of a PMD leaf; of a table, a number without sense.

        Source: arch/arm64/include/asm/pgtable.h, pmd_pfn()
        """
        return self.pte_pfn(pmd) & -self.hpage_pmd_nr

    def pud_pfn(self, pud: int) -> int:
        """Return the first frame of a PUD leaf.

        Source: arch/arm64/include/asm/pgtable.h, pud_pfn()
        """
        return self.pte_pfn(pud) & -self.hpage_pud_nr

    def pte_special(self, pte: int) -> bool:
        """Tell whether a page entry is marked; never, if there is no such bit.

        Source: arch/arm64/include/asm/pgtable.h, pte_special()
        """
        return bool(pte & self._special_pte)

    def pmd_special(self, pmd: int) -> bool:
        """Tell the same of a PMD leaf.

        Source: arch/arm64/include/asm/pgtable.h, pmd_special()
        """
        return bool(pmd & self._special_pmd)

    def pud_special(self, pud: int) -> bool:
        """Tell the same of a PUD leaf.

        Source: include/linux/mm.h, pud_special()
        """
        return bool(pud & self._special_pud)

    def pte_mkspecial(self, pte: int) -> int:
        """Mark a page entry as mapping no normal page, if there is a bit for it.

        Source: arch/arm64/include/asm/pgtable.h, pte_mkspecial()
        """
        return pte | self._special_pte

    def pmd_mkspecial(self, pmd: int) -> int:
        """Do the same to a PMD leaf.

        Source: arch/arm64/include/asm/pgtable.h, pmd_mkspecial()
        """
        return pmd | self._special_pmd

    def pud_mkspecial(self, pud: int) -> int:
        """Do the same to a PUD leaf.

        Source: include/linux/mm.h, pud_mkspecial()
        """
        return pud | self._special_pud

    def pte_advance_pfn(self, pte: int, nr: int) -> int:
        """Return *pte* for the frame that comes *nr* frames later.

        Source: arch/arm64/include/asm/pgtable.h, pte_advance_pfn()
        """
        return pte + (nr << self.page_shift)

    def mk_huge_pmd(self, pfn: int, prot: int) -> int:
        """Return a block entry for the frames from *pfn* on.

        Source: include/linux/mm.h, folio_mk_pmd()
        """
        return pmd_mkhuge(self.pfn_pte(pfn, prot))

    def page_align(self, addr: int) -> int:
        """Return the next multiple of a page from *addr* on; the last one is 0.

        Source: include/linux/mm.h, PAGE_ALIGN()
        """
        return (addr + self.page_size - 1) & self.page_mask & _ULONG

    # -- walking ---------------------------------------------------------------------

    def read(self, ptep: int) -> int:
        """Return the entry at *ptep*, and of a contiguous block that entry alone.

        Source: arch/arm64/include/asm/pgtable.h, __ptep_get(), and
        include/linux/pgtable.h, pmdp_get() and pudp_get()
        """
        return self._read(ptep)

    def ptep_get(self, ptep: int) -> int:
        """Return the entry at *ptep*; young or dirty if any of its block is.

        Source: arch/arm64/include/asm/pgtable.h, ptep_get()
        """
        pte = self._read(ptep)
        if pte & PTE_CONT and pte & PTE_VALID:
            return self._kernel.contpte.contpte_ptep_get(ptep, pte)
        return pte

    def pgd_offset(self, mm: MmStruct, addr: int) -> int:
        """Return where the top-level entry for *addr* stands.

        Source: include/linux/pgtable.h, pgd_offset()
        """
        return mm.pgd + (addr >> self._top_shift & self._last) * SLOT

    def pud_offset(self, pgdp: int, addr: int) -> int:
        """Return where the PUD entry for *addr* stands, below the entry at *pgdp*.

        Source: include/linux/pgtable.h, pud_offset()
        """
        return pgdp if self.folded_pud else self._below(pgdp, addr, self.pud_shift)

    def pmd_offset(self, pudp: int, addr: int) -> int:
        """Return where the PMD entry for *addr* stands, below the entry at *pudp*.

        Source: include/linux/pgtable.h, pmd_offset()
        """
        return self._below(pudp, addr, self.pmd_shift)

    def pte_offset(self, pmdp: int, addr: int) -> int:
        """Return where the PTE for *addr* stands, below the entry at *pmdp*.

        Source: include/linux/pgtable.h, pte_offset_kernel()
        """
        return self._below(pmdp, addr, self.page_shift)

    def _below(self, entryp: int, addr: int, shift: int) -> int:
        return self._within(self._read(entryp), addr, shift)

    def _within(self, entry: int, addr: int, shift: int) -> int:
        table = entry & self._addr_mask
        return table + (addr >> shift & self._last) * SLOT

    def pud_offset_lockless(self, pgd: int, addr: int) -> int:
        """Return the same as `pud_offset` below an entry that was read before.

        Source: arch/arm64/include/asm/pgtable.h, pud_offset_lockless()
        """
        return self._within(pgd, addr, self.pud_shift)

    def pmd_offset_lockless(self, pud: int, addr: int) -> int:
        """Return the same as `pmd_offset` below an entry that was read before.

        Source: include/linux/pgtable.h, pmd_offset_lockless()
        """
        return self._within(pud, addr, self.pmd_shift)

    def pte_offset_lockless(self, pmd: int, addr: int) -> int:
        """Return the same as `pte_offset` below an entry that was read before.

        Source: include/linux/pgtable.h, __pte_map()
        """
        index = addr >> self.page_shift & self._last
        return (pmd & self._addr_mask) + index * SLOT

    @staticmethod
    def addr_end(addr: int, end: int, shift: int) -> int:
        """Return the next multiple of ``1 << shift`` after *addr*, at most *end*.

        Source: include/linux/pgtable.h, pmd_addr_end(), pud_addr_end() and
        pgd_addr_end()
        """
        boundary = ((addr >> shift) + 1) << shift
        return min(boundary, end)

    def find_pmd(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PMD entry for *addr* stands, if the tables go that deep.

        Source: mm/rmap.c, mm_find_pmd().
        """
        read, address, last = self._read, self._addr_mask, self._last
        entry = read(mm.pgd + (addr >> self._top_shift & last) * SLOT)
        if not self.folded_pud:
            if entry & PMD_TYPE_TABLE != PMD_TYPE_TABLE:
                return None
            entry = read((entry & address) + (addr >> self.pud_shift & last) * SLOT)
        if entry & PMD_TYPE_TABLE != PMD_TYPE_TABLE:
            return None
        return (entry & address) + (addr >> self.pmd_shift & last) * SLOT

    def find_pte(self, mm: MmStruct, addr: int) -> int | None:
        """Return where the PTE for *addr* stands, if there is a table of them.

        Source: none; tests and pictures look at an entry past all locks.
        """
        pmdp = self.find_pmd(mm, addr)
        if pmdp is None or not pmd_table(self.read(pmdp)):
            return None
        return self.pte_offset(pmdp, addr)

    # -- changing --------------------------------------------------------------------

    def pmd_populate(self, pmdp: int, table: Page) -> None:
        """Point a PMD entry to a PTE table of user space, which carries PXNTable.

        Source: arch/arm64/include/asm/pgalloc.h, pmd_populate()
        """
        self.set_pmd(pmdp, self._table_entry(table), "pmd_populate")

    def pud_populate(self, pudp: int, table: Page) -> None:
        """Point a PUD entry to a PMD table.

        Source: arch/arm64/include/asm/pgalloc.h, pud_populate()
        """
        self.set_pud(pudp, self._table_entry(table), "pud_populate")

    def p4d_populate(self, p4dp: int, table: Page) -> None:
        """Point a top-level entry to a PUD table.

        Source: arch/arm64/include/asm/pgalloc.h, p4d_populate()
        """
        self.set_p4d(p4dp, self._table_entry(table), "p4d_populate")

    def _table_entry(self, table: Page) -> int:
        return table << self.page_shift | PMD_TYPE_TABLE | PMD_TABLE_PXN

    def pmd_clear(self, pmdp: int) -> None:
        """Empty a PMD entry.

        Source: arch/arm64/include/asm/pgtable.h, pmd_clear()
        """
        self.set_pmd(pmdp, 0, "pmd_clear")

    def pud_clear(self, pudp: int) -> None:
        """Empty a PUD entry.

        Source: arch/arm64/include/asm/pgtable.h, pud_clear()
        """
        self.set_pud(pudp, 0, "pud_clear")

    def p4d_clear(self, p4dp: int) -> None:
        """Empty a top-level entry; the barriers come although nothing is valid there.

        Source: arch/arm64/include/asm/pgtable.h, p4d_clear()
        """
        self.set_p4d(p4dp, 0, "p4d_clear")

    def set_pmd(self, pmdp: int, pmd: int, why: str = "set_pmd") -> None:
        """Store a PMD entry as it is; barriers follow if it is valid.

        Source: arch/arm64/include/asm/pgtable.h, set_pmd()
        """
        self._machine.running.store(pmdp, pmd, why)
        if pte_valid(pmd):
            self.queue_pte_barriers()

    def set_pud(self, pudp: int, pud: int, why: str = "set_pud") -> None:
        """Store a PUD entry as it is; barriers follow if it is valid.

        Source: arch/arm64/include/asm/pgtable.h, set_pud()
        """
        self._machine.running.store(pudp, pud, why)
        if pte_valid(pud):
            self.queue_pte_barriers()

    def set_p4d(self, p4dp: int, p4d: int, why: str = "set_p4d") -> None:
        """Store a top-level entry as it is; barriers follow, whatever it says.

        Source: arch/arm64/include/asm/pgtable.h, set_p4d()
        Deviates: There are four levels at most, so the entries of a PGD are stored
        here, and there is no set_pgd().
        """
        self._machine.running.store(p4dp, p4d, why)
        self.queue_pte_barriers()

    # -- barriers of stores ----------------------------------------------------------

    def emit_pte_barriers(self) -> None:
        """Let walkers see the entries stored so far, and this CPU forget older reads.

        Without them an access may meet the old, invalid entry once more, and fault. An
        entry of user space can do without: the fault finds nothing to do, and returns.

        Source: arch/arm64/include/asm/pgtable.h, emit_pte_barriers()
        """
        cpu = self._machine.running
        cpu.dsb("ishst")
        cpu.isb()

    def queue_pte_barriers(self) -> None:
        """Emit the barriers, in lazy MMU mode once at its end.

        Source: arch/arm64/include/asm/pgtable.h, queue_pte_barriers()
        Deviates: What the thread's flags say is kept for each CPU, because no thread
        leaves its CPU in lazy MMU mode here; no interrupt stores entries.
        """
        number = self._machine.running.number
        if number in self._lazy_mmu:
            self._lazy_mmu[number] = True
        else:
            self.emit_pte_barriers()

    def arch_enter_lazy_mmu_mode(self) -> None:
        """Put the barriers of what is stored from now on off.

        Source: arch/arm64/include/asm/pgtable.h, arch_enter_lazy_mmu_mode()
        """
        self._lazy_mmu.setdefault(self._machine.running.number, False)

    def arch_flush_lazy_mmu_mode(self) -> None:
        """Emit the barriers that were put off, if any; the mode goes on.

        Source: arch/arm64/include/asm/pgtable.h, arch_flush_lazy_mmu_mode()
        """
        number = self._machine.running.number
        if self._lazy_mmu.get(number):
            self._lazy_mmu[number] = False
            self.emit_pte_barriers()

    def arch_leave_lazy_mmu_mode(self) -> None:
        """End the mode, however often it was entered, and emit what was put off.

        Source: arch/arm64/include/asm/pgtable.h, arch_leave_lazy_mmu_mode()
        """
        self.arch_flush_lazy_mmu_mode()
        self._lazy_mmu.pop(self._machine.running.number, None)

    # -- page entries ----------------------------------------------------------------

    def set_pte(self, ptep: int, pte: int) -> None:
        """Store an entry of user space; no barrier follows.

        What was there is not valid, and what is stored is part of no contiguous block.

        Source: arch/arm64/include/asm/pgtable.h, __set_ptes()
        Deviates: The entry is one of user space, for which __set_pte_complete() queues
        no barriers, so it is not asked. It may be of any level, as set_pmd_at() and
        set_pud_at() come down to the same.
        """
        if self._has_tags:
            self._kernel.mte.sync_cache_and_tags(pte)
        self._machine.running.store(ptep, pte, "set_pte")

    def set_ptes_(self, ptep: int, pte: int, nr: int) -> None:
        """Store *nr* entries for consecutive frames as they are: __set_ptes().

        Source: arch/arm64/include/asm/pgtable.h, __set_ptes()
        """
        if self._has_tags:
            self._kernel.mte.sync_cache_and_tags(pte, nr)
        step = self.page_size
        first = (ptep & (step - 1)) >> 3
        frame = self._machine.memory.frame(ptep >> self.page_shift)
        if "store" in self._machine.events.heard or any(frame[first : first + nr]):
            for n in range(nr):
                self._machine.running.store(ptep + n * SLOT, pte + n * step, "set_ptes")
        else:
            # Nobody hears of each store, and none replaces anything.
            frame[first : first + nr] = array("Q", range(pte, pte + nr * step, step))

    def set_ptes(self, mm: MmStruct, addr: int, ptep: int, pte: int, nr: int) -> None:
        """Store *nr* entries for consecutive frames; contiguous where they can be.

        A single one may complete a block, or break one up; several find nothing there.

        Source: arch/arm64/include/asm/pgtable.h, set_ptes()
        """
        pte &= ~PTE_CONT
        contpte = self._kernel.contpte
        if nr > 1:
            contpte.contpte_set_ptes(addr, ptep, pte, nr)
            return
        # As in the kernel, what most entries need no call for is asked here.
        old = self._read(ptep)
        if old & PTE_CONT:
            contpte.contpte_try_unfold(mm, addr, ptep, old)
        if self._has_tags:
            self._kernel.mte.sync_cache_and_tags(pte)
        self._machine.running.store(ptep, pte, "set_pte")
        last = self.cont_ptes - 1
        if addr >> self.page_shift & last == last:
            contpte.contpte_try_fold(mm, addr, ptep, pte)

    def ptep_get_and_clear_(self, ptep: int) -> int:
        """Exchange one entry with zero in one step: __ptep_get_and_clear().

        It is part of no contiguous block. Nothing is flushed.

        Source: arch/arm64/include/asm/pgtable.h, __ptep_get_and_clear()
        """
        return self._machine.running.swap(ptep, 0, "ptep_get_and_clear")

    def ptep_get_and_clear(self, mm: MmStruct, addr: int, ptep: int) -> int:
        """Take one entry out of its block, if any, and exchange it with zero.

        Source: arch/arm64/include/asm/pgtable.h, ptep_get_and_clear()
        """
        pte = self._read(ptep)
        if pte & PTE_CONT:
            self._kernel.contpte.contpte_try_unfold(mm, addr, ptep, pte)
        return self._machine.running.swap(ptep, 0, "ptep_get_and_clear")

    def get_and_clear_full_ptes(
        self, mm: MmStruct, addr: int, ptep: int, nr: int
    ) -> int:
        """Clear *nr* entries for consecutive frames of one folio.

        Returns:
            The first, young or dirty if any of them was.

        Source: arch/arm64/include/asm/pgtable.h, get_and_clear_full_ptes()
        """
        if nr == 1:
            return self.ptep_get_and_clear(mm, addr, ptep)
        self._kernel.contpte.contpte_try_unfold_partial(mm, addr, ptep, nr)
        return self.get_and_clear_full_ptes_(ptep, nr)

    def get_and_clear_full_ptes_(self, ptep: int, nr: int) -> int:
        """Clear *nr* entries as they are: __get_and_clear_full_ptes().

        Source: arch/arm64/include/asm/pgtable.h, __get_and_clear_full_ptes()
        """
        pte = self.ptep_get_and_clear_(ptep)
        for n in range(1, nr):
            other = self.ptep_get_and_clear_(ptep + n * SLOT)
            if pte_dirty(other):
                pte = pte_mkdirty(pte)
            if other & PTE_AF:
                pte = pte_mkyoung(pte)
        return pte

    def ptep_set_wrprotect_(self, ptep: int, pte: int) -> int:
        """Take write permission away in place: ___ptep_set_wrprotect().

        Args:
            ptep: Where the entry stands.
            pte: What it said when it was read; hardware may have changed it since.

        Returns:
            The new entry. Nothing is flushed.

        Source: arch/arm64/include/asm/pgtable.h, ___ptep_set_wrprotect()
        """
        cpu = self._machine.running
        while True:
            new = pte_wrprotect(pte)
            was = cpu.compare_exchange(ptep, pte, new, "ptep_set_wrprotect")
            if was == pte:
                return new
            pte = was

    def wrprotect_ptes(self, mm: MmStruct, addr: int, ptep: int, nr: int) -> None:
        """Take write permission from *nr* entries of one folio; nothing is flushed.

        A contiguous block stays one if all of it loses the permission.

        Source: arch/arm64/include/asm/pgtable.h, wrprotect_ptes()
        """
        contpte = self._kernel.contpte
        if nr == 1:
            pte = self._read(ptep)
            if pte & PTE_CONT:
                contpte.contpte_try_unfold(mm, addr, ptep, pte)
                pte = pte_mknoncont(pte)
            new = pte_wrprotect(pte)
            why = "ptep_set_wrprotect"
            was = self._machine.running.compare_exchange(ptep, pte, new, why)
            if was != pte:  # the hardware changed it meanwhile
                self.ptep_set_wrprotect_(ptep, was)
            return
        contpte.contpte_try_unfold_partial(mm, addr, ptep, nr)
        for n in range(nr):
            self.ptep_set_wrprotect_(ptep + n * SLOT, self.read(ptep + n * SLOT))

    def ptep_test_and_clear_young_(self, ptep: int) -> bool:
        """Clear one entry's access flag and tell whether it was set; no flush.

        Source: arch/arm64/include/asm/pgtable.h, __ptep_test_and_clear_young()
        """
        cpu = self._machine.running
        old = self._machine.memory.read(ptep)
        while True:
            was = cpu.compare_exchange(
                ptep, old, pte_mkold(old), "ptep_test_and_clear_young"
            )
            if was == old:
                return pte_young(old)
            old = was

    def ptep_test_and_clear_young(self, ptep: int) -> bool:
        """Clear the access flag, of a contiguous block for all of it; no flush.

        Source: arch/arm64/include/asm/pgtable.h, ptep_test_and_clear_young()
        """
        if pte_valid_cont(self.read(ptep)):
            return self._kernel.contpte.contpte_ptep_test_and_clear_young(ptep)
        return self.ptep_test_and_clear_young_(ptep)

    def clear_young_dirty_ptes(self, ptep: int, nr: int, *, dirty: bool) -> None:
        """Clear the access flag, and maybe the dirty state, of *nr* entries; no flush.

        A contiguous block at either end is treated whole: both belong to the folio.

        Source: arch/arm64/include/asm/pgtable.h, clear_young_dirty_ptes()
        """
        end = ptep + nr * SLOT
        size = self.cont_ptes * SLOT
        if pte_cont(self.read(end - SLOT)):
            end = -(-end // size) * size
        if pte_cont(self.read(ptep)):
            ptep &= -size
        for place in range(ptep, end, SLOT):
            self.clear_young_dirty_pte_(place, dirty=dirty)

    def clear_young_dirty_pte_(self, ptep: int, *, dirty: bool) -> None:
        """Do so with one entry as it is: __clear_young_dirty_pte().

        Source: arch/arm64/include/asm/pgtable.h, __clear_young_dirty_pte()
        """
        cpu = self._machine.running
        old = self._machine.memory.read(ptep)
        while True:
            new = pte_mkold(pte_mkclean(old) if dirty else old)
            was = cpu.compare_exchange(ptep, old, new, "clear_young_dirty_pte")
            if was == old:
                return
            old = was
