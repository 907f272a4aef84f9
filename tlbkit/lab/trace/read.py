"""From files to one trace: what wrote them, what packed them, whose clock counts."""

from __future__ import annotations

import bz2
import gzip
import io
import re
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tlbkit.errors import InputError
from tlbkit.lab.trace.perf import PerfScript, PerfTrace
from tlbkit.lab.trace.records import Call, PageFault, Reading
from tlbkit.lab.trace.strace import EPOCH, Strace
from tlbkit.lab.trace.words import number, path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tlbkit.lab.trace.records import Record

_LOOKED_AT: Final = 200  # lines, to tell what wrote a file
_LONGEST_LINE: Final = 1 << 16
_PAGE_SHIFT: Final = 12  # what matters is which touch is the first near an address
_MOST_PAGES: Final = 1 << 16
_NEAR: Final = 60.0  # seconds by which two files of one run may miss each other
_QUARTER_HOUR: Final = 900.0  # clocks of two zones differ by whole quarters of an hour

_PERF_TRACE: Final = re.compile(r"\s*(?:\d+\.\d+|\?) \(\s*(?:\d+\.\d+ ms)?\s*\): \S")
_PERF_SCRIPT: Final = re.compile(
    r"\s*\S.*?\s+-?\d+(?:/-?\d+)?\s+(?:\[\d+\]\s+)?(?:\S+ \S+\s+)?\d+\.\d+:\s+\S"
)
_STRACE: Final = re.compile(
    r"(?:\[pid +\d+\] +|\d+ +)?(?:[\d:.]+ +)?(?:[a-z_]\w*\(|<\.\.\. |\+\+\+ |--- )"
)


def lines_of(name: str) -> Iterator[str]:
    """Yield the lines of a file, unpacked if need be; ``-`` is standard input.

    What is no text of UTF-8 is kept as far as it is; a line that has no end is cut.

    Raises:
        InputError: The file cannot be read, or is not what its beginning says.
    """
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from None
    yield from text_lines(name, data)


def text_lines(name: str, data: bytes) -> Iterator[str]:
    """Yield the lines of what a file holds; see `lines_of`."""
    stream: Any = io.BytesIO(data)
    if data.startswith(b"\x1f\x8b"):
        stream = gzip.GzipFile(fileobj=stream)
    elif data.startswith(b"\xfd7zXZ\x00"):
        stream = _xz(name, stream)
    elif data.startswith(b"BZh"):
        stream = bz2.BZ2File(stream)
    elif data.startswith(b"\x28\xb5\x2f\xfd"):
        stream = _zstd(name, stream)
    text = io.TextIOWrapper(stream, "utf-8", errors="replace")
    try:
        while line := text.readline(_LONGEST_LINE):
            yield line
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{name}: it is packed, and damaged: {error}") from None
    except Exception as error:
        # The error of lzma is none of these, and some Pythons lack the module.
        if type(error).__name__ != "LZMAError":
            raise
        raise InputError(f"{name}: it is packed, and damaged: {error}") from None


def _xz(name: str, stream: Any) -> Any:
    """Unpack what a page's Python cannot."""
    try:
        return import_module("lzma").open(stream)
    except ImportError:
        raise InputError(
            f"{name}: it is packed by xz, which this Python cannot read; unpack it "
            "first: xz -d"
        ) from None


def _zstd(name: str, stream: Any) -> Any:
    """Unpack what only newer Pythons can."""
    try:
        zstd = import_module("compression.zstd")
    except ImportError:
        raise InputError(
            f"{name}: it is packed by zstd, which Python has from 3.14 on; unpack it "
            "first: zstd -d"
        ) from None
    return zstd.ZstdFile(stream)


def reading_of(name: str, lines: Iterator[str]) -> Reading:
    """Read one file by whatever wrote it.

    Raises:
        InputError: It is of none of the tools.
    """
    head: list[str] = []
    for line in lines:
        head.append(line)
        if len(head) == _LOOKED_AT:
            break
    votes: dict[type[PerfTrace | PerfScript | Strace], int] = {
        PerfTrace: sum(bool(_PERF_TRACE.match(line)) for line in head),
        PerfScript: sum(bool(_PERF_SCRIPT.match(line)) for line in head),
        Strace: sum(bool(_STRACE.match(line)) for line in head),
    }
    reader = max(votes, key=lambda kind: votes[kind])
    if not votes[reader]:
        raise InputError(
            f"{name}: none of its first {len(head)} lines is of strace, perf script or "
            "perf trace"
        )

    def whole() -> Iterator[str]:
        yield from head
        yield from lines

    return reader(name).read(whole())


def merged(readings: Sequence[Reading]) -> tuple[list[Record], list[str]]:
    """Bring the records of several files into one order.

    Returns:
        The records, and a sentence for each clock that had to be set.
    """
    notes: list[str] = []
    first, *others = readings
    timed = [reading for reading in readings if _span(reading)]
    if len(readings) == 1:
        return list(first.records), notes
    if len(timed) < len(readings):
        without = [one.file for one in readings if one not in timed]
        notes.append(
            f"{', '.join(without)} has no times, so its records come before the others"
        )
    notes.extend(filter(None, (_set_clock(first, other) for other in others)))
    for reading in readings:
        _fill_times(reading)
    every = [record for reading in readings for record in reading.records]
    every.sort(key=lambda record: record.time or 0.0)
    return every, notes


def _span(reading: Reading) -> tuple[float, float] | None:
    """Return when a file begins and ends on its own clock."""
    times = [record.time for record in reading.records if record.time is not None]
    return (min(times), max(times)) if times else None


def _fill_times(reading: Reading) -> None:
    """Give a record without a time that of the one before it."""
    last = 0.0
    for record in reading.records:
        if record.time is None:
            record.time = last
        last = record.time


def _set_clock(first: Reading, other: Reading) -> str:
    """Set the clock of one file by that of another; return what was done, if anything.

    Two clocks that count from different moments are set by the moment at which the
    program begins, which both files tell.
    """
    one, two = _span(first), _span(other)
    if one is None or two is None:
        return ""
    near = _NEAR if min(one[0], two[0]) > EPOCH else 0.0
    if two[0] <= one[1] + near and one[0] <= two[1] + near:
        return ""
    shift = round((one[0] - two[0]) / _QUARTER_HOUR) * _QUARTER_HOUR
    if (
        two[0] + shift <= one[1]
        and one[0] <= two[1] + shift
        and min(one[0], two[0]) > EPOCH
    ):
        why = "its clock shows another time zone"
    else:
        found = _shift_of_first_touches(first, other)
        if found is None:
            return (
                f"{other.file}: its clock is not that of {first.file}, and nothing "
                "tells how they belong together; record both with: perf record -k "
                "CLOCK_REALTIME, strace -ttt"
            )
        shift = found
        why = "its clock was set so that no page is touched before it is mapped"
    for record in other.records:
        if record.time is not None:
            record.time += shift
    return f"{other.file}: {why} ({shift:+.6f} s)"


def _shift_of_first_touches(calls: Reading, faults: Reading) -> float | None:
    """Return by how much the clock of faults is behind that of calls.

    The program begins with its exec, and touches new memory soon after it was mapped,
    but never before. So the least shift that keeps each first touch behind its mapping
    is at most a moment too small.
    """
    begin = next(
        (
            record
            for record in calls.records
            if isinstance(record, Call)
            and record.name.startswith("execve")
            and record.result == 0
        ),
        None,
    )
    if begin is None or begin.time is None:
        return None
    comm = path(begin.args[0]).rpartition("/")[2][:15] if begin.args else ""
    touched = [
        record
        for record in faults.records
        if isinstance(record, PageFault) and record.time is not None
    ]
    own = [
        record
        for record in touched
        if record.task == begin.task and record.comm == comm
    ] or [record for record in touched if record.task == begin.task]
    if not own or own[0].time is None:
        return None
    bounds = [begin.time - own[0].time]
    firsts: dict[int, float] = {}
    for record in own:
        assert record.time is not None
        firsts.setdefault(record.address >> _PAGE_SHIFT, record.time)
    taken: set[int] = set()
    for call in calls.records:
        if not isinstance(call, Call) or call.name != "mmap" or call.result is None:
            continue
        length = number(call.args[1]) or 0 if len(call.args) > 1 else 0
        first = call.result >> _PAGE_SHIFT
        pages = range(first, first + min(length >> _PAGE_SHIFT, _MOST_PAGES))
        if call.failed or call.time is None or not taken.isdisjoint(pages):
            taken.update(pages)
            continue
        taken.update(pages)
        times = [firsts[page] for page in pages if page in firsts]
        if times:
            bounds.append(call.time - min(times))
    return max(bounds) + _quickest(calls, begin.task) / 2


def _quickest(calls: Reading, task: int) -> float:
    """Return how soon a task makes one call after another, in seconds.

    A call is told when it begins, and memory is touched when it has ended.
    """
    times = [
        record.time
        for record in calls.records
        if record.task == task and isinstance(record, Call) and record.time is not None
    ]
    gaps = sorted(later - time for time, later in pairwise(times) if later > time)
    return gaps[len(gaps) // 10] if gaps else 0.0
