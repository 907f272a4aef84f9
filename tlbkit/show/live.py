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
from tlbkit.show.explorer import Explorer, Value, setting
from tlbkit.show.figures import draw
from tlbkit.show.page import table_html
from tlbkit.show.panels import feeds, panels_of

if TYPE_CHECKING:
    from bokeh.plotting import figure

    from tlbkit.lab import Answer, Parameter


def _control(parameter: "Parameter", value: Value) -> widgets.ValueWidget:
    """Return a slider for numbers, a menu for names."""
    numbers = all(isinstance(choice, int) for choice in parameter.choices)
    kind = widgets.SelectionSlider if numbers else widgets.Dropdown
    return kind(
        options=[(setting(parameter, choice), choice) for choice in parameter.choices],
        value=value,
        description=parameter.label,
        style={"description_width": "8em"},
        layout={"width": "32em", "max_width": "100%"},
    )


def _table(answer: "Answer") -> str:
    """Return the table in the notebook's own look."""
    return (
        "<style>.tlbkit-table :is(th, td) { padding: 0.1em 1.5em 0.1em 0;"
        " text-align: right; font-weight: normal }"
        " .tlbkit-table th:first-child { text-align: left }</style>"
        f'<div class="tlbkit-table">{table_html(answer)}</div>'
    )


def _status(text: str) -> str:
    """Return the line that reads the answer, announced to screen readers."""
    return f'<p role="status">{escape(text)}</p>'


def _feed_figures(plots: "list[figure]", name: str, answer: "Answer") -> None:
    """Put an answer's data into figures that are already drawn."""
    for plot, feed in zip(plots, feeds(name, answer.columns), strict=True):
        for source_name, data in feed.items():
            for source in plot.select({"name": source_name}):
                if isinstance(source, ColumnDataSource):
                    source.data = data


def widget(explorer: Explorer) -> widgets.VBox:
    """Return the explorer as a widget whose controls run the scenario right here."""
    # Without it the figures of this kernel show a "broken widget" box.
    if not curstate().notebook:
        output_notebook(resources=INLINE, hide_banner=True)

    scenario = explorer.scenario
    controls = {
        parameter.name: _control(parameter, explorer.start[parameter.name])
        for parameter in scenario.parameters
    }
    answer = scenario.answer(explorer.start)
    plots = [draw(panel, answer.columns) for panel in panels_of(scenario.name)]
    status = widgets.HTML(_status(answer.text))
    table = widgets.HTML(_table(answer))

    def ask(_: Any) -> None:
        settings = {name: control.value for name, control in controls.items()}
        try:
            answer = scenario.answer(settings)
        except TlbkitError as error:
            status.value = _status(str(error))
            return
        _feed_figures(plots, scenario.name, answer)
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
                [
                    widgets.VBox(
                        [BokehModel(plot)],
                        layout={"flex": "1 1 22em", "min_width": "18em"},
                    )
                    for plot in plots
                ],
                layout={"flex_flow": "row wrap"},
            ),
            table,
        ]
    )
