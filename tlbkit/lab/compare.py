"""Two kernels, one input: what differs, and where it begins."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.models import DEFAULT_MODEL
from tlbkit.lab.run import run
from tlbkit.observe.words import describe, same

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tlbkit.arm64.events import Event
    from tlbkit.lab.parameter import Value
    from tlbkit.lab.run import Result
    from tlbkit.lab.scenario import Scenario, Variant


@dataclass(frozen=True, slots=True)
class Difference:
    """The first step at which two runs part.

    Attributes:
        step: How many steps both did alike before it.
        before: What the first kernel did then, or ``None`` if it was done.
        after: What the second one did.
    """

    step: int
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One operation on two kernels.

    Attributes:
        before, after: What each did.
        difference: Where they part, or ``None`` if they do exactly the same.
    """

    before: Result
    after: Result
    difference: Difference | None

    @property
    def parting(self) -> str:
        """Where they part, as a sentence."""
        if self.difference is None:
            return "Step by step, both do the same."
        ways = (
            f"{result.variant} {'is done' if step is None else f'does “{step}”'}"
            for result, step in (
                (self.before, self.difference.before),
                (self.after, self.difference.after),
            )
        )
        steps = self.difference.step
        plural = "" if steps == 1 else "s"
        return f"After {steps} equal step{plural} {' and '.join(ways)}."

    def to_json(self) -> dict[str, Any]:
        """Return both runs, and where they part."""
        parting = self.difference
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "difference": parting
            and {
                "step": parting.step,
                "before": parting.before,
                "after": parting.after,
            },
        }


def first_difference(
    before: Iterable[Event], after: Iterable[Event]
) -> Difference | None:
    """Return where two runs part; ``None`` if they never do."""
    for step, (one, other) in enumerate(zip_longest(before, after)):
        if one is None or other is None or not same(one, other):
            return Difference(
                step,
                None if one is None else describe(one),
                None if other is None else describe(other),
            )
    return None


def compare(
    scenario: Scenario,
    params: Mapping[str, Value] | None = None,
    before: Variant | None = None,
    after: Variant | None = None,
    cpu: str = DEFAULT_MODEL,
) -> Comparison:
    """Run a scenario on two kernels with the same input.

    Args:
        scenario: What to run.
        params: Values of parameters; the others have their defaults.
        before: The first kernel; the scenario's own if not given.
        after: The second kernel, likewise.
        cpu: Name of a CPU model.

    Errors:
        InputError: As `tlbkit.lab.run.run`.
    """
    events: tuple[list[Event], list[Event]] = ([], [])
    one, other = (
        run(scenario, params, variant, cpu, listener=heard.append)
        for variant, heard in zip(
            (before or scenario.before, after or scenario.after), events, strict=True
        )
    )
    return Comparison(one, other, first_difference(*events))
