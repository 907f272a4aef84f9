"""What the machine's tests share: small machines, tables by hand, replayed TLBs."""

from dataclasses import replace

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.cached import GLOBAL, Entry
from tlbkit.arm64.events import Event
from tlbkit.arm64.granule import GRANULE_4K, GRANULES, LAST_LEVEL
from tlbkit.arm64.leaf import Leaf
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import NEOVERSE_V2, TlbGeometry
from tlbkit.arm64.permission import EL0_READ, EL0_WRITE
from tlbkit.arm64.regime import Regime
from tlbkit.arm64.registers import MAIR, TCR, TTBR
from tlbkit.arm64.tlb import WALK_CACHE

RW = d.AF | d.NG | d.AP_EL0 | d.INNER_SHAREABLE << d.SH_SHIFT | d.PXN | d.UXN
RO = RW | d.AP_READ_ONLY
CLEAN = RO | d.DBM
ROOT = 0x4000_0000
EVERY_SIZE = frozenset(
    shift
    for granule in GRANULES
    for level in range(4)
    for shift in (granule.shift(level), granule.group_shift(level))
)


def tiny(sets=1, ways=4, shifts=EVERY_SIZE, **more):
    """A TLB geometry with room for little."""
    return TlbGeometry(sets, ways, frozenset(shifts), **more)


def machine(cpus=1, **changes):
    """A machine whose CPUs can do everything, with *changes*."""
    return Machine(cpus, replace(NEOVERSE_V2, **changes))


class Space:
    """The tables of a lower half, made as entries are asked for."""

    def __init__(self, memory, root=ROOT, granule=GRANULE_4K, va_bits=48):
        self.memory = memory
        self.granule = granule
        self.va_bits = va_bits
        self.root = root
        self.free = root + granule.page_size

    def place(self, va, level=LAST_LEVEL):
        """Where the descriptor of *va* at *level* stands; makes the tables above it."""
        table = self.root
        start = self.granule.start_level(self.va_bits)
        for above in range(start, level):
            place = table + self.offset(va, above)
            table = self.memory.read(place) & ~(self.granule.page_size - 1)
            if not table:
                table = self.free
                self.free += self.granule.page_size
                self.memory.write(place, table | d.TYPE_TABLE)
        return table + self.offset(va, level)

    def offset(self, va, level):
        """Where the entry of *va* stands in a table at *level*."""
        entries = self.granule.table_entries(level, self.va_bits)
        return (va >> self.granule.shift(level) & entries - 1) * 8

    def map(self, va, pa, attributes=RW, level=LAST_LEVEL):
        """Map the page or block of *va*, and return where its descriptor stands."""
        place = self.place(va, level)
        self.memory.write(place, leaf(pa, attributes, level))
        return place

    def regime(self, asid=5, cnp=0, **tcr):
        """The regime whose lower half these tables are."""
        return Regime.of(
            tcr=TCR.of(self.granule, self.va_bits, **{"HA": 1, "HD": 1} | tcr),
            mair=MAIR.of(0xFF),
            ttbr0=TTBR.at(self.root, asid, cnp),
            ttbr1=TTBR.at(self.root, 0, cnp),
        )


def leaf(pa, attributes=RW, level=LAST_LEVEL):
    """A page or block descriptor."""
    return pa | attributes | (d.TYPE_PAGE if level == LAST_LEVEL else d.TYPE_BLOCK)


def booted(cpus=1, asid=5, tcr=None, **changes):
    """A machine of which every CPU runs one address space, and its tables."""
    box = machine(cpus, **changes)
    space = Space(box.memory)
    regime = space.regime(asid, **(tcr or {}))
    for cpu in box.cpus:
        cpu.switch(regime)
    return box, space


def some_leaf(granule=GRANULE_4K, level=LAST_LEVEL, *, group=False, **more):
    """A leaf for entries that no walk has made."""
    shift = granule.shift(level)
    fields = {
        "level": level,
        "shift": shift,
        "group_shift": granule.group_shift(level) if group else shift,
        "not_global": True,
        "permissions": EL0_READ | EL0_WRITE,
        "permissions_dirty": EL0_READ | EL0_WRITE,
        "young": True,
        "attr": 0xFF,
        "sh": 3,
    }
    return Leaf(**fields | more)


def some_entry(va, asid=5, granule=GRANULE_4K, level=LAST_LEVEL, *, group=False):
    """An entry that no walk has made, as large as its leaf or its group."""
    attributes = some_leaf(granule, level, group=group, not_global=asid != GLOBAL)
    shift = attributes.group_shift
    first = va >> shift << shift
    return Entry(first, first, shift, attributes, asid, 8 * (va >> 12), 0)


def contents(box):
    """What each structure of each TLB of a machine holds."""
    held = {}
    for tlb in box.tlbs:
        for array in tlb.arrays:
            held[tlb.cpu, array.name] = set(array)
        held[tlb.cpu, WALK_CACHE] = set(tlb.walk.items())
    return held


def hear(box, *kinds):
    """A list that grows with the events of a machine, all or of these kinds."""
    told: list[Event] = []
    box.events.listen(told.append, kinds or None)
    return told


class Replay:
    """A listener that knows what TLBs hold from fill and drop events alone."""

    def __init__(self, box):
        self.held = contents(box)
        box.events.listen(self.fill, {"fill"})
        box.events.listen(self.drop, {"drop"})

    def fill(self, event):
        """Take in what was filled; it was not there."""
        held = self.held[event.cpu, event.new]
        assert event.what not in held
        held.add(event.what)

    def drop(self, event):
        """Take out what was dropped; it was there."""
        self.held[event.cpu, event.old].remove(event.what)
