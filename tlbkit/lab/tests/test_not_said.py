"""The cases of which no patch text speaks: what each issues before and after."""

import pytest

from tlbkit.lab.not_said import CASES, NotSaid

N1, V2 = "neoverse-n1", "neoverse-v2"


def answer(case, cpu=N1, pages=64):
    """What is shown of a case."""
    return NotSaid().answer({"case": case, "cpu": cpu, "pages": pages})


def sums(case, cpu=N1, pages=64):
    """TLBIs to all and to this CPU, and waits for all: before, and after."""
    columns = answer(case, cpu, pages).columns
    return columns["before"], columns["after"]


@pytest.mark.parametrize("cpu", [N1, V2])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pages", [2, 64, 512])
def test_no_case_waits_longer_than_before(case, cpu, pages):
    """The commits add no wait for all CPUs to any of these."""
    before, after = sums(case, cpu, pages)
    assert after[2] <= before[2]


@pytest.mark.parametrize("cpu", [N1, V2])
@pytest.mark.parametrize(
    "case",
    [
        "mprotect gives a right",
        "userfaultfd: unprotect pages of one's own",
        "rewriting after fork, the child stays",
    ],
)
def test_where_nothing_is_saved_all_is_as_before(case, cpu):
    """Three cases issue exactly what they issued."""
    before, after = sums(case, cpu)
    assert before == after
    assert all(row[1] == row[2] for row in answer(case, cpu).rows)
    assert "Nothing is saved" in answer(case, cpu).text


@pytest.mark.parametrize(
    ("case", "cpu", "pages", "before", "after"),
    [
        ("mprotect opens huge pages", V2, 8, [9, 0, 9], [8, 0, 8]),
        (
            "userfaultfd: unprotect pages that a child has",
            N1,
            64,
            [64, 0, 1],
            [0, 0, 0],
        ),
        ("MOVE, both places alike", N1, 511, [511, 0, 511], [511, 0, 1]),
        ("MOVE, both places alike", V2, 512, [512, 0, 512], [1, 0, 1]),
        ("MOVE, 100 pages askew", N1, 512, [512, 0, 512], [512, 0, 2]),
        (
            "rewriting after fork, in groups of 64 KiB",
            V2,
            64,
            [68, 0, 68],
            [4, 64, 4],
        ),
        ("mprotect after a page was reclaimed", N1, 64, [64, 0, 2], [1, 0, 1]),
    ],
)
def test_what_is_issued(case, cpu, pages, before, after):
    """The sums of each case, as its chapter counts them."""
    assert sums(case, cpu, pages) == (before, after)
    assert "Fewer than before" in answer(case, cpu, pages).text
