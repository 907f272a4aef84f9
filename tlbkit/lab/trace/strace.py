"""What strace prints, in each of its ways to print it.

Read are ``-f`` with a thread's number, ``[pid N]`` of standard error, ``-ff`` with
the number in the file's name; ``-ttt``, ``-tt``, ``-t``, ``-r`` and no time; ``-T``,
``-y``, ``-yy``, ``-s``; calls that end on a later line, signals and ends.
"""

from __future__ import annotations

import re
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from tlbkit.lab.trace.records import Call, Ended, Reading, Signalled, Where
from tlbkit.lab.trace.words import number, split

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKED: Final = {".gz", ".xz", ".bz2", ".zst"}
_DAY: Final = 86_400.0
EPOCH: Final = 1e8
"""A time since the line before, or since the machine began, is never that large."""

_PREFIX: Final = re.compile(
    r"(?:\[pid +(?P<pid>\d+)\] +|(?P<task>\d+) +(?=\S))?"
    r"(?:(?P<clock>\d\d:\d\d:\d\d(?:\.\d+)?) +|(?P<time>\d+\.\d{3,}) +)?"
    r"(?:\(\+ *(?P<since>\d+\.\d+)\) +)?"
)
_CALL: Final = re.compile(r"(?P<name>[a-z_]\w*)\((?P<args>.*)\)\s*= (?P<result>.+)")
_UNFINISHED: Final = re.compile(
    r"(?P<name>[a-z_]\w*)\((?P<args>.*?),?\s*<unfinished .*"
)
_RESUMED: Final = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_END: Final = re.compile(r"\+\+\+ (?:exited|killed|superseded)\b.*")
_SIGNAL: Final = re.compile(r"--- .* ---")
_ACCESS: Final = re.compile(r"--- SIG(?:SEGV|BUS) .*\bsi_addr=(?P<address>0x[0-9a-f]+)")
_REMARK: Final = re.compile(r"strace: .*|#.*|\[ .*")
_RESULT: Final = re.compile(
    r"(?P<value>-?0x[0-9a-f]+|-?\d+|\?)(?:<[^>]*>)*(?: (?P<errno>E[A-Z0-9_]+))?"
)
_CLONES: Final = {"clone", "clone3", "fork", "vfork"}


class Strace:
    """Reads one file of strace, line by line."""

    def __init__(self, file: str) -> None:
        self.reading = Reading(file, "strace")
        name = PurePath(file)
        name = name.with_suffix("") if name.suffix in PACKED else name
        self._own = int(name.suffix[1:]) if name.suffix[1:].isdigit() else 0
        self._open: dict[tuple[int, str], list[Call]] = {}
        self._live: set[int] = {self._own}
        self._children: set[int] = set()
        self._clock = 0.0
        self._days = 0.0
        self._broken = ""
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def read(self, lines: Iterable[str]) -> Reading:
        """Read all *lines*."""
        for count, line in enumerate(lines, 1):
            self.reading.lines = count
            where = Where(self.reading.file, count)
            text = line.rstrip("\n\r")
            if self._line(where, text) or self._mend(where, text):
                self.reading.used += 1
            else:
                self.reading.unread.append(where)
        return self.reading

    def _mend(self, where: Where, line: str) -> bool:
        """Join a line that another one of strace's was printed into the middle of."""
        whole, self._broken = self._broken + line, line
        if whole == line or not self._line(where, whole):
            return False
        self._broken = ""
        self.reading.used += 1
        self.reading.unread.pop()
        return True

    def _line(self, where: Where, line: str) -> bool:
        """Read one line; false if it is none of strace's."""
        if not line.strip() or _REMARK.match(line):
            return True
        prefix = _PREFIX.match(line)
        assert prefix is not None  # it may be empty
        body = line[prefix.end() :]
        task = self._task(prefix["pid"] or prefix["task"])
        time = self._time(prefix["clock"], prefix["time"])
        if _SIGNAL.fullmatch(body):
            if access := _ACCESS.match(body):
                address = int(access["address"], 16)
                self.reading.records.append(
                    Signalled(where, task, time, address=address)
                )
            return True
        if _END.fullmatch(body):
            self._live.discard(task)
            self.reading.records.append(Ended(where, task, time))
            return True
        if resumed := _RESUMED.match(body):
            return self._resume(task, resumed["name"], resumed["rest"])
        if unfinished := _UNFINISHED.fullmatch(body):
            call = self._call(where, task, time, unfinished["name"], unfinished["args"])
            self._open.setdefault((task, call.name), []).append(call)
            return True
        if whole := _CALL.fullmatch(body):
            call = self._call(where, task, time, whole["name"], whole["args"])
            self._returned(call, whole["result"])
            return True
        return False

    def _task(self, text: str | None) -> int:
        """Return who a line is of: by its number, or the only one that is left."""
        if text is None:
            return next(iter(self._live)) if len(self._live) == 1 else self._own
        task = int(text)
        if not self._own and task not in self._children and 0 in self._live:
            # The first task has a name from here on, where it had none before.
            self._live.discard(0)
            self._own = task
            for record in self.reading.records:
                record.task = record.task or task
        self._live.add(task)
        return task

    def _time(self, clock: str | None, seconds: str | None) -> float | None:
        """Return when a line happened, in seconds that never go back."""
        if clock is not None:
            hours, minutes, rest = clock.split(":")
            now = int(hours) * 3600 + int(minutes) * 60 + float(rest) + self._days
            if now < self._clock - _DAY / 2:
                self._days += _DAY
                now += _DAY
            self._clock = now
            return now
        if seconds is None:
            return None
        value = float(seconds)
        if value >= EPOCH:
            return value
        self._clock += value
        return self._clock

    def _call(
        self, where: Where, task: int, time: float | None, name: str, args: str
    ) -> Call:
        """Note a call at the line where it was made."""
        call = Call(
            where, task, time, name=sys.intern(name), args=self._once(split(args))
        )
        self.reading.records.append(call)
        return call

    def _once(self, args: list[str]) -> tuple[str, ...]:
        """Return arguments as the one tuple that stands for all calls with them."""
        words = tuple(map(sys.intern, args))
        return self._known.setdefault(words, words)

    def _resume(self, task: int, name: str, rest: str) -> bool:
        """Give an unfinished call what came after."""
        waiting = self._open.get((task, name))
        if not waiting:
            return False
        call = waiting.pop()
        whole = _CALL.fullmatch(f"{name}({rest.lstrip(', ')}")
        if whole is None:
            return rest.rstrip().endswith("<unfinished ...>")
        call.args = self._once([*call.args, *split(whole["args"])])
        self._returned(call, whole["result"])
        return True

    def _returned(self, call: Call, text: str) -> None:
        """Note what a call returned."""
        found = _RESULT.match(text)
        if found is None or found["value"] == "?":
            return
        call.errno = found["errno"] or ""
        call.result = number(found["value"])
        if call.name in _CLONES and call.result and not call.errno:
            self._children.add(call.result)
            self._live.add(call.result)
