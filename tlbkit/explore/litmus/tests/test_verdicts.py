"""The verdicts, beside those of Arm's published model."""

from pathlib import Path

import pytest

from tlbkit.explore.litmus import catalogue, judge, load
from tlbkit.explore.litmus.tests.families import members

HERE = Path(__file__).parent
CATALOGUE = catalogue()
NEIGHBOURS = load((HERE / "neighbours.litmus").read_text("utf-8"), "neighbours.litmus")
BLOCKS = (HERE / "verdicts.txt").read_text("utf-8").split("\n\n")[1:]
SETTINGS = {"without ETS2": False, "with ETS2": True}


@pytest.mark.parametrize("ets2", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("test", CATALOGUE, ids=[test.name for test in CATALOGUE])
def test_the_catalogue_has_arms_verdicts(test, ets2):
    """Each of the 48 tests is allowed or forbidden as Arm's model says."""
    verdict = judge(test, ets2=ets2)
    assert str(verdict) == test.expected[ets2]
    assert verdict.as_expected


def test_the_catalogue_is_whole():
    """There are 48 tests, each with its verdicts and a line about it."""
    assert len(CATALOGUE) == 48
    assert all(test.expected and test.about for test in CATALOGUE)


@pytest.mark.parametrize("ets2", SETTINGS.values(), ids=SETTINGS.keys())
def test_neighbours_of_the_catalogue_have_arms_verdicts(ets2):
    """Reuse, batch, dirty, young and three threads, with every kind of sequence."""
    wrong = [test.name for test in NEIGHBOURS if not judge(test, ets2=ets2).as_expected]
    assert not wrong


@pytest.mark.parametrize("block", BLOCKS, ids=[block.split()[0] for block in BLOCKS])
def test_a_family_has_arms_verdicts(block):
    """Every change of a table word, with every sequence before and after the flag."""
    wrong = [
        (test.name, ets2)
        for test, *expected in members(block.splitlines())
        for ets2 in (False, True)
        if str(judge(test, ets2=ets2)) != expected[ets2]
    ]
    assert not wrong


def test_the_tables_are_whole():
    """Seven changes, each with all sequences on two CPUs and on one."""
    sizes = [len(list(members(block.splitlines()))) for block in BLOCKS]
    assert sizes == [27 * 22] * 7 + [20 * 6] * 7
