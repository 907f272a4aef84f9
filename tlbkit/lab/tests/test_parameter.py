"""Knobs and what they take."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.errors import InputError
from tlbkit.lab import Parameter

NUMBER = Parameter("pages", "Pages", "pages", 64, (1, 64, 4096))
SLOW = Parameter("pages", "Pages", "pages", 64, (1, 64, 512), most=4096)
NAME = Parameter("change", "Change", "", "none-rw", ("none-rw", "rw-ro"))
TEXT = Parameter("va", "Address", "", "0x0", ())
KNOBS = st.sampled_from([NUMBER, NAME, TEXT])


@given(st.sampled_from([NUMBER, SLOW]), st.integers(-5000, 10000))
def test_a_number_is_allowed_between_the_ends(knob, value):
    """Every whole number from the first choice to the last, or the most, is allowed."""
    if 1 <= value <= 4096:
        assert knob.check(value) == knob.parse(str(value)) == value
    else:
        with pytest.raises(InputError, match="a whole number from 1 to 4096"):
            knob.check(value)
        with pytest.raises(InputError, match="a whole number from 1 to 4096"):
            knob.parse(str(value))


@given(KNOBS, st.text())
def test_what_is_parsed_is_allowed(knob, text):
    """Whatever a text says, the result is a value that is allowed, or an error."""
    with contextlib.suppress(InputError):
        value = knob.parse(text)
        assert knob.check(value) == value


@given(KNOBS, st.none() | st.booleans() | st.floats() | st.binary())
def test_other_types_are_refused(knob, value):
    """A value of the wrong type is an input error, not a surprise later."""
    with pytest.raises(InputError, match=knob.name):
        knob.check(value)


@pytest.mark.parametrize("value", ["rw-ro", "none-rw"])
def test_a_name_is_one_of_its_choices(value):
    """A name is taken as it is."""
    assert NAME.check(value) == NAME.parse(value) == value


def test_a_name_that_is_none_is_told_which_there_are():
    """The message lists them all."""
    with pytest.raises(InputError, match="one of none-rw, rw-ro"):
        NAME.parse("ro-rw")
