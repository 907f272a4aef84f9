"""Flows that meet at the page of a file: write-back, truncation, unmapping, faults.

What must hold in the end: every write that a thread made before anybody cut the file
off is in the file, also after its clean pages have left memory.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tlbkit.lab.gallery.meetings import PAGE, LostWriteError, Meeting, Stage

if TYPE_CHECKING:
    from tlbkit.linux.process import Process, Thread


def _file(
    stage: Stage, *, memfd: bool = False, shared: bool = True, cached: bool = True
) -> tuple[Process, Thread, int, int]:
    """Return a process on CPU 0, its thread on CPU 1, a file of a page, its mapping.

    Args:
        stage: Where they go.
        memfd: It is shared memory, not a file on the disk.
        shared: It is mapped shared.
        cached: Its page is in memory already.
    """
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    fd = process.memfd_create("f") if memfd else process.open("f", create=True)
    process.ftruncate(fd, PAGE)
    if cached:
        process.pwrite(fd, 16, 1)
        process.fsync(fd)
    base = process.mmap(PAGE, fd=fd, shared=shared)
    if not memfd:
        stage.ends.append(lambda: process.unlink("f"))
    return process, thread, fd, base


def _writes(stage: Stage, thread: Thread, word: int, times: int = 1) -> list[int]:
    """Add a flow that writes to *word*; return where it notes what it has written."""
    wrote: list[int] = []

    def run() -> None:
        for value in range(0x200, 0x200 + times):
            thread.write(word, value)
            wrote.append(value)

    stage.flow(f"thread on CPU {thread.cpu} writes", thread.cpu, run)
    return wrote


def _survives(stage: Stage, process: Process, fd: int, wrote: list[int]) -> None:
    """Hold the file to the last of *wrote*, its second word, once memory is short."""

    def check() -> None:
        kernel = stage.kernel
        mapping = process.open_files[fd].mapping
        for vma in tuple(mapping.i_mmap):
            process.munmap(vma.start, vma.end - vma.start)
        kernel.truncate.invalidate_mapping_pages(mapping)
        found = process.pread(fd, 8)
        if wrote and found != wrote[-1]:
            raise LostWriteError(1, 8, wrote[-1], found or 0)

    stage.ends.insert(0, check)


def _write_back(stage: Stage) -> None:
    process, thread, fd, base = _file(stage)
    thread.write(base + 8, 1)
    stage.flow("fsync", 0, lambda: process.fsync(fd))
    _survives(stage, process, fd, _writes(stage, thread, base + 8, 2))


def _write_back_and_unmap(stage: Stage) -> None:
    process, thread, fd, base = _file(stage)
    other = process.thread(2)
    thread.write(base + 8, 1)
    stage.flow("munmap", 0, lambda: process.munmap(base, PAGE))
    stage.flow("fsync", 2, lambda: other.fsync(fd))
    _survives(stage, process, fd, _writes(stage, thread, base + 8))


def _truncate(stage: Stage) -> None:
    process, thread, fd, base = _file(stage)
    thread.write(base + 8, 1)
    stage.flow("ftruncate", 0, lambda: process.ftruncate(fd, 0))
    _writes(stage, thread, base + 8, 2)


def _truncate_and_touch(stage: Stage, *, memfd: bool, shared: bool) -> None:
    process, thread, fd, base = _file(stage, memfd=memfd, shared=shared)
    stage.flow("ftruncate", 0, lambda: process.ftruncate(fd, 0))
    _writes(stage, thread, base + 8)


def _touches(stage: Stage, *, memfd: bool, shared: bool, cached: bool) -> None:
    process, thread, _, base = _file(stage, memfd=memfd, shared=shared, cached=cached)
    stage.writer(process, base)
    stage.writer(thread, base)
    stage.watched += [(process, base), (process, base + 8)]


_FILES: Final = "book/kernel/files.md"

FILE_MEETINGS: Final = {
    one.name: one
    for one in (
        Meeting("write back", "fsync while a thread writes", _write_back, _FILES),
        Meeting(
            "write back and unmap",
            "fsync and munmap while a thread writes",
            _write_back_and_unmap,
            _FILES,
            cpus=3,
        ),
        Meeting("truncate", "ftruncate while a thread writes", _truncate, _FILES),
        Meeting(
            "truncate and touch",
            "ftruncate while a thread writes to the file for the first time",
            partial(_truncate_and_touch, memfd=False, shared=True),
            _FILES,
        ),
        Meeting(
            "truncate and copy",
            "ftruncate while a thread copies a page of the file",
            partial(_truncate_and_touch, memfd=False, shared=False),
            _FILES,
        ),
        Meeting(
            "truncate memory",
            "ftruncate of shared memory while a thread touches it",
            partial(_truncate_and_touch, memfd=True, shared=True),
            _FILES,
        ),
        Meeting(
            "touch file",
            "two threads write to a page of a file that nobody has read in",
            partial(_touches, memfd=False, shared=True, cached=False),
            _FILES,
        ),
        Meeting(
            "touch memory",
            "two threads write to shared memory that nobody has used",
            partial(_touches, memfd=True, shared=True, cached=False),
            _FILES,
        ),
        Meeting(
            "touch copy",
            "two threads write to a private mapping of a page in memory",
            partial(_touches, memfd=False, shared=False, cached=True),
            _FILES,
        ),
    )
}
"""Every meeting, by its name."""
