"""Verdicts that somebody has for tests, as a `kinds.txt` of herd7."""

from __future__ import annotations

from tlbkit.errors import InputError
from tlbkit.explore.herd.text import shown

VERDICTS = {
    "allow": "Allowed",
    "allowed": "Allowed",
    "forbid": "Forbidden",
    "forbidden": "Forbidden",
    "require": "Required",
    "required": "Required",
}
"""What a line can say, in lower case, and how it is said here."""

UNDECIDED = ("order", "undefined")
"""What a line can say that is no verdict."""


def load_kinds(text: str, source: str) -> dict[str, str]:
    """Read a list of verdicts: on each line the name of a test and its verdict.

    Empty lines, a name without a verdict (herd7's own lists have one), and what follows
    a verdict are passed over; so is what follows a `#`.

    Raises:
        InputError: A line says something else, or a test has two different verdicts.
    """
    kinds: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        name, *said = words
        word = said[0].lower() if said else ""
        if word in UNDECIDED or not said:
            continue
        if word not in VERDICTS:
            raise InputError(
                f"{source}:{number}: {shown(line)}: a line is the name of a test and "
                "Allowed, Forbidden or Required"
            )
        verdict = VERDICTS[word]
        if kinds.setdefault(name, verdict) != verdict:
            raise InputError(
                f"{source}:{number}: {shown(name)} is {kinds[name]} in an earlier line"
            )
    return kinds
