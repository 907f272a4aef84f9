"""Loads of page-table words by software, as steps of their own.

Under a lock nobody can change what was read, and a search need not stop there. Where a
lock has been taken out, or is not taken by design, each load is a place where another
CPU may come between. What hardware reads in a walk is part of the access, and stays so.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tlbkit.arm64.memory import PhysicalMemory
from tlbkit.callers import caller
from tlbkit.explore.compiled import check_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_SOFTWARE = ("tlbkit.linux.", "tlbkit.patches.")


class Loads:
    """Who is told of each load.

    Attributes:
        step: Called after each load, or ``None`` while nobody wants to know.
    """

    __slots__ = ("step",)

    def __init__(self) -> None:
        self.step: Callable[[], None] | None = None


@contextmanager
def watching_loads(within: str = "") -> Iterator[Loads]:
    """Tell of loads until the end of the ``with`` block.

    A world that is to be watched must be made within the block.

    Args:
        within: Only of loads by functions whose names begin so, and by what they call.

    Raises:
        CompiledError: The machine is compiled.
    """
    check_plain()
    loads = Loads()
    plain = PhysicalMemory.read

    def read(memory: PhysicalMemory, pa: int) -> int:
        value = plain(memory, pa)
        tell = loads.step
        if (
            tell
            and caller().f_globals["__name__"].startswith(_SOFTWARE)
            and (not within or _at_work(within, caller()))
        ):
            tell()
        return value

    type.__setattr__(PhysicalMemory, "read", read)
    try:
        yield loads
    finally:
        type.__setattr__(PhysicalMemory, "read", plain)


def _at_work(name: str, frame: FrameType | None) -> bool:
    """Tell whether a function whose name begins so is being executed."""
    while frame is not None:
        if frame.f_code.co_name.startswith(name):
            return True
        frame = frame.f_back
    return False
