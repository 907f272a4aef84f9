"""fs/hugetlbfs/inode.c: reads, holes, and what a pool has promised meanwhile."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_none
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.include.uapi.linux.falloc import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
)
from tlbkit.linux.mm.memfd import MFD_HUGETLB
from tlbkit.linux.tests.huge_pages import audit_hugetlb
from tlbkit.linux.tests.support import PAGE, boot

HUGE = 2 << 20
BASE = 1 << 40
HOLE = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


def opened(pages=4, size=0, **machine):
    """A kernel with a pool, and a process with an empty file of huge pages."""
    machine.setdefault("cpus", 2)
    kernel = boot("v6.19", **machine)
    kernel.hugetlb.set_max_huge_pages(pages)
    process = kernel.spawn()
    fd = process.memfd_create("huge", MFD_HUGETLB)
    if size:
        process.ftruncate(fd, size * HUGE)
    return kernel, process, fd


def pool(kernel):
    """Free, promised and surplus pages."""
    h = kernel.hugetlb.default_hstate
    return h.free_huge_pages, h.resv_huge_pages, h.surplus_huge_pages


def test_a_file_of_huge_pages_is_read_and_not_written():
    """A page gives its words, a hole zeros, the end nothing; a write is EINVAL."""
    _, process, fd = opened(size=2)
    shared = process.mmap(2 * HUGE, fd=fd, shared=True)
    process.write(shared + HUGE + 8, 7)
    assert process.pread(fd, HUGE + 8) == 7
    assert process.pread(fd, 8) == 0
    assert process.pread(fd, 2 * HUGE) is None
    with pytest.raises(SystemCallError, match="EINVAL"):
        process.pwrite(fd, PAGE, 66)
    assert process.pread(fd, PAGE) == 0


@pytest.mark.parametrize("call", ["pread", "pwrite"])
def test_a_place_before_the_file_is_looked_at_first(call):
    """EINVAL for a negative offset comes before EBADF for the descriptor."""
    _, process, _ = opened()
    words = () if call == "pread" else (1,)
    with pytest.raises(SystemCallError, match="EINVAL"):
        getattr(process, call)(77, -8, *words)
    with pytest.raises(SystemCallError, match="EBADF"):
        getattr(process, call)(77, 8, *words)


@pytest.mark.parametrize(
    ("mode", "offset", "length", "name"),
    [
        (0, -1, HUGE, "EINVAL"),
        (0, 0, 0, "EINVAL"),
        (8, 0, HUGE, "EOPNOTSUPP"),
        (FALLOC_FL_PUNCH_HOLE, 0, HUGE, "EOPNOTSUPP"),
        (0, HUGE, (1 << 63) - HUGE, "EFBIG"),
        (0, 0, 5 * HUGE, "ENOSPC"),
    ],
)
def test_what_fallocate_refuses(mode, offset, length, name):
    """Each errno in the kernel's order; of a full pool, what was made stays."""
    kernel, process, fd = opened()
    with pytest.raises(SystemCallError, match=name):
        process.fallocate(fd, mode, offset, length)
    made = 4 if name == "ENOSPC" else 0
    assert pool(kernel) == (4 - made, 0, 0)
    with pytest.raises(SystemCallError, match="EBADF"):
        process.fallocate(77, 0, 0, HUGE)


@pytest.mark.parametrize("name", ["disk", "memory"])
def test_fallocate_of_a_file_of_small_pages(name):
    """It makes the file larger, unless it keeps the size, and changes no contents."""
    _, process, _ = opened()
    if name == "disk":
        fd = process.open("small", create=True)
    else:
        fd = process.memfd_create("small")
    process.pwrite(fd, 0, 5)
    process.fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 3 * PAGE)
    assert process.pread(fd, 2 * PAGE) is None
    process.fallocate(fd, 0, 0, 3 * PAGE)
    assert [process.pread(fd, n * PAGE) for n in range(4)] == [5, 0, 0, None]


@pytest.mark.parametrize("keep", [0, FALLOC_FL_KEEP_SIZE])
def test_fallocate_fills_every_place_once(keep):
    """Each page that the range touches is made once; the size grows unless kept."""
    kernel, process, fd = opened()
    for _ in range(2):
        process.fallocate(fd, keep, HUGE - PAGE, 2 * PAGE)
        assert pool(kernel) == (2, 0, 0)
    (inode,) = kernel.file_table.inodes
    assert inode.size == (0 if keep else HUGE + PAGE)
    process.close(fd)
    assert pool(kernel) == (4, 0, 0)


def test_fallocate_takes_what_the_file_was_promised():
    """A shared mapping's promise is used up, and no page is taken besides."""
    kernel, process, fd = opened(size=4)
    process.mmap(4 * HUGE, fd=fd, shared=True)
    assert pool(kernel) == (4, 4, 0)
    process.fallocate(fd, 0, 0, 4 * HUGE)
    assert pool(kernel) == (0, 0, 0)


def test_a_hole_frees_whole_pages_and_clears_parts():
    """What is whole goes with its promise; of what is cut, only the range is zero."""
    kernel, process, fd = opened(size=4)
    base = process.mmap(4 * HUGE, fd=fd, shared=True)
    for page in range(4):
        process.write(base + page * HUGE, page + 1)
        process.write(base + (page + 1) * HUGE - 8, page + 11)
    process.fallocate(fd, HOLE, HUGE - PAGE, 2 * HUGE + PAGE + 8)
    assert pool(kernel) == (2, 0, 0)
    assert process.read(base) == 1
    assert process.read(base + HUGE - 8) == 0
    assert process.read(base + 3 * HUGE) == 0
    assert process.read(base + 4 * HUGE - 8) == 14
    assert process.read(base + HUGE) == 0
    assert pool(kernel) == (1, 0, 0)


def test_truncation_takes_the_word_of_a_userfaultfd_along():
    """Behind the new end there is no marker; a hole leaves one."""
    for mode in ("truncate", "hole"):
        kernel, process, fd = opened(size=2)
        base = process.mmap(2 * HUGE, addr=BASE, fd=fd, shared=True, fixed=True)
        process.write(base + HUGE, 1)
        uffd = process.userfaultfd()
        uffd.register(base, 2 * HUGE, missing=False, wp=True)
        uffd.writeprotect(base + HUGE, HUGE)
        if mode == "truncate":
            process.ftruncate(fd, HUGE)
        else:
            process.fallocate(fd, HOLE, HUGE, HUGE)
        ptep = kernel.hugetlbpage.huge_pte_offset(process.mm, base + HUGE, HUGE)
        gone = pte_none(kernel.hugetlbpage.huge_ptep_get(ptep, HUGE))
        assert gone == (mode == "truncate")


def test_fork_keeps_lockless_gup_off_private_huge_pages():
    """The count of changes moves over a private mapping, twice, and over no other."""
    kernel = boot("v6.19", cpus=2)
    kernel.hugetlb.set_max_huge_pages(4)
    for shared in (False, True):
        process = kernel.spawn()
        base = process.mmap(HUGE, hugetlb=True, shared=shared)
        process.write(base, 1)
        seen: list[int] = []

        def store(_, mm=process.mm, seen=seen):
            seen.append(mm.write_protect_seq & 1)

        kernel.machine.events.listen(store, {"store"})
        process.fork().exit()
        kernel.machine.events.leave(store)
        assert (1 in seen) == (not shared)
        assert process.mm.write_protect_seq % 2 == 0
        process.exit()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "map",
                "map private",
                "unmap",
                "write",
                "fork",
                "exit",
                "fill",
                "hole",
                "truncate",
                "dontneed",
            ]
        ),
        st.integers(0, 3),
        st.integers(1, 3),
    ),
    max_size=20,
)


class Program:
    """Processes that share a file of huge pages, and break no law of their pool."""

    def __init__(self, overcommit):
        self.kernel, first, self.fd = opened(pages=6, size=4)
        self.pool = self.kernel.hugetlb.default_hstate
        self.pool.nr_overcommit_huge_pages = overcommit
        self.alive: list[tuple[Any, list[tuple[int, int]]]] = [(first, [])]

    def run(self, steps):
        """Take each step, and look at the pool after it; all is given back at last."""
        for number, (what, at, count) in enumerate(steps):
            process, mapped = self.alive[number % len(self.alive)]
            with suppress(SystemCallError, Signal):  # a pool that is empty says so
                self.step(what, process, mapped, at, count)
            audit_hugetlb(self.kernel)
        for process, _ in self.alive:
            process.exit()
        self.alive.clear()
        h = self.pool
        assert (h.free_huge_pages, h.resv_huge_pages) == (h.nr_huge_pages, 0)
        assert (h.nr_huge_pages, h.surplus_huge_pages) == (6, 0)

    def step(self, what, process, mapped, at, count):
        """Do one thing."""
        if what.startswith("map"):
            fd = self.fd
            shared = what == "map"
            base = process.mmap(count * HUGE, fd=fd, offset=at * HUGE, shared=shared)
            mapped.append((base, count))
        elif what == "fork":
            if len(self.alive) < 3:
                self.alive.append((process.fork(), list(mapped)))
        elif what == "exit":
            if len(self.alive) > 1:
                self.alive = [each for each in self.alive if each[0] is not process]
                process.exit()
        elif what == "fill":
            process.fallocate(self.fd, 0, at * HUGE, count * HUGE)
        elif what == "hole":
            process.fallocate(self.fd, HOLE, at * HUGE, count * HUGE)
        elif what == "truncate":
            process.ftruncate(self.fd, (at + count) * HUGE)
        elif mapped:
            base, pages = mapped[at % len(mapped)]
            if what == "unmap":
                mapped.remove((base, pages))
                process.munmap(base, pages * HUGE)
            elif what == "dontneed":
                process.madvise(base, pages * HUGE, "dontneed")
            else:
                process.write(base + (count % pages) * HUGE, 1)


@settings(max_examples=60)
@given(STEPS, st.sampled_from([0, 2]))
def test_a_pool_adds_up_after_every_program(steps, overcommit):
    """No page is lost, and promises are as the maps say; at last all come back."""
    Program(overcommit).run(steps)
