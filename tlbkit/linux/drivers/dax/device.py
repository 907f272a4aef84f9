"""Persistent memory as one device, mapped by one size of entries (device DAX).

Source: drivers/dax/device.c. There is no file system: a place of the device is a place
of its memory. The size of its entries is chosen when it is made, and areas must be
aligned to it; a fault for another size is refused or, if it is smaller, not asked.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.errors import InputError
from tlbkit.linux.include.linux.fs import AddressSpaceOperations, FileOperations
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_WRITE,
    VM_FAULT_FALLBACK,
    VM_FAULT_SIGBUS,
    VM_HUGEPAGE,
    VM_MAYSHARE,
    VmOperations,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EINVAL

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import File
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea, VmFault
    from tlbkit.linux.kernel.kernel import Kernel


class DevDaxVmOperations(VmOperations):
    """Areas that map the device."""

    __slots__ = ("_dev",)
    dax = True

    def __init__(self, dev: DevDax) -> None:
        self._dev = dev

    def fault(self, vmf: VmFault) -> int:
        """Map a page.

        Source: drivers/dax/device.c, dev_dax_fault()
        """
        return self._dev.dev_dax_huge_fault(vmf, 0)

    def huge_fault(self, vmf: VmFault, order: int) -> int:
        """Map a block.

        Source: drivers/dax/device.c, dev_dax_huge_fault()
        """
        return self._dev.dev_dax_huge_fault(vmf, order)


class DevDax(FileOperations):
    """One device.

    Args:
        kernel: Its kernel.
        align: Bytes that one entry maps: a page, or a block of a PMD or PUD entry.
        nr: Its size, in such pieces.

    Attributes:
        align: As given.
        folios: Its memory, one folio for each piece.

    Raises:
        InputError: No entry maps pieces of that size.
    """

    __slots__ = ("_kernel", "_ops", "_order", "_pgtable", "align", "folios")
    is_chrdev = True

    def __init__(self, kernel: Kernel, align: int, nr: int = 1) -> None:
        pgtable = self._pgtable = kernel.pgtable
        sizes = {pgtable.page_size: 0, pgtable.pmd_size: pgtable.hpage_pmd_order}
        if pgtable.page_shift == 12:
            sizes[pgtable.pud_size] = pgtable.hpage_pud_order
        if align not in sizes:
            known = ", ".join(map(hex, sizes))
            raise InputError(f"align={align:#x}: entries map {known} bytes")
        self._kernel = kernel
        self._order = sizes[align]
        self._ops = DevDaxVmOperations(self)
        self.align = align
        self.folios: list[Folio] = []
        for _ in range(nr):
            memory = kernel.page_alloc.alloc_zeroed(self._order)
            if memory is None:
                raise InputError("there is no memory for the device")
            device = kernel.page_alloc.device_folio
            self.folios.append(device(memory.pfn, self._order))

    def open(self) -> File:
        """Return the device, opened for reading and writing.

        Source: drivers/dax/device.c, dax_open()
        """
        table = self._kernel.file_table
        inode = table.new_inode("/dev/dax0.0", self, AddressSpaceOperations())
        inode.size = self.align * len(self.folios)
        return table.alloc_file(inode)

    def mmap(self, file: File, vma: VmArea) -> int:
        """Make an area map the device; it is shared and aligned, or ``-EINVAL``.

        Source: drivers/dax/device.c, dax_mmap()
        """
        del file
        misaligned = (vma.start | vma.end) & (self.align - 1)
        if misaligned or not vma.flags & VM_MAYSHARE:
            return -EINVAL
        vma.ops = self._ops
        vma.flags |= VM_HUGEPAGE
        return 0

    def dev_dax_huge_fault(self, vmf: VmFault, order: int) -> int:
        """Map the piece in which a fault lies, if entries of that size are used.

        Source: drivers/dax/device.c, dev_dax_huge_fault()
        """
        if self._order > order:
            return VM_FAULT_SIGBUS
        if self._order < order:
            return VM_FAULT_FALLBACK
        piece = vmf.pgoff >> self._order
        if piece >= len(self.folios):
            return VM_FAULT_SIGBUS
        folio = self.folios[piece]
        vma = vmf.vma
        assert vma.file is not None
        folio.mapping = vma.file.mapping
        folio.index = piece << self._order
        write = bool(vmf.flags & FAULT_FLAG_WRITE)
        folio.refcount += 1
        huge = self._kernel.huge_memory
        if not order:
            insert = self._kernel.memory.vmf_insert_page_mkwrite
            answer = insert(vmf, folio.pfn, write=write)
        elif order == self._pgtable.hpage_pmd_order:
            answer = huge.vmf_insert_folio_pmd(vmf, folio, write=write)
        else:
            answer = huge.vmf_insert_folio_pud(vmf, folio, write=write)
        self._kernel.swap.folio_put(folio)
        return answer
