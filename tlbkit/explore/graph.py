"""Every state that the schedules of a small scenario lead to, as one graph.

Where greenlets do not run, in a page for example, a reader can still be the scheduler:
the graph holds what there is to see in each state, and which step of which flow leads
where. It is made once, by taking every step in every state.

The JSON form (`Graph.to_json`), in which texts stand once and are named by number::

    {
      "format": "tlbkit schedule graph 1",
      "title": "...",
      "flows": [{"name": "mprotect(r)", "cpu": 0}, ...],
      "rows": ["CPU 0's TLB", ...],          labels of what a state shows
      "texts": ["...", ...],
      "nodes": [
        {
          "shows": [3, 7, ...],              one text for each row
          "next": [[flow, node, text], ...], the steps that can be taken
          "waits": [[flow, text], ...],      who cannot go on, and what it waits for
          "end": null or ["done" or "broken" or "stuck", text]
        }, ...
      ]
    }

Node 0 is the start. Whoever is neither in ``next`` nor in ``waits`` is done.
"""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tlbkit.errors import TlbkitError
from tlbkit.explore.footprint import Notes, watching
from tlbkit.explore.loads import watching_loads
from tlbkit.explore.scheduler import DeadlockError, Run, StopRunError
from tlbkit.explore.search import History

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine
    from tlbkit.explore.loads import Loads
    from tlbkit.explore.scheduler import Flow, Scenario

FORMAT = "tlbkit schedule graph 1"
MAX_NODES = 5_000
"""More states than a reader can want; take steps out of the scenario."""


class GraphTooLargeError(TlbkitError):
    """A scenario has too many states to be drawn as one graph."""


class Edge(NamedTuple):
    """One step that can be taken.

    Attributes:
        flow: Index of the flow that takes it.
        node: Where it leads.
        told: What happens, as it was told, in order.
    """

    flow: int
    node: int
    told: tuple[Any, ...]

    @property
    def text(self) -> str:
        """What happens, as one line."""
        return "; ".join(map(str, self.told))


@dataclass(frozen=True, slots=True)
class Node:
    """One state.

    Attributes:
        shows: What there is to see; for the JSON form texts by label.
        next: The steps that can be taken.
        waits: Who cannot go on, and what it waits for, by the index of the flow.
        end: ``"done"``, ``"broken"`` or ``"stuck"`` if the run ends here, else "".
        why: The end in words.
        error: What ended the run, if it was broken.
    """

    shows: Any
    next: tuple[Edge, ...]
    waits: Mapping[int, str]
    end: str = ""
    why: str = ""
    error: TlbkitError | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """All states of a scenario; the first is the start."""

    title: str
    flows: tuple[Flow, ...]
    nodes: tuple[Node, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the graph as a JSON object; see the module."""
        texts: dict[str, int] = {}

        def number(text: str) -> int:
            return texts.setdefault(text, len(texts))

        rows = list(self.nodes[0].shows)
        nodes = [
            {
                "shows": [number(node.shows.get(row, "")) for row in rows],
                "next": [[e.flow, e.node, number(e.text)] for e in node.next],
                "waits": [[flow, number(what)] for flow, what in node.waits.items()],
                "end": [node.end, number(node.why)] if node.end else None,
            }
            for node in self.nodes
        ]
        return {
            "format": FORMAT,
            "title": self.title,
            "flows": [{"name": flow.name, "cpu": flow.cpu} for flow in self.flows],
            "rows": rows,
            "texts": list(texts),
            "nodes": nodes,
        }


def graph(
    scenario: Scenario,
    title: str,
    *,
    look: Callable[[Run], Any],
    tell: Callable[[Machine, Event], Any],
    kinds: Collection[str] | None = None,
    loads: str = "",
    most: int = MAX_NODES,
) -> Graph:
    """Take every step in every state of a scenario.

    Args:
        scenario: Makes the world.
        title: In words.
        look: Returns what there is to see where a run stands, always by the same
            labels.
        tell: Returns what an event says, as one line or as it is to be kept; what is
            empty is not told.
        kinds: Events that end a step; all if not given.
        loads: Where a step ends at each load of a page-table word too: in functions
            whose names begin so.
        most: How many states it may have.

    Errors:
        GraphTooLargeError: There are more.
    """
    watched = watching_loads(loads) if loads else nullcontext()
    with watching() as notes, watched as told:
        return _Builder(scenario, look, tell, kinds, notes, told, most).build(title)


class _Seen(NamedTuple):
    """What one run showed of its last state.

    Attributes:
        key: The state, for comparison.
        shows: The state, for people.
        told: The step that led to it.
        able: Who can go on.
        waits: Who cannot, and why.
        end: As in `Node`.
        why: As in `Node`.
        error: As in `Node`.
    """

    key: object
    shows: Any
    told: tuple[Any, ...]
    able: tuple[int, ...]
    waits: Mapping[int, str]
    end: str
    why: str
    error: TlbkitError | None


class _Builder:
    """Makes one graph, breadth first."""

    def __init__(
        self,
        scenario: Scenario,
        look: Callable[[Run], Any],
        tell: Callable[[Machine, Event], Any],
        kinds: Collection[str] | None,
        notes: Notes,
        loads: Loads | None,
        most: int,
    ) -> None:
        self._scenario = scenario
        self._look = look
        self._tell = tell
        self._kinds = kinds
        self._notes = notes
        self._loads = loads
        self._most = most
        self._flows: tuple[Flow, ...] = ()

    def build(self, title: str) -> Graph:
        """Return the graph."""
        first = self._visit(())
        seen = [first]
        numbers = {first.key: 0}
        edges: list[list[Edge]] = [[]]
        waiting: deque[tuple[int, tuple[int, ...]]] = deque([(0, ())])
        while waiting:
            number, path = waiting.popleft()
            for flow in seen[number].able:
                there = self._visit((*path, flow))
                target = numbers.get(there.key)
                if target is None:
                    target = numbers[there.key] = len(seen)
                    if target == self._most:
                        raise GraphTooLargeError(
                            f"{title}: more than {self._most} states; take steps out"
                        )
                    seen.append(there)
                    edges.append([])
                    waiting.append((target, (*path, flow)))
                edges[number].append(Edge(flow, target, there.told))
        nodes = tuple(
            Node(one.shows, tuple(after), one.waits, one.end, one.why, one.error)
            for one, after in zip(seen, edges, strict=True)
        )
        return Graph(title, self._flows, nodes)

    def _visit(self, path: tuple[int, ...]) -> _Seen:
        """Take the steps of *path* and look at the state that they lead to."""
        notes = self._notes
        notes.begin()
        world = self._scenario()
        self._flows = world.flows
        history = History(len(world.flows))
        told: list[Any] = []
        shows: Any = None
        able: tuple[int, ...] = ()

        def hear(event: Event) -> None:
            said = "" if able else self._tell(world.machine, event)
            if said:
                told.append(said)

        def decide(run: Run) -> int:
            nonlocal shows, able
            if run.current >= 0:
                history.add(run.current, notes.take())
            if len(run.steps) == len(path):
                shows = self._look(run)
                able = tuple(sorted(run.enabled()))
                raise StopRunError
            told.clear()
            notes.resume(path[len(run.steps)])
            return path[len(run.steps)]

        def go_on(_: Event) -> None:
            # Everybody has looked, and not every event ends a step.
            notes.on = True

        world.machine.events.listen(notes.hear)
        world.machine.events.listen(hear)
        run = Run(world, decide, self._kinds, self._loads)
        run.prepare()
        world.machine.events.listen(go_on)
        run.play()
        notes.on = False
        if shows is None:  # the run has ended by itself
            history.add(run.current, notes.take())
            shows = self._look(run)
        said = tuple(told) or tuple(filter(None, [self._silence(run)]))
        waits = {} if run.error else run.waiting()
        end, why = self._end(run)
        key = history.state(), end, why
        return _Seen(key, shows, said, able, waits, end, why, run.error)

    @staticmethod
    def _silence(run: Run) -> str:
        """Say what a step did that no event tells of."""
        if run.current < 0:
            return ""
        name = run.world.flows[run.current].name
        waits = run.waiting().get(run.current)
        return f"{name} waits for {waits}" if waits else f"{name} goes on"

    @staticmethod
    def _end(run: Run) -> tuple[str, str]:
        """Say whether, and how, a run has ended."""
        if isinstance(run.error, DeadlockError):
            return "stuck", str(run.error)
        if run.error is not None:
            return "broken", str(run.error)
        if not run.stopped:
            return "done", "everything is done, and no rule was broken"
        return "", ""
