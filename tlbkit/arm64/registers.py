"""The registers that control translation, as frozen values.

Each value has the fields by Arm's names and goes to and from the 64-bit register
without loss: bits that the model gives no meaning stand in ``other``. A value may
hold what a register may hold, legal or not; `tlbkit.arm64.regime` judges.

Source: Arm ARM (DDI 0487) D24.2, TCR_EL1, TTBR0_EL1, TTBR1_EL1, MAIR_EL1, SCTLR_EL1,
PAR_EL1.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from tlbkit.arm64.descriptor import MASK64, OUTER_SHAREABLE
from tlbkit.arm64.fault import Fault, from_status_code, status_code
from tlbkit.errors import InputError

if TYPE_CHECKING:
    from tlbkit.arm64.granule import Granule

PHYSICAL_SIZES = (32, 36, 40, 42, 44, 48, 52)
"""Address bits that IPS (and PARange) codes 0 to 6 stand for."""


def _bits(low: int, width: int = 1, default: int = 0) -> Any:
    """A register field: *width* bits from bit *low* on."""
    return field(default=default, metadata={"low": low, "width": width})


@dataclass(frozen=True, kw_only=True)
class Register:
    """A 64-bit register made of named bit fields.

    Attributes:
        other: the bits that belong to no named field, at their positions.
    """

    NAME: ClassVar[str]
    LAYOUT: ClassVar[tuple[tuple[str, int, int], ...]] = ()

    other: int = 0

    def __init_subclass__(cls) -> None:
        """Note the name, lowest bit and width of each field of the register."""
        cls.LAYOUT = tuple(
            (name, value.metadata["low"], value.metadata["width"])
            for name, value in vars(cls).items()
            if isinstance(value, Field)
        )

    def __post_init__(self) -> None:
        """Refuse a value that does not fit its field."""
        named = 0
        for name, low, width in self.LAYOUT:
            value = getattr(self, name)
            if not 0 <= value < 1 << width:
                raise InputError(
                    f"{self.NAME}.{name}: {value:#x} does not fit in {width} bit(s)"
                )
            named |= (1 << width) - 1 << low
        if self.other & named or not 0 <= self.other <= MASK64:
            raise InputError(
                f"{self.NAME}.other: {self.other:#x} has bits of a named field, "
                "or more than 64"
            )

    @classmethod
    def decode(cls, raw: int) -> Self:
        """The value that the 64-bit register *raw* holds.

        Raises:
            InputError: *raw* is negative or has more than 64 bits.
        """
        if not 0 <= raw <= MASK64:
            raise InputError(f"{cls.NAME}: {raw:#x} is not a 64-bit value")
        values = {}
        for name, low, width in cls.LAYOUT:
            values[name] = raw >> low & (1 << width) - 1
            raw &= ~((1 << width) - 1 << low)
        return cls(**values, other=raw)

    def encode(self) -> int:
        """The 64-bit register."""
        raw = self.other
        for name, low, _ in self.LAYOUT:
            raw |= getattr(self, name) << low
        return raw


@dataclass(frozen=True, kw_only=True)
class TCR(Register):
    """TCR_EL1: the shape of both halves, and how hardware treats descriptors."""

    NAME: ClassVar[str] = "TCR_EL1"

    T0SZ: int = _bits(0, 6)
    EPD0: int = _bits(7)
    IRGN0: int = _bits(8, 2)
    ORGN0: int = _bits(10, 2)
    SH0: int = _bits(12, 2)
    TG0: int = _bits(14, 2)
    T1SZ: int = _bits(16, 6)
    A1: int = _bits(22)
    EPD1: int = _bits(23)
    IRGN1: int = _bits(24, 2)
    ORGN1: int = _bits(26, 2)
    SH1: int = _bits(28, 2)
    TG1: int = _bits(30, 2)
    IPS: int = _bits(32, 3)
    AS: int = _bits(36)
    TBI0: int = _bits(37)
    TBI1: int = _bits(38)
    HA: int = _bits(39)
    HD: int = _bits(40)
    HPD0: int = _bits(41)
    HPD1: int = _bits(42)
    TBID0: int = _bits(51)
    TBID1: int = _bits(52)
    NFD0: int = _bits(53)
    NFD1: int = _bits(54)
    E0PD0: int = _bits(55)
    E0PD1: int = _bits(56)
    DS: int = _bits(59)

    @classmethod
    def of(
        cls,
        granule: Granule,
        va_bits: int = 48,
        pa_bits: int = 48,
        **more: int,
    ) -> TCR:
        """Both halves alike: a granule, the width of VAs and PAs, and other fields.

        Table walks are inner shareable, write-back cacheable, and ASIDs have 16
        bits, unless *more* says otherwise.

        Raises:
            InputError: no IPS code stands for *pa_bits*.
        """
        if pa_bits not in PHYSICAL_SIZES:
            raise InputError(
                f"pa_bits {pa_bits}: TCR_EL1.IPS can say {list(PHYSICAL_SIZES)}"
            )
        size = 64 - va_bits
        plain = {"IRGN0": 1, "ORGN0": 1, "SH0": 3, "IRGN1": 1, "ORGN1": 1, "SH1": 3}
        return cls(
            T0SZ=size,
            T1SZ=size,
            TG0=granule.tg0,
            TG1=granule.tg1,
            IPS=PHYSICAL_SIZES.index(pa_bits),
            **{"AS": 1} | plain | more,
        )


@dataclass(frozen=True, kw_only=True)
class TTBR(Register):
    """TTBR0_EL1 or TTBR1_EL1: where a walk starts, and an ASID.

    Attributes:
        ASID: bits 63:48.
        BADDR: bits 47:1 of the register, as a number (the address halved).
        CnP: common not private, the tables are shared with other CPUs.
    """

    NAME: ClassVar[str] = "TTBR_EL1"

    CnP: int = _bits(0)
    BADDR: int = _bits(1, 47)
    ASID: int = _bits(48, 16)

    @classmethod
    def at(cls, pa: int, asid: int = 0, cnp: int = 0) -> TTBR:
        """The register for a table at physical address *pa*.

        Address bits 51:48 go to register bits 5:2, where 52-bit regimes look.

        Raises:
            InputError: the address has more than 52 bits, or needs bits that the
                register does not have.
        """
        if pa >> 52 or pa & 1 or (pa >> 48 and pa & 0x3F):
            raise InputError(
                f"table at {pa:#x}: wants an even address of 48 bits, or one of 52 "
                "bits that is a multiple of 64"
            )
        raw = pa & (1 << 48) - 1 | pa >> 48 << 2
        return cls(CnP=cnp, BADDR=raw >> 1, ASID=asid)

    def base(self, *, wide: bool) -> int:
        """Address of the table; *wide* regimes have bits 51:48 in bits 5:2."""
        raw = self.BADDR << 1
        if not wide:
            return raw
        return raw & ~0x3F | (raw & 0x3C) << 46 | raw & 0b10


@dataclass(frozen=True, kw_only=True)
class SCTLR(Register):
    """SCTLR_EL1: the fields that touch translation. Defaults: MMU and caches on."""

    NAME: ClassVar[str] = "SCTLR_EL1"

    M: int = _bits(0, default=1)
    C: int = _bits(2, default=1)
    I: int = _bits(12, default=1)  # noqa: E741 - Arm's name of the field
    WXN: int = _bits(19)
    SPAN: int = _bits(23, default=1)
    EE: int = _bits(25)
    EPAN: int = _bits(57)


@dataclass(frozen=True, slots=True)
class MAIR:
    """MAIR_EL1: the eight memory types that a leaf's AttrIndx selects from."""

    attributes: tuple[int, ...] = (0,) * 8

    def __post_init__(self) -> None:
        """Refuse anything but eight bytes."""
        if len(self.attributes) != 8 or not all(
            0 <= byte <= 0xFF for byte in self.attributes
        ):
            raise InputError(f"MAIR_EL1: {self.attributes} is not eight bytes")

    @classmethod
    def of(cls, *attributes: int) -> MAIR:
        """The given bytes for AttrIndx 0, 1, ...; 0 (Device-nGnRnE) for the rest."""
        return cls((*attributes, *(0,) * (8 - len(attributes))))

    @classmethod
    def decode(cls, raw: int) -> MAIR:
        """The value that the 64-bit register *raw* holds.

        Raises:
            InputError: *raw* is negative or has more than 64 bits.
        """
        if not 0 <= raw <= MASK64:
            raise InputError(f"MAIR_EL1: {raw:#x} is not a 64-bit value")
        return cls(tuple(raw.to_bytes(8, "little")))

    def encode(self) -> int:
        """The 64-bit register."""
        return int.from_bytes(bytes(self.attributes), "little")


def effective_shareability(attr: int, sh: int) -> int:
    """Shareability of memory of type *attr* whose descriptor says *sh*.

    Device and Normal Non-cacheable memory (with or without the XS attribute) are
    always outer shareable.
    """
    device = attr >> 4 == 0
    non_cacheable = attr in (0x44, 0x40)
    return OUTER_SHAREABLE if device or non_cacheable else sh


class PAR(NamedTuple):
    """PAR_EL1: what an address translation instruction reports.

    Attributes:
        fault: the fault, or None when the translation succeeded.
        pa: physical address of the 4 KiB that hold the address, whatever the
            size of the page; 0 with a fault.
        attr: MAIR byte; 0 with a fault.
        sh: shareability; 0 with a fault.
    """

    fault: Fault | None = None
    pa: int = 0
    attr: int = 0
    sh: int = 0

    def encode(self) -> int:
        """The 64-bit register; bits that the architecture leaves open are 0."""
        if self.fault is not None:
            return status_code(self.fault) << 1 | 1
        return self.attr << 56 | self.pa | self.sh << 7

    @classmethod
    def decode(cls, raw: int) -> PAR:
        """What PAR_EL1 says; NS and implementation-defined bits are skipped.

        Raises:
            InputError: the status code is not one that stage 1 gives.
        """
        if raw & 1:
            return cls(fault=from_status_code(raw >> 1 & 0x3F))
        return cls(pa=raw & (1 << 52) - (1 << 12), attr=raw >> 56, sh=raw >> 7 & 3)
