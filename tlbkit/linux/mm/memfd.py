"""Shared memory that is known by a descriptor only: mm/memfd.c.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.uapi.asm_generic.errno import EINVAL
from tlbkit.linux.mm.mmap import (
    MAP_HUGE_1GB,
    MAP_HUGE_2MB,
    MAP_HUGE_32MB,
    MAP_HUGE_64KB,
    MAP_HUGE_MASK,
    MAP_HUGE_SHIFT,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import File
    from tlbkit.linux.kernel.kernel import Kernel

MFD_NAME_MAX_LEN: Final = 249
MFD_CLOEXEC: Final = 0x1
MFD_ALLOW_SEALING: Final = 0x2
MFD_HUGETLB: Final = 0x4
MFD_NOEXEC_SEAL: Final = 0x8
MFD_EXEC: Final = 0x10
MFD_ALL_FLAGS: Final = (
    MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_NOEXEC_SEAL | MFD_EXEC
)
MFD_HUGE_64KB: Final = MAP_HUGE_64KB
MFD_HUGE_2MB: Final = MAP_HUGE_2MB
MFD_HUGE_32MB: Final = MAP_HUGE_32MB
MFD_HUGE_1GB: Final = MAP_HUGE_1GB
FLAGS: Final = {
    "CLOEXEC": MFD_CLOEXEC,
    "ALLOW_SEALING": MFD_ALLOW_SEALING,
    "NOEXEC_SEAL": MFD_NOEXEC_SEAL,
    "EXEC": MFD_EXEC,
    "HUGETLB": MFD_HUGETLB,
    "HUGE_64KB": MFD_HUGE_64KB,
    "HUGE_2MB": MFD_HUGE_2MB,
    "HUGE_32MB": MFD_HUGE_32MB,
    "HUGE_1GB": MFD_HUGE_1GB,
}
"""The flags that `Thread.memfd_create` takes by name: their names behind ``MFD_``."""


class Memfd:
    """The system call; seals are left out."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def memfd_create(self, name: str, flags: int = 0) -> File | int:
        """Return an open, empty file of shared memory, or a negative error number.

        Source: mm/memfd.c, memfd_create(), sanitize_flags() and memfd_alloc_file()
        Deviates: nothing can be sealed or executed, so the flags that speak of it only
        have to fit together; and no descriptor outlives a program.
        """
        known = MFD_ALL_FLAGS
        if flags & MFD_HUGETLB:
            known |= MAP_HUGE_MASK << MAP_HUGE_SHIFT
        if flags & ~known:
            return -EINVAL
        if flags & MFD_EXEC and flags & MFD_NOEXEC_SEAL:
            return -EINVAL
        if len(name.encode()) > MFD_NAME_MAX_LEN:
            return -EINVAL
        if flags & MFD_HUGETLB:
            h = self._kernel.hugetlb.hstate_sizelog(
                flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK
            )
            if h is None:
                return -EINVAL
            return self._kernel.hugetlbfs.hugetlb_file_setup(f"memfd:{name}", 0, h)
        return self._kernel.shmem.shmem_file_setup(f"memfd:{name}", 0)
