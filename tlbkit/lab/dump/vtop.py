"""What `crash` prints for ``vtop ADDRESS`` on arm64: the entries of one walk.

The addresses of the entries are the kernel's own, their values are what the walker
reads::

    VIRTUAL           PHYSICAL
    ffff000040200000  80200000

    PAGE DIRECTORY: ffff8000819b1000
       PGD: ffff8000819b1000 => 18000000bfffe403
       PUD: ffff00007fffe008 => 18000000bfffd403
       PMD: ffff00007fffd008 => 68000080200f11
      PAGE: 80200000  (2MB)

A walk of the same words by this package gives rights and memory type, and shows whether
the dump agrees with itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64 import image
from tlbkit.arm64.granule import GRANULES, LAST_LEVEL
from tlbkit.arm64.registers import TCR
from tlbkit.errors import InputError
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import MAIR_EL1

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tlbkit.arm64.granule import Granule

_ADDRESSES: Final = re.compile(
    r"([0-9a-f]{1,16})\s+([0-9a-f]{1,16}|\(not mapped\)|\(not accessible\))",
    re.IGNORECASE,
)
_ENTRY: Final = re.compile(
    r"(PGD|P4D|PUD|PMD|PTE):\s*([0-9a-f]{1,16})\s*=>\s*([0-9a-f]{1,16})", re.IGNORECASE
)
_HEADING: Final = re.compile(r"VIRTUAL\s+PHYSICAL", re.IGNORECASE)
_PA_BITS: Final = 48
_LEVEL: Final = {"PGD": 0, "P4D": 0, "PUD": 1, "PMD": 2, "PTE": LAST_LEVEL}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a walk.

    Attributes:
        line: Where it stands, from 1.
        table: The table that it is in, by name.
        address: Where the kernel sees it.
        value: The descriptor.
    """

    line: int
    table: str
    address: int
    value: int


@dataclass(frozen=True, slots=True)
class Walk:
    """One address, and the entries that lead to it.

    Attributes:
        line: Where it begins, from 1.
        va: The address.
        pa: Where `crash` says that it leads; ``None`` if nowhere.
        entries: From the highest table down.
    """

    line: int
    va: int
    pa: int | None
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Vtop:
    """All walks of a file.

    Attributes:
        name: Of the file.
        walks: In their order.
    """

    name: str
    walks: tuple[Walk, ...]

    @classmethod
    def parse(cls, text: str, name: str) -> Vtop:
        """Read what `crash` printed; whatever else stands there is passed over.

        Raises:
            InputError: There is no walk, or one has no entry or its tables out of
                order; one line that says where and what.
        """
        walks = tuple(_walks(text, name))
        if not walks:
            raise InputError(
                f"{name}: there is no VIRTUAL PHYSICAL heading with an address below it"
            )
        return cls(name, walks)

    def answers(self, vas: Sequence[int] = ()) -> list[dict[str, Any]]:
        """Return what the words say of each address, or of all that were printed.

        Raises:
            InputError: As `answer`.
        """
        if not vas:
            return [self.answer(walk) for walk in self.walks]
        found = []
        for va in vas:
            walk = next((one for one in self.walks if one.va == va), None)
            found.append(
                {"va": hex(va), "missing": "vtop was not asked for it"}
                if walk is None
                else self.answer(walk)
            )
        return found

    def answer(self, walk: Walk) -> dict[str, Any]:
        """Walk the words again, and return what the walker says, as JSON.

        Besides the answer of `tlbkit.arm64.image` it has ``va``, the ``page`` size that
        the addresses of the entries go with, and ``agrees``: whether `crash` found the
        same.

        Raises:
            InputError: The addresses of the entries go with no page size.
        """
        granule, va_bits = self._granule(walk)
        dump = self.image(walk, granule, va_bits)
        said = image.answer(dump)[0]
        where = int(said["pa"], 16) if "pa" in said else None
        return {
            "va": hex(walk.va),
            "page": f"{granule.page_size >> 10}K",
            **said,
            "agrees": where == (walk.pa if walk.pa is None else walk.pa & ~0xFFF),
        }

    def image(self, walk: Walk, granule: Granule, va_bits: int) -> dict[str, Any]:
        """Return a walk as a table image of `tlbkit.arm64.image`.

        The physical address of the highest table is nowhere in the text; some address
        that no other table has stands for it.
        """
        tables = [_table(one.value, granule) for one in walk.entries]
        spare = (n * granule.page_size for n in range(1, len(tables) + 2))
        root = next(base for base in spare if base not in tables)
        words = [
            [hex(base | one.address % granule.page_size), hex(one.value)]
            for base, one in zip([root, *tables], walk.entries, strict=False)
        ]
        return {
            "regs": {
                "TCR": hex(TCR.of(granule, va_bits=va_bits, pa_bits=_PA_BITS).encode()),
                "MAIR": hex(MAIR_EL1),
                "TTBR0": hex(root),
                "TTBR1": hex(root),
            },
            "memory": words,
            "probes": [{"va": hex(walk.va), "at": "S1E1R"}],
        }

    def _granule(self, walk: Walk) -> tuple[Granule, int]:
        """Return the granule and the VA size that the entries' addresses go with."""
        for granule in GRANULES:
            bits = _va_bits(walk, granule)
            if bits is not None:
                return granule, bits
        raise InputError(
            f"{self.name}, line {walk.line}: the entries of {walk.va:#x} do not stand "
            "where 4K, 16K or 64K pages have them; is a line missing or damaged?"
        )


def _table(descriptor: int, granule: Granule) -> int:
    """Return the address in a table descriptor of 48 bits."""
    return descriptor & ((1 << _PA_BITS) - 1) & -granule.page_size


def _va_bits(walk: Walk, granule: Granule) -> int | None:
    """Return the VA size with which every entry is at its place, ``None`` if none."""
    levels = [_LEVEL[one.table] for one in walk.entries]
    if len(levels) > 1:
        levels[0] = levels[1] - 1  # the highest table is a PGD, whatever its level
    else:
        levels[0] = granule.start_level(_PA_BITS)
    if levels != list(range(levels[0], levels[0] + len(levels))) or levels[0] < 0:
        return None
    places = [one.address % granule.page_size // 8 for one in walk.entries]
    for level, place in list(zip(levels, places, strict=True))[1:]:
        if walk.va >> granule.shift(level) & (1 << granule.bits_per_level) - 1 != place:
            return None
    shift = granule.shift(levels[0])
    most = min(granule.bits_per_level, _PA_BITS - shift)
    for bits in range(most, 0, -1):
        low = 1 << shift + bits
        upper = walk.va >> shift + bits in (0, ((1 << 64) - 1) >> shift + bits)
        if upper and walk.va % low >> shift == places[0]:
            return shift + bits
    return None


def _walks(text: str, name: str) -> Iterator[Walk]:
    """Yield the walks of a text."""
    lines = text.splitlines()
    heads = [n for n, line in enumerate(lines) if _HEADING.fullmatch(line.strip())]
    for head, following in pairwise([*heads, len(lines)]):
        body = [(n + 1, lines[n].strip()) for n in range(head + 1, following)]
        said = next(((n, line) for n, line in body if line), None)
        read = _ADDRESSES.fullmatch(said[1]) if said else None
        if said is None or read is None:
            raise InputError(
                f"{name}, line {head + 2}: below the heading stand the address and "
                "where it leads, or (not mapped)"
            )
        entries = tuple(
            Entry(number, found[1].upper(), int(found[2], 16), int(found[3], 16))
            for number, line in body
            for found in [_ENTRY.fullmatch(line)]
            if found is not None
        )
        if not entries or entries[0].table != "PGD":
            raise InputError(
                f"{name}, line {head + 2}: the entries of {read[1]} are missing; print "
                "them with vtop, from PGD on"
            )
        pa = None if read[2].startswith("(") else int(read[2], 16)
        yield Walk(head + 2, int(read[1], 16), pa, entries)
