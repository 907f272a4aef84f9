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

from tlbkit.show.explorer import Explorer, Value, setting
from tlbkit.show.figures import INK_TAG, draw
from tlbkit.show.panels import panels_of

if TYPE_CHECKING:
    from tlbkit.lab import Answer, Parameter


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


def _control(parameter: "Parameter", value: Value) -> str:
    """Return a slider for numbers, a menu for names."""
    numbers = all(isinstance(choice, int) for choice in parameter.choices)
    return _slider(parameter, value) if numbers else _menu(parameter, value)


def table_html(answer: "Answer") -> str:
    """Return the answer's table; the first cell of a row names the row."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in answer.header)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in answer.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html(explorer: Explorer) -> str:
    """Return the whole explorer as HTML, answered for its starting settings."""
    scenario = explorer.scenario
    answer = scenario.answer(explorer.start)
    panels = panels_of(scenario.name)
    controls = "".join(
        _control(parameter, explorer.start[parameter.name])
        for parameter in scenario.parameters
    )
    figures = "".join(
        f'<div class="tlbkit-figure" role="img" aria-label="{escape(panel.title)}; '
        'the table holds the same numbers"></div>'
        for panel in panels
    )
    spec = json.dumps(
        {
            "scenario": scenario.name,
            "parameters": [
                {
                    "name": parameter.name,
                    "choices": parameter.choices,
                    "words": [setting(parameter, value) for value in parameter.choices],
                }
                for parameter in scenario.parameters
            ],
            "ink": INK_TAG,
            "figures": [json_item(draw(panel, answer.columns)) for panel in panels],
        },
        separators=(",", ":"),
    ).replace("<", "\\u003c")
    return (
        f'<form class="tlbkit-explorer" aria-label="{escape(scenario.title)}">'
        f'<p class="tlbkit-title">{escape(scenario.title)}</p>'
        f'<fieldset class="tlbkit-controls" disabled>{controls}</fieldset>'
        '<div role="status" class="tlbkit-status">'
        f'<p class="tlbkit-text">{escape(answer.text)}</p>'
        '<p class="tlbkit-state">Computed when this page was built. '
        "The controls need JavaScript.</p></div>"
        f'<div class="tlbkit-figures">{figures}</div>'
        f'<div class="tlbkit-table">{table_html(answer)}</div>'
        f'<script type="application/json">{spec}</script></form>'
    )
