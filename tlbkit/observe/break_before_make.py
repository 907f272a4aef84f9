"""A watch for the flush that break-before-make needs, on a machine without a kernel.

Each TLB entry is remembered with the descriptor that it was made from. A store that
makes another translation of that descriptor, while a TLB still holds the old one, has
come too early: that CPU may use either, and its TLB may hold both. What may change in
place is told by `tlbkit.arm64.conflicts`; no exception is made for pages that hold the
same and are read-only, for the reasons given at `fixed_bits` there. With a kernel,
`tlbkit.observe.sanitizer` says the same, and who owed the flush.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tlbkit.arm64.conflicts import BreakBeforeMakeError, needs_break
from tlbkit.observe.rules.holdings import Holdings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine


@contextmanager
def break_before_make(machine: Machine) -> Iterator[None]:
    """Watch for a descriptor that becomes valid before the one before it is flushed.

    Until the end of the ``with`` block, out of the store that does so:

    Raises:
        BreakBeforeMakeError: a TLB or walk cache still holds the old translation.
    """
    regimes = [cpu.current for cpu in machine.cpus if cpu.current is not None]
    holdings = Holdings(machine, regimes)

    def store(event: Event) -> None:
        pa, new = event.what, event.new
        for held in holdings.by_descriptor.get(pa, {}).values():
            old = held.descriptor(pa)
            if needs_break(old, new, resizes=machine.model.bbml2_noabort):
                where = f"while {held.where[0]} of CPU {held.cpu} still held the old"
                raise BreakBeforeMakeError(pa, old, new, where)

    def fill(event: Event) -> None:
        holdings.fill(event, ())

    def drop(event: Event) -> None:
        holdings.drop(event)

    handlers = {"store": store, "fill": fill, "drop": drop}
    machine.events.listen_by_kind(handlers)
    try:
        yield
    finally:
        machine.events.leave(*handlers.values())
