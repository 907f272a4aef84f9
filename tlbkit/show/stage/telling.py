"""A board in words: what has happened, and how things stand."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64.tlb import Entry
from tlbkit.lab.stale import Verdict
from tlbkit.show.stage.board import MARKS, Cell, Flight, is_unseen, rights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tlbkit.observe.recording import Step
    from tlbkit.show.stage.board import Board, Rows

_RIGHTS: Final = {
    "r": "read-only",
    "rw": "writable",
    "r(w)": "writable, clean",
    "rx": "readable and executable",
    "-": "not accessible",
}


def joined(parts: Sequence[str]) -> str:
    """Write a list as a sentence has it.

    >>> joined(["a"]), joined(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def numbers(one: str, many: str, which: Iterable[int]) -> str:
    """Name numbered things, runs of them by their ends.

    >>> numbers("page", "pages", [0, 1, 2, 5]), numbers("CPU", "CPUs", [0, 1, 3])
    ('pages 0 to 2 and 5', 'CPUs 0, 1 and 3')
    """
    runs: list[list[int]] = []
    for number in sorted(set(which)):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = []
    for run in runs:
        if len(run) > len("ab"):
            parts.append(f"{run[0]} to {run[-1]}")
        else:
            parts += map(str, run)
    several = len(runs) > 1 or any(len(run) > 1 for run in runs)
    return f"{many if several else one} {joined(parts)}"


def pages(which: Iterable[int]) -> str:
    """Name columns."""
    return numbers("page", "pages", which)


def cpus(which: Iterable[int]) -> str:
    """Name CPUs."""
    return numbers("CPU", "CPUs", which)


def right(text: str) -> str:
    """Say in words what rights in letters are."""
    return _RIGHTS.get(text, text)


def cell(what: Cell) -> str:
    """Say all that a cell shows, down to its bits."""
    parts = [right(what.rights)]
    if what.frame:
        parts.append(f"frame {what.frame}")
    parts += [MARKS[mark] for mark in what.marks]
    if what.kind not in {"page", "invalid"}:
        size = f"{1 << what.shift - 10:,} KiB"
        parts.append(
            f"one of a contiguous {size}"
            if what.kind == "contiguous"
            else f"a {what.kind} mapping of {size}"
        )
    if what.verdict is not None:
        parts.append(what.verdict.value)
    return f"{', '.join(parts)}; descriptor {what.raw:#x}"


_MOST_SENTENCES: Final = 2
"""If CPUs hold more different pages than this, they are told of together."""


# -- how things stand ------------------------------------------------------------------


def standing(board: Board) -> str:
    """Say which TLBs do not agree with the tables, and what follows; or nothing."""
    slots = board.slots
    by_cpu: defaultdict[tuple[Any, ...], dict[int, list[int]]] = defaultdict(dict)
    for slot, what in slots.items():
        if slot[0] != "tlb" or what.verdict in {Verdict.AGREES, Verdict.IDLE}:
            continue
        _, cpu, space, column = slot
        said: Cell | None = slots.get(("page", space, column))
        elsewhere = said is not None and said.frame != what.frame
        tables = "nothing" if said is None else right(said.rights)
        how = what.verdict, what.rights, tables, elsewhere
        by_cpu[how].setdefault(cpu, []).append(column)
    sentences = []
    for how, held in by_cpu.items():
        alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for cpu, columns in held.items():
            alike[tuple(sorted(columns))].append(cpu)
        if len(alike) > _MOST_SENTENCES:
            some = {column for columns in alike for column in columns}
            sentences.append(_stale(*how, list(held), f"some of {pages(some)}"))
            continue
        sentences += [
            _stale(*how, who, pages(columns)) for columns, who in sorted(alike.items())
        ]
    unlinked = {
        slot[1]
        for slot, judged in slots.items()
        if slot[0] == "walk" and judged is Verdict.HOLE
    }
    if unlinked:
        sentences.append(f"{cpus(unlinked)} may still walk a table that is unlinked.")
    return " ".join(sentences)


def _stale(
    judged: Verdict,
    held: str,
    said: str,
    elsewhere: bool,  # noqa: FBT001 - one of the values that cells are grouped by
    who: Sequence[int],
    which: str,
) -> str:
    """Say what some CPUs hold of which pages, and how the tables differ."""
    if judged is Verdict.SPURIOUS:
        remember = "remembers" if len(who) == 1 else "remember"
        return (
            f"{cpus(who)} still {remember} {which} as {right(held)}: "
            "at most a spurious fault."
        )
    may = "write" if "w" in held else "execute" if "x" in held else "read"
    if elsewhere and said not in {"nothing", "not accessible"}:
        said = "another frame"
    return f"{cpus(who)} may still {may} {which}; the tables say {said}."


# -- what happened ---------------------------------------------------------------------


def happened(board: Board, first: int) -> str:
    """Say what the steps from *first* up to the board's position did, in a sentence."""
    steps = board.recording.steps[first : board.position]
    last = steps[-1]
    if last.kind == "drop":
        return _drops(steps, board.rows)
    if is_unseen(last):
        many = sum(map(is_unseen, steps))
        what = f"{many} descriptors" if many > 1 else "a descriptor"
        return f"CPU {last.cpu} stores {what} of no page shown here."
    tell = _TELLERS.get(last.kind)
    said = tell(last, board, board.rows) if tell else ""
    return f"CPU {last.cpu} {said or _plainly(last, board.rows)}."


def _place(rows: Rows, va: Any) -> str:
    """Name the page that an address lies in."""
    if not isinstance(va, int):
        return str(va)
    column = rows.column(va)
    return f"{va:#x}" if column is None else f"page {column}"


def named(text: str, rows: Rows) -> str:
    """Return a sentence with addresses as pages, and frames by their letters."""

    def frame(match: re.Match[str]) -> str:
        pfn = int(match[1], 16)
        letters = {
            letter
            for (shift, number), letter in rows.frames.items()
            if pfn >> shift - rows.page_shift == number
        }
        return f"frame {min(letters)}" if letters else match[0]

    def page(match: re.Match[str]) -> str:
        column = rows.column(int(match[1], 16))
        return match[0] if column is None else f"page {column}"

    text = re.sub(r"frame 0x([0-9a-f]+)", frame, text)
    return re.sub(r"(?<!frame )0x([0-9a-f]{7,})", page, text)


def _plainly(step: Step, rows: Rows) -> str:
    """Return a step's own line, with watched addresses as pages."""
    return f"({step.kind}) {named(step.text, rows)}"


def _call(step: Step, _: Board, __: Rows) -> str:
    return f"calls {step.text.partition('(')[0]}()"


def _access(verb: str) -> Callable[[Step, Board, Rows], str]:
    def tell(step: Step, _: Board, rows: Rows) -> str:
        return f"{verb} {_place(rows, step.about)}"

    return tell


def _fault(step: Step, _: Board, rows: Rows) -> str:
    kind = step.text.partition(",")[0]
    return f"takes a {kind} on {_place(rows, step.about)}"


def _store(step: Step, _: Board, rows: Rows) -> str:
    changed: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for (kind, *where), before, after in step.changes:
        if kind == "page" and where[1] in rows.columns:
            was, now = _entry_words(before), _entry_words(after)
            changed[was, now].append(rows.columns.index(where[1]))
    if not changed:
        if any(change.key[0] == "tables" for change in step.changes):
            return "links or unlinks a page table"
        return "has its hardware mark a page that is not shown here"
    columns = [column for some in changed.values() for column in some]
    if step.kind == "hardware":
        return f"has its hardware mark {pages(columns)}"
    if all(was == now for was, now in changed):
        return f"changes only flags of {pages(columns)} in the tables"
    parts = [
        f"{pages(some)} from {was} to {now}" for (was, now), some in changed.items()
    ]
    return f"changes the tables: {'; '.join(parts)}"


def _entry_words(what: Any) -> str:
    if what is None:
        return "nothing"
    if isinstance(what, Entry):
        return right(rights(what.leaf)).replace(", clean", "")
    return "an entry that hardware does not see"


def _tlbi(step: Step, board: Board, _: Rows) -> str:
    flying: Flight = board.at(("flies", step.cpu))[-1]
    what = "nothing shown here"
    if flying.columns is not None:
        first, last = flying.columns
        what = pages(range(first, last + 1))
    to = "to every CPU" if flying.everywhere else "to itself alone"
    return f"sends TLBI {flying.name} for {what}, {to}"


def _dsb(step: Step, board: Board, _: Rows) -> str:
    kind = f"DSB {str(step.about).upper()}"
    waits = board.at(("waits", step.cpu))
    if waits is None:
        return f"orders its stores before what follows ({kind})"
    if waits == (step.cpu,):
        return f"waits for its own TLB ({kind})"
    others = f"all {len(waits)} other CPUs" if len(waits) > 1 else cpus(waits)
    return f"waits until {others} have answered ({kind})"


def _ipi(step: Step, _: Board, __: Rows) -> str:
    if not step.about:
        return "has no CPU to interrupt"
    many = len(step.about)
    whom = f"{many} CPUs" if many > len("four") else cpus(step.about)
    return f"interrupts {whom}, and waits until each has answered"


def _irq(step: Step, _: Board, __: Rows) -> str:
    off = step.text.endswith("off")
    return "holds interrupts off" if off else "takes interrupts again"


_TELLERS: Final[Mapping[str, Callable[[Step, Board, Rows], str]]] = {
    "call": _call,
    "read": _access("reads"),
    "write": _access("writes"),
    "execute": _access("executes"),
    "fault": _fault,
    "store": _store,
    "hardware": _store,
    "tlbi": _tlbi,
    "dsb": _dsb,
    "ipi": _ipi,
    "irq": _irq,
    "spurious": lambda *_: "finds nothing to do: a spurious fault",
    "switch": lambda *_: "switches to another address space",
    "lock": lambda step, *_: (
        f"lets go of {step.about}"
        if step.text.startswith("release")
        else f"takes {step.about}"
    ),
}


def _drops(steps: Sequence[Step], rows: Rows) -> str:
    """Say who forgets what."""
    forgotten: defaultdict[int, set[int]] = defaultdict(set)
    tables: set[int] = set()
    for step in steps:
        for (kind, *_), before, _ in step.changes:
            if kind != "tlb":
                continue
            if isinstance(before, Entry):
                covered = rows.covered(before.va, before.shift)
                forgotten[step.cpu].update(covered)
            else:
                tables.add(step.cpu)
    alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for cpu, columns in forgotten.items():
        alike[tuple(sorted(columns))].append(cpu)
    parts = [
        f"{cpus(who)} {'forgets' if len(who) == 1 else 'forget'} "
        f"{pages(columns) if columns else 'something else'}"
        for columns, who in alike.items()
    ]
    if tables and not parts:
        verb = "forgets" if len(tables) == 1 else "forget"
        parts.append(f"{cpus(tables)} {verb} where tables are")
    return f"{joined(parts)}."
