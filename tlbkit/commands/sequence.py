"""``sequence``: whether a flush sequence in assembly is right."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tlbkit.errors import InputError, TlbkitError
from tlbkit.lab.sequence import EXAMPLES, judge, read_sequence

if TYPE_CHECKING:
    import argparse

    from tlbkit.lab.sequence import Judgement

_LARGEST: Final = 1 << 20


class HarmfulError(TlbkitError):
    """A flush sequence leaves somebody with what is no longer theirs."""


def add_sequence(one: argparse.ArgumentParser) -> None:
    """Say what ``sequence`` takes."""
    one.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="stores, barriers and TLBIs for each CPU (see tlbkit.lab.sequence.form); "
        f"- is standard input; or one of the examples {', '.join(EXAMPLES)}",
    )


def sequence(asked: argparse.Namespace) -> None:
    """Judge each sequence, and end with status 1 if one does harm."""
    found = [judge(read_sequence(_text(name), name)) for name in asked.files]
    if asked.json:
        print(json.dumps([one.to_json() for one in found], indent=2))
    else:
        print("\n\n".join(map(report, found)))
    harmful = [one.sequence.name for one in found if one.harm]
    if harmful:
        raise HarmfulError(f"{', '.join(harmful)}: harm was found")


def report(one: Judgement) -> str:
    """Return a judgement in words."""
    name = one.sequence.name
    issued = ", ".join(f"{n} TLBI {form}" for form, n in one.counts.tlbi.items())
    lines = [
        f"{name}, on {one.sequence.cpus} CPUs of {one.sequence.model.name}",
        f"issues {issued or 'no TLBI'}; DSBs that complete one: {one.counts.flushes}",
    ]
    if one.harm:
        lines += [f"HARM: {one.harm}", "in this order:"]
        return "\n".join([*lines, *(f"  {step}" for step in one.way)])
    orders = "1 order was" if one.runs == 1 else f"{one.runs:,} orders were"
    whole = "" if one.complete else ", and there are more"
    lines.append(f"no harm found: {orders} tried{whole}")
    lines += [
        f"line {step.line}: nothing goes wrong here without {step.text!r}"
        for step in one.needless
    ]
    return "\n".join([*lines, *one.advice])


def _text(name: str) -> str:
    """Return a sequence by the name of its file, or of an example."""
    try:
        if name == "-":
            return sys.stdin.read(_LARGEST)
        path = Path(name)
        if name in EXAMPLES and not path.exists():
            return EXAMPLES[name].text
        with path.open(encoding="utf-8") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise InputError(
            f"{name}: {error.strerror}; examples are {', '.join(EXAMPLES)}"
        ) from None
    except ValueError:
        raise InputError(f"{name}: this is not a text file in UTF-8") from None
