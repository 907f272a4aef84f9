"""``cpus``, and how a command is told which machine and which settings to use."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.models import DEFAULT_MODEL, MODELS, PROPERTIES, find_model
from tlbkit.show.text import table

if TYPE_CHECKING:
    import argparse

    from tlbkit.arm64.models import CpuModel


def add_cpu(one: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Say how a command takes a CPU model, or *several* of them."""
    one.add_argument(
        "--cpu",
        default=DEFAULT_MODEL,
        metavar="MODEL[,PROPERTY]",
        help="a CPU model, with properties if you like: neoverse-v2,kpti,page=16K; "
        + ("a comma and another model give one more; " if several else "")
        + "`cpus` lists both; default %(default)s",
    )


def add_tune(one: argparse.ArgumentParser) -> None:
    """Say how a command takes settings of the kernel."""
    one.add_argument(
        "--tune",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the kernel, such as thp=always or hugepages=8; `list` names "
        "them; may be repeated",
    )


def add_cpus(one: argparse.ArgumentParser) -> None:
    """Say what ``cpus`` takes."""
    one.add_argument(
        "model",
        nargs="?",
        metavar="MODEL[,PROPERTY]",
        help="such as neoverse-v2,kpti,page=16K",
    )


def cpus(asked: argparse.Namespace) -> None:
    """List all models, or tell everything of one."""
    if asked.model is None:
        models = list(MODELS.values())
        if asked.json:
            _print([_cpu_json(model) for model in models])
            return
        rows = [[one.name, one.summary] for one in models]
        print(table(["cpu", "what it is"], rows), end="\n\n")
        properties = [[one.name, one.allowed, one.what] for one in PROPERTIES.values()]
        print(table(["property", "values", "what it says"], properties))
        return
    model = find_model(asked.model)
    if asked.json:
        _print(_cpu_json(model))
        return
    print(f"{model.name}: {model.summary}\n")
    rows = [
        [one.name, one.of(model), model.origin(one.name).surety, one.what]
        for one in PROPERTIES.values()
    ]
    print(table(["property", "value", "it is", "what it says"], rows), end="\n\n")
    for origin in model.origins:
        print(f"{', '.join(origin.of) or 'all the others'}: {origin}")


def _cpu_json(model: CpuModel) -> dict[str, Any]:
    """Return a CPU model: each property with its value and where that comes from."""
    return {
        "name": model.name,
        "summary": model.summary,
        "properties": {
            one.name: {
                "value": one.of(model),
                "kind": model.origin(one.name).surety.value,
                "source": model.origin(one.name).source,
            }
            for one in PROPERTIES.values()
        },
    }


def _print(value: object) -> None:
    print(json.dumps(value, indent=2))
