"""The scenarios of shared tables: how many CPUs must hear that somebody leaves?

Processes map the same GiBs of huge pages and share a table for each. Two savings are
told apart: one interrupt for all tables of a visit instead of one for each (batching),
and none as long as another process is left to send it (skipping).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final

from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import MODELS
from tlbkit.lab.answer import Answer
from tlbkit.lab.compare import compare
from tlbkit.lab.parameter import Parameter
from tlbkit.lab.scenario import Claim, Operation, Scenario
from tlbkit.lab.variant import Variant
from tlbkit.linux.kernel.kernel import PARTS, Kernel
from tlbkit.observe.counters import counting
from tlbkit.patches.hugetlb_unshare_gather import PATCH as UNSHARE
from tlbkit.patches.hugetlb_unshare_halves import HALVES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.result import Comparison
    from tlbkit.linux.process import Process
    from tlbkit.observe.counters import Counts

BASE: Final = 1 << 40
GIB: Final = 1 << 30
HUGE: Final = 2 << 20

TABLES: Final = Parameter(
    "tables", "Shared tables, one for each GiB", "tables", 9, (1, 2, 4, 9), most=2000
)
SHARERS: Final = Parameter(
    "sharers", "Processes that share them", "processes", 3, (2, 3, 5, 8), most=1000
)
CPUS: Final = Parameter(
    "cpus", "CPUs of the machine", "CPUs", 64, (2, 4, 16, 64, 128, 256)
)


@dataclass(frozen=True, slots=True)
class Form:
    """One way to tell the other CPUs that a table was unshared.

    Attributes:
        name: In tables.
        batching: One interrupt for all tables of a visit.
        skipping: None while another process is left to send it.
    """

    name: str
    batching: bool
    skipping: bool

    @property
    def column(self) -> str:
        """The name of the column with what its formula says."""
        return f"formula, {self.name}"

    def leaver(self, tables: int, users: int) -> int:
        """Broadcasts of one process that leaves *tables* tables of *users* users.

        >>> [form.leaver(9, 2) for form in FORMS], [form.leaver(9, 3) for form in FORMS]
        ([9, 1, 9, 1], [9, 1, 0, 0])
        """
        if users < 2 or (self.skipping and users > 2):
            return 0
        return 1 if self.batching else tables

    def all_leave(self, tables: int, users: int) -> int:
        """Broadcasts until *users* processes have left *tables* tables in turn.

        >>> [form.all_leave(9, 5) for form in FORMS]
        [36, 4, 9, 1]
        """
        return sum(self.leaver(tables, left) for left in range(users, 0, -1))


BEFORE: Final = Form("before", batching=False, skipping=False)
BATCHING: Final = Form("batching only", batching=True, skipping=False)
SKIPPING: Final = Form("skipping only", batching=False, skipping=True)
AFTER: Final = Form("after", batching=True, skipping=True)
FORMS: Final = (BEFORE, BATCHING, SKIPPING, AFTER)


PARTS_OF: Final = {BATCHING: HALVES["batching"], SKIPPING: HALVES["skipping"]}
"""The parts of a kernel that has one saving alone; there never was one."""


def share(kernel: Kernel, tables: int, users: int) -> list[Process]:
    """Return *users* processes that share *tables* tables, on CPUs in turn."""
    cpus = len(kernel.machine.cpus)
    kernel.hugetlb.set_max_huge_pages(tables)
    first = kernel.spawn(cpu=0)
    first.mmap(
        tables * GIB, addr=BASE, shared=True, hugetlb=True, noreserve=True, fixed=True
    )
    processes = [first, *(first.fork(cpu=n % cpus) for n in range(1, users))]
    for process in processes:
        for table in range(tables):
            process.read(BASE + table * GIB)
    return processes


class Unsharing(Scenario):
    """What the two scenarios have in common.

    Columns of their answers: ``quantity``, ``before``, ``after`` (what is sent);
    ``sharers`` and one for each of `FORMS` (its formula's broadcasts over the
    number of processes); ``at`` and ``at_label`` (the number asked for).

    Attributes:
        operation: What is counted, in words, over the table.
    """

    before = Variant("v6.19", (UNSHARE.hash,))
    after = Variant("v6.19")
    parameters = (TABLES, SHARERS, CPUS)
    # What a PMD table maps is 1 GiB, as `share` has it, where a page is 4 KiB.
    models = tuple(m.name for m in MODELS.values() if m.page_shift == 12)
    operation: str

    @staticmethod
    @abstractmethod
    def formula(form: Form, tables: int, users: int) -> int:
        """Return how many broadcasts one form sends, by what is known of it."""

    @abstractmethod
    def prepare(self, kernel: Kernel, params: Mapping[str, Value]) -> Operation:
        """Share the tables, on a kernel of any form."""

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Do the operation in all four forms; see the class for the columns."""
        settings = self.settings(params)
        counts = self.counts(settings)
        tables, users, cpus = (int(settings[p.name]) for p in self.parameters)
        expected = {form: self.formula(form, tables, users) for form in FORMS}
        before, after = counts[BEFORE], counts[AFTER]
        numbers = {
            "broadcasts": (before.ipi_broadcasts, after.ipi_broadcasts),
            "interrupts": (before.ipi_cpus, after.ipi_cpus),
            "TLBI": (before.tlbi.total(), after.tlbi.total()),
        }
        along = sorted({2, 3, 5, 16, 100, 1000, users})
        return Answer(
            {
                "quantity": list(numbers),
                "before": [one for one, _ in numbers.values()],
                "after": [other for _, other in numbers.values()],
                "sharers": list(along),
                **{
                    form.column: [self.formula(form, tables, n) for n in along]
                    for form in FORMS
                },
                "at": [users],
                "at_label": [f"{users} processes"],
            },
            [self.operation, *(form.name for form in FORMS)],
            [
                _row("IPI broadcasts", [counts[f].ipi_broadcasts for f in FORMS]),
                _row("by the formula", [expected[f] for f in FORMS]),
                _row("CPUs interrupted", [counts[f].ipi_cpus for f in FORMS]),
                _row("by the formula", [expected[f] * (cpus - 1) for f in FORMS]),
                _row("TLBI", [counts[f].tlbi.total() for f in FORMS]),
            ],
            self.text(counts),
        )

    def counts(self, settings: Mapping[str, Value]) -> dict[Form, Counts]:
        """Return what each form issues."""
        both = compared(self, tuple(settings.items()))
        counts = {BEFORE: both.before.counts, AFTER: both.after.counts}
        for form, parts in PARTS_OF.items():
            machine = Machine(int(settings["cpus"]), self.cpu)
            kernel = Kernel(machine, {**PARTS, **parts})
            operation = self.prepare(kernel, settings)
            with counting(kernel.machine) as counts[form]:
                operation()
        return counts

    @staticmethod
    def text(counts: Mapping[Form, Counts]) -> str:
        """Return the reading of an answer."""
        sent = ", ".join(
            f"{counts[form].ipi_broadcasts:,} {form.name}" for form in FORMS
        )
        return (
            f"Broadcasts of interrupts: {sent}. Each interrupts every other CPU, "
            "whatever runs there. How long that takes depends on the machine, and no "
            "time was published for the repaired kernel: the formulas are all there is."
        )


def _row(name: str, values: list[int]) -> list[str]:
    return [name, *(f"{value:,}" for value in values)]


@lru_cache(maxsize=256)
def compared(scenario: Scenario, settings: tuple[tuple[str, Value], ...]) -> Comparison:
    """Compare at one setting; a slider comes back to the same ones."""
    return compare(scenario, dict(settings))


def _by_formula(form: Form, which: str) -> Claim:
    def holds(both: Comparison) -> bool:
        result = both.before if which == "before" else both.after
        scenario = SCENARIOS[result.scenario]
        tables, users = (int(result.params[name]) for name in ("tables", "sharers"))
        expected = scenario.formula(form, tables, users)
        others = int(result.params["cpus"]) - 1
        counts = result.counts
        return (counts.ipi_broadcasts, counts.ipi_cpus) == (expected, expected * others)

    return Claim(f"the interrupts {which} are those of the formula", holds)


CLAIMS: Final = (_by_formula(BEFORE, "before"), _by_formula(AFTER, "after"))


class HugetlbUnshare(Unsharing):
    """One process of several unmaps what they all share."""

    name = "hugetlb-unshare"
    title = "One sharer of huge pages unmaps them"
    operation = "munmap by one of the sharers"
    claims = CLAIMS

    def prepare(self, kernel: Kernel, params: Mapping[str, Value]) -> Operation:
        """Share the tables."""
        tables = int(params["tables"])
        processes = share(kernel, tables, int(params["sharers"]))

        def unmap() -> str:
            processes[-1].munmap(BASE, tables * GIB)
            return "ok"

        return unmap

    @staticmethod
    def formula(form: Form, tables: int, users: int) -> int:
        """Return the broadcasts of one leaver."""
        return form.leaver(tables, users)


class HugetlbExit(Unsharing):
    """All processes that share exit, one after another."""

    name = "hugetlb-exit"
    title = "All sharers of huge pages exit, one after another"
    operation = "the exits of all sharers"
    claims = CLAIMS

    def prepare(self, kernel: Kernel, params: Mapping[str, Value]) -> Operation:
        """Share the tables."""
        processes = share(kernel, int(params["tables"]), int(params["sharers"]))

        def leave() -> str:
            for process in reversed(processes):
                process.exit()
            return "ok"

        return leave

    @staticmethod
    def formula(form: Form, tables: int, users: int) -> int:
        """Return the broadcasts of all exits."""
        return form.all_leave(tables, users)


SCENARIOS: Final[Mapping[str, Unsharing]] = {
    one.name: one for one in (HugetlbUnshare(), HugetlbExit())
}


# -- the published reproducer ----------------------------------------------------------


def unseeded() -> Iterator[int]:
    """Yield what the C library's rand() gives a program that sets no seed.

    >>> list(islice(unseeded(), 3))
    [1804289383, 846930886, 1681692777]

    Source: glibc, stdlib/random_r.c, the generator of type 3 with seed 1.
    """
    state = [1]
    for _ in range(30):
        state.append(16807 * state[-1] % 0x7FFFFFFF)
    state += state[:3]
    for _ in range(344 - len(state)):
        state.append((state[-3] + state[-31]) & 0xFFFFFFFF)
    state = state[-31:]
    while True:
        state.append((state[-3] + state.pop(0)) & 0xFFFFFFFF)
        yield state[-1] >> 1


def reproduce(
    kernel: Kernel, gib: int = 1200, children: int = 1000, reads: int = 100
) -> Counts:
    """Run the program of the report, and return what its children's exits issue.

    A parent maps *gib* GiB of huge pages and does not touch them; *children* processes
    read *reads* pages each, at places that all of them draw alike, and exit. All of
    them live together here, and the mapping begins at a whole GiB, which is the most
    that can be shared.
    """
    kernel.hugetlb.set_max_huge_pages(gib * 512)
    cpus = len(kernel.machine.cpus)
    parent = kernel.spawn(cpu=0)
    base = parent.mmap(gib * GIB, addr=BASE, shared=True, hugetlb=True)
    places = [base + n % (gib * 512) * HUGE for n in islice(unseeded(), reads)]
    alive = [parent.fork(cpu=n % cpus) for n in range(children)]
    for child in alive:
        for place in places:
            child.read(place)
    with counting(kernel.machine) as counts:
        for child in alive:
            child.exit()
    parent.munmap(base, gib * GIB)
    parent.exit()
    return counts
