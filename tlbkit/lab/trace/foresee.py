"""What later lines tell of earlier ones: which faults read, what MOVE was asked.

A trace does not say whether a fault was a read or a write. But a second fault on a page
that was there already is a write, and then the first one was a read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tlbkit.lab.trace.records import (
    Call,
    Ended,
    Executed,
    Forked,
    Mapped,
    MoveArguments,
    PageFault,
    Signalled,
)
from tlbkit.lab.trace.words import number, path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tlbkit.lab.trace.records import Record

UFFDIO_MOVE: Final = 0xC028AA05
"""The request's number: _IOWR(0xAA, 5) with its 40 bytes."""

_CHANGES: Final = {
    "munmap": (0, 1),
    "mprotect": (0, 1),
    "pkey_mprotect": (0, 1),
    "madvise": (0, 1),
    "mremap": (0, 1),
}
"""Calls after which a page of their range may be gone: where start and length stand."""

_CLONES: Final = frozenset({"clone", "clone3", "fork", "vfork"})
_NO_PLACE: Final = ("SHARED", "STACK", "HUGETLB", "POPULATE")
_EXITS: Final = frozenset({"exit", "exit_group"})
_HUGE: Final = 2 << 20
_MOST_ARGUMENTS: Final = 8 << 20  # bytes
STACK: Final = "[stack]"


@dataclass(slots=True)
class Stack:
    """The stack that an execve made.

    Attributes:
        first: End of the page that the program touched first; 0 if that is not known.
            What lies above was written by execve: arguments and environment.
        end: Its end; 0 if that is not known.
        seen: End of the highest page that was touched.
    """

    first: int = 0
    end: int = 0
    seen: int = 0

    def see(self, end: int) -> None:
        """Take notice of a touch of the page that ends at *end*."""
        self.first = self.first or end
        self.seen = max(self.seen, end)

    def written(self, page_size: int) -> range:
        """Return the bytes that execve wrote to, in whole pages."""
        end = self.end or self.seen
        first = self.first if 0 < self.first < end else end - page_size
        return range(first, end) if first > end - _MOST_ARGUMENTS and end else range(0)


class Foresight:
    """Looks over a whole trace once, before it is replayed.

    Args:
        records: In their order.
        page_size: In bytes.

    Attributes:
        reads: The places of faults that were reads, since a write followed.
        later: The places of calls to execve and exit whose effect another record tells
            more exactly: a call is told when it is entered.
        refused: The places of faults that ended in a signal, and mapped nothing.
        moves: Task -> the arguments of its UFFDIO_MOVE, in order.
        process: Task -> its process.
        huge_files: The names of mapped files that consist of huge pages.
        stacks: The place of an execve -> the stack that it made.
        attached: Task -> the lengths of the memory that its shmat mapped, by start.
    """

    def __init__(self, records: Sequence[Record], page_size: int) -> None:
        self.reads: set[int] = set()
        self.refused: set[int] = set()
        self.later: set[int] = set()
        self._leaving: dict[int, int] = {}
        self._beginning: dict[int, int] = {}
        self.stacks: dict[int, Stack] = {}
        self._stack_of: dict[int, Stack] = {}
        self.attached: dict[tuple[int, int], int] = {}
        self._last: dict[int, tuple[int, int, int | None]] = {}
        self.moves: dict[int, list[MoveArguments]] = defaultdict(list)
        self.huge_files = huge_files(records)
        self.process = processes(records)
        self._mask = -page_size
        self._waiting: dict[int, dict[int, int]] = defaultdict(dict)
        for place, record in enumerate(records):
            self._look(place, record)

    def _look(self, place: int, record: Record) -> None:
        """Take one record into account."""
        process = self.process.get(record.task, record.task)
        waiting = self._waiting[process]
        if isinstance(record, PageFault):
            page = record.address & self._mask
            before = waiting.pop(page, None)
            if before is None:
                waiting[page] = place
            else:
                self.reads.add(before)
            self._last[record.task] = place, page, before
            if record.file == STACK and record.task in self._stack_of:
                self._stack_of[record.task].see(page - self._mask)
        elif isinstance(record, Signalled):
            self._refuse(record, waiting)
        elif isinstance(record, Mapped):
            if record.name.startswith("/SYSV"):
                self.attached[record.task, record.start] = record.length
            elif record.name == STACK and record.task in self._stack_of:
                self._stack_of[record.task].end = record.start + record.length
        elif isinstance(record, MoveArguments):
            if record.cmd == UFFDIO_MOVE:
                self.moves[record.task].append(record)
        elif isinstance(record, Call):
            self._change(record, waiting)
            if record.name in _EXITS:
                self._leaving[record.task] = place
            elif record.name.startswith("execve") and record.result == 0:
                self._beginning[record.task] = place
                self.stacks[place] = self._stack_of[record.task] = Stack()
        elif isinstance(record, Ended):
            self._await(record.task, self._leaving)
        elif isinstance(record, Executed | Forked):
            waiting.clear()
            if isinstance(record, Executed) and record.task in self._beginning:
                call = self._beginning[record.task]
                self.stacks[place] = self.stacks.pop(call)
            elif isinstance(record, Executed):
                self.stacks[place] = self._stack_of[record.task] = Stack()
            self._await(record.task, self._beginning)

    def _await(self, task: int, calls: dict[int, int]) -> None:
        """Let the call of a task that waits for its record have no effect itself."""
        place = calls.pop(task, None)
        if place is not None:
            self.later.add(place)

    def _refuse(self, signal: Signalled, waiting: dict[int, int]) -> None:
        """Take back what was made of the access for which a signal was sent."""
        place, page, before = self._last.get(signal.task, (0, -1, None))
        if page != signal.address & self._mask:
            return
        self.refused.add(place)
        if before is None:
            waiting.pop(page, None)
        else:
            self.reads.discard(before)
            waiting[page] = before

    def _change(self, call: Call, waiting: dict[int, int]) -> None:
        """Forget the pages that a call may have taken away."""
        if call.name in _CLONES or call.name.startswith("execve"):
            waiting.clear()
            return
        start = length = None
        if call.name == "mmap" and call.result is not None and len(call.args) > 1:
            start, length = call.result, number(call.args[1])
        elif call.name in _CHANGES and len(call.args) > 1:
            first, second = _CHANGES[call.name]
            start, length = number(call.args[first]), number(call.args[second])
        if start is None or length is None:
            return
        pages = range(start & self._mask, start + length, -self._mask)
        if len(pages) < len(waiting):
            for page in pages:
                waiting.pop(page, None)
        else:
            for page in [page for page in waiting if start <= page < start + length]:
                del waiting[page]


def processes(records: Sequence[Record]) -> dict[int, int]:
    """Return task -> process, as forks, faults and clones tell it."""
    found: dict[int, int] = {}
    for record in records:
        if isinstance(record, PageFault | Forked):
            if record.pid is not None:
                found[record.task] = record.pid
        elif isinstance(record, Call) and record.name in _CLONES and record.result:
            shares = any("CLONE_THREAD" in arg for arg in record.args)
            parent = found.get(record.task, record.task)
            found.setdefault(record.result, parent if shares else record.result)
    return found


def huge_files(records: Sequence[Record]) -> frozenset[str]:
    """Return the names of mapped files that consist of huge pages.

    No call of the usual filters tells that a file is of hugetlbfs. But then it is
    mapped at whole huge pages, and no two faults of a process hit one of them at
    different small pages.
    """
    mapped: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for record in records:
        if not isinstance(record, Call) or record.name != "mmap" or not record.result:
            continue
        name = path(record.args[4]) if len(record.args) > 4 else ""
        length = number(record.args[1]) or 0 if name else 0
        if name and record.result > 0:
            mapped[name].append((record.result, length))
    whole = {
        name: places
        for name, places in mapped.items()
        if all(at % _HUGE == 0 and size % _HUGE == 0 and size for at, size in places)
    }
    if not whole:
        return frozenset()
    ranges = sorted(
        (at, at + size, name) for name, places in whole.items() for at, size in places
    )
    starts = [at for at, _, _ in ranges]
    touched: dict[str, dict[tuple[int, int], set[int]]] = defaultdict(dict)
    for record in records:
        if not isinstance(record, PageFault):
            continue
        place = bisect_right(starts, record.address) - 1
        if place < 0 or record.address >= ranges[place][1]:
            continue
        block = record.pid or record.task, record.address // _HUGE
        pages = touched[ranges[place][2]].setdefault(block, set())
        pages.add(record.address >> 12)
    return frozenset(
        name
        for name in whole
        if all(len(pages) == 1 for pages in touched[name].values())
        and (len(touched[name]) > 1 or "huge" in name)
    )


def huge_pages(records: Sequence[Record]) -> tuple[int, int]:
    """Return how many places for a huge page took one fault, and how many took more.

    A place is what one huge page of private memory without a file could fill, from
    its first fault until a call changes any of it. If huge pages are always used, the
    first fault brings all of it, and no other follows.
    """
    places: dict[int, _Places] = defaultdict(_Places)
    process = processes(records)
    for record in records:
        mine = places[process.get(record.task, record.task)]
        if isinstance(record, PageFault):
            if not record.offset:
                mine.touch(record.address)
        elif isinstance(record, Executed):
            mine.leave()
        elif isinstance(record, Call) and record.result is not None:
            if record.name in _CLONES or record.name.startswith("execve"):
                mine.leave()
            elif record.name == "mmap" and len(record.args) > 3:
                mine.change(
                    record.result,
                    number(record.args[1]) or 0,
                    usable="WRITE" in record.args[2]
                    and "ANON" in record.args[3]
                    and not any(word in record.args[3] for word in _NO_PLACE),
                )
            elif record.name in _CHANGES and len(record.args) > 1:
                start, length = (number(arg) or 0 for arg in record.args[:2])
                gone = record.name in {"munmap", "mremap"}
                mine.change(start, length, usable=False if gone else None)
    for mine in places.values():
        mine.leave()
    return (
        sum(mine.once for mine in places.values()),
        sum(mine.more for mine in places.values()),
    )


class _Places:
    """Where one process could have huge pages."""

    def __init__(self) -> None:
        self.once = self.more = 0
        self._usable: list[tuple[int, int]] = []
        self._touched: dict[int, set[int]] = {}

    def touch(self, address: int) -> None:
        """Note a fault; the first of a block tells whether it is a place."""
        block = address // _HUGE
        pages = self._touched.get(block)
        if pages is None:
            at = bisect_right(self._usable, (block * _HUGE, 1 << 64)) - 1
            is_place = at >= 0 and (block + 1) * _HUGE <= self._usable[at][1]
            self._touched[block] = {address >> 12} if is_place else set()
        elif pages:
            pages.add(address >> 12)

    def change(self, start: int, length: int, *, usable: bool | None) -> None:
        """Note that a range changed: it is *usable* now, is not, or is as it was."""
        end = start + -(-length // 4096) * 4096
        blocks = range(start // _HUGE, -(-end // _HUGE))
        few = blocks if len(blocks) < len(self._touched) else list(self._touched)
        for block in few:
            if block in blocks and block in self._touched:
                self._settle(self._touched[block])
                if usable is None or block * _HUGE < start:
                    self._touched[block] = set()  # its table may still be there
                else:
                    del self._touched[block]
        if usable is None or start >= end:
            return
        kept: list[tuple[int, int]] = []
        for low, high in self._usable:
            if high < start or low > end:
                kept.append((low, high))
            elif usable:
                start, end = min(start, low), max(end, high)
            else:
                kept += [
                    part
                    for part in ((low, min(high, start)), (max(low, end), high))
                    if part[0] < part[1]
                ]
        if usable:
            kept.append((start, end))
        self._usable = sorted(kept)

    def leave(self) -> None:
        """Note that all pages go, or are shared."""
        for pages in self._touched.values():
            self._settle(pages)
        self._touched.clear()

    def _settle(self, pages: set[int]) -> None:
        self.once += len(pages) == 1
        self.more += len(pages) > 1
