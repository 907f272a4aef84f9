"""Flags of memory areas, of faults, what they answer, and who is asked.

Source: include/linux/mm.h and include/linux/mm_types.h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Page, VmArea, VmFault

ULONG_MAX: Final = (1 << 64) - 1
"""The largest address, and the end of a range that has none."""

VM_READ: Final = 0x1
VM_WRITE: Final = 0x2
VM_EXEC: Final = 0x4
VM_SHARED: Final = 0x8
VM_MAYREAD: Final = 0x10
VM_MAYWRITE: Final = 0x20
VM_MAYEXEC: Final = 0x40
VM_MAYSHARE: Final = 0x80
VM_GROWSDOWN: Final = 0x100
VM_UFFD_MISSING: Final = 0x200
VM_PFNMAP: Final = 0x400
VM_UFFD_WP: Final = 0x1000
VM_LOCKED: Final = 0x2000
VM_IO: Final = 0x4000
VM_SEQ_READ: Final = 0x8000
VM_RAND_READ: Final = 0x10000
VM_DONTCOPY: Final = 0x20000
VM_DONTEXPAND: Final = 0x40000
VM_ACCOUNT: Final = 0x100000
VM_NORESERVE: Final = 0x200000
VM_HUGETLB: Final = 0x400000
VM_ARM64_BTI: Final = 0x1000000
VM_WIPEONFORK: Final = 0x2000000
VM_DONTDUMP: Final = 0x4000000
VM_SOFTDIRTY: Final = 0x8000000
VM_MIXEDMAP: Final = 0x10000000
VM_HUGEPAGE: Final = 0x20000000
VM_NOHUGEPAGE: Final = 0x40000000
VM_MERGEABLE: Final = 0x80000000
VM_MTE: Final = 1 << 36
VM_UFFD_MINOR: Final = 1 << 38
VM_SHADOW_STACK: Final = 1 << 37

VM_ACCESS_FLAGS: Final = VM_READ | VM_WRITE | VM_EXEC
VM_UFFD: Final = VM_UFFD_MISSING | VM_UFFD_WP | VM_UFFD_MINOR
VM_SPECIAL: Final = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP
VM_REMAP_FLAGS: Final = VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP
VM_COPY_ON_FORK: Final = VM_PFNMAP | VM_MIXEDMAP | VM_UFFD_WP
"""What of an area's entries no fault could find again; guard markers are left out."""

MM_CP_TRY_CHANGE_WRITABLE: Final = 1 << 0
MM_CP_PROT_NUMA: Final = 1 << 1
MM_CP_UFFD_WP: Final = 1 << 2
MM_CP_UFFD_WP_RESOLVE: Final = 1 << 3
MM_CP_UFFD_WP_ALL: Final = MM_CP_UFFD_WP | MM_CP_UFFD_WP_RESOLVE

FAULT_FLAG_WRITE: Final = 1 << 0
FAULT_FLAG_MKWRITE: Final = 1 << 1
FAULT_FLAG_ALLOW_RETRY: Final = 1 << 2
FAULT_FLAG_RETRY_NOWAIT: Final = 1 << 3
FAULT_FLAG_KILLABLE: Final = 1 << 4
FAULT_FLAG_TRIED: Final = 1 << 5
FAULT_FLAG_USER: Final = 1 << 6
FAULT_FLAG_REMOTE: Final = 1 << 7
FAULT_FLAG_INSTRUCTION: Final = 1 << 8
FAULT_FLAG_INTERRUPTIBLE: Final = 1 << 9
FAULT_FLAG_UNSHARE: Final = 1 << 10
FAULT_FLAG_ORIG_PTE_VALID: Final = 1 << 11

FOLL_WRITE: Final = 1 << 0
FOLL_GET: Final = 1 << 1
FOLL_DUMP: Final = 1 << 2
FOLL_FORCE: Final = 1 << 3
FOLL_LONGTERM: Final = 1 << 8
FOLL_TOUCH: Final = 1 << 16
FOLL_TRIED: Final = 1 << 17
FOLL_PIN: Final = 1 << 19
FOLL_FAST_ONLY: Final = 1 << 20
FOLL_UNLOCKABLE: Final = 1 << 21
FOLL_MADV_POPULATE: Final = 1 << 22

VM_FAULT_OOM: Final = 0x1
VM_FAULT_SIGBUS: Final = 0x2
VM_FAULT_MAJOR: Final = 0x4
ZAP_FLAG_DROP_MARKER: Final = 1 << 0
ZAP_FLAG_UNMAP: Final = 1 << 1
"""Let go of what a userfaultfd said of a page, with the page."""

VM_FAULT_HWPOISON: Final = 0x10
VM_FAULT_SIGSEGV: Final = 0x40
VM_FAULT_NOPAGE: Final = 0x100
VM_FAULT_LOCKED: Final = 0x200
VM_FAULT_RETRY: Final = 0x400
VM_FAULT_FALLBACK: Final = 0x800
VM_FAULT_DONE_COW: Final = 0x1000
VM_FAULT_COMPLETED: Final = 0x4000
VM_FAULT_ERROR: Final = (
    VM_FAULT_OOM | VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV | VM_FAULT_HWPOISON
)


def is_cow_mapping(flags: int) -> bool:
    """Tell whether a write to a mapping with these flags may copy a page.

    Source: include/linux/mm.h, is_cow_mapping()
    """
    return flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE


class VmOperations:
    """What a driver or a file system does for its areas: vm_operations_struct.

    Each method here is what an area gets whose owner does not have it.

    Attributes:
        is_shmem: The areas are of shared memory: vma_is_shmem().
        dax: What is mapped are the pages of persistent memory itself: IS_DAX().
    """

    __slots__ = ()
    is_shmem: bool = False
    dax: bool = False

    def has(self, operation: str) -> bool:
        """Tell whether the owner has an operation, by the name of its method.

        Source: none; C asks whether a pointer is set.
        """
        return getattr(type(self), operation) is not getattr(VmOperations, operation)

    def open(self, vma: VmArea) -> None:
        """Be told of an area that another one was split, moved or forked into.

        Source: include/linux/mm.h, open() of struct vm_operations_struct
        """
        del vma

    def may_split(self, vma: VmArea, addr: int) -> int:
        """Return why an area must not be cut at *addr*, as an error number, or 0.

        Source: include/linux/mm.h, may_split() of struct vm_operations_struct
        """
        del vma, addr
        return 0

    def close(self, vma: VmArea) -> None:
        """Be told that an area goes away; such areas are never merged.

        Source: include/linux/mm.h, close() of struct vm_operations_struct
        """
        del vma

    def fault(self, vmf: VmFault) -> int:
        """Map the page of a fault, or say which: ``VM_FAULT_`` bits.

        Source: include/linux/mm.h, fault() of struct vm_operations_struct
        """
        del vmf
        return VM_FAULT_SIGBUS

    def huge_fault(self, vmf: VmFault, order: int) -> int:
        """Map the block of *order* pages, as log2, in which a fault lies.

        Source: include/linux/mm.h, huge_fault() of struct vm_operations_struct
        """
        del vmf, order
        return VM_FAULT_FALLBACK

    def map_pages(self, vmf: VmFault, first: int, last: int) -> int:
        """Map what is at hand from place *first* to *last*, around a read fault.

        ``VM_FAULT_NOPAGE`` if the page of the fault is among it.

        Source: include/linux/mm.h, map_pages() of struct vm_operations_struct
        """
        del vmf, first, last
        return 0

    def page_mkwrite(self, vmf: VmFault) -> int:
        """Be told that the page ``vmf.page`` of a shared area is about to be written.

        ``VM_FAULT_LOCKED`` leaves it locked; an error, or ``VM_FAULT_NOPAGE``, if it
        may not be written.

        Source: include/linux/mm.h, page_mkwrite() of struct vm_operations_struct
        """
        del vmf
        return 0

    def pfn_mkwrite(self, vmf: VmFault) -> int:
        """Be told the same of a frame that is no page.

        Source: include/linux/mm.h, pfn_mkwrite() of struct vm_operations_struct
        """
        del vmf
        return 0


class NormalPageOperations(VmOperations, ABC):
    """Those of a driver that knows pages which page-table entries do not tell.

    Their frames are not what the entries say: a hypervisor puts frames of its own in.
    """

    __slots__ = ()

    @abstractmethod
    def find_normal_page(self, vma: VmArea, addr: int) -> Page | None:
        """Return the page behind a special entry, or ``None`` if it has none.

        Asked only in a kernel that is built with ``find_normal_page``.

        Source: include/linux/mm.h, find_normal_page() of struct vm_operations_struct
        """
