"""Laws of harm: each replay ends in what it names, and the complete kernel in none."""

import pytest

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.walk import walk
from tlbkit.errors import InputError
from tlbkit.explore.scheduler import Choice
from tlbkit.explore.search import explore, replay
from tlbkit.lab.gallery import harm, replays, verdicts
from tlbkit.lab.gallery.programme import PROGRAMME

HARMED = [one for one in verdicts.gallery() if one.harm is not None]
FILM = 3_000
"""So many steps a replay has at most."""


@pytest.mark.parametrize("verdict", HARMED, ids=lambda one: one.point)
def test_a_replay_ends_in_the_harm_that_it_names(verdict):
    """Without the point the machine is left harmed; with it the same schedule is safe.

    What was harmed is looked for in memory, tables and TLBs as they were left.
    """
    told = replays.ends(verdict.point)
    broken, complete = replays.replay(verdict.point, told)
    assert complete.run.error is None
    assert len(complete.run.done) == len(complete.run.world.flows)
    assert len(broken.recording) < FILM
    error = broken.run.error
    if error is None:  # it shows when the processes end
        error = ended(verdict.point, told).error
        assert "When the processes end" in broken.ending
    assert error is not None
    assert harm.kind(error) == told.kind == verdict.harm.kind
    if isinstance(error, harm.HarmError):
        machine = broken.run.world.machine
        found = walk(machine.cpus[error.cpu].regime, machine.memory, error.va)
        elsewhere = isinstance(found, Fault) or (
            found.pa + error.va - found.va != error.pa
        )
        assert elsewhere or error.granted == "do not allow it"
        assert machine.memory.read(error.pa) == error.word


def ended(point, told):
    """Take a replay's schedule up to the end of the processes."""
    scenario = PROGRAMME[told.meeting].scenario(
        {point}, rules=harm.Witness, more=told.more
    )
    schedule = tuple(Choice(*one) for one in told.schedule)
    return replay(scenario, schedule, loads=True)


def test_most_broken_rules_end_in_harm():
    """At least forty breaking points can be watched to their harm."""
    breaking = [one for one in verdicts.gallery() if one.verdict == verdicts.BREAKS]
    assert len(HARMED) >= 40
    assert {one.point for one in HARMED} <= {one.point for one in breaking}


@pytest.mark.parametrize("name", ["protect", "unmap", "copy", "move source"])
def test_a_complete_kernel_harms_nobody(name):
    """With nothing taken out no schedule of two preemptions ends in harm."""
    scenario = PROGRAMME[name].scenario(rules=harm.Witness)
    found = explore(scenario, counts=harm.is_harm, loads=True)
    assert found.breach is None
    assert found.complete


def test_what_harms_nobody_has_no_replay():
    """A point without harm, and an unknown one, are refused."""
    with pytest.raises(InputError, match="no harm"):
        replays.ends("tlbi in flush_relaxed")
    with pytest.raises(InputError, match="close to it"):
        replays.ends("tlbi in tlb_flash")
    with pytest.raises(InputError, match="meeting"):
        replays.ends("tlbi in tlb_flush", "protekt")
