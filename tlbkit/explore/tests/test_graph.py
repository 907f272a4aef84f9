"""Laws of schedule graphs: they hold exactly what schedules can do."""

import json
from functools import partial

import pytest

from tlbkit.arm64.machine import Machine
from tlbkit.explore import graph as graphs
from tlbkit.explore.scheduler import Choice, Flow, World
from tlbkit.explore.search import replay
from tlbkit.explore.tests.support import process_world
from tlbkit.observe.words import describe


def look(run):
    """What the TLBs hold, as text."""
    return {
        f"CPU {cpu.number}": ", ".join(hex(entry.va) for entry in cpu.tlb.entries())
        for cpu in run.world.machine.cpus
    }


def tell(_machine, event):
    """What happened, as text."""
    return describe(event)


def made(**how):
    """The graph of mprotect() against a writer."""
    return graphs.graph(
        process_world("mprotect", **how), "a race", look=look, tell=tell
    )


def test_every_state_goes_on_or_ends():
    """A state has steps, or an end; every step leads to a state that there is."""
    graph = made()
    reached = {0}
    for node in graph.nodes:
        assert bool(node.next) != bool(node.end)
        assert len({edge.flow for edge in node.next}) == len(node.next)
        reached |= {edge.node for edge in node.next}
    assert reached == set(range(len(graph.nodes)))
    assert {node.end for node in graph.nodes} == {"", "done"}


def test_a_path_is_a_schedule():
    """Steps taken through the graph end as the same schedule does."""
    scenario = process_world("mprotect", without={"dsb ish in flush_tlb_range_"})
    graph = graphs.graph(scenario, "a race", look=look, tell=tell)
    assert any(node.end == "broken" for node in graph.nodes)
    here = graph.nodes[0]
    flows: list[int] = []
    while here.next:
        edge = here.next[len(flows) % 3 % len(here.next)]
        flows.append(edge.flow)
        here = graph.nodes[edge.node]
    schedule = tuple(Choice(n, flow) for n, flow in enumerate(flows))
    run = replay(scenario, schedule)
    assert run.steps[: len(flows)] == flows
    assert (run.error is not None) == (here.end == "broken")


def test_the_json_is_small_and_whole():
    """Texts stand once; numbers name them."""
    graph = made()
    told = json.loads(json.dumps(graph.to_json()))
    assert told["format"] == graphs.FORMAT
    assert len(set(told["texts"])) == len(told["texts"])
    for node, one in zip(graph.nodes, told["nodes"], strict=True):
        shown = [told["texts"][text] for text in one["shows"]]
        assert shown == [node.shows[row] for row in told["rows"]]
        assert [edge[:2] for edge in one["next"]] == [list(e[:2]) for e in node.next]
    assert len(json.dumps(told)) < 20_000


def test_what_follows_an_event_within_a_step_counts():
    """Two orders that leave different words are two ends, whatever ends a step."""
    word = 0x8000_0000

    def scenario():
        machine = Machine(cpus=2)

        def write(number):
            cpu = machine.cpu(number)
            cpu.dsb("ish")  # told to everybody, and no end of a step
            machine.memory.write(word, number + 1)
            cpu.isb()

        flows = [Flow(f"{n}", n, partial(write, n)) for n in range(2)]
        return World(machine, tuple(flows))

    def word_now(run):
        return {"word": str(run.world.machine.memory.read(word))}

    graph = graphs.graph(scenario, "a race", look=word_now, tell=tell, kinds={"isb"})
    ends = [node.shows["word"] for node in graph.nodes if node.end]
    assert sorted(ends) == ["1", "2"]


def test_too_large_a_graph_is_refused():
    """There is an error, not an endless wait."""
    with pytest.raises(graphs.GraphTooLargeError, match="10"):
        graphs.graph(process_world("mprotect"), "a race", look=look, tell=tell, most=10)
