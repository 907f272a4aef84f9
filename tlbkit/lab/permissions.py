"""Who may do what with a page, bit by bit, and which one bit would change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.fault import Fault
from tlbkit.arm64.memory import PhysicalMemory
from tlbkit.arm64.permission import ACCESS_NAMES
from tlbkit.arm64.regime import Regime
from tlbkit.arm64.registers import MAIR, SCTLR, TCR, TTBR
from tlbkit.arm64.walk import hardware_update, translate
from tlbkit.lab.answer import Answer
from tlbkit.lab.bare import NORMAL_MEMORY, Tables, leaf
from tlbkit.lab.exploration import SWITCH, Exploration, switch
from tlbkit.lab.walk import ADDRESS, FRAME, span
from tlbkit.linux.arch.arm64.include.asm import pgtable
from tlbkit.linux.arch.arm64.include.asm import pgtable_hwdef as hwdef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value


class Bit(NamedTuple):
    """One bit that a reader can set.

    Attributes:
        knob: The parameter's name.
        name: Arm's name.
        mask: Where it stands in the descriptor; 0 for the field of a register.
        linux: Linux's name, or "" if it has none.
        set: Whether it is set at first, as in a page that a program writes.
    """

    knob: str
    name: str
    mask: int
    linux: str
    set: bool = False

    @property
    def label(self) -> str:
        """What stands beside the knob."""
        return f"{self.name} ({self.linux})" if self.linux else self.name

    @property
    def number(self) -> int:
        """The number of the bit in the descriptor."""
        return self.mask.bit_length() - 1


LEAF_BITS = (
    Bit("dirty", "bit 55, software", hwdef.PTE_DIRTY, "PTE_DIRTY"),
    Bit("uxn", "UXN", d.UXN, "PTE_UXN", set=True),
    Bit("pxn", "PXN", d.PXN, "PTE_PXN", set=True),
    Bit("dbm", "DBM", d.DBM, "PTE_WRITE", set=True),
    Bit("af", "AF", d.AF, "PTE_AF", set=True),
    Bit("ap2", "AP[2]", d.AP_READ_ONLY, "PTE_RDONLY"),
    Bit("ap1", "AP[1]", d.AP_EL0, "PTE_USER", set=True),
    Bit("valid", "valid", d.VALID, "PTE_VALID", set=True),
)
TABLE_BITS = (
    Bit("aptable1", "APTable[1]", d.AP_TABLE_READ_ONLY, ""),
    Bit("aptable0", "APTable[0]", d.AP_TABLE_NO_EL0, ""),
    Bit("uxntable", "UXNTable", d.UXN_TABLE, "PMD_TABLE_UXN"),
    Bit("pxntable", "PXNTable", d.PXN_TABLE, "PMD_TABLE_PXN"),
)
REGISTER_BITS = (
    Bit("ha", "TCR_EL1.HA", 0, "", set=True),
    Bit("hd", "TCR_EL1.HD", 0, "", set=True),
    Bit("hpd0", "TCR_EL1.HPD0", 0, ""),
    Bit("e0pd0", "TCR_EL1.E0PD0", 0, ""),
    Bit("wxn", "SCTLR_EL1.WXN", 0, ""),
    Bit("epan", "SCTLR_EL1.EPAN", 0, ""),
)
BITS = LEAF_BITS + TABLE_BITS + REGISTER_BITS

_ALWAYS = d.NG | d.INNER_SHAREABLE << d.SH_SHIFT | d.TYPE_PAGE & ~d.VALID


class Page(NamedTuple):
    """One page at the end of its tables.

    Attributes:
        regime: The registers.
        memory: The tables.
        descriptor: The page's own.
    """

    regime: Regime
    memory: PhysicalMemory
    descriptor: int

    def answer(self, need: int) -> tuple[bool, str]:
        """Tell whether an access is allowed, and in words what comes of it."""
        outcome = translate(self.regime, self.memory, ADDRESS, need)
        if isinstance(outcome, Fault):
            return False, str(outcome)
        changed = outcome.descriptor ^ hardware_update(outcome, need)
        deeds = [
            deed
            for mask, deed in (
                (d.AF, "sets AF"),
                (d.AP_READ_ONLY, "clears AP[2]"),
            )
            if changed & mask
        ]
        return True, f"yes; hardware {' and '.join(deeds)}" if deeds else "yes"


def page(on: frozenset[str]) -> Page:
    """Build a page whose knobs are the ones named; the others are clear."""
    memory = PhysicalMemory()
    tables = Tables(memory)
    place = tables.entry(ADDRESS)
    descriptor = leaf(FRAME, _ALWAYS) & ~d.VALID
    for bit in LEAF_BITS:
        if bit.knob in on:
            descriptor |= bit.mask
    memory.write(place, descriptor)
    above = tables.entry(ADDRESS, level=2)
    limits = sum(bit.mask for bit in TABLE_BITS if bit.knob in on)
    memory.write(above, memory.read(above) | limits)
    controls = {
        bit.name.partition(".")[2]: int(bit.knob in on) for bit in REGISTER_BITS
    }
    system = {name: controls.pop(name) for name in ("WXN", "EPAN")}
    return Page(
        Regime.of(
            tcr=TCR.of(tables.granule, tables.va_bits, **controls),
            mair=MAIR.of(NORMAL_MEMORY),
            ttbr0=TTBR.at(tables.root, asid=0x25),
            ttbr1=TTBR.at(tables.root),
            sctlr=SCTLR(**system),
        ),
        memory,
        descriptor,
    )


def deciding(on: frozenset[str]) -> dict[int, list[Bit]]:
    """For each access, the bits of which one alone would turn the answer."""
    here = page(on)
    found: dict[int, list[Bit]] = {need: [] for need in ACCESS_NAMES}
    for bit in BITS:
        there = page(on ^ {bit.knob})
        for need, bits in found.items():
            if here.answer(need)[0] != there.answer(need)[0]:
                bits.append(bit)
    return found


class Permissions(Exploration):
    """The bits of a descriptor and the registers, and the eight kinds of access.

    Columns: ``field``, ``bits``, ``value``, ``chosen`` are the leaf's bits, those that
    are set chosen.
    """

    name = "permissions"
    title = "Set a bit, see who may do what"
    parameters = tuple(switch(bit.knob, bit.label, SWITCH[bit.set]) for bit in BITS)

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Try each kind of access; errors as in `Exploration`."""
        settings = self.settings(params)
        on = frozenset(name for name, value in settings.items() if value == "on")
        here = page(on)
        turning = deciding(on)
        return Answer(
            columns={
                "field": [bit.name for bit in LEAF_BITS],
                "bits": [span(bit.number, bit.number) for bit in LEAF_BITS],
                "value": [
                    f"{int(bit.knob in on)} {bit.linux}".rstrip() for bit in LEAF_BITS
                ],
                "chosen": [int(bit.knob in on) for bit in LEAF_BITS],
            },
            header=["access", "allowed", "one bit that would turn it"],
            rows=[
                [
                    name,
                    here.answer(need)[1],
                    ", ".join(bit.name for bit in turning[need]) or "no single one",
                ]
                for need, name in ACCESS_NAMES.items()
            ],
            text=(
                f"The descriptor is {here.descriptor:#x}. "
                f"{linux_words(here.descriptor)}"
            ),
        )


def linux_words(pte: int) -> str:
    """What Linux's own questions about an entry answer, in a sentence.

    >>> linux_words(0)
    'To Linux nothing is mapped here.'
    """
    if not pgtable.pte_present(pte):
        return "To Linux nothing is mapped here."
    if pgtable.pte_present_invalid(pte):
        return "To Linux the page is present, though invalid for the hardware."
    words = [
        "writable" if pgtable.pte_write(pte) else "write-protected",
        "dirty" if pgtable.pte_dirty(pte) else "clean",
        "young" if pgtable.pte_young(pte) else "old",
    ]
    return f"To Linux the page is {', '.join(words[:-1])} and {words[-1]}."
