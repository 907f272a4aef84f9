"""The small language in which a program is told to a real kernel and to the model.

A program is lines of words. The first word is who acts: the number of a process, with
``.cpu`` behind it for another of its threads; then comes a verb, and what it is about::

    0 mmap 0x2000000000 0x4000 rw private,fixed,anon
    0 write 0x2000000000 7 4
    0 fork 1
    1.2 madvise 0x2000000000 0x1000 dontneed

Process 0 is there at the beginning. Descriptors are kept in numbered slots, which a
child gets a copy of. ``README.md`` lists the verbs. What a line came to is a `Seen`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = 4096
HUGE = 2 << 20
GIB = 1 << 30
FIRST = 0x20_0000_0000
"""Where programs map things: what else a process has lies in other tables."""

GUARD = f"0 mmap {FIRST - GIB:#x} {PAGE:#x} none private,fixed,anon"
"""A mapping that keeps the upper tables there, as a program's own text does."""

SYSTEM = "-"
"""Who acts if a line sets something for the whole kernel."""


class Line(NamedTuple):
    """One line, taken apart."""

    who: int | None
    cpu: int | None
    verb: str
    words: tuple[str, ...]


def parse(text: str) -> Line:
    """Take a line apart.

    >>> parse("1.2 munmap 0x1000 0x1000")
    Line(who=1, cpu=2, verb='munmap', words=('0x1000', '0x1000'))
    """
    who, verb, *words = text.split()
    process, _, cpu = who.partition(".")
    return Line(
        None if process == SYSTEM else int(process),
        int(cpu) if cpu else None,
        verb,
        tuple(words),
    )


class Seen(NamedTuple):
    """What one line came to, on either side.

    Attributes:
        answer: What the call returned, the name of its errno, or the signal it met.
        faults: Page faults that the kernel resolved for the process.
        tlbi: TLBI instructions by name: how many, and how many pages they named; one
            that names a single page or a whole address space counts as one.
        ish: Completing barriers for all CPUs: DSB ISH that found a TLBI to complete.
        nsh: The same for this CPU alone.
        broadcasts: Times that a CPU interrupted the others; ``None`` if not counted.
    """

    answer: int | str
    faults: int
    tlbi: Mapping[str, tuple[int, int]]
    ish: int
    nsh: int
    broadcasts: int | None = None

    def text(self) -> str:
        """Give it as words.

        >>> Seen(0, 1, {"RVAE1IS": (1, 512)}, 1, 0).text()
        '0 f1 s1/0 RVAE1IS:1/512'
        """
        tlbi = "".join(f" {op}:{n}/{p}" for op, (n, p) in sorted(self.tlbi.items()))
        sent = "" if self.broadcasts is None else f" i{self.broadcasts}"
        return f"{self.answer} f{self.faults} s{self.ish}/{self.nsh}{tlbi}{sent}"

    @classmethod
    def parse(cls, text: str) -> Seen:
        """Read what `text` gave.

        >>> Seen.parse("EINVAL f0 s0/0").answer
        'EINVAL'
        """
        answer, faults, syncs, *operations = text.split()
        sent = None
        if operations and operations[-1].startswith("i"):
            sent = int(operations.pop()[1:])
        ish, nsh = syncs[1:].split("/")
        tlbi = {}
        for operation in operations:
            name, _, counted = operation.partition(":")
            times, pages = counted.split("/")
            tlbi[name] = (int(times), int(pages))
        return cls(
            int(answer) if answer.lstrip("-").isdigit() else answer,
            int(faults[1:]),
            tlbi,
            int(ish),
            int(nsh),
            sent,
        )
