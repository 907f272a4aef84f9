"""Memory that another guest of Xen has granted: drivers/xen/gntdev.c.

The hypervisor puts *its* frame into the page-table entry, one that this guest has no
page for, and the driver marks the entry special. It keeps a page of its own for each,
by which the kernel can count references: that page is what an address is normally
mapped to, and only the driver knows it.

It exists on x86 with paravirtual guests alone. An arm64 kernel is never built with it;
it is here because it is the only user of a hook that the decision about normal pages
must ask.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.fs import AddressSpaceOperations, FileOperations
from tlbkit.linux.include.linux.mm import (
    VM_DONTCOPY,
    VM_DONTEXPAND,
    VM_MIXEDMAP,
    NormalPageOperations,
)
from tlbkit.linux.include.uapi.asm_generic.errno import ENOMEM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tlbkit.linux.include.linux.fs import File, Inode
    from tlbkit.linux.include.linux.mm import VmOperations
    from tlbkit.linux.include.linux.mm_types import MmStruct, Page, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class Grants:
    """What one opened device holds: struct gntdev_grant_map.

    Attributes:
        frames: The hypervisor's frames.
        pages: For each, the guest's own page that stands for it.
    """

    __slots__ = ("frames", "pages")

    def __init__(self, frames: Sequence[int], pages: Sequence[Page]) -> None:
        self.frames = tuple(frames)
        self.pages = tuple(pages)


class GntdevOperations(NormalPageOperations):
    """Knows the pages of one opened device, and which areas map it.

    Attributes:
        areas: Those areas.
    """

    __slots__ = ("_grants", "_page_shift", "areas")

    def __init__(self, grants: Grants, page_shift: int, areas: list[VmArea]) -> None:
        self._grants = grants
        self._page_shift = page_shift
        self.areas = areas

    def open(self, vma: VmArea) -> None:
        """Note an area that was split off.

        Source: drivers/xen/gntdev.c, gntdev_vma_open()
        """
        self.areas.append(vma)

    def close(self, vma: VmArea) -> None:
        """Forget an area that is gone.

        Source: drivers/xen/gntdev.c, gntdev_vma_close()
        """
        self.areas.remove(vma)

    def find_normal_page(self, vma: VmArea, addr: int) -> Page | None:
        """Return the page that stands for the grant at *addr*.

        Source: drivers/xen/gntdev.c, gntdev_vma_find_normal_page()
        """
        return self._grants.pages[vma.pgoff + (addr - vma.start >> self._page_shift)]


class Gntdev(FileOperations):
    """The device, and the hypervisor as far as it is needed for it."""

    __slots__ = ("_areas", "_grants", "_kernel")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._areas: list[VmArea] = []
        self._grants: dict[Inode, Grants] = {}

    def open(self, frames: Sequence[int]) -> File | int:
        """Return a device that maps *frames* of another guest; ``-ENOMEM``.

        Source: drivers/xen/gntdev.c, gntdev_open() and gntdev_ioctl_map_grant_ref()
        """
        kernel = self._kernel
        pages: list[Page] = []
        for _ in frames:
            folio = kernel.page_alloc.alloc_zeroed()
            if folio is None:
                for page in pages:
                    kernel.swap.folio_put(kernel.page_alloc.folio_of(page))
                return -ENOMEM
            pages.append(folio.pfn)
        inode = kernel.file_table.new_inode(
            "/dev/xen/gntdev", self, AddressSpaceOperations()
        )
        self._grants[inode] = Grants(frames, pages)
        kernel.mmu_notifier.mmu_interval_notifier_insert(self.invalidate)
        return kernel.file_table.alloc_file(inode)

    def operations(self, grants: Grants) -> VmOperations:
        """Return what the driver answers for an area that maps *grants*.

        Source: none; each device has a table of its own here, since it knows its pages.
        """
        page_shift = self._kernel.pgtable.page_shift
        return GntdevOperations(grants, page_shift, self._areas)

    def mmap(self, file: File, vma: VmArea) -> int:
        """Let the hypervisor map all that was granted.

        Source: drivers/xen/gntdev.c, gntdev_mmap()
        """
        vma.flags |= VM_MIXEDMAP | VM_DONTEXPAND | VM_DONTCOPY
        grants = self._grants[file.inode]
        vma.ops = self.operations(grants)
        self._areas.append(vma)
        pgtable = self._kernel.pgtable
        for number, frame in enumerate(grants.frames):
            addr = vma.start + number * pgtable.page_size
            found = self._kernel.memory.get_locked_pte(vma.mm, addr)
            if found is None:
                return -ENOMEM
            ptep, ptl = found
            entry = pgtable.pfn_pte(frame, vma.page_prot)
            pgtable.set_pte(ptep, pgtable.pte_mkspecial(entry))
            ptl.release()
        return 0

    def invalidate(self, mm: MmStruct, start: int, end: int) -> None:
        """Let the hypervisor take its entries away before the kernel meets them.

        Source: drivers/xen/gntdev.c, gntdev_invalidate()
        """
        kernel = self._kernel
        for vma in self._areas:
            if vma.mm is not mm:
                continue
            for addr in range(
                max(vma.start, start), min(vma.end, end), kernel.pgtable.page_size
            ):
                found = kernel.memory.get_locked_pte(vma.mm, addr)
                assert found is not None
                ptep, ptl = found
                kernel.pgtable_generic.ptep_clear_flush(vma, addr, ptep)
                ptl.release()

    def evict(self, inode: Inode) -> None:
        """Give up the pages, as the device is closed and nothing maps it any more.

        Source: drivers/xen/gntdev.c, gntdev_release()
        """
        for page in self._grants.pop(inode).pages:
            self._kernel.swap.folio_put(self._kernel.page_alloc.folio_of(page))
        if not self._grants:
            self._kernel.mmu_notifier.mmu_interval_notifier_remove(self.invalidate)
