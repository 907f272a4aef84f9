"""Making and removing mappings: mm/mmap.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.fs.hugetlbfs.inode import HugetlbfsInode
from tlbkit.linux.include.linux.fs import FMODE_READ, FMODE_WRITE
from tlbkit.linux.include.linux.mm import (
    ULONG_MAX,
    VM_ACCOUNT,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MTE,
    VM_NORESERVE,
    VM_SHARED,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import VmArea
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EACCES,
    EEXIST,
    EINVAL,
    ENOMEM,
    EOPNOTSUPP,
    EOVERFLOW,
)
from tlbkit.linux.mm.vma import DEFAULT_MAX_MAP_COUNT

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import Unmapping
    from tlbkit.linux.include.linux.fs import File
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_SHARED_VALIDATE: Final = 0x03
MAP_TYPE: Final = 0x0F
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
MAP_HUGETLB: Final = 0x40000
MAP_FIXED_NOREPLACE: Final = 0x100000
MAP_HUGE_SHIFT: Final = 26
MAP_HUGE_MASK: Final = 0x3F
MAP_HUGE_64KB: Final = 16 << MAP_HUGE_SHIFT
MAP_HUGE_2MB: Final = 21 << MAP_HUGE_SHIFT
MAP_HUGE_32MB: Final = 25 << MAP_HUGE_SHIFT
MAP_HUGE_512MB: Final = 29 << MAP_HUGE_SHIFT
MAP_HUGE_1GB: Final = 30 << MAP_HUGE_SHIFT
MAP_HUGE_16GB: Final = 34 << MAP_HUGE_SHIFT
MAP_KNOWN: Final = (
    MAP_TYPE
    | MAP_FIXED
    | MAP_ANONYMOUS
    | MAP_NORESERVE
    | MAP_POPULATE
    | MAP_HUGETLB
    | MAP_FIXED_NOREPLACE
)
"""The flags that MAP_SHARED_VALIDATE lets pass, as far as they are here."""

MAX_LFS_FILESIZE: Final = (1 << 63) - 1
"""The bytes that a file can have at most."""
MMAP_MIN_ADDR: Final = 0x1_0000
_ULONG: Final = (1 << 64) - 1
_STACK_GAP: Final = 128 << 20


class Mmap:
    """mmap, munmap, and the end of an address space."""

    __slots__ = ("_kernel", "_pgtable", "vma_lookup")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable
        self.vma_lookup = kernel.vma.vma_lookup

    def mmap_base(self) -> int:
        """Return below which address mappings are placed; it is never random here.

        Source: mm/util.c, mmap_base()
        """
        return self._pgtable.task_size - _STACK_GAP

    # -- mmap ------------------------------------------------------------------------

    def do_mmap(
        self,
        mm: MmStruct,
        addr: int,
        length: int,
        prot: int,
        flags: int,
        file: File | None = None,
        pgoff: int = 0,
    ) -> int:
        """Map a file, or anonymous memory; return where, or a negative error number.

        Args:
            mm: The address space; its lock is held for writing.
            addr: A hint, or with MAP_FIXED the place.
            length: Rounded up to pages.
            prot: ``VM_READ``, ``VM_WRITE``, ``VM_EXEC``, ``VM_MTE`` for PROT_MTE and
                ``VM_ARM64_BTI`` for PROT_BTI.
            flags: The ``MAP_`` bits.
            file: What to map, or ``None`` for anonymous memory.
            pgoff: From which place of the file on, in pages.

        Source: mm/mmap.c, do_mmap()

        Deviates: nothing is locked in memory, no file forbids a program, swap files and
        append-only files are not told apart, and the caller faults the pages in.
        """
        shift = self._pgtable.page_shift
        if not length:
            return -EINVAL
        if flags & MAP_FIXED_NOREPLACE:
            flags |= MAP_FIXED
        if not flags & MAP_FIXED:
            addr = self.round_hint_to_min(addr)
        length = self._pgtable.page_align(length)
        if not length:
            return -ENOMEM
        if pgoff + (length >> shift) > _ULONG:
            return -EOVERFLOW
        if len(mm.vmas) > DEFAULT_MAX_MAP_COUNT:
            return -ENOMEM
        place = self.get_unmapped_area(mm, addr, length, flags, file)
        if place < 0:
            return place
        if flags & MAP_FIXED_NOREPLACE and self._overlaps(mm, place, length):
            return -EEXIST
        if file is not None and not self.file_mmap_ok(pgoff, length):
            return -EOVERFLOW
        vm_flags = prot | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
        vm_flags = self._flags_of_type(vm_flags, flags, file)
        if vm_flags < 0:
            return vm_flags
        if flags & MAP_NORESERVE:
            vm_flags |= VM_NORESERVE
        if file is None:
            pgoff = 0 if vm_flags & VM_SHARED else place >> shift
        return self.mmap_region(mm, place, length, vm_flags, file, pgoff)

    def round_hint_to_min(self, hint: int) -> int:
        """Return a hint as whole pages, and not below what processes may map.

        Source: mm/mmap.c, round_hint_to_min()
        """
        hint &= self._pgtable.page_mask
        return MMAP_MIN_ADDR if 0 < hint < MMAP_MIN_ADDR else hint

    def file_mmap_ok(self, pgoff: int, length: int) -> bool:
        """Tell whether a file can be so long that a range lies within it.

        Source: mm/mmap.c, file_mmap_ok()
        """
        maxsize = MAX_LFS_FILESIZE - length
        return maxsize >= 0 and pgoff <= maxsize >> self._pgtable.page_shift

    @staticmethod
    def _flags_of_type(vm_flags: int, flags: int, file: File | None) -> int:
        """Return *vm_flags* with those of a shared or a private mapping of *file*.

        Or a negative error number: there is no such type, or the file was opened for
        less, or cannot be mapped. Only MAP_SHARED_VALIDATE looks for flags that nobody
        knows.

        Source: mm/mmap.c, do_mmap()
        """
        kind = flags & MAP_TYPE
        if file is None:
            if kind == MAP_SHARED:
                return vm_flags | VM_SHARED | VM_MAYSHARE
            return vm_flags if kind == MAP_PRIVATE else -EINVAL
        if kind not in (MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE):
            return -EINVAL
        if kind == MAP_SHARED_VALIDATE and flags & ~MAP_KNOWN:
            return -EOPNOTSUPP
        if kind != MAP_PRIVATE:
            if vm_flags & VM_WRITE and not file.mode & FMODE_WRITE:
                return -EACCES
            vm_flags |= VM_SHARED | VM_MAYSHARE
            if not file.mode & FMODE_WRITE:
                vm_flags &= ~(VM_MAYWRITE | VM_SHARED)
        if not file.mode & FMODE_READ:
            return -EACCES
        return vm_flags

    def hugetlb_file(
        self, length: int, flags: int, file: File | None
    ) -> tuple[int, File | None] | int:
        """Return length and file of a mapping that may be of huge pages.

        MAP_HUGETLB without a file gets one; the reference is the caller's. A negative
        error number if there are no huge pages of the size asked for, or if the file
        has none. Source: ksys_mmap_pgoff().

        Source: mm/mmap.c, ksys_mmap_pgoff()
        """
        if file is not None:
            size = self._huge_size(file)
            if size:
                return -(-length // size) * size, file
            return -EINVAL if flags & MAP_HUGETLB else (length, file)
        if not flags & MAP_HUGETLB:
            return length, None
        h = self._kernel.hugetlb.hstate_sizelog(flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK)
        if h is None:
            return -EINVAL
        length = -(-length // h.size) * h.size
        made = self._kernel.hugetlbfs.hugetlb_file_setup("anon_hugepage", length, h)
        return length, made

    def get_unmapped_area(
        self,
        mm: MmStruct,
        addr: int,
        length: int,
        flags: int,
        file: File | None = None,
    ) -> int:
        """Return where a mapping can go: the highest hole that is long enough.

        A mapping of whole huge pages without a hint is aligned to one, so that it can
        have them; one of a pool's pages is aligned to those.

        Source: mm/mmap.c, __get_unmapped_area() and generic_get_unmapped_area_topdown()

        Deviates: files and shared memory are aligned to huge pages as well, whether
        they can have them or not; below the lowest VMA nothing else is tried.
        """
        pgtable = self._pgtable
        if length > pgtable.task_size:
            return -ENOMEM
        huge = self._huge_size(file)
        if huge and length & (huge - 1):
            return -EINVAL
        if huge and flags & MAP_FIXED and addr & (huge - 1):
            return -EINVAL
        if length > pgtable.task_size - MMAP_MIN_ADDR:
            return -ENOMEM
        if flags & MAP_FIXED:
            if addr > pgtable.task_size - length:
                return -ENOMEM
            return -EINVAL if addr & ~pgtable.page_mask else addr
        align = huge or pgtable.page_size
        if not huge and not addr and length % pgtable.pmd_size == 0:
            align = pgtable.pmd_size
        if addr:
            addr = -(-addr // align) * align
            if (
                addr >= MMAP_MIN_ADDR
                and addr + length <= pgtable.task_size
                and not self._overlaps(mm, addr, length)
            ):
                return addr
        top = mm.mmap_base
        for vma in reversed(mm.vmas):
            if vma.start >= top:
                continue
            place = (top - length) // align * align
            if place >= vma.end:
                return place
            top = min(top, vma.start)
        place = (top - length) // align * align
        return place if place >= MMAP_MIN_ADDR else -ENOMEM

    def _huge_size(self, file: File | None) -> int:
        """Return the bytes of the huge pages of a file, 0 if it has none.

        Source: include/linux/hugetlb.h, is_file_hugepages()
        """
        if file is None or not isinstance(file.inode, HugetlbfsInode):
            return 0
        return file.inode.hstate.size

    def _overlaps(self, mm: MmStruct, addr: int, length: int) -> bool:
        return bool(self._kernel.vma.overlapping(mm, addr, addr + length))

    def mmap_region(
        self,
        mm: MmStruct,
        addr: int,
        length: int,
        vm_flags: int,
        file: File | None = None,
        pgoff: int = 0,
    ) -> int:
        """Put a new area in place; what was mapped there before is unmapped.

        If the owner of *file* then refuses, there is nothing at all.

        Source: mm/vma.c, mmap_region()
        """
        end = addr + length
        if vm_flags & VM_MTE and not self._may_be_tagged(file):
            return -EINVAL
        if self._overlaps(mm, addr, length):
            error = self.do_munmap(mm, addr, length)
            if error:
                return error
        if vm_flags & VM_WRITE and not vm_flags & (VM_SHARED | VM_NORESERVE):
            vm_flags |= VM_ACCOUNT
        vma = VmArea(mm, addr, end, vm_flags, 0, pgoff)
        self._kernel.vma.vma_set_page_prot(vma)  # an owner may map all of it at once
        table = self._kernel.file_table
        if file is not None:
            vma.file = table.get_file(file)
            error = file.ops.mmap(file, vma)
            if error:
                table.fput(file)
                return error
        elif vm_flags & VM_SHARED:
            file = self._kernel.shmem.shmem_zero_setup(vma)
        self._kernel.vma.vma_set_page_prot(vma)
        self._kernel.vma.vma_insert(vma)
        if file is not None:
            table.fput(file)
        mm.total_vm += length >> self._pgtable.page_shift
        return addr

    @staticmethod
    def _may_be_tagged(file: File | None) -> bool:
        """Tell whether memory may have tags: no page of an ordinary file does.

        Source: arch/arm64/include/asm/mman.h, arch_validate_flags()
        """
        return (
            file is None
            or file.mapping.ops.swap_backed
            or (isinstance(file.inode, HugetlbfsInode))
        )

    # -- munmap ----------------------------------------------------------------------

    def do_munmap(
        self,
        mm: MmStruct,
        start: int,
        length: int,
        uf: list[Unmapping] | None = None,
    ) -> int:
        """Remove every mapping of a range; 0 or a negative error number.

        The lock is held for writing. Areas are cut first, so that an error changes
        nothing that user space can see. Into *uf* goes whom to tell of it once the lock
        is released; without it nobody is told.

        Source: mm/vma.c, do_vmi_munmap() and vms_gather_munmap_vmas()

        Deviates: that an owner lets no VMA be cut is found out before the first cut.
        """
        pgtable = self._pgtable
        if start & ~pgtable.page_mask or start > pgtable.task_size:
            return -EINVAL
        if length > pgtable.task_size - start:
            return -EINVAL
        end = start + pgtable.page_align(length)
        if end == start:
            return -EINVAL
        vmas = self._kernel.vma.overlapping(mm, start, end)
        if not vmas:
            return 0
        for vma, at in ((vmas[0], start), (vmas[-1], end)):
            if vma.start < at < vma.end and vma.ops is not None:
                error = vma.ops.may_split(vma, at)
                if error:
                    return error
        splits = (vmas[0].start < start) + (vmas[-1].end > end)
        if splits == 2 and len(mm.vmas) >= DEFAULT_MAX_MAP_COUNT and len(vmas) == 1:
            return -ENOMEM
        if vmas[0].start < start:
            vmas[0] = self._kernel.vma.split_vma(vmas[0], start)
        if vmas[-1].end > end:
            self._kernel.vma.split_vma(vmas[-1], end)
        if uf is not None:
            for vma in vmas:
                self._kernel.fs_userfaultfd.userfaultfd_unmap_prep(vma, start, end, uf)
        self.unmap_region(mm, vmas)
        return 0

    def unmap_region(self, mm: MmStruct, vmas: list[VmArea]) -> None:
        """Take whole, neighbouring areas out of the address space.

        Source: mm/vma.c, vms_complete_munmap_vmas() and vms_clear_ptes()
        """
        first = mm.vmas.index(vmas[0])
        after = first + len(vmas)
        floor = mm.vmas[first - 1].end if first else 0
        ceiling = (
            mm.vmas[after].start if after < len(mm.vmas) else self._pgtable.task_size
        )
        for vma in vmas:
            self._kernel.mmap_lock.vma_start_write(vma)
        del mm.vmas[first:after]
        gather = self._kernel.gather
        tlb = gather.tlb_gather_mmu(mm)
        self._kernel.memory.unmap_vmas(tlb, vmas, vmas[0].start, vmas[-1].end)
        self._kernel.memory.free_pgtables(tlb, vmas, floor, ceiling)
        gather.tlb_finish_mmu(tlb)
        for vma in vmas:
            self._kernel.vma.remove_vma(vma)
            mm.total_vm -= (vma.end - vma.start) >> self._pgtable.page_shift

    def exit_mmap(self, mm: MmStruct) -> None:
        """Remove everything, because nobody uses the address space any more.

        Source: mm/mmap.c, exit_mmap()
        """
        gather = self._kernel.gather
        vmas, mm.vmas = mm.vmas, []
        tlb = gather.tlb_gather_mmu_fullmm(mm)
        self._kernel.memory.unmap_vmas(tlb, vmas, 0, ULONG_MAX)
        self._kernel.memory.free_pgtables(tlb, vmas, 0, self._pgtable.task_size)
        gather.tlb_finish_mmu(tlb)
        for vma in vmas:
            self._kernel.vma.remove_vma(vma)
        mm.total_vm = 0
