"""The verdicts on herd7's form."""

import pytest

from tlbkit.explore.herd import judge_herd, load_herd
from tlbkit.explore.herd.tests.constructs import CASES
from tlbkit.explore.litmus import SearchTooLargeError


@pytest.mark.parametrize("about", CASES)
def test_each_construct_has_its_verdict(about):
    """What a file can say means what the architecture says it means."""
    text, loose, ets2 = CASES[about]
    test = load_herd(text, "own.litmus")
    assert judge_herd(test).verdict == loose
    assert judge_herd(test, ets2=True).verdict == ets2


def test_a_witness_is_told_in_the_words_of_the_file():
    """Each step of an execution is an instruction as the file writes it."""
    text, _, _ = CASES["no order"]
    verdict = judge_herd(load_herd(text))
    assert verdict.witness
    assert "P1: LDR W2,[X1]: reads '0'" in verdict.witness


def test_a_search_that_gives_up_names_its_test():
    """A limit that is too low is an error, not a verdict."""
    text, _, _ = CASES["no increment is lost"]
    with pytest.raises(SearchTooLargeError, match=r"own: more than 10 states"):
        judge_herd(load_herd(text), limit=10)
