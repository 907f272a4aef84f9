"""Litmus tests, run: one of those that come with the package, or one of your own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.errors import InputError
from tlbkit.explore.litmus import catalogue, doubts, judge, load, to_json
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import Exploration, line, menu, switch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.explore.litmus import LitmusTest, Verdict
    from tlbkit.lab.parameter import Value

TESTS = {test.name: test for test in catalogue()}
"""The tests that come with the package, by name."""

_ETS2 = switch("ets2", "the CPUs have FEAT_ETS2")


def _answer(test: LitmusTest, *, ets2: bool) -> Answer:
    """Run a test, and show its program, what came of it, and what may be a slip."""
    verdict = judge(test, ets2=ets2)
    doubted = [f"{doubt[0].upper()}{doubt[1:]}." for doubt in doubts(test)]
    written = to_json(test)
    steps = [
        (step, thread) for thread, steps in written["threads"].items() for step in steps
    ]
    return Answer(
        columns={
            "field": [*(step for step, _ in steps), written["exists"]],
            "bits": [*(thread for _, thread in steps), "can it end so?"],
            "value": [*("" for _ in steps), str(verdict)],
            "chosen": [*(0 for _ in steps), 1],
        },
        header=["order", "CPU", "step", "what happens"],
        rows=_rows(verdict),
        text=" ".join([_reading(test, verdict), *doubted]),
    )


def _rows(verdict: Verdict) -> list[list[str]]:
    """The witness, step by step, or that there is none."""
    if verdict.witness is None:
        return [["", "", "no execution", f"all {verdict.states} states were tried"]]
    rows = []
    for number, told in enumerate(verdict.witness, start=1):
        who, _, rest = told.partition(": ")
        step, _, what = rest.partition(": ")
        # What hardware does unasked belongs to no thread.
        cells = [who, step, what] if what else ["", "", told]
        rows.append([str(number), *cells])
    return rows


def _reading(test: LitmusTest, verdict: Verdict) -> str:
    """The verdict in words, beside Arm's."""
    ets2 = "with" if verdict.ets2 else "without"
    said = f"{str(verdict).capitalize()} {ets2} FEAT_ETS2"
    if verdict.expected:
        agrees = "as Arm's model says" if verdict.as_expected else "unlike Arm's model"
        said += f", {agrees}"
    if test.about:
        said = f"{test.about[0].upper()}{test.about[1:]}. {said}"
    return f"{said}."


class Litmus(Exploration):
    """One of the tests that come with the package.

    Columns: ``field``, ``bits``, ``value``, ``chosen`` are the steps of the program,
    and the question with its answer.
    """

    name = "litmus"
    title = "Can it happen? One litmus test, every execution"
    parameters = (menu("test", "test", tuple(TESTS)), _ETS2)

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Run it; errors as in `Exploration`."""
        settings = self.settings(params)
        return _answer(TESTS[str(settings["test"])], ets2=settings["ets2"] == "on")


class OwnLitmus(Exploration):
    """A test that the reader writes; columns as in `Litmus`."""

    name = "own-litmus"
    title = "Write your own"
    parameters = (
        line("entry", "entry A", "frame b"),
        line("p0", "P0", "pte(x) := A; DSB; TLBI.is(x); DSB; flag := 1"),
        line("p1", "P1", "r := flag; DSB; ISB; v := x"),
        line("exists", "can it end with", "P1.r = 1 and P1.v = 0"),
        _ETS2,
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Run it.

        Raises:
            InputError: It is not a litmus test, or as in `Exploration`.
        """
        settings = self.settings(params)
        lines = [
            "test yours",
            "  frame b = 1",
            f"  entry A = {settings['entry']}",
            *(f"  P{n}: {settings[f'p{n}']}" for n in (0, 1) if settings[f"p{n}"]),
            f"  exists {settings['exists']}",
        ]
        for name, value in settings.items():
            if "\n" in str(value):
                raise InputError(f"{name}={value!r}: write it in one line")
        return _answer(
            load("\n".join(lines), "yours")[0], ets2=settings["ets2"] == "on"
        )
