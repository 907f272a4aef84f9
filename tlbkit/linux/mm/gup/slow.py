"""The slow way: under the mmap lock, faulting in what is missing.

Where the kernel writes to a variable of its caller, ``*page_mask`` and ``*locked``, its
new value is the second half of the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pmd_table,
    pmd_trans_huge,
    pte_dirty,
    pte_none,
    pte_present,
    pte_write,
)
from tlbkit.linux.include.linux.fs import vma_is_fsdax
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_KILLABLE,
    FAULT_FLAG_TRIED,
    FAULT_FLAG_UNSHARE,
    FAULT_FLAG_WRITE,
    FOLL_DUMP,
    FOLL_FORCE,
    FOLL_GET,
    FOLL_LONGTERM,
    FOLL_MADV_POPULATE,
    FOLL_PIN,
    FOLL_TOUCH,
    FOLL_TRIED,
    FOLL_UNLOCKABLE,
    FOLL_WRITE,
    VM_ACCESS_FLAGS,
    VM_FAULT_COMPLETED,
    VM_FAULT_ERROR,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_IO,
    VM_MAYREAD,
    VM_PFNMAP,
    VM_READ,
    VM_SHADOW_STACK,
    VM_SHARED,
    VM_WRITE,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.mm_types import PG_dirty
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EBUSY,
    EEXIST,
    EFAULT,
    EINTR,
    EINVAL,
    EMLINK,
    ENOMEM,
    EOPNOTSUPP,
)
from tlbkit.linux.mm.gup.pins import GupPins

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, Page, VmArea


class GupSlow(GupPins):
    """Finding pages under locks."""

    __slots__ = ()

    # -- what is mapped --------------------------------------------------------------

    def no_page_table(self, vma: VmArea, flags: int, address: int) -> int | None:
        """Answer for a place where nothing is mapped.

        Returns:
            ``None``: a fault is due. Or ``-EFAULT``: a core dump leaves a hole where
            the fault would find zeros anyway.

        Source: mm/gup.c, no_page_table()
        Deviates: no core dump looks at the page cache of hugetlb.
        """
        del address
        if flags & FOLL_DUMP and (vma.ops is None or not vma.ops.has("fault")):
            return -EFAULT
        return None

    def follow_huge_pud(
        self, vma: VmArea, addr: int, pudp: int, flags: int
    ) -> tuple[Page | None, int]:
        """Take the page at *addr* of a huge page that a PUD maps; its lock is held.

        Source: mm/gup.c, follow_huge_pud()
        """
        pgtable = self._pgtable
        pud = pgtable.read(pudp)
        if not pte_present(pud):
            return None, 0
        if flags & FOLL_WRITE and not pte_write(pud):
            return None, 0
        page = pgtable.pud_pfn(pud)
        page += (addr & (pgtable.pud_size - 1)) >> pgtable.page_shift
        folio = self._kernel.page_alloc.folio_of(page)
        if not pte_write(pud) and self.gup_must_unshare(vma, flags, folio, page):
            return -EMLINK, 0
        self.try_grab_folio(folio, 1, flags)
        return page, (pgtable.pud_size >> pgtable.page_shift) - 1

    def follow_huge_pmd(
        self, vma: VmArea, addr: int, pmdp: int, flags: int
    ) -> tuple[Page | None, int]:
        """Take the page at *addr* of a huge page that a PMD maps; its PTL is held.

        PageAnonExclusive is the first page's, wherever *addr* is.

        Source: mm/gup.c, follow_huge_pmd()
        """
        pgtable = self._pgtable
        pmd = pgtable.read(pmdp)
        page = pgtable.pmd_pfn(pmd)
        if flags & FOLL_WRITE and not pte_write(pmd):
            return None, 0
        if flags & FOLL_DUMP and self._kernel.huge_memory.is_huge_zero_pmd(pmd):
            return -EFAULT, 0
        folio = self._kernel.page_alloc.folio_of(page)
        if not pte_write(pmd) and self.gup_must_unshare(vma, flags, folio, page):
            return -EMLINK, 0
        self.try_grab_folio(folio, 1, flags)
        if pmd_trans_huge(pmd) and flags & FOLL_TOUCH:
            write = bool(flags & FOLL_WRITE)
            self._kernel.huge_memory.touch_pmd(vma, addr, pmdp, write=write)
        page += (addr & (pgtable.pmd_size - 1)) >> pgtable.page_shift
        return page, pgtable.hpage_pmd_nr - 1

    def follow_page_pte(
        self, vma: VmArea, address: int, pmdp: int, flags: int
    ) -> Page | None:
        """Take the page that a PTE maps.

        Returns:
            The page, ``None`` if a fault is due, or a negative error number.

        Source: mm/gup.c, follow_page_pte()
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        maps = self._kernel.pgtable_generic
        found = maps.pte_offset_map_lock(vma.mm, pmdp, address)
        if found is None:
            return self.no_page_table(vma, flags, address)
        ptep, ptl = found
        try:
            pte = pgtable.ptep_get(ptep)
            if not pte_present(pte):
                if pte_none(pte):
                    return self.no_page_table(vma, flags, address)
                return None
            page = memory.vm_normal_page(vma, address, pte)
            if flags & FOLL_WRITE and not pte_write(pte):
                return None
            if page is None:
                if flags & FOLL_DUMP:
                    return -EFAULT
                page = pgtable.pte_pfn(pte)
                if not memory.is_zero_pfn(page):
                    return -EEXIST  # follow_pfn_pte()
            folio = self._kernel.page_alloc.folio_of(page)
            if not pte_write(pte) and self.gup_must_unshare(vma, flags, folio, page):
                return -EMLINK
            self.try_grab_folio(folio, 1, flags)
            if flags & FOLL_TOUCH:
                dirty = pte_dirty(pte) or folio.flags & PG_dirty
                if flags & FOLL_WRITE and not dirty:
                    self._kernel.page_writeback.folio_mark_dirty(folio)
                self._kernel.filemap.folio_mark_accessed(folio)
        finally:
            ptl.release()
        return page

    def follow_pmd_mask(
        self, vma: VmArea, address: int, pudp: int, flags: int
    ) -> tuple[Page | None, int]:
        """Go on from a PUD that points to a PMD table.

        Source: mm/gup.c, follow_pmd_mask()
        """
        pgtable = self._pgtable
        pmdp = pgtable.pmd_offset(pudp, address)
        pmd = pgtable.read(pmdp)
        if not pte_present(pmd):
            return self.no_page_table(vma, flags, address), 0
        if not pmd_leaf(pmd):
            return self.follow_page_pte(vma, address, pmdp, flags), 0
        ptl = self._kernel.memory.pmd_lockptr(pmdp)
        ptl.acquire()
        pmd = pgtable.read(pmdp)
        if not pte_present(pmd):
            ptl.release()
            return self.no_page_table(vma, flags, address), 0
        if not pmd_leaf(pmd):
            ptl.release()
            return self.follow_page_pte(vma, address, pmdp, flags), 0
        found = self.follow_huge_pmd(vma, address, pmdp, flags)
        ptl.release()
        return found

    def follow_pud_mask(
        self, vma: VmArea, address: int, p4dp: int, flags: int
    ) -> tuple[Page | None, int]:
        """Go on from a P4D that points to a PUD table.

        Source: mm/gup.c, follow_pud_mask()
        """
        pgtable = self._pgtable
        pudp = pgtable.pud_offset(p4dp, address)
        pud = pgtable.read(pudp)
        if not pte_present(pud):
            return self.no_page_table(vma, flags, address), 0
        if pmd_leaf(pud):
            with self._kernel.memory.pud_lockptr(vma.mm):
                page, page_mask = self.follow_huge_pud(vma, address, pudp, flags)
            if page is None:
                page = self.no_page_table(vma, flags, address)
            return page, page_mask
        return self.follow_pmd_mask(vma, address, pudp, flags)

    def follow_page_mask(
        self, vma: VmArea, address: int, flags: int
    ) -> tuple[Page | None, int]:
        """Take the page that is mapped at an address.

        Returns:
            The page; ``None`` if a fault is due; or a negative error number: -EMLINK if
            the page must be made exclusive first, -EEXIST if what is mapped is no page.
            And how many pages less one the mapping has, which is a power of two.

        Source: mm/gup.c, follow_page_mask()
        Deviates: the level of the P4D is folded, so follow_p4d_mask() is left out.
        """
        pgtable = self._pgtable
        huge = is_vm_hugetlb_page(vma)
        if huge:  # vma_pgtable_walk_begin()
            self._kernel.hugetlb.hugetlb_vma_lock_read(vma)
        pgdp = pgtable.pgd_offset(vma.mm, address)
        found: tuple[Page | None, int]
        if not pgtable.folded_pud and not pmd_table(pgtable.read(pgdp)):
            found = self.no_page_table(vma, flags, address), 0
        else:
            found = self.follow_pud_mask(vma, address, pgdp, flags)
        if huge:  # vma_pgtable_walk_end()
            self._kernel.hugetlb.hugetlb_vma_unlock_read(vma)
        return found

    # -- faulting in -----------------------------------------------------------------

    def faultin_page(
        self, vma: VmArea, address: int, flags: int, *, unshare: bool
    ) -> tuple[int, bool]:
        """Fault on behalf of whoever wants the page; the mmap lock is held.

        Returns:
            0 or a negative error number: -EBUSY or -EAGAIN if the handler has released
            the mmap lock. And whether that is still held.

        Source: mm/gup.c, faultin_page()
        """
        fault_flags = 0
        if flags & FOLL_WRITE:
            fault_flags |= FAULT_FLAG_WRITE
        if flags & FOLL_UNLOCKABLE:
            fault_flags |= FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE
        if flags & FOLL_TRIED:
            fault_flags |= FAULT_FLAG_TRIED
        if unshare:
            fault_flags |= FAULT_FLAG_UNSHARE
        ret = self._kernel.memory.handle_mm_fault(vma, address, fault_flags)
        if ret & VM_FAULT_COMPLETED:
            return -EAGAIN, False
        if ret & VM_FAULT_ERROR:  # vm_fault_to_errno()
            return -ENOMEM if ret & VM_FAULT_OOM else -EFAULT, True
        if ret & VM_FAULT_RETRY:
            return -EBUSY, False
        return 0, True

    def writable_file_mapping_allowed(self, vma: VmArea, gup_flags: int) -> bool:
        """Tell whether a VMA's file bears that its pages are written past the MMU.

        Not if it tracks writes and the pin may last: it would not see them.

        Source: mm/gup.c, writable_file_mapping_allowed()
        """
        if not gup_flags & FOLL_PIN or not gup_flags & FOLL_LONGTERM:
            return True
        return not self._kernel.vma.vma_needs_dirty_tracking(vma)

    def check_vma_flags(self, vma: VmArea, gup_flags: int) -> int:
        """Return why pages of a VMA may not be taken, as an error number, or 0.

        Source: mm/gup.c, check_vma_flags()
        Deviates: nothing is secret memory or has protection keys.
        """
        vm_flags = vma.flags
        if vm_flags & (VM_IO | VM_PFNMAP):
            return -EFAULT
        if gup_flags & FOLL_LONGTERM and vma_is_fsdax(vma):
            return -EOPNOTSUPP
        if gup_flags & FOLL_WRITE:
            if not vma.anonymous and not self.writable_file_mapping_allowed(
                vma, gup_flags
            ):
                return -EFAULT
            if not vm_flags & VM_WRITE or vm_flags & VM_SHADOW_STACK:
                if not gup_flags & FOLL_FORCE:
                    return -EFAULT
                if not is_cow_mapping(vm_flags):
                    return -EFAULT
        elif not vm_flags & VM_READ:
            if not gup_flags & FOLL_FORCE:
                return -EFAULT
            if not vm_flags & VM_MAYREAD:
                return -EFAULT
        return 0

    def get_user_pages_(
        self,
        mm: MmStruct,
        start: int,
        nr_pages: int,
        gup_flags: int,
        pages: list[Page] | None,
    ) -> tuple[int, bool]:
        """Take *nr_pages* pages, faulting them in; the mmap lock is held.

        Args:
            mm: The address space.
            start: Page-aligned.
            nr_pages: How many.
            gup_flags: The ``FOLL_`` bits. Only with FOLL_UNLOCKABLE may the mmap lock
                be released.
            pages: Gets the pages; ``None`` if they need only be there.

        Returns:
            How many were taken, perhaps fewer than asked, or a negative error number if
            none was: 0 if the mmap lock was released. And whether that is still held.

        Source: mm/gup.c, __get_user_pages()
        """
        i = page_mask = 0
        vma: VmArea | None = None
        while nr_pages:
            if vma is None or start >= vma.end:
                vma = self._kernel.vma.vma_lookup(mm, start)
                if gup_flags & FOLL_MADV_POPULATE:
                    if vma is None:
                        return i or -ENOMEM, True
                    if self.check_vma_flags(vma, gup_flags):
                        return i or -EINVAL, True
                else:
                    if vma is None:
                        return i or -EFAULT, True
                    ret = self.check_vma_flags(vma, gup_flags)
                    if ret:
                        return i or ret, True
            if self._kernel.sched.fatal_signal_pending(mm):
                return i or -EINTR, True
            page, page_mask = self.follow_page_mask(vma, start, gup_flags)
            if page is None or page == -EMLINK:
                ret, locked = self.faultin_page(
                    vma, start, gup_flags, unshare=page == -EMLINK
                )
                if not ret:
                    continue
                if ret in (-EBUSY, -EAGAIN):
                    ret = 0
                return i or ret, locked
            if page < 0 and (page != -EEXIST or pages is not None):
                return i or page, True
            place = start >> self._pgtable.page_shift
            page_increm = min(1 + (~place & page_mask), nr_pages)
            if pages is not None:
                if page_increm > 1:
                    folio = self._kernel.page_alloc.folio_of(page)
                    self.try_grab_folio(folio, page_increm - 1, gup_flags)
                pages += range(page, page + page_increm)
            i += page_increm
            start += page_increm * self._pgtable.page_size
            nr_pages -= page_increm
        return i, True

    def get_user_pages_locked_(
        self,
        mm: MmStruct,
        start: int,
        nr_pages: int,
        pages: list[Page] | None,
        flags: int,
        *,
        locked: bool,
    ) -> tuple[int, bool]:
        """Take pages, and take the mmap lock again whenever a fault has released it.

        Args:
            mm: The address space.
            start: Page-aligned.
            nr_pages: How many.
            pages: As for `get_user_pages_`.
            flags: The ``FOLL_`` bits.
            locked: Whether the caller holds the mmap lock; otherwise it is taken here,
                and not held at the end.

        Returns:
            As `get_user_pages_`, but never 0.

        Source: mm/gup.c, __get_user_pages_locked()
        """
        if not nr_pages:
            return 0, locked
        must_unlock = not locked
        if must_unlock:
            mm.mmap_lock.down_read()
            locked = True
        else:
            mm.mmap_lock.assert_held()
        if flags & FOLL_PIN:
            self.mm_set_has_pinned_flag(mm)
        if pages is not None and not flags & FOLL_PIN:
            flags |= FOLL_GET
        pages_done = 0
        while True:
            ret, locked = self.get_user_pages_(mm, start, nr_pages, flags, pages)
            if not flags & FOLL_UNLOCKABLE:
                pages_done = ret
                break
            if ret > 0:
                nr_pages -= ret
                pages_done += ret
                if not nr_pages:
                    break
            if locked:
                pages_done = pages_done or ret
                break
            start += ret << self._pgtable.page_shift
            must_unlock = True
            while not locked:
                # The place that had to wait, alone, until it is there.
                if self._kernel.sched.fatal_signal_pending(mm):
                    return pages_done or -EINTR, False
                mm.mmap_lock.down_read()
                ret, locked = self.get_user_pages_(
                    mm, start, 1, flags | FOLL_TRIED, pages
                )
            if ret != 1:
                pages_done = pages_done or ret
                break
            nr_pages -= 1
            pages_done += 1
            if not nr_pages:
                break
            start += self._pgtable.page_size
        if must_unlock and locked:
            mm.mmap_lock.up_read()
            locked = False
        return pages_done, locked

    # -- MAP_POPULATE and MADV_POPULATE ----------------------------------------------

    def populate_vma_page_range(
        self, vma: VmArea, start: int, end: int, *, unlockable: bool
    ) -> tuple[int, bool]:
        """Fault in the pages of a part of one VMA; the mmap lock is held.

        Private writable memory gets its copies at once; shared memory is only read, so
        that its pages are not dirty for nothing.

        Args:
            vma: The VMA.
            start: Page-aligned, within it.
            end: Page-aligned, within it.
            unlockable: The mmap lock is held for reading, and may be released.

        Returns:
            How many pages are there, or a negative error number; and whether the mmap
            lock is still held.

        Source: mm/gup.c, populate_vma_page_range()
        """
        vma.mm.mmap_lock.assert_held()
        if not vma.flags & VM_ACCESS_FLAGS:
            return -EFAULT, True
        gup_flags = FOLL_TOUCH
        if vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE:
            gup_flags |= FOLL_WRITE
        else:
            gup_flags |= FOLL_FORCE
        if unlockable:
            gup_flags |= FOLL_UNLOCKABLE
        nr_pages = end - start >> self._pgtable.page_shift
        ret = self.get_user_pages_(vma.mm, start, nr_pages, gup_flags, None)
        self._kernel.swap.lru_add_drain()
        return ret

    def faultin_page_range(
        self, mm: MmStruct, start: int, end: int, *, write: bool
    ) -> tuple[int, bool]:
        """Fault in pages of [start, end) for MADV_POPULATE; the mmap lock is held.

        ``-ENOMEM`` where nothing is mapped or no memory is left, ``-EINVAL`` for a VMA
        that does not allow it, ``-EFAULT`` if an access would be a signal.

        Returns:
            How many pages are there, perhaps fewer than asked, or a negative error
            number; and whether the mmap lock is still held.

        Source: mm/gup.c, faultin_page_range()
        """
        gup_flags = FOLL_TOUCH | FOLL_UNLOCKABLE | FOLL_MADV_POPULATE
        if write:
            gup_flags |= FOLL_WRITE
        nr_pages = end - start >> self._pgtable.page_shift
        ret = self.get_user_pages_locked_(
            mm, start, nr_pages, None, gup_flags, locked=True
        )
        self._kernel.swap.lru_add_drain()
        return ret

    def mm_populate_(
        self, mm: MmStruct, start: int, length: int, *, ignore_errors: bool
    ) -> int:
        """Fault in what is mapped in a range; the mmap lock is taken here.

        Returns:
            0 or a negative error number.

        Source: mm/gup.c, __mm_populate()
        """
        end = start + length
        nstart = start
        locked = False
        vma: VmArea | None = None
        ret = 0
        while nstart < end:
            if not locked:
                locked = True
                mm.mmap_lock.down_read()
                vma = self._kernel.vma.find_vma(mm, nstart)
            elif vma is not None and nstart >= vma.end:
                vma = self._kernel.vma.find_vma(mm, vma.end)
            if vma is None or vma.start >= end:
                break
            nend = min(end, vma.end)
            if not vma.flags & (VM_IO | VM_PFNMAP):
                nstart = max(nstart, vma.start)
                ret, locked = self.populate_vma_page_range(
                    vma, nstart, nend, unlockable=True
                )
                if ret >= 0:
                    nend = nstart + (ret << self._pgtable.page_shift)
                elif not ignore_errors:
                    break
                ret = 0
            nstart = nend
        if locked:
            mm.mmap_lock.up_read()
        return ret

    def mm_populate(self, mm: MmStruct, addr: int, length: int) -> None:
        """Fault in what a range maps; what cannot be is left alone.

        Source: include/linux/mm.h, mm_populate()
        """
        self.mm_populate_(mm, addr, length, ignore_errors=True)

    # -- interfaces ------------------------------------------------------------------

    def get_user_page(
        self, mm: MmStruct, addr: int, *, write: bool = False, dump: bool = False
    ) -> Folio | int:
        """Take a reference to the page at *addr*; return its folio or an error number.

        Args:
            mm: The address space; its lock is held for reading.
            addr: Any address.
            write: The page is to be written through the reference.
            dump: It is for a core dump, which leaves out what is full of zeros.

        Source: mm/gup.c, get_user_pages()
        Deviates: it takes one page, and gives its folio; for a core dump it does what
        get_dump_page() asks for.
        """
        flags = FOLL_GET | FOLL_TOUCH | FOLL_WRITE * write | FOLL_DUMP * dump
        pages: list[Page] = []
        ret, _ = self.get_user_pages_(
            mm, addr & self._pgtable.page_mask, 1, flags, pages
        )
        if ret < 0:
            return ret
        return self._kernel.page_alloc.folio_of(pages[0])
