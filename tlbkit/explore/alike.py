"""One schedule taken by two kernels that do not make the same steps.

Steps are counted, so a schedule by numbers means something else on a kernel that makes
more of them. Here it is told by what each flow has done when another goes on; what a
kernel does beside that, it does in between.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from tlbkit.explore.loads import watching_loads
from tlbkit.explore.scheduler import Run, StopRunError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine
    from tlbkit.explore.scheduler import Scenario, Schedule

Tape = tuple[tuple[int, tuple[Any, ...]], ...]
"""What was done, in order: the flow, and the deed as both kernels would tell it."""

_SELDOM: Final = frozenset({"drop", "fill", "stat", "walk"})
"""What an event leads to is not told: it may differ where the deed does not."""


def taped(
    scenario: Scenario,
    schedule: Schedule,
    around: Callable[[Machine], AbstractContextManager[Any]],
    *,
    loads: bool,
    steps: int | None = None,
) -> tuple[Run, Tape]:
    """Run a schedule as `tlbkit.explore.search.replay` does; return what was done too.

    Args:
        scenario: As it was searched.
        schedule: Of a breach.
        around: Returns a context for the run, for example a recording.
        loads: As the breach says.
        steps: Where the run ends, if not by itself.
    """
    tape: list[tuple[int, tuple[Any, ...]]] = []
    choices = dict[int, int](schedule)

    def decide(run: Run) -> int:
        if len(run.steps) == steps:
            raise StopRunError
        chosen = choices.get(len(run.steps))
        able = run.enabled()
        return chosen if chosen is not None and chosen in able else able[0]

    with watching_loads() if loads else nullcontext() as told:
        world = scenario()
        run = Run(world, decide, loads=told)

        def hear(event: Event) -> None:
            if event.kind not in _SELDOM:
                tape.append((run.current, _deed(event)))

        world.machine.events.listen(hear)
        with around(world.machine):
            run.go()
    return run, tuple(tape)


def follow(
    scenario: Scenario,
    tape: Tape,
    around: Callable[[Machine], AbstractContextManager[Any]],
) -> Run:
    """Let each flow do what it did on a tape before another goes on.

    Args:
        scenario: The same flows, on another kernel.
        tape: What was done there.
        around: As `taped`.
    """
    world = scenario()
    follower = _Follower(tape)
    run = Run(world, follower.decide)
    world.machine.events.listen(follower.hear)
    with around(world.machine):
        run.go()
    return run


class _Follower:
    """Decides by how far each flow has come on a tape."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._at = 0
        self._done: list[tuple[Any, ...]] = []

    def hear(self, event: Event) -> None:
        """Note what the current flow does."""
        if event.kind not in _SELDOM:
            self._done.append(_deed(event))

    def decide(self, run: Run) -> int:
        """Let the flow go on whose turn it is on the tape, if it can."""
        tape = self._tape
        for deed in self._done:
            if self._at < len(tape) and tape[self._at] == (run.current, deed):
                self._at += 1
        self._done.clear()
        while self._at < len(tape) and tape[self._at][0] in run.done:
            self._at += 1
        able = run.enabled()
        if self._at < len(tape) and tape[self._at][0] in able:
            return tape[self._at][0]
        return able[0]


def _deed(event: Event) -> tuple[Any, ...]:
    """Tell an event as two kernels tell it alike, whatever values they have there."""
    match event.kind:
        case "lock" | "no lock":
            return "lock", event.what.name, event.new
        case "read" | "write" | "execute":
            return event.kind, event.what.va
        case "tlbi":
            return event.kind, event.what.name
        case "dsb" | "store":
            return event.kind, event.what
    return (event.kind,)
