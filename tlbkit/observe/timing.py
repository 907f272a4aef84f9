"""Where the time goes: a clock for each CPU, and who waits for whom.

Each event moves the clock of its CPU on by its cost. A CPU that takes a lock waits for
the clock of the last holder as it stood at the release, one that sends an IPI until its
targets have taken it, one that completes a broadcast for every other CPU.

All clocks start together: the CPUs of a window are taken to run at the same time, so
those that broadcast in it are in each other's way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.machine import machine_of
from tlbkit.observe.costs import COSTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine, OnMachine
    from tlbkit.observe.costs import Cost

OTHER_TLBS = "the TLBs of other CPUs"
OTHER_BROADCASTS = "broadcasts of other CPUs"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a bill.

    Attributes:
        cost: What was paid for.
        times: How often.
    """

    cost: Cost
    times: int

    @property
    def ns(self) -> float:
        """What it came to, over all CPUs, without waiting for locks or IPIs."""
        return self.times * self.cost.ns


@dataclass(frozen=True, slots=True)
class Bill:
    """The time of one window.

    Attributes:
        cpus: Nanoseconds at which each CPU was done, waiting included; CPUs that took
            no part are absent.
        lines: What it was spent on, the most expensive first.
        waits: Nanoseconds that a CPU spent waiting, by (CPU, what for).
    """

    cpus: Mapping[int, float]
    lines: tuple[Line, ...]
    waits: Mapping[tuple[int, str], float]

    @property
    def elapsed_ns(self) -> float:
        """When the last CPU was done."""
        return max(self.cpus.values(), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain dictionaries and numbers."""
        return {
            "elapsed_ns": self.elapsed_ns,
            "cpus": {str(cpu): ns for cpu, ns in self.cpus.items()},
            "lines": [
                {
                    "cost": line.cost.name,
                    "times": line.times,
                    "ns": line.ns,
                    "kind": line.cost.kind.value,
                    "source": line.cost.source,
                }
                for line in self.lines
            ],
            "waits": [
                {"cpu": cpu, "for": what, "ns": ns}
                for (cpu, what), ns in self.waits.items()
            ],
        }


class Clocks:
    """The clocks of one window at work; ask `bill` at any time.

    Args:
        machine: Whose events it will be given.
        costs: Prices, by the names of `COSTS`.
    """

    __slots__ = (
        "_broadcasting",
        "_clock",
        "_costs",
        "_cpus",
        "_free",
        "_held",
        "_ns",
        "_spent",
        "_waits",
        "_waits_for_all",
    )

    def __init__(self, machine: Machine, costs: Mapping[str, Cost] = COSTS) -> None:
        self._cpus = len(machine.cpus)
        self._costs = costs
        self._ns = {name: cost.ns for name, cost in costs.items()}
        self._clock: dict[int, float] = {}
        self._spent: Counter[str] = Counter()
        self._waits: defaultdict[tuple[int, str], float] = defaultdict(float)
        self._broadcasting = {
            cpu.number
            for cpu in machine.cpus
            if any(operation.broadcast for operation, _ in cpu.in_flight)
        }
        self._waits_for_all: Counter[int] = Counter()
        self._held: dict[tuple[Any, int], bool] = {}
        self._free: dict[tuple[Any, bool], float] = {}

    def bill(self) -> Bill:
        """Add it all up."""
        costs = self._costs
        spent = self._spent.copy()
        clock = dict(self._clock)
        waits = self._waits.copy()
        others = max(len(self._waits_for_all) - 1, 0)
        name = "dvm_contention_per_broadcaster"
        for cpu, times in self._waits_for_all.items():
            waited = times * others * costs[name].ns
            clock[cpu] += waited
            if waited:
                spent[name] += times * others
                waits[cpu, OTHER_BROADCASTS] += waited
        lines = [Line(costs[name], times) for name, times in spent.items() if times]
        lines.sort(key=lambda line: -line.ns)
        return Bill(
            dict(sorted(clock.items())),
            tuple(lines),
            dict(waits),
        )

    def take_turn(self, cpu: int) -> float:
        """Let *cpu* begin when all others are done, as where they take turns.

        Returns:
            When that is, in ns.
        """
        now = self._clock[cpu] = max(self._clock.values(), default=0.0)
        return now

    def handlers(self) -> Mapping[str, Callable[[Event], None]]:
        """Return what to do with an event of each kind that costs time."""
        return {
            "call": self._flat("system_call"),
            "store": self._flat("store"),
            "walk": self._flat("walk"),
            "fault": self._flat("fault_entry_exit"),
            "notifier": self._flat("notifier"),
            "alloc": self._flat("page_alloc"),
            "switch": self._flat("switch"),
            "isb": self._flat("isb"),
            "tlbi": self._tlbi,
            "dsb": self._dsb,
            "lock": self._lock,
            "ipi": self._ipi,
        }

    def _pay(self, cpu: int, name: str, times: int = 1) -> float:
        """Move a clock on by a cost, and return where it stands now."""
        self._spent[name] += times
        now = self._clock.get(cpu, 0.0) + times * self._ns[name]
        self._clock[cpu] = now
        return now

    def _wait(self, cpu: int, until: float, what: str) -> None:
        """Hold a CPU up until a moment, if that is still to come."""
        waited = until - self._clock.get(cpu, 0.0)
        if waited > 0:
            self._clock[cpu] = until
            self._waits[cpu, what] += waited

    def _flat(self, name: str) -> Callable[[Event], None]:
        """Return a handler for events that all cost the same."""
        spent, clock, ns = self._spent, self._clock, self._ns[name]

        def paid(event: Event) -> None:
            spent[name] += 1
            cpu = event.cpu
            clock[cpu] = clock.get(cpu, 0.0) + ns

        return paid

    def _tlbi(self, event: Event) -> None:
        if event.what.broadcast:
            self._broadcasting.add(event.cpu)
            self._pay(event.cpu, "tlbi_issue")
        else:
            self._pay(event.cpu, "local_tlbi")

    def _dsb(self, event: Event) -> None:
        cpu, kind = event.cpu, event.what
        if kind == "nsh":
            self._pay(cpu, "dsb_nsh")
        elif cpu not in self._broadcasting or kind.endswith(("st", "ld")):
            self._pay(cpu, "dsb_stores")
        else:
            self._broadcasting.remove(cpu)
            self._waits_for_all[cpu] += 1
            before = self._pay(cpu, "dsb_ish_base")
            after = self._pay(cpu, "dsb_ish_per_core", self._cpus - 1)
            self._waits[cpu, OTHER_TLBS] += after - before

    def _lock(self, event: Event) -> None:
        lock, cpu, how = event.what, event.cpu, event.new
        if how == "released":
            shared = self._held.pop((lock, cpu), False)
            self._free[lock, shared] = self._clock.get(cpu, 0.0)
            return
        shared = how == "read"
        self._held[lock, cpu] = shared
        until = self._free.get((lock, False), 0.0)
        if not shared:
            until = max(until, self._free.get((lock, True), 0.0))
        self._wait(cpu, until, lock.name)

    def _ipi(self, event: Event) -> None:
        if not event.what:
            return
        arrival = self._pay(event.cpu, "ipi")
        for target in event.what:
            self._clock[target] = max(self._clock.get(target, 0.0), arrival)
            done = self._pay(target, "ipi_handler")
            self._wait(event.cpu, done, f"CPU {target}")


@contextmanager
def timing(
    watched: Machine | OnMachine, costs: Mapping[str, Cost] = COSTS
) -> Iterator[Clocks]:
    """Time what a machine does from here to the end of the ``with`` block.

    Args:
        watched: The machine, or the kernel that runs on it.
        costs: Prices, by the names of `COSTS`.

    >>> from tlbkit.arm64.machine import Machine
    >>> machine = Machine(cpus=2)
    >>> with timing(machine) as clocks:
    ...     machine.cpu(0).tlbi("VMALLE1")
    ...     machine.cpu(0).dsb("nsh")
    >>> [(line.cost.name, line.ns) for line in clocks.bill().lines]
    [('dsb_nsh', 10.0), ('local_tlbi', 5.0)]
    """
    machine = machine_of(watched)
    clocks = Clocks(machine, costs)
    handlers = clocks.handlers()
    machine.events.listen_by_kind(handlers)
    try:
        yield clocks
    finally:
        machine.events.leave(*handlers.values())
