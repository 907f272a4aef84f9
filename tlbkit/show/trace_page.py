"""A trace's answer as one HTML page that can be sent to a reviewer."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tlbkit.lab.trace import Replayed, TraceAnswer

_BINS = 60
"""Into how many parts the time of a trace is cut for the picture."""

_MADE_BY = (
    "Made by tlbkit, a model of the ARM64 TLB and of the Linux flows that flush it. "
    "Modelled times are of the flushes alone."
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #6b7280;
  --line: #d7dbe0; --before: #b45309; --after: #1d6fb8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --paper: #14171c;
  --faint: #9aa4b2; --line: #333a44; --before: #f0a04b; --after: #6db3f2; } }
@media print { :root { --ink: #000; --paper: #fff; --faint: #444; --line: #bbb;
  --before: #b45309; --after: #1d6fb8; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
p.lead { font-size: 1.1rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; min-width: 60%; }
caption { text-align: left; color: var(--faint); padding-bottom: 0.3rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.8rem 0.25rem 0;
  text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
code { font-size: 0.9em; overflow-wrap: anywhere; }
td code { white-space: nowrap; } div.wide + div.wide { margin-top: 1.2rem; }
figure { margin: 1rem 0; } figcaption { color: var(--faint); font-size: 0.9rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--faint); font-size: 12px; }
.before { fill: var(--before); } .after { fill: var(--after); }
svg rect.before { fill: none; stroke: var(--before); stroke-width: 1.5; }
footer { color: var(--faint); font-size: 0.85rem; margin-top: 2.5rem; }
"""


def trace_page(answer: TraceAnswer) -> str:
    """Return the whole page: no script, no address of another host, nothing hidden."""
    older, newer = answer.older, answer.newer
    files = [_short(one.file) for one in answer.readings]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>TLB flushes of {escape(', '.join(files))}</title>",
        f"<style>{_STYLE}</style></head><body><main>",
        f"<h1>TLB flushes of {_codes(files)}</h1>",
        f'<p class="lead">{_lead(answer)}</p>',
        _table(
            "What each kernel would issue",
            ["", *answer.kernels],
            [[name, *values] for name, values in _counts(answer.kernels).items()],
        ),
        _over_time(answer.kernels),
    ]
    if answer.shares:
        parts += ["<h2>The share of each commit</h2>", _shares(answer)]
    for name in dict.fromkeys((older, newer)):
        parts += [f"<h2>Where they come from on {escape(name)}</h2>"]
        parts += [*_sources(answer.kernels[name])]
    parts += [
        "<h2>What the answer rests on</h2>",
        f"<p>{_rests(answer)}</p>",
        "<ul>",
        *(f"<li>{escape(one)}</li>" for one in answer.notes),
        "</ul>",
        f"<footer>{_MADE_BY}</footer></main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _lead(answer: TraceAnswer) -> str:
    """Say the answer in two sentences."""
    old, new = (answer.kernels[name] for name in (answer.older, answer.newer))
    said = (
        f"This run would issue {old.broadcasts:,} broadcast TLBIs on "
        f"{escape(answer.older)} and {new.broadcasts:,} on {escape(answer.newer)}; it "
        f"would wait for {old.sync_ish:,} and {new.sync_ish:,} of their flushes."
    )
    if not answer.shares:
        return said
    felt = [one for one in answer.shares if one.felt]
    if not felt:
        return f"{said} None of the {len(answer.shares)} commits changes that."
    names = ", ".join(f"<code>{escape(one.commit)}</code>" for one in felt[:4])
    more = "" if len(felt) <= 4 else f" and {len(felt) - 4} more"
    rest = len(answer.shares) - len(felt)
    return f"{said} It would feel {names}{more}; {rest} commits change nothing for it."


def _rests(answer: TraceAnswer) -> str:
    return (
        f"{answer.used:.2%} of {answer.lines:,} lines were read. The machine has "
        f"{answer.cpus} CPUs of the model {escape(answer.cpu)}. Where the trace does "
        f"not tell what a first touch of a page was, the policy is “{answer.touch}”."
    )


def _counts(kernels: Mapping[str, Replayed]) -> dict[str, list[str]]:
    forms = sorted({form for one in kernels.values() for form in one.tlbi})
    rows = {
        f"TLBI {form}": [f"{one.tlbi[form]:,}" for one in kernels.values()]
        for form in forms
    }
    for name, field in (
        ("broadcasts, all forms", "broadcasts"),
        ("local TLBIs, all forms", "local"),
        ("DSBs that complete a broadcast", "sync_ish"),
        ("DSBs that complete local TLBIs", "sync_nsh"),
        ("IPIs", "ipi_broadcasts"),
        ("page faults", "faults"),
        ("spurious faults", "spurious"),
    ):
        rows[name] = [f"{getattr(one, field):,}" for one in kernels.values()]
    rows["modelled time, µs"] = [
        f"{one.cost_ns / 1e3:,.1f}" for one in kernels.values()
    ]
    return rows


def _shares(answer: TraceAnswer) -> str:
    rows = [
        [
            f"<code>{escape(one.commit)}</code>",
            f"{one.without:,}",
            escape(one.alone_said),
            f"{one.syncs_without:,}",
            f"{-one.local_without:,}",
            escape(one.subject),
        ]
        for one in answer.shares
        if one.felt
    ]
    head = [
        "commit",
        f"broadcasts saved in {answer.newer}",
        f"alone in {answer.older}",
        "waits saved",
        "more local",
        "what it does",
    ]
    rest = [one for one in answer.shares if not one.felt]
    said = (
        f"<p>{len(rest)} commits change nothing for this program: "
        f"{_codes([one.commit for one in rest])}.</p>"
        if rest
        else ""
    )
    return (_table("", head, rows, escaped=True) if rows else "") + said


def _sources(one: Replayed) -> list[str]:
    by = (
        ("system call", one.by_call),
        ("kernel function", one.by_function),
        ("thread", one.by_task),
        ("line of the trace", one.by_line),
    )
    return [
        _table(
            f"Broadcasts by {what}, the first ten",
            [what, "broadcasts"],
            [[_short(str(name)), f"{n:,}"] for name, n in counter.most_common(10)],
        )
        for what, counter in by
        if counter
    ]


def _over_time(kernels: Mapping[str, Replayed]) -> str:
    """Draw the broadcasts of the first and the last kernel over the trace's time."""
    every = list(kernels)
    names = list(dict.fromkeys((every[0], every[-1])))
    times = {name: _times(kernels[name]) for name in names}
    told = [time for one in times.values() for time in one]
    if not told or min(told) == max(told):
        return ""
    first, last = min(told), max(told)
    bars = {name: _bins(one, first, last) for name, one in times.items()}
    top = max(max(one) for one in bars.values())
    width, height = 900 / _BINS, 160
    shapes = []
    for kind, (_, heights) in reversed(
        list(zip(("before", "after"), bars.items(), strict=False))
    ):
        inset = 0 if kind == "before" else 2
        shapes += [
            f'<rect class="{kind}" x="{i * width + inset:.1f}" '
            f'y="{20 + height - n / top * height:.1f}" '
            f'width="{width - 2 * inset:.1f}" height="{n / top * height:.1f}"/>'
            for i, n in enumerate(heights)
            if n
        ]
    said = "; ".join(f"{name}: {sum(one):,}" for name, one in bars.items())
    return (
        "<figure>"
        f'<svg viewBox="0 0 900 {height + 42}" role="img" '
        f'aria-label="Broadcasts over time: {escape(said)}">'
        f'<text x="0" y="12">{top:,} broadcasts in '
        f"{(last - first) / _BINS:.3g} s</text>"
        f"{''.join(shapes)}"
        f'<text x="0" y="{height + 38}">0 s</text>'
        f'<text x="900" y="{height + 38}" text-anchor="end">{last - first:.3g} s</text>'
        "</svg>"
        f"<figcaption>Broadcasts over the time of the trace: an outline for "
        f"{escape(names[0])}, filled for {escape(names[-1])}.</figcaption></figure>"
    )


def _times(one: Replayed) -> list[float]:
    """Return when each broadcast was issued, as far as the trace tells."""
    return [
        row["time"]
        for row in one.issued
        if row["broadcast"] and row["time"] is not None
    ]


def _bins(times: Sequence[float], first: float, last: float) -> list[int]:
    counts = [0] * _BINS
    for time in times:
        counts[min(int((time - first) / (last - first) * _BINS), _BINS - 1)] += 1
    return counts


def _short(name: str) -> str:
    """Return the last part of a path; its folders tell a reviewer nothing."""
    return name.rsplit("/", 1)[-1]


def _codes(names: Sequence[str]) -> str:
    return ", ".join(f"<code>{escape(name)}</code>" for name in names)


def _table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    escaped: bool = False,
) -> str:
    """Return a table; columns whose cells are all numbers stand to the right."""
    keep = (lambda text: text) if escaped else escape
    number = [
        all(
            row[i].replace(",", "").replace(".", "").lstrip("-").isdigit()
            for row in rows
        )
        for i in range(len(head))
    ]
    mark = [' class="n"' if one else "" for one in number]
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    heads = "".join(
        "<td></td>" if not name else f'<th scope="col"{m}>{escape(name)}</th>'
        for name, m in zip(head, mark, strict=True)
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f"<td{m}>{keep(cell)}</td>" for cell, m in zip(row, mark, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table>{title}<thead><tr>{heads}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )
