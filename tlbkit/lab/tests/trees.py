"""The trees of the game's levels, each made once for all tests."""

from functools import cache

from tlbkit.lab.gallery import levels
from tlbkit.lab.gallery.game import Tree


@cache
def tree_of(name: str) -> Tree:
    """Return the tree of a level."""
    return levels.find(name).tree()
