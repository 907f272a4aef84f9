"""What may be a slip in a test is told, and nothing else."""

import pytest

from tlbkit.explore.litmus import catalogue, doubts, load

TWO = "test t\n {lines}\n P0: x := 1; r := y\n P1: {second}\n exists {asked}\n"


def told(second, asked, lines=""):
    """Return the doubts about a test of two threads."""
    (test,) = load(TWO.format(second=second, asked=asked, lines=lines), "t")
    return doubts(test)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("P0.r = 2", "nothing in the test puts 2 into P0.r"),
        ("frame(x) = 5", "nothing in the test puts 5 into frame(x)"),
        ("pte(x) = A", "nothing in the test puts frame b into pte(x)"),
        ("fault(P1, z)", "P1 does not access page z, so it cannot fault there"),
    ],
)
def test_a_condition_that_cannot_hold_is_told(asked, said):
    """A value that nobody writes, and a fault where nobody goes."""
    lines = "page z = frame z\n entry A = frame b"
    assert said in told("y := 1; s := x", asked, lines)


def test_a_page_of_one_thread_is_told():
    """A misspelt flag is seen by nobody else."""
    assert (
        told("z := 1; s := x; t := y", "P0.r = 0")
        == [
            "no thread but P0 has to do with page y",
            "no thread but P1 has to do with page z",
        ][1:]
    )


def test_nothing_is_told_of_plain_tests():
    """What is shared, changed or reached by another name is meant."""
    assert told("y := 1; s := x", "P0.r = 1 and P1.s = 0") == []
    assert told("y := 1; s := w", "P0.r = 1", "page w = frame x") == []


def test_hardware_is_not_forgotten():
    """An entry that hardware makes of another can be asked for."""
    text = (
        "test t\n hardware dirty\n page x = frame x, read-only, dbm, af 0\n"
        " entry A = frame x, dbm\n P0: x := 1\n exists pte(x) = A\n"
    )
    (test,) = load(text, "t")
    assert doubts(test) == []


def test_the_catalogue_is_above_doubt():
    """The tests that come with the package ask what they mean."""
    assert not [(test.name, doubt) for test in catalogue() for doubt in doubts(test)]
