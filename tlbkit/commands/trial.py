"""``try``: what a patch of your own saves, and what it breaks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tlbkit import lab
from tlbkit.errors import InputError, TlbkitError
from tlbkit.patches import registry
from tlbkit.show.text import table

if TYPE_CHECKING:
    import argparse

    from tlbkit.lab.trial import Trial

_SHOWN = 40
"""How many steps of a way are printed; JSON has them all."""


class RejectedError(TlbkitError):
    """A patch breaks something."""


def add_try(one: argparse.ArgumentParser) -> None:
    """Say what ``try`` takes."""
    one.add_argument(
        "patch", type=Path, metavar="PATCH.py", help="see tlbkit.lab.trial; it is run"
    )
    one.add_argument(
        "--kernel",
        default=registry.DEFAULT_KERNEL,
        metavar="NAME",
        help="the kernel that it is laid over; default %(default)s",
    )
    one.add_argument(
        "--preemptions",
        type=int,
        default=1,
        metavar="N",
        help="search each meeting up to so many; default %(default)s",
    )
    one.add_argument(
        "--programs",
        type=int,
        default=100,
        metavar="N",
        help="how many random programs; default %(default)s",
    )
    one.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="of the first random program; default %(default)s",
    )


def attempt(asked: argparse.Namespace) -> None:
    """Try a patch, and end with status 1 if it breaks something."""
    try:
        from tlbkit.lab import trial  # noqa: PLC0415 - no other needs greenlet
    except ModuleNotFoundError as error:
        raise InputError(f"try needs {error.name}: pip install {error.name}") from None
    for name, low in (("preemptions", 0), ("programs", 0)):
        if getattr(asked, name) < low:
            raise InputError(f"--{name} {getattr(asked, name)}: at least {low}")
    found = trial.attempt(
        trial.load_patch(asked.patch),
        asked.kernel,
        scenarios=lab.SCENARIOS.values(),
        preemptions=asked.preemptions,
        programs=asked.programs,
        seed=asked.seed,
        tell=_tell,
    )
    if asked.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print(report(found))
    if found.breaks:
        raise RejectedError(
            f"{found.patch.name} breaks {len(found.breaks)}: {found.breaks[0].where}"
        )


def _tell(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def report(found: Trial) -> str:
    """Return a trial as a reviewer reads it."""
    lines = [
        f"{found.patch.title} ({found.patch.name}), over {found.kernel}",
        f"new bodies: {', '.join(sorted(found.patch.functions))}",
        "",
    ]
    if found.changes:
        rows = [
            [one.scenario, one.what, str(one.without), str(one.with_it)]
            for one in found.changes
        ]
        lines.append(table(["scenario", "what", "without", "with it"], rows))
    else:
        lines.append("No scenario issues anything else.")
    runs = sum(found.meetings.values())
    tried = f"{runs:,} schedules of them and {found.programs} random programs"
    lines += ["", f"{len(found.meetings)} meetings enter the new bodies; tried were"]
    lines.append(f"{tried}.")
    for one in found.breaks:
        lines += ["", f"BREAKS {one.where}: {one.error}"]
        lines += [f"  {step}" for step in one.way[-_SHOWN:]]
    if not found.breaks:
        lines.append("Nothing breaks.")
    lines += [
        f"Nothing breaks without {point!r} either: is it needed?"
        for point in found.needless
    ]
    return "\n".join(lines)
