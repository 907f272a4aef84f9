"""Shared memory that is known by a descriptor only: mm/memfd.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.uapi.asm_generic.errno import EINVAL

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import File
    from tlbkit.linux.kernel.kernel import Kernel

MFD_NAME_MAX_LEN: Final = 249


class Memfd:
    """The system call; seals and huge pages are left out."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def memfd_create(self, name: str) -> File | int:
        """Return an open, empty file of shared memory, or a negative error number."""
        if len(name.encode()) > MFD_NAME_MAX_LEN:
            return -EINVAL
        return self._kernel.shmem.shmem_file_setup(f"memfd:{name}", 0)
