"""A recording as texts only: what a player needs, in any language.

A film says of each step which lines of the state read differently after it, so whoever
shows it adds nothing of his own. It is plain JSON, in which each text stands once::

    {
      "steps": [[cpu, text, why, [[row, before, after], ...]], ...],
      "rows": ["CPU 0, L1D: 0x7000, asid 0x1", ...],    what a state is made of
      "start": [[row, text], ...],                      the rest reads as nothing
      "groups": [[function, first step, last step, depth], ...],
      "texts": ["", ...]
    }

where a text is its number in ``texts``, and 0 is nothing.
"""

import json
import re
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.permission import EL0_EXECUTE, EL0_READ, EL0_WRITE
from tlbkit.arm64.tlbi import OPERATIONS, describe
from tlbkit.arm64.walk import Table
from tlbkit.observe.recording import Group

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tlbkit.arm64.leaf import Leaf
    from tlbkit.observe.recording import Key, Recording

Film = dict[str, Any]
"""See the module."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(shift: int) -> str:
    """Write ``1 << shift`` bytes.

    >>> size(12), size(21), size(16)
    ('4 KiB', '2 MiB', '64 KiB')
    """
    return f"{1 << shift % 10} {_UNITS[shift // 10]}"


def rights(leaf: "Leaf") -> str:
    """Write what user space may do, as ``ls`` does; a right that hardware grants last.

    A ``w`` in brackets is there once hardware has set the dirty state.
    """
    letters = ((EL0_READ, "r"), (EL0_WRITE, "w"), (EL0_EXECUTE, "x"))
    now = "".join(c if leaf.permissions & bit else "-" for bit, c in letters)
    later = leaf.permissions_dirty & ~leaf.permissions & EL0_WRITE
    return f"{now} (w)" if later else now


def label(key: "Key") -> str:
    """Name one thing of a state (`tlbkit.observe.recording`) for people."""
    match key:
        case ("word", pa):
            return f"memory at {pa:#x}"
        case ("tlb", cpu, array, va, shift, asid):
            return f"CPU {cpu}, {array}: {va:#x}, {size(shift)}, asid {asid:#x}"
        case ("in flight", cpu):
            return f"CPU {cpu}: TLBIs in flight"
        case ("lock", name):
            return f"lock {name}"
        case ("asid", cpu):
            return f"CPU {cpu}: asid"
        case ("irqs off", cpu):
            return f"CPU {cpu}: interrupts"
    return ", ".join(map(str, key))


def value(key: "Key", what: Any) -> str:
    """Write the value of one thing of a state; nothing if there is none."""
    if what is None:
        return ""
    match key[0]:
        case "tlb" if isinstance(what, Table):
            return f"table of level {what.level} at {what.pa:#x}"
        case "tlb":
            return f"to {what.pa:#x}, {rights(what.leaf)}"
        case "in flight":
            return "; ".join(
                describe(OPERATIONS[name], operand) for name, operand in what
            )
        case "lock":
            return ", ".join(f"CPU {cpu} ({how})" for cpu, how in what)
        case "irqs off":
            return "off"
    return hex(what) if isinstance(what, int) else str(what)


def film(recording: "Recording") -> Film:
    """Return *recording* as texts; see the module."""
    texts: dict[str, int] = {"": 0}

    def number(text: str) -> int:
        return texts.setdefault(text, len(texts))

    keys = sorted(_keys(recording), key=_place)
    row = {key: index for index, key in enumerate(keys)}
    steps = [
        [
            step.cpu,
            number(step.text),
            number(step.why),
            [
                [
                    row[change.key],
                    number(value(change.key, change.before)),
                    number(value(change.key, change.after)),
                ]
                for change in step.changes
                if change.before != change.after
            ],
        ]
        for step in recording.steps
    ]
    start = [
        [row[key], number(value(key, what))]
        for key, what in recording.start.items()
        if key in row
    ]
    return {
        "steps": steps,
        "rows": [label(key) for key in keys],
        "start": sorted(start),
        "groups": list(_groups(recording.groups, 0)),
        "texts": list(texts),
    }


def _keys(recording: "Recording") -> "set[Key]":
    """Everything that some step changes, and what the CPUs hold at the start."""
    keys = {change.key for step in recording.steps for change in step.changes}
    cpus = {step.cpu for step in recording.steps}
    held = {key for key in recording.start if key[0] == "tlb" and key[1] in cpus}
    return keys | held


_SECTIONS = ("asid", "irqs off", "in flight", "tlb")


def _place(key: "Key") -> tuple[Any, ...]:
    """Where a row stands: each CPU's own things together, then locks, then memory."""
    if key[0] in _SECTIONS:
        rest = key[2:] if key[0] == "tlb" else ()
        return 0, key[1], _SECTIONS.index(key[0]), *rest
    return (1 if key[0] == "lock" else 2), *key[1:]


def _groups(parts: "tuple[int | Group, ...]", depth: int) -> "Iterator[list[Any]]":
    for part in parts:
        if isinstance(part, Group):
            yield [part.name, part.first, part.last, depth]
            yield from _groups(part.parts, depth + 1)


def state(film: Film, position: int) -> "Mapping[str, str]":
    """Return the lines of the state after *position* steps, by their labels."""
    now = dict(film["start"])
    for _, _, _, changes in film["steps"][:position]:
        now.update((row, after) for row, _, after in changes)
    return {
        film["rows"][row]: film["texts"][text]
        for row, text in sorted(now.items())
        if text
    }


def first_difference(one: Film, other: Film) -> int | None:
    """Return the first step that two films do not share; ``None`` if they share all."""
    told = [
        [(cpu, film["texts"][text]) for cpu, text, _, _ in film["steps"]]
        for film in (one, other)
    ]
    for index, (this, that) in enumerate(zip(*told, strict=False)):
        if this != that:
            return index
    shorter, longer = sorted(map(len, told))
    return None if shorter == longer else shorter


def weight(content: Any) -> str:
    """Say how large a recorded thing is, as JSON."""
    return f"{len(json.dumps(content, separators=(',', ':'))) / 1000:.1f} kB"


def slug(title: str) -> str:
    """Spell a title as an address can hold it.

    >>> slug("One mprotect, twice")
    'one-mprotect-twice'

    A name with an underscore at its end is another function than the one without:

    >>> slug("lock in do_page_"), slug("lock in do_page")
    ('lock-in-do-page-', 'lock-in-do-page')
    """
    words = "-".join(re.findall("[a-z0-9]+", title.lower()))
    return f"{words}-" if title.endswith("_") else words
