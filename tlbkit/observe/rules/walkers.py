"""No table goes while somebody may be walking it without a lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.observe.calls import path
from tlbkit.observe.rules.rule import Allowance, Report, Rule, Section

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine
    from tlbkit.observe.calls import Call
    from tlbkit.observe.rules.tables import Table

LATE: Final = Allowance(
    "walker came later",
    "a CPU that turned its interrupts off after the table was unhooked cannot find it",
)
LOCKLESS: Final = Rule(
    "lockless-walker",
    "No page table is freed while a CPU with interrupts off can be in it.",
    (
        "mm/gup.c: gup_fast() walks tables with interrupts off and without a lock",
        "mm/mmu_gather.c: tables are freed by RCU, or after an IPI to every CPU",
    ),
    (LATE,),
)
HOOKED: Final = Rule(
    "table-in-use",
    "No page table is freed while another table points to it.",
    ("mm/memory.c: free_pgd_range() clears the entry first",),
)


class Walkers:
    """Knows since when each CPU has its interrupts off."""

    def __init__(self, machine: Machine, report: Callable[[Report], None]) -> None:
        self._report = report
        self._off: dict[int, tuple[int, tuple[Call, ...]]] = {
            cpu.number: (0, ()) for cpu in machine.cpus if not cpu.irqs_on
        }

    def irq(self, event: Event) -> None:
        """A CPU turned its interrupts on or off."""
        if event.what == "on":
            self._off.pop(event.cpu, None)
        else:
            self._off.setdefault(event.cpu, (event.number, path(3)))

    def free(self, event: Event, table: Table) -> None:
        """A table was freed: nobody may be in it."""
        freed = Section(f"Freed by CPU {event.cpu}", (), path(4))
        if table.parents:
            headline = (
                f"table {table.pfn:#x} of level {table.level} was freed, and the entry "
                f"at {min(table.parents):#x} still points to it"
            )
            self._report(Report(HOOKED, headline, event.cpu, event.number, (freed,)))
            return
        if table.unhooked is None:
            return  # it never hung anywhere, or not since this was listened to
        for cpu, (since, calls) in self._off.items():
            if since < table.unhooked:
                headline = (
                    f"table {table.pfn:#x} of level {table.level} was freed, and CPU "
                    f"{cpu} may be walking it"
                )
                walks = Section(
                    f"CPU {cpu} has its interrupts off since step {since}; the table "
                    f"was unhooked at step {table.unhooked}",
                    (),
                    calls,
                )
                self._report(
                    Report(LOCKLESS, headline, event.cpu, event.number, (freed, walks))
                )
                return
