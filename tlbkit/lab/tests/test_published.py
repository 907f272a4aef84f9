"""Published figures stand beside ours, and ours are made of the bill."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit import lab
from tlbkit.lab.flow import Flow
from tlbkit.lab.published import FLUSHING, flush_share, gain, quote, saving
from tlbkit.observe.costs import COSTS
from tlbkit.observe.timing import Bill, Line
from tlbkit.patches.userfaultfd_move_batching import PATCH

LINES = st.dictionaries(st.sampled_from(sorted(COSTS)), st.integers(1, 1000))


def bill(times):
    """A bill of so many of each."""
    lines = tuple(Line(COSTS[name], number) for name, number in times.items())
    return Bill({}, lines, {})


def test_flushes_cost_what_the_model_knows():
    """Every cost of a flush is one of the model's."""
    assert set(COSTS) >= FLUSHING


@given(LINES)
def test_the_share_of_flushes_is_a_share(times):
    """It is 0 without a flush, 100 with nothing else, and in between otherwise."""
    share = flush_share(bill(times))
    if not FLUSHING & times.keys():
        assert share == 0
    elif times.keys() <= FLUSHING:
        assert share == pytest.approx(100)
    else:
        assert 0 < share < 100


@pytest.mark.parametrize("name", ["fork-storm", "move", "unmap"])
def test_gain_and_saving_say_the_same(name):
    """What is gained in the same time and what is saved on the same work agree."""
    both = lab.compare(lab.find(name), {"pages": 64})
    assert (1 + gain(both) / 100) * (1 - saving(both) / 100) == pytest.approx(1)


@pytest.mark.parametrize("name", ["fork-storm", "move"])
def test_what_was_published_stands_beside_what_is_predicted(name):
    """For each published line there is one of ours right above it, of one name."""
    scenario = lab.find(name)
    assert isinstance(scenario, Flow)
    rows = scenario.published_rows(lab.compare(scenario, {"pages": 8}))
    assert rows
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        assert ours[0].replace("predicted", "published") == theirs[0]
        assert rows[0][1:] != theirs[1:]


def test_a_quote_keeps_its_qualifier():
    """Over 40 % is not 40 %."""
    assert quote(PATCH.figure("flush share before")) == "over 40"


@given(st.floats(0, 1e6), st.floats(1, 1e6))
def test_work_of_the_program_dilutes_what_the_kernel_changes(some, more):
    """The more the program does itself, the less is a share and the less is gained."""
    both = storm()
    shares = [flush_share(both.before.bill, work) for work in (some, some + more)]
    gains = [gain(both, work) for work in (some, some + more)]
    assert shares[0] > shares[1] > 0
    assert gains[0] > gains[1] > 0


@cache
def storm():
    """Return one comparison for all examples."""
    return lab.compare(lab.find("fork-storm"), {"pages": 8})


def test_work_can_be_fitted_to_the_share():
    """At 3,700 ns a page the older kernel spends the published share in flushes."""
    scenario = lab.find("fork-storm")
    assert isinstance(scenario, Flow)
    both = lab.compare(scenario, {"pages": 256, "work": 3700})
    shares = scenario.published_rows(both)[:2]
    assert shares[0][0] == "predicted, time in flushes (%)"
    published = float(shares[1][1].removeprefix("about "))
    assert float(shares[0][1]) == pytest.approx(published, abs=0.1)
