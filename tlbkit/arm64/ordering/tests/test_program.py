"""What a program must be before it is run."""

import pytest

from tlbkit.arm64.ordering import (
    INVALID,
    Branch,
    Data,
    Isb,
    Load,
    Program,
    Store,
    Table,
    Tlbi,
)
from tlbkit.arm64.ordering.tests.programs import to
from tlbkit.errors import InputError

TABLES = (("x", to("a")),)
FRAMES = (("a", 0),)


@pytest.mark.parametrize(
    ("threads", "message"),
    [
        ((), "0 threads"),
        (((Isb(),),) * 5, "5 threads"),
        (((Load(Data("y")),),), "no page 'y'"),
        (((Store(Table("y"), INVALID),),), "no page 'y'"),
        (((Tlbi("y"),),), "no page 'y'"),
        (((Store(Table("x"), to("b")),),), "no frame 'b'"),
        (((Branch("r"),),), "which no earlier step"),
        (((Load(Data("x"), "r"), Load(Data("x"), "r")),), "read into twice"),
    ],
)
def test_a_program_that_names_what_is_not_there_is_refused(threads, message):
    """Every page, frame and register that a step uses is there, or it is an error."""
    with pytest.raises(InputError, match=message):
        Program(threads, TABLES, FRAMES)


def test_invalidating_everything_names_no_page():
    """A TLBI of everything and loads to nowhere are as many as you like."""
    Program(((Tlbi(None), Load(Data("x")), Load(Data("x"))),), TABLES, FRAMES)
