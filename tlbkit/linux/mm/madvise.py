"""What a process says of its memory: mm/madvise.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tlbkit.errors import InputError
from tlbkit.linux.include.linux.mm import VM_HUGEPAGE, VM_NOHUGEPAGE
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN, EINVAL, ENOMEM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class Behavior(NamedTuple):
    """What one piece of advice does.

    Attributes:
        lock: How the mmap lock is held. Who holds it for reading may release it and
            take it again, and then the next area is looked up anew.
        apply: Does it to a part of one area; returns 0 or a negative error number.
    """

    lock: Literal["read", "write"]
    apply: Callable[[VmArea, int, int], int]


class Madvise:
    """The system call, and what it does for each piece of advice."""

    __slots__ = ("_behaviors", "_kernel", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable
        self._behaviors: Final[Mapping[str, Behavior]] = {
            "hugepage": Behavior("write", self.madvise_hugepage),
            "nohugepage": Behavior("write", self.madvise_nohugepage),
            "collapse": Behavior("read", kernel.khugepaged.madvise_collapse),
        }

    def do_madvise(self, mm: MmStruct, start: int, length: int, advice: str) -> int:
        """Follow *advice* for [start, start + length); 0 or a negative error number.

        Addresses that nothing is mapped at are stepped over; ``-ENOMEM`` tells of them
        in the end.

        Args:
            mm: The address space.
            start: Page-aligned, or ``-EINVAL``.
            length: In bytes, rounded up to pages.
            advice: A name, lower case and without ``MADV_``.

        Errors:
            InputError: There is no such advice here.
        """
        behavior = self._behaviors.get(advice)
        if behavior is None:
            known = ", ".join(self._behaviors)
            raise InputError(f"advice {advice!r}: known are {known}")
        pgtable = self._pgtable
        if start & ~pgtable.page_mask or length < 0:
            return -EINVAL
        end = start + -(-length // pgtable.page_size) * pgtable.page_size
        if end > 1 << 64:
            return -EINVAL
        if start == end:
            return 0
        lock = mm.mmap_lock
        (lock.down_write if behavior.lock == "write" else lock.down_read)()
        error = self.madvise_walk_vmas(mm, start, end, behavior.apply)
        (lock.up_write if behavior.lock == "write" else lock.up_read)()
        return error

    def madvise_walk_vmas(
        self,
        mm: MmStruct,
        start: int,
        end: int,
        apply: Callable[[VmArea, int, int], int],
    ) -> int:
        """Do something to every area of a range; the mmap lock is held."""
        unmapped = 0
        while start < end:
            vma = self._kernel.vma.find_vma(mm, start)
            if vma is None:
                return -ENOMEM
            if start < vma.start:
                unmapped = -ENOMEM
                start = vma.start
                continue
            until = min(vma.end, end)
            error = apply(vma, start, until)
            if error:
                return error
            start = until
        return unmapped

    def madvise_update_vma(self, vma: VmArea, start: int, end: int, flags: int) -> int:
        """Give a part of an area other flags; 0 or a negative error number."""
        if flags == vma.flags:
            return 0
        part = self._kernel.vma.vma_modify(vma, start, end, flags)
        if isinstance(part, int):
            return -EAGAIN  # this call's word for too little memory
        self._kernel.mmap_lock.vma_start_write(part)
        part.flags = flags
        return 0

    # -- the advice ------------------------------------------------------------------

    def madvise_hugepage(self, vma: VmArea, start: int, end: int) -> int:
        """Ask for blocks and large folios: MADV_HUGEPAGE."""
        flags = (vma.flags & ~VM_NOHUGEPAGE) | VM_HUGEPAGE
        return self.madvise_update_vma(vma, start, end, flags)

    def madvise_nohugepage(self, vma: VmArea, start: int, end: int) -> int:
        """Want none of them: MADV_NOHUGEPAGE."""
        flags = (vma.flags & ~VM_HUGEPAGE) | VM_NOHUGEPAGE
        return self.madvise_update_vma(vma, start, end, flags)
