"""A herd7 test cut into its parts, each with the line that it stands on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tlbkit.errors import InputError
from tlbkit.explore.herd.values import MissingError

MAX_BYTES = 200_000
"""The longest test that is read: the longest of herd's own have some thousand bytes."""

_QUESTION = re.compile(r"(?:locations|filter|exists|forall|~\s*exists|not\s+exists)\b")
_KEY = re.compile(r"([A-Za-z][\w.-]*)\s*=\s*(.*)")


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of a file, and the number of the line that it begins on."""

    text: str
    line: int


@dataclass(slots=True)
class Parts:
    """The parts of one test.

    Attributes:
        name: The name on the first line.
        options: What stands before the initial state as `KEY=VALUE`, by lower-case key;
            where a key stands twice the values are joined with a comma.
        initial: The items of the initial state.
        threads: The names of the columns, as `P0` or `P0.F`.
        rows: The cells of each row of instructions, a cell for each column.
        question: What comes after the program.
    """

    name: str
    options: dict[str, Piece] = field(default_factory=dict)
    initial: list[Piece] = field(default_factory=list)
    threads: list[Piece] = field(default_factory=list)
    rows: list[list[Piece]] = field(default_factory=list)
    question: Piece = Piece("", 0)


class PlacedError(InputError):
    """An input error that knows its line.

    Attributes:
        line: The number of the line, from 1.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def shown(text: str, most: int = 60) -> str:
    """Return text for a message: on one line, not too long, printable."""
    words = " ".join(text.split())
    if len(words) > most:
        words = words[: most - 3] + "..."
    return repr(words)


def cut(text: str) -> Parts:
    """Cut a test into its parts.

    Raises:
        PlacedError: A part is missing or has no end.
    """
    if len(text) > MAX_BYTES:
        raise PlacedError(1, f"longer than {MAX_BYTES:,} bytes: not a litmus test")
    text = _without_comments(text)
    first, _, _ = text.lstrip().partition("\n")
    start = _line(text, len(text) - len(text.lstrip()))
    words = first.split(None, 1)
    if not words:
        raise PlacedError(start, "there is no test in it")
    if words[0] != "AArch64":
        raise MissingError(f"the architecture {shown(words[0])}", start)
    parts = Parts(words[1].strip() if len(words) > 1 else "")
    if not parts.name:
        raise PlacedError(start, "the test has no name after 'AArch64'")
    opened = text.find("{")
    if opened < 0:
        raise PlacedError(start, "there is no initial state, '{ ... }'")
    head = text[:opened].split("\n")
    for number, line in enumerate(head[start:], start + 1):
        match = _KEY.fullmatch(line.strip())
        if match and not line.strip().startswith('"'):
            key, value = match[1].lower(), match[2].strip()
            before = parts.options.get(key)
            joined = f"{before.text},{value}" if before else value
            parts.options[key] = Piece(joined, number)
    closed = _closing(text, opened)
    parts.initial = _items(text, opened + 1, closed)
    _cut_program(text, closed + 1, parts)
    return parts


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _without_comments(text: str) -> str:
    """Replace comments, which nest, by blanks; the lines stay where they are."""
    kept: list[str] = []
    depth, at, opened = 0, 0, 0
    for match in re.finditer(r"\(\*|\*\)", text):
        if match[0] == "(*":
            if depth == 0:
                kept.append(text[at : match.start()])
                at, opened = match.start(), match.start()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                kept.append(re.sub(r"[^\n]", " ", text[at : match.end()]))
                at = match.end()
    if depth:
        raise PlacedError(_line(text, opened), "a comment '(*' has no '*)'")
    return "".join(kept) + text[at:]


def _closing(text: str, opened: int) -> int:
    """Return where the brace that opens the initial state is closed."""
    depth = 0
    for match in re.compile(r"[{}]").finditer(text, opened):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    raise PlacedError(_line(text, opened), "the initial state '{' has no '}'")


def _items(text: str, start: int, end: int) -> list[Piece]:
    """Return what stands between semicolons, without what is empty."""
    items = []
    while start < end:
        stop = text.find(";", start, end)
        stop = end if stop < 0 else stop
        item = text[start:stop]
        if item.strip():
            lead = len(item) - len(item.lstrip())
            items.append(Piece(" ".join(item.split()), _line(text, start + lead)))
        start = stop + 1
    return items


def _cut_program(text: str, start: int, parts: Parts) -> None:
    """Read the columns, a row at a time, up to the question."""
    at = start
    while True:
        at += len(text[at:]) - len(text[at:].lstrip())
        if _QUESTION.match(text, at) or at >= len(text):
            break
        stop = text.find(";", at)
        if stop < 0:
            raise PlacedError(
                _line(text, at), f"{shown(text[at:])}: a row of the program ends in ';'"
            )
        cells, place = [], at
        for cell in text[at:stop].split("|"):
            lead = len(cell) - len(cell.lstrip())
            cells.append(Piece(" ".join(cell.split()), _line(text, place + lead)))
            place += len(cell) + 1
        if not parts.threads:
            parts.threads = cells
        elif len(cells) > len(parts.threads):
            raise PlacedError(
                _line(text, at),
                f"{shown(text[at:stop])}: {len(cells)} cells in "
                f"{len(parts.threads)} columns",
            )
        else:
            parts.rows.append(cells)
        at = stop + 1
    if not parts.threads:
        raise PlacedError(_line(text, start), "there is no program, 'P0 | P1 ;'")
    if at >= len(text):
        raise PlacedError(
            _line(text, len(text)),
            "it asks nothing: it ends without 'exists', '~exists' or 'forall'",
        )
    parts.question = Piece(text[at:], _line(text, at))
