"""Levels to choose from, and one to play."""

from __future__ import annotations

import json
import os
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from tlbkit.lab.gallery import levels
from tlbkit.show.explorer import STATIC_PAGE
from tlbkit.show.game.tree import tree
from tlbkit.show.stage.page import asset as stage_asset
from tlbkit.show.text import table

if TYPE_CHECKING:
    from collections.abc import Iterator


def asset(name: str) -> str:
    """Return the text of the style or the script."""
    return (files("tlbkit.show.game") / name).read_text("utf-8")


class Game:
    """You are the scheduler: levels that are won by harm, and some that cannot be won.

    The last expression of a cell shows it: in the site all levels, each loaded when it
    is opened; in JupyterLab one level; else a table.

    Args:
        level: Name of a level, to begin with; the first if not given.

    Attributes:
        level: As given.

    Raises:
        InputError: There is no such level.
    """

    def __init__(self, level: str = "") -> None:
        self.level = levels.find(level) if level else levels.LEVELS[0]

    def text(self) -> str:
        """Return the text rendering: what there is to play."""
        rows = [
            [str(number), one.name, one.title, one.aim]
            for number, one in enumerate(levels.LEVELS, 1)
        ]
        return table(["", "level", "title", "aim"], rows)

    def __repr__(self) -> str:
        return self.text()

    def trees(self) -> Iterator[tuple[str, str]]:
        """Yield name and JSON of each level, for a page that loads them."""
        for one in levels.LEVELS:
            yield one.name, json.dumps(tree(one), separators=(",", ":"))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return the rendering for whoever displays this object."""
        made = page(self) if os.environ.get(STATIC_PAGE) else standalone(self)
        return {"text/plain": self.text(), "text/html": made}


def page(game: Game, inline: str = "") -> str:
    """Return the game as HTML, for a page that has style and script.

    Args:
        game: With the level to begin with.
        inline: The JSON of that level, if it is the only one.
    """
    items = "".join(
        f'<li><button type="button" disabled data-level="{escape(one.name)}">'
        f"<span>{number}</span> {escape(one.title)}<small></small></button></li>"
        for number, one in enumerate(levels.LEVELS, 1)
        if not inline or one is game.level
    )
    data = inline.replace("<", "\\u003c")
    given = f'<script type="application/json">{data}</script>' if inline else ""
    return (
        f'<section class="tlbkit-game" data-level="{escape(game.level.name)}"'
        ' aria-label="You are the scheduler" tabindex="-1">'
        f'<nav aria-label="Levels"><ol class="tlbkit-levels">{items}</ol>'
        '<p class="tlbkit-progress"><span></span> <button type="button" disabled'
        ' data-do="forget">Forget my progress</button></p></nav>'
        '<div class="tlbkit-play"><p class="tlbkit-title"></p>'
        '<p class="tlbkit-aim">The game needs JavaScript.</p>'
        '<div class="tlbkit-board"></div><p role="status" class="tlbkit-happened"></p>'
        '<p class="tlbkit-stands"></p><div class="tlbkit-threads"></div>'
        '<div class="tlbkit-moves"></div><div class="tlbkit-told"></div>'
        f'<ol class="tlbkit-path" aria-label="Steps so far"></ol></div>{given}'
        "</section>"
    )


def standalone(game: Game) -> str:
    """Return one level as HTML with style and scripts, for a notebook."""
    inline = json.dumps(tree(game.level), separators=(",", ":"))
    return (
        f"<style>{stage_asset('stage.css')}{asset('game.css')}</style>"
        f"{page(game, inline)}"
        f"<script>{stage_asset('stage.js')}</script><script>{asset('game.js')}</script>"
    )
