"""One run of a scenario on one kernel, and what came of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import DEFAULT_MODEL
from tlbkit.lab.scenario import Variant
from tlbkit.observe.counters import counting
from tlbkit.observe.timing import timing
from tlbkit.patches import registry
from tlbkit.patches.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.scenario import Scenario
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
    """

    scenario: str
    variant: Variant
    cpu: str
    params: Mapping[str, Value]
    outcome: str
    counts: Counts
    bill: Bill
    said: tuple[str, ...]

    @property
    def cost_ns(self) -> float:
        """Modelled time of the operation, in ns, to a tenth."""
        return round(self.bill.elapsed_ns, 1)

    @property
    def text(self) -> str:
        """The run in a few sentences."""
        settings = ", ".join(f"{name}={value}" for name, value in self.params.items())
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


def run(
    scenario: Scenario,
    params: Mapping[str, Value] | None = None,
    variant: Variant | None = None,
    cpu: str = DEFAULT_MODEL,
    *,
    around: Callable[[Machine], AbstractContextManager[object]] = nullcontext,
) -> Result:
    """Prepare a scenario on a machine of its own, do its operation, and count.

    Args:
        scenario: What to run.
        params: Values of parameters; the others have their defaults.
        variant: The kernel; the default one if not given.
        cpu: Name of a CPU model.
        around: Returns a context for the operation, for example one that listens.

    Errors:
        InputError: A parameter, a value, a kernel, a commit or a CPU model is unknown.
    """
    variant = variant or Variant()
    hashes = tuple(registry.find(text).hash for text in variant.without)
    variant = Variant(variant.kernel, hashes)
    settings = scenario.settings(params or {})
    machine = Machine(int(settings["cpus"]), cpu)
    kernel = Kernel(machine, variant.kernel, variant.without)
    operation = scenario.prepare(kernel, settings)
    with (
        counting(machine) as counts,
        timing(machine) as clocks,
        around(machine),
    ):
        outcome = operation()
    return Result(
        scenario.name,
        variant,
        cpu,
        settings,
        outcome,
        counts,
        clocks.bill(),
        kernel.said,
    )
