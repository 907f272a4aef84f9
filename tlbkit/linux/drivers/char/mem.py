"""Physical memory as a file: drivers/char/mem.c, /dev/mem.

What a program maps of it are frames by number: a device's registers, or memory that the
kernel may use for something else. Nobody counts such mappings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.fs import AddressSpaceOperations, FileOperations
from tlbkit.linux.include.linux.mm import VmOperations

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import File
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class MemOperations(VmOperations):
    """All is mapped at once, so no fault is ever handled."""

    __slots__ = ()


class Mem(FileOperations):
    """The device; an offset in the file is a physical address."""

    __slots__ = ("_kernel", "_ops")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._ops = MemOperations()

    def open(self) -> File:
        """Return the device, opened for reading and writing.

        Source: drivers/char/mem.c, open_mem()
        """
        table = self._kernel.file_table
        inode = table.new_inode("/dev/mem", self, AddressSpaceOperations())
        return table.alloc_file(inode)

    def mmap(self, file: File, vma: VmArea) -> int:
        """Map physical memory from the area's offset on.

        Source: drivers/char/mem.c, mmap_mem()
        """
        del file
        vma.ops = self._ops
        size = vma.end - vma.start
        return self._kernel.memory.remap_pfn_range(
            vma, vma.start, vma.pgoff, size, vma.page_prot
        )
