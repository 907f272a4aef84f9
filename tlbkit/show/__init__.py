"""Figures, widgets and page embedding."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlbkit.show.explorer import Explorer
    from tlbkit.show.gallery import Gallery, replayed
    from tlbkit.show.game import Game
    from tlbkit.show.replay import Replay
    from tlbkit.show.stage import Stage
    from tlbkit.show.surface import Surface
    from tlbkit.show.trace_desk import TraceDesk
    from tlbkit.show.turns import Turns

__all__ = [
    "Explorer",
    "Gallery",
    "Game",
    "Replay",
    "Stage",
    "Surface",
    "TraceDesk",
    "Turns",
    "replayed",
]

_HOMES = {
    "Explorer": "explorer",
    "Gallery": "gallery",
    "Game": "game",
    "Replay": "replay",
    "Stage": "stage",
    "Surface": "surface",
    "TraceDesk": "trace_desk",
    "Turns": "turns",
    "replayed": "gallery",
}


def __getattr__(name: str) -> Any:
    """Load what is shown when it is asked for: a page has no greenlet, and no Bokeh."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Name them as well."""
    return sorted({*globals(), *__all__})
