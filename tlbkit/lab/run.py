"""One run of a scenario on one kernel."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from tlbkit.arm64.machine import Machine
from tlbkit.lab.result import Result
from tlbkit.lab.variant import Variant
from tlbkit.linux.tuning import tune
from tlbkit.observe.counters import counting
from tlbkit.observe.timing import timing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.scenario import Scenario


def run(
    scenario: Scenario,
    params: Mapping[str, Value] | None = None,
    variant: Variant | None = None,
    cpu: str | None = None,
    *,
    tuning: Mapping[str, object] | None = None,
    around: Callable[[Machine], AbstractContextManager[object]] = nullcontext,
) -> Result:
    """Prepare a scenario on a machine of its own, do its operation, and count.

    Args:
        scenario: What to run.
        params: Values of parameters; the others have their defaults.
        variant: The kernel; the default one if not given.
        cpu: A CPU model by name, with properties if you like; the scenario's own if not
            given.
        tuning: Settings of the kernel, as `tlbkit.linux.tuning.tune` takes them.
        around: Returns a context for the operation, for example one that listens.

    Errors:
        InputError: A parameter, a value, a kernel, a commit, a CPU model or a setting
            is unknown.
    """
    variant = (variant or Variant()).exact()
    settings = scenario.settings(params or {})
    cpu = scenario.cpu if cpu is None else cpu
    machine = Machine(int(settings["cpus"]), cpu)
    kernel = variant.start(machine)
    tune(kernel, tuning or {})
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
        {name: str(value) for name, value in (tuning or {}).items()},
    )
