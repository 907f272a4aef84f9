"""A file system on persistent memory: its files are mapped where they last.

It stands for ext4 and xfs with the dax option. Blocks of a file are given when they are
first written; what was never written is a hole. A write by a block of pages gets frames
in a row, so that it can be mapped by one entry. Frames that a file gives up are not
used again: persistent memory is as large as it must be.

Source: none; it stands for a file system with DAX and its device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.errors import InputError
from tlbkit.linux.fs.dax import DaxOwner, Extent
from tlbkit.linux.include.linux.fs import AddressSpaceOperations, FileOperations
from tlbkit.linux.include.linux.mm import VM_HUGEPAGE, VmOperations

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import AddressSpace, File, Inode
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea, VmFault
    from tlbkit.linux.kernel.kernel import Kernel


class PmemVmOperations(VmOperations):
    """Areas that map such files: every fault goes to DAX, also one that only writes."""

    __slots__ = ("_kernel", "_owner")
    dax = True

    def __init__(self, kernel: Kernel, owner: DaxOwner) -> None:
        self._kernel = kernel
        self._owner = owner

    def fault(self, vmf: VmFault) -> int:
        """Map a page."""
        return self._kernel.dax.dax_iomap_fault(vmf, 0, self._owner)

    def huge_fault(self, vmf: VmFault, order: int) -> int:
        """Map a block, if there can be one."""
        return self._kernel.dax.dax_iomap_fault(vmf, order, self._owner)

    def pfn_mkwrite(self, vmf: VmFault) -> int:
        """Map a page again, to be written."""
        return self._kernel.dax.dax_iomap_fault(vmf, 0, self._owner)


class PmemFiles(FileOperations, DaxOwner):
    """Open files in persistent memory, and where their pages lie."""

    __slots__ = ("_kernel", "_pgtable", "_vm_ops", "frames")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable
        self._vm_ops = PmemVmOperations(kernel, self)
        self.frames: dict[Inode, dict[int, int]] = {}

    def mmap(self, file: File, vma: VmArea) -> int:
        """Make an area map the file, by blocks where that is possible."""
        del file
        vma.ops = self._vm_ops
        vma.flags |= VM_HUGEPAGE
        return 0

    def truncate(self, inode: Inode, size: int) -> int:
        """Give the file another size; what is cut off goes back."""
        self._kernel.truncate.truncate_setsize(inode, size)
        end = self._kernel.filemap.pages_in_file(inode)
        self._kernel.dax.dax_delete_mapping_entries(inode.mapping, end)
        frames = self.frames[inode]
        for index in [index for index in frames if index >= end]:
            del frames[index]
        return 0

    def evict(self, inode: Inode) -> None:
        """Give up all blocks."""
        self._kernel.dax.dax_delete_mapping_entries(inode.mapping, 0)
        del self.frames[inode]

    # -- where pages lie -------------------------------------------------------------

    def iomap_begin(self, mapping: AddressSpace, index: int, *, write: bool) -> Extent:
        """Return the extent around a page; a write of a hole gets blocks first."""
        frames = self.frames[mapping.host]
        if write and index not in frames:
            self._give(mapping, index)
        first = index & -self._pgtable.hpage_pmd_nr
        last = first + self._pgtable.hpage_pmd_nr
        start = self._reach(frames, index, first - 1, -1)
        stop = self._reach(frames, index, last, 1)
        return Extent(start, stop - start + 1, frames.get(start))

    @staticmethod
    def _reach(frames: dict[int, int], index: int, limit: int, step: int) -> int:
        """Return how far the extent of page *index* goes that way, within a block."""
        pfn = frames.get(index)
        at = index + step
        while at != limit:
            wanted = None if pfn is None else pfn + at - index
            if frames.get(at) != wanted:
                break
            at += step
        return at - step

    def _give(self, mapping: AddressSpace, index: int) -> None:
        """Give zeroed frames to a hole: a whole block if all of it is one."""
        inode = mapping.host
        frames = self.frames[inode]
        nr = self._pgtable.hpage_pmd_nr
        first = index & -nr
        inside = first + nr <= self._kernel.filemap.pages_in_file(inode)
        if inside and not any(at in frames for at in range(first, first + nr)):
            pfn = self._kernel.pmem.alloc(self._pgtable.hpage_pmd_order)
            frames.update((first + n, pfn + n) for n in range(nr))
        else:
            frames[index] = self._kernel.pmem.alloc(0)

    def associate(self, mapping: AddressSpace, index: int, order: int) -> Folio:
        """Return the pages of a place of the file as one folio."""
        pfn = self.frames[mapping.host][index]
        folio = self._kernel.page_alloc.folio_of(pfn)
        if folio.order != order:
            folio = self._kernel.page_alloc.device_folio(pfn, order)
        folio.mapping = mapping
        folio.index = index
        return folio


class Pmem:
    """The file system; `create` makes its files, which any process may then open."""

    __slots__ = ("_files", "_kernel", "_pages")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._files = PmemFiles(kernel)
        self._pages = AddressSpaceOperations()

    def create(self, name: str, size: int) -> Inode:
        """Make a file that is one hole of *size* bytes, and give it a name."""
        table = self._kernel.file_table
        if name in table.names:
            raise InputError(f"there is a file {name!r} already")
        inode = table.new_inode(name, self._files, self._pages)
        inode.size = size
        inode.nlink += 1
        table.names[name] = inode
        self._files.frames[inode] = {}
        return inode

    def alloc(self, order: int) -> int:
        """Return the first of 2**order zeroed frames in a row, which nobody maps."""
        folio = self._kernel.page_alloc.alloc_zeroed(order)
        if folio is None:
            raise InputError("persistent memory is full")
        for n in range(1 << order):
            self._kernel.page_alloc.device_folio(folio.pfn + n, 0)
        return folio.pfn

    def word(self, name: str, offset: int) -> int:
        """Return the word at byte *offset* of a file, as it lasts; 0 in a hole."""
        inode = self._kernel.file_table.names[name]
        shift = self._kernel.pgtable.page_shift
        pfn = self._files.frames[inode].get(offset >> shift)
        if pfn is None:
            return 0
        in_page = offset & ((1 << shift) - 1)
        return self._kernel.machine.memory.read((pfn << shift) + in_page)
