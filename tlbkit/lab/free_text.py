"""What a reader may write where an exploration takes text: numbers, fields."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEX = re.compile("0[xX][0-9a-fA-F]+")


def number(name: str, text: object, bits: int = 64) -> int:
    """The number that *text* writes, in decimal or in hex, grouped as you like.

    Args:
        name: The parameter, for the message.
        text: What was written.
        bits: How many the number may have.

    Raises:
        InputError: It is not a number, or too large a one.

    >>> hex(number("va", "0xffff_b7e3_1234"))
    '0xffffb7e31234'
    """
    digits = re.sub(r"[_'\s]", "", str(text))
    if _HEX.fullmatch(digits):
        value = int(digits, 16)
    elif digits.isascii() and digits.isdigit():
        value = int(digits)
    else:
        raise InputError(f"{name}={text!r}: write a number, as 0xffff_b7e3_1234 or 42")
    if value >> bits:
        raise InputError(f"{name}={text!r}: {value:#x} has more than {bits} bits")
    return value


def fields(name: str, text: object, widths: Mapping[str, int]) -> dict[str, int]:
    """The register fields that *text* sets, such as ``T0SZ=25 TBI0=1``.

    Args:
        name: The parameter, for the message.
        text: What was written; fields are parted by spaces or commas.
        widths: The fields that there are, and how many bits each has.

    Raises:
        InputError: There is no such field, or the value does not fit into it.

    >>> fields("tcr", "T0SZ=25, TBI0=1", {"T0SZ": 6, "TBI0": 1})
    {'T0SZ': 25, 'TBI0': 1}
    """
    found: dict[str, int] = {}
    for part in re.split(r"[\s,]+", str(text).strip()):
        if not part:
            continue
        field, _, value = part.partition("=")
        if field not in widths:
            raise InputError(
                f"{name}: {part!r} sets no field; write NAME=VALUE with one of "
                + ", ".join(widths)
            )
        found[field] = number(f"{name}: {field}", value, widths[field])
    return found


def numbers(name: str, text: object, most: int, bits: int = 64) -> list[int]:
    """The numbers that *text* lists, parted by spaces or commas.

    Args:
        name: The parameter, for the message.
        text: What was written.
        most: How many there may be; at least one there must be.
        bits: How many each may have.

    Raises:
        InputError: It is not such a list.

    >>> numbers("pages", "1 2, 3", most=10)
    [1, 2, 3]
    """
    parts = [part for part in re.split(r"[\s,]+", str(text).strip()) if part]
    if not 1 <= len(parts) <= most:
        raise InputError(f"{name}={text!r}: write 1 to {most} numbers, as 1 2 3")
    return [number(name, part, bits) for part in parts]
