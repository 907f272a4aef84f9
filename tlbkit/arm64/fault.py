"""Faults of a translation, and the status codes by which software sees them.

A fault is a kind and a level. `status_code` gives the six bits that stand in
ESR_ELx.ISS (DFSC, IFSC) and in PAR_EL1.FST; `Syndrome` is the whole ESR_EL1 of an
abort, with the fields that an operating system reads first.

Source: Arm ARM (DDI 0487) ESR_EL1, "ISS encoding for an exception from a Data Abort"
and "... from an Instruction Abort".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, final

from tlbkit.errors import InputError


class FaultKind(Enum):
    """What went wrong; the value is the name used in JSON."""

    ADDRESS_SIZE = "address_size"
    TRANSLATION = "translation"
    ACCESS_FLAG = "access_flag"
    PERMISSION = "permission"
    EXTERNAL_ON_WALK = "external_on_walk"
    EXTERNAL = "external"
    ALIGNMENT = "alignment"
    TLB_CONFLICT = "tlb_conflict"
    UNSUPPORTED_UPDATE = "unsupported_update"


@final
class Fault(NamedTuple):
    """Why an access has no translation.

    Attributes:
        kind: what went wrong.
        level: the level of the walk that says so, -1 to 3; 0 for the kinds that
            have no level (external, alignment, conflict, unsupported update).
    """

    kind: FaultKind
    level: int

    def __str__(self) -> str:
        """The fault in words, such as "translation fault, level 2"."""
        name = self.kind.value.replace("_", " ")
        if self.kind in _WITHOUT_LEVEL:
            return f"{name} fault"
        return f"{name} fault, level {self.level}"


REFUSED: Final = tuple(Fault(FaultKind.PERMISSION, level) for level in range(4))
"""The permission fault of a leaf of each level."""

_WITHOUT_LEVEL = {
    FaultKind.EXTERNAL: 0x10,
    FaultKind.ALIGNMENT: 0x21,
    FaultKind.TLB_CONFLICT: 0x30,
    FaultKind.UNSUPPORTED_UPDATE: 0x31,
}
_FIRST_CODE = {
    FaultKind.ADDRESS_SIZE: 0x00,
    FaultKind.TRANSLATION: 0x04,
    FaultKind.ACCESS_FLAG: 0x08,
    FaultKind.PERMISSION: 0x0C,
    FaultKind.EXTERNAL_ON_WALK: 0x14,
}
# Level -1 came with LPA2, and its codes had to go where there was room. A leaf never
# stands there, so the kinds that only leaves have need no such code.
_LEVEL_MINUS_1 = {
    FaultKind.EXTERNAL_ON_WALK: 0x13,
    FaultKind.ADDRESS_SIZE: 0x29,
    FaultKind.TRANSLATION: 0x2B,
}

_CODES: dict[Fault, int] = (
    {Fault(kind, 0): code for kind, code in _WITHOUT_LEVEL.items()}
    | {
        Fault(kind, level): first + level
        for kind, first in _FIRST_CODE.items()
        for level in range(4)
    }
    | {Fault(kind, -1): code for kind, code in _LEVEL_MINUS_1.items()}
)
_FAULTS = {code: fault for fault, code in _CODES.items()}

EVERY_FAULT = tuple(_CODES)


def status_code(fault: Fault) -> int:
    """Six-bit status code (DFSC, IFSC, FST) of a fault.

    Raises:
        InputError: that kind has no such level.
    """
    try:
        return _CODES[fault]
    except KeyError:
        raise InputError(
            f"{fault.kind.value} at level {fault.level}: there is no such status code"
        ) from None


def from_status_code(code: int) -> Fault:
    """The fault that a six-bit status code stands for.

    Raises:
        InputError: a code that stage 1 translation never gives.
    """
    try:
        return _FAULTS[code]
    except KeyError:
        raise InputError(
            f"status code {code:#x}: not one that stage 1 translation gives"
        ) from None


EC_SHIFT = 26
EC_INSTRUCTION_ABORT_EL0, EC_INSTRUCTION_ABORT_EL1 = 0x20, 0x21
EC_DATA_ABORT_EL0, EC_DATA_ABORT_EL1 = 0x24, 0x25
IL = 1 << 25  # the instruction is 32 bits long, always so in AArch64
CM = 1 << 8
WNR = 1 << 6
STATUS_MASK = 0x3F

_FETCH_AND_EL = {
    EC_INSTRUCTION_ABORT_EL0: (True, 0),
    EC_INSTRUCTION_ABORT_EL1: (True, 1),
    EC_DATA_ABORT_EL0: (False, 0),
    EC_DATA_ABORT_EL1: (False, 1),
}
_EXCEPTION_CLASS = {key: ec for ec, key in _FETCH_AND_EL.items()}


@dataclass(frozen=True, slots=True)
class Syndrome:
    """ESR_EL1 of an abort: which fault, for whom, for which kind of access.

    Attributes:
        fault: what the translation answered.
        el: exception level the access came from, 0 or 1.
        fetch: an instruction fetch (instruction abort), else a data abort.
        write: WnR; never set for a fetch.
        cache_maintenance: CM, the access was a cache maintenance instruction.
    """

    fault: Fault
    el: int
    fetch: bool = False
    write: bool = False
    cache_maintenance: bool = False

    def __post_init__(self) -> None:
        """Refuse what no abort can report."""
        if self.el not in (0, 1):
            raise InputError(f"el {self.el}: an abort taken to EL1 comes from 0 or 1")
        if self.fetch and (self.write or self.cache_maintenance):
            raise InputError("an instruction fetch neither writes nor maintains caches")
        status_code(self.fault)

    def encode(self) -> int:
        """The 64-bit ESR_EL1."""
        return (
            _EXCEPTION_CLASS[self.fetch, self.el] << EC_SHIFT
            | IL
            | (CM if self.cache_maintenance else 0)
            | (WNR if self.write else 0)
            | status_code(self.fault)
        )

    @classmethod
    def decode(cls, esr: int) -> Syndrome:
        """The abort that an ESR_EL1 reports; fields not named here are skipped.

        Raises:
            InputError: the exception is not an abort, or not one of translation.
        """
        exception_class = esr >> EC_SHIFT & 0x3F
        if exception_class not in _FETCH_AND_EL:
            raise InputError(
                f"ESR_EL1 {esr:#x}: exception class {exception_class:#x} is no "
                "instruction or data abort (0x20, 0x21, 0x24, 0x25)"
            )
        fetch, el = _FETCH_AND_EL[exception_class]
        return cls(
            fault=from_status_code(esr & STATUS_MASK),
            el=el,
            fetch=fetch,
            write=not fetch and bool(esr & WNR),
            cache_maintenance=not fetch and bool(esr & CM),
        )
