"""``sweep`` and ``compare``: a scenario at many settings, or on two kernels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tlbkit import lab
from tlbkit.arm64.models import split_models
from tlbkit.commands.machine import add_cpu
from tlbkit.commands.workers import (
    Progress,
    add_out,
    add_workers,
    executor_of,
    going_on,
    journal_of,
)
from tlbkit.errors import InputError
from tlbkit.lab import tables
from tlbkit.show.text import table

if TYPE_CHECKING:
    import argparse

    from tlbkit.lab import Comparison, Parameter, Scenario, Value

_MOST = 10_000_000
"""More runs than anyone waits for."""


def add_sweep(one: argparse.ArgumentParser) -> None:
    """Say what ``sweep`` takes."""
    one.add_argument("name", metavar="NAME", help="a scenario")
    one.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="an axis: values with commas between, or FIRST..LAST, or "
        "FIRST..LAST:STEP; may be repeated",
    )
    one.add_argument(
        "--kernel",
        metavar="NAME[,NAME]",
        help="the kernels; default the two that the scenario compares",
    )
    add_cpu(one, several=True)
    add_workers(one)
    add_out(one)


def sweep(asked: argparse.Namespace) -> None:
    """Run a scenario at every combination, and print or write a row for each run."""
    scenario = lab.find(asked.name)
    axes = axes_of(scenario, asked.over)
    names = asked.kernel.split(",") if asked.kernel else ()
    journal = journal_of(asked.out)
    with going_on(journal), executor_of(asked) as executor:
        found = lab.sweep(
            scenario,
            axes,
            [lab.Variant(name) for name in names],
            split_models(asked.cpu),
            executor=executor,
            journal=journal,
            progress=Progress(),
        )
    if asked.out is not None and journal is not None:
        tables.write(found.rows, asked.out)
        journal.unlink()
    if asked.json:
        print(json.dumps(found.columns(), indent=2))
    elif asked.out is not None:
        print(f"{len(found.rows):,} rows are in {asked.out}")
    else:
        varied = [*axes, "kernel", "cpu"]
        shown = [*varied, "broadcasts", "local", "flushes", "faults", "cost_ns"]
        cells = [[_cell(row[name]) for name in shown] for row in found.rows]
        print(table(shown, cells))


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def axes_of(scenario: Scenario, texts: list[str]) -> dict[str, list[Value]]:
    """Return the values of each axis that the command line gives.

    Errors:
        InputError: No such parameter, a value that it does not allow, an axis twice,
            or more combinations than anyone waits for.
    """
    axes: dict[str, list[Value]] = {}
    runs = 1
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals:
            raise InputError(f"--over {text}: write NAME=VALUES, as in pages=1,2,4")
        if name in axes:
            raise InputError(f"{name} is an axis twice; give all its values once")
        parameter = scenario.parameter(name)
        axes[name] = [
            value for part in values.split(",") for value in _values(parameter, part)
        ]
        runs *= len(axes[name])
        if runs > _MOST:
            raise InputError(f"these are more than {_MOST:,} combinations; take fewer")
    return axes


def _values(parameter: Parameter, text: str) -> list[Value]:
    """Return the values that one part of an axis spells: one, or a range."""
    first, dots, rest = text.partition("..")
    if not dots:
        return [parameter.parse(text)]
    last, colon, step = rest.partition(":")
    low, high = parameter.parse(first), parameter.parse(last)
    if not isinstance(low, int) or not isinstance(high, int):
        raise InputError(f"{parameter.name}={text}: only numbers have ranges")
    if colon and not (step.isascii() and step.isdigit() and int(step)):
        raise InputError(f"{parameter.name}={text}: the step is a number from 1 on")
    if low > high:
        raise InputError(f"{parameter.name}={text}: the first is above the last")
    return list(range(low, high + 1, int(step) if colon else 1))


def add_compare(one: argparse.ArgumentParser) -> None:
    """Say what ``compare`` takes."""
    one.add_argument("name", metavar="NAME", help="a scenario")
    one.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="the value of a parameter; may be repeated",
    )
    one.add_argument(
        "--kernel",
        metavar="NAME,NAME",
        help="the two kernels; default those that the scenario compares",
    )
    add_cpu(one)


def compare(asked: argparse.Namespace) -> None:
    """Run a scenario on two kernels, and print what differs and where it begins."""
    scenario = lab.find(asked.name)
    settings: dict[str, Value] = {}
    for name, values in axes_of(scenario, asked.set).items():
        if len(values) != 1:
            raise InputError(f"--set {name}: give one value; sweep takes several")
        settings[name] = values[0]
    kernels: tuple[lab.Variant, ...] = (scenario.before, scenario.after)
    if asked.kernel:
        kernels = tuple(lab.Variant(name) for name in asked.kernel.split(","))
    if len(kernels) != 2:
        raise InputError(
            f"--kernel {asked.kernel}: name two kernels, as in v6.17,v6.19"
        )
    found = lab.compare(scenario, settings, *kernels, cpu=asked.cpu)
    if asked.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print(_compared(found))


def _compared(found: Comparison) -> str:
    """Return a comparison as a table and a sentence."""
    sides = (found.before, found.after)
    names = [
        *(("TLBI", form) for form in _union(*(one.counts.tlbi for one in sides))),
        *(("DSB", kind) for kind in _union(*(one.counts.dsb for one in sides))),
    ]
    rows = [
        [
            f"{what} {name}",
            *(
                f"{(one.counts.tlbi if what == 'TLBI' else one.counts.dsb)[name]:,}"
                for one in sides
            ),
        ]
        for what, name in names
    ]
    rows += [
        ["IPI broadcasts", *(f"{one.counts.ipi_broadcasts:,}" for one in sides)],
        ["faults", *(f"{one.counts.faults.total():,}" for one in sides)],
        ["spurious faults", *(f"{one.counts.spurious_faults:,}" for one in sides)],
        ["modelled time, ns", *(f"{one.cost_ns:,.1f}" for one in sides)],
        ["ended with", *(one.outcome for one in sides)],
    ]
    head = [found.before.scenario, *(str(one.variant) for one in sides)]
    return f"{table(head, rows)}\n\n{found.parting}"


def _union(*counters: dict[str, int]) -> list[str]:
    """Return the names that any of them has, in order."""
    return list(dict.fromkeys(name for one in counters for name in one))
