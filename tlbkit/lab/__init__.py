"""Scenarios: parameters, a run, a result."""

from tlbkit.errors import InputError
from tlbkit.lab.answer import Answer
from tlbkit.lab.compare import Comparison, Difference, compare
from tlbkit.lab.mprotect import Mprotect
from tlbkit.lab.parameter import Parameter, Value
from tlbkit.lab.run import Result, run
from tlbkit.lab.scenario import CPUS, Claim, Operation, Scenario, Variant
from tlbkit.lab.sweep import Sweep, sweep

__all__ = [
    "CPUS",
    "SCENARIOS",
    "Answer",
    "Claim",
    "Comparison",
    "Difference",
    "Operation",
    "Parameter",
    "Result",
    "Scenario",
    "Sweep",
    "Value",
    "Variant",
    "compare",
    "find",
    "run",
    "sweep",
]

SCENARIOS: dict[str, Scenario] = {one.name: one for one in (Mprotect(),)}
"""Every scenario, by name."""


def find(name: str) -> Scenario:
    """Return the scenario called *name*; `InputError` says which there are."""
    if name in SCENARIOS:
        return SCENARIOS[name]
    raise InputError(f"no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
