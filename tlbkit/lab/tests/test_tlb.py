"""Laws of reuse and reach: what distances predict, the TLB of the machine does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.lab import columns, reuse
from tlbkit.lab.tlb import (
    ACCESSES,
    CPUS,
    MAPPED,
    PATTERNS,
    SIZES,
    Lru,
    Reach,
    misses,
    size,
    trace,
    use,
)

TRACES = st.lists(st.integers(0, 12), min_size=1, max_size=60)


def by_the_definition(pages):
    """The distance of each access, counted one by one."""
    found = []
    for now, used in enumerate(pages):
        before = [i for i in range(now) if pages[i] == used]
        found.append(len(set(pages[before[-1] + 1 : now])) if before else -1)
    return found


@given(TRACES)
def test_distances_are_as_defined(pages):
    """The tree and the sort count what the definition counts."""
    wanted = by_the_definition(pages)
    assert reuse.stack_distances(pages) == wanted
    assert columns.stack_distances(np.array(pages)).tolist() == wanted


@given(TRACES)
def test_ratios_agree_and_never_rise(pages):
    """Both ways give the same shares; a larger TLB never misses more."""
    sizes = [1, 2, 3, 5, 8, 13, 60]
    far = reuse.stack_distances(pages)
    ratios = reuse.miss_ratios(far, sizes)
    assert columns.miss_ratios(np.array(far), np.array(sizes)) == pytest.approx(ratios)
    assert ratios == sorted(ratios, reverse=True)


@given(TRACES.filter(lambda pages: len(pages) <= 40), st.integers(1, 8))
@settings(deadline=None)
def test_the_machine_hits_where_the_distance_is_small(pages, entries):
    """A TLB of n entries hits if and only if the distance is less than n."""
    answer = Lru().answer({"pages": " ".join(map(str, pages)), "entries": entries})
    far = by_the_definition(pages)
    assert answer.columns["hit"] == [int(0 <= n < entries) for n in far]
    assert answer.columns["distance"] == far


def test_the_held_pages_are_the_latest():
    """The last row names the last different pages used, the oldest use first."""
    answer = Lru().answer({"pages": "1 2 3 4 2 5", "entries": 3})
    assert answer.rows[-1][-1] == "4 2 5"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_micro_tlb_of_the_machine_follows_the_curve(pattern):
    """48 entries, fully associative: hits are the distances below 48."""
    pages = trace(pattern, 256, 4000)
    used = use(pages, MAPPED["4 KiB pages"], "neoverse-v2")
    assert used.l1_hits == sum(0 <= far < 48 for far in reuse.stack_distances(pages))


def test_long_traces_are_counted_in_columns():
    """The NumPy way finds the hits of 64 entries in a million accesses."""
    chance = np.random.default_rng(1)
    far = columns.stack_distances(chance.integers(0, 4096, 1_000_000))
    assert int(((far >= 0) & (far < 64)).sum()) == 15_703


@given(
    st.sampled_from(PATTERNS),
    st.sampled_from([16, 64, 512]),
    st.sampled_from(list(MAPPED)),
    st.sampled_from(CPUS),
)
@settings(max_examples=10, deadline=None)
def test_every_access_is_a_hit_or_a_walk(pattern, pages, mapped, cpu):
    """The three counts add up, and no walk reads more than four words."""
    params = {"pattern": pattern, "pages": pages, "mapped": mapped, "cpu": cpu}
    rows = Reach().answer(params).rows
    accesses, l1, l2, walks, reads = (int(row[1].replace(",", "")) for row in rows)
    assert accesses == ACCESSES == l1 + l2 + walks
    assert walks <= reads <= 4 * walks


def test_larger_mappings_never_miss_more():
    """At every size, an entry that stands for more memory misses less."""
    for pattern in PATTERNS:
        shares = misses(pattern, 512)
        small, group, block = (shares[name] for name in MAPPED)
        assert len(small) == len(SIZES)
        assert all(a >= b >= c for a, b, c in zip(small, group, block, strict=True))


def test_sizes_are_written_in_the_largest_unit():
    """As people write them."""
    assert [size(n) for n in (512, 4096, 3 << 20, 1 << 30, 1 << 41)] == [
        "512 bytes",
        "4 KiB",
        "3 MiB",
        "1 GiB",
        "2048 GiB",
    ]
