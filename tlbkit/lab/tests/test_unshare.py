"""An unshare on display, moment by moment."""

import pytest

from tlbkit.lab.unshare import FLUSHED, MOMENTS, RELEASED, SHARED, TAKEN, Unshare, at

REACH = "the leaver's TLB leads to the page"
CHANGE = "the stayer can change the table"


@pytest.mark.parametrize("held", [False, True])
def test_the_stayer_may_change_the_table_only_when_no_tlb_leads_there(held):
    """At no moment can the stayer change what the leaver still reaches."""
    for moment in MOMENTS:
        seen = at(moment, held=held)
        assert "no" in (seen[REACH], seen[CHANGE])


@pytest.mark.parametrize(
    ("moment", "count", "reached", "noted", "change"),
    [
        (SHARED, "1", "yes", "nothing", "no"),
        (TAKEN, "0", "yes", "1,024 MiB", "no"),
        (FLUSHED, "0", "no", "nothing", "no"),
        (RELEASED, "0", "no", "nothing", "yes"),
    ],
)
def test_each_moment_takes_one_thing_away(moment, count, reached, noted, change):
    """First the entry and the count, then the TLB, then the lock."""
    seen = at(moment, held=False)
    assert seen["users beyond the first (pt_share_count)"] == count
    assert seen[REACH] == reached
    assert seen["noted in the gather"] == noted
    assert seen[CHANGE] == change


def test_no_reference_ever_moves():
    """The table and its page keep the references that they had, to the end."""
    names = ("references of the table", "references, map count of the page")
    for held in (False, True):
        first = at(SHARED, held=held)
        for moment in MOMENTS:
            seen = at(moment, held=held)
            assert [seen[name] for name in names] == [first[name] for name in names]


def test_a_reference_in_passing_is_seen_and_makes_no_difference():
    """Only the row that counts references knows of who holds the table."""
    for moment in MOMENTS:
        plain, held = (at(moment, held=held) for held in (False, True))
        differing = {name for name in plain if plain[name] != held[name]}
        assert differing == {"references of the table"}
    assert "no code reads it" in Unshare().answer({"held": "on"}).text
