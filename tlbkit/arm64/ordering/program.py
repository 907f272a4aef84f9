"""The programs that the ordering model runs: a few steps on each of a few CPUs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, cast

from tlbkit.arm64.ordering.entries import Entry, Hardware
from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_THREADS = 4


@dataclass(frozen=True, slots=True)
class Data:
    """The data word of a page: an access to it is translated."""

    page: str


@dataclass(frozen=True, slots=True)
class Table:
    """The page-table word of a page: an access to it is not translated here."""

    page: str


Value = int | Entry | Data | Table
"""What a word or a register holds: a number, an entry, or the address of a word."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A value, or a condition, made of what earlier steps of the thread have read.

    Attributes:
        registers: The registers that it is made of.
        function: Takes their values, in this order.
    """

    registers: tuple[str, ...]
    function: Callable[..., Value | bool]


@dataclass(frozen=True, slots=True)
class Depends:
    """The registers on which an instruction depends, by what it needs them for.

    A *picked* value is one of several, and the register only says which one (CSEL).

    Attributes:
        address: The address is computed from these.
        data: What is written is computed from these.
        picked_address: Which address it is was picked by these.
        picked_data: Which value is written was picked by these.
        picked_read: The value read was picked by these, through an own store.
    """

    address: frozenset[str] = frozenset()
    data: frozenset[str] = frozenset()
    picked_address: frozenset[str] = frozenset()
    picked_data: frozenset[str] = frozenset()
    picked_read: frozenset[str] = frozenset()


NOTHING = Depends()


@dataclass(frozen=True, slots=True)
class Load:
    """Read a word; with `register` empty only the fault, if any, is of interest.

    Attributes:
        target: The word.
        register: Where the value goes.
        acquire: Whether it is a load-acquire.
        weak: With `acquire`, that it is LDAPR, which may overtake a store-release.
        depends: What the address depends on.
        faults: Whether the program goes on here after a fault of this access (True) or
            only without one (False); None if a fault ends the thread.
        as_store: The access needs write permission (a CAS that fails).
        dirties: With `as_store`, whether hardware makes a clean entry writable for it.
    """

    target: Data | Table
    register: str = ""
    acquire: bool = False
    weak: bool = False
    depends: Depends = field(default=NOTHING, repr=False)
    faults: bool | None = None
    as_store: bool = False
    dirties: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """Write a word: an int to data, an `Entry` to a table.

    Attributes:
        target: The word.
        value: What is written.
        release: Whether it is a store-release.
        depends: What address and value depend on.
        faults: As of a `Load`.
        exclusive: The register of the load that it makes an atomic with (STXR), or "".
    """

    target: Data | Table
    value: Value | Computed
    release: bool = False
    depends: Depends = field(default=NOTHING, repr=False)
    faults: bool | None = None
    exclusive: str = ""


@dataclass(frozen=True, slots=True)
class Atomic:
    """Read a word and write what is made of it, with nobody's write in between.

    Attributes:
        target: The word.
        value: What is written; it may be made of `register`.
        register: Where the value read goes.
        acquire: Whether the read is a load-acquire.
        release: Whether the write is a store-release.
        returns: False for a form without a destination (STCLR), whose read is no load
            to a barrier for loads.
        depends: What address and value depend on.
        faults: As of a `Load`.
    """

    target: Data | Table
    value: Value | Computed
    register: str
    acquire: bool = False
    release: bool = False
    returns: bool = True
    depends: Depends = field(default=NOTHING, repr=False)
    faults: bool | None = None


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
    depends: Depends = field(default=NOTHING, repr=False)


@dataclass(frozen=True, slots=True)
class Branch:
    """A conditional branch on a register; the program goes on here either way."""

    register: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The program goes on here only if a condition holds.

    A program whose way depends on what it reads is several programs, one for each way;
    each says with its choices what must have been read on it.

    Attributes:
        condition: Made of registers; false where the program would go another way.
        branch: Whether a branch decides, or an instruction that picks a value.
        depends: `data` and `picked_data` are what a branch depends on.
    """

    condition: Computed
    branch: bool = True
    depends: Depends = field(default=NOTHING, repr=False)


Access = Load | Store | Atomic | Swap | CompareAndSwap

Instruction = Access | Dmb | Dsb | Isb | Tlbi | Branch | Choice


@dataclass(frozen=True, slots=True)
class Program:
    """What a run starts from: the steps of each CPU, the tables, the frames.

    Attributes:
        threads: One to four instruction sequences; thread i runs on CPU i.
        tables: The first entry of each page, by page name.
        frames: The first value of each frame, by frame name.
        hardware: Hardware management of access flag and dirty state, on every CPU.
        by_cpu: The same CPU by CPU, where they differ.

    Raises:
        InputError: A page, a frame or a register is used but not there.
    """

    threads: tuple[tuple[Instruction, ...], ...]
    tables: tuple[tuple[str, Entry], ...]
    frames: tuple[tuple[str, int], ...]
    hardware: Hardware = Hardware.NONE
    by_cpu: tuple[Hardware, ...] = ()

    def __post_init__(self) -> None:
        """Check that every name used is there."""
        if not 1 <= len(self.threads) <= MAX_THREADS:
            raise InputError(f"{len(self.threads)} threads; there may be 1 to 4")
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
                elif isinstance(instruction, Load | Atomic | Swap | CompareAndSwap):
                    if instruction.register in registers:
                        raise InputError(
                            f"P{number}: register {instruction.register!r} is read "
                            "into twice; take a second register"
                        )
                    registers |= {instruction.register} - {""}

    def hardware_of(self, cpu: int) -> Hardware:
        """Return what the hardware of a CPU manages."""
        return self.by_cpu[cpu] if self.by_cpu else self.hardware

    @property
    def managed(self) -> bool:
        """Tell whether the hardware of any CPU manages anything."""
        return any(
            self.hardware_of(cpu) is not Hardware.NONE
            for cpu in range(len(self.threads))
        )

    def entries(self) -> Iterator[Entry]:
        """Yield every entry that the program starts with, writes, or compares with."""
        for _, entry in self.tables:
            yield entry
        for thread in self.threads:
            for instruction in thread:
                match instruction:
                    case (
                        Store(value=Entry() as value)
                        | Atomic(value=Entry() as value)
                        | Swap(value=value)
                        | CompareAndSwap(value=value)
                    ):
                        yield value


def named_page(instruction: Instruction) -> str | None:
    """Return the page that an instruction names, or None."""
    if isinstance(instruction, Tlbi):
        return instruction.page
    target = getattr(instruction, "target", None)
    return None if target is None else cast("Data | Table", target).page
