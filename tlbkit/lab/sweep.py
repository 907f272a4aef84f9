"""The same scenario at many settings, here or on many machines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from tlbkit.arm64.models import DEFAULT_MODEL
from tlbkit.lab import work
from tlbkit.lab.run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.scenario import Scenario
    from tlbkit.lab.variant import Variant


@dataclass(frozen=True, slots=True)
class Sweep:
    """What came of a sweep.

    Attributes:
        rows: One for each setting, CPU model and kernel, as `row_of` makes it; the
            kernel changes fastest, the first axis slowest.
    """

    rows: tuple[work.Row, ...]

    def columns(self) -> dict[str, list[Value | float]]:
        """Return a column for each parameter and each number, a row for each run."""
        names = self.rows[0] if self.rows else ()
        return {name: [row[name] for row in self.rows] for name in names}


def sweep(
    scenario: Scenario,
    axes: Mapping[str, Sequence[Value]],
    variants: Sequence[Variant] = (),
    cpu: str | Sequence[str] = DEFAULT_MODEL,
    *,
    executor: Executor | None = None,
    journal: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Run a scenario at every combination of the values on *axes*.

    Args:
        scenario: What to run.
        axes: Parameter -> its values; parameters that are left out have their defaults.
        variants: The kernels; the scenario's two if none is given.
        cpu: Name of a CPU model, or several names.
        executor: Runs them, as for `tlbkit.lab.work.rows`; by default they run here,
            one after the other.
        journal: A file that keeps the rows as they come: a sweep that was interrupted
            goes on with it where it stood.
        progress: Is told how many runs are done, and of how many.

    Errors:
        InputError: A parameter or a value is not allowed, and nothing was run; or the
            journal is of another sweep.
    """
    models = (cpu,) if isinstance(cpu, str) else tuple(cpu)
    kernels = tuple(variants) or (scenario.before, scenario.after)
    settings = [
        scenario.settings(dict(zip(axes, values, strict=True)))
        for values in product(*axes.values())
    ]
    tasks = [
        work.Task(_key(one, kernel, model), row_of, (scenario, one, kernel, model))
        for one in settings
        for model in models
        for kernel in kernels
    ]
    if journal is None:
        return Sweep(tuple(work.rows(tasks, executor, progress=progress)))
    about = {
        "scenario": scenario.name,
        "axes": {name: list(values) for name, values in axes.items()},
        "kernels": [str(one) for one in kernels],
        "cpus": list(models),
    }
    with work.Journal(journal, about) as kept:
        return Sweep(tuple(work.rows(tasks, executor, kept, progress)))


def row_of(
    scenario: Scenario, settings: Mapping[str, Value], variant: Variant, cpu: str
) -> work.Row:
    """Run a scenario once, and return its numbers by name: one row of a sweep.

    Every parameter has its value, then ``kernel``, ``cpu``, ``outcome`` ("ok", an
    errno, a signal), and counts of the operation: ``tlbi`` and of these ``broadcasts``
    and ``local``, ``dsb``, ``flushes``, ``ipi_broadcasts``, ``faults``,
    ``spurious_faults``, ``walks``, ``notifier``; ``cost_ns`` is modelled time in ns.
    """
    result = run(scenario, settings, variant, cpu)
    counts = result.counts
    broadcasts = counts.broadcasts
    return {
        **result.params,
        "kernel": str(result.variant),
        "cpu": result.cpu,
        "outcome": result.outcome,
        "tlbi": counts.tlbi.total(),
        "broadcasts": broadcasts,
        "local": counts.tlbi.total() - broadcasts,
        "dsb": counts.dsb.total(),
        "flushes": counts.flushes,
        "ipi_broadcasts": counts.ipi_broadcasts,
        "faults": counts.faults.total(),
        "spurious_faults": counts.spurious_faults,
        "walks": counts.walks,
        "notifier": counts.notifier,
        "cost_ns": result.cost_ns,
    }


def _key(settings: Mapping[str, Value], variant: Variant, cpu: str) -> str:
    """Name one run of a sweep."""
    return json.dumps([dict(settings), variant.kernel, variant.without, cpu])
