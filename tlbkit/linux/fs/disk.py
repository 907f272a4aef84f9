"""An ordinary file system: its files last on a disk.

It stands for ext4 and its like, as far as mapped memory is concerned. A page is read in
when it is first used. The first write through a shared mapping is announced
(page_mkwrite), so that the file system knows of every dirty page before it is written.
Dirty pages are written back when somebody asks for it; there is no daemon that does so
after a while, there are no journals, and the disk is always fast enough.

Source: none; it stands for a file system and its device.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.fs import AddressSpaceOperations, FileOperations
from tlbkit.linux.include.uapi.linux.falloc import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import AddressSpace, File, Inode
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class DiskPages(AddressSpaceOperations):
    """Reads pages of files from the disk, and writes them there."""

    __slots__ = ("_kernel", "_memory", "blocks")
    can_writeback = True

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._memory = kernel.machine.memory
        self.blocks: dict[Inode, dict[int, array[int]]] = {}

    def read_folio(self, mapping: AddressSpace, folio: Folio) -> int:
        """Fill a folio; what was never written is zeros."""
        blocks = self.blocks[mapping.host]
        for page in range(folio.nr_pages):
            block = blocks.get(folio.index + page)
            if block is None:
                self._memory.clear_frame(folio.pfn + page)
            else:
                self._memory.frame(folio.pfn + page)[:] = block
        return 0

    def writepage(self, mapping: AddressSpace, folio: Folio) -> int:
        """Write all pages of a folio that lie within the file."""
        pages = self._kernel.filemap.pages_in_file(mapping.host)
        blocks = self.blocks[mapping.host]
        for page in range(folio.nr_pages):
            if folio.index + page < pages:
                frame = self._memory.frame(folio.pfn + page)
                blocks[folio.index + page] = array("Q", frame)
        return 0


class DiskFiles(FileOperations):
    """Open files on the disk."""

    __slots__ = ("_disk", "_kernel")

    def __init__(self, kernel: Kernel, disk: DiskPages) -> None:
        self._kernel = kernel
        self._disk = disk

    def mmap(self, file: File, vma: VmArea) -> int:
        """Make an area map the pages of the file."""
        return self._kernel.filemap.generic_file_mmap(file, vma)

    def read_iter(self, file: File, offset: int) -> int | None:
        """Return a word of the file."""
        return self._kernel.filemap.filemap_read(file, offset)

    def write_iter(self, file: File, offset: int, value: int) -> int:
        """Store a word, also beyond the end of the file."""
        return self._kernel.filemap.generic_perform_write(file, offset, value)

    def fsync(self, file: File, start: int, end: int) -> int:
        """Write back what is dirty in [start, end)."""
        return self._kernel.page_writeback.filemap_write_and_wait_range(
            file.mapping, start, end
        )

    def truncate(self, inode: Inode, size: int) -> int:
        """Give the file another size; what is cut off reads as zeros if it returns."""
        smaller = size < inode.size
        self._kernel.truncate.truncate_setsize(inode, size)
        if smaller:
            self._forget(inode)
        return 0

    def fallocate(self, file: File, mode: int, offset: int, length: int) -> int:
        """Punch a hole, whose blocks are given back, or make the file larger."""
        inode = file.inode
        if mode & FALLOC_FL_PUNCH_HOLE:
            end = min(offset + length, inode.size)
            if offset < end:
                self._punch(inode, offset, end)
        elif not mode & FALLOC_FL_KEEP_SIZE:
            inode.size = max(inode.size, offset + length)
        return 0

    def _punch(self, inode: Inode, offset: int, end: int) -> None:
        """Take the bytes [offset, end) out of memory and off the disk.

        What is dirty of pages that stay in part is written first.
        """
        self._kernel.page_writeback.filemap_write_and_wait_range(
            inode.mapping, offset, end
        )
        self._kernel.truncate.truncate_pagecache_range(inode, offset, end - 1)
        blocks = self._disk.blocks[inode]
        size = self._kernel.pgtable.page_size
        for index in range(offset // size, -(-end // size)):
            block = blocks.get(index)
            if block is None:
                continue
            begin = max(offset - index * size, 0)
            stop = min(end - index * size, size)
            if stop - begin == size:
                del blocks[index]
                continue
            kept = bytearray(block.tobytes())
            kept[begin:stop] = bytes(stop - begin)
            blocks[index] = array("Q", bytes(kept))

    def _forget(self, inode: Inode) -> None:
        """Give back the blocks behind the end, and clear the rest of the last one."""
        blocks = self._disk.blocks[inode]
        pages = self._kernel.filemap.pages_in_file(inode)
        for index in [index for index in blocks if index >= pages]:
            del blocks[index]
        rest = inode.size % self._kernel.pgtable.page_size
        last = blocks.get(pages - 1)
        if rest and last is not None:
            for word in range(-(-rest // 8), len(last)):
                last[word] = 0

    def evict(self, inode: Inode) -> None:
        """Give up pages and blocks."""
        self._kernel.truncate.truncate_inode_pages(inode.mapping, 0)
        del self._disk.blocks[inode]


class Disk:
    """The file system whose files `open` makes."""

    __slots__ = ("_files", "_kernel", "_pages")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pages = DiskPages(kernel)
        self._files = DiskFiles(kernel, self._pages)

    def create(self, name: str) -> Inode:
        """Return a new, empty file on the disk."""
        inode = self._kernel.file_table.new_inode(name, self._files, self._pages)
        self._pages.blocks[inode] = {}
        return inode

    def word(self, name: str, offset: int) -> int:
        """Return the word at byte *offset* of a file as it would survive a crash."""
        inode = self._kernel.file_table.names[name]
        size = self._kernel.pgtable.page_size
        block = self._pages.blocks[inode].get(offset // size)
        return 0 if block is None else block[offset % size // 8]
