"""``litmus``: verdicts on litmus tests, of herd7's form and of the package's own."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING

from tlbkit.errors import InputError
from tlbkit.explore import herd
from tlbkit.explore.herd import Judged, Trouble
from tlbkit.explore.litmus import MAX_STATES
from tlbkit.show.text import table

if TYPE_CHECKING:
    import argparse

DISAGREES = 1
"""Exit status if a verdict is not the expected one, or a search gave up."""

DAMAGED = 2
"""Exit status if a file could not be read."""


def add_litmus(one: argparse.ArgumentParser) -> None:
    """Say what ``litmus`` takes."""
    one.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a file, a folder with *.litmus in it, or - for standard input; "
        "see tlbkit.explore.herd and tlbkit.explore.litmus",
    )
    one.add_argument("--ets2", action="store_true", help="the CPUs have FEAT_ETS2")
    one.add_argument(
        "--kinds",
        metavar="KINDS.txt",
        help="compare with these verdicts, written as herd7's kinds.txt",
    )
    one.add_argument(
        "--limit",
        type=int,
        default=MAX_STATES,
        metavar="N",
        help="give a test up after so many states; default %(default)s",
    )


def litmus(asked: argparse.Namespace) -> int:
    """Judge every test, print what came of it, and return the exit status."""
    if asked.limit < 1:
        raise InputError(f"--limit {asked.limit}: a whole number from 1 is allowed")
    kinds: dict[str, str] = {}
    if asked.kinds:
        kinds = herd.load_kinds(herd.read(asked.kinds, sys.stdin.buffer), asked.kinds)
    names = list(herd.files(asked.files))
    judged: list[Judged] = []
    for number, name in enumerate(names, start=1):
        try:
            text = herd.read(name, sys.stdin.buffer)
        except InputError as error:
            judged.append(Judged(name, "", trouble=Trouble.DAMAGED, reason=str(error)))
            continue
        judged += herd.judge_text(
            text,
            name,
            ets2=asked.ets2,
            kinds=kinds,
            limit=asked.limit,
            tell=partial(_progress, f"{number}/{len(names)}"),
        )
    if len(names) == 1 and judged[0].trouble in (Trouble.DAMAGED, Trouble.MISSING):
        raise InputError(printable(judged[0].reason))
    if asked.json:
        print(json.dumps([one.to_json() for one in judged], indent=2))
    else:
        print(printable(report(judged, witnesses=len(names) == 1)))
    return status(judged)


def status(judged: list[Judged]) -> int:
    """Return the exit status for what came of some tests."""
    if any(one.trouble is Trouble.DAMAGED for one in judged):
        return DAMAGED
    if any(one.disagrees or one.trouble is Trouble.TOO_LARGE for one in judged):
        return DISAGREES
    return 0


def report(judged: list[Judged], *, witnesses: bool) -> str:
    """Return a table of the verdicts, and what is to be said of some of them.

    Args:
        judged: What came of each test.
        witnesses: Whether to tell an execution that shows the verdict.
    """
    parts = []
    decided = [one for one in judged if one.verdict]
    if decided:
        rows = [
            [
                one.test,
                one.verdict,
                (one.expected or "-") + (" <- differs" if one.disagrees else ""),
                f"{one.states:,}",
            ]
            for one in decided
        ]
        parts.append(table(["test", "verdict", "expected", "states"], rows))
    undecided = [one for one in judged if not one.verdict]
    if undecided:
        lines = [f"  {one.reason}" for one in undecided]
        parts.append("\n".join([f"{len(undecided)} without a verdict:", *lines]))
    for one in decided if witnesses else ():
        if one.witness is not None:
            ends = "ends so" if one.verdict.lower() == "allowed" else "ends otherwise"
            steps = [f"  {step}" for step in one.witness]
            parts.append("\n".join([f"{one.test}: one execution that {ends}", *steps]))
    doubted = [f"  {one.test}: {doubt}" for one in judged for doubt in one.doubts]
    if doubted:
        parts.append("\n".join(["is this meant?", *doubted]))
    if len(judged) > 1:
        compared = [one for one in decided if one.expected]
        wrong = sum(one.disagrees for one in compared)
        parts.append(
            f"{len(judged)} tests, {len(decided)} verdicts: {len(compared) - wrong} as "
            f"expected, {wrong} not, {len(decided) - len(compared)} not compared"
        )
    return "\n\n".join(parts)


def printable(text: str) -> str:
    """Return a text as the terminal can print it, without its control characters."""
    shown = "".join(
        sign if sign == "\n" or sign.isprintable() else ascii(sign)[1:-1]
        for sign in text
    )
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _progress(place: str, test: str) -> None:
    """Say which test it is at, if standard error is a terminal."""
    if sys.stderr.isatty():
        print(f"{place} {printable(test)}", file=sys.stderr, flush=True)
