"""The pools of huge pages, and who is promised how many of them.

A page is promised when memory is mapped, and taken when it is touched. The promise is
one number for all of a pool; the reserve maps say whose promises they are. Left out:
limits and minima of a mount (subpools), control groups, nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from tlbkit.errors import InputError
from tlbkit.linux.include.linux.hugetlb import (
    HPAGE_RESV_OWNER,
    Hstate,
    HugetlbFolio,
    HugetlbVmaLock,
    PrivateReservation,
)
from tlbkit.linux.include.linux.mm import VM_MAYSHARE, VM_NORESERVE
from tlbkit.linux.include.linux.mm_types import PG_dirty, PG_uptodate
from tlbkit.linux.include.uapi.asm_generic.errno import ENOMEM
from tlbkit.linux.kernel.locking import RwSemaphore, SpinLock
from tlbkit.linux.mm.hugetlb.resv_map import ResvMap
from tlbkit.linux.mm.page_alloc import BadPageError

if TYPE_CHECKING:
    from tlbkit.linux.fs.hugetlbfs.inode import HugetlbfsInode
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class HugetlbPool:
    """Keeps the pools.

    Attributes:
        hstates: One for each size of huge pages, smallest first.
        default_hstate: That of PMD leaves.
        hugetlb_lock: Protects the numbers.
        num_fault_mutexes: How many mutexes keep two faults from making the same page.
        fault_mutex_table: Those of them that were ever taken, by number.
    """

    __slots__ = (
        "_kernel",
        "_machine",
        "_pgtable",
        "default_hstate",
        "fault_mutex_table",
        "hstates",
        "hugetlb_lock",
        "num_fault_mutexes",
    )

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable
        shift = kernel.pgtable.page_shift
        self.hstates = tuple(Hstate(size, shift) for size in kernel.hugetlbpage.sizes)
        self.default_hstate = self.size_to_hstate(kernel.pgtable.pmd_size)
        self.hugetlb_lock = SpinLock(kernel.machine, "hugetlb_lock")
        self.num_fault_mutexes = 1 << (8 * len(kernel.machine.cpus) - 1).bit_length()
        self.fault_mutex_table: dict[int, SpinLock] = {}

    def size_to_hstate(self, size: int) -> Hstate:
        """Return the pool of a size in bytes; `InputError` says which there are.

        Source: mm/hugetlb.c, size_to_hstate()
        """
        for h in self.hstates:
            if h.size == size:
                return h
        known = ", ".join(str(h.size) for h in self.hstates)
        raise InputError(f"size={size}: huge pages here have {known} bytes")

    def hstate_sizelog(self, code: int) -> Hstate | None:
        """Return the pool of pages of 2**code bytes, of the default size for 0.

        Source: include/linux/hugetlb.h, hstate_sizelog()
        """
        if not code:
            return self.default_hstate
        return next((h for h in self.hstates if h.shift == code), None)

    @staticmethod
    def inode(vma: VmArea) -> HugetlbfsInode:
        """Return the file that an area of huge pages maps.

        Source: none; it only says what kind of file it is.
        """
        assert vma.file is not None
        return cast("HugetlbfsInode", vma.file.inode)  # VM_HUGETLB says so

    def hstate_vma(self, vma: VmArea) -> Hstate:
        """Return the pool that an area takes its pages from.

        Source: include/linux/hugetlb.h, hstate_vma()
        """
        return self.inode(vma).hstate

    @staticmethod
    def vma_hugecache_offset(h: Hstate, vma: VmArea, addr: int) -> int:
        """Return the place of *addr* in what *vma* maps, in huge pages.

        Source: mm/hugetlb.c, vma_hugecache_offset()
        """
        return (addr - vma.start >> h.shift) + (vma.pgoff >> h.order)

    # -- the number of huge pages ----------------------------------------------------

    def set_max_huge_pages(self, count: int, size: int | None = None) -> int:
        """Make a pool hold *count* huge pages, as nr_hugepages does.

        Pages that are promised stay; those in use over the number go when they are
        freed. If memory is short there are fewer.

        Args:
            count: How many.
            size: Of which, in bytes; of the default size if not given.

        Returns:
            How many there are that stay.

        Source: mm/hugetlb.c, set_max_huge_pages()
        """
        h = self.default_hstate if size is None else self.size_to_hstate(size)
        with self.hugetlb_lock:
            while h.surplus_huge_pages and count > h.nr_huge_pages - (
                h.surplus_huge_pages
            ):
                h.surplus_huge_pages -= 1
            self._grow(h, count - (h.nr_huge_pages - h.surplus_huge_pages))
            wanted = max(count, h.resv_huge_pages + h.nr_huge_pages - h.free_huge_pages)
            while wanted < h.nr_huge_pages - h.surplus_huge_pages:
                self._shrink(h)
            while count < h.nr_huge_pages - h.surplus_huge_pages:
                h.surplus_huge_pages += 1
            return h.nr_huge_pages - h.surplus_huge_pages

    def _grow(self, h: Hstate, count: int) -> None:
        """Add *count* huge pages to a pool, or as many as there is memory for."""
        if count <= 0:
            return
        again = min(count, len(h.spare))
        h.free += [HugetlbFolio(h.spare.pop(), h) for _ in range(again)]
        fresh = count - again
        first = self._kernel.page_alloc.add_blocks(h.order, fresh)
        if first is None:
            fresh = 0
        elif fresh:
            h.fresh.append((first, fresh))
        h.nr_huge_pages += again + fresh
        h.free_huge_pages += again + fresh

    def _shrink(self, h: Hstate) -> None:
        """Take one free huge page out of a pool."""
        h.spare.append(self._take(h).pfn)
        h.nr_huge_pages -= 1
        h.free_huge_pages -= 1

    @staticmethod
    def _take(h: Hstate) -> HugetlbFolio:
        """Return a free huge page, the one that was freed last."""
        if h.free:
            return h.free.pop()
        first, count = h.fresh.pop()
        if count > 1:
            h.fresh.append((first + (1 << h.order), count - 1))
        return HugetlbFolio(first, h)

    def _alloc_surplus(self, h: Hstate) -> HugetlbFolio | None:
        """Return a huge page over the number of the pool, if it may have one more."""
        if h.surplus_huge_pages >= h.nr_overcommit_huge_pages:
            return None
        if self._kernel.page_alloc.should_fail_alloc_page(h.order):
            return None
        if h.spare:
            pfn: int | None = h.spare.pop()
        else:
            pfn = self._kernel.page_alloc.add_blocks(h.order, 1)
        if pfn is None:
            return None
        h.nr_huge_pages += 1
        h.surplus_huge_pages += 1
        return HugetlbFolio(pfn, h)

    # -- promises --------------------------------------------------------------------

    def hugetlb_acct_memory(self, h: Hstate, delta: int) -> int:
        """Promise *delta* huge pages more, or fewer; 0 or ``-ENOMEM``.

        Source: mm/hugetlb.c, hugetlb_acct_memory()
        """
        with self.hugetlb_lock:
            if delta > 0:
                return self.gather_surplus_pages(h, delta)
            if delta < 0:
                self.return_unused_surplus_pages(h, -delta)
        return 0

    def gather_surplus_pages(self, h: Hstate, delta: int) -> int:
        """Promise *delta* huge pages, made now if the pool has too few.

        Source: mm/hugetlb.c, gather_surplus_pages()
        """
        needed = delta - h.available_huge_pages
        made: list[HugetlbFolio] = []
        while len(made) < needed:
            folio = self._alloc_surplus(h)
            if folio is None:
                for each in made:
                    self._drop_surplus(h, each)
                return -ENOMEM
            made.append(folio)
        h.free += made
        h.free_huge_pages += len(made)
        h.resv_huge_pages += delta
        return 0

    def return_unused_surplus_pages(self, h: Hstate, unused: int) -> None:
        """Take *unused* promises back, and the pages that were made for them.

        Source: mm/hugetlb.c, return_unused_surplus_pages()
        """
        h.resv_huge_pages -= unused
        for _ in range(min(unused, h.surplus_huge_pages, h.available_huge_pages)):
            h.free_huge_pages -= 1
            self._drop_surplus(h, self._take(h))

    @staticmethod
    def _drop_surplus(h: Hstate, folio: HugetlbFolio) -> None:
        h.nr_huge_pages -= 1
        h.surplus_huge_pages -= 1
        h.spare.append(folio.pfn)

    def hugetlb_reserve_pages(
        self,
        inode: HugetlbfsInode,
        start: int,
        end: int,
        vma: VmArea | None,
        vm_flags: int,
    ) -> int:
        """Have [start, end) of a file promised; 0 or a negative error number.

        For a shared mapping what the file has no promise for yet; for a private one
        all of it, as its own. The area gets its lock here.

        Args:
            inode: The file.
            start: First place, in huge pages.
            end: The place behind the last.
            vma: The area that is being made, or ``None`` for the file alone.
            vm_flags: VM_NORESERVE asks for no promise.

        Source: mm/hugetlb.c, hugetlb_reserve_pages()
        """
        if vma is not None:
            self.hugetlb_vma_lock_alloc(vma)
        if vm_flags & VM_NORESERVE:
            return 0
        shared = vma is None or vma.flags & VM_MAYSHARE
        chg = inode.resv_map.region_chg(start, end) if shared else end - start
        error = self.hugetlb_acct_memory(inode.hstate, chg)
        if error:
            if vma is not None:
                self.hugetlb_vma_lock_free(vma)
            return error
        if shared:
            add = inode.resv_map.region_add(start, end)
            if chg > add:  # a fault noted some of them meanwhile
                self.hugetlb_acct_memory(inode.hstate, add - chg)
        else:
            assert vma is not None
            lock = RwSemaphore(self._machine, f"hugetlb resv_map {vma.start:#x}")
            vma.private_data = PrivateReservation(ResvMap(lock), HPAGE_RESV_OWNER)
        return 0

    def hugetlb_unreserve_pages(
        self, inode: HugetlbfsInode, start: int, end: int, freed: int
    ) -> None:
        """Take back what [start, end) of a file was promised; *freed* were taken.

        Source: mm/hugetlb.c, hugetlb_unreserve_pages()
        """
        chg = inode.resv_map.region_del(start, end)
        self.hugetlb_acct_memory(inode.hstate, freed - chg)

    # -- one page of an area ---------------------------------------------------------

    @staticmethod
    def is_vma_resv_set(vma: VmArea, flag: int) -> bool:
        """Tell whether a private area has an ``HPAGE_RESV_`` flag.

        Source: mm/hugetlb.c, is_vma_resv_set()
        """
        data = vma.private_data
        return isinstance(data, PrivateReservation) and bool(data.flags & flag)

    @staticmethod
    def set_vma_resv_flags(vma: VmArea, flag: int) -> None:
        """Give a private area an ``HPAGE_RESV_`` flag.

        Source: mm/hugetlb.c, set_vma_resv_flags()
        """
        if vma.private_data is None:
            vma.private_data = PrivateReservation(None)
        assert isinstance(vma.private_data, PrivateReservation)
        vma.private_data.flags |= flag

    def vma_resv_map(self, vma: VmArea) -> ResvMap | None:
        """Return the reserve map that speaks for an area, or ``None``.

        Source: mm/hugetlb.c, vma_resv_map()
        """
        if vma.flags & VM_MAYSHARE:
            return self.inode(vma).resv_map
        data = vma.private_data
        return data.resv_map if isinstance(data, PrivateReservation) else None

    def vma_needs_reservation(self, h: Hstate, vma: VmArea, addr: int) -> bool:
        """Tell whether a page for *addr* was not promised to *vma*.

        Source: mm/hugetlb.c, vma_needs_reservation()
        """
        resv = self.vma_resv_map(vma)
        if resv is None:
            return True
        place = self.vma_hugecache_offset(h, vma, addr)
        absent = bool(resv.region_chg(place, place + 1))
        return absent if vma.flags & VM_MAYSHARE else not absent

    def vma_commit_reservation(self, h: Hstate, vma: VmArea, addr: int) -> None:
        """Note that a page was taken for *addr*.

        Source: mm/hugetlb.c, vma_commit_reservation()
        """
        resv = self.vma_resv_map(vma)
        if resv is not None:
            place = self.vma_hugecache_offset(h, vma, addr)
            resv.region_add(place, place + 1)

    def vma_add_reservation(self, h: Hstate, vma: VmArea, addr: int) -> None:
        """Note that a page for *addr* is promised again.

        Source: mm/hugetlb.c, vma_add_reservation()
        """
        resv = self.vma_resv_map(vma)
        if resv is None:
            return
        place = self.vma_hugecache_offset(h, vma, addr)
        if vma.flags & VM_MAYSHARE:
            resv.region_add(place, place + 1)
        else:
            resv.region_del(place, place + 1)

    def vma_del_reservation(self, h: Hstate, vma: VmArea, addr: int) -> None:
        """Note that a page for *addr* is promised no more.

        Source: mm/hugetlb.c, vma_del_reservation()
        """
        resv = self.vma_resv_map(vma)
        if resv is None:
            return
        place = self.vma_hugecache_offset(h, vma, addr)
        if vma.flags & VM_MAYSHARE:
            resv.region_del(place, place + 1)
        else:
            resv.region_add(place, place + 1)

    def restore_reserve_on_error(
        self, h: Hstate, vma: VmArea, addr: int, folio: HugetlbFolio
    ) -> None:
        """Undo the notes of `alloc_hugetlb_folio`, as the page is not used after all.

        The caller frees it, which gives the promise back to the pool.

        Source: mm/hugetlb.c, restore_reserve_on_error()
        """
        if folio.restore_reserve:
            if self.vma_needs_reservation(h, vma, addr):
                self.vma_add_reservation(h, vma, addr)
        elif not self.vma_needs_reservation(h, vma, addr):
            self.vma_del_reservation(h, vma, addr)

    def alloc_hugetlb_folio(
        self, vma: VmArea, addr: int, *, cow_from_owner: bool
    ) -> HugetlbFolio | None:
        """Return a huge page for *addr* with one reference, or ``None``.

        Args:
            vma: The area.
            addr: Where the page is to be mapped.
            cow_from_owner: It is the copy of a page that the area has already used its
                promise for; that of another place must not be used up for it.

        Source: mm/hugetlb.c, alloc_hugetlb_folio()
        """
        h = self.hstate_vma(vma)
        unpromised = cow_from_owner or self.vma_needs_reservation(h, vma, addr)
        with self.hugetlb_lock:
            if not unpromised or h.available_huge_pages > 0:
                if not h.free_huge_pages:
                    return None
                folio = self._take(h)
                h.free_huge_pages -= 1
            else:
                surplus = self._alloc_surplus(h)
                if surplus is None:
                    return None
                folio = surplus
            if not unpromised:
                folio.restore_reserve = True
                h.resv_huge_pages -= 1
            folio.refcount = 1
            self._kernel.page_alloc.put_block(folio)
        if not cow_from_owner:
            self.vma_commit_reservation(h, vma, addr)
        return folio

    def alloc_migrate_hugetlb_folio(self, h: Hstate) -> HugetlbFolio | None:
        """Return a huge page for the contents of another one, or ``None``.

        A promise of somebody else's is not used up for it: it is for the time until the
        other one is free.

        Source: mm/hugetlb.c, alloc_migrate_hugetlb_folio()
        """
        with self.hugetlb_lock:
            if h.available_huge_pages > 0:
                folio = self._take(h)
                h.free_huge_pages -= 1
            else:
                surplus = self._alloc_surplus(h)
                if surplus is None:
                    return None
                folio = surplus
            folio.refcount = 1
            self._kernel.page_alloc.put_block(folio)
        return folio

    def move_hugetlb_state(self, old: HugetlbFolio, new: HugetlbFolio) -> None:
        """Put *new* in the place of *old*, which nobody maps, with its contents.

        Both are locked, and belong to a file.

        Source: mm/hugetlb.c, move_hugetlb_state()
        """
        for n in range(new.nr_pages):
            self._machine.memory.copy_frame(old.pfn + n, new.pfn + n)
        new.mapping, new.index = old.mapping, old.index
        new.flags |= old.flags & (PG_dirty | PG_uptodate)
        new.mapping.pages[new.index >> new.order] = new
        new.refcount += new.nr_pages
        old.refcount -= old.nr_pages
        old.mapping = None

    def free_huge_folio(self, folio: HugetlbFolio) -> None:
        """Give a huge page back to its pool; nobody maps or holds it any more.

        Source: mm/hugetlb.c, free_huge_folio()
        """
        if folio.mapcount:
            raise BadPageError(folio, "freed while page tables map it")
        h = folio.hstate
        folio.mapping = None
        folio.flags = 0
        folio.exclusive[0] = 0
        self._kernel.page_alloc.take_block(folio)
        with self.hugetlb_lock:
            if folio.restore_reserve:
                h.resv_huge_pages += 1
                folio.restore_reserve = False
            if h.surplus_huge_pages:
                self._drop_surplus(h, folio)
            else:
                h.free.append(folio)
                h.free_huge_pages += 1

    # -- the lock of an area ---------------------------------------------------------

    def hugetlb_vma_lock_alloc(self, vma: VmArea) -> None:
        """Give an area whose tables may be shared its lock.

        Without memory for it the area takes no part in sharing.

        Source: mm/hugetlb.c, hugetlb_vma_lock_alloc()
        """
        if not vma.flags & VM_MAYSHARE or vma.private_data is not None:
            return
        if not self._kernel.page_alloc.should_fail_alloc_page():
            vma.private_data = HugetlbVmaLock(self._machine, vma)

    def hugetlb_vma_lock_free(self, vma: VmArea) -> None:
        """Take the lock of an area away; it cannot share tables from now on.

        Source: mm/hugetlb.c, hugetlb_vma_lock_free()
        """
        lock = vma.private_data
        if isinstance(lock, HugetlbVmaLock):
            lock.rw_sema.down_write()
            self._unlock_write_put(lock)

    @staticmethod
    def _unlock_write_put(lock: HugetlbVmaLock) -> None:
        assert lock.vma is not None
        lock.vma.private_data = None
        lock.vma = None
        lock.rw_sema.up_write()
