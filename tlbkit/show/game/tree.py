"""A level as JSON: every state, what the board shows there, and where it goes on.

The form, in which texts, values and places on the board stand once::

    {
      "format": "tlbkit level 1",
      "name": "...", "title": "...", "aim": "...", "teaches": "...", "hint": "...",
      "reason": "...",                        why it cannot be won; "" if it can
      "path": [flow, ...],                    the shortest way to win
      "film": {"columns": ..., "rows": ..., "slots": ..., "values": ...},
      "flows": [{"name": "...", "cpu": 0}, ...],
      "texts": ["", ...],
      "nodes": [
        [
          parent, [slot, value, ...],         what differs from the state before
          [[flow, node, text], ...],          the steps that can be taken
          [[flow, text], ...],                who waits, and for what
          says,                               how things stand
          [[function, file, line], ...],      where each thread is; texts
          0 or ["won" or "other" or "safe" or "stuck", text]
        ], ...
      ]
    }
"""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from tlbkit.observe.recording import Change, Recording, Step
from tlbkit.show.stage import telling
from tlbkit.show.stage.board import Board, moments, rows
from tlbkit.show.stage.film import Numbers, plain, scene

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tlbkit.explore.graph import Edge, Node
    from tlbkit.lab.gallery.game import Level, Seen, Tree
    from tlbkit.show.stage.board import Rows, Slot

FORMAT: Final = "tlbkit level 1"
_TOLD: Final = frozenset({"call", "ipi"})
"""What is told of a step beside what it ends at."""


def tree(level: Level, made: Tree | None = None) -> dict[str, Any]:
    """Return all states of a level as a JSON object; see the module.

    Args:
        level: The level.
        made: Its tree, if it is made already.
    """
    return _Teller(level, made or level.tree()).tell()


class _Teller:
    """Makes the JSON of one level."""

    def __init__(self, level: Level, made: Tree) -> None:
        self._level = level
        self._tree = made
        self._rows = _shared(made)
        self._slots, self._values, self._texts = Numbers(), Numbers(None), Numbers("")

    def tell(self) -> dict[str, Any]:
        """Return it."""
        level, made = self._level, self._tree
        boards = [self._board(node.shows) for node in made.nodes]
        parents = _parents(made.nodes)
        nodes = [
            self._node(number, node, boards, parents[number])
            for number, node in enumerate(made.nodes)
        ]
        return {
            "format": FORMAT,
            "name": level.name,
            "title": level.title,
            "aim": level.aim,
            "teaches": level.teaches,
            "hint": level.hint,
            "reason": level.reason,
            "path": list(made.path),
            "film": {
                **scene(self._rows, made.place.cpus),
                "slots": [list(slot) for slot in self._slots.known],
                "values": [json.loads(one) if one else 0 for one in self._values.known],
            },
            "flows": [{"name": flow.name, "cpu": flow.cpu} for flow in made.flows],
            "texts": list(self._texts.known),
            "nodes": nodes,
        }

    def _recording(self, seen: Seen, steps: tuple[Step, ...] = ()) -> Recording:
        return Recording(seen.state, steps, (), self._tree.place)

    def _board(self, seen: Seen) -> dict[int, int]:
        """Return what stands where in a state, by numbers."""
        slots = Board(self._recording(seen), 0, self._rows).slots
        return {
            self._slots(slot): self._values(plain(what))
            for slot, what in sorted(slots.items(), key=lambda one: str(one[0]))
        }

    def _node(
        self, number: int, node: Node, boards: list[dict[int, int]], parent: int
    ) -> list[Any]:
        now, before = boards[number], boards[parent] if number else {}
        differs = [
            (slot, now.get(slot, 0))
            for slot in sorted(now.keys() | before.keys())
            if now.get(slot, 0) != before.get(slot, 0)
        ]
        standing = telling.standing(Board(self._recording(node.shows), 0, self._rows))
        return [
            parent,
            list(chain.from_iterable(differs)),
            [[e.flow, e.node, self._texts(self._told(node, e))] for e in node.next],
            [[flow, self._texts(what)] for flow, what in node.waits.items()],
            self._texts(standing),
            [[self._texts(text) for text in where] for where in node.shows.where],
            self._end(number, node),
        ]

    def _told(self, node: Node, edge: Edge) -> str:
        """Say what a step does."""
        steps = tuple(one for one in edge.told if isinstance(one, Step))
        if not steps:
            return " ".join(map(str, edge.told))
        wanted = self._level.steps | _TOLD
        board = Board(self._recording(node.shows, steps), 0, self._rows)
        said: list[str] = []
        last = ""
        for first, final in moments(board.recording):
            while board.position <= final:
                board.advance()
            last = telling.happened(board, first)
            if steps[final].kind in wanted:
                said.append(last)
        return " ".join(said or [last])

    def _end(self, number: int, node: Node) -> Any:
        if not node.end:
            return 0
        kind = {"done": "safe", "stuck": "stuck", "broken": "other"}[node.end]
        if number in self._tree.wins:
            kind = "won"
        why = telling.named(node.why.partition("\n")[0], self._rows)
        return [kind, self._texts(why)]


def _shared(made: Tree) -> Rows:
    """Return rows and columns in which all states of a tree are drawn."""
    steps = tuple(_steps(made))
    return rows(Recording({}, steps, (), made.place))


def _steps(made: Tree) -> Iterator[Step]:
    """Yield a step for each state, which changes all that is there."""
    for node in made.nodes:
        state: Mapping[Any, Any] = node.shows.state
        changes = tuple(Change(key, None, value) for key, value in state.items())
        yield Step(made.flows[0].cpu, "", "", "", changes)


def _parents(nodes: tuple[Node, ...]) -> list[int]:
    """Return of each state one from which it is reached, earlier in the list."""
    parents = [0] * len(nodes)
    for number in range(len(nodes) - 1, -1, -1):
        for edge in nodes[number].next:
            if number < edge.node:
                parents[edge.node] = number
    return parents


def slots_of(told: dict[str, Any], number: int) -> dict[Slot, Any]:
    """Return what the board shows in a state of a tree, as the script finds it."""
    now: dict[int, int] = {}
    line = [number]
    while line[-1]:
        line.append(told["nodes"][line[-1]][0])
    for one in reversed(line):
        differs = told["nodes"][one][1]
        now.update(zip(differs[::2], differs[1::2], strict=True))
    film = told["film"]
    return {
        tuple(film["slots"][slot]): film["values"][value]
        for slot, value in now.items()
        if value
    }
