"""The event stream: everything that happens on a machine, told to whoever listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container

    Listener = Callable[["Event"], None]


class Event(NamedTuple):
    """One thing that happened.

    Attributes:
        number: Running number on this machine; equal times do not exist.
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


# Makes a named tuple of a plain one without the detour through its keyword-taking
# constructor, which would be half the price of an event.
_new = tuple.__new__


class _EveryKind:
    """The set of all kinds, of which there is no list."""

    def __contains__(self, kind: object) -> bool:
        return True


class Stream:
    """The listeners of one machine, and the way to tell them.

    Emitters ask `heard` first, so an event that nobody listens to is never built::

        if "dsb" in events.heard:
            events.emit(cpu, "dsb", "ish")

    Attributes:
        heard: The kinds that somebody listens to.
        number: Of the last event that somebody heard.
    """

    __slots__ = ("_all", "_by_kind", "_listeners", "heard", "number")

    def __init__(self) -> None:
        self.heard: Container[str] = frozenset()
        self.number = 0
        self._listeners: list[tuple[Listener, frozenset[str] | None]] = []
        self._by_kind: dict[str, tuple[Listener, ...]] = {}
        self._all: tuple[Listener, ...] = ()

    def emit(
        self,
        cpu: int,
        kind: str,
        what: Any = None,
        old: Any = None,
        new: Any = None,
        why: str = "",
    ) -> None:
        """Tell those who hear *kind*, in the order in which they began to listen."""
        self.number = number = self.number + 1
        event = _new(Event, (number, cpu, kind, what, old, new, why))
        for listener in self._by_kind.get(kind, self._all):
            listener(event)

    def listen(self, listener: Listener, kinds: Collection[str] | None = None) -> None:
        """Add a listener; it hears everything from now on, or only some *kinds*.

        To hear few kinds costs little: those that nobody hears are not built.
        """
        wanted = None if kinds is None else frozenset(kinds)
        self._listeners.append((listener, wanted))
        self._sort_out()

    def leave(self, listener: Listener) -> None:
        """Remove a listener that was added; others are not disturbed."""
        del self._listeners[[one for one, _ in self._listeners].index(listener)]
        self._sort_out()

    def _sort_out(self) -> None:
        """Work out who hears which kind."""
        self._all = tuple(one for one, kinds in self._listeners if kinds is None)
        named = frozenset[str]().union(*(kinds or () for _, kinds in self._listeners))
        self._by_kind = {
            kind: tuple(
                one for one, kinds in self._listeners if kinds is None or kind in kinds
            )
            for kind in named
        }
        self.heard = _EveryKind() if self._all else named
