"""A surface of many runs: it draws what was swept."""

import csv
import lzma
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tlbkit import lab
from tlbkit.show import Surface

STORED = Path(lab.__file__).parent / "tests/data/mprotect-surface.csv.xz"


class Drawn(HTMLParser):
    """Adds up the widths of the rectangles that are filled."""

    def __init__(self):
        super().__init__()
        self.cells = 0

    def handle_starttag(self, tag, attrs):
        """Count how many cells a rectangle covers."""
        given = dict(attrs)
        if tag == "rect" and "fill-opacity" in given:
            self.cells += int(given["width"]) // 6


@given(
    st.lists(st.sampled_from([0.0, 9.9, 10.0, 49.0, 50.0]), min_size=20, max_size=20)
)
def test_each_value_from_the_first_step_on_is_drawn_once(numbers):
    """Neighbours of one step share a rectangle, and nothing is drawn twice."""
    values = {(n % 5, n // 5): number for n, number in enumerate(numbers)}
    surface = Surface("title", "x", "y", values, steps=(10, 50), unit="%")
    drawn = Drawn()
    drawn.feed(surface.html())
    assert drawn.cells == sum(value >= 10 for value in values.values())


def test_the_surface_in_the_book_is_what_the_sweep_gives():
    """Some of its 10,000 runs, done again."""
    with lzma.open(STORED, "rt", encoding="utf-8") as lines:
        stored = list(csv.DictReader(lines))
    assert len(stored) == 10_000
    axes = {"pages": [1, 17, 50], "cpus": [1, 37, 100]}
    rows = lab.sweep(lab.find("mprotect"), axes).rows
    named = {(row["pages"], row["cpus"], row["kernel"]): row for row in stored}
    for row in rows:
        found = named[str(row["pages"]), str(row["cpus"]), row["kernel"]]
        assert {name: str(value) for name, value in row.items()} == found
