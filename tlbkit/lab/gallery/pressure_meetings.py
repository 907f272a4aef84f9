"""Flows that meet reclaim, or run out of memory: whoever else is at work, and where.

Reclaim comes as kswapd does: by the page, on a CPU of its own, with no lock of the
address space. An allocation that fails is a flow too: it decides when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.lab.gallery.meetings import (
    PAGE,
    ChildChangedError,
    Meeting,
    Stage,
    keeps,
    move_mapping,
    quiet,
    reclaim,
)

if TYPE_CHECKING:
    from tlbkit.linux.process import Process, Thread

BASE: Final = 1 << 40
BESIDE: Final = BASE + (4 << 20)
"""Another place for pages, in another table below the same PMD table."""


class Shortage:
    """Lets the next allocation fail, once it has begun.

    Attributes:
        left: How many allocations are to fail.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = 0

    def begin(self) -> None:
        """From now on."""
        self.left = 1

    def fails(self) -> bool:
        """Tell whether this allocation fails."""
        if not self.left:
            return False
        self.left -= 1
        return True


def shortage(stage: Stage, cpu: int) -> None:
    """Add a flow that lets one allocation fail, whoever comes next."""
    shortage = Shortage()
    stage.kernel.page_alloc.fail = shortage.fails
    stage.flow("memory runs out", cpu, shortage.begin)


def used(stage: Stage) -> tuple[Process, Thread]:
    """Return a process on CPU 0 and its thread on CPU 1, with a page that both used.

    There is swap, and a page at a place beside. More pages keep the tables of both.
    """
    stage.kernel.swapfile.swapon(4)
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    for address in (BASE, BESIDE):
        process.mmap(PAGE, addr=address, fixed=True)
        process.mmap(PAGE, "r", addr=address + 2 * PAGE, fixed=True)
        process.read(address + 2 * PAGE)
        process.write(address, 1)
    thread.write(BASE + 8, 1)
    return process, thread


def fork(stage: Stage, process: Process) -> None:
    """Add a fork on CPU 0, whose child keeps what it got."""
    children: list[tuple[Process, int]] = []

    def run() -> None:
        child = process.fork(0)
        children.append((child, child.read(BASE + 8)))

    def unchanged() -> None:
        for child, had in children:
            has = child.read(BASE + 8)
            if has != had:
                raise ChildChangedError(BASE + 8, had, has)

    stage.flow("fork", 0, run)
    stage.ends.append(unchanged)


def _reclaim_and_fork(stage: Stage) -> None:
    process, thread = used(stage)
    reclaim(stage, BASE, cpu=2)
    fork(stage, process)
    keeps(stage, process, thread, BASE + 8, (BASE + 8,))


def _reclaim_and_copy(stage: Stage) -> None:
    """Two threads write to a page that a child shares, while reclaim comes by it."""
    process, thread = used(stage)
    process.fork(0)
    process.read(BASE)
    thread.read(BASE)
    reclaim(stage, BASE, cpu=2)
    stage.writer(process, BASE)
    stage.writer(thread, BASE)
    stage.watched += [(process, BASE), (process, BASE + 8)]


def _reclaim_and_remap(stage: Stage) -> None:
    process, thread = used(stage)
    reclaim(stage, BASE, cpu=2)
    stage.flow("mremap", 0, lambda: move_mapping(process, BASE, PAGE, BESIDE))
    keeps(stage, process, thread, BASE + 8, (BASE + 8, BESIDE + 8))


def _reclaim_and_move(stage: Stage) -> None:
    process, thread = used(stage)
    process.madvise(BESIDE, PAGE, "dontneed")
    fd = process.userfaultfd()
    fd.register(BESIDE, PAGE)
    fd.serve(None)
    reclaim(stage, BASE, cpu=2)
    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, BESIDE, BASE, PAGE))
    keeps(stage, process, thread, BASE + 8, (BASE + 8, BESIDE + 8))


def _reclaim_and_drop(stage: Stage) -> None:
    """Two calls that wait for the batch of reclaim, while a thread brings a page back.

    What was given up before a call began is nowhere in a TLB when it returns.
    """
    process, thread = used(stage)
    reclaim(stage, BASE, cpu=2)

    def drop() -> None:
        process.madvise(BESIDE, PAGE, "dontneed")
        process.madvise(BASE, PAGE, "dontneed")

    stage.flow("MADV_DONTNEED, twice", 0, drop)
    stage.flow("thread on CPU 1 writes", 1, lambda: thread.write(BASE + 8, 2))


def _fork_without_memory(stage: Stage) -> None:
    process, thread = used(stage)
    shortage(stage, 2)
    fork(stage, process)
    keeps(stage, process, thread, BASE + 8, (BASE + 8,))


def _copy_without_memory(stage: Stage) -> None:
    process, thread = used(stage)
    process.fork(0)
    process.read(BASE)
    thread.read(BASE)
    shortage(stage, 2)
    stage.writer(process, BASE)
    keeps(stage, process, thread, BASE + 8, (BASE + 8,))


def _unmap_without_memory(stage: Stage) -> None:
    """A gather without a page for its batch frees at once, and waits for walkers."""
    process, thread = used(stage)
    shortage(stage, 2)
    stage.flow("munmap", 0, lambda: process.munmap(BASE, PAGE))
    stage.flow("thread on CPU 1 writes", 1, lambda: thread.write(BASE + 8, 2))


def _remap_without_memory(stage: Stage) -> None:
    process, thread = used(stage)
    far = BASE + (1 << 31)
    shortage(stage, 2)
    stage.flow("mremap", 0, lambda: move_mapping(process, BASE, PAGE, far))
    keeps(stage, process, thread, BASE + 8, (BASE + 8, far + 8))


_RECLAIM: Final = "book/kernel/moving-and-reclaim.md"
_FORK: Final = "book/kernel/fork.md"
_GATHER: Final = "book/kernel/mmu-gather.md"
_WRITE: Final = "book/commits/write-fault.md"
_MOVE: Final = "book/commits/userfaultfd-move.md"

PRESSURE_MEETINGS: Final = {
    one.name: one
    for one in (
        Meeting(
            "reclaim and fork",
            "reclaim of a page and fork, while a thread writes",
            _reclaim_and_fork,
            _FORK,
            cpus=3,
        ),
        Meeting(
            "reclaim and copy",
            "reclaim of a shared page while two threads write",
            _reclaim_and_copy,
            _WRITE,
            cpus=3,
        ),
        Meeting(
            "reclaim and remap",
            "reclaim of a page and mremap, while a thread writes",
            _reclaim_and_remap,
            _RECLAIM,
            cpus=3,
        ),
        Meeting(
            "reclaim and move page",
            "reclaim of a page and UFFDIO_MOVE, while a thread writes",
            _reclaim_and_move,
            _MOVE,
            cpus=3,
        ),
        Meeting(
            "reclaim and drop",
            "reclaim of a page and MADV_DONTNEED, while a thread writes",
            _reclaim_and_drop,
            _RECLAIM,
            cpus=3,
        ),
        Meeting(
            "fork without memory",
            "fork while an allocation fails and a thread writes",
            _fork_without_memory,
            _FORK,
            cpus=3,
        ),
        Meeting(
            "copy without memory",
            "two writes to a shared page while an allocation fails",
            _copy_without_memory,
            _WRITE,
            cpus=3,
        ),
        Meeting(
            "unmap without memory",
            "munmap while an allocation fails and a thread writes",
            _unmap_without_memory,
            _GATHER,
            cpus=3,
        ),
        Meeting(
            "remap without memory",
            "mremap while an allocation fails and a thread writes",
            _remap_without_memory,
            _RECLAIM,
            cpus=3,
        ),
    )
}
"""Every meeting, by its name."""
