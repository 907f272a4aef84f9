"""What came of a run of a scenario on one kernel, and of one on two kernels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.variant import Variant
    from tlbkit.observe.counters import Counts
    from tlbkit.observe.timing import Bill


@dataclass(frozen=True, slots=True)
class Result:
    """What one operation issued and cost; its preparation is not in it.

    Attributes:
        scenario: Name of the scenario.
        variant: The kernel.
        cpu: Name of the CPU model.
        params: A value for each parameter.
        outcome: How the operation ended: ``"ok"``, or an errno or signal by name.
        counts: What it issued.
        bill: Where its time went.
        said: What to know about the kernel, one sentence each.
        tuning: Its settings that were asked for, by name.
    """

    scenario: str
    variant: Variant
    cpu: str
    params: Mapping[str, Value]
    outcome: str
    counts: Counts
    bill: Bill
    said: tuple[str, ...]
    tuning: Mapping[str, str] = field(default_factory=dict)

    @property
    def cost_ns(self) -> float:
        """Modelled time of the operation, in ns, to a tenth."""
        return round(self.bill.elapsed_ns, 1)

    @property
    def text(self) -> str:
        """The run in a few sentences."""
        given = {**self.params, **self.tuning}
        settings = ", ".join(f"{name}={value}" for name, value in given.items())
        return " ".join(
            (
                f"{self.scenario} on {self.variant}, {self.cpu}, {settings}:",
                f"{issued(self.counts)}; ended with {self.outcome};",
                f"modelled cost {self.cost_ns:,.0f} ns.",
                *(f"Note: {sentence}." for sentence in self.said),
            )
        )

    def to_json(self) -> dict[str, Any]:
        """Return the run as ``--json`` prints it."""
        return {
            "scenario": self.scenario,
            "kernel": self.variant.kernel,
            "cpu": self.cpu,
            "params": dict(self.params),
            "tuning": dict(self.tuning),
            "counts": self.counts.to_json(),
            "cost_ns": self.cost_ns,
            "text": self.text,
        }


def issued(counts: Counts) -> str:
    """Say which TLBI and DSB were issued.

    >>> from tlbkit.observe.counters import Counts
    >>> issued(Counts(tlbi={"VALE1IS": 64}, dsb={"ishst": 1, "ish": 1}))
    '64 TLBI VALE1IS, 1 DSB ishst, 1 DSB ish'
    >>> issued(Counts())
    'no TLBI, no DSB'
    """
    parts = [f"{n} TLBI {name}" for name, n in counts.tlbi.items()] or ["no TLBI"]
    parts += [f"{n} DSB {kind}" for kind, n in counts.dsb.items()] or ["no DSB"]
    return ", ".join(parts)


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
