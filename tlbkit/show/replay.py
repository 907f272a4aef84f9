"""Recordings to walk through, wherever the reader happens to be."""

import os
from typing import TYPE_CHECKING, Any

from tlbkit.errors import InputError
from tlbkit.observe.recording import Link
from tlbkit.show.explorer import STATIC_PAGE
from tlbkit.show.film import film, first_difference, slug, state, weight

if TYPE_CHECKING:
    from tlbkit.observe.recording import Recording
    from tlbkit.show.film import Film


class Replay:
    """One recording, or two side by side: step forwards, back, over and into functions.

    The last expression of a cell shows it: in the site and in Jupyter as a player, else
    as text.

    Args:
        title: What is seen, in words.
        takes: Recordings by name, one or two; the same steps of both are shown side by
            side.
        at: The position to begin at: how many steps lie behind.
        name: Of the scenario, for addresses; the title if not given.
        seed: Of what was left to chance in it; 0 where nothing was.

    Attributes:
        title: As given.
        name: As an address spells it.
        seed: As given.
        names: Of the recordings.
        films: What is shown of each; see :mod:`tlbkit.show.film`.
        at: As given.
        difference: The first step that two recordings do not share.

    Raises:
        InputError: No recording or more than two, or no such position.
    """

    def __init__(
        self,
        title: str,
        takes: "dict[str, Recording]",
        *,
        at: int = 0,
        name: str = "",
        seed: int = 0,
    ) -> None:
        if len(takes) not in (1, 2):
            raise InputError(f"{len(takes)} recordings: a replay shows one or two")
        self.title = title
        self.name = slug(name or title)
        self.seed = seed
        self.names = tuple(takes)
        self.films: tuple[Film, ...] = tuple(map(film, takes.values()))
        longest = max(len(one["steps"]) for one in self.films)
        if not 0 <= at <= longest:
            raise InputError(f"at={at}: there are positions 0 to {longest}")
        self.at = at
        self.difference = (
            first_difference(*self.films) if len(self.films) == len("ab") else None
        )

    @property
    def summary(self) -> str:
        """How much there is to see, in a sentence."""
        parts = [
            f"{name}: {len(one['steps'])} steps, {weight(one)}"
            for name, one in zip(self.names, self.films, strict=True)
        ]
        if len(self.films) > 1:
            parts.append(
                "no difference"
                if self.difference is None
                else f"first difference at step {self.difference + 1}"
            )
        return "; ".join(parts) + "."

    def link(self, step: int) -> Link:
        """Return the end of the address that leads to where *step* steps lie behind.

        In the page the address follows the reader. A second player of the same name
        is found there under ``#name-2``.
        """
        return Link(self.name, self.seed, step)

    def text(self) -> str:
        """Return the text rendering: all steps, and the state at the position."""
        lines = [self.title, self.summary]
        for name, one in zip(self.names, self.films, strict=True):
            lines += ["", name, *outline(one)]
            lines += [f"State after {min(self.at, len(one['steps']))} steps:"]
            lines += [f"  {row}: {text}" for row, text in state(one, self.at).items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return the rendering for whoever displays this object."""
        if os.environ.get(STATIC_PAGE):
            from tlbkit.show.player_page import replay  # noqa: PLC0415 - as in Explorer

            return {"text/plain": self.text(), "text/html": replay(self)}
        from tlbkit.show.player_live import replay_widget  # noqa: PLC0415 - see above

        bundle: dict[str, Any] = replay_widget(self)._repr_mimebundle_()
        return bundle | {"text/plain": self.text()}


def outline(film: "Film") -> list[str]:
    """Return all steps as lines, indented by the functions that they happened in."""
    lines = []
    opened: dict[int, list[tuple[str, int, int]]] = {}
    for name, first, last, depth in film["groups"]:
        opened.setdefault(first, []).append((name, last, depth))
    inside: list[int] = []  # the last step of each function that is open
    for index, (cpu, text, _, _) in enumerate(film["steps"]):
        while inside and inside[-1] < index:
            inside.pop()
        for name, last, depth in opened.get(index, ()):
            lines.append(f"{'  ' * (depth + 1)}{name}")
            inside.append(last)
        indent = "  " * (len(inside) + 1)
        lines.append(f"{indent}{index + 1}  CPU {cpu}: {film['texts'][text]}")
    return lines
