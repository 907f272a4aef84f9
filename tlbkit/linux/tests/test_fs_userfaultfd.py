"""fs/userfaultfd.c: who is told of a fault, sleeps, and is woken; what is watched."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.events import Event
from tlbkit.errors import InputError
from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_uffd_wp
from tlbkit.linux.fs.userfaultfd import UserfaultError
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_RETRY_NOWAIT,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_MAYWRITE,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
)
from tlbkit.linux.include.linux.mm_types import VmFault
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.include.uapi.linux.userfaultfd import UffdMsg
from tlbkit.linux.tests.support import PAGE, boot, issued
from tlbkit.linux.tests.watched import check_end
from tlbkit.observe.sanitizer import audit

VERSIONS = pytest.mark.parametrize("version", ["v6.17", "v6.19", "fixed"])


class Watched:
    """A process that watches *pages* pages, and has as many written ones elsewhere."""

    def __init__(self, *features, version="v6.19", pages=4, missing=True, wp=False):
        self.kernel = boot(version)
        self.process = self.kernel.spawn()
        self.length = pages * PAGE
        self.src = self.process.mmap(self.length)
        self.dst = self.process.mmap(1 << 21)
        for page in range(pages):
            self.process.write(self.src + page * PAGE, page + 1)
        self.fd = self.process.userfaultfd(*features)
        self.fd.register(self.dst, self.length, missing=missing, wp=wp)
        self.poll = self.fd.used_by(self.process.thread(1))
        self.told = []

    def serve(self, answer):
        """Let a thread on CPU 1 note each message and answer it."""

        def handler(message):
            self.told.append(message)
            answer(message)

        self.poll.serve(handler)

    def pte(self, address):
        """The entry of an address, 0 without a table."""
        ptep = self.kernel.pgtable.find_pte(self.process.mm, address)
        return 0 if ptep is None else self.kernel.pgtable.read(ptep)

    def locks_are_free(self):
        """Nobody holds the mmap lock, and nobody keeps the address space."""
        lock = self.process.mm.mmap_lock
        return not lock.readers and lock.writer is None and self.process.mm.users == 1


def vmas(process):
    """The areas of a process, without its stack, as (start, end, watched how)."""
    how = VM_UFFD_MISSING | VM_UFFD_WP
    return [(v.start, v.end, v.flags & how) for v in process.mm.vmas[1:-1]]


# -- missing pages ---------------------------------------------------------------------


def test_who_serves_fills_the_page_while_the_reader_sleeps():
    """The access is repeated and finds what was copied; CPU 0 runs on afterwards."""
    area = Watched()
    area.serve(lambda message: area.poll.copy(message.address, area.src, PAGE))
    assert area.process.read(area.dst + 8) == 0
    assert area.process.read(area.dst) == 1
    assert area.told == [UffdMsg("pagefault", area.dst)]
    assert area.kernel.machine.running.number == 0
    assert area.locks_are_free()


@pytest.mark.parametrize(("features", "offset"), [((), 0), (("EXACT_ADDRESS",), 24)])
def test_a_message_says_what_and_where(features, offset):
    """The address is the page's, or as accessed if that was asked for."""
    area = Watched(*features)
    area.serve(lambda _: area.poll.zeropage(area.dst, PAGE))
    area.process.write(area.dst + 24, 5)
    assert area.told == [UffdMsg("pagefault", area.dst + offset, write=True)]
    assert area.process.read(area.dst + 24) == 5


def test_zeros_that_are_written_are_told_of_once():
    """The zero page that answers a write is replaced by a copy, and nobody is told."""
    area = Watched()
    area.serve(lambda _: area.poll.zeropage(area.dst, PAGE))
    counts = issued(area.kernel, lambda: area.process.write(area.dst, 5))
    assert len(area.told) == 1
    assert counts.faults == {"translation": 1}  # what follows is retried in the kernel


def test_nobody_who_serves_is_an_error_that_says_who_must_act():
    """The thread gives up what it held; filling the page and trying again goes on."""
    area = Watched()
    with pytest.raises(UserfaultError, match=r"nobody serves.*copy\(\)") as error:
        area.process.read(area.dst)
    assert error.value.message == UffdMsg("pagefault", area.dst)
    assert area.locks_are_free()
    assert not area.fd.ctx.fault_pending_wqh
    area.fd.move(area.dst, area.src, PAGE)
    assert area.process.read(area.dst) == 1


def test_to_serve_without_waking_is_an_error():
    """A function that returns and has filled nothing has left the thread asleep."""
    area = Watched()
    area.serve(lambda _: area.poll.copy(area.dst, area.src, PAGE, dontwake=True))
    with pytest.raises(UserfaultError, match="without waking"):
        area.process.read(area.dst)
    assert not area.fd.ctx.fault_wqh
    assert area.process.read(area.dst) == 1


def test_waking_is_a_request_of_its_own():
    """Several pages may be filled first and their threads woken together."""
    area = Watched()

    def answer(_message):
        for page in range(4):
            at = page * PAGE
            area.poll.copy(area.dst + at, area.src + at, PAGE, dontwake=True)
        area.poll.wake(area.dst, area.length)

    area.serve(answer)
    assert [area.process.read(area.dst + page * PAGE) for page in range(4)] == [
        1,
        2,
        3,
        4,
    ]
    assert len(area.told) == 1


def test_a_range_that_is_woken_does_not_wake_others():
    """Only threads whose page lies in the range go on."""
    area = Watched()
    area.serve(lambda _: area.poll.wake(area.dst + PAGE, PAGE))
    with pytest.raises(UserfaultError, match="without waking"):
        area.process.read(area.dst)


def test_to_wake_and_not_to_answer_is_told_of_again():
    """A thread that finds nothing on waking faults anew; for ever it is an error."""
    area = Watched()

    def answer(message):
        if len(area.told) < 3:
            area.poll.wake(message.address, PAGE)
        else:
            area.poll.move(message.address, area.src, PAGE)

    area.serve(answer)
    assert area.process.read(area.dst) == 1
    assert len(area.told) == 3
    area.serve(lambda message: area.poll.wake(message.address, PAGE))
    with pytest.raises(UserfaultError, match="does not answer"):
        area.process.read(area.dst + PAGE)
    assert area.locks_are_free()


def test_an_answer_that_is_there_already_is_not_waited_for():
    """Whoever fills the page before the thread sleeps need not wake it."""
    area = Watched()
    area.process.read(area.dst + PAGE + area.length)  # makes the table
    filled: list[Event] = []

    def fill(event):
        if event.new == "released" and "PTE table" in event.what.name and not filled:
            filled.append(event)
            area.poll.zeropage(area.dst, PAGE, dontwake=True)
            area.kernel.sched.run_on(area.process.mm, area.kernel.machine.cpus[0])

    area.kernel.machine.events.listen(fill, ["lock"])
    assert area.process.read(area.dst) == 0
    assert filled
    assert not area.fd.ctx.fault_pending_wqh
    assert area.locks_are_free()


def test_who_serves_must_not_need_the_service():
    """If the thread that serves faults itself, nobody can answer it."""
    area = Watched()
    area.serve(lambda _: area.process.thread(1).read(area.dst + PAGE))
    with pytest.raises(UserfaultError, match="is the one that serves"):
        area.process.read(area.dst)
    assert area.locks_are_free()
    assert not area.fd.ctx.fault_wqh


def test_a_copy_may_fault_into_what_somebody_else_serves():
    """The source of a copy may be watched itself, by another userfaultfd."""
    area = Watched()
    second = area.process.userfaultfd()
    source = area.process.mmap(PAGE)
    second.register(source, PAGE)
    other = second.used_by(area.process.thread(2))
    other.serve(lambda message: other.copy(message.address, area.src, PAGE))
    area.serve(lambda message: area.poll.copy(message.address, source, PAGE))
    assert area.process.read(area.dst) == 1
    assert area.process.read(source) == 1
    audit(area.kernel)


def test_sigbus_instead_of_messages():
    """A context may ask for signals; then nobody is told."""
    area = Watched("SIGBUS")
    with pytest.raises(Signal, match="SIGBUS"):
        area.process.read(area.dst)
    area.fd.zeropage(area.dst, PAGE)
    assert area.process.read(area.dst) == 0


def test_a_page_that_is_there_is_nobody_s_business():
    """Only missing pages are told of: rights and spurious faults are as ever."""
    area = Watched()
    area.fd.move(area.dst, area.src, PAGE)
    area.serve(lambda _: None)
    area.process.write(area.dst, 3, cpu=2)
    assert area.told == []


def test_a_closed_userfaultfd_watches_nothing():
    """Faults are the kernel's again, and the descriptor is no good any more."""
    area = Watched()
    before = len(area.process.mm.vmas)
    area.fd.close()
    assert area.process.read(area.dst) == 0
    assert len(area.process.mm.vmas) == before - 1
    with pytest.raises(InputError, match="was closed"):
        area.fd.wake(area.dst, PAGE)
    check_end(area.kernel)


def test_closing_lets_a_sleeper_go_on():
    """A thread that sleeps when its userfaultfd is closed tries again: zeros."""
    area = Watched()
    area.serve(lambda _: area.poll.close())
    assert area.process.read(area.dst) == 0
    assert area.locks_are_free()


def test_a_thread_that_reads_serves_too():
    """Under a scheduler another thread reads the message, answers, and wakes."""
    area = Watched()
    machine = area.kernel.machine

    def other_threads(done, what):
        assert "an answer to pagefault" in what
        assert area.fd.ctx.fault_pending_wqh
        message = area.poll.read()
        assert not area.fd.ctx.fault_pending_wqh
        area.poll.move(message.address, area.src, PAGE)
        assert done()

    machine.waiter = other_threads
    assert area.process.read(area.dst) == 1
    assert machine.running.number == 0
    with pytest.raises(SystemCallError, match="EAGAIN"):
        area.poll.read(nonblock=True)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [(0, VM_FAULT_SIGBUS), (FAULT_FLAG_ALLOW_RETRY, VM_FAULT_RETRY)],
)
def test_who_may_not_sleep_is_not_made_to(flags, expected):
    """A fault that cannot be retried is a signal; one that must not wait returns."""
    area = Watched()
    vma = area.kernel.vma.vma_lookup(area.process.mm, area.dst)
    flags |= FAULT_FLAG_RETRY_NOWAIT if flags else 0
    vmf = VmFault(vma, area.dst, area.dst, flags)
    assert area.kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_MISSING) == expected


def test_a_context_that_is_being_closed_makes_nobody_sleep():
    """The thread tries again, by when the area is not watched any more."""
    area = Watched()
    area.fd.ctx.released = True
    vma = area.kernel.vma.vma_lookup(area.process.mm, area.dst)
    area.process.mm.mmap_lock.down_read()
    vmf = VmFault(vma, area.dst, area.dst, FAULT_FLAG_ALLOW_RETRY)
    uffd = area.kernel.fs_userfaultfd
    assert uffd.handle_userfault(vmf, VM_UFFD_MISSING) == VM_FAULT_RETRY
    assert area.locks_are_free()


@VERSIONS
def test_a_watched_block_is_told_of_and_moved_whole(version):
    """With large pages a missing block is one message, and one move answers it."""
    block = 1 << 21
    area = Watched(version=version)
    area.kernel.huge_memory.set_hugepages_enabled(2048, "always")
    src = area.process.mmap(block)
    dst = area.process.mmap(block)
    for page in range(512):
        area.process.write(src + page * PAGE, page)
    area.fd.register(dst, block, missing=True, wp=True)
    area.serve(lambda _: area.poll.move(dst, src, block))
    pages = range(512)
    assert [area.process.read(dst + page * PAGE) for page in pages] == list(pages)
    assert len(area.told) == 1
    area.fd.writeprotect(dst, block)
    area.told.clear()
    area.serve(lambda _: area.poll.writeprotect(dst, block, protect=False))
    area.process.write(dst + PAGE, 7)
    assert [message.wp for message in area.told] == [True]
    assert area.process.read(dst + PAGE) == 7
    audit(area.kernel)
    check_end(area.kernel)


# -- the self-tests of the kernel ------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_faults_are_answered_by_moves(version, chunk):
    """What the kernel's "move" self-test checks, and chunks of several pages besides.

    Each chunk faults once, with a plain missing read; the destination then holds what
    the source held, the source holds zeros, and both go on being usable.
    """
    pages = 48
    area = Watched(version=version, pages=pages)
    size = chunk * PAGE

    def answer(message):
        at = (message.address - area.dst) // size * size
        assert area.poll.move(area.dst + at, area.src + at, size) == size

    area.serve(answer)
    for page in range(pages):
        at = page * PAGE
        in_chunk = page % chunk
        if not in_chunk:
            assert area.process.read(area.src + at) == page + 1
        assert area.process.read(area.dst + at, cpu=page % 4) == page + 1
        assert area.process.read(area.src + at, cpu=3) == 0
        audit(area.kernel)
    assert area.told == [
        UffdMsg("pagefault", area.dst + at) for at in range(0, area.length, size)
    ]
    audit(area.kernel)
    check_end(area.kernel)


# -- protected pages -------------------------------------------------------------------


@VERSIONS
def test_a_write_to_a_protected_page_waits_until_it_is_freed(version):
    """Reads go on; a write is told of, and goes on once the page is free."""
    area = Watched(version=version, wp=True)
    area.fd.move(area.dst, area.src, area.length)
    area.fd.writeprotect(area.dst, area.length)
    area.serve(
        lambda message: area.poll.writeprotect(message.address, PAGE, protect=False)
    )
    assert area.process.read(area.dst, cpu=2) == 1
    area.process.write(area.dst, 9, cpu=2)
    assert area.told == [UffdMsg("pagefault", area.dst, write=True, wp=True)]
    assert area.process.read(area.dst) == 9
    assert pte_uffd_wp(area.pte(area.dst + PAGE))
    audit(area.kernel)


@VERSIONS
def test_no_cpu_writes_to_a_protected_page_by_an_old_entry(version):
    """Protecting flushes before it returns, wherever the page was writable."""
    area = Watched(version=version, wp=True)
    area.fd.move(area.dst, area.src, area.length)
    for cpu in range(4):
        area.process.write(area.dst, cpu, cpu=cpu)
    area.fd.writeprotect(area.dst, PAGE)
    for cpu in range(4):
        with pytest.raises(UserfaultError, match="protected page"):
            area.process.write(area.dst, 9, cpu=cpu)
    audit(area.kernel)


def test_asynchronous_protection_only_notes_the_write():
    """With WP_ASYNC the mark goes and the write goes on; nobody is told."""
    area = Watched("WP_ASYNC", missing=False, wp=True)
    for page in range(4):
        area.process.write(area.dst + page * PAGE, page)
    area.fd.writeprotect(area.dst, area.length)
    area.process.write(area.dst + PAGE, 7)
    marks = [pte_uffd_wp(area.pte(area.dst + page * PAGE)) for page in range(4)]
    assert marks == [True, False, True, True]
    assert area.process.read(area.dst + PAGE) == 7


def test_asynchronous_protection_covers_places_without_a_page():
    """WP_ASYNC brings markers: what a first write makes is protected, then noted."""
    area = Watched("WP_ASYNC", missing=False, wp=True)
    area.fd.writeprotect(area.dst, 2 * PAGE)
    assert area.process.read(area.dst) == 0
    assert pte_uffd_wp(area.pte(area.dst))
    area.process.write(area.dst + PAGE, 5)
    assert not pte_uffd_wp(area.pte(area.dst + PAGE))
    assert area.process.read(area.dst + PAGE) == 5
    audit(area.kernel)


def test_a_write_to_a_marked_place_is_told_of():
    """A synchronous context hears of the first write to a place that it protected."""
    area = Watched("WP_UNPOPULATED", missing=False, wp=True)
    area.fd.writeprotect(area.dst, PAGE)
    area.serve(
        lambda message: area.poll.writeprotect(message.address, PAGE, protect=False)
    )
    area.process.write(area.dst, 5)
    assert area.told == [UffdMsg("pagefault", area.dst, write=True, wp=True)]
    assert area.process.read(area.dst) == 5


def test_unregistering_frees_protected_pages():
    """Pages of a range that is watched no more are ordinary ones."""
    area = Watched(missing=False, wp=True)
    area.process.write(area.dst, 1)
    area.fd.writeprotect(area.dst, PAGE)
    area.fd.unregister(area.dst, area.length)
    assert not pte_uffd_wp(area.pte(area.dst))
    area.process.write(area.dst, 2)
    assert area.process.read(area.dst) == 2


def test_a_copy_may_come_protected():
    """COPY with wp lets the page be read, and tells of the first write to it."""
    area = Watched(wp=True)
    area.fd.copy(area.dst, area.src, PAGE, wp=True)
    assert area.process.read(area.dst) == 1
    with pytest.raises(UserfaultError, match="protected"):
        area.process.write(area.dst, 2)


def test_a_flush_that_somebody_owes_is_made_before_a_copy():
    """While pages are being protected, a write fault flushes before it may copy."""
    area = Watched(missing=False, wp=True)
    area.process.write(area.dst, 1)
    child = area.process.fork()
    area.process.mm.tlb_flush_pending += 1
    counts = issued(area.kernel, lambda: area.process.write(area.dst, 2))
    area.process.mm.tlb_flush_pending -= 1
    assert counts.tlbi["VALE1IS"] == 2
    assert child.read(area.dst) == 1


# -- what is watched -------------------------------------------------------------------


def test_registering_a_part_cuts_an_area_and_unregistering_mends_it():
    """The watched part is an area of its own as long as it is watched."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(8 * PAGE)
    fd = process.userfaultfd()
    fd.register(base + 2 * PAGE, 4 * PAGE)
    missing = VM_UFFD_MISSING
    assert vmas(process) == [
        (base, base + 2 * PAGE, 0),
        (base + 2 * PAGE, base + 6 * PAGE, missing),
        (base + 6 * PAGE, base + 8 * PAGE, 0),
    ]
    fd.register(base + 4 * PAGE, 4 * PAGE)
    assert vmas(process)[1:] == [(base + 2 * PAGE, base + 8 * PAGE, missing)]
    fd.register(base + 4 * PAGE, PAGE, missing=False, wp=True)
    assert [how for *_, how in vmas(process)] == [0, missing, VM_UFFD_WP, missing]
    fd.unregister(base, 8 * PAGE)
    assert vmas(process) == [(base, base + 8 * PAGE, 0)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["register", "unregister"]),
            st.integers(0, 11),
            st.integers(1, 12),
            st.booleans(),
            st.integers(0, 1),
        ),
        max_size=12,
    )
)
def test_what_is_watched_is_what_was_asked_for(steps):
    """After any requests each page is watched as the last that took it said.

    Areas cover the range without a gap, and neighbours that are alike are one.
    """
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(12 * PAGE)
    fds = [process.userfaultfd(), process.userfaultfd()]
    watched: list[tuple[int, bool] | None] = [None] * 12
    for what, first, pages, wp, number in steps:
        span = range(first, min(12, first + pages))
        at, length = base + first * PAGE, len(span) * PAGE
        owners = {how[0] for page in span if (how := watched[page])}
        if owners - {number}:
            expected = "EBUSY" if what == "register" else "EINVAL"
            with pytest.raises(SystemCallError, match=expected):
                getattr(fds[number], what)(at, length)
            continue
        if what == "register":
            fds[number].register(at, length, missing=not wp, wp=wp)
        else:
            fds[number].unregister(at, length)
        for page in span:
            watched[page] = (number, wp) if what == "register" else None
    for page, how in enumerate(watched):
        vma = kernel.vma.vma_lookup(process.mm, base + page * PAGE)
        assert vma.uffd is (fds[how[0]].ctx if how else None)
        flag = 0 if how is None else VM_UFFD_WP if how[1] else VM_UFFD_MISSING
        assert vma.flags & (VM_UFFD_MISSING | VM_UFFD_WP) == flag
    areas = process.mm.vmas[1:-1]
    assert (areas[0].start, areas[-1].end) == (base, base + 12 * PAGE)
    for left, right in pairwise(areas):
        assert left.end == right.start
        assert (left.uffd, left.flags) != (right.uffd, right.flags)


def test_register_errors_come_in_the_order_of_the_kernel():
    """Mode, range, then of all areas: kind, right to write, another's."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(4 * PAGE)
    fd, other = process.userfaultfd(), process.userfaultfd()

    def refused(*arguments, **how):
        with pytest.raises(SystemCallError) as error:
            fd.register(*arguments, **how)
        return error.value.errno

    assert refused(base, PAGE, missing=False) == "EINVAL"
    assert refused(base + 1, PAGE) == "EINVAL"
    assert refused(base, 0) == "EINVAL"
    assert refused(0, PAGE) == "EINVAL"
    file = process.open("f", create=True)
    mapped = process.mmap(PAGE, fd=file, addr=base + 4 * PAGE, fixed=True)
    assert refused(mapped, PAGE) == "EINVAL"
    assert refused(base, PAGE, minor=True) == "EINVAL"
    other.register(base, PAGE)
    kernel.vma.vma_lookup(process.mm, base).flags &= ~VM_MAYWRITE
    assert refused(base, PAGE) == "EPERM"
    kernel.vma.vma_lookup(process.mm, base).flags |= VM_MAYWRITE
    assert refused(base, 2 * PAGE) == "EBUSY"
    with pytest.raises(SystemCallError, match="EINVAL"):
        fd.unregister(base, PAGE)
    process.exit()
    assert fd.ctx.mm.users == 0
    stranger = kernel.spawn()
    with pytest.raises(SystemCallError, match="ENOMEM"):
        fd.used_by(stranger).register(base, PAGE)


def test_registering_checks_all_before_it_changes_any():
    """A range of which one area cannot be watched is not watched at all."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(2 * PAGE)
    file = process.open("f", create=True)
    process.mmap(PAGE, fd=file, addr=base + 2 * PAGE, fixed=True)
    fd = process.userfaultfd()
    before = vmas(process)
    with pytest.raises(SystemCallError, match="EINVAL"):
        fd.register(base, 3 * PAGE)
    assert vmas(process) == before


def test_an_unknown_feature_is_named():
    """A wrong feature is an input error, with those that there are."""
    process = boot().spawn()
    with pytest.raises(InputError, match=r"'MOOVE'.*MOVE"):
        process.userfaultfd("MOOVE")


def test_a_child_is_not_watched():
    """What fork copies leaves the context, the marks and the protection behind."""
    area = Watched("WP_UNPOPULATED", wp=True)
    area.fd.move(area.dst, area.src, PAGE)
    area.fd.writeprotect(area.dst, 2 * PAGE)
    child = area.process.fork()
    assert all(vma.uffd is None for vma in child.mm.vmas)
    assert vmas(child) != vmas(area.process)
    child.write(area.dst, 5)
    assert child.read(area.dst + PAGE) == 0
    assert child.read(area.dst + 2 * PAGE) == 0
    assert pte_uffd_wp(area.pte(area.dst))
    audit(area.kernel)
    check_end(area.kernel)


def test_too_many_areas(monkeypatch):
    """Where a range would have to be cut and must not be, it is left as it was."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(4 * PAGE)
    fd = process.userfaultfd()
    monkeypatch.setattr("tlbkit.linux.mm.vma.DEFAULT_MAX_MAP_COUNT", 3)
    with pytest.raises(SystemCallError, match="ENOMEM"):
        fd.register(base, PAGE)
    assert vmas(process) == [(base, base + 4 * PAGE, 0)]
    fd.register(base, 4 * PAGE)
    with pytest.raises(SystemCallError, match="ENOMEM"):
        fd.unregister(base, PAGE)
    assert vmas(process) == [(base, base + 4 * PAGE, VM_UFFD_MISSING)]


def test_unregister_errors_come_in_the_order_of_the_kernel():
    """Range, life of the process, areas; a gap or an unwatched area is no error."""
    area = Watched()
    with pytest.raises(SystemCallError, match="EINVAL"):
        area.fd.unregister(area.dst + 1, PAGE)
    gap = area.process.mmap(3 * PAGE)
    area.process.munmap(gap + PAGE, PAGE)
    area.fd.register(gap, PAGE)
    area.fd.unregister(gap, 3 * PAGE)
    with pytest.raises(SystemCallError, match="EINVAL"):
        area.fd.unregister(gap + PAGE, PAGE)
    file = area.process.open("f", create=True)
    area.process.mmap(PAGE, fd=file, addr=gap + PAGE, fixed=True)
    with pytest.raises(SystemCallError, match="EINVAL"):
        area.fd.unregister(gap, 3 * PAGE)
    area.process.exit()
    there = area.fd.used_by(area.kernel.spawn())
    with pytest.raises(SystemCallError, match="ENOMEM"):
        there.unregister(area.dst, PAGE)
    with pytest.raises(SystemCallError, match="ESRCH"):
        there.writeprotect(area.dst, PAGE)
    with pytest.raises(SystemCallError, match="ESRCH"):
        there.copy(area.dst, area.src, PAGE)


@pytest.mark.parametrize("request_name", ["copy", "zeropage", "move", "writeprotect"])
def test_an_unknown_mode_is_refused(request_name):
    """A bit that means nothing is EINVAL, after the ranges and before any area."""
    area = Watched(wp=True)
    request = getattr(area.kernel.fs_userfaultfd, f"userfaultfd_{request_name}")
    arguments = {
        "copy": (area.dst, area.src, PAGE),
        "zeropage": (area.dst, PAGE),
        "move": (area.process.mm, area.dst, area.src, PAGE),
        "writeprotect": (area.dst, PAGE),
    }[request_name]
    answer = request(area.fd.ctx, *arguments, 1 << 7)
    assert answer == (-22 if request_name == "writeprotect" else (-22, None))


# -- changes of the address space ------------------------------------------------------


def test_munmap_may_be_told_of():
    """With EVENT_UNMAP the caller sleeps until it is read, and requests are refused.

    Who serves is told while the change still counts as going on, so must try again.
    """
    area = Watched("EVENT_UNMAP")
    refusals = []

    def answer(_message):
        with pytest.raises(SystemCallError) as error:
            area.poll.zeropage(area.dst, PAGE)
        refusals.append((error.value.errno, error.value.detail))

    area.serve(answer)
    area.process.munmap(area.dst + PAGE, PAGE)
    start = area.dst + PAGE
    assert area.told == [UffdMsg("unmap", start, end=start + PAGE)]
    assert refusals == [("EAGAIN", -11)]
    area.fd.zeropage(area.dst, PAGE)


def test_munmap_that_nobody_reads_of():
    """The unmapping is done, its thread sleeps; that is an error that says so."""
    area = Watched("EVENT_UNMAP")
    with pytest.raises(UserfaultError, match=r"\(unmap\).*read\(\)"):
        area.process.munmap(area.dst, PAGE)
    assert area.locks_are_free()
    assert area.fd.ctx.mmap_changing == 0


def test_a_thread_that_reads_is_told_of_changes():
    """To have read the message is all that is asked."""
    area = Watched("EVENT_UNMAP")

    def other_threads(done, _what):
        message = area.poll.read()
        assert (message.event, message.end) == ("unmap", area.dst + PAGE)
        assert done()

    area.kernel.machine.waiter = other_threads
    area.process.munmap(area.dst, PAGE)
    assert area.fd.ctx.mmap_changing == 0


def test_changes_of_what_nobody_watches_are_told_to_nobody():
    """Without a context, or one that asked, madvise and mremap just go on."""
    area = Watched()
    uffd = area.kernel.fs_userfaultfd
    for at in (area.src, area.dst):
        vma = area.kernel.vma.vma_lookup(area.process.mm, at)
        assert uffd.userfaultfd_remove(vma, at, at + PAGE)
    vma = area.kernel.vma.vma_lookup(area.process.mm, area.src)
    assert uffd.mremap_userfaultfd_prep(vma) is None


def test_munmap_without_the_event_tells_nobody():
    """The watched area just goes."""
    area = Watched()
    area.serve(lambda _: None)
    area.process.munmap(area.dst, area.length)
    assert area.told == []
    with pytest.raises(SystemCallError, match="ENOENT"):
        area.fd.zeropage(area.dst, PAGE)


@pytest.mark.parametrize("event", ["remove", "remap"])
def test_other_changes_are_told_of_the_same_way(event):
    """Also madvise and mremap bracket their work as munmap does."""
    area = Watched(f"EVENT_{event.upper()}")
    uffd = area.kernel.fs_userfaultfd
    lock = area.process.mm.mmap_lock
    vma = area.kernel.vma.vma_lookup(area.process.mm, area.dst)
    area.serve(lambda _: None)
    start, end = area.dst, area.dst + PAGE
    if event == "remove":
        lock.down_read()
        assert not uffd.userfaultfd_remove(vma, start, end)
        assert area.told == [UffdMsg("remove", start, end=end)]
    else:
        lock.down_write()
        ctx = uffd.mremap_userfaultfd_prep(vma)
        assert ctx.mmap_changing == 1
        lock.up_write()
        uffd.mremap_userfaultfd_complete(ctx, start, 1 << 40, PAGE)
        assert area.told == [UffdMsg("remap", start, end=end, to=1 << 40)]
    assert area.fd.ctx.mmap_changing == 0
    assert area.locks_are_free()


def test_a_context_that_did_not_ask_loses_what_is_remapped():
    """Without EVENT_REMAP the area is not watched any more after mremap."""
    area = Watched()
    uffd = area.kernel.fs_userfaultfd
    vma = area.kernel.vma.vma_lookup(area.process.mm, area.dst)
    area.process.mm.mmap_lock.down_write()
    assert uffd.mremap_userfaultfd_prep(vma) is None
    uffd.mremap_userfaultfd_complete(None, area.dst, 1 << 40, PAGE)
    area.process.mm.mmap_lock.up_write()
    assert vma.uffd is None
    assert not vma.flags & VM_UFFD_MISSING
