"""Laws of the figures: looks differ in more than colour, and can be read."""

import pytest
from bokeh.models import HBar, Line, LogScale, Scatter
from bokeh.models.annotations import Legend

from tlbkit import lab
from tlbkit.show.figures import AFTER, BEFORE, NEUTRAL, THIRD, draw
from tlbkit.show.panels import PANELS, Bars, Lines, Sweep, Written

PAPERS = {"white": 0xFFFFFF, "explorer": 0xF8F9FB, "dark": 0x121212, "night": 0x1B2028}


def luminance(colour):
    """Return the relative luminance of a colour, as WCAG defines it."""
    parts = [(colour >> shift & 255) / 255 for shift in (16, 8, 0)]
    r, g, b = (
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts
    )
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("colour", [BEFORE, AFTER, THIRD, NEUTRAL])
def test_marks_stand_out_on_every_paper(colour, paper):
    """Every mark has a contrast of at least 3:1 by day and by night."""
    pair = sorted([luminance(int(colour[1:], 16)), luminance(PAPERS[paper])])
    assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3


def glyphs(plot, kind):
    """Return the glyphs of one kind in the order they are drawn."""
    return [r.glyph for r in plot.renderers if isinstance(r.glyph, kind)]


@pytest.mark.parametrize(
    ("name", "panel"),
    [
        (name, panel)
        for name, panels in PANELS.items()
        for panel in panels
        if not isinstance(panel, Written)
    ],
)
def test_before_and_after_differ_without_colour(name, panel):
    """Bars differ by hatch, lines by dash and marker, so print and eyes can tell."""
    plot = draw(panel, lab.find_exploration(name).answer({}))
    if isinstance(panel, Bars):
        before, after = glyphs(plot, HBar)
        assert before.hatch_pattern
        assert not after.hatch_pattern
    else:
        number = len(panel.lines) if isinstance(panel, Lines) else 2
        assert len({str(line.line_dash) for line in glyphs(plot, Line)}) == number
        assert len({dots.marker for dots in glyphs(plot, Scatter)}) == number


def points(plot):
    """Yield the numbers of every marker in both directions, each with its scale."""
    for dots in plot.renderers:
        if isinstance(dots.glyph, Scatter):
            yield dots.data_source.data[dots.glyph.x], plot.x_scale
            yield dots.data_source.data[dots.glyph.y], plot.y_scale


@pytest.mark.parametrize(
    ("name", "panel"),
    [
        (name, panel)
        for name, panels in PANELS.items()
        for panel in panels
        if isinstance(panel, (Lines, Sweep))
    ],
)
def test_every_point_is_on_the_axes(name, panel):
    """No point lies at or below zero on an axis that is a logarithm."""
    plot = draw(panel, lab.find_exploration(name).answer({}))
    for column, scale in points(plot):
        if isinstance(scale, LogScale):
            assert min(column) > 0


def legend(plot):
    """The one legend of a figure."""
    (one,) = (model for model in plot.above if isinstance(model, Legend))
    return one


@pytest.mark.parametrize(
    ("name", "panel"),
    [
        (name, panel)
        for name, panels in PANELS.items()
        for panel in panels
        if isinstance(panel, (Bars, Sweep))
    ],
)
def test_the_two_looks_are_named_after_the_outer_columns(name, panel):
    """What is drawn before and after has the names of the table's outer columns."""
    answer = lab.find_exploration(name).answer({})
    first, last = (item.label.value for item in legend(draw(panel, answer)).items)
    assert first.removeprefix("before: ") == answer.header[1]
    assert last.removeprefix("after: ") == answer.header[-1]


@pytest.mark.parametrize("name", ["hugetlb-unshare", "hugetlb-exit"])
def test_of_four_columns_the_outer_ones_are_drawn(name):
    """The bars of broadcasts are the table's first and last numbers of them."""
    answer = lab.find_exploration(name).answer({})
    row = next(row for row in answer.rows if row[0] == "IPI broadcasts")
    drawn = answer.columns["before"][0], answer.columns["after"][0]
    assert [f"{value:,}" for value in drawn] == [row[1], row[-1]]


@pytest.mark.parametrize(
    ("name", "stacked"),
    [("mprotect", False), ("mapcount", True), ("tlb", True), ("hugetlb-exit", True)],
)
def test_names_that_a_phone_cannot_hold_stand_in_a_column(name, stacked):
    """Two kernels stand side by side; longer or more names do not."""
    plot = draw(PANELS[name][-1], lab.find_exploration(name).answer({}))
    assert legend(plot).orientation == ("vertical" if stacked else "horizontal")
