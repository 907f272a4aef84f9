"""The initial state of a herd7 test: entries, data, registers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tlbkit.arm64.ordering import Data, Entry, Hardware, Table
from tlbkit.explore.herd.text import Piece, PlacedError, shown
from tlbkit.explore.herd.values import Code, MissingError, Word

NAME = r"[A-Za-z_][A-Za-z0-9_.]*"
_ENTRY_OF = rf"(?:pte_(?P<pte>{NAME})|(?:PTE|TTD)\(\s*(?P<ttd>{NAME})\s*\))"
_TYPE = r"(?:(?:const\s+|volatile\s+|unsigned\s+|signed\s+)*[A-Za-z_]\w*[\s*]+)?"
_REGISTER = re.compile(rf"({_TYPE})P?(\d+)\s*:\s*([A-Za-z]\w*)(?:\s*=\s*(.*))?")
_TABLE = re.compile(rf"{_TYPE}\[?\s*{_ENTRY_OF}\s*\]?\s*=\s*(.*)")
_DATA = re.compile(rf"({_TYPE})\[?\s*({NAME})\s*\]?(?:\s*\[(\d+)\])?(?:\s*=\s*(.*))?")
_NUMBER = re.compile(r"(-?)(0x[0-9a-fA-F]{1,16}|[0-9]{1,20})")
_OUTPUT = re.compile(rf"(?:PA\(\s*({NAME})\s*\)|phy_({NAME}))")

MAX_LOCATIONS = 40
"""The most locations of one test."""


@dataclass(slots=True)
class Initial:
    """The initial state.

    Attributes:
        entries: The entry of each page that the test gives one.
        data: The value of each location that the test gives one.
        locations: The locations, in the order in which they are met.
        registers: For each thread and register its word.
        labels: The place of each label, by thread and name; for `label:"P1:L0"`.
    """

    labels: dict[tuple[int, str], Code]
    entries: dict[str, Entry] = field(default_factory=dict)
    data: dict[str, Word] = field(default_factory=dict)
    locations: list[str] = field(default_factory=list)
    registers: dict[tuple[int, str], Word] = field(default_factory=dict)

    def location(self, name: str) -> str:
        """Take note of a location, and return its name."""
        if name not in self.locations:
            if len(self.locations) == MAX_LOCATIONS:
                raise MissingError(f"more than {MAX_LOCATIONS} locations")
            self.locations.append(name)
        return name

    def entry_of(self, page: str) -> Entry:
        """Return the first entry of a page."""
        return self.entries.get(page, Entry(valid=True, frame=page))

    def read(self, item: Piece) -> None:
        """Read one item of the initial state."""
        text = item.text
        if match := _REGISTER.fullmatch(text):
            key = int(match[2]), register_name(match[3])
            if key in self.registers:
                raise PlacedError(
                    item.line, f"{shown(text)}: the register has a value already"
                )
            self.registers[key] = self.word(match[4]) if match[4] else 0
        elif match := _TABLE.fullmatch(text):
            page = self.location(match["pte"] or match["ttd"])
            if page in self.entries:
                raise PlacedError(
                    item.line, f"{shown(text)}: the page has an entry already"
                )
            self.entries[page] = self.entry(match[3], page)
        elif match := _DATA.fullmatch(text):
            self._read_data(item, match)
        else:
            raise PlacedError(
                item.line,
                f"{shown(text)}: no item of an initial state that is read here: "
                "'x=1', '0:X1=x', 'pte_x=(oa:phy_y, valid:0)' are",
            )

    def _read_data(self, item: Piece, match: re.Match[str]) -> None:
        name = self.location(match[2])
        if name in self.data:
            raise PlacedError(
                item.line, f"{shown(item.text)}: the location has a value already"
            )
        value = match[4]
        if value is None:
            return
        if match[3] is not None:
            words = value.strip().removeprefix("{").removesuffix("}").split(",")
            values = {self.word(word) for word in words}
            if len(values) > 1:
                raise MissingError("an array whose words differ")
            self.data[name] = values.pop()
            return
        self.data[name] = self.word(value)

    def word(self, text: str) -> Word:
        """Read a value: a number, an address, an entry, a label."""
        text = text.strip()
        if match := _NUMBER.fullmatch(text):
            number = int(match[2], 0 if match[2].startswith("0x") else 10)
            return (-number if match[1] else number) & (1 << 64) - 1
        if match := re.fullmatch(_ENTRY_OF, text):
            return Table(self.location(match["pte"] or match["ttd"]))
        if text.startswith("("):
            return self.entry(text)
        if match := re.fullmatch(r'(?:label:)?"?P?(\d+):(\w+)"?', text):
            key = int(match[1]), match[2]
            if key not in self.labels:
                raise MissingError(f"label {match[2]} of P{match[1]}, which is nowhere")
            return self.labels[key]
        if _OUTPUT.fullmatch(text):
            raise MissingError("a physical address as a value of its own")
        if match := re.fullmatch(rf"&?\s*({NAME})", text):
            return Data(self.location(match[1]))
        raise MissingError(f"a value of the form {shown(text)}")

    def entry(self, text: str, page: str = "") -> Entry:
        """Read an entry; what is not said is as in a valid, writable, young one.

        Args:
            text: As in `(oa:phy_x, valid:0)`.
            page: The page whose entry it is: its frame if none is named.
        """
        if not (text.startswith("(") and text.endswith(")")):
            raise MissingError(f"an entry of the form {shown(text)}")
        frame = page
        bits = {"valid": 1, "af": 1, "db": 1, "dbm": 0, "el0": 1}
        for word in re.split(r",(?![^(]*\))", text[1:-1]):
            key, colon, value = (part.strip() for part in word.partition(":"))
            if key == "oa" and (match := _OUTPUT.fullmatch(value)):
                frame = self.location(match[1] or match[2])
            elif key in bits and colon and value in ("0", "1"):
                bits[key] = int(value)
            else:
                raise MissingError(f"{shown(word.strip())} in an entry")
        if not bits["el0"]:
            raise MissingError("entries that EL0 may not use (el0:0)")
        if not frame:
            raise MissingError("an entry without an output address (oa)")
        return Entry(
            valid=bool(bits["valid"]),
            frame=frame,
            writable=bool(bits["db"]),
            young=bool(bits["af"]),
            dbm=bool(bits["dbm"]),
        )


def register_name(name: str) -> str:
    """Return one name for a register of 32 and of 64 bits.

    >>> register_name("w3")
    'X3'
    """
    upper = name.upper()
    if re.fullmatch(r"[WX](\d|[12]\d|30)", upper):
        return "X" + upper[1:]
    if upper in ("WZR", "XZR", "SP", "WSP"):
        return "XZR" if upper.endswith("ZR") else "SP"
    raise MissingError(f"register {shown(name)}")


def hardware_of(option: Piece | None, threads: int) -> tuple[Hardware, ...]:
    """Read `TTHM=HA HD` or `TTHM=P0:HA`: what the hardware of each CPU manages."""
    found = [Hardware.NONE] * threads
    for word in option.text.replace(",", " ").split() if option else ():
        match = re.fullmatch(r"(?:P(\d+):)?(HA|HD)", word)
        if not match or (match[1] and int(match[1]) >= threads):
            raise MissingError(f"TTHM={shown(word)}")
        for cpu in range(threads) if match[1] is None else (int(match[1]),):
            if match[2] == "HD" or found[cpu] is Hardware.DIRTY:
                found[cpu] = Hardware.DIRTY
            else:
                found[cpu] = Hardware.ACCESS_FLAG
    return tuple(found)


def user_threads(option: Piece | None, threads: int) -> frozenset[int]:
    """Read `EL0=P0,P2`: the threads that run at EL0."""
    found = set()
    for word in option.text.replace(",", " ").split() if option else ():
        match = re.fullmatch(r"P(\d+)", word)
        if not match or int(match[1]) >= threads:
            raise MissingError(f"EL0={shown(word)}")
        found.add(int(match[1]))
    return frozenset(found)
