"""The ioctls of a userfaultfd: what each refuses, in which order, of what memory."""

import pytest

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_uffd_wp, pte_write
from tlbkit.linux.fs.userfaultfd import UserfaultError
from tlbkit.linux.include.linux.mm import VM_UFFD, VM_UFFD_MISSING, VM_UFFD_WP
from tlbkit.linux.include.uapi.asm_generic.errno import SystemCallError
from tlbkit.linux.include.uapi.linux.userfaultfd import (
    O_NONBLOCK,
    UFFD_USER_MODE_ONLY,
    UffdMsg,
)
from tlbkit.linux.tests.huge_pages import audit_hugetlb
from tlbkit.linux.tests.support import PAGE, boot
from tlbkit.linux.userfaultfd_fd import UserfaultFd
from tlbkit.observe.sanitizer import audit

HUGE = 2 << 20
SHARED = pytest.mark.parametrize("shared", [False, True])


def refusal(call):
    """The errno of a call that must fail."""
    with pytest.raises(SystemCallError) as error:
        call()
    return error.value.errno


def watched(*features, pages=4, **modes):
    """A process, its descriptor, and a watched range with a written one beside it."""
    kernel = boot()
    process = kernel.spawn()
    source, target = process.mmap(pages * PAGE), process.mmap(pages * PAGE)
    for page in range(pages):
        process.write(source + page * PAGE, page + 1)
    fd = process.userfaultfd(*features)
    fd.register(target, pages * PAGE, **modes)
    return process, fd, source, target


def flags(process, address):
    """How a place is watched."""
    return process._kernel.vma.vma_lookup(process.mm, address).flags & VM_UFFD


# -- the system call and UFFDIO_API ----------------------------------------------------


def test_unknown_flags_are_refused():
    """userfaultfd() knows O_CLOEXEC, O_NONBLOCK and UFFD_USER_MODE_ONLY."""
    process = boot().spawn()
    process.userfaultfd(flags=O_NONBLOCK | UFFD_USER_MODE_ONLY)
    assert refusal(lambda: process.userfaultfd(flags=2)) == "EINVAL"


def test_the_interface_is_asked_for_once_and_first():
    """Before UFFDIO_API everything is EINVAL, and so is a second one, or a version."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(PAGE)
    ctx = kernel.fs_userfaultfd.new_userfaultfd(process.mm, O_NONBLOCK)
    fd = UserfaultFd(kernel, process, ctx)
    assert refusal(lambda: fd.register(base, PAGE)) == "EINVAL"
    assert refusal(fd.read) == "EINVAL"
    assert refusal(lambda: fd.api(version=0xAB)) == "EINVAL"
    fd.api("WP_ASYNC")
    fd.register(base, PAGE)
    assert refusal(fd.api) == "EINVAL"
    assert refusal(fd.read) == "EAGAIN"
    fd.close()


def test_faults_of_the_kernel_may_be_kept_from_user_space():
    """With UFFD_USER_MODE_ONLY a driver that wants a missing page gets an error."""
    process, fd, _, target = watched()
    fd.close()
    fd = process.userfaultfd(flags=UFFD_USER_MODE_ONLY)
    fd.register(target, PAGE)
    assert refusal(lambda: process.pin(target, PAGE)) == "EFAULT"
    with pytest.raises(UserfaultError):
        process.read(target)


# -- the order of errors ---------------------------------------------------------------


def test_each_mode_registers_itself_alone():
    """Write protection without missing pages, and missing pages if nothing is said."""
    process, fd, source, target = watched()
    assert flags(process, target) == VM_UFFD_MISSING
    fd.register(target, PAGE, wp=True)
    assert flags(process, target) == VM_UFFD_WP
    fd.register(target, PAGE, missing=True, wp=True)
    assert flags(process, target) == VM_UFFD_MISSING | VM_UFFD_WP
    assert flags(process, source) == 0


RANGES = {
    "before user space": lambda _: (0, PAGE),
    "below mmap_min_addr": lambda _: (0x8000, PAGE),
    "unaligned": lambda base: (base + 8, PAGE),
    "empty": lambda base: (base, 0),
    "part of a page": lambda base: (base, 8),
    "beyond user space": lambda _: (1 << 48, PAGE),
    "over the end": lambda base: (base, 1 << 48),
}


@pytest.mark.parametrize("name", RANGES)
def test_each_request_checks_its_range(name):
    """EINVAL, whatever the request; and MOVE checks both of its ranges."""
    _, fd, source, target = watched("WP_UNPOPULATED", missing=True, wp=True)
    start, length = RANGES[name](target)
    for request in (
        lambda: fd.register(start, length),
        lambda: fd.unregister(start, length),
        lambda: fd.wake(start, length),
        lambda: fd.copy(start, source, length),
        lambda: fd.zeropage(start, length),
        lambda: fd.continue_(start, length),
        lambda: fd.writeprotect(start, length),
        lambda: fd.move(start, source, length),
        lambda: fd.move(target, start, length),
    ):
        assert refusal(request) == "EINVAL"


def test_a_range_is_looked_at_before_the_memory():
    """What is not watched is ENOENT for COPY, and EINVAL for MOVE."""
    process, fd, source, target = watched()
    assert refusal(lambda: fd.copy(source, target, PAGE)) == "ENOENT"
    assert refusal(lambda: fd.zeropage(source, PAGE)) == "ENOENT"
    assert refusal(lambda: fd.move(source, target, PAGE)) == "EINVAL"
    assert refusal(lambda: fd.writeprotect(target, PAGE)) == "ENOENT"
    assert refusal(lambda: fd.copy(target, source, PAGE, wp=True)) == "EINVAL"
    assert refusal(lambda: fd.continue_(target, PAGE)) == "EINVAL"
    gap = process.mmap(PAGE)
    process.munmap(gap, PAGE)
    assert refusal(lambda: fd.copy(gap, source, PAGE)) == "ENOENT"
    assert refusal(lambda: fd.move(target, gap, PAGE)) == "ENOENT"


def test_unprotecting_may_wake_and_protecting_may_not():
    """WRITEPROTECT with both its modes makes no sense: EINVAL."""
    _, fd, _, target = watched(wp=True)
    assert refusal(lambda: fd.writeprotect(target, PAGE, dontwake=True)) == "EINVAL"
    fd.writeprotect(target, PAGE, protect=False, dontwake=True)


def test_continue_beyond_the_end_of_the_file_is_refused():
    """EINVAL there, and EFAULT in a hole of the file."""
    process = boot().spawn()
    file = process.memfd_create("m")
    process.ftruncate(file, 2 * PAGE)
    base = process.mmap(4 * PAGE, fd=file, shared=True)
    fd = process.userfaultfd()
    fd.register(base, 4 * PAGE, minor=True)
    assert refusal(lambda: fd.continue_(base + PAGE, PAGE)) == "EFAULT"
    assert refusal(lambda: fd.continue_(base + 2 * PAGE, PAGE)) == "EINVAL"


# -- forks -----------------------------------------------------------------------------


def test_a_fork_that_is_told_of_is_watched_like_its_parent():
    """The message brings what watches the child; its faults are its own."""
    process, fd, source, target = watched("EVENT_FORK", missing=True, wp=True)
    fd.copy(target, source, PAGE, wp=True)
    poll = fd.used_by(process.thread(1))
    told: list[UffdMsg] = []
    poll.serve(told.append)
    child = process.fork()
    assert [message.event for message in told] == ["fork"]
    assert not fd.ctx.mmap_changing
    theirs = poll.child(told[0])
    assert theirs.ctx.mm is child.mm
    assert flags(child, target) == VM_UFFD_MISSING | VM_UFFD_WP
    theirs.serve(
        lambda message: (
            theirs.writeprotect(message.address, PAGE, protect=False)
            if message.wp
            else theirs.copy(message.address, source, PAGE)
        )
    )
    assert child.read(target) == 1
    child.write(target, 7)
    assert (child.read(target), process.read(target)) == (7, 1)
    assert child.read(target + PAGE) == 1
    audit(process._kernel)


def test_a_fork_that_nobody_is_told_of_is_not_watched():
    """Without EVENT_FORK the child is a process like any other."""
    process, fd, source, target = watched(missing=True, wp=True)
    fd.copy(target, source, PAGE, wp=True)
    child = process.fork()
    assert flags(child, target) == 0
    child.write(target, 7)
    assert child.read(target + PAGE) == 0


def test_who_forks_waits_until_somebody_reads_of_it():
    """Where nobody serves the descriptor that is an error, and the child is gone."""
    process, fd, _, _ = watched("EVENT_FORK")
    kernel = process._kernel
    with pytest.raises(UserfaultError, match="has forked"):
        process.fork()
    assert kernel.fork.mmlist == [process.mm]
    assert not fd.ctx.mmap_changing


@pytest.mark.parametrize("wp", [False, True])
def test_a_child_writes_shared_memory_as_if_nobody_had_watched(wp):
    """Its VMA starts from page_prot worked out anew: no fault for the first write."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(2 * PAGE, shared=True)
    plain = kernel.vma.vma_lookup(process.mm, base).page_prot
    fd = process.userfaultfd()
    fd.register(base, 2 * PAGE, missing=not wp, wp=wp)
    child = process.fork()
    vma = kernel.vma.vma_lookup(child.mm, base)
    assert vma.page_prot == plain
    child.write(base, 1)
    assert process.read(base) == 1 or not wp


# -- huge pages of pools ---------------------------------------------------------------


class Pool:
    """Two huge pages, watched, and room for a third, with a source of contents."""

    def __init__(self, *, shared, **modes):
        self.kernel = boot()
        self.kernel.hugetlb.set_max_huge_pages(6)
        self.process = self.kernel.spawn()
        file = self.process.memfd_create("h", 4)  # MFD_HUGETLB
        self.process.ftruncate(file, 3 * HUGE)
        self.base = self.process.mmap(2 * HUGE, fd=file, shared=shared)
        self.other = self.process.mmap(3 * HUGE, fd=file, shared=True)
        self.source = self.process.mmap(HUGE + PAGE)
        self.fd = self.process.userfaultfd()
        self.fd.register(self.base, 2 * HUGE, **modes)

    def pte(self, page=0):
        """The entry of a huge page."""
        where = self.base + page * HUGE
        ptep = self.kernel.hugetlbpage.huge_pte_offset(self.process.mm, where, HUGE)
        return self.kernel.pgtable.read(ptep)


@SHARED
@pytest.mark.parametrize("offset", [0, 64])
@pytest.mark.parametrize("there", [False, True])
def test_a_missing_huge_page_is_copied(shared, offset, there):
    """COPY fills all of it, from any address, also where the source must be faulted."""
    pool = Pool(shared=shared)
    source = pool.source + offset
    for page in (0, 511):
        pool.process.write(source + page * PAGE, page + 1)
    if not there:
        pool.kernel.swapfile.swapon(64)
        pool.process.madvise(pool.source, HUGE, "pageout")
    assert pool.fd.copy(pool.base, source, HUGE) == HUGE
    assert [pool.process.read(pool.base + n * PAGE) for n in (0, 5, 511)] == [1, 0, 512]
    assert pte_write(pool.pte())
    pool.process.write(pool.base, 9)
    assert (pool.process.read(pool.other) == 9) == shared
    assert refusal(lambda: pool.fd.copy(pool.base, source, HUGE)) == "EEXIST"
    audit_hugetlb(pool.kernel)


@SHARED
def test_a_copied_huge_page_may_come_protected(shared):
    """The first write is told of, and un-protecting lets it go on."""
    pool = Pool(shared=shared, missing=True, wp=True)
    pool.process.write(pool.source, 3)
    pool.fd.copy(pool.base, pool.source, HUGE, wp=True)
    assert pte_uffd_wp(pool.pte())
    assert not pte_write(pool.pte())
    told = []

    def answer(message):
        told.append(message.wp)
        pool.fd.writeprotect(pool.base, HUGE, protect=False)

    pool.fd.serve(answer)
    pool.process.write(pool.base, 4)
    assert told == [True]
    assert pool.process.read(pool.base) == 4
    audit_hugetlb(pool.kernel)


@SHARED
def test_a_huge_page_of_the_file_is_continued(shared):
    """CONTINUE maps what the file has; a private mapping copies it when written."""
    pool = Pool(shared=shared, minor=True)
    pool.process.write(pool.other, 5)
    assert pool.fd.continue_(pool.base, HUGE) == HUGE
    assert pool.process.read(pool.base) == 5
    assert pte_write(pool.pte()) == shared
    pool.process.write(pool.base, 6)
    assert pool.process.read(pool.other) == (6 if shared else 5)
    assert refusal(lambda: pool.fd.continue_(pool.base + HUGE, HUGE)) == "EFAULT"
    audit_hugetlb(pool.kernel)


def test_what_a_huge_page_is_refused():
    """No part of one, no zeros, nothing beyond the file, nothing without a page."""
    pool = Pool(shared=True, missing=True, wp=True)
    fd, base, source = pool.fd, pool.base, pool.source
    pool.process.write(source, 1)
    assert refusal(lambda: fd.register(base + PAGE, HUGE)) == "EINVAL"
    assert refusal(lambda: fd.register(base, HUGE + PAGE)) == "EINVAL"
    assert refusal(lambda: fd.unregister(base + PAGE, PAGE)) == "EINVAL"
    assert refusal(lambda: fd.copy(base, source, PAGE)) == "EINVAL"
    assert refusal(lambda: fd.zeropage(base, HUGE)) == "EINVAL"
    assert refusal(lambda: fd.writeprotect(base + PAGE, PAGE)) == "EINVAL"
    assert refusal(lambda: fd.writeprotect(base, HUGE + PAGE)) == "EINVAL"
    pool.process.write(pool.other, 2)
    assert refusal(lambda: fd.copy(base, source, HUGE)) == "EEXIST"
    pool.process.munmap(source, HUGE)
    assert refusal(lambda: fd.copy(base + HUGE, source, HUGE)) == "EFAULT"
    audit_hugetlb(pool.kernel)
