"""Names that people type: of points and of meetings."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection

_CLOSE = 5


def check(what: str, name: str, known: Collection[str], command: str) -> None:
    """Make sure that there is what a name names.

    Args:
        what: What it is, as ``"point"``.
        name: Its name.
        known: The names that there are.
        command: Lists them all.

    Errors:
        InputError: There is nothing of that name; those like it are told.

    >>> check("meeting", "protekt", ("protect", "unmap"), "tlbkit meetings")
    Traceback (most recent call last):
    tlbkit.errors.InputError: no meeting is called 'protekt'; close to it: 'protect'; \
all of them: tlbkit meetings
    """
    if name in known:
        return
    words = name.split()
    close = get_close_matches(name, known, _CLOSE, 0.5) or [
        one for one in known if set(words) & set(one.split())
    ]
    said = ", ".join(map(repr, close[:_CLOSE]))
    hint = f"close to it: {said}; " if close else ""
    raise InputError(f"no {what} is called {name!r}; {hint}all of them: {command}")
