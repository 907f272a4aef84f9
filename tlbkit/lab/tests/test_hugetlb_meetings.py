"""Laws of flows that meet at huge pages, shared tables, and walks without a lock."""

import pytest

from tlbkit.arm64.machine import Machine
from tlbkit.explore.search import explore, replay
from tlbkit.lab.gallery.gup_meetings import LONG_MEETINGS
from tlbkit.lab.gallery.hugetlb_meetings import HUGETLB_MEETINGS, TOUCH_HUGE
from tlbkit.lab.gallery.walkers import BASE, HUGE, StolenPageError
from tlbkit.linux.kernel.kernel import Kernel
from tlbkit.linux.kernel.locking import RwSemaphore
from tlbkit.observe.sanitizer import Sanitizer

# -- known races -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "without",
    [
        "ipi in tlb_flush_unshared_tables",
        "ipi in tlb_remove_table_sync_one",
        "irq in gup_fast",
    ],
)
@pytest.mark.parametrize("number", ["", " of three"])
def test_without_the_interrupt_a_page_is_stolen(number, without):
    """Whichever side of the interrupt is missing, a walker gets a stranger's page."""
    scenario = HUGETLB_MEETINGS[f"unshare{number} and walk"].scenario({without})
    breach = explore(scenario, preemptions=1, loads=True).breach
    assert breach is not None
    assert isinstance(breach.error, StolenPageError)
    assert breach.preemptions == 1
    again = replay(scenario, breach.schedule, loads=True)
    assert str(again.error) == str(breach.error)


def test_the_interrupt_of_collapse_keeps_its_table_from_being_freed_at_once():
    """The table that collapse sets aside is freed without RCU when the block goes."""
    meeting = LONG_MEETINGS["walk and collapse"]
    assert explore(meeting.scenario(), preemptions=1, loads=True).breach is None
    scenario = meeting.scenario({"ipi in collapse_huge_page"})
    breach = explore(scenario, preemptions=1, loads=True).breach
    assert breach is not None
    assert "lockless-walker" in str(breach.error)


def test_a_stale_entry_of_a_private_huge_page_is_never_dropped():
    """The local flush counts on a fault that mends itself, and hugetlb has no such."""
    breach = explore(TOUCH_HUGE.scenario(), preemptions=1, loads=True).breach
    assert breach is not None
    assert "a stale entry is never dropped" in str(breach.error)


# -- arguments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("without", "breaks"),
    [
        (("pmd_val in gup_fast_pte_range",), False),
        (("ipi in collapse_huge_page",), False),
        (("pmd_val in gup_fast_pte_range", "ipi in collapse_huge_page"), True),
    ],
)
def test_one_of_the_look_above_and_the_interrupt_keeps_a_pin(without, breaks):
    """A page that is pinned stays where it is mapped, unless both are missing."""
    scenario = LONG_MEETINGS["pin and collapse"].scenario(without)
    found = explore(scenario, preemptions=2, loads=True)
    assert (found.breach is not None) == breaks


# -- what the search has found in the model --------------------------------------------


def test_a_page_that_is_mapped_gives_no_promise_back():
    """A private huge page that its owner replaced by a copy is nobody's promise."""
    kernel = Kernel(Machine(2))
    pool = kernel.hugetlb.default_hstate
    kernel.hugetlb.set_max_huge_pages(3)
    process = kernel.spawn(0)
    process.mmap(HUGE, addr=BASE, hugetlb=True, fixed=True)
    process.write(BASE, 1)
    child = process.fork(0)
    process.write(BASE, 2)
    for one in (process, child):
        one.exit()
    assert (pool.free_huge_pages, pool.resv_huge_pages) == (3, 0)


def test_a_page_table_is_hooked_under_the_lock_of_the_table_above():
    """Who installs a page table holds the lock of the PMD table, as its sharers do."""
    kernel = Kernel(Machine(2))
    process = kernel.spawn(0)
    process.mmap(4096, addr=BASE, fixed=True)
    taken = []
    kernel.machine.events.listen(lambda event: taken.append(event.what.name), {"lock"})
    process.write(BASE, 1)
    assert sum(name.startswith("PMD table") for name in taken) == 2


def test_who_is_left_with_a_table_owns_it():
    """When a sharer has left, the sanitizer counts the table to those who stay."""
    kernel = Kernel(Machine(2))
    kernel.hugetlb.set_max_huge_pages(1)
    first = kernel.spawn(0)
    first.mmap(
        1 << 30, addr=BASE, shared=True, hugetlb=True, noreserve=True, fixed=True
    )
    last = first.fork(1)
    for process in (first, last):
        process.read(BASE + HUGE)
    with Sanitizer(kernel):
        last.munmap(BASE, 1 << 30)
        first.mmap(HUGE, addr=BASE, fixed=True)
        first.write(BASE, 1)


def test_who_believes_to_have_a_lock_has_it():
    """A lock that was taken out is held, for whoever took it there."""
    machine = Machine(1)
    lock = RwSemaphore(machine, "some lock")

    def take():
        lock.down_read()

    assert not lock.held
    machine.taken_out = frozenset({"lock some lock in take"})
    take()
    assert lock.held
    lock.assert_held()
    lock.up_read()
    assert not lock.held
