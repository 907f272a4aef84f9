"""50944692052b: UFFDIO_MOVE clears a run of pages and flushes them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_none, pte_present
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EBUSY,
    EEXIST,
    EINTR,
    ENOENT,
)
from tlbkit.linux.mm.userfaultfd import (
    HeldFolio,
    Userfaultfd,
    double_pt_lock,
    double_pt_unlock,
)
from tlbkit.patches import series
from tlbkit.patches.patch import Figure, Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.mm.userfaultfd import Move, PtePair

_CHANGELOG = "changelog of 50944692052b"
_ANDROID = "userfaultfd garbage collection on an arm64 Android device"


class UserfaultfdBefore(Userfaultfd):
    """Pages move one by one, each with its own locks, notice to devices, and flush.

    Source: mm/userfaultfd.c, v6.17.
    """

    __slots__ = ()

    def move_pages_loop(self, move: Move) -> int:
        """Move page by page; every try says anew how it went."""
        moved = 0
        error = 0
        while move.src_addr < move.src_end:
            error = self.move_prepare(move)
            if error:
                break
            if move.huge:
                error = self.move_block(move)
                step = self._pgtable.pmd_size
            else:
                error = self.move_pages_pte(move)
                step = self._pgtable.page_size
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

    def move_pages_pte(self, move: Move) -> int:
        """Move the next page; 0 or a negative error number."""
        held = HeldFolio(self._kernel)
        notifier = self._kernel.mmu_notifier
        end = move.src_addr + self._pgtable.page_size
        with notifier.invalidate_range(move.mm, "CLEAR", move.src_addr, end):
            try:
                while True:
                    pair = self.map_ptes(move)
                    if pair is None:
                        return -EAGAIN
                    if not pte_none(pair.orig_dst_pte):
                        return -EEXIST
                    if pte_none(pair.orig_src_pte):
                        return 0 if move.holes else -ENOENT
                    if held.folio is not None and held.pte != pair.orig_src_pte:
                        return -EAGAIN
                    if not pte_present(pair.orig_src_pte):
                        result = self.move_nonpresent_pte(move, pair, held)
                        if result is None:
                            continue
                        return min(result, 0)
                    if self.is_zero_pfn(pair.orig_src_pte):
                        return min(self.move_zeropage_pte(move, pair), 0)
                    error = self.hold_folio(move, pair, held)
                    if error == 0:
                        return self.move_present_pte(move, pair, held)
                    if error is not None:
                        return error
            finally:
                held.release()

    def move_present_pte(self, move: Move, pair: PtePair, held: HeldFolio) -> int:
        """Move one present page, whose old address is flushed before it has a new one.

        Returns:
            0 or a negative error number.
        """
        pgtable = self._pgtable
        folio = held.folio
        assert folio is not None
        double_pt_lock(pair.dst_ptl, pair.src_ptl)
        error = self.check_present_pte(pair, folio)
        if not error:
            pte = self._kernel.pgtable_generic.ptep_clear_flush(
                move.src_vma, move.src_addr, pair.src_pte
            )
            if folio.maybe_dma_pinned():
                # Somebody was faster, without a lock: put it back and give up.
                pgtable.set_pte(pair.src_pte, pte)
                error = -EBUSY
            else:
                self.move_folio(move.dst_vma, move.dst_addr, folio)
                moved = self.moved_pte(move.dst_vma, folio, pte)
                pgtable.set_pte(pair.dst_pte, moved)
        double_pt_unlock(pair.dst_ptl, pair.src_ptl)
        return error


PATCH = Patch(
    commit="50944692052b1e76fd211f4da0798ab19d7fc276",
    subject="userfaultfd MOVE: one TLB flush for each run of present pages",
    series=series.MOVE,
    kind=Kind.PERFORMANCE,
    role=Role.PULL_REQUEST,
    author="Lokesh Gidra",
    release="v6.18",
    touches={
        "mm/userfaultfd.c": (
            "check_ptes_for_batched_move",
            "move_present_ptes",
            "move_swap_pte",
            "move_zeropage_pte",
            "move_pages_ptes",
            "move_pages",
        ),
    },
    chapter="book/commits/userfaultfd-move.md",
    sources=(
        "mainline 50944692052b",
        "Message-ID 20250816191123.3601561-1-lokeshgidra@google.com (v6)",
    ),
    figures=(
        Figure(
            name="flush share before",
            value=40,
            unit="%",
            what=f"of move_pages_pte() spent in ptep_clear_flush(), before; {_ANDROID}",
            source=_CHANGELOG,
            qualifier="over",
        ),
        Figure(
            name="lookup share before",
            value=20,
            unit="%",
            what=f"of move_pages_pte() spent in vm_normal_folio(), before; {_ANDROID}",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="lookup share after",
            value=70,
            unit="%",
            what=f"of the page mover spent in vm_normal_folio(), after; {_ANDROID}",
            source=_CHANGELOG,
            qualifier="over",
        ),
        Figure(
            name="own share after",
            value=20,
            unit="%",
            what=f"of the page mover spent in itself and its flush, after; {_ANDROID}",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="benchmark before",
            value=45,
            unit="min",
            what="garbage-collection benchmark on cuttlefish, an x86_64 guest, before",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="benchmark after",
            value=20,
            unit="min",
            what="the same benchmark on the same x86_64 guest, after",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="compaction time saved",
            value=50,
            unit="%",
            what="less time to compact in system_server, on an arm64 Android device",
            source=_CHANGELOG,
            qualifier="over",
        ),
    ),
    reverts={"userfaultfd": UserfaultfdBefore},
    note=(
        "move_present_pte() and move_pages_pte() became plural; the test for the next "
        "page is new. The same commit brought the mistake that f025ca73decd repairs."
    ),
)
