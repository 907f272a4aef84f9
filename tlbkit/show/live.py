"""The Jupyter rendering: ipywidgets over a real kernel, figures by Bokeh."""

from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
from bokeh.io import output_notebook
from bokeh.io.state import curstate
from bokeh.models import ColumnDataSource
from bokeh.resources import INLINE
from jupyter_bokeh import BokehModel

from tlbkit.errors import TlbkitError
from tlbkit.show.explorer import SWITCH, Explorer, Value, setting
from tlbkit.show.figures import draw
from tlbkit.show.page import fields_html, picture_html, table_html
from tlbkit.show.panels import Fields, Picture, panels_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.lab import Answer, Parameter
    from tlbkit.show.panels import Panel


_LETTER = 0.55
"""Width of a letter of a label, in em; few letters are wider."""


def _control(parameter: "Parameter", value: Value, room: float) -> widgets.ValueWidget:
    """Return a slider for numbers, a menu for names, a line for free text.

    Args:
        parameter: What is set.
        value: What it is at first.
        room: Width for the label, in em.
    """
    look = {
        "description": parameter.label,
        "style": {"description_width": f"{room:g}em"},
        "layout": {"width": f"{room + 24:g}em", "max_width": "100%"},
    }
    if not parameter.choices:
        return widgets.Text(value=value, continuous_update=False, **look)
    if tuple(parameter.choices) == SWITCH:
        return widgets.Checkbox(value=value == SWITCH[1], **look)
    numbers = all(isinstance(choice, int) for choice in parameter.choices)
    kind = widgets.SelectionSlider if numbers else widgets.Dropdown
    options = [(setting(parameter, choice), choice) for choice in parameter.choices]
    return kind(options=options, value=value, **look)


def _setting_of(control: widgets.ValueWidget) -> Value:
    """Return what a control stands at, as the scenario calls it."""
    value: Value = control.value
    return SWITCH[value] if isinstance(value, bool) else value


def _table(answer: "Answer") -> str:
    """Return the table in the notebook's own look."""
    return (
        "<style>.tlbkit-table :is(th, td) { padding: 0.1em 1.5em 0.1em 0;"
        " text-align: right; font-weight: normal }"
        " .tlbkit-table :is(.words, :first-child) { text-align: left }</style>"
        f'<div class="tlbkit-table">{table_html(answer)}</div>'
    )


def _status(text: str) -> str:
    """Return the line that reads the answer, announced to screen readers."""
    return f'<p role="status">{escape(text)}</p>'


def _fields(panel: Fields, answer: "Answer") -> str:
    """Return a panel of fields in the notebook's own look."""
    return (
        "<style>.tlbkit-fields ol { display: flex; flex-wrap: wrap; gap: 4px;"
        " list-style: none; margin: 0; padding: 0 }"
        " .tlbkit-fields li { display: grid; padding: 2px 8px; line-height: 1.4;"
        " border: 1px solid var(--jp-border-color2, #bbb) }"
        " .tlbkit-fields li.chosen { border-width: 2px; font-weight: bold }</style>"
        f'<div class="tlbkit-fields">{fields_html(panel, answer.columns)}</div>'
    )


def _view(
    panel: "Panel", answer: "Answer"
) -> "tuple[widgets.DOMWidget, Callable[[Answer], None]]":
    """Return what shows a panel, and how to show another answer in it."""
    if isinstance(panel, Picture):
        shown = widgets.HTML(picture_html(panel, answer.columns))

        def redraw(answer: "Answer") -> None:
            shown.value = picture_html(panel, answer.columns)

        return shown, redraw
    if isinstance(panel, Fields):
        boxes = widgets.HTML(_fields(panel, answer))

        def rewrite(answer: "Answer") -> None:
            boxes.value = _fields(panel, answer)

        return boxes, rewrite

    plot = draw(panel, answer)

    def feed(answer: "Answer") -> None:
        for name, data in panel.feed(answer.columns).items():
            for source in plot.select({"name": name}):
                if isinstance(source, ColumnDataSource):
                    source.data = data

    layout = {"flex": "1 1 22em", "min_width": "18em"}
    return widgets.VBox([BokehModel(plot)], layout=layout), feed


def widget(explorer: Explorer) -> widgets.VBox:
    """Return the explorer as a widget whose controls run the scenario right here."""
    # Without it the figures of this kernel show a "broken widget" box.
    if not curstate().notebook:
        output_notebook(resources=INLINE, hide_banner=True)

    scenario = explorer.scenario
    beside = [
        len(one.label) for one in scenario.controls if tuple(one.choices) != SWITCH
    ]
    room = _LETTER * max(beside, default=0)
    controls = {
        parameter.name: _control(parameter, explorer.start[parameter.name], room)
        for parameter in scenario.controls
    }
    answer = scenario.asked(explorer.start)
    views = [_view(panel, answer) for panel in panels_of(scenario.name)]
    status = widgets.HTML(_status(answer.text))
    table = widgets.HTML(_table(answer))

    def ask(_: Any) -> None:
        settings = {name: _setting_of(control) for name, control in controls.items()}
        try:
            answer = scenario.asked(settings)
        except TlbkitError as error:
            status.value = _status(str(error))
            return
        for _, show in views:
            show(answer)
        status.value = _status(answer.text)
        table.value = _table(answer)

    for control in controls.values():
        control.observe(ask, names="value")

    return widgets.VBox(
        [
            widgets.HTML(f"<b>{escape(scenario.title)}</b>"),
            *controls.values(),
            status,
            widgets.HBox(
                [shown for shown, _ in views], layout={"flex_flow": "row wrap"}
            ),
            table,
        ]
    )
