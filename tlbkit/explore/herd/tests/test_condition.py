"""Questions: their grammar, and what they say of an end that is not known whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.fault import FaultKind
from tlbkit.arm64.ordering import Data, Table
from tlbkit.explore.herd.condition import (
    All,
    Any,
    Equal,
    Fault,
    Not,
    holds,
    parse_question,
)
from tlbkit.explore.herd.state import Initial
from tlbkit.explore.herd.text import Piece
from tlbkit.explore.herd.values import Code

ATOMS = [Equal((0, f"X{n}"), 1) for n in range(3)]
propositions = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(lambda *of: All(of), inner, inner),
        st.builds(lambda *of: Any(of), inner, inner),
    ),
    max_leaves=6,
)


class Known:
    """An end of which some registers are known."""

    def __init__(self, words):
        self.words = words

    def register(self, thread, name):
        """The word of a register of P0, or None."""
        return self.words.get(name) if thread == 0 else None

    def location(self, place):
        """Nothing is known of memory."""
        assert place

    def faulted(self, fault):
        """Nor of faults."""
        assert fault


def initial():
    """An initial state with x, y and a label."""
    known = Initial({(0, "L0"): Code(0, 0)})
    known.location("x")
    known.location("y")
    return known


def asked(text):
    """Read the question of a file."""
    return parse_question(Piece(text, 1), initial())


@given(
    propositions, st.lists(st.sampled_from([0, 1]), min_size=3, max_size=3), st.data()
)
def test_what_is_known_stays_so(proposition, words, data):
    """An answer that some registers settle is the answer when all are known."""
    whole = {f"X{n}": word for n, word in enumerate(words)}
    part = {k: w for k, w in whole.items() if data.draw(st.booleans())}
    early, late = holds(proposition, Known(part)), holds(proposition, Known(whole))
    assert late is not None
    assert early in (None, late)


def test_and_binds_closer_than_or():
    """Without brackets; `not` and `~` are one."""
    question = asked("exists 0:X0=1 \\/ ~0:X1=1 /\\ not (0:X2=1)")
    first, second, third = ATOMS
    assert question.proposition == Any((first, All((Not(second), Not(third)))))


def test_each_atom_is_read():
    """Registers of both widths, locations, entries, faults of each kind."""
    question = asked(
        "locations [0:X9; x;] filter (0:W1<>0)\n"
        "forall [x]=1 /\\ pte_y=(valid:0) /\\ P0:X3=PTE(x)"
        " /\\ fault(P0:L0,x,MMU:Permission) /\\ Fault(P0)"
    )
    assert question.quantifier == "forall"
    assert question.filter == Equal((0, "X1"), 0, unequal=True)
    value, entry, address, fault, bare = question.proposition.of
    assert value == Equal(Data("x"), 1)
    assert (entry.left, entry.right.valid, entry.right.frame) == (
        Table("y"),
        False,
        "y",
    )
    assert address.right == Table("x")
    assert fault == Fault(0, Code(0, 0), Data("x"), FaultKind.PERMISSION)
    assert bare == Fault(0)


@pytest.mark.parametrize("place", [None, Code(0, 0)])
@pytest.mark.parametrize("kind", [None, FaultKind.PERMISSION])
def test_a_fault_is_one_of_those_that_fit(place, kind):
    """What a question leaves open may be anything."""
    happened = Fault(0, Code(0, 0), Data("x"), FaultKind.PERMISSION)
    assert Fault(0, place, Data("x"), kind).matches(happened)
    assert not Fault(1, place, None, kind).matches(happened)
    assert not Fault(0, place, Data("y"), kind).matches(happened)
