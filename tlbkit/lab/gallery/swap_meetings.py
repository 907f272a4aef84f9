"""Flows that meet at a page that goes to swap or comes back, moves, or is dropped."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tlbkit.lab.gallery.meetings import (
    PAGE,
    ForbiddenWriteError,
    Meeting,
    Stage,
    given_up,
    keeps,
    move_mapping,
    quiet,
    reclaim,
)

if TYPE_CHECKING:
    from tlbkit.linux.process import Process, Thread

BASE: Final = 1 << 40
BLOCK: Final = 2 << 20
BESIDE: Final = BASE + (4 << 20)
"""Another place for pages, in another table below the same PMD table."""


def _used(stage: Stage, *, synchronous: bool = True) -> tuple[Process, Thread]:
    """Return a process on CPU 0 and its thread on CPU 1, with a page that both used.

    Args:
        stage: Where they go; there is swap.
        synchronous: The swap device answers at once, as zram does.
    """
    stage.kernel.swapfile.swapon(4, synchronous_io=synchronous)
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    process.mmap(PAGE, addr=BASE, fixed=True)
    process.write(BASE, 1)
    thread.write(BASE + 8, 1)
    stage.kernel.swap.lru_add_drain_all()
    return process, thread


def _swapped(stage: Stage, *, synchronous: bool = True) -> tuple[Process, Thread]:
    """Return them with the page in swap, and no copy of it in memory."""
    process, thread = _used(stage, synchronous=synchronous)
    process.madvise(BASE, PAGE, "pageout")
    return process, thread


def _page_out(stage: Stage) -> None:
    process, thread = _used(stage)
    stage.flow("MADV_PAGEOUT", 0, lambda: process.madvise(BASE, PAGE, "pageout"))
    keeps(stage, process, thread, BASE + 8, (BASE + 8,), times=2)


def _page_out_and_drop(stage: Stage) -> None:
    process, thread = _used(stage)
    stage.flow("MADV_PAGEOUT", 0, lambda: process.madvise(BASE, PAGE, "pageout"))
    stage.flow("MADV_DONTNEED", 1, lambda: thread.madvise(BASE, PAGE, "dontneed"))


def _page_out_and_remap(stage: Stage) -> None:
    process, thread = _used(stage)
    process.mmap(PAGE, addr=BESIDE, fixed=True)
    process.write(BESIDE, 1)
    stage.flow("MADV_PAGEOUT", 0, lambda: process.madvise(BASE, PAGE, "pageout"))
    stage.flow("mremap", 1, lambda: move_mapping(thread, BASE, PAGE, BESIDE))


def _reclaim_and_protect(stage: Stage) -> None:
    """Reclaim comes by the page; what mprotect has taken away is gone as it returns."""
    process, thread = _used(stage)
    reclaim(stage, BASE, cpu=2)
    protected: list[bool] = []

    def protect() -> None:
        process.mprotect(BASE, PAGE, "r")
        protected.append(True)

    def write() -> None:
        late = bool(protected)
        thread.write(BASE + 8, 2)
        if late:
            raise ForbiddenWriteError(BASE + 8)

    stage.flow("mprotect(r)", 0, protect)
    stage.flow("thread on CPU 1 writes", 1, write)


def _free(stage: Stage) -> None:
    process, thread = _used(stage)
    given_up(stage, process, thread, BASE, PAGE)


def _cold(stage: Stage) -> None:
    process, thread = _used(stage)
    stage.flow("MADV_COLD", 0, lambda: process.madvise(BASE, PAGE, "cold"))
    keeps(stage, process, thread, BASE + 8, (BASE + 8,))


def _drop(stage: Stage) -> None:
    process, thread = _used(stage)
    other = process.mmap(PAGE)

    def run() -> None:
        process.madvise(BASE, PAGE, "dontneed")
        process.write(other, 5)  # a new page: the frame that was just freed

    stage.flow("MADV_DONTNEED, then a new page", 0, run)
    stage.flow("thread on CPU 1 writes", 1, lambda: thread.write(BASE + 8, 2))


def _swap_in(stage: Stage, *, synchronous: bool) -> None:
    process, thread = _swapped(stage, synchronous=synchronous)
    stage.writer(process, BASE)
    stage.writer(thread, BASE)
    stage.watched += [(process, BASE), (process, BASE + 8)]


def _swap_in_and_free(stage: Stage) -> None:
    process, thread = _swapped(stage)
    stage.flow("MADV_FREE", 0, lambda: process.madvise(BASE, PAGE, "free"))
    stage.flow("thread on CPU 1 writes", 1, lambda: thread.write(BASE + 8, 2))


def _move(stage: Stage, *, cached: bool) -> None:
    """MOVE of a page in swap while a thread reads it in and writes to it."""
    process, thread = _swapped(stage, synchronous=not cached)
    process.mmap(PAGE, addr=BESIDE, fixed=True)
    process.write(BESIDE + 0, 1)
    process.madvise(BESIDE, PAGE, "dontneed")
    fd = process.userfaultfd()
    fd.register(BESIDE, PAGE)
    fd.serve(None)
    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, BESIDE, BASE, PAGE))
    keeps(stage, process, thread, BASE + 8, (BASE + 8, BESIDE + 8))


def _move_and_drop(stage: Stage) -> None:
    process, thread = _swapped(stage)
    process.mmap(PAGE, addr=BESIDE, fixed=True)
    fd = process.userfaultfd()
    fd.register(BESIDE, PAGE)
    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, BESIDE, BASE, PAGE))
    stage.flow("MADV_DONTNEED", 1, lambda: thread.madvise(BASE, PAGE, "dontneed"))


def _remap(stage: Stage, *, size: int) -> None:
    """Move a page, or a table, by mremap; what is beside it stays, and so do tables."""
    process, thread = _used(stage)
    process.mmap(size + PAGE, addr=BASE, fixed=True)
    process.write(BASE, 1)
    thread.write(BASE + 8, 1)
    process.write(BASE + size, 1)
    target = BASE + (1 << 31)
    process.mmap(size, addr=target, fixed=True)
    process.mmap(PAGE, addr=target + size, fixed=True)
    process.write(target + size, 1)
    stage.flow("mremap", 0, lambda: move_mapping(process, BASE, size, target))
    keeps(stage, process, thread, BASE + 8, (BASE + 8, target + 8), times=2)


_RECLAIM: Final = "book/kernel/moving-and-reclaim.md"
_MPROTECT: Final = "book/commits/mprotect.md"
_MOVE: Final = "book/commits/userfaultfd-move.md"
_GATHER: Final = "book/kernel/mmu-gather.md"

SWAP_MEETINGS: Final = {
    one.name: one
    for one in (
        Meeting("page out", "MADV_PAGEOUT while a thread writes", _page_out, _RECLAIM),
        Meeting(
            "page out and drop",
            "MADV_PAGEOUT and MADV_DONTNEED",
            _page_out_and_drop,
            _RECLAIM,
        ),
        Meeting(
            "page out and remap",
            "MADV_PAGEOUT and mremap",
            _page_out_and_remap,
            _RECLAIM,
        ),
        Meeting(
            "reclaim and protect",
            "reclaim of a page and mprotect(r) while a thread writes",
            _reclaim_and_protect,
            _MPROTECT,
            cpus=3,
        ),
        Meeting("free", "MADV_FREE and reclaim while a thread writes", _free, _RECLAIM),
        Meeting("cold", "MADV_COLD while a thread writes", _cold, _RECLAIM),
        Meeting(
            "drop",
            "MADV_DONTNEED and a new page, while a thread writes",
            _drop,
            _GATHER,
        ),
        Meeting(
            "swap in",
            "two threads write to a page in swap",
            partial(_swap_in, synchronous=True),
            _RECLAIM,
        ),
        Meeting(
            "swap in cached",
            "two threads write to a page on a swap disk",
            partial(_swap_in, synchronous=False),
            _RECLAIM,
        ),
        Meeting(
            "swap in and free",
            "MADV_FREE of a page in swap while a thread writes to it",
            _swap_in_and_free,
            _RECLAIM,
        ),
        Meeting(
            "move swapped",
            "UFFDIO_MOVE of a page in swap while a thread writes to it",
            partial(_move, cached=False),
            _MOVE,
        ),
        Meeting(
            "move swapped cached",
            "UFFDIO_MOVE of a page on a swap disk while a thread writes to it",
            partial(_move, cached=True),
            _MOVE,
        ),
        Meeting(
            "move and drop swapped",
            "UFFDIO_MOVE and MADV_DONTNEED of a page in swap",
            _move_and_drop,
            _MOVE,
        ),
        Meeting(
            "remap",
            "mremap of a page while a thread writes",
            partial(_remap, size=PAGE),
            _RECLAIM,
        ),
        Meeting(
            "remap table",
            "mremap of a table while a thread writes",
            partial(_remap, size=BLOCK),
            _RECLAIM,
        ),
    )
}
"""Every meeting, by its name."""
