"""Files of huge pages: fs/hugetlbfs/inode.c.

Memory that is mapped with MAP_HUGETLB is a file of this kind without a name, and so is
what `memfd_create` returns with MFD_HUGETLB. Left out: mounts with their limits, and
fallocate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.linux.fs import (
    AddressSpaceOperations,
    FileOperations,
    Inode,
)
from tlbkit.linux.include.linux.hugetlb import Hstate, HugetlbFolio
from tlbkit.linux.include.linux.mm import VM_DONTEXPAND, VM_HUGETLB, VM_WRITE
from tlbkit.linux.include.linux.mm_types import PG_dirty
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_unlock
from tlbkit.linux.include.uapi.asm_generic.errno import EINVAL, ENOMEM
from tlbkit.linux.kernel.locking import RwSemaphore
from tlbkit.linux.mm.hugetlb.resv_map import ResvMap

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import File
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.kernel.kernel import Kernel

_EVERYTHING: Final = 1 << 62
"""A place behind every file."""


class HugetlbfsInode(Inode):
    """One file of huge pages: struct hugetlbfs_inode_info.

    ``mapping.pages`` has one item for each huge page, by its place in huge pages.

    Attributes:
        hstate: The size of its pages.
        resv_map: Places for which a page is promised, or in use.
        number: Tells it from others: i_ino.
    """

    __slots__ = ("hstate", "number", "resv_map")

    def __init__(
        self,
        name: str,
        fops: FileOperations,
        a_ops: AddressSpaceOperations,
        i_mmap_rwsem: RwSemaphore,
        hstate: Hstate,
        number: int,
    ) -> None:
        super().__init__(name, fops, a_ops, i_mmap_rwsem)
        self.hstate = hstate
        self.resv_map = ResvMap()
        self.number = number


class HugetlbfsPages(AddressSpaceOperations):
    """The pages of such files: hugetlbfs_aops. They never leave memory."""

    __slots__ = ()


class HugetlbfsFiles(FileOperations):
    """Open files of huge pages: hugetlbfs_file_operations."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def mmap(self, file: File, vma: VmArea) -> int:
        """Let an area map huge pages of the file."""
        return self._kernel.hugetlbfs.hugetlbfs_file_mmap(file, vma)

    def fsync(self, file: File, start: int, end: int) -> int:
        """Do nothing: there is nowhere to write to."""
        del file, start, end
        return 0

    def truncate(self, inode: Inode, size: int) -> int:
        """Give the file another size: whole huge pages."""
        assert isinstance(inode, HugetlbfsInode)
        return self._kernel.hugetlbfs.hugetlbfs_setattr_size(inode, size)

    def evict(self, inode: Inode) -> None:
        """Free all pages, and take all promises back."""
        assert isinstance(inode, HugetlbfsInode)
        self._kernel.hugetlbfs.remove_inode_hugepages(inode, 0)


class Hugetlbfs:
    """Makes files of huge pages, and takes pages out of them."""

    __slots__ = ("_files", "_kernel", "_machine", "_made", "_pages")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._files = HugetlbfsFiles(kernel)
        self._pages = HugetlbfsPages()
        self._made = 0

    def hugetlb_file_setup(self, name: str, length: int, hstate: Hstate) -> File:
        """Return a new open file of *length* bytes; nothing is promised for it yet."""
        table = self._kernel.file_table
        self._made += 1
        lock = RwSemaphore(self._machine, f"i_mmap_rwsem of {name}")
        inode = HugetlbfsInode(name, self._files, self._pages, lock, hstate, self._made)
        inode.size = length
        table.inodes.append(inode)
        return table.alloc_file(inode)

    def hugetlbfs_file_mmap(self, file: File, vma: VmArea) -> int:
        """Make an area map huge pages, and have them promised; 0 or an error number."""
        inode = file.inode
        assert isinstance(inode, HugetlbfsInode)
        h = inode.hstate
        shift = self._kernel.pgtable.page_shift
        vma.flags |= VM_HUGETLB | VM_DONTEXPAND
        vma.ops = self._kernel.hugetlb.vm_ops
        if vma.pgoff & ((1 << h.order) - 1):
            return -EINVAL
        first = vma.pgoff >> h.order
        last = first + (vma.end - vma.start >> h.shift)
        error = self._kernel.hugetlb.hugetlb_reserve_pages(
            inode, first, last, vma, vma.flags
        )
        if error:
            return -ENOMEM
        end = (vma.pgoff << shift) + vma.end - vma.start
        if vma.flags & VM_WRITE and inode.size < end:
            inode.size = end
        return 0

    def hugetlbfs_setattr_size(self, inode: HugetlbfsInode, size: int) -> int:
        """Give a file another size, in whole huge pages; 0 or ``-EINVAL``."""
        if size & (inode.hstate.size - 1):
            return -EINVAL
        if size < inode.size:
            self.hugetlb_vmtruncate(inode, size)
        inode.size = size
        return 0

    def hugetlb_vmtruncate(self, inode: HugetlbfsInode, offset: int) -> None:
        """Unmap and free what lies behind byte *offset*, private copies too."""
        inode.size = offset
        inode.mapping.i_mmap_rwsem.down_write()
        self.hugetlb_vmdelete_list(inode, offset)
        inode.mapping.i_mmap_rwsem.up_write()
        self.remove_inode_hugepages(inode, offset)

    def hugetlb_vmdelete_list(self, inode: HugetlbfsInode, offset: int) -> None:
        """Unmap what lies behind byte *offset*; i_mmap_rwsem is held for writing.

        An area whose faults hold its lock is left to `remove_inode_hugepages`.
        """
        hugetlb = self._kernel.hugetlb
        shift = self._kernel.pgtable.page_shift
        for vma in inode.mapping.i_mmap:
            if not hugetlb.hugetlb_vma_trylock_write(vma):
                continue
            start = max(vma.start, vma.start + offset - (vma.pgoff << shift))
            if start < vma.end:
                hugetlb.unmap_hugepage_range(vma, start, vma.end)
            hugetlb.hugetlb_vma_unlock_write(vma)

    def remove_inode_hugepages(self, inode: HugetlbfsInode, offset: int) -> None:
        """Take the pages behind byte *offset* out of a file, with their promises."""
        hugetlb = self._kernel.hugetlb
        first = offset >> inode.hstate.shift
        pages = inode.mapping.pages
        freed = 0
        for index in sorted(place for place in pages if place >= first):
            folio = pages[index]
            assert isinstance(folio, HugetlbFolio)
            mutex = hugetlb.fault_mutex(inode, index)
            with mutex:
                folio.refcount += 1
                folio_lock(self._machine, folio)
                if folio.mapcount:
                    self.hugetlb_unmap_file_folio(inode, index)
                self.hugetlb_delete_from_page_cache(folio)
                folio_unlock(self._machine, folio)
                self._kernel.swap.folio_put(folio)
            freed += 1
        hugetlb.hugetlb_unreserve_pages(inode, first, _EVERYTHING, freed)

    def hugetlb_unmap_file_folio(self, inode: HugetlbfsInode, index: int) -> None:
        """Unmap one locked page from every area; a fault mapped it meanwhile."""
        hugetlb = self._kernel.hugetlb
        h = inode.hstate
        inode.mapping.i_mmap_rwsem.down_write()
        for vma in inode.mapping.i_mmap:
            addr = vma.start + (index - (vma.pgoff >> h.order) << h.shift)
            if not vma.start <= addr < vma.end:
                continue
            ptep = self._kernel.hugetlbpage.huge_pte_offset(vma.mm, addr, h.size)
            if ptep is None or not hugetlb.hugetlb_vma_trylock_write(vma):
                continue
            hugetlb.unmap_hugepage_range(vma, addr, addr + h.size)
            hugetlb.hugetlb_vma_unlock_write(vma)
        inode.mapping.i_mmap_rwsem.up_write()

    def hugetlb_delete_from_page_cache(self, folio: HugetlbFolio) -> None:
        """Take a locked page out of its file."""
        folio.mapping.pages.pop(folio.index >> folio.order)
        folio.mapping = None
        folio.flags &= ~PG_dirty
        folio.refcount -= folio.nr_pages
