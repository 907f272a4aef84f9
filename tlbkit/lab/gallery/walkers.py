"""Lockless walks of tables that change hands: what a walker must never bring home.

Some processes map one GiB of huge pages and share the table for it. One of them looks
up a page without a lock while others leave, and the last one left puts the table to a
use of its own. A walker may come back with a page of the file, or with none; a page of
somebody's private memory is stolen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64.machine import Machine
from tlbkit.errors import TlbkitError
from tlbkit.explore.scheduler import Flow, World
from tlbkit.lab.gallery.meetings import PAGE, SMALL
from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
from tlbkit.linux.include.linux.mm_types import ptdesc_pmd_is_shared
from tlbkit.linux.kernel.kernel import PARTS, Kernel

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tlbkit.arm64.models import CpuModel
    from tlbkit.explore.scheduler import Scenario
    from tlbkit.linux.process import Process

BASE: Final = 1 << 40
HUGE: Final = 2 << 20
GIB: Final = 1 << 30
SECRET: Final = 0x5EC2E7


class StolenPageError(TlbkitError):
    """A process got hold of a page that is private memory of another one.

    Attributes:
        word: What it reads there.
    """

    def __init__(self, cpu: int, page: int, word: int) -> None:
        super().__init__(
            f"CPU {cpu} took frame {page:#x}, which is another process's private "
            f"memory: it reads {word:#x} there"
        )
        self.word = word


@dataclass(frozen=True)
class Sharers:
    """Processes that share one table, on a kernel of their own.

    The first stays: once it is alone, it unmaps the first huge page, maps private
    memory in its place and writes to it, all through the table that it now has for
    itself. Of the last, one thread walks while another leaves; those between leave.

    Attributes:
        kernel: The kernel.
        processes: The sharers; all have read the second huge page.
    """

    kernel: Kernel
    processes: tuple[Process, ...]

    @property
    def stayer(self) -> Process:
        """The one that stays."""
        return self.processes[0]

    def walk(self, process: Process, cpu: int) -> None:
        """Look the first page up without a lock, and hold it for a moment.

        Raises:
            StolenPageError: It belongs to another process.
        """
        thread = process.thread(cpu)
        pages = thread.get_pages(BASE, PAGE, fast_only=True)
        for page in pages:
            folio = self.kernel.page_alloc.folio(page)
            if not isinstance(folio, HugetlbFolio):
                word = self.kernel.machine.memory.read(page * PAGE)
                raise StolenPageError(cpu, page, word)
        thread.put_pages(pages)

    def leave(self, process: Process, cpu: int) -> None:
        """Unmap it all."""
        process.thread(cpu).munmap(BASE, GIB)

    def reuse(self) -> None:
        """Put the table to another use: the first 2 MiB of it become private memory.

        The one who does so waits until it is alone. If it left the table before, it
        would get one of its own, and nobody would walk that.
        """
        pmdp = self.kernel.pgtable.find_pmd(self.stayer.mm, BASE)
        assert pmdp is not None
        table = self.kernel.hugetlb.ptdesc(pmdp)
        self.kernel.machine.wait(lambda: not ptdesc_pmd_is_shared(table), "sharers")
        self.replace(BASE)

    def replace(self, address: int) -> None:
        """Put private memory of the stayer in the place of a huge page."""
        self.stayer.mmap(HUGE, addr=address, fixed=True)
        self.stayer.write(address, SECRET)


def sharers(
    number: int,
    parts: Mapping[str, type[Any]] = PARTS,
    model: CpuModel = SMALL,
) -> Sharers:
    """Return *number* processes, at least 2, that share a table, on a fresh kernel.

    The stayer is on CPU 2, the last on CPU 1, the others on CPUs from 3 on. They have
    another mapping not far away, so that no table above is freed when they leave.
    """
    kernel = Kernel(Machine(max(number + 1, 3), model), parts)
    return sharers_on(kernel, (2, *range(3, 1 + number), 1))


def sharers_on(
    kernel: Kernel, cpus: Sequence[int], touching: int | None = None
) -> Sharers:
    """Return processes that share a table on a kernel that is there.

    Args:
        kernel: The kernel.
        cpus: Where they run, the first one, which stays, first.
        touching: How many have used the pages, and so have the table; all if not given.
    """
    kernel.hugetlb.set_max_huge_pages(2)
    first = kernel.spawn(cpu=cpus[0])
    first.mmap(GIB, addr=BASE, shared=True, hugetlb=True, noreserve=True, fixed=True)
    first.mmap(PAGE, addr=BASE + 2 * GIB, fixed=True)
    processes = (first, *(first.fork(cpu=cpu) for cpu in cpus[1:]))
    for process in processes[:touching]:
        process.read(BASE)
        process.read(BASE + HUGE)
    return Sharers(kernel, processes)


def unshare_and_walk(
    number: int = 2,
    *,
    parts: Mapping[str, type[Any]] = PARTS,
    taken_out: Collection[str] = (),
) -> Scenario:
    """Return the meeting of a walker, those who leave, and the one that reuses.

    CPU 0 walks for the last process and CPU 1 unmaps it; the first process, on CPU 2,
    reuses the table; each other process leaves on a CPU of its own.

    Args:
        number: Processes that share the table, 2 or 3.
        parts: Of the kernel.
        taken_out: What is taken out of it, once everything is prepared.
    """

    def make() -> World:
        scene = sharers(number, parts)
        scene.kernel.machine.taken_out = frozenset(taken_out)
        last = scene.processes[-1]
        flows = [
            Flow("walk", 0, partial(scene.walk, last, 0)),
            Flow("munmap", 1, partial(scene.leave, last, 1)),
            Flow("reuse", 2, scene.reuse),
        ]
        flows += [
            Flow(
                f"munmap of another, on CPU {cpu}", cpu, partial(scene.leave, one, cpu)
            )
            for cpu, one in enumerate(scene.processes[1:-1], 3)
        ]
        return World(scene.kernel.machine, tuple(flows))

    return make
