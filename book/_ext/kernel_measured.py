"""Directives that show what real kernels were measured to do, beside the model."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from tlbkit.observe.calls import path
from tlbkit.patches import registry

# The rows and the harness lie with the tests, which need them without a book.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "kernel"))

from kernel_model import Model
from kernel_rows import BREAKS, QUICK, Key, Measured, excused, files, play, same
from kernel_scenarios import SCENARIOS, Scenario

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kernel_model import Window
    from kernel_text import Seen
    from sphinx.application import Sphinx

    from tlbkit.arm64.events import Event

_FLUSHING = frozenset(
    {
        "arch/arm64/include/asm/tlbflush.h",
        "arch/arm64/include/asm/tlb.h",
        "include/asm-generic/tlb.h",
        "mm/mmu_gather.c",
    }
)
"""Kernel files that flush for others: a TLBI is told by the function that asks."""

_BOARDS = {
    "range": "range TLBI",
    "norange": "no range TLBI",
    "lpa2": "range TLBI, 52-bit addresses",
    "kpti": "range TLBI, KPTI",
}
"""What is special of a board, as a column is named."""


@dataclass
class Played:
    """What the model did for one row.

    Attributes:
        shown: What an emulator would show of it.
        excuses: Why that is not all.
        functions: Which kernel functions asked for its TLBIs, and how often.
    """

    shown: Seen
    excuses: list[str]
    functions: Counter[str]


def played(measured: Measured, scenarios: Sequence[Scenario]) -> dict[Key, Played]:
    """Play scenarios up to `QUICK` on the kernel and CPU of a file."""
    found: dict[Key, Played] = {}
    for scenario in scenarios:
        for size in scenario.sizes:
            if size > max(QUICK, min(scenario.sizes)):
                continue
            model = Model(measured.kernel, measured.cpu)
            told: defaultdict[Window, Counter[str]] = defaultdict(Counter)

            def hear(event: Event, model: Model = model, told: Any = told) -> None:
                asks = (one for one in path(limit=48) if one.file not in _FLUSHING)
                told[model.last][f"{next(asks).function}: {event.what.name}"] += 1

            model.machine.events.listen(hear, {"tlbi"})
            for key, seen, window in play(scenario, size, model):
                found[key] = Played(*excused(window, seen), Counter(told[window]))
    return found


def words(seen: Seen) -> str:
    """Say what a line came to.

    >>> from kernel_text import Seen
    >>> words(Seen.parse("0 f64 s64/0 VALE1IS:64/64 i0"))
    '64 VALE1IS; 64 DSB ISH; 64 faults'
    >>> words(Seen.parse("EINVAL f0 s0/0 i0"))
    'EINVAL; nothing'
    """
    parts = [
        f"{times:,} {name}" + (f" over {pages:,} pages" if pages > times else "")
        for name, (times, pages) in sorted(seen.tlbi.items())
    ]
    for number, unit in (
        (seen.ish, "DSB ISH"),
        (seen.nsh, "DSB NSH"),
        (seen.broadcasts or 0, "IPI broadcasts"),
        (seen.faults, "faults"),
    ):
        if number:
            parts.append(f"{number:,} {unit}")
    answer = [seen.answer] if isinstance(seen.answer, str) else []
    return "; ".join([*answer, *(parts or ["nothing"])])


def _title(measured: Measured) -> str:
    """Name a file as a column does."""
    return f"{measured.about['kernel']}, {_BOARDS[measured.cpu]}"


class MeasuredRow(SphinxDirective):
    """``.. measured-row:: ROW SIZE``: a row of each kernel, and the model's answer."""

    required_arguments = 2
    has_content = False

    def run(self) -> list[nodes.Node]:
        """Say what each kernel did; fail if the model does not do the same."""
        row, size = self.arguments[0], int(self.arguments[1])
        scenarios = [
            one
            for one in SCENARIOS
            if size in one.sizes and row in one.lines(size)[1].values()
        ]
        key = Key(row, size)
        items = nodes.bullet_list()
        for measured in files().values():
            if key not in measured.rows or measured.cpu != "range":
                continue
            mine = played(measured, scenarios)[key]
            real = measured.rows[key]
            if not same(real, mine.shown):
                raise ExtensionError(f"{key}: {real} was measured, not {mine.shown}")
            said = f"{measured.about['kernel']}: {words(real)}. The model: the same"
            if mine.excuses:
                said += f", but for {', '.join(mine.excuses)}, which the emulator hides"
            items += nodes.list_item("", nodes.paragraph("", f"{said}."))
        if not items.children:
            raise ExtensionError(f"no kernel was measured on {row} at size {size}")
        return [nodes.container("", items, classes=["tlbkit-measured"])]


class KernelRows(SphinxDirective):
    """``.. kernel-rows:: PART``: the measured files, commits or scenarios as tables."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        """Make the part of the page that is named."""
        make = {"files": _files, "commits": _commits, "scenarios": _scenarios}
        if self.arguments[0] not in make:
            raise ExtensionError(f"kernel-rows has the parts {', '.join(make)}")
        html = make[self.arguments[0]](files())
        return [nodes.raw("", html, format="html")]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose cells are HTML already."""
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{first}</th>'
        + "".join(f"<td>{cell}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="tlbkit-rows"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _files(measured: Mapping[str, Measured]) -> str:
    """Say how each file was measured."""
    rows = [
        [
            escape(_title(one)),
            f"{len(one.rows):,}",
            escape(one.about["package"]),
            escape(f"{one.about['emulator']}; {one.about['processors']}"),
            f"<code>{escape(one.about['options'])}</code>",
            escape(one.about.get("date", "not noted")),
        ]
        for one in measured.values()
    ]
    head = ["kernel", "rows", "Debian package", "machine", "boot options", "date"]
    return _table(head, rows)


def _commits(_: Mapping[str, Measured]) -> str:
    """Say which rows each commit changes: what the comparison would see without it."""
    rows = []
    for patch in registry.PATCHES:
        if patch.hash in BREAKS:
            names = ", ".join(
                f"<code>{escape(one)}</code>" for one in sorted(BREAKS[patch.hash])
            )
            rows.append(
                [
                    f"<code>{patch.hash}</code>",
                    escape(patch.subject),
                    escape(patch.release),
                    str(len(BREAKS[patch.hash])),
                    names,
                ]
            )
    head = ["commit", "what it does", "since", "rows", "which would differ without it"]
    return _table(head, rows)


def _scenarios(measured: Mapping[str, Measured]) -> str:
    """Show every row of every scenario, folded by scenario."""
    model = {name: played(one, SCENARIOS) for name, one in measured.items()}
    columns = [escape(_title(one)) for one in measured.values()]
    parts = []
    for scenario in SCENARIOS:
        keys = [
            Key(row, size)
            for row in dict.fromkeys(
                row
                for size in scenario.sizes
                for row in scenario.lines(size)[1].values()
            )
            for size in scenario.sizes
        ]
        lines = []
        count = hidden = 0
        for key in keys:
            cells = []
            for name, one in measured.items():
                if key not in one.rows:
                    cells.append("not measured")
                    continue
                count += 1
                mine = model[name].get(key)
                hidden += bool(mine and mine.excuses)
                cells.append(_cell(key, one.rows[key], mine))
            if any(cell != "not measured" for cell in cells):
                lines.append([f"<code>{escape(key.row)}</code> {key.size:,}", *cells])
        verdict = f"{count:,} rows agree"
        if hidden:
            verdict += f", {hidden:,} of them but for what the emulator hides"
        parts.append(
            f'<details class="tlbkit-scenario" id="rows-{escape(scenario.name)}">'
            f"<summary><code>{escape(scenario.name)}</code>: {verdict}</summary>"
            f"{_table(['row and size', *columns], lines)}</details>"
        )
    return "".join(parts)


def _cell(key: Key, real: Seen, mine: Played | None) -> str:
    """Return what a kernel did for a row, and what the model adds to that."""
    said = escape(words(real))
    if mine is None:
        return said
    if not same(real, mine.shown):
        raise ExtensionError(f"{key}: {real} was measured, not {mine.shown}")
    notes = [f"and {one}" for one in mine.excuses]
    notes += [f"{n:,} by {what}" for what, n in mine.functions.most_common(4)]
    if notes:
        said += f"<br><small>{escape('; '.join(notes))}</small>"
    return said


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives."""
    app.add_directive("kernel-rows", KernelRows)
    app.add_directive("measured-row", MeasuredRow)
    return {"parallel_read_safe": True}
