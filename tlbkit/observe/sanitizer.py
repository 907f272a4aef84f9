"""A listener that stops a kernel where it breaks a rule of memory management.

>>> from tlbkit import Kernel, Machine
>>> kernel = Kernel(Machine(cpus=2))
>>> with Sanitizer(kernel) as rules:
...     process = kernel.spawn()
...     page = process.mmap(4096)
...     process.write(page, 1)
...     process.munmap(page, 4096)
>>> rules.reports
[]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from tlbkit.observe.rules import coherence, counts, locks, pages, walkers
from tlbkit.observe.rules.coherence import Coherence
from tlbkit.observe.rules.counts import Counts
from tlbkit.observe.rules.locks import Locks
from tlbkit.observe.rules.pages import Pages
from tlbkit.observe.rules.rule import Report, Rule, RuleBrokenError
from tlbkit.observe.rules.tables import LEAVES, Tables
from tlbkit.observe.rules.walkers import Walkers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from tlbkit.arm64.events import Event
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.observe.rules.coherence import Owed

__all__ = ["RULES", "Report", "Rule", "RuleBrokenError", "Sanitizer", "audit"]

RULES: Final[Mapping[str, Rule]] = {
    rule.id: rule
    for rule in (
        coherence.STALE,
        coherence.NO_DSB,
        coherence.FREED,
        coherence.BREAK_FIRST,
        coherence.REUSED_ASID,
        coherence.GIVEN_UP,
        walkers.LOCKLESS,
        walkers.HOOKED,
        counts.MAPCOUNT,
        counts.REFERENCES,
        counts.RESIDENT,
        counts.AT_EXIT,
        pages.EXCLUSIVE,
        pages.PINNED,
        pages.DIRTY,
        locks.ENTRY,
        locks.ORDER,
    )
}
"""Every rule, by its name."""


class Sanitizer:
    """Holds a kernel to its rules from here to the end of the ``with`` block.

    What TLBs and tables hold when it begins is taken as it is. Each check looks only at
    what the event touched.

    Args:
        kernel: Whose machine is listened to.
        halt: Raise `RuleBrokenError` out of the step that broke a rule. Otherwise the
            run goes on, and `reports` has them all.

    Attributes:
        reports: What was found, in order.
    """

    def __init__(self, kernel: Kernel, *, halt: bool = True) -> None:
        self._kernel = kernel
        self._shift = kernel.pgtable.page_shift
        self._halt = halt
        self.reports: list[Report] = []
        self._handlers: Mapping[str, Callable[[Event], None]] = {}

    def __enter__(self) -> Self:
        """Begin to listen."""
        self.start()
        return self

    def start(self) -> None:
        """Begin to listen, and go on as long as the machine lives or until `stop`."""
        kernel, machine = self._kernel, self._kernel.machine
        self._tables = Tables(kernel)
        self._locks = Locks(machine, self._report)
        self._coherence = Coherence(kernel, self._locks, self._report)
        self._counts = Counts(kernel, self._tables, self._report)
        self._pages = Pages(kernel, self._tables, self._report)
        self._walkers = Walkers(machine, self._report)
        self._handlers = {
            "store": self._store,
            "hardware": self._hardware,
            "fill": self._coherence.fill,
            "drop": self._coherence.drop,
            "tlbi": self._coherence.tlbi,
            "dsb": self._coherence.dsb,
            "switch": self._coherence.switch,
            "irq": self._walkers.irq,
            "lock": self._lock,
            "no lock": self._lock,  # who believes to have it owes what a holder owes
            "alloc": self._alloc,
            "free": self._free,
            "call": self._call,
            "notifier range": self._coherence.announced,
        }
        machine.events.listen_by_kind(self._handlers)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening; what is still owed, and by nobody, is reported."""
        self.stop()
        if kind is None:
            self.check()

    def stop(self) -> None:
        """Stop listening."""
        self._kernel.machine.events.leave(*self._handlers.values())

    def check(self) -> None:
        """Look now for what is due, without waiting for the next step."""
        self._coherence.settle(self._kernel.machine.events.number)

    def owed(self) -> list[Owed]:
        """Return what TLBs grant too much right now, and why that is allowed."""
        return self._coherence.owed()

    def audit(self) -> None:
        """Compare all TLBs and all counts with the tables, at a moment of rest.

        No system call may be at work. It is the same question as after each step, put
        to the whole machine.
        """
        step = self._kernel.machine.events.number
        self._coherence.audit(step)
        self._counts.audit(step)

    def _report(self, report: Report) -> None:
        self.reports.append(report)
        if self._halt:
            raise RuleBrokenError(report)

    # -- events ----------------------------------------------------------------------

    def _store(self, event: Event) -> None:
        table = self._tables.find(event.what >> self._shift)
        if table is None:
            self._coherence.store(event, None)
            return
        gone = None
        if table.level != LEAVES:
            gone = self._tables.unhook(event)
            new = self._tables.hook(table, event)
            if new is not None:
                self._counts.hooked(new)
        self._coherence.store(event, gone)
        self._locks.store(event, table, gone)
        self._counts.store(event, table)
        self._pages.store(event, table)

    def _hardware(self, event: Event) -> None:
        self._coherence.store(event, None)

    def _lock(self, event: Event) -> None:
        if event.new != "released":
            self._locks.take(event)
            return
        self._locks.release(event)
        self._counts.released(event.what, self._locks.held, event)
        self._pages.released(event.what, self._locks.held[event.cpu], event)
        self._coherence.released(event.what, event)

    def _alloc(self, event: Event) -> None:
        self._tables.forget(event.what, event.new)
        self._counts.forget(event.what, event.new)
        self._pages.forget(event.what, event.new)

    def _free(self, event: Event) -> None:
        self._coherence.free(event)
        table = self._tables.known(event.what)
        if table is not None:
            self._walkers.free(event, table)
            self._counts.free(event, table)
        self._tables.forget(event.what, event.old)
        self._counts.forget(event.what, event.old)
        self._pages.forget(event.what, event.old)

    def _call(self, event: Event) -> None:
        self._coherence.call(event)
        self._pages.call(event)


def audit(kernel: Kernel) -> None:
    """Compare all TLBs and all counts of a kernel at rest with its tables.

    Everything is read afresh, so it does not matter who listened before.

    Raises:
        RuleBrokenError: something does not agree.
    """
    with Sanitizer(kernel) as rules:
        rules.audit()
