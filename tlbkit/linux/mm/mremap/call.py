"""The system call: what it refuses, and what it does with areas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    VM_DONTEXPAND,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_SHARED,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    userfaultfd_armed,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EFAULT,
    EINVAL,
    ENOMEM,
)
from tlbkit.linux.mm.mmap import MAP_FIXED, MAP_SHARED
from tlbkit.linux.mm.mremap.tables import MremapTables, pagetable_move
from tlbkit.linux.mm.vma import DEFAULT_MAX_MAP_COUNT

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import Unmapping, UserfaultfdCtx
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea

MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
MREMAP_DONTUNMAP: Final = 4

_ULONG: Final = (1 << 64) - 1
_KNOWN: Final = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP


@dataclass(slots=True)
class Remap:
    """One mremap() at work: struct vma_remap_struct.

    Attributes:
        mm: The address space.
        addr, old_len: The range that is moved or resized.
        new_len: Its length afterwards.
        flags: The ``MREMAP_`` bits.
        new_addr: Where it goes, where that is said or known.
        area: The area of the range, once it is looked up.
        uf: Whom to tell of the move.
        uf_unmap_early: Whom to tell of what was at the new place.
        uf_unmap: Whom to tell of what is unmapped at the old one.
    """

    mm: MmStruct
    addr: int
    old_len: int
    new_len: int
    flags: int
    new_addr: int
    area: VmArea | None = None
    uf: UserfaultfdCtx | None = None
    uf_unmap_early: list[Unmapping] = field(default_factory=list)
    uf_unmap: list[Unmapping] = field(default_factory=list)

    @property
    def vma(self) -> VmArea:
        """The area of the range, which callers know to be there.

        Source: none; it is never looked for where it is not.
        """
        assert self.area is not None
        return self.area

    @property
    def implies_new_addr(self) -> bool:
        """Whether the range certainly gets another address.

        Source: mm/mremap.c, vrm_implies_new_addr()
        """
        return bool(self.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))

    @property
    def overlaps(self) -> bool:
        """Whether the old and the new range share an address.

        Source: mm/mremap.c, vrm_overlaps()
        """
        old_end = (self.addr + self.old_len) & _ULONG
        new_end = (self.new_addr + self.new_len) & _ULONG
        return old_end > self.new_addr and new_end > self.addr


class Mremap(MremapTables):
    """mremap()."""

    __slots__ = ()

    # -- the system call -------------------------------------------------------------

    def do_mremap(
        self,
        mm: MmStruct,
        addr: int,
        old_len: int,
        new_len: int,
        flags: int,
        new_addr: int,
    ) -> int:
        """Resize or move a mapping; return its address, or a negative error number.

        Args:
            mm: The address space; its lock is not held.
            addr: Of the mapping.
            old_len: Of what is moved or resized, rounded up to pages. 0 maps shared
                memory once more.
            new_len: Rounded up to pages.
            flags: The ``MREMAP_`` bits.
            new_addr: With MREMAP_FIXED the place, with MREMAP_DONTUNMAP a hint.

        Source: mm/mremap.c, do_mremap()

        Deviates: nothing is locked in memory, so what grows is never faulted in.
        """
        page_align = self._pgtable.page_align
        remap = Remap(
            mm, addr, page_align(old_len), page_align(new_len), flags, new_addr
        )
        error = self.check_mremap_params(remap)
        if error:
            return error
        mm.mmap_lock.down_write()
        if flags & MREMAP_FIXED and remap.old_len == remap.new_len:
            result = self.remap_move(remap)
        else:
            remap.area = self._kernel.vma.vma_lookup(mm, addr)
            result = self.check_prep_vma(remap)
            if not result:
                how = self.mremap_to if remap.implies_new_addr else self.mremap_at
                result = how(remap)
        mm.mmap_lock.up_write()
        self.notify_uffd(remap, result)
        return result

    def check_mremap_params(self, remap: Remap) -> int:
        """Return what is wrong with what user space asks for, or 0.

        Source: mm/mremap.c, check_mremap_params()
        """
        task_size = self._pgtable.task_size
        offset = ~self._pgtable.page_mask
        if remap.flags & ~_KNOWN or remap.addr & offset:
            return -EINVAL
        if not remap.new_len or remap.new_len > task_size:
            return -EINVAL
        if not remap.implies_new_addr:
            return 0
        if remap.new_addr > task_size - remap.new_len:
            return -EINVAL
        if remap.new_addr & offset or not remap.flags & MREMAP_MAYMOVE:
            return -EINVAL
        if remap.flags & MREMAP_DONTUNMAP and remap.old_len != remap.new_len:
            return -EINVAL
        if remap.overlaps:
            return -EINVAL
        # Either range may be cut in three before the move, which then needs room too.
        if len(remap.mm.vmas) + 2 >= DEFAULT_MAX_MAP_COUNT - 3:
            return -ENOMEM
        return 0

    def align_hugetlb(self, remap: Remap) -> bool:
        """Round a range to whole huge pages; false if it cannot be moved so.

        It cannot grow: the reservation is for what was mapped.

        Source: mm/mremap.c, align_hugetlb()
        """
        size = self._kernel.hugetlb.hstate_vma(remap.vma).size
        remap.old_len = -(-remap.old_len // size) * size
        remap.new_len = -(-remap.new_len // size) * size
        if remap.addr & (size - 1) or remap.new_addr & (size - 1):
            return False
        return remap.new_len <= remap.old_len

    def check_prep_vma(self, remap: Remap) -> int:
        """Return why the area of a range cannot be moved or resized, or 0.

        Source: mm/mremap.c, check_prep_vma()

        Deviates: no VMA is sealed or locked, and there is no limit of memory.
        """
        vma = remap.area
        if vma is None:
            return -EFAULT
        if is_vm_hugetlb_page(vma) and not self.align_hugetlb(remap):
            return -EINVAL
        if not remap.implies_new_addr:
            remap.new_addr = remap.addr
            if remap.new_len <= remap.old_len:
                return 0
        if not remap.old_len and not vma.flags & (VM_SHARED | VM_MAYSHARE):
            return -EINVAL
        rigid = vma.flags & (VM_DONTEXPAND | VM_PFNMAP)
        if remap.flags & MREMAP_DONTUNMAP and rigid:
            return -EINVAL
        # What a shrinking range loses may go over the end of the area.
        if min(remap.old_len, remap.new_len) > vma.end - remap.addr:
            return -EFAULT
        if remap.new_len <= remap.old_len:
            return 0
        pgoff = vma.pgoff + (remap.addr - vma.start >> self._pgtable.page_shift)
        if pgoff + (remap.new_len >> self._pgtable.page_shift) > _ULONG:
            return -EINVAL
        return -EFAULT if rigid else 0

    def notify_uffd(self, remap: Remap, result: int) -> None:
        """Tell user space what happened; no lock is held.

        Source: mm/mremap.c, notify_uffd()
        """
        uffd = self._kernel.fs_userfaultfd
        uffd.userfaultfd_unmap_complete(remap.uf_unmap_early)
        if result >= 0:
            uffd.mremap_userfaultfd_complete(
                remap.uf, remap.addr, remap.new_addr, remap.old_len
            )
        uffd.userfaultfd_unmap_complete(remap.uf_unmap)

    # -- where it stands -------------------------------------------------------------

    def mremap_at(self, remap: Remap) -> int:
        """Resize a mapping, which need not move; its address or an error number.

        Source: mm/mremap.c, mremap_at()
        """
        if remap.new_len == remap.old_len:
            return remap.addr
        if remap.new_len < remap.old_len:
            return self.shrink_vma(remap) or remap.addr
        return self.expand_vma(remap)

    def shrink_vma(self, remap: Remap) -> int:
        """Unmap what a range is to lose; 0 or a negative error number.

        Source: mm/mremap.c, shrink_vma()

        Deviates: the mmap lock is never dropped before the end.
        """
        error = self._kernel.mmap.do_munmap(
            remap.mm,
            remap.addr + remap.new_len,
            remap.old_len - remap.new_len,
            remap.uf_unmap,
        )
        remap.area = None
        if error:
            return error
        remap.area = self._kernel.vma.vma_lookup(remap.mm, remap.addr)
        return 0 if remap.area is not None else -EFAULT

    def expand_vma(self, remap: Remap) -> int:
        """Let a mapping grow, at its place if it can; its address or an error.

        Source: mm/mremap.c, expand_vma() and expand_vma_in_place()
        """
        delta = remap.new_len - remap.old_len
        if self.can_expand_in_place(remap):
            self._kernel.vma.vma_merge_extend(remap.vma, delta)
            remap.mm.total_vm += delta >> self._pgtable.page_shift
            return remap.addr
        if not remap.flags & MREMAP_MAYMOVE:
            return -ENOMEM
        return self.set_new_addr(remap) or self.move_vma(remap)

    def can_expand_in_place(self, remap: Remap) -> bool:
        """Tell whether a range ends with its area, and nothing is in the way.

        Source: mm/mremap.c, vrm_can_expand_in_place() and vma_expandable()
        """
        vma = remap.vma
        if vma.end - remap.addr != remap.old_len:
            return False
        end = vma.end + remap.new_len - remap.old_len
        if end > self._pgtable.task_size:
            return False
        return not self._kernel.vma.overlapping(remap.mm, vma.end, end)

    # -- to another place ------------------------------------------------------------

    @staticmethod
    def vma_multi_allowed(vma: VmArea) -> bool:
        """Tell whether an area may be moved together with others.

        One that is watched may not: to tell of each move, the lock must be dropped.

        Source: mm/mremap.c, vma_multi_allowed()

        Deviates: drivers do not choose addresses here, so MAP_FIXED is always obeyed.
        """
        return not userfaultfd_armed(vma)

    def remap_move(self, remap: Remap) -> int:
        """Move all areas of a range, with the gaps between them; address or error.

        Areas before the one that gives an error have moved.

        Source: mm/mremap.c, remap_move()
        """
        start, end = remap.addr, remap.addr + remap.old_len
        target = remap.new_addr
        last_end = 0
        result = -EFAULT
        for vma in self._kernel.vma.overlapping(remap.mm, start, end):
            first = not last_end
            if first and start < vma.start:
                return -EFAULT
            addr = max(vma.start, start)
            length = min(end, vma.end) - addr
            gap = 0 if first else vma.start - last_end
            last_end = vma.end
            if not self.vma_multi_allowed(vma) and (not first or vma.end < end):
                return -EFAULT
            remap.area = self._kernel.vma.vma_lookup(remap.mm, addr)
            remap.addr = addr
            remap.new_addr = target + gap
            remap.old_len = remap.new_len = length
            moved = self.check_prep_vma(remap) or self.mremap_to(remap)
            if moved < 0:
                return moved
            if first:
                result = moved
            target = moved + length
        return result

    def mremap_to(self, remap: Remap) -> int:
        """Move a range to another address; that, or a negative error number.

        Source: mm/mremap.c, mremap_to()
        """
        mm = remap.mm
        if remap.flags & MREMAP_FIXED:
            error = self._kernel.mmap.do_munmap(
                mm, remap.new_addr, remap.new_len, remap.uf_unmap_early
            )
            remap.area = None
            if error:
                return error
            remap.area = self._kernel.vma.vma_lookup(mm, remap.addr)
            if remap.area is None:
                return -EFAULT
        if remap.new_len < remap.old_len:
            error = self.shrink_vma(remap)
            if error:
                return error
            remap.old_len = remap.new_len
        return self.set_new_addr(remap) or self.move_vma(remap)

    def set_new_addr(self, remap: Remap) -> int:
        """Find room for a range that moves; 0 or a negative error number.

        Source: mm/mremap.c, vrm_set_new_addr()
        """
        flags = MAP_FIXED if remap.flags & MREMAP_FIXED else 0
        if remap.vma.flags & VM_MAYSHARE:
            flags |= MAP_SHARED
        hint = remap.new_addr if remap.implies_new_addr else 0
        place = self._kernel.mmap.get_unmapped_area(
            remap.mm, hint, remap.new_len, flags, remap.vma.file
        )
        if place < 0:
            return place
        remap.new_addr = place
        return 0

    def prep_move_vma(self, remap: Remap) -> int:
        """Tell whether a range can be cut out and moved; 0 or a negative error number.

        Source: mm/mremap.c, prep_move_vma()

        Deviates: no pages are merged by KSM, which would be undone here.
        """
        vma = remap.vma
        if len(remap.mm.vmas) >= DEFAULT_MAX_MAP_COUNT - 3:
            return -ENOMEM
        error = 0
        if vma.ops is not None:
            end = remap.addr + remap.old_len
            if vma.start != remap.addr:
                error = vma.ops.may_split(vma, remap.addr)
            if not error and vma.end != end:
                error = vma.ops.may_split(vma, end)
        return error

    def move_vma(self, remap: Remap) -> int:
        """Move a range to ``remap.new_addr``; that, or a negative error number.

        If tables for it cannot be had, what has moved moves back, and the new area is
        unmapped instead of the old.

        Source: mm/mremap.c, move_vma() and unmap_source_vma()

        Deviates: memory is never short of what was promised, so nothing is charged.
        """
        mm = remap.mm
        error = self.prep_move_vma(remap)
        if error:
            return error
        self._kernel.mmap_lock.vma_start_write(remap.vma)
        new, moved = self.copy_vma_and_data(remap)
        mm.total_vm += remap.new_len >> self._pgtable.page_shift
        if not moved:
            self._kernel.mmap.do_munmap(
                mm, remap.new_addr, remap.new_len, remap.uf_unmap
            )
            return -ENOMEM
        if remap.flags & MREMAP_DONTUNMAP:
            self.dontunmap_complete(remap, new)
        elif remap.old_len:
            self._kernel.mmap.do_munmap(mm, remap.addr, remap.old_len, remap.uf_unmap)
        return remap.new_addr

    def copy_vma_and_data(self, remap: Remap) -> tuple[VmArea, bool]:
        """Make the new area and move the entries to it.

        Returns:
            The new area, and false if the entries are back at the old one.

        Source: mm/mremap.c, copy_vma_and_data()
        """
        vma = remap.vma
        pgoff = vma.pgoff + (remap.addr - vma.start >> self._pgtable.page_shift)
        new = self._kernel.vma.copy_vma(vma, remap.new_addr, remap.new_len, pgoff)
        # If the two could merge, they are one now.
        vma = remap.area = self._kernel.vma.vma_lookup(remap.mm, remap.addr) or vma
        pmc = pagetable_move(vma, new, remap.addr, remap.new_addr, remap.old_len)
        moved = self.move_page_tables(pmc)
        if moved < remap.old_len:
            pmc_revert = pagetable_move(new, vma, remap.new_addr, remap.addr, moved)
            pmc_revert.need_rmap_locks = True
            self.move_page_tables(pmc_revert)
        else:
            remap.uf = self._kernel.fs_userfaultfd.mremap_userfaultfd_prep(new)
        if is_vm_hugetlb_page(vma):  # fixup_hugetlb_reservations()
            self._kernel.hugetlb.clear_vma_resv_huge_pages(vma)
        return new, moved >= remap.old_len

    def dontunmap_complete(self, remap: Remap, new: VmArea) -> None:
        """Leave the old area as one that was never touched.

        Source: mm/mremap.c, dontunmap_complete()
        """
        old = remap.vma
        old.flags &= ~VM_LOCKED
        whole = remap.addr == old.start and remap.addr + remap.old_len == old.end
        if new is not old and whole:
            self._kernel.rmap.unlink_anon_vmas(old)
