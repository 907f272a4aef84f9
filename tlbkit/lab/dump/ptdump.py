"""The kernel's own dump of its page tables: what debugfs has as kernel_page_tables.

Neighbouring entries that say the same are one line: the addresses, how much that is, at
which level, and what the bits mean. Physical addresses are not in it, so it answers
what an access may do, and not where it goes::

    ---[ Linear Mapping start ]---
    0xffff000000000000-0xffff000000200000   2M PMD   RW NX SHD AF  BLK UXN MEM/NORMAL
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LEVELS: Final = ("PGD", "P4D", "PUD", "PMD", "PTE")
"""How tables are called, the highest first."""
_UNITS: Final = "KMGTPE"
_SECTION: Final = re.compile(r"---\[ (.*) \]---")
_RANGE: Final = re.compile(
    r"0x([0-9a-f]{1,16})-0x([0-9a-f]{1,16})\s+([0-9]{1,9})([KMGTPE])\s+(\S+)(.*)",
    re.IGNORECASE,
)
_FLAGS: Final = {
    "F": "not valid",
    "USR": "EL0 may use it",
    "ro": "read-only",
    "RW": "writable",
    "NX": "EL1 may not execute it",
    "x": "EL1 may execute it",
    "SHD": "shareable",
    "AF": "accessed",
    "NG": "not global",
    "CON": "contiguous",
    "BLK": "a block",
    "UXN": "EL0 may not execute it",
    "GP": "guarded",
}
_PAIRS: Final = (("ro", "RW"), ("NX", "x"))
_MEMORY: Final = re.compile(r"(?:DEVICE|MEM)/[\w-]+")
_NEVER: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class Run:
    """One line of a dump.

    Attributes:
        line: Its number, from 1.
        section: Under which heading it stands.
        start: The first address.
        end: The address behind the last.
        level: The table whose entries it tells of, by name.
        flags: What is said of them; nothing where nothing is mapped.
        memory: The memory type, as the kernel names it.
    """

    line: int
    section: str
    start: int
    end: int
    level: str
    flags: frozenset[str]
    memory: str

    @property
    def mapped(self) -> bool:
        """Whether an access finds an entry that is valid."""
        return bool(self.flags) and "F" not in self.flags

    def rights(self, el: int) -> str:
        """What EL0 or EL1 may do, as rwx; PAN and PSTATE aside."""
        if not self.mapped or (not el and "USR" not in self.flags):
            return "---"
        execute = ("x" in self.flags) if el else ("UXN" not in self.flags)
        return f"r{'w' if 'RW' in self.flags else '-'}{'x' if execute else '-'}"


@dataclass(frozen=True, slots=True)
class Ptdump:
    """A dump, by address.

    Attributes:
        name: Of the file.
        runs: Its lines, the lowest address first.
    """

    name: str
    runs: tuple[Run, ...]

    @classmethod
    def parse(cls, text: str, name: str) -> Ptdump:
        """Read a dump.

        Args:
            text: The dump; lines before the first heading or range, as a shell's
                prompt, are passed over.
            name: Of the file, for messages.

        Raises:
            InputError: A line is damaged, or it tells of what another has told; one
                line that says where and what.
        """
        runs = tuple(_runs(text, name))
        if not runs:
            raise InputError(f"{name}: no line of it is one of a page-table dump")
        for one, other in pairwise(runs):
            if other.start < one.end:
                raise InputError(
                    f"{name}, line {other.line}: {other.start:#x} was dumped in line "
                    f"{one.line} already; give one dump, in its order"
                )
        return cls(name, runs)

    def find(self, va: int) -> Run | None:
        """Return the line that tells of an address, ``None`` if none does."""
        place = bisect_right(self.runs, va, key=lambda run: run.start) - 1
        if place < 0 or va >= self.runs[place].end:
            return None
        return self.runs[place]

    def answer(self, va: int) -> dict[str, Any]:
        """Return what the dump says of an address, as JSON.

        ``fault`` if nothing is mapped, ``missing`` if no line tells of it; otherwise
        the rights of EL0 and EL1, the memory type and the flags. An entry that was not
        ``accessed`` faults unless hardware sets the access flag.
        """
        run = self.find(va)
        if run is None:
            return {"va": hex(va), "missing": "no line of the dump tells of it"}
        where = {"table": run.level, "line": run.line, "section": run.section}
        if not run.mapped:
            return {"va": hex(va), "fault": "translation", **where}
        found: dict[str, Any] = {
            "va": hex(va),
            "el0": run.rights(0),
            "el1": run.rights(1),
            "memory": run.memory,
            "global": "NG" not in run.flags,
            "contiguous": "CON" in run.flags,
            **where,
        }
        if "AF" not in run.flags:
            found["accessed"] = False
        return found

    def answers(self, vas: Sequence[int] = ()) -> list[dict[str, Any]]:
        """Return what the dump says of each address.

        Raises:
            InputError: There are none.
        """
        if not vas:
            raise InputError(
                f"{self.name}: a page-table dump answers for addresses; name some, as "
                f"in {self.runs[0].start:#x}"
            )
        return [self.answer(va) for va in vas]


def _runs(text: str, name: str) -> Iterator[Run]:
    """Yield the lines of a dump that tell of addresses."""
    section, begun = "", False
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        heading = _SECTION.fullmatch(stripped)
        if heading is not None:
            section, begun = heading[1], True
            continue
        read = _RANGE.fullmatch(stripped)
        if read is not None:
            begun = True
            yield _run(read, number, section, name)
        elif stripped and begun:
            raise InputError(
                f"{name}, line {number}: {stripped[:60]!r} is no line of a page-table "
                "dump; leave out what does not belong to it"
            )


def _run(read: re.Match[str], line: int, section: str, name: str) -> Run:
    """Return what one line says, or refuse it."""

    def wrong(what: str) -> InputError:
        return InputError(f"{name}, line {line}: {what}")

    start, end = int(read[1], 16), int(read[2], 16) or _NEVER
    if start >= end:
        raise wrong(f"the range from {start:#x} to {end:#x} is empty")
    size = int(read[3]) << 10 * (1 + _UNITS.index(read[4].upper()))
    if size != end - start:
        raise wrong(
            f"the range has {end - start:#x} bytes, the line says {read[3]}{read[4]}"
        )
    if read[5] not in LEVELS:
        raise wrong(f"{read[5][:20]!r} is no level; there are {', '.join(LEVELS)}")
    flags, memory = set[str](), ""
    for word in read[6].split():
        if _MEMORY.fullmatch(word) and not memory:
            memory = word
        elif word in _FLAGS and word not in flags:
            flags.add(word)
        else:
            raise wrong(
                f"{word[:20]!r} is no flag of arm64, or stands there twice; there are "
                f"{', '.join(_FLAGS)} and a memory type"
            )
    if flags and any((one in flags) == (other in flags) for one, other in _PAIRS):
        raise wrong("of ro and RW, and of NX and x, each line has one")
    return Run(line, section, start, end, read[5], frozenset(flags), memory)
