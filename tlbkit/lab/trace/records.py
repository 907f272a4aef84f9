"""What a trace tells, line by line, in one form for every tool that wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NO_NAMES: Final[Mapping[str, str]] = {}


def _no_names() -> Mapping[str, str]:
    """Return the one mapping of all calls whose arguments have no names."""
    return _NO_NAMES


class Where(NamedTuple):
    """A line of a file.

    Attributes:
        file: Its name as the caller gave it; ``-`` is standard input.
        line: From 1.
    """

    file: str
    line: int

    def __str__(self) -> str:
        """Name it as compilers do."""
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Record:
    """One thing that happened.

    Attributes:
        at: The line that tells it.
        task: The thread that did it; 0 where the file does not say.
        time: In seconds, on the clock of the file; ``None`` where it has none.
        cpu: On which CPU, if that was recorded.
    """

    at: Where
    task: int
    time: float | None = None
    cpu: int | None = None


@dataclass(slots=True)
class Call(Record):
    """A system call.

    Attributes:
        name: Such as ``mprotect``.
        args: Its arguments as they were printed, without the names that some tools
            put before them.
        named: The same by the name that was printed, where one was.
        result: What it returned; ``None`` where it did not return or that is not known.
        errno: The name of its error, if it failed.
    """

    name: str = ""
    args: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=_no_names)
    result: int | None = None
    errno: str = ""

    @property
    def failed(self) -> bool:
        """Whether it returned an error."""
        return bool(self.errno)


@dataclass(slots=True)
class PageFault(Record):
    """A page fault.

    Attributes:
        pid: The process, if that was recorded.
        address: What was accessed.
        ip: The instruction that did it; 0 if that was not recorded.
        symbol: The function of that instruction, if it was recorded.
        file: The file that is mapped at the address, as far as it was recorded; with
            *offset* the address is a place in it.
        offset: Whether *address* counts from the beginning of the file.
        comm: The name of the program, as the kernel has it.
    """

    pid: int | None = None
    comm: str = ""
    address: int = 0
    ip: int = 0
    symbol: str = ""
    file: str = ""
    offset: bool = False


@dataclass(slots=True)
class Mapped(Record):
    """A mapping that was made, by a system call or by execve itself.

    Attributes:
        pid: The process.
        start, length: In bytes.
        offset: Where in the file it begins, in bytes.
        rights: As ``r-xp``.
        name: The file, or a name in brackets or beginning with ``//anon``.
    """

    pid: int = 0
    start: int = 0
    length: int = 0
    offset: int = 0
    rights: str = ""
    name: str = ""


@dataclass(slots=True)
class Forked(Record):
    """A thread or process that began: *task* of process *pid*, by *parent*."""

    pid: int = 0
    parent: int = 0
    parent_pid: int = 0


@dataclass(slots=True)
class Executed(Record):
    """A process that began another program, called *comm*."""

    pid: int = 0
    comm: str = ""


@dataclass(slots=True)
class Ended(Record):
    """A thread that ended, by itself or by a signal."""


@dataclass(slots=True)
class Signalled(Record):
    """A signal for an access that was not allowed, to *address*."""

    address: int = 0


@dataclass(slots=True)
class MoveArguments(Record):
    """What an ``ioctl`` of userfaultfd was asked, as a kernel probe saw it."""

    cmd: int = 0
    dst: int = 0
    src: int = 0
    length: int = 0
    mode: int = 0


@dataclass(slots=True)
class Reading:
    """What was read of one file.

    Attributes:
        file: Its name.
        kind: What wrote it: ``strace``, ``perf script`` or ``perf trace``.
        records: In the order of the file.
        lines: How many it has.
        used: How many told something, blank lines and comments among them.
        unread: The lines that could not be read.
        notes: What a reader must know of it, a sentence each.
    """

    file: str
    kind: str
    records: list[Record] = field(default_factory=list)
    lines: int = 0
    used: int = 0
    unread: list[Where] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def used(readings: Sequence[Reading]) -> float:
    """Return which part of all lines was read; 0 if there are none."""
    lines = sum(reading.lines for reading in readings)
    return sum(reading.used for reading in readings) / lines if lines else 0.0
