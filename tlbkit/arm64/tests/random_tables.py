"""Random table images in which most addresses meet something worth judging.

An image is grown, not scattered: each table gets a handful of entries, and each
entry of every table is asked about, with random bits below it. So a probe that meets
an invalid descriptor meets one that was put there, with all its other bits random.

`plain_image` makes what any Armv8.0 CPU understands; `any_image` makes everything
that a `Regime` can describe.
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.granule import GRANULE_64K, GRANULES, LAST_LEVEL, Granule
from tlbkit.arm64.regime import Capabilities, Regime
from tlbkit.arm64.registers import MAIR, PHYSICAL_SIZES, SCTLR, TCR, TTBR

# Everything in a leaf that is neither its type nor its address nor AF.
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
# Everything in a table descriptor that is neither its type nor its address nor a
# limit. Limits are drawn apart: four at every level would leave few rights.
TABLE_BITS = 0b1_1111_1111 << 50 | 0b11_1111_1111 << 2 | d.NS_TABLE
MEMORY_TYPES = (0xFF, 0xBB, 0x44, 0x4F, 0xF4, 0x40, 0x00, 0x04, 0x08, 0x0C, 0xEE)
SCTLR_ONES = 0x3050_0800  # the bits that read as one, of those without a field


class Image(NamedTuple):
    """Registers by name, what the CPU can do, table words, addresses to ask about."""

    registers: dict[str, int]
    capabilities: Capabilities
    memory: dict[int, int]
    vas: list[int]

    def regime(self) -> Regime:
        """The regime that the registers make."""
        return Regime.of(
            tcr=TCR.decode(self.registers["TCR"]),
            mair=MAIR.decode(self.registers["MAIR"]),
            ttbr0=TTBR.decode(self.registers["TTBR0"]),
            ttbr1=TTBR.decode(self.registers["TTBR1"]),
            sctlr=SCTLR.decode(self.registers["SCTLR"]),
            capabilities=self.capabilities,
        )


class Tree:
    """The tables of one half, and addresses that meet their entries.

    Args:
        rng: where chance comes from.
        granule: of the half.
        layout: where its descriptors keep addresses.
        room: physical address for a table of a size and an alignment.
        pa_bits: width of the addresses that leaves lead to.
        oddity: how often something stands where hardware must refuse it: an address
            larger than *pa_bits*, a block at a level without blocks.
    """

    def __init__(
        self,
        rng: Random,
        granule: Granule,
        layout: d.AddressFormat,
        *,
        room: Callable[[int, int], int],
        pa_bits: int,
        oddity: float = 0,
    ) -> None:
        self.memory: dict[int, int] = {}
        self.vas: list[int] = []
        self._rng = rng
        self._granule = granule
        self._layout = layout
        self._room = room
        self._pa_bits = pa_bits
        self._oddity = oddity

    def grow(self, input_bits: int, high_bits: int) -> int:
        """Grow the tables, and return where the start table is."""
        level = self._granule.start_level(input_bits)
        entries = self._granule.table_entries(level, input_bits)
        pa = self._room(8 * entries, max(8 * entries, 64))
        self._fill(pa, entries, level, high_bits)
        return pa

    def _fill(self, pa: int, entries: int, level: int, va: int) -> None:
        """Put some entries into a table that translates from *va* on."""
        rng = self._rng
        shift = self._granule.shift(level)
        chosen = rng.sample(range(entries), min(entries, rng.randint(3, 5)))
        for number, index in enumerate(chosen):
            entry_va = va | index << shift
            # The first path is sure to reach the last level.
            if level < LAST_LEVEL and (number == 0 or rng.random() < 0.2):
                word = self._table(level + 1, entry_va)
            elif number and rng.random() < 0.1:
                word = rng.getrandbits(64) & ~d.VALID
            else:
                word = self._leaf(level)
            self.memory[pa + 8 * index] = word
            self.vas.append(entry_va | rng.getrandbits(shift))

    def _table(self, level: int, va: int) -> int:
        """Descriptor of a new table at *level*, which translates from *va* on."""
        rng, size = self._rng, self._granule.page_size
        if self._odd():
            pa = self._too_large() & -size
        else:
            pa = self._room(size, size)
            self._fill(pa, size // 8, level, va)
        limits = rng.getrandbits(4) & rng.getrandbits(4) & rng.getrandbits(4)
        bits = rng.getrandbits(64) & TABLE_BITS & ~self._address_bits()
        return d.TYPE_TABLE | self._layout.place(pa) | limits << 59 | bits

    def _leaf(self, level: int) -> int:
        """A leaf at *level*, if one may stand there, with everything else random."""
        rng = self._rng
        size = 1 << self._granule.shift(level)
        pa = self._too_large() if self._odd() else rng.getrandbits(self._pa_bits)
        word = rng.getrandbits(64) & LEAF_BITS & ~self._address_bits()
        word |= self._layout.place(pa & -size)
        word |= d.AF if rng.random() < 0.8 else 0
        if level == LAST_LEVEL:
            reserved = rng.random() < 0.1
            return word | (d.TYPE_BLOCK if reserved else d.TYPE_PAGE)
        wide = self._layout is not d.ADDRESS_48
        if self._granule.has_leaf(level, wide=wide) or self._odd():
            return word | d.TYPE_BLOCK
        return 0

    def _odd(self) -> bool:
        """Whether something wrong is to stand here."""
        return self._rng.random() < self._oddity

    def _too_large(self) -> int:
        """An address of more than *pa_bits*, if the descriptors can hold one."""
        address = self._rng.getrandbits(self._layout.bits)
        if self._pa_bits < self._layout.bits:
            address |= 1 << self._rng.randrange(self._pa_bits, self._layout.bits)
        return address

    def _address_bits(self) -> int:
        """All descriptor bits that can belong to an address."""
        return self._layout.in_place_mask(self._granule.page_shift) | self._layout.moved


def plain_image(rng: Random, pa: int, end: int) -> Image:
    """An image for a CPU without options, its tables between *pa* and *end*.

    All addresses are within IPS, blocks stand only where there are blocks, TxSZ is
    16 to 39, and no optional part is switched on. Software's bits, the Contiguous
    bit and DBM are random all the same.
    """
    next_free = pa

    def room(size: int, alignment: int) -> int:
        nonlocal next_free
        # Not always at the start of a page: any multiple of its size will do.
        start = -(-next_free // alignment) + rng.randrange(3)
        next_free = start * alignment + size
        assert next_free <= end
        return start * alignment

    ips = rng.randrange(PHYSICAL_SIZES.index(48) + 1)
    granules = rng.choices(GRANULES, k=2)
    sizes = [rng.randint(16, 39) for _ in granules]
    tcr = TCR(
        T0SZ=sizes[0],
        T1SZ=sizes[1],
        TG0=granules[0].tg0,
        TG1=granules[1].tg1,
        IPS=ips,
        **_flags(rng, "HPD0 HPD1 TBI0 TBI1 A1 AS", 0.5),
        **_flags(rng, "EPD0 EPD1", 0.05),
    )
    trees = [
        Tree(rng, granule, d.ADDRESS_48, room=room, pa_bits=PHYSICAL_SIZES[ips])
        for granule in granules
    ]
    sctlr = SCTLR(other=SCTLR_ONES, **_flags(rng, "WXN", 0.5))
    capabilities = Capabilities(
        pa_bits=48,
        lva=False,
        lpa2=False,
        ttst=False,
        access_flag=False,
        dirty=False,
        e0pd=False,
        tbid=False,
        pan3=False,
    )
    return _image(rng, trees, sizes, tcr, sctlr, capabilities)


def any_image(rng: Random) -> Image:
    """An image that may use all that a regime can say, on a CPU that can do it.

    Tables lie anywhere. One table or leaf in ten has an address that is too large,
    and a few blocks stand at levels without blocks.
    """
    capabilities = Capabilities(pa_bits=rng.choice((*PHYSICAL_SIZES, 52, 52)))
    ips = rng.choice((*range(7), 6, 6))
    tcr = TCR(
        IPS=ips,
        **_flags(rng, "DS HA HD HPD0 HPD1 TBI0 TBI1 TBID0 TBID1 A1 AS", 0.5),
        **_flags(rng, "E0PD0 E0PD1 EPD0 EPD1", 0.1),
        SH0=rng.choice((0, 2, 3)),
        SH1=rng.choice((0, 2, 3)),
    )
    trees, sizes, codes = [], [], []
    for half in (0, 1):
        granule = rng.choice(GRANULES)
        long = granule is GRANULE_64K or tcr.DS
        sizes.append(rng.randint(12 if long else 16, granule.largest_txsz))
        codes.append(granule.tg1 if half else granule.tg0)
        wide = capabilities.pa_bits == 52 if granule is GRANULE_64K else bool(tcr.DS)
        layout = d.address_format(granule, wide=wide)
        pa_bits = min(PHYSICAL_SIZES[ips], capabilities.pa_bits, layout.bits)
        # A start table too far up for IPS: not every register can even say that.
        far = rng.random() < 0.03 and pa_bits < 48

        def room(_: int, alignment: int, bits: int = 48 if far else pa_bits) -> int:
            return rng.getrandbits(bits) & -alignment

        trees.append(Tree(rng, granule, layout, room=room, pa_bits=pa_bits, oddity=0.1))
    tcr = TCR.decode(
        tcr.encode()
        | TCR(T0SZ=sizes[0], T1SZ=sizes[1], TG0=codes[0], TG1=codes[1]).encode()
    )
    sctlr = SCTLR(other=SCTLR_ONES, **_flags(rng, "WXN EPAN", 0.5))
    return _image(rng, trees, sizes, tcr, sctlr, capabilities)


def _flags(rng: Random, names: str, chance: float) -> dict[str, int]:
    """A value for each one-bit field, 1 with the given chance."""
    return {name: int(rng.random() < chance) for name in names.split()}


def _image(
    rng: Random,
    trees: list[Tree],
    sizes: list[int],
    tcr: TCR,
    sctlr: SCTLR,
    capabilities: Capabilities,
) -> Image:
    """Grow both trees and put the image together."""
    lower, upper = trees
    bases = (
        lower.grow(64 - sizes[0], 0),
        upper.grow(64 - sizes[1], d.MASK64 & -(1 << 64 - sizes[1])),
    )
    vas = lower.vas + upper.vas
    # And addresses that are wrong above the range, or only in the top byte.
    vas += [va ^ 1 << rng.randrange(48, 64) for va in rng.choices(vas, k=6)]
    vas += [va ^ rng.getrandbits(8) << 56 for va in rng.choices(vas, k=6)]
    vas += [rng.getrandbits(64) for _ in range(2)]
    asids = rng.getrandbits(16), rng.getrandbits(16)
    registers = {
        "TCR": tcr.encode(),
        "MAIR": MAIR(tuple(rng.choices(MEMORY_TYPES, k=8))).encode(),
        "TTBR0": TTBR.at(bases[0], asid=asids[0], cnp=rng.randrange(2)).encode(),
        "TTBR1": TTBR.at(bases[1], asid=asids[1], cnp=rng.randrange(2)).encode(),
        "SCTLR": sctlr.encode(),
    }
    return Image(registers, capabilities, lower.memory | upper.memory, vas)
