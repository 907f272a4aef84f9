"""The stage: a scenario on two kernels, or recordings of one's own, drawn."""

from __future__ import annotations

import os
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Final

from tlbkit import lab
from tlbkit.arm64.models import DEFAULT_MODEL
from tlbkit.errors import InputError
from tlbkit.lab.flow import PAGES
from tlbkit.lab.recorded import recorded
from tlbkit.observe.recording import Recording
from tlbkit.show.explorer import STATIC_PAGE
from tlbkit.show.film import slug, weight
from tlbkit.show.stage.film import film
from tlbkit.show.stage.page import html, standalone

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.show.stage.film import Film


FIRST_DIFFERENCE: Final = -1
"""In place of a moment to begin at: where the second kernel does something else."""

LIVE_PAGES: Final = 8
"""More pages than that a live stage does not show, so that it answers at once."""


class Stage:
    """The machine while something happens, on one kernel or on two side by side.

    The last expression of a cell shows it: in the site and in JupyterLab drawn, else as
    text.

    Args:
        subject: What is done: the name of a scenario, on both of its kernels; or, with
            recordings of one's own, what they show, in words.
        takes: Recordings of watched pages, or films, by name: one or two, the earlier
            kernel first.
        title: What is seen, in words; the scenario's own title if not given.
        lead: What to look for, in a sentence.
        at: The moment to begin at, or `FIRST_DIFFERENCE`.
        name: As an address spells it; the subject if not given.
        live: Whether it follows the controls of the explorer of the same scenario that
            stands in the same page.
        cpu: Name of a CPU model.
        settings: Values of the scenario's parameters; the others have their defaults.

    Attributes:
        title: What is seen.
        lead: As given.
        name: As an address spells it.
        names: Of the recordings.
        films: Of the recordings; see `tlbkit.show.stage.film`. If both would be the
            same, there is one, which has both names.
        differs: Of each film, the moments at which it begins to do something else than
            the other; empty if there is one.
        at: As given.
        follows: The scenario whose explorer it follows; nothing if it follows none.

    Raises:
        InputError: No such scenario or parameter, a value it does not allow, or no
            recording or more than two.
    """

    def __init__(
        self,
        subject: str,
        takes: Mapping[str, Recording | Film] | None = None,
        *,
        title: str = "",
        lead: str = "",
        at: int = 0,
        name: str = "",
        live: bool = False,
        cpu: str = DEFAULT_MODEL,
        **settings: Value,
    ) -> None:
        if takes is None:
            scenario = lab.find(subject)
            title = title or scenario.title
            takes = {
                str(variant): recorded(scenario, settings, variant, cpu)
                for variant in (scenario.before, scenario.after)
            }
        if len(takes) not in (1, 2):
            raise InputError(f"{len(takes)} recordings: a stage shows one or two")
        self.title = title or subject
        self.lead = lead
        self.name = slug(name or subject)
        self.names = tuple(takes)
        self.films: tuple[Film, ...] = tuple(
            film(take) if isinstance(take, Recording) else take
            for take in takes.values()
        )
        if len(self.films) > 1 and self.films[0] == self.films[1]:
            self.names = (" and ".join(self.names),)
            self.films = self.films[:1]
        self.differs: tuple[tuple[int, ...], ...] = ()
        if len(self.films) > 1:
            self.differs = differences(*self.films)
        self.at = at
        self.follows = subject if live else ""

    def summary(self, number: int) -> str:
        """Say how long a recording is, and how long it took."""
        one = self.films[number]
        return f"{len(one['moments'])} moments, {nanoseconds(one):,} ns."

    def text(self) -> str:
        """Return the text rendering: what happens, moment by moment."""
        lines = [self.title, *filter(None, [self.lead])]
        for number, (name, one) in enumerate(zip(self.names, self.films, strict=True)):
            lines += ["", f"{name}: {self.summary(number)}", *told(one)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.text()

    @property
    def weight(self) -> str:
        """How much its films weigh."""
        return weight(list(self.films))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return the rendering for whoever displays this object."""
        made = html(self) if os.environ.get(STATIC_PAGE) else standalone(self)
        return {"text/plain": self.text(), "text/html": made}


def following(scenario: str, params: Mapping[str, Value]) -> Stage:
    """Return what a live stage shows of a setting: at most `LIVE_PAGES` pages."""
    settings: dict[str, Any] = dict(params)
    pages = settings.get(PAGES.name)
    if isinstance(pages, int):
        settings[PAGES.name] = min(pages, LIVE_PAGES)
    return Stage(scenario, **settings)


def nanoseconds(film: Film) -> int:
    """Return the modelled time of a film, in ns."""
    return round(sum(sum(moment[3][1::2]) for moment in film["moments"]) / 10)


def told(film: Film) -> Iterator[str]:
    """Yield what happens in a film, and how things stand whenever that changes."""
    texts = film["texts"]
    stands = film["says"][0]
    if stands:
        yield f"     {texts[stands]}"
    for number, (moment, says) in enumerate(
        zip(film["moments"], film["says"][1:], strict=True), 1
    ):
        yield f"{number:3}  {texts[moment[1]]}"
        if says != stands:
            stands = says
            yield f"     {texts[says] or 'All agree with the tables.'}"
    if "ends" in film:
        yield f"     {film['ends'][0]}"


def differences(one: Film, other: Film) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return of each film the moments where it begins to do what the other does not."""
    first, second = (
        [(moment[0], film["texts"][moment[1]]) for moment in film["moments"]]
        for film in (one, other)
    )
    found: tuple[list[int], list[int]] = ([], [])
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    for tag, begins, ends, starts, stops in matcher.get_opcodes():
        if tag != "equal":
            if begins < ends:
                found[0].append(begins)
            if starts < stops:
                found[1].append(starts)
    return tuple(found[0]), tuple(found[1])
