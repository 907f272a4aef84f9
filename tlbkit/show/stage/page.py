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

_BOX: Final = 'x="1" y="1" width="24" height="14" rx="3"'
_INNER: Final = 'x="4" y="4" width="16" height="8" rx="2"'
_OUTER: Final = 'x="2" y="2" width="20" height="12" rx="4"'
_KEY: Final = {
    f'<rect class="read" {_BOX}/>': "read-only",
    f'<rect class="write" {_BOX}/>': "writable",
    f'<rect class="read" {_INNER}/><rect class="verdict spurious" {_OUTER}/>': (
        "stricter than the tables: at most a spurious fault"
    ),
    f'<rect class="write" {_INNER}/><rect class="verdict hole" {_OUTER}/>'
    '<circle class="sign" cx="21" cy="4" r="4"/>': (
        "grants what the tables do not: a hole until it is flushed"
    ),
    f'<rect class="flight" {_BOX}/><rect class="flight-edge" {_BOX}/>': (
        "a TLBI in flight: the pages that it names, the CPUs that it reaches"
    ),
}
"""How things look, and what they mean."""


def _key() -> str:
    items = "".join(
        f'<li><svg width="26" height="16" aria-hidden="true" focusable="false">{look}'
        f"</svg>{escape(words)}</li>"
        for look, words in _KEY.items()
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
        f'<section class="tlbkit-scene{look}" aria-label="{name}">'
        f'<p class="tlbkit-take">{name}</p>'
        '<div class="tlbkit-board"></div><div class="tlbkit-says"'
        ' aria-live="polite"><p class="tlbkit-path"></p><p class="tlbkit-happened">'
        f'{escape(stage.summary(number))}</p><p class="tlbkit-stands">{escape(begins)}'
        '</p><p class="tlbkit-locks"></p><p class="tlbkit-bits"></p></div>'
        "<details><summary>The board in words</summary><table><tbody></tbody></table>"
        "</details></section>"
    )


def content(stage: Stage) -> dict[str, Any]:
    """Return what the script shows, as plain lists and dictionaries."""
    return {
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
        f'<form class="tlbkit-stage" data-name="{quote(stage.name)}" tabindex="-1"'
        f' aria-label="{escape(stage.title)}">'
        f'<p class="tlbkit-title">{escape(stage.title)}</p>{lead}'
        f'<div class="tlbkit-scenes">{scenes}</div>{_transport(stage)}'
        f'<div class="tlbkit-line"></div>{_key()}'
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
