"""``trace`` and ``survey``: what programs of the caller's would feel."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tlbkit.arm64.models import split_models
from tlbkit.commands.machine import add_cpu, add_tune
from tlbkit.commands.workers import (
    Progress,
    add_out,
    add_workers,
    executor_of,
    going_on,
    journal_of,
)
from tlbkit.errors import InputError
from tlbkit.lab import tables
from tlbkit.lab.trace import POLICIES, Trace
from tlbkit.lab.trace import survey as surveyed
from tlbkit.linux.tuning import read_tuning
from tlbkit.show.text import table
from tlbkit.show.trace_page import trace_page

if TYPE_CHECKING:
    import argparse

    from tlbkit.lab.trace import TraceAnswer


def add_trace(one: argparse.ArgumentParser) -> None:
    """Say what ``trace`` takes."""
    one.add_argument("files", nargs="+", metavar="FILE", help="- is standard input")
    _add_replay(one)
    add_tune(one)
    one.add_argument(
        "--commits", action="store_true", help="tell what each commit changes as well"
    )
    one.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="write the answer as one page that can be sent",
    )
    add_workers(one)
    add_out(one)


def _add_replay(one: argparse.ArgumentParser, *, several: bool = False) -> None:
    one.add_argument(
        "--kernel",
        default="v6.17,v6.19",
        metavar="NAME[,NAME]",
        help="kernels to replay it on, the older first; default %(default)s",
    )
    add_cpu(one, several=several)
    one.add_argument("--cpus", type=int, default=4, metavar="N", help="default 4")
    one.add_argument(
        "--touch",
        default="written",
        metavar="POLICY",
        help="what a first touch was where the trace does not tell: "
        f"{', '.join(POLICIES)}; default %(default)s",
    )


def trace(asked: argparse.Namespace) -> None:
    """Replay one trace, and print, write or draw what it would issue."""
    if asked.out is not None:
        tables.check(asked.out)
    for path in filter(None, (asked.out, asked.report)):
        if path.exists():
            raise InputError(f"{path} is there already; remove it, or name another")
    read = Trace.read(*asked.files)
    with executor_of(asked) as executor:
        answer = read.answer(
            asked.kernel.split(","),
            cpu=asked.cpu,
            cpus=asked.cpus,
            touch=asked.touch,
            tuning=read_tuning(asked.tune),
            commits=asked.commits,
            progress=_progress,
            executor=executor,
        )
    if asked.commits and not answer.complete:
        print("stopped; what follows is what was done by then", file=sys.stderr)
    if asked.out is not None:
        tables.write(answer.rows(), asked.out)
    if asked.report is not None:
        try:
            asked.report.write_text(trace_page(answer), "utf-8")
        except OSError as error:
            raise InputError(f"{asked.report}: {error.strerror}") from None
    if asked.json:
        print(json.dumps(answer.to_json(), indent=2))
        return
    print(_issued(answer), end="\n\n")
    if asked.commits:
        print(_commits(answer), end="\n\n")
    print(*(f"- {sentence}" for sentence in answer.notes), sep="\n")


def _progress(done: int, of: int, commit: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{of} {commit}", end="", file=sys.stderr, flush=True)


def _issued(answer: TraceAnswer) -> str:
    found = answer.kernels
    forms = sorted({form for one in found.values() for form in one.tlbi})
    rows = [
        [f"TLBI {form}", *(f"{r.tlbi[form]:,}" for r in found.values())]
        for form in forms
    ]
    rows += [
        [name, *(f"{getattr(one, field):,}" for one in found.values())]
        for name, field in (
            ("broadcasts, all forms", "broadcasts"),
            ("local TLBIs, all forms", "local"),
            ("DSBs that complete a broadcast", "sync_ish"),
            ("DSBs that complete local TLBIs", "sync_nsh"),
            ("IPIs", "ipi_broadcasts"),
            ("page faults", "faults"),
            ("spurious faults", "spurious"),
        )
    ]
    last = found[answer.newer]
    calls = [[call, f"{n:,}"] for call, n in last.by_call.most_common(8)]
    lines = [[str(at), f"{n:,}"] for at, n in last.by_line.most_common(5)]
    return "\n\n".join(
        (
            f"{answer.used:.2%} of {answer.lines:,} lines were read.",
            table(["issued", *found], rows),
            table([f"broadcasts on {last.variant}, by call", ""], calls),
            table(["and by line", ""], lines),
        )
    )


def _commits(answer: TraceAnswer) -> str:
    rows = [
        [
            one.commit,
            f"{one.without:,}",
            one.alone_said,
            f"{one.syncs_without:,}",
            f"{-one.local_without:,}",
            one.subject,
        ]
        for one in answer.shares
        if one.felt
    ]
    header = [
        "commit",
        f"broadcasts saved in {answer.newer}",
        f"alone in {answer.older}",
        "waits saved",
        "more local",
        "what it does",
    ]
    unfelt = sum(not one.felt for one in answer.shares)
    rest = f"{unfelt} other commits change nothing for this program."
    return f"{table(header, rows)}\n\n{rest}" if rows else rest


def add_survey(one: argparse.ArgumentParser) -> None:
    """Say what ``survey`` takes."""
    one.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a folder with the files of one run, or the only file of one",
    )
    _add_replay(one, several=True)
    add_workers(one)
    add_out(one)


def survey(asked: argparse.Namespace) -> None:
    """Replay many traces on each kernel and CPU model: a row for each."""
    runs = {str(path): _files(path) for path in asked.runs}
    if len(runs) < len(asked.runs):
        raise InputError("a run is named twice; name each once")
    journal = journal_of(asked.out)
    with going_on(journal), executor_of(asked) as executor:
        rows = surveyed(
            runs,
            asked.kernel.split(","),
            split_models(asked.cpu),
            cpus=asked.cpus,
            touch=asked.touch,
            executor=executor,
            journal=journal,
            progress=Progress(),
        )
    if asked.out is not None and journal is not None:
        tables.write(rows, asked.out)
        journal.unlink()
    if asked.json:
        print(json.dumps(rows, indent=2))
    elif asked.out is not None:
        print(f"{len(rows):,} rows are in {asked.out}")
    else:
        shown = ["trace", "kernel", "cpu", "broadcasts", "local", "sync_ish", "faults"]
        print(table(shown, [[_cell(row[name]) for name in shown] for row in rows]))


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _files(path: Path) -> list[str]:
    """Return the files of one run."""
    if not path.exists():
        raise InputError(f"{path}: No such file or directory")
    if not path.is_dir():
        return [str(path)]
    files = sorted(str(one) for one in path.iterdir() if one.is_file())
    if not files:
        raise InputError(f"{path}: there is no file in it")
    return files
