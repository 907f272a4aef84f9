"""The address space of a new program: fs/exec.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.linux.mm import (
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_READ,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import VmArea

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel

_VM_STACK_FLAGS: Final = (
    VM_READ
    | VM_WRITE
    | VM_MAYREAD
    | VM_MAYWRITE
    | VM_MAYEXEC
    | VM_GROWSDOWN
    | VM_ACCOUNT
)
_VM_CODE_FLAGS: Final = VM_READ | VM_EXEC | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
_CODE_START: Final = 0x40_0000
_CODE_BYTES: Final = 64 << 10
_STACK_BYTES: Final = 132 << 10  # what a program has after it was started


class Exec:
    """Makes what a program starts with."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def new_mm(self) -> MmStruct | None:
        """Return an address space with nothing but a stack, or ``None`` without memory.

        Source: fs/exec.c, bprm_mm_init() and begin_new_exec()

        Deviates: a program's pages and its libraries are left out; its code and its
        stack stand for them where that matters: they share the upper tables of what is
        mapped later, so unmapping that does not free them.
        """
        mm = self._kernel.fork.mm_alloc()
        if mm is not None:
            self.setup_arg_pages(mm)
            self.elf_load(mm)
        return mm

    def elf_load(self, mm: MmStruct) -> None:
        """Map the code of a program that is linked to fixed addresses.

        Source: fs/binfmt_elf.c, elf_load()

        Deviates: it is no file's, and nothing of it is ever in memory.
        """
        pgtable = self._kernel.pgtable
        end = _CODE_START + _CODE_BYTES
        code = VmArea(
            mm, _CODE_START, end, _VM_CODE_FLAGS, 0, _CODE_START >> pgtable.page_shift
        )
        self._kernel.vma.vma_set_page_prot(code)
        self._kernel.vma.vma_insert(code)
        mm.total_vm += _CODE_BYTES >> pgtable.page_shift

    def setup_arg_pages(self, mm: MmStruct) -> None:
        """Put the stack at the top of the address space.

        Source: fs/exec.c, setup_arg_pages()
        """
        pgtable = self._kernel.pgtable
        size = -(-_STACK_BYTES // pgtable.page_size) * pgtable.page_size
        end = pgtable.task_size
        start = end - size
        stack = VmArea(mm, start, end, _VM_STACK_FLAGS, 0, start >> pgtable.page_shift)
        self._kernel.vma.vma_set_page_prot(stack)
        self._kernel.vma.vma_insert(stack)
        mm.total_vm += size >> pgtable.page_shift
