"""f025ca73decd: a page that moved makes UFFDIO_MOVE forget the error before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_none,
    pte_present,
)
from tlbkit.linux.include.linux.mm import VM_SHARED
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
from tlbkit.linux.mm.userfaultfd import Userfaultfd
from tlbkit.linux.mm.userfaultfd.move import validate_move_areas
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import UserfaultfdCtx


class UserfaultfdBefore(Userfaultfd):
    """Once a page had to be tried again, its success is taken for another failure.

    Source: mm/userfaultfd.c, v6.18.
    """

    __slots__ = ()

    def move_pages(
        self,
        ctx: UserfaultfdCtx,
        dst_start: int,
        src_start: int,
        length: int,
        mode: int,
    ) -> int:
        """Move pages; an error stays until another one takes its place.

        So after ``-EAGAIN`` the pages that move are not gone on from: the next try is
        for the same addresses, where nothing is left to move and something is already.

        Source: mm/userfaultfd.c, move_pages(), v6.18 to v7.2
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        huge_memory = self._kernel.huge_memory
        mm = ctx.mm
        found = self.uffd_move_lock(mm, dst_start, src_start)
        if isinstance(found, int):
            return found
        dst_vma, src_vma = found
        src_end = src_start + length
        src_addr, dst_addr = src_start, dst_start
        err = tries = moved = step_size = 0
        ctx.map_changing_lock.down_read()
        try:
            if self._machine.sees("mmap_changing", ctx.mmap_changing):
                return -EAGAIN
            if src_vma.flags & VM_SHARED or src_end > src_vma.end:
                return -EINVAL
            if dst_vma.flags & VM_SHARED or dst_start + length > dst_vma.end:
                return -EINVAL
            err = validate_move_areas(ctx, src_vma, dst_vma)
            if err:
                return err
            while src_addr < src_end:
                src_pmd = pgtable.find_pmd(mm, src_addr)
                if src_pmd is None:
                    if not mode & UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES:
                        err = -ENOENT
                        break
                    src_pmd = self.mm_alloc_pmd(mm, src_addr)
                    if src_pmd is None:
                        err = -ENOMEM
                        break
                dst_pmd = self.mm_alloc_pmd(mm, dst_addr)
                if dst_pmd is None:
                    err = -ENOMEM
                    break
                dst_pmdval = pgtable.read(dst_pmd)
                if pmd_trans_huge(dst_pmdval):
                    err = -EEXIST
                    break
                ptl = huge_memory.pmd_trans_huge_lock(src_pmd, src_vma)
                if ptl is not None:
                    if self.move_splits_huge_pmd(
                        dst_addr, src_addr, src_end
                    ) or not pte_none(dst_pmdval):
                        pmd = pgtable.read(src_pmd)
                        if pte_present(pmd) and not huge_memory.is_huge_zero_pmd(pmd):
                            pfn = pgtable.pmd_pfn(pmd)
                            folio = self._kernel.page_alloc.folio_of(pfn)
                            if not folio.page_exclusive(folio.pfn):
                                ptl.release()
                                err = -EBUSY
                                break
                        ptl.release()
                        huge_memory.split_huge_pmd(src_vma, src_pmd, src_addr)
                        continue
                    err = huge_memory.move_pages_huge_pmd(
                        mm,
                        dst_pmd,
                        src_pmd,
                        dst_pmdval,
                        dst_vma,
                        src_vma,
                        dst_addr,
                        src_addr,
                    )
                    step_size = pgtable.pmd_size
                else:
                    if pte_none(pgtable.read(src_pmd)):
                        if not mode & UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES:
                            err = -ENOENT
                            break
                        if not memory.pte_alloc(mm, src_pmd):
                            err = -ENOMEM
                            break
                    if not memory.pte_alloc(mm, dst_pmd):
                        err = -ENOMEM
                        break
                    ret = self.move_pages_ptes(
                        mm,
                        dst_pmd,
                        src_pmd,
                        dst_vma,
                        src_vma,
                        dst_addr,
                        src_addr,
                        src_end - src_addr,
                        mode,
                    )
                    if ret < 0:
                        err = ret
                    else:
                        step_size = ret
                if self._fatal_signal_pending():
                    if err in (0, -EAGAIN):
                        err = -EINTR
                    break
                if err == -EAGAIN:
                    tries = self.tried_in_vain(tries, src_addr)
                    continue
                if err:
                    break
                dst_addr += step_size
                src_addr += step_size
                moved += step_size
                tries = 0
        finally:
            ctx.map_changing_lock.up_read()
            self.uffd_move_unlock(dst_vma, src_vma)
        return moved or err


PATCH = Patch(
    commit="f025ca73decda1f895a4b80b961d3bc88825298a",
    subject="userfaultfd MOVE: clear the error of a try once a later try succeeds",
    series=series.LATER,
    kind=Kind.FIX,
    role=Role.LATER_FIX,
    author="",
    release="v7.3",
    touches={"mm/userfaultfd.c": ("move_pages",)},
    chapter="book/commits/userfaultfd-move.md",
    sources=(
        "mainline f025ca73decd, merged by 2026-09-05, after v7.2",
        "dfc17986c608 in v7.2.y, pushed 2026-09-11",
    ),
    needs={"50944692052b": "before it the loop assigned the error on every try"},
    repairs="50944692052b",
    reverts={"userfaultfd": UserfaultfdBefore},
    note=(
        "Known by its title and its place in the logs; its text was not read. That "
        "50944692052b is at fault follows from reading both versions of the loop. The "
        "release is the one that was open when it was merged."
    ),
)
