"""What a flush costs: the same events priced by named costs, and each cost doubled."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from tlbkit.arm64 import tlbi
from tlbkit.arm64.machine import Machine
from tlbkit.errors import InputError
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import Exploration, menu
from tlbkit.lab.parameter import Parameter
from tlbkit.lab.walk import ADDRESS
from tlbkit.observe.costs import COSTS
from tlbkit.observe.timing import Clocks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.arm64.cpu import Cpu
    from tlbkit.arm64.events import Event
    from tlbkit.lab.parameter import Value
    from tlbkit.observe.costs import Cost
    from tlbkit.observe.timing import Bill

ASID = 0x25
PAGE = 1 << 12
CPUS = (1, 2, 4, 8, 16, 32, 64, 128)
FLUSHERS = (1, 2, 4, 8, 16, 32)
PAGES = (1, 2, 4, 8, 16, 32)


def _operands(pages: int) -> list[int]:
    """The operands that name so many pages one by one."""
    return [tlbi.encode_va(ADDRESS + n * PAGE, ASID) for n in range(pages)]


def one_by_one(cpu: Cpu, pages: int) -> None:
    """Flush each page on every CPU, and wait for it before the next."""
    for operand in _operands(pages):
        cpu.dsb("ishst")
        cpu.tlbi("VALE1IS", operand)
        cpu.dsb("ish")


def batched(cpu: Cpu, pages: int) -> None:
    """Flush every page on every CPU, and wait once."""
    cpu.dsb("ishst")
    for operand in _operands(pages):
        cpu.tlbi("VALE1IS", operand)
    cpu.dsb("ish")


def by_asid(cpu: Cpu, _pages: int) -> None:
    """Flush all of the address space on every CPU, however many pages there are."""
    cpu.dsb("ishst")
    cpu.tlbi("ASIDE1IS", tlbi.encode_asid(ASID))
    cpu.dsb("ish")


def locally(cpu: Cpu, pages: int) -> None:
    """Flush each page on this CPU alone, and wait for it before the next."""
    for operand in _operands(pages):
        cpu.dsb("nshst")
        cpu.tlbi("VALE1", operand)
        cpu.dsb("nsh")


WAYS: dict[str, Callable[[Cpu, int], None]] = {
    "broadcast, a wait for each page": one_by_one,
    "broadcast, one wait": batched,
    "broadcast, by ASID": by_asid,
    "local, a wait for each page": locally,
}


@lru_cache(maxsize=64)
def flush(
    way: str, pages: int, cpus: int, flushers: int
) -> tuple[Machine, tuple[Event, ...]]:
    """Let several CPUs flush at once; return the machine and what happened on it.

    Args:
        way: One of `WAYS`.
        pages: How many pages each flushes.
        cpus: How many CPUs there are.
        flushers: How many of them flush.
    """
    machine = Machine(cpus)
    events: list[Event] = []
    machine.events.listen(events.append)
    for cpu in machine.cpus[:flushers]:
        WAYS[way](cpu, pages)
    return machine, tuple(events)


def price(
    happened: tuple[Machine, tuple[Event, ...]], costs: Mapping[str, Cost] = COSTS
) -> Bill:
    """The bill for what happened, at these prices."""
    machine, events = happened
    clocks = Clocks(machine, costs)
    handlers = clocks.handlers()
    for event in events:
        if event.kind in handlers:
            handlers[event.kind](event)
    return clocks.bill()


def times(cost: Cost, factor: float) -> dict[str, Cost]:
    """All costs, one of them multiplied."""
    return {**COSTS, cost.name: replace(cost, ns=cost.ns * factor)}


class Flush(Exploration):
    """A flush of some pages, and where its time goes.

    Columns: ``cpus`` and, for each of `WAYS`, the modelled ns until the last flusher
    is done; ``at``, ``at_label`` where the knobs stand; ``cost``, ``doubled`` what each
    cost, doubled, adds in percent.
    """

    name = "flush"
    title = "What a flush costs"
    parameters = (
        menu("way", "how", tuple(WAYS)),
        Parameter("pages", "pages", "", 1, PAGES),
        Parameter("cpus", "CPUs of the machine", "", 8, CPUS),
        Parameter("flushers", "CPUs that flush at once", "", 1, FLUSHERS),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Flush, and add up.

        Raises:
            InputError: More CPUs flush than there are, or as in `Exploration`.
        """
        settings = self.settings(params)
        way = str(settings["way"])
        pages, cpus, flushers = (
            int(settings[name]) for name in ("pages", "cpus", "flushers")
        )
        if flushers > cpus:
            raise InputError(f"flushers={flushers}: the machine has {cpus} CPUs")
        happened = flush(way, pages, cpus, flushers)
        bill = price(happened)
        total = bill.elapsed_ns
        doubled = {
            line.cost: 100
            * (price(happened, times(line.cost, 2)).elapsed_ns / total - 1)
            for line in bill.lines
        }
        sizes = [size for size in CPUS if size >= flushers]
        return Answer(
            columns={
                "cpus": sizes,
                **{
                    name: [
                        price(flush(name, pages, size, flushers)).elapsed_ns
                        for size in sizes
                    ]
                    for name in WAYS
                },
                "at": [cpus],
                "at_label": ["here"],
                "cost": [cost.name for cost in doubled],
                "doubled": [*doubled.values()],
            },
            header=[
                "cost",
                "times",
                "ns each",
                "ns, all CPUs",
                "kind",
                "twice it adds",
            ],
            rows=[
                [
                    line.cost.name,
                    f"{line.times:,}",
                    f"{line.cost.ns:,.1f}",
                    f"{line.ns:,.0f}",
                    line.cost.kind.value,
                    f"{doubled[line.cost]:+.0f} %",
                ]
                for line in bill.lines
            ],
            text=_reading(total, pages, bill),
        )


def _reading(total: float, pages: int, bill: Bill) -> str:
    """The bill in words."""
    said = f"Modelled: {total:,.0f} ns until the last CPU is done"
    if pages > 1:
        said += f", {total / pages:,.0f} ns for each page"
    waiting = sum(bill.waits.values()) / sum(bill.cpus.values())
    return f"{said}. {100 * waiting:.0f} % of it is waiting for other CPUs."
