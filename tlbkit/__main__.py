"""The command line: ``python -m tlbkit``.

Each command prints tables for people, or with ``--json`` one JSON value. What is not
allowed ends with status 2 and one line on standard error that says what is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tlbkit import __version__, lab, sources
from tlbkit.arm64.models import MODELS
from tlbkit.commands import at, litmus, machine
from tlbkit.commands import sequence as sequences
from tlbkit.commands import sweep as sweeps
from tlbkit.commands import trace as traces
from tlbkit.commands import trial as trials
from tlbkit.errors import InputError, TlbkitError
from tlbkit.lab.gallery import verdicts
from tlbkit.linux.tuning import TUNABLES, read_tuning
from tlbkit.observe.lines import tracing
from tlbkit.patches import registry
from tlbkit.show.text import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from tlbkit.arm64.machine import Machine
    from tlbkit.lab import Result, Scenario, Value

NOT_ALLOWED = 2
"""Exit status for a name, a value or a file that is not allowed."""

_WHAT = "The ARM64 MMU and TLB, and the Linux flows that flush it, as a running model."


class Parser(argparse.ArgumentParser):
    """A parser whose errors are those of the package, without a usage text."""

    def error(self, message: str) -> NoReturn:
        """Report *message* as a wrong input."""
        raise InputError(message)


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top = Parser(prog="python -m tlbkit", description=_WHAT)
    top.add_argument("--version", action="version", version=f"tlbkit {__version__}")
    top.set_defaults(do=_no_command)
    commands = top.add_subparsers(title="commands", metavar="COMMAND")

    def command(
        name: str, summary: str, do: Callable[[argparse.Namespace], int | None]
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=summary, description=summary)
        one.set_defaults(do=do)
        return one

    command(
        "list", "Name scenarios, explorers, kernels, settings and CPU models.", _list
    )

    one = command(
        "cpus",
        "List CPU models and their properties, or tell all of one.",
        machine.cpus,
    )
    machine.add_cpus(one)
    _add_json(one)

    one = command("patches", "Name the commits, and how far each is built.", _patches)
    _add_json(one)

    one = command(
        "where",
        "Lead from a kernel function to its Python, tests, chapter and C.",
        _where,
    )
    one.add_argument("symbol", metavar="SYMBOL", help="such as move_pages_ptes")
    _add_json(one)

    one = command("run", "Run a scenario on one kernel and count.", _run)
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
        default=registry.DEFAULT_KERNEL,
        metavar="NAME",
        help=f"one of {', '.join(registry.KERNELS)}; default %(default)s",
    )
    one.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="HASH",
        help="leave a commit out besides; may be repeated",
    )
    one.add_argument(
        "--with",
        dest="including",
        action="append",
        default=[],
        metavar="HASH",
        help="put a commit in besides, as a backport would; may be repeated",
    )
    machine.add_cpu(one)
    machine.add_tune(one)
    one.add_argument("--cpus", metavar="N", help="short for --set cpus=N")
    one.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="write a line for each event of the operation (see tlbkit.observe.lines); "
        "if FILE ends with .jsonl, as JSON",
    )
    _add_json(one)

    one = command("compare", "Run a scenario on two kernels.", sweeps.compare)
    sweeps.add_compare(one)
    _add_json(one)

    one = command("sweep", "Run a scenario at many settings.", sweeps.sweep)
    sweeps.add_sweep(one)
    _add_json(one)

    one = command(
        "trace",
        "Replay what strace and perf wrote of a program of yours.",
        traces.trace,
    )
    traces.add_trace(one)
    _add_json(one)

    one = command("survey", "Replay many traces on many kernels.", traces.survey)
    traces.add_survey(one)
    _add_json(one)

    one = command(
        "at", "Tell where addresses lead, by an image or a dump of page tables.", at.at
    )
    at.add_at(one)
    _add_json(one)

    one = command(
        "sequence",
        "Judge a flush sequence of any kernel, in Arm's assembly.",
        sequences.sequence,
    )
    sequences.add_sequence(one)
    _add_json(one)

    one = command(
        "try",
        "Try a patch of your own: what it saves, and what it breaks.",
        trials.attempt,
    )
    trials.add_try(one)
    _add_json(one)

    one = command(
        "litmus",
        "Judge litmus tests: herd7's own files, or the package's form.",
        litmus.litmus,
    )
    litmus.add_litmus(one)
    _add_json(one)

    one = command(
        "gallery", "List what can be taken out of the flows, and what breaks.", _gallery
    )
    _add_json(one)

    one = command("mutate", "Take each thing out anew, and search again.", _mutate)
    one.add_argument(
        "points",
        nargs="*",
        metavar="POINT",
        help="as the gallery names it; default all",
    )
    _add_json(one)

    one = command("meetings", "List who meets in the gallery.", _meetings)
    _add_json(one)

    one = command("random", "Run meetings of the gallery by chance, for long.", _random)
    one.add_argument(
        "meetings", nargs="*", metavar="MEETING", help="by name; default all"
    )
    one.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="the same seed tries the same schedules; default %(default)s",
    )
    one.add_argument(
        "--runs",
        type=int,
        default=1000,
        metavar="N",
        help="how many schedules of each meeting; default %(default)s",
    )
    one.add_argument(
        "--take-out",
        action="append",
        default=[],
        metavar="POINT",
        help="take it out, as the gallery names it; may be repeated",
    )
    _add_json(one)
    return top


def _add_json(one: argparse.ArgumentParser) -> None:
    one.add_argument("--json", action="store_true", help="print JSON")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what *arguments* say, or those of the process; return the exit status."""
    try:
        asked = parser().parse_args(arguments)
        status: int | None = asked.do(asked)
        sys.stdout.flush()
    except InputError as error:
        return _complain(error, NOT_ALLOWED)
    except TlbkitError as error:
        return _complain(error, 1)
    except BrokenPipeError:
        # The reader has seen enough; nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status or 0


def _no_command(_: argparse.Namespace) -> None:
    raise InputError(
        "give a command: "
        "list, cpus, patches, where, run, compare, sweep, trace, survey, at, sequence, "
        "try, litmus, gallery, mutate, meetings or random"
    )


def _complain(error: TlbkitError, status: int) -> int:
    print("tlbkit:", " ".join(str(error).split()), file=sys.stderr)
    return status


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


# -- list, patches -------------------------------------------------------------------


def _list(_: argparse.Namespace) -> None:
    for scenario in lab.SCENARIOS.values():
        print(f"{scenario.name}: {scenario.title}\n")
        for one in scenario.parameters:
            words = f"--set {one.name}={one.default} by default; {one.allowed}"
            print(
                textwrap.fill(
                    words,
                    width=88,
                    initial_indent="  ",
                    subsequent_indent=" " * 8,
                    break_on_hyphens=False,
                )
            )
        print()
    shown = [
        [one.name, one.title]
        for one in lab.EXPLORATIONS.values()
        if one.name not in lab.SCENARIOS
    ]
    print(
        table(["explorer", "what it shows, in a notebook or page"], shown), end="\n\n"
    )
    kernels = [[one.name, one.summary] for one in registry.KERNELS.values()]
    print(table(["kernel", "what it is"], kernels), end="\n\n")
    tunables = [[one.name, one.allowed, one.what] for one in TUNABLES.values()]
    print(table(["--tune", "values", "what it decides"], tunables), end="\n\n")
    models = [[one.name, one.summary] for one in MODELS.values()]
    print(table(["cpu", "what it is"], models))


def _patches(asked: argparse.Namespace) -> None:
    if asked.json:
        _print_json(registry.as_json())
        return
    rows = [
        [one.hash, one.state, one.kind.value, one.release, one.subject]
        for one in registry.PATCHES
    ]
    print(table(["commit", "state", "kind", "since", "what it does"], rows))


# -- where ---------------------------------------------------------------------------


def _where(asked: argparse.Namespace) -> None:
    places = sources.where(asked.symbol)
    if asked.json:
        _print_json([one.to_json() for one in places])
        return
    for one in places:
        stand = one.stand
        body = f"before {stand.before}" if stand.before else "the model"
        rows = [[body, f"{stand.path}:{stand.line}"], ["", stand.python]]
        if stand.deviates:
            rows.append(["deviates", stand.deviates])
        for title, found in (("tests", one.tests), ("book", one.chapters)):
            rows += [[title if not i else "", path] for i, path in enumerate(found)]
        rows += [[f"C, {version}", address] for version, address in one.c.items()]
        names = ", ".join(f"{name}()" for name in stand.symbols or (stand.name,))
        print(table([names, _kernel_file(stand)], rows), end="\n\n")


def _kernel_file(stand: sources.Stand) -> str:
    if stand.file == sources.OURS:
        return "the model's own; no kernel file"
    return stand.file or "does not say which kernel file"


# -- run -----------------------------------------------------------------------------


def _run(asked: argparse.Namespace) -> None:
    scenario = lab.find(asked.name)
    with _traced(asked.trace) as around:
        result = lab.run(
            scenario,
            _settings(scenario, asked),
            lab.Variant(asked.kernel, tuple(asked.without), tuple(asked.including)),
            asked.cpu,
            tuning=read_tuning(asked.tune),
            around=around,
        )
    if asked.json:
        _print_json(result.to_json())
    else:
        print(_report(scenario, result))


@contextmanager
def _traced(
    path: Path | None,
) -> Iterator[Callable[[Machine], AbstractContextManager[object]]]:
    """Yield what writes the events of a machine to a new file, if one was named."""
    if path is None:
        yield nullcontext
        return
    if path.exists():
        raise InputError(f"{path} is there already; remove it, or name another")
    try:
        with path.open("w", encoding="utf-8") as out:
            yield lambda machine: tracing(machine, out, as_json=path.suffix == ".jsonl")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _settings(scenario: Scenario, asked: argparse.Namespace) -> dict[str, Value]:
    """Return the values of parameters that the command line gives."""
    given: dict[str, Value] = {}
    texts = [*asked.set, *([f"cpus={asked.cpus}"] if asked.cpus is not None else [])]
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: write NAME=VALUE, as in --set pages=64")
        parameter = scenario.parameter(name)
        if name in given:
            raise InputError(f"{name} is given twice; give it once")
        given[name] = parameter.parse(value)
    return given


def _report(scenario: Scenario, result: Result) -> str:
    """Return a run as tables."""
    counts = result.counts
    numbers = {
        **{f"TLBI {name}": times for name, times in counts.tlbi.items()},
        **{f"pages of TLBI {name}": counts.pages[name] for name in counts.ranges},
        **{f"DSB {kind}": times for kind, times in counts.dsb.items()},
        "of all DSBs completing": counts.flushes,
        **{f"{kind} faults": times for kind, times in counts.faults.items()},
        "spurious faults": counts.spurious_faults,
        "table walks": counts.walks,
        "calls to secondary TLBs": counts.notifier,
        "IPI broadcasts": counts.ipi_broadcasts,
    }
    paid = [
        [
            line.cost.each,
            f"{line.times:,}",
            f"{line.ns:,.1f}",
            line.cost.kind.value,
        ]
        for line in result.bill.lines
    ]
    given = {**result.params, **result.tuning}
    settings = [[name, str(value)] for name, value in given.items()]
    parts = [
        f"{scenario.name}: {scenario.title}",
        f"kernel {result.variant}, cpu {result.cpu}; ended with {result.outcome}",
        *result.said,
        "",
        table(["parameter", "value"], settings),
        "",
        table(["happened", "times"], [[k, f"{v:,}"] for k, v in numbers.items()]),
        "",
        table(["paid for each", "times", "ns", "this cost is"], paid),
        f"modelled time: {result.cost_ns:,.1f} ns",
    ]
    return "\n".join(parts)


# -- gallery, mutate -----------------------------------------------------------------


def _gallery(asked: argparse.Namespace) -> None:
    _print_verdicts(verdicts.gallery(), asked)


def _mutate(asked: argparse.Namespace) -> None:
    with _exploring("mutate"):
        from tlbkit.lab.gallery import judge  # noqa: PLC0415 - no other needs greenlet
    found = judge.mutate(asked.points or None, tell=_tell)
    _print_verdicts(found, asked)
    left = sum(not one.complete for one in found if one.verdict != verdicts.BREAKS)
    _tell(
        f"{sum(one.runs for one in found):,} schedules were tried; "
        + (f"{left} searches left some out" if left else "every search was complete")
    )
    changed = verdicts.changed(found)
    if changed:
        raise SurvivorError(changed)


def _tell(line: str) -> None:
    """Say how far the work has come, beside what is printed."""
    print(line, file=sys.stderr, flush=True)


def _meetings(asked: argparse.Namespace) -> None:
    with _exploring("meetings"):
        from tlbkit.lab.gallery import programme  # noqa: PLC0415 - as above
    met = programme.PROGRAMME.values()
    if asked.json:
        _print_json([one.to_json() for one in met])
        return
    rows = [[one.name, str(one.cpus), one.title, one.chapter] for one in met]
    print(table(["meeting", "CPUs", "who meets", "chapter"], rows))


@contextmanager
def _exploring(command: str) -> Iterator[None]:
    """Say what to install, if what a command imports is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"{command} needs {error.name}: pip install {error.name}"
        ) from None


def _print_verdicts(
    found: Sequence[verdicts.Verdict], asked: argparse.Namespace
) -> None:
    if asked.json:
        _print_json([one.to_json() for one in found])
        return
    rows = [
        [
            one.point,
            one.verdict,
            str(one.steps or "-"),
            f"{one.runs:,}",
            "complete" if one.complete or one.verdict == verdicts.BREAKS else "partial",
            one.chapter,
            one.flow,
        ]
        for one in found
    ]
    head = ["without", "verdict", "steps", "schedules", "search", "chapter", "flow"]
    print(table(head, rows))


# -- random --------------------------------------------------------------------------


def _random(asked: argparse.Namespace) -> None:
    with _exploring("random"):
        from tlbkit.lab.gallery import chance  # noqa: PLC0415 - no other needs greenlet
    found = chance.walks(asked.seed, asked.runs, asked.meetings or None, asked.take_out)
    if asked.json:
        _print_json([one.to_json() for one in found])
    else:
        rows = [
            [one.meeting, f"{one.runs:,}", f"{one.steps:,}", one.error or "nothing"]
            for one in found
        ]
        print(table(["meeting", "schedules", "steps", "what broke"], rows))
    wrong = [one.error for one in found if one.error]
    wrong += [crossing for one in found for crossing in one.crossings]
    if wrong:
        raise BrokenError(asked.seed, wrong)


class BrokenError(TlbkitError):
    """Schedules tried by chance broke a rule, or took locks crosswise."""

    def __init__(self, seed: int, wrong: Sequence[str]) -> None:
        super().__init__(f"seed {seed} breaks {len(wrong)}: {wrong[0]}")


class SurvivorError(TlbkitError):
    """A verdict is not what the gallery says, or it is still open."""

    def __init__(self, points: Sequence[str]) -> None:
        super().__init__(
            "the gallery says otherwise of " + ", ".join(map(repr, points))
        )
        self.points = points


if __name__ == "__main__":
    sys.exit(main())
