"""The order that the events of one thread must keep."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.ordering import Accesses, Dmb, Dsb, Kind
from tlbkit.arm64.ordering.events import events_of, waits_for
from tlbkit.arm64.ordering.tests.programs import threads


def order_of(steps, *, ets2=False):
    """Return the pairs of events that must keep their order, by step and kind."""
    events = events_of(tuple(steps))
    return reachable(
        {
            ((a.step, a.kind), (b.step, b.kind))
            for a, b in combinations(events, 2)
            if waits_for(b, a, ets2=ets2)
        }
    )


def reachable(pairs):
    """Return the transitive closure."""
    while True:
        more = {(a, d) for a, b in pairs for c, d in pairs if b == c}
        if more <= pairs:
            return pairs
        pairs = pairs | more


@settings(max_examples=40, deadline=None)
@given(threads(0, 5))
def test_ets2_only_adds_order(steps):
    """FEAT_ETS2 takes no order away."""
    assert order_of(steps) <= order_of(steps, ets2=True)


@settings(max_examples=40, deadline=None)
@given(threads(0, 3), threads(0, 3), st.sampled_from(Accesses))
def test_a_dsb_orders_all_that_a_dmb_orders(before, after, accesses):
    """Each DSB orders at least what the DMB for the same accesses does."""
    place = len(before)

    def between(barrier):
        pairs = order_of((*before, barrier, *after))
        return {(a, b) for a, b in pairs if place not in (a[0], b[0])}

    assert between(Dmb(accesses)) <= between(Dsb(accesses))


@pytest.mark.parametrize("barrier", [Dmb, Dsb])
@settings(max_examples=40, deadline=None)
@given(before=threads(0, 3), after=threads(0, 3), accesses=st.sampled_from(Accesses))
def test_a_full_barrier_orders_all_that_a_partial_one_orders(
    barrier, before, after, accesses
):
    """`ld` and `st` leave out; they add nothing."""
    place = len(before)

    def between(accesses):
        pairs = order_of((*before, barrier(accesses), *after))
        return {(a, b) for a, b in pairs if place not in (a[0], b[0])}

    assert between(accesses) <= between(Accesses.ALL)


@settings(max_examples=40, deadline=None)
@given(threads(0, 3), threads(0, 3), st.sampled_from(Accesses))
def test_a_dmb_orders_neither_walk_nor_tlbi(before, after, accesses):
    """DMB has nothing to do with translation and its invalidation."""
    events = events_of((*before, Dmb(accesses), *after))
    barrier = next(event for event in events if event.step == len(before))
    for event in events:
        if event.kind in (Kind.WALK, Kind.UPDATE, Kind.INVALIDATE):
            if event.step < barrier.step:
                assert not waits_for(barrier, event, ets2=True)
            elif event.step > barrier.step:
                assert not waits_for(event, barrier, ets2=True)
