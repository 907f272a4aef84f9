"""Laws and examples of access rights."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64 import permission as p
from tlbkit.arm64.permission import access_bit, allowed, describe

FLAGS = ("user", "read_only", "uxn", "pxn", "wxn", "epan")
EVERY_CASE = [
    dict(zip(FLAGS, values, strict=True))
    for values in product((False, True), repeat=len(FLAGS))
]
cases = st.sampled_from(EVERY_CASE)


@given(cases, st.sampled_from(["read_only", "pxn", "wxn", "epan"]))
def test_limits_take_data_rights_away_and_never_give_any(case, limit):
    """Setting a limit keeps or removes each right to read or write.

    UXN is not among them: EPAN guards what EL0 may execute, and UXN ends that.
    """
    data = ~p.ANY_EXECUTE
    before = allowed(**case | {limit: False}) & data
    after = allowed(**case | {limit: True}) & data
    assert after & ~before == 0


@given(cases, st.sampled_from(["uxn", "pxn", "wxn"]))
def test_limits_on_execution_take_it_away_and_never_give_it(case, limit):
    """Setting UXN, PXN or WXN keeps or removes each right to execute."""
    before = allowed(**case | {limit: False}) & p.ANY_EXECUTE
    after = allowed(**case | {limit: True}) & p.ANY_EXECUTE
    assert after & ~before == 0


@given(cases)
def test_pan_takes_away_and_never_gives(case):
    """What EL1 may do with PAN set, it may do with PAN clear."""
    rights = allowed(**case)
    assert not (rights & p.EL1_READ_PAN and not rights & p.EL1_READ)
    assert not (rights & p.EL1_WRITE_PAN and not rights & p.EL1_WRITE)


@given(cases)
def test_whoever_writes_reads(case):
    """There is no write-only memory."""
    rights = allowed(**case)
    for write, read in (
        (p.EL0_WRITE, p.EL0_READ),
        (p.EL1_WRITE, p.EL1_READ),
        (p.EL1_WRITE_PAN, p.EL1_READ_PAN),
    ):
        assert not (rights & write and not rights & read)


@given(cases)
def test_wxn_means_that_nobody_executes_what_he_may_write(case):
    """With WXN, writing and executing exclude each other at each exception level."""
    rights = allowed(**case | {"wxn": True})
    for write, execute in (
        (p.EL0_WRITE, p.EL0_EXECUTE),
        (p.EL1_WRITE, p.EL1_EXECUTE),
    ):
        assert not (rights & write and rights & execute)


@pytest.mark.parametrize("case", EVERY_CASE, ids=lambda case: str(sum(case.values())))
def test_rights_are_those_of_the_manuals_table(case):
    """All 64 cases, right by right, as Arm's rules say them."""
    user, read_only, uxn, pxn, wxn, epan = case.values()
    el0_executes = not uxn and not (wxn and user and not read_only)
    guarded = user or (epan and el0_executes)
    expected = {
        p.EL1_READ: True,
        p.EL1_WRITE: not read_only,
        p.EL0_READ: user,
        p.EL0_WRITE: user and not read_only,
        p.EL1_EXECUTE: not pxn
        and not (user and not read_only)
        and not (wxn and not read_only),
        p.EL0_EXECUTE: el0_executes,
        p.EL1_READ_PAN: not guarded,
        p.EL1_WRITE_PAN: not guarded and not read_only,
    }
    rights = allowed(**case)
    assert {bit: bool(rights & bit) for bit in expected} == expected


def test_execute_only_pages_exist():
    """EL0 executes what it may not read, unless UXN is set."""
    rights = allowed(user=False, read_only=True, uxn=False, pxn=True)
    assert rights & p.EL0_ANY == p.EL0_EXECUTE


def test_access_bits_are_eight_different_ones():
    """Every access has a bit of its own."""
    assert sorted(p.ACCESS_NAMES) == [1 << n for n in range(8)]


@given(st.sampled_from(["ld", "st", "ex"]), st.integers(0, 1))
def test_pan_matters_to_data_accesses_at_el1_only(kind, el):
    """PAN changes what is asked for exactly at EL1 and not for a fetch."""
    same = access_bit(kind, el=el, pan=0) == access_bit(kind, el=el, pan=1)
    assert same == (el == 0 or kind == "ex")


def test_rights_read_as_people_say_them():
    """A set of rights is told in words, the empty one as well."""
    assert describe(p.EL0_READ | p.EL1_READ_PAN) == "EL0 read; EL1 read, PAN set"
    assert describe(0) == "nothing"
