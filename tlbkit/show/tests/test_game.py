"""Laws of the game as it is shown: small and whole, and every board is true."""

import json

import pytest

from tlbkit.lab.gallery import levels
from tlbkit.lab.tests.trees import tree_of
from tlbkit.observe.recording import Recording
from tlbkit.show.game import Game, tree
from tlbkit.show.game.tree import _shared, slots_of
from tlbkit.show.stage.board import Board
from tlbkit.show.stage.film import plain

WEIGHT = 20_000
SOME = ("one-barrier", "old-page", "pull-request-350")


@pytest.mark.parametrize("name", SOME)
def test_a_tree_shows_each_state(name):
    """What the script finds of a state is what the board of that state is."""
    made = tree_of(name)
    told = tree(levels.find(name), made)
    shared = _shared(made)
    for number, node in enumerate(made.nodes):
        recording = Recording(node.shows.state, (), (), made.place)
        board = Board(recording, 0, shared).slots
        assert slots_of(told, number) == {
            slot: json.loads(plain(what)) for slot, what in board.items()
        }


@pytest.mark.parametrize("level", levels.LEVELS, ids=lambda one: one.name)
def test_a_level_is_light(level):
    """It is loaded when it is opened: 20 kB at most, with texts for every step."""
    told = tree(level, tree_of(level.name))
    assert len(json.dumps(told, separators=(",", ":"))) <= WEIGHT
    for node in told["nodes"]:
        assert all(told["texts"][text] for _, _, text in node[2])


def test_the_text_names_every_level():
    """As text the game is a table of its levels."""
    text = Game().text()
    assert all(level.name in text for level in levels.LEVELS)
