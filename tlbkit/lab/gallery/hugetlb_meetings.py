"""Flows that meet at huge pages of a pool, and at the tables that processes share.

A process may own a piece of a file alone, privately, or map it together with others
through one table. Tables are shared, left, changed and freed here while others use them
by all three ways that there are: the hardware, a fault, and a walk without a lock.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tlbkit.errors import TlbkitError
from tlbkit.lab.gallery.meetings import (
    PAGE,
    ChildChangedError,
    KilledError,
    Meeting,
    Stage,
    expect_no_write,
)
from tlbkit.lab.gallery.walkers import BASE, GIB, HUGE, sharers_on
from tlbkit.linux.include.uapi.asm_generic.errno import Signal

if TYPE_CHECKING:
    from tlbkit.linux.process import Process, Thread

SECRET: Final = 0x5EC2E7


class LeakedWordError(TlbkitError):
    """New private memory holds what another process wrote."""

    def __init__(self, address: int, word: int) -> None:
        super().__init__(
            f"new memory at {address:#x} holds {word:#x} of another process"
        )


# -- tables that are shared ------------------------------------------------------------


def _unshare_and_walk(stage: Stage, *, number: int) -> None:
    scene = sharers_on(stage.kernel, (1,) * number)
    last = scene.processes[-1]

    def run() -> None:
        for process in reversed(scene.processes[1:]):
            scene.leave(process, 1)
        scene.replace(BASE)

    stage.flow("GUP-fast", 0, lambda: scene.walk(last, 0))
    stage.flow("munmap by all but one, which reuses the table", 1, run)


def _leave_and_reuse(stage: Stage, how: str) -> None:
    scene = sharers_on(stage.kernel, (0, 1))
    last = scene.processes[-1]
    calls = {
        "munmap": lambda: last.munmap(BASE, GIB),
        "mprotect(r)": lambda: last.mprotect(BASE, GIB, "r"),
        "mprotect(r) of one page": lambda: last.mprotect(BASE, HUGE, "r"),
    }
    stage.flow(how, 1, calls[how])
    stage.flow("reuse of the table", 0, scene.reuse)


def _drop_and_fault(stage: Stage) -> None:
    scene = sharers_on(stage.kernel, (0, 0))
    stage.kernel.hugetlb.set_max_huge_pages(3)
    first, last = scene.processes
    thread = last.thread(1)
    address = BASE + 2 * HUGE

    def run() -> None:
        last.madvise(BASE, GIB, "dontneed")
        first.mmap(HUGE, addr=address, fixed=True)

    def private() -> None:
        word = first.read(address + 8)  # where the thread on CPU 1 writes
        if word:
            raise LeakedWordError(address + 8, word)

    stage.flow("MADV_DONTNEED, then reuse of the table", 0, run)
    stage.writer(thread, address)
    stage.ends.append(private)


def _unshare_and_write(stage: Stage, *, number: int) -> None:
    scene = sharers_on(stage.kernel, (1,) * number)
    last = scene.processes[-1]
    thread = last.thread(0)
    thread.write(BASE + HUGE, 1)
    stage.writer(thread, BASE + HUGE)
    stage.flow("munmap", 1, lambda: scene.leave(last, 1))


def _leave_and_fault(stage: Stage) -> None:
    scene = sharers_on(stage.kernel, (0, 1))
    stage.kernel.hugetlb.set_max_huge_pages(3)
    first, last = scene.processes
    stage.flow("munmap", 1, lambda: scene.leave(last, 1))
    stage.writer(first, BASE + 2 * HUGE)


def _faults(stage: Stage) -> None:
    scene = sharers_on(stage.kernel, (0, 1))
    stage.kernel.hugetlb.set_max_huge_pages(3)
    for process in scene.processes:
        _insist(stage, process, BASE + 2 * HUGE)
        stage.watched.append((process, BASE + 2 * HUGE))


def _leave_while_sharing(stage: Stage) -> None:
    scene = sharers_on(stage.kernel, (1, 1, 0), 2)
    first, middle, last = scene.processes

    def run() -> None:
        scene.leave(middle, 1)
        first.mmap(HUGE, addr=BASE, fixed=True)

    def private() -> None:
        word = first.read(BASE)
        if word:
            raise LeakedWordError(BASE, word)

    stage.flow("munmap by one, and reuse by the other", 1, run)
    stage.writer(last, BASE)
    stage.ends.append(private)


def _leave_two(stage: Stage) -> None:
    scene = sharers_on(stage.kernel, (0, 0, 1))
    _, middle, last = scene.processes
    stage.flow("munmap by one", 0, lambda: scene.leave(middle, 0))
    stage.flow("munmap by another", 1, lambda: scene.leave(last, 1))


def _share(stage: Stage) -> None:
    scene = sharers_on(stage.kernel, (0, 0), 1)
    last = scene.processes[-1]
    thread = last.thread(1)
    stage.writer(last, BASE)
    stage.writer(thread, BASE + HUGE)


def _exit_two(stage: Stage) -> None:
    _, middle, last = sharers_on(stage.kernel, (0, 0, 1)).processes
    stage.flow("exit of one", 0, middle.exit)
    stage.flow("exit of another", 1, last.exit)


def _protect_shared(stage: Stage) -> None:
    scene = sharers_on(stage.kernel, (0, 1))
    first = scene.stayer
    thread = first.thread(1)
    thread.write(BASE + HUGE, 1)
    stage.flow("mprotect(r)", 0, lambda: first.mprotect(BASE, GIB, "r"))
    stage.writer(thread, BASE + HUGE)
    stage.ends.append(lambda: expect_no_write(first, BASE + HUGE))


# -- huge pages of one process ---------------------------------------------------------


def _private(stage: Stage, pages: int = 1) -> tuple[Process, Thread]:
    """Return a process on CPU 0 and its thread on CPU 1, which have a huge page."""
    stage.kernel.hugetlb.set_max_huge_pages(pages)
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    process.mmap(HUGE, addr=BASE, hugetlb=True, fixed=True)
    process.mmap(PAGE, addr=BASE + 2 * GIB, fixed=True)
    return process, thread


def _insist(stage: Stage, thread: Thread, address: int) -> None:
    """Add a flow that writes, and is not to be killed for it."""

    def run() -> None:
        try:
            thread.write(address + 8 * thread.cpu, 1)
        except Signal as signal:
            raise KilledError(thread.cpu, str(signal)) from None

    stage.flow(f"thread on CPU {thread.cpu} writes", thread.cpu, run)


def _drop_huge(stage: Stage) -> None:
    process, thread = _private(stage)
    process.write(BASE, 1)
    stage.flow("MADV_DONTNEED", 0, lambda: process.madvise(BASE, HUGE, "dontneed"))
    _insist(stage, thread, BASE)


def _replace(stage: Stage) -> None:
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    base = process.mmap(2 * PAGE)
    process.write(base + PAGE, 1)

    def run() -> None:
        process.mmap(PAGE, "r", addr=base, fixed=True)

    stage.flow("mmap(r) over it", 0, run)
    stage.flow("thread on CPU 1 writes", 1, lambda: thread.write(base, 2))
    stage.ends.append(lambda: expect_no_write(process, base))


def _first_touches(stage: Stage) -> None:
    process = stage.kernel.spawn(0)
    process.mmap(PAGE, addr=BASE + HUGE, fixed=True)
    process.write(BASE + HUGE, 1)
    process.mmap(2 * PAGE, addr=BASE, fixed=True)
    stage.writer(process, BASE)
    stage.writer(process.thread(1), BASE + PAGE)
    stage.watched += [(process, BASE), (process, BASE + PAGE + 8)]


def _protect_huge(stage: Stage) -> None:
    process, thread = _private(stage)
    process.write(BASE, 1)
    thread.write(BASE + 8, 1)
    stage.flow("mprotect(r)", 0, lambda: process.mprotect(BASE, HUGE, "r"))
    stage.writer(thread, BASE, times=2)
    stage.ends.append(lambda: expect_no_write(process, BASE))


def _first_touch_huge(stage: Stage) -> None:
    process, thread = _private(stage, 2)
    stage.writer(process, BASE)
    stage.writer(thread, BASE)
    stage.watched += [(process, BASE), (process, BASE + 8)]


def _fork_huge(stage: Stage) -> None:
    process, thread = _private(stage, 2)
    process.write(BASE, 1)
    thread.write(BASE + 8, 1)
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
    stage.writer(thread, BASE)
    stage.ends.append(unchanged)
    stage.watched.append((process, BASE + 8))


def _copy_huge(stage: Stage, *, both: bool) -> None:
    process, thread = _private(stage, 3)
    process.write(BASE, 1)
    process.fork(0)
    process.read(BASE)
    thread.read(BASE)
    stage.writer(process, BASE)
    if both:
        stage.writer(thread, BASE)
    else:
        stage.reader(thread, BASE)
    stage.watched.append((process, BASE))


_FAULT: Final = "book/kernel/fault-path.md"
_FORK: Final = "book/kernel/fork.md"
_GATHER: Final = "book/kernel/mmu-gather.md"
_UNSHARE: Final = "book/commits/hugetlb-unshare.md"

HUGETLB_MEETINGS: Final = {
    one.name: one
    for one in (
        Meeting(
            "unshare and walk",
            "GUP-fast while its process leaves a table, which its owner reuses",
            partial(_unshare_and_walk, number=2),
            _UNSHARE,
        ),
        Meeting(
            "unshare of three and walk",
            "GUP-fast while two of three leave a table, which the last one reuses",
            partial(_unshare_and_walk, number=3),
            _UNSHARE,
        ),
        Meeting(
            "unshare and reuse",
            "munmap of shared huge pages while the other owner reuses their table",
            partial(_leave_and_reuse, how="munmap"),
            _UNSHARE,
        ),
        Meeting(
            "protect and reuse",
            "mprotect(r) of shared huge pages while the other owner reuses their table",
            partial(_leave_and_reuse, how="mprotect(r)"),
            _UNSHARE,
        ),
        Meeting(
            "split and reuse",
            "mprotect(r) of one of them while the other owner reuses their table",
            partial(_leave_and_reuse, how="mprotect(r) of one page"),
            _UNSHARE,
        ),
        Meeting(
            "unshare and write",
            "munmap of shared huge pages while a thread writes",
            partial(_unshare_and_write, number=2),
            _UNSHARE,
        ),
        Meeting(
            "unshare of three and write",
            "munmap by one of three sharers while its thread writes",
            partial(_unshare_and_write, number=3),
            _UNSHARE,
        ),
        Meeting(
            "drop and fault",
            "MADV_DONTNEED of a shared table, and its reuse, while a thread faults",
            _drop_and_fault,
            _UNSHARE,
        ),
        Meeting(
            "leave and fault",
            "munmap by one sharer while the other one faults",
            _leave_and_fault,
            _UNSHARE,
        ),
        Meeting(
            "leave while sharing",
            "munmap by one of two, and reuse of their table, while a third one joins",
            _leave_while_sharing,
            _UNSHARE,
        ),
        Meeting("leave two", "two of three sharers unmap", _leave_two, _UNSHARE),
        Meeting("exit two", "two of three sharers exit", _exit_two, _UNSHARE),
        Meeting("share", "two threads come to share a table", _share, _UNSHARE),
        Meeting(
            "faults", "two sharers touch the last page of the pool", _faults, _UNSHARE
        ),
        Meeting(
            "protect shared",
            "mprotect(r) of a shared table while a thread writes",
            _protect_shared,
            _UNSHARE,
        ),
        Meeting(
            "protect huge",
            "mprotect(r) of a huge page while a thread writes",
            _protect_huge,
            _UNSHARE,
        ),
        Meeting(
            "drop huge",
            "MADV_DONTNEED of a pool's only page while a thread writes",
            _drop_huge,
            _UNSHARE,
        ),
        Meeting(
            "fork huge", "fork while a thread writes to a huge page", _fork_huge, _FORK
        ),
        Meeting(
            "copy huge",
            "copy on write of a huge page while a thread reads",
            partial(_copy_huge, both=False),
            _UNSHARE,
        ),
        Meeting(
            "copies huge",
            "two threads write to a huge page that a child shares",
            partial(_copy_huge, both=True),
            _UNSHARE,
        ),
        Meeting(
            "replace",
            "mmap(r) over a place that a thread writes to",
            _replace,
            _GATHER,
        ),
        Meeting(
            "first touches",
            "two threads write to the first pages of a new table",
            _first_touches,
            _FAULT,
        ),
    )
}
"""Every meeting, by its name."""

TOUCH_HUGE: Final = Meeting(
    "touch huge",
    "two threads write to a private huge page for the first time",
    _first_touch_huge,
    "book/commits/write-fault.md",
)
"""Not in the table, as it fails in a whole kernel.

A private huge page is first mapped read-only, and made writable at once. A CPU whose
TLB took the read-only entry in between faults, finds nothing to change, and flushes
nothing: hugetlb's faults have no `fix_spurious_fault`, and since the entry is flushed
on the writer's CPU only, nothing else drops the stale one. In the model it stays for
ever; a real TLB forgets it some day.
"""
