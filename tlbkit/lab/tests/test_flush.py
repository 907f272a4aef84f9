"""Laws of the bill: where the time of a flush goes, and what it depends on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.errors import InputError
from tlbkit.lab.flush import CPUS, FLUSHERS, PAGES, WAYS, Flush, flush, price, times
from tlbkit.observe.costs import COSTS
from tlbkit.observe.timing import timing

EACH, ONE, ASID, LOCAL = WAYS


@given(
    st.sampled_from(list(WAYS)),
    st.sampled_from(PAGES),
    st.sampled_from(CPUS),
    st.sampled_from(FLUSHERS),
)
@settings(deadline=None, max_examples=30)
def test_the_costs_explain_all_of_the_time(way, pages, cpus, flushers):
    """What each cost adds when it doubles comes to a whole: time is their sum."""
    if flushers > cpus:
        with pytest.raises(InputError, match=f"{cpus} CPUs"):
            Flush().answer({"cpus": cpus, "flushers": flushers})
        return
    params = {"way": way, "pages": pages, "cpus": cpus, "flushers": flushers}
    answer = Flush().answer(params)
    assert sum(answer.columns["doubled"]) == pytest.approx(100)
    at = answer.columns["cpus"].index(cpus)
    elapsed = price(flush(way, pages, cpus, flushers)).elapsed_ns
    assert answer.columns[way][at] == pytest.approx(elapsed)


def test_priced_afterwards_is_priced_at_once():
    """Events that are kept and priced later come to the same bill."""
    machine, events = flush(EACH, 4, 8, 2)
    with timing(machine) as clocks:
        for cpu in machine.cpus[:2]:
            WAYS[EACH](cpu, 4)
    assert price((machine, events)).elapsed_ns == pytest.approx(
        clocks.bill().elapsed_ns
    )


def test_one_page_is_one_wait_however_it_is_called():
    """With one page, batching has nothing to save."""
    assert (
        price(flush(EACH, 1, 8, 1)).elapsed_ns == price(flush(ONE, 1, 8, 1)).elapsed_ns
    )


@pytest.mark.parametrize("pages", PAGES)
def test_a_local_flush_does_not_know_the_machine(pages):
    """It costs the same on any number of CPUs, whoever else flushes."""
    prices = {
        price(flush(LOCAL, pages, cpus, flushers)).elapsed_ns
        for cpus in CPUS
        for flushers in FLUSHERS
        if flushers <= cpus
    }
    assert len(prices) == 1


def test_a_broadcast_grows_with_the_machine_and_with_the_crowd():
    """More CPUs, or more of them flushing, never make it cheaper."""
    by_size = [price(flush(ONE, 4, cpus, 1)).elapsed_ns for cpus in CPUS]
    by_crowd = [price(flush(ONE, 4, 32, n)).elapsed_ns for n in FLUSHERS]
    assert by_size == sorted(by_size)
    assert by_crowd == sorted(by_crowd)
    assert price(flush(ASID, 4, 8, 1)).elapsed_ns < by_size[CPUS.index(8)]


def test_one_cost_at_a_time_is_changed():
    """The others stay as they are."""
    changed = times(COSTS["dsb_nsh"], 2)
    assert {name for name in COSTS if changed[name] != COSTS[name]} == {"dsb_nsh"}
    assert changed["dsb_nsh"].ns == 2 * COSTS["dsb_nsh"].ns
