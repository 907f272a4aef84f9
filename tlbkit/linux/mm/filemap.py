"""The page cache, and faults that find their pages in it: mm/filemap.c.

Left out: readahead beyond the folio that is asked for, reads that take time (a page is
read in while the fault waits, and the mmap lock is kept), and the eviction of pages
that nobody has used for long.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pmd_trans_huge, pte_none
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_LOCKED,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VmOperations,
)
from tlbkit.linux.include.linux.mm_types import (
    PG_dirty,
    PG_locked,
    PG_referenced,
    PG_swapbacked,
    PG_uptodate,
)
from tlbkit.linux.include.linux.pagemap import (
    folio_lock,
    folio_trylock,
    folio_unlock,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EEXIST, ENOMEM

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import AddressSpace, File, Inode
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea, VmFault
    from tlbkit.linux.kernel.kernel import Kernel


class GenericFileVmOperations(VmOperations):
    """What areas that map files of ordinary file systems do: generic_file_vm_ops."""

    __slots__ = ("_filemap",)

    def __init__(self, filemap: Filemap) -> None:
        self._filemap = filemap

    def fault(self, vmf: VmFault) -> int:
        """Find the page, or read it in.

        Source: mm/filemap.c, filemap_fault()
        """
        return self._filemap.filemap_fault(vmf)

    def map_pages(self, vmf: VmFault, first: int, last: int) -> int:
        """Map what is in memory around the fault.

        Source: mm/filemap.c, filemap_map_pages()
        """
        return self._filemap.filemap_map_pages(vmf, first, last)

    def page_mkwrite(self, vmf: VmFault) -> int:
        """Be told that a page of a shared mapping is about to be written.

        Source: mm/filemap.c, filemap_page_mkwrite()
        """
        return self._filemap.filemap_page_mkwrite(vmf)


class Filemap:
    """Finds, adds and removes pages of files.

    Attributes:
        vm_ops: What areas do that map files of ordinary file systems.
    """

    __slots__ = ("_kernel", "_machine", "_pgtable", "vm_ops")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable
        self.vm_ops = GenericFileVmOperations(self)

    # -- the page cache --------------------------------------------------------------

    def pages_in_file(self, inode: Inode) -> int:
        """Return how many pages a file has; the last one may be begun only.

        Source: none; it is a size that is read and rounded up in many places.
        """
        return -(-inode.size >> self._pgtable.page_shift)

    @staticmethod
    def filemap_get_folio(mapping: AddressSpace, index: int) -> Folio | None:
        """Return the folio at a place of a file, with a reference, or ``None``.

        Source: include/linux/pagemap.h, filemap_get_folio()
        """
        folio = mapping.pages.get(index)
        if folio is not None:
            folio.refcount += 1
        return folio

    def filemap_alloc_folio(self, mapping: AddressSpace, index: int) -> Folio | None:
        """Return a new folio for a place of a file, locked; ``None`` without memory.

        It is as large as the mapping wants it, if there is room for all of it between
        its neighbours and the end of the file.

        Source: include/linux/pagemap.h, filemap_alloc_folio()
        """
        alloc = self._kernel.page_alloc.alloc
        for order in range(mapping.folio_order, 0, -1):
            first = index & -(1 << order)
            if first + (1 << order) > self.pages_in_file(mapping.host):
                continue
            if mapping.folios(first, first + (1 << order) - 1):
                continue
            folio = alloc(order)
            if folio is not None:
                folio.index = first
                folio_lock(self._machine, folio)
                return folio
        folio = alloc()
        if folio is not None:
            folio.index = index
            folio_lock(self._machine, folio)
        return folio

    def filemap_add_folio(self, mapping: AddressSpace, folio: Folio) -> int:
        """Add a locked folio at its index; the page cache holds it once for each page.

        The caller's own reference stays. It is one step, as under the lock of the
        kernel's tree.

        Returns:
            0, or ``-EEXIST`` if somebody else was faster.

        Source: mm/filemap.c, filemap_add_folio()
        """
        if mapping.folios(folio.index, folio.index + folio.nr_pages - 1):
            return -EEXIST
        folio.mapping = mapping
        folio.refcount += folio.nr_pages
        if mapping.ops.swap_backed:
            folio.flags |= PG_swapbacked
        for page in range(folio.nr_pages):
            mapping.pages[folio.index + page] = folio
        self._kernel.swap.folio_add_lru(folio)
        return 0

    def filemap_remove_folio(self, folio: Folio) -> None:
        """Take a locked folio that nobody maps out of its file.

        Source: mm/filemap.c, filemap_remove_folio()
        """
        mapping: AddressSpace = folio.mapping
        for page in range(folio.nr_pages):
            del mapping.pages[folio.index + page]
        folio.mapping = None
        folio.flags &= ~PG_dirty
        for _ in range(folio.nr_pages):
            self._kernel.swap.folio_put(folio)

    def read_mapping_folio(self, mapping: AddressSpace, index: int) -> Folio | int:
        """Return the folio of a place with a reference, read in if need be.

        Or a negative error number.

        Source: include/linux/pagemap.h, read_mapping_folio(), and mm/filemap.c,
        do_read_cache_folio()
        Deviates: whoever comes while it is read in waits for its lock, and reads it
        again if that failed; the kernel then waits without a reference.
        """
        while True:
            folio = self.filemap_get_folio(mapping, index)
            if folio is not None:
                if folio.flags & PG_uptodate:
                    return folio
                folio_lock(self._machine, folio)
                folio_unlock(self._machine, folio)
                if folio.flags & PG_uptodate:
                    return folio
                self._kernel.swap.folio_put(folio)
                continue
            folio = self.filemap_alloc_folio(mapping, index)
            if folio is None:
                return -ENOMEM
            if not self.filemap_add_folio(mapping, folio):
                return self._read_folio(mapping, folio)
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)

    def _read_folio(self, mapping: AddressSpace, folio: Folio) -> Folio | int:
        """Read a new folio in, and unlock it; or take it out again."""
        error = mapping.ops.read_folio(mapping, folio)
        if error:
            self.filemap_remove_folio(folio)
            self._kernel.swap.lru_add_drain()
        else:
            folio.flags |= PG_uptodate
        folio_unlock(self._machine, folio)
        if error:
            self._kernel.swap.folio_put(folio)
            return error
        return folio

    @staticmethod
    def folio_mark_accessed(folio: Folio) -> None:
        """Note that a folio was used.

        Source: mm/swap.c, folio_mark_accessed()
        """
        folio.flags |= PG_referenced

    # -- faults ----------------------------------------------------------------------

    def generic_file_mmap(self, file: File, vma: VmArea) -> int:
        """Let *vma* map the pages of a file of an ordinary file system.

        Source: mm/filemap.c, generic_file_mmap()
        """
        del file
        vma.ops = self.vm_ops
        return 0

    def filemap_fault(self, vmf: VmFault) -> int:
        """Leave the page of a fault in ``vmf.page``, locked and with a reference.

        Beyond the end of the file there is none: SIGBUS.

        Source: mm/filemap.c, filemap_fault()
        Deviates: no lock of the file (invalidate_lock) keeps truncation off while a
        page is read in; that the page is still the file's, and within it, is asked
        under its own.
        """
        assert vmf.vma.file is not None
        mapping: AddressSpace = vmf.vma.file.mapping
        while True:
            if vmf.pgoff >= self.pages_in_file(mapping.host):
                return VM_FAULT_SIGBUS
            folio = self.read_mapping_folio(mapping, vmf.pgoff)
            if isinstance(folio, int):
                return VM_FAULT_OOM if folio == -ENOMEM else VM_FAULT_SIGBUS
            folio_lock(self._machine, folio)
            if folio.mapping is mapping:
                break
            folio_unlock(self._machine, folio)  # truncated while this waited
            self._kernel.swap.folio_put(folio)
        if vmf.pgoff >= self.pages_in_file(mapping.host):
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
            return VM_FAULT_SIGBUS
        vmf.page = folio
        return VM_FAULT_LOCKED

    def filemap_map_pages(self, vmf: VmFault, first: int, last: int) -> int:
        """Map pages of the file that are in memory, from place *first* to *last*.

        Only empty entries are filled, and no folio is waited for. ``VM_FAULT_NOPAGE``
        if the page of the fault is among them.

        Source: mm/filemap.c, filemap_map_pages()
        """
        vma = vmf.vma
        pgtable = self._pgtable
        assert vma.file is not None
        mapping: AddressSpace = vma.file.mapping
        last = min(last, self.pages_in_file(mapping.host) - 1)
        done = 0
        addr = vmf.address + (first - vmf.pgoff) * pgtable.page_size
        ready = (
            folio
            for folio in mapping.folios(first, last)
            if self._hold_uptodate_folio(mapping, folio)
        )
        folio = next(ready, None)
        if folio is None:
            return 0
        mapped = self.filemap_map_pmd(vmf)
        found = None
        if not mapped:
            generic = self._kernel.pgtable_generic
            found = generic.pte_offset_map_lock(vma.mm, vmf.pmd, addr)
        if found is None:
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
            return VM_FAULT_NOPAGE if mapped else 0
        start_pte, ptl = found
        while folio is not None:
            begin = max(first, folio.index)
            end = min(last, self.pages_in_file(mapping.host) - 1)
            count = min(end, folio.index + folio.nr_pages - 1) + 1 - begin
            vmf.pte = start_pte + (begin - first) * SLOT
            done |= self.filemap_map_folio_range(vmf, folio, begin, count)
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
            folio = next(ready, None)
        ptl.release()
        return done

    def filemap_map_pmd(self, vmf: VmFault) -> bool:
        """Tell whether a huge page was faster; install the table that was set aside.

        Source: mm/filemap.c, filemap_map_pmd()
        Deviates: no folio of the page cache is mapped by a PMD entry. The table is
        installed also for the last folio of a file, which v6.18 leaves to the fault.
        """
        pmd = self._pgtable.read(vmf.pmd)
        if pmd_trans_huge(pmd):
            return True
        if pte_none(pmd) and vmf.prealloc_pte is not None:
            memory = self._kernel.memory
            if memory.pmd_install(vmf.vma.mm, vmf.pmd, vmf.prealloc_pte):
                vmf.prealloc_pte = None
        return False

    def _hold_uptodate_folio(self, mapping: AddressSpace, folio: Folio) -> bool:
        """Take a reference to a folio, and its lock, unless it has left its file.

        Source: mm/filemap.c, next_uptodate_folio()
        Deviates: it looks at one folio; which is next, its caller knows.
        """
        if folio.flags & PG_locked or mapping.pages.get(folio.index) is not folio:
            return False
        if not folio.flags & PG_uptodate:
            return False
        folio.refcount += 1
        if folio_trylock(folio):
            if folio.mapping is mapping and folio.flags & PG_uptodate:
                return True
            folio_unlock(self._machine, folio)
        self._kernel.swap.folio_put(folio)
        return False

    def filemap_map_folio_range(
        self, vmf: VmFault, folio: Folio, index: int, nr: int
    ) -> int:
        """Map those of *nr* pages of a folio whose entries are empty, run by run.

        Source: mm/filemap.c, filemap_map_folio_range()
        """
        pgtable = self._pgtable
        page_size = pgtable.page_size
        start = vmf.address + (index - vmf.pgoff) * page_size
        ptep = vmf.pte
        assert ptep is not None
        done = run = 0
        for page in range(nr + 1):
            if page < nr and not pgtable.read(ptep + page * SLOT):
                run += 1
                continue
            if run:
                at = page - run
                addr = start + at * page_size
                pfn = folio.pfn + index + at - folio.index
                vmf.pte = ptep + at * SLOT
                self._kernel.memory.set_pte_range(vmf, folio, pfn, run, addr)
                self._kernel.swap.inc_file_counter(vmf.vma.mm, folio, run)
                folio.refcount += run
                if addr <= vmf.address < addr + run * page_size:
                    done = VM_FAULT_NOPAGE
            run = 0
        return done

    def filemap_page_mkwrite(self, vmf: VmFault) -> int:
        """Note that a clean page of a shared mapping is about to be written.

        ``VM_FAULT_LOCKED``, with the folio locked and dirty; ``VM_FAULT_NOPAGE`` if it
        belongs to the file no more.

        Source: mm/filemap.c, filemap_page_mkwrite()
        """
        folio = vmf.page
        assert folio is not None
        assert vmf.vma.file is not None
        folio_lock(self._machine, folio)
        if folio.mapping is not vmf.vma.file.mapping:
            folio_unlock(self._machine, folio)
            return VM_FAULT_NOPAGE
        self._kernel.page_writeback.folio_mark_dirty(folio)
        return VM_FAULT_LOCKED

    # -- read and write --------------------------------------------------------------

    def filemap_read(self, file: File, offset: int) -> int | None:
        """Return the 64-bit word at byte *offset*, ``None`` at the end of the file.

        Source: mm/filemap.c, filemap_read()
        """
        mapping = file.mapping
        if offset + 8 > mapping.host.size:
            return None
        shift = self._pgtable.page_shift
        folio = self.read_mapping_folio(mapping, offset >> shift)
        if isinstance(folio, int):
            return folio
        pfn = folio.pfn + (offset >> shift) - folio.index
        place = (pfn << shift) + offset % self._pgtable.page_size
        value = self._machine.memory.read(place)
        self._kernel.swap.folio_put(folio)
        return value

    def generic_perform_write(self, file: File, offset: int, value: int) -> int:
        """Store a 64-bit word at byte *offset*, also beyond the end of the file.

        Returns:
            0, or a negative error number.

        Source: mm/filemap.c, generic_perform_write()
        Deviates: the file grows before the word is there, and not after; and its page
        is read in also where all of it is new.
        """
        mapping = file.mapping
        inode = mapping.host
        shift = self._pgtable.page_shift
        size = inode.size
        inode.size = max(size, offset + 8)
        while True:
            folio = self.read_mapping_folio(mapping, offset >> shift)
            if isinstance(folio, int):
                inode.size = size
                return folio
            folio_lock(self._machine, folio)
            if folio.mapping is mapping:
                break
            folio_unlock(self._machine, folio)  # reclaimed while this waited
            self._kernel.swap.folio_put(folio)
        pfn = folio.pfn + (offset >> shift) - folio.index
        place = (pfn << shift) + offset % self._pgtable.page_size
        self._machine.memory.write(place, value)
        self._kernel.page_writeback.folio_mark_dirty(folio)
        folio_unlock(self._machine, folio)
        self._kernel.swap.folio_put(folio)
        return 0
