"""The game in the page and in JupyterLab: you decide which CPU goes on.

`tree` makes one level's states into what the script (``game.js`` beside this file)
plays; the script decides nothing: which steps there are, where they lead and how it
ends are all in the tree.
"""

from tlbkit.show.game.show import Game, asset
from tlbkit.show.game.tree import tree

__all__ = ["Game", "asset", "tree"]
