"""Figures, widgets and page embedding."""

from tlbkit.show.explorer import Explorer
from tlbkit.show.gallery import Gallery, replayed
from tlbkit.show.replay import Replay
from tlbkit.show.stage import Stage
from tlbkit.show.turns import Turns

__all__ = ["Explorer", "Gallery", "Replay", "Stage", "Turns", "replayed"]
