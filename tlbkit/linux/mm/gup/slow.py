"""The slow way: under the mmap lock, faulting in what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pmd_table,
    pmd_trans_huge,
    pte_dirty,
    pte_present,
    pte_write,
)
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_KILLABLE,
    FAULT_FLAG_TRIED,
    FAULT_FLAG_UNSHARE,
    FAULT_FLAG_WRITE,
    FOLL_DUMP,
    FOLL_GET,
    FOLL_LONGTERM,
    FOLL_PIN,
    FOLL_WRITE,
    VM_ACCESS_FLAGS,
    VM_FAULT_COMPLETED,
    VM_FAULT_ERROR,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_IO,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EEXIST,
    EFAULT,
    EINTR,
    EINVAL,
    ENOMEM,
)
from tlbkit.linux.mm.gup.pins import GupPins

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, Page, VmArea

_MISSING: Final = -1
"""No entry allows what is wanted: a fault is due."""
_UNSHARE: Final = -2
"""The page must be made exclusive first: a fault of another kind is due."""
_NO_PAGE: Final = -3
"""A frame is mapped that is no page."""
_ZEROS: Final = -4
"""A page of zeros, which is not wanted."""
_ERRORS: Final = {_NO_PAGE: -EEXIST, _ZEROS: -EFAULT}


class GupSlow(GupPins):
    """Finding pages under locks."""

    __slots__ = ()

    def get_user_pages_unlocked(
        self, mm: MmStruct, start: int, nr: int, flags: int
    ) -> list[Page] | int:
        """Take *nr* pages under the lock of the address space, which is taken here."""
        mm.mmap_lock.down_read()
        pages = self.get_user_pages_(mm, start, nr, flags)
        mm.mmap_lock.up_read()
        return pages

    def get_user_page(
        self, mm: MmStruct, addr: int, *, write: bool = False, dump: bool = False
    ) -> Folio | int:
        """Take a reference to the page at *addr*; return its folio or an error number.

        Args:
            mm: The address space; its lock is held for reading.
            addr: Any address.
            write: The page is to be written through the reference.
            dump: It is for a core dump, which leaves out what is full of zeros.
        """
        flags = FOLL_GET | FOLL_WRITE * write | FOLL_DUMP * dump
        pages = self.get_user_pages_(mm, addr & self._pgtable.page_mask, 1, flags)
        if isinstance(pages, int):
            return pages
        return self._kernel.page_alloc.folio_of(pages[0])

    def get_user_pages_(
        self, mm: MmStruct, start: int, nr: int, flags: int
    ) -> list[Page] | int:
        """Take *nr* pages, faulting them in: __get_user_pages().

        Returns:
            The pages, perhaps fewer than asked; or a negative error number if none.
        """
        size = self._pgtable.page_size
        pages: list[Page] = []
        tried = 0
        while len(pages) < nr:
            addr = start + len(pages) * size
            vma = self._kernel.vma.vma_lookup(mm, addr)
            if vma is None or not self.check_vma_flags(vma, flags):
                return pages or -EFAULT
            found = self.follow_page(vma, addr, flags)
            if found >= 0:
                pages.append(found)
                tried = 0
                continue
            if found in _ERRORS:
                return pages or _ERRORS[found]
            unshare = FAULT_FLAG_UNSHARE if found == _UNSHARE else 0
            error, tried = self.faultin_page(vma, addr, flags, unshare | tried)
            if error:
                return pages or error
        return pages

    def check_vma_flags(self, vma: VmArea, flags: int) -> bool:
        """Tell whether pages of an area may be taken at all."""
        if vma.flags & (VM_IO | VM_PFNMAP):
            return False
        if not flags & FOLL_WRITE:
            return bool(vma.flags & VM_READ)
        long_pin = flags & FOLL_PIN and flags & FOLL_LONGTERM
        if long_pin and self._kernel.vma.vma_needs_dirty_tracking(vma):
            return False  # the file would not see what the device writes
        return bool(vma.flags & VM_WRITE)

    def faultin_page(
        self, vma: VmArea, addr: int, flags: int, fault_flags: int
    ) -> tuple[int, int]:
        """Fault on behalf of who wants the page.

        Returns:
            0 or a negative error number; and ``FAULT_FLAG_TRIED`` if the handler has
            waited for somebody, so that it does so no second time.
        """
        fault_flags |= FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE
        if flags & FOLL_WRITE:
            fault_flags |= FAULT_FLAG_WRITE
        mm = vma.mm
        result = self._kernel.memory.handle_mm_fault(vma, addr, fault_flags)
        if result & (VM_FAULT_COMPLETED | VM_FAULT_RETRY):
            mm.mmap_lock.down_read()  # the handler has released it
            return 0, FAULT_FLAG_TRIED if result & VM_FAULT_RETRY else 0
        if result & VM_FAULT_OOM:
            return -ENOMEM, 0
        return (-EFAULT if result & VM_FAULT_ERROR else 0), 0

    # -- what is mapped --------------------------------------------------------------

    def follow_page(self, vma: VmArea, addr: int, flags: int) -> int:
        """Take the page that is mapped at an address: follow_page_mask().

        Returns:
            The page; or a negative number that says why there is none.
        """
        pgtable = self._pgtable
        mm = vma.mm
        pgdp = pgtable.pgd_offset(mm, addr)
        if not pgtable.folded_pud and not pmd_table(pgtable.read(pgdp)):
            return _MISSING
        pudp = pgtable.pud_offset(pgdp, addr)
        pud = pgtable.read(pudp)
        if pmd_leaf(pud):
            with self._kernel.memory.pud_lockptr(mm):
                pud = pgtable.read(pudp)
                offset = (addr & (pgtable.pud_size - 1)) >> pgtable.page_shift
                page = pgtable.pud_pfn(pud) + offset
                return self._take(vma, pud, page if pmd_leaf(pud) else None, flags)
        if not pmd_table(pud):
            return _MISSING
        pmdp = pgtable.pmd_offset(pudp, addr)
        pmd = pgtable.read(pmdp)
        if not pmd_table(pmd):
            with self._kernel.memory.pmd_lockptr(pmdp):
                pmd = pgtable.read(pmdp)
                if flags & FOLL_DUMP and self._kernel.huge_memory.is_huge_zero_pmd(pmd):
                    return _ZEROS
                offset = (addr & (pgtable.pmd_size - 1)) >> pgtable.page_shift
                page = pgtable.pmd_pfn(pmd) + offset
                return self._take(vma, pmd, page if pmd_leaf(pmd) else None, flags)
        return self.follow_page_pte(vma, addr, pmdp, pmd, flags)

    def follow_page_pte(
        self, vma: VmArea, addr: int, pmdp: int, pmd: int, flags: int
    ) -> int:
        """Take the page that a page entry maps."""
        pgtable = self._pgtable
        memory = self._kernel.memory
        with memory.pte_lockptr(pmd):
            if pgtable.read(pmdp) != pmd:
                return _MISSING
            pte = pgtable.ptep_get(pgtable.pte_offset_lockless(pmd, addr))
            if not pte_present(pte):
                return _MISSING
            page = memory.vm_normal_page(vma, addr, pte)
            if flags & FOLL_WRITE and not pte_write(pte):
                return _MISSING
            if page is None:
                if flags & FOLL_DUMP:
                    return _ZEROS
                page = pgtable.pte_pfn(pte)
                if not memory.is_zero_pfn(page):
                    return _NO_PAGE
            return self._take(vma, pte, page, flags)

    def _take(self, vma: VmArea, entry: int, page: Page | None, flags: int) -> int:
        """Take a page whose entry cannot change now, if the entry allows it."""
        if page is None or (flags & FOLL_WRITE and not pte_write(entry)):
            return _MISSING
        folio = self._kernel.page_alloc.folio_of(page)
        if not pte_write(entry) and self.gup_must_unshare(vma, flags, folio, page):
            return _UNSHARE
        self.try_grab_folio(folio, 1, flags)
        if flags & FOLL_WRITE and not pte_dirty(entry):
            self._kernel.page_writeback.folio_mark_dirty(folio)
        self._kernel.filemap.folio_mark_accessed(folio)
        return page

    # -- MAP_POPULATE and MADV_POPULATE ----------------------------------------------

    def faultin_page_range(
        self, mm: MmStruct, start: int, end: int, *, write: bool
    ) -> int:
        """Fault in every page of [start, end), for a write or a read; 0 or an error.

        ``-ENOMEM`` where nothing is mapped or no memory is left, ``-EINVAL`` for an
        area that does not allow it, ``-EFAULT`` if an access would be a signal. The
        mmap lock is held for reading; it may be released and taken again meanwhile.
        """
        flags = FOLL_WRITE if write else 0
        for addr in range(start, end, self._pgtable.page_size):
            tried = 0
            while not self._present(mm, addr, write=write):
                vma = self._kernel.vma.vma_lookup(mm, addr)
                if vma is None:
                    return -ENOMEM
                if not self.check_vma_flags(vma, flags):
                    return -EINVAL
                if self._kernel.sched.fatal_signal_pending(mm):
                    return -EINTR
                error, tried = self.faultin_page(vma, addr, flags, tried)
                if error:
                    return error
        return 0

    def mm_populate(self, mm: MmStruct, start: int, length: int) -> None:
        """Fault in what [start, start + length) maps; who cannot be is left alone.

        Private writable areas get their copies at once; shared ones are only read, so
        that nobody takes their pages for written.
        """
        kernel = self._kernel
        pgtable = self._pgtable
        mm.mmap_lock.down_read()
        for vma in kernel.vma.overlapping(mm, start, start + length):
            if not vma.flags & VM_ACCESS_FLAGS or vma.flags & (VM_IO | VM_PFNMAP):
                continue
            private = vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE
            flags = FAULT_FLAG_WRITE if private else 0
            last = min(vma.end, start + length)
            for addr in range(max(vma.start, start), last, pgtable.page_size):
                if not self._present(mm, addr, write=private) and (
                    kernel.memory.handle_mm_fault(vma, addr, flags) & VM_FAULT_ERROR
                ):
                    break
        mm.mmap_lock.up_read()

    def _present(self, mm: MmStruct, addr: int, *, write: bool) -> bool:
        """Tell whether a page is mapped with the right to read, or to write."""
        pgtable = self._pgtable
        pmdp = pgtable.find_pmd(mm, addr)
        if pmdp is None:
            return False
        entry = pgtable.read(pmdp)
        if not pmd_trans_huge(entry):
            ptep = pgtable.find_pte(mm, addr)
            entry = 0 if ptep is None else pgtable.read(ptep)
        return pte_present(entry) and (pte_write(entry) or not write)
