"""Files of huge pages: fs/hugetlbfs/inode.c.

Memory that is mapped with MAP_HUGETLB is a file of this kind without a name, and so is
what `memfd_create` returns with MFD_HUGETLB. Files with a name lie under a mount point:
/dev/hugepages is there from the start, as systemd mounts it, for the default size. Left
out: the limits of mounts, and seals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_present
from tlbkit.linux.include.linux.fs import (
    AddressSpaceOperations,
    FileOperations,
    Inode,
)
from tlbkit.linux.include.linux.hugetlb import Hstate, HugetlbFolio
from tlbkit.linux.include.linux.mm import (
    VM_DONTEXPAND,
    VM_HUGETLB,
    VM_MAYSHARE,
    VM_SHARED,
    VM_WRITE,
    ZAP_FLAG_DROP_MARKER,
)
from tlbkit.linux.include.linux.mm_types import PG_dirty, PG_uptodate, VmArea
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_unlock
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EINVAL,
    ENOMEM,
    ENOSPC,
    EOPNOTSUPP,
)
from tlbkit.linux.include.uapi.linux.falloc import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
)
from tlbkit.linux.kernel.locking import RwSemaphore
from tlbkit.linux.mm.hugetlb.resv_map import ResvMap

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import File
    from tlbkit.linux.kernel.kernel import Kernel

_EVERYTHING: Final = 1 << 62
"""A place behind every file."""


class HugetlbfsInode(Inode):
    """One file of huge pages: struct hugetlbfs_inode_info.

    ``mapping.pages`` has one item for each huge page, by its place in huge pages.

    Attributes:
        hstate: The size of its pages.
        resv_map: Places for which a page is promised, or in use.
        number: Tells it from others: i_ino.
    """

    __slots__ = ("hstate", "number", "resv_map")

    def __init__(
        self,
        name: str,
        fops: FileOperations,
        a_ops: AddressSpaceOperations,
        i_mmap_rwsem: RwSemaphore,
        hstate: Hstate,
        number: int,
    ) -> None:
        super().__init__(name, fops, a_ops, i_mmap_rwsem)
        self.hstate = hstate
        self.resv_map = ResvMap()
        self.number = number


class HugetlbfsPages(AddressSpaceOperations):
    """The pages of such files: hugetlbfs_aops. They never leave memory."""

    __slots__ = ()


class HugetlbfsFiles(FileOperations):
    """Open files of huge pages: hugetlbfs_file_operations."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def mmap(self, file: File, vma: VmArea) -> int:
        """Let a VMA map huge pages of the file.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_file_operations
        """
        return self._kernel.hugetlbfs.hugetlbfs_file_mmap(file, vma)

    def read_iter(self, file: File, offset: int) -> int | None:
        """Return a word of the file; nothing writes it but mappings.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_file_operations
        """
        return self._kernel.hugetlbfs.hugetlbfs_read_iter(file, offset)

    def fsync(self, file: File, start: int, end: int) -> int:
        """Do nothing: there is nowhere to write to.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_file_operations (noop_fsync())
        """
        del file, start, end
        return 0

    def fallocate(self, file: File, mode: int, offset: int, length: int) -> int:
        """Fill a range of the file with huge pages, or take them out of it.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_file_operations
        """
        return self._kernel.hugetlbfs.hugetlbfs_fallocate(file, mode, offset, length)

    def truncate(self, inode: Inode, size: int) -> int:
        """Give the file another size: whole huge pages.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_setattr()
        """
        assert isinstance(inode, HugetlbfsInode)
        return self._kernel.hugetlbfs.hugetlbfs_setattr(inode, size)

    def evict(self, inode: Inode) -> None:
        """Free all pages, and take all promises back.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_evict_inode()
        """
        assert isinstance(inode, HugetlbfsInode)
        self._kernel.hugetlbfs.remove_inode_hugepages(inode, 0, None)


class Hugetlbfs:
    """Makes files of huge pages, and takes pages out of them."""

    __slots__ = ("_files", "_kernel", "_machine", "_made", "_mounts", "_pages")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._files = HugetlbfsFiles(kernel)
        self._pages = HugetlbfsPages()
        self._made = 0
        self._mounts = {"/dev/hugepages/": kernel.hugetlb.default_hstate}

    def mount(self, path: str, size: int | None = None) -> None:
        """Let files whose names begin with *path* be files of huge pages.

        Args:
            path: The mount point, for example ``"/mnt/huge"``.
            size: Of their pages, in bytes; the default size if not given: the mount
                option ``pagesize``.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_fill_super()
        """
        hugetlb = self._kernel.hugetlb
        h = hugetlb.default_hstate if size is None else hugetlb.size_to_hstate(size)
        self._mounts[path.rstrip("/") + "/"] = h

    def hugetlbfs_file_mmap(self, file: File, vma: VmArea) -> int:
        """Make a VMA map huge pages, and have them promised; 0 or an error number.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_file_mmap_prepare()
        Deviates: Takes the VMA and not what describes it before it is made, and gives
        it its lock before the promise: nobody finds it by the file yet. Offsets are
        bounded where the system call looks at them.
        """
        inode = file.inode
        assert isinstance(inode, HugetlbfsInode)
        h = inode.hstate
        vma.flags |= VM_HUGETLB | VM_DONTEXPAND
        vma.ops = self._kernel.hugetlb.vm_ops
        if vma.pgoff & ((1 << h.order) - 1):
            return -EINVAL
        end = (vma.pgoff << self._kernel.pgtable.page_shift) + vma.end - vma.start
        error = self._kernel.hugetlb.hugetlb_reserve_pages(
            inode, vma.pgoff >> h.order, end >> h.shift, vma, vma.flags
        )
        if error:
            return -ENOMEM
        if vma.flags & VM_WRITE and inode.size < end:
            inode.size = end
        return 0

    def hugetlbfs_read_iter(self, file: File, offset: int) -> int | None:
        """Return the word at byte *offset*, 0 in a hole, ``None`` behind the end.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_read_iter()
        Deviates: Reads one word; a page that was poisoned is in no file.
        """
        inode = file.inode
        assert isinstance(inode, HugetlbfsInode)
        h = inode.hstate
        if offset >= inode.size:
            return None
        folio = self._kernel.hugetlb.filemap_lock_hugetlb_folio(
            inode.mapping, offset >> h.shift
        )
        if folio is None:
            return 0
        folio_unlock(self._machine, folio)
        start = folio.pfn << self._kernel.pgtable.page_shift
        word = self._machine.memory.read(start + (offset & (h.size - 1)))
        self._kernel.swap.folio_put(folio)
        return word

    def hugetlb_delete_from_page_cache(self, folio: HugetlbFolio) -> None:
        """Take a locked page out of its file.

        Source: fs/hugetlbfs/inode.c, hugetlb_delete_from_page_cache()
        """
        folio.flags &= ~(PG_dirty | PG_uptodate)
        folio.mapping.pages.pop(folio.index >> folio.order)
        folio.mapping = None
        folio.refcount -= folio.nr_pages

    def hugetlb_vma_maps_pfn(self, vma: VmArea, addr: int, pfn: int) -> bool:
        """Tell whether *vma* maps frame *pfn* at *addr*.

        Source: fs/hugetlbfs/inode.c, hugetlb_vma_maps_pfn()
        """
        size = self._kernel.hugetlb.hstate_vma(vma).size
        ptep = self._kernel.hugetlb.hugetlb_walk(vma, addr, size)
        if ptep is None:
            return False
        pte = self._kernel.hugetlbpage.huge_ptep_get(ptep, size)
        return pte_present(pte) and self._kernel.pgtable.pte_pfn(pte) == pfn

    def hugetlb_unmap_file_folio(self, inode: HugetlbfsInode, index: int) -> None:
        """Unmap one locked page from every VMA; a fault mapped it meanwhile.

        The fault mutex is held, so that it is mapped no more. A VMA lock that somebody
        has is waited for, in its place before i_mmap_rwsem.

        Source: fs/hugetlbfs/inode.c, hugetlb_unmap_file_folio()
        """
        hugetlb = self._kernel.hugetlb
        h = inode.hstate
        pfn = inode.mapping.pages[index].pfn
        start = index << h.order
        end = start + (1 << h.order)
        while True:
            waited: VmArea | None = None
            inode.mapping.i_mmap_rwsem.down_write()
            for vma in list(inode.mapping.i_mmap):
                span = self.vma_offsets(vma, start, end)
                if span is None or not self.hugetlb_vma_maps_pfn(vma, span[0], pfn):
                    continue
                if not hugetlb.hugetlb_vma_trylock_write(vma):
                    waited = vma
                    break
                hugetlb.unmap_hugepage_range(vma, *span, None, ZAP_FLAG_DROP_MARKER)
                hugetlb.hugetlb_vma_unlock_write(vma)
            inode.mapping.i_mmap_rwsem.up_write()
            if waited is None:
                return
            hugetlb.hugetlb_vma_lock_write(waited)
            hugetlb.hugetlb_vma_unlock_write(waited)

    def vma_offsets(
        self, vma: VmArea, start: int, end: int | None
    ) -> tuple[int, int] | None:
        """Return the addresses at which *vma* maps a range of the file, or ``None``.

        Args:
            vma: The VMA.
            start: First place, in pages.
            end: The place behind the last, or ``None`` for all that follows.

        Source: fs/hugetlbfs/inode.c, vma_offset_start() and vma_offset_end()
        """
        shift = self._kernel.pgtable.page_shift
        v_start = vma.start + (max(start - vma.pgoff, 0) << shift)
        v_end = vma.end
        if end is not None:
            v_end = min(v_end, vma.start + (end - vma.pgoff << shift))
        return (v_start, v_end) if v_start < v_end else None

    def hugetlb_vmdelete_list(
        self, inode: HugetlbfsInode, start: int, end: int | None, zap_flags: int
    ) -> None:
        """Unmap a range of the file, in pages; i_mmap_rwsem is held for writing.

        A VMA whose faults hold its lock is left to `remove_inode_hugepages`. Private
        copies go as well.

        Source: fs/hugetlbfs/inode.c, hugetlb_vmdelete_list()
        """
        hugetlb = self._kernel.hugetlb
        for vma in inode.mapping.i_mmap:
            span = self.vma_offsets(vma, start, end)
            if span is None or not hugetlb.hugetlb_vma_trylock_write(vma):
                continue
            hugetlb.unmap_hugepage_range(vma, *span, None, zap_flags)
            hugetlb.hugetlb_vma_unlock_write(vma)

    def remove_inode_single_folio(
        self,
        inode: HugetlbfsInode,
        folio: HugetlbFolio,
        index: int,
        *,
        truncate_op: bool,
    ) -> None:
        """Take one page out of a file; the fault mutex is held.

        Source: fs/hugetlbfs/inode.c, remove_inode_single_folio()
        """
        folio_lock(self._machine, folio)
        if folio.mapcount:
            self.hugetlb_unmap_file_folio(inode, index)
        self.hugetlb_delete_from_page_cache(folio)
        if not truncate_op:
            self._kernel.hugetlb.hugetlb_unreserve_pages(inode, index, index + 1, 1)
        folio_unlock(self._machine, folio)

    def remove_inode_hugepages(
        self, inode: HugetlbfsInode, lstart: int, lend: int | None
    ) -> None:
        """Take pages out of a file, with their promises.

        Truncation takes all promises back; a hole keeps those of places that had no
        page.

        Args:
            inode: The file.
            lstart: The first byte.
            lend: The one behind the last of a hole; ``None`` is truncation.

        Source: fs/hugetlbfs/inode.c, remove_inode_hugepages()
        """
        hugetlb = self._kernel.hugetlb
        shift = inode.hstate.shift
        first = lstart >> shift
        last = _EVERYTHING if lend is None else lend >> shift
        pages = inode.mapping.pages
        freed = 0
        for index in sorted(place for place in pages if first <= place < last):
            folio = pages[index]
            assert isinstance(folio, HugetlbFolio)
            folio.refcount += 1
            with hugetlb.fault_mutex(inode, index):
                self.remove_inode_single_folio(
                    inode, folio, index, truncate_op=lend is None
                )
            self._kernel.swap.folio_put(folio)
            freed += 1
        if lend is None:
            hugetlb.hugetlb_unreserve_pages(inode, first, _EVERYTHING, freed)

    def hugetlb_vmtruncate(self, inode: HugetlbfsInode, offset: int) -> None:
        """Unmap and free what lies behind byte *offset*, private copies too.

        Source: fs/hugetlbfs/inode.c, hugetlb_vmtruncate()
        """
        inode.size = offset
        first = offset >> self._kernel.pgtable.page_shift
        inode.mapping.i_mmap_rwsem.down_write()
        self.hugetlb_vmdelete_list(inode, first, None, ZAP_FLAG_DROP_MARKER)
        inode.mapping.i_mmap_rwsem.up_write()
        self.remove_inode_hugepages(inode, offset, None)

    def hugetlbfs_zero_partial_page(
        self, inode: HugetlbfsInode, start: int, end: int
    ) -> None:
        """Fill a part of one huge page with zeros, if the file has it.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_zero_partial_page()
        """
        h = inode.hstate
        folio = self._kernel.hugetlb.filemap_lock_hugetlb_folio(
            inode.mapping, start >> h.shift
        )
        if folio is None:
            return
        base = folio.pfn << self._kernel.pgtable.page_shift
        first = start & (h.size - 1)
        last = (end - 1 & (h.size - 1)) + 1
        for place in range(base + first, base + last, 8):
            self._machine.memory.write(place, 0)
        folio_unlock(self._machine, folio)
        self._kernel.swap.folio_put(folio)

    def hugetlbfs_punch_hole(
        self, inode: HugetlbfsInode, offset: int, length: int
    ) -> int:
        """Free the whole huge pages of a range, and clear the parts of others; 0.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_punch_hole()
        Deviates: Files are not sealed.
        """
        size = inode.hstate.size
        end = offset + length
        hole_start = -(-offset // size) * size
        hole_end = end // size * size
        shift = self._kernel.pgtable.page_shift
        inode.mapping.i_mmap_rwsem.down_write()
        if offset < hole_start:
            self.hugetlbfs_zero_partial_page(inode, offset, min(end, hole_start))
        if hole_end > hole_start:
            self.hugetlb_vmdelete_list(inode, hole_start >> shift, hole_end >> shift, 0)
        if end > hole_end and end > hole_start:
            self.hugetlbfs_zero_partial_page(inode, hole_end, end)
        inode.mapping.i_mmap_rwsem.up_write()
        if hole_end > hole_start:
            self.remove_inode_hugepages(inode, hole_start, hole_end)
        return 0

    def hugetlbfs_fallocate(
        self, file: File, mode: int, offset: int, length: int
    ) -> int:
        """Give every place of a range a page, or punch a hole; 0 or an error number.

        Pages that were made before memory was short stay.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_fallocate()
        Deviates: Files are not sealed, and no signal ends the work.
        """
        inode = file.inode
        assert isinstance(inode, HugetlbfsInode)
        hugetlb = self._kernel.hugetlb
        h = inode.hstate
        if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE):
            return -EOPNOTSUPP
        if mode & FALLOC_FL_PUNCH_HOLE:
            return self.hugetlbfs_punch_hole(inode, offset, length)
        mm = self._kernel.sched.current[self._machine.running.number]
        assert mm is not None
        flags = VM_HUGETLB | VM_MAYSHARE | VM_SHARED
        pseudo_vma = VmArea(mm, 0, _EVERYTHING, flags, 0, 0)
        pseudo_vma.file = file
        for index in range(offset >> h.shift, -(-(offset + length) >> h.shift)):
            with hugetlb.fault_mutex(inode, index):
                if index in inode.mapping.pages:
                    continue
                addr = index << h.shift
                folio = hugetlb.alloc_hugetlb_folio(
                    pseudo_vma, addr, cow_from_owner=False
                )
                if folio is None:
                    return -ENOSPC
                self._machine.memory.clear_frames(folio.pfn, folio.nr_pages)
                folio.flags |= PG_uptodate
                folio_lock(self._machine, folio)
                hugetlb.hugetlb_add_to_page_cache(folio, inode.mapping, index)
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
        if not mode & FALLOC_FL_KEEP_SIZE:
            inode.size = max(inode.size, offset + length)
        return 0

    def hugetlbfs_setattr(self, inode: HugetlbfsInode, size: int) -> int:
        """Give a file another size, in whole huge pages; 0 or ``-EINVAL``.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_setattr()
        Deviates: Files are not sealed.
        """
        if size & (inode.hstate.size - 1):
            return -EINVAL
        self.hugetlb_vmtruncate(inode, size)
        return 0

    def hugetlbfs_get_inode(self, name: str, hstate: Hstate) -> HugetlbfsInode:
        """Return a new, empty file of huge pages that has no name yet, and no user.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_get_inode()
        """
        self._made += 1
        lock = RwSemaphore(self._machine, f"i_mmap_rwsem of {name}")
        inode = HugetlbfsInode(name, self._files, self._pages, lock, hstate, self._made)
        self._kernel.file_table.inodes.append(inode)
        return inode

    def hugetlbfs_create(self, name: str) -> HugetlbfsInode | None:
        """Return a new file called *name*, or ``None`` if that lies under no mount.

        Source: fs/hugetlbfs/inode.c, hugetlbfs_create()
        Deviates: The deepest mount point that the name begins with is found here, as
        there are no folders.
        """
        points = [point for point in self._mounts if name.startswith(point)]
        if not points:
            return None
        return self.hugetlbfs_get_inode(name, self._mounts[max(points, key=len)])

    def hugetlb_file_setup(self, name: str, length: int, hstate: Hstate) -> File:
        """Return a new open file of *length* bytes; nothing is promised for it yet.

        Source: fs/hugetlbfs/inode.c, hugetlb_file_setup()
        Deviates: Promises are made when it is mapped, which comes at once; there is no
        limit of a mount that it could not be made under.
        """
        inode = self.hugetlbfs_get_inode(name, hstate)
        inode.size = length
        return self._kernel.file_table.alloc_file(inode)
