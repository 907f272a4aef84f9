"""The anon_vma of areas and folios: who may map a page of private memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import AnonVma
from tlbkit.linux.kernel.locking import RwSemaphore

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class TlbflushUnmapBatch:
    """Flushes that a task has started and not waited for: tlbflush_unmap_batch.

    Attributes:
        flush_required: There are some.
        writable: One is of an entry that was dirty, so a CPU may still write by it.
    """

    __slots__ = ("flush_required", "writable")

    def __init__(self) -> None:
        self.flush_required = False
        self.writable = False


class RmapAnon:
    """Families of areas, and what belongs to which."""

    __slots__ = ("_kernel", "_tlb_ubc")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._tlb_ubc = tuple(TlbflushUnmapBatch() for _ in kernel.machine.cpus)

    def anon_vma_prepare(self, vma: VmArea) -> None:
        """Give *vma* an anon_vma before its first private page, perhaps a neighbour's.

        Source: mm/rmap.c, __anon_vma_prepare() and include/linux/rmap.h,
        anon_vma_prepare()
        """
        if vma.anon_vma is None:
            shared = self._kernel.vma.find_mergeable_anon_vma(vma)
            if shared is None:
                shared = AnonVma(RwSemaphore(self._kernel.machine, "anon_vma"))
            vma.anon_vma = shared

    def anon_vma_fork(self, child: VmArea, parent: VmArea) -> None:
        """Give a child's copy of *parent* an anon_vma under the same root.

        Source: mm/rmap.c, anon_vma_fork()
        """
        if parent.anon_vma is not None:
            root = parent.anon_vma.root
            child.anon_vma = AnonVma(root.lock, root)

    def unlink_anon_vmas(self, vma: VmArea) -> None:
        """Part a VMA from its anon_vma: from now on no walk from a page comes to it.

        Source: mm/rmap.c, unlink_anon_vmas()
        Deviates: an anon_vma that no VMA needs any more is left to Python.
        """
        anon_vma = vma.anon_vma
        if anon_vma is not None:
            self.anon_vma_lock_write(anon_vma)
            vma.anon_vma = None
            self.anon_vma_unlock_write(anon_vma)

    def folio_get_anon_vma(self, folio: Folio) -> AnonVma | None:
        """Return the anon_vma of a mapped folio, with a reference, or ``None``.

        Source: mm/rmap.c, folio_get_anon_vma()
        """
        if not folio.anon or not folio.mapcount:
            return None
        anon_vma: AnonVma = folio.mapping
        anon_vma.refcount += 1
        return anon_vma

    @staticmethod
    def put_anon_vma(anon_vma: AnonVma) -> None:
        """Drop a reference to an anon_vma.

        Source: include/linux/rmap.h, put_anon_vma()
        """
        anon_vma.refcount -= 1

    @staticmethod
    def anon_vma_lock_write(anon_vma: AnonVma) -> None:
        """Lock all of the tree that *anon_vma* belongs to, waiting if need be.

        Source: include/linux/rmap.h, anon_vma_lock_write()
        """
        anon_vma.root.lock.down_write()

    @staticmethod
    def anon_vma_trylock_write(anon_vma: AnonVma) -> bool:
        """Lock it if nobody has; tell whether it was locked.

        Source: include/linux/rmap.h, anon_vma_trylock_write()
        """
        return anon_vma.root.lock.down_write_trylock()

    @staticmethod
    def anon_vma_unlock_write(anon_vma: AnonVma) -> None:
        """Release it.

        Source: include/linux/rmap.h, anon_vma_unlock_write()
        """
        anon_vma.root.lock.up_write()

    @staticmethod
    def folio_move_anon_rmap(folio: Folio, vma: VmArea) -> None:
        """Make *vma*'s own anon_vma the one of a page that only it maps.

        Source: mm/rmap.c, folio_move_anon_rmap()
        """
        folio.mapping = vma.anon_vma

    def linear_page_index(self, vma: VmArea, address: int) -> int:
        """Return the place of *address* in what *vma* maps, in pages.

        Source: include/linux/pagemap.h, linear_page_index()
        """
        return ((address - vma.start) >> self._kernel.pgtable.page_shift) + vma.pgoff
