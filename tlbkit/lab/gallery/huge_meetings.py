"""Flows that meet at a block: one entry that maps 2 MiB, and what becomes of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tlbkit.lab.gallery.meetings import (
    PAGE,
    ChildChangedError,
    Meeting,
    Stage,
    expect_no_write,
    given_up,
    keeps,
    move_mapping,
    quiet,
    reclaim,
)

if TYPE_CHECKING:
    from tlbkit.linux.process import Process, Thread
    from tlbkit.linux.userfaultfd_fd import UserfaultFd

BLOCK: Final = 2 << 20
BASE: Final = 1 << 40
"""Where blocks are mapped: all that is below one PMD entry of another table."""

FAR: Final = BASE + (1 << 30)
"""Another place for blocks, below another PMD table."""


def _area(stage: Stage, *, zero: bool = False) -> tuple[Process, Thread]:
    """Return a process on CPU 0 and its thread on CPU 1, with room for a block.

    Args:
        stage: Where they go.
        zero: Reads may map the huge zero folio.
    """
    huge = stage.kernel.huge_memory
    huge.enabled = "always"
    huge.use_zero_page = zero
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    process.mmap(BLOCK, addr=BASE, fixed=True)
    return process, thread


def _block(stage: Stage) -> tuple[Process, Thread]:
    """Return them with a block at `BASE` that both have written to."""
    process, thread = _area(stage)
    process.write(BASE, 1)
    thread.write(BASE + 8, 1)
    return process, thread


def _shared(stage: Stage) -> tuple[Process, Thread]:
    """Return them with a block that a child has too, read on both CPUs."""
    process, thread = _block(stage)
    process.fork(0)
    process.read(BASE)
    thread.read(BASE)
    return process, thread


def _first_touch(stage: Stage) -> None:
    process, thread = _area(stage, zero=True)
    keeps(stage, process, process, BASE, (BASE,))
    stage.reader(thread, BASE, times=1)


def _zeros(stage: Stage) -> None:
    process, thread = _area(stage, zero=True)
    process.read(BASE)
    thread.read(BASE)
    stage.writer(process, BASE)
    stage.writer(thread, BASE)
    stage.watched += [(process, BASE), (process, BASE + 8)]


def _reusable(stage: Stage) -> tuple[Process, Thread]:
    """Return them with a block that was shared with a child, and is read-only still."""
    process, thread = _shared(stage)
    stage.kernel.processes[-1].exit()
    stage.kernel.swap.lru_add_drain_all()
    process.read(BASE)
    thread.read(BASE)
    return process, thread


def _reuse(stage: Stage) -> None:
    process, thread = _reusable(stage)
    stage.writer(process, BASE)
    stage.writer(thread, BASE)
    stage.watched += [(process, BASE), (process, BASE + 8)]


def _copy(stage: Stage) -> None:
    process, thread = _shared(stage)
    stage.writer(process, BASE)
    stage.reader(thread, BASE)
    stage.watched.append((process, BASE))


def _protect(stage: Stage) -> None:
    process, thread = _block(stage)
    stage.flow("mprotect(r)", 0, lambda: process.mprotect(BASE, BLOCK, "r"))
    stage.writer(thread, BASE, times=2)
    stage.ends.append(lambda: expect_no_write(process, BASE))


def _permit(stage: Stage) -> None:
    process, thread = _block(stage)
    process.mprotect(BASE, BLOCK, "r")
    process.read(BASE)
    thread.read(BASE)
    stage.flow("mprotect(rw)", 0, lambda: process.mprotect(BASE, BLOCK, "rw"))
    stage.writer(thread, BASE)
    stage.watched.append((process, BASE))


def _unmap(stage: Stage) -> None:
    process, thread = _block(stage)
    other = process.mmap(PAGE)

    def run() -> None:
        process.munmap(BASE, BLOCK)
        process.write(other, 5)  # a new page, of what was just freed

    stage.flow("munmap, then a new page", 0, run)
    stage.writer(thread, BASE, times=2)


def _fork(stage: Stage) -> None:
    process, thread = _block(stage)
    children: list[tuple[Process, int]] = []
    word = BASE + 8

    def run() -> None:
        child = process.fork(0)
        children.append((child, child.read(word)))

    def unchanged() -> None:
        for child, had in children:
            has = child.read(word)
            if has != had:
                raise ChildChangedError(word, had, has)

    stage.flow("fork", 0, run)
    stage.writer(thread, BASE)
    stage.ends.append(unchanged)


def _split(stage: Stage) -> None:
    process, thread = _block(stage)
    stage.flow(
        "MADV_DONTNEED of one page", 0, lambda: process.madvise(BASE, PAGE, "dontneed")
    )
    stage.writer(thread, BASE + PAGE, times=2)
    stage.watched.append((process, BASE + PAGE + 8))


def _drop(stage: Stage) -> None:
    process, thread = _block(stage)
    stage.flow("MADV_DONTNEED", 0, lambda: process.madvise(BASE, BLOCK, "dontneed"))
    stage.reader(thread, BASE)


def _drop_and_protect(stage: Stage) -> None:
    process, thread = _block(stage)
    stage.flow("MADV_DONTNEED", 0, lambda: process.madvise(BASE, BLOCK, "dontneed"))
    stage.flow("mprotect(r)", 1, lambda: thread.mprotect(BASE, BLOCK, "r"))


def _drops(stage: Stage) -> None:
    process, thread = _block(stage)
    for one in (process, thread):
        stage.flow(
            f"MADV_DONTNEED on CPU {one.cpu}",
            one.cpu,
            partial(one.madvise, BASE, BLOCK, "dontneed"),
        )


def _free(stage: Stage) -> None:
    process, thread = _block(stage)
    given_up(stage, process, thread, BASE, BLOCK)


def _free_and_drop(stage: Stage) -> None:
    process, thread = _block(stage)
    stage.flow("MADV_FREE", 0, lambda: process.madvise(BASE, BLOCK, "free"))
    stage.flow("MADV_DONTNEED", 1, lambda: thread.madvise(BASE, BLOCK, "dontneed"))


def _cold(stage: Stage) -> None:
    process, thread = _block(stage)
    stage.flow("MADV_COLD", 0, lambda: process.madvise(BASE, BLOCK, "cold"))
    keeps(stage, process, thread, BASE + 8, (BASE + 8,))


def _watched(stage: Stage) -> tuple[Process, Thread, UserfaultFd]:
    """Return them with a block, and a userfaultfd with room for it at `FAR`."""
    process, thread = _block(stage)
    process.mmap(BLOCK, addr=FAR, fixed=True)
    fd = process.userfaultfd()
    fd.register(FAR, BLOCK)
    fd.serve(None)
    return process, thread, fd


def _move(stage: Stage) -> None:
    process, thread, fd = _watched(stage)
    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, FAR, BASE, BLOCK))
    keeps(stage, process, thread, BASE + 8, (BASE + 8, FAR + 8), times=2)


def _move_zeros(stage: Stage) -> None:
    process, thread = _area(stage, zero=True)
    thread.read(BASE)
    process.mmap(BLOCK, addr=FAR, fixed=True)
    fd = process.userfaultfd()
    fd.register(FAR, BLOCK)
    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, FAR, BASE, BLOCK))
    stage.reader(thread, BASE)


def _move_and_drop(stage: Stage) -> None:
    _, thread, fd = _watched(stage)
    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, FAR, BASE, BLOCK))
    stage.flow("MADV_DONTNEED", 1, lambda: thread.madvise(BASE, BLOCK, "dontneed"))


def _remap(stage: Stage) -> None:
    process, thread = _block(stage)
    for place in (BASE, FAR):  # what is beside it stays, and so do tables
        process.mmap(PAGE, addr=place + BLOCK, fixed=True)
        process.write(place + BLOCK, 1)
    stage.flow("mremap", 0, lambda: move_mapping(process, BASE, BLOCK, FAR))
    keeps(stage, process, thread, BASE + 8, (BASE + 8, FAR + 8), times=2)


def _given_up(stage: Stage, cpu: int = 0) -> tuple[Process, Thread]:
    """Return them with a block that was given up, and a flow that reclaims it."""
    process, thread = _block(stage)
    stage.kernel.swap.lru_add_drain_all()
    process.madvise(BASE, BLOCK, "free")
    thread.read(BASE)
    process.read(BASE)
    reclaim(stage, BASE, cpu)
    return process, thread


def _reclaim_and_write(stage: Stage) -> None:
    process, thread = _reusable(stage)
    process.madvise(BASE, BLOCK, "free")
    thread.read(BASE)
    reclaim(stage, BASE)
    keeps(stage, process, thread, BASE + 8, (BASE + 8,))


def _reclaim_and_remap(stage: Stage) -> None:
    process, thread = _given_up(stage)
    for place in (BASE, FAR):
        process.mmap(PAGE, addr=place + BLOCK, fixed=True)
        process.write(place + BLOCK, 1)
    stage.flow("mremap", 1, lambda: move_mapping(thread, BASE, BLOCK, FAR))


def _reclaim_and_protect(stage: Stage) -> None:
    _, thread = _given_up(stage)
    stage.flow("mprotect(r)", 1, lambda: thread.mprotect(BASE, BLOCK, "r"))


def _reclaim_and_fork(stage: Stage) -> None:
    process, _ = _given_up(stage, cpu=1)
    stage.flow("fork", 0, lambda: quiet(process.fork, 0))


def _reclaim_and_drop(stage: Stage) -> None:
    _, thread = _given_up(stage)
    stage.flow("MADV_DONTNEED", 1, lambda: thread.madvise(BASE, BLOCK, "dontneed"))


def _reclaim_and_move(stage: Stage) -> None:
    process, thread = _given_up(stage)
    process.mmap(BLOCK, addr=FAR, fixed=True)
    fd = process.userfaultfd()
    fd.register(FAR, BLOCK)
    other = fd.used_by(thread)
    stage.flow("UFFDIO_MOVE", 1, lambda: quiet(other.move, FAR, BASE, BLOCK))


def _collapse(stage: Stage) -> None:
    process, thread = _area(stage)
    stage.kernel.huge_memory.enabled = "never"
    process.write(BASE, 1)
    thread.write(BASE + 8, 1)
    stage.flow("MADV_COLLAPSE", 0, lambda: process.madvise(BASE, BLOCK, "collapse"))
    keeps(stage, process, thread, BASE + 8, (BASE + 8,), times=2)


_HUGE: Final = "book/kernel/huge-memory.md"
_MPROTECT: Final = "book/commits/mprotect.md"
_MOVE: Final = "book/commits/userfaultfd-move.md"
_RECLAIM: Final = "book/kernel/moving-and-reclaim.md"
_GATHER: Final = "book/kernel/mmu-gather.md"
_FORK: Final = "book/kernel/fork.md"

HUGE_MEETINGS: Final = {
    one.name: one
    for one in (
        Meeting(
            "touch block",
            "a write and a read where a block can be",
            _first_touch,
            _HUGE,
        ),
        Meeting(
            "huge zeros", "two threads write to the huge zero folio", _zeros, _HUGE
        ),
        Meeting(
            "reuse block", "two threads write to a block that was shared", _reuse, _HUGE
        ),
        Meeting(
            "copy of block",
            "a write to a shared block while a thread reads",
            _copy,
            _HUGE,
        ),
        Meeting(
            "protect block",
            "mprotect(r) of a block while a thread writes",
            _protect,
            _MPROTECT,
        ),
        Meeting(
            "permit block",
            "mprotect(rw) of a block while a thread writes",
            _permit,
            _MPROTECT,
        ),
        Meeting(
            "unmap block", "munmap of a block while a thread writes", _unmap, _GATHER
        ),
        Meeting("fork block", "fork while a thread writes to a block", _fork, _FORK),
        Meeting(
            "split",
            "MADV_DONTNEED of a part of a block while a thread writes",
            _split,
            _HUGE,
        ),
        Meeting(
            "drop block", "MADV_DONTNEED of a block while a thread reads", _drop, _HUGE
        ),
        Meeting(
            "drop and protect block",
            "MADV_DONTNEED and mprotect(r) of a block",
            _drop_and_protect,
            _HUGE,
        ),
        Meeting("drops of block", "two MADV_DONTNEED of a block", _drops, _HUGE),
        Meeting(
            "free block",
            "MADV_FREE of a block and reclaim while a thread writes",
            _free,
            _RECLAIM,
        ),
        Meeting(
            "free and drop block",
            "MADV_FREE and MADV_DONTNEED of a block",
            _free_and_drop,
            _RECLAIM,
        ),
        Meeting(
            "cold block", "MADV_COLD of a block while a thread writes", _cold, _RECLAIM
        ),
        Meeting(
            "move block", "UFFDIO_MOVE of a block while a thread writes", _move, _MOVE
        ),
        Meeting(
            "move huge zeros",
            "UFFDIO_MOVE of the huge zero folio while a thread reads it",
            _move_zeros,
            _MOVE,
        ),
        Meeting(
            "move and drop block",
            "UFFDIO_MOVE and MADV_DONTNEED of a block",
            _move_and_drop,
            _MOVE,
        ),
        Meeting(
            "remap block", "mremap of a block while a thread writes", _remap, _RECLAIM
        ),
        Meeting(
            "reclaim block",
            "reclaim of a block given up while a thread writes",
            _reclaim_and_write,
            _RECLAIM,
        ),
        Meeting(
            "reclaim and remap block",
            "reclaim of a block given up and mremap",
            _reclaim_and_remap,
            _RECLAIM,
        ),
        Meeting(
            "reclaim and protect block",
            "reclaim of a block given up and mprotect(r)",
            _reclaim_and_protect,
            _MPROTECT,
        ),
        Meeting(
            "reclaim and fork block",
            "reclaim of a block given up and fork",
            _reclaim_and_fork,
            _FORK,
        ),
        Meeting(
            "reclaim and drop block",
            "reclaim of a block given up and MADV_DONTNEED",
            _reclaim_and_drop,
            _RECLAIM,
        ),
        Meeting(
            "reclaim and move block",
            "reclaim of a block given up and UFFDIO_MOVE",
            _reclaim_and_move,
            _MOVE,
        ),
        Meeting("collapse", "MADV_COLLAPSE while a thread writes", _collapse, _HUGE),
    )
}
"""Every meeting, by its name."""
