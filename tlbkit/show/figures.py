"""Bokeh figures of an answer: one for each panel.

*Before* is hatched, dashed and open; *after* is solid, drawn through and filled, and
further lines have a dash and a marker of their own, so that no meaning hangs on colour
alone. The colours keep a contrast of at least 3:1 on white and on the dark page, where
a page's script takes lighter ones; text, axes and grid take theirs from CSS variables
that follow the page's (or JupyterLab's) theme.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    DataRange1d,
    FactorRange,
    InlineStyleSheet,
    NumeralTickFormatter,
)
from bokeh.models.annotations import Legend, LegendItem, Title
from bokeh.plotting import figure
from bokeh.transform import dodge

from tlbkit.errors import TlbkitError
from tlbkit.show.panels import Bars, Feed, Fields, Lines, Panel, Picture, Sweep

if TYPE_CHECKING:
    from bokeh.models.renderers import GlyphRenderer

    from tlbkit.lab import Answer

BEFORE = "#b8590a"
AFTER = "#1f6fb4"
THIRD = "#8a5bb0"
NEUTRAL = "#767676"
"""A grey that can be read on white and on black."""

IN_THE_DARK = {
    BEFORE: "#f2994a",
    AFTER: "#6cb2ee",
    THIRD: "#c39be6",
    NEUTRAL: "#a6b0bb",
}
"""What a dark page draws in place of each colour, so that lines stand out there too."""

INK_TAG = "ink"
"""Marks the text glyphs whose colour the page sets, as CSS does not reach glyphs."""

_INK = "var(--tlbkit-ink, var(--jp-ui-font-color1, #222))"
_FAINT = "var(--tlbkit-faint, var(--jp-border-color2, #ddd))"
_THEME = f""":host {{
  --bk-text-color: {_INK};
  --bk-axis-label-text-color: {_INK};
  --bk-major-label-text-color: {_INK};
  --bk-label-text-color: {_INK};
  --bk-axis-line-color: {_FAINT};
  --bk-major-tick-line-color: {_FAINT};
  --bk-grid-line-color: {_FAINT};
}}"""
_THEME_OF_LEGEND = f".bk-label {{ color: {_INK} !important; }}"

_POWERS_OF_FOUR = [4**n for n in range(16)]
_ROUND_NUMBERS = [digit * 10**n for n in range(10) for digit in (1, 2, 3, 5, 7)]

_ROW = 39
"""Letters that fit side by side above a figure on a phone ..."""

_LOOK = 7
"""... and letters that the sample before each name takes the place of."""

_PAIR_HEIGHT = 46
"""Pixels that one pair of bars takes."""


def _blank(panel: Panel, **layout: Any) -> figure:
    """Return an empty figure in the house style."""
    plot = figure(
        title=Title(text=panel.title, text_font_size="14px", text_font_style="normal"),
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border_right=12,
        stylesheets=[InlineStyleSheet(css=_THEME)],
        **layout,
    )
    for axis in plot.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = "13px"
        axis.major_label_text_font_size = "13px"
        axis.minor_tick_line_color = None
    return plot


def _stacked(names: Iterable[str]) -> bool:
    """Tell whether names are too long to stand side by side."""
    return sum(_LOOK + len(name) for name in names) > _ROW


def _legend(plot: figure, **drawn: "GlyphRenderer[Any]") -> None:
    """Name the looks above the plot, long names one below the other."""
    stacked = _stacked(drawn)
    plot.add_layout(
        Legend(
            items=[
                LegendItem(label=name, renderers=[glyphs])
                for name, glyphs in drawn.items()
            ],
            orientation="vertical" if stacked else "horizontal",
            background_fill_color=None,
            border_line_color=None,
            label_text_font_size="13px",
            location="left",
            glyph_width=26,
            spacing=2 if stacked else 16,
            padding=0,  # type: ignore[arg-type]  # its stub misses plain numbers
            margin=4,
            stylesheets=[InlineStyleSheet(css=_THEME_OF_LEGEND)],
        ),
        "above",
    )


def _pair(
    header: Sequence[str],
    before: "GlyphRenderer[Any]",
    after: "GlyphRenderer[Any]",
) -> "dict[str, GlyphRenderer[Any]]":
    """Name the two looks after the first and the last column of the table.

    What is between them is drawn elsewhere, if at all.
    """
    first, last = header[1], header[-1]
    return {
        "before" if first == "before" else f"before: {first}": before,
        "after" if last == "after" else f"after: {last}": after,
    }


def _sources(feed: Feed) -> Mapping[str, ColumnDataSource]:
    """Make one named source for each part of *feed*."""
    return {name: ColumnDataSource(data, name=name) for name, data in feed.items()}


def _bars(panel: Bars, feed: Feed, header: Sequence[str]) -> figure:
    """Draw pairs of horizontal bars with their values written at the ends."""
    quantities = [str(name) for name in feed["pairs"]["quantity"]]
    source = _sources(feed)["pairs"]
    plot = _blank(
        panel,
        y_range=FactorRange(factors=quantities[::-1], range_padding=0.05),
        # Half of the padding is on the right, where the values are written.
        x_range=DataRange1d(start=0, range_padding=0.6, only_visible=True),
        height=110 + _PAIR_HEIGHT * len(quantities),
    )
    looks: dict[str, dict[str, Any]] = {
        "before": {
            "fill_alpha": 0.15,
            "hatch_pattern": "right_diagonal_line",
            "hatch_color": BEFORE,
            "hatch_scale": 8,
            "hatch_weight": 1.5,
        },
        "after": {"fill_alpha": 1.0},
    }
    drawn = []
    for name, colour, offset in (("before", BEFORE, 0.19), ("after", AFTER, -0.19)):
        place = dodge("quantity", offset, range=plot.y_range)
        drawn.append(
            plot.hbar(
                y=place,
                right=name,
                height=0.34,
                source=source,
                fill_color=colour,
                line_color=colour,
                **looks[name],
            )
        )
        values = plot.text(
            x=name,
            y=place,
            text=f"{name}_label",
            source=source,
            x_offset=6,
            text_baseline="middle",
            text_font_size="13px",
            text_color=NEUTRAL,
        )
        values.glyph.tags = [INK_TAG]
    plot.ygrid.visible = False
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    plot.xaxis.ticker = BasicTicker(desired_num_ticks=4, min_interval=1)
    _legend(plot, **_pair(header, *drawn))
    return plot


def _sweep(panel: Sweep, feed: Feed, header: Sequence[str]) -> figure:
    """Draw two lines over a parameter and mark where the controls stand."""
    sources = _sources(feed)
    plot = _blank(
        panel,
        x_axis_type="log",
        y_axis_type="log",
        height=300,
        x_axis_label=panel.x_label,
        y_axis_label=panel.y_label,
    )
    plot.vspan(
        x="at",
        source=sources["mark"],
        line_color=NEUTRAL,
        line_width=2,
        line_dash="dotted",
    )
    # The dashed line lies on top, so that both are seen where they agree.
    drawn = {}
    for name, colour, dash, marker, fill in (
        ("after", AFTER, "solid", "square", AFTER),
        ("before", BEFORE, "dashed", "circle", None),
    ):
        drawn[name] = plot.line(
            "x",
            name,
            source=sources["line"],
            line_color=colour,
            line_dash=dash,
            line_width=2,
        )
        plot.scatter(
            "x",
            name,
            source=sources["line"],
            marker=marker,
            size=8,
            line_color=colour,
            fill_color=fill,
        )
    plot.xgrid.visible = False
    plot.xaxis.ticker = _POWERS_OF_FOUR
    plot.yaxis.ticker = _ROUND_NUMBERS
    plot.xaxis.formatter = NumeralTickFormatter(format="0")
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0")
    _legend(plot, **_pair(header, drawn["before"], drawn["after"]))
    return plot


_LOOKS: tuple[tuple[str, str, str, bool], ...] = (
    (AFTER, "solid", "square", True),
    (BEFORE, "dashed", "circle", False),
    (THIRD, "dotdash", "triangle", True),
    (NEUTRAL, "dotted", "diamond", False),
)
"""Colour, dash and marker of each line, and whether its markers are filled."""


def _lines(panel: Lines, feed: Feed) -> figure:
    """Draw lines over a quantity, and mark places on it."""
    sources = _sources(feed)
    names = [name for _, name in panel.lines]
    heights = DataRange1d(range_padding=0.15)
    if not panel.log:
        heights.start = 0
    plot = _blank(
        panel,
        x_axis_type="linear" if panel.steps else "log",
        y_axis_type="log" if panel.log else "linear",
        y_range=heights,
        height=400 if _stacked(names) else 320,
        x_axis_label=panel.x_label,
        y_axis_label=panel.y_label,
    )
    plot.vspan(
        x="at",
        source=sources["marks"],
        line_color=NEUTRAL,
        line_width=2,
        line_dash="dotted",
    )
    words = plot.text(
        x="at",
        y="foot",
        text="label",
        source=sources["marks"],
        angle=1.5708,
        x_offset=-4,
        y_offset=-6,
        text_font_size="12px",
        text_color=NEUTRAL,
    )
    words.glyph.tags = [INK_TAG]
    drawn = {}
    for (name, label), (colour, dash, marker, filled) in zip(
        panel.lines, _LOOKS, strict=False
    ):
        line: dict[str, Any] = {
            "x": panel.x,
            "y": name,
            "source": sources["lines"],
        }
        drawn[label] = plot.line(
            **line, line_color=colour, line_dash=dash, line_width=2
        )
        plot.scatter(
            **line,
            marker=marker,
            size=6,
            line_color=colour,
            fill_color=colour if filled else None,
        )
    plot.xgrid.visible = False
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
    if not panel.log:
        plot.yaxis.ticker = BasicTicker(desired_num_ticks=5)
    plot.xaxis.ticker = BasicTicker(min_interval=1) if panel.steps else _POWERS_OF_FOUR
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    _legend(plot, **drawn)
    return plot


def draw(panel: Panel, answer: "Answer") -> figure:
    """Draw one panel for one answer.

    Later answers are shown by replacing the data of the figure's named sources with
    what ``panel.feed`` makes of their columns. Where kernels are compared, the table's
    header names them. What is markup is not drawn here.
    """
    feed = panel.feed(answer.columns)
    match panel:
        case Bars():
            return _bars(panel, feed, answer.header)
        case Sweep():
            return _sweep(panel, feed, answer.header)
        case Lines():
            return _lines(panel, feed)
        case Fields() | Picture():
            raise TlbkitError(f"panel {panel.title!r} is markup; the page shows it")
