"""Laws of the game: a level is won by its harm and only then, or cannot be won."""

import pytest

from tlbkit.errors import InputError
from tlbkit.explore.search import explore
from tlbkit.lab.gallery import game, harm, levels
from tlbkit.lab.tests.trees import tree_of

ALL = levels.LEVELS


@pytest.mark.parametrize("level", ALL, ids=lambda one: one.name)
def test_a_level_can_be_won_or_says_why_not(level):
    """The path wins in the fewest steps; where there is none, no state is won."""
    tree = tree_of(level.name)
    assert bool(tree.wins) != bool(level.reason)
    node = tree.nodes[0]
    assert not node.end
    for flow in tree.path:
        assert not node.end
        (edge,) = (one for one in node.next if one.flow == flow)
        node = tree.nodes[edge.node]
    if tree.wins:
        assert node.error is not None
        assert level.won(node.error)
    fewest = {0: 0}
    for number, one in enumerate(tree.nodes):
        for edge in one.next:
            steps = fewest[number] + 1
            fewest[edge.node] = min(fewest.get(edge.node, steps), steps)
    assert not tree.wins or len(tree.path) == min(fewest[one] for one in tree.wins)


@pytest.mark.parametrize(
    "level", [one for one in ALL if one.reason], ids=lambda one: one.name
)
def test_what_cannot_be_won_is_not_won_by_finer_steps(level):
    """The search, which stops at every event, finds none of the harm either."""
    scenario = game.MEETINGS[level.meeting].scenario(
        level.taken_out, rules=harm.Witness, leave=False, boot=level.boot
    )
    found = explore(scenario, preemptions=1, counts=level.won, loads=True)
    assert found.breach is None


def test_levels_have_names_of_their_own():
    """Each is found by its name, an unknown one is refused."""
    assert len({one.name for one in ALL}) == len(ALL) >= 24
    assert levels.find("one-barrier") is ALL[0]
    with pytest.raises(InputError, match="one-barrier"):
        levels.find("chess")
