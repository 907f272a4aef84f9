"""Areas of an address space: finding, splitting and merging them (mm/vma.c).

The kernel keeps areas in a maple tree; here they are a list in address order.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import vm_get_page_prot
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    VM_ACCESS_FLAGS,
    VM_PFNMAP,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_UFFD_WP,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import VmArea
from tlbkit.linux.include.uapi.asm_generic.errno import ENOMEM

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import UserfaultfdCtx
    from tlbkit.linux.include.linux.fs import File
    from tlbkit.linux.include.linux.mm import VmOperations
    from tlbkit.linux.include.linux.mm_types import AnonVma, MmStruct
    from tlbkit.linux.kernel.kernel import Kernel

DEFAULT_MAX_MAP_COUNT: Final = 65530
_start = attrgetter("start")


class Vma:
    """The operations on areas; the mmap lock is held for writing to change any."""

    __slots__ = ("_kernel", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable

    # -- find ------------------------------------------------------------------------

    @staticmethod
    def index(mm: MmStruct, addr: int) -> int:
        """Return the place of the first area that ends after *addr*.

        Source: none; it is a look into the tree of VMAs, which is a list here.
        """
        place = bisect_right(mm.vmas, addr, key=_start)
        return place - 1 if place and mm.vmas[place - 1].end > addr else place

    def find_vma(self, mm: MmStruct, addr: int) -> VmArea | None:
        """Return the first area that ends after *addr*; it may begin after it too.

        Source: mm/mmap.c, find_vma()
        """
        place = self.index(mm, addr)
        return mm.vmas[place] if place < len(mm.vmas) else None

    def vma_lookup(self, mm: MmStruct, addr: int) -> VmArea | None:
        """Return the area that *addr* lies in.

        Source: include/linux/mm.h, vma_lookup()
        """
        place = bisect_right(mm.vmas, addr, key=_start)
        if not place:
            return None
        vma = mm.vmas[place - 1]
        return vma if addr < vma.end else None

    def overlapping(self, mm: MmStruct, start: int, end: int) -> list[VmArea]:
        """Return the areas that share an address with [start, end).

        Source: include/linux/mm.h, for_each_vma_range()
        """
        place = self.index(mm, start)
        found = []
        while place < len(mm.vmas) and mm.vmas[place].start < end:
            found.append(mm.vmas[place])
            place += 1
        return found

    # -- merge -----------------------------------------------------------------------

    def can_merge(
        self, left: VmArea, right: VmArea, flags: int, uffd: UserfaultfdCtx | None
    ) -> bool:
        """Tell whether *left* could go on into *right*, given *flags* and *uffd*.

        Callers see to it that the one ends where the other begins.

        Source: mm/vma.c, can_vma_merge_after()
        """
        return self._alike(left, right) and self._has(left, flags, uffd)

    @staticmethod
    def _has(vma: VmArea, flags: int, uffd: UserfaultfdCtx | None) -> bool:
        """Tell whether an area has these flags, as far as they matter, and *uffd*."""
        return vma.uffd is uffd and not (vma.flags ^ flags) & ~VM_SOFTDIRTY

    def _alike(self, left: VmArea, right: VmArea) -> bool:
        """Tell whether two neighbours agree in all that no caller changes."""
        pages = (left.end - left.start) >> self._pgtable.page_shift
        if left.ops is not None and left.ops.has("close"):
            return False  # its owner counts its areas
        return (
            left.file is right.file
            and left.ops is right.ops
            and left.pgoff + pages == right.pgoff
            and self.is_mergeable_anon_vma(left, right)
        )

    @staticmethod
    def vma_is_fork_child(vma: VmArea) -> bool:
        """Tell whether a VMA may map pages of a parent, which its anon_vma leads to.

        Source: mm/vma.c, vma_is_fork_child()

        Deviates: the model keeps no chain of anon_vmas, but the root of the tree; a VMA
        of a child has another anon_vma than that, and one of its own making has not.
        """
        return vma.anon_vma is not None and vma.anon_vma.root is not vma.anon_vma

    def is_mergeable_anon_vma(self, left: VmArea, right: VmArea) -> bool:
        """Tell whether the anon_vma of one of two neighbours can serve for both.

        Source: mm/vma.c, is_mergeable_anon_vma()
        """
        if left.anon_vma is None and right.anon_vma is not None:
            return not self.vma_is_fork_child(right)
        if left.anon_vma is not None and right.anon_vma is None:
            return not self.vma_is_fork_child(left)
        return left.anon_vma is right.anon_vma

    def anon_vma_compatible(self, a: VmArea, b: VmArea) -> bool:
        """Tell whether *b* goes on where *a* ends, but for what mprotect may change.

        Source: mm/vma.c, anon_vma_compatible()

        Deviates: there are no memory policies.
        """
        pages = (b.start - a.start) >> self._pgtable.page_shift
        return (
            a.end == b.start
            and a.file is b.file
            and not (a.flags ^ b.flags) & ~(VM_ACCESS_FLAGS | VM_SOFTDIRTY)
            and b.pgoff == a.pgoff + pages
        )

    def reusable_anon_vma(self, old: VmArea, a: VmArea, b: VmArea) -> AnonVma | None:
        """Return the anon_vma of *old*, one of the neighbours *a* and *b*, if it fits.

        Source: mm/vma.c, reusable_anon_vma()
        """
        if self.anon_vma_compatible(a, b) and not self.vma_is_fork_child(old):
            return old.anon_vma
        return None

    def find_mergeable_anon_vma(self, vma: VmArea) -> AnonVma | None:
        """Return the anon_vma of a neighbour, with which *vma* can then be merged.

        Without that, an mprotect of page after page would leave a VMA for each of them.

        Source: mm/vma.c, find_mergeable_anon_vma()
        """
        vmas = vma.mm.vmas
        place = self.index(vma.mm, vma.start)
        if place + 1 < len(vmas):
            after = vmas[place + 1]
            anon_vma = self.reusable_anon_vma(after, vma, after)
            if anon_vma is not None:
                return anon_vma
        if place:
            before = vmas[place - 1]
            return self.reusable_anon_vma(before, before, vma)
        return None

    def vma_insert(self, vma: VmArea) -> VmArea:
        """Add a new area, merged with its neighbours where that is possible.

        Source: mm/vma.c, vma_merge_new_range() and vma_link()
        """
        mm = vma.mm
        place = bisect_right(mm.vmas, vma.start, key=_start)
        mm.vmas.insert(place, vma)
        self.vma_link_file(vma)
        return self._merge_around(vma)

    def _merge_around(self, vma: VmArea) -> VmArea:
        """Merge an area with its neighbours; return the one that it is part of now."""
        vmas = vma.mm.vmas
        place = self.index(vma.mm, vma.start)
        if place + 1 < len(vmas):
            after = vmas[place + 1]
            if after.start == vma.end and self.can_merge(
                vma, after, after.flags, after.uffd
            ):
                self._absorb(vma, after)
        if place:
            before = vmas[place - 1]
            if before.end == vma.start and self.can_merge(
                before, vma, vma.flags, vma.uffd
            ):
                self._absorb(before, vma)
                return before
        return vma

    def _absorb(self, left: VmArea, right: VmArea) -> None:
        """Let *left* take over all of *right*."""
        self._kernel.mmap_lock.vma_start_write(left)
        self._kernel.mmap_lock.vma_start_write(right)
        left.end = right.end
        left.anon_vma = left.anon_vma or right.anon_vma
        left.maybe_guard = left.maybe_guard or right.maybe_guard
        left.mm.vmas.remove(right)
        self.unlink_file_vma(right)
        self._put_file(right)

    def copy_vma(self, vma: VmArea, addr: int, length: int, pgoff: int) -> VmArea:
        """Return an area at *addr* for what *vma* maps from *pgoff* on.

        It may be part of a larger one, of which *vma* may be part too. An area that
        never had a page has no ties to its old place.

        Source: mm/vma.c, copy_vma()
        """
        if vma.anonymous and vma.anon_vma is None:
            pgoff = addr >> self._pgtable.page_shift
        copy = VmArea(vma.mm, addr, addr + length, vma.flags, vma.page_prot, pgoff)
        copy.anon_vma = vma.anon_vma
        copy.file = vma.file
        copy.ops = vma.ops
        copy.private_data = vma.private_data
        copy.maybe_guard = vma.maybe_guard
        if copy.ops is not None:
            copy.ops.open(copy)
        copy.uffd = vma.uffd
        return self.vma_insert(copy)

    def vma_merge_extend(self, vma: VmArea, delta: int) -> VmArea:
        """Let *vma* grow by *delta* bytes, and join what it then touches.

        Source: mm/vma.c, vma_merge_extend()
        """
        self._kernel.mmap_lock.vma_start_write(vma)
        vma.end += delta
        return self._merge_around(vma)

    # -- change a part ---------------------------------------------------------------

    def vma_modify(self, vma: VmArea, start: int, end: int, flags: int) -> VmArea | int:
        """Return an area that holds [start, end) of *vma* and may be given *flags*.

        Source: mm/vma.c, vma_modify()
        """
        return self.vma_modify_flags_uffd(vma, start, end, flags, vma.uffd)

    def vma_modify_flags_uffd(
        self,
        vma: VmArea,
        start: int,
        end: int,
        flags: int,
        uffd: UserfaultfdCtx | None,
    ) -> VmArea | int:
        """Return an area that holds [start, end) of *vma* and may be given both.

        A neighbour that has them already takes the part over; otherwise the rest of
        *vma* is split off. ``-ENOMEM`` if there may be no more areas, and then nothing
        has changed.

        Source: mm/vma.c, vma_modify_flags_uffd()
        """
        vmas = vma.mm.vmas
        place = self.index(vma.mm, vma.start)
        before = vmas[place - 1] if place and start == vma.start else None
        if before and before.end == start and self.can_merge(before, vma, flags, uffd):
            anon_vma = vma.anon_vma
            if end == vma.end:
                self._absorb(before, vma)
                return self._merge_right(before, flags)
            self._kernel.mmap_lock.vma_start_write(before)
            self._kernel.huge_memory.split_huge_pmd_if_needed(vma, end)
            self._cut_front(vma, end)
            before.end = end
            before.anon_vma = before.anon_vma or anon_vma
            before.maybe_guard = before.maybe_guard or vma.maybe_guard
            return before
        after = vmas[place + 1] if place + 1 < len(vmas) and end == vma.end else None
        if (
            after
            and after.start == end
            and self._alike(vma, after)
            and self._has(after, flags, uffd)
        ):
            self._kernel.mmap_lock.vma_start_write(vma)
            self._kernel.mmap_lock.vma_start_write(after)
            self._kernel.huge_memory.split_huge_pmd_if_needed(vma, start)
            pages = (end - start) >> self._pgtable.page_shift
            after.start = start
            after.pgoff -= pages
            after.anon_vma = after.anon_vma or vma.anon_vma
            after.maybe_guard = after.maybe_guard or vma.maybe_guard
            if start == vma.start:
                vmas.remove(vma)
                self.unlink_file_vma(vma)
                self._put_file(vma)
            else:
                vma.end = start
            return after
        for at in (start, end):
            if vma.start < at < vma.end and vma.ops is not None:
                error = vma.ops.may_split(vma, at)
                if error:
                    return error
        needed = (start != vma.start) + (end != vma.end)
        if len(vmas) + needed > DEFAULT_MAX_MAP_COUNT:
            return -ENOMEM
        if start != vma.start:
            vma = self.split_vma(vma, start)
        if end != vma.end:
            self.split_vma(vma, end)
        return vma

    def _merge_right(self, vma: VmArea, flags: int) -> VmArea:
        """Merge an area that just grew with what now follows it."""
        vmas = vma.mm.vmas
        place = self.index(vma.mm, vma.start)
        if place + 1 < len(vmas):
            after = vmas[place + 1]
            if (
                after.start == vma.end
                and self._alike(vma, after)
                and self._has(after, flags, vma.uffd)
            ):
                self._absorb(vma, after)
        return vma

    def _cut_front(self, vma: VmArea, addr: int) -> None:
        """Let *vma* begin at *addr*."""
        self._kernel.mmap_lock.vma_start_write(vma)
        vma.pgoff += (addr - vma.start) >> self._pgtable.page_shift
        vma.start = addr

    def split_vma(self, vma: VmArea, addr: int) -> VmArea:
        """Cut *vma* in two at *addr* and return the second.

        From before the tables are cut until the second is known, nobody can come by way
        of the file.

        Source: mm/vma.c, split_vma()
        """
        self._kernel.mmap_lock.vma_start_write(vma)
        pages = (addr - vma.start) >> self._pgtable.page_shift
        right = VmArea(
            vma.mm, addr, vma.end, vma.flags, vma.page_prot, vma.pgoff + pages
        )
        right.anon_vma = vma.anon_vma
        right.file = vma.file
        right.ops = vma.ops
        right.uffd = vma.uffd
        right.private_data = vma.private_data
        right.maybe_guard = vma.maybe_guard
        if right.ops is not None:
            right.ops.open(right)
        if vma.file is not None:
            vma.file.mapping.i_mmap_rwsem.down_write()
        self._kernel.huge_memory.split_huge_pmd_if_needed(vma, addr)
        if is_vm_hugetlb_page(vma):
            self._kernel.hugetlb.hugetlb_split(vma, addr)
        vma.end = addr
        vma.mm.vmas.insert(self.index(vma.mm, addr), right)
        if vma.file is not None:
            self._link(right, vma.file)
            vma.file.mapping.i_mmap_rwsem.up_write()
        return right

    # -- what an area maps -----------------------------------------------------------

    def vma_link_file(self, vma: VmArea) -> None:
        """Let the file of an area know of it, and hold the file.

        Source: mm/vma.c, vma_link_file()
        """
        if vma.file is None:
            return
        i_mmap_rwsem = vma.file.mapping.i_mmap_rwsem
        i_mmap_rwsem.down_write()
        self._link(vma, vma.file)
        i_mmap_rwsem.up_write()

    @staticmethod
    def _link(vma: VmArea, file: File) -> None:
        """Do so while the file's lock is held."""
        file.count += 1
        file.mapping.i_mmap[vma] = None

    @staticmethod
    def unlink_file_vma(vma: VmArea) -> None:
        """Let the file of an area forget it; the file is held still.

        Source: mm/vma.c, unlink_file_vma_batch_add()
        """
        if vma.file is None:
            return
        mapping = vma.file.mapping
        mapping.i_mmap_rwsem.down_write()
        del mapping.i_mmap[vma]
        mapping.i_mmap_rwsem.up_write()

    def remove_vma(self, vma: VmArea) -> None:
        """Part from an area that is in no address space any more, and in no file.

        Source: mm/vma.c, remove_vma()
        """
        if vma.ops is not None:
            vma.ops.close(vma)
        self._put_file(vma)

    def _put_file(self, vma: VmArea) -> None:
        if vma.file is not None:
            self._kernel.file_table.fput(vma.file)

    # -- what its entries start from -------------------------------------------------

    def vma_set_page_prot(self, vma: VmArea) -> None:
        """Work out anew what entries of *vma* start from.

        Where writes must be noticed, they start read-only, as those of private memory.

        Source: mm/mmap.c, vma_set_page_prot()
        """
        flags = vma.flags
        vm_page_prot = vm_get_page_prot(flags, epan=self._pgtable.epan)
        if self.vma_wants_writenotify(vma, vm_page_prot):
            flags &= ~VM_SHARED
            vm_page_prot = vm_get_page_prot(flags, epan=self._pgtable.epan)
        vma.page_prot = vm_page_prot

    @staticmethod
    def vma_is_shared_writable(vma: VmArea) -> bool:
        """Tell whether what is written through *vma* is others' too.

        Source: mm/vma.c, vma_is_shared_writable()
        """
        return vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED

    @staticmethod
    def vm_ops_needs_writenotify(ops: VmOperations | None) -> bool:
        """Tell whether the owner of a VMA wants to hear of writes.

        Source: mm/vma.c, vm_ops_needs_writenotify()
        """
        return ops is not None and (ops.has("page_mkwrite") or ops.has("pfn_mkwrite"))

    @staticmethod
    def vma_fs_can_writeback(vma: VmArea) -> bool:
        """Tell whether dirty pages of a VMA are written back.

        Source: mm/vma.c, vma_fs_can_writeback()
        """
        if vma.flags & VM_PFNMAP:
            return False
        return vma.file is not None and vma.file.mapping.ops.can_writeback

    def vma_needs_dirty_tracking(self, vma: VmArea) -> bool:
        """Tell whether somebody must know of each page that is written through *vma*.

        The file system that asks for it, or the one that writes dirty pages back.

        Source: mm/vma.c, vma_needs_dirty_tracking()
        """
        if not self.vma_is_shared_writable(vma):
            return False
        if self.vm_ops_needs_writenotify(vma.ops):
            return True
        return self.vma_fs_can_writeback(vma)

    def vma_wants_writenotify(self, vma: VmArea, vm_page_prot: int) -> bool:
        """Tell whether clean pages of a shared area must be mapped read-only.

        If they are so already, since *vm_page_prot* is not what the flags alone would
        give, only the owner's own wish counts.

        Source: mm/vma.c, vma_wants_writenotify()
        Deviates: there is no soft-dirty tracking on arm64.
        """
        if not self.vma_is_shared_writable(vma):
            return False
        if self.vm_ops_needs_writenotify(vma.ops):
            return True
        if vm_page_prot != vm_get_page_prot(vma.flags, epan=self._pgtable.epan):
            return False
        return bool(vma.flags & VM_UFFD_WP) or self.vma_fs_can_writeback(vma)
