"""Flows that meet a walk without a lock: what GUP-fast must never bring home.

Pages and tables go to another process while a walk is in them. That a walk meets a
table that it shares with others is told by `tlbkit.lab.gallery.hugetlb_meetings`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tlbkit.lab.gallery.meetings import PAGE, LostWriteError, Meeting, Stage, quiet
from tlbkit.lab.gallery.walkers import BASE, GIB, HUGE, SECRET, StolenPageError
from tlbkit.linux.mm.mmap import MAP_HUGE_1GB

if TYPE_CHECKING:
    from tlbkit.linux.process import Process, Thread


def _walk(stage: Stage, thread: Thread, address: int, mine: int) -> None:
    """Add a flow that looks a page up without a lock, and looks at what it has got."""
    memory = stage.kernel.machine.memory

    def run() -> None:
        pages = thread.get_pages(address, PAGE, fast_only=True)
        for page in pages:
            word = memory.read(page * PAGE)
            if word != mine:
                raise StolenPageError(thread.cpu, page, word)
        thread.put_pages(pages)

    stage.flow("GUP-fast", thread.cpu, run)


def _walk_and_unmap(stage: Stage) -> None:
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    process.mmap(2 * PAGE, addr=BASE, fixed=True)
    process.write(BASE, 1)
    process.write(BASE + PAGE, 1)
    stranger = stage.kernel.spawn(0)
    theirs = stranger.mmap(2 * PAGE)
    stranger.write(theirs, SECRET)
    stage.kernel.swap.lru_add_drain_all()

    def run() -> None:
        process.munmap(BASE, PAGE)
        stranger.write(theirs + PAGE, SECRET)

    _walk(stage, thread, BASE, 1)
    stage.flow("munmap, then a new page of another process", 0, run)


def _walk_and_unmap_huge(stage: Stage, *, size: int) -> None:
    kernel = stage.kernel
    kernel.hugetlb.set_max_huge_pages(1, size)
    flags = MAP_HUGE_1GB if size == GIB else 0
    process = kernel.spawn(0)
    thread = process.thread(1)
    process.mmap(size, addr=BASE, hugetlb=True, fixed=True, flags=flags)
    process.mmap(PAGE, addr=BASE + 2 * GIB, fixed=True)
    process.write(BASE, 1)
    stranger = kernel.spawn(0)
    stranger.mmap(
        size, addr=BASE, hugetlb=True, fixed=True, flags=flags, noreserve=True
    )

    def run() -> None:
        process.munmap(BASE, size)
        stranger.read(BASE)

    _walk(stage, thread, BASE, 1)
    stage.flow("munmap, then a page of another process", 0, run)


def _walk_and_free(stage: Stage, *, memory: bool) -> None:
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    process.mmap(PAGE, addr=BASE, fixed=True)
    process.write(BASE, 1)
    if not memory:
        stage.kernel.page_alloc.fail = lambda: True
    _walk(stage, thread, BASE, 1)
    stage.flow("munmap", 0, lambda: process.munmap(BASE, PAGE))


def _walk_and_collapse(stage: Stage) -> None:
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    process.mmap(HUGE, addr=BASE, fixed=True)
    process.write(BASE, 1)
    stage.kernel.swap.lru_add_drain_all()

    def run() -> None:
        process.madvise(BASE, HUGE, "collapse")
        process.munmap(BASE, HUGE)

    _walk(stage, thread, BASE, 1)
    stage.flow("MADV_COLLAPSE, then munmap", 0, run)


def _pinned(stage: Stage, process: Process, thread: Thread) -> None:
    """Add a flow that pins a page; what its process writes later a device must see."""
    pinned: list[int] = []

    def pin() -> None:
        pinned.extend(thread.pin(BASE, PAGE, write=True, fast_only=True))

    def check() -> None:
        process.write(BASE, 2)
        for page in pinned:
            word = stage.kernel.machine.memory.read(page * PAGE)
            if word != 2:
                raise LostWriteError(0, BASE, 2, word)
        thread.unpin(pinned)

    stage.flow("pin", thread.cpu, pin)
    stage.ends.append(check)


def _pin_and_fork(stage: Stage) -> None:
    process = stage.kernel.spawn(0)
    process.mmap(PAGE, addr=BASE, fixed=True)
    process.write(BASE, 1)
    stage.kernel.swap.lru_add_drain_all()
    _pinned(stage, process, process.thread(1))
    stage.flow("fork", 0, lambda: quiet(process.fork, 0))


def _pin_and_collapse(stage: Stage) -> None:
    process = stage.kernel.spawn(0)
    process.mmap(HUGE, addr=BASE, fixed=True)
    process.write(BASE, 1)
    stage.kernel.swap.lru_add_drain_all()
    _pinned(stage, process, process.thread(1))
    stage.flow("MADV_COLLAPSE", 0, lambda: process.madvise(BASE, HUGE, "collapse"))


_GATHER: Final = "book/kernel/mmu-gather.md"
_GUP: Final = "book/kernel/gup-fast.md"

GUP_MEETINGS: Final = {
    one.name: one
    for one in (
        Meeting(
            "walk and unmap",
            "GUP-fast while its page goes to another process",
            _walk_and_unmap,
            _GUP,
        ),
        Meeting(
            "walk and unmap huge",
            "GUP-fast while its huge page goes to another process",
            partial(_walk_and_unmap_huge, size=HUGE),
            _GUP,
        ),
        Meeting(
            "walk and unmap giant",
            "GUP-fast while its page of 1 GiB goes to another process",
            partial(_walk_and_unmap_huge, size=GIB),
            _GUP,
        ),
        Meeting(
            "walk and free",
            "GUP-fast while its tables are freed",
            partial(_walk_and_free, memory=True),
            _GATHER,
        ),
        Meeting(
            "walk and free now",
            "GUP-fast while its tables are freed, with no memory to put that off",
            partial(_walk_and_free, memory=False),
            _GATHER,
        ),
        Meeting(
            "pin and fork", "a pin by GUP-fast while fork copies", _pin_and_fork, _GUP
        ),
    )
}
"""Every meeting, by its name."""

LONG_MEETINGS: Final = {
    one.name: one
    for one in (
        Meeting(
            "walk and collapse",
            "GUP-fast while its table is collapsed into a block, and then freed",
            _walk_and_collapse,
            _GUP,
        ),
        Meeting(
            "pin and collapse",
            "a pin by GUP-fast while its table is collapsed into a block",
            _pin_and_collapse,
            _GUP,
        ),
    )
}
"""Not in the table: collapse looks at 512 entries twice, so a run has 1,500 steps."""
