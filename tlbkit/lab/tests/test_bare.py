"""Laws of tables written by hand: what is mapped is found, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.granule import GRANULE_4K, GRANULES
from tlbkit.arm64.memory import PhysicalMemory
from tlbkit.arm64.walk import Translation, walk
from tlbkit.errors import InputError
from tlbkit.lab.bare import FIRST_TABLE, USER_PAGE, Tables

MAPS = st.dictionaries(
    st.integers(0, (1 << 36) - 1), st.integers(1, 1 << 20), max_size=8
)


@given(MAPS, st.sampled_from(GRANULES), st.sampled_from([36, 39, 42, 47, 48]))
def test_a_walk_finds_what_was_mapped(pages, granule, va_bits):
    """Each address leads to the frame that was mapped last for its page."""
    memory = PhysicalMemory()
    tables = Tables(memory, granule, va_bits)
    mapped = {}
    for va, frame in pages.items():
        pa = (frame << granule.page_shift) + (1 << 40)
        tables.map(va, pa)
        mapped[va >> granule.page_shift] = pa
    regime = tables.regime()
    for va in pages:
        found = walk(regime, memory, va)
        assert isinstance(found, Translation)
        assert found.pa == mapped[va >> granule.page_shift]


@given(st.integers(0, (1 << 48) - 1))
def test_the_place_returned_is_the_descriptors(va):
    """`map` tells where the descriptor is that a walk ends at."""
    memory = PhysicalMemory()
    tables = Tables(memory)
    place = tables.map(va, 1 << 40)
    found = walk(tables.regime(), memory, va)
    assert isinstance(found, Translation)
    assert (found.descriptor_pa, found.descriptor) == (place, memory.read(place))


def test_tables_do_not_overlap():
    """Two tables never share a word, whatever order they are asked for in."""
    memory = PhysicalMemory()
    tables = Tables(memory)
    places = [tables.entry(n << 39 | n << 30 | n << 21 | n << 12) for n in range(1, 9)]
    assert len({place >> GRANULE_4K.page_shift for place in places}) == len(places)
    assert min(places) > FIRST_TABLE


def test_a_block_in_the_way_is_named():
    """No table is made where a block stands."""
    tables = Tables(PhysicalMemory())
    tables.map(0, 1 << 40, level=2)
    with pytest.raises(InputError, match="block stands at level 2"):
        tables.map(0x1000, 1 << 40)


@pytest.mark.parametrize("level", [-1, 4])
def test_levels_that_a_walk_does_not_have_are_refused(level):
    """The message says which levels there are."""
    with pytest.raises(InputError, match="from 0 to 3"):
        Tables(PhysicalMemory()).entry(0, level)


def test_pages_are_for_programs_and_young():
    """What the chapters map is a page that a program reads and writes."""
    assert USER_PAGE & d.AP_EL0
    assert USER_PAGE & d.AF
    assert not USER_PAGE & d.AP_READ_ONLY
