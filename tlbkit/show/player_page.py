"""The page rendering of players: HTML that is complete by itself, and a script.

Read without the script a replay is its steps and the state where it begins, and a game
is its start. The page script (``book/_static/player.js``) moves through the JSON at the
end; it asks nobody, so it works in a copy of the site without live Python too.
"""

import json
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tlbkit.show.film import state

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tlbkit.show.film import Film
    from tlbkit.show.replay import Replay
    from tlbkit.show.turns import Turns


def _button(do: str, label: str, key: str) -> str:
    """Return a button that the script knows by what it does."""
    return (
        f'<button type="button" data-do="{do}" aria-keyshortcuts="{key}"'
        f' title="{escape(label)} ({key})">{escape(label)}</button>'
    )


def _form(kind: str, player: "Replay | Turns", body: str, content: Any) -> str:
    """Return a player around its parts."""
    spec = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<form class="tlbkit-player" data-kind="{kind}"'
        f' data-name="{quote(player.name)}" tabindex="-1"'
        f' aria-label="{escape(player.title)}">'
        f'<p class="tlbkit-title">{escape(player.title)}</p>'
        f'<p class="tlbkit-summary">{escape(player.summary)}</p>{body}'
        f'<script type="application/json">{spec}</script></form>'
    )


def rows_html(rows: "Mapping[str, str] | Iterable[tuple[str, str]]") -> str:
    """Return the lines of a state as rows of a table."""
    return "".join(
        f'<tr><th scope="row">{escape(row)}</th><td>{escape(text)}</td></tr>'
        for row, text in dict(rows).items()
    )


def steps_html(film: "Film") -> str:
    """Return the steps as list items, headed by the functions that they happened in."""
    opened: dict[int, list[tuple[str, int]]] = {}
    depths = [0] * len(film["steps"])
    for name, first, last, depth in film["groups"]:
        opened.setdefault(first, []).append((name, depth))
        depths[first : last + 1] = [depth + 1] * (last + 1 - first)
    items = []
    for index, (cpu, text, _, _) in enumerate(film["steps"]):
        items += [
            f'<li class="function" style="--depth:{depth}">{escape(name)}</li>'
            for name, depth in opened.get(index, ())
        ]
        items.append(
            f'<li data-step="{index}" style="--depth:{depths[index]}">'
            f"<small>{index + 1}</small> <b>CPU {cpu}</b> "
            f"{escape(film['texts'][text])}</li>"
        )
    return "".join(items)


def replay(player: "Replay") -> str:
    """Return the whole replay as HTML, at the position where it begins."""
    films = player.films
    longest = max(len(one["steps"]) for one in films)
    buttons = [
        _button("overBack", "Back over", "Shift+ArrowLeft"),
        _button("back", "Back", "ArrowLeft"),
        _button("step", "Step", "ArrowRight"),
        _button("over", "Step over", "Shift+ArrowRight"),
        _button("out", "Step out", "o"),
    ]
    if player.difference is not None:
        buttons.append(_button("differ", "First difference", "d"))
    takes = "".join(
        f'<div class="tlbkit-take" role="group" aria-label="{escape(name)}">'
        f'<p class="tlbkit-name">{escape(name)}</p>'
        f'<ol class="tlbkit-steps" tabindex="0" aria-label="Steps">{steps_html(one)}'
        f'</ol><div class="tlbkit-table"><table><tbody>'
        f"{rows_html(state(one, player.at))}</tbody></table></div></div>"
        for name, one in zip(player.names, films, strict=True)
    )
    body = (
        f'<fieldset class="tlbkit-controls" disabled>{"".join(buttons)}'
        '<label class="tlbkit-where"><span>Position</span>'
        f'<input type="range" name="at" min="0" max="{longest}" step="1"'
        f' value="{player.at}" autocomplete="off"></label></fieldset>'
        '<p role="status" class="tlbkit-text">The buttons need JavaScript; all steps '
        f"stand below, and the state after {player.at}.</p>"
        f'<div class="tlbkit-takes">{takes}</div>'
    )
    content = {
        "at": player.at,
        "seed": player.seed,
        "difference": player.difference,
        "films": films,
    }
    return _form("replay", player, body, content)


def turns(player: "Turns") -> str:
    """Return the whole game as HTML, at its start."""
    flows = "".join(
        f'<button type="button" data-flow="{number}"'
        f' aria-keyshortcuts="{number + 1}"><kbd>{number + 1}</kbd> '
        f"{escape(player.flow(number))}<small></small></button>"
        for number in range(len(player.graph["flows"]))
    )
    buttons = [
        _button("undo", "Undo", "u"),
        _button("restart", "Start again", "r"),
        _button("worst", "Show me a way that ends it", "w"),
    ]
    body = (
        '<fieldset class="tlbkit-controls tlbkit-flows" disabled>'
        f"<legend>Who goes on?</legend>{flows}</fieldset><fieldset class="
        f'"tlbkit-controls" disabled>{"".join(buttons)}</fieldset>'
        '<p role="status" class="tlbkit-text">The buttons need JavaScript; this is the '
        'start.</p><div class="tlbkit-takes"><div class="tlbkit-take">'
        '<div class="tlbkit-table"><table><tbody>'
        f"{rows_html(player.shows(0))}</tbody></table></div></div>"
        '<div class="tlbkit-take"><ol class="tlbkit-path" tabindex="0"'
        ' aria-label="Steps so far"></ol></div></div>'
    )
    content = {**player.graph, "worst": player.worst()}
    return _form("turns", player, body, content)
