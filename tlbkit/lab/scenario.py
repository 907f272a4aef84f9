"""What a scenario is: a preparation, an operation, two kernels, and what it claims."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tlbkit.lab.exploration import Exploration
from tlbkit.lab.parameter import Parameter
from tlbkit.lab.variant import Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.result import Comparison
    from tlbkit.patches.kernels import Kernel

CPUS = Parameter(
    "cpus", "CPUs of the machine", "CPUs", 4, (1, 2, 4, 8, 16, 32, 64, 72, 128)
)
"""Every scenario has it: how big the machine is."""


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
    """

    before = Variant("v6.17")
    after = Variant("v6.19")
    claims: tuple[Claim, ...] = ()

    @abstractmethod
    def prepare(self, kernel: Kernel, params: Mapping[str, Value]) -> Operation:
        """Bring a freshly started kernel to where the operation begins.

        Nothing of this is counted; what the returned operation does is.

        Args:
            kernel: On a machine of its own.
            params: A value for each parameter, all of them allowed.
        """
