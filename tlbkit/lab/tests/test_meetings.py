"""The law of every meeting of the gallery: a whole kernel keeps the rules in it."""

import pytest

from tlbkit.explore.search import explore
from tlbkit.lab.gallery.programme import PROGRAMME


@pytest.mark.parametrize("name", PROGRAMME)
def test_no_schedule_breaks_a_rule(name):
    """With nothing taken out, no schedule of up to one preemption breaks a rule."""
    found = explore(PROGRAMME[name].scenario(), preemptions=1, loads=True)
    assert (found.breach, found.complete) == (None, True)


def test_a_pin_and_fork_bear_two_preemptions():
    """The look at fork's sequence number after a pin is for two stops, not for one."""
    found = explore(PROGRAMME["pin and fork"].scenario(), preemptions=2, loads=True)
    assert (found.breach, found.complete) == (None, True)
