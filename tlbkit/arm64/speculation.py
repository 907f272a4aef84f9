"""What a CPU may do to its TLB unasked: fill what would not fault, and drop anything.

A machine by itself does neither: its TLBs fill on accesses, and drop what is replaced
or invalidated. Here is everything else that the architecture permits at a moment
(`options`), how to do it (`perform`), and policies that choose: `never`, `fill_all`,
`drop_all`, or any function of the caller. `speculating` applies one after each event;
a scheduler that also lets CPUs take turns calls `options` and `perform` by itself.

Source: Arm ARM (DDI 0487) D8.12 "Translation Lookaside Buffers": entries may be filled
for any address at any time, and need not be retained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.walk import walk

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tlbkit.arm64.cached import CachedTable, Entry
    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine


class Fill(NamedTuple):
    """A CPU translates an address that nobody has asked it for.

    Attributes:
        cpu: Its number.
        va: The address.
    """

    cpu: int
    va: int


class Drop(NamedTuple):
    """A CPU forgets something.

    Attributes:
        cpu: Its number.
        what: A translation, or a table in its walk cache.
    """

    cpu: int
    what: Entry | CachedTable


Option = Fill | Drop


def options(machine: Machine, addresses: Collection[int]) -> Iterator[Option]:
    """Yield what the CPUs of *machine* may do unasked now, in a fixed order.

    Args:
        machine: Whose CPUs; those without tables translate nothing.
        addresses: Which addresses to think of; the architecture has no such limit.
    """
    for cpu in machine.cpus:
        regime = cpu.current
        if regime is None:
            continue
        for address in addresses:
            va = regime.canonical(address)
            if not cpu.tlb.answers(va, regime.asid):
                found = walk(regime, machine.memory, va)
                if not isinstance(found, Fault) and found.leaf.young:
                    yield Fill(cpu.number, address)
    for tlb in machine.tlbs:
        yield from (Drop(tlb.cpu, entry) for entry in tlb.entries())
        yield from (Drop(tlb.cpu, cached) for cached in tlb.walk.items())


def perform(machine: Machine, option: Option) -> None:
    """Do one of the `options`."""
    cpu = machine.cpus[option.cpu]
    if isinstance(option, Fill):
        cpu.prefetch(option.va)
    else:
        cpu.tlb.drop(option.what, "dropped unasked")


Policy = Callable[[Iterable[Option]], Iterable[Option]]


def never(_: Iterable[Option]) -> Iterable[Option]:
    """Do nothing unasked."""
    return ()


def fill_all(possible: Iterable[Option]) -> Iterable[Option]:
    """Fill as early as can be: whatever can become stale, does."""
    return [option for option in possible if isinstance(option, Fill)]


def drop_all(possible: Iterable[Option]) -> Iterable[Option]:
    """Keep nothing: every access walks all levels."""
    return [option for option in possible if isinstance(option, Drop)]


@contextmanager
def speculating(
    machine: Machine, addresses: Collection[int], policy: Policy
) -> Iterator[None]:
    """Let *policy* choose after each event, to the end of the ``with`` block.

    It is the scheduler of the machine's event stream for so long.
    """

    def act(_: Event) -> None:
        machine.events.schedule(None)  # what is done here is no occasion for more
        for option in tuple(policy(options(machine, addresses))):
            perform(machine, option)
        machine.events.schedule(act)

    machine.events.schedule(act)
    try:
        yield
    finally:
        machine.events.schedule(None)
