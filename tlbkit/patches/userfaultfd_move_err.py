"""f025ca73decd: a page that moved makes UFFDIO_MOVE forget the error before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN, EINTR
from tlbkit.linux.mm.userfaultfd import Userfaultfd
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.mm.userfaultfd import Move


class UserfaultfdBefore(Userfaultfd):
    """Once a page had to be tried again, its success is taken for another failure.

    Source: mm/userfaultfd.c, v6.18.
    """

    __slots__ = ()

    def move_pages_loop(self, move: Move) -> int:
        """Move what there is; an error stays until another one takes its place.

        So after ``-EAGAIN`` the pages that move are not gone on from: the next try is
        for the same addresses, where nothing is left to move and something is already.
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
