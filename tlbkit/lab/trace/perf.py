"""What ``perf script`` and ``perf trace`` print of page faults and system calls."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tlbkit.lab.trace.records import (
    Call,
    Ended,
    Executed,
    Forked,
    Mapped,
    MoveArguments,
    PageFault,
    Reading,
    Record,
    Where,
)
from tlbkit.lab.trace.words import number, split

if TYPE_CHECKING:
    from collections.abc import Iterable

NO_ADDRESS: Final = (
    "this perf script has no addresses of the faults; print it again with: "
    "perf script -F +addr"
)

_HEAD: Final = re.compile(
    r"\s*(?P<comm>\S.*?)\s+(?P<pid>-?\d+)(?:/(?P<tid>\d+))?\s+"
    r"(?:\[(?P<cpu>\d+)\]\s+)?"
    r"(?:(?P<date>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+)\s+)?"
    r"(?:(?P<time>\d+\.\d+):\s+)"
    r"(?:(?P<period>\d+)\s+)?"
    r"(?P<what>PERF_RECORD_\w+|[\w-]+(?::[\w-]+)*)(?P<rest>.*)"
)
_ADDRESS: Final = re.compile(r"(?:^|\s)([0-9a-f]{3,16})(?=\s|$)")
_MMAP: Final = re.compile(
    r" (?P<pid>-?\d+)/(?P<tid>\d+): \[(?P<start>0x[0-9a-f]+)\((?P<length>0x[0-9a-f]+)\)"
    r" @ (?P<offset>0x[0-9a-f]+|0)(?: [0-9a-f:]+ \d+ \d+)?\]:"
    r" (?P<rights>\S+) (?P<name>.*)"
)
_PAIR: Final = re.compile(
    r"\((?P<pid>\d+):(?P<tid>\d+)\):\((?P<ppid>\d+):(?P<ptid>\d+)\)"
)
_COMM: Final = re.compile(r"(?P<exec> exec)?: (?P<comm>.+):(?P<pid>\d+)/(?P<tid>\d+)")
_PROBED: Final = re.compile(r"(\w+)=(0x[0-9a-f]+|\d+)")
_FAULTS: Final = ("page-faults", "minor-faults", "major-faults", "faults")


class PerfScript:
    """Reads one file of ``perf script``."""

    def __init__(self, file: str) -> None:
        self.reading = Reading(file, "perf script")
        self.without_address = 0

    def read(self, lines: Iterable[str]) -> Reading:
        """Read all *lines*."""
        reading = self.reading
        for count, line in enumerate(lines, 1):
            reading.lines = count
            text = line.rstrip()
            if not text or text.startswith("#"):
                reading.used += 1
                continue
            where = Where(reading.file, count)
            head = _HEAD.fullmatch(text)
            if head is None:
                reading.unread.append(where)
                continue
            reading.used += 1
            record = self._record(where, head)
            if record is not None:
                reading.records.append(record)
        if self.without_address and not any(
            isinstance(record, PageFault) for record in reading.records
        ):
            reading.notes.append(f"{reading.file}: {NO_ADDRESS}")
        return reading

    def _record(self, where: Where, head: re.Match[str]) -> Record | None:
        """Return what a line tells, if a replay can use it."""
        pid = int(head["pid"])
        task = int(head["tid"] or pid)
        time = _instant(head["date"]) if head["date"] else float(head["time"])
        cpu = int(head["cpu"]) if head["cpu"] else None
        what, rest = head["what"], head["rest"]
        if what.startswith("PERF_RECORD_"):
            return _side_band(where, time, cpu, what, rest)
        if what.split(":")[0] in _FAULTS:
            own = pid if head["tid"] else None
            comm = sys.intern(head["comm"])
            fault = PageFault(where, task, time, cpu, pid=own, comm=comm)
            return self._fault(fault, rest, period=bool(head["period"]))
        if "cmd=" in rest and "dst=" in rest:
            asked = {name: int(value, 0) for name, value in _PROBED.findall(rest)}
            return MoveArguments(
                where,
                task,
                time,
                cpu,
                cmd=asked.get("cmd", 0),
                dst=asked.get("dst", 0),
                src=asked.get("src", 0),
                length=asked.get("len", 0),
                mode=asked.get("mode", 0),
            )
        return None

    def _fault(self, fault: PageFault, rest: str, *, period: bool) -> PageFault | None:
        """Read what was accessed by a fault, and by which instruction."""
        found = list(_ADDRESS.finditer(rest))
        if len(found) < (2 if period else 1):
            self.without_address += 1
            return None
        fault.address = int(found[0][1], 16)
        middle = rest[found[0].end() : found[1].start() if len(found) > 1 else None]
        dso = re.search(r"\(([^()]+)\)\s*$", middle)
        fault.file = sys.intern(dso[1]) if dso else ""
        if len(found) > 1:
            fault.ip = int(found[1][1], 16)
            words = rest[found[1].end() :].split()
            fault.symbol = sys.intern(words[0].partition("+")[0]) if words else ""
        return fault


def _instant(date: str) -> float:
    """Return a date and time of day as seconds; its zone does not matter here."""
    whole, _, part = date.partition(".")
    start = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    return start.timestamp() + float(f"0.{part}")


def _side_band(
    where: Where, time: float, cpu: int | None, what: str, rest: str
) -> Record | None:
    """Return what a record of perf's own tells: a mapping, a fork, an exec, an end."""
    kind = what.removeprefix("PERF_RECORD_")
    if kind in {"MMAP", "MMAP2"} and (found := _MMAP.fullmatch(rest)):
        if int(found["pid"]) < 0:
            return None
        return Mapped(
            where,
            int(found["tid"]),
            time,
            cpu,
            pid=int(found["pid"]),
            start=int(found["start"], 16),
            length=int(found["length"], 16),
            offset=int(found["offset"], 16),
            rights=found["rights"],
            name=found["name"],
        )
    if kind == "COMM" and (found := _COMM.fullmatch(rest)):
        if not found["exec"]:
            return None
        pid, tid = int(found["pid"]), int(found["tid"])
        return Executed(where, tid, time, cpu, pid=pid, comm=found["comm"])
    if kind in {"FORK", "EXIT"} and (found := _PAIR.fullmatch(rest)):
        task = int(found["tid"])
        if kind == "EXIT":
            return Ended(where, task, time, cpu)
        return Forked(
            where,
            task,
            time,
            cpu,
            pid=int(found["pid"]),
            parent=int(found["ptid"]),
            parent_pid=int(found["ppid"]),
        )
    return None


_TRACE: Final = re.compile(
    r"\s*(?P<time>\d+\.\d+|\?) \(\s*(?:(?P<took>\d+\.\d+) ms)?\s*\): "
    r"(?:(?P<comm>.+?)/(?P<tid>\d+) )(?P<rest>.*)"
)
_TRACE_FAULT: Final = re.compile(
    r"(?P<kind>min|maj)fault \[(?P<ip>[^\]]*)\] => (?P<place>.*?)@?(?P<at>0x[0-9a-f]+)"
    r" \((?P<map>\S*)\)"
)
_CONTINUED: Final = re.compile(r"\.\.\. \[continued\]: execve(?:at)?\(\)\)\s*= 0")
_TRACE_CALL: Final = re.compile(
    r"(?P<name>\w+)\((?P<args>.*)\)\s*= (?P<value>-?0x[0-9a-f]+|-?\d+)"
    r"(?: (?P<errno>E[A-Z0-9_]+))?.*"
)


class PerfTrace:
    """Reads one file of ``perf trace -F all``, with system calls or without."""

    def __init__(self, file: str) -> None:
        self.reading = Reading(file, "perf trace")

    def read(self, lines: Iterable[str]) -> Reading:
        """Read all *lines*."""
        reading = self.reading
        for count, line in enumerate(lines, 1):
            reading.lines = count
            text = line.rstrip()
            if not text or text.startswith("#"):
                reading.used += 1
                continue
            where = Where(reading.file, count)
            head = _TRACE.fullmatch(text)
            if head is None or not self._tell(where, head):
                reading.unread.append(where)
            else:
                reading.used += 1
        return reading

    def _tell(self, where: Where, head: re.Match[str]) -> bool:
        """Note what a line tells; false if it cannot be read."""
        task = int(head["tid"])
        time = None if head["time"] == "?" else float(head["time"]) / 1000
        rest = head["rest"].strip()
        if fault := _TRACE_FAULT.match(rest):
            place = fault["place"]
            file = "" if place.startswith("//anon") else place
            self.reading.records.append(
                PageFault(
                    where,
                    task,
                    time,
                    address=int(fault["at"], 16),
                    symbol=fault["ip"].partition("+")[0],
                    file=file,
                    offset=file.startswith("/"),
                )
            )
            return True
        if _CONTINUED.match(rest):
            self.reading.records.append(
                Call(where, task, time, name="execve", args=(), result=0)
            )
            return True
        if call := _TRACE_CALL.fullmatch(rest):
            named, args = {}, []
            for part in split(call["args"]):
                name, colon, value = part.partition(": ")
                if colon:
                    named[name] = value
                args.append(value if colon else part)
            self.reading.records.append(
                Call(
                    where,
                    task,
                    time,
                    name=call["name"],
                    args=tuple(args),
                    named=named,
                    result=number(call["value"]),
                    errno=call["errno"] or "",
                )
            )
            return True
        return rest.startswith("...") or "(" in rest
