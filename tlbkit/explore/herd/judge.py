"""The verdict on a herd7 test, by every execution of every way of its threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tlbkit.arm64.ordering import Computed, Data, OrderingModel, Table
from tlbkit.explore.herd.condition import All, Fault, Not, Proposition, holds
from tlbkit.explore.herd.values import Code, MissingError
from tlbkit.explore.litmus.search import MAX_STATES, Search
from tlbkit.explore.litmus.witness import tell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.arm64.ordering import State
    from tlbkit.explore.herd.test import HerdTest
    from tlbkit.explore.herd.values import Held, Word
    from tlbkit.explore.herd.ways import Path


@dataclass(frozen=True, slots=True)
class HerdVerdict:
    """The verdict on one test.

    Attributes:
        test: Its name.
        ets2: Whether the CPUs had FEAT_ETS2.
        verdict: `Allowed`, `Forbidden` or, for `forall`, `Required`.
        witness: The steps of an execution that ends as asked, or for `forall`
            otherwise; None if every execution was tried and none does.
        states: How many states the search saw.
        expected: What a list of verdicts says, or "".
    """

    test: str
    ets2: bool
    verdict: str
    witness: tuple[str, ...] | None
    states: int
    expected: str = ""

    @property
    def as_expected(self) -> bool:
        """Tell whether the verdict is the one that is expected, if one is."""
        return self.expected in ("", self.verdict)

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as a JSON object."""
        return {
            "name": self.test,
            "ets2": self.ets2,
            "verdict": self.verdict,
            "expected": self.expected or None,
            "witness": None if self.witness is None else list(self.witness),
            "states": self.states,
        }


def judge_herd(
    test: HerdTest, *, ets2: bool = False, limit: int = MAX_STATES
) -> HerdVerdict:
    """Give the verdict on a test.

    Args:
        test: The test.
        ets2: Whether the CPUs have FEAT_ETS2.
        limit: The most states that are looked at.

    Raises:
        MissingError: An execution needs what is not had here.
        SearchTooLargeError: The test has more states.
    """
    try:
        return _judge(test, ets2=ets2 or test.ets2, limit=limit)
    except MissingError as error:
        raise MissingError(f"{test.source}: {error}") from error


def _judge(test: HerdTest, *, ets2: bool, limit: int) -> HerdVerdict:
    question = test.question
    asked: Proposition = question.proposition
    if question.quantifier == "forall":
        asked = Not(asked)
    asked = All((question.filter, asked))
    seen = 0
    witness: tuple[str, ...] | None = None
    for ways in test.ways():
        missing = next((way.missing for way in ways if way.missing), "")
        if not missing and holds(asked, _Before(test, ways)) is False:
            continue
        model = OrderingModel(test.program(ways), ets2=ets2)
        search = Search(model, test.name, limit - seen)
        for state in search.states():
            if not model.is_final(state):
                continue
            if missing:
                if _reached(model, state, ways):
                    raise MissingError(missing)
            elif holds(asked, _After(test, model, state, ways)):
                witness = tuple(tell(model, _texts(test, ways), search.path(state)))
                break
        seen += search.seen
        if witness is not None:
            break
    if question.quantifier == "forall":
        verdict = "Required" if witness is None else "Allowed"
    else:
        verdict = "Forbidden" if witness is None else "Allowed"
    return HerdVerdict(test.name, ets2, verdict, witness, seen)


def _reached(model: OrderingModel, state: State, ways: tuple[Path, ...]) -> bool:
    """Tell whether a thread got to where something is missing."""
    del model
    return any(
        way.missing and thread.end == len(way.steps)
        for way, thread in zip(ways, state.threads, strict=True)
    )


def _texts(test: HerdTest, ways: tuple[Path, ...]) -> Any:
    """Return how a step is told: as it is written in the test."""

    def text(thread: int, step: int) -> str:
        return test.listings[thread].lines[ways[thread].places[step]].text

    return text


class _Before:
    """What is known of the end before anything has run."""

    def __init__(self, test: HerdTest, ways: tuple[Path, ...]) -> None:
        self._test = test
        self._ways = ways

    def register(self, thread: int, name: str) -> Word | None:
        way = self._ways[thread]
        held = [
            way.registers.get(name),
            *(r.get(name) for r in way.registers_at.values()),
        ]
        words = {0 if one is None else one.value for one in held}
        if len(words) > 1 or isinstance(next(iter(words)), Computed):
            return None
        return cast("Word", words.pop())

    def location(self, place: Data | Table) -> Word | None:
        del place
        return None

    def faulted(self, fault: Fault) -> bool | None:
        way = self._ways[fault.thread]
        for index, step in enumerate(way.steps):
            target = getattr(step, "target", None)
            if not isinstance(target, Data):
                continue
            if fault.where is not None and fault.where != target:
                continue
            if fault.place is not None and fault.place.place != way.places[index]:
                continue
            if getattr(step, "faults", None) is False:
                continue
            if True in self._test.pages.may(
                target.page, fault.thread, write=not hasattr(step, "as_store")
            ) or getattr(step, "as_store", False):
                return None
        return False


class _After:
    """How an execution has ended."""

    def __init__(
        self,
        test: HerdTest,
        model: OrderingModel,
        state: State,
        ways: tuple[Path, ...],
    ) -> None:
        self._test = test
        self._model = model
        self._state = state
        self._ways = ways

    def register(self, thread: int, name: str) -> Word | None:
        way, end = self._ways[thread], self._state.threads[thread].end
        registers: Mapping[str, Held] = way.registers
        if end < len(way.steps):
            registers = way.registers_at[end]
        held = registers.get(name)
        if held is None:
            return 0
        if not isinstance(held.value, Computed):
            return cast("Word", held.value)
        code = self._model.codes[thread]
        return cast("Word", code.compute(self._state.threads[thread], held.value))

    def location(self, place: Data | Table) -> Word | None:
        if isinstance(place, Table):
            return self._model.table(self._state, place.page).entry
        return self._state.memory[self._model.frame_word(place.page)].value

    def faulted(self, fault: Fault) -> bool | None:
        way = self._ways[fault.thread]
        return any(
            fault.matches(
                Fault(
                    fault.thread, Code(fault.thread, way.places[step]), Data(page), kind
                )
            )
            for step, kind, page in self._model.faults(self._state, fault.thread)
        )
