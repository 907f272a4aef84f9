"""The instructions of a herd7 test, read from their cells."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tlbkit.explore.herd.text import Parts, Piece, PlacedError, shown
from tlbkit.explore.herd.values import Code, MissingError

MAX_INSTRUCTIONS = 80
"""The longest thread, its handler included."""


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction.

    Attributes:
        name: The mnemonic, in capitals, without the condition of `B.EQ`.
        operands: The operands, as they are written; `[X1,#8]` is one.
        text: All of it, for people.
        line: The number of its line in the file.
    """

    name: str
    operands: tuple[str, ...]
    text: str
    line: int


@dataclass(slots=True)
class Listing:
    """The instructions of one thread, and after them those of its handler.

    Attributes:
        lines: The instructions.
        body: How many of them are the thread's own.
        labels: The place of each label.
        handled: Whether there is a handler.
    """

    lines: list[Line]
    body: int
    labels: dict[str, int]
    handled: bool


def listings(parts: Parts) -> list[Listing]:
    """Read the columns of a test.

    Raises:
        PlacedError: A column or a label is not well formed.
    """
    names = [piece.text for piece in parts.threads]
    own: dict[int, int] = {}
    handlers: dict[int, int] = {}
    for column, piece in enumerate(parts.threads):
        match = re.fullmatch(r"P(\d)(\.F)?(?::\w+)?", piece.text)
        if match is None:
            raise PlacedError(
                piece.line, f"{shown(piece.text)}: a column is P0, P1, ... or P0.F"
            )
        kind = handlers if match[2] else own
        if int(match[1]) in kind:
            raise PlacedError(piece.line, f"there are two columns {piece.text}")
        kind[int(match[1])] = column
    if sorted(own) != list(range(len(own))) or not set(handlers) <= set(own):
        raise PlacedError(
            parts.threads[0].line,
            f"{shown(' '.join(names))}: the threads are P0, P1, ..., and a handler "
            "P0.F belongs to one of them",
        )
    found = []
    for number in range(len(own)):
        lines: list[Line] = []
        labels: dict[str, int] = {}
        _read_column(parts.rows, own[number], lines, labels)
        body = len(lines)
        if number in handlers:
            _read_column(parts.rows, handlers[number], lines, labels)
        if len(lines) > MAX_INSTRUCTIONS:
            raise PlacedError(
                lines[MAX_INSTRUCTIONS].line,
                f"P{number} has more than {MAX_INSTRUCTIONS} instructions",
            )
        found.append(Listing(lines, body, labels, number in handlers))
    return found


def _read_column(
    rows: list[list[Piece]], column: int, lines: list[Line], labels: dict[str, int]
) -> None:
    for row in rows:
        if column >= len(row):
            continue
        text, line = row[column].text, row[column].line
        while match := re.match(r"(\w+)\s*:\s*", text):
            if match[1] in labels:
                raise PlacedError(line, f"label {shown(match[1])} is there already")
            labels[match[1]] = len(lines)
            text = text[match.end() :]
        if text:
            lines.append(_line(text, line))


def _line(text: str, line: int) -> Line:
    name, _, rest = text.partition(" ")
    operands = [
        "".join(part.split())
        for part in re.split(r",(?![^\[]*\])", rest)
        if part.strip()
    ]
    return Line(name.upper(), tuple(operands), text, line)


def all_labels(listed: list[Listing]) -> dict[tuple[int, str], Code]:
    """Return the place of every label of a test."""
    return {
        (number, name): Code(number, place)
        for number, listing in enumerate(listed)
        for name, place in listing.labels.items()
    }


def immediate(text: str) -> int | None:
    """Read `#1`, `#0x10` or `1`; None if it is no number."""
    match = re.fullmatch(r"#?(-?)(0x[0-9a-fA-F]{1,16}|[0-9]{1,20})", text)
    if match is None:
        return None
    number = int(match[2], 0 if match[2].startswith("0x") else 10)
    return -number if match[1] else number


def address(text: str) -> tuple[str, str]:
    """Read `[X1]`, `[X1,#8]` or `[X1,W2,SXTW]`: the base and what is added, or ""."""
    match = re.fullmatch(
        r"\[(\w+)(?:,([^,\]]+))?(?:,(?:SXTW|UXTW|LSL)(?:#\d)?)?\]", text
    )
    if match is None:
        raise MissingError(f"the address form {shown(text)}")
    return match[1], match[2] or ""
