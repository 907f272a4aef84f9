"""Many processes that share tables exit, one after another, on a large machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64.machine import Machine
from tlbkit.lab.hugetlb import share
from tlbkit.observe.counters import counting
from tlbkit.observe.timing import timing
from tlbkit.patches.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator


class Exit(NamedTuple):
    """The exit of one process.

    Attributes:
        broadcasts: How often it interrupted every other CPU.
        interrupts: How many interrupts these were.
        ns: Its modelled time.
    """

    broadcasts: int
    interrupts: int
    ns: float


def exits(version: str, *, sharers: int, tables: int, cpus: int) -> Iterator[Exit]:
    """Let *sharers* processes share *tables* tables, and yield each exit of them.

    Args:
        version: A kernel by name.
        sharers: How many processes there are.
        tables: How many tables, one for each GiB.
        cpus: CPUs of the machine, on which the processes are in turn.
    """
    machine = Machine(cpus)
    processes = share(Kernel(machine, version), tables, sharers)
    for process in reversed(processes):
        with counting(machine) as counts, timing(machine) as clocks:
            process.exit()
        bill = clocks.bill()
        yield Exit(counts.ipi_broadcasts, counts.ipi_cpus, bill.elapsed_ns)
