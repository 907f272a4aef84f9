"""Words of registers: entries as bits, sums, shifts, comparisons."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.ordering import Computed, Data, Entry
from tlbkit.explore.herd.values import (
    CONDITIONS,
    MASK,
    Code,
    Held,
    MissingError,
    PageNumber,
    add,
    apply,
    bits_of,
    bitwise,
    holds,
    read_into,
    shift,
)

numbers = st.integers(0, MASK)
entries = st.builds(
    Entry,
    st.booleans(),
    st.just("x"),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
masks = st.sets(st.sampled_from([d.VALID, d.AF, d.AP_READ_ONLY, d.DBM])).map(sum)


@given(entries, masks)
def test_an_entry_is_a_word_of_bits(entry, mask):
    """Setting, clearing and testing bits of an entry is what it is of a number."""
    bits = bits_of(entry)
    wanted = {"ORR": bits | mask, "BIC": bits & ~mask, "EOR": bits ^ mask}
    for name, result in wanted.items():
        found = bitwise(name, entry, mask)
        assert isinstance(found, Entry)
        assert (bits_of(found), found.frame) == (result, "x")
    assert bitwise("AND", entry, mask) == bits & mask


@given(entries, numbers.filter(lambda n: n & 0xFFFF_FFFF_F000))
def test_the_address_of_an_entry_is_not_computed_with(entry, mask):
    """Bits that entries do not have here are refused, not dropped."""
    with pytest.raises(MissingError):
        bitwise("ORR", entry, mask)
    with pytest.raises(MissingError):
        bitwise("BIC", entry, mask)


@given(numbers, numbers)
def test_numbers_are_those_of_64_bits(left, right):
    """Sums wrap around, and the four operations are Python's."""
    assert add(left, right) == (left + right) % 2**64
    assert add(add(left, right), right, -1) == left
    assert bitwise("BIC", left, right) == left & ~right
    assert shift(shift(left, 12), -12) == left % 2**52


@given(numbers, numbers)
def test_conditions_come_in_pairs(left, right):
    """A condition holds where its opposite does not, and agrees with the numbers."""
    pair = left, right
    opposites = ["EQ NE", "CS CC", "HI LS", "GE LT", "GT LE", "MI PL"]
    for one, other in map(str.split, opposites):
        assert holds(one, pair) is not holds(other, pair)
    assert holds("HI", pair) is (left > right)
    assert holds("AL", pair)
    assert len(CONDITIONS) == len(set(CONDITIONS))


@given(numbers, numbers)
def test_what_is_read_is_computed_with_later(left, right):
    """An operation on a register that is read is done when its value is there."""
    made = apply(add, read_into("a"), Held(right))
    assert made.basic == {"a"}
    assert isinstance(made.value, Computed)
    assert made.value.registers == ("a",)
    assert made.value.function(left) == add(left, right)
    twice = apply(add, made, read_into("b"))
    assert isinstance(twice.value, Computed)
    assert twice.value.registers == ("a", "b")
    assert twice.value.function(left, 1) == add(add(left, right), 1)


def test_addresses_move_only_as_addresses():
    """A page has a number; an instruction has a next one; the rest is refused."""
    assert shift(Data("x"), -12) == PageNumber("x")
    assert add(Data("x"), 0) == Data("x")
    assert add(Code(0, 3), 4) == Code(0, 4)
    assert bitwise("EOR", Data("x"), Data("x")) == 0
    for wrong in (
        lambda: add(Data("x"), 8),
        lambda: shift(Data("x"), -3),
        lambda: bitwise("ORR", Data("x"), 1),
        lambda: holds("LT", (Data("x"), 1)),
    ):
        with pytest.raises(MissingError):
            wrong()
