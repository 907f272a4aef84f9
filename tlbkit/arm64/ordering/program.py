"""The programs that the ordering model runs: a few steps on each of a few CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from tlbkit.arm64.ordering.entries import Entry, Hardware
from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_THREADS = 3


@dataclass(frozen=True, slots=True)
class Data:
    """The data word of a page: an access to it is translated."""

    page: str


@dataclass(frozen=True, slots=True)
class Table:
    """The page-table word of a page: an access to it is not translated here."""

    page: str


@dataclass(frozen=True, slots=True)
class Load:
    """Read a word; with `register` empty only the fault, if any, is of interest."""

    target: Data | Table
    register: str = ""
    acquire: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """Write a word: an int to data, an `Entry` to a table."""

    target: Data | Table
    value: int | Entry
    release: bool = False


@dataclass(frozen=True, slots=True)
class Swap:
    """Atomically read a table word and write another."""

    target: Table
    value: Entry
    register: str = ""


@dataclass(frozen=True, slots=True)
class CompareAndSwap:
    """Atomically read a table word and write another if the one read is `expected`."""

    target: Table
    expected: Entry
    value: Entry
    register: str = ""


class Accesses(Enum):
    """The accesses before and after it that a DMB or DSB orders."""

    ALL = ""
    LOADS = "ld"
    STORES = "st"


class Domain(Enum):
    """The shareability domain that a DMB or DSB names."""

    NON_SHAREABLE = "nsh"
    INNER = "ish"
    OUTER = "osh"
    SYSTEM = "sy"


@dataclass(frozen=True, slots=True)
class Dmb:
    """Data memory barrier. The domain changes no answer of the model."""

    accesses: Accesses = Accesses.ALL
    domain: Domain = Domain.INNER


@dataclass(frozen=True, slots=True)
class Dsb:
    """Data synchronisation barrier. The domain limits which TLBI it completes."""

    accesses: Accesses = Accesses.ALL
    domain: Domain = Domain.INNER


@dataclass(frozen=True, slots=True)
class Isb:
    """Instruction synchronisation barrier: a context synchronisation event."""


@dataclass(frozen=True, slots=True)
class Tlbi:
    """Invalidate a page, or everything if `page` is None, here or on every CPU."""

    page: str | None
    broadcast: bool = True


@dataclass(frozen=True, slots=True)
class Branch:
    """A conditional branch on a register; the program goes on here either way."""

    register: str


Instruction = Load | Store | Swap | CompareAndSwap | Dmb | Dsb | Isb | Tlbi | Branch


@dataclass(frozen=True, slots=True)
class Program:
    """What a run starts from: the steps of each CPU, the tables, the frames.

    Attributes:
        threads: One to three instruction sequences; thread i runs on CPU i.
        tables: The first entry of each page, by page name.
        frames: The first value of each frame, by frame name.
        hardware: Hardware management of access flag and dirty state, on every CPU.

    Raises:
        InputError: A page, a frame or a register is used but not there.
    """

    threads: tuple[tuple[Instruction, ...], ...]
    tables: tuple[tuple[str, Entry], ...]
    frames: tuple[tuple[str, int], ...]
    hardware: Hardware = Hardware.NONE

    def __post_init__(self) -> None:
        """Check that every name used is there."""
        if not 1 <= len(self.threads) <= MAX_THREADS:
            raise InputError(f"{len(self.threads)} threads; there may be 1 to 3")
        pages = {page for page, _ in self.tables}
        frames = {frame for frame, _ in self.frames}
        for entry in self.entries():
            if entry.valid and entry.frame not in frames:
                raise InputError(f"entry '{entry}': there is no frame {entry.frame!r}")
        for number, thread in enumerate(self.threads):
            registers: set[str] = set()
            for instruction in thread:
                page = named_page(instruction)
                if page is not None and page not in pages:
                    raise InputError(f"P{number}: there is no page {page!r}")
                if isinstance(instruction, Branch):
                    if instruction.register not in registers:
                        raise InputError(
                            f"P{number}: branch on {instruction.register!r}, which no "
                            "earlier step of this thread reads"
                        )
                elif isinstance(instruction, Load | Swap | CompareAndSwap):
                    if instruction.register in registers:
                        raise InputError(
                            f"P{number}: register {instruction.register!r} is read "
                            "into twice; take a second register"
                        )
                    registers |= {instruction.register} - {""}

    def entries(self) -> Iterator[Entry]:
        """Yield every entry that the program starts with, writes, or compares with."""
        for _, entry in self.tables:
            yield entry
        for thread in self.threads:
            for instruction in thread:
                match instruction:
                    case (
                        Store(value=Entry() as value)
                        | Swap(value=value)
                        | CompareAndSwap(value=value)
                    ):
                        yield value


def named_page(instruction: Instruction) -> str | None:
    """Return the page that an instruction names, or None."""
    match instruction:
        case Load(target) | Store(target) | Swap(target) | CompareAndSwap(target):
            return target.page
        case Tlbi(page):
            return page
    return None
