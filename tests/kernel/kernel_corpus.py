"""Programs of chance with what real kernels answered, and the model held against them.

The corpus is one text file, compressed. A program is its seed and its lines; then each
kernel that played it says what each line came to::

    # 17
    0 mmap 0x2000000000 0x4000 rw private,fixed,anon
    = 6.17.13-range
    137438953472 f0 s0/0
"""

from __future__ import annotations

import lzma
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from kernel_model import Model, Window
from kernel_rows import excused
from kernel_text import Seen, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

CORPUS: Final = Path(__file__).parent / "measured" / "corpus.txt.xz"

FACETS: Final = ("answer", "faults", "tlbi", "barriers", "broadcasts")
"""What is compared of a line."""


@dataclass(slots=True)
class Recorded:
    """A program, and what kernels answered by their name."""

    seed: int
    lines: list[str]
    answers: dict[str, list[Seen]] = field(default_factory=dict)

    def text(self) -> str:
        """Give it as it stands in the file."""
        parts = [f"# {self.seed}", *self.lines]
        for kernel, answers in self.answers.items():
            parts += [f"= {kernel}", *(seen.text() for seen in answers)]
        return "\n".join(parts) + "\n"


def save(programs: Iterable[Recorded], path: Path = CORPUS) -> None:
    """Write a corpus."""
    text = "".join(program.text() for program in programs)
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def load(path: Path = CORPUS) -> list[Recorded]:
    """Read a corpus."""
    programs: list[Recorded] = []
    answers: list[Seen] | None = None
    for line in lzma.decompress(path.read_bytes()).decode().splitlines():
        if line.startswith("# "):
            programs.append(Recorded(int(line[2:]), []))
            answers = None
        elif line.startswith("= "):
            answers = programs[-1].answers[line[2:]] = []
        elif answers is None:
            programs[-1].lines.append(line)
        else:
            answers.append(Seen.parse(line))
    return programs


def play(lines: Sequence[str], kernel: str, cpu: str) -> Iterator[tuple[Seen, Window]]:
    """Play a program on the model, and yield what each line came to."""
    model = Model(kernel, cpu)
    for seen in model.play(lines):
        yield seen, model.last


class Difference(NamedTuple):
    """A line on which a real kernel and the model do not agree.

    Attributes:
        seed: Of the program.
        number: Of the line in it, from 0.
        line: Its text.
        facets: In what they differ, of `FACETS`.
        measured: What the kernel did.
        model: What the model did, as an emulator would show it.
    """

    seed: int
    number: int
    line: str
    facets: tuple[str, ...]
    measured: Seen
    model: Seen

    def __str__(self) -> str:
        """Show both."""
        return (
            f"program {self.seed} line {self.number} ({self.line}): measured "
            f"{self.measured.text()!r}, the model {self.model.text()!r}"
        )


def facets(line: str, measured: Seen, model: Seen) -> tuple[str, ...]:
    """Return in what two answers differ.

    Faults are compared of accesses: a kernel also counts those that a system call makes
    for the process.
    """
    accesses = parse(line).verb in {"read", "write"}
    differs = (
        measured.answer != model.answer,
        accesses and measured.faults != model.faults,
        measured.tlbi != model.tlbi,
        (measured.ish, measured.nsh) != (model.ish, model.nsh),
        measured.broadcasts is not None and measured.broadcasts != model.broadcasts,
    )
    return tuple(name for name, so in zip(FACETS, differs, strict=True) if so)


@dataclass(slots=True)
class Agreement:
    """How a kernel and the model agree over programs.

    Attributes:
        programs: How many were played.
        calls: How many lines they had.
        excused: How often each excuse was needed.
        differences: Where they differ.
    """

    programs: int = 0
    calls: int = 0
    excused: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def agree(self, facet: str) -> float:
        """Return the share of calls that agree in a facet."""
        differ = sum(facet in one.facets for one in self.differences)
        return 1 - differ / self.calls if self.calls else 1.0


def compare(
    programs: Iterable[Recorded], name: str, kernel: str, cpu: str
) -> Agreement:
    """Hold the model's *kernel* against what kernel *name* answered."""
    result = Agreement()
    for program in programs:
        measured = program.answers.get(name)
        if measured is None:
            continue
        result.programs += 1
        result.calls += len(program.lines)
        played = play(program.lines, kernel, cpu)
        for number, (right, (seen, window)) in enumerate(
            zip(measured, played, strict=True)
        ):
            line = program.lines[number]
            shown, names = excused(window, seen)
            result.excused.update(names)
            differs = facets(line, right, shown)
            if differs:
                result.differences.append(
                    Difference(program.seed, number, line, differs, right, shown)
                )
    return result


def firsts(differences: list[Difference]) -> list[Difference]:
    """Return the first difference of each program: the others may follow from it."""
    found: dict[int, Difference] = {}
    for difference in differences:
        found.setdefault(difference.seed, difference)
    return list(found.values())


class Open(NamedTuple):
    """A fault of the model that is known, and not mended.

    Attributes:
        name: What goes wrong.
        met: Tells whether a difference is this.
        most: The programs of one kernel in which it is the first.
    """

    name: str
    met: Callable[[Difference], bool]
    most: int


def verb(difference: Difference) -> str:
    """What the line does; of advice, which."""
    line = parse(difference.line)
    return line.words[-1] if line.verb == "madvise" else line.verb


OPEN = (
    Open(
        "a stale entry of private hugetlb is never dropped",
        lambda one: one.model.answer == "LIVELOCK",
        1,
    ),
    Open(
        "a page of a huge page that MADV_COLD has split is held by a batch",
        lambda one: verb(one) == "write" and set(one.model.tlbi) == {"VALE1"},
        1,
    ),
)
"""What the model does not do yet."""


def known(difference: Difference) -> Open | None:
    """Return the fault that makes a difference, if it is known."""
    return next((one for one in OPEN if one.met(difference)), None)
