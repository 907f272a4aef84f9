"""One thread's own order: what of it may happen next, as far as the thread goes.

Nothing here knows the TLBs or the other threads. `Code` is the fixed side of a
thread; how far it is stands in a `Thread`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.arm64.ordering.events import (
    AFTER_WALK_UPDATE,
    Event,
    Kind,
    depends_of,
    events_of,
    order_of,
)
from tlbkit.arm64.ordering.program import (
    Atomic,
    Choice,
    CompareAndSwap,
    Computed,
    Store,
    Swap,
)
from tlbkit.arm64.ordering.state import Cell, Thread, replaced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tlbkit.arm64.ordering.program import Instruction, Value


class Code:
    """The events of one thread, and the order that they keep among themselves.

    Attributes:
        events: The events, in program order.
        start: The thread before its first event.
    """

    def __init__(
        self,
        instructions: tuple[Instruction, ...],
        frame_words: Mapping[str, int],
        table_words: Mapping[str, int],
        first_writer: int,
        *,
        ets2: bool,
    ) -> None:
        """Prepare a thread.

        Args:
            instructions: Its steps.
            frame_words: The index in memory of each frame.
            table_words: The index in memory of each page's table word.
            first_writer: The number that names a write by its first event.
            ets2: Whether its CPU has FEAT_ETS2.
        """
        self.events = events_of(instructions)
        self.start = Thread(0, (None,) * len(self.events), len(instructions))
        self._frame_words = frame_words
        self._first_writer = first_writer
        self._values: dict[int, Value | Computed] = {
            i: e.instruction.value
            for i, e in enumerate(self.events)
            if isinstance(e.instruction, Store | Atomic | Swap | CompareAndSwap)
        }
        self._index = {(e.step, e.kind): i for i, e in enumerate(self.events)}
        self._table_words = {
            e.step: table_words[e.table] for e in self.events if e.table
        }
        self.reads = {
            name: i
            for i, e in enumerate(self.events)
            if e.kind is Kind.READ and (name := getattr(e.instruction, "register", ""))
        }
        rows = order_of(self.events, ets2=ets2)
        self._waits_for = [_bits(row) for row in rows]
        self._value_needs = [self._needs(event) for event in self.events]
        self._choices = self._choices_by_read(instructions)
        self._accesses_before = [
            _bits(
                i
                for i, e in enumerate(self.events[:index])
                if e.kind in (Kind.READ, Kind.WRITE)
            )
            for index in range(len(self.events))
        ]
        self._up_to = [
            _bits(i for i, e in enumerate(self.events) if e.step <= step)
            for step in range(len(instructions) + 1)
        ]
        self._accesses = {
            i: _bits(
                j
                for kind in (Kind.READ, Kind.WRITE)
                if (j := self._index.get((e.step, kind))) is not None
            )
            for i, e in enumerate(self.events)
            if e.kind is Kind.WALK
        }

    def _needs(self, event: Event) -> int:
        """Return the bits of the reads without which a write has no value or word."""
        if event.kind is not Kind.WRITE:
            return 0
        on = depends_of(event.instruction)
        return _bits(self.reads[name] for name in on.address | on.data)

    def _choices_by_read(
        self, instructions: tuple[Instruction, ...]
    ) -> dict[int, list[Computed]]:
        """Return for each read the conditions that it takes part in."""
        found: dict[int, list[Computed]] = {}
        for instruction in instructions:
            if isinstance(instruction, Choice):
                for name in instruction.condition.registers:
                    found.setdefault(self.reads[name], []).append(instruction.condition)
        return found

    def ready(self, thread: Thread) -> Iterator[int]:
        """Yield the events for which all that must come before has happened."""
        to_do = self.to_do(thread)
        for index, waits_for_ in enumerate(self._waits_for):
            if to_do >> index & 1 and not waits_for_ & ~thread.done:
                yield index

    def to_do(self, thread: Thread) -> int:
        """Return the bits of the events that a thread has still to do."""
        return self._up_to[thread.end] & ~thread.done

    def accesses_done(self, thread: Thread, index: int) -> bool:
        """Tell whether the reads and writes before an event have all happened."""
        return not self._accesses_before[index] & ~thread.done

    def word(self, thread: Thread, step: int) -> int | None:
        """Return the index in memory of the word that a step accesses, if known."""
        walk = self._index.get((step, Kind.WALK))
        if walk is None:
            return self._table_words.get(step)
        cell = thread.found[walk]
        return None if cell is None else self._frame_words[cell.entry.frame]

    def writer(self, index: int) -> int:
        """Return the number that names a write by an event."""
        return self._first_writer + index

    def written(self, thread: Thread, index: int) -> Cell | None:
        """Return the cell that a write puts into its word, or None if not yet known."""
        if self._value_needs[index] & ~thread.done:
            return None
        value = self._values[index]
        if isinstance(value, Computed):
            found = self.compute(thread, value)
            if found is None:
                return None
            value = found
        return Cell(value, self._first_writer + index)

    def compute(self, thread: Thread, computed: Computed) -> Value | bool | None:
        """Return a value made of registers, or None while one is not read."""
        cells = [thread.found[self.reads[name]] for name in computed.registers]
        if None in cells:
            return None
        return computed.function(*(cell.value for cell in cells if cell))

    def as_chosen(self, thread: Thread, index: int, cell: Cell) -> bool:
        """Tell whether the program goes on as it does if a read finds `cell`."""
        conditions = self._choices.get(index)
        if conditions is None:
            return True
        after = Thread(thread.done, replaced(thread.found, index, cell), thread.end)
        return all(
            self.compute(after, condition) is not False for condition in conditions
        )

    def fault(self, walk: int) -> int:
        """Return the fault that a walk may end in."""
        return self._index[self.events[walk].step, Kind.FAULT]

    def accesses_of(self, walk: int) -> int:
        """Return the bits of the reads and writes that a walk is for."""
        return self._accesses[walk]

    # Rule 4: one word, one order --------------------------------------------

    def own_write(self, thread: Thread, index: int) -> int | None:
        """Return the own earlier write, still on its way, that a read gets, if any."""
        step = self.events[index].step
        word = self.word(thread, step)
        for earlier in range(step - 1, -1, -1):
            write = self._writing(thread, earlier)
            if write is not None and self.word(thread, earlier) == word:
                return None if thread.done >> write & 1 else write
        return None

    def forwards(self, thread: Thread, write: int, index: int) -> Cell | None:
        """Return what a read gets from an own write on its way, if it may have it yet.

        A load-acquire does not get ahead of the read of an atomic by way of its write.
        """
        partner = self.partner(write)
        if (
            partner is not None
            and getattr(self.events[index].instruction, "acquire", False)
            and not thread.done >> partner & 1
        ):
            return None
        return self.written(thread, write)

    def partner(self, write: int) -> int | None:
        """Return the read that is one atomic with a write, or None."""
        event = self.events[write]
        exclusive = getattr(event.instruction, "exclusive", "")
        if exclusive:
            return self.reads[exclusive]
        return self._index.get((event.step, Kind.READ))

    def read_agrees(self, thread: Thread, index: int, cell: Cell) -> bool:
        """Tell whether a read of `cell` agrees with the reads that went ahead of it.

        Of two reads of one word the first does not see the newer value: a later read
        must have seen what this one sees, or what this atomic is about to write. Only
        the updates of this CPU's own walker may have come in between.
        """
        event = self.events[index]
        word = self.word(thread, event.step)
        ahead = [c for c in self._reads_after(thread, event, word) if c is not None]
        if not ahead:
            return True
        if will_write(event, cell):
            return all(other.writer == self.writer(index + 1) for other in ahead)
        right = set(self._back_through_updates(thread, cell))
        return all(other in right for other in ahead)

    def _back_through_updates(self, thread: Thread, cell: Cell) -> Iterator[Cell]:
        """Yield a cell, and those that own hardware updates made it of."""
        yield cell
        index = cell.writer - self._first_writer
        if 0 <= index < len(self.events) and self.events[index].kind is Kind.UPDATE:
            yield from self._back_through_updates(
                thread, thread.at(index - AFTER_WALK_UPDATE)
            )

    def walk_agrees(self, thread: Thread, index: int, cell: Cell) -> bool:
        """Tell whether a walk that finds `cell` leaves the reads done so far right.

        A read that went ahead of an earlier store to the same frame should have had
        that store's value; such an execution is one in which the read is done again.
        """
        event = self.events[index]
        if not isinstance(event.instruction, Store | Atomic):
            return True
        word = self._frame_words[cell.entry.frame]
        return all(ahead is None for ahead in self._reads_after(thread, event, word))

    def write_is_next(self, thread: Thread, index: int) -> bool:
        """Tell whether a store's word has no earlier own access still to come."""
        word = self.word(thread, self.events[index].step)
        return all(
            thread.done >> earlier & 1
            for earlier, event in enumerate(self.events[:index])
            if event.kind in (Kind.READ, Kind.WRITE)
            and self.word(thread, event.step) == word
        )

    def stores_known(self, thread: Thread, index: int) -> bool:
        """Tell whether the word of every store before an event is known."""
        return all(
            self.word(thread, event.step) is not None
            for event in self.events[:index]
            if event.kind is Kind.WRITE
        )

    def _reads_after(
        self, thread: Thread, event: Event, word: int | None
    ) -> Iterator[Cell | None]:
        """Yield what the reads of a word after an event found, to its next write."""
        for step in range(event.step + 1, thread.end):
            if self.word(thread, step) == word:
                read = self._index.get((step, Kind.READ))
                if read is not None:
                    yield thread.found[read]
                if self._writing(thread, step) is not None:
                    return

    def _writing(self, thread: Thread, step: int) -> int | None:
        """Return the index of a step's write, if it is known that it writes."""
        write = self._index.get((step, Kind.WRITE))
        if write is None:
            return None
        event = self.events[write]
        if isinstance(event.instruction, CompareAndSwap):
            read = thread.found[write - 1]
            if read is None or not will_write(event, read):
                return None
        return write


def will_write(event: Event, found: Cell) -> bool:
    """Tell whether a step whose read found this cell goes on to write."""
    match event.instruction:
        case CompareAndSwap(expected=expected):
            return found.value == expected
        case instruction:
            return isinstance(instruction, Store | Atomic | Swap)


def _bits(indexes: Iterable[int]) -> int:
    """Return an int with these bits set."""
    return sum(1 << index for index in indexes)
