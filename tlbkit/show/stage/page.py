"""The stage as HTML: complete by itself in words, drawn by the script beside this file.

The same HTML serves the site, where style and script are files of the page, and
JupyterLab, where they are given along.
"""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from tlbkit.show.stage.show import Stage

_SPEEDS: Final = (("slow", 40), ("normal", 16), ("fast", 6))

_CELL: Final = 7
"""How many parts a cell has in a film."""

_BOX: Final = 'x="1" y="1" width="24" height="14" rx="3"'
_INNER: Final = 'x="4" y="4" width="16" height="8" rx="2"'
_OUTER: Final = 'x="2" y="2" width="20" height="12" rx="4"'
_SIGN: Final = '<circle class="sign" cx="21" cy="4" r="4"/>'
_KEY: Final = {
    "read": (f'<rect class="read" {_BOX}/>', "read-only"),
    "write": (f'<rect class="write" {_BOX}/>', "writable"),
    "SPURIOUS": (
        f'<rect class="read" {_INNER}/><rect class="verdict spurious" {_OUTER}/>',
        "stricter than the tables: at most a spurious fault",
    ),
    "IDLE": (
        f'<rect class="read" {_INNER}/><rect class="verdict idle" {_OUTER}/>',
        "only a flag differs from the tables",
    ),
    "HOLE": (
        f'<rect class="write" {_INNER}/><rect class="verdict hole" {_OUTER}/>{_SIGN}',
        "grants what the tables do not: a hole until it is flushed",
    ),
    "walk": (
        '<line class="walk" x1="2" y1="8" x2="24" y2="8"/>',
        "the walk cache knows the table of these pages",
    ),
    "flies": (
        f'<rect class="flight" {_BOX}/><rect class="flight-edge" {_BOX}/>',
        "a TLBI in flight: the pages that it names, the CPUs that it reaches",
    ),
    "strikes": (
        '<polyline class="strike" points="1 11 7 4 13 11 19 4 25 11"/>',
        "an interrupt from another CPU",
    ),
    "heap": ('<path class="there" d="M4 3h5v5h-5zM12 3h5v5h-5z"/>', "a process"),
}
"""How things look, and what they mean, by what of a film makes them look so."""


def _key(stage: Stage) -> str:
    """Return what the pictures of a stage mean, and only of what is in them."""
    kinds = {slot[0] for film in stage.films for slot in film["slots"]}
    cells = [
        value
        for film in stage.films
        for value in film["values"]
        if isinstance(value, list) and len(value) == _CELL and isinstance(value[0], str)
    ]
    kinds |= {str(value[5]) for value in cells}
    kinds |= {"write" if "w" in value[0] else "read" for value in cells}
    items = "".join(
        f'<li><svg width="26" height="16" aria-hidden="true" focusable="false">{look}'
        f"</svg>{escape(words)}</li>"
        for kind, (look, words) in _KEY.items()
        if kind in kinds
    )
    return f'<ul class="tlbkit-key tlbkit-board">{items}</ul>'


def _button(do: str, label: str, key: str) -> str:
    return (
        f'<button type="button" data-do="{do}" aria-keyshortcuts="{key}"'
        f' title="{escape(label)} ({key})">{escape(label)}</button>'
    )


def _transport(stage: Stage) -> str:
    speeds = "".join(
        f'<option value="{seconds}"{" selected" if name == "normal" else ""}>{name}'
        "</option>"
        for name, seconds in _SPEEDS
    )
    buttons = [
        _button("back", "Back", "ArrowLeft"),
        _button("step", "Step", "ArrowRight"),
        _button("play", "Play", "Space"),
    ]
    if stage.differs:
        buttons.append(_button("differ", "Next difference", "n"))
    return (
        f'<fieldset class="tlbkit-transport" disabled>{"".join(buttons)}'
        f'<label>Speed <select name="speed" autocomplete="off">{speeds}</select>'
        '</label><label class="tlbkit-at"><span>Moment</span><input type="range"'
        ' name="at" min="0" max="1" step="1" value="0" autocomplete="off"></label>'
        "</fieldset>"
    )


def _scene(stage: Stage, number: int) -> str:
    film = stage.films[number]
    look = " before" if number == 0 and len(stage.films) > 1 else ""
    name = escape(stage.names[number])
    begins = film["texts"][film["says"][0]] or "All agree with the tables."
    return (
        f'<div class="tlbkit-scene{look}" role="group" aria-label="{name}">'
        f'<p class="tlbkit-take">{name}</p>'
        '<div class="tlbkit-board"></div><div class="tlbkit-says"'
        ' aria-live="polite"><p class="tlbkit-path"></p><p class="tlbkit-happened">'
        f'{escape(stage.summary(number))}</p><p class="tlbkit-stands">{escape(begins)}'
        '</p><p class="tlbkit-locks"></p><p class="tlbkit-bits"></p></div>'
        "<details><summary>The board in words</summary><table><tbody></tbody></table>"
        "</details></div>"
    )


def content(stage: Stage) -> dict[str, Any]:
    """Return what the script shows, as plain lists and dictionaries."""
    return {
        "title": stage.title,
        "names": list(stage.names),
        "films": list(stage.films),
        "differs": [list(which) for which in stage.differs],
        "at": stage.at,
    }


def html(stage: Stage) -> str:
    """Return the stage as HTML, for a page that has style and script."""
    data = json.dumps(content(stage), separators=(",", ":"), ensure_ascii=False)
    data = data.replace("<", "\\u003c")
    scenes = "".join(_scene(stage, number) for number, _ in enumerate(stage.films))
    lead = f'<p class="tlbkit-lead">{escape(stage.lead)}</p>' if stage.lead else ""
    return (
        f'<form class="tlbkit-stage" data-name="{quote(stage.name)}"'
        f' data-follows="{escape(stage.follows)}" tabindex="-1"'
        f' aria-label="{escape(stage.title)}, drawn">'
        f'<p class="tlbkit-title">{escape(stage.title)}</p>{lead}'
        f'<div class="tlbkit-scenes">{scenes}</div>{_transport(stage)}'
        f'<div class="tlbkit-line"></div>{_key(stage)}'
        f'<script type="application/json">{data}</script>'
        "</form>"
    )


def asset(name: str) -> str:
    """Return the text of the style or the script."""
    return (files("tlbkit.show.stage") / name).read_text("utf-8")


def standalone(stage: Stage) -> str:
    """Return the stage as HTML with style and script, for a notebook."""
    style, script = asset("stage.css"), asset("stage.js")
    return f"<style>{style}</style>{html(stage)}<script>{script}</script>"
