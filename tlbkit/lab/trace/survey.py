"""Many traces on many kernels and CPU models: a row for each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tlbkit.arm64.models import DEFAULT_MODEL
from tlbkit.errors import InputError
from tlbkit.lab import work
from tlbkit.lab.trace.trace import Trace
from tlbkit.patches import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from tlbkit.lab.trace.replay import Policy


def survey(
    traces: Mapping[str, Sequence[str]],
    kernels: Sequence[str] = ("v6.17", "v6.19"),
    models: Sequence[str] = (DEFAULT_MODEL,),
    *,
    cpus: int = 4,
    touch: Policy = "written",
    executor: Executor | None = None,
    journal: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[work.Row]:
    """Replay each trace on each kernel and each CPU model.

    Args:
        traces: Name -> the files of one run, where the executor's workers find them.
        kernels: Names of kernels.
        models: Names of CPU models.
        cpus: How many CPUs each machine has.
        touch: What a first touch was of which a trace does not tell.
        executor: Runs the replays, as for `tlbkit.lab.work.rows`.
        journal: Keeps the rows as they come, so that an interrupted survey goes on.
        progress: Is told how many replays are done, and of how many.

    Returns:
        The rows that `row_of` makes: the model changes fastest, the trace slowest.

    Errors:
        InputError: A name is unknown, and nothing was replayed; or a file cannot be
            read.
    """
    for kernel in kernels:
        registry.kernel(kernel)
    if not traces:
        raise InputError("name at least one trace")
    tasks = [
        work.Task(
            json.dumps([name, kernel, model]),
            row_of,
            (name, tuple(files), kernel, model, cpus, touch),
        )
        for name, files in traces.items()
        for kernel in kernels
        for model in models
    ]
    if journal is None:
        return work.rows(tasks, executor, progress=progress)
    about = {
        "traces": {name: list(files) for name, files in traces.items()},
        "kernels": list(kernels),
        "models": list(models),
        "cpus": cpus,
        "touch": touch,
    }
    with work.Journal(journal, about) as kept:
        return work.rows(tasks, executor, kept, progress)


def row_of(
    name: str,
    files: Sequence[str],
    kernel: str,
    model: str,
    cpus: int,
    touch: Policy,
) -> work.Row:
    """Replay one trace once: its ``trace``, ``kernel``, ``cpu``, and what was issued.

    ``broadcasts``, ``local``, ``sync_ish``, ``sync_nsh``, ``ipi_broadcasts``,
    ``faults``, ``spurious_faults``, ``cost_ns`` of modelled time, and ``lines_used``,
    the part of the lines that was read.
    """
    trace = Trace.read(*files)
    found = trace.replay(kernel, cpu=model, cpus=cpus, touch=touch)
    return {
        "trace": name,
        "kernel": kernel,
        "cpu": model,
        "broadcasts": found.broadcasts,
        "local": found.local,
        "sync_ish": found.sync_ish,
        "sync_nsh": found.sync_nsh,
        "ipi_broadcasts": found.ipi_broadcasts,
        "faults": found.faults,
        "spurious_faults": found.spurious,
        "cost_ns": round(found.cost_ns, 1),
        "lines_used": round(trace.used, 6),
    }
