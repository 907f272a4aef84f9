"""One TLBI: its operand bit by bit, and what it drops from TLBs that hold all sorts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64 import tlbi
from tlbkit.arm64.cached import GLOBAL
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.permission import EL0_READ
from tlbkit.arm64.tlbi import By
from tlbkit.lab.answer import Answer
from tlbkit.lab.bare import USER_PAGE, start
from tlbkit.lab.exploration import Exploration, line, menu
from tlbkit.lab.free_text import number
from tlbkit.lab.parameter import Parameter
from tlbkit.lab.tlb import size
from tlbkit.lab.walk import ADDRESS, FRAME, Box, span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.arm64.cpu import Cpu
    from tlbkit.arm64.tlbi import Operation
    from tlbkit.lab.parameter import Value

PAGE, GROUP, BLOCK = 1 << 12, 1 << 16, 1 << 21
VA = ADDRESS & ~(PAGE - 1)
ASID = 0x25
MODEL = "neoverse-v2"


class Held(NamedTuple):
    """Something that the TLB holds.

    Attributes:
        what: In words.
        va: First address that it answers for.
        size: How many bytes.
        asid: Of the process that used it.
        level: Of its descriptor.
        attributes: Of its descriptor.
    """

    what: str
    va: int
    size: int
    asid: int = ASID
    level: int = 3
    attributes: int = USER_PAGE


HELD = (
    Held("the page", VA, PAGE),
    Held("the next page", VA + PAGE, PAGE),
    Held("the page at the same address of another process", VA, PAGE, ASID + 1),
    Held("a global page", VA + 2 * PAGE, PAGE, attributes=USER_PAGE & ~d.NG),
    Held(
        "a contiguous group",
        (VA & ~(GROUP - 1)) + GROUP,
        GROUP,
        attributes=USER_PAGE | d.CONTIGUOUS,
    ),
    Held("a level 2 block", (VA & ~(BLOCK - 1)) + BLOCK, BLOCK, level=2),
)

OPERATIONS = tuple(
    f"{family}{scope}"
    for family in (
        "VALE1",
        "VAE1",
        "VAALE1",
        "VAAE1",
        "RVALE1",
        "RVAE1",
        "ASIDE1",
        "VMALLE1",
    )
    for scope in ("IS", "")
)


def filled() -> Machine:
    """A machine of two CPUs that both used everything in `HELD`."""
    machine = Machine(2, MODEL)
    tables = start(machine, ASID)
    for held in HELD:
        step = 1 << tables.granule.shift(held.level)
        for offset in range(0, held.size, step):
            pa = FRAME + held.va % (1 << 30) + offset
            tables.map(held.va + offset, pa, held.attributes, held.level)
    for cpu in machine.cpus:
        for held in HELD:
            cpu.switch(tables.regime(held.asid))
            cpu.translate(held.va, EL0_READ)
    return machine


class Content(NamedTuple):
    """What a CPU's TLB and walk cache hold, as values that can be compared.

    Attributes:
        entries: (first address, ASID or `tlbkit.arm64.tlb.GLOBAL`) of each.
        tables: (level, first address, ASID) of each.
    """

    entries: frozenset[tuple[int, int]]
    tables: frozenset[tuple[int, int, int]]

    @classmethod
    def of(cls, cpu: Cpu) -> Content:
        """What is held now."""
        tlb = cpu.tlb
        return cls(
            frozenset((entry.va, entry.asid) for entry in tlb.entries()),
            frozenset(
                (table.level, table.va, asid) for asid, table in tlb.walk.items()
            ),
        )


def operand_boxes(operation: Operation, operand: int) -> list[Box]:
    """The fields of an operand, the highest first."""
    layout = {
        By.ALL: (),
        By.ASID: (("ASID", 63, 48),),
        By.VA: (("ASID", 63, 48), ("TTL", 47, 44), ("VA[55:12]", 43, 0)),
        By.RANGE: (
            ("ASID", 63, 48),
            ("TG", 47, 46),
            ("SCALE", 45, 44),
            ("NUM", 43, 39),
            ("TTL", 38, 37),
            ("BaseADDR", 36, 0),
        ),
    }[operation.by]
    return [
        Box(name, span(high, low), f"{operand >> low & (1 << high + 1 - low) - 1:#x}")
        for name, high, low in layout
    ]


def encode(operation: Operation, settings: Mapping[str, Value]) -> int:
    """The operand that the knobs make.

    Raises:
        InputError: The address or the ASID is not a number that fits.
    """
    va = number("va", settings["va"])
    asid = number("asid", settings["asid"], bits=16)
    level = None if settings["level"] == NO_HINT else int(settings["level"])
    match operation.by:
        case By.ALL:
            return 0
        case By.ASID:
            return tlbi.encode_asid(asid)
        case By.VA:
            return tlbi.encode_va(va, asid, level)
        case By.RANGE:
            scale, num = int(settings["scale"]), int(settings["num"])
            return tlbi.encode_range(va, asid, scale, num, level)


NO_HINT = "no hint"


class Tlbi(Exploration):
    """A TLBI on CPU 0 of two that hold the same, and the DSB that completes it.

    Columns: ``field``, ``bits``, ``value``, ``chosen`` are the operand's fields;
    ``held``, ``cpu0``, ``cpu1`` tell what is dropped where.
    """

    name = "tlbi"
    title = "What one TLBI drops"
    parameters = (
        menu("operation", "operation", OPERATIONS),
        line("va", "address", "0x0000_ffff_b7e3_1000"),
        line("asid", "ASID", "0x25"),
        menu("level", "TTL, the level of the leaf", (NO_HINT, "1", "2", "3")),
        Parameter("scale", "SCALE, of a range", "", 0, (0, 1, 2, 3)),
        Parameter("num", "NUM, of a range", "", 0, tuple(range(32))),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Issue it, wait, and compare; errors as in `Exploration`."""
        settings = self.settings(params)
        operation = tlbi.find_operation(str(settings["operation"]))
        operand = encode(operation, settings)
        machine = filled()
        before = Content.of(machine.cpu(0))
        machine.cpu(0).tlbi(operation.name, operand)
        machine.cpu(0).dsb("ish")
        after = [Content.of(cpu) for cpu in machine.cpus]

        rows = []
        for held in HELD:
            tag = held.asid if held.attributes & d.NG else GLOBAL
            rows.append(
                [
                    held.what,
                    f"{held.va:#x}",
                    size(held.size),
                    "any" if tag == GLOBAL else f"{tag:#x}",
                    *(_fate(held=(held.va, tag) in now.entries) for now in after),
                ]
            )
        rows += [
            [
                f"walk cache: a level {level} table",
                f"{va:#x}",
                size(PAGE << 9 * (4 - level)),
                f"{asid:#x}",
                *(_fate(held=(level, va, asid) in now.tables) for now in after),
            ]
            for level, va, asid in sorted(before.tables, reverse=True)
        ]
        boxes = operand_boxes(operation, operand)
        return Answer(
            columns={
                "field": [box.name for box in boxes],
                "bits": [box.bits for box in boxes],
                "value": [box.value for box in boxes],
                "chosen": [0 for _ in boxes],
                "held": [row[0] for row in rows],
                "cpu0": [row[-2] for row in rows],
                "cpu1": [row[-1] for row in rows],
            },
            header=["held", "from", "size", "ASID", "CPU 0", "CPU 1"],
            rows=rows,
            text=_reading(operation, operand, settings),
        )


def _fate(*, held: bool) -> str:
    """Tell in a word whether something is still held."""
    return "keeps" if held else "drops"


def _reading(operation: Operation, operand: int, settings: Mapping[str, Value]) -> str:
    """The operation in words."""
    words = f"{tlbi.describe(operation, operand)}. The operand is {operand:#018x}."
    if operation.by is By.RANGE:
        pages = tlbi.range_pages(int(settings["scale"]), int(settings["num"]))
        words += f" It covers {pages:,} pages."
    return words
