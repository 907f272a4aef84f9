"""What later lines tell of earlier ones: which faults read, what MOVE was asked.

A trace does not say whether a fault was a read or a write. But a second fault on a page
that was there already is a write, and then the first one was a read.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final

from tlbkit.lab.trace.records import Call, Executed, Forked, MoveArguments, PageFault
from tlbkit.lab.trace.words import number

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


class Foresight:
    """Looks over a whole trace once, before it is replayed.

    Args:
        records: In their order.
        page_size: In bytes.

    Attributes:
        reads: The places of faults that were reads, since a write followed.
        moves: Task -> the arguments of its UFFDIO_MOVE, in order.
        process: Task -> its process.
    """

    def __init__(self, records: Sequence[Record], page_size: int) -> None:
        self.reads: set[int] = set()
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
        elif isinstance(record, MoveArguments):
            if record.cmd == UFFDIO_MOVE:
                self.moves[record.task].append(record)
        elif isinstance(record, Call):
            self._change(record, waiting)
        elif isinstance(record, Executed | Forked):
            waiting.clear()

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
