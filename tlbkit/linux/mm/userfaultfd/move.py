"""MOVE: from the locks of two tables to the last byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.errors import TlbkitError
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_dirty,
    pte_mkdirty,
    pte_none,
    pte_present,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.linux.mm import (
    VM_ACCESS_FLAGS,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SHADOW_STACK,
    VM_SHARED,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import PG_locked
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_trylock, folio_unlock
from tlbkit.linux.include.linux.swapops import (
    is_migration_entry,
    non_swap_entry,
    pte_swp_exclusive,
    pte_to_swp_entry,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EBUSY,
    EEXIST,
    EFAULT,
    EINTR,
    EINVAL,
    ENOENT,
    ENOMEM,
)
from tlbkit.linux.include.uapi.linux.userfaultfd import UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR
from tlbkit.linux.mm.userfaultfd.mfill import UffdMfill

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import UserfaultfdCtx
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.include.linux.swapops import SwpEntry
    from tlbkit.linux.kernel.locking import SpinLock

TRIES_BEFORE_GIVING_UP: Final = 64


class MoveLivelockError(TlbkitError):
    """A move tries the same page for ever, though nothing changes between two tries."""

    def __init__(self, cpu: int, address: int) -> None:
        super().__init__(
            f"CPU {cpu}: UFFDIO_MOVE has tried {TRIES_BEFORE_GIVING_UP} times to move "
            f"the page at {address:#x} and would go on; the call never returns"
        )
        self.cpu = cpu
        self.address = address


def double_pt_lock(ptl1: SpinLock, ptl2: SpinLock) -> None:
    """Take the locks of two tables, which may be one, the lower address first.

    Source: mm/userfaultfd.c, double_pt_lock()
    """
    first, second = sorted((ptl1, ptl2), key=lambda ptl: ptl.address)
    first.acquire()
    if second is not first:
        second.acquire()


def double_pt_unlock(ptl1: SpinLock, ptl2: SpinLock) -> None:
    """Release what `double_pt_lock` took.

    Source: mm/userfaultfd.c, double_pt_unlock()
    """
    ptl1.release()
    if ptl2 is not ptl1:
        ptl2.release()


def vma_move_compatible(vma: VmArea) -> bool:
    """Tell whether the pages of a VMA can be moved.

    Source: mm/userfaultfd.c, vma_move_compatible()
    """
    fixed = VM_PFNMAP | VM_IO | VM_HUGETLB | VM_MIXEDMAP | VM_SHADOW_STACK
    return not vma.flags & fixed


def validate_move_areas(ctx: UserfaultfdCtx, src_vma: VmArea, dst_vma: VmArea) -> int:
    """Return ``-EINVAL`` unless pages of one VMA may be pages of the other.

    Source: mm/userfaultfd.c, validate_move_areas()
    """
    differ = src_vma.flags ^ dst_vma.flags
    if differ & VM_ACCESS_FLAGS or src_vma.page_prot != dst_vma.page_prot:
        return -EINVAL
    if differ & VM_LOCKED:
        return -EINVAL
    if not src_vma.flags & VM_WRITE:
        return -EINVAL
    if not vma_move_compatible(src_vma) or not vma_move_compatible(dst_vma):
        return -EINVAL
    if dst_vma.uffd is not ctx:
        return -EINVAL
    if not src_vma.anonymous or not dst_vma.anonymous:
        return -EINVAL
    return 0


class UffdMove(UffdMfill):
    """Moving pages on behalf of user space."""

    __slots__ = ()

    # -- PTEs ------------------------------------------------------------------------

    def is_pte_pages_stable(
        self,
        dst_pte: int,
        src_pte: int,
        orig_dst_pte: int,
        orig_src_pte: int,
        dst_pmd: int,
        dst_pmdval: int,
    ) -> bool:
        """Tell whether the entries still say what they said; both PTLs are held.

        Source: mm/userfaultfd.c, is_pte_pages_stable()
        """
        return (
            self._pgtable.ptep_get(src_pte) == orig_src_pte
            and self._pgtable.ptep_get(dst_pte) == orig_dst_pte
            and self._pgtable.read(dst_pmd) == dst_pmdval
        )

    def check_ptes_for_batched_move(
        self, src_vma: VmArea, src_addr: int, src_pte: int, dst_pte: int
    ) -> Folio | None:
        """Return the folio that goes on a run, locked; ``None`` if the run ends here.

        No reference is taken: its table is locked until it has been moved.

        Source: mm/userfaultfd.c, check_ptes_for_batched_move()
        """
        pgtable = self._pgtable
        if not self._machine.holds("pte_none", pte_none(pgtable.ptep_get(dst_pte))):
            return None
        orig_src_pte = pgtable.ptep_get(src_pte)
        memory = self._kernel.memory
        if not pte_present(orig_src_pte):
            return None
        if memory.is_zero_pfn(pgtable.pte_pfn(orig_src_pte)):
            return None
        folio = memory.vm_normal_folio(src_vma, src_addr, orig_src_pte)
        if folio is None or not folio_trylock(folio):
            return None
        if not folio.page_exclusive(folio.pfn) or folio.order:
            folio_unlock(self._machine, folio)
            return None
        return folio

    def move_present_ptes(
        self,
        mm: MmStruct,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_addr: int,
        src_addr: int,
        dst_pte: int,
        src_pte: int,
        orig_dst_pte: int,
        orig_src_pte: int,
        dst_pmd: int,
        dst_pmdval: int,
        dst_ptl: SpinLock,
        src_ptl: SpinLock,
        first_src_folio: Folio,
        length: int,
    ) -> tuple[int, Folio | None]:
        """Move a run of present pages, and flush their old addresses once.

        The run begins with *first_src_folio*, which is locked and referenced. It ends
        where a table on either side does, and before the first page that is not as
        simple as those so far.

        Returns:
            Bytes moved, or a negative error number if the first page cannot be; and the
            folio if its lock and reference are still the caller's.

        Source: mm/userfaultfd.c, move_present_ptes()
        """
        pgtable = self._pgtable
        rmap = self._kernel.rmap
        src_folio: Folio | None = first_src_folio
        src_start = src_addr
        shift = pgtable.pmd_shift
        length = pgtable.addr_end(dst_addr, dst_addr + length, shift) - dst_addr
        src_end = pgtable.addr_end(src_addr, src_addr + length, shift)
        double_pt_lock(dst_ptl, src_ptl)
        stable = self.is_pte_pages_stable(
            dst_pte, src_pte, orig_dst_pte, orig_src_pte, dst_pmd, dst_pmdval
        )
        if not self._machine.holds("is_pte_pages_stable", stable):
            double_pt_unlock(dst_ptl, src_ptl)
            return -EAGAIN, first_src_folio
        exclusive = first_src_folio.page_exclusive(first_src_folio.pfn)
        if (
            first_src_folio.order
            or first_src_folio.maybe_dma_pinned()
            or not self._machine.holds("PageAnonExclusive", exclusive)
        ):
            double_pt_unlock(dst_ptl, src_ptl)
            return -EBUSY, first_src_folio
        # The PTE holds the folio too, and while its table is locked it stays.
        self._kernel.swap.folio_put(first_src_folio)
        err = 0
        pgtable.arch_enter_lazy_mmu_mode()
        while src_folio is not None:
            orig_src_pte = pgtable.ptep_get_and_clear(mm, src_addr, src_pte)
            pinned = src_folio.maybe_dma_pinned()
            if self._machine.sees("folio_maybe_dma_pinned", pinned):
                # GUP-fast was faster: put it back and stop.
                pgtable.set_pte(src_pte, orig_src_pte)
                err = -EBUSY
                break
            rmap.folio_move_anon_rmap(src_folio, dst_vma)
            src_folio.index = rmap.linear_page_index(dst_vma, dst_addr)
            orig_dst_pte = pgtable.pfn_pte(src_folio.pfn, dst_vma.page_prot)
            if pte_dirty(orig_src_pte):
                orig_dst_pte = pte_mkdirty(orig_dst_pte)
            pgtable.set_pte(dst_pte, pgtable.pte_mkwrite(orig_dst_pte))
            src_addr += pgtable.page_size
            if src_addr == src_end:
                break
            dst_addr += pgtable.page_size
            dst_pte += SLOT
            src_pte += SLOT
            folio_unlock(self._machine, src_folio)
            src_folio = self.check_ptes_for_batched_move(
                src_vma, src_addr, src_pte, dst_pte
            )
        pgtable.arch_leave_lazy_mmu_mode()
        if src_addr > src_start:
            self._kernel.tlbflush.flush_tlb_range(src_vma, src_start, src_addr)
        if src_folio is not None:
            folio_unlock(self._machine, src_folio)
        double_pt_unlock(dst_ptl, src_ptl)
        return src_addr - src_start or err, None

    def move_swap_pte(
        self,
        mm: MmStruct,
        dst_vma: VmArea,
        dst_addr: int,
        src_addr: int,
        dst_pte: int,
        src_pte: int,
        orig_dst_pte: int,
        orig_src_pte: int,
        dst_pmd: int,
        dst_pmdval: int,
        dst_ptl: SpinLock,
        src_ptl: SpinLock,
        src_folio: Folio | None,
        entry: SwpEntry,
    ) -> int:
        """Move the entry of a page in swap, and its folio in the swap cache, if any.

        No TLB holds it, so nothing is flushed. If the cache has got a folio since it
        was looked at, that would be left behind.

        Returns:
            Bytes moved, or a negative error number.

        Source: mm/userfaultfd.c, move_swap_pte()
        Deviates: before -EAGAIN for a folio that is being read in, it waits for the
        reader, where the kernel tries again at once.
        """
        pgtable = self._pgtable
        swapfile = self._kernel.swapfile
        if src_folio is not None:
            same = self._kernel.swap_state.folios.get(entry) is src_folio
            if not self._machine.holds("folio_matches_swap_entry", same):
                return -EAGAIN
        double_pt_lock(dst_ptl, src_ptl)
        stable = self.is_pte_pages_stable(
            dst_pte, src_pte, orig_dst_pte, orig_src_pte, dst_pmd, dst_pmdval
        )
        if not self._machine.holds("is_pte_pages_stable", stable):
            double_pt_unlock(dst_ptl, src_ptl)
            return -EAGAIN
        if src_folio is not None:
            self._kernel.rmap.folio_move_anon_rmap(src_folio, dst_vma)
            src_folio.index = self._kernel.rmap.linear_page_index(dst_vma, dst_addr)
        elif self._machine.sees("SWAP_HAS_CACHE", swapfile.has_cache(entry)):
            double_pt_unlock(dst_ptl, src_ptl)
            swapfile.wait_for_reader(entry)
            return -EAGAIN
        orig_src_pte = pgtable.ptep_get_and_clear(mm, src_addr, src_pte)
        pgtable.set_pte(dst_pte, orig_src_pte)
        double_pt_unlock(dst_ptl, src_ptl)
        return pgtable.page_size

    def move_zeropage_pte(
        self,
        dst_vma: VmArea,
        src_vma: VmArea,
        src_addr: int,
        dst_pte: int,
        src_pte: int,
        orig_dst_pte: int,
        orig_src_pte: int,
        dst_pmd: int,
        dst_pmdval: int,
        dst_ptl: SpinLock,
        src_ptl: SpinLock,
    ) -> int:
        """Map the zero page at the destination instead; bytes or an error number.

        Source: mm/userfaultfd.c, move_zeropage_pte()
        """
        pgtable = self._pgtable
        double_pt_lock(dst_ptl, src_ptl)
        stable = self.is_pte_pages_stable(
            dst_pte, src_pte, orig_dst_pte, orig_src_pte, dst_pmd, dst_pmdval
        )
        if not self._machine.holds("is_pte_pages_stable", stable):
            double_pt_unlock(dst_ptl, src_ptl)
            return -EAGAIN
        zero_pte = pgtable.pte_mkspecial(
            pgtable.pfn_pte(self._kernel.zero_pfn, dst_vma.page_prot)
        )
        self._kernel.pgtable_generic.ptep_clear_flush(src_vma, src_addr, src_pte)
        pgtable.set_pte(dst_pte, zero_pte)
        double_pt_unlock(dst_ptl, src_ptl)
        return pgtable.page_size

    def move_pages_ptes(
        self,
        mm: MmStruct,
        dst_pmd: int,
        src_pmd: int,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_addr: int,
        src_addr: int,
        length: int,
        mode: int,
    ) -> int:
        """Move what can be moved at once, from one pair of tables.

        A hole, the zero page, and a page in swap are moved alone. Present pages are
        moved together with those that follow them.

        Args:
            mm: The address space.
            dst_pmd: Where the PMD of the destination stands.
            src_pmd: Where the PMD of the source stands.
            dst_vma: Locked for reading.
            src_vma: Locked for reading; they may be one.
            dst_addr: Where the pages go.
            src_addr: Where they are.
            length: Bytes that are left.
            mode: The ``UFFDIO_MOVE_MODE_`` bits.

        Returns:
            Bytes moved, or a negative error number: after ``-EAGAIN`` the caller tries
            again.

        Source: mm/userfaultfd.c, move_pages_ptes()
        Deviates: before -EAGAIN for a large folio that is locked, it waits for the
        lock, where the kernel tries again at once.
        """
        machine = self._machine
        pgtable = self._pgtable
        generic = self._kernel.pgtable_generic
        src_folio: Folio | None = None
        src_folio_pte = 0
        notifier = self._kernel.mmu_notifier
        with notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, mm, src_addr, src_addr + length
        ):
            try:
                while True:
                    dst = generic.pte_offset_map_rw_nolock(mm, dst_pmd, dst_addr)
                    if dst is None:
                        return -EAGAIN
                    dst_pte, dst_pmdval, dst_ptl = dst
                    src = generic.pte_offset_map_rw_nolock(mm, src_pmd, src_addr)
                    if src is None:
                        return -EAGAIN
                    src_pte, _, src_ptl = src
                    for pmd in (pgtable.read(dst_pmd), pgtable.read(src_pmd)):
                        if pte_none(pmd) or pmd_trans_huge(pmd):
                            return -EINVAL
                    with dst_ptl:
                        orig_dst_pte = pgtable.ptep_get(dst_pte)
                    if not pte_none(orig_dst_pte):
                        return -EEXIST
                    with src_ptl:
                        orig_src_pte = pgtable.ptep_get(src_pte)
                    if pte_none(orig_src_pte):
                        if not mode & UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES:
                            return -ENOENT
                        return pgtable.page_size
                    if src_folio is not None:
                        same = src_folio_pte == orig_src_pte
                        if not machine.holds("pte_same", same):
                            return -EAGAIN
                    if pte_present(orig_src_pte):
                        pfn = pgtable.pte_pfn(orig_src_pte)
                        if self._kernel.memory.is_zero_pfn(pfn):
                            return self.move_zeropage_pte(
                                dst_vma,
                                src_vma,
                                src_addr,
                                dst_pte,
                                src_pte,
                                orig_dst_pte,
                                orig_src_pte,
                                dst_pmd,
                                dst_pmdval,
                                dst_ptl,
                                src_ptl,
                            )
                        if src_folio is None:
                            folio: Folio | None
                            with src_ptl:
                                same = pgtable.ptep_get(src_pte) == orig_src_pte
                                if not machine.holds("pte_same", same):
                                    return -EAGAIN
                                folio = self._kernel.memory.vm_normal_folio(
                                    src_vma, src_addr, orig_src_pte
                                )
                                if folio is None or not folio.page_exclusive(folio.pfn):
                                    return -EBUSY
                                locked = folio_trylock(folio)
                                if locked or not folio.order:
                                    folio.refcount += 1
                            if not locked and folio.order:
                                # A reference would keep others from splitting it.
                                self._wait_for_lock(folio)
                                return -EAGAIN
                            if not locked:
                                folio_lock(machine, folio)
                            src_folio, src_folio_pte = folio, orig_src_pte
                            if not locked:
                                continue
                            if not src_folio.anon:
                                return -EBUSY
                        if src_folio.order:
                            head = self._kernel.huge_memory.split_folio(src_folio)
                            if isinstance(head, int):
                                return head
                            src_folio = None
                            folio_unlock(machine, head)
                            self._kernel.swap.folio_put(head)
                            continue
                        ret, src_folio = self.move_present_ptes(
                            mm,
                            dst_vma,
                            src_vma,
                            dst_addr,
                            src_addr,
                            dst_pte,
                            src_pte,
                            orig_dst_pte,
                            orig_src_pte,
                            dst_pmd,
                            dst_pmdval,
                            dst_ptl,
                            src_ptl,
                            src_folio,
                            length,
                        )
                        return ret
                    entry = pte_to_swp_entry(orig_src_pte)
                    if is_migration_entry(entry):
                        self._kernel.migrate.migration_entry_wait(entry)
                        return -EAGAIN
                    if non_swap_entry(entry):
                        return -EFAULT
                    if not pte_swp_exclusive(orig_src_pte):
                        return -EBUSY
                    if self._kernel.swapfile.get_swap_device(entry) is None:
                        return -EAGAIN
                    if src_folio is None:
                        folio = self._kernel.swap_state.swap_cache_get_folio(entry)
                        if folio is not None and folio.order:
                            self._kernel.swap.folio_put(folio)
                            return -EBUSY
                        if folio is not None:
                            locked = folio_trylock(folio)
                            if not locked:
                                folio_lock(machine, folio)
                            src_folio, src_folio_pte = folio, orig_src_pte
                            if not locked:
                                continue
                    return self.move_swap_pte(
                        mm,
                        dst_vma,
                        dst_addr,
                        src_addr,
                        dst_pte,
                        src_pte,
                        orig_dst_pte,
                        orig_src_pte,
                        dst_pmd,
                        dst_pmdval,
                        dst_ptl,
                        src_ptl,
                        src_folio,
                        entry,
                    )
            finally:
                if src_folio is not None:
                    folio_unlock(machine, src_folio)
                    self._kernel.swap.folio_put(src_folio)

    def _wait_for_lock(self, folio: Folio) -> None:
        """Let others run until nobody has *folio* locked."""
        self._machine.wait(
            lambda: not folio.flags & PG_locked, "the lock of a large folio"
        )

    def move_splits_huge_pmd(self, dst_addr: int, src_addr: int, src_end: int) -> bool:
        """Tell whether what is left of a move cannot take a huge page as one.

        Source: mm/userfaultfd.c, move_splits_huge_pmd()
        """
        size = self._pgtable.pmd_size
        return bool((src_addr | dst_addr) & (size - 1)) or src_end - src_addr < size

    # -- locking VMAs ----------------------------------------------------------------

    def find_vmas_mm_locked(
        self, mm: MmStruct, dst_start: int, src_start: int
    ) -> tuple[VmArea, VmArea] | int:
        """Return the VMAs of a destination and a source; the mmap lock is held.

        Source: mm/userfaultfd.c, find_vmas_mm_locked()
        """
        dst_vma = self.find_vma_and_prepare_anon(mm, dst_start)
        if isinstance(dst_vma, int):
            return dst_vma
        if dst_vma.start <= src_start < dst_vma.end:
            return dst_vma, dst_vma
        src_vma = self._kernel.vma.vma_lookup(mm, src_start)
        if src_vma is None:
            return -ENOENT
        return dst_vma, src_vma

    def uffd_move_lock(
        self, mm: MmStruct, dst_start: int, src_start: int
    ) -> tuple[VmArea, VmArea] | int:
        """Return the VMAs of a destination and a source, each locked once.

        The source is only tried while the destination is locked: somebody who changes
        both could wait for the one that is held and hold the one that is wanted. If the
        try fails, both are locked under the mmap lock, which keeps changers out.

        Source: mm/userfaultfd.c, uffd_move_lock()
        """
        locks = self._kernel.mmap_lock
        dst_vma = self.uffd_lock_vma(mm, dst_start)
        if isinstance(dst_vma, int):
            return dst_vma
        if dst_vma.start <= src_start < dst_vma.end:
            return dst_vma, dst_vma
        src_vma = locks.lock_vma_under_rcu(mm, src_start)
        if src_vma is not None:
            return dst_vma, src_vma
        locks.vma_end_read(dst_vma)
        mm.mmap_lock.down_read()
        found = self.find_vmas_mm_locked(mm, dst_start, src_start)
        if not isinstance(found, int):
            dst_vma, src_vma = found
            locks.vma_start_read_locked(dst_vma)
            if src_vma is not dst_vma:
                locks.vma_start_read_locked(src_vma)
        mm.mmap_lock.up_read()
        return found

    def uffd_move_unlock(self, dst_vma: VmArea, src_vma: VmArea) -> None:
        """Release what `uffd_move_lock` locked.

        Source: mm/userfaultfd.c, uffd_move_unlock()
        """
        self._kernel.mmap_lock.vma_end_read(src_vma)
        if src_vma is not dst_vma:
            self._kernel.mmap_lock.vma_end_read(dst_vma)

    # -- the whole -------------------------------------------------------------------

    def move_pages(
        self,
        ctx: UserfaultfdCtx,
        dst_start: int,
        src_start: int,
        length: int,
        mode: int,
    ) -> int:
        """Move private anonymous pages within one address space, without copying.

        Args:
            ctx: Who watches the destination.
            dst_start: Page-aligned; nothing may be there.
            src_start: Page-aligned; pages there must belong to this process alone.
            length: In bytes, of pages.
            mode: The ``UFFDIO_MOVE_MODE_`` bits.

        Returns:
            Bytes moved, or a negative error number if there are none; never 0. Whoever
            gets fewer bytes than *length* learns the reason by asking for the rest.

        Source: mm/userfaultfd.c, move_pages()
        Deviates: a page that was tried in vain 64 times ends an endless loop by an
        error of the model.
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        huge_memory = self._kernel.huge_memory
        mm = ctx.mm
        found = self.uffd_move_lock(mm, dst_start, src_start)
        if isinstance(found, int):
            return found
        dst_vma, src_vma = found
        src_end = src_start + length
        src_addr, dst_addr = src_start, dst_start
        err = tries = moved = 0
        ctx.map_changing_lock.down_read()
        try:
            if self._machine.sees("mmap_changing", ctx.mmap_changing):
                return -EAGAIN
            if src_vma.flags & VM_SHARED or src_end > src_vma.end:
                return -EINVAL
            if dst_vma.flags & VM_SHARED or dst_start + length > dst_vma.end:
                return -EINVAL
            err = validate_move_areas(ctx, src_vma, dst_vma)
            if err:
                return err
            while src_addr < src_end:
                src_pmd = pgtable.find_pmd(mm, src_addr)
                if src_pmd is None:
                    if not mode & UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES:
                        err = -ENOENT
                        break
                    src_pmd = self.mm_alloc_pmd(mm, src_addr)
                    if src_pmd is None:
                        err = -ENOMEM
                        break
                dst_pmd = self.mm_alloc_pmd(mm, dst_addr)
                if dst_pmd is None:
                    err = -ENOMEM
                    break
                dst_pmdval = pgtable.read(dst_pmd)
                if pmd_trans_huge(dst_pmdval):
                    err = -EEXIST
                    break
                ptl = huge_memory.pmd_trans_huge_lock(src_pmd, src_vma)
                if ptl is not None:
                    if self.move_splits_huge_pmd(
                        dst_addr, src_addr, src_end
                    ) or not pte_none(dst_pmdval):
                        pmd = pgtable.read(src_pmd)
                        if pte_present(pmd) and not huge_memory.is_huge_zero_pmd(pmd):
                            pfn = pgtable.pmd_pfn(pmd)
                            folio = self._kernel.page_alloc.folio_of(pfn)
                            if not folio.page_exclusive(folio.pfn):
                                ptl.release()
                                err = -EBUSY
                                break
                        ptl.release()
                        huge_memory.split_huge_pmd(src_vma, src_pmd, src_addr)
                        continue
                    err = huge_memory.move_pages_huge_pmd(
                        mm,
                        dst_pmd,
                        src_pmd,
                        dst_pmdval,
                        dst_vma,
                        src_vma,
                        dst_addr,
                        src_addr,
                    )
                    step_size = pgtable.pmd_size
                else:
                    if pte_none(pgtable.read(src_pmd)):
                        if not mode & UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES:
                            err = -ENOENT
                            break
                        if not memory.pte_alloc(mm, src_pmd):
                            err = -ENOMEM
                            break
                    if not memory.pte_alloc(mm, dst_pmd):
                        err = -ENOMEM
                        break
                    ret = self.move_pages_ptes(
                        mm,
                        dst_pmd,
                        src_pmd,
                        dst_vma,
                        src_vma,
                        dst_addr,
                        src_addr,
                        src_end - src_addr,
                        mode,
                    )
                    err = min(ret, 0)
                    step_size = max(ret, 0)
                if self._fatal_signal_pending():
                    if err in (0, -EAGAIN):
                        err = -EINTR
                    break
                if err == -EAGAIN:
                    tries = self.tried_in_vain(tries, src_addr)
                    continue
                if err:
                    break
                dst_addr += step_size
                src_addr += step_size
                moved += step_size
                tries = 0
        finally:
            ctx.map_changing_lock.up_read()
            self.uffd_move_unlock(dst_vma, src_vma)
        return moved or err

    def tried_in_vain(self, tries: int, src_addr: int) -> int:
        """Count another try that failed with ``-EAGAIN``.

        Here nothing but another CPU could make the next one differ, so after many the
        loop is taken for endless.

        Errors:
            MoveLivelockError: It was one too many.

        Source: none; messages tell of it.
        """
        if tries + 1 >= TRIES_BEFORE_GIVING_UP:
            raise MoveLivelockError(self._machine.running.number, src_addr)
        return tries + 1
