"""Is a flush sequence right? Every order of its CPUs, and then each step left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64.tlbi import decode
from tlbkit.errors import InputError, TlbkitError
from tlbkit.lab.sequence.form import operation_of
from tlbkit.lab.sequence.world import World
from tlbkit.observe.counters import Counts, counting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.arm64.events import Event
    from tlbkit.lab.sequence.form import Instruction, Sequence

PREEMPTIONS: Final = 2
"""How often a CPU may be stopped in the midst of its program."""
MOST_RUNS: Final = 20_000
"""After how many orders a search gives up."""
_LEFT_OUT: Final = frozenset({"dsb", "isb", "dmb", "tlbi"})


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of a flush sequence.

    Attributes:
        sequence: What was judged.
        harm: What goes wrong in the shortest order that does, or nothing.
        way: The instructions of that order, each with what it did.
        runs: How many orders were tried.
        complete: Whether these were all with up to `PREEMPTIONS` preemptions.
        counts: What the CPUs issue, one after the other.
        needless: Instructions without which nothing goes wrong either; empty if
            something does anyway.
        advice: What could be had for less, a sentence each.
    """

    sequence: Sequence
    harm: str
    way: tuple[str, ...]
    runs: int
    complete: bool
    counts: Counts
    needless: tuple[Instruction, ...]
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "name": self.sequence.name,
            "cpu": self.sequence.model.name,
            "cpus": self.sequence.cpus,
            "harm": self.harm or None,
            "way": list(self.way),
            "orders": self.runs,
            "complete": self.complete,
            "tlbi": dict(self.counts.tlbi),
            "completing_dsb": self.counts.flushes,
            "needless": [
                {"line": one.line, "instruction": one.text} for one in self.needless
            ],
            "advice": list(self.advice),
        }


def judge(sequence: Sequence) -> Judgement:
    """Judge a flush sequence.

    Raises:
        InputError: An operand means nothing, in a line that is named.
    """
    harm, way, runs, complete = _search(sequence)
    counts, advice = _plain(sequence)
    needless = tuple(
        one
        for program in sequence.programs.values()
        for one in program
        if not harm and one.op in _LEFT_OUT and not _search(sequence.without(one))[0]
    )
    return Judgement(sequence, harm, way, runs, complete, counts, needless, advice)


def _search(sequence: Sequence) -> tuple[str, tuple[str, ...], int, bool]:
    """Try orders, fewest preemptions first, up to the first that goes wrong."""
    runs = 0
    for bound in range(PREEMPTIONS + 1):
        for order in _orders(sequence, bound):
            if runs == MOST_RUNS:
                return "", (), runs, False
            runs += 1
            world = World(sequence)
            try:
                for cpu in order:
                    world.step(cpu)
                world.finish()
            except InputError:
                raise
            except TlbkitError as error:
                return str(error), tuple(map(str, world.told)), runs, True
    return "", (), runs, True


def _orders(sequence: Sequence, preemptions: int) -> Iterator[tuple[int, ...]]:
    """Yield every order of the CPUs' instructions with so many preemptions."""
    left = {cpu: len(program) for cpu, program in sequence.programs.items()}

    def go_on(
        done: tuple[int, ...], current: int, left: dict[int, int], spare: int
    ) -> Iterator[tuple[int, ...]]:
        if not any(left.values()):
            if not spare:
                yield done
            return
        for cpu, rest in left.items():
            stops = current in left and left[current] > 0 and cpu != current
            if rest and spare >= stops:
                yield from go_on(
                    (*done, cpu), cpu, {**left, cpu: rest - 1}, spare - stops
                )

    return go_on((), -1, left, preemptions)


def _plain(sequence: Sequence) -> tuple[Counts, tuple[str, ...]]:
    """Run all CPUs one after the other, and look at what they issue."""
    world = World(sequence)
    events: list[Event] = []
    world.machine.events.listen(events.append, {"tlbi", "dsb"})
    with counting(world.machine) as counts:
        try:
            while ready := world.ready():
                world.step(ready[0])
        except InputError:
            raise
        except TlbkitError:
            pass  # what it is, the search tells
    return counts, tuple(_advice(sequence, events))


def _advice(sequence: Sequence, events: list[Event]) -> Iterator[str]:
    """Yield what fewer instructions would have done."""
    page = 1 << sequence.model.page_shift
    row: list[tuple[str, int]] = []
    rows = [row]
    for event in events:
        if event.kind != "tlbi" or not event.what.single:
            row = []
            rows.append(row)
            continue
        first = decode(event.what, event.new).first
        if row and (event.what.name != row[-1][0] or first != row[-1][1] + page):
            row = []
            rows.append(row)
        row.append((event.what.name, first))
    for found in rows:
        name = found[0][0] if found else ""
        ranged = operation_of(f"R{name}") if len(found) > 1 else None
        if ranged is None:
            continue
        if sequence.model.range_tlbi:
            yield (
                f"{len(found)} TLBI {name} are for neighbouring pages: "
                f"TLBI {ranged.name} takes them as a range"
            )
        else:
            yield (
                f"{len(found)} TLBI {name} are for neighbouring pages, and "
                f"{sequence.model.name} has no range form"
            )
