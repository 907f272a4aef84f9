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


def judge(test: LitmusTest, *, ets2: bool = False) -> Verdict:
    """Tell whether the outcome that a test asks about can happen.

    Args:
        test: The test.
        ets2: Whether the CPUs have FEAT_ETS2.

    Raises:
        SearchTooLargeError: The test has more than `MAX_STATES` states.
    """
    model = OrderingModel(test.program, ets2=ets2)
    expected = test.expected[ets2] if test.expected else ""
    cameby: dict[State, tuple[State, Transition] | None] = {}
    for state in _states(model, cameby):
        if model.is_final(state) and holds(test.condition, model.outcome(state)):
            witness = tuple(tell(model, steps_of(test), _path(cameby, state)))
            return Verdict(test.name, ets2, witness, len(cameby), expected)
    return Verdict(test.name, ets2, None, len(cameby), expected)


def outcomes(test: LitmusTest | Program, *, ets2: bool = False) -> frozenset[Outcome]:
    """Return every way in which an execution of a test can end.

    A machine that runs the same program is a behaviour of the model if what it ends
    with is one of these.

    Raises:
        SearchTooLargeError: The test has more than `MAX_STATES` states.
    """
    program = test.program if isinstance(test, LitmusTest) else test
    model = OrderingModel(program, ets2=ets2)
    return frozenset(
        model.outcome(state) for state in _states(model, {}) if model.is_final(state)
    )


def _states(
    model: OrderingModel, cameby: dict[State, tuple[State, Transition] | None]
) -> Iterator[State]:
    """Yield every state that must be looked at, each once, depth first.

    What is first in program order is tried first, so that a witness strays from the
    plain order only where it has to. `cameby` receives how each state was reached.
    """
    reduction = Reduction(model)
    cameby[model.initial] = None
    stack = [model.initial]
    while stack:
        state = stack.pop()
        yield state
        for transition in reversed(reduction.sufficient(state)):
            after = model.step(state, transition)
            if after not in cameby:
                if len(cameby) == MAX_STATES:
                    raise SearchTooLargeError(
                        f"more than {MAX_STATES} states: take steps out of the test"
                    )
                cameby[after] = state, transition
                stack.append(after)


def _path(
    cameby: dict[State, tuple[State, Transition] | None], state: State
) -> list[tuple[State, Transition]]:
    """Return the states and transitions that led to a state, first one first."""
    path = []
    while (last := cameby[state]) is not None:
        path.append(last)
        state = last[0]
    return path[::-1]
