"""Taking user pages: what the lockless walk may do, and what it looks at again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.events import Event
from tlbkit.linux.drivers.dax.device import DevDax
from tlbkit.linux.include.linux.mm_types import GUP_PIN_COUNTING_BIAS
from tlbkit.linux.include.linux.pgtable import (
    PGTABLE_LEVEL_PGD,
    PGTABLE_LEVEL_PMD,
    PGTABLE_LEVEL_PTE,
    PGTABLE_LEVEL_PUD,
)
from tlbkit.linux.include.uapi.asm_generic.errno import SystemCallError
from tlbkit.linux.tests.audit import audit
from tlbkit.linux.tests.support import PAGE, boot, issued, touched

BLOCK = 512 * PAGE


def pfn_at(kernel, process, address):
    """The frame that an address is mapped to."""
    pgtable = kernel.pgtable
    return pgtable.pte_pfn(pgtable.read(pgtable.find_pte(process.mm, address)))


def folio_at(kernel, process, address):
    """The folio that an address is mapped to."""
    return kernel.page_alloc.folio_of(pfn_at(kernel, process, address))


def block(kernel):
    """A process with one block of memory, written to."""
    kernel.huge_memory.enabled = "always"
    process = kernel.spawn()
    base = process.mmap(BLOCK)
    process.write(base, 7)
    return process, base


def reads(kernel, operation):
    """The levels that a lockless walk reads during *operation*, in order."""
    seen: list[Event] = []
    kernel.machine.events.listen(seen.append, {"gup read", "irq", "gup take"})
    operation()
    kernel.machine.events.leave(seen.append)
    return [
        event.what[0] if event.kind == "gup read" else (event.kind, event.what)
        for event in seen
        if event.kind != "gup take"
    ]


def at_read(kernel, level, number, action):
    """Do *action* when the lockless walk has read *level* for the *number*-th time."""
    left = [number]
    events = kernel.machine.events

    def scheduler(event):
        if event.what[0] != level:
            return
        left[0] -= 1
        if not left[0]:
            running = kernel.machine.running
            events.schedule(None)
            action()
            kernel.machine.running = running

    events.schedule(scheduler, {"gup read"})


# -- what it reads ---------------------------------------------------------------------


def test_the_walk_reads_each_level_once_and_the_last_two_again():
    """Of a page: PGD, PUD, PMD, PTE, then PMD and PTE again; interrupts are off."""
    kernel = boot()
    process, base = touched(kernel, 1)
    assert reads(kernel, lambda: process.unpin(process.pin(base, PAGE))) == [
        ("irq", "off"),
        PGTABLE_LEVEL_PGD,
        PGTABLE_LEVEL_PUD,
        PGTABLE_LEVEL_PMD,
        PGTABLE_LEVEL_PTE,
        PGTABLE_LEVEL_PMD,
        PGTABLE_LEVEL_PTE,
        ("irq", "on"),
    ]


def test_of_a_block_only_its_own_entry_is_read_again():
    """The PUD entry above a PMD leaf is read once: who unhooks it must interrupt."""
    kernel = boot()
    process, base = block(kernel)
    assert reads(kernel, lambda: process.unpin(process.pin(base, BLOCK))) == [
        ("irq", "off"),
        PGTABLE_LEVEL_PGD,
        PGTABLE_LEVEL_PUD,
        PGTABLE_LEVEL_PMD,
        PGTABLE_LEVEL_PMD,
        ("irq", "on"),
    ]


@pytest.mark.parametrize("granule", [12, 14, 16])
def test_the_pages_are_those_of_the_tables(granule):
    """With every page size the walk finds the frames that an access would reach."""
    kernel = boot(page_shift=granule, pa_bits=48, lpa2=False)
    process, base = touched(kernel, 20)
    size = kernel.pgtable.page_size
    pages = process.pin(base + 8, 20 * size - 16, fast_only=True)
    assert pages == [pfn_at(kernel, process, base + n * size) for n in range(20)]
    values = [kernel.machine.memory.read(page * size) for page in pages]
    assert values == list(range(20))
    process.unpin(pages)


def test_a_block_gives_all_its_pages_with_one_look():
    """The pages of a range within a block: consecutive, one count for them all."""
    kernel = boot()
    process, base = block(kernel)
    first = kernel.pgtable.pmd_pfn(
        kernel.pgtable.read(kernel.pgtable.find_pmd(process.mm, base))
    )
    pages = process.pin(base + 5 * PAGE, 9 * PAGE, fast_only=True)
    assert pages == [first + n for n in range(5, 14)]
    folio = kernel.page_alloc.folio_of(first)
    assert folio.pincount == 9
    process.unpin(pages)
    assert folio.pincount == 0
    audit(kernel)


def test_pages_of_contiguous_blocks_are_taken_one_by_one():
    """The contiguous bit is for TLBs; a walk of software sees sixteen entries."""
    kernel = boot()
    kernel.huge_memory.set_hugepages_enabled(64, "always")
    process = kernel.spawn()
    base = process.mmap(BLOCK)
    process.write(base, 1)
    pages = process.pin(base, 16 * PAGE, fast_only=True)
    assert len(pages) == 16
    assert kernel.page_alloc.folio_of(pages[0]).pincount == 16
    process.unpin(pages)
    audit(kernel)


# -- what it takes ---------------------------------------------------------------------


def test_a_pin_of_a_small_page_is_1024_references():
    """Small folios have no count of pins of their own."""
    kernel = boot()
    process, base = touched(kernel, 1)
    kernel.swap.lru_add_drain_all()
    folio = folio_at(kernel, process, base)
    pages = process.pin(base, PAGE)
    assert folio.refcount == 1 + GUP_PIN_COUNTING_BIAS
    assert folio.maybe_dma_pinned()
    process.unpin(pages)
    got = process.get_pages(base, PAGE)
    assert folio.refcount == 2
    assert not folio.maybe_dma_pinned()
    process.put_pages(got)
    assert folio.refcount == 1


def test_an_address_space_remembers_that_it_has_pinned():
    """MMF_HAS_PINNED is set by the first pin, also by one that got nothing."""
    kernel = boot()
    process, base = touched(kernel, 1)
    process.put_pages(process.get_pages(base, PAGE))
    assert not process.mm.has_pinned
    assert process.pin(base + 4096 * PAGE, PAGE, fast_only=True) == []
    assert process.mm.has_pinned


def test_a_page_outlives_its_mapping_while_it_is_held():
    """Munmap lets the page go, the reference keeps its frame and contents."""
    kernel = boot()
    process, base = touched(kernel, 2)
    (page,) = process.get_pages(base + PAGE, PAGE)
    process.munmap(base, 2 * PAGE)
    kernel.swap.lru_add_drain_all()
    assert kernel.machine.memory.read(page * PAGE) == 1
    in_use = kernel.page_alloc.in_use
    process.put_pages([page])
    assert kernel.page_alloc.in_use == in_use - 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from("wr."), min_size=1, max_size=24),
    st.booleans(),
    st.booleans(),
)
def test_what_is_taken_comes_back(layout, write, pin):
    """Whatever is mapped, taking and giving back leaves every count as it was."""
    kernel = boot(cpus=1)
    process = kernel.spawn()
    base = process.mmap(len(layout) * PAGE)
    for index, letter in enumerate(layout):
        if letter == "w":
            process.write(base + index * PAGE, index)
        elif letter == "r":
            process.read(base + index * PAGE)
    take = process.pin if pin else process.get_pages
    pages = take(base, len(layout) * PAGE, write=write)
    assert pages == [
        pfn_at(kernel, process, base + n * PAGE) for n in range(len(layout))
    ]
    (process.unpin if pin else process.put_pages)(pages)
    audit(kernel)


SIZES = ("page", "contpte", "pmd", "hugetlb")


def mapped_by(kernel, size):
    """A process with 2 MiB of private memory, written, in mappings of one size."""
    huge = kernel.huge_memory
    if size == "contpte":
        huge.set_hugepages_enabled(64, "always")
    huge.enabled = "always" if size == "pmd" else "never"
    kernel.hugetlb.set_max_huge_pages(4)
    process = kernel.spawn()
    base = process.mmap(BLOCK, hugetlb=size == "hugetlb")
    for page in range(512 if size == "page" else 64):
        process.write(base + page * PAGE, page)
    return process, base


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from(SIZES),
    page=st.integers(0, 44),
    length=st.integers(1, 20),
    write=st.booleans(),
    pin=st.booleans(),
    forked=st.sampled_from(["never", "alive", "gone"]),
)
def test_every_page_of_every_mapping_can_be_pinned(
    size, page, length, write, pin, forked
):
    """Wherever a page lies in its mapping, and whoever maps it besides."""
    kernel = boot(cpus=1)
    process, base = mapped_by(kernel, size)
    child = process.fork() if forked != "never" else None
    if child is not None and forked == "gone":
        child.exit()
    take = process.pin if pin else process.get_pages
    pages = take(base + page * PAGE, length * PAGE, write=write)
    values = [kernel.machine.memory.read(got * PAGE) for got in pages]
    assert values == list(range(page, page + length))
    folios = {kernel.page_alloc.folio_of(got) for got in pages}
    assert all(folio.maybe_dma_pinned() for folio in folios) == pin
    if pin or write:
        process.write(base + page * PAGE, 99)
        assert kernel.machine.memory.read(pages[0] * PAGE) == 99
        if child is not None and forked == "alive":
            assert child.read(base + page * PAGE) == page
    (process.unpin if pin else process.put_pages)(pages)
    assert not any(folio.maybe_dma_pinned() for folio in folios)
    if size != "hugetlb":
        audit(kernel)


@pytest.mark.parametrize("page", [0, 5, 511])
def test_the_exclusive_mark_of_a_huge_page_is_its_first_pages(page):
    """One unsharing fault is enough, and afterwards the fast walk succeeds as well."""
    kernel = boot(cpus=1)
    process, base = block(kernel)
    process.fork().exit()
    assert fast(process, base + page * PAGE, PAGE) == 0
    pages = process.pin(base + page * PAGE, PAGE)
    assert fast(process, base + page * PAGE, PAGE) == 1
    process.unpin(pages)


# -- what it leaves to the slow way ----------------------------------------------------


def fast(process, *arguments, **flags):
    """How many pages the lockless walk gives, which are given back at once."""
    pages = process.pin(*arguments, fast_only=True, **flags)
    process.unpin(pages)
    return len(pages)


def test_it_stops_at_the_first_page_that_is_missing():
    """What was never touched has no entry, and nothing behind it is looked at."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(8 * PAGE)
    for page in (0, 1, 2, 4):
        process.write(base + page * PAGE, 1)
    assert fast(process, base, 8 * PAGE) == 3
    pages = process.pin(base, 8 * PAGE)
    assert len(pages) == 8
    process.unpin(pages)


def test_writing_needs_an_entry_that_allows_it():
    """After a fork pages are read-only; the slow way copies, and pins the copy."""
    kernel = boot()
    process, base = touched(kernel, 1)
    child = process.fork()
    assert fast(process, base, PAGE, write=True) == 0
    (page,) = process.pin(base, PAGE, write=True)
    assert page == pfn_at(kernel, process, base) != pfn_at(kernel, child, base)
    process.unpin([page])
    audit(kernel)


def test_a_pin_for_reading_makes_a_shared_page_exclusive_first():
    """A pinned page must stay the process's own: the slow way unshares it."""
    kernel = boot()
    process, base = touched(kernel, 1)
    child = process.fork()
    assert fast(process, base, PAGE) == 0
    pages = process.get_pages(base, PAGE, fast_only=True)
    assert len(pages) == 1, "who only reads now may have the shared page"
    process.put_pages(pages)
    (page,) = process.pin(base, PAGE)
    assert page == pfn_at(kernel, process, base) != pfn_at(kernel, child, base)
    folio = kernel.page_alloc.folio_of(page)
    assert folio.page_exclusive(page)
    process.unpin([page])
    audit(kernel)


def test_hidden_pages_are_left_to_the_slow_way():
    """mprotect(PROT_NONE) leaves an entry that is present and must not be followed."""
    kernel = boot()
    process, base = touched(kernel, 1)
    process.mprotect(base, PAGE, "none")
    assert fast(process, base, PAGE) == 0
    with pytest.raises(SystemCallError, match="EFAULT"):
        process.pin(base, PAGE)


def test_the_zero_page_is_marked_special_and_pinned_by_nobody():
    """The walk stops at the mark; the slow way gives the page, and counts no pin."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(PAGE)
    process.read(base)
    zero = kernel.page_alloc.folio_of(kernel.zero_pfn)
    before = zero.refcount
    assert process.get_pages(base, PAGE, fast_only=True) == []
    pages = process.get_pages(base, PAGE)
    assert pages == [kernel.zero_pfn]
    assert zero.refcount == before + 1
    process.put_pages(pages)
    kernel.gup.try_grab_folio(zero)
    assert zero.refcount == before
    kernel.gup.unpin_user_page(zero)
    assert zero.refcount == before


def test_the_slow_way_says_why_there_is_nothing():
    """No area, or one without the right: EFAULT; no memory: ENOMEM."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(PAGE, "r")
    for address, write in ((base - PAGE, False), (base, True), (1 << 48, False)):
        with pytest.raises(SystemCallError, match="EFAULT"):
            process.pin(address, PAGE, write=write)
    other = process.mmap(PAGE)
    kernel.page_alloc.fail = lambda: True
    with pytest.raises(SystemCallError, match="ENOMEM"):
        process.pin(other, PAGE, write=True)
    kernel.page_alloc.fail = None


def test_pages_that_were_had_are_given_though_the_rest_fails():
    """Fewer than asked is an answer; an error is given only instead of nothing."""
    kernel = boot()
    process, base = touched(kernel, 2)
    process.munmap(base + PAGE, PAGE)
    pages = process.pin(base, 2 * PAGE)
    assert pages == [pfn_at(kernel, process, base)]
    process.unpin(pages)


@pytest.mark.parametrize("kind", ["file", "shmem"])
def test_long_pins_for_writing_are_not_for_files_that_track_writes(kind):
    """A device would write after the file has looked; shared memory does not look."""
    kernel = boot()
    process = kernel.spawn()
    fd = process.open("f", create=True) if kind == "file" else process.memfd_create("f")
    process.ftruncate(fd, PAGE)
    base = process.mmap(PAGE, fd=fd, shared=True)
    process.write(base, 1)
    assert fast(process, base, PAGE, write=True) == 1
    assert fast(process, base, PAGE, write=True, longterm=True) == (kind == "shmem")
    if kind == "file":
        with pytest.raises(SystemCallError, match="EFAULT"):
            process.pin(base, PAGE, write=True, longterm=True)


@pytest.mark.parametrize("write", [False, True])
def test_long_pins_are_not_for_files_in_persistent_memory(write):
    """A truncate would wait for ever: EOPNOTSUPP, which is said before any fault."""
    kernel = boot()
    kernel.pmem.create("data", BLOCK)
    process = kernel.spawn()
    base = process.mmap(BLOCK, fd=process.open("data"), shared=True)
    process.write(base, 1)
    assert fast(process, base, PAGE, write=write) == 1
    assert fast(process, base, PAGE, write=write, longterm=True) == 0
    with pytest.raises(SystemCallError, match="EOPNOTSUPP"):
        process.pin(base, PAGE, write=write, longterm=True)


def test_a_device_of_memory_may_be_pinned_for_long():
    """Device DAX is no file system: nothing is truncated under the pin."""
    kernel = boot()
    device = DevDax(kernel, PAGE)
    process = kernel.spawn()
    base = process.mmap(PAGE, fd=process.open_device(device.open()), shared=True)
    process.read(base)
    assert len(process.pin(base, PAGE, longterm=True)) == 1


def test_a_killed_process_takes_no_more_pages():
    """A fatal signal ends the slow way between two pages: EINTR if there is none."""
    kernel = boot()
    process, base = touched(kernel, 1)
    process.madvise(base, PAGE, "dontneed")
    process.kill()
    with pytest.raises(SystemCallError, match="EINTR"):
        process.pin(base, PAGE)


# -- what may happen meanwhile ---------------------------------------------------------


@pytest.mark.parametrize("level", ["PMD", "PTE"])
def test_an_entry_that_went_is_noticed(level):
    """Munmap between reading an entry and taking its page: the page is given back."""
    kernel = boot(cpus=2)
    process, base = touched(kernel, 2) if level == "PTE" else block(kernel)
    other = process.thread(1)
    where = PGTABLE_LEVEL_PTE if level == "PTE" else PGTABLE_LEVEL_PMD
    at_read(kernel, where, 1, lambda: other.munmap(base, PAGE))
    assert process.pin(base, PAGE, fast_only=True) == []


def test_without_the_second_look_another_owners_page_is_taken():
    """Leave the re-check out: the frame got a new owner, and is taken all the same."""
    for without in (frozenset(), frozenset({"pte_val in gup_fast_pte_range"})):
        kernel = boot(cpus=2)
        process, base = touched(kernel, 2)
        victim = kernel.spawn(cpu=1)
        secret = victim.mmap(4 * PAGE)
        victim.write(secret, 0)
        kernel.swap.lru_add_drain_all()
        kernel.machine.taken_out = without

        def change_hands(process=process, base=base, victim=victim, secret=secret):
            process.thread(1).munmap(base, PAGE)
            victim.write(secret + PAGE, 0x5EC2E7)

        at_read(kernel, PGTABLE_LEVEL_PTE, 1, change_hands)
        pages = process.get_pages(base, PAGE, fast_only=True)
        values = [kernel.machine.memory.read(page * PAGE) for page in pages]
        assert values == ([0x5EC2E7] if without else [])
        process.put_pages(pages)
        audit(kernel)


def test_a_table_waits_for_the_walk():
    """A table that is unhooked during a walk is freed when interrupts are on again."""
    kernel = boot(cpus=2)
    process, base = touched(kernel, 1)
    freed = []
    kernel.machine.events.listen(
        lambda _: freed.append(kernel.machine.cpu(0).irqs_on), {"free"}
    )
    kernel.swap.lru_add_drain_all()
    at_read(kernel, PGTABLE_LEVEL_PMD, 1, lambda: process.thread(1).munmap(base, PAGE))
    assert process.pin(base, PAGE, fast_only=True) == []
    assert freed == [False, True], "the page at once, the table later"


def test_collapse_waits_for_the_walk():
    """Collapse keeps the table for itself, so it interrupts everybody and waits."""
    kernel = boot(cpus=2)
    kernel.huge_memory.enabled = "always"
    process = kernel.spawn()
    base = process.mmap(BLOCK)
    kernel.huge_memory.enabled = "never"
    for page in range(512):
        process.write(base + page * PAGE, page)
    kernel.huge_memory.enabled = "always"
    waited = []

    def waiter(done, what):
        # The one who waits is stuck until the walk is over; the walk cannot go on here.
        waited.append((what, done()))
        kernel.machine.cpu(0).irq_enable()
        assert done()
        kernel.machine.cpu(0).irq_disable()

    kernel.machine.waiter = waiter
    at_read(
        kernel,
        PGTABLE_LEVEL_PMD,
        1,
        lambda: process.thread(1).madvise(base, BLOCK, "collapse"),
    )
    process.pin(base, PAGE, fast_only=True)
    assert waited == [("tlb_remove_table_sync_one", False)]


def test_nothing_is_pinned_across_a_fork():
    """A fork that came and went during the walk: what was pinned is given back."""
    kernel = boot(cpus=2)
    process, base = touched(kernel, 2)
    kernel.swap.lru_add_drain_all()
    folio = folio_at(kernel, process, base)

    def fork():
        kernel.sched.run_on(process.mm, kernel.machine.cpu(1))
        kernel.fork.dup_mm(process.mm)

    at_read(kernel, PGTABLE_LEVEL_PTE, 2, fork)
    assert process.pin(base, PAGE, fast_only=True) == []
    assert folio.refcount == 1
    assert process.mm.write_protect_seq == 2, "the stack was never touched"


def test_nothing_is_pinned_during_a_fork():
    """While private pages become read-only nothing is pinned; to read is allowed."""
    kernel = boot(cpus=2)
    process, base = touched(kernel, 2)
    beside = process.thread(1)
    answers = []

    def scheduler(event):
        if process.mm.write_protect_seq & 1 and event.kind == "store":
            running = kernel.machine.running
            kernel.machine.events.schedule(None)
            answers.append(beside.pin(base + PAGE, PAGE, fast_only=True))
            pages = beside.get_pages(base + PAGE, PAGE, fast_only=True)
            answers.append(len(pages))
            beside.put_pages(pages)
            kernel.machine.running = running

    kernel.machine.events.schedule(scheduler, {"store"})
    process.fork()
    assert answers == [[], 1]


def test_a_lockless_walk_issues_nothing():
    """No TLBI, no barrier, no interrupt: that is why it is fast."""
    kernel = boot()
    process, base = touched(kernel, 16)
    counts = issued(kernel, lambda: process.unpin(process.pin(base, 16 * PAGE)))
    assert (counts.tlbi, counts.dsb, counts.ipi_broadcasts) == ({}, {}, 0)
