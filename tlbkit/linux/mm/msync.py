"""Writing back what was written through a mapping: mm/msync.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.linux.mm import VM_LOCKED, VM_SHARED
from tlbkit.linux.include.uapi.asm_generic.errno import EBUSY, EINVAL, ENOMEM

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel

MS_ASYNC: Final = 1
MS_INVALIDATE: Final = 2
MS_SYNC: Final = 4


class Msync:
    """The system call."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def msync(self, mm: MmStruct, start: int, length: int, flags: int) -> int:
        """Write back the files that [start, start + length) maps shared.

        Only MS_SYNC does anything; the range is the file's, not only what is mapped of
        it by this process. Addresses that nothing is mapped at are stepped over;
        ``-ENOMEM`` tells of them in the end.

        Source: mm/msync.c, SYSCALL_DEFINE3(msync)
        """
        pgtable = self._kernel.pgtable
        if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or start & ~pgtable.page_mask:
            return -EINVAL
        if flags & MS_ASYNC and flags & MS_SYNC:
            return -EINVAL
        end = start + pgtable.page_align(length)
        if end >> 64:
            return -ENOMEM
        unmapped = 0
        if end == start:
            return 0
        mm.mmap_lock.down_read()
        while start < end:
            vma = self._kernel.vma.find_vma(mm, start)
            if vma is None:
                unmapped = -ENOMEM
                break
            if start < vma.start:
                unmapped = -ENOMEM
                if flags == MS_ASYNC or vma.start >= end:
                    break
                start = vma.start
            if flags & MS_INVALIDATE and vma.flags & VM_LOCKED:
                unmapped = -EBUSY
                break
            file = vma.file
            first = start - vma.start + (vma.pgoff << pgtable.page_shift)
            last = first + min(end, vma.end) - start
            start = vma.end
            if flags & MS_SYNC and file is not None and vma.flags & VM_SHARED:
                self._kernel.file_table.get_file(file)
                mm.mmap_lock.up_read()
                error = file.ops.fsync(file, first, last)
                self._kernel.file_table.fput(file)
                if error:
                    return error
                mm.mmap_lock.down_read()
        mm.mmap_lock.up_read()
        return unmapped
