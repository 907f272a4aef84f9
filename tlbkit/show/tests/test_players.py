"""Players tell in text what they show in a page and in Jupyter."""

import json
import re
from typing import Any

import pytest

from tlbkit.errors import InputError
from tlbkit.observe.recording import Link
from tlbkit.show import Replay, Turns
from tlbkit.show.explorer import STATIC_PAGE
from tlbkit.show.player_live import replay_widget, turns_widget
from tlbkit.show.replay import outline
from tlbkit.show.tests.test_film import some_recording

GRAPH = {
    "format": "tlbkit schedule graph 1",
    "title": "A <race>",
    "flows": [{"name": "one", "cpu": 0}, {"name": "two", "cpu": 1}],
    "rows": ["word"],
    "texts": ["0", "1", "reads", "writes", "the lock", "fine", "lost"],
    "nodes": [
        {"shows": [0], "next": [[0, 1, 2], [1, 2, 3]], "waits": [], "end": None},
        {"shows": [0], "next": [[0, 3, 3]], "waits": [[1, 4]], "end": None},
        {"shows": [1], "next": [[0, 4, 2]], "waits": [], "end": None},
        {"shows": [1], "next": [], "waits": [], "end": ["done", 5]},
        {"shows": [1], "next": [], "waits": [], "end": ["broken", 6]},
    ],
}


def two():
    """A replay of two recordings that differ."""
    steps = [("none", 0, 0)]
    takes = {kernel: some_recording(kernel, steps) for kernel in ("v6.17", "v6.19")}
    return Replay("Two", takes)


def spec(player, monkeypatch):
    """The JSON that a page gets with a player."""
    monkeypatch.setenv(STATIC_PAGE, "1")
    html = player._repr_mimebundle_()["text/html"]
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', html)
    return html, json.loads(found)


def test_the_text_holds_every_step():
    """A reader of text gets all steps, in order, and the state at the position."""
    player = Replay("One", {"take": some_recording(steps=[("write", 1, 0)])}, at=2)
    (film,) = player.films
    lines = outline(film)
    numbers = [int(m[1]) for line in lines if (m := re.match(r" +(\d+)  CPU", line))]
    assert numbers == list(range(1, len(film["steps"]) + 1))
    assert "\n".join(lines) in player.text()
    assert "State after 2 steps" in repr(player)


def test_the_page_holds_the_same_films(monkeypatch):
    """What the page moves through is what the text was made of."""
    player = two()
    html, content = spec(player, monkeypatch)
    assert content["films"] == list(player.films)
    assert content["difference"] == player.difference is not None
    assert html.count("data-step=") == sum(len(one["steps"]) for one in player.films)


def test_a_widget_goes_where_its_buttons_say():
    """Step, back, over and the first difference move the slider as they are called."""
    player = two()
    widget = replay_widget(player)
    _, buttons, where, status, _ = widget.children
    press = {button.description: button.click for button in buttons.children}
    press["Step"]()
    press["Step"]()
    press["Back"]()
    assert where.value == 1
    press["Back"]()
    press["Step over"]()
    assert where.value == player.films[0]["groups"][0][2] + 1
    press["Back over"]()
    assert where.value == 0
    press["Back"]()
    assert where.value == 0
    press["First difference"]()
    assert player.difference is not None
    assert where.value == player.difference + 1
    film = player.films[0]
    cpu, text, _, _ = film["steps"][player.difference]
    assert f"CPU {cpu}: {film['texts'][text]}" in status.value


def test_the_page_gets_what_its_links_name(monkeypatch):
    """Scenario and seed of a link stand in the page, and come back from the link."""
    takes = {"one": some_recording(steps=[("write", 0, 0)])}
    player = Replay("One <write>", takes, name="move source", seed=7)
    html, content = spec(player, monkeypatch)
    link = Link.parse(f"https://host/page.html{player.link(3)}")
    assert link == Link("move-source", 7, 3)
    assert f'data-name="{link.scenario}"' in html
    assert content["seed"] == link.seed
    assert Replay("One <write>", takes).link(0) == Link("one-write", 0, 0)


@pytest.mark.parametrize("takes", [0, 3])
def test_a_replay_is_of_one_or_two(takes):
    """None and three are refused."""
    tape = some_recording(steps=[("write", 0, 0)])
    with pytest.raises(InputError, match="one or two"):
        Replay("", {str(n): tape for n in range(takes)})


def test_a_position_must_be_there():
    """A position after the end is refused, and the message says which there are."""
    with pytest.raises(InputError, match="positions 0 to"):
        Replay("", {"one": some_recording(steps=[("write", 0, 0)])}, at=10_000)


def test_turns_finds_the_shortest_bad_end():
    """The way that is shown is one to a bad end, and the text tells its steps."""
    player = Turns(GRAPH)
    assert player.worst() == (1, 0)
    assert player.way(player.worst())[-1][1] == 4
    assert "A rule is broken: lost." in player.text()
    assert "CPU 1, two: writes" in player.text()


def test_without_a_bad_end_the_way_leads_to_a_good_one():
    """A graph in which nothing breaks shows how it ends."""
    nodes: list[Any] = list(GRAPH["nodes"])
    nodes[4] = {**nodes[4], "end": ["done", 5]}
    player = Turns({**GRAPH, "nodes": nodes})
    assert "Done: fine." in player.text()
    assert "0 of those bad" in player.summary


def test_the_game_in_a_page_is_the_graph(monkeypatch):
    """The page gets the graph as it is, and no tag of a text is taken for one."""
    html, content = spec(Turns(GRAPH), monkeypatch)
    assert {key: content[key] for key in GRAPH} == GRAPH
    assert content["worst"] == [1, 0]
    assert "A <race>" not in html


def test_the_game_as_a_widget():
    """Choices move on, undo moves back, and the end is told."""
    widget = turns_widget(Turns(GRAPH))
    _, _, choices, buttons, status, _ = widget.children
    undo, restart, worst = buttons.children
    choices.children[1].click()
    assert len(choices.children) == 1
    choices.children[0].click()
    assert "A rule is broken" in status.value
    assert not choices.children
    undo.click()
    undo.click()
    undo.click()
    assert len(choices.children) == 2
    choices.children[0].click()
    assert "two waits for the lock" in status.value
    worst.click()
    assert "lost" in status.value
    restart.click()
    assert "The start." in status.value


def test_another_format_is_refused():
    """What is no graph of this format is named."""
    with pytest.raises(InputError, match="schedule graph"):
        Turns({"format": "something else"})
