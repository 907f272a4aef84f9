"""What a page-table word of the ordering model says, and what hardware does with it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from tlbkit.arm64.fault import FaultKind
from tlbkit.errors import InputError


class Hardware(Enum):
    """Which state bits of an entry the hardware keeps by itself (TCR_EL1.HA, .HD)."""

    NONE = "none"
    ACCESS_FLAG = "af"
    DIRTY = "dirty"


NEVER_CACHED = frozenset({FaultKind.TRANSLATION, FaultKind.ACCESS_FLAG})
"""The faults whose entry no TLB may hold (Arm ARM, caching of translation entries)."""


class Entry(NamedTuple):
    """One last-level entry: the bits that the ordering of translations depends on.

    Attributes:
        valid: Bit 0. The other fields mean nothing in an invalid entry.
        frame: Name of the frame it points to.
        writable: AP[2] is clear.
        young: The access flag.
        dbm: Hardware may make the entry writable on a write (bit 51).
    """

    valid: bool
    frame: str
    writable: bool = True
    young: bool = True
    dbm: bool = False

    def __str__(self) -> str:
        """Write the entry as a litmus file does: `frame a, read-only, af 0`."""
        if not self.valid:
            return "invalid"
        words = [f"frame {self.frame}"]
        if not self.writable:
            words.append("read-only")
        if self.dbm:
            words.append("dbm")
        if not self.young:
            words.append("af 0")
        return ", ".join(words)

    @property
    def cacheable(self) -> bool:
        """Tell whether a TLB may hold the entry.

        What would fault for translation or for the access flag is never held; what
        would fault for permission may be. With hardware access flags the flag is set
        in memory before the entry is held, so the rule needs no exception for it.
        """
        return self.valid and self.young


INVALID = Entry(valid=False, frame="", writable=False, young=False)


def entry_from_words(text: str) -> Entry:
    """Read an entry written as in `str(entry)`.

    >>> entry_from_words("frame a, read-only, dbm")
    Entry(valid=True, frame='a', writable=False, young=True, dbm=True)

    Raises:
        InputError: A word is unknown, contradicts another, or the frame is missing.
    """
    words = [" ".join(word.split()) for word in text.split(",")]
    if words == ["invalid"]:
        return INVALID
    frame, bits = "", {"writable": True, "young": True, "dbm": False}
    meaning = {
        "read-only": ("writable", False),
        "writable": ("writable", True),
        "af 0": ("young", False),
        "af 1": ("young", True),
        "dbm": ("dbm", True),
    }
    said: set[str] = set()
    for word in words:
        if word.startswith("frame "):
            field, frame = "frame", word.removeprefix("frame ").strip()
        elif word in meaning:
            field, bit = meaning[word]
            bits[field] = bit
        else:
            allowed = "invalid | frame NAME" + "".join(f" | {m}" for m in meaning)
            raise InputError(f"entry {text!r}: {word!r} is none of {allowed}")
        if field in said:
            raise InputError(
                f"entry {text!r}: {word!r} says a second time what is said"
            )
        said.add(field)
    if not frame.isidentifier():
        raise InputError(f"entry {text!r}: name the frame, as in 'frame a, read-only'")
    return Entry(valid=True, frame=frame, **bits)


class Answer(NamedTuple):
    """What an entry gives an access: a fault, or the frame, perhaps after an update.

    Attributes:
        fault: The fault, or None.
        update: What hardware must first write to the entry in memory, or None.
    """

    fault: FaultKind | None
    update: Entry | None


def answer(
    entry: Entry, *, write: bool, hardware: Hardware, dirties: bool = True
) -> Answer:
    """Tell what an access gets from an entry.

    Args:
        entry: What the walk found.
        write: Whether the access needs write permission.
        hardware: What the CPU's hardware manages.
        dirties: False if a write leaves a clean entry clean that hardware could make
            writable: it is permitted, and nothing is written.

    The order of the checks is the architecture's: translation, access flag,
    permission. A write that hardware may make dirty sets the access flag and the
    writable state in one update. An access that has a permission fault updates
    nothing (the architecture leaves that open; so does Arm's litmus model).
    """
    if not entry.valid:
        return Answer(FaultKind.TRANSLATION, None)
    if not entry.young and hardware is Hardware.NONE:
        return Answer(FaultKind.ACCESS_FLAG, None)
    can_dirty = hardware is Hardware.DIRTY and entry.dbm
    if write and not entry.writable and not can_dirty:
        return Answer(FaultKind.PERMISSION, None)
    after = entry._replace(young=True, writable=entry.writable or (write and dirties))
    return Answer(None, after if after != entry else None)
