"""Laws and examples of the granules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.granule import GRANULE_4K, GRANULE_16K, GRANULE_64K, GRANULES
from tlbkit.arm64.tests.reference import (
    BLOCK_LEVELS,
    BLOCK_LEVELS_52,
    GROUPS,
    INDEX_BITS,
    TG0,
    TG1,
)

granules = st.sampled_from(GRANULES)
KIB, MIB, GIB, TIB = 10, 20, 30, 40


@given(granules, st.integers(25, 52))
def test_levels_from_the_start_resolve_all_bits_and_one_fewer_would_not(
    granule, input_bits
):
    """A walk has as many levels as the bits above the page offset need."""
    start = granule.start_level(input_bits)
    above_start = granule.shift(start) + granule.bits_per_level
    assert granule.shift(start) < input_bits <= above_start


@given(granules, st.integers(25, 52))
def test_a_table_below_the_start_is_one_page(granule, input_bits):
    """Only the start table can be smaller than a page, and none is larger."""
    start = granule.start_level(input_bits)
    sizes = [8 * granule.table_entries(level, input_bits) for level in range(start, 4)]
    assert sizes[0] <= granule.page_size
    assert all(size == granule.page_size for size in sizes[1:])


@pytest.mark.parametrize("granule", GRANULES, ids=lambda granule: granule.name)
def test_each_level_resolves_the_bits_that_arm_lists(granule):
    """The VA bits of each level are those of the manual's figures."""
    for level, (high, low) in INDEX_BITS[granule.name].items():
        assert granule.shift(level) == low
        assert 1 << high - low + 1 == granule.table_entries(level, high + 1)


@pytest.mark.parametrize("granule", GRANULES, ids=lambda granule: granule.name)
def test_blocks_stand_where_arm_lists_them(granule):
    """Leaves stand at the block levels, one more with 52-bit descriptors, and at 3."""
    levels = range(-1, 4)
    plain = {level for level in levels if granule.has_leaf(level)}
    wide = {level for level in levels if granule.has_leaf(level, wide=True)}
    assert plain == BLOCK_LEVELS[granule.name] | {3}
    assert wide == BLOCK_LEVELS_52[granule.name] | {3}


@pytest.mark.parametrize("granule", GRANULES, ids=lambda granule: granule.name)
def test_contiguous_groups_are_as_large_as_arm_lists_them(granule):
    """A group has its level's number of entries; where there are none it is one."""
    for level in range(4):
        entries = 1 << granule.group_shift(level) - granule.shift(level)
        assert entries == GROUPS[granule.name].get(level, 1)


@pytest.mark.parametrize(
    ("granule", "level", "size"),
    [
        (GRANULE_4K, 3, 4 << KIB),
        (GRANULE_4K, 2, 2 << MIB),
        (GRANULE_4K, 1, 1 << GIB),
        (GRANULE_4K, 0, 512 << GIB),
        (GRANULE_16K, 3, 16 << KIB),
        (GRANULE_16K, 2, 32 << MIB),
        (GRANULE_16K, 1, 64 << GIB),
        (GRANULE_64K, 3, 64 << KIB),
        (GRANULE_64K, 2, 512 << MIB),
        (GRANULE_64K, 1, 4 << TIB),
    ],
)
def test_pages_and_blocks_have_the_known_sizes(granule, level, size):
    """Page and block sizes are the ones that everybody knows."""
    assert 1 << granule.shift(level) == size


@pytest.mark.parametrize(
    ("granule", "level", "size"),
    [
        (GRANULE_4K, 3, 64 << KIB),
        (GRANULE_4K, 2, 32 << MIB),
        (GRANULE_4K, 1, 16 << GIB),
        (GRANULE_16K, 3, 2 << MIB),
        (GRANULE_16K, 2, 1 << GIB),
        (GRANULE_64K, 3, 2 << MIB),
        (GRANULE_64K, 2, 16 << GIB),
    ],
)
def test_groups_have_the_known_sizes(granule, level, size):
    """Contiguous groups cover the sizes that the manual's table gives."""
    assert 1 << granule.group_shift(level) == size


@pytest.mark.parametrize(
    ("granule", "input_bits", "start"),
    [
        (GRANULE_4K, 52, -1),
        (GRANULE_4K, 49, -1),
        (GRANULE_4K, 48, 0),
        (GRANULE_4K, 39, 1),
        (GRANULE_4K, 30, 2),
        (GRANULE_4K, 25, 2),
        (GRANULE_4K, 16, 3),
        (GRANULE_16K, 52, 0),
        (GRANULE_16K, 48, 0),
        (GRANULE_16K, 47, 1),
        (GRANULE_16K, 36, 2),
        (GRANULE_16K, 25, 3),
        (GRANULE_64K, 52, 1),
        (GRANULE_64K, 48, 1),
        (GRANULE_64K, 42, 2),
        (GRANULE_64K, 29, 3),
        (GRANULE_64K, 17, 3),
    ],
)
def test_walks_start_where_everybody_starts_them(granule, input_bits, start):
    """The start levels of the usual address sizes, and the edges between them."""
    assert granule.start_level(input_bits) == start


def test_register_codes_are_the_architectures():
    """TG0, TG1 and TLBI operands name granules by three different codes."""
    assert {granule.tg0: granule.name for granule in GRANULES} == TG0
    assert {granule.tg1: granule.name for granule in GRANULES} == TG1
    assert [granule.tlbi for granule in GRANULES] == [1, 2, 3]
