"""A herd7 test that has been read, ready to be run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from tlbkit.arm64.ordering import INVALID, Entry, Program, Table, Tlbi
from tlbkit.arm64.ordering.program import MAX_THREADS
from tlbkit.errors import InputError
from tlbkit.explore.herd.assembly import Listing, all_labels, listings
from tlbkit.explore.herd.condition import Equal, Fault, Question, atoms, parse_question
from tlbkit.explore.herd.paths import paths
from tlbkit.explore.herd.state import Initial, hardware_of, user_threads
from tlbkit.explore.herd.text import Parts, PlacedError, cut, shown
from tlbkit.explore.herd.values import MissingError, Word, page_of_table
from tlbkit.explore.herd.ways import Pages, Path

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARIANTS = frozenset(
    {"vmsa", "kvm", "fatal", "precise", "handled", "imprecise", "ets2"}
)
"""The variants that are read; a fault ends its thread unless it is `handled`."""

MAX_PROGRAMS = 5000
"""The most combinations of the ways that the threads can go."""


@dataclass(frozen=True, slots=True)
class HerdTest:
    """A test of herd7.

    Attributes:
        name: The name on its first line.
        source: The file that it comes from.
        listings: The instructions of each thread.
        paths: The ways that each thread can go.
        locations: The locations with their first words.
        pages: What is known of their entries.
        question: What it asks.
        ets2: Whether it asks for FEAT_ETS2 itself.
    """

    name: str
    source: str
    listings: tuple[Listing, ...]
    paths: tuple[tuple[Path, ...], ...]
    locations: tuple[tuple[str, Word], ...]
    pages: Pages
    question: Question
    ets2: bool = False

    def ways(self) -> Iterator[tuple[Path, ...]]:
        """Yield every combination of the ways of the threads."""
        return product(*self.paths)

    def program(self, ways: tuple[Path, ...]) -> Program:
        """Return the program in which each thread goes one way."""
        tables = {page_of_table(page): INVALID for page in self.pages.first}
        named = {
            step.page for way in ways for step in way.steps if isinstance(step, Tlbi)
        }
        first = {page: entry for page, entry in tables.items() if page in named}
        return Program(
            tuple(way.steps for way in ways),
            (*self.pages.first.items(), *first.items()),
            self.locations,  # type: ignore[arg-type]
            by_cpu=self.pages.hardware,
        )


_ARCHITECTURES = (
    *("AArch64", "ARM", "ASL", "BPF", "C", "CPP", "JAVA", "LISA", "MIPS", "PPC"),
    *("RISCV", "X86", "X86_64"),
)
"""What the first word of a test of herd7 can be."""


def is_herd(text: str) -> bool:
    """Tell whether a text is a test of herd7, and not of the package's own form."""
    start = text.lstrip()
    return start.startswith("(*") or start.split(None, 1)[:1] in (
        [word] for word in _ARCHITECTURES
    )


def load_herd(text: str, source: str = "litmus") -> HerdTest:
    """Read a test of herd7.

    Args:
        text: What the file says.
        source: The name of the file, for messages.

    Raises:
        InputError: It is not well formed; the message says where and what.
        MissingError: It needs what the reader or the model does not have; the message
            says what.
    """
    try:
        return _load(cut(text), source)
    except PlacedError as error:
        raise InputError(f"{source}:{error.line}: {error}") from error
    except MissingError as error:
        line = max(error.line, 1)
        raise MissingError(f"{source}:{line}: {error}", line) from error


def _load(parts: Parts, source: str) -> HerdTest:
    listed = listings(parts)
    if len(listed) > MAX_THREADS:
        raise MissingError(f"{len(listed)} threads; the model has {MAX_THREADS}")
    variants = _variants(parts)
    initial = Initial(all_labels(listed))
    for item in parts.initial:
        try:
            initial.read(item)
        except MissingError as error:
            raise MissingError(str(error), item.line) from error
    for (thread, register), word in initial.registers.items():
        del register
        if thread >= len(listed):
            raise PlacedError(
                parts.initial[0].line, f"the initial state speaks of a thread P{thread}"
            )
        del word
    question = parse_question(parts.question, initial)
    _check_question(question, len(listed), parts)
    first = {page: initial.entry_of(page) for page in initial.locations}
    hardware = hardware_of(parts.options.get("tthm"), len(listed))
    touched, stored = _stored(initial, listed)
    pages = Pages(
        first,
        touched,
        stored,
        hardware,
        again=bool(variants & {"handled", "imprecise"}),
        user=user_threads(parts.options.get("el0"), len(listed)),
    )
    found = []
    for number, listing in enumerate(listed):
        found.append(tuple(paths(number, listing, initial, pages)))
    count = 1
    for ways in found:
        count *= len(ways)
    if count > MAX_PROGRAMS:
        raise MissingError(
            f"its threads can go {count:,} ways; {MAX_PROGRAMS:,} are tried"
        )
    return HerdTest(
        parts.name,
        source,
        tuple(listed),
        tuple(found),
        tuple((name, initial.data.get(name, 0)) for name in initial.locations),
        pages,
        question,
        "ets2" in variants,
    )


def _variants(parts: Parts) -> set[str]:
    option = parts.options.get("variant")
    words = {
        word.lower()
        for word in (option.text if option else "").replace(",", " ").split()
    }
    if unknown := sorted(words - _VARIANTS):
        raise MissingError(f"the variant {shown(unknown[0])}")
    return words


def _stored(
    initial: Initial, listed: list[Listing]
) -> tuple[frozenset[str], frozenset[Entry] | None]:
    """Return the pages whose entry may change, and what may be stored there.

    An entry can only be stored to by way of its address, and that is in the initial
    state or nowhere.
    """
    words = [*initial.registers.values(), *initial.data.values()]
    touched = frozenset(word.page for word in words if isinstance(word, Table))
    computing = ("ORR", "AND", "BIC", "EOR", "LDSET", "LDCLR", "LDEOR", "LDADD", "ST")
    computes = any(
        line.name.startswith(computing) and line.name not in ("STR", "STLR", "STXR")
        for listing in listed
        for line in listing.lines
    )
    entries = frozenset(word for word in words if isinstance(word, Entry))
    firsts = frozenset(initial.entry_of(page) for page in initial.locations)
    return touched, None if computes else entries | firsts


def _check_question(question: Question, threads: int, parts: Parts) -> None:
    for atom in (*atoms(question.proposition), *atoms(question.filter)):
        match atom:
            case Equal(left=(thread, _)) | Fault(thread=thread) if thread >= threads:
                raise PlacedError(
                    parts.question.line, f"question: there is no thread P{thread}"
                )
