"""Levels of page tables: include/linux/pgtable.h, enum pgtable_level."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal, Never, NoReturn

from tlbkit.errors import TlbkitError


class PgtableLevel(IntEnum):
    """A level of page tables, from the pages upwards; text shows its short name.

    >>> print(PgtableLevel.PMD, int(PgtableLevel.PMD))
    pmd 1
    """

    PTE = 0
    PMD = 1
    PUD = 2
    P4D = 3
    PGD = 4

    def __str__(self) -> str:
        """Return the name as reports give it: pgtable_level_to_str()."""
        return self.name.lower()


PGTABLE_LEVEL_PTE: Final = PgtableLevel.PTE
PGTABLE_LEVEL_PMD: Final = PgtableLevel.PMD
PGTABLE_LEVEL_PUD: Final = PgtableLevel.PUD
PGTABLE_LEVEL_P4D: Final = PgtableLevel.P4D
PGTABLE_LEVEL_PGD: Final = PgtableLevel.PGD

TAGS: Final = {"pgtable_level": PgtableLevel}
"""The name that every source file of a kernel sees, and what it stands for."""

LeafLevel = Literal[PgtableLevel.PTE, PgtableLevel.PMD, PgtableLevel.PUD]
"""The levels at which an entry can map memory.

What handles a level by such a value ends in `unsupported_level`. A type checker that
knows all values to be handled allows that call, and none with another value: the
kernel's BUILD_BUG().
"""


class LevelError(TlbkitError):
    """A level was asked for at which nothing can be mapped."""

    def __init__(self, level: object) -> None:
        super().__init__(
            f"nothing is mapped by an entry of level {level}; leaves are of level "
            "pte, pmd or pud"
        )
        self.level = level


def unsupported_level(level: Never) -> NoReturn:
    """Refuse a level that no caller can pass, if the type checker was heeded.

    Raises:
        LevelError: always.

    Source: none; the kernel does not even build with such a level.
    """
    raise LevelError(level)


def pgtable_level_to_str(level: object) -> str:
    """Return the short name of a level, or "unknown" of what is none.

    >>> pgtable_level_to_str(PgtableLevel.PUD), pgtable_level_to_str(7)
    ('pud', 'unknown')

    Source: include/linux/pgtable.h, pgtable_level_to_str()
    """
    return str(level) if isinstance(level, PgtableLevel) else "unknown"
