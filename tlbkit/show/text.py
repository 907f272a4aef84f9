"""The text rendering: what a terminal, a screen reader or a printed page gets."""

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[+-]?(0x[0-9a-f]+|\d[\d,.]*)( \S+)?")


def _is_number(cell: str) -> bool:
    """Tell whether *cell* is a number, perhaps with a unit, and goes to the right."""
    return _NUMBER.fullmatch(cell) is not None


def number_columns(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Tell for each column whether its cells are numbers, which stand to the right.

    >>> number_columns([["TLBI VALE1IS", "64"], ["DSB", "2"]])
    [False, True]
    """
    return [all(map(_is_number, column)) for column in zip(*rows, strict=True)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out *rows* under *header* in columns, numbers to the right.

    >>> print(table(["issued", "before"], [["TLBI VALE1IS", "64"], ["DSB", "2"]]))
    issued        before
    ------------  ------
    TLBI VALE1IS      64
    DSB                2
    """
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = number_columns(rows) or [False] * len(widths)

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, to_the_right in zip(cells, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    rule = ["-" * width for width in widths]
    return "\n".join(map(line, [header, rule, *rows]))
