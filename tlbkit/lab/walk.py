"""One walk, opened step by step over the bits that the walker reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.granule import GRANULES, LAST_LEVEL
from tlbkit.arm64.memory import PhysicalMemory
from tlbkit.arm64.regime import Regime
from tlbkit.arm64.registers import MAIR, TCR, TTBR, Register
from tlbkit.arm64.walk import Table, Translation, walk
from tlbkit.lab.answer import Answer
from tlbkit.lab.bare import FIRST_TABLE, NORMAL_MEMORY, USER_PAGE, Tables, leaf
from tlbkit.lab.exploration import Exploration, line, menu
from tlbkit.lab.free_text import fields, number
from tlbkit.lab.parameter import Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.arm64.fault import Fault
    from tlbkit.arm64.granule import Granule
    from tlbkit.arm64.regime import Half
    from tlbkit.lab.parameter import Value

ADDRESS = 0xFFFF_B7E3_1234
"""The address that the chapters of this part follow."""

FRAME = 0x8_8000_0000
"""Where the page lies that the address leads to; a multiple of every block's size."""

_UPPER_TABLE = FIRST_TABLE + (1 << 28)


class Ending(NamedTuple):
    """What the tables hold for the address.

    Attributes:
        level: Where the last descriptor stands.
        attributes: Of that descriptor, or None for a hole.
        pa: Where it leads.
    """

    level: int
    attributes: int | None
    pa: int = FRAME


ENDINGS = {
    "a page": Ending(3, USER_PAGE),
    "a contiguous page": Ending(3, USER_PAGE | d.CONTIGUOUS),
    "a level 2 block": Ending(2, USER_PAGE),
    "a level 1 block": Ending(1, USER_PAGE),
    "nothing at level 1": Ending(1, None),
    "nothing at level 2": Ending(2, None),
    "nothing at level 3": Ending(3, None),
    "a page not accessed yet": Ending(3, USER_PAGE & ~d.AF),
    "a page at 2^44": Ending(3, USER_PAGE, 1 << 44),
}
"""What a reader can put at the end of the walk."""


VA_BITS = (25, 32, 36, 39, 42, 47, 48, 52)
"""Sizes of addresses to choose from; which are legal depends on the granule."""

MANY_BITS = 13
"""More than one level of any granule uses."""

TCR_FIELDS = {name: width for name, _, width in TCR.LAYOUT}


class Box(NamedTuple):
    """One field of a word, for people."""

    name: str
    bits: str
    value: str


class Step(NamedTuple):
    """One thing that the walker does.

    Attributes:
        name: Which.
        bits: The address bits that it uses.
        entry: Which entry of the table they choose.
        place: The physical address that it reads.
        word: What it finds there.
        so: What follows.
        boxes: The word's fields.
    """

    name: str
    bits: str
    entry: str
    place: str
    word: str
    so: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """Registers, tables, an address, and what the walker makes of them.

    Attributes:
        va: The address.
        regime: The registers.
        memory: The tables.
        outcome: What `tlbkit.arm64.walk.walk` answers.
        tables: The table descriptors that it followed.
        last: Address of the last descriptor that it read, and the descriptor; None
            if it read none.
    """

    va: int
    regime: Regime
    memory: PhysicalMemory
    outcome: Translation | Fault
    tables: tuple[Table, ...]
    last: tuple[int, int] | None

    @property
    def half(self) -> Half:
        """The half of the address space that the address is in."""
        return self.regime.half(self.va)


def scene(
    va: int, granule: Granule, va_bits: int, ending: Ending, tcr: dict[str, int]
) -> Scene:
    """Build tables that lead *va* to an ending, and walk them.

    Args:
        va: The address; its bit 55 chooses the half.
        granule: Of both halves.
        va_bits: Of both halves.
        ending: What the tables hold for the address.
        tcr: Fields of TCR_EL1 that are set besides.

    Raises:
        InputError: The registers are not legal, or walks start below the ending.
    """
    registers = replace(TCR.of(granule, va_bits), **tcr)
    memory = PhysicalMemory()
    regime = Regime.of(
        tcr=registers,
        mair=MAIR.of(NORMAL_MEMORY),
        ttbr0=TTBR.at(FIRST_TABLE, asid=0x25),
        ttbr1=TTBR.at(_UPPER_TABLE),
    )
    upper = va >> 55 & 1
    half = regime.halves[upper]
    tables: list[Table] = []
    last = None
    if half.granule is not None:
        _build(memory, (FIRST_TABLE, _UPPER_TABLE)[upper], half, va, ending)
    outcome = walk(regime, memory, va, tables=tables)
    if half.granule is not None and va & half.checked == half.expected:
        table = tables[-1].pa if tables else regime.bases[upper]
        level = tables[-1].level if tables else half.start_level
        place = table + 8 * _entry_number(va, half, level)
        last = place, memory.read(place)
    return Scene(va, regime, memory, outcome, tuple(tables), last)


def _build(
    memory: PhysicalMemory, first: int, half: Half, va: int, ending: Ending
) -> None:
    """Write the tables of one half."""
    assert half.granule is not None
    tables = Tables(memory, half.granule, half.input_bits, first)
    place = tables.entry(va & half.offset_mask, ending.level)
    if ending.attributes is None:
        return
    # With LPA2 the shareability bits hold part of the address.
    attributes = ending.attributes & half.attributes
    memory.write(place, leaf(ending.pa, attributes, ending.level))


def address_boxes(va: int, half: Half) -> list[Box]:
    """The address as the walker cuts it, the highest bits first."""
    granule = half.granule
    if granule is None:
        return [Box("no walks in this half", "63:0", f"{va:#x}")]
    boxes = []
    top = half.input_bits
    # A top byte that is ignored is not among the bits that are checked.
    high = half.checked.bit_length() - 1
    if high < 63:
        boxes.append(Box("ignored (TBI)", "63:56", _binary(va, 63, 56)))
    boxes.append(Box("all as bit 55", span(high, top), _binary(va, high, top)))
    for level in range(half.start_level, LAST_LEVEL + 1):
        low = granule.shift(level)
        boxes.append(
            Box(f"level {level}", span(top - 1, low), _binary(va, top - 1, low))
        )
        top = low
    boxes.append(Box("offset", span(top - 1, 0), f"{va & (1 << top) - 1:#x}"))
    return boxes


def steps(scene: Scene) -> list[Step]:
    """Everything that the walker does for a scene, in its order."""
    va, regime = scene.va, scene.regime
    upper = va >> 55 & 1
    half = regime.halves[upper]
    told = [_tcr_step(regime.controls.tcr, half, upper)]
    if scene.last is None:
        told.append(_refused(va, half, scene.outcome))
        return told
    ttbr = (regime.ttbr0, regime.ttbr1)[upper]
    told.append(
        Step(
            f"TTBR{upper}_EL1",
            "55",
            str(upper),
            "",
            f"{ttbr.encode():#018x}",
            f"the level {half.start_level} table is at {regime.bases[upper]:#x}",
            _register_boxes(ttbr),
        )
    )
    told += [_table_step(va, half, table) for table in scene.tables]
    return told + _end_steps(scene, half)


def _tcr_step(tcr: TCR, half: Half, upper: int) -> Step:
    """What the walker takes from TCR_EL1."""
    if half.granule is None:
        so = f"EPD{upper} is 1: no walks in this half"
    else:
        so = (
            f"{half.granule.name} granule, {half.input_bits}-bit addresses: "
            f"walks start at level {half.start_level}"
        )
    return Step(
        "TCR_EL1", "", "", "", f"{tcr.encode():#018x}", so, _register_boxes(tcr)
    )


def _refused(va: int, half: Half, outcome: Translation | Fault) -> Step:
    """The step at which the walker refuses the address itself."""
    if half.granule is None:
        return Step("the address", "63:0", "", "", f"{va:#x}", str(outcome), ())
    bits = span(half.checked.bit_length() - 1, half.input_bits)
    so = f"not all equal to bit 55: {outcome}"
    return Step("the address", bits, "", "", f"{va:#x}", so, ())


def _table_step(va: int, half: Half, table: Table) -> Step:
    """A table descriptor that the walker follows."""
    level = table.level - 1
    return Step(
        f"level {level}",
        *_index(va, half, level),
        f"{table.descriptor_pa:#x}",
        f"{table.descriptor:#018x}",
        f"the level {table.level} table is at {table.pa:#x}",
        _descriptor_boxes(table.descriptor, level, half),
    )


def _end_steps(scene: Scene, half: Half) -> list[Step]:
    """The descriptor at which the walk ends, and the address if there is one."""
    assert scene.last is not None
    place, descriptor = scene.last
    outcome = scene.outcome
    level = scene.tables[-1].level if scene.tables else half.start_level
    assert half.granule is not None
    so = d.kind_of(descriptor, level, half.granule, wide=_wide(half)).value
    if isinstance(outcome, Translation):
        so = f"a {so} at {outcome.pa:#x}"
    else:
        so = f"{so}: {outcome}"
    told = [
        Step(
            f"level {level}",
            *_index(scene.va, half, level),
            f"{place:#x}",
            f"{descriptor:#018x}",
            so,
            _descriptor_boxes(descriptor, level, half),
        )
    ]
    if isinstance(outcome, Translation):
        shift = outcome.leaf.shift
        offset = scene.va & (1 << shift) - 1
        told.append(
            Step(
                "the address",
                span(shift - 1, 0),
                f"{offset:#x}",
                "",
                "",
                f"physical address {outcome.pa | offset:#x}",
                (),
            )
        )
    return told


def _index(va: int, half: Half, level: int) -> tuple[str, str]:
    """The address bits that choose an entry at *level*, and its number."""
    assert half.granule is not None
    low = half.granule.shift(level)
    high = min(low + half.granule.bits_per_level, half.input_bits) - 1
    return span(high, low), str(_entry_number(va, half, level))


def _entry_number(va: int, half: Half, level: int) -> int:
    """Which entry of a table at *level* translates *va*."""
    assert half.granule is not None
    entries = half.granule.table_entries(level, half.input_bits)
    return va >> half.granule.shift(level) & entries - 1


def _wide(half: Half) -> bool:
    """Tell whether descriptors of this half hold 52-bit addresses."""
    return half.moved != 0


def _register_boxes(register: Register) -> tuple[Box, ...]:
    """The named fields of a register, the highest first."""
    return tuple(
        Box(name, span(low + width - 1, low), f"{getattr(register, name):#x}")
        for name, low, width in reversed(register.LAYOUT)
    )


def _descriptor_boxes(descriptor: int, level: int, half: Half) -> tuple[Box, ...]:
    """The fields of a descriptor, and what each says."""
    assert half.granule is not None
    described = d.describe(descriptor, level, half.granule, wide=_wide(half))
    return tuple(
        Box(field.name.partition(" [")[0], span(field.high, field.low), field.meaning)
        for field in described
    )


def span(high: int, low: int) -> str:
    """Bits *high* to *low*, as manuals write them."""
    return str(high) if high == low else f"{high}:{low}"


def _binary(va: int, high: int, low: int) -> str:
    """Bits *high* to *low* of *va*; many that are all alike as one digit and dots."""
    width = high + 1 - low
    bits = f"{va >> low & (1 << width) - 1:0{width}b}"
    alike = len(set(bits)) == 1
    return f"{bits[0]}...{bits[0]}" if alike and width > MANY_BITS else bits


class Branch(NamedTuple):
    """One table that a walk reads.

    Attributes:
        name: Such as "level 1".
        bits: The address bits that choose an entry.
        value: Their value.
        entry: Number of the entry.
        entries: How many the table has.
        kind: What the entry is: "table", "page", "block", "invalid".
        says: What the entry gives to the translation, a line each.
        opened: Whether the reader has come so far.
    """

    name: str
    bits: str
    value: str
    entry: int
    entries: int
    kind: str
    says: str
    opened: int


LEAF_SAYS = ("AP[2]", "AP[1]", "UXN", "AF", "nG")
"""Of a page or a block, what the tree shows: who may do what, and whose it is."""


def tree(scene: Scene, told: list[Step], opened: int) -> dict[str, list[Value]]:
    """Return the columns of the walk as a tree; see `Walk`."""
    half = scene.half
    branches = []
    for place, step in enumerate(told):
        if not step.place:
            continue
        assert half.granule is not None
        level = int(step.name.removeprefix("level "))
        high, _, low = step.bits.partition(":")
        kind = next(box.value for box in step.boxes if box.name == "type")
        branches.append(
            Branch(
                step.name,
                step.bits,
                _binary(scene.va, int(high), int(low or high)),
                int(step.entry),
                half.granule.table_entries(level, half.input_bits),
                kind,
                "\n".join(_gives(step, kind)),
                int(place < opened),
            )
        )
    rows = list(zip(*branches, strict=True)) or [()] * len(Branch._fields)
    columns = {
        f"tree_{name}": list(values)
        for name, values in zip(Branch._fields, rows, strict=True)
    }
    return {**columns, "tree_end": [told[-1].so]}


def _gives(step: Step, kind: str) -> list[str]:
    """Return what an entry adds to the translation."""
    if kind == "table":
        limits = [
            box.value
            for box in step.boxes
            if box.name.partition("[")[0].endswith("Table")
            and not box.value.startswith(("no limit", "ignored"))
        ]
        return limits or ["limits nothing"]
    said = {box.name: box.value for box in step.boxes}
    return [said[name] for name in LEAF_SAYS if name in said]


class Walk(Exploration):
    """An address, registers and tables, and the walk from the one through the others.

    Columns: ``field``, ``bits``, ``value``, ``chosen`` are the parts of the address,
    those used so far chosen; ``word_field`` and so on the fields of the word that the
    last opened step read. ``tree_`` and a name of `Branch`: a row for each table that
    is read; ``tree_end``: where the walk ends.
    """

    name = "walk"
    title = "Open a table walk, one word at a time"
    parameters = (
        Parameter("opened", "steps opened", "", 8, tuple(range(1, 9))),
        line("va", "virtual address", "0x0000_ffff_b7e3_1234"),
        menu("granule", "granule", tuple(granule.name for granule in GRANULES)),
        Parameter("va_bits", "size of addresses", "bits", 48, VA_BITS),
        menu("ending", "what is mapped there", tuple(ENDINGS)),
        line("tcr", "other fields of TCR_EL1, as TBI0=1", ""),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Walk, and show as many steps as are opened; errors as in `Exploration`."""
        settings = self.settings(params)
        shown = scene(
            number("va", settings["va"]),
            next(one for one in GRANULES if one.name == settings["granule"]),
            int(settings["va_bits"]),
            ENDINGS[str(settings["ending"])],
            fields("tcr", settings["tcr"], TCR_FIELDS),
        )
        told = steps(shown)
        opened = told[: int(settings["opened"])]
        address = address_boxes(shown.va, shown.half)
        used = {step.bits for step in opened}
        word = opened[-1].boxes
        return Answer(
            columns={
                "field": [box.name for box in address],
                "bits": [box.bits for box in address],
                "value": [box.value for box in address],
                "chosen": [int(box.bits in used) for box in address],
                "word_field": [box.name for box in word],
                "word_bits": [box.bits for box in word],
                "word_value": [box.value for box in word],
                "word_chosen": [0 for _ in word],
                **tree(shown, told, len(opened)),
            },
            header=["step", "says", "by address bits", "entry", "read at", "word"],
            rows=[
                [step.name, step.so, step.bits, step.entry, step.place, step.word]
                for step in opened
            ],
            text=_reading(told, opened),
        )


def _reading(told: list[Step], opened: list[Step]) -> str:
    """What the opened steps come to, and what is still closed."""
    last = opened[-1]
    if len(opened) < len(told):
        return (
            f"{len(opened)} of {len(told)} steps are open. {last.name}: {last.so}. "
            f"Next: {told[len(opened)].name}."
        )
    reads = sum(1 for step in told if step.place)
    read = {0: "no word", 1: "one word"}.get(reads, f"{reads} words")
    return f"The walk is done and has read {read} of memory: {last.so}."
