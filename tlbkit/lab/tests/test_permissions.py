"""Laws of the bits: the page's answers are the rule's, and the turning bits turn."""

from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.permission import (
    ACCESS_NAMES,
    ANY_WRITE,
    EL0_EXECUTE,
    EL0_WRITE,
    EL1_READ,
    allowed,
)
from tlbkit.lab.permissions import BITS, LEAF_BITS, Permissions, deciding, page
from tlbkit.linux.arch.arm64.include.asm import pgtable_hwdef as hwdef

KNOBS = [bit.knob for bit in BITS]
ON = st.frozensets(st.sampled_from(KNOBS))


@given(ON)
def test_the_answers_are_those_of_the_rule(on):
    """With a valid page and access flag, each access is what `allowed` says."""
    on = (on | {"valid", "af"}) - {"e0pd0"}
    limits = on if "hpd0" not in on else frozenset()

    def rights(*, read_only):
        return allowed(
            user="ap1" in on and "aptable0" not in limits,
            read_only=read_only or "aptable1" in limits,
            uxn="uxn" in on or "uxntable" in limits,
            pxn="pxn" in on or "pxntable" in limits,
            wxn="wxn" in on,
            epan="epan" in on,
        )

    managed = {"ha", "hd", "dbm"} <= on
    expected = rights(read_only="ap2" in on)
    if managed:
        expected |= rights(read_only=False)
    here = page(on)
    for need, name in ACCESS_NAMES.items():
        assert here.answer(need)[0] == bool(expected & need), name


@given(ON)
def test_the_turning_bits_turn_and_no_other_does(on):
    """A bit is listed for an access if and only if flipping it changes the answer."""
    listed = deciding(on)
    for bit in BITS:
        for need, bits in listed.items():
            turned = page(on).answer(need)[0] != page(on ^ {bit.knob}).answer(need)[0]
            assert turned == (bit in bits)


@given(ON)
def test_software_bits_change_no_answer(on):
    """What hardware does not look at decides nothing."""
    assert not any(
        bit.knob == "dirty" for bits in deciding(on).values() for bit in bits
    )


@given(ON)
def test_the_descriptor_shows_its_knobs(on):
    """Each knob of the leaf is its bit of the descriptor, and no other bit moves."""
    descriptor = page(on).descriptor
    for bit in LEAF_BITS:
        assert bool(descriptor & bit.mask) == (bit.knob in on)
    assert descriptor & ~sum(bit.mask for bit in LEAF_BITS) == page(
        frozenset()
    ).descriptor & ~sum(bit.mask for bit in LEAF_BITS)


def test_linux_names_are_linuxs():
    """Each name is a constant of the kernel's header with just that bit."""
    for bit in BITS:
        if bit.linux:
            assert getattr(hwdef, bit.linux) == bit.mask


def test_hardware_says_what_it_writes():
    """A clean page is written by way of AP[2], an old one by way of AF."""
    on = frozenset({"valid", "ap1", "ap2", "dbm", "ha", "hd"})
    assert page(on).answer(EL0_WRITE) == (
        True,
        "yes; hardware sets AF and clears AP[2]",
    )
    assert page(on).answer(EL1_READ) == (True, "yes; hardware sets AF")
    assert page(on - {"ha"}).answer(EL1_READ) == (False, "access flag fault, level 3")


def test_the_table_is_the_machines():
    """The rows are the eight accesses with the page's own answers."""
    answer = Permissions().answer({"ap2": "on", "hd": "off"})
    here = page(frozenset({"uxn", "pxn", "dbm", "af", "ap1", "ap2", "valid", "ha"}))
    assert [row[:2] for row in answer.rows] == [
        [name, here.answer(need)[1]] for need, name in ACCESS_NAMES.items()
    ]
    refused = [need for need in ACCESS_NAMES if not here.answer(need)[0]]
    assert EL0_EXECUTE in refused
    assert all(need in refused for need in ACCESS_NAMES if need & ANY_WRITE)
