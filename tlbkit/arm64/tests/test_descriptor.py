"""Laws and examples of descriptors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.descriptor import DescriptorKind
from tlbkit.arm64.granule import GRANULE_4K, GRANULE_16K, GRANULE_64K, GRANULES
from tlbkit.errors import InputError

u64 = st.integers(0, d.MASK64)
granules = st.sampled_from(GRANULES)
formats = st.sampled_from([d.ADDRESS_48, d.ADDRESS_LPA, d.ADDRESS_LPA2])


@given(st.data(), formats)
def test_an_address_comes_back_from_where_it_was_placed(data, layout):
    """Placing an address and reading it again is the identity."""
    shift = data.draw(st.integers(16, 40))
    address = data.draw(st.integers(0, (1 << layout.bits) - 1)) & -(1 << shift)
    assert layout.address(layout.place(address), shift) == address


@given(st.data(), formats, u64)
def test_an_address_uses_its_own_bits_only(data, layout, other):
    """What surrounds the address in a descriptor does not change it."""
    shift = data.draw(st.integers(16, 40))
    own = layout.in_place_mask(shift) | layout.moved
    address = data.draw(st.integers(0, (1 << layout.bits) - 1)) & -(1 << shift)
    descriptor = layout.place(address) | other & ~own
    assert layout.address(descriptor, shift) == address


@given(formats, st.integers(0, 15))
def test_an_address_that_does_not_fit_is_refused(layout, low):
    """An address wider than the format is an error, not a shorter address."""
    with pytest.raises(InputError, match=f"hold {layout.bits} bits"):
        layout.place(1 << layout.bits | low)


@given(u64, st.integers(0, 3), granules, st.booleans())
def test_fields_neither_overlap_nor_misquote(descriptor, level, granule, wide):
    """Each bit is in one field at most, and a field's value is that of its bits."""
    seen = 0
    for field in d.describe(descriptor, level, granule, wide=wide):
        mask = (1 << field.high + 1) - (1 << field.low)
        assert not seen & mask
        assert field.value == (descriptor & mask) >> field.low
        seen |= mask


@given(u64, st.integers(0, 3), granules)
def test_fields_come_from_the_top_down(descriptor, level, granule):
    """Fields are listed as they are read: highest bit first."""
    tops = [field.high for field in d.describe(descriptor, level, granule)]
    assert tops == sorted(tops, reverse=True)


@given(u64, st.integers(0, 3), granules, st.booleans())
def test_an_even_descriptor_is_invalid(descriptor, level, granule, wide):
    """Bit 0 alone makes a descriptor invalid, and then it has no other fields."""
    even = descriptor & ~d.VALID
    assert d.kind_of(even, level, granule, wide=wide) is DescriptorKind.INVALID
    assert [field.name for field in d.describe(even, level, granule)] == ["type"]


@pytest.mark.parametrize(
    ("granule", "level", "wide", "kind"),
    [
        (GRANULE_4K, 0, False, DescriptorKind.RESERVED),
        (GRANULE_4K, 0, True, DescriptorKind.BLOCK),
        (GRANULE_4K, 1, False, DescriptorKind.BLOCK),
        (GRANULE_4K, 3, False, DescriptorKind.RESERVED),
        (GRANULE_16K, 1, False, DescriptorKind.RESERVED),
        (GRANULE_16K, 1, True, DescriptorKind.BLOCK),
        (GRANULE_16K, 2, False, DescriptorKind.BLOCK),
        (GRANULE_64K, 1, False, DescriptorKind.RESERVED),
        (GRANULE_64K, 1, True, DescriptorKind.BLOCK),
        (GRANULE_64K, 3, True, DescriptorKind.RESERVED),
    ],
)
def test_01_is_a_block_only_where_there_are_blocks(granule, level, wide, kind):
    """Type 01 is a block where the level has them, and reserved elsewhere."""
    assert d.kind_of(0b01, level, granule, wide=wide) is kind


@pytest.mark.parametrize("granule", GRANULES, ids=lambda granule: granule.name)
def test_11_is_a_page_at_level_3_and_a_table_above(granule):
    """Type 11 means two things."""
    kinds = [d.kind_of(0b11, level, granule) for level in (1, 2, 3)]
    table, page = DescriptorKind.TABLE, DescriptorKind.PAGE
    assert kinds == [table, table, page]


def test_bits_stand_where_arm_puts_them():
    """Every named bit has its position in the manual."""
    leaf = {d.NS: 5, d.AP_EL0: 6, d.AP_READ_ONLY: 7, d.AF: 10, d.NG: 11, d.NT: 16}
    leaf |= {d.GP: 50, d.DBM: 51, d.CONTIGUOUS: 52, d.PXN: 53, d.UXN: 54}
    table = {d.PXN_TABLE: 59, d.UXN_TABLE: 60, d.AP_TABLE_NO_EL0: 61}
    table |= {d.AP_TABLE_READ_ONLY: 62, d.NS_TABLE: 63}
    for bit, position in (leaf | table).items():
        assert bit == 1 << position
    assert d.ATTR_INDEX_MASK == 0b111 << 2
    assert d.SH_MASK == 0b11 << 8


def test_wide_descriptors_keep_high_address_bits_where_arm_puts_them():
    """LPA: 51:48 in 15:12. LPA2: 51:50 in 9:8 and 49:48 in place."""
    top = 0b1111 << 48
    assert d.ADDRESS_LPA.place(top) == 0b1111 << 12
    assert d.ADDRESS_LPA2.place(top) == 0b11 << 8 | 0b11 << 48


def test_a_page_is_described_in_words():
    """A user's data page reads as what it is."""
    word = 0x0060_0000_4020_0F43 | d.AP_READ_ONLY
    said = {f.name: f.meaning for f in d.describe(word, 3, GRANULE_4K)}
    assert said["output address [47:12]"] == "0x40200000"
    assert said["AP[2]"] == "read-only"
    assert said["AP[1]"] == "EL0 may access"
    assert said["SH"] == "inner shareable"
    assert said["nG"] == "belongs to one ASID"
    assert said["type"] == "page"


def test_a_wide_block_is_described_with_both_parts_of_its_address():
    """With LPA2 the address stands in two fields, and SH gives way to it."""
    fields = {
        f.name: f for f in d.describe(0x0001_0080_0000_0101, 0, GRANULE_4K, wide=True)
    }
    assert fields["output address [51:50]"].value == 0b01
    assert fields["output address [49:39]"].meaning == hex(5 << 48 | 1 << 39)
    assert "SH" not in fields
    assert "nT" in fields
