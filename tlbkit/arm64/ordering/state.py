"""The state of the small machine, and what leads from one state to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

if TYPE_CHECKING:
    from tlbkit.arm64.fault import FaultKind
    from tlbkit.arm64.ordering.entries import Entry
    from tlbkit.arm64.ordering.program import Value

T = TypeVar("T")


class Cell(NamedTuple):
    """A word's value, and which write put it there.

    Two writes of one value are two cells: an entry that was replaced and then written
    again is stale in a TLB until it is fetched again.

    Attributes:
        value: An int or an address in a frame, an `Entry` in a table.
        writer: 0 for the first value, else a number that names the write.
    """

    value: Value
    writer: int

    @property
    def entry(self) -> Entry:
        """The value of a table word."""
        return cast("Entry", self.value)

    @property
    def number(self) -> int:
        """The value of a frame."""
        return cast("int", self.value)


class Thread(NamedTuple):
    """How far a thread is.

    Attributes:
        done: Bit i is set when event i has happened, or is known not to happen.
        found: For each event the cell that a walk took or a read returned, or None.
        end: The step at which the thread ends: its length, or the step that faults.
    """

    done: int
    found: tuple[Cell | None, ...]
    end: int

    def at(self, event: int) -> Cell:
        """Return what an event found that is known to have happened."""
        return cast("Cell", self.found[event])


class Flight(NamedTuple):
    """A TLBI that was sent and is not yet known to be complete.

    Attributes:
        thread: Its sender.
        event: Index of the event that sent it.
        broadcast: Whether it is for every CPU or for the sender's alone.
        fresh: For each page the cells its table word has held since; what a TLB
            holds besides these is what the TLBI removes. None for a page it spares.
    """

    thread: int
    event: int
    broadcast: bool
    fresh: tuple[frozenset[Cell] | None, ...]


class State(NamedTuple):
    """All there is to know of the machine at one moment; immutable and hashable.

    Attributes:
        memory: Every word: first the frames, then the table word of each page.
        tlbs: For each CPU and page, every cell that a TLB of this CPU may hold: fills
            come at any moment, unasked, and anything may be dropped at any moment.
        flights: The TLBI in flight.
        threads: How far each thread is.
    """

    memory: tuple[Cell, ...]
    tlbs: tuple[tuple[frozenset[Cell], ...], ...]
    flights: tuple[Flight, ...]
    threads: tuple[Thread, ...]


class Walk(NamedTuple):
    """A walk takes a table word, from a TLB or from memory.

    Attributes:
        thread: The thread whose event it is.
        event: Index of the event in its thread.
        cell: The table word.
    """

    thread: int
    event: int
    cell: Cell


class Do(NamedTuple):
    """Any other event of a thread happens.

    Attributes:
        thread: The thread whose event it is.
        event: Index of the event in its thread.
    """

    thread: int
    event: int


class SetAccessFlag(NamedTuple):
    """Hardware sets the access flag of a page without being asked.

    Attributes:
        page: The page.
    """

    page: str


Transition = Walk | Do | SetAccessFlag


class Outcome(NamedTuple):
    """How an execution ended.

    Attributes:
        registers: (thread, register, value) of every register a thread names; 0 if
            the thread faulted before it was read.
        faults: For each thread its fault and the page that faulted, or None.
        frames: (frame, value), in the order of the program.
        tables: (page, entry), in the order of the program.
    """

    registers: frozenset[tuple[int, str, Value]]
    faults: tuple[tuple[FaultKind, str] | None, ...]
    frames: tuple[tuple[str, Value], ...]
    tables: tuple[tuple[str, Entry], ...]


def replaced(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    """Return the tuple with one item exchanged."""
    return (*items[:index], item, *items[index + 1 :])
