"""CPU models as data: what one core of a machine can do, and how big its TLBs are.

A model has a name, and so has each of its properties. A model of your own is one of
these with some properties changed, in one text: ``"neoverse-v2,kpti,page=16K"``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64.registers import PHYSICAL_SIZES
from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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


class Surety(StrEnum):
    """How sure a figure of a model is."""

    MEASURED = "measured"
    QUOTED = "quoted"
    ASSUMED = "assumed"
    CHOSEN = "chosen"
    """By whoever asked for this model."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where some properties of a model come from.

    Attributes:
        of: Their names; all that no other origin of the model names, if empty.
        surety: How sure they are.
        source: What says so, or why it is taken to be so.
    """

    of: tuple[str, ...]
    surety: Surety
    source: str

    def __str__(self) -> str:
        """Say both, as a table does."""
        return f"{self.surety}: {self.source}"


@dataclass(frozen=True, slots=True)
class CpuModel:
    """What software can see of a core.

    Attributes:
        name: As in ``--cpu``.
        summary: What it stands for, in words.
        origins: Where the figures come from, and how sure they are.
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
    origins: tuple[Origin, ...]
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

    def origin(self, name: str) -> Origin:
        """Return where the property *name* of `PROPERTIES` comes from."""
        named = [one for one in self.origins if name in one.of]
        return (named or [one for one in self.origins if not one.of])[0]


_ALL_SIZES = frozenset({_4K, _16K, _64K, _2M, _32M, _512M, _1G})
_L1D_A76 = frozenset({_4K, _16K, _64K, _2M, _512M})
_L1I_A76 = frozenset({_4K, _16K, _64K, _2M, _32M})
_TLBS = ("l1i", "l1d", "l2")
_WALK_CACHE = Origin(
    ("walk_cache",),
    Surety.ASSUMED,
    "a separate cache of 64 table descriptors; cores keep partial walks in many ways",
)
_CHOICES = Origin(
    ("page", "kpti", "lpa2", "over_invalidates", "shared_tlb"),
    Surety.ASSUMED,
    "a choice of the kernel, or one that the architecture leaves to the core; no "
    "manual says otherwise",
)


def _features(version: str) -> tuple[Origin, ...]:
    """Return where features come from that nothing else speaks of."""
    return (
        Origin(
            ("range_tlbi", "ttl", "epan"),
            Surety.QUOTED,
            f"{version}: Arm ARM (DDI 0487), A2, which features a version must have",
        ),
        Origin(
            (),
            Surety.ASSUMED,
            f"usual for a core of {version}; its ID registers were not read",
        ),
    )


_REPEAT_TLBI = Origin(
    ("repeat_tlbi",),
    Surety.QUOTED,
    "off; kernels that mitigate erratum 4118414 (CVE-2025-10263) turn it on for Grace "
    "and Vera: NVIDIA/NV-Kernels, pull request 463",
)
_BBML2_LIST = "Linux v6.19, arch/arm64/kernel/cpufeature.c, has_bbml2_noabort()"

NEOVERSE_V2 = CpuModel(
    name="neoverse-v2",
    summary="NVIDIA Grace: Armv9.0, range TLBI, TTL, hardware access flag and dirty",
    origins=(
        Origin(
            _TLBS, Surety.ASSUMED, "recalled from the core's manual (102375), not read"
        ),
        _REPEAT_TLBI,
        _WALK_CACHE,
        _CHOICES,
        Origin(
            ("epan", "mte"),
            Surety.ASSUMED,
            "left off, so that a kernel meets them only if it is asked to",
        ),
        *_features("Armv9.0"),
    ),
    l1i=TlbGeometry(1, 48, _L1I_A76),
    l1d=TlbGeometry(1, 48, _L1D_A76),
    l2=TlbGeometry(256, 8, _ALL_SIZES),
    range_tlbi=True,
    ttl=True,
)
NEOVERSE_V3 = replace(
    NEOVERSE_V2,
    name="neoverse-v3",
    summary="Armv9.2: as neoverse-v2, and it changes block sizes without a break",
    origins=(
        Origin(_TLBS, Surety.ASSUMED, "as neoverse-v2; its own manual was not read"),
        _WALK_CACHE,
        _CHOICES,
        Origin(
            ("bbml2_noabort",),
            Surety.QUOTED,
            f"{_BBML2_LIST}: Neoverse V3 from r0p2 on",
        ),
        Origin(("mte",), Surety.ASSUMED, "left off, as the machine around it may"),
        *_features("Armv9.2"),
    ),
    bbml2_noabort=True,
    epan=True,
)
NVIDIA_OLYMPUS = replace(
    NEOVERSE_V3,
    name="nvidia-olympus",
    summary="NVIDIA Vera: Armv9.2, and it changes block sizes without a break",
    origins=(
        Origin(_TLBS, Surety.ASSUMED, "as neoverse-v2; nothing is published"),
        _REPEAT_TLBI,
        _WALK_CACHE,
        _CHOICES,
        Origin(
            ("bbml2_noabort",),
            Surety.QUOTED,
            f"{_BBML2_LIST}: all versions of NVIDIA Olympus",
        ),
        Origin(("mte",), Surety.ASSUMED, "left off, as the machine around it may"),
        *_features("Armv9.2, as LLVM takes it for olympus"),
    ),
)
CORTEX_A76 = CpuModel(
    name="cortex-a76",
    summary="Armv8.2: no range TLBI, no TTL; up to r3p0 add repeat_tlbi",
    origins=(
        Origin(_TLBS, Surety.QUOTED, "Cortex-A76 manual (100798), A5.2"),
        Origin(("pa_bits",), Surety.QUOTED, "Cortex-A76 manual (100798): PARange"),
        Origin(
            ("repeat_tlbi",),
            Surety.QUOTED,
            "erratum 1286807, r0p0 to r3p0: Linux v6.19, arm64_repeat_tlbi_list",
        ),
        _WALK_CACHE,
        _CHOICES,
        *_features("Armv8.2"),
    ),
    l1i=TlbGeometry(1, 48, _L1I_A76),
    l1d=TlbGeometry(1, 48, _L1D_A76),
    l2=TlbGeometry(256, 5, _ALL_SIZES),
    pa_bits=40,
)
NEOVERSE_N1 = replace(
    CORTEX_A76,
    name="neoverse-n1",
    summary="Armv8.2: no range TLBI, no TTL; hardware access flag and dirty state",
    origins=(
        Origin(
            _TLBS, Surety.ASSUMED, "inferred from the Cortex-A76 manual (100798, A5.2)"
        ),
        _WALK_CACHE,
        _CHOICES,
        *_features("Armv8.2"),
    ),
    pa_bits=48,
)
CORTEX_A75 = replace(
    NEOVERSE_N1,
    name="cortex-a75",
    summary="Armv8.2 without CSV3: the kernel unmaps itself at EL0 (KPTI), ASID pairs",
    origins=(
        Origin(_TLBS, Surety.ASSUMED, "as neoverse-n1"),
        Origin(
            ("kpti",),
            Surety.QUOTED,
            "not in the list of cores that are safe without: Linux v6.19, "
            "arch/arm64/kernel/cpufeature.c, unmap_kernel_at_el0()",
        ),
        _WALK_CACHE,
        _CHOICES,
        *_features("Armv8.2"),
    ),
    kpti=True,
)
CORTEX_A72 = CpuModel(
    name="cortex-a72",
    summary="Armv8.0: software access flag and dirty state, no range TLBI",
    origins=(
        Origin(("l2",), Surety.QUOTED, "Cortex-A72 manual (100095), 5.2.3"),
        Origin(("l1i", "l1d"), Surety.ASSUMED, "second-hand, not read in a manual"),
        _WALK_CACHE,
        _CHOICES,
        *_features("Armv8.0"),
    ),
    l1i=TlbGeometry(1, 48, frozenset({_4K, _64K, _2M})),
    l1d=TlbGeometry(1, 32, frozenset({_4K, _64K, _2M})),
    l2=TlbGeometry(256, 4, _ALL_SIZES),
    hw_af=False,
    hw_dbm=False,
    pa_bits=44,
)
APPLE_16K = replace(
    NEOVERSE_V2,
    name="apple-16k",
    summary="like an Apple M1: 16 KiB pages, large TLBs, range TLBI",
    origins=(
        Origin(
            _TLBS,
            Surety.ASSUMED,
            "recalled from measurements of others, not verified; sets and ways made up",
        ),
        Origin(
            ("page",),
            Surety.ASSUMED,
            "Linux is built for 16 KiB pages there, as the IOMMUs want it",
        ),
        _WALK_CACHE,
        _CHOICES,
        Origin((), Surety.ASSUMED, "Armv8.5; Apple publishes no manual"),
    ),
    l1i=TlbGeometry(1, 192, _ALL_SIZES),
    l1d=TlbGeometry(1, 160, _ALL_SIZES),
    l2=TlbGeometry(256, 12, _ALL_SIZES),
    page_shift=_16K,
)

MODELS = {
    m.name: m
    for m in (
        NEOVERSE_V2,
        NEOVERSE_V3,
        NVIDIA_OLYMPUS,
        NEOVERSE_N1,
        CORTEX_A76,
        CORTEX_A75,
        CORTEX_A72,
        APPLE_16K,
    )
}
DEFAULT_MODEL = NEOVERSE_V2.name


# -- properties by name --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Property:
    """One property of a model, as it is written and read.

    Attributes:
        name: As in ``--cpu MODEL,name=value``.
        what: What it says of a core.
        allowed: Its values, in words.
        field: The attribute of `CpuModel` that holds it.
        read: Returns the value that a text spells for a model, or ``None`` if it spells
            none.
        write: Spells a value.
    """

    name: str
    what: str
    allowed: str
    field: str
    read: Callable[[CpuModel, str], Any]
    write: Callable[[Any], str]

    def of(self, model: CpuModel) -> str:
        """Spell what *model* has."""
        return self.write(getattr(model, self.field))


def _flag(name: str, what: str) -> Property:
    words = {"on": True, "off": False}
    return Property(
        name,
        what,
        "on or off; the name alone is on",
        name,
        lambda _, text: words.get(text),
        lambda value: "on" if value else "off",
    )


def _number(
    name: str, what: str, *allowed: int, low: int = 1, high: int = 0
) -> Property:
    def read(_: CpuModel, text: str) -> int | None:
        if not (text.isascii() and text.isdigit() and len(text) < 9):
            return None
        value = int(text)
        fits = value in allowed if allowed else low <= value <= high
        return value if fits else None

    said = ", ".join(map(str, allowed)) or f"a whole number from {low} to {high}"
    return Property(name, what, said, name, read, str)


_SHAPE = re.compile(r"(?:([0-9]{1,5})x)?([0-9]{1,5})", re.ASCII)


def _shape(name: str, what: str) -> Property:
    def read(model: CpuModel, text: str) -> TlbGeometry | None:
        shape = _SHAPE.fullmatch(text)
        if shape is None:
            return None
        old: TlbGeometry = getattr(model, name)
        return replace(old, sets=int(shape[1] or 1), ways=int(shape[2]))

    def write(shape: TlbGeometry) -> str:
        return f"{shape.sets}x{shape.ways}" if shape.sets > 1 else str(shape.ways)

    allowed = "SETSxWAYS, as 256x8, or the entries of one that is fully associative"
    return Property(name, what, allowed, name, read, write)


_PAGES = {"4K": _4K, "16K": _16K, "64K": _64K}
_PAGE_NAMES = {shift: name for name, shift in _PAGES.items()}

PROPERTIES: Final[Mapping[str, Property]] = {
    one.name: one
    for one in (
        Property(
            "page",
            "the granule that the kernel is built for",
            ", ".join(_PAGES),
            "page_shift",
            lambda _, text: _PAGES.get(text.upper()),
            lambda shift: _PAGE_NAMES[shift],
        ),
        _number("pa_bits", "bits of a physical address", *PHYSICAL_SIZES),
        _number("asid_bits", "bits of an ASID", 8, 16),
        _flag("range_tlbi", "FEAT_TLBIRANGE: invalidates ranges by one instruction"),
        _flag("ttl", "FEAT_TTL: a TLBI by address may name the level"),
        _flag("hw_af", "FEAT_HAFDBS: sets the access flag"),
        _flag("hw_dbm", "FEAT_HAFDBS: sets the dirty state"),
        _flag("lpa2", "FEAT_LPA2: 52-bit addresses with 4 and 16 KiB pages"),
        _flag("kpti", "the kernel is not mapped at EL0: two ASIDs for each process"),
        _flag("bbml2_noabort", "FEAT_BBM level 2, without aborts: sizes change live"),
        _flag("epan", "FEAT_PAN3: memory that EL0 may only execute"),
        _flag("mte", "FEAT_MTE2: memory has tags"),
        _flag("repeat_tlbi", "an erratum: each TLBI and its DSB are needed twice"),
        _flag("over_invalidates", "each TLBI drops everything, as hardware may"),
        _number(
            "shared_tlb",
            "how many neighbouring CPUs share one TLB (CnP)",
            low=1,
            high=512,
        ),
        _shape("l1i", "micro-TLB for fetches"),
        _shape("l1d", "micro-TLB for data"),
        _shape("l2", "main TLB behind both"),
        _number(
            "walk_cache", "table descriptors that walks go on from", low=1, high=65536
        ),
    )
}
"""Every property of a model, by name."""


def find_model(text: str) -> CpuModel:
    """Return the CPU model that *text* names, with the properties that it changes.

    Args:
        text: The name of a model, and after commas properties of `PROPERTIES`, each
            ``name=value``, or ``name`` for what is to be on.

    Raises:
        InputError: There is no such model, property or value, or no core can be so;
            the message says what there is.

    >>> find_model("neoverse-v2,kpti,page=16K,l2=128x4").l2.entries
    512
    """
    name, *changes = (part.strip() for part in text.split(","))
    if name not in MODELS:
        raise InputError(
            f"no CPU model is called {name!r}; known: {', '.join(MODELS)}; properties "
            f"follow the name, as in {DEFAULT_MODEL},kpti,page=16K"
        )
    model = MODELS[name]
    seen: list[str] = []
    for change in changes:
        key, equals, value = (part.strip() for part in change.partition("="))
        if key in seen:
            raise InputError(f"cpu {text!r}: {key} is given twice; give it once")
        model = _changed(model, key, value if equals else "on")
        seen.append(key)
    if seen:
        model = replace(
            model,
            name=",".join([name, *changes]),
            summary=f"{name} with {', '.join(changes)}",
            origins=(
                Origin(tuple(seen), Surety.CHOSEN, "as asked for"),
                *model.origins,
            ),
        )
        _check(model)
    return model


def split_models(text: str) -> list[str]:
    """Return the models that *text* names one after the other, with their properties.

    >>> split_models("cortex-a76,kpti,neoverse-n1")
    ['cortex-a76,kpti', 'neoverse-n1']
    """
    found: list[str] = []
    for part in text.split(","):
        if found and part.strip() not in MODELS:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _changed(model: CpuModel, name: str, text: str) -> CpuModel:
    """Return *model* with one property changed, not yet looked at as a whole."""
    one = PROPERTIES.get(name)
    if one is None:
        raise InputError(
            f"no CPU has a property {name!r}; there are {', '.join(PROPERTIES)}"
        )
    value = one.read(model, text)
    if value is None:
        raise InputError(f"{name}={text}: must be {one.allowed}")
    return replace(model, **{one.field: value})


def _check(model: CpuModel) -> None:
    """Refuse properties that no core has together."""
    if model.lpa2 and model.page_shift == _64K:
        raise InputError(
            f"{model.name}: FEAT_LPA2 is for pages of 4K and 16K; leave lpa2 out"
        )
    if model.pa_bits == PHYSICAL_SIZES[-1] and not (
        model.lpa2 or model.page_shift == _64K
    ):
        raise InputError(
            f"{model.name}: 52-bit addresses need lpa2, or page=64K; add one of them"
        )
    if model.hw_dbm and not model.hw_af:
        raise InputError(
            f"{model.name}: hardware that sets the dirty state sets the access flag "
            "too; add hw_dbm=off"
        )
