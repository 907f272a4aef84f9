"""What a scenario is: a preparation, an operation, two kernels, and what it claims."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from tlbkit.arm64.models import DEFAULT_MODEL, MODELS
from tlbkit.lab.exploration import Exploration, menu
from tlbkit.lab.parameter import Parameter
from tlbkit.lab.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.lab.answer import Answer
    from tlbkit.lab.parameter import Value
    from tlbkit.lab.result import Comparison
    from tlbkit.patches.kernels import Kernel

CPUS = Parameter(
    "cpus", "CPUs of the machine", "CPUs", 4, (1, 2, 4, 8, 16, 32, 64, 72, 128)
)
"""Every scenario has it: how big the machine is."""

CPU = "cpu"
"""Name of the control that chooses the CPU model."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that a scenario says of every comparison of its two kernels.

    Attributes:
        sentence: What it says.
        holds: Whether that is so in one comparison.
    """

    sentence: str
    holds: Callable[[Comparison], bool]


class Operation(Protocol):
    """What a scenario studies, ready to be done once."""

    def __call__(self) -> str:
        """Do it, and return how it ended: ``"ok"``, or an errno or signal by name."""


class Scenario(Exploration):
    """A question that is asked of two kernels, with one operation to be counted.

    Attributes:
        parameters: The knobs, `CPUS` among them.
        before, after: The two kernels.
        claims: What holds whatever the knobs say.
        cpu: The CPU model of its machines, where a run does not name another.
        models: The models that make sense here, the usual one first.
    """

    before = Variant("v6.17")
    after = Variant("v6.19")
    claims: tuple[Claim, ...] = ()
    cpu: str = DEFAULT_MODEL
    models: tuple[str, ...] = tuple(MODELS)

    @property
    def controls(self) -> tuple[Parameter, ...]:
        """The knobs, and the CPU model."""
        return (*self.parameters, menu(CPU, "CPU model", self.models))

    def asked(self, params: Mapping[str, Value]) -> Answer:
        """Return the answer at a setting of `controls`; otherwise as `answer`."""
        rest = dict(params)
        [cpu] = (one for one in self.controls if one.name == CPU)
        model = cpu.check(rest.pop(CPU, cpu.default))
        return _on(self, str(model)).answer(rest)

    @abstractmethod
    def prepare(self, kernel: Kernel, params: Mapping[str, Value]) -> Operation:
        """Bring a freshly started kernel to where the operation begins.

        Nothing of this is counted; what the returned operation does is.

        Args:
            kernel: On a machine of its own.
            params: A value for each parameter, all of them allowed.
        """


@lru_cache(maxsize=256)
def _on(scenario: Scenario, cpu: str) -> Scenario:
    """Return a scenario as it is on another CPU model, the same one each time."""
    there = copy.copy(scenario)
    there.cpu = cpu
    return there
