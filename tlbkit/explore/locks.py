"""Which locks each CPU holds: for who must say why nobody can go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlbkit.arm64.events import Event


class HeldLocks:
    """Follows who takes and releases what."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[int, list[str]] = {}

    def of(self, cpu: int) -> tuple[str, ...]:
        """Return the names of the locks that a CPU holds, the oldest first."""
        return tuple(self._held.get(cpu, ()))

    def hear(self, event: Event) -> None:
        """Take note of one event of the kind ``lock``."""
        held = self._held.setdefault(event.cpu, [])
        if event.new != "released":
            held.append(event.what.name)
        elif event.what.name in held:  # it may be held since before this listens
            held.remove(event.what.name)

    def clear(self) -> None:
        """Forget everything: nobody has taken anything yet."""
        self._held.clear()
