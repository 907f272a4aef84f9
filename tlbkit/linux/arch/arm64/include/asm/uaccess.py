"""Addresses that user space passes: arch/arm64/include/asm/uaccess.h."""

from __future__ import annotations

from typing import Final

_TAG: Final = 0xFF << 56
_BIT_55: Final = 1 << 55


def untagged_addr(addr: int) -> int:
    """Return an address of user space without the tag in its top byte.

    Source: arch/arm64/include/asm/uaccess.h, untagged_addr()
    """
    return addr if addr & _BIT_55 else addr & ~_TAG
