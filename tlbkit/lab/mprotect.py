"""The scenario of c320dbb7c80d: which changes of rights does mprotect flush for?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from tlbkit.lab.flow import PAGES, THREADS, Flow, compared
from tlbkit.lab.parameter import Parameter
from tlbkit.lab.scenario import CPUS, Claim
from tlbkit.linux.include.uapi.asm_generic.errno import SystemCallError
from tlbkit.observe.costs import REFERENCE_CPUS
from tlbkit.patches.mprotect_pte_needs_flush import PATCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.result import Comparison
    from tlbkit.linux.process import Process
    from tlbkit.patches.kernels import Kernel
    from tlbkit.patches.patch import Figure


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the truth table: a change of rights that user space can make.

    Attributes:
        name: As in ``--set change=name``.
        start: Rights before, by the names of `tlbkit.linux.process.PROT`.
        end: Rights after.
        why: What the hardware would see of it.
        before: Whether v6.17 flushes.
        after: Whether a kernel with the commit does.
        pages: How the pages came to be: written by their threads, only read (the zero
            page), written and then shared with a child, or never touched.
    """

    name: str
    start: str
    end: str
    why: str
    before: bool
    after: bool
    pages: Literal["written", "read", "shared", "untouched"] = "written"


_INVALID = "the old entries are invalid: no TLB can hold them"
_SAME = "no bit that hardware reads changes"
_NEVER_WRITABLE = f"{_SAME}: these pages stay read-only until a write copies them"

CHANGES: Final[Mapping[str, Change]] = {
    change.name: change
    for change in (
        Change("none-rw", "none", "rw", _INVALID, before=True, after=False),
        Change("none-ro", "none", "r", _INVALID, before=True, after=False),
        Change("rw-ro", "rw", "r", "write permission goes", before=True, after=True),
        Change("rw-none", "rw", "none", "all access goes", before=True, after=True),
        Change(
            "ro-rw",
            "r",
            "rw",
            "write permission comes: more rights, and flushed all the same",
            before=True,
            after=True,
        ),
        Change(
            "ro-rx",
            "r",
            "rx",
            "the right to execute comes",
            before=True,
            after=True,
        ),
        Change(
            "rx-ro",
            "rx",
            "r",
            "the right to execute goes",
            before=True,
            after=True,
        ),
        Change(
            "rw-rwx",
            "rw",
            "rwx",
            "the right to execute comes",
            before=True,
            after=True,
        ),
        Change(
            "ro-x",
            "r",
            "x",
            "the right to read gives way to the right to execute",
            before=True,
            after=True,
        ),
        Change("w-rw", "w", "rw", _SAME, before=True, after=False),
        Change(
            "ro-rw-after-fork",
            "r",
            "rw",
            _NEVER_WRITABLE,
            before=True,
            after=False,
            pages="shared",
        ),
        Change(
            "rw-ro-after-fork",
            "rw",
            "r",
            f"{_SAME}: fork has made these entries read-only before",
            before=True,
            after=False,
            pages="shared",
        ),
        Change(
            "ro-rw-zero-page",
            "r",
            "rw",
            _NEVER_WRITABLE,
            before=True,
            after=False,
            pages="read",
        ),
        Change(
            "rw-ro-untouched",
            "rw",
            "r",
            "there are no entries",
            before=False,
            after=False,
            pages="untouched",
        ),
        Change(
            "none-none",
            "none",
            "none",
            "equal rights: no entry is looked at",
            before=False,
            after=False,
        ),
    )
}
"""Every change of private anonymous memory, by name; a chapter computes its table."""

CHANGE = Parameter("change", "Rights before and after", "", "none-rw", tuple(CHANGES))


@dataclass(frozen=True, slots=True)
class Call:
    """The call under study, ready to be made.

    Attributes:
        process: Who makes it, on CPU 0.
        address: Of the first page.
        length: In bytes.
        prot: The new rights.
        cpus: The CPU that touched each page; it still holds what it was allowed to.
    """

    process: Process
    address: int
    length: int
    prot: str
    cpus: tuple[int, ...]

    def __call__(self) -> str:
        """Make the call."""
        try:
            self.process.mprotect(self.address, self.length, self.prot)
        except SystemCallError as error:
            return error.errno
        return "ok"


@dataclass(frozen=True, slots=True)
class Published:
    """A published time of one call beside ours.

    Attributes:
        figure: What was published, in us.
        ours: What the model says, in us.
        how: Whether a cost was calibrated on this figure, or ours is a prediction.
    """

    figure: Figure
    ours: float
    how: Literal["calibrated", "predicted"]


def _flushes_as_told(both: Comparison) -> bool:
    change = CHANGES[str(both.before.params[CHANGE.name])]
    flushed = (both.before.counts.flushes > 0, both.after.counts.flushes > 0)
    return flushed == (change.before, change.after)


def _never_more(both: Comparison) -> bool:
    before, after = both.before.counts, both.after.counts
    return (
        after.tlbi <= before.tlbi
        and after.dsb <= before.dsb
        and after.notifier <= before.notifier
    )


def _costs_no_more(both: Comparison) -> bool:
    return both.after.cost_ns <= both.before.cost_ns


def _nobody_interrupted(both: Comparison) -> bool:
    return not both.before.counts.ipi_cpus and not both.after.counts.ipi_cpus


class Mprotect(Flow):
    """One mprotect of touched pages.

    Columns of its answers besides those of every flow: ``published``, ``published_us``,
    ``ours_us``, ``how``, the published times of a none->rw of one page, ours beside
    them, and whether ours was calibrated.
    """

    name = "mprotect"
    title = "Does mprotect have to flush?"
    operation = "one mprotect call"
    parameters = (PAGES, CHANGE, CPUS, THREADS)
    claims = (
        Claim("each kernel flushes as the truth table says", _flushes_as_told),
        Claim("the commit takes flushes away and adds none", _never_more),
        Claim("so the call never costs more", _costs_no_more),
        Claim("no other CPU is interrupted", _nobody_interrupted),
    )

    def prepare(self, kernel: Kernel, params: Mapping[str, Value]) -> Call:
        """Map the pages, let each be touched by its thread, and give them old rights.

        Thread number n runs on CPU n, or shares one if there are fewer; page number n
        belongs to the thread of that number, again going round.
        """
        change = CHANGES[str(params[CHANGE.name])]
        size = kernel.pgtable.page_size
        count, threads = int(params[PAGES.name]), int(params[THREADS.name])
        machine_cpus = len(kernel.machine.cpus)
        cpus = tuple(page % threads % machine_cpus for page in range(count))
        process = kernel.spawn(cpu=0)
        written = change.pages in {"written", "shared"}
        address = process.mmap(count * size, "rw" if written else change.start)
        if written:
            for page, cpu in enumerate(cpus):
                process.write(address + page * size, page + 1, cpu=cpu)
            process.mprotect(address, count * size, change.start)
        if change.pages == "shared":
            process.fork()
        if change.pages != "untouched" and change.start != "none":
            for page, cpu in enumerate(cpus):
                process.read(address + page * size, cpu=cpu)
        return Call(process, address, count * size, change.end, cpus)

    def reason(self, settings: Mapping[str, Value]) -> str:
        """Say what the hardware would see of the change."""
        return CHANGES[str(settings[CHANGE.name])].why

    def columns(self, both: Comparison) -> dict[str, list[Value | float]]:
        """Return what the figure draws, and the published times beside ours."""
        published = self.published()
        return {
            **super().columns(both),
            "published": [one.figure.name for one in published],
            "published_us": [one.figure.value for one in published],
            "ours_us": [one.ours for one in published],
            "how": [one.how for one in published],
        }

    def published(self) -> tuple[Published, ...]:
        """Return the published times of one call beside ours.

        Two were calibrated on; the third, of the first version of the commit, is a
        prediction: for this change it skips the flush just as the final one does.
        """
        setting = (
            (PAGES.name, 1),
            (CHANGE.name, "none-rw"),
            (CPUS.name, REFERENCE_CPUS),
            (THREADS.name, 1),
        )
        both = compared(self, setting)
        before = round(both.before.cost_ns / 1000, 3)
        after = round(both.after.cost_ns / 1000, 3)
        return (
            Published(PATCH.figure("before"), before, "calibrated"),
            Published(PATCH.figure("after"), after, "calibrated"),
            Published(PATCH.figure("after, first version"), after, "predicted"),
        )

    def published_rows(self, both: Comparison) -> list[list[str]]:
        """Return the published times as rows, for the change that they are about."""
        if both.before.params[CHANGE.name] != "none-rw":
            return []
        before, *afters = self.published()
        names = {"after": "one page (us)", "after, first version": "first version (us)"}
        return [
            [f"{kind}, {names[after.figure.name]}", f"{one:.2f}", f"{other:.2f}"]
            for after in afters
            for kind, one, other in (
                ("published", before.figure.value, after.figure.value),
                (after.how, before.ours, after.ours),
            )
        ]
