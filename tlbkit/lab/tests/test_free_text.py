"""Laws of free text: numbers are read as written, and anything else is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.errors import InputError
from tlbkit.lab.free_text import fields, number, numbers

WORDS = st.integers(0, (1 << 64) - 1)


@given(WORDS, st.sampled_from(["{:#x}", "{:d}", "{:#_x}", " {:#X} ", "{:_d}"]))
def test_every_way_to_write_a_number_is_read(value, form):
    """Decimal and hex, grouped or not, with blanks around it."""
    assert number("va", form.format(value)) == value


@given(st.text() | st.text("0123456789abcxX_ '"))
def test_other_text_is_refused_by_name(text):
    """What is no number is an `InputError` that names the parameter."""
    digits = re.sub(r"[_'\s]", "", text)
    if re.fullmatch("[0-9]{1,19}|0[xX][0-9a-fA-F]{1,16}", digits):
        assert number("va", text) == int(digits, 16 if "x" in digits.lower() else 10)
    else:
        with pytest.raises(InputError, match="va"):
            number("va", text)


@given(WORDS, st.integers(1, 64))
def test_a_number_that_is_too_wide_is_refused(value, bits):
    """Exactly the numbers that fit are taken."""
    if value >> bits:
        with pytest.raises(InputError, match=f"more than {bits} bits"):
            number("asid", hex(value), bits)
    else:
        assert number("asid", hex(value), bits) == value


@given(st.dictionaries(st.sampled_from(["T0SZ", "TBI0", "HA"]), st.integers(0, 1)))
def test_fields_are_read_as_written(wanted):
    """Any of the fields in any order, parted by blanks or commas."""
    widths = {"T0SZ": 6, "TBI0": 1, "HA": 1}
    for gap in (" ", ", ", ","):
        text = gap.join(f"{name}={value}" for name, value in wanted.items())
        assert fields("tcr", text, widths) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [("nonsense", "sets no field"), ("T9SZ=1", "T0SZ"), ("T0SZ=64", "6 bits")],
)
def test_wrong_fields_are_named(text, said):
    """The message says what is wrong, or which fields there are."""
    with pytest.raises(InputError, match=said):
        fields("tcr", text, {"T0SZ": 6})


@given(st.lists(WORDS, min_size=1, max_size=9))
def test_lists_are_read_as_written(values):
    """Parted by blanks or commas."""
    assert numbers("pages", ", ".join(map(str, values)), most=9) == values
    with pytest.raises(InputError, match="1 to"):
        numbers("pages", " ".join(map(str, values)), most=len(values) - 1)
