"""Counts step by step: the default story, and what cannot be done."""

import pytest

from tlbkit.errors import InputError
from tlbkit.lab import find_exploration
from tlbkit.lab.mapcount import COUNTINGS, NOTHING, STEPS


def ask(**params):
    """The rows of the exploration."""
    return find_exploration("mapcount").answer(params)


def test_the_default_is_the_story_of_the_chapter():
    """A block is mapped, shared, split and given up; the statistics follow."""
    rows = ask().rows
    assert [row[1:] for row in rows] == [
        ["0", "0", "0x800000", "512", "512", "no"],
        ["1", "1", "0x800000", "512", "512", "no"],
        ["1", "513", "0x800200", "512", "512", "no"],
        ["0", "512", "0x800200", "512", "512", "no"],
        ["0", "511", "0x8001ff", "512", "512", "no"],
        ["-1", "510", "0x1ff", "511", "0", "yes"],
        ["-1", "-1", "0x0", "0", "0", "yes"],
    ]


def test_without_counts_for_pages_the_folio_counts_whole():
    """The same story: 512 until the very last entry has gone."""
    answer = ask(counting=COUNTINGS[1])
    assert answer.columns["mapped"] == [512] * 6 + [0]
    assert {row[3] for row in answer.rows} == {"0x0"}


@pytest.mark.parametrize(
    ("step", "move"),
    [
        ("step1", "B's PMD out"),
        ("step1", "all of A's pages out"),
        ("step7", "A's PMD out"),
        ("step5", "A's page 0 out"),
        ("step3", "A splits: page entries in"),
    ],
)
def test_what_is_not_there_cannot_be_taken(step, move):
    """A step that cannot be is refused by its name."""
    with pytest.raises(InputError, match=step):
        ask(**{step: move})


def test_nothing_is_no_step():
    """Steps that do nothing are left out."""
    nothing = {f"step{n}": NOTHING for n in range(1, STEPS + 1)}
    assert len(ask(**nothing).rows) == 1
