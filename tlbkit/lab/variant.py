"""Which kernel a scenario runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlbkit.patches import registry
from tlbkit.patches.kernels import Kernel
from tlbkit.patches.registry import DEFAULT_KERNEL

if TYPE_CHECKING:
    from tlbkit.arm64.machine import Machine


@dataclass(frozen=True, slots=True)
class Variant:
    """Which kernel a scenario runs on.

    Attributes:
        kernel: A name of `tlbkit.patches.registry.KERNELS`.
        without: Hashes of commits to leave out besides, or their unique beginnings.
        including: The same of commits to put in.
    """

    kernel: str = DEFAULT_KERNEL
    without: tuple[str, ...] = ()
    including: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Name it as a heading does.

        >>> str(Variant("v6.19", ("c320dbb7c80d",)))
        'v6.19 without c320dbb7c80d'
        """
        name = self.kernel
        if self.including:
            name += f" with {', '.join(self.including)}"
        if self.without:
            name += f" without {', '.join(self.without)}"
        return name

    def exact(self) -> Variant:
        """Return the same with each commit by its whole short hash.

        Raises:
            InputError: There is no such commit, or more than one.
        """
        found = (
            tuple(registry.find(text).hash for text in texts)
            for texts in (self.without, self.including)
        )
        return Variant(self.kernel, *found)

    def start(self, machine: Machine) -> Kernel:
        """Start this kernel on a machine of its own.

        Raises:
            InputError: There is no such kernel or commit, or they exclude each other.
        """
        return Kernel(machine, self.kernel, self.without, including=self.including)
