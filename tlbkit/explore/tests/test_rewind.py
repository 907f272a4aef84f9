"""Laws of worlds that are set back: nobody can tell them from worlds made anew."""

from collections import Counter, deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.explore.rewind import Snapshot
from tlbkit.explore.search import explore, shortest
from tlbkit.explore.tests.support import process_world


class Box:
    """A field, and one that is empty at first."""

    __slots__ = ("content", "late")

    late: object

    def __init__(self, content):
        self.content = content


class Bag:
    """Fields without slots."""

    late: object

    def __init__(self, content):
        self.content = content


leaves = st.one_of(st.integers(), st.text(max_size=3), st.none())
things = st.recursive(
    st.one_of(
        leaves,
        st.sets(st.integers(), max_size=3),
        st.binary(max_size=4).map(bytearray),
        st.lists(st.integers(), max_size=3).map(deque),
        st.lists(st.integers(0, 3), max_size=4).map(Counter),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.integers(0, 5), inner, max_size=3),
        st.tuples(inner, inner),
        inner.map(Box),
        inner.map(Bag),
        inner.map(lambda held: lambda: held),
    ),
)


def shape(thing):
    """What there is, all the way down, as something that can be compared."""
    match thing:
        case Box() | Bag():
            late = getattr(thing, "late", "nothing")
            return type(thing).__name__, shape(thing.content), late
        case dict():
            return type(thing).__name__, [(k, shape(v)) for k, v in thing.items()]
        case list() | tuple() | deque():
            return type(thing).__name__, [shape(one) for one in thing]
        case set() | bytearray():
            return type(thing).__name__, sorted(thing)
    return shape(thing()) if callable(thing) else thing


def spoil(thing):
    """Change whatever can be changed, all the way down."""
    match thing:
        case Box() | Bag():
            spoil(thing.content)
            thing.content = thing.late = "spoilt"
        case dict():
            for one in thing.values():
                spoil(one)
            thing.clear()
            thing[99] = 1
        case list() | deque():
            for one in thing:
                spoil(one)
            thing.append("spoilt")
        case tuple():
            for one in thing:
                spoil(one)
        case set():
            thing.add(-77)
        case bytearray():
            thing.append(1)
        case _ if callable(thing):
            spoil(thing())
            thing.__closure__[0].cell_contents = "spoilt"


@given(things)
def test_what_is_set_back_is_as_it_was(thing):
    """Whatever is changed in between, all is as it was, in the same objects."""
    before, snapshot = shape(thing), Snapshot(thing, {})
    for _ in range(2):
        spoil(thing)
        snapshot.restore()
        assert shape(thing) == before


def test_what_cannot_be_set_back_is_refused():
    """A generator has a place at which it is, and nobody can put it back there."""
    with pytest.raises(ValueError, match="generator"):
        Snapshot([(n for n in range(3))], {})


def again(scenario):
    """The same scenario, with worlds that may be set back."""
    made = []

    def make():
        made.append(1)
        return replace(scenario(), again=True)

    return make, made


def told(search):
    """All that a search says, with its errors as text."""
    breach = search.breach
    said = breach and (*breach[:3], str(breach.error))
    return search.runs, search.steps, said


@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("loads", [True, False])
@pytest.mark.parametrize("without", ["", "dsb ish in flush_tlb_range_"])
@pytest.mark.parametrize("operation", ["mprotect", "munmap", "write"])
def test_a_search_of_one_world_is_that_of_many(operation, without, loads, reduce):
    """A world that is set back is searched as worlds made anew are, step for step."""
    scenario = process_world(operation, without={without}, rules=False)
    once, made = again(scenario)
    how = {"preemptions": 1, "reduce": reduce, "loads": loads}
    assert told(explore(once, **how)) == told(explore(scenario, **how))
    assert len(made) == 2  # one for each number of preemptions


def test_a_world_that_cannot_be_set_back_is_made_anew():
    """Rules that are a generator are no obstacle: each run has a world of its own."""
    scenario = process_world("munmap")
    once, made = again(scenario)
    search = explore(once, preemptions=1, loads=False)
    assert told(search) == told(explore(scenario, preemptions=1, loads=False))
    assert len(made) == search.runs


@settings(max_examples=5, deadline=None)
@given(st.permutations(["mprotect", "munmap", "write"]), st.integers(0, 2))
def test_the_shortest_of_all_is_the_shortest_of_each(names, broken):
    """Searched together, scenarios have the shortest breach that one of them has."""
    scenarios = {
        name: process_world(
            name, without={"dsb ish in flush_tlb_range_"} if n >= broken else ()
        )
        for n, name in enumerate(names)
    }
    together = shortest(scenarios, preemptions=1)
    found = {
        name: breach
        for name, scenario in scenarios.items()
        if (breach := explore(scenario, preemptions=1).breach) is not None
    }
    lengths = {name: (one.preemptions, len(one.steps)) for name, one in found.items()}
    if not lengths:
        assert together.breach is None
        return
    first = min(lengths, key=lambda name: lengths[name])
    assert together.name == first
    assert together.breach is not None
    assert together.breach[:3] == found[first][:3]
