"""CPU models as data: what one core of a machine can do, and how big its TLBs are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from tlbkit.errors import InputError

_4K, _16K, _64K, _2M, _32M, _512M, _1G = 12, 14, 16, 21, 25, 29, 30


class Replacement(Enum):
    """Which entry of a full set gives way to a new one."""

    LRU = "the least recently used"
    FIFO = "the one that came first"
    RANDOM = "any, by a fixed sequence of pseudo-random numbers"


@dataclass(frozen=True, slots=True)
class TlbGeometry:
    """The shape of one TLB.

    Attributes:
        sets: Number of sets, a power of two; 1 is fully associative.
        ways: Entries a set.
        shifts: log2 of the block and page sizes that an entry can cover; a translation
            of a larger size uses the largest of these that is smaller.
        replacement: Which entry of a full set gives way.

    Raises:
        InputError: no TLB has such a shape.
    """

    sets: int
    ways: int
    shifts: frozenset[int]
    replacement: Replacement = Replacement.LRU

    def __post_init__(self) -> None:
        """Refuse a shape that no address can be looked up in."""
        if self.sets < 1 or self.sets & self.sets - 1 or self.ways < 1:
            raise InputError(
                f"{self.sets} sets of {self.ways} ways: a TLB has a power of two of "
                "sets, and at least one way"
            )

    @property
    def entries(self) -> int:
        """Number of translations that fit."""
        return self.sets * self.ways


@dataclass(frozen=True, slots=True)
class CpuModel:
    """What software can see of a core.

    Attributes:
        name: As in ``--cpu``.
        summary: What it stands for, in words.
        source: Where the figures come from, and how sure they are.
        l1i, l1d, l2: Micro-TLBs for fetches and data, and the main TLB behind both.
        walk_cache: Number of table descriptors kept (a separate structure here).
        range_tlbi: FEAT_TLBIRANGE: has the RVAE1 family.
        ttl: FEAT_TTL: a TLBI by address may name the level.
        hw_af, hw_dbm: FEAT_HAFDBS: sets the access flag, and the dirty state.
        pa_bits: Physical address size that the core implements.
        asid_bits: 8 or 16.
        kpti: The kernel is not mapped while EL0 runs, so each process has two ASIDs.
        lpa2: FEAT_LPA2, in use when the kernel asks for 52-bit addresses.
        page_shift: log2 of the granule that the kernel is built for.
        epan: FEAT_PAN3: memory that EL0 may only execute is out of the kernel's reach,
            so Linux offers it.
        mte: FEAT_MTE2: each 16 bytes of memory have a tag.
        bbml2_noabort: Changes block size without break-before-make, without aborts.
        repeat_tlbi: Needs each TLBI and its DSB twice (an erratum).
        over_invalidates: Every TLBI drops everything, as hardware may.
        shared_tlb: Neighbouring CPUs that share one TLB, as CnP = 1 in their TTBRs
            allows: what one of them flushes locally is gone for all of them.
    """

    name: str
    summary: str
    source: str
    l1i: TlbGeometry
    l1d: TlbGeometry
    l2: TlbGeometry
    walk_cache: int = 64
    range_tlbi: bool = False
    ttl: bool = False
    hw_af: bool = True
    hw_dbm: bool = True
    pa_bits: int = 48
    asid_bits: int = 16
    kpti: bool = False
    lpa2: bool = False
    page_shift: int = 12
    bbml2_noabort: bool = False
    epan: bool = False
    mte: bool = False
    repeat_tlbi: bool = False
    over_invalidates: bool = False
    shared_tlb: int = 1


_ALL_SIZES = frozenset({_4K, _16K, _64K, _2M, _32M, _512M, _1G})
_L1D_A76 = frozenset({_4K, _16K, _64K, _2M, _512M})
_L1I_A76 = frozenset({_4K, _16K, _64K, _2M, _32M})

NEOVERSE_V2 = CpuModel(
    name="neoverse-v2",
    summary="NVIDIA Grace: Armv9.0, range TLBI, TTL, hardware access flag and dirty",
    source="TLB sizes recalled from the core's manual, not verified: parameters",
    l1i=TlbGeometry(1, 48, _L1I_A76),
    l1d=TlbGeometry(1, 48, _L1D_A76),
    l2=TlbGeometry(256, 8, _ALL_SIZES),
    range_tlbi=True,
    ttl=True,
)
NEOVERSE_N1 = CpuModel(
    name="neoverse-n1",
    summary="Armv8.2: no range TLBI, no TTL; hardware access flag and dirty state",
    source="TLB sizes inferred from the Cortex-A76 manual (100798, A5.2)",
    l1i=TlbGeometry(1, 48, _L1I_A76),
    l1d=TlbGeometry(1, 48, _L1D_A76),
    l2=TlbGeometry(256, 5, _ALL_SIZES),
)
CORTEX_A75 = replace(
    NEOVERSE_N1,
    name="cortex-a75",
    summary="Armv8.2 without CSV3: the kernel unmaps itself at EL0 (KPTI), ASID pairs",
    source="feature set from Arm's CSV3 list; TLB sizes as neoverse-n1, assumed",
    kpti=True,
)
CORTEX_A72 = CpuModel(
    name="cortex-a72",
    summary="Armv8.0: software access flag and dirty state, no range TLBI",
    source="L2 TLB from the Cortex-A72 manual (100095); L1 sizes second-hand",
    l1i=TlbGeometry(1, 48, frozenset({_4K, _64K, _2M})),
    l1d=TlbGeometry(1, 32, frozenset({_4K, _64K, _2M})),
    l2=TlbGeometry(256, 4, _ALL_SIZES),
    hw_af=False,
    hw_dbm=False,
    pa_bits=44,
)

MODELS = {m.name: m for m in (NEOVERSE_V2, NEOVERSE_N1, CORTEX_A75, CORTEX_A72)}
DEFAULT_MODEL = NEOVERSE_V2.name


def find_model(name: str) -> CpuModel:
    """Return the CPU model called *name*; `InputError` says which names there are."""
    try:
        return MODELS[name]
    except KeyError:
        raise InputError(
            f"no CPU model is called {name!r}; known: {', '.join(MODELS)}"
        ) from None
