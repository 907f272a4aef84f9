"""The search for the shortest schedule that breaks a rule.

Schedules are tried in the order of their preemptions: how often a flow was stopped that
could have gone on. Most faults need one or two. Each schedule is run from the start, on
a world made afresh.

Two schedules in which steps that touch the same things come in the same order are one
schedule told twice: they lead to the same state. So each run keeps, for each flow, one
number that stands for all that its last step depends on (its own steps before, and
whatever they read or overwrote), and what was reached before is not looked at again. A
flow is moreover only stopped before a step that another flow could disturb. Up to where
a schedule leaves the one from which it grew, what its steps depend on is known.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tlbkit.explore.footprint import READ, UPDATE, WRITE, Notes, conflict, watching
from tlbkit.explore.loads import watching_loads
from tlbkit.explore.locks import LockOrders
from tlbkit.explore.scheduler import Choice, Run, StopRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from random import Random
    from types import MemberDescriptorType

    from tlbkit.arm64.machine import Machine
    from tlbkit.errors import TlbkitError
    from tlbkit.explore.loads import Loads
    from tlbkit.explore.locks import Crossing
    from tlbkit.explore.rewind import Snapshot
    from tlbkit.explore.scheduler import Scenario, Schedule, World

PREEMPTIONS = 2
"""How many are allowed unless the caller says otherwise."""

_ANY = sys.maxsize
"""A breach of any length is of interest."""


class Breach(NamedTuple):
    """A schedule that breaks a rule.

    Attributes:
        schedule: Its decisions; `replay` runs it again.
        preemptions: How many of them stop a flow that could have gone on.
        steps: Which flow made each step, up to the breach.
        error: What was raised.
        loads: Whether its steps end at loads too.
    """

    schedule: Schedule
    preemptions: int
    steps: tuple[int, ...]
    error: TlbkitError
    loads: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found.

    Attributes:
        breach: The shortest schedule that breaks a rule: of those with the fewest
            preemptions, one with the fewest steps. ``None`` if there is none.
        preemptions: Up to how many were allowed.
        complete: Whether everything within that bound was looked at. Not so if there
            was a limit on the runs, or if loads were left out; always so if there is a
            breach.
        runs: How many worlds were made.
        steps: How many steps were made in them.
        crossings: Locks that flows took in orders that can end in a deadlock, seen over
            all these schedules, even if none of them ended so.
    """

    breach: Breach | None
    preemptions: int
    complete: bool
    runs: int
    steps: int
    crossings: tuple[Crossing, ...] = ()


def explore(
    scenario: Scenario,
    *,
    preemptions: int = PREEMPTIONS,
    reduce: bool = True,
    loads: bool | None = None,
    max_runs: int | None = None,
    counts: Callable[[TlbkitError], bool] = lambda _: True,
    after: Breach | None = None,
) -> Search:
    """Try schedules of a scenario, fewest preemptions first.

    Args:
        scenario: Makes the world, the same each time.
        preemptions: Up to how many.
        reduce: Leave out schedules that cannot differ from one that is tried.
        loads: Let flows be stopped after each load of a page-table word by software
            too: for code without the lock that would keep others out. If not given, so
            where the scenario takes a lock out.
        max_runs: Give up after so many runs.
        counts: Tells whether an error is a breach; another one only ends its run.
        after: Go on from there: each schedule begins as this one does, up to its last
            step, and what it stops until then is not counted. Nothing is left out then,
            as if not to *reduce*, and the steps end at loads as they did there.
    """
    if after is not None:
        reduce, loads = False, after.loads
    if loads is None:
        taken_out = scenario().machine.taken_out
        loads = any(point.startswith("lock ") for point in taken_out)
    if not reduce:
        with watching_loads() if loads else nullcontext() as told:
            plain = _Plain(scenario, preemptions, max_runs, told, counts, after)
            return plain.search()
    with watching() as notes, watching_loads() if loads else nullcontext() as told:
        return _Reduced(scenario, preemptions, max_runs, told, notes, counts).search()


class Shortest(NamedTuple):
    """What a search of several scenarios found.

    Attributes:
        name: The scenario of the breach, or "".
        breach: The shortest over all: fewest preemptions, then fewest steps; of equals,
            the one whose scenario was named first. ``None`` if there is none.
        preemptions: Up to how many all scenarios were tried.
        runs: How many schedules were tried.
        steps: How many steps were made in them.
        complete: Whether everything within the bound that was asked for was looked at.
            Not so if the steps were used up, or if loads were left out; always so if
            there is a breach.
    """

    name: str
    breach: Breach | None
    preemptions: int
    runs: int
    steps: int
    complete: bool


def shortest(
    scenarios: Mapping[str, Scenario],
    *,
    preemptions: int = PREEMPTIONS,
    loads: bool = False,
    max_steps: int | None = None,
) -> Shortest:
    """Search several scenarios together, and stop at the shortest breach of any.

    All are searched up to some number of preemptions before any goes further, in the
    order in which they are named; and what is as long as a breach that is known is not
    run to its end. So name those first that are quickly searched.

    Args:
        scenarios: Each makes a world, the same each time.
        preemptions: As `explore` says.
        loads: As `explore` says.
        max_steps: Begin no further schedule after so many steps, over all of them.
    """
    left = _ANY if max_steps is None else max_steps
    best: tuple[str, Breach | None] = "", None
    finished = -1
    with watching() as notes, watching_loads() if loads else nullcontext() as told:
        searches = {
            name: _Reduced(scenario, preemptions, None, told, notes)
            for name, scenario in scenarios.items()
        }
        for cost in range(preemptions + 1):
            limit = _ANY
            for name, search in searches.items():
                before = search.steps
                shorter = search.deepen(cost, limit, left)
                left -= search.steps - before
                if shorter is not None:
                    best, limit = (name, shorter), len(shorter.steps)
            if best[0] or left <= 0:
                break
            finished = cost
    runs = sum(search.runs for search in searches.values())
    steps = sum(search.steps for search in searches.values())
    name, breach = best
    complete = breach is not None or (loads and finished == preemptions)
    return Shortest(name, breach, finished, runs, steps, complete)


def wander(
    scenario: Scenario, random: Random, *, runs: int = 1000, loads: bool = False
) -> Search:
    """Try schedules at random: at each step any flow may go on.

    The same seed tries the same schedules. For flows too long to be searched.

    Args:
        scenario: Makes the world, the same each time.
        random: Decides.
        runs: How many schedules, at most: the first breach ends it.
        loads: As `explore` says.
    """
    tried = steps = 0
    breach: Breach | None = None
    orders = LockOrders()
    wanderer = _Wanderer(random)
    run: Run | None = None
    start: Snapshot | None = None
    with watching_loads() if loads else nullcontext() as told:
        while tried < runs and breach is None:
            wanderer.set_out()
            if run is not None and start is not None:
                run.rewind(start)
            else:
                run = Run(scenario(), wanderer.decide, loads=told, orders=orders)
                run.prepare()
                start = run.snapshot({})
            run.play()
            tried += 1
            steps += len(run.steps)
            if run.error is not None:
                schedule, made = tuple(wanderer.choices), tuple(run.steps)
                breach = Breach(schedule, wanderer.stops, made, run.error, loads)
    stops = breach.preemptions if breach is not None else 0
    crossings = tuple(orders.crossings)
    return Search(
        breach, stops, complete=False, runs=tried, steps=steps, crossings=crossings
    )


class _Wanderer:
    """Decides by chance, for a whole run often, sometimes or seldom."""

    __slots__ = ("_pace", "_random", "choices", "stops")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._pace = 0.0
        self.choices: list[Choice] = []
        self.stops = 0

    def set_out(self) -> None:
        """Begin a new run."""
        self._pace = self._random.choice((0.02, 0.1, 0.5))
        self.choices = []
        self.stops = 0

    def decide(self, run: Run) -> int:
        able = run.enabled()
        goes_on = able[0] == run.current
        if goes_on and self._random.random() >= self._pace:
            return able[0]
        chosen = self._random.choice(able)
        if chosen != able[0]:
            self.choices.append(Choice(len(run.steps), chosen))
            self.stops += goes_on
        return chosen


def replay(
    scenario: Scenario,
    schedule: Schedule,
    around: Callable[[Machine], AbstractContextManager[Any]] | None = None,
    *,
    loads: bool = False,
) -> Run:
    """Run one schedule and return the run, with what it raised.

    Args:
        scenario: As it was searched.
        schedule: Of a breach, or made by hand.
        around: Returns a context for the run, for example a recording.
        loads: As the breach says.
    """
    with watching_loads() if loads else nullcontext() as told:
        world = scenario()
        run = Run(world, _Follower(schedule).decide, loads=told)
        with around(world.machine) if around else nullcontext():
            run.go()
    return run


class _Follower:
    """Decides as a schedule says, and lets whoever runs go on elsewhere."""

    __slots__ = ("_choices",)

    def __init__(self, schedule: Schedule) -> None:
        self._choices = dict(schedule)

    def decide(self, run: Run) -> int:
        chosen = self._choices.get(len(run.steps))
        if chosen is not None and run.is_enabled(chosen):
            return chosen
        return run.enabled()[0]


class _Plain:
    """A search that leaves nothing out.

    Schedules that are still to be tried wait in one list for each number of
    preemptions. From each run, those grow that do as it did up to some step and then
    let another flow go on.
    """

    def __init__(
        self,
        scenario: Scenario,
        preemptions: int,
        max_runs: int | None,
        loads: Loads | None,
        counts: Callable[[TlbkitError], bool] = lambda _: True,
        after: Breach | None = None,
    ) -> None:
        self._counts = counts
        self._begun = () if after is None else after.schedule
        self._from = 0 if after is None else len(after.steps)
        self._scenario = scenario
        self._preemptions = preemptions
        self._max_runs = max_runs
        self._loads = loads
        self._open: list[list[Any]] = [[] for _ in range(preemptions + 1)]
        self._open[0].append(self._root())
        self._best: Breach | None = None
        self._limit = _ANY  # what is so long or longer is of no interest
        self._schedule: Schedule = ()
        self._choices: dict[int, int] = {}
        self._last = -1  # the step of the last choice; from there on, branches grow
        self._cost = 0
        self.runs = 0
        self.steps = 0
        self._stage: Run | None = None
        self._start: Snapshot | None = None
        self._orders = LockOrders()
        self._slots: Mapping[property, MemberDescriptorType] = {}

    def search(self) -> Search:
        """Run schedule after schedule until there is none left, or a level broke."""
        for cost in range(self._preemptions + 1):
            breach = self.deepen(cost)
            if breach is not None or self._open[cost]:
                break
        every = self._loads is not None and not any(self._open[: cost + 1])
        complete = every or breach is not None
        crossings = tuple(self._orders.crossings)
        return Search(breach, cost, complete, self.runs, self.steps, crossings)

    def deepen(
        self, cost: int, limit: int = _ANY, max_steps: int = _ANY
    ) -> Breach | None:
        """Try all schedules of *cost* preemptions; return the shortest that breaks.

        Those with fewer have been tried before. The world is made anew.

        Args:
            cost: How many.
            limit: Only a breach of fewer steps is of interest.
            max_steps: Begin no further schedule after so many more steps.
        """
        self._stage = self._start = None
        self._cost = cost
        self._limit = limit
        last = self.steps + max_steps
        waiting = self._open[cost]
        while waiting and self.runs != self._max_runs and self.steps < last:
            self._try(waiting.pop())
        return self._best

    def _root(self) -> Any:
        return self._begun

    def _try(self, schedule: Any) -> None:
        self._run(schedule)

    def _ready(self) -> Run:
        """Return a run that is prepared: of the same world, if it can be set back."""
        run = self._stage
        if run is not None and self._start is not None:
            run.rewind(self._start)
            return run
        world = self._world()
        run = Run(world, self._decide, loads=self._loads, orders=self._orders)
        self._stage = run
        run.prepare()
        self._start = run.snapshot(self._slots)
        return run

    def _world(self) -> World:
        return self._scenario()

    def _run(self, schedule: Schedule) -> Run:
        self._schedule = schedule
        self._choices = dict(schedule)
        self._last = max(schedule[-1].step if schedule else -1, self._from - 1)
        run = self._ready()
        run.play()
        self.runs += 1
        self.steps += len(run.steps)
        error = run.error
        if error is not None and len(run.steps) < self._limit and self._counts(error):
            steps, loads = tuple(run.steps), self._loads is not None
            self._best = Breach(schedule, self._cost, steps, error, loads)
            self._limit = len(steps)
        return run

    def _decide(self, run: Run) -> int:
        step = len(run.steps)
        if step >= self._limit:
            raise StopRunError
        chosen = self._choices.get(step)
        if chosen is not None:
            return chosen
        able = run.enabled()
        if step > self._last:
            self._branch(step, able, stops=able[0] == run.current)
        return able[0]

    def _branch(self, step: int, able: list[int], *, stops: bool) -> None:
        """Grow the schedules in which another of *able* than the first goes on here."""
        cost = self._cost + stops
        if cost <= self._preemptions:
            for other in able[1:]:
                self._open[cost].append((*self._schedule, Choice(step, other)))


class _Branch(NamedTuple):
    """A schedule that is still to be tried.

    Attributes:
        schedule: Its decisions.
        key: The state at the last of them, and who goes on there.
        cost: Its preemptions.
        history: Of a run that goes the same way up to there.
    """

    schedule: Schedule
    key: tuple[int, int]
    cost: int
    history: History


class _Deferred(NamedTuple):
    """Branches at a place where, so far, stopping makes no difference.

    Attributes:
        flow: Who would be stopped.
        touched: What its next step touches.
        branches: The branches.
    """

    flow: int
    touched: dict[int, int]
    branches: list[_Branch]


class _Reduced(_Plain):
    """A search that leaves out what cannot differ."""

    def __init__(
        self,
        scenario: Scenario,
        preemptions: int,
        max_runs: int | None,
        loads: Loads | None,
        notes: Notes,
        counts: Callable[[TlbkitError], bool] = lambda _: True,
    ) -> None:
        super().__init__(scenario, preemptions, max_runs, loads, counts)
        notes.rules = True
        self._notes = notes
        self._slots = notes.slots
        self._seen: dict[tuple[int, int], int] = {}
        # For each thing, what each flow has ever done to it.
        self._ever: defaultdict[int, dict[int, int]] = defaultdict(dict)
        self._deferred: defaultdict[int, list[_Deferred]] = defaultdict(list)
        self._pending: list[_Branch] = []
        self._history = self._known = History(0)

    def _root(self) -> _Branch:
        return _Branch((), (0, -1), 0, History(0))

    def _try(self, schedule: _Branch) -> None:
        if schedule.schedule and self._seen[schedule.key] < self._cost:
            return  # reached more cheaply in the meantime
        self._pending = []
        self._known = schedule.history
        run = self._run(schedule.schedule)
        if not run.stopped:
            self._account(run.current, self._notes.take())
        self._notes.on = False

    def _ready(self) -> Run:
        if self._start is None:
            self._notes.begin()
        else:
            self._notes.again()
        run = super()._ready()
        self._history = History(len(run.world.flows))
        return run

    def _world(self) -> World:
        world = self._scenario()
        self._notes.keep()
        self._notes.page_shift = world.machine.model.page_shift
        world.machine.events.listen(self._notes.hear)
        return world

    def _decide(self, run: Run) -> int:
        step = len(run.steps)
        if step < self._last:
            return self._pass_over(run, step)
        touched = self._notes.take()
        flow = run.current
        if step == self._last:
            self._history = self._known.until(step)
        elif flow >= 0:
            self._history.add(flow, touched)
            self._account(flow, touched)
        chosen = super()._decide(run)
        self._notes.resume(chosen)
        return chosen

    def _pass_over(self, run: Run, step: int) -> int:
        """Decide a step of which all is known, and leave the next ones to the run."""
        chosen = self._choices.get(step)
        if chosen is None:
            chosen = run.enabled()[0]
        self._notes.pass_over(chosen)
        run.ahead = min(one.step for one in self._schedule if one.step > step)
        return chosen

    def _branch(self, step: int, able: list[int], *, stops: bool) -> None:
        state = self._history.state()
        plain = state, able[0]
        if self._seen.get(plain, self._cost + 1) <= self._cost:
            raise StopRunError
        self._seen[plain] = self._cost
        cost = self._cost + stops
        if cost > self._preemptions or len(able) == 1:
            return
        branches = [
            _Branch(
                (*self._schedule, Choice(step, other)),
                (state, other),
                cost,
                self._history,
            )
            for other in able[1:]
        ]
        if stops:
            self._pending = branches  # until it is known what comes next
        else:
            self._grow(branches)

    def _account(self, flow: int, touched: dict[int, int]) -> None:
        """Take note of a step, and grow what it gives a reason for."""
        if self._pending:
            branches, self._pending = self._pending, []
            deferred = _Deferred(flow, touched, branches)
            if self._disturbed(deferred):
                self._grow(branches)
            else:
                for resource in touched:
                    self._deferred[resource].append(deferred)
        for resource, how in touched.items():
            ever = self._ever[resource]
            known = ever.get(flow, 0)
            if known | how != known:
                ever[flow] = known | how
                self._reconsider(resource)

    def _reconsider(self, resource: int) -> None:
        """Grow what was deferred and is disturbed now."""
        waiting = self._deferred.get(resource)
        if not waiting:
            return
        left = []
        for one in waiting:
            if not one.branches:
                continue
            if self._disturbed(one):
                self._grow(one.branches)
                one.branches.clear()
            else:
                left.append(one)
        self._deferred[resource] = left

    def _disturbed(self, deferred: _Deferred) -> bool:
        """Tell whether another flow ever does what the next step is sensitive to."""
        for resource, how in deferred.touched.items():
            for flow, other in self._ever[resource].items():
                if flow != deferred.flow and conflict(how, other):
                    return True
        return False

    def _grow(self, branches: list[_Branch]) -> None:
        for branch in branches:
            cost = max(branch.cost, self._cost)
            if self._seen.get(branch.key, cost + 1) > cost:
                self._seen[branch.key] = cost
                self._open[cost].append(branch)


class History:
    """What each flow's last step depends on, as one number a flow.

    For each thing, its last change is known, and what has happened to it since: reads,
    or updates, which all commute with each other.
    """

    __slots__ = ("_flows", "_log", "_things")

    def __init__(self, flows: int) -> None:
        self._flows = [0] * flows
        # Of each step, the flow, its new number and what has changed in the things.
        self._log: list[tuple[int, int, dict[int, tuple[int, int, int]]]] = []
        # Kind of the accesses since the last change, that change, their sum.
        self._things: dict[int, tuple[int, int, int]] = {}

    def state(self) -> int:
        """Return a number for everything that has happened, up to its order."""
        return hash(tuple(self._flows))

    def add(self, flow: int, touched: dict[int, int]) -> None:
        """Add a step of *flow*."""
        things = self._things
        seen = 0
        after = []
        for resource, kinds in touched.items():
            kind, base, since = things.get(resource, (READ, 0, 0))
            # Several kinds at once are a change.
            how = kinds if kinds in (READ, UPDATE) else WRITE
            if how != kind or how == WRITE:
                base, since = hash((resource, base, since)), 0
            after.append((resource, how, base, since))
            seen += hash((resource, how, base))
        me = self._flows[flow] = hash((flow, self._flows[flow], seen))
        changed = {
            resource: (how, base, since + hash((me, resource)))
            for resource, how, base, since in after
        }
        things.update(changed)
        self._log.append((flow, me, changed))

    def until(self, step: int) -> History:
        """Return what it was before the step of that number."""
        earlier = History(len(self._flows))
        earlier._log = self._log[:step]
        for flow, me, changed in earlier._log:
            earlier._flows[flow] = me
            earlier._things.update(changed)
        return earlier
