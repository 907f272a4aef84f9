"""What a MOVE knows and holds while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.pagemap import folio_unlock

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import AnonVma, Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.kernel.locking import SpinLock


@dataclass(slots=True)
class Move:
    """How far one UFFDIO_MOVE has come: the variables of move_pages().

    Attributes:
        mm: The address space, in which both areas are.
        src_vma, dst_vma: The areas, locked for reading; they may be one.
        src_addr, dst_addr: The next page on either side.
        src_end: Where the source range ends.
        holes: Whether pages that are not there count as moved.
        src_pmd, dst_pmd: Where the PMD entries of the next page stand.
        dst_pmdval: What the destination's said.
        huge: Whether the source's is a block, which is locked then.
        tries: How often this page was tried already.
    """

    mm: MmStruct
    src_vma: VmArea
    dst_vma: VmArea
    src_addr: int
    dst_addr: int
    src_end: int
    holes: bool
    src_pmd: int = 0
    dst_pmd: int = 0
    dst_pmdval: int = 0
    huge: bool = False
    tries: int = 0


@dataclass(frozen=True, slots=True)
class PtePair:
    """The two entries of one page's move, as they were when they were read.

    Attributes:
        src_pte, dst_pte: Where they stand.
        orig_src_pte, orig_dst_pte: What they said.
        dst_pmd: Where the entry stands that points to the destination's table.
        dst_pmdval: What it said.
        src_ptl, dst_ptl: The locks of the two tables, which may be one.
    """

    src_pte: int
    dst_pte: int
    orig_src_pte: int
    orig_dst_pte: int
    dst_pmd: int
    dst_pmdval: int
    src_ptl: SpinLock
    dst_ptl: SpinLock


class HeldFolio:
    """A source page that is held and locked while its move is prepared.

    Attributes:
        folio: The page, or ``None``.
        pte: What its entry said when it was taken.
        referenced: Whether a reference is held besides the lock.
        anon_vma: Its anon_vma, referenced and locked for writing, or ``None``.
    """

    __slots__ = ("_kernel", "anon_vma", "folio", "pte", "referenced")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.folio: Folio | None = None
        self.pte = 0
        self.referenced = False
        self.anon_vma: AnonVma | None = None

    def take(self, folio: Folio, pte: int) -> None:
        """Note that *folio* is held; it has its reference and its lock already."""
        self.folio = folio
        self.pte = pte
        self.referenced = True

    def lock(self, folio: Folio) -> None:
        """Note that *folio* is locked, and that its page table keeps it."""
        self.folio = folio
        self.referenced = False

    def drop_reference(self) -> None:
        """Let go of the reference and keep the lock: the page table holds one too."""
        assert self.folio is not None
        self.referenced = False
        self._kernel.swap.folio_put(self.folio)

    def release_folio(self) -> None:
        """Let go of the page."""
        folio, self.folio = self.folio, None
        if folio is not None:
            folio_unlock(self._kernel.machine, folio)
            if self.referenced:
                self._kernel.swap.folio_put(folio)

    def release(self) -> None:
        """Let go of everything."""
        if self.anon_vma is not None:
            self._kernel.rmap.anon_vma_unlock_write(self.anon_vma)
            self._kernel.rmap.put_anon_vma(self.anon_vma)
            self.anon_vma = None
        self.release_folio()


def double_pt_lock(ptl1: SpinLock, ptl2: SpinLock) -> None:
    """Take the locks of two tables, which may be one, the lower address first."""
    first, second = sorted((ptl1, ptl2), key=lambda ptl: ptl.address)
    first.acquire()
    if second is not first:
        second.acquire()


def double_pt_unlock(ptl1: SpinLock, ptl2: SpinLock) -> None:
    """Release what `double_pt_lock` took."""
    ptl1.release()
    if ptl2 is not ptl1:
        ptl2.release()
