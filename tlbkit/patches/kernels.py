"""Named kernels: the newest one, less the commits that a version does not have."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tlbkit.linux.kernel import kernel as linux
from tlbkit.linux.kernel.config import ARM64
from tlbkit.patches import registry
from tlbkit.patches.build import build, overlaid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
        replaces: Part -> a class with new bodies that is laid over it: a patch that is
            tried.

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
        replaces: Mapping[str, type[Any]] = MappingProxyType({}),
    ) -> None:
        made = build(linux.PARTS, name, without, including)
        self.name = name
        self.missing = made.missing
        self.said = made.said
        super().__init__(machine, overlaid(made.parts, replaces), config)
