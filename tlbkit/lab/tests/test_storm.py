"""Many exits send what one formula says."""

import pytest

from tlbkit.lab.hugetlb import AFTER, BEFORE
from tlbkit.lab.storm import exits


@pytest.mark.parametrize(("version", "form"), [("v6.17", BEFORE), ("v6.19", AFTER)])
def test_all_exits_together_send_what_the_formula_says(version, form):
    """Broadcasts are those of the form, and each reaches every other CPU."""
    seen = list(exits(version, sharers=5, tables=3, cpus=4))
    assert sum(one.broadcasts for one in seen) == form.all_leave(3, 5)
    assert all(one.interrupts == one.broadcasts * 3 for one in seen)
    assert all(one.ns > 0 for one in seen)
