"""Small questions of memory management: include/linux/mm_inline.h."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm import VM_RAND_READ, VM_SEQ_READ

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea


def vma_has_recency(vma: VmArea) -> bool:
    """Tell whether that a page was used through *vma* says that it will be again.

    Source: include/linux/mm_inline.h, vma_has_recency()
    Deviates: no file is opened for use just once (POSIX_FADV_NOREUSE).
    """
    return not vma.flags & (VM_SEQ_READ | VM_RAND_READ)
