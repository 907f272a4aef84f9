"""You are the scheduler: a graph of states to move about in."""

import os
from typing import TYPE_CHECKING, Any

from tlbkit.errors import InputError
from tlbkit.show.explorer import STATIC_PAGE
from tlbkit.show.film import slug, weight

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FORMAT = "tlbkit schedule graph 1"
"""What the JSON says that it is; see :mod:`tlbkit.explore.graph`."""


class Turns:
    """All schedules of a small scenario: who goes on next is up to the reader.

    The last expression of a cell shows it: in the site and in Jupyter as a game with
    undo, else as text.

    Args:
        graph: The JSON form of a graph of states, of :mod:`tlbkit.explore.graph`.

    Attributes:
        graph: As given.
        title: What it is about, in words.
        name: The same, as an address spells it.

    Raises:
        InputError: It is something else.
    """

    def __init__(self, graph: "Mapping[str, Any]") -> None:
        if graph.get("format") != FORMAT:
            raise InputError(
                f"format {graph.get('format')!r}: give what Graph.to_json() returns, "
                f"of format {FORMAT!r}"
            )
        self.graph = graph
        self.title: str = graph["title"]
        self.name = slug(self.title)

    @property
    def summary(self) -> str:
        """How much there is to see, in a sentence."""
        ends = [node["end"][0] for node in self.graph["nodes"] if node["end"]]
        bad = sum(end != "done" for end in ends)
        return (
            f"{len(self.graph['nodes'])} states, {len(ends)} of them an end, "
            f"{bad} of those bad; {weight(self.graph)}."
        )

    def shows(self, node: int) -> dict[str, str]:
        """Return what there is to see in a state, by label."""
        texts = self.graph["texts"]
        numbers = self.graph["nodes"][node]["shows"]
        return {
            row: texts[number]
            for row, number in zip(self.graph["rows"], numbers, strict=True)
        }

    def choices(self, node: int) -> list[tuple[str, int, str]]:
        """Return who can go on: the flow in words, where it leads, what happens."""
        return [
            (self.flow(flow), target, self.graph["texts"][text])
            for flow, target, text in self.graph["nodes"][node]["next"]
        ]

    def waits(self, node: int) -> list[str]:
        """Return who cannot go on, and what for, one sentence each."""
        return [
            f"{self.flow(flow)} waits for {self.graph['texts'][text]}"
            for flow, text in self.graph["nodes"][node]["waits"]
        ]

    def end(self, node: int) -> str:
        """Say how a run ends in this state; nothing if it goes on."""
        end = self.graph["nodes"][node]["end"]
        if not end:
            return ""
        words = {"done": "Done", "broken": "A rule is broken", "stuck": "Stuck"}
        return f"{words[end[0]]}: {self.graph['texts'][end[1]]}."

    def flow(self, number: int) -> str:
        """Name a flow."""
        flow = self.graph["flows"][number]
        return f"CPU {flow['cpu']}, {flow['name']}"

    def text(self) -> str:
        """Return the text rendering: the start, and a way to the nearest bad end."""
        lines = [self.title, self.summary, "", "At the start:"]
        lines += [f"  {row}: {text}" for row, text in self.shows(0).items()]
        lines += ["", "A way to the end, a bad one if there is one:"]
        way = self.way(self.worst())
        lines += [f"  {n}  {who}: {what}" for n, (who, _, what) in enumerate(way, 1)]
        lines.append(f"  {self.end(way[-1][1] if way else 0)}")
        return "\n".join(lines)

    def way(self, chosen: "Iterable[int]") -> list[tuple[str, int, str]]:
        """Return the steps, as `choices` has them, that these make from the start."""
        taken = []
        node = 0
        for index in chosen:
            step = self.choices(node)[index]
            node = step[1]
            taken.append(step)
        return taken

    def worst(self) -> tuple[int, ...]:
        """Return the shortest way to a bad end, or to any if none is bad.

        Each element is which of the choices is taken.
        """
        ways: dict[int, tuple[int, ...]] = {0: ()}
        waiting = [0]
        good: tuple[int, ...] = ()
        for node in waiting:
            end = self.graph["nodes"][node]["end"]
            if end and end[0] != "done":
                return ways[node]
            if end and not good:
                good = ways[node]
            for index, (_, target, _) in enumerate(self.choices(node)):
                if target not in ways:
                    ways[target] = (*ways[node], index)
                    waiting.append(target)
        return good

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return the rendering for whoever displays this object."""
        if os.environ.get(STATIC_PAGE):
            from tlbkit.show.player_page import turns  # noqa: PLC0415 - as in Explorer

            return {"text/plain": self.text(), "text/html": turns(self)}
        from tlbkit.show.player_live import turns_widget  # noqa: PLC0415 - see above

        bundle: dict[str, Any] = turns_widget(self)._repr_mimebundle_()
        return bundle | {"text/plain": self.text()}
