"""Laws of lock orders: what could end in a deadlock is named, and nothing else is."""

from functools import partial
from random import Random

import pytest

from tlbkit.explore.locks import Taking
from tlbkit.explore.scheduler import DeadlockError, Flow, World
from tlbkit.explore.search import explore, wander
from tlbkit.explore.tests.support import process_world, program_world
from tlbkit.linux.kernel.locking import RwSemaphore, SpinLock


def takers(*ways, again=True):
    """Flows that take locks as their *ways* say: letters, a small one for reading.

    ``?`` before a letter is a trylock.
    """

    def scenario():
        machine = program_world([[] for _ in ways])().machine
        locks = {name: RwSemaphore(machine, f"lock {name}") for name in "ABCG"}

        def take(way):
            if not way:
                return
            if way[0] == "?":
                if locks[way[1]].down_write_trylock():
                    take(way[2:])
                    locks[way[1]].up_write()
            elif way[0].islower():
                locks[way[0].upper()].down_read()
                take(way[1:])
                locks[way[0].upper()].up_read()
            else:
                locks[way[0]].down_write()
                take(way[1:])
                locks[way[0]].up_write()

        flows = tuple(
            Flow(f"P{n}", n, partial(take, way)) for n, way in enumerate(ways)
        )
        return World(machine, flows, again=again)

    return scenario


CROSSED = [
    ("AB", "BA"),
    ("ABC", "CA"),
    ("AB", "BC", "CA"),
    ("aB", "bA"),
    ("GAB", "BA"),
    ("gAB", "gBA"),
]
FINE = [
    ("AB", "AB"),
    ("GAB", "GBA"),
    ("gAB", "GBA"),
    ("aB", "Ba"),
    ("ab", "ba"),
    ("AB", "B?A"),
    ("AB", "A", "B"),
    ("ABC", "AC", "BC"),
]


@pytest.mark.parametrize("ways", CROSSED + FINE, ids="-".join)
@pytest.mark.parametrize("reduce", [True, False])
def test_orders_cross_exactly_where_a_deadlock_is(ways, reduce):
    """Without a preemption, orders tell what a search with enough of them runs into."""
    orders = explore(takers(*ways), preemptions=0, reduce=reduce)
    assert orders.breach is None
    deadlock = explore(takers(*ways), preemptions=3, reduce=reduce).breach
    assert bool(orders.crossings) == (deadlock is not None) == (ways in CROSSED)
    assert deadlock is None or isinstance(deadlock.error, DeadlockError)


def test_a_crossing_names_locks_flows_and_places():
    """Both locks, both flows, and the line where each takes its second lock."""
    (crossing,) = explore(takers("AB", "BA"), preemptions=0).crossings
    second, first = crossing.takings
    assert first[:3] == ("P0", "lock A", "lock B")
    assert second[:3] == ("P1", "lock B", "lock A")
    for taking in crossing.takings:
        assert isinstance(taking, Taking)
        assert taking.place.startswith("take (tlbkit.explore.tests.test_locks:")
    assert str(crossing).startswith("lock order: P1 takes lock A with lock B held, in ")


def test_a_world_made_anew_crosses_as_well():
    """Locks are known by their names where each run has locks of its own."""
    once, again = (
        explore(takers("AB", "BA", again=how), preemptions=0) for how in (True, False)
    )
    assert once == again


def test_locks_of_one_name_are_told_apart():
    """Two flows that take two pairs of locks of one name are in no danger."""

    def scenario():
        machine = program_world([[], []])().machine
        pairs = [(SpinLock(machine, "A"), SpinLock(machine, "B")) for _ in range(2)]

        def take(first, second):
            with first, second:
                pass

        (a, b), (c, d) = pairs
        flows = Flow("P", 0, lambda: take(a, b)), Flow("Q", 1, lambda: take(d, c))
        return World(machine, flows)

    assert explore(scenario, preemptions=2).crossings == ()


@pytest.mark.parametrize("operation", ["mprotect", "munmap", "write"])
def test_the_kernel_takes_its_locks_in_order(operation):
    """Flows of the kernel, with no rule on, take no two locks crosswise."""
    found = explore(process_world(operation, rules=False), preemptions=1)
    assert found.crossings == ()


def test_chance_sees_orders_too():
    """A random walk reports what it met, with the same seed the same."""
    assert wander(takers("AB", "BA"), Random(1), runs=1).crossings
    assert not wander(takers("AB", "AB"), Random(1), runs=5).crossings
