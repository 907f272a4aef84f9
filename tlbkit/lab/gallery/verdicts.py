"""The verdicts of the gallery, as they were last found.

They stand in `verdicts.json` beside this module, as ``python -m tlbkit mutate --json``
prints them. To read them needs no search.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tlbkit.lab.gallery.names import check

if TYPE_CHECKING:
    from collections.abc import Iterable

BREAKS = "breaks"
ARGUED = "argued"
OPEN = "open"
"""A verdict that the gallery must not hold: nothing breaks, and nobody says why."""


class Harm(NamedTuple):
    """How it ends where something breaks.

    Attributes:
        kind: What sort of harm, in words.
        meeting: Where it was found.
        more: How much more often threads use memory there than the meeting asks for.
        steps: How many steps lead there.
        schedule: Its decisions, as those of a verdict.
        error: What happens, in one line.
    """

    kind: str
    meeting: str
    more: int
    steps: int
    schedule: tuple[tuple[int, int], ...]
    error: str

    def to_json(self) -> dict[str, Any]:
        """Return it as plain dictionaries and lists."""
        return {**self._asdict(), "schedule": [list(one) for one in self.schedule]}

    @classmethod
    def of_json(cls, said: dict[str, Any]) -> Self:
        """Return what `to_json` was made of."""
        schedule = tuple((step, flow) for step, flow in said["schedule"])
        return cls(**{**said, "schedule": schedule})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens without one point.

    Attributes:
        point: What is taken out, as `Machine.taken_out` names it.
        verdict: ``"breaks"``, ``"argued"`` or ``"open"``.
        meetings: The meetings that come by the point.
        meeting: The one with the shortest schedule that breaks, or "".
        preemptions: How many such a schedule has; else up to how many were tried.
        steps: How many steps that schedule has, 0 if there is none.
        schedule: Its decisions: after how many steps which flow goes on.
        error: What is broken, in one line.
        harm: What comes of it, where something breaks; ``None`` if no harm was found.
        why: The argument, where nothing breaks.
        runs: How many schedules were tried.
        complete: Whether those are all that there are, up to so many preemptions, with
            a step at each load of a table's word too. Where something breaks, no: the
            search ends there.
        chapter: The page that tells of the flow.
    """

    point: str
    verdict: str
    meetings: tuple[str, ...]
    meeting: str = ""
    preemptions: int = 0
    steps: int = 0
    schedule: tuple[tuple[int, int], ...] = ()
    error: str = ""
    harm: Harm | None = None
    why: str = ""
    runs: int = field(default=0, compare=False)
    complete: bool = False
    chapter: str = ""

    @property
    def flow(self) -> str:
        """The meeting that breaks, or all that were tried."""
        return self.meeting or ", ".join(self.meetings)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain dictionaries and lists."""
        return {
            "name": self.point,
            "flow": self.flow,
            "verdict": self.verdict,
            "steps": self.steps,
            "preemptions": self.preemptions,
            "schedule": [list(choice) for choice in self.schedule],
            "error": self.error,
            "harm": self.harm.to_json() if self.harm else None,
            "why": self.why,
            "meetings": list(self.meetings),
            "runs": self.runs,
            "complete": self.complete,
            "chapter": self.chapter,
        }

    @classmethod
    def of_json(cls, said: dict[str, Any]) -> Verdict:
        """Return what `to_json` was made of."""
        return cls(
            said["name"],
            said["verdict"],
            tuple(said["meetings"]),
            said["flow"] if said["verdict"] == BREAKS else "",
            said["preemptions"],
            said["steps"],
            tuple((step, flow) for step, flow in said["schedule"]),
            said["error"],
            Harm.of_json(said["harm"]) if said["harm"] else None,
            said["why"],
            said["runs"],
            said["complete"],
            said["chapter"],
        )


def gallery() -> list[Verdict]:
    """Return the verdicts as they were last found, by the names of the points."""
    text = (files("tlbkit.lab.gallery") / "verdicts.json").read_text("utf-8")
    return [Verdict.of_json(one) for one in json.loads(text)]


def find(point: str) -> Verdict:
    """Return the verdict on a point; `InputError` if there is none."""
    known = {verdict.point: verdict for verdict in gallery()}
    check("point", point, known, "python -m tlbkit gallery")
    return known[point]


def changed(found: Iterable[Verdict]) -> list[str]:
    """Return the points of which the gallery says something else than *found*."""
    known = {verdict.point: verdict for verdict in gallery()}
    return [one.point for one in found if one != known.get(one.point)]
