"""How often each thing happened on a machine, between two moments."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.cpu import BARRIERS
from tlbkit.arm64.machine import machine_of
from tlbkit.arm64.tlbi import OPERATIONS, pages_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine, OnMachine

DSB_KINDS = ("ishst", "ish", "nshst", "nsh")
"""The barriers of a flush: ``ish`` and ``nsh`` complete it, the others come first."""

FAULT_KINDS = ("translation", "access_flag", "permission")
"""The faults that Linux's memory management meets every day."""


@dataclass(slots=True)
class Counts:
    """What was issued, and what happened, in one window.

    What never happened is absent from the mappings, and reads as 0.

    Attributes:
        tlbi: TLBI instructions, by name: ``{"VALE1IS": 64}``.
        pages: Pages that those by address named, by the same names: as many as there
            were instructions, or for a range form all that its ranges cover.
        dsb: Data synchronisation barriers, by kind: ``{"ishst": 1, "ish": 1}``.
        completing: Those of them that found a TLBI in flight and waited for it.
        isb: Instruction synchronisation barriers.
        ipi_broadcasts: Times that a CPU interrupted others, however many.
        ipi_cpus: CPUs that were interrupted, each time counted.
        faults: Faults that an access met, by kind: ``{"translation": 3}``.
        spurious_faults: Those of them for which the tables held no reason any more.
        walks: Table walks.
        hardware_updates: Descriptors whose access flag or dirty state hardware set.
        notifier: Calls that flush secondary TLBs, those of devices.
        notifier_ranges: Ranges that devices were told of before they changed.
        switches: Times that a CPU changed its translation registers.
        calls: System calls, by name.
    """

    tlbi: Counter[str] = field(default_factory=Counter)
    pages: Counter[str] = field(default_factory=Counter)
    dsb: Counter[str] = field(default_factory=Counter)
    completing: Counter[str] = field(default_factory=Counter)
    isb: int = 0
    ipi_broadcasts: int = 0
    ipi_cpus: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    spurious_faults: int = 0
    walks: int = 0
    hardware_updates: int = 0
    notifier: int = 0
    notifier_ranges: int = 0
    switches: int = 0
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def flushes(self) -> int:
        """How many waits for a flush there were: DSBs that found one in flight."""
        return self.completing.total()

    @property
    def ranges(self) -> Counter[str]:
        """The TLBIs of a range form alone, by name.

        >>> Counts(tlbi=Counter(VALE1IS=3, RVALE1IS=2)).ranges
        Counter({'RVALE1IS': 2})
        """
        return Counter(
            {name: n for name, n in self.tlbi.items() if OPERATIONS[name].ranged}
        )

    @property
    def broadcasts(self) -> int:
        """How many TLBIs went to all CPUs: the inner-shareable forms.

        >>> Counts(tlbi=Counter(VALE1IS=3, VALE1=2)).broadcasts
        3
        """
        return sum(n for name, n in self.tlbi.items() if OPERATIONS[name].broadcast)

    def to_json(self) -> dict[str, Any]:
        """Return the counts of a run, as ``--json`` prints them.

        The kinds of `DSB_KINDS` and `FAULT_KINDS` are there even if they are 0.
        """
        return {
            "tlbi": dict(self.tlbi),
            "pages": dict(self.pages),
            "dsb": dict.fromkeys(DSB_KINDS, 0) | self.dsb,
            "completing_dsb": self.flushes,
            "ipi_broadcasts": self.ipi_broadcasts,
            "faults": dict.fromkeys(FAULT_KINDS, 0) | self.faults,
            "walks": self.walks,
            "notifier": self.notifier,
        }


def _handlers(
    counts: Counts, machine: Machine
) -> Mapping[str, Callable[[Event], None]]:
    """Return what to do with an event of each kind that is counted."""

    def tlbi(event: Event) -> None:
        operation = event.what
        counts.tlbi[operation.name] += 1
        if pages := pages_named(operation, event.new):
            counts.pages[operation.name] += pages

    def dsb(event: Event) -> None:
        counts.dsb[event.what] += 1
        barrier = BARRIERS[event.what]
        # It is told before it waits, so what it will complete is still in flight.
        if barrier.invalidations and any(
            not (barrier.local and operation.broadcast)
            for operation, _ in machine.cpus[event.cpu].in_flight
        ):
            counts.completing[event.what] += 1

    def isb(_: Event) -> None:
        counts.isb += 1

    def ipi(event: Event) -> None:
        # Where there is no other CPU, nothing is sent.
        counts.ipi_broadcasts += bool(event.what)
        counts.ipi_cpus += len(event.what)

    def fault(event: Event) -> None:
        counts.faults[event.new.kind.value] += 1

    def spurious(_: Event) -> None:
        counts.spurious_faults += 1

    def walk(_: Event) -> None:
        counts.walks += 1

    def hardware(_: Event) -> None:
        counts.hardware_updates += 1

    def notifier(_: Event) -> None:
        counts.notifier += 1

    def notifier_range(event: Event) -> None:
        counts.notifier_ranges += event.old == "start"

    def switch(_: Event) -> None:
        counts.switches += 1

    def call(event: Event) -> None:
        counts.calls[event.what] += 1

    return {
        "tlbi": tlbi,
        "dsb": dsb,
        "isb": isb,
        "ipi": ipi,
        "fault": fault,
        "spurious": spurious,
        "walk": walk,
        "hardware": hardware,
        "notifier": notifier,
        "notifier range": notifier_range,
        "switch": switch,
        "call": call,
    }


@contextmanager
def counting(watched: Machine | OnMachine) -> Iterator[Counts]:
    """Count what a machine does from here to the end of the ``with`` block.

    Args:
        watched: The machine, or the kernel that runs on it.

    Windows may nest or overlap; each counts for itself. However a window ends, its
    counts stay as they were at that moment.

    >>> from tlbkit.arm64.machine import Machine
    >>> machine = Machine(cpus=2)
    >>> with counting(machine) as c:
    ...     machine.cpu(0).tlbi("VMALLE1IS")
    ...     machine.cpu(0).dsb("ish")
    >>> dict(c.tlbi), dict(c.dsb)
    ({'VMALLE1IS': 1}, {'ish': 1})
    """
    machine = machine_of(watched)
    counts = Counts()
    handlers = _handlers(counts, machine)
    machine.events.listen_by_kind(handlers)
    try:
        yield counts
    finally:
        machine.events.leave(*handlers.values())
