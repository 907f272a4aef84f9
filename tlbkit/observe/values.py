"""The values of a recording as JSON can hold them, and back again without a loss."""

from __future__ import annotations

from typing import Any, Final

from tlbkit.arm64.cached import Entry
from tlbkit.arm64.leaf import Leaf
from tlbkit.arm64.walk import Table
from tlbkit.errors import InputError

_SMALL: Final = 1 << 16
_LEAF: Final = (
    "level",
    "shift",
    "group_shift",
    "not_global",
    "permissions",
    "permissions_dirty",
    "young",
    "attr",
    "sh",
)
_TUPLES: Final[dict[str, Any]] = {"entry": Entry, "table": Table}


def plain(value: Any) -> Any:
    """Return *value* as JSON can hold it.

    Tuples are lists, large numbers hex strings, and what a TLB holds an object with one
    member that says what it is: ``{"entry": [...]}``.

    >>> plain(("word", 0x12345678))
    ['word', '0x12345678']

    Raises:
        InputError: nothing of this kind is part of a recording.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -_SMALL < value < _SMALL else hex(value)
    if isinstance(value, str):
        return {"text": value} if _is_number(value) else value
    if isinstance(value, Leaf):
        return {"leaf": [plain(getattr(value, name)) for name in _LEAF]}
    for name, kind in _TUPLES.items():
        if isinstance(value, kind):
            return {name: [plain(item) for item in value]}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    raise InputError(f"{value!r} is nothing that a recording holds")


def restored(value: Any) -> Any:
    """Return the value that `plain` made *value* of.

    >>> restored(plain(("word", 0x12345678)))
    ('word', 305419896)
    """
    if isinstance(value, list):
        return tuple(restored(item) for item in value)
    if isinstance(value, str):
        return int(value, 16) if _is_number(value) else value
    if not isinstance(value, dict):
        return value
    ((name, inner),) = value.items()
    if name == "text":
        return inner
    items = [restored(item) for item in inner]
    return Leaf(*items) if name == "leaf" else _TUPLES[name](*items)


def _is_number(text: str) -> bool:
    return text.startswith(("0x", "-0x"))
