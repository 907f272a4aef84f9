"""A world set back to its start, so that it is not made anew for each schedule.

Everything that a world holds is found by following what refers to what, once, as the
world stands at its start. To set it back is to put each field and each container to
what it was then. The objects stay the same ones, so whoever holds one goes on to do so;
what a run has made is forgotten.
"""

from __future__ import annotations

import re
from array import array
from collections import deque
from contextlib import nullcontext, suppress
from enum import Enum
from functools import partial
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    NoneType,
)
from typing import TYPE_CHECKING, Any, Final

from tlbkit.explore.compiled import check_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_CONSTANT: Final = (
    NoneType,
    int,
    float,
    str,
    bytes,
    range,
    slice,
    type,
    Enum,
    property,
    re.Pattern,
    nullcontext,
    CodeType,
    ModuleType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
)
_UNSET: Final = object()
_OURS: Final = "tlbkit."
_ONLOOKERS: Final = "tlbkit.explore"
"""The package whose own objects look on, and are set back by those who use them."""


class _UnknownKindError(Exception):
    """Something is of a kind of which it is not known how to set it back."""


class Snapshot:
    """What a world is at its start.

    Args:
        world: What is to be set back, with all that it leads to. Who looks on from
            this package is left alone.
        slots: The slots behind properties that stand in for them.

    Errors:
        ValueError: It holds something that cannot be set back, a generator for example.
        CompiledError: Its machine is compiled.
    """

    __slots__ = (
        "_arrays",
        "_cells",
        "_dicts",
        "_fields",
        "_lists",
        "_members",
        "_queues",
        "_sets",
        "_slots",
    )

    def __init__(
        self, world: object, slots: Mapping[property, MemberDescriptorType]
    ) -> None:
        check_plain()
        self._slots = slots
        self._members: dict[type, tuple[MemberDescriptorType, ...]] = {}
        self._lists: list[tuple[list[Any], list[Any]]] = []
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._sets: list[tuple[set[Any], set[Any]]] = []
        self._queues: list[tuple[deque[Any], tuple[Any, ...]]] = []
        self._arrays: list[tuple[Any, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._fields: list[tuple[Callable[[Any, Any], None], object, Any]] = []
        found: dict[int, object] = {}
        todo: list[object] = [world]
        try:
            while todo:
                thing = todo.pop()
                if id(thing) not in found and not isinstance(thing, _CONSTANT):
                    found[id(thing)] = thing
                    todo += self._keep(thing)
        except _UnknownKindError as error:
            raise ValueError(f"cannot be set back: {error}") from None

    def restore(self) -> None:
        """Set everything back."""
        for items, before in self._lists:
            items[:] = before
        for words, then in self._arrays:
            words[:] = then
        for table, entries in self._dicts:
            dict.clear(table)
            dict.update(table, entries)
        for members, those in self._sets:
            members.clear()
            members.update(those)
        for queue, waiting in self._queues:
            queue.clear()
            queue.extend(waiting)
        for put, thing, value in self._fields:
            put(thing, value)
        for cell, value in self._cells:
            cell.cell_contents = value

    def _keep(self, thing: Any) -> Iterable[object]:
        """Keep what *thing* is now; return what it leads to."""
        match thing:
            case tuple() | frozenset():
                return tuple(thing)
            case list():
                self._lists.append((thing, thing[:]))
                return (*thing, *self._keep_fields(thing))
            case dict():
                self._dicts.append((thing, dict(thing)))
                return (*thing, *thing.values(), *self._keep_fields(thing))
            case set():
                self._sets.append((thing, set(thing)))
                return tuple(thing)
            case deque():
                self._queues.append((thing, tuple(thing)))
                return tuple(thing)
            case array() | bytearray():
                self._arrays.append((thing, thing[:]))
                return ()
            case CellType():
                self._cells.append((thing, thing.cell_contents))
                return (thing.cell_contents,)
            case FunctionType():
                defaults = (thing.__kwdefaults__ or {}).values()
                return (
                    *(thing.__closure__ or ()),
                    *(thing.__defaults__ or ()),
                    *defaults,
                )
            case MethodType():
                return thing.__self__, thing.__func__
            case BuiltinFunctionType():
                return (thing.__self__,)
            case partial():
                return thing.func, thing.args, thing.keywords
        module = type(thing).__module__
        if not module.startswith(_OURS):
            raise _UnknownKindError(f"{type(thing).__qualname__} of {module}")
        if module.rpartition(".")[0] == _ONLOOKERS:
            return ()
        return self._keep_fields(thing)

    def _keep_fields(self, thing: Any) -> Iterator[object]:
        """Keep the fields of an object; yield what they hold."""
        kind = type(thing)
        members = self._members.get(kind)
        if members is None:
            members = self._members[kind] = tuple(self._members_of(kind))
        for member in members:
            try:
                value = member.__get__(thing)
            except AttributeError:
                value = _UNSET
            else:
                yield value
            self._fields.append((_putting(member, value), thing, value))
        fields = getattr(thing, "__dict__", None)
        if fields is not None:
            self._dicts.append((fields, dict(fields)))
            yield from tuple(fields.values())

    def _members_of(self, kind: type) -> Iterator[MemberDescriptorType]:
        """Yield the slots of a class."""
        for owner in kind.__mro__:
            for member in vars(owner).values():
                if isinstance(member, MemberDescriptorType):
                    yield member
                elif isinstance(member, property) and member in self._slots:
                    yield self._slots[member]


def _putting(member: MemberDescriptorType, value: object) -> Callable[[Any, Any], None]:
    """Return what puts a field to *value*, or empties it."""
    return _emptied(member) if value is _UNSET else member.__set__


def _emptied(member: MemberDescriptorType) -> Callable[[Any, Any], None]:
    def empty(thing: object, _: object) -> None:
        with suppress(AttributeError):  # it still is
            member.__delete__(thing)

    return empty
