"""The system call, and advice that only changes what an area is like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tlbkit.errors import InputError
from tlbkit.linux.include.linux.mm import (
    VM_DONTCOPY,
    VM_HUGEPAGE,
    VM_IO,
    VM_NOHUGEPAGE,
    VM_SHARED,
    VM_WIPEONFORK,
)
from tlbkit.linux.include.linux.userfaultfd_k import userfaultfd_armed
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN, EINVAL, ENOMEM
from tlbkit.linux.mm.madvise.age import MadviseAge
from tlbkit.linux.mm.madvise.part import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.mm.mmu_gather import MmuGather


class Behavior(NamedTuple):
    """What one piece of advice does.

    Attributes:
        lock: How the mmap lock is held. Who holds it for reading may release it and
            take it again, and then the next area is looked up anew. "area" is for
            advice for which the lock of one area is enough, if it is one that nobody
            watches.
        apply: Does it to a part of one area; returns 0 or a negative error number.
        gathers: All areas of the call share one gather.
        stops: It ends where nothing is mapped, instead of stepping over that.
    """

    lock: Literal["area", "read", "write"]
    apply: Callable[[Part], int]
    gathers: bool = False
    stops: bool = False


class MadviseCall(MadviseAge):
    """Finds the areas that the advice is for."""

    __slots__ = ("_behaviors",)

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        flags = self.madvise_vma_flags
        self._behaviors: Final[Mapping[str, Behavior]] = {
            "hugepage": Behavior("write", flags(VM_HUGEPAGE, VM_NOHUGEPAGE)),
            "nohugepage": Behavior("write", flags(VM_NOHUGEPAGE, VM_HUGEPAGE)),
            "collapse": Behavior("read", self._collapse),
            "populate_read": Behavior("read", self._populate_read, stops=True),
            "populate_write": Behavior("read", self._populate_write, stops=True),
            "dontneed": Behavior("area", self.madvise_dontneed, gathers=True),
            "free": Behavior("area", self.madvise_free, gathers=True),
            "cold": Behavior("read", self.madvise_cold),
            "pageout": Behavior("read", self.madvise_pageout),
            "dontfork": Behavior("write", flags(VM_DONTCOPY, 0)),
            "dofork": Behavior("write", flags(0, VM_DONTCOPY, unless=VM_IO)),
            "wipeonfork": Behavior("write", self.madvise_wipeonfork),
            "keeponfork": Behavior("write", flags(0, VM_WIPEONFORK)),
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
        area = None
        if behavior.lock == "area":
            area = self.try_vma_read_lock(mm, start, end)
        if area is None:
            self._lock_mmap(mm, behavior)
        gather = self._kernel.gather
        tlb = gather.tlb_gather_mmu(mm) if behavior.gathers else None
        if area is not None:
            error = behavior.apply(Part(area, start, end, tlb))
        else:
            error = self.madvise_walk_vmas(mm, start, end, tlb, behavior)
        if tlb is not None:
            gather.tlb_finish_mmu(tlb)
        if area is not None:
            self._kernel.mmap_lock.vma_end_read(area)
        elif behavior.lock == "write":
            mm.mmap_lock.up_write()
        else:
            mm.mmap_lock.up_read()
        return error

    @staticmethod
    def _lock_mmap(mm: MmStruct, behavior: Behavior) -> None:
        if behavior.lock == "write":
            mm.mmap_lock.down_write()
        else:
            mm.mmap_lock.down_read()

    def try_vma_read_lock(self, mm: MmStruct, start: int, end: int) -> VmArea | None:
        """Return the one area of a range, locked for reading, if that is enough.

        Who is told of the change is waited for without the mmap lock, so for an area
        that is watched that lock must be held instead.
        """
        vma = self._kernel.mmap_lock.lock_vma_under_rcu(mm, start)
        if vma is None:
            return None
        if end <= vma.end and not userfaultfd_armed(vma):
            return vma
        self._kernel.mmap_lock.vma_end_read(vma)
        return None

    def madvise_walk_vmas(
        self,
        mm: MmStruct,
        start: int,
        end: int,
        tlb: MmuGather | None,
        behavior: Behavior,
    ) -> int:
        """Do something to every area of a range; the mmap lock is held."""
        unmapped = 0
        while start < end:
            vma = self._kernel.vma.find_vma(mm, start)
            if vma is None or (behavior.stops and start < vma.start):
                return -ENOMEM
            if start < vma.start:
                unmapped = -ENOMEM
                start = vma.start
                continue
            part = Part(vma, start, min(vma.end, end), tlb)
            error = behavior.apply(part)
            if error:
                return error
            # What was rounded down to huge pages is stepped over whole.
            start = part.end if part.lock_dropped else max(part.end, part.vma.end)
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

    def madvise_vma_flags(
        self, more: int, less: int, *, unless: int = 0
    ) -> Callable[[Part], int]:
        """Return what gives a part of an area the flags *more* and takes *less* away.

        An area with a flag of *unless* is refused.
        """

        def apply(part: Part) -> int:
            flags = part.vma.flags
            if flags & unless:
                return -EINVAL
            return self.madvise_update_vma(
                part.vma, part.start, part.end, flags & ~less | more
            )

        return apply

    def madvise_wipeonfork(self, part: Part) -> int:
        """Let a child find zeros instead of private memory: MADV_WIPEONFORK."""
        if not part.vma.anonymous:
            return -EINVAL
        return self.madvise_vma_flags(VM_WIPEONFORK, 0, unless=VM_SHARED)(part)

    def _populate_read(self, part: Part) -> int:
        """Fault in the pages of a range for reading: MADV_POPULATE_READ."""
        return self.madvise_populate(part, write=False)

    def _populate_write(self, part: Part) -> int:
        """Fault in the pages of a range for writing: MADV_POPULATE_WRITE."""
        return self.madvise_populate(part, write=True)

    def madvise_populate(self, part: Part, *, write: bool) -> int:
        """Fault in the pages of a range, bit by bit; 0 or a negative error number.

        Source: mm/madvise.c, madvise_populate()
        """
        mm = part.vma.mm
        start = part.start
        while start < part.end:
            pages, locked = self._kernel.gup.faultin_page_range(
                mm, start, part.end, write=write
            )
            if not locked:
                mm.mmap_lock.down_read()
            if pages < 0:
                return pages
            start += pages << self._pgtable.page_shift
        return 0

    def _collapse(self, part: Part) -> int:
        """Make blocks of the pages of a range now: MADV_COLLAPSE."""
        return self._kernel.khugepaged.madvise_collapse(part.vma, part.start, part.end)
