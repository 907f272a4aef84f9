"""A table walk as a tree: bits of the address lead to an entry, and that to a table.

One picture for the site, JupyterLab and print: SVG, made with the standard library,
whose colours are the page's own.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from tlbkit.lab.walk import Branch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDTH = 460
_ROW = 104
_TOP = 8
_BITS = (4, 118)
_TABLE = (186, 100)
_SAYS = (312, 144)
_SLOT = 20
_LETTERS = 23
"""Letters that fit beside a table."""

_INK = "var(--tlbkit-ink, currentColor)"
_QUIET = "var(--tlbkit-quiet, currentColor)"
_FAINT = "var(--tlbkit-faint, #8886)"
_FOCUS = "var(--tlbkit-focus, #1f6fb4)"


def walk_tree(columns: Mapping[str, Sequence[float | int | str]]) -> str:
    """Draw a walk.

    Args:
        columns: ``tree_`` and each name of `tlbkit.lab.walk.Branch`: a row for each
            table; and ``tree_end``, one row: where the walk ends, in words.

    Returns:
        SVG. What is not opened yet is there, and empty.
    """
    levels = [
        Branch(*row)
        for row in zip(
            *(columns[f"tree_{name}"] for name in Branch._fields), strict=True
        )
    ]
    end = str(columns["tree_end"][0])
    height = _TOP + len(levels) * _ROW + 56
    head = (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" font-size="12" '
        f'style="width: 100%; max-width: {_WIDTH * 1.4:.0f}px; height: auto" '
        f'aria-label="{escape(_told(levels, end))}">'
        f'<defs><marker id="tlbkit-tip" viewBox="0 0 8 8" refX="7" refY="4" '
        f'markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" '
        f'fill="{_FOCUS}"/></marker></defs>'
    )
    parts = [head]
    for number, level in enumerate(levels):
        parts += _level(level, _TOP + number * _ROW)
    parts += _ways(levels)
    parts += _end(levels, end)
    return "".join([*parts, "</svg>"])


def _level(level: Branch, top: int) -> list[str]:
    """Draw the bits, the table with its chosen slot, and what the entry gives."""
    x, width = _TABLE
    slot = top + 22 + _SLOT
    parts = [
        _text(_BITS[0], slot + 2, f"VA[{level.bits}]", _QUIET),
        _text(_BITS[0], slot + 18, _short(level.value, 17), _INK, mono=True),
        _text(x, top + 14, f"{level.name} table", _QUIET),
    ]
    last = level.entries - 1
    slots = (
        (level.entry - 1, 0) if level.entry else None,
        (level.entry, 1),
        (level.entry + 1, 2) if level.entry < last else None,
    )
    for one in slots:
        if one is None:
            continue
        number, place = one
        chosen = number == level.entry
        y = top + 22 + place * _SLOT
        line = f'stroke="{_FOCUS}" stroke-width="2"' if chosen else f'stroke="{_FAINT}"'
        dash = "" if level.opened or not chosen else ' stroke-dasharray="3 3"'
        parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{_SLOT}" fill="none" '
            f"{line}{dash}/>"
        )
        said = f"{number}: {level.kind}" if chosen and level.opened else str(number)
        parts.append(_text(x + 6, y + 14, said, _INK if chosen else _QUIET))
    if level.opened and level.says:
        parts += [
            _text(_SAYS[0], top + 18 + 15 * i, _short(line, _LETTERS), _INK)
            for i, line in enumerate(level.says.split("\n"))
        ]
    return parts


def _ways(levels: Sequence[Branch]) -> list[str]:
    """Draw the arrows: bits to slot, slot to the next table, and the walk cache."""
    x, width = _TABLE
    parts = []
    for number, level in enumerate(levels):
        top = _TOP + number * _ROW
        slot = top + 22 + _SLOT + _SLOT // 2
        parts.append(_arrow(f"M{sum(_BITS)} {slot}H{x - 4}"))
        if level.opened and number + 1 < len(levels):
            down = top + _ROW + 20
            parts.append(
                _arrow(f"M{x + width} {slot}h10V{down - 14}H{x + width - 8}V{down}")
            )
    if len(levels) > 1 and all(level.opened for level in levels[:-1]):
        y = _TOP + (len(levels) - 1) * _ROW + 22
        parts.append(
            f'<path d="M{x - 28} {_TOP + 20}V{y}H{x - 4}" fill="none" '
            f'stroke="{_QUIET}" stroke-dasharray="2 4" marker-end="url(#tlbkit-tip)"/>'
        )
        parts.append(_text(x - 34, _TOP + 16, "walk cache", _QUIET, anchor="end"))
    return parts


def _end(levels: Sequence[Branch], end: str) -> list[str]:
    """Draw where it ends, once everything is open."""
    if not levels or not levels[-1].opened:
        return []
    x, width = _TABLE
    top = _TOP + len(levels) * _ROW
    slot = top - _ROW + 22 + _SLOT + _SLOT // 2
    box = (
        f'<rect x="{_BITS[0]}" y="{top + 6}" width="{_WIDTH - 8}" height="34" rx="4" '
        f'fill="none" stroke="{_FOCUS}" stroke-width="2"/>'
    )
    return [
        _arrow(f"M{x + width} {slot}h10V{top + 2}"),
        box,
        _text(_WIDTH / 2, top + 28, end, _INK, anchor="middle"),
    ]


def _told(levels: Sequence[Branch], end: str) -> str:
    """Say the picture."""
    said = [
        f"{one.name}: bits {one.bits} choose entry {one.entry} of {one.entries}"
        + (f", a {one.kind}" if one.opened else "")
        for one in levels
    ]
    if levels and levels[-1].opened:
        said.append(end)
    return "; ".join(said) or end


def _arrow(way: str) -> str:
    return (
        f'<path d="{way}" fill="none" stroke="{_FOCUS}" stroke-width="1.5" '
        'marker-end="url(#tlbkit-tip)"/>'
    )


def _text(
    x: float, y: float, said: str, ink: str, *, anchor: str = "", mono: bool = False
) -> str:
    place = f' text-anchor="{anchor}"' if anchor else ""
    face = ' font-family="monospace"' if mono else ""
    return f'<text x="{x:g}" y="{y:g}" fill="{ink}"{place}{face}>{escape(said)}</text>'


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
