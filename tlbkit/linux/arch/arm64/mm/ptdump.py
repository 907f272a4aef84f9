"""Page tables as text: arch/arm64/mm/ptdump.c.

Neighbouring entries that say the same are one line: the addresses, how much that is, at
which level, and what the bits mean. The kernel shows its own tables in this way; here
the tables of a process are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    MT_NORMAL,
    MT_NORMAL_NC,
    MT_NORMAL_TAGGED,
    PTE_AF,
    PTE_ATTRINDX_MASK,
    PTE_ATTRINDX_SHIFT,
    PTE_CONT,
    PTE_GP,
    PTE_NG,
    PTE_PXN,
    PTE_RDONLY,
    PTE_SHARED,
    PTE_TABLE_BIT,
    PTE_USER,
    PTE_UXN,
    PTE_VALID,
    MT_DEVICE_nGnRE,
    MT_DEVICE_nGnRnE,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel


@dataclass(frozen=True, slots=True)
class ProtBits:
    """What one bit, or one value of a field, is called: struct prot_bits.

    Attributes:
        mask: Where it stands.
        val: What it is compared with.
        set: Printed if it is that.
        clear: Printed if it is not; ``None`` prints nothing at all.
    """

    mask: int
    val: int
    set: str
    clear: str | None = None

    def text(self, prot: int) -> str:
        """Return what is printed for an entry with these bits.

        Source: arch/arm64/mm/ptdump.c, dump_prot()
        """
        said = self.set if prot & self.mask == self.val else self.clear
        return "" if said is None else f" {said}"


def _bit(mask: int, is_set: str, is_clear: str) -> ProtBits:
    return ProtBits(mask, mask, is_set, is_clear)


def _memory(kind: int, name: str) -> ProtBits:
    return ProtBits(PTE_ATTRINDX_MASK, kind << PTE_ATTRINDX_SHIFT, name)


PTE_BITS: Final = (
    _bit(PTE_VALID, " ", "F"),
    _bit(PTE_USER, "USR", "   "),
    _bit(PTE_RDONLY, "ro", "RW"),
    _bit(PTE_PXN, "NX", "x "),
    _bit(PTE_SHARED, "SHD", "   "),
    _bit(PTE_AF, "AF", "  "),
    _bit(PTE_NG, "NG", "  "),
    _bit(PTE_CONT, "CON", "   "),
    _bit(PTE_TABLE_BIT, "   ", "BLK"),
    _bit(PTE_UXN, "UXN", "   "),
    _bit(PTE_GP, "GP", "  "),
    _memory(MT_DEVICE_nGnRnE, "DEVICE/nGnRnE"),
    _memory(MT_DEVICE_nGnRE, "DEVICE/nGnRE"),
    _memory(MT_NORMAL_NC, "MEM/NORMAL-NC"),
    _memory(MT_NORMAL, "MEM/NORMAL"),
    _memory(MT_NORMAL_TAGGED, "MEM/NORMAL-TAGGED"),
)
_MASK: Final = (
    PTE_VALID
    | PTE_USER
    | PTE_RDONLY
    | PTE_PXN
    | PTE_SHARED
    | PTE_AF
    | PTE_NG
    | PTE_CONT
    | PTE_TABLE_BIT
    | PTE_UXN
    | PTE_GP
    | PTE_ATTRINDX_MASK
)
_UNITS: Final = "KMGTPE"


@dataclass(frozen=True, slots=True)
class PtdumpPgLevel:
    """One level of tables, as it is printed: struct ptdump_pg_level.

    Attributes:
        name: Its name.
        bits: What is said of its entries.
    """

    name: str
    bits: tuple[ProtBits, ...] = PTE_BITS

    def dump_prot(self, prot: int) -> str:
        """Return what is said of an entry; nothing of one that is empty.

        Source: arch/arm64/mm/ptdump.c, dump_prot()
        """
        return "".join(bit.text(prot) for bit in self.bits) if prot else ""


class Ptdump:
    """The text of an address space's tables."""

    __slots__ = ("_kernel", "kernel_pg_levels")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        folded = kernel.pgtable.folded_pud
        self.kernel_pg_levels = tuple(
            PtdumpPgLevel(name)
            for name in ("PGD", "P4D", "PGD" if folded else "PUD", "PMD", "PTE")
        )

    def dump(self, mm: MmStruct, *, holes: bool = False) -> list[str]:
        """Return the lines of an address space.

        Args:
            mm: It should not change meanwhile.
            holes: Lines for where nothing is mapped, too, as the kernel prints them.

        Source: arch/arm64/mm/ptdump.c, ptdump_walk()
        """
        lines: list[str] = []
        start, level, current = 0, -1, 0

        def note_page(addr: int, depth: int, value: int) -> None:
            nonlocal start, level, current
            prot = value & _MASK if depth >= 0 else 0
            if level == -1:
                start, level, current = addr, depth, prot
            elif prot != current or depth != level:
                if current or holes:
                    lines.append(self._line(start, addr, level, current))
                start, level, current = addr, depth, prot

        self._kernel.ptdump_walk.ptdump_walk_pgd(mm, note_page)
        return lines

    def _line(self, start: int, end: int, level: int, prot: int) -> str:
        """Return one line: addresses, amount, level, bits."""
        amount = end - start >> 10
        unit = 0
        while not amount & 1023 and unit + 1 < len(_UNITS):
            amount >>= 10
            unit += 1
        pg_level = self.kernel_pg_levels[level]
        return (
            f"0x{start:016x}-0x{end:016x}   {amount:9}{_UNITS[unit]} {pg_level.name}"
            f"{pg_level.dump_prot(prot)}"
        )
