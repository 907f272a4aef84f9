"""Laws of the text table."""

from hypothesis import given
from hypothesis import strategies as st

from tlbkit.show.text import table

WORDS = st.text("abcdefgh0123456789,.-", min_size=1, max_size=12)


@st.composite
def tables(draw):
    """A header and rows of the same width."""
    width = draw(st.integers(1, 5))
    line = st.lists(WORDS, min_size=width, max_size=width)
    return draw(line), draw(st.lists(line, max_size=6))


@given(tables())
def test_cells_are_kept_in_order(header_and_rows):
    """Splitting a table at its blanks gives back every cell."""
    header, rows = header_and_rows
    first, _, *others = table(header, rows).splitlines()
    assert [line.split() for line in [first, *others]] == [header, *rows]


@given(tables())
def test_columns_are_aligned(header_and_rows):
    """Every cell stands under its own piece of the rule, at one end of it."""
    lines = table(*header_and_rows).splitlines()
    rule, start = lines[1], 0
    for dashes in rule.split():
        end = start + len(dashes)
        for line in lines:
            assert not line[end : end + 2].strip()
            cell = line.ljust(end)[start:end]
            assert not (cell[0] == " " and cell[-1] == " ")
        start = end + 2
