"""Memory that processes share, as files without a disk: mm/shmem.c.

Shared anonymous memory is a file of this kind that has no name, and so is what
`memfd_create` returns. Its pages have no place but swap to go to. Left out: swap of
such pages, mounts and their limits, blocks (huge=), and seals.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.fs import (
    AddressSpaceOperations,
    FileOperations,
)
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_LOCKED,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_UFFD_MINOR,
    VM_UFFD_MISSING,
    VmOperations,
)
from tlbkit.linux.include.linux.mm_types import PG_uptodate
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_unlock
from tlbkit.linux.include.linux.userfaultfd_k import (
    MFILL_ATOMIC_COPY,
    uffd_flags_mode_is,
    userfaultfd_minor,
    userfaultfd_missing,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EFAULT,
    EINVAL,
    ENOENT,
    ENOMEM,
)
from tlbkit.linux.include.uapi.linux.falloc import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
)
from tlbkit.linux.mm.page_io import AOP_WRITEPAGE_ACTIVATE

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import AddressSpace, File, Inode
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea, VmFault
    from tlbkit.linux.kernel.kernel import Kernel


class ShmemVmOperations(VmOperations):
    """What areas of shared memory do: shmem_vm_ops."""

    __slots__ = ("_kernel",)
    is_shmem = True

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def fault(self, vmf: VmFault) -> int:
        """Find the page, or make it.

        Source: mm/shmem.c, shmem_fault()
        """
        return self._kernel.shmem.shmem_fault(vmf)

    def map_pages(self, vmf: VmFault, first: int, last: int) -> int:
        """Map what is in memory around the fault.

        Source: mm/filemap.c, filemap_map_pages()
        """
        return self._kernel.filemap.filemap_map_pages(vmf, first, last)


class ShmemPages(AddressSpaceOperations):
    """The pages of shared memory: shmem_aops."""

    __slots__ = ("_kernel",)
    swap_backed = True

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def read_folio(self, mapping: AddressSpace, folio: Folio) -> int:
        """Clear a folio: what was never written is zeros.

        Source: mm/shmem.c, shmem_get_folio_gfp()
        """
        del mapping
        for pfn in range(folio.pfn, folio.pfn + folio.nr_pages):
            self._kernel.machine.memory.clear_frame(pfn)
        return 0


class ShmemFiles(FileOperations):
    """Open files of shared memory: shmem_file_operations."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def mmap(self, file: File, vma: VmArea) -> int:
        """Let an area map the pages of the file.

        Source: mm/shmem.c, shmem_mmap()
        """
        del file
        vma.ops = self._kernel.shmem.vm_ops
        return 0

    def read_iter(self, file: File, offset: int) -> int | None:
        """Return a word of the file.

        Source: mm/shmem.c, shmem_file_read_iter()
        """
        return self._kernel.filemap.filemap_read(file, offset)

    def write_iter(self, file: File, offset: int, value: int) -> int:
        """Store a word, also beyond the end of the file.

        Source: mm/shmem.c, shmem_file_write_iter()
        """
        return self._kernel.filemap.generic_perform_write(file, offset, value)

    def fsync(self, file: File, start: int, end: int) -> int:
        """Do nothing: there is nowhere to write to.

        Source: fs/libfs.c, noop_fsync()
        """
        del file, start, end
        return 0

    def fallocate(self, file: File, mode: int, offset: int, length: int) -> int:
        """Fill a range of the file with pages, or punch a hole into it.

        Source: mm/shmem.c, shmem_file_operations
        """
        return self._kernel.shmem.shmem_fallocate(file, mode, offset, length)

    def truncate(self, inode: Inode, size: int) -> int:
        """Give the file another size.

        Source: mm/shmem.c, shmem_setattr()
        """
        self._kernel.truncate.truncate_setsize(inode, size)
        return 0

    def evict(self, inode: Inode) -> None:
        """Free all pages.

        Source: mm/shmem.c, shmem_evict_inode()
        """
        self._kernel.truncate.truncate_inode_pages(inode.mapping, 0)


class Shmem:
    """Makes files of shared memory, and their pages.

    Attributes:
        vm_ops: What areas do that map such files.
    """

    __slots__ = ("_files", "_kernel", "_machine", "_pages", "vm_ops")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._files = ShmemFiles(kernel)
        self._pages = ShmemPages(kernel)
        self.vm_ops = ShmemVmOperations(kernel)

    def shmem_file_setup(self, name: str, size: int) -> File:
        """Return a new open file of *size* bytes that has no name to open it by.

        Source: mm/shmem.c, shmem_file_setup()
        """
        table = self._kernel.file_table
        inode = table.new_inode(name, self._files, self._pages)
        inode.size = size
        return table.alloc_file(inode)

    def shmem_zero_setup(self, vma: VmArea) -> File:
        """Give a new shared area that maps no file one of its own; return it.

        The reference is the caller's.

        Source: mm/shmem.c, shmem_zero_setup()
        """
        file = self.shmem_file_setup("dev/zero", vma.end - vma.start)
        vma.file = file
        vma.ops = self.vm_ops
        return file

    def shmem_fault(self, vmf: VmFault) -> int:
        """Leave the page of a fault in ``vmf.page``, locked and with a reference.

        Whoever watches the area is asked for a page that is missing, or told of one
        that is there but not mapped.

        Source: mm/shmem.c, shmem_fault()
        """
        vma = vmf.vma
        assert vma.file is not None
        mapping = vma.file.mapping
        filemap = self._kernel.filemap
        if vmf.pgoff >= filemap.pages_in_file(mapping.host):
            return VM_FAULT_SIGBUS
        watch = self._kernel.fs_userfaultfd
        folio = filemap.filemap_get_folio(mapping, vmf.pgoff)
        if folio is not None and userfaultfd_minor(vma):
            self._kernel.swap.folio_put(folio)
            return watch.handle_userfault(vmf, VM_UFFD_MINOR)
        if folio is None:
            if userfaultfd_missing(vma):
                return watch.handle_userfault(vmf, VM_UFFD_MISSING)
            made = filemap.read_mapping_folio(mapping, vmf.pgoff)
            if isinstance(made, int):
                return VM_FAULT_OOM
            folio = made
        folio_lock(self._machine, folio)
        if folio.mapping is not mapping:  # truncated while this waited
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
            return self.shmem_fault(vmf)
        assert folio.flags & PG_uptodate
        vmf.page = folio
        return VM_FAULT_LOCKED

    def shmem_fallocate(self, file: File, mode: int, offset: int, length: int) -> int:
        """Give every place of a range a page, or punch a hole; 0 or ``-ENOMEM``.

        Without memory, the pages that it made are taken out again.

        Source: mm/shmem.c, shmem_fallocate()
        Deviates: files are not sealed and not larger than memory; nobody faults on a
        range while it is being punched, so that nobody waits for the end of that.
        """
        inode = file.inode
        if mode & FALLOC_FL_PUNCH_HOLE:
            end = offset + length - 1
            self._kernel.truncate.truncate_pagecache_range(inode, offset, end)
            return 0
        shift = self._kernel.pgtable.page_shift
        made: list[int] = []
        for index in range(offset >> shift, -(-(offset + length) >> shift)):
            new = index not in inode.mapping.pages
            folio = self._kernel.filemap.read_mapping_folio(inode.mapping, index)
            if isinstance(folio, int):
                for place in made:  # shmem_undo_range()
                    self._kernel.truncate.truncate_inode_pages_range(
                        inode.mapping, place << shift, (place + 1 << shift) - 1
                    )
                return folio
            made += [index] * new
            self._kernel.page_writeback.folio_mark_dirty(folio)
            self._kernel.swap.folio_put(folio)
        if not mode & FALLOC_FL_KEEP_SIZE:
            inode.size = max(inode.size, offset + length)
        return 0

    def shmem_writeout(self, folio: Folio) -> int:
        """Leave a locked folio dirty: AOP_WRITEPAGE_ACTIVATE.

        It was unmapped already; whoever needs it finds it in the file by a fault.

        Source: mm/shmem.c, shmem_writeout()
        Deviates: shared memory is never swapped, as on a mount with the option noswap.
        """
        self._kernel.page_writeback.folio_mark_dirty(folio)
        return AOP_WRITEPAGE_ACTIVATE

    def shmem_add_to_page_cache(self, vma: VmArea, folio: Folio, index: int) -> int:
        """Let the file of *vma* have a page that was filled already, and lock it.

        Returns:
            0, ``-EEXIST`` if it has one, or ``-EFAULT`` beyond its end.

        Source: mm/shmem.c, shmem_add_to_page_cache()
        """
        assert vma.file is not None
        mapping = vma.file.mapping
        filemap = self._kernel.filemap
        if index >= filemap.pages_in_file(mapping.host):
            return -EFAULT
        folio_lock(self._machine, folio)
        folio.index = index
        folio.flags |= PG_uptodate
        error = filemap.filemap_add_folio(mapping, folio)
        if error:
            folio_unlock(self._machine, folio)
        return error

    def shmem_get_folio_noalloc(self, inode: Inode, index: int) -> Folio | int:
        """Return the folio at a place of a file, locked and with a reference.

        Returns:
            The folio; ``-EINVAL`` beyond the end of the file, ``-ENOENT`` in a hole.

        Source: mm/shmem.c, shmem_get_folio()
        Deviates: it is the case SGP_NOALLOC alone.
        """
        filemap = self._kernel.filemap
        mapping = inode.mapping
        while True:
            if index >= filemap.pages_in_file(inode):
                return -EINVAL
            folio = filemap.filemap_get_folio(mapping, index)
            if folio is None:
                return -ENOENT
            folio_lock(self._machine, folio)
            if folio.mapping is mapping:
                return folio
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)

    def shmem_mfill_atomic_pte(
        self,
        dst_pmd: int,
        dst_vma: VmArea,
        dst_addr: int,
        src_addr: int,
        flags: int,
        folio: Folio | None,
    ) -> tuple[int, Folio | None]:
        """Fill one page of shared memory: the file gets it, and then the VMA.

        Args:
            dst_pmd: Where the PMD stands.
            dst_vma: Locked for reading.
            dst_addr: Of the page.
            src_addr: Where its contents are, in user space, unless *flags* say zeros.
            flags: The ``MFILL_ATOMIC_`` bits.
            folio: The new page, if its contents were copied meanwhile.

        Returns:
            0 or a negative error number: ``-ENOENT`` and the new page if the source
            cannot be read without a fault.

        Source: mm/shmem.c, shmem_mfill_atomic_pte()
        """
        kernel = self._kernel
        pgoff = kernel.rmap.linear_page_index(dst_vma, dst_addr)
        if folio is None:
            folio = kernel.page_alloc.alloc()
            if folio is None:
                return -ENOMEM, None
            if not uffd_flags_mode_is(flags, MFILL_ATOMIC_COPY):
                self._machine.memory.clear_frame(folio.pfn)
            elif kernel.userfaultfd.copy_folio_from_user(
                folio, src_addr, allow_pagefault=False
            ):
                return -ENOENT, folio
        ret = self.shmem_add_to_page_cache(dst_vma, folio, pgoff)
        if not ret:
            ret = kernel.userfaultfd.mfill_atomic_install_pte(
                dst_pmd, dst_vma, dst_addr, folio.pfn, flags
            )
            if ret:
                kernel.filemap.filemap_remove_folio(folio)
                kernel.swap.lru_add_drain()
            folio_unlock(self._machine, folio)
        if ret:
            kernel.swap.folio_put(folio)
        return ret, None
