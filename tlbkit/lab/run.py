"""One run of a scenario on one kernel."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import DEFAULT_MODEL
from tlbkit.lab.result import Result
from tlbkit.lab.variant import Variant
from tlbkit.observe.counters import counting
from tlbkit.observe.timing import timing
from tlbkit.patches import registry
from tlbkit.patches.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.scenario import Scenario


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
