"""The film of a storm adds up."""

from tlbkit.lab.hugetlb import BEFORE
from tlbkit.show.stage.show import Stage, nanoseconds
from tlbkit.show.stage.storm import MOMENTS, storm


def test_a_storm_ends_with_nobody_left_and_all_counted():
    """The heap is empty, and the tally is that of the formula."""
    made = storm("v6.17", sharers=5, tables=3, cpus=4)
    *_, last = made["moments"]
    heap, tally = (made["values"][last[4][n]] for n in (1, 3))
    sent = BEFORE.all_leave(3, 5)
    assert heap == 0
    assert tally == f"{sent} IPI broadcasts, {sent * 3} interrupts taken"


def test_equal_deeds_are_folded():
    """However many processes there are, there are few moments."""
    made = storm("v6.19", sharers=MOMENTS + 1, tables=1, cpus=2)
    assert len(made["moments"]) <= MOMENTS
    assert made["heap"] == ["processes", MOMENTS + 1]


def test_a_stage_shows_storms():
    """Two storms stand side by side, and the text tells their exits."""
    takes = {v: storm(v, sharers=4, tables=2, cpus=4) for v in ("v6.17", "v6.19")}
    stage = Stage("A storm", takes)
    assert nanoseconds(stage.films[0]) > nanoseconds(stage.films[1])
    assert "A process exits: 3 CPUs are interrupted 2 times." in stage.text()
    assert "A process exits, and no CPU is interrupted." in stage.text()
