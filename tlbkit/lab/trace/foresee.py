"""What later lines tell of earlier ones: which faults read, what MOVE was asked.

A trace does not say whether a fault was a read or a write. But a second fault on a page
that was there already is a write, and then the first one was a read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final

from tlbkit.lab.trace.records import (
    Call,
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
_HUGE: Final = 2 << 20
STACK: Final = "[stack]"


class Foresight:
    """Looks over a whole trace once, before it is replayed.

    Args:
        records: In their order.
        page_size: In bytes.

    Attributes:
        reads: The places of faults that were reads, since a write followed.
        refused: The places of faults that ended in a signal, and mapped nothing.
        moves: Task -> the arguments of its UFFDIO_MOVE, in order.
        process: Task -> its process.
        stack_top: End of the highest page of a stack that is touched, where no record
            tells of stacks.
        attached: Task -> the lengths of the memory that its shmat mapped, by start.
    """

    def __init__(self, records: Sequence[Record], page_size: int) -> None:
        self.reads: set[int] = set()
        self.refused: set[int] = set()
        self.stack_top = 0
        self.attached: dict[tuple[int, int], int] = {}
        self._last: dict[int, tuple[int, int, int | None]] = {}
        self.moves: dict[int, deque[MoveArguments]] = defaultdict(deque)
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
            if record.file == STACK:
                self.stack_top = max(self.stack_top, page - self._mask)
        elif isinstance(record, Signalled):
            self._refuse(record, waiting)
        elif isinstance(record, Mapped):
            if record.name.startswith("/SYSV"):
                self.attached[record.task, record.start] = record.length
        elif isinstance(record, MoveArguments):
            if record.cmd == UFFDIO_MOVE:
                self.moves[record.task].append(record)
        elif isinstance(record, Call):
            self._change(record, waiting)
        elif isinstance(record, Executed | Forked):
            waiting.clear()

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
