"""Laws of the gallery: every point has its verdict, and every verdict is found anew."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tlbkit.errors import InputError
from tlbkit.explore.scheduler import Choice
from tlbkit.explore.search import explore, replay
from tlbkit.lab.gallery import judge, verdicts
from tlbkit.lab.gallery.arguments import ARGUMENTS, NOT_MET
from tlbkit.lab.gallery.census import census, checks
from tlbkit.lab.gallery.meetings import MEETINGS
from tlbkit.lab.gallery.programme import PROGRAMME

BOOK = Path(__file__).resolve().parents[3]
GALLERY = verdicts.gallery()
BREAKING = [one for one in GALLERY if one.verdict == verdicts.BREAKS]


@pytest.fixture(scope="module")
def known():
    """Every point that there is, with the meetings that come by it."""
    return census(PROGRAMME)


def test_the_gallery_is_complete(known):
    """Whatever can be taken out of the flows has a verdict, and nothing else has one.

    After a change of the flows, `python -m tlbkit mutate --json` makes verdicts.json.
    """
    assert {one.point for one in GALLERY} == known.keys()


def test_every_check_is_met_or_excused(known):
    """A check that can be taken out is met, or says what a meeting would need."""
    assert checks() - known.keys() == NOT_MET.keys()


def test_what_does_not_break_is_argued():
    """No verdict is open, and no argument is left over."""
    assert not [one.point for one in GALLERY if one.verdict == verdicts.OPEN]
    argued = {one.point: one.why for one in GALLERY if one.verdict == verdicts.ARGUED}
    assert argued == ARGUMENTS


@pytest.mark.parametrize("name", PROGRAMME)
def test_a_meeting_is_set_back_and_not_made_anew(name):
    """A search makes one world, and tells what it would tell with one for each run."""
    scenario = PROGRAMME[name].scenario()
    made = []

    def counted():
        made.append(name)
        return scenario()

    once = explore(counted, preemptions=0, loads=True)
    assert len(made) == 1
    assert once == explore(
        lambda: replace(scenario(), again=False), preemptions=0, loads=True
    )


def test_a_page_that_is_counted_and_not_stored_yet_is_in_hand():
    """A resident set is not compared while another CPU is between count and entry."""
    schedule = Choice(9, 1), Choice(13, 0), Choice(45, 1), Choice(54, 0)
    run = replay(MEETINGS["move zeros"].scenario(), schedule, loads=True)
    assert run.error is None


@pytest.mark.parametrize("verdict", BREAKING, ids=lambda one: one.point)
def test_what_breaks_still_breaks(verdict):
    """Each breaking point breaks its meeting, with no more preemptions than stored.

    Steps and wording may follow a change of the flows; `mutate` compares these too.
    """
    scenario = PROGRAMME[verdict.meeting].scenario({verdict.point})
    found = explore(scenario, preemptions=verdict.preemptions, loads=True)
    assert found.breach is not None
    run = replay(scenario, found.breach.schedule, loads=True)
    assert str(run.error) == str(found.breach.error)
    assert tuple(run.steps) == found.breach.steps


@pytest.mark.parametrize(
    "point",
    [
        "dsb ish in flush_tlb_range_",
        "tlbi in ptep_clear_flush",
        "tlbi in move_present_ptes",
        "lock PTE table in mfill_atomic_install_pte",
        "pte_none in mfill_atomic_pte_zeropage",
        "tlbi in do_wp_page",
    ],
)
def test_a_sample_is_found_anew(point, known):
    """A search of all meetings today gives the verdict that is stored."""
    found = judge.judge(point, known[point])
    assert found.verdict == verdicts.find(point).verdict


KNOWN_RACES = {
    "stale writable entry after rw to r": ("tlbi in tlb_flush", "protect"),
    "copy on write with a flush at home only": ("tlbi in ptep_clear_flush", "copy"),
    "MOVE against a concurrent access": ("tlbi in move_present_ptes", "move source"),
    "MOVE against a concurrent fault": (
        "is_pte_pages_stable in move_zeropage_pte",
        "move zeros",
    ),
    "fork's window": ("tlbi in dup_mmap", "fork"),
}


@pytest.mark.parametrize("race", KNOWN_RACES)
def test_known_races_are_found(race):
    """The races that the kernel's history knows come out of the search unscripted."""
    point, meeting = KNOWN_RACES[race]
    assert explore(PROGRAMME[meeting].scenario(), loads=True).breach is None
    assert explore(PROGRAMME[meeting].scenario({point}), loads=True).breach is not None


def test_a_frame_is_reused_before_its_flush():
    """A frame that is freed before its flush is given out while a TLB reaches it."""
    scenario = MEETINGS["unmap"].scenario({"tlbi in tlb_flush"})
    breach = explore(scenario, loads=True).breach
    assert breach is not None
    assert "can still use" in str(breach.error)


def test_chapters_are_there():
    """Each verdict leads to a page of the book."""
    for verdict in GALLERY:
        assert (BOOK / verdict.chapter).exists(), verdict.chapter


def test_verdicts_survive_json():
    """What is read back is what was written."""
    for verdict in GALLERY:
        told = json.loads(json.dumps(verdict.to_json()))
        assert verdicts.Verdict.of_json(told) == verdict


def test_unknown_points_are_refused(monkeypatch):
    """The message says what is like it, and where to look."""
    few = {name: PROGRAMME[name] for name in ("protect", "unmap")}
    monkeypatch.setattr(judge, "PROGRAMME", few)  # not to look through all of them
    with pytest.raises(InputError, match="gallery"):
        verdicts.find("dsb sy in nowhere")
    with pytest.raises(InputError, match="close to it: 'dsb ish in"):
        judge.mutate(["dsb sy in nowhere"])
