"""Laws of the gallery: every point has its verdict, and every verdict is found anew."""

import json

import pytest

from tlbkit.errors import InputError
from tlbkit.lab.gallery import boards


@pytest.mark.parametrize("name", boards.BOARDS)
def test_a_board_can_be_played(name):
    """A board is small, and can be lost exactly where something was taken out."""
    board = boards.find(name)
    graph = board.graph()
    text = json.dumps(graph.to_json(), separators=(",", ":"))
    assert len(text) < 40_000
    ends = {node.end for node in graph.nodes} - {""}
    assert ends == ({"broken"} if board.without else {"done"})


def test_an_unknown_board_is_refused():
    """The message names those that there are."""
    with pytest.raises(InputError, match="protect"):
        boards.find("chess")
