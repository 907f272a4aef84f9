"""Two kernels, one input: what differs, and where it begins."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tlbkit.lab.result import Comparison, Difference
from tlbkit.lab.run import run
from tlbkit.observe.words import describe, same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine
    from tlbkit.lab.parameter import Value
    from tlbkit.lab.scenario import Scenario
    from tlbkit.lab.variant import Variant


class Parting:
    """Follows a run along the way of an earlier one, up to where it leaves that.

    It listens no longer than it must: events that nobody hears are not built.

    Args:
        way: The events of the earlier run.
    """

    def __init__(self, way: Sequence[Event]) -> None:
        self._way = way
        self._step = 0
        self._left: Event | None = None

    @property
    def difference(self) -> Difference | None:
        """Where both part; ``None`` if they never do. To be asked at the end."""
        if self._left is None and self._step == len(self._way):
            return None
        expected = self._way[self._step] if self._step < len(self._way) else None
        return Difference(
            self._step,
            None if expected is None else describe(expected),
            None if self._left is None else describe(self._left),
        )

    def hear(self, event: Event) -> bool:
        """Take the next event; true as long as the way is the same."""
        if self._step == len(self._way) or not same(self._way[self._step], event):
            self._left = event
            return False
        self._step += 1
        return True

    @contextmanager
    def following(self, machine: Machine) -> Iterator[None]:
        """Follow what *machine* does from here to the end of the ``with`` block."""

        def listen(event: Event) -> None:
            if not self.hear(event):
                machine.events.leave(listen)

        machine.events.listen(listen)
        try:
            yield
        finally:
            if self._left is None:
                machine.events.leave(listen)


def compare(
    scenario: Scenario,
    params: Mapping[str, Value] | None = None,
    before: Variant | None = None,
    after: Variant | None = None,
    cpu: str | None = None,
) -> Comparison:
    """Run a scenario on two kernels with the same input.

    Args:
        scenario: What to run.
        params: Values of parameters; the others have their defaults.
        before: The first kernel; the scenario's own if not given.
        after: The second kernel, likewise.
        cpu: A CPU model by name; the scenario's own if not given.

    Errors:
        InputError: As `tlbkit.lab.run.run`.
    """
    way: list[Event] = []
    one = run(scenario, params, before or scenario.before, cpu, around=keeping(way))
    parting = Parting(way)
    other = run(
        scenario, params, after or scenario.after, cpu, around=parting.following
    )
    return Comparison(one, other, parting.difference)


def keeping(
    events: list[Event],
) -> Callable[[Machine], AbstractContextManager[None]]:
    """Return what puts everything that a machine does into *events*."""

    @contextmanager
    def kept(machine: Machine) -> Iterator[None]:
        machine.events.listen(events.append)
        try:
            yield
        finally:
            machine.events.leave(events.append)

    return kept
