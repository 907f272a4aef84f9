"""Every execution of a litmus test, and the verdict they give."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.ordering import OrderingModel, Program, Reduction
from tlbkit.errors import TlbkitError
from tlbkit.explore.litmus.conditions import holds
from tlbkit.explore.litmus.form import LitmusTest, load
from tlbkit.explore.litmus.witness import steps_of, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.arm64.ordering import Outcome, State, Transition

MAX_STATES = 1_000_000
"""Where a search gives up: after a minute or two, and under 1 GB of states."""


class SearchTooLargeError(TlbkitError):
    """A test has more states than the search holds; it has no verdict."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether some execution of a test ends as its condition says.

    Attributes:
        test: The name of the test.
        ets2: Whether the CPUs had FEAT_ETS2.
        witness: The steps of one such execution, one sentence each; None if every
            execution was tried and none ends so.
        states: How many states the search saw.
        expected: The verdict that the test's file states, or "".
    """

    test: str
    ets2: bool
    witness: tuple[str, ...] | None
    states: int
    expected: str = ""

    @property
    def allowed(self) -> bool:
        """Tell whether the outcome can happen."""
        return self.witness is not None

    def __str__(self) -> str:
        """Return 'allowed' or 'forbidden'."""
        return "allowed" if self.allowed else "forbidden"

    @property
    def as_expected(self) -> bool:
        """Tell whether the verdict is the one that the file states, if it does."""
        return self.expected in ("", str(self))

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as a JSON object."""
        return {
            "name": self.test,
            "ets2": self.ets2,
            "verdict": str(self),
            "expected": self.expected or None,
            "witness": None if self.witness is None else list(self.witness),
            "states": self.states,
        }


def catalogue() -> list[LitmusTest]:
    """Return the tests that come with the package, each with Arm's verdicts.

    Source: `catalogue.litmus`, beside this module.
    """
    path = files("tlbkit.explore.litmus") / "catalogue.litmus"
    return load(path.read_text("utf-8"), "catalogue.litmus")


def judge(test: LitmusTest, *, ets2: bool = False, limit: int = MAX_STATES) -> Verdict:
    """Tell whether the outcome that a test asks about can happen.

    Args:
        test: The test.
        ets2: Whether the CPUs have FEAT_ETS2.
        limit: The most states that are looked at.

    Raises:
        SearchTooLargeError: The test has more states.
    """
    model = OrderingModel(test.program, ets2=ets2)
    expected = test.expected[ets2] if test.expected else ""
    search = Search(model, test.name, limit)
    for state in search.states():
        if model.is_final(state) and holds(test.condition, model.outcome(state)):
            witness = tuple(tell(model, steps_of(test), search.path(state)))
            return Verdict(test.name, ets2, witness, search.seen, expected)
    return Verdict(test.name, ets2, None, search.seen, expected)


def outcomes(
    test: LitmusTest | Program, *, ets2: bool = False, limit: int = MAX_STATES
) -> frozenset[Outcome]:
    """Return every way in which an execution of a test can end.

    A machine that runs the same program is a behaviour of the model if what it ends
    with is one of these.

    Raises:
        SearchTooLargeError: The test has more than `limit` states.
    """
    program = test.program if isinstance(test, LitmusTest) else test
    name = test.name if isinstance(test, LitmusTest) else "program"
    model = OrderingModel(program, ets2=ets2)
    return frozenset(
        model.outcome(state)
        for state in Search(model, name, limit).states()
        if model.is_final(state)
    )


class Search:
    """Every state of a program that must be looked at, each once, depth first.

    What is first in program order is tried first, so that a witness strays from the
    plain order only where it has to.
    """

    def __init__(
        self, model: OrderingModel, name: str, limit: int = MAX_STATES
    ) -> None:
        """Prepare a search; `name` is the test's, for the message if it gives up."""
        self._model = model
        self._name = name
        self._limit = limit
        self._cameby: dict[State, tuple[State, Transition] | None] = {}

    @property
    def seen(self) -> int:
        """How many states were seen."""
        return len(self._cameby)

    def states(self) -> Iterator[State]:
        """Yield the states.

        Raises:
            SearchTooLargeError: There are more than the limit.
        """
        model, cameby = self._model, self._cameby
        reduction = Reduction(model)
        cameby[model.initial] = None
        stack = [model.initial]
        while stack:
            state = stack.pop()
            yield state
            for transition in reversed(reduction.sufficient(state)):
                after = model.step(state, transition)
                if after not in cameby:
                    if len(cameby) >= self._limit:
                        raise SearchTooLargeError(
                            f"{self._name}: more than {self._limit:,} states: give a "
                            "higher limit, or take steps out of the test"
                        )
                    cameby[after] = state, transition
                    stack.append(after)

    def path(self, state: State) -> list[tuple[State, Transition]]:
        """Return the states and transitions that led to a state, first one first."""
        found = []
        while (last := self._cameby[state]) is not None:
            found.append(last)
            state = last[0]
        return found[::-1]
