"""Laws of the search: nothing is missed, the shortest comes first, runs repeat."""

from functools import partial
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tlbkit import Kernel, Machine
from tlbkit.errors import InputError
from tlbkit.explore.scheduler import DeadlockError, Flow, World
from tlbkit.explore.search import explore, replay, shortest, wander
from tlbkit.explore.tests.support import (
    StaleError,
    everything,
    process_world,
    program_world,
)
from tlbkit.linux.kernel.locking import SpinLock
from tlbkit.linux.mm.page_alloc import RAM_BASE
from tlbkit.observe.sanitizer import Sanitizer

PAGE = 4096
words = st.integers(0, 1)
steps = st.one_of(
    st.tuples(st.just("store"), words),
    st.tuples(st.just("load"), words),
    st.tuples(st.just("add"), words, words),
    st.tuples(st.just("access"), words),
    st.tuples(st.just("flush"), words),
)
programs = st.lists(st.lists(steps, min_size=1, max_size=3), min_size=2, max_size=2)


@settings(max_examples=60, deadline=None)
@given(programs, st.integers(0, 3))
def test_the_reduction_misses_no_end(flows, bound):
    """Within a bound, the reduced search ends in every way that brute force does."""
    plain = everything(flows, preemptions=bound, reduce=False)
    assert everything(flows, preemptions=bound) == plain


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(steps, min_size=1, max_size=2), min_size=3, max_size=3))
def test_the_reduction_misses_no_end_of_three_flows(flows):
    """The same of three CPUs."""
    plain = everything(flows, preemptions=1, reduce=False)
    assert everything(flows, preemptions=1) == plain


@settings(max_examples=25, deadline=None)
@example([("unmap", 0)], [("access", 0), ("access", 0)], 1)
@given(
    st.lists(
        st.one_of(steps, st.tuples(st.just("unmap"), words)), min_size=1, max_size=3
    ),
    st.lists(steps, min_size=1, max_size=3),
    st.integers(0, 3),
)
def test_the_reduction_misses_no_breach(first, second, bound):
    """Brute force and reduction find a breach of the same length, or none."""
    found = []
    for reduce in (True, False):
        scenario = program_world([first, second])
        search = explore(scenario, preemptions=bound, reduce=reduce)
        breach = search.breach
        found.append(breach and (breach.preemptions, len(breach.steps)))
    assert found[0] == found[1]


@pytest.mark.parametrize("operation", ["mprotect", "munmap", "write"])
def test_kernel_flows_end_alike(operation):
    """On kernel flows too, nothing that brute force sees is missed."""
    ends = []
    for reduce in (True, False):
        seen: set[object] = set()

        def scenario(seen=seen):
            world = process_world(operation, rules=False)()
            memory = world.machine.memory

            def finish():
                frames = range(RAM_BASE >> 12, (RAM_BASE >> 12) + 16)
                held = tuple(frozenset(c.tlb.entries()) for c in world.machine.cpus)
                seen.add((tuple(tuple(memory.frame(pfn)) for pfn in frames), held))

            return World(world.machine, world.flows, finish=finish)

        explore(scenario, preemptions=2, reduce=reduce)
        ends.append(seen)
    assert ends[0] == ends[1]
    assert len(ends[0]) > 1


@pytest.mark.parametrize("operation", ["mprotect", "munmap"])
def test_a_flush_that_is_not_waited_for_is_found(operation):
    """Without the DSB that completes it, a stale entry is used; with it, never."""
    assert explore(process_world(operation), preemptions=3).breach is None
    without = {"dsb ish in flush_tlb_range_"}
    breach = explore(process_world(operation, without=without)).breach
    assert breach is not None
    assert isinstance(breach.error, StaleError)
    assert breach.preemptions == 0


def test_the_shortest_comes_first():
    """A breach that needs a preemption has no cheaper one, and no shorter one."""
    lost = [[("add", 0, 0)], [("store", 0)]]
    ends, _ = everything(lost, preemptions=0)
    more, _ = everything(lost, preemptions=1)
    assert ends < more


def test_a_search_repeats():
    """The same search finds the same schedule, and a replay breaks the same rule."""
    scenario = process_world("munmap", without={"tlbi RVAE1IS in tlb_flush"})
    once, again = (explore(scenario, preemptions=1) for _ in range(2))
    assert (once.runs, once.steps) == (again.runs, again.steps)
    if once.breach is not None:
        assert again.breach is not None
        assert again.breach.schedule == once.breach.schedule


def test_a_replay_is_the_run_again():
    """A breach's schedule alone repeats its steps and its error."""
    scenario = process_world("munmap", without={"dsb ish in flush_tlb_range_"})
    breach = explore(scenario).breach
    assert breach is not None
    run = replay(scenario, breach.schedule)
    assert tuple(run.steps) == breach.steps
    assert str(run.error) == str(breach.error)


def test_random_walks_repeat():
    """A seed names one sequence of schedules, and they find what there is to find."""
    scenario = process_world("munmap", without={"dsb ish in flush_tlb_range_"})
    first, second = (wander(scenario, Random(7)).breach for _ in range(2))
    assert first is not None
    assert second is not None
    assert first[:3] == second[:3]
    assert wander(process_world("munmap"), Random(7), runs=30).breach is None


def crossed(order):
    """Two flows that take two locks, in orders that may differ."""

    def scenario():
        machine = program_world([[], []])().machine
        locks = SpinLock(machine, "A"), SpinLock(machine, "B")

        def take(first, second):
            def run():
                with locks[first], locks[second]:
                    pass

            return run

        flows = Flow("one", 0, take(0, 1)), Flow("other", 1, take(*order))
        return World(machine, flows)

    return scenario


def test_deadlocks_are_found():
    """Locks taken crosswise deadlock under one preemption, and the message says who."""
    assert explore(crossed((0, 1)), preemptions=3).breach is None
    breach = explore(crossed((1, 0))).breach
    assert breach is not None
    assert breach.preemptions == 1
    assert isinstance(breach.error, DeadlockError)
    assert breach.error.waits == {"one": "B", "other": "A"}
    assert breach.error.holds == {"one": ("A",), "other": ("B",)}


def test_no_two_flows_on_one_cpu():
    """A world with two flows on one CPU is refused."""
    machine = program_world([[], []])().machine
    flows = Flow("one", 0, lambda: None), Flow("other", 0, lambda: None)
    with pytest.raises(InputError, match="CPUs"):
        World(machine, flows)


def test_a_search_without_loads_is_not_complete():
    """What other CPUs may do between two loads was not looked at, and it says so."""
    for loads in (True, False):
        search = explore(process_world("mprotect"), preemptions=1, loads=loads)
        assert search.breach is None
        assert search.complete is loads
        shown = shortest({"one": process_world("mprotect")}, preemptions=1, loads=loads)
        assert shown.complete is loads


def test_a_search_that_runs_out_of_steps_says_how_far_it_came():
    """What was not tried for want of steps is told: nothing is complete beyond."""
    world = {"one": process_world("mprotect"), "other": process_world("munmap")}
    whole = shortest(world, preemptions=2, loads=True)
    assert whole.complete
    assert whole.preemptions == 2
    part = shortest(world, preemptions=2, loads=True, max_steps=whole.steps // 2)
    assert not part.complete
    assert part.preemptions < 2
    assert part.steps < whole.steps


def test_loads_are_steps_where_a_lock_is_taken_out():
    """Unless the caller says otherwise: the lock kept others out between two loads."""
    for without in (("lock PTE table in nowhere",), ()):
        scenario = partial(reclaiming, without)
        found = explore(scenario, preemptions=0)
        assert found == explore(scenario, preemptions=0, loads=bool(without))
        assert found.complete is bool(without)


def test_a_limit_on_runs_is_kept():
    """A search that gives up says that it is not complete."""
    search = explore(process_world("mprotect"), preemptions=2, loads=True, max_runs=3)
    assert (search.runs, search.complete) == (3, False)


def reclaiming(without=()):
    """A world in which reclaim comes by a page on its own, and its owner by another."""
    kernel = Kernel(Machine(2))
    kernel.swapfile.swapon(64)
    process = kernel.spawn(cpu=0)
    thread = process.thread(cpu=1)
    page = process.mmap(2 * PAGE)
    for owner in (process, thread):
        owner.write(page, 1)
        owner.write(page + PAGE, 1)
    kernel.swap.lru_add_drain_all()
    ptep = kernel.pgtable.find_pte(process.mm, page)
    assert ptep is not None
    pfn = kernel.pgtable.pte_pfn(kernel.pgtable.read(ptep))
    folio = kernel.page_alloc.folio_of(pfn)
    kernel.machine.taken_out = frozenset(without)

    def reclaim():
        if kernel.vmscan.folio_isolate_lru(folio):
            kernel.vmscan.reclaim_pages([folio])

    flows = (
        Flow("reclaim", 0, reclaim),
        Flow("advise", 1, lambda: thread.madvise(page + PAGE, PAGE, "cold")),
    )
    return World(kernel.machine, flows, lambda _: Sanitizer(kernel))


def test_a_flush_is_in_flight_until_its_dsb_is_over():
    """Whoever looks in while reclaim's DSB waits finds a flush, and nothing amiss."""
    search = explore(reclaiming, loads=True)
    assert (search.breach, search.complete) == (None, True)
    without = {"dsb ish in arch_tlbbatch_flush"}
    assert explore(lambda: reclaiming(without)).breach is not None
