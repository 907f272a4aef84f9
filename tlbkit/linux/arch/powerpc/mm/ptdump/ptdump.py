"""powerpc's page tables as text, as far as it is about names.

Only what its header declares is here, for one reason: a name that every file of a
kernel sees must not be declared twice. Nothing of powerpc runs in this model.

Source: arch/powerpc/mm/ptdump/ptdump.h and book3s64.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tlbkit.errors import TlbkitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.linux.kernel.kernel import Kernel


@dataclass(frozen=True, slots=True)
class FlagInfo:
    """What one bit is called: struct flag_info.

    Attributes:
        mask: Where it stands.
        val: What it is compared with.
        set: Printed if it is that.
        clear: Printed if it is not.
    """

    mask: int
    val: int
    set: str
    clear: str


@dataclass(frozen=True, slots=True)
class PtdumpPgLevel:
    """One level of tables, as it is printed: struct ptdump_pg_level.

    Attributes:
        name: Its name.
        flag: What is said of its entries.
    """

    name: str
    flag: tuple[FlagInfo, ...]

    @property
    def mask(self) -> int:
        """The bits that are looked at.

        Source: none; the kernel adds it up when it boots.
        """
        mask = 0
        for info in self.flag:
            mask |= info.mask
        return mask


FLAG_ARRAY: Final = (
    FlagInfo(1 << 3, 0, "user", "    "),
    FlagInfo(1 << 2, 1 << 2, "r", " "),
    FlagInfo(1 << 1, 1 << 1, "w", " "),
    FlagInfo(1 << 0, 1 << 0, " X ", "   "),
    FlagInfo(1 << 62, 1 << 62, "pte", "   "),
    FlagInfo(1 << 63, 1 << 63, "valid", "     "),
    FlagInfo(1 << 7, 1 << 7, "dirty", "     "),
    FlagInfo(1 << 8, 1 << 8, "accessed", "        "),
)
"""Some of the bits of 64-bit Book3S."""

PG_LEVEL: Final = tuple(
    PtdumpPgLevel(name, FLAG_ARRAY) for name in ("PGD", "P4D", "PUD", "PMD", "PTE")
)


class RedefinitionError(TlbkitError):
    """Two headers declare one name, and are included together."""

    def __init__(self, tag: str, first: type, second: type) -> None:
        super().__init__(
            f"{tag!r} is declared twice: as {first.__module__}.{first.__qualname__} "
            f"and as {second.__module__}.{second.__qualname__}; one must be renamed"
        )
        self.tag = tag


def translation_unit(*headers: Mapping[str, type]) -> dict[str, type]:
    """Return all names that a source file sees which includes these headers.

    Args:
        headers: Of each, the names that follow ``struct``, ``union`` or ``enum``. In C
            these share one space of names.

    Raises:
        RedefinitionError: A name stands for two things.

    Source: none; it is what a compiler does before it compiles.
    """
    seen: dict[str, type] = {}
    for header in headers:
        for tag, what in header.items():
            if seen.setdefault(tag, what) is not what:
                raise RedefinitionError(tag, seen[tag], what)
    return seen


class PowerpcPtdump:
    """What the header of powerpc's dump declares."""

    __slots__ = ()

    def __init__(self, kernel: Kernel) -> None:
        del kernel

    @staticmethod
    def tags() -> dict[str, type]:
        """Return the names that the header gives to its structures.

        Source: none; it is what a compiler finds in the header.
        """
        return {"flag_info": FlagInfo, "ptdump_pg_level": PtdumpPgLevel}
