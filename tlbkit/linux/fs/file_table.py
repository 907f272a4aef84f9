"""Open files and the inodes behind them: fs/file_table.c, fs/inode.c, fs/namei.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.fs import FMODE_READ, FMODE_WRITE, File, Inode
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EBADF,
    EFBIG,
    EINVAL,
    ENOENT,
    EOPNOTSUPP,
)
from tlbkit.linux.include.uapi.linux.falloc import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
)
from tlbkit.linux.kernel.locking import RwSemaphore

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import AddressSpaceOperations, FileOperations
    from tlbkit.linux.kernel.kernel import Kernel


class FileTable:
    """Opens files and lets go of them.

    Attributes:
        inodes: Every inode that there is, oldest first.
        names: Those that can be opened by name.
    """

    __slots__ = ("_kernel", "inodes", "names")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.inodes: list[Inode] = []
        self.names: dict[str, Inode] = {}

    def new_inode(
        self, name: str, fops: FileOperations, a_ops: AddressSpaceOperations
    ) -> Inode:
        """Return a new, empty file that has no name yet, and no user.

        Source: fs/inode.c, new_inode()
        """
        lock = RwSemaphore(self._kernel.machine, f"i_mmap_rwsem of {name}")
        inode = Inode(name, fops, a_ops, lock)
        self.inodes.append(inode)
        return inode

    def alloc_file(self, inode: Inode, mode: int = FMODE_READ | FMODE_WRITE) -> File:
        """Return *inode* opened, with one reference.

        Source: fs/file_table.c, alloc_file()
        """
        inode.count += 1
        return File(inode, mode)

    def do_open(self, name: str, mode: int, *, create: bool) -> File | int:
        """Open a file by name, and make it if need be; or a negative error number.

        Source: fs/namei.c, do_open()
        """
        inode = self.names.get(name)
        if inode is None:
            if not create:
                return -ENOENT
            inode = self._kernel.hugetlbfs.hugetlbfs_create(name)
            if inode is None:
                inode = self._kernel.disk.create(name)
            inode.nlink += 1
            self.names[name] = inode
        return self.alloc_file(inode, mode)

    def do_unlink(self, name: str) -> int:
        """Take a name away; with the last user, all of the file goes.

        Source: fs/namei.c, do_unlinkat()
        """
        inode = self.names.pop(name, None)
        if inode is None:
            return -ENOENT
        inode.nlink -= 1
        self._iput_final(inode)
        return 0

    def do_ftruncate(self, file: File, size: int) -> int:
        """Give an open file another size; 0 or a negative error number.

        Source: fs/open.c, do_ftruncate()
        """
        if size < 0 or not file.mode & FMODE_WRITE:
            return -EINVAL
        return file.ops.truncate(file.inode, size)

    @staticmethod
    def vfs_fallocate(file: File, mode: int, offset: int, length: int) -> int:
        """Ask a file system for a range of an open file; 0 or a negative error number.

        Source: fs/open.c, vfs_fallocate()
        Deviates: Only the modes that a file system of the model has are told apart;
        files have no limit of size but that of a signed number.
        """
        if offset < 0 or length <= 0:
            return -EINVAL
        if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE):
            return -EOPNOTSUPP
        if mode == FALLOC_FL_PUNCH_HOLE:
            return -EOPNOTSUPP  # a hole must keep the size
        if not file.mode & FMODE_WRITE:
            return -EBADF
        if offset + length >= 1 << 63:
            return -EFBIG
        return file.ops.fallocate(file, mode, offset, length)

    @staticmethod
    def get_file(file: File) -> File:
        """Take a reference to an open file.

        Source: include/linux/fs.h, get_file()
        """
        file.count += 1
        return file

    def fput(self, file: File) -> None:
        """Drop a reference to an open file, and close it with the last.

        Source: fs/file_table.c, fput()
        """
        file.count -= 1
        if not file.count:
            file.inode.count -= 1
            self._iput_final(file.inode)

    def _iput_final(self, inode: Inode) -> None:
        """Give up an inode that has neither name nor user."""
        if not inode.count and not inode.nlink:
            inode.fops.evict(inode)
            self.inodes.remove(inode)
