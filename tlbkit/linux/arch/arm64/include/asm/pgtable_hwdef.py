"""The bits of a page-table entry, as Linux names them.

Source: arch/arm64/include/asm/pgtable-hwdef.h and pgtable-prot.h, v6.19.
"""

from __future__ import annotations

from typing import Final

SLOT: Final = 8
"""Bytes of an entry of a table, of any level: what is ``pte++`` in C is ``pte += SLOT``
here, since an entry's place is its physical address."""

PTE_VALID: Final = 1 << 0
PTE_TABLE_BIT: Final = 1 << 1
PTE_TYPE_PAGE: Final = 3
PTE_ATTRINDX_SHIFT: Final = 2
PTE_ATTRINDX_MASK: Final = 7 << 2
PTE_USER: Final = 1 << 6
PTE_RDONLY: Final = 1 << 7
PTE_SHARED: Final = 3 << 8
PTE_AF: Final = 1 << 10
PTE_NG: Final = 1 << 11
PTE_GP: Final = 1 << 50
PTE_DBM: Final = 1 << 51
PTE_CONT: Final = 1 << 52
PTE_PXN: Final = 1 << 53
PTE_UXN: Final = 1 << 54

PTE_WRITE: Final = PTE_DBM
"""The kernel's "writable"; with hardware dirty management also the hardware's."""
PTE_PRESENT_INVALID: Final = PTE_NG
"""Present for software, invalid for hardware; has this meaning only while not valid."""
PTE_SWP_EXCLUSIVE: Final = 1 << 2
"""Only in swap entries."""
PTE_SWP_UFFD_WP: Final = 1 << 3
"""Only in swap entries."""
PTE_DIRTY: Final = 1 << 55
PTE_SPECIAL: Final = 1 << 56
PTE_UFFD_WP: Final = 1 << 58
PTE_PO_IDX_MASK: Final = 7 << 60
PTE_SWBITS_MASK: Final = 1 << 63 | 0b1111 << 55
"""Bits that no table walker looks at."""

PMD_TYPE_TABLE: Final = 3
PMD_SECT_VALID: Final = 1 << 0
PMD_TABLE_PXN: Final = 1 << 59
PMD_TABLE_UXN: Final = 1 << 60

MT_NORMAL: Final = 0
MT_NORMAL_TAGGED: Final = 1
MT_NORMAL_NC: Final = 2
MT_DEVICE_nGnRnE: Final = 3
MT_DEVICE_nGnRE: Final = 4
MAIR_EL1: Final = 0xFF << 0 | 0xF0 << 8 | 0x44 << 16 | 0x00 << 24 | 0x04 << 32
