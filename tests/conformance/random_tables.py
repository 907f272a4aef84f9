"""Random table images in which most addresses meet something worth judging.

An image is grown, not scattered: each table gets a handful of entries, and each
entry of every table is asked about, with random bits below it. So a probe that meets
an invalid descriptor meets one that was put there, with all its other bits random.
"""

from random import Random
from typing import NamedTuple

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.granule import GRANULES, LAST_LEVEL, Granule
from tlbkit.arm64.registers import MAIR, PHYSICAL_SIZES, SCTLR, TCR, TTBR

# Everything in a leaf that is neither its type nor its address.
LEAF_BITS = (
    d.ATTR_INDEX_MASK
    | d.NS
    | d.AP_EL0
    | d.AP_READ_ONLY
    | d.SH_MASK
    | d.NG
    | d.GP
    | d.DBM
    | d.CONTIGUOUS
    | d.PXN
    | d.UXN
    | 0b1111_1111 << 55
    | 1 << 63
)
# Everything in a table descriptor that is neither its type nor its address; the
# limits are drawn apart, since four of them at each level would leave few rights.
TABLE_BITS = 0b1_1111_1111 << 50 | 0b11_1111_1111 << 2 | d.NS_TABLE
SCTLR_ONES = 0x3050_0800  # the bits that read as one, of those without a field
MEMORY_TYPES = (0xFF, 0xBB, 0x44, 0x4F, 0xF4, 0x40, 0x00, 0x04, 0x08, 0x0C, 0xEE)


class TableImage(NamedTuple):
    """Registers, the words of the tables, and addresses worth asking about."""

    registers: dict[str, int]
    memory: dict[int, int]
    vas: list[int]


class Grower:
    """Grows the tables of an image.

    Args:
        rng: where chance comes from.
        pa: first physical address that tables may use.
        end: first one that they may not.
        pa_bits: width of the addresses that leaves lead to.
    """

    def __init__(self, rng: Random, pa: int, end: int, pa_bits: int) -> None:
        self.rng = rng
        self.memory: dict[int, int] = {}
        self.vas: list[int] = []
        self._next = pa
        self._end = end
        self._pa_bits = pa_bits

    def table(self, size: int, alignment: int) -> int:
        """Room for a table of *size* bytes."""
        pa = -(-self._next // alignment) * alignment
        self._next = pa + size
        assert self._next <= self._end
        return pa

    def half(self, granule: Granule, input_bits: int, high_bits: int) -> int:
        """Grow the tables of one half, and return where its start table is."""
        level = granule.start_level(input_bits)
        entries = granule.table_entries(level, input_bits)
        # Not always at the start of a page: any multiple of its size will do.
        alignment = max(8 * entries, 64)
        self._next += self.rng.randrange(8) * alignment
        pa = self.table(8 * entries, alignment)
        self._fill(pa, entries, level, granule, high_bits)
        return pa

    def _fill(
        self, pa: int, entries: int, level: int, granule: Granule, va: int
    ) -> None:
        """Put some entries into a table that translates from *va* on."""
        rng = self.rng
        shift = granule.shift(level)
        # One path of tables is sure to reach the last level.
        chosen = rng.sample(range(entries), min(entries, rng.randint(3, 5)))
        for number, index in enumerate(chosen):
            entry_va = va | index << shift
            roll = rng.random()
            if level == LAST_LEVEL:
                word = self._leaf(d.TYPE_PAGE, shift)
                if roll < 0.1:
                    word &= ~0b10  # reserved at this level
            elif number == 0 or roll < 0.25:
                table = self.table(granule.page_size, granule.page_size)
                self._fill(
                    table, 1 << granule.bits_per_level, level + 1, granule, entry_va
                )
                limits = rng.getrandbits(4) & rng.getrandbits(4) & rng.getrandbits(4)
                bits = rng.getrandbits(64) & TABLE_BITS
                word = table | d.TYPE_TABLE | limits << 59 | bits
            elif granule.has_leaf(level):
                word = self._leaf(d.TYPE_BLOCK, shift)
            else:
                word = 0
            if number and rng.random() < 0.1:
                word = rng.getrandbits(64) & ~d.VALID
            self.memory[pa + 8 * index] = word
            self.vas.append(entry_va | rng.getrandbits(shift))

    def _leaf(self, kind: int, shift: int) -> int:
        """A leaf of *kind* with everything else random; most have their AF."""
        rng = self.rng
        address = rng.getrandbits(self._pa_bits) & -(1 << shift)
        flag = d.AF if rng.random() < 0.8 else 0
        return rng.getrandbits(64) & LEAF_BITS | address | kind | flag


def random_image(rng: Random, pa: int, end: int) -> TableImage:
    """An image within what Unicorn can judge, its tables between *pa* and *end*.

    The addresses stay within IPS (no address size faults), no block stands at a
    level without blocks, TxSZ is 16 to 39, and nothing that Unicorn does not know
    is switched on.
    """
    ips = rng.randrange(6)
    grower = Grower(rng, pa, end, PHYSICAL_SIZES[ips])
    granules = rng.choices(GRANULES, k=2)
    sizes = [rng.randint(16, 39) for _ in granules]

    def flag(chance: float) -> int:
        return int(rng.random() < chance)

    tcr = TCR(
        T0SZ=sizes[0],
        T1SZ=sizes[1],
        TG0=granules[0].tg0,
        TG1=granules[1].tg1,
        IPS=ips,
        EPD0=flag(0.05),
        EPD1=flag(0.05),
        HPD0=flag(0.3),
        HPD1=flag(0.3),
        TBI0=flag(0.5),
        TBI1=flag(0.5),
        A1=flag(0.5),
        AS=flag(0.5),
        IRGN0=rng.randrange(4),
        ORGN1=rng.randrange(4),
    )
    bases = []
    for number, granule in enumerate(granules):
        input_bits = 64 - sizes[number]
        high_bits = d.MASK64 >> input_bits << input_bits if number else 0
        bases.append(grower.half(granule, input_bits, high_bits))
    vas = grower.vas
    # And addresses that are wrong above the range, or only in the top byte.
    vas += [va ^ 1 << rng.randrange(48, 64) for va in rng.choices(vas, k=6)]
    vas += [va ^ rng.getrandbits(8) << 56 for va in rng.choices(vas, k=6)]
    vas += [rng.getrandbits(64) for _ in range(2)]
    mair = MAIR(tuple(rng.choices(MEMORY_TYPES, k=8)))
    asid = rng.getrandbits(16)
    return TableImage(
        registers={
            "TCR": tcr.encode(),
            "MAIR": mair.encode(),
            "TTBR0": TTBR.at(bases[0], asid=asid, cnp=flag(0.5)).encode(),
            "TTBR1": TTBR.at(bases[1], asid=asid ^ 1, cnp=flag(0.5)).encode(),
            "SCTLR": SCTLR(WXN=flag(0.5), other=SCTLR_ONES).encode(),
        },
        memory=grower.memory,
        vas=vas,
    )
