"""The ways of a thread: how many there are, and what each says."""

import pytest

from tlbkit.arm64.ordering import Choice, Isb, Load
from tlbkit.explore.herd import MissingError, load_herd
from tlbkit.explore.herd.paths import UNROLL
from tlbkit.explore.herd.tests.constructs import written

TWO = "0:X1=x; 0:X3=y;"


def ways(body, initial=TWO, header="", **more):
    """Return the ways of a thread, which may have a handler."""
    text = written({"P0": body, **more}, initial, "exists 0:X0=1", header)
    return load_herd(text, "own.litmus").paths[0]


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("MOV W0,#1; CBZ W0,L; NOP; L: NOP", 1),
        ("LDR W0,[X1]; CBZ W0,L; NOP; L: NOP", 2),
        ("LDR W0,[X1]; CMP W0,#1; CSEL W2,W0,W3,EQ", 2),
        ("LDR W0,[X1]; TBNZ W0,#1,L; CBZ W0,L; L: NOP", 3),
        ("CAS W0,W2,[X1]", 3),
        ("LDXR W0,[X1]; STXR W2,W0,[X1]", 2),
        ("STXR W2,W0,[X1]", 1),
        ("L: LDR W0,[X1]; CBZ W0,L", UNROLL + 1),
        ("MOV W4,#9; L: SUB W4,W4,#1; CBNZ W4,L", 1),
    ],
)
def test_a_thread_goes_as_many_ways_as_it_can(body, count):
    """What is known before the run is no choice; a loop is left after some rounds."""
    assert len(ways(body)) == count


def test_the_ways_of_a_branch_exclude_each_other():
    """For every value read, exactly one of them is gone."""
    found = ways("LDR W0,[X1]; CMP W0,#3; B.HI L; NOP; L: NOP")
    (one,), (other,) = (
        [step.condition for step in way.steps if isinstance(step, Choice)]
        for way in found
    )
    for value in range(8):
        assert one.function(value) is not other.function(value)


def test_a_fault_with_a_handler_is_a_way():
    """The access faults, the context is synchronised, and the handler runs."""
    invalid = f"{TWO} [PTE(x)]=(valid:0);"
    (way,) = ways("LDR W0,[X1]; MOV W4,#1", invalid, **{"P0.F": "LDR W5,[X3]"})
    first, entry, second = way.steps
    assert isinstance(first, Load)
    assert first.faults is True
    assert entry == Isb()
    assert second.target.page == "y"
    assert "X4" not in way.registers


def test_an_address_that_may_be_elsewhere_is_a_way_that_is_missing():
    """It is only refused if an execution gets there."""
    found = ways("LDR W4,[X3]; LDR W0,[X1,W4,SXTW]")
    assert [bool(way.missing) for way in found].count(True) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("LDXR W0,[X1]; STR W0,[X1]; STXR W2,W0,[X1]", "between a load-exclusive"),
        ("LDR W0,[X1,#8]", "inside a word"),
        ("ADD X1,X1,#8", "inside a word"),
        ("STR W0,[X4]", "stored to an entry"),
        ("TLBI VAE1IS,X1", "no page's number"),
        ("TLBI RVAE1IS,X1", "a TLBI that is not read"),
        ("MSR TTBR0_EL1,X1", "not read here"),
        ("ERET", "no instruction's"),
        ("LDR W0,[X1]; LSL W2,W3,W0", "shift by a register"),
        ("LDR W0,[X1],#8", "address form"),
        ("LDR W31,[X1]", "register 'W31'"),
    ],
)
def test_what_is_missing_is_named(body, said):
    """With the line and the instruction."""
    with pytest.raises(MissingError, match=said) as caught:
        ways(body, f"{TWO} 0:X4=pte_x;")
    assert caught.value.line >= 6
    assert str(caught.value).startswith("own.litmus:")


def test_a_store_exclusive_that_may_fault_is_missing():
    """Whether it faults although it would fail is left open, so nothing is said."""
    with pytest.raises(MissingError, match="store-exclusive that may fault"):
        ways("LDXR W0,[X1]; STXR W2,W0,[X1]", f"{TWO} [PTE(x)]=(db:0);")


def test_el0_has_no_access_to_entries():
    """It would fault, and that is not had."""
    with pytest.raises(MissingError, match="EL0"):
        ways("LDR X0,[X4]", "0:X4=pte_x;", header="EL0=P0")
