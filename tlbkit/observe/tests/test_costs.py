"""Costs, and the published figures behind them."""

from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.observe.costs import (
    COSTS,
    OBSERVATIONS,
    REFERENCE_CPUS,
    Kind,
    calibrate,
)


def flush(cpus, broadcasters=1):
    """What the costs say of a broadcast flush of one page, in ns."""
    ns = {name: cost.ns for name, cost in COSTS.items()}
    return (
        ns["dsb_stores"]
        + ns["tlbi_issue"]
        + ns["notifier"]
        + ns["dsb_ish_base"]
        + (cpus - 1) * ns["dsb_ish_per_core"]
        + (broadcasters - 1) * ns["dvm_contention_per_broadcaster"]
    )


def observed(name):
    """The value of a published figure."""
    return OBSERVATIONS[name].value


@pytest.mark.parametrize("cost", COSTS.values(), ids=list(COSTS))
def test_every_cost_says_where_it_comes_from(cost):
    """No number without unit, kind and source, and none below zero."""
    assert cost.ns >= 0
    assert cost.unit.startswith("ns for each ")
    assert cost.source
    assert cost.kind in Kind


def test_a_calibrated_cost_names_its_figures():
    """Calibrated is what a published figure fixes, and every figure fixes something."""
    used = set()
    for cost in COSTS.values():
        assert bool(cost.calibrated_on) == (cost.kind is Kind.CALIBRATED)
        used |= set(cost.calibrated_on)
    assert used == set(OBSERVATIONS)


@given(
    st.floats(2, 5),
    st.floats(0.1, 0.9),
    st.floats(4, 10),
    st.floats(12, 40),
    st.floats(5, 50),
)
def test_calibration_repeats_what_it_was_given(after, flush_us, few, many, times):
    """From any figures, the four costs lead back to them."""
    figures = dict(OBSERVATIONS)
    for name, value in {
        "mprotect before": after + flush_us,
        "mprotect after": after,
        "unmap share, 8 cores": few,
        "unmap share, 100 cores": many,
        "32 broadcasters": times,
        "32 without broadcast": 1.0,
    }.items():
        figures[name] = replace(figures[name], value=value)
    issue, visible = 35.0, 20.0
    fit = calibrate(MappingProxyType(figures), issue=issue, visible=visible)

    def flush_ns(cpus):
        return issue + fit.dsb_ish_base + (cpus - 1) * fit.dsb_ish_per_core

    call = fit.system_call + visible
    assert call == pytest.approx(after * 1000)
    assert flush_ns(REFERENCE_CPUS) == pytest.approx(flush_us * 1000)
    shares = [value / (100 - value) for value in (few, many)]
    ratio = shares[1] / shares[0]
    assert flush_ns(100) / flush_ns(REFERENCE_CPUS) == pytest.approx(ratio)
    crowd = call + flush_ns(32) + 31 * fit.dvm_contention_per_broadcaster
    assert crowd / call == pytest.approx(times)


def test_a_broadcast_on_a_bigger_machine_costs_more():
    """The wait grows with the CPUs, and with those that broadcast as well."""
    assert flush(1) < flush(8) < flush(128)
    assert flush(32) < flush(32, broadcasters=2) < flush(32, broadcasters=32)


def test_one_flush_is_what_the_mprotect_figures_differ_by():
    """3.20 us less 2.85 us, on the number of CPUs that we assume."""
    difference = observed("mprotect before") - observed("mprotect after")
    assert flush(REFERENCE_CPUS) == pytest.approx(1000 * difference)


def test_a_local_flush_is_far_below_a_broadcast():
    """Published: flushes went from half of all cycles to 0.3 % by becoming local."""
    local = sum(COSTS[name].ns for name in ("dsb_stores", "local_tlbi", "dsb_nsh"))
    assert 5 * local < flush(2)
