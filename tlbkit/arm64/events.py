"""The event stream: everything that happens on a machine, told to whoever listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Mapping

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

    Listeners only look. Whoever wants to act between events, to let another CPU run for
    example, is the one `scheduler`: it is called when all listeners know of an event.
    What must not be torn apart, such as a walk and the access that it is for, keeps its
    events back with `hold` and tells them together; then the scheduler is called once.

    Attributes:
        heard: The kinds that somebody listens to; empty if nobody listens.
        held: The events that are kept back, or ``None`` if they are told at once.
        number: Of the last event that somebody heard.
    """

    __slots__ = (
        "_all",
        "_by_kind",
        "_listeners",
        "_scheduled",
        "_scheduler",
        "heard",
        "held",
        "number",
    )

    def __init__(self) -> None:
        self.heard: Container[str] = frozenset()
        self.number = 0
        self._listeners: list[tuple[Listener, frozenset[str] | None]] = []
        self._scheduler: Listener | None = None
        self._scheduled: frozenset[str] | _EveryKind = frozenset()
        self._by_kind: dict[str, tuple[Listener, ...]] = {}
        self._all: tuple[Listener, ...] = ()
        self.held: list[Event] | None = None

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
        if self.held is not None:
            self.held.append(event)
            return
        for listener in self._by_kind.get(kind, self._all):
            listener(event)
        if self._scheduler is not None and kind in self._scheduled:
            self._scheduler(event)

    def hold(self) -> bool:
        """Keep events back; true if it is up to the caller to `release` them."""
        if self.held is not None:
            return False
        self.held = []
        return True

    def release(self) -> None:
        """Tell the events that were kept back."""
        held, self.held = self.held or (), None
        for event in held:
            for listener in self._by_kind.get(event.kind, self._all):
                listener(event)
        if self._scheduler is not None:
            scheduled = [event for event in held if event.kind in self._scheduled]
            if scheduled:
                self._scheduler(scheduled[-1])

    def listen(self, listener: Listener, kinds: Collection[str] | None = None) -> None:
        """Add a listener; it hears everything from now on, or only some *kinds*.

        To hear few kinds costs little: those that nobody hears are not built.
        """
        wanted = None if kinds is None else frozenset(kinds)
        self._listeners.append((listener, wanted))
        self._sort_out()

    def listen_by_kind(self, listeners: Mapping[str, Listener]) -> None:
        """Add a listener for each kind."""
        self._listeners += [
            (listener, frozenset((kind,))) for kind, listener in listeners.items()
        ]
        self._sort_out()

    def leave(self, *listeners: Listener) -> None:
        """Remove listeners that were added; others are not disturbed."""
        left = self._listeners.copy()
        for listener in listeners:
            del left[[one for one, _ in left].index(listener)]
        self._listeners = left
        self._sort_out()

    def schedule(
        self, scheduler: Listener | None, kinds: Collection[str] | None = None
    ) -> None:
        """Let *scheduler*, the only one, act after each event, or after some *kinds*.

        ``None`` ends that. Of events that were kept back it is given the last.
        """
        self._scheduler = scheduler
        self._scheduled = _EveryKind() if kinds is None else frozenset(kinds)
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
        scheduled = self._scheduled if self._scheduler is not None else frozenset[str]()
        if self._all or isinstance(scheduled, _EveryKind):
            self.heard = _EveryKind()
        else:
            self.heard = named.union(scheduled)
