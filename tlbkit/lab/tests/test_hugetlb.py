"""Interrupts of those who leave shared tables: counted, and by the formulas."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.machine import Machine
from tlbkit.lab.compare import compare
from tlbkit.lab.hugetlb import (
    AFTER,
    BATCHING,
    BEFORE,
    FORMS,
    SCENARIOS,
    SKIPPING,
    reproduce,
    unseeded,
)
from tlbkit.patches.kernels import Kernel


@pytest.mark.parametrize("tables", [1, 2, 9])
@pytest.mark.parametrize("users", [2, 3, 5])
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_counts_are_those_of_the_formulas(name, tables, users):
    """Before, after, and with one saving alone: the broadcasts, and times the CPUs."""
    scenario = SCENARIOS[name]
    settings = scenario.settings({"tables": tables, "sharers": users, "cpus": 16})
    for form, counts in scenario.counts(settings).items():
        expected = scenario.formula(form, tables, users)
        assert counts.ipi_broadcasts == expected, form
        assert counts.ipi_cpus == expected * 15


def test_five_who_leave_nine_tables_in_turn():
    """On 64 CPUs: 2,268 interrupts before, with one saving 252 or 567, at last 63."""
    sent = {form: form.all_leave(9, 5) for form in FORMS}
    assert sent == {BEFORE: 36, BATCHING: 4, SKIPPING: 9, AFTER: 1}
    assert [n * 63 for n in sent.values()] == [2268, 252, 567, 63]


@given(st.integers(1, 2000), st.integers(2, 1000))
def test_the_two_savings_multiply(tables, users):
    """Batching saves a factor of the tables, skipping one of the leavers."""
    sent = {form: form.all_leave(tables, users) for form in FORMS}
    assert sent[BEFORE] == sent[BATCHING] * sent[SKIPPING] == tables * (users - 1)
    assert sent[AFTER] == 1


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("settings", [{}, {"tables": 4, "sharers": 2, "cpus": 2}])
def test_what_a_scenario_claims_holds(name, settings):
    """Each claim holds in a comparison at these settings."""
    both = compare(SCENARIOS[name], settings)
    for claim in SCENARIOS[name].claims:
        assert claim.holds(both), claim.sentence


def test_an_unshare_of_one_process_flushes_as_often_as_before():
    """The TLB flush is never skipped: what is saved is interrupts."""
    scenario = SCENARIOS["hugetlb-unshare"]
    for users in (2, 3):
        both = compare(scenario, {"sharers": users})
        assert both.before.counts.tlbi == both.after.counts.tlbi


def test_the_hundred_reads_are_in_97_blocks():
    """Without a seed every child draws the same 100 pages, in 97 of the 1,200 GiB."""
    pages = {n % (1200 * 512) for n in islice(unseeded(), 100)}
    assert len(pages) == 100
    assert len({page // 512 for page in pages}) == 97


@pytest.mark.parametrize("form", [BEFORE, AFTER])
def test_the_reproducer_in_small(form):
    """Twelve children that all live together: one broadcast for a table and child."""
    without = ("8ce720d5bd91",) if form is BEFORE else ()
    kernel = Kernel(Machine(196), "v6.19", without)
    counts = reproduce(kernel, children=12)
    assert counts.ipi_broadcasts == form.all_leave(97, 12)
    assert counts.ipi_cpus == counts.ipi_broadcasts * 195
    assert kernel.page_alloc.in_use == 2
