"""Laws of the figures: looks differ in more than colour, and can be read."""

import pytest
from bokeh.models import HBar, Line, LogScale, Scatter

from tlbkit import lab
from tlbkit.show.figures import AFTER, BEFORE, NEUTRAL, THIRD, draw
from tlbkit.show.panels import PANELS, Bars, Fields, Lines, Sweep

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
        if not isinstance(panel, Fields)
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
