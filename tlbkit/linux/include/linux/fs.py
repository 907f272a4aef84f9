"""The objects of files: what is opened, what it holds, and who looks after it.

A `File` is what was opened, an `Inode` what the name stands for, and its `AddressSpace`
the pages of it that are in memory, with the areas that map them.

Source: include/linux/fs.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.linux.mm_types import PG_dirty
from tlbkit.linux.include.uapi.asm_generic.errno import EINVAL, ENODEV, EOPNOTSUPP

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.kernel.locking import RwSemaphore

FMODE_READ: Final = 0x1
FMODE_WRITE: Final = 0x2


class AddressSpaceOperations:
    """What a file system does for the pages of its files: address_space_operations.

    Each method here is what an owner gets who does not have it.

    Attributes:
        can_writeback: Dirty pages are written back: mapping_can_writeback().
        swap_backed: Pages have no place but swap to go to, as those of shmem.
    """

    __slots__ = ()
    can_writeback: bool = False
    swap_backed: bool = False

    def read_folio(self, mapping: AddressSpace, folio: Folio) -> int:
        """Fill a folio with what the file holds; 0 or a negative error number.

        Source: include/linux/fs.h, read_folio() of struct address_space_operations
        """
        del mapping, folio
        return -EINVAL

    def writepage(self, mapping: AddressSpace, folio: Folio) -> int:
        """Store what a folio holds where it lasts; 0 or a negative error number.

        Source: none; it stands for a file system's way to its device.
        """
        del mapping, folio
        return 0

    def dirty_folio(self, mapping: AddressSpace, folio: Folio) -> bool:
        """Note that a folio was written; tell whether that is new.

        Source: include/linux/fs.h, dirty_folio() of struct address_space_operations
        """
        del mapping
        new = not folio.flags & PG_dirty
        folio.flags |= PG_dirty
        return new


class AddressSpace:
    """The pages of one file that are in memory: struct address_space.

    Attributes:
        host: What they belong to.
        ops: Who looks after them: a_ops.
        pages: The folio of each page of the file that is in memory, by its place in
            the file, in pages. A folio of several pages stands at each of its places.
        folio_order: log2 of the pages that a new folio has, where there is room; a file
            system with large folios chooses by how the file is read.
        i_mmap: The areas that map it, in the order in which they began to. The kernel
            has a tree by place in the file; here all are looked through.
        i_mmap_rwsem: Protects them, and is held by who walks them.
    """

    __slots__ = ("folio_order", "host", "i_mmap", "i_mmap_rwsem", "ops", "pages")

    def __init__(
        self, host: Inode, ops: AddressSpaceOperations, i_mmap_rwsem: RwSemaphore
    ) -> None:
        self.host = host
        self.ops = ops
        self.pages: dict[int, Folio] = {}
        self.folio_order = 0
        self.i_mmap: dict[VmArea, None] = {}
        self.i_mmap_rwsem = i_mmap_rwsem

    @property
    def nrpages(self) -> int:
        """How many of its pages are in memory.

        Source: none; the kernel counts them, and here they are counted when asked for.
        """
        return len(self.pages)

    def folios(self, first: int, last: int) -> list[Folio]:
        """Return the folios with a page from *first* to *last*, last included.

        Source: none; it is a look into the tree of a file, which is a dictionary here.
        """
        if last - first < len(self.pages):
            places = [n for n in range(first, last + 1) if n in self.pages]
        else:
            places = sorted(n for n in self.pages if first <= n <= last)
        return list(dict.fromkeys(self.pages[n] for n in places))


class Inode:
    """A file itself, however often it is open: struct inode.

    Attributes:
        name: What messages call it.
        size: In bytes.
        mapping: Its pages.
        fops: Who opens it: i_fop.
        nlink: Names that it has; without one it goes with its last user.
        count: Who uses it now: each `File`.
    """

    __slots__ = ("count", "fops", "mapping", "name", "nlink", "size")

    def __init__(
        self,
        name: str,
        fops: FileOperations,
        a_ops: AddressSpaceOperations,
        i_mmap_rwsem: RwSemaphore,
    ) -> None:
        self.name = name
        self.size = 0
        self.fops = fops
        self.mapping = AddressSpace(self, a_ops, i_mmap_rwsem)
        self.nlink = 0
        self.count = 0

    def __repr__(self) -> str:
        """Name it."""
        return f"<Inode {self.name} size={self.size} pages={self.mapping.nrpages}>"


class File:
    """A file as it was opened: struct file.

    Attributes:
        inode: What was opened.
        mode: ``FMODE_READ`` and ``FMODE_WRITE``.
        ops: Who looks after it: f_op.
        count: Descriptors and areas that hold it; with the last it is released.
    """

    __slots__ = ("count", "inode", "mode", "ops")

    def __init__(self, inode: Inode, mode: int) -> None:
        self.inode = inode
        self.mode = mode
        self.ops = inode.fops
        self.count = 1

    @property
    def mapping(self) -> AddressSpace:
        """The pages of it that are in memory: f_mapping.

        Source: none; the kernel keeps it in the file as well.
        """
        return self.inode.mapping

    def __repr__(self) -> str:
        """Name it."""
        return f"<File {self.inode.name} count={self.count}>"


class FileOperations:
    """What a file system does for an open file: struct file_operations.

    Each method here is what a file gets whose owner does not have it.

    Attributes:
        is_chrdev: Its inodes are character devices: S_ISCHR().
    """

    __slots__ = ()
    is_chrdev: bool = False

    def mmap(self, file: File, vma: VmArea) -> int:
        """Make a new area map the file: give it its ``ops``; 0 or an error number.

        Source: include/linux/fs.h, mmap() of struct file_operations
        """
        del file, vma
        return -ENODEV

    def fsync(self, file: File, start: int, end: int) -> int:
        """Store the bytes [start, end) where they last; 0 or an error number.

        Source: include/linux/fs.h, fsync() of struct file_operations
        """
        del file, start, end
        return -EINVAL

    def read_iter(self, file: File, offset: int) -> int | None:
        """Return a 64-bit word, ``None`` at the end, or a negative error number.

        Source: include/linux/fs.h, read_iter() of struct file_operations
        """
        del file, offset
        return -EINVAL

    def write_iter(self, file: File, offset: int, value: int) -> int:
        """Store a 64-bit word; 0 or a negative error number.

        Source: include/linux/fs.h, write_iter() of struct file_operations
        """
        del file, offset, value
        return -EINVAL

    def fallocate(self, file: File, mode: int, offset: int, length: int) -> int:
        """Change what stands for a range of bytes; 0 or a negative error number.

        Source: include/linux/fs.h, fallocate() of struct file_operations
        """
        del file, mode, offset, length
        return -EOPNOTSUPP

    def truncate(self, inode: Inode, size: int) -> int:
        """Give the file another size, in bytes; 0 or a negative error number.

        Source: include/linux/fs.h, setattr() of struct inode_operations
        """
        del inode, size
        return -EINVAL

    def evict(self, inode: Inode) -> None:
        """Give up all that the file had: it has no name and no user any more.

        Source: include/linux/fs.h, evict_inode() of struct super_operations
        """


def vma_is_fsdax(vma: VmArea) -> bool:
    """Tell whether a VMA maps a file of a file system on persistent memory.

    Source: include/linux/fs.h, vma_is_fsdax()
    """
    return vma.file is not None and vma.dax and not vma.file.inode.fops.is_chrdev
