"""Who holds which locks, and who takes them in what order.

A deadlock needs a schedule in which everybody has the first lock and waits for the
second. To know that there could be one it is enough to see the orders: those of all
schedules that a search tries are put together here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.callers import caller

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

    from tlbkit.arm64.events import Event
    from tlbkit.linux.kernel.locking import RwSemaphore, SpinLock

    Lock = SpinLock | RwSemaphore

_READ: Final = "read"
_HELPERS: Final = (
    "tlbkit.arm64.events",
    "tlbkit.linux.kernel.locking",
    __name__,
    "contextlib",
)


class Taking(NamedTuple):
    """One lock that a flow took while it held another.

    Attributes:
        flow: Who, by name.
        held: The lock that it held, by name.
        taken: The lock that it took, by name.
        place: Where it took that: function, module and line.
    """

    flow: str
    held: str
    taken: str
    place: str

    def __str__(self) -> str:
        """Say who took what, and where."""
        return f"{self.flow} takes {self.taken} with {self.held} held, in {self.place}"


class Crossing(NamedTuple):
    """Locks that flows take in orders that can end in a deadlock.

    Attributes:
        takings: One of each flow; each takes what the next one holds, and the last one
            takes what the first one holds.
    """

    takings: tuple[Taking, ...]

    def __str__(self) -> str:
        """Name the locks, the flows and the places."""
        return "lock order: " + "; ".join(map(str, self.takings))


class _Order(NamedTuple):
    """A taking, and what tells whether it can meet another one.

    Attributes:
        taking: For people.
        cpu: Of the flow.
        first: The lock that was held.
        second: The lock that was taken.
        got: How it was taken.
        held: All that was held, and how.
    """

    taking: Taking
    cpu: int
    first: Hashable
    second: Hashable
    got: str
    held: Mapping[Hashable, str]

    def waits_for(self, other: _Order) -> bool:
        """Tell whether this one waits while the other has what it had first."""
        return self.second == other.first and not (
            self.got == _READ == other.held[other.first]
        )

    def meets(self, other: _Order) -> bool:
        """Tell whether both can be there at once: two flows, and no lock between."""
        return self.cpu != other.cpu and all(
            how == _READ == other.held[lock]
            for lock, how in self.held.items()
            if lock in other.held
        )

    @property
    def key(self) -> Hashable:
        """What an order like it is known by."""
        held = frozenset(self.held.items())
        return self.cpu, self.first, self.second, self.got, held


class LockOrders:
    """The orders in which flows take locks, over many runs of one scenario.

    A lock is known by its name, which is the same in each run. Where two locks of a run
    share a name, it does not tell them apart: those are compared within a run alone.

    Attributes:
        crossings: What was found, in the order in which it was met.
    """

    __slots__ = ("_ambiguous", "_crossed", "_known", "_named", "_orders", "crossings")

    def __init__(self) -> None:
        self.crossings: list[Crossing] = []
        self._crossed: list[set[Hashable]] = []
        self._orders: list[_Order] = []
        self._known: set[Hashable] = set()
        self._named: dict[str, Lock] = {}
        self._ambiguous: set[str] = set()

    def begin(self) -> None:
        """A new run begins: its locks may be other objects."""
        self._named.clear()
        if self._ambiguous:
            self._forget(lambda lock: not isinstance(lock, str))

    def take(self, flow: str, held: Mapping[Lock, str], event: Event) -> None:
        """Note that a lock was taken by a flow that holds others.

        Args:
            flow: Its name.
            held: What it held, with how it had that.
            event: The taking.
        """
        keys = {self._key(lock): how for lock, how in held.items()}
        second = self._key(event.what)
        for lock, first in zip(held, tuple(keys), strict=True):
            taking = Taking(flow, lock.name, event.what.name, "")
            order = _Order(taking, event.cpu, first, second, event.new, keys)
            if order.key not in self._known:
                self._known.add(order.key)
                self._add(order._replace(taking=taking._replace(place=_place())))

    def _key(self, lock: Lock) -> Hashable:
        """Return what a lock is known by."""
        name = lock.name
        if name not in self._ambiguous:
            if self._named.setdefault(name, lock) is lock:
                return name
            self._ambiguous.add(name)
            self._forget(lambda known: known == name)
        return id(lock)

    def _forget(self, gone: Callable[[Hashable], bool]) -> None:
        """Forget the orders of some locks, by what they are known by."""
        self._orders = [
            one for one in self._orders if not any(map(gone, (one.second, *one.held)))
        ]
        self._known = {one.key for one in self._orders}

    def _add(self, order: _Order) -> None:
        """Note an order, and the crossing that it makes if it is a new one."""
        self._orders.append(order)
        way = next(self._ways((order,)), None)
        if way is not None:
            locks = {one.first for one in way}
            if locks not in self._crossed:
                self._crossed.append(locks)
                self.crossings.append(Crossing(tuple(one.taking for one in way)))

    def _ways(self, way: tuple[_Order, ...]) -> Iterator[tuple[_Order, ...]]:
        """Yield the rings of takings of different flows that begin with *way*."""
        if len(way) > 1 and way[-1].waits_for(way[0]):
            yield way
            return
        for following in self._orders:
            if way[-1].waits_for(following) and all(
                following.meets(one) for one in way
            ):
                yield from self._ways((*way, following))


class HeldLocks:
    """Follows who takes and releases what.

    Args:
        flows: The name of the flow of each CPU.
        orders: Is told of each lock that is taken while others are held.
    """

    __slots__ = ("_flows", "_held", "_orders")

    def __init__(self, flows: Mapping[int, str], orders: LockOrders) -> None:
        self._flows = flows
        self._orders = orders
        self._held: dict[int, dict[Lock, str]] = {}
        orders.begin()

    def of(self, cpu: int) -> tuple[str, ...]:
        """Return the names of the locks that a CPU holds, the oldest first."""
        return tuple(lock.name for lock in self._held.get(cpu, ()))

    def clear(self) -> None:
        """Forget everything: a new run begins, and nobody has taken anything yet."""
        self._held.clear()
        self._orders.begin()

    def hear(self, event: Event) -> None:
        """Take note of one event of the kind ``lock``."""
        held = self._held.setdefault(event.cpu, {})
        if event.new == "released":
            held.pop(event.what, None)  # it may be held since before this listens
            return
        if held and event.why != "trylock" and event.cpu in self._flows:
            self._orders.take(self._flows[event.cpu], held, event)
        held[event.what] = event.new


def _place() -> str:
    """Return where the lock is taken of which an event tells."""
    frame = caller()
    while frame.f_back is not None and frame.f_globals.get("__name__") in _HELPERS:
        frame = frame.f_back
    code, module = frame.f_code, frame.f_globals.get("__name__", "")
    return f"{code.co_name} ({module}:{frame.f_lineno})"
