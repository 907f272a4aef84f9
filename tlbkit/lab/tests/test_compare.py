"""Runs, comparisons and sweeps of any scenario."""

import json
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit import lab
from tlbkit.arm64.events import Event
from tlbkit.arm64.machine import Machine
from tlbkit.errors import InputError
from tlbkit.lab.compare import Parting, keeping

MPROTECT = lab.find("mprotect")
SMALL = {"pages": 8}

EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["dsb", "isb"]), st.sampled_from("ab"))
)


def stream(parts, first=1):
    """Make events of (CPU, kind, what), numbered from *first*."""
    return [
        Event(first + n, cpu, kind, what, None, None, "")
        for n, (cpu, kind, what) in enumerate(parts)
    ]


def parted(one, other):
    """Follow *other* along *one*, and return where it leaves that."""
    parting = Parting(one)
    for event in other:
        if not parting.hear(event):
            break
    return parting.difference


# -- laws ------------------------------------------------------------------------------


@given(EVENTS, st.integers(1, 9))
def test_equal_runs_have_no_difference(parts, number):
    """Two runs that do the same never part, whatever their running numbers."""
    assert parted(stream(parts), stream(parts, number)) is None


@given(EVENTS, EVENTS, EVENTS)
def test_the_first_difference_is_the_first(common, one, other):
    """Before it both are alike, at it they are not."""
    one, other = common + one, common + other
    found = parted(stream(one), stream(other))
    if found is None:
        assert one == other
    else:
        assert one[: found.step] == other[: found.step]
        assert one[found.step : found.step + 1] != other[found.step : found.step + 1]
        assert (found.before is None) == (len(one) == found.step)
        assert (found.after is None) == (len(other) == found.step)


@pytest.mark.parametrize("name", lab.SCENARIOS)
def test_a_run_can_be_repeated(name):
    """The same setting on the same kernel gives the same result, to the last ns."""
    scenario = lab.find(name)
    assert lab.run(scenario) == lab.run(scenario)


@pytest.mark.parametrize("name", lab.SCENARIOS)
def test_a_kernel_does_not_differ_from_itself(name):
    """Compared with itself, a kernel does the same, step by step."""
    scenario = lab.find(name)
    known = {parameter.name for parameter in scenario.parameters}
    small = {name: value for name, value in SMALL.items() if name in known}
    same = lab.compare(scenario, small, scenario.after, scenario.after)
    assert same.difference is None
    assert same.before == same.after


def test_an_executor_changes_nothing():
    """Threads, processes or neither: a sweep gives the same results in one order."""
    axes: dict[str, list[lab.Value]] = {
        "pages": [1, 3],
        "change": ["none-rw", "rw-ro"],
    }
    alone = lab.sweep(MPROTECT, axes)
    with ThreadPoolExecutor(2) as threads:
        assert lab.sweep(MPROTECT, axes, executor=threads) == alone
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        assert lab.sweep(MPROTECT, axes, executor=processes) == alone


# -- runs ------------------------------------------------------------------------------


def test_a_result_has_what_a_run_prints():
    """The JSON of a run has exactly the keys that are promised, and is JSON."""
    plain = lab.run(MPROTECT, SMALL, lab.Variant("v6.17"), "neoverse-n1").to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert list(plain) == [
        "scenario",
        "kernel",
        "cpu",
        "params",
        "tuning",
        "counts",
        "cost_ns",
        "text",
    ]
    assert list(plain["counts"]) == [
        "tlbi",
        "pages",
        "dsb",
        "completing_dsb",
        "ipi_broadcasts",
        "faults",
        "walks",
        "notifier",
    ]
    assert plain["params"] == {"pages": 8, "change": "none-rw", "cpus": 4, "threads": 4}


def test_a_result_can_be_sent():
    """It survives pickling, so that it may come from anywhere."""
    result = lab.run(MPROTECT, SMALL)
    assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301 - our own bytes


def test_a_commit_that_is_left_out_is_said():
    """A result names the kernel that it is about by whole short hashes."""
    result = lab.run(MPROTECT, SMALL, lab.Variant("v6.19", ("c320",)))
    assert str(result.variant) == "v6.19 without c320dbb7c80d"
    assert "v6.19 without c320dbb7c80d" in result.text
    assert result.counts.flushes == 1


def test_a_listener_hears_the_operation_only():
    """What prepares it is not heard, and after it nobody listens."""
    heard: list[Event] = []
    lab.run(MPROTECT, SMALL, around=keeping(heard))
    assert [event.what for event in heard if event.kind == "call"] == ["mprotect"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"params": {"page": 1}}, "it has pages, change, cpus, threads"),
        ({"params": {"pages": 0}}, "from 1 to 4096"),
        ({"params": {"cpus": 129}}, "from 1 to 128"),
        ({"variant": lab.Variant("v6.16")}, "v6.17, pr350, v6.18, v6.19"),
        ({"variant": lab.Variant("v6.19", ("beef",))}, "c320dbb7c80d"),
        ({"cpu": "pentium"}, "neoverse-v2, neoverse-v3"),
    ],
)
def test_what_is_not_allowed_is_told_what_is(wrong, said):
    """Each wrong name or value is an error that lists what is right."""
    with pytest.raises(InputError, match=said):
        lab.run(MPROTECT, **wrong)


def test_an_unknown_scenario_is_told_which_there_are():
    """`find` lists the scenarios."""
    with pytest.raises(InputError, match="mprotect"):
        lab.find("mprotekt")


# -- comparisons and sweeps ------------------------------------------------------------


def test_the_first_difference_is_marked():
    """None->rw is the same in both kernels until one of them flushes."""
    both = lab.compare(MPROTECT, SMALL)
    assert both.difference is not None
    assert both.difference.before == "dsb ishst"
    assert both.difference.after == "release mmap_lock"
    assert "v6.17 does “dsb ishst” and v6.19 does" in both.parting
    assert both.to_json()["difference"]["step"] == both.difference.step


def test_who_follows_stops_listening_where_it_parts():
    """After the first difference nobody hears what the second run does."""
    machine = Machine(1)
    parting = Parting(stream([(0, "isb", None)]))
    with parting.following(machine):
        machine.cpus[0].isb()
        assert machine.events.heard
        machine.cpus[0].dsb("ish")
        assert not machine.events.heard
    assert parting.difference is not None
    assert (parting.difference.before, parting.difference.after) == (None, "dsb ish")
    with Parting([]).following(machine):
        pass
    assert not machine.events.heard


def test_a_sweep_is_columns():
    """Each run is a row, in the order of the axes, the kernel changing fastest."""
    columns = lab.sweep(MPROTECT, {"pages": [1, 2]}, cpu="neoverse-n1").columns()
    assert columns["pages"] == [1, 1, 2, 2]
    assert columns["kernel"] == ["v6.17", "v6.19"] * 2
    assert columns["tlbi"] == [1, 0, 2, 0]
    assert {len(column) for column in columns.values()} == {4}


def test_a_wrong_value_stops_a_sweep_before_it_begins():
    """Nothing is run if anything is not allowed."""
    with pytest.raises(InputError, match="pages=0"):
        lab.sweep(MPROTECT, {"pages": [1, 0]})
