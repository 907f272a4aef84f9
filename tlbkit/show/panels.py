"""Which columns of an answer each panel of a figure draws, as data.

Nothing here draws. The page's own Python, which has no Bokeh, feeds the panels that
the site build drew with Bokeh; both sides therefore start from this module.

A *feed* is what one panel needs for one answer: the data of each of its
``ColumnDataSource`` by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tlbkit.errors import InputError

Cell = float | int | str
Columns = Mapping[str, Sequence[Cell]]
Feed = dict[str, dict[str, list[Cell]]]


def _column(columns: Columns, name: str, panel: str) -> list[Cell]:
    """Return one column, or say which panel misses it."""
    if name not in columns:
        raise InputError(
            f"panel {panel!r}: the answer has no column {name!r}; it has "
            + ", ".join(sorted(columns))
        )
    return list(columns[name])


def number(value: Cell) -> str:
    """Write a value the way a figure labels it.

    >>> number(4096), number(2.851), number(0), number("none")
    ('4,096', '2.85', '0', 'none')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"


@dataclass(frozen=True, slots=True)
class Bars:
    """Pairs of bars: each quantity before and after.

    Attributes:
        title: Stands over the panel.
        quantity: Column with the names of the quantities; one name, one pair.
        before: Column drawn as the hatched bars.
        after: Column drawn as the solid bars.
    """

    title: str
    quantity: str = "quantity"
    before: str = "before"
    after: str = "after"

    def feed(self, columns: Columns) -> Feed:
        """Pick this panel's data out of an answer's columns."""
        before = _column(columns, self.before, self.title)
        after = _column(columns, self.after, self.title)
        return {
            "pairs": {
                "quantity": _column(columns, self.quantity, self.title),
                "before": before,
                "after": after,
                "before_label": [number(value) for value in before],
                "after_label": [number(value) for value in after],
            }
        }


@dataclass(frozen=True, slots=True)
class Sweep:
    """Two lines over one parameter, with the current setting marked.

    Attributes:
        title: Stands over the panel.
        x: Column with the values of the parameter.
        before: Column drawn as the dashed line.
        after: Column drawn as the solid line.
        at: Column of one value: where the controls stand now.
        x_label: Name and unit of the parameter.
        y_label: Name and unit of what is drawn.
        doubling: The parameter grows by doubling, so its axis is logarithmic.
    """

    title: str
    x: str
    before: str
    after: str
    at: str
    x_label: str
    y_label: str
    doubling: bool = True

    def feed(self, columns: Columns) -> Feed:
        """Pick this panel's data out of an answer's columns."""
        at = _column(columns, self.at, self.title)
        return {
            "line": {
                "x": _column(columns, self.x, self.title),
                "before": _column(columns, self.before, self.title),
                "after": _column(columns, self.after, self.title),
            },
            "mark": {"at": at, "label": [number(value) for value in at]},
        }


Panel = Bars | Sweep

PANELS: dict[str, tuple[Panel, ...]] = {
    "mprotect": (
        Bars("What the call issues"),
        Sweep(
            "What the call costs",
            x="sweep_pages",
            before="sweep_before",
            after="sweep_after",
            at="at",
            x_label="pages",
            y_label="ns per call (modelled)",
        ),
    ),
}
"""The panels of each scenario, by the scenario's name."""


def panels_of(scenario: str) -> tuple[Panel, ...]:
    """Return the panels that draw *scenario*.

    Raises:
        InputError: No panels are described for it.
    """
    if scenario not in PANELS:
        raise InputError(
            f"scenario {scenario!r} has no figure; described are: "
            + ", ".join(sorted(PANELS))
            + " (add it to tlbkit.show.panels.PANELS)"
        )
    return PANELS[scenario]


def feeds(scenario: str, columns: Columns) -> list[Feed]:
    """Return the feed of every panel of *scenario*, in their order."""
    return [panel.feed(columns) for panel in panels_of(scenario)]
