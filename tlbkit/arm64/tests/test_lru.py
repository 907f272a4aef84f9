"""LRU hits are known without running a cache, and are what running one gives."""

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.lru import lru_hits


@given(st.lists(st.integers(0, 40), max_size=300), st.integers(1, 12))
def test_lru_hits_are_those_of_a_cache(keys, ways):
    """The distances between like accesses say what a queue of keys says."""
    held: OrderedDict[int, None] = OrderedDict()
    expected = []
    for key in keys:
        expected.append(key in held)
        held[key] = None
        held.move_to_end(key)
        if len(held) > ways:
            held.popitem(last=False)
    assert lru_hits(np.array(keys, np.int64), ways).tolist() == expected


@pytest.mark.parametrize("ways", [1, 2, 7, 64, 130])
def test_long_windows_over_few_keys(ways):
    """A key that comes back after a long time hits if few others came, else not."""
    for others in (ways - 1, ways):
        if not others:
            continue
        inner = np.tile(np.arange(1, others + 1), 40_000 // others)
        keys = np.concatenate([[0], inner, [0], inner, [0]]).astype(np.int64)
        hits = lru_hits(keys, ways)
        at = [0, len(inner) + 1, 2 * len(inner) + 2]
        assert hits[at].tolist() == [False, others < ways, others < ways]


@given(st.lists(st.integers(0, 9), max_size=100))
def test_a_larger_cache_hits_wherever_a_smaller_one_does(keys):
    """Inclusion: with LRU, more entries never turn a hit into a miss."""
    trace = np.array(keys, np.int64)
    hits = [lru_hits(trace, ways) for ways in range(1, 12)]
    for smaller, larger in pairwise(hits):
        assert not (smaller & ~larger).any()
    assert hits[-1].sum() == len(keys) - len(set(keys))
