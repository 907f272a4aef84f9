"""The flow scenarios: what each must issue, whatever its knobs say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit import lab
from tlbkit.errors import InputError
from tlbkit.lab.flow import Flow
from tlbkit.lab.run import run
from tlbkit.lab.variant import Variant
from tlbkit.linux.tests.test_tlbflush import closed_form

OLD, NEW = Variant("v6.17"), Variant("v6.19")
FLOWS = [one for one in lab.SCENARIOS.values() if isinstance(one, Flow)]


def counts(name, variant=NEW, cpu="neoverse-v2", **params):
    """What scenario *name* issues."""
    return run(lab.find(name), params, variant, cpu).counts


def small(parameter):
    """The values of a parameter that run in no time."""
    values = [v for v in parameter.choices if isinstance(v, str) or v <= 64]
    return st.sampled_from(values or [parameter.default])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FLOWS), st.data())
def test_claims_hold_whatever_the_knobs_say(flow, data):
    """What a scenario says of its kernels is so at every setting, on every CPU."""
    params = {one.name: data.draw(small(one)) for one in flow.parameters}
    both = lab.compare(flow, params, cpu=data.draw(st.sampled_from(flow.models)))
    for claim in flow.claims:
        assert claim.holds(both), claim.sentence


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_columns_rows_and_text_tell_the_same(flow):
    """The bars, the table and the sentence of an answer have the same numbers."""
    answer = flow.answer({"pages": 16})
    both = lab.compare(flow, {"pages": 16})
    for column, result in (("before", both.before), ("after", both.after)):
        shown = dict(
            zip(answer.columns["quantity"], answer.columns[column], strict=True)
        )
        told = shown["TLBI to all CPUs"] + shown["TLBI, this CPU"]
        assert told == result.counts.tlbi.total()
        cells = [row[1 + (column == "after")] for row in answer.rows]
        assert f"{round(result.cost_ns):,}" in cells
    assert len(answer.columns["sweep_pages"]) == len(answer.columns["sweep_before"])
    assert str(both.before.variant) in answer.text


@pytest.mark.parametrize("scenario", lab.SCENARIOS.values(), ids=lambda one: one.name)
def test_an_answer_on_a_cpu_is_that_of_its_runs(scenario):
    """The control that chooses the CPU model changes an answer as the model would."""
    assert [one.name for one in scenario.controls].count("cpu") == 1
    assert scenario.asked({}) == scenario.asked({"cpu": scenario.cpu})
    for cpu in scenario.models:
        both = lab.compare(scenario, cpu=cpu)
        assert all(claim.holds(both) for claim in scenario.claims), cpu
        cells = scenario.asked({"cpu": cpu}).rows
        total = [f"{one.counts.tlbi.total():,}" for one in (both.before, both.after)]
        if isinstance(scenario, Flow):
            names = {**both.before.counts.tlbi, **both.after.counts.tlbi}
            shown = {row[0].removeprefix("TLBI ") for row in cells if "TLBI" in row[0]}
            assert shown == set(names)
        else:
            assert ["TLBI", total[0], total[1]] == [*cells[-1][:2], cells[-1][-1]]
    with pytest.raises(InputError, match="must be one of"):
        scenario.asked({"cpu": "pentium"})


@pytest.mark.parametrize("pages", [1, 16, 200])
def test_fork_reuse_broadcasts_a_page_or_none(pages):
    """W rewritten pages are W broadcasts before, and W local flushes after."""
    assert counts("fork-reuse", OLD, pages=pages).tlbi == {"VALE1IS": pages}
    assert counts("fork-reuse", NEW, pages=pages).tlbi == {"VALE1": pages}


def test_fork_reuse_counts_a_spurious_fault_for_each_stale_writer():
    """Each further thread that writes a page it cached strictly faults once."""
    after = counts("fork-reuse", pages=32, writers=4, threads=4)
    assert after.spurious_faults == 3 * 32
    assert after.tlbi == {"VALE1": 4 * 32}
    assert counts("fork-reuse", OLD, pages=32, writers=4).spurious_faults == 0


def test_fork_copy_is_the_same_in_both():
    """Copies are broadcast in every kernel; only the child's reuse is local."""
    assert counts("fork-copy", OLD).tlbi == counts("fork-copy", NEW).tlbi
    both = counts("fork-copy", NEW, pages=20, both="yes")
    assert both.tlbi == {"VALE1IS": 20, "VALE1": 20}


@pytest.mark.parametrize("cpus", [1, 4, 192])
def test_a_storm_costs_by_pages_not_by_cpus(cpus):
    """The number of CPUs changes no count: a broadcast is one instruction."""
    one = counts("fork-storm", OLD, pages=32, cpus=cpus, threads=1, rounds=2)
    assert one.tlbi == {"VALE1IS": 64, "ASIDE1IS": 4}


@pytest.mark.parametrize(
    ("pages", "run_length"), [(64, 64), (64, 16), (10, 1), (10, 4)]
)
def test_move_flushes_once_a_run(pages, run_length):
    """A compaction waits once for each page before, and once for each run after."""
    runs = -(-pages // run_length)
    assert counts("move", OLD, pages=pages, run=run_length).dsb["ish"] == pages
    assert counts("move", NEW, pages=pages, run=run_length).dsb["ish"] == runs


def test_move_is_cut_by_both_tables():
    """512 pages whose target is out of step by 100 are two runs."""
    assert counts("move", pages=512, offset=100).dsb["ish"] == 2
    assert counts("move", pages=512, offset=0).dsb["ish"] == 1


@pytest.mark.parametrize("step", [8, 32])
def test_arena_growth(step):
    """A used arena costs a flush a step before; a fresh one costs none ever."""
    used = counts("arena", OLD, pages=128, step=step)
    assert used.dsb["ish"] == 128 // step
    assert used.tlbi.total() == 128 // step * closed_form(step)
    assert counts("arena", NEW, pages=128, step=step).tlbi == {}
    assert counts("arena", OLD, pages=128, step=step, history="fresh").tlbi == {}


def test_unmap_flushes_leaves_and_then_tables():
    """512 pages in one table go with one leaf flush and one for the table."""
    for variant in (OLD, NEW):
        found = counts("unmap", variant, pages=512)
        assert found.tlbi == {"RVALE1IS": 1, "RVAE1IS": 1}
        found = counts("unmap", variant, "neoverse-n1", pages=100)
        assert found.tlbi == {"VALE1IS": 100, "VAE1IS": 1}


def test_huge_pages_move_whole():
    """Two huge pages move with a flush each, before and after."""
    for variant in (OLD, NEW):
        found = counts("move", variant, pages=1024, thp="yes")
        assert found.dsb["ish"] == 2
