"""The event stream: everything that happens on a machine, told to whoever listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Event(NamedTuple):
    """One thing that happened.

    Attributes:
        number: Running number on this machine, from 1; equal times do not exist.
        cpu: Number of the CPU that did it.
        kind: What it is: ``"store"``, ``"tlbi"``, ``"dsb"``, ``"fill"``, ``"drop"``,
            ``"fault"`` and so on; each emitter documents its kinds.
        what: What it touched; the emitter of the kind says of which type.
        old: The value before, where there was one.
        new: The value after, where there is one.
        why: The reason, in words.
    """

    number: int
    cpu: int
    kind: str
    what: Any
    old: Any
    new: Any
    why: str


class Stream:
    """The listeners of one machine, and the way to tell them.

    Emitters ask `heard` first, so an event that nobody listens to is never built::

        if events.heard:
            events.emit(cpu, "dsb", "ish")
    """

    __slots__ = ("_listeners", "heard", "number")

    def __init__(self) -> None:
        self.heard = False
        self.number = 0
        self._listeners: tuple[Callable[[Event], None], ...] = ()

    def emit(
        self,
        cpu: int,
        kind: str,
        what: Any = None,
        old: Any = None,
        new: Any = None,
        why: str = "",
    ) -> None:
        """Tell every listener, in the order in which they began to listen."""
        self.number += 1
        event = Event(self.number, cpu, kind, what, old, new, why)
        for listener in self._listeners:
            listener(event)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Add a listener; it hears everything from now on."""
        self._listeners = (*self._listeners, listener)
        self.heard = True

    def leave(self, listener: Callable[[Event], None]) -> None:
        """Remove a listener that was added; others are not disturbed."""
        left = list(self._listeners)
        left.remove(listener)
        self._listeners = tuple(left)
        self.heard = bool(left)
