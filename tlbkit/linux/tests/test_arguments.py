"""What each system call refuses, in the kernel's order, with its errno."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.linux.include.linux.mm import VM_DONTCOPY, VM_LOCKED
from tlbkit.linux.include.uapi.asm_generic.errno import SystemCallError
from tlbkit.linux.mm.mempolicy import MPOL_MF_MOVE, MPOL_MF_STRICT
from tlbkit.linux.mm.mmap import (
    MAP_HUGE_SHIFT,
    MAP_HUGETLB,
    MAP_SHARED_VALIDATE,
    MMAP_MIN_ADDR,
)
from tlbkit.linux.mm.msync import MS_ASYNC, MS_INVALIDATE, MS_SYNC
from tlbkit.linux.tests.support import PAGE, boot

BASE = 1 << 33
END = BASE + 4 * PAGE
TOP = 1 << 48
TAG = 5 << 56
U64 = 1 << 64
HUGE = 2 << 20


def layout():
    """A process: four pages at BASE, a hole, a file's two pages, and huge pages."""
    kernel = boot()
    kernel.hugetlb.set_max_huge_pages(4)
    process = kernel.spawn()
    process.mmap(4 * PAGE, addr=BASE, fixed=True)
    process.write(BASE, 1)
    fd = process.open("file", create=True)
    process.ftruncate(fd, 2 * PAGE)
    process.mmap(2 * PAGE, addr=END + PAGE, fixed=True, shared=True, fd=fd)
    process.mmap(2 * HUGE, addr=BASE + (1 << 30), fixed=True, hugetlb=True)
    process.open("file", "r")
    process.open("file", "w")
    return kernel, process


FILE, READ, WRITE = 3, 4, 5
POOL = BASE + (1 << 30)


def mmap(*arguments, **how):
    """The call with these arguments."""
    return lambda p: p.mmap(*arguments, **how)


def munmap(*arguments):
    """The call with these arguments."""
    return lambda p: p.munmap(*arguments)


def mremap(*arguments, **how):
    """The call with these arguments."""
    return lambda p: p.mremap(*arguments, **how)


def madvise(*arguments):
    """The call with these arguments."""
    return lambda p: p.madvise(*arguments)


def msync(*arguments):
    """The call with these arguments."""
    return lambda p: p.msync(*arguments)


def mbind(*arguments):
    """The call with these arguments."""
    return lambda p: p.mbind(*arguments)


REFUSED = [
    # ksys_mmap_pgoff() and do_mmap()
    (mmap(PAGE, fd=FILE, offset=1), "EINVAL"),
    (mmap(PAGE, fd=99, offset=1), "EINVAL"),  # before the descriptor
    (mmap(0, fd=99), "EBADF"),
    (mmap(0), "EINVAL"),
    (mmap(0, fd=FILE, flags=MAP_HUGETLB), "EINVAL"),
    (mmap(PAGE, flags=MAP_HUGETLB | 40 << MAP_HUGE_SHIFT), "EINVAL"),
    (mmap(-1), "ENOMEM"),
    (mmap(-PAGE), "ENOMEM"),
    (mmap(TOP + PAGE), "ENOMEM"),
    (mmap(TOP), "ENOMEM"),
    (mmap(PAGE, addr=TOP + 1, fixed=True), "ENOMEM"),  # before the alignment
    (mmap(PAGE, addr=-PAGE, fixed=True), "ENOMEM"),
    (mmap(PAGE, addr=BASE + 1, fixed=True), "EINVAL"),
    (mmap(PAGE, addr=BASE | TAG, fixed=True), "ENOMEM"),
    (mmap(PAGE, addr=BASE, noreplace=True), "EEXIST"),
    (mmap(HUGE, addr=POOL + PAGE, fixed=True, hugetlb=True), "EINVAL"),
    (mmap(PAGE, fd=FILE, offset=(1 << 63) - PAGE), "EOVERFLOW"),
    (mmap(PAGE, fd=READ, shared=True), "EACCES"),
    (mmap(PAGE, fd=WRITE, prot="r"), "EACCES"),
    (mmap(PAGE, fd=FILE, flags=MAP_SHARED_VALIDATE | 1 << 20 << 3), "EOPNOTSUPP"),
    (mmap(PAGE, flags=MAP_SHARED_VALIDATE), "EINVAL"),
    (mmap(PAGE, flags=0xF), "EINVAL"),
    # do_vmi_munmap()
    (munmap(BASE + 1, PAGE), "EINVAL"),
    (munmap(BASE, 0), "EINVAL"),
    (munmap(BASE, -PAGE), "EINVAL"),
    (munmap(TOP + PAGE, PAGE), "EINVAL"),
    (munmap(TOP - PAGE, 2 * PAGE), "EINVAL"),
    (munmap(POOL + PAGE, HUGE), "EINVAL"),  # no owner lets its huge page be cut
    # check_mremap_params()
    (mremap(BASE + 1, PAGE, PAGE), "EINVAL"),
    (mremap(BASE, PAGE, 0), "EINVAL"),
    (mremap(BASE, PAGE, -1), "EINVAL"),
    (mremap(BASE, PAGE, TOP + PAGE), "EINVAL"),
    (mremap(BASE, PAGE, PAGE, fixed=True, new_address=1 << 34), "EINVAL"),
    (mremap(BASE, PAGE, PAGE, maymove=True, fixed=True, new_address=TOP), "EINVAL"),
    (mremap(BASE, PAGE, PAGE, maymove=True, fixed=True, new_address=1), "EINVAL"),
    (mremap(BASE, PAGE, PAGE, maymove=True, fixed=True, new_address=BASE), "EINVAL"),
    (mremap(BASE, PAGE, 2 * PAGE, maymove=True, dontunmap=True), "EINVAL"),
    # check_prep_vma()
    (mremap(END, PAGE, 2 * PAGE, maymove=True), "EFAULT"),
    (mremap(BASE, 0, PAGE, maymove=True), "EINVAL"),
    (mremap(BASE, 5 * PAGE, 6 * PAGE, maymove=True), "EFAULT"),
    (mremap(POOL, HUGE, 2 * HUGE, maymove=True), "EINVAL"),
    (mremap(POOL + PAGE, HUGE, HUGE), "EINVAL"),
    # expand_vma() and shrink_vma()
    (mremap(BASE, 4 * PAGE, 6 * PAGE), "ENOMEM"),
    (mremap(BASE, -PAGE, PAGE), "EINVAL"),
    # madvise_should_skip()
    (madvise(BASE, PAGE, 77), "EINVAL"),
    (madvise(BASE, PAGE, 12), "EINVAL"),  # MADV_MERGEABLE, without KSM
    (madvise(BASE + 1, PAGE, "dontneed"), "EINVAL"),
    (madvise(BASE + 1, 0, "dontneed"), "EINVAL"),
    (madvise(BASE, -1, "dontneed"), "EINVAL"),
    (madvise(BASE, -PAGE, "dontneed"), "EINVAL"),
    # madvise_walk_vmas(), and what each advice refuses
    (madvise(END, PAGE, "dontneed"), "ENOMEM"),
    (madvise(BASE, 6 * PAGE, "dontneed"), "ENOMEM"),
    (madvise(END + PAGE, PAGE, "free"), "EINVAL"),
    (madvise(POOL, HUGE, "free"), "EINVAL"),
    (madvise(POOL + PAGE, PAGE, "dontneed"), "EINVAL"),
    (madvise(POOL, HUGE, "cold"), "EINVAL"),
    (madvise(POOL, HUGE, "pageout"), "EINVAL"),
    (madvise(END + PAGE, PAGE, "wipeonfork"), "EINVAL"),
    (madvise(END, PAGE, "populate_read"), "ENOMEM"),
    # msync()
    (msync(BASE, PAGE, 8), "EINVAL"),
    (msync(BASE + 1, PAGE, MS_SYNC), "EINVAL"),
    (msync(BASE, PAGE, MS_SYNC | MS_ASYNC), "EINVAL"),
    (msync(BASE, -PAGE, MS_SYNC), "ENOMEM"),
    (msync(END, PAGE, MS_SYNC), "ENOMEM"),
    (msync(BASE, 6 * PAGE, MS_ASYNC), "ENOMEM"),
    # do_mbind()
    (mbind(BASE + 1, PAGE, 8), "EINVAL"),
    (mbind(BASE + 1, PAGE, MPOL_MF_MOVE), "EINVAL"),
    (mbind(BASE, -PAGE, MPOL_MF_MOVE), "EINVAL"),
    (mbind(BASE, 6 * PAGE, MPOL_MF_STRICT), "EFAULT"),
    # do_mprotect_pkey()
    (lambda p: p.mprotect(BASE + 1, PAGE, "r"), "EINVAL"),
    (lambda p: p.mprotect(BASE, -PAGE, "r"), "ENOMEM"),
    (lambda p: p.mprotect(END, PAGE, "r"), "ENOMEM"),
    (lambda p: p.mprotect(BASE, 5 * PAGE, "r"), "ENOMEM"),
]

TAKEN = [
    (mmap(PAGE, addr=(1 << 34) + 5), 1 << 34),
    (mmap(PAGE, addr=PAGE), MMAP_MIN_ADDR),
    (munmap(END, PAGE), None),
    (munmap(BASE | TAG, PAGE), None),
    (madvise(BASE | TAG, PAGE, "dontneed"), None),
    (madvise(BASE, 0, "dontneed"), None),
    (madvise(END, 0, "dontneed"), None),
    (mremap(BASE | TAG, 4 * PAGE, 4 * PAGE), BASE),
    (msync(BASE, 0, MS_SYNC), None),
    (msync(END + PAGE, PAGE, MS_INVALIDATE), None),
    (mbind(END, 0, MPOL_MF_MOVE), 0),
    (lambda p: p.mprotect(END, 0, "r"), None),
]


def outcome(process, call):
    """The errno of a call, or ``None`` if it succeeds."""
    try:
        call(process)
    except SystemCallError as error:
        return error.errno
    return None


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_is_refused(number):
    """A call that is wrong in a way answers with the errno of the kernel's test."""
    call, errno = REFUSED[number]
    _, process = layout()
    assert outcome(process, call) == errno


@pytest.mark.parametrize("number", range(len(TAKEN)))
def test_what_is_taken(number):
    """Tags, hints that are no whole pages, and nothing at all are no mistakes."""
    call, answer = TAKEN[number]
    _, process = layout()
    assert call(process) == answer


def test_locked_memory_is_not_invalidated():
    """MS_INVALIDATE of locked memory is EBUSY, and so is nothing else."""
    kernel, process = layout()
    kernel.vma.vma_lookup(process.mm, BASE).flags |= VM_LOCKED
    assert outcome(process, msync(BASE, PAGE, MS_INVALIDATE)) == "EBUSY"
    assert outcome(process, msync(BASE, PAGE, MS_SYNC)) is None
    assert outcome(process, madvise(BASE, PAGE, "dontneed")) == "EINVAL"
    assert outcome(process, madvise(BASE, PAGE, "dontneed_locked")) is None


def state(process):
    """All that a call could change and user space could see."""
    mm = process.mm
    areas = [(v.start, v.end, v.flags, v.pgoff, v.page_prot) for v in mm.vmas]
    counts = (mm.anonpages, mm.filepages, mm.total_vm, list(mm.pgtables))
    return areas, counts


@settings(max_examples=150, deadline=None)
@given(
    call=st.sampled_from(["mmap", "munmap", "mremap", "mprotect", "madvise", "msync"]),
    address=st.sampled_from([BASE, BASE + PAGE, END, END + PAGE, POOL, POOL + PAGE])
    | st.integers(0, U64 - 1),
    length=st.sampled_from([0, 1, PAGE, 4 * PAGE, 6 * PAGE, HUGE, -PAGE])
    | st.integers(0, U64 - 1),
    new=st.sampled_from([0, PAGE, 2 * PAGE, HUGE, 1 << 34]) | st.integers(0, U64 - 1),
    how=st.integers(0, 31),
)
def test_after_einval_nothing_has_changed(call, address, length, new, how):
    """A call that answers EINVAL leaves the address space as it was."""
    _, process = layout()
    before = state(process)
    calls = {
        "mmap": mmap(length, addr=address, fixed=bool(how & 1), flags=how >> 1),
        "munmap": munmap(address, length),
        "mremap": mremap(
            address,
            length,
            new,
            maymove=bool(how & 1),
            fixed=bool(how & 2),
            dontunmap=bool(how & 4),
            new_address=new << 3,
        ),
        "mprotect": lambda p: p.mprotect(address, length, "rx"),
        "madvise": madvise(address, length, how),
        "msync": msync(address, length, how),
    }
    if outcome(process, calls[call]) == "EINVAL" and call != "madvise":
        assert state(process) == before
    assert not any(v.flags & VM_DONTCOPY for v in process.mm.vmas) or call == "madvise"
