"""Flows that take turns: one schedule of one scenario, run once.

Whatever a machine tells as an event is a place where another CPU may go on instead, and
so is every wait: for a lock, for the answers to an interrupt, for another thread. No
flow is written for that. A flow that runs keeps running until a schedule says
otherwise, or until it waits or ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from greenlet import greenlet

from tlbkit.callers import caller
from tlbkit.errors import InputError, TlbkitError
from tlbkit.explore.locks import HeldLocks, LockOrders
from tlbkit.explore.rewind import Snapshot
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import FrameType, MemberDescriptorType

    from tlbkit.arm64.cpu import Cpu
    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine
    from tlbkit.explore.loads import Loads

MAX_STEPS = 20_000
"""Where a run gives up: one flow may be waiting for another without a wait."""

_HUB = -1
_LEGAL = (Signal, SystemCallError)


class Flow(NamedTuple):
    """What one CPU does.

    Attributes:
        name: In words, such as ``"mprotect(r)"``.
        cpu: The number of the CPU; each flow has one of its own.
        run: Does it. Errors of the package that come out of it are faults of the
            kernel; what is legal, a signal for example, it takes care of itself.
    """

    name: str
    cpu: int
    run: Callable[[], None]


@dataclass(frozen=True)
class World:
    """A machine made ready, and the flows that meet on it.

    Attributes:
        machine: The machine.
        flows: Two to four.
        rules: Returns a context in which the flows run; it listens, and raises where a
            rule is broken.
        finish: Looks at the end, when all flows are done, and raises likewise.
        again: Whether it may be set back to its start and run again: nothing that it
            leads to, a list that its flows fill for example, is to outlive a run.
    """

    machine: Machine
    flows: tuple[Flow, ...]
    rules: Callable[[Machine], AbstractContextManager[object]] = lambda _: nullcontext()
    finish: Callable[[], None] = lambda: None
    again: bool = False

    def __post_init__(self) -> None:
        """Hold flows and CPUs to what can be run."""
        cpus = [flow.cpu for flow in self.flows]
        if len(set(cpus)) != len(cpus) or not cpus:
            raise InputError(f"flows on CPUs {cpus}: give each flow a CPU of its own")
        for number in cpus:
            self.machine.cpu(number)


Scenario = Callable[[], World]
"""Makes the same world afresh each time that it is called."""


class DeadlockError(TlbkitError):
    """Every flow that is not done waits for another one.

    Attributes:
        waits: What each waits for, by the names of the flows.
        holds: Which locks each has.
    """

    def __init__(
        self, waits: dict[str, str], holds: dict[str, tuple[str, ...]]
    ) -> None:
        said = [
            f"{who} waits for {what} and holds {', '.join(holds[who]) or 'no lock'}"
            for who, what in waits.items()
        ]
        super().__init__("deadlock: " + "; ".join(said))
        self.waits = waits
        self.holds = holds


class UnfairScheduleError(TlbkitError):
    """A run went on for so long that one flow must be waiting without saying so."""


class CrashError(TlbkitError):
    """A flow went on with something that is not there: in a kernel, an oops."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"crash: {type(error).__name__}: {error}")
        self.__cause__ = error


class StopRunError(Exception):
    """Raised by who decides: the rest of this run is of no interest."""


class Choice(NamedTuple):
    """A place where a schedule does not do the plain thing.

    Attributes:
        step: After how many steps; 0 is the start.
        flow: Index of the flow that goes on.
    """

    step: int
    flow: int


Schedule = tuple[Choice, ...]
"""What is decided, in order; everything else goes on as it was."""


class Run:
    """One run of a world, or one after the other of a world that is set back.

    Args:
        world: What runs; it is used up, unless it is set back.
        decide: Asked after each step with this run; returns the index of the flow that
            goes on, which is one of `enabled`. May raise `StopRunError`.
        kinds: Events that end a step; all if not given.
        loads: Tells of loads, which end a step too.
        orders: Is told in which orders locks are taken.

    Attributes:
        ahead: Before that step, whoever runs goes on unless it waits or ends; nobody is
            asked.
        current: Index of the flow that has just run; -1 at the start.
        steps: Index of the flow of each step so far.
        done: Indices of the flows that have ended.
        error: What a flow, a rule or the end has raised.
        stopped: Whether `decide` ended the run before its time.
    """

    __slots__ = (
        "_decide",
        "_held",
        "_hub",
        "_kinds",
        "_loads",
        "_looking",
        "_over",
        "_rules",
        "_running",
        "_threads",
        "_waits",
        "ahead",
        "current",
        "done",
        "error",
        "steps",
        "stopped",
        "world",
    )

    def __init__(
        self,
        world: World,
        decide: Callable[[Run], int],
        kinds: Collection[str] | None = None,
        loads: Loads | None = None,
        orders: LockOrders | None = None,
    ) -> None:
        self.world = world
        self.ahead = 0
        self.current = -1
        self.steps: list[int] = []
        self.done: set[int] = set()
        self.error: TlbkitError | None = None
        self.stopped = False
        self._decide = decide
        self._kinds = kinds
        self._loads = loads
        self._looking = False
        self._waits: dict[int, tuple[Callable[[], bool], str]] = {}
        names = {flow.cpu: flow.name for flow in world.flows}
        self._held = HeldLocks(names, orders or LockOrders())
        self._over = False
        self._hub = greenlet.getcurrent()
        self._rules = world.rules(world.machine)
        self._threads: list[greenlet] = []
        self._running: list[Cpu] = []
        self._line_up()

    def go(self) -> None:
        """Run until all flows are done, one fails, or the run is stopped."""
        self.prepare()
        self.play()

    def prepare(self) -> None:
        """Let everybody begin to listen; `play` comes next."""
        machine = self.world.machine
        if self._loads is not None:
            machine.events.listen(self._look)
        machine.events.listen(self._held.hear, {"lock"})
        self._rules.__enter__()
        machine.waiter = self._wait
        # Beside loads every event is heard, so that it is known when all have looked.
        kinds = self._kinds if self._loads is None else None
        machine.events.schedule(self._step, kinds)

    def play(self) -> None:
        """Run what is prepared."""
        machine = self.world.machine
        try:
            with ExitStack() as stack:
                stack.push(self._rules)
                if self._loads is not None:
                    self._loads.step = self._load
                try:
                    self._dispatch()
                finally:
                    machine.events.schedule(None)
                    machine.events.leave(self._held.hear)
                    machine.waiter = None
                    if self._loads is not None:
                        self._loads.step = None
                if not self.stopped and self.error is None:
                    self.world.finish()
        except TlbkitError as error:
            self.error = self.error or error
        finally:
            self._unwind()

    def snapshot(
        self, slots: Mapping[property, MemberDescriptorType]
    ) -> Snapshot | None:
        """Return what `rewind` sets a prepared world back to, if that can be done.

        Args:
            slots: As `Snapshot` says.
        """
        if not self.world.again:
            return None
        try:
            world = self.world
            return Snapshot(
                (world.machine, world.flows, world.finish, self._rules), slots
            )
        except ValueError:
            return None

    def rewind(self, snapshot: Snapshot) -> None:
        """Set the world back to where it was prepared; `play` comes next."""
        snapshot.restore()
        self._held.clear()
        self._waits.clear()
        self._over = False
        self.ahead = 0
        self.current = -1
        self.steps = []
        self.done = set()
        self.error = None
        self.stopped = False
        self._line_up()

    def _line_up(self) -> None:
        """Put every flow at its start."""
        world = self.world
        self._threads = [greenlet(self._body(flow.run)) for flow in world.flows]
        self._running = [world.machine.cpu(flow.cpu) for flow in world.flows]

    def enabled(self) -> list[int]:
        """Return the indices of the flows that could go on, the current one first."""
        flows = [self.current] if self.current >= 0 else []
        flows += [n for n in range(len(self._threads)) if n != self.current]
        return [n for n in flows if self.is_enabled(n)]

    def is_enabled(self, flow: int) -> bool:
        """Tell whether a flow could go on."""
        if flow in self.done:
            return False
        wait = self._waits.get(flow)
        return wait is None or wait[0]()

    def waiting(self) -> dict[int, str]:
        """Return what each flow waits for that cannot go on, by its index."""
        return {
            flow: what
            for flow, (done, what) in sorted(self._waits.items())
            if not done()
        }

    def frame(self, flow: int) -> FrameType | None:
        """Return the frame in which a flow has stopped; ``None`` if it does not run."""
        if flow == self.current and not self._threads[flow].dead:
            return caller()
        frame: FrameType | None = self._threads[flow].gr_frame
        return frame

    def holds(self, flow: int) -> tuple[str, ...]:
        """Return the names of the locks that a flow has."""
        return self._held.of(self.world.flows[flow].cpu)

    # -- on the flows' side ----------------------------------------------------------

    def _body(self, run: Callable[[], None]) -> Callable[[], None]:
        def body() -> None:
            try:
                run()
            except TlbkitError as error:
                if not self._over:
                    self.error = self.error or error
            except (AssertionError, AttributeError, LookupError) as error:
                if not self._over:
                    self.error = self.error or CrashError(error)

        return body

    def _look(self, _event: Event) -> None:
        """The first to hear of an event: others are about to look at the world."""
        self._looking = True

    def _load(self) -> None:
        """Software has loaded a word."""
        if not self._looking:
            self._over_with_step()

    def _step(self, event: Event) -> None:
        """An event has been told to everybody."""
        self._looking = False
        if self._kinds is None or event.kind in self._kinds:
            self._over_with_step()

    def _over_with_step(self) -> None:
        """One step is over: let the schedule say who goes on."""
        failing = sys.exc_info()[1]
        if isinstance(failing, TlbkitError) and not isinstance(failing, _LEGAL):
            return  # what is done on the way out of a fault is no step
        self.steps.append(self.current)
        if len(self.steps) < self.ahead:
            return
        following = self._choose()
        if following != self.current:
            self._switch(following)

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        """The current flow must wait: let others go on until it need not."""
        me = self.current
        self.steps.append(me)
        self._waits[me] = done, what
        following = self._choose() if self._anyone() else _HUB
        if following != me:
            self._switch(following)
        del self._waits[me]
        done()  # what it has waited for is what it goes on from

    def _anyone(self) -> bool:
        return any(map(self.is_enabled, range(len(self._threads))))

    def _choose(self) -> int:
        """Return who goes on, or the hub where the run is to end."""
        self._looking = True
        try:
            return self._decided()
        finally:
            self._looking = False

    def _decided(self) -> int:
        if len(self.steps) > MAX_STEPS:
            self.error = UnfairScheduleError(f"no end after {MAX_STEPS} steps")
            return _HUB
        try:
            return self._decide(self)
        except StopRunError:
            self.stopped = True
            return _HUB

    def _switch(self, following: int) -> None:
        """Leave this flow and let another go on."""
        machine = self.world.machine
        self._running[self.current] = machine.running
        if following == _HUB:
            self._hub.switch()
        else:
            self.current = following
            machine.running = self._running[following]
            self._threads[following].switch()

    # -- on the hub's side -----------------------------------------------------------

    def _dispatch(self) -> None:
        """Start flows, and go on with another one whenever one has ended."""
        machine = self.world.machine
        while len(self.done) < len(self._threads):
            if not self._anyone():
                raise self._deadlock()
            following = self._choose()
            if following == _HUB:
                return
            self.current = following
            machine.running = self._running[following]
            self._threads[following].switch()
            if self.error is not None or self.stopped:
                return
            if self._threads[self.current].dead:
                self.steps.append(self.current)
                self.done.add(self.current)

    def _deadlock(self) -> DeadlockError:
        flows = self.world.flows
        waits = self.waiting()
        return DeadlockError(
            {flows[n].name: what for n, what in waits.items()},
            {flows[n].name: self._held.of(flows[n].cpu) for n in waits},
        )

    def _unwind(self) -> None:
        """End the flows that are not over; nothing that they do now matters."""
        self._over = True
        for thread in self._threads:
            if thread and not thread.dead:
                with suppress(Exception):
                    thread.throw()
