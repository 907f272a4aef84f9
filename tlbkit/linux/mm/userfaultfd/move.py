"""One MOVE, from its checks to its last byte: the outer half."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.errors import TlbkitError
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_none,
)
from tlbkit.linux.include.linux.mm import (
    VM_ACCESS_FLAGS,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SHADOW_STACK,
    VM_SHARED,
    VM_WRITE,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EBUSY,
    EEXIST,
    EINTR,
    EINVAL,
    ENOENT,
    ENOMEM,
)
from tlbkit.linux.include.uapi.linux.userfaultfd import UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES
from tlbkit.linux.mm.userfaultfd.held import Move
from tlbkit.linux.mm.userfaultfd.run import UffdRun

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import UserfaultfdCtx
    from tlbkit.linux.include.linux.mm_types import VmArea

_TRIES_BEFORE_GIVING_UP: Final = 64

_NOT_MOVABLE: Final = VM_PFNMAP | VM_IO | VM_HUGETLB | VM_MIXEDMAP | VM_SHADOW_STACK


class MoveLivelockError(TlbkitError):
    """A move tries the same page for ever, though nothing changes between two tries."""

    def __init__(self, cpu: int, address: int) -> None:
        super().__init__(
            f"CPU {cpu}: UFFDIO_MOVE has tried {_TRIES_BEFORE_GIVING_UP} times to move "
            f"the page at {address:#x} and would go on; the call never returns"
        )
        self.cpu = cpu
        self.address = address


class UffdMove(UffdRun):
    """Moving pages on behalf of user space."""

    __slots__ = ()

    def move_pages(
        self,
        ctx: UserfaultfdCtx,
        dst_start: int,
        src_start: int,
        length: int,
        mode: int,
    ) -> int:
        """Move private anonymous pages within one address space, without copying.

        Args:
            ctx: Who watches the destination.
            dst_start: Page-aligned; nothing may be there.
            src_start: Page-aligned; pages there must belong to this process alone.
            length: In bytes, of pages.
            mode: The ``UFFDIO_MOVE_MODE_`` bits.

        Returns:
            Bytes moved, or a negative error number if there are none; never 0. Who gets
            fewer bytes than *length* learns the reason by asking for the rest.
        """
        locked = self.uffd_move_lock(ctx.mm, dst_start, src_start)
        if isinstance(locked, int):
            return locked
        dst_vma, src_vma = locked
        ctx.map_changing_lock.down_read()
        try:
            if self._machine.sees("mmap_changing", ctx.mmap_changing):
                return -EAGAIN
            if src_vma.flags & VM_SHARED or src_start + length > src_vma.end:
                return -EINVAL
            if dst_vma.flags & VM_SHARED or dst_start + length > dst_vma.end:
                return -EINVAL
            error = self.validate_move_areas(ctx, src_vma, dst_vma)
            if error:
                return error
            return self.move_pages_loop(
                Move(
                    ctx.mm,
                    src_vma,
                    dst_vma,
                    src_start,
                    dst_start,
                    src_start + length,
                    bool(mode & UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES),
                )
            )
        finally:
            ctx.map_changing_lock.up_read()
            self.uffd_move_unlock(dst_vma, src_vma)

    @staticmethod
    def validate_move_areas(
        ctx: UserfaultfdCtx, src_vma: VmArea, dst_vma: VmArea
    ) -> int:
        """Return ``-EINVAL`` unless pages of one area may be pages of the other."""
        differ = src_vma.flags ^ dst_vma.flags
        if differ & VM_ACCESS_FLAGS or src_vma.page_prot != dst_vma.page_prot:
            return -EINVAL
        if differ & VM_LOCKED or not src_vma.flags & VM_WRITE:
            return -EINVAL
        if (src_vma.flags | dst_vma.flags) & _NOT_MOVABLE:
            return -EINVAL
        if dst_vma.uffd is not ctx:
            return -EINVAL
        if not src_vma.anonymous or not dst_vma.anonymous:
            return -EINVAL
        return 0

    def move_pages_loop(self, move: Move) -> int:
        """Move page by page, run by run or block by block: the loop of move_pages().

        ``-EAGAIN`` from a step means that something changed under it: it is repeated.
        """
        moved = 0
        error = 0
        while move.src_addr < move.src_end:
            failed = self.move_prepare(move)
            if failed:
                error = failed
                break
            step = 0
            if move.huge:
                error = self.move_block(move)
                step = self._pgtable.pmd_size
            else:
                result = self.move_pages_ptes(move, move.src_end - move.src_addr)
                if result < 0:
                    error = result
                else:
                    error = 0
                    step = result
            if self._kernel.sched.fatal_signal_pending(move.mm):
                if error in {0, -EAGAIN}:
                    error = -EINTR
                break
            if error == -EAGAIN:
                self.move_again(move)
                continue
            if error:
                break
            self.move_on(move, step)
            moved += step
        return moved or error

    def move_prepare(self, move: Move) -> int:
        """Find or make the tables of the next page; 0 or a negative error number.

        A block that cannot move as one is split. One that can is locked, and
        ``move.huge`` says so.
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        while True:
            src_pmd = pgtable.find_pmd(move.mm, move.src_addr)
            if src_pmd is None:
                if not move.holes:
                    return -ENOENT
                src_pmd = memory.pmd_alloc(move.mm, move.src_addr)
                if src_pmd is None:
                    return -ENOMEM
            dst_pmd = memory.pmd_alloc(move.mm, move.dst_addr)
            if dst_pmd is None:
                return -ENOMEM
            move.src_pmd, move.dst_pmd = src_pmd, dst_pmd
            move.dst_pmdval = pgtable.read(dst_pmd)
            if pmd_trans_huge(move.dst_pmdval):
                return -EEXIST
            ptl = self._kernel.huge_memory.pmd_trans_huge_lock(src_pmd, move.src_vma)
            move.huge = ptl is not None
            src_pmdval = pgtable.read(src_pmd)
            if ptl is None:
                break
            if not self.move_splits_huge_pmd(move) and pte_none(move.dst_pmdval):
                return 0
            shared = self.block_is_shared(src_pmdval)
            ptl.release()
            if shared:
                return -EBUSY
            self._kernel.huge_memory.split_huge_pmd(
                move.src_vma, src_pmd, move.src_addr
            )
        if pte_none(src_pmdval):
            if not move.holes:
                return -ENOENT
            if not memory.pte_alloc(move.mm, src_pmd):
                return -ENOMEM
        return 0 if memory.pte_alloc(move.mm, dst_pmd) else -ENOMEM

    def move_splits_huge_pmd(self, move: Move) -> bool:
        """Tell whether what is left of a move cannot take a block as one."""
        size = self._pgtable.pmd_size
        return bool(
            (move.src_addr | move.dst_addr) & (size - 1)
            or move.src_end - move.src_addr < size
        )

    def block_is_shared(self, pmd: int) -> bool:
        """Tell whether a block may be another process's too; zeros are nobody's."""
        if self._kernel.huge_memory.is_huge_zero_pmd(pmd):
            return False
        pfn = self._pgtable.pte_pfn(pmd)
        return not self._kernel.page_alloc.folio_of(pfn).page_exclusive(pfn)

    def move_block(self, move: Move) -> int:
        """Move the block that `move_prepare` has locked; 0 or an error number."""
        return self._kernel.huge_memory.move_pages_huge_pmd(
            move.mm,
            move.dst_pmd,
            move.src_pmd,
            move.dst_pmdval,
            move.dst_vma,
            move.src_vma,
            move.dst_addr,
            move.src_addr,
        )

    def move_again(self, move: Move) -> None:
        """Prepare to try the same page again.

        The kernel has no limit. Here nothing but another CPU could make the next try
        differ, so after many the loop is taken for endless.
        """
        move.tries += 1
        if move.tries >= _TRIES_BEFORE_GIVING_UP:
            raise MoveLivelockError(self._machine.running.number, move.src_addr)

    @staticmethod
    def move_on(move: Move, step: int) -> None:
        """Go on to what lies *step* bytes further, on either side."""
        move.src_addr += step
        move.dst_addr += step
        move.tries = 0
