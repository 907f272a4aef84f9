"""A recording as a film: what its boards look like, moment by moment, as little JSON.

A film says what changes on the board from one moment to the next, so whoever shows it
adds nothing of its own::

    {
      "columns": [[label, address], ...],
      "gaps": [column, ...],                    that do not follow the one before
      "spaces": [label, ...],
      "rows": [[cpu, space], ...],              after one row of tables for each space
      "others": number,                         of CPUs that have no row
      "slots": [slot, ...],                     places, in any order
      "values": [value, ...],                   what may stand there; 0 is nothing
      "start": [slot, value, ...],
      "moments": [[cpu, text, path, time, [slot, value, ...]], ...],
      "texts": [text, ...],
      "says": [text, ...],                      how things stand, at the start and after
      "ends": [text, harm]                      what is said then; only if it was given
    }

where a slot, a value and a text is its number in the list of that name. A time is pairs
of what it was spent on, by its number in ``"spent"``, and tenths of a ns.
"""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tlbkit.observe.recording import Group
from tlbkit.show.stage import telling
from tlbkit.show.stage.board import Board, Cell, Flight, moments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tlbkit.observe.recording import Recording, Step
    from tlbkit.show.stage.board import Rows, Slot

Film = dict[str, Any]
"""See the module."""

SPENT: Final = (
    "other work",
    "system call",
    "fault",
    "table walk",
    "store",
    "sending a TLBI",
    "waiting for other CPUs",
    "local flush",
    "interrupting others",
)
"""What time is spent on, by number."""

_SPENT_BY: Final[Mapping[str, int]] = {
    "call": 1,
    "fault": 2,
    "walk": 3,
    "store": 4,
    "ipi": 8,
}
_SEND, _WAIT, _LOCAL = 5, 6, 7


class Numbers:
    """Numbers for things that come up again and again, from 0."""

    def __init__(self, *first: Any) -> None:
        self.known: dict[Any, int] = {one: n for n, one in enumerate(first)}

    def __call__(self, what: Any) -> int:
        """Return the number of a thing: the next one, if it is new."""
        return self.known.setdefault(what, len(self.known))


class Ending(NamedTuple):
    """What there is to say when a film is over.

    Attributes:
        text: A sentence.
        harm: Whether somebody was harmed.
    """

    text: str
    harm: bool


def film(recording: Recording, ending: Ending | None = None) -> Film:
    """Return *recording* as a film; see the module.

    Args:
        recording: With watched pages.
        ending: What is said at the end; addresses and frames in it become those of the
            board.
    """
    board = Board(recording)
    slots, values, texts = Numbers(), Numbers(None), Numbers("")
    paths = _paths(recording)
    seen: dict[Slot, Any] = {}

    def changed() -> list[int]:
        """Tell what is new on the board since the last time."""
        told = []
        for slot in board.touched():
            now = board.at(slot)
            if seen.get(slot) != now:
                seen[slot] = now
                told.append((slots(slot), 0 if now is None else values(plain(now))))
        return list(chain.from_iterable(sorted(told)))

    start = changed()
    says = [texts(telling.standing(board))]
    told_moments = []
    doer = 0
    for first, last in moments(recording):
        while board.position <= last:
            board.advance()
        if recording.steps[last].kind != "drop":
            doer = recording.steps[last].cpu
        delta = changed()
        told_moments.append(
            [
                doer,
                texts(telling.happened(board, first)),
                texts(paths[last]),
                _time(recording.steps[first : last + 1]),
                delta,
            ]
        )
        says.append(texts(telling.standing(board)) if delta else says[-1])
    rows = board.rows
    told: Film = {
        **scene(rows, recording.place.cpus),
        "slots": [list(slot) for slot in slots.known],
        "values": [json.loads(value) if value else 0 for value in values.known],
        "start": start,
        "moments": told_moments,
        "texts": list(texts.known),
        "says": says,
        "spent": list(SPENT),
    }
    if ending is not None:
        told["ends"] = [telling.named(ending.text, rows), ending.harm]
    return told


def scene(rows: Rows, cpus: int) -> Film:
    """Return the part of a film that says what its rows and columns are.

    Args:
        rows: As `tlbkit.show.stage.board.rows` finds them.
        cpus: Of the machine.
    """
    return {
        "columns": [[label, f"{va:#x}"] for label, va in _columns(rows)],
        "gaps": _gaps(rows),
        "spaces": _spaces(rows),
        "rows": [list(row) for row in rows.holders],
        "others": len(rows.others),
        "cpus": cpus,
    }


def _columns(rows: Rows) -> Iterator[tuple[str, int]]:
    for number, va in enumerate(rows.columns):
        yield str(number), va


def _gaps(rows: Rows) -> list[int]:
    """Return the columns between which and the one before there is other memory."""
    columns = rows.columns
    steps = [after - before for before, after in zip(columns, columns[1:])]  # noqa: B905, RUF007 - neighbours
    usual = min(steps, default=0)
    return [column for column, step in enumerate(steps, 1) if step > usual]


def _spaces(rows: Rows) -> list[str]:
    if len(rows.spaces) <= 1:
        return ["page tables"]
    return [f"tables of {chr(ord('P') + n)}" for n, _ in enumerate(rows.spaces)]


def plain(what: Any) -> str:
    """Return a value of a slot as JSON, so that equal ones are known to be."""
    if isinstance(what, Cell):
        return json.dumps(
            [
                what.rights,
                what.frame,
                what.marks,
                what.kind,
                f"{what.first:x}/{what.shift}",
                what.verdict.name if what.verdict else "",
                telling.cell(what),
            ]
        )
    if isinstance(what, tuple) and what and isinstance(what[0], Flight):
        return json.dumps([list(flight) for flight in what])
    return json.dumps(getattr(what, "name", what))


def _time(steps: Sequence[Step]) -> list[int]:
    """Tell what time was spent on."""
    told: list[int] = []
    for step in steps:
        tenths = round(step.ns * 10)
        if not tenths:
            continue
        spent = _SPENT_BY.get(step.kind, 0)
        if step.kind == "tlbi":
            spent = _SEND if "IS" in step.text or "OS" in step.text else _LOCAL
        elif step.kind == "dsb":
            waits = any(change.key[0] == "in flight" for change in step.changes)
            spent = (_WAIT if step.about != "nsh" else _LOCAL) if waits else 0
        if told and told[-2] == spent:
            told[-1] += tenths
        else:
            told += [spent, tenths]
    return told


def _paths(recording: Recording) -> list[str]:
    """Return of each step the functions that it happened in, the outermost first."""
    found = [""] * len(recording)

    def open_(parts: tuple[int | Group, ...], above: str) -> None:
        for part in parts:
            if isinstance(part, Group):
                inner = f"{above} > {part.name}" if above else part.name
                open_(part.parts, inner)
            else:
                found[part] = above

    open_(recording.groups, "")
    return found
