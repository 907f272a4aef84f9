"""The words of a trace as values: numbers, flags, arguments in brackets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_OPEN: Final = {"(": ")", "[": "]", "{": "}"}
_SPECIAL: Final = re.compile(r'["()\[\]{},]|/\*')
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"(?:\.\.\.)?')
_NUMBER: Final = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+)")
_MOST_DIGITS: Final = 20  # of a number of 64 bits


def split(text: str) -> list[str]:
    """Cut a list of arguments at its commas, but not inside brackets and strings.

    >>> split('0x10, {a=1, b=[2, 3]}, "x, y"')
    ['0x10', '{a=1, b=[2, 3]}', '"x, y"']
    >>> split("")
    []
    """
    found: list[str] = []
    depth = start = at = 0
    while special := _SPECIAL.search(text, at):
        at = special.end()
        mark = special[0]
        if mark == '"':
            string = _STRING.match(text, special.start())
            at = string.end() if string else len(text)
        elif mark == "/*":
            end = text.find("*/", at)
            at = len(text) if end < 0 else end + 2
        elif mark in _OPEN:
            depth += 1
        elif mark == ",":
            if not depth:
                found.append(text[start : special.start()].strip())
                start = at
        else:
            depth = max(0, depth - 1)
    last = text[start:].strip()
    return [*found, last] if last or found else []


def number(text: str) -> int | None:
    """Return the number with which a word begins, or ``None``; NULL is 0.

    A descriptor is followed by its path, ``4</etc/hosts>``, which is passed over.

    >>> number("0x1f"), number("4</etc/hosts>"), number("NULL"), number("PROT_READ")
    (31, 4, 0, None)
    """
    if text.startswith("NULL"):
        return 0
    found = _NUMBER.match(text)
    if not found or len(found[0]) > _MOST_DIGITS:
        return None
    return int(found[0], 0) if "x" in found[0].lower() else int(found[0])


def path(text: str) -> str:
    """Return the path that follows a descriptor, or is a string; else nothing.

    >>> path("4</etc/hosts>"), path('"/bin/sh"'), path("3")
    ('/etc/hosts', '/bin/sh', '')
    """
    if text.startswith('"'):
        return text.strip('".')
    found = re.match(r"\d+<(.*?)>(?:\(deleted\))?$", text)
    return found[1].removesuffix("(deleted)") if found else ""


def flags(text: str, known: Mapping[str, int], prefixes: Iterable[str] = ()) -> int:
    """Return the bits of flags by name or number, joined by ``|``.

    Names that are not known count as nothing.

    >>> flags("MAP_PRIVATE|0x20", {"MAP_PRIVATE": 2})
    34
    >>> flags("READ|WRITE", {"PROT_READ": 1, "PROT_WRITE": 2}, ("PROT_",))
    3
    """
    bits = 0
    for word in text.split("|"):
        name = word.strip()
        value = number(name)
        if value is None:
            for prefix in ("", *prefixes):
                value = known.get(prefix + name)
                if value is not None:
                    break
        bits |= value or 0
    return bits


def fields(text: str) -> dict[str, str]:
    """Return what a structure in braces holds, by name.

    >>> fields("{range={start=0x1000, len=0x2000}, mode=1}")
    {'range': '{start=0x1000, len=0x2000}', 'mode': '1'}
    """
    inner = text.strip()
    inner = inner.removeprefix("{").removesuffix("}")
    pairs = (part.partition("=") for part in split(inner))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}
