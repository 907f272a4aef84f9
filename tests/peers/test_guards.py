"""Cases of the kernel's own memory tests, said in our words: guards and holes."""

import pytest

from tlbkit.linux.include.linux.mm import VM_LOCKED
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.tests.support import PAGE, boot

BASE = 1 << 33
HUGE = 2 << 20


def filled(pages=10, **how):
    """A process with pages at BASE that hold their number and one more."""
    kernel = boot(cpus=2)
    process = kernel.spawn()
    process.mmap(pages * PAGE, addr=BASE, fixed=True, **how)
    for page in range(pages):
        process.write(BASE + page * PAGE, page + 1)
    return kernel, process


def guarded(process, page, base=BASE):
    """Whether reads and writes of a page are both the signal of a guard."""
    found = []
    for access in (
        lambda: process.read(base + page * PAGE),
        lambda: process.write(base + page * PAGE, 9),
    ):
        try:
            access()
        except Signal as signal:
            found.append((signal.signal, signal.code))
    assert found in ([], [("SIGSEGV", "SEGV_MAPERR")] * 2)
    return bool(found)


def which(process, pages=10, base=BASE):
    """Which pages are guards."""
    return [page for page in range(pages) if guarded(process, page, base)]


def refused(process, address, length, advice):
    """The errno of an advice, or ``None``."""
    try:
        process.madvise(address, length, advice)
    except SystemCallError as error:
        return error.errno
    return None


def test_a_guard_is_a_signal_and_its_removal_gives_zeros():
    """Reads and writes of a guard are signals; pages beside it keep what they hold."""
    _, process = filled()
    process.madvise(BASE + PAGE, 2 * PAGE, "guard_install")
    assert which(process) == [1, 2]
    process.madvise(BASE, 2 * PAGE, "guard_remove")
    assert process.read(BASE + PAGE) == 0
    assert which(process) == [2]
    assert process.read(BASE + 3 * PAGE) == 9  # which() wrote there


def test_guards_cover_several_areas_and_tell_of_holes():
    """Each area of a range gets its guards; ENOMEM tells of a hole in the end."""
    _, process = filled()
    process.mprotect(BASE + 3 * PAGE, PAGE, "r")
    process.munmap(BASE + 6 * PAGE, PAGE)
    assert refused(process, BASE, 10 * PAGE, "guard_install") == "ENOMEM"
    assert which(process, 3) == [0, 1, 2]
    assert which(process, 3, BASE + 7 * PAGE) == [0, 1, 2]
    assert refused(process, BASE, 10 * PAGE, "guard_remove") == "ENOMEM"
    assert which(process, 3) == []


def test_pages_in_between_are_lost_and_guards_stay():
    """To install guards over guards and pages makes all of them guards."""
    _, process = filled()
    process.madvise(BASE + 4 * PAGE, PAGE, "guard_install")
    process.madvise(BASE + 2 * PAGE, 5 * PAGE, "guard_install")
    assert which(process) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("advice", ["dontneed", "free", "cold", "pageout", "willneed"])
def test_dropping_pages_keeps_guards(advice):
    """What is advised of a range with guards in it changes none of them."""
    kernel, process = filled()
    kernel.swapfile.swapon(64)
    process.madvise(BASE + PAGE, 3 * PAGE, "guard_install")
    process.madvise(BASE, 10 * PAGE, advice)
    assert which(process) == [1, 2, 3]


def test_mprotect_keeps_guards():
    """Other rights and back again are no way past a guard."""
    _, process = filled()
    process.madvise(BASE + PAGE, PAGE, "guard_install")
    process.mprotect(BASE, 10 * PAGE, "r")
    process.mprotect(BASE, 10 * PAGE, "rw")
    assert which(process) == [1]


@pytest.mark.parametrize("shared", [False, True])
def test_a_child_inherits_guards(shared):
    """Guards are there after fork, and each process removes its own."""
    _, process = filled(shared=shared)
    process.madvise(BASE + PAGE, PAGE, "guard_install")
    child = process.fork()
    child.madvise(BASE, 10 * PAGE, "guard_remove")
    assert which(process) == [1]
    assert which(child) == []


def test_guards_move_with_mremap():
    """Guards go where their pages go, and nothing stays behind."""
    _, process = filled()
    process.madvise(BASE + PAGE, 2 * PAGE, "guard_install")
    to = process.mremap(
        BASE, 10 * PAGE, 10 * PAGE, maymove=True, fixed=True, new_address=1 << 34
    )
    assert which(process, 10, to) == [1, 2]


def test_guards_in_huge_pages_split_them():
    """A guard within a huge page leaves the other pages as they were."""
    kernel = boot(cpus=1)
    kernel.huge_memory.enabled = "always"
    process = kernel.spawn()
    process.mmap(HUGE, addr=BASE, fixed=True)
    process.write(BASE, 5)
    process.write(BASE + HUGE - PAGE, 6)
    process.madvise(BASE + 7 * PAGE, PAGE, "guard_install")
    assert (process.read(BASE), process.read(BASE + HUGE - PAGE)) == (5, 6)
    assert which(process) == [7]


def test_pinning_a_guard_is_refused():
    """A driver that asks for the page of a guard gets EFAULT."""
    _, process = filled()
    process.madvise(BASE, PAGE, "guard_install")
    with pytest.raises(SystemCallError, match="EFAULT"):
        process.pin(BASE, PAGE, write=True)


def test_populating_a_guard_is_efault():
    """MADV_POPULATE of a range with a guard answers EFAULT, and the guard stays."""
    _, process = filled()
    process.madvise(BASE + PAGE, PAGE, "guard_install")
    for advice in ("populate_read", "populate_write"):
        assert refused(process, BASE, 3 * PAGE, advice) == "EFAULT"
    assert which(process, 3) == [1]


def test_a_file_under_guards_keeps_its_contents():
    """Guards over a shared file hide its pages; without them the contents are there."""
    _, process = filled(shared=True)
    process.madvise(BASE, 10 * PAGE, "guard_install")
    assert which(process) == list(range(10))
    process.madvise(BASE, 10 * PAGE, "guard_remove")
    assert [process.read(BASE + n * PAGE) for n in range(10)] == list(range(1, 11))


def test_locked_memory_takes_no_guards():
    """Nor does memory of a pool of huge pages; both say EINVAL, and change nothing."""
    kernel, process = filled()
    kernel.vma.vma_lookup(process.mm, BASE).flags |= VM_LOCKED
    assert refused(process, BASE, PAGE, "guard_install") == "EINVAL"
    assert refused(process, BASE, PAGE, "guard_remove") is None
    kernel.hugetlb.set_max_huge_pages(1)
    pool = process.mmap(HUGE, hugetlb=True)
    assert refused(process, pool, HUGE, "guard_install") == "EINVAL"
    assert process.read(BASE) == 1


def test_guards_without_memory_leave_what_was_there():
    """If a table cannot be made, ENOMEM; the call works once there is memory."""
    kernel = boot(cpus=1)
    process = kernel.spawn()
    process.mmap(PAGE, addr=BASE, fixed=True)
    kernel.page_alloc.fail = lambda: True
    assert refused(process, BASE, PAGE, "guard_install") == "ENOMEM"
    kernel.page_alloc.fail = None
    assert process.read(BASE) == 0
    process.madvise(BASE, PAGE, "guard_install")
    assert which(process, 1) == [0]


@pytest.mark.parametrize("kind", ["shared", "disk"])
def test_a_hole_reads_as_zeros(kind):
    """MADV_REMOVE punches a hole for all that map the file; the rest stays."""
    _, process = filled(shared=True)
    base = BASE
    if kind == "disk":
        fd = process.open("file", create=True)
        process.ftruncate(fd, 10 * PAGE)
        base = process.mmap(10 * PAGE, fd=fd, shared=True)
        for page in range(10):
            process.write(base + page * PAGE, page + 1)
    child = process.fork()
    process.madvise(base + 2 * PAGE, 3 * PAGE, "remove")
    kept = [0 if 2 <= page < 5 else page + 1 for page in range(10)]
    for one in (process, child):
        assert [one.read(base + page * PAGE) for page in range(10)] == kept
    assert refused(process, process.mmap(PAGE), PAGE, "remove") == "EINVAL"


def test_a_hole_in_a_file_of_huge_pages_reads_as_zeros():
    """MADV_REMOVE of a shared mapping of a pool gives its huge page back."""
    kernel = boot(cpus=1)
    kernel.hugetlb.set_max_huge_pages(2)
    process = kernel.spawn()
    base = process.mmap(2 * HUGE, hugetlb=True, shared=True)
    process.write(base, 1)
    process.write(base + HUGE, 2)
    process.madvise(base, HUGE, "remove")
    assert (process.read(base), process.read(base + HUGE)) == (0, 2)
