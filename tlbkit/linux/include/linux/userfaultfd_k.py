"""What an area's userfaultfd wants of the fault handlers.

Source: include/linux/userfaultfd_k.h, v6.19.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_uffd_wp
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    VM_UFFD,
    VM_UFFD_MINOR,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
)
from tlbkit.linux.include.uapi.linux.userfaultfd import (
    UFFD_FEATURE_EVENT_REMAP,
    UFFD_FEATURE_WP_ASYNC,
    UFFD_FEATURE_WP_UNPOPULATED,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea

MFILL_ATOMIC_COPY: Final = 0
MFILL_ATOMIC_ZEROPAGE: Final = 1
MFILL_ATOMIC_CONTINUE: Final = 2
_MFILL_ATOMIC_MODE_MASK: Final = 3
MFILL_ATOMIC_WP: Final = 1 << 2


def uffd_flags_mode_is(flags: int, expected: int) -> bool:
    """Tell whether pages are to be filled in the way *expected*: ``MFILL_ATOMIC_``.

    Source: include/linux/userfaultfd_k.h, uffd_flags_mode_is()
    """
    return flags & _MFILL_ATOMIC_MODE_MASK == expected


def uffd_flags_set_mode(flags: int, mode: int) -> int:
    """Return *flags* that say in which way pages are to be filled.

    Source: include/linux/userfaultfd_k.h, uffd_flags_set_mode()
    """
    return flags & ~_MFILL_ATOMIC_MODE_MASK | mode


def userfaultfd_missing(vma: VmArea) -> bool:
    """Tell whether faults on missing pages of *vma* go to user space.

    Source: include/linux/userfaultfd_k.h, userfaultfd_missing()
    """
    return bool(vma.flags & VM_UFFD_MISSING)


def userfaultfd_wp(vma: VmArea) -> bool:
    """Tell whether pages of *vma* may be write-protected by a userfaultfd.

    Source: include/linux/userfaultfd_k.h, userfaultfd_wp()
    """
    return bool(vma.flags & VM_UFFD_WP)


def userfaultfd_minor(vma: VmArea) -> bool:
    """Tell whether faults on pages that are there but not mapped go to user space.

    Source: include/linux/userfaultfd_k.h, userfaultfd_minor()
    """
    return bool(vma.flags & VM_UFFD_MINOR)


def uffd_disable_fault_around(vma: VmArea) -> bool:
    """Tell whether a fault of *vma* must map nothing but its own page.

    Source: include/linux/userfaultfd_k.h, uffd_disable_fault_around()
    """
    return bool(vma.flags & (VM_UFFD_WP | VM_UFFD_MINOR))


def uffd_disable_huge_pmd_share(vma: VmArea) -> bool:
    """Tell whether entries of *vma* must not be seen by other address spaces.

    They say what its userfaultfd wants, and nobody else's does.

    Source: include/linux/userfaultfd_k.h, uffd_disable_huge_pmd_share()
    """
    return bool(vma.flags & (VM_UFFD_WP | VM_UFFD_MINOR))


def userfaultfd_armed(vma: VmArea) -> bool:
    """Tell whether any fault of *vma* may go to user space.

    Source: include/linux/userfaultfd_k.h, userfaultfd_armed()
    """
    return bool(vma.flags & VM_UFFD)


def userfaultfd_pte_wp(vma: VmArea, pte: int) -> bool:
    """Tell whether a userfaultfd has write-protected the page that *pte* maps.

    Source: include/linux/userfaultfd_k.h, userfaultfd_pte_wp()
    """
    return userfaultfd_wp(vma) and pte_uffd_wp(pte)


def userfaultfd_wp_async(vma: VmArea) -> bool:
    """Tell whether writes to protected pages of *vma* are noted and not reported.

    Source: fs/userfaultfd.c, userfaultfd_wp_async()
    """
    return vma.uffd is not None and bool(vma.uffd.features & UFFD_FEATURE_WP_ASYNC)


def vma_has_uffd_without_event_remap(vma: VmArea) -> bool:
    """Tell whether *vma* is watched by who will not be told that it moves.

    Then it is let go of, and its PTEs lose their uffd-wp bits on the way.

    Source: include/linux/userfaultfd_k.h, vma_has_uffd_without_event_remap()
    """
    return vma.uffd is not None and not vma.uffd.features & UFFD_FEATURE_EVENT_REMAP


def userfaultfd_wp_use_markers(vma: VmArea) -> bool:
    """Tell whether a place without a page is protected too, by a marker.

    Files need it, because the page may only be unmapped; for anonymous memory a
    context asks for it.

    Source: include/linux/userfaultfd_k.h, userfaultfd_wp_use_markers()
    """
    if not userfaultfd_wp(vma):
        return False
    if not vma.anonymous:
        return True
    features = 0 if vma.uffd is None else vma.uffd.features
    return bool(features & UFFD_FEATURE_WP_UNPOPULATED)


def vma_can_userfault(vma: VmArea, vm_flags: int, *, wp_async: bool) -> bool:
    """Tell whether *vma* can be watched in the ways of *vm_flags*.

    That a write happened can be noted for memory of every kind. The rest needs
    anonymous memory, shared memory or hugetlb, and minor faults one of the latter.

    Source: include/linux/userfaultfd_k.h, vma_can_userfault()
    Deviates: nothing is VM_DROPPABLE.
    """
    shmem = vma.ops is not None and vma.ops.is_shmem
    huge = is_vm_hugetlb_page(vma)
    if vm_flags & VM_UFFD_MINOR and not huge and not shmem:
        return False
    if wp_async and vm_flags & VM_UFFD == VM_UFFD_WP:
        return True
    return vma.anonymous or huge or shmem
