"""What the scenarios have in common that compare two kernels by one operation."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from tlbkit.lab.answer import Answer
from tlbkit.lab.compare import compare
from tlbkit.lab.parameter import Parameter
from tlbkit.lab.result import issued
from tlbkit.lab.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.result import Comparison, Result
    from tlbkit.linux.process import Process
    from tlbkit.observe.counters import Counts
    from tlbkit.patches.kernels import Kernel

PAGES: Final = Parameter(
    "pages",
    "Pages",
    "pages",
    64,
    (1, 2, 4, 8, 16, 32, 64, 128, 256, 511, 512, 1024),
    most=4096,
)
"""How many pages, of the kernel's size, a flow is about."""

FEWER_PAGES: Final = replace(
    PAGES, choices=tuple(stop for stop in PAGES.choices if int(stop) <= 512)
)
"""The same where a page costs much, so that a slider's answer comes at once."""

THREADS: Final = Parameter(
    "threads",
    "Threads that touched the pages",
    "threads",
    4,
    (1, 2, 4, 8, 16, 32, 64, 128),
)
"""How many threads touched the pages first: number n on CPU n, while there are CPUs."""

THP: Final = Parameter("thp", "Transparent huge pages", "", "no", ("no", "yes"))
"""Whether the memory may have huge pages where it is aligned and long enough."""


class Flow(Scenario):
    """A scenario whose answer is what one operation issues on two kernels.

    Columns of its answers: ``quantity``, ``before``, ``after`` (what the operation
    issues); ``sweep_pages``, ``sweep_before``, ``sweep_after`` (its cost in ns over the
    number of pages); ``at`` (the number of pages asked for).

    Attributes:
        operation: What is counted, in words, over the table.
        curve: Over which numbers of pages the cost is drawn, besides the one asked for.
    """

    operation: str
    curve: tuple[int, ...] = (1, 8, 64, 512)

    @abstractmethod
    def reason(self, settings: Mapping[str, Value]) -> str:
        """Say in a sentence why the two kernels do what they do."""

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Do the operation on both kernels; see the class for the columns."""
        both = compared(self, tuple(self.settings(params).items()))
        return Answer(
            self.columns(both),
            [self.operation, str(self.before), str(self.after)],
            self.rows(both),
            self.text(both),
        )

    def columns(self, both: Comparison) -> dict[str, list[Value | float]]:
        """Return what the figure draws."""
        settings = both.before.params
        at = int(settings[PAGES.name])
        curve = {
            pages: compared(self, tuple({**settings, PAGES.name: pages}.items()))
            for pages in sorted({*self.curve, at})
        }
        before, after = _quantities(both.before), _quantities(both.after)
        return {
            "quantity": list(before),
            "before": list(before.values()),
            "after": list(after.values()),
            "sweep_pages": list(curve),
            "sweep_before": [point.before.cost_ns for point in curve.values()],
            "sweep_after": [point.after.cost_ns for point in curve.values()],
            "at": [at],
        }

    def rows(self, both: Comparison) -> list[list[str]]:
        """Return the table: each thing that either kernel issued, and its cost.

        What is published about it comes last.
        """
        results = (both.before, both.after)
        names = dict.fromkeys(name for one in results for name in one.counts.tlbi)
        kinds = dict.fromkeys(kind for one in results for kind in one.counts.dsb)
        faults = dict.fromkeys(kind for one in results for kind in one.counts.faults)
        numbers = [
            *(
                (f"TLBI {name}", [r.counts.tlbi[name] for r in results])
                for name in names
            ),
            *((f"DSB {kind}", [r.counts.dsb[kind] for r in results]) for kind in kinds),
            *(
                (f"{kind} faults", [r.counts.faults[kind] for r in results])
                for kind in faults
            ),
            ("calls to secondary TLBs", [r.counts.notifier for r in results]),
            ("interrupts of other CPUs", [r.counts.ipi_cpus for r in results]),
            ("modelled cost (ns)", [round(r.cost_ns) for r in results]),
        ]
        if faults:
            spurious = [r.counts.spurious_faults for r in results]
            numbers.insert(-3, ("of the faults spurious", spurious))
        return [
            *([name, *(f"{one:,}" for one in values)] for name, values in numbers),
            *self.published_rows(both),
        ]

    def published_rows(self, both: Comparison) -> list[list[str]]:
        """Return published figures beside ours, where there are any."""
        del both
        return []

    def text(self, both: Comparison) -> str:
        """Return the reading of an answer."""
        before, after = both.before, both.after
        why = self.reason(before.params)
        return (
            f"{before.variant} issues {issued(before.counts)}; "
            f"{after.variant} issues {issued(after.counts)}. "
            f"{why[0].upper()}{why[1:]}. {both.parting}"
        )


@lru_cache(maxsize=1024)
def compared(scenario: Scenario, settings: tuple[tuple[str, Value], ...]) -> Comparison:
    """Compare at one setting; a slider comes back to the same ones."""
    return compare(scenario, dict(settings))


def reach(counts: Counts) -> dict[str, int]:
    """Return how many TLBIs go to all CPUs, how many do not, and the waits for all."""
    return {
        "TLBI to all CPUs": counts.broadcasts,
        "TLBI, this CPU": counts.tlbi.total() - counts.broadcasts,
        "waits for all": counts.dsb["ish"],
    }


def _quantities(result: Result) -> dict[str, Value | float]:
    """Return what the bars of a figure show."""
    counts = result.counts
    shown: dict[str, Value | float] = {
        **reach(counts),
        "secondary TLB": counts.notifier,
    }
    if counts.faults:
        shown["faults"] = counts.faults.total()
    return shown


def cpus_of(kernel: Kernel, pages: int, threads: int) -> tuple[int, ...]:
    """Return, for each page, the CPU of the thread that it belongs to, going round."""
    return tuple(page % threads % len(kernel.machine.cpus) for page in range(pages))


def mapped(process: Process, size: int, thp: Value) -> int:
    """Map *size* bytes, and ask for huge pages if *thp* says so; return the address."""
    address = process.mmap(size, "rw")
    if thp == "yes":
        process.madvise(address, size, "hugepage")
    return address


def written(
    kernel: Kernel, params: Mapping[str, Value]
) -> tuple[Process, int, tuple[int, ...]]:
    """Start a process whose threads have written each page, as a flow begins.

    Args:
        kernel: The kernel.
        params: Values of `PAGES`, `THREADS` and `THP`.

    Returns:
        The process, the address of its pages, and the CPU of each page's thread.
    """
    size = kernel.pgtable.page_size
    pages = int(params["pages"])
    process = kernel.spawn(cpu=0)
    address = mapped(process, pages * size, params["thp"])
    cpus = cpus_of(kernel, pages, int(params["threads"]))
    for page, cpu in enumerate(cpus):
        process.write(address + page * size, page + 1, cpu=cpu)
    return process, address, cpus
