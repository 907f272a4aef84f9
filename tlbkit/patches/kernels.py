"""Named kernels: the newest one, less the commits that a version does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.kernel import kernel as linux
from tlbkit.linux.kernel.config import ARM64
from tlbkit.patches import registry
from tlbkit.patches.build import build

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tlbkit.arm64.machine import Machine
    from tlbkit.linux.kernel.config import Config


class Kernel(linux.Kernel):
    """A kernel by name, on a machine.

    Args:
        machine: A kernel owns its machine; "before" and "after" are two machines.
        name: A name of `tlbkit.patches.registry.KERNELS`.
        without: Hashes, or unique beginnings, of commits to leave out besides.
        config: What the kernel is built with.
        including: Hashes, or unique beginnings, of commits to put in besides.

    Attributes:
        name: As given.
        missing: Hashes of all commits that it lacks.
        said: What goes or comes with a commit that was asked for, one sentence each.

    Errors:
        InputError: There is no such kernel or commit.
    """

    def __init__(
        self,
        machine: Machine,
        name: str = registry.DEFAULT_KERNEL,
        without: Iterable[str] = (),
        config: Config = ARM64,
        *,
        including: Iterable[str] = (),
    ) -> None:
        made = build(linux.PARTS, name, without, including)
        self.name = name
        self.missing = made.missing
        self.said = made.said
        super().__init__(machine, made.parts, config)
