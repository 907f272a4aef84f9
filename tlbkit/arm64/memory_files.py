"""Files that hold physical memory: raw bytes, or an ELF core with its segments.

A core says itself where its bytes belong (``qemu``'s dump-guest-memory, kdump written
as ELF). Of raw bytes the caller says it: the physical address of the first of them.
"""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

_ELF = b"\x7fELF"
_PACKED = {
    b"KDUMP   ": "a compressed kdump",
    b"DISKDUMP": "a compressed diskdump",
    b"makedumpfile": "a flattened dump of makedumpfile",
    b"\x1f\x8b": "packed by gzip",
    b"\xfd7zXZ": "packed by xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
}
_EM_AARCH64 = 183
_PT_LOAD = 1
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")


class Segment(NamedTuple):
    """A run of bytes of a file that is a run of physical memory.

    Attributes:
        pa: Physical address of the first byte.
        offset: Where it stands in the file.
        length: How many there are.
    """

    pa: int
    offset: int
    length: int


class MemoryFile:
    """Physical memory in a file; opened once, and read where it is asked for.

    Args:
        path: The file.
        pa: Physical address of its first byte; for raw bytes alone, and needed there.
        offset: How many bytes to pass over first, for raw bytes alone.

    Attributes:
        segments: What it holds, by address.

    Raises:
        InputError: The file cannot be read, is packed, is no core of this architecture,
            or lacks the address that raw bytes need.
    """

    def __init__(self, path: Path, pa: int | None = None, offset: int = 0) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise InputError(f"{path}: the file is empty") from None
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        head = self._bytes[:16]
        for magic, what in _PACKED.items():
            if head.startswith(magic):
                raise InputError(
                    f"{path}: this is {what}; unpack it to an ELF core or to raw bytes"
                )
        if head.startswith(_ELF):
            if pa is not None or offset:
                raise InputError(
                    f"{path}: an ELF core says itself where its bytes belong; "
                    "give no address"
                )
            self.segments = self._elf()
        elif pa is None:
            raise InputError(
                f"{path}: this is no ELF core; say which physical address its first "
                "byte has"
            )
        elif pa % 8 or offset % 8 or not 0 <= offset < len(self._bytes):
            raise InputError(
                f"{path}: address {pa:#x} and offset {offset:#x} must be multiples of "
                f"8, the offset within the {len(self._bytes):#x} bytes of the file"
            )
        else:
            self.segments = (Segment(pa, offset, len(self._bytes) - offset),)

    def read(self, pa: int) -> int | None:
        """Return the aligned word at *pa*, ``None`` if the file does not hold it."""
        for segment in self.segments:
            place = pa - segment.pa
            if 0 <= place <= segment.length - 8:
                start = segment.offset + place
                return int.from_bytes(self._bytes[start : start + 8], "little")
        return None

    def _elf(self) -> tuple[Segment, ...]:
        """Return the segments of an ELF core for arm64."""
        data = self._bytes
        if len(data) < _HEADER.size:
            raise self._damaged("its header is cut off")
        ident, _, machine, _, _, phoff, _, _, _, phentsize, phnum, *_ = (
            _HEADER.unpack_from(data)
        )
        if ident[4] != 2 or ident[5] != 1 or machine != _EM_AARCH64:
            raise self._damaged("it is not one of a 64-bit little-endian arm64 machine")
        if phentsize != _PROGRAM.size:
            raise self._damaged(f"its program headers have {phentsize} bytes, not 56")
        if phoff + phnum * phentsize > len(data):
            raise self._damaged("its program headers are cut off")
        found = []
        for number in range(phnum):
            kind, _, offset, _, paddr, filesz, _, _ = _PROGRAM.unpack_from(
                data, phoff + number * phentsize
            )
            if kind != _PT_LOAD or not filesz:
                continue
            if offset + filesz > len(data):
                raise self._damaged(
                    f"segment {number} ends at {offset + filesz:#x}, behind the file"
                )
            found.append(Segment(paddr, offset, filesz))
        if not found:
            raise self._damaged("it has no segment with bytes of memory")
        return tuple(found)

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.path}: as an ELF core it cannot be used: {what}")
