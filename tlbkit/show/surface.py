"""A number over two parameters, drawn: what a sweep of many runs came to."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_CELL = 6
_LEFT, _BELOW, _ABOVE = 44, 34, 4


@dataclass(frozen=True)
class Surface:
    """A number for each pair of two whole numbers, in tones.

    Attributes:
        title: What is drawn.
        across, up: What the first and the second number of each pair are.
        values: Pair -> number; every pair of the first and second numbers is there.
        steps: Where a new tone begins, in ascending order; below the first one nothing
            is drawn.
        unit: Of the values and the steps.
    """

    title: str
    across: str
    up: str
    values: Mapping[tuple[int, int], float]
    steps: tuple[float, ...]
    unit: str = ""

    def text(self) -> str:
        """Return the corners and the extremes, for readers of text."""
        columns, rows = self._axes()
        low = min(self.values, key=lambda pair: self.values[pair])
        high = max(self.values, key=lambda pair: self.values[pair])
        corners = {(x, y) for x in columns[:: -1 + len(columns) or 1] for y in rows}
        ends = {pair for pair in corners if pair[1] in (rows[0], rows[-1])}
        shown = sorted({low, high} | ends)
        lines = [
            f"{self.across} {x}, {self.up} {y}: {self.values[x, y]:,.1f} {self.unit}"
            for x, y in shown
        ]
        return "\n".join([self.title, *lines])

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """Return the rendering for whatever displays this object."""
        return {"text/plain": self.text(), "text/html": self.html()}

    def html(self) -> str:
        """Return the drawing, in the colour of the text around it."""
        columns, rows = self._axes()
        width, height = len(columns) * _CELL, len(rows) * _CELL
        cells = "".join(
            self._row(columns, y, height - (place + 1) * _CELL + _ABOVE)
            for place, y in enumerate(rows)
        )
        bottom = height + _ABOVE
        words = [
            (_LEFT, bottom + 14, "start", str(columns[0])),
            (_LEFT + width, bottom + 14, "end", str(columns[-1])),
            (_LEFT + width / 2, bottom + 28, "middle", self.across),
            (_LEFT - 6, bottom, "end", str(rows[0])),
            (_LEFT - 6, _ABOVE + 10, "end", str(rows[-1])),
        ]
        labels = "".join(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="11" '
            f'fill="currentColor">{escape(word)}</text>'
            for x, y, anchor, word in words
        )
        *most, last = (f"{step:g}" for step in self.steps)
        begins = f"{', '.join(most)} and {last}" if most else last
        key = f"A new tone begins at {begins} {self.unit}"
        return (
            '<figure class="tlbkit-surface"><svg role="img" style="max-width:100%" '
            f'viewBox="0 0 {width + _LEFT + 4} {height + _ABOVE + _BELOW}" '
            f'width="{width + _LEFT + 4}" aria-label="{escape(self.text())}">'
            f'<rect x="{_LEFT}" y="{_ABOVE}" width="{width}" height="{height}" '
            f'fill="none" stroke="currentColor" stroke-opacity="0.4"/>{cells}{labels}'
            '</svg><figcaption style="color: inherit">'
            f"{escape(self.title)}. Across: {escape(self.across)}; "
            f"up: {escape(self.up)}. {escape(key)}.</figcaption></figure>"
        )

    def _axes(self) -> tuple[list[int], list[int]]:
        """Return the numbers of both axes."""
        return sorted({x for x, _ in self.values}), sorted({y for _, y in self.values})

    def _row(self, columns: list[int], y: int, top: int) -> str:
        """Draw one row; neighbours of one tone are one rectangle."""
        drawn = []
        begun, shade = 0, 0.0
        shades = [self._shade(self.values[x, y]) for x in columns]
        for place, one in enumerate([*shades, -1.0]):
            if one == shade:
                continue
            if shade > 0:
                drawn.append(
                    f'<rect x="{_LEFT + begun * _CELL}" y="{top}" '
                    f'width="{(place - begun) * _CELL}" height="{_CELL}" '
                    f'fill="currentColor" fill-opacity="{shade:.2f}"/>'
                )
            begun, shade = place, one
        return "".join(drawn)

    def _shade(self, value: float) -> float:
        """Return how opaque a value is drawn: from 0 to 0.9."""
        return 0.9 * sum(value >= step for step in self.steps) / len(self.steps)
