"""cc22b9978509: UFFDIO_MOVE leaves the lock of the source's anon_vma alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_dirty,
    pte_mkdirty,
    pte_none,
    pte_present,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.linux.huge_mm import pmd_is_migration_entry
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
    EINVAL,
    ENOENT,
)
from tlbkit.linux.include.uapi.linux.userfaultfd import UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR
from tlbkit.linux.mm.userfaultfd import (
    Userfaultfd,
    double_pt_lock,
    double_pt_unlock,
)
from tlbkit.patches import series
from tlbkit.patches.move_huge_zero_special import null_folio_pfn
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import AnonVma, Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.locking import SpinLock


class UserfaultfdBefore(Userfaultfd):
    """The anon_vma of the first page is locked, and a run has no page of another.

    Source: mm/userfaultfd.c, v6.18.
    """

    __slots__ = ()

    def check_ptes_for_batched_move(  # type: ignore[override]
        self,
        src_vma: VmArea,
        src_addr: int,
        src_pte: int,
        dst_pte: int,
        src_anon_vma: AnonVma,
    ) -> Folio | None:
        """Return the folio that goes on a run, locked; it has the run's anon_vma.

        Source: mm/userfaultfd.c, check_ptes_for_batched_move(), v6.18
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
        if (
            not folio.page_exclusive(folio.pfn)
            or folio.order
            or folio.mapping is not src_anon_vma
        ):
            folio_unlock(self._machine, folio)
            return None
        return folio

    def move_present_ptes(  # type: ignore[override]
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
        src_anon_vma: AnonVma,
    ) -> tuple[int, Folio | None]:
        """Move a run of present pages that have one anon_vma, which is locked.

        Source: mm/userfaultfd.c, move_present_ptes(), v6.18
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
                src_vma, src_addr, src_pte, dst_pte, src_anon_vma
            )
        if src_addr > src_start:
            self._kernel.tlbflush.flush_tlb_range(src_vma, src_start, src_addr)
        if src_folio is not None:
            folio_unlock(self._machine, src_folio)
        double_pt_unlock(dst_ptl, src_ptl)
        return src_addr - src_start or err, None

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
        """Move what can be moved at once, under the source folio's anon_vma lock.

        Whoever looked for the users of a folio walked its anon_vma without the folio
        lock.

        Source: mm/userfaultfd.c, move_pages_ptes(), v6.18
        Deviates: before -EAGAIN for a large folio that is locked, it waits for the
        lock, where the kernel tries again at once.
        """
        machine = self._machine
        pgtable = self._pgtable
        generic = self._kernel.pgtable_generic
        src_folio: Folio | None = None
        src_folio_pte = 0
        src_anon_vma: AnonVma | None = None
        rmap = self._kernel.rmap
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
                        if src_anon_vma is None:
                            anon_vma = rmap.folio_get_anon_vma(src_folio)
                            if anon_vma is None:
                                return -EAGAIN
                            locked = rmap.anon_vma_trylock_write(anon_vma)
                            if not locked:
                                rmap.anon_vma_lock_write(anon_vma)
                            src_anon_vma = anon_vma
                            if not locked:
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
                            src_anon_vma,
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
                if src_anon_vma is not None:
                    rmap.anon_vma_unlock_write(src_anon_vma)
                    rmap.put_anon_vma(src_anon_vma)


class HugeMemoryBefore(HugeMemory):
    """The anon_vma of the huge page is locked.

    Source: mm/huge_memory.c, v6.18.
    """

    __slots__ = ()

    def move_pages_huge_pmd(
        self,
        mm: MmStruct,
        dst_pmd: int,
        src_pmd: int,
        dst_pmdval: int,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_addr: int,
        src_addr: int,
    ) -> int:
        """Move a huge page under its folio's anon_vma lock, which a split takes too.

        Source: mm/huge_memory.c, move_pages_huge_pmd(), v6.18
        """
        kernel = self._kernel
        pgtable = self._pgtable
        size = pgtable.pmd_size
        src_pmdval = pgtable.read(src_pmd)
        src_ptl = kernel.memory.pmd_lockptr(src_pmd)
        src_ptl.assert_held()
        if not pte_none(dst_pmdval) or (src_addr | dst_addr) & (size - 1):
            kernel.panic.warn_on_once("move_pages_huge_pmd", "it is no whole move")
            src_ptl.release()
            return -EINVAL
        if not pmd_trans_huge(src_pmdval):
            src_ptl.release()
            if pmd_is_migration_entry(src_pmdval):
                self.pmd_migration_entry_wait(src_pmd)
                return -EAGAIN
            return -ENOENT
        src_folio = None
        if not self.is_huge_zero_pmd(src_pmdval):
            src_folio = self.pmd_folio(src_pmdval)
            if not src_folio.page_exclusive(src_folio.pfn):
                src_ptl.release()
                return -EBUSY
            src_folio.refcount += 1
        src_ptl.release()
        with kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, mm, src_addr, src_addr + size
        ):
            src_anon_vma = None
            if src_folio is not None:
                folio_lock(self._machine, src_folio)
                src_anon_vma = kernel.rmap.folio_get_anon_vma(src_folio)
                if src_anon_vma is None:
                    folio_unlock(self._machine, src_folio)
                    kernel.swap.folio_put(src_folio)
                    return -EAGAIN
                # A split looks for the folio's entries under this lock alone.
                kernel.rmap.anon_vma_lock_write(src_anon_vma)
            dst_ptl = kernel.memory.pmd_lockptr(dst_pmd)
            double_pt_lock(src_ptl, dst_ptl)
            same = pgtable.read(src_pmd) == src_pmdval
            same = same and pgtable.read(dst_pmd) == dst_pmdval
            err = 0
            if not self._machine.holds("pmd_same", same):
                err = -EAGAIN
            elif src_folio is None:
                kernel.pgtable_generic.pmdp_huge_clear_flush(src_vma, src_addr, src_pmd)
                pgtable.set_pte(
                    dst_pmd,
                    pgtable.mk_huge_pmd(null_folio_pfn(pgtable), dst_vma.page_prot),
                )
            else:
                err = self._move_folio(
                    dst_pmd, src_pmd, dst_vma, src_vma, dst_addr, src_addr, src_folio
                )
            if not err:
                store = kernel.pgtable_generic
                src_pgtable = store.pgtable_trans_huge_withdraw(src_pmd)
                store.pgtable_trans_huge_deposit(dst_pmd, src_pgtable)
            double_pt_unlock(src_ptl, dst_ptl)
            if src_anon_vma is not None:
                kernel.rmap.anon_vma_unlock_write(src_anon_vma)
                kernel.rmap.put_anon_vma(src_anon_vma)
            if src_folio is not None:
                folio_unlock(self._machine, src_folio)
        if src_folio is not None:
            kernel.swap.folio_put(src_folio)
        return err


PATCH = Patch(
    commit="cc22b9978509ec973b08457e72d81fbfe4d91ef2",
    subject="userfaultfd MOVE: no anon_vma lock, the folio lock is enough",
    series=series.CONTEXT,
    kind=Kind.PERFORMANCE,
    role=Role.CONTEXT,
    author="Lokesh Gidra",
    release="v6.19",
    touches={
        "mm/userfaultfd.c": (
            "check_ptes_for_batched_move",
            "move_present_ptes",
            "move_pages_ptes",
        ),
        "mm/huge_memory.c": ("move_pages_huge_pmd",),
    },
    chapter="",
    sources=(
        "mm-stable cc22b9978509, as pushed on 2025-11-17; known by its title",
        "mm/userfaultfd.c of v6.17, v6.18 and v6.19, compared",
    ),
    needs={"50944692052b": "the functions that it changes were made there"},
    reverts={"userfaultfd": UserfaultfdBefore, "huge_memory": HugeMemoryBefore},
    note=(
        "It rests on 95b34d66480b of the same series: every walk of a folio's mappings "
        "holds the folio lock. No walk here ever was without it."
    ),
)
