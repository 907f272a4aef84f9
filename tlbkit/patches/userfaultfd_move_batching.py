"""50944692052b: UFFDIO_MOVE clears a run of pages and flushes them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_dirty,
    pte_mkdirty,
    pte_none,
    pte_present,
)
from tlbkit.linux.include.linux.mm import VM_SHARED
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
from tlbkit.linux.mm.userfaultfd import (
    Userfaultfd,
    double_pt_lock,
    double_pt_unlock,
)
from tlbkit.linux.mm.userfaultfd.move import validate_move_areas
from tlbkit.patches import series
from tlbkit.patches.patch import Figure, Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import UserfaultfdCtx
    from tlbkit.linux.include.linux.mm_types import AnonVma, Folio, MmStruct, VmArea
    from tlbkit.linux.include.linux.swapops import SwpEntry
    from tlbkit.linux.kernel.locking import SpinLock

_CHANGELOG = "changelog of 50944692052b"
_ANDROID = "userfaultfd garbage collection on an arm64 Android device"


class UserfaultfdBefore(Userfaultfd):
    """Pages move one by one, each with its own locks, notice to devices, and flush.

    Source: mm/userfaultfd.c, v6.17.
    """

    __slots__ = ()

    def move_present_pte(
        self,
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
        src_folio: Folio,
    ) -> int:
        """Move one present page, whose old address is flushed before it has a new one.

        Returns:
            0 or a negative error number.

        Source: mm/userfaultfd.c, move_present_pte(), v6.17
        """
        pgtable = self._pgtable
        rmap = self._kernel.rmap
        err = 0
        double_pt_lock(dst_ptl, src_ptl)
        stable = self.is_pte_pages_stable(
            dst_pte, src_pte, orig_dst_pte, orig_src_pte, dst_pmd, dst_pmdval
        )
        exclusive = src_folio.page_exclusive(src_folio.pfn)
        if not self._machine.holds("is_pte_pages_stable", stable):
            err = -EAGAIN
        elif src_folio.order or src_folio.maybe_dma_pinned() or not exclusive:
            err = -EBUSY
        else:
            orig_src_pte = self._kernel.pgtable_generic.ptep_clear_flush(
                src_vma, src_addr, src_pte
            )
            if src_folio.maybe_dma_pinned():
                # GUP-fast was faster: put it back and give up.
                pgtable.set_pte(src_pte, orig_src_pte)
                err = -EBUSY
            else:
                rmap.folio_move_anon_rmap(src_folio, dst_vma)
                src_folio.index = rmap.linear_page_index(dst_vma, dst_addr)
                orig_dst_pte = pgtable.pfn_pte(src_folio.pfn, dst_vma.page_prot)
                if pte_dirty(orig_src_pte):
                    orig_dst_pte = pte_mkdirty(orig_dst_pte)
                pgtable.set_pte(dst_pte, pgtable.pte_mkwrite(orig_dst_pte))
        double_pt_unlock(dst_ptl, src_ptl)
        return err

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
        """Move the entry of a page in swap; 0 or a negative error number.

        Source: mm/userfaultfd.c, move_swap_pte(), v6.17
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
        return 0

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
        """Map the zero page at the destination instead; 0 or an error number.

        Source: mm/userfaultfd.c, move_zeropage_pte(), v6.17
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
        return 0

    def move_pages_pte(
        self,
        mm: MmStruct,
        dst_pmd: int,
        src_pmd: int,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_addr: int,
        src_addr: int,
        mode: int,
    ) -> int:
        """Move the next page; 0 or a negative error number.

        Source: mm/userfaultfd.c, move_pages_pte(), v6.17
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
            MMU_NOTIFY_CLEAR, 0, mm, src_addr, src_addr + pgtable.page_size
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
                        return 0
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
                        return self.move_present_pte(
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
                        )
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

    def move_pages(
        self,
        ctx: UserfaultfdCtx,
        dst_start: int,
        src_start: int,
        length: int,
        mode: int,
    ) -> int:
        """Move pages one by one; every try says anew how it went.

        Source: mm/userfaultfd.c, move_pages(), v6.17
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
                    err = self.move_pages_pte(
                        mm,
                        dst_pmd,
                        src_pmd,
                        dst_vma,
                        src_vma,
                        dst_addr,
                        src_addr,
                        mode,
                    )
                    step_size = pgtable.page_size
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


PATCH = Patch(
    commit="50944692052b1e76fd211f4da0798ab19d7fc276",
    subject="userfaultfd MOVE: one TLB flush for each run of present pages",
    series=series.MOVE,
    kind=Kind.PERFORMANCE,
    role=Role.PULL_REQUEST,
    author="Lokesh Gidra",
    release="v6.18",
    touches={
        "mm/userfaultfd.c": (
            "check_ptes_for_batched_move",
            "move_present_ptes",
            "move_swap_pte",
            "move_zeropage_pte",
            "move_pages_ptes",
            "move_pages",
        ),
    },
    chapter="book/commits/userfaultfd-move.md",
    sources=(
        "mainline 50944692052b",
        "Message-ID 20250816191123.3601561-1-lokeshgidra@google.com (v6)",
    ),
    figures=(
        Figure(
            name="flush share before",
            value=40,
            unit="%",
            what=f"of move_pages_pte() spent in ptep_clear_flush(), before; {_ANDROID}",
            source=_CHANGELOG,
            qualifier="over",
        ),
        Figure(
            name="lookup share before",
            value=20,
            unit="%",
            what=f"of move_pages_pte() spent in vm_normal_folio(), before; {_ANDROID}",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="lookup share after",
            value=70,
            unit="%",
            what=f"of the page mover spent in vm_normal_folio(), after; {_ANDROID}",
            source=_CHANGELOG,
            qualifier="over",
        ),
        Figure(
            name="own share after",
            value=20,
            unit="%",
            what=f"of the page mover spent in itself and its flush, after; {_ANDROID}",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="benchmark before",
            value=45,
            unit="min",
            what="garbage-collection benchmark on cuttlefish, an x86_64 guest, before",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="benchmark after",
            value=20,
            unit="min",
            what="the same benchmark on the same x86_64 guest, after",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="compaction time saved",
            value=50,
            unit="%",
            what="less time to compact in system_server, on an arm64 Android device",
            source=_CHANGELOG,
            qualifier="over",
        ),
    ),
    reverts={"userfaultfd": UserfaultfdBefore},
    note=(
        "move_present_pte() and move_pages_pte() became plural; the test for the next "
        "page is new. The same commit brought the mistake that f025ca73decd repairs."
    ),
)
