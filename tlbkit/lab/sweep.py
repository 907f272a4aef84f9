"""The same scenario at many settings, here or on many machines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from tlbkit.arm64.models import DEFAULT_MODEL
from tlbkit.lab.run import run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.result import Result
    from tlbkit.lab.scenario import Scenario
    from tlbkit.lab.variant import Variant

Point = tuple["Scenario", "Mapping[str, Value]", "Variant", str]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What came of a sweep.

    Attributes:
        results: One for each setting and kernel; the kernel changes fastest, the first
            axis slowest.
    """

    results: tuple[Result, ...]

    def columns(self) -> dict[str, list[Value | float]]:
        """Return a column for each parameter and each number, a row for each run."""
        columns: dict[str, list[Value | float]] = {}
        for result in self.results:
            counts = result.counts
            row: dict[str, Value | float] = {
                **result.params,
                "kernel": str(result.variant),
                "cpu": result.cpu,
                "tlbi": counts.tlbi.total(),
                "dsb": counts.dsb.total(),
                "flushes": counts.flushes,
                "ipi_broadcasts": counts.ipi_broadcasts,
                "faults": counts.faults.total(),
                "walks": counts.walks,
                "notifier": counts.notifier,
                "cost_ns": result.cost_ns,
            }
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        return columns


def sweep(
    scenario: Scenario,
    axes: Mapping[str, Sequence[Value]],
    variants: Sequence[Variant] = (),
    cpu: str = DEFAULT_MODEL,
    *,
    executor: Executor | None = None,
) -> Sweep:
    """Run a scenario at every combination of the values on *axes*.

    Args:
        scenario: What to run.
        axes: Parameter -> its values; parameters that are left out have their defaults.
        variants: The kernels; the scenario's two if none is given.
        cpu: Name of a CPU model.
        executor: Runs them, for example a ``ProcessPoolExecutor`` or what
            ``dask.distributed.Client.get_executor`` returns; by default they run here,
            one after the other.

    Errors:
        InputError: A parameter or a value is not allowed; nothing was run.
    """
    points = [
        (scenario, scenario.settings(dict(zip(axes, values, strict=True))), one, cpu)
        for values in product(*axes.values())
        for one in variants or (scenario.before, scenario.after)
    ]
    mapped = map(_run, points) if executor is None else executor.map(_run, points)
    return Sweep(tuple(mapped))


def _run(point: Point) -> Result:
    return run(*point)
