"""A film gives back every board of its recording, and is small."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.observe.tests.support import STEPS
from tlbkit.show.stage.board import board_state, moments
from tlbkit.show.stage.film import film, plain
from tlbkit.show.stage.show import Stage, differences, nanoseconds, told
from tlbkit.show.stage.tests.support import small, taped

MOST_KB = 60


def shown(made, moment):
    """Play a film as the page does; return what stands there, as plain values."""
    now: dict[int, int] = {}
    for pairs in [made["start"], *(m[4] for m in made["moments"][:moment])]:
        now.update(zip(pairs[::2], pairs[1::2], strict=True))
    return {
        json.dumps(made["slots"][slot]): made["values"][value]
        for slot, value in now.items()
        if value
    }


@settings(max_examples=15, deadline=None)
@given(STEPS, st.data())
def test_a_film_shows_the_board_of_each_moment(steps, data):
    """What a film makes of a moment is the board after its last step."""
    _, tape = taped(steps)
    made = film(tape)
    stops = [0, *(last + 1 for _, last in moments(tape))]
    assert len(stops) == len(made["moments"]) + 1
    moment = data.draw(st.integers(0, len(stops) - 1))
    expected = {
        json.dumps(slot): json.loads(plain(what))
        for slot, what in board_state(tape, stops[moment]).items()
    }
    assert shown(made, moment) == expected


@settings(max_examples=10, deadline=None)
@given(STEPS)
def test_a_film_takes_as_long_as_its_steps(steps):
    """The time of all moments is the time of all steps, to the nearest ns."""
    _, tape = taped(steps)
    assert nanoseconds(film(tape)) == pytest.approx(
        sum(step.ns for step in tape.steps), abs=1
    )


@settings(max_examples=10, deadline=None)
@given(STEPS)
def test_all_rows_that_are_shown_are_known(steps):
    """No cell stands in a row or a column that the film does not name."""
    _, tape = taped(steps)
    made = film(tape)
    for slot in made["slots"]:
        if slot[0] == "tlb":
            assert slot[1:3] in made["rows"]
        if slot[0] in {"tlb", "page", "walk"}:
            assert slot[-1] < len(made["columns"])


@pytest.mark.parametrize("scenario", ["fork-reuse", "mprotect", "move", "unmap"])
def test_a_film_of_some_pages_is_small(scenario):
    """Eight pages on four CPUs, both kernels: no more than 60 kB."""
    stage = Stage(scenario, pages=8, cpus=4)
    assert float(stage.weight.removesuffix(" kB")) <= MOST_KB


def test_two_kernels_part_where_they_differ():
    """Up to the first difference both do the same; there they do not."""
    films = [film(small(version)) for version in ("v6.17", "v6.19")]
    said = [[one["texts"][m[1]] for m in one["moments"]] for one in films]
    (first, *_), (second, *_) = differences(*films)
    assert first == second
    assert said[0][:first] == said[1][:first]
    assert said[0][first] != said[1][first]


def test_the_text_tells_what_the_pictures_show():
    """A reader of text learns who sent what, and who still remembers what."""
    text = "\n".join(told(film(small())))
    assert "CPU 0 takes a permission fault on page 0." in text
    assert "page 0 from read-only to writable" in text
    assert "sends TLBI VALE1 for page 0, to itself alone" in text
    assert "CPU 1 still remembers page 0 as read-only" in text


def test_a_hole_is_told_as_one():
    """What another CPU may still do, and what the tables say instead."""
    text = "\n".join(told(film(small(without={"tlbi VALE1IS in wp_page_copy"}))))
    assert "CPU 1 may still read page 0; the tables say another frame." in text
