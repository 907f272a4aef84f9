"""What a TLB holds, and how much a program gets from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import MODELS, NEOVERSE_V2, TlbGeometry, find_model
from tlbkit.arm64.permission import EL0_READ
from tlbkit.lab.answer import Answer
from tlbkit.lab.bare import USER_PAGE, start
from tlbkit.lab.exploration import Exploration, line, menu
from tlbkit.lab.free_text import numbers
from tlbkit.lab.parameter import Parameter
from tlbkit.lab.reuse import FIRST_USE, miss_ratios, stack_distances

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tlbkit.arm64.cpu import Cpu
    from tlbkit.arm64.events import Event
    from tlbkit.lab.parameter import Value

PAGE_SHIFT = 12
SEED = 1
ACCESSES = 12_000
"""Length of the traces."""

PAGES = tuple(1 << n for n in range(4, 15))

SIZES = tuple(1 << n for n in range(13))
"""Sizes of TLB for which misses are drawn."""


class Lru(Exploration):
    """One small TLB that is fully associative, access by access.

    Columns: ``page``, ``hit`` and ``distance`` of each access.
    """

    name = "lru"
    title = "A TLB of a few entries, access by access"
    parameters = (
        line("pages", "pages used, in order", "1 2 3 1 4 1 5 2 3 4"),
        Parameter("entries", "entries of the TLB", "", 3, tuple(range(1, 9))),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Make the accesses; errors as in `Exploration`."""
        settings = self.settings(params)
        pages = numbers("pages", settings["pages"], most=40, bits=20)
        entries = int(settings["entries"])
        cpu = _small(entries, set(pages))
        distances = stack_distances(pages)
        rows, hits = [], []
        for used, far in zip(pages, distances, strict=True):
            refills = cpu.tlb.l1d.refills
            cpu.translate(used << PAGE_SHIFT, EL0_READ)
            hit = cpu.tlb.l1d.refills == refills
            hits.append(int(hit))
            held = " ".join(str(entry.va >> PAGE_SHIFT) for entry in cpu.tlb.l1d)
            rows.append(
                [
                    str(used),
                    "first use" if far == FIRST_USE else str(far),
                    "hit" if hit else "miss",
                    held,
                ]
            )
        return Answer(
            columns={"page": [*pages], "hit": [*hits], "distance": [*distances]},
            header=["page", "distance", "so", "held, oldest use first"],
            rows=rows,
            text=(
                f"{sum(hits)} of {len(pages)} accesses hit: those whose distance is "
                f"less than {entries}."
            ),
        )


def _small(entries: int, pages: set[int]) -> Cpu:
    """A CPU whose only TLB has so many entries, and some pages mapped."""
    geometry = TlbGeometry(1, entries, frozenset({PAGE_SHIFT}))
    # A main TLB that no page fits into is none.
    none = TlbGeometry(1, 1, frozenset({30}))
    machine = Machine(1, replace(NEOVERSE_V2, l1d=geometry, l2=none))
    tables = start(machine)
    for page in pages:
        tables.map(page << PAGE_SHIFT, page << PAGE_SHIFT)
    return machine.cpu(0)


class Way(NamedTuple):
    """How memory is mapped.

    Attributes:
        shift: log2 of the bytes that one entry of a TLB covers.
        level: Where the descriptors stand.
        attributes: Of each.
    """

    shift: int
    level: int
    attributes: int


MAPPED = {
    "4 KiB pages": Way(12, 3, USER_PAGE),
    "64 KiB groups": Way(16, 3, USER_PAGE | d.CONTIGUOUS),
    "2 MiB blocks": Way(21, 2, USER_PAGE),
}
"""Ways to map the same memory with the 4 KiB granule."""

LINES_A_PAGE = 64
PATTERNS = ("skewed", "random", "page after page", "line after line")
FIRST = 0x10_0000_0000
"""Where the program's memory begins, virtual and physical."""


def trace(pattern: str, pages: int, accesses: int = ACCESSES) -> list[int]:
    """The pages that a program uses, in order.

    Args:
        pattern: One of `PATTERNS`. *skewed*: the n-th favourite page is used in
            proportion to 1/n. *random*: all alike. *page after page*: one access to
            each, over and over. *line after line*: the same with 64 to each.
        pages: How many pages it has.
        accesses: How many it makes.

    >>> trace("page after page", 3, 5)
    [0, 1, 2, 0, 1]
    """
    chance = Random(SEED)
    match pattern:
        case "skewed":
            favourites = chance.sample(range(pages), pages)
            weights = [1 / n for n in range(1, pages + 1)]
            return chance.choices(favourites, weights, k=accesses)
        case "random":
            return [chance.randrange(pages) for _ in range(accesses)]
        case "page after page":
            return [n % pages for n in range(accesses)]
        case _:
            return [n // LINES_A_PAGE % pages for n in range(accesses)]


@dataclass(slots=True)
class Use:
    """What a program got from the TLBs of one CPU.

    Attributes:
        accesses: How many it made.
        l1_misses: Those that the micro-TLB for data could not answer.
        walks: Those that no TLB could answer.
        reads: Words of tables that the walks read.
    """

    accesses: int = 0
    l1_misses: int = 0
    walks: int = 0
    reads: int = 0

    @property
    def l1_hits(self) -> int:
        """Accesses that the micro-TLB answered."""
        return self.accesses - self.l1_misses

    @property
    def l2_hits(self) -> int:
        """Accesses that the main TLB answered."""
        return self.l1_misses - self.walks


def use(pages: Sequence[int], mapped: Way, cpu: str) -> Use:
    """Run a trace through the TLBs of a machine.

    Args:
        pages: The pages used, in order.
        mapped: How they are mapped.
        cpu: Name of a CPU model.
    """
    machine = Machine(1, cpu)
    tables = start(machine)
    # A group or a block is mapped as a whole, or it is none.
    whole = 1 << (mapped.shift - PAGE_SHIFT)
    for unit in {page // whole for page in pages}:
        first = FIRST + (unit << mapped.shift)
        step = tables.granule.shift(mapped.level)
        for va in range(first, first + (1 << mapped.shift), 1 << step):
            tables.map(va, va, mapped.attributes, mapped.level)
    used = Use(accesses=len(pages))
    start_level = tables.granule.start_level(tables.va_bits)

    def walked(event: Event) -> None:
        used.walks += 1
        begun = start_level if event.old is None else event.old.level
        used.reads += event.new.leaf.level - begun + 1

    machine.events.listen(walked, {"walk"})
    user = machine.cpu(0)
    for page in pages:
        user.translate(FIRST + (page << PAGE_SHIFT), EL0_READ)
    used.l1_misses = user.tlb.l1d.refills
    return used


@lru_cache(maxsize=8)
def misses(pattern: str, pages: int) -> dict[str, list[float]]:
    """For each way of mapping, the misses in percent of a TLB of each of `SIZES`."""
    used = trace(pattern, pages)
    return {
        name: [
            100 * ratio
            for ratio in miss_ratios(
                stack_distances([n >> mapped.shift - PAGE_SHIFT for n in used]), SIZES
            )
        ]
        for name, mapped in MAPPED.items()
    }


def size(count: int) -> str:
    """Write a number of bytes.

    >>> size(48 << 12), size(2048 << 12), size(48 << 21)
    ('192 KiB', '8 MiB', '96 MiB')
    """
    for unit in ("bytes", "KiB", "MiB"):
        if count % 1024 or not count:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} GiB"


CPUS = tuple(m.name for m in MODELS.values() if m.page_shift == PAGE_SHIFT)
"""The models whose pages are those of the traces."""


class Reach(Exploration):
    """A program, the pages it uses, and the TLBs of a CPU.

    Columns: ``size`` and, for each way of mapping, ``4 KiB pages`` and so on are the
    misses in percent over the size of a fully associative TLB; ``at`` and ``at_label``
    are the sizes of this CPU's.
    """

    name = "tlb"
    title = "What a program gets from the TLBs"
    parameters = (
        menu("pattern", "how the program uses its pages", PATTERNS),
        Parameter("pages", "memory it uses", "pages", 1024, PAGES),
        menu("mapped", "how they are mapped", tuple(MAPPED)),
        menu("cpu", "CPU", CPUS),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Run the program; errors as in `Exploration`."""
        settings = self.settings(params)
        pattern, pages = str(settings["pattern"]), int(settings["pages"])
        mapped = MAPPED[str(settings["mapped"])]
        model = find_model(str(settings["cpu"]))
        used = use(trace(pattern, pages), mapped, model.name)
        sizes = [model.l1d.entries, model.l2.entries]
        reaches = [size(entries << mapped.shift) for entries in sizes]

        def row(name: str, count: int) -> list[str]:
            return [name, f"{count:,}", f"{100 * count / used.accesses:.1f} %"]

        return Answer(
            columns={
                "size": [*SIZES],
                **misses(pattern, pages),
                "at": sizes,
                "at_label": ["micro-TLB", "main TLB"],
            },
            header=["what happens", "times", "of the accesses"],
            rows=[
                row("accesses", used.accesses),
                row(
                    f"micro-TLB hits ({sizes[0]} entries reach {reaches[0]})",
                    used.l1_hits,
                ),
                row(
                    f"main TLB hits ({sizes[1]} entries reach {reaches[1]})",
                    used.l2_hits,
                ),
                row("walks", used.walks),
                row("words that walks read", used.reads),
            ],
            text=(
                f"The program uses {size(pages << PAGE_SHIFT)}. "
                f"{100 * used.walks / used.accesses:.1f} % of its accesses walk."
            ),
        )
