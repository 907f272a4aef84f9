"""A watch for the flush that break-before-make needs between the break and the make.

Each TLB entry is remembered with the descriptor that it was made from. A store that
makes another translation of that descriptor, while a TLB still holds the old one, has
come too early: that CPU may use either, and its TLB may hold both.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.conflicts import BreakBeforeMakeError, needs_break
from tlbkit.arm64.tlb import WALK_CACHE, CachedTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine
    from tlbkit.arm64.tlb import Entry


@contextmanager
def break_before_make(machine: Machine) -> Iterator[None]:
    """Watch for a descriptor that becomes valid before the one before it is flushed.

    Until the end of the ``with`` block, out of the store that does so:

    Raises:
        BreakBeforeMakeError: a TLB or walk cache still holds the old translation.
    """
    watch = _Watch(machine)
    handlers = {"store": watch.store, "fill": watch.fill, "drop": watch.drop}
    for kind, handler in handlers.items():
        machine.events.listen(handler, {kind})
    try:
        yield
    finally:
        for handler in handlers.values():
            machine.events.leave(handler)


class _Watch:
    """Knows from which descriptors the contents of all TLBs were made."""

    def __init__(self, machine: Machine) -> None:
        self._resizes = machine.model.bbml2_noabort
        # Descriptor address -> who holds what was made from it -> the descriptor.
        self._live: dict[int, dict[tuple[Any, ...], int]] = {}
        for tlb in machine.tlbs:
            for array in tlb.arrays:
                for entry in array:
                    self._note(tlb.cpu, array.name, entry)
            for cached in tlb.walk.items():
                self._note(tlb.cpu, WALK_CACHE, cached)

    def store(self, event: Event) -> None:
        pa, new = event.what, event.new
        for (cpu, structure, _), old in self._live.get(pa, {}).items():
            if needs_break(old, new, resizes=self._resizes):
                raise BreakBeforeMakeError(
                    pa, old, new, f"while {structure} of CPU {cpu} still held the old"
                )

    def fill(self, event: Event) -> None:
        self._note(event.cpu, event.new, event.what)

    def drop(self, event: Event) -> None:
        for pa, _ in _sources(event.what):
            del self._live[pa][event.cpu, event.old, event.what]

    def _note(self, cpu: int, structure: str, what: Entry | CachedTable) -> None:
        for pa, descriptor in _sources(what):
            self._live.setdefault(pa, {})[cpu, structure, what] = descriptor


def _sources(what: Entry | CachedTable) -> Iterator[tuple[int, int]]:
    """Yield where each descriptor stands that *what* speaks for, and what it was."""
    if isinstance(what, CachedTable):
        yield what.table.descriptor_pa, what.table.descriptor
        return
    leaf = what.leaf
    last = (1 << max(what.shift, leaf.shift) - leaf.shift) - 1
    others = last << leaf.shift
    index = (what.descriptor & others) >> leaf.shift
    for n in range(last + 1):
        descriptor = what.descriptor & ~others | n << leaf.shift
        yield what.descriptor_pa + 8 * (n - index), descriptor
