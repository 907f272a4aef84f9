"""A flush sequence that the reader writes, judged where it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.arm64.models import MODELS
from tlbkit.errors import InputError
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import Exploration, line, menu
from tlbkit.lab.sequence.form import read_sequence
from tlbkit.lab.sequence.judge import judge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.sequence.judge import Judgement


class OwnSequence(Exploration):
    """Stores, barriers and TLBIs of two CPUs.

    Columns: ``field``, ``bits``, ``value``, ``chosen`` are the instructions, and the
    verdict; ``chosen`` are those without which nothing goes wrong.
    """

    name = "own-sequence"
    title = "Write your own flush"
    parameters = (
        line("tables", "tables", "page x = a rw"),
        line(
            "p0",
            "CPU 0",
            "ldr x0, =pte(x); str xzr, [x0]; dsb ishst; ldr x1, =va(x); "
            "tlbi vae1, x1; dsb nsh; .free a",
        ),
        line("p1", "CPU 1", ""),
        menu("cpu", "CPU model", tuple(MODELS)),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Judge it.

        Raises:
            InputError: It is no sequence, or as in `Exploration`.
        """
        settings = self.settings(params)
        for name, value in settings.items():
            if "\n" in str(value):
                raise InputError(f"{name}={value!r}: write it in one line")
        lines = [
            f"cpu {settings['cpu']}; {settings['tables']}",
            *(f"CPU {n}: {settings[f'p{n}']}" for n in (0, 1) if settings[f"p{n}"]),
        ]
        found = judge(read_sequence("\n".join(lines), "yours"))
        steps = [
            (step, cpu)
            for cpu, program in found.sequence.programs.items()
            for step in program
        ]
        return Answer(
            columns={
                "field": [*(step.text for step, _ in steps), "all of it"],
                "bits": [*(f"CPU {cpu}" for _, cpu in steps), "does it do harm?"],
                "value": [*("" for _ in steps), "yes" if found.harm else "no"],
                "chosen": [*(int(step in found.needless) for step, _ in steps), 0],
            },
            header=["order", "what happens"],
            rows=_rows(found),
            text=_reading(found),
        )


def _rows(found: Judgement) -> list[list[str]]:
    """Return the order that does harm, step by step, or what is issued."""
    if found.harm:
        return [[str(n), step] for n, step in enumerate(found.way, start=1)]
    issued = [[f"{n} times", f"TLBI {form}"] for form, n in found.counts.tlbi.items()]
    return [*issued, [f"{found.counts.flushes} times", "a DSB that completes a TLBI"]]


def _reading(found: Judgement) -> str:
    """Return the verdict in words."""
    if found.harm:
        return f"Harm: {found.harm}."
    said = [f"No harm in any of the {found.runs} orders that were tried."]
    if found.needless:
        texts = ", ".join(one.text for one in found.needless)
        said.append(f"Nothing goes wrong here without: {texts}.")
    return " ".join([*said, *(f"{one}." for one in found.advice)])
