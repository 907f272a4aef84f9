"""Missing pages that user space fills, and pages that it protects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.permission import EL0_READ
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pte_mkdirty,
    pte_mkuffd_wp,
    pte_none,
)
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    MM_CP_TRY_CHANGE_WRITABLE,
    MM_CP_UFFD_WP,
    MM_CP_UFFD_WP_RESOLVE,
    VM_SHARED,
    VM_UFFD_WP,
    VM_WRITE,
)
from tlbkit.linux.include.linux.pagemap import folio_unlock
from tlbkit.linux.include.linux.swapops import pte_none_mostly
from tlbkit.linux.include.linux.userfaultfd_k import (
    MFILL_ATOMIC_CONTINUE,
    MFILL_ATOMIC_COPY,
    MFILL_ATOMIC_WP,
    MFILL_ATOMIC_ZEROPAGE,
    uffd_flags_mode_is,
    uffd_flags_set_mode,
    userfaultfd_wp,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EEXIST,
    EFAULT,
    EINTR,
    EINVAL,
    ENOENT,
    ENOMEM,
    Signal,
)

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import UserfaultfdCtx
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, Page, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


def validate_dst_vma(dst_vma: VmArea, dst_end: int) -> bool:
    """Tell whether a range that begins in a VMA ends in it, and the VMA is watched.

    Source: mm/userfaultfd.c, validate_dst_vma()
    """
    return dst_end <= dst_vma.end and dst_vma.uffd is not None


class UffdMfill:
    """COPY, ZEROPAGE, CONTINUE and WRITEPROTECT.

    A new page whose contents could not be copied under the lock of the VMA is kept in
    the meantime: where the kernel writes it to ``*foliop`` it is the second half of the
    answer.
    """

    __slots__ = ("_kernel", "_machine", "_memory", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._memory = kernel.machine.memory
        self._pgtable = kernel.pgtable

    def _fatal_signal_pending(self) -> bool:
        """Tell whether the process that runs here is to die."""
        sched = self._kernel.sched
        current = sched.current[self._machine.running.number]
        return current is not None and sched.fatal_signal_pending(current)

    # -- locking VMAs ----------------------------------------------------------------

    def find_vma_and_prepare_anon(self, mm: MmStruct, addr: int) -> VmArea | int:
        """Return the VMA of *addr*, ready for private pages; the mmap lock is held.

        Source: mm/userfaultfd.c, find_vma_and_prepare_anon()
        """
        mm.mmap_lock.assert_held()
        vma = self._kernel.vma.vma_lookup(mm, addr)
        if vma is None:
            return -ENOENT
        if not vma.flags & VM_SHARED:
            self._kernel.rmap.anon_vma_prepare(vma)
        return vma

    def uffd_lock_vma(self, mm: MmStruct, address: int) -> VmArea | int:
        """Return the VMA of *address*, locked for reading and ready for private pages.

        Source: mm/userfaultfd.c, uffd_lock_vma()
        """
        locks = self._kernel.mmap_lock
        vma = locks.lock_vma_under_rcu(mm, address)
        if vma is not None:
            if vma.flags & VM_SHARED or vma.anon_vma is not None:
                return vma
            locks.vma_end_read(vma)
        mm.mmap_lock.down_read()
        found = self.find_vma_and_prepare_anon(mm, address)
        if not isinstance(found, int):
            locks.vma_start_read_locked(found)
        mm.mmap_lock.up_read()
        return found

    def uffd_mfill_lock(
        self, dst_mm: MmStruct, dst_start: int, length: int
    ) -> VmArea | int:
        """Return the watched VMA that all of a range is in, locked for reading.

        Source: mm/userfaultfd.c, uffd_mfill_lock()
        """
        dst_vma = self.uffd_lock_vma(dst_mm, dst_start)
        if isinstance(dst_vma, int) or validate_dst_vma(dst_vma, dst_start + length):
            return dst_vma
        self._kernel.mmap_lock.vma_end_read(dst_vma)
        return -ENOENT

    def uffd_mfill_unlock(self, vma: VmArea) -> None:
        """Release what `uffd_mfill_lock` locked.

        Source: mm/userfaultfd.c, uffd_mfill_unlock()
        """
        self._kernel.mmap_lock.vma_end_read(vma)

    # -- one page --------------------------------------------------------------------

    def mfill_file_over_size(self, dst_vma: VmArea, dst_addr: int) -> bool:
        """Tell whether the file of a VMA ends before *dst_addr*; the PTL is held.

        Source: mm/userfaultfd.c, mfill_file_over_size()
        """
        if dst_vma.file is None:
            return False
        offset = self._kernel.rmap.linear_page_index(dst_vma, dst_addr)
        return offset >= self._kernel.filemap.pages_in_file(dst_vma.file.inode)

    def mfill_atomic_install_pte(
        self, dst_pmd: int, dst_vma: VmArea, dst_addr: int, page: Page, flags: int
    ) -> int:
        """Map *page* where no page is; a marker of write protection gives way.

        A page of a file in a private VMA is not writable: a write has to copy it.

        Source: mm/userfaultfd.c, mfill_atomic_install_pte()
        Deviates: a page that its file has just got is on the LRU lists already, so
        there is no newly_allocated.
        """
        pgtable = self._pgtable
        dst_mm = dst_vma.mm
        writable = bool(dst_vma.flags & VM_WRITE)
        vm_shared = bool(dst_vma.flags & VM_SHARED)
        folio = self._kernel.page_alloc.folio_of(page)
        page_in_cache = folio.mapping is not None
        dst_pte = pte_mkdirty(pgtable.pfn_pte(page, dst_vma.page_prot))
        if page_in_cache and not vm_shared:
            writable = False
        if writable:
            dst_pte = pgtable.pte_mkwrite(dst_pte)
        if flags & MFILL_ATOMIC_WP:
            dst_pte = pte_mkuffd_wp(dst_pte)
        found = self._kernel.pgtable_generic.pte_offset_map_lock(
            dst_mm, dst_pmd, dst_addr
        )
        if found is None:
            return -EAGAIN
        dst_ptep, ptl = found
        if self.mfill_file_over_size(dst_vma, dst_addr):
            ptl.release()
            return -EFAULT
        empty = pte_none_mostly(pgtable.read(dst_ptep))
        if not self._machine.holds("pte_none_mostly", empty):
            ptl.release()
            return -EEXIST
        if page_in_cache:
            self._kernel.rmap.folio_add_file_rmap_pte(folio, page, dst_vma)
            self._kernel.swap.inc_file_counter(dst_mm, folio)
        else:
            self._kernel.rmap.folio_add_new_anon_rmap(folio, dst_vma, dst_addr)
            self._kernel.swap.folio_add_lru(folio)
            dst_mm.anonpages += 1
        pgtable.set_ptes(dst_mm, dst_addr, dst_ptep, dst_pte, 1)
        ptl.release()
        return 0

    def mfill_atomic_pte_copy(
        self,
        dst_pmd: int,
        dst_vma: VmArea,
        dst_addr: int,
        src_addr: int,
        flags: int,
        folio: Folio | None,
    ) -> tuple[int, Folio | None]:
        """Fill one page with a copy, or with *folio*, which was copied meanwhile.

        ``-ENOENT`` and the new page if its source cannot be read without a fault.

        Source: mm/userfaultfd.c, mfill_atomic_pte_copy()
        """
        if folio is None:
            folio = self._kernel.page_alloc.alloc()
            if folio is None:
                return -ENOMEM, None
            if self.copy_folio_from_user(folio, src_addr, allow_pagefault=False):
                return -ENOENT, folio
        ret = self.mfill_atomic_install_pte(
            dst_pmd, dst_vma, dst_addr, folio.pfn, flags
        )
        if ret:
            self._kernel.swap.folio_put(folio)
        return ret, None

    def mfill_atomic_pte_zeropage(
        self, dst_pmd: int, dst_vma: VmArea, dst_addr: int
    ) -> int:
        """Map the zero page where nothing is, not even a marker.

        Source: mm/userfaultfd.c, mfill_atomic_pte_zeropage()
        Deviates: no address space forbids the zero page.
        """
        pgtable = self._pgtable
        dst_pte = pgtable.pte_mkspecial(
            pgtable.pfn_pte(self._kernel.zero_pfn, dst_vma.page_prot)
        )
        found = self._kernel.pgtable_generic.pte_offset_map_lock(
            dst_vma.mm, dst_pmd, dst_addr
        )
        if found is None:
            return -EAGAIN
        dst_ptep, ptl = found
        if self.mfill_file_over_size(dst_vma, dst_addr):
            ptl.release()
            return -EFAULT
        if not self._machine.holds("pte_none", pte_none(pgtable.read(dst_ptep))):
            ptl.release()
            return -EEXIST
        pgtable.set_pte(dst_ptep, dst_pte)
        ptl.release()
        return 0

    def mfill_atomic_pte_continue(
        self, dst_pmd: int, dst_vma: VmArea, dst_addr: int, flags: int
    ) -> int:
        """Map a page that the file has already; ``-EFAULT`` if it has none.

        Source: mm/userfaultfd.c, mfill_atomic_pte_continue()
        Deviates: no page is poisoned.
        """
        assert dst_vma.file is not None
        pgoff = self._kernel.rmap.linear_page_index(dst_vma, dst_addr)
        folio = self._kernel.shmem.shmem_get_folio_noalloc(dst_vma.file.inode, pgoff)
        if isinstance(folio, int):
            return -EFAULT if folio == -ENOENT else folio
        page = folio.pfn + pgoff - folio.index  # folio_file_page()
        ret = self.mfill_atomic_install_pte(dst_pmd, dst_vma, dst_addr, page, flags)
        folio_unlock(self._machine, folio)
        if ret:
            self._kernel.swap.folio_put(folio)
        return ret

    def mm_alloc_pmd(self, mm: MmStruct, address: int) -> int | None:
        """Return where the PMD of *address* stands; tables above are made.

        Source: mm/userfaultfd.c, mm_alloc_pmd()
        """
        return self._kernel.memory.pmd_alloc(mm, address)

    # -- many pages ------------------------------------------------------------------

    def mfill_atomic_hugetlb(
        self,
        ctx: UserfaultfdCtx,
        dst_vma: VmArea,
        dst_start: int,
        src_start: int,
        length: int,
        flags: int,
    ) -> int:
        """Fill missing huge pages; both locks are held, and are released.

        Source: mm/userfaultfd.c, mfill_atomic_hugetlb()
        """
        hugetlb = self._kernel.hugetlb
        dst_mm = dst_vma.mm
        vma_hpagesize = hugetlb.hstate_vma(dst_vma).size
        folio: Folio | None = None
        copied = 0
        err = 0
        if uffd_flags_mode_is(flags, MFILL_ATOMIC_ZEROPAGE) or (dst_start | length) & (
            vma_hpagesize - 1
        ):
            err = -EINVAL
        try:
            while True:
                while not err and copied < length:
                    err, folio = self._mfill_huge_page(
                        dst_vma, dst_start + copied, src_start + copied, flags, folio
                    )
                    if not err:
                        copied += vma_hpagesize
                        if self._fatal_signal_pending():
                            err = -EINTR
                ctx.map_changing_lock.up_read()
                self.uffd_mfill_unlock(dst_vma)
                if folio is None or err != -ENOENT:
                    return copied or err
                if self.copy_folio_from_user(
                    folio, src_start + copied, allow_pagefault=True
                ):
                    return copied or -EFAULT
                found = self.uffd_mfill_lock(dst_mm, dst_start, length)
                if isinstance(found, int):
                    return copied or found
                dst_vma = found
                if not is_vm_hugetlb_page(dst_vma):
                    self.uffd_mfill_unlock(dst_vma)
                    return copied or -ENOENT
                if vma_hpagesize != hugetlb.hstate_vma(dst_vma).size:
                    self.uffd_mfill_unlock(dst_vma)
                    return copied or -EINVAL
                ctx.map_changing_lock.down_read()
                changing = self._machine.sees("mmap_changing", ctx.mmap_changing)
                err = -EAGAIN if changing else 0
        finally:
            if folio is not None:
                self._kernel.swap.folio_put(folio)

    def _mfill_huge_page(
        self,
        dst_vma: VmArea,
        dst_addr: int,
        src_addr: int,
        flags: int,
        folio: Folio | None,
    ) -> tuple[int, Folio | None]:
        """Fill one huge page under its fault mutex, which keeps other faults out.

        The VMA lock keeps a shared table from being unshared.
        """
        hugetlb = self._kernel.hugetlb
        hugetlbpage = self._kernel.hugetlbpage
        h = hugetlb.hstate_vma(dst_vma)
        idx = hugetlb.vma_hugecache_offset(h, dst_vma, dst_addr)
        mutex = hugetlb.fault_mutex(hugetlb.inode(dst_vma), idx)
        mutex.acquire()
        hugetlb.hugetlb_vma_lock_read(dst_vma)
        dst_pte = hugetlbpage.huge_pte_alloc(dst_vma.mm, dst_vma, dst_addr, h.size)
        fill = not uffd_flags_mode_is(flags, MFILL_ATOMIC_CONTINUE)
        if dst_pte is None:
            err = -ENOMEM
        elif fill and not pte_none_mostly(hugetlbpage.huge_ptep_get(dst_pte, h.size)):
            err = -EEXIST
        else:
            err, folio = hugetlb.hugetlb_mfill_atomic_pte(
                dst_pte, dst_vma, dst_addr, src_addr, flags, folio
            )
        hugetlb.hugetlb_vma_unlock_read(dst_vma)
        mutex.release()
        return err, folio

    def mfill_atomic_pte(
        self,
        dst_pmd: int,
        dst_vma: VmArea,
        dst_addr: int,
        src_addr: int,
        flags: int,
        folio: Folio | None,
    ) -> tuple[int, Folio | None]:
        """Fill one page as *flags* say.

        Source: mm/userfaultfd.c, mfill_atomic_pte()
        Deviates: POISON is left out.
        """
        if uffd_flags_mode_is(flags, MFILL_ATOMIC_CONTINUE):
            ret = self.mfill_atomic_pte_continue(dst_pmd, dst_vma, dst_addr, flags)
            return ret, folio
        if dst_vma.flags & VM_SHARED:
            return self._kernel.shmem.shmem_mfill_atomic_pte(
                dst_pmd, dst_vma, dst_addr, src_addr, flags, folio
            )
        if uffd_flags_mode_is(flags, MFILL_ATOMIC_COPY):
            return self.mfill_atomic_pte_copy(
                dst_pmd, dst_vma, dst_addr, src_addr, flags, folio
            )
        return self.mfill_atomic_pte_zeropage(dst_pmd, dst_vma, dst_addr), folio

    def mfill_atomic(
        self,
        ctx: UserfaultfdCtx,
        dst_start: int,
        src_start: int,
        length: int,
        flags: int,
    ) -> int:
        """Fill missing pages one by one, up to the first that cannot be.

        User memory that is not there cannot be faulted in under the lock of the VMA.
        Then the new page is kept, the lock dropped, the copy made, and everything
        checked again.

        Returns:
            Bytes filled, or a negative error number if there are none.

        Source: mm/userfaultfd.c, mfill_atomic()
        """
        memory = self._kernel.memory
        dst_mm = ctx.mm
        folio: Folio | None = None
        copied = 0
        try:
            while True:
                dst_vma = self.uffd_mfill_lock(dst_mm, dst_start, length)
                if isinstance(dst_vma, int):
                    return copied or dst_vma
                ctx.map_changing_lock.down_read()
                changing = self._machine.sees("mmap_changing", ctx.mmap_changing)
                err = -EAGAIN if changing else self._mfill_check(dst_vma, flags)
                if not err and is_vm_hugetlb_page(dst_vma):
                    return self.mfill_atomic_hugetlb(
                        ctx, dst_vma, dst_start, src_start, length, flags
                    )
                while not err and copied < length:
                    dst_addr = dst_start + copied
                    dst_pmd = self.mm_alloc_pmd(dst_mm, dst_addr)
                    if dst_pmd is None or not memory.pte_alloc(dst_mm, dst_pmd):
                        err = -ENOMEM
                    elif not pmd_table(self._pgtable.read(dst_pmd)):
                        err = -EEXIST
                    else:
                        err, folio = self.mfill_atomic_pte(
                            dst_pmd, dst_vma, dst_addr, src_start + copied, flags, folio
                        )
                    if not err:
                        copied += self._pgtable.page_size
                        if self._fatal_signal_pending():
                            err = -EINTR
                ctx.map_changing_lock.up_read()
                self.uffd_mfill_unlock(dst_vma)
                if folio is None or err != -ENOENT:
                    return copied or err
                if self.copy_folio_from_user(
                    folio, src_start + copied, allow_pagefault=True
                ):
                    return copied or -EFAULT
        finally:
            if folio is not None:
                self._kernel.swap.folio_put(folio)

    @staticmethod
    def _mfill_check(dst_vma: VmArea, flags: int) -> int:
        """Return why a VMA that is locked now cannot be filled, or 0."""
        if flags & MFILL_ATOMIC_WP and not dst_vma.flags & VM_UFFD_WP:
            return -EINVAL
        if is_vm_hugetlb_page(dst_vma):
            return 0
        shmem = dst_vma.ops is not None and dst_vma.ops.is_shmem
        if not dst_vma.anonymous and not shmem:
            return -EINVAL
        if not shmem and uffd_flags_mode_is(flags, MFILL_ATOMIC_CONTINUE):
            return -EINVAL
        return 0

    def mfill_atomic_copy(
        self,
        ctx: UserfaultfdCtx,
        dst_start: int,
        src_start: int,
        length: int,
        flags: int,
    ) -> int:
        """Fill missing pages with copies.

        Source: mm/userfaultfd.c, mfill_atomic_copy()
        """
        flags = uffd_flags_set_mode(flags, MFILL_ATOMIC_COPY)
        return self.mfill_atomic(ctx, dst_start, src_start, length, flags)

    def mfill_atomic_zeropage(
        self, ctx: UserfaultfdCtx, start: int, length: int
    ) -> int:
        """Map the zero page at missing pages.

        Source: mm/userfaultfd.c, mfill_atomic_zeropage()
        """
        flags = uffd_flags_set_mode(0, MFILL_ATOMIC_ZEROPAGE)
        return self.mfill_atomic(ctx, start, 0, length, flags)

    def mfill_atomic_continue(
        self, ctx: UserfaultfdCtx, start: int, length: int, flags: int
    ) -> int:
        """Map pages that the file has already.

        Source: mm/userfaultfd.c, mfill_atomic_continue()
        Deviates: accesses are in order here, so there is no smp_wmb().
        """
        flags = uffd_flags_set_mode(flags, MFILL_ATOMIC_CONTINUE)
        return self.mfill_atomic(ctx, start, 0, length, flags)

    def copy_folio_from_user(
        self, folio: Folio, src: int, *, allow_pagefault: bool
    ) -> int:
        """Copy a folio from the memory of the running process, page by page.

        Args:
            folio: Gets the contents.
            src: Where they begin, in user space; a multiple of 8.
            allow_pagefault: Faults are handled now, and no lock is held.

        Returns:
            Bytes that could not be copied.

        Source: mm/memory.c, copy_folio_from_user()
        Deviates: it also stands for the copy_from_user() of a single page.
        """
        page_size = self._pgtable.page_size
        left = folio.nr_pages * page_size
        for page in range(folio.nr_pages):
            start = src + page * page_size
            while not self._copy_page(folio.pfn + page, start):
                if not allow_pagefault or not self._fault_in(start):
                    return left
            left -= page_size
        return 0

    def _copy_page(self, target: Page, src: int) -> bool:
        """Copy one page of the running process; false if that would fault."""
        pgtable = self._pgtable
        cpu = self._machine.running
        # Two pieces where the source does not begin with a page, one otherwise.
        first = pgtable.page_size - src % pgtable.page_size
        for offset, size in ((0, first), (first, pgtable.page_size - first)):
            if not size:
                continue
            pa = cpu.translate(src + offset, EL0_READ)
            if isinstance(pa, Fault):
                return False
            if size == pgtable.page_size:
                self._memory.copy_frame(pa >> pgtable.page_shift, target)
                continue
            base = (target << pgtable.page_shift) + offset
            for at in range(0, size, 8):
                self._memory.write(base + at, self._memory.read(pa + at))
        return True

    def _fault_in(self, src: int) -> bool:
        """Let the running process read a page; false if it has nothing there."""
        cpu = self._machine.running
        mm = self._kernel.sched.current[cpu.number]
        assert mm is not None
        for address in (src, src + self._pgtable.page_size - 8):
            fault = cpu.translate(address, EL0_READ)
            if isinstance(fault, Fault):
                try:
                    self._kernel.fault.do_mem_abort(mm, address, EL0_READ, fault)
                except Signal:
                    return False
        return True

    # -- WRITEPROTECT ----------------------------------------------------------------

    def uffd_wp_range(
        self, dst_vma: VmArea, start: int, length: int, *, enable_wp: bool
    ) -> int:
        """Protect the pages of a range of a VMA, or let them be written again.

        The latter makes PTEs writable at once where a write fault would do no more.

        Returns:
            How many PTEs changed, or a negative error number.

        Source: mm/userfaultfd.c, uffd_wp_range()
        """
        mm_cp_flags = MM_CP_UFFD_WP if enable_wp else MM_CP_UFFD_WP_RESOLVE
        mprotect = self._kernel.mprotect
        if not enable_wp and mprotect.vma_wants_manual_pte_write_upgrade(dst_vma):
            mm_cp_flags |= MM_CP_TRY_CHANGE_WRITABLE
        tlb = self._kernel.gather.tlb_gather_mmu(dst_vma.mm)
        ret = mprotect.change_protection(
            tlb, dst_vma, start, start + length, mm_cp_flags
        )
        self._kernel.gather.tlb_finish_mmu(tlb)
        return ret

    def mwriteprotect_range(
        self, ctx: UserfaultfdCtx, start: int, length: int, *, enable_wp: bool
    ) -> int:
        """Protect a range of VMAs, all watched, or let it be written again.

        Returns:
            0 or a negative error number. VMAs before its place keep their change.

        Source: mm/userfaultfd.c, mwriteprotect_range()
        """
        dst_mm = ctx.mm
        end = start + length
        dst_mm.mmap_lock.down_read()
        ctx.map_changing_lock.down_read()
        err = -EAGAIN if ctx.mmap_changing else -ENOENT
        vmas = self._kernel.vma.overlapping(dst_mm, start, end)
        for dst_vma in () if ctx.mmap_changing else vmas:
            if not userfaultfd_wp(dst_vma):
                err = -ENOENT
                break
            if is_vm_hugetlb_page(dst_vma):
                page_mask = self._kernel.hugetlb.hstate_vma(dst_vma).size - 1
                if (start | length) & page_mask:
                    err = -EINVAL
                    break
            first = max(dst_vma.start, start)
            last = min(dst_vma.end, end)
            err = self.uffd_wp_range(dst_vma, first, last - first, enable_wp=enable_wp)
            if err < 0:
                break
            err = 0
        ctx.map_changing_lock.up_read()
        dst_mm.mmap_lock.up_read()
        return err
