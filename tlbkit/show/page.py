"""The page rendering: HTML that is complete by itself and comes alive with a script.

Read without the script it is a title, the settings, a table and the reading of the
answer; the controls are off, as nothing would answer them. The page script
(``book/_static/explorer.js``) draws the figures from the JSON at the end, turns the
controls on, and asks :mod:`tlbkit.show.bridge` for every later answer.
"""

import json
from html import escape
from typing import TYPE_CHECKING

from bokeh.embed import json_item

from tlbkit.show.explorer import SWITCH, Explorer, Value, setting
from tlbkit.show.figures import IN_THE_DARK, INK_TAG, draw
from tlbkit.show.panels import Fields, Picture, Written, panels_of
from tlbkit.show.text import number_columns

if TYPE_CHECKING:
    from tlbkit.lab import Answer, Parameter
    from tlbkit.show.panels import Columns, Panel


def _slider(parameter: "Parameter", value: Value) -> str:
    """Return a slider that steps through the values of a number."""
    choices = parameter.choices
    words = escape(setting(parameter, value))
    return (
        f'<label class="tlbkit-control"><span>{escape(parameter.label)}</span>'
        f'<input type="range" name="{escape(parameter.name)}" min="0"'
        f' max="{len(choices) - 1}" step="1" value="{choices.index(value)}"'
        f' aria-valuetext="{words}" autocomplete="off">'
        f'<output role="presentation">{words}</output></label>'
    )


def _menu(parameter: "Parameter", value: Value) -> str:
    """Return a menu of the values of a name."""
    options = "".join(
        f'<option value="{index}"{" selected" if choice == value else ""}>'
        f"{escape(setting(parameter, choice))}</option>"
        for index, choice in enumerate(parameter.choices)
    )
    return (
        f'<label class="tlbkit-control"><span>{escape(parameter.label)}</span>'
        f'<select name="{escape(parameter.name)}" autocomplete="off">'
        f"{options}</select></label>"
    )


def _switch(parameter: "Parameter", value: Value) -> str:
    """Return a box to tick."""
    ticked = " checked" if value == SWITCH[1] else ""
    return (
        '<label class="tlbkit-control tlbkit-switch"><input type="checkbox"'
        f' name="{escape(parameter.name)}" autocomplete="off"{ticked}>'
        f"<span>{escape(parameter.label)}</span></label>"
    )


def _line(parameter: "Parameter", value: Value) -> str:
    """Return a line to write in."""
    return (
        f'<label class="tlbkit-control"><span>{escape(parameter.label)}</span>'
        f'<input type="text" name="{escape(parameter.name)}" autocomplete="off"'
        f' spellcheck="false" autocapitalize="off" value="{escape(str(value))}">'
        "</label>"
    )


def _control(parameter: "Parameter", value: Value) -> str:
    """Return a slider for numbers, a menu for names, a line for free text."""
    if not parameter.choices:
        return _line(parameter, value)
    if tuple(parameter.choices) == SWITCH:
        return _switch(parameter, value)
    numbers = all(isinstance(choice, int) for choice in parameter.choices)
    return _slider(parameter, value) if numbers else _menu(parameter, value)


def _named(text: str, look: str) -> str:
    """Return the first cell of a row, which heads the row if it says anything."""
    if not text:
        return f"<td{look}></td>"
    return f'<th scope="row"{look}>{escape(text)}</th>'


def table_html(answer: "Answer") -> str:
    """Return the answer's table; the first cell of a row names the row."""
    numbers = number_columns(answer.rows) or [False] * len(answer.header)
    looks = ["" if number else ' class="words"' for number in numbers]
    head = "".join(
        f'<th scope="col"{look}>{escape(cell)}</th>' if cell else f"<td{look}></td>"
        for cell, look in zip(answer.header, looks, strict=True)
    )
    body = "".join(
        f"<tr>{_named(row[0], looks[0])}"
        + "".join(
            f"<td{look}>{escape(cell)}</td>"
            for cell, look in zip(row[1:], looks[1:], strict=True)
        )
        + "</tr>"
        for row in answer.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def fields_html(panel: Fields, columns: "Columns") -> str:
    """Return the boxes of a panel of fields, in reading order."""
    fields = panel.feed(columns)["fields"]
    looks = ("", ' class="chosen"')
    boxes = "".join(
        f"<li{looks[bool(chosen)]}><small>{escape(str(bits))}</small>"
        f"<span>{escape(str(name))}</span><code>{escape(str(value))}</code></li>"
        for name, bits, value, chosen in zip(*fields.values(), strict=True)
    )
    return f"<p>{escape(panel.title)}</p><ol>{boxes}</ol>"


def picture_html(panel: Picture, columns: "Columns") -> str:
    """Return a picture under its title."""
    [svg] = panel.feed(columns)["picture"]["svg"]
    return f"<p>{escape(panel.title)}</p><div>{svg}</div>"


def _place(panel: "Panel", columns: "Columns") -> str:
    """Return where a panel stands: drawn by the script, or complete as it is."""
    if isinstance(panel, Picture):
        return f'<div class="tlbkit-picture">{picture_html(panel, columns)}</div>'
    if isinstance(panel, Fields):
        return f'<div class="tlbkit-fields">{fields_html(panel, columns)}</div>'
    return (
        f'<div class="tlbkit-figure" role="img" aria-label="{escape(panel.title)}; '
        'the table holds the same numbers"></div>'
    )


def html(explorer: Explorer) -> str:
    """Return the whole explorer as HTML, answered for its starting settings."""
    scenario = explorer.scenario
    answer = scenario.asked(explorer.start)
    panels = panels_of(scenario.name)
    controls = "".join(
        _control(parameter, explorer.start[parameter.name])
        for parameter in scenario.controls
    )
    figures = "".join(_place(panel, answer.columns) for panel in panels)
    spec = json.dumps(
        {
            "scenario": scenario.name,
            "parameters": [
                {
                    "name": parameter.name,
                    "choices": parameter.choices,
                    "words": [setting(parameter, value) for value in parameter.choices],
                }
                for parameter in scenario.controls
            ],
            "start": [
                explorer.start[parameter.name] for parameter in scenario.controls
            ],
            "ink": INK_TAG,
            "dark": IN_THE_DARK,
            "figures": [
                None if isinstance(panel, Written) else json_item(draw(panel, answer))
                for panel in panels
            ],
        },
        separators=(",", ":"),
    ).replace("<", "\\u003c")
    return (
        f'<form class="tlbkit-explorer" aria-label="{escape(scenario.title)}">'
        f'<p class="tlbkit-title">{escape(scenario.title)}</p>'
        f'<fieldset class="tlbkit-controls" disabled>{controls}</fieldset>'
        '<fieldset class="tlbkit-actions" disabled>'
        '<button type="button" data-do="reset">Start again</button>'
        '<button type="button" data-do="link">Copy link</button></fieldset>'
        '<div role="status" class="tlbkit-status">'
        f'<p class="tlbkit-text">{escape(answer.text)}</p>'
        '<p class="tlbkit-state">Computed when this page was built. '
        "The controls need JavaScript.</p></div>"
        f'<div class="tlbkit-figures">{figures}</div>'
        f'<div class="tlbkit-table">{table_html(answer)}</div>'
        f'<script type="application/json">{spec}</script></form>'
    )
