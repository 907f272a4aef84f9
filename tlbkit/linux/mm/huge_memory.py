"""Transparent huge pages: mm/huge_memory.c.

A PMD entry may map a whole block of anonymous memory. What makes such an entry, and
what takes it apart again, is here; who faults, forks, unmaps or changes rights meets
it at the level of PMD entries and asks this module.

Every block entry of anonymous memory keeps a page table in store, so that to split it
never needs memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from tlbkit.errors import InputError
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_clear_uffd_wp,
    pte_dirty,
    pte_mkdirty,
    pte_mkold,
    pte_mkspecial,
    pte_mkuffd_wp,
    pte_mkyoung,
    pte_modify,
    pte_none,
    pte_present,
    pte_protnone,
    pte_special,
    pte_uffd_wp,
    pte_write,
    pte_wrprotect,
    pte_young,
)
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_UNSHARE,
    FAULT_FLAG_WRITE,
    MM_CP_PROT_NUMA,
    MM_CP_TRY_CHANGE_WRITABLE,
    MM_CP_UFFD_WP,
    MM_CP_UFFD_WP_RESOLVE,
    VM_FAULT_FALLBACK,
    VM_FAULT_OOM,
    VM_HUGEPAGE,
    VM_NOHUGEPAGE,
    VM_SHARED,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import (
    Folio,
    LargeFolio,
    PG_dirty,
    PG_locked,
    PG_lru,
    PG_swapbacked,
    PG_uptodate,
)
from tlbkit.linux.include.linux.pagemap import (
    folio_lock,
    folio_trylock,
    folio_unlock,
)
from tlbkit.linux.include.linux.swapops import make_migration_pte
from tlbkit.linux.include.linux.userfaultfd_k import (
    userfaultfd_missing,
    userfaultfd_pte_wp,
    userfaultfd_wp_async,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EBUSY,
    EINVAL,
    ENOENT,
    ENOMEM,
)
from tlbkit.linux.include.uapi.linux.userfaultfd import UFFD_FEATURE_EVENT_REMAP
from tlbkit.linux.mm.page_alloc import BadPageError
from tlbkit.linux.mm.userfaultfd import double_pt_lock, double_pt_unlock

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea, VmFault
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.mm.mmu_gather import MmuGather

Enabled = Literal["always", "madvise", "never"]
EnabledSize = Literal["always", "inherit", "madvise", "never"]

_SMALLEST_ORDER: Final = 2  # a folio of two pages has no room for its counts


class HugeMemory:
    """Blocks and large folios of anonymous memory.

    The settings are those below /sys/kernel/mm/transparent_hugepage.

    Attributes:
        use_zero_page: A read of untouched memory may map the huge zero folio.
        huge_zero_folio: The block of zeros that everybody shares, while there is one.
        deferred_split_queue: Folios that may be split if memory becomes short.
        mthp_orders: Orders below that of a block for which any setting says more than
            "never"; 0 spares every fault the question.
    """

    __slots__ = (
        "_by_size",
        "_enabled",
        "_huge_zero_refcount",
        "_kernel",
        "_machine",
        "_pgtable",
        "deferred_split_queue",
        "huge_zero_folio",
        "mthp_orders",
        "use_zero_page",
    )

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable
        self._enabled: Enabled = "madvise"
        self._by_size: dict[int, EnabledSize] = {
            kernel.pgtable.hpage_pmd_order: "inherit"
        }
        self.mthp_orders = 0
        self.use_zero_page = True
        self.huge_zero_folio: LargeFolio | None = None
        self._huge_zero_refcount = 0
        self.deferred_split_queue: list[LargeFolio] = []

    # -- settings --------------------------------------------------------------------

    @property
    def enabled(self) -> Enabled:
        """Who gets blocks: "always" everybody, "madvise" who asks, "never" nobody."""
        return self._enabled

    @enabled.setter
    def enabled(self, how: Enabled) -> None:
        if how not in {"always", "madvise", "never"}:
            raise InputError(
                f"enabled={how!r}: known are 'always', 'madvise' and 'never'"
            )
        self._enabled = how

    def set_hugepages_enabled(self, kib: int, how: EnabledSize) -> None:
        """Say who gets large folios of *kib* KiB: hugepages-<kib>kB/enabled.

        Args:
            kib: A power of two, from four pages up to a block.
            how: As `enabled`, or "inherit" for what that says. At first, blocks are
                "inherit" and all smaller sizes "never".
        """
        pages, rest = divmod(kib << 10, self._pgtable.page_size)
        order = pages.bit_length() - 1
        top = self._pgtable.hpage_pmd_order
        if rest or pages != 1 << max(order, 0) or not _SMALLEST_ORDER <= order <= top:
            low = self._pgtable.page_size << _SMALLEST_ORDER >> 10
            high = self._pgtable.pmd_size >> 10
            raise InputError(
                f"kib={kib}: a large folio has a power of two from {low} to {high} KiB"
            )
        if how not in {"always", "inherit", "madvise", "never"}:
            raise InputError(
                f"how={how!r}: known are 'always', 'inherit', 'madvise' and 'never'"
            )
        self._by_size[order] = how
        self.mthp_orders = sum(
            1 << size
            for size, value in self._by_size.items()
            if size < top and value != "never"
        )

    def thp_vma_allowable_orders(
        self, vma: VmArea, orders: int, *, forced: bool = False
    ) -> int:
        """Return those of *orders*, a bit each, that *vma* may have.

        Args:
            vma: The area.
            orders: Bit n stands for folios of 2**n pages.
            forced: User space has asked for this very range: settings do not matter.
        """
        if not vma.anonymous or vma.flags & VM_NOHUGEPAGE:
            return 0
        if forced:
            return orders
        asked = bool(vma.flags & VM_HUGEPAGE)
        allowed = 0
        for order, setting in self._by_size.items():
            how = self._enabled if setting == "inherit" else setting
            if how == "always" or (how == "madvise" and asked):
                allowed |= 1 << order
        return allowed & orders

    def thp_vma_suitable_order(self, vma: VmArea, addr: int, order: int) -> bool:
        """Tell whether an aligned folio of *order* around *addr* lies within *vma*."""
        size = self._pgtable.page_size << order
        start = addr & -size
        return vma.start <= start and start + size <= vma.end

    # -- the huge zero folio ---------------------------------------------------------

    def is_huge_zero_pmd(self, pmd: int) -> bool:
        """Tell whether an entry maps the huge zero folio."""
        zero = self.huge_zero_folio
        if zero is None or not pte_present(pmd):
            return False
        return self._pgtable.pte_pfn(pmd) & -zero.nr_pages == zero.pfn

    def mm_get_huge_zero_folio(self, mm: MmStruct) -> LargeFolio | None:
        """Return the huge zero folio, held until *mm* ends; ``None`` without memory.

        It counts processes, not mappings: the entries that map it hold nothing.
        """
        if not mm.huge_zero:
            if not self._get_huge_zero_page():
                return None
            mm.huge_zero = True
        return self.huge_zero_folio

    def mm_put_huge_zero_folio(self, mm: MmStruct) -> None:
        """Drop what `mm_get_huge_zero_folio` took, as *mm* goes away."""
        if not mm.huge_zero:
            return
        mm.huge_zero = False
        self._huge_zero_refcount -= 1
        if not self._huge_zero_refcount:
            assert self.huge_zero_folio is not None
            raise BadPageError(
                self.huge_zero_folio, "only the shrinker may drop the last reference"
            )

    def _get_huge_zero_page(self) -> bool:
        """Take a reference, making the folio if need be: get_huge_zero_folio()."""
        if self.huge_zero_folio is None:
            order = self._pgtable.hpage_pmd_order
            folio = self._kernel.page_alloc.alloc_zeroed(order)
            if folio is None:
                return False
            assert isinstance(folio, LargeFolio)
            self.huge_zero_folio = folio
            self._huge_zero_refcount = 1  # the shrinker's
        self._huge_zero_refcount += 1
        return True

    def shrink_huge_zero_folio(self) -> int:
        """Free the huge zero folio unless a process holds it; return pages freed."""
        folio = self.huge_zero_folio
        if folio is None or self._huge_zero_refcount > 1:
            return 0
        self._huge_zero_refcount = 0
        self.huge_zero_folio = None
        self._kernel.swap.folio_put(folio)
        return folio.nr_pages

    # -- a fault where nothing is ----------------------------------------------------

    def do_huge_pmd_anonymous_page(self, vmf: VmFault) -> int:
        """Map a block of private memory: zeros for a read, a new folio for a write.

        Returns:
            ``VM_FAULT_FALLBACK`` if the fault must be handled with pages.
        """
        vma = vmf.vma
        order = self._pgtable.hpage_pmd_order
        if not self.thp_vma_suitable_order(vma, vmf.address, order):
            return VM_FAULT_FALLBACK
        self._kernel.rmap.anon_vma_prepare(vma)
        if vmf.flags & FAULT_FLAG_WRITE or not self.use_zero_page:
            return self.do_huge_pmd_anonymous_page_(vmf)
        table = self._kernel.page_alloc.alloc_table("PTE table")
        if table is None:
            return VM_FAULT_OOM
        zero = self.mm_get_huge_zero_folio(vma.mm)
        if zero is None:
            self._kernel.page_alloc.free(table)
            return VM_FAULT_FALLBACK
        ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        if pte_none(self._pgtable.read(vmf.pmd)):
            if not userfaultfd_missing(vma):
                self.set_huge_zero_folio(table, vma, vmf.pmd, zero)
                ptl.release()
                return 0
            ptl.release()
            self._kernel.page_alloc.free(table)
            return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_MISSING)
        ptl.release()
        self._kernel.page_alloc.free(table)
        return 0

    def set_huge_zero_folio(
        self, table: Folio, vma: VmArea, pmdp: int, zero: LargeFolio
    ) -> None:
        """Map the huge zero folio, marked as no normal page, and store *table*."""
        entry = pte_mkspecial(self._pgtable.mk_huge_pmd(zero.pfn, vma.page_prot))
        self._deposit(vma.mm, pmdp, table)
        self._pgtable.set_pte(pmdp, entry)

    def do_huge_pmd_anonymous_page_(self, vmf: VmFault) -> int:
        """Map a new block: __do_huge_pmd_anonymous_page()."""
        vma = vmf.vma
        haddr = vmf.address & -self._pgtable.pmd_size
        folio = self.vma_alloc_anon_folio_pmd()
        if folio is None:
            return VM_FAULT_FALLBACK
        table = self._kernel.page_alloc.alloc_table("PTE table")
        if table is None:
            self._kernel.swap.folio_put(folio)
            return VM_FAULT_OOM
        ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        result = 0
        if pte_none(self._pgtable.read(vmf.pmd)):
            if not userfaultfd_missing(vma):
                self._deposit(vma.mm, vmf.pmd, table)
                self.map_anon_folio_pmd_pf(folio, vmf.pmd, vma, haddr)
                ptl.release()
                return 0
            result = VM_UFFD_MISSING
        ptl.release()
        self._kernel.swap.folio_put(folio)
        self._kernel.page_alloc.free(table)
        if result:
            return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_MISSING)
        return 0

    def vma_alloc_anon_folio_pmd(self) -> LargeFolio | None:
        """Return a block of zeros with one reference, or ``None`` without memory."""
        order = self._pgtable.hpage_pmd_order
        folio = self._kernel.page_alloc.alloc_zeroed(order)
        assert folio is None or isinstance(folio, LargeFolio)
        return folio

    def map_anon_folio_pmd_pf(
        self, folio: LargeFolio, pmdp: int, vma: VmArea, haddr: int
    ) -> None:
        """Map a new block for a fault, where no page was before; the lock is held."""
        self.map_anon_folio_pmd_nopf(folio, pmdp, vma, haddr)
        vma.mm.anonpages += folio.nr_pages

    def map_anon_folio_pmd_nopf(
        self, folio: LargeFolio, pmdp: int, vma: VmArea, haddr: int
    ) -> None:
        """Map a new block, dirty, and writable if *vma* is; the lock is held."""
        entry = pte_mkdirty(self._pgtable.mk_huge_pmd(folio.pfn, vma.page_prot))
        entry = self._kernel.memory.maybe_mkwrite(entry, vma)
        self._kernel.rmap.folio_add_new_anon_rmap(folio, vma, haddr)
        self._kernel.swap.folio_add_lru(folio)
        self._pgtable.set_pte(pmdp, entry)
        self.deferred_split_folio(folio, partially_mapped=False)

    def _deposit(self, mm: MmStruct, pmdp: int, table: Folio) -> None:
        """Store a new table for the block that is about to be mapped, and count it."""
        self._kernel.pgtable_generic.pgtable_trans_huge_deposit(pmdp, table)
        mm.pgtables[3] += 1

    def zap_deposited_table(self, mm: MmStruct, pmdp: int) -> None:
        """Free a stored table. No walker ever saw it, so nothing is flushed for it."""
        table = self._kernel.pgtable_generic.pgtable_trans_huge_withdraw(pmdp)
        self._kernel.page_alloc.free(table)
        mm.pgtables[3] -= 1

    # -- a fault on a block ----------------------------------------------------------

    def touch_pmd(self, vma: VmArea, addr: int, pmdp: int, *, write: bool) -> bool:
        """Note an access to a block, dirty for a write; tell whether that was news."""
        entry = pte_mkyoung(self._pgtable.read(pmdp))
        if write:
            entry = pte_mkdirty(entry)
        haddr = addr & -self._pgtable.pmd_size
        return self._kernel.fault.pmdp_set_access_flags(
            vma, haddr, pmdp, entry, dirty=write
        )

    def huge_pmd_set_accessed(self, vmf: VmFault) -> bool:
        """Note an access that the entry allows; tell whether that was news.

        The lock is held. It is no news either if somebody has changed the entry.
        """
        if self._pgtable.read(vmf.pmd) != vmf.orig_pmd:
            return False
        write = bool(vmf.flags & FAULT_FLAG_WRITE)
        return self.touch_pmd(vmf.vma, vmf.address, vmf.pmd, write=write)

    def wp_huge_pmd(self, vmf: VmFault) -> int:
        """Handle a write to a block whose entry is not writable.

        Returns:
            ``VM_FAULT_FALLBACK`` if the block was split: pages can be handled now.
        """
        vma = vmf.vma
        if vma.anonymous:
            watched = userfaultfd_pte_wp(vma, vmf.orig_pmd)
            if vmf.flags & FAULT_FLAG_UNSHARE or not watched:
                return self.do_huge_pmd_wp_page(vmf)
            if not userfaultfd_wp_async(vma):
                return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_WP)
        self.split_huge_pmd_(vma, vmf.pmd, vmf.address)
        return VM_FAULT_FALLBACK

    def do_huge_zero_wp_pmd(self, vmf: VmFault) -> int:
        """Put a new block in place of zeros; the table in store stays where it is."""
        vma = vmf.vma
        haddr = vmf.address & -self._pgtable.pmd_size
        folio = self.vma_alloc_anon_folio_pmd()
        if folio is None:
            return VM_FAULT_FALLBACK
        with self._kernel.mmu_notifier.invalidate_range(
            vma.mm, "CLEAR", haddr, haddr + self._pgtable.pmd_size
        ):
            ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
            ptl.acquire()
            same = self._pgtable.read(vmf.pmd) == vmf.orig_pmd
            if same:
                self._kernel.pgtable_generic.pmdp_huge_clear_flush(vma, haddr, vmf.pmd)
                self.map_anon_folio_pmd_pf(folio, vmf.pmd, vma, haddr)
            ptl.release()
        if not same:
            self._kernel.swap.folio_put(folio)
        return 0

    def do_huge_pmd_wp_page(self, vmf: VmFault) -> int:
        """Make a block writable if nobody else can reach it; otherwise split it.

        Not mappings are counted but references: whoever else holds one may look at the
        block, or have it in another address space. Copying is left to the pages.
        """
        vma = vmf.vma
        if self.is_huge_zero_pmd(vmf.orig_pmd):
            result = self.do_huge_zero_wp_pmd(vmf)
            if result & VM_FAULT_FALLBACK:
                self.split_huge_pmd_(vma, vmf.pmd, vmf.address)
            return result
        ptl = vmf.ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        if self._pgtable.read(vmf.pmd) != vmf.orig_pmd:
            ptl.release()
            return 0
        folio = self._folio_of(vmf.orig_pmd)
        if folio.page_exclusive(folio.pfn):
            return self._reuse_pmd(vmf)
        if not folio_trylock(folio):
            folio.refcount += 1
            ptl.release()
            folio_lock(self._machine, folio)
            ptl.acquire()
            if self._pgtable.read(vmf.pmd) != vmf.orig_pmd:
                ptl.release()
                folio_unlock(self._machine, folio)
                self._kernel.swap.folio_put(folio)
                return 0
            self._kernel.swap.folio_put(folio)
        if folio.page_exclusive(folio.pfn):
            folio_unlock(self._machine, folio)
            return self._reuse_pmd(vmf)
        if folio.refcount == 1:
            self._kernel.rmap.folio_move_anon_rmap(folio, vma)
            self._kernel.rmap.set_page_anon_exclusive(folio, folio.pfn)
            folio_unlock(self._machine, folio)
            return self._reuse_pmd(vmf)
        folio_unlock(self._machine, folio)
        ptl.release()
        self.split_huge_pmd_(vma, vmf.pmd, vmf.address)
        return VM_FAULT_FALLBACK

    def _reuse_pmd(self, vmf: VmFault) -> int:
        """Make a block of one's own writable where it stands, and release the lock."""
        ptl = vmf.ptl
        assert ptl is not None
        if not vmf.flags & FAULT_FLAG_UNSHARE:
            entry = pte_mkdirty(pte_mkyoung(vmf.orig_pmd))
            entry = self._kernel.memory.maybe_mkwrite(entry, vmf.vma)
            haddr = vmf.address & -self._pgtable.pmd_size
            self._kernel.fault.pmdp_set_access_flags(
                vmf.vma, haddr, vmf.pmd, entry, dirty=True
            )
        ptl.release()
        return 0

    def do_huge_pmd_numa_page(self, vmf: VmFault) -> int:
        """Make a block accessible again that was hidden to learn who uses it.

        There is one node here, so it is where it should be.
        """
        vma = vmf.vma
        ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        if self._pgtable.read(vmf.pmd) == vmf.orig_pmd:
            pmd = pte_mkyoung(pte_modify(vmf.orig_pmd, vma.page_prot))
            if not pte_write(pmd) and self._wants_write(vma, vmf.address, pmd):
                pmd = self._pgtable.pte_mkwrite(pmd)
            self._pgtable.set_pte(vmf.pmd, pmd)
        ptl.release()
        return 0

    def _wants_write(self, vma: VmArea, addr: int, pmd: int) -> bool:
        """Tell whether an entry of *vma* is to be made writable by hand, and may be."""
        mprotect = self._kernel.mprotect
        return mprotect.vma_wants_manual_pte_write_upgrade(
            vma
        ) and self.can_change_pmd_writable(vma, addr, pmd)

    # -- fork ------------------------------------------------------------------------

    def copy_huge_pmd(
        self, child: VmArea, parent: VmArea, target: int, source: int, addr: int
    ) -> int:
        """Share a block with a child.

        Args:
            child: The child's area.
            parent: The parent's area; its entry becomes read-only.
            target: Where the child's entry goes.
            source: Where the parent's stands.
            addr: Of the block.

        Returns:
            0; ``-EAGAIN`` if there are, or now are, pages to copy instead; ``-ENOMEM``.
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        pmd = pgtable.read(source)
        # Nothing can change it before the lock is taken: fork has the areas to itself.
        if pte_present(pmd) and pte_special(pmd) and not self.is_huge_zero_pmd(pmd):
            with memory.pmd_lockptr(target), memory.pmd_lockptr(source):
                self._set_child_pmd(target, pmd)
            return 0
        if not child.anonymous:
            return 0  # the child's own faults find it again
        table = self._kernel.page_alloc.alloc_table("PTE table")
        if table is None:
            return -ENOMEM
        target_ptl = memory.pmd_lockptr(target)
        ptl = memory.pmd_lockptr(source)
        target_ptl.acquire()
        ptl.acquire()
        pmd = pgtable.read(source)
        if not pmd_trans_huge(pmd):
            ptl.release()
            target_ptl.release()
            self._kernel.page_alloc.free(table)
            return -EAGAIN
        if self.is_huge_zero_pmd(pmd):
            # It is there already, so this only counts the child.
            self.mm_get_huge_zero_folio(child.mm)
        else:
            folio = self._folio_of(pmd)
            folio.refcount += 1
            if not self._kernel.rmap.folio_try_dup_anon_rmap_pmd(folio, child, parent):
                self._kernel.swap.folio_put(folio)
                ptl.release()
                target_ptl.release()
                self._kernel.page_alloc.free(table)
                self.split_huge_pmd_(parent, source, addr)
                return -EAGAIN
            child.mm.anonpages += folio.nr_pages
        self._deposit(child.mm, target, table)
        pgtable.ptep_set_wrprotect_(source)
        if not child.flags & VM_UFFD_WP:
            pmd = pte_clear_uffd_wp(pmd)
        self._set_child_pmd(target, pte_wrprotect(pmd))
        ptl.release()
        target_ptl.release()
        return 0

    def _set_child_pmd(self, target: int, pmd: int) -> None:
        """Store a child's block entry, old."""
        self._pgtable.set_pte(target, pte_mkold(pmd))

    # -- zap -------------------------------------------------------------------------

    def zap_huge_pmd(self, tlb: MmuGather, vma: VmArea, pmdp: int, addr: int) -> bool:
        """Clear a block entry, and keep its folio until the flush.

        Returns:
            False if it is no block any more, and nothing was done.
        """
        pgtable = self._pgtable
        gather = self._kernel.gather
        ptl = self._kernel.memory.pmd_lockptr(pmdp)
        ptl.acquire()
        if not pmd_trans_huge(pgtable.read(pmdp)):
            ptl.release()
            return False
        pmd = pgtable.ptep_get_and_clear_(pmdp)
        gather.tlb_remove_pmd_tlb_entry(tlb, addr)
        self.zap_deposited_table(vma.mm, pmdp)
        if self.is_huge_zero_pmd(pmd):
            ptl.release()
            return True
        folio = self._folio_of(pmd)
        self._kernel.rmap.folio_remove_rmap_pmd(folio, vma)
        vma.mm.anonpages -= folio.nr_pages
        ptl.release()
        if gather.tlb_remove_folio_pages(tlb, folio, 1):
            gather.tlb_flush_mmu(tlb)
        return True

    # -- mprotect --------------------------------------------------------------------

    def change_huge_pmd(
        self, tlb: MmuGather, vma: VmArea, pmdp: int, addr: int, prot: int, how: int
    ) -> int:
        """Give a block the rights *prot*.

        The entry is hidden and flushed before it is rewritten, so that no dirty state
        is lost. That flush always comes; what is recorded in *tlb* is a second one, for
        what other CPUs may have done since: nothing if the old entry was hidden before.

        Returns:
            0 if it is no block any more, 1 if it stays as it is, otherwise how many
            pages were changed.
        """
        pgtable = self._pgtable
        ptl = self._kernel.memory.pmd_lockptr(pmdp)
        ptl.acquire()
        pmd = pgtable.read(pmdp)
        if not pmd_trans_huge(pmd):
            ptl.release()
            return 0
        if how & MM_CP_PROT_NUMA and (self.is_huge_zero_pmd(pmd) or pte_protnone(pmd)):
            ptl.release()
            return 1
        old = self._kernel.pgtable_generic.pmdp_invalidate_ad(vma, addr, pmdp)
        entry = pte_modify(old, prot)
        if how & MM_CP_UFFD_WP:
            entry = pte_mkuffd_wp(entry)
        elif how & MM_CP_UFFD_WP_RESOLVE:
            entry = pte_clear_uffd_wp(entry)
        if (
            how & MM_CP_TRY_CHANGE_WRITABLE
            and not pte_write(entry)
            and self.can_change_pmd_writable(vma, addr, entry)
        ):
            entry = pgtable.pte_mkwrite(entry)
        pgtable.set_pte(pmdp, entry)
        if self._kernel.tlbflush.huge_pmd_needs_flush(old, entry):
            self._kernel.gather.tlb_flush_pmd_range(tlb, addr, pgtable.pmd_size)
        ptl.release()
        return pgtable.hpage_pmd_nr

    def can_change_pmd_writable(self, vma: VmArea, addr: int, pmd: int) -> bool:
        """Tell whether a write to this block would only be made writable by a fault."""
        if not vma.flags & VM_WRITE or pte_protnone(pmd):
            return False
        if userfaultfd_pte_wp(vma, pmd):
            return False
        if vma.flags & VM_SHARED:
            return pte_dirty(pmd)
        folio = self._kernel.memory.vm_normal_folio_pmd(vma, addr, pmd)
        if folio is None or not folio.anon:
            return False
        return folio.page_exclusive(self._pgtable.pte_pfn(pmd))

    # -- mremap ----------------------------------------------------------------------

    def move_huge_pmd(
        self, vma: VmArea, old_addr: int, old_pmdp: int, new_pmdp: int
    ) -> bool:
        """Move a block to another address of the same process, and flush the old one.

        Both addresses are a block's. False if there is no block, or the place is taken.
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        if not pte_none(pgtable.read(new_pmdp)):
            return False
        old_ptl = memory.pmd_lockptr(old_pmdp)
        new_ptl = memory.pmd_lockptr(new_pmdp)
        old_ptl.acquire()
        if not pmd_trans_huge(pgtable.read(old_pmdp)):
            old_ptl.release()
            return False
        if new_ptl is not old_ptl:
            new_ptl.acquire()
        pmd = pgtable.ptep_get_and_clear_(old_pmdp)
        if new_ptl is not old_ptl and vma.anonymous:  # pmd_move_must_withdraw()
            self._move_deposited(old_pmdp, new_pmdp)
        if vma.uffd and not vma.uffd.features & UFFD_FEATURE_EVENT_REMAP:
            pmd = pte_clear_uffd_wp(pmd)
        pgtable.set_pte(new_pmdp, pmd)
        self._kernel.tlbflush.flush_pmd_tlb_range(
            vma, old_addr, old_addr + pgtable.pmd_size
        )
        if new_ptl is not old_ptl:
            new_ptl.release()
        old_ptl.release()
        return True

    def _move_deposited(self, old_pmdp: int, new_pmdp: int) -> None:
        """Let a stored table follow its block; both locks are held."""
        store = self._kernel.pgtable_generic
        store.pgtable_trans_huge_deposit(
            new_pmdp, store.pgtable_trans_huge_withdraw(old_pmdp)
        )

    # -- userfaultfd MOVE ------------------------------------------------------------

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
        """Move a block from one area to another of the same process.

        The source entry is locked, and is released; both areas are locked for reading.

        Args:
            mm: The process's address space.
            dst_pmd: Where the destination's entry stands.
            src_pmd: Where the source's stands.
            dst_pmdval: What the destination's said: nothing.
            dst_vma: The destination's area.
            src_vma: The source's area.
            dst_addr: Of the destination block.
            src_addr: Of the source block.

        Returns:
            0 or a negative error number; after ``-EAGAIN`` it may be tried again.
        """
        size = self._pgtable.pmd_size
        src_ptl = self._kernel.memory.pmd_lockptr(src_pmd)
        src_ptl.assert_held()
        src_pmdval = self._pgtable.read(src_pmd)
        if not pte_none(dst_pmdval) or (src_addr | dst_addr) & (size - 1):
            src_ptl.release()
            return -EINVAL
        if not pmd_trans_huge(src_pmdval):
            src_ptl.release()
            return -ENOENT
        folio = None
        if not self.is_huge_zero_pmd(src_pmdval):
            folio = self._folio_of(src_pmdval)
            if not folio.page_exclusive(folio.pfn):
                src_ptl.release()
                return -EBUSY
            folio.refcount += 1
        src_ptl.release()
        with self._kernel.mmu_notifier.invalidate_range(
            mm, "CLEAR", src_addr, src_addr + size
        ):
            if folio is None:
                return self._move_block(
                    dst_pmd, src_pmd, src_pmdval, dst_vma, src_vma, dst_addr, src_addr
                )
            folio_lock(self._machine, folio)
            rmap = self._kernel.rmap
            anon_vma = rmap.folio_get_anon_vma(folio)
            error = -EAGAIN
            if anon_vma is not None:
                # A split looks for the folio's entries under this lock alone.
                rmap.anon_vma_lock_write(anon_vma)
                error = self._move_block(
                    dst_pmd, src_pmd, src_pmdval, dst_vma, src_vma, dst_addr, src_addr
                )
                rmap.anon_vma_unlock_write(anon_vma)
                rmap.put_anon_vma(anon_vma)
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
        return error

    def _move_block(
        self,
        dst_pmd: int,
        src_pmd: int,
        src_pmdval: int,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_addr: int,
        src_addr: int,
    ) -> int:
        """Move a block entry and its stored table; the folio, if any, is locked."""
        pgtable = self._pgtable
        rmap = self._kernel.rmap
        src_ptl = self._kernel.memory.pmd_lockptr(src_pmd)
        dst_ptl = self._kernel.memory.pmd_lockptr(dst_pmd)
        double_pt_lock(src_ptl, dst_ptl)
        error = 0
        if pgtable.read(src_pmd) != src_pmdval or not pte_none(pgtable.read(dst_pmd)):
            error = -EAGAIN
        elif self.is_huge_zero_pmd(src_pmdval):
            pmd = self._kernel.pgtable_generic.pmdp_huge_clear_flush(
                src_vma, src_addr, src_pmd
            )
            # The entry moves as it is: what marks it as no normal page moves along.
            pgtable.set_pte(dst_pmd, pte_clear_uffd_wp(pmd))
            self._move_deposited(src_pmd, dst_pmd)
        else:
            folio = self._folio_of(src_pmdval)
            if folio.maybe_dma_pinned() or not folio.page_exclusive(folio.pfn):
                error = -EBUSY
            else:
                pmd = self._kernel.pgtable_generic.pmdp_huge_clear_flush(
                    src_vma, src_addr, src_pmd
                )
                if folio.maybe_dma_pinned():
                    pgtable.set_pte(src_pmd, pmd)
                    error = -EBUSY
                else:
                    rmap.folio_move_anon_rmap(folio, dst_vma)
                    folio.index = rmap.linear_page_index(dst_vma, dst_addr)
                    entry = pgtable.mk_huge_pmd(folio.pfn, dst_vma.page_prot)
                    entry = self._kernel.memory.maybe_mkwrite(
                        pte_mkdirty(entry), dst_vma
                    )
                    pgtable.set_pte(dst_pmd, entry)
                    self._move_deposited(src_pmd, dst_pmd)
        double_pt_unlock(src_ptl, dst_ptl)
        return error

    # -- split an entry --------------------------------------------------------------

    def split_huge_pmd(self, vma: VmArea, pmdp: int, address: int) -> None:
        """Map what a block entry maps by page entries, if it is a block."""
        if pmd_trans_huge(self._pgtable.read(pmdp)):
            self.split_huge_pmd_(vma, pmdp, address)

    def split_huge_pmd_(self, vma: VmArea, pmdp: int, address: int) -> None:
        """Do so, telling devices; no lock is held: __split_huge_pmd()."""
        haddr = address & -self._pgtable.pmd_size
        end = haddr + self._pgtable.pmd_size
        with (
            self._kernel.mmu_notifier.invalidate_range(vma.mm, "CLEAR", haddr, end),
            self._kernel.memory.pmd_lockptr(pmdp),
        ):
            self.split_huge_pmd_locked(vma, haddr, pmdp, freeze=False)

    def split_huge_pmd_locked(
        self, vma: VmArea, haddr: int, pmdp: int, *, freeze: bool
    ) -> None:
        """Split a block entry; its table is locked.

        Args:
            vma: The area.
            haddr: Of the block.
            pmdp: Where the entry stands; what is no block is left alone.
            freeze: Let the page entries say that the pages migrate, and give up what
                the block entry held. Pages that may be pinned are mapped all the same.
        """
        if not pmd_trans_huge(self._pgtable.read(pmdp)):
            return
        if self.is_huge_zero_pmd(self._pgtable.read(pmdp)):
            self._split_huge_zero_page_pmd(vma, haddr, pmdp)
        else:
            self._split_huge_anon_pmd(vma, haddr, pmdp, freeze=freeze)

    def _split_huge_zero_page_pmd(self, vma: VmArea, haddr: int, pmdp: int) -> None:
        """Map the zero page in place of the huge one, page by page."""
        pgtable = self._pgtable
        old = self._kernel.pgtable_generic.pmdp_huge_clear_flush(vma, haddr, pmdp)
        table = self._kernel.pgtable_generic.pgtable_trans_huge_withdraw(pmdp)
        entry = pte_mkspecial(pgtable.pfn_pte(self._kernel.zero_pfn, vma.page_prot))
        if pte_uffd_wp(old):
            entry = pte_mkuffd_wp(entry)
        first = table.pfn << pgtable.page_shift
        for ptep in range(first, first + pgtable.page_size, 8):
            pgtable.set_pte(ptep, entry)
        pgtable.populate(pmdp, table.pfn)

    def _split_huge_anon_pmd(
        self, vma: VmArea, haddr: int, pmdp: int, *, freeze: bool
    ) -> None:
        """Map the pages of a block one by one, with the rights that the block had.

        The block entry is hidden and flushed before the table takes its place, because
        a TLB must not see both.
        """
        pgtable = self._pgtable
        rmap = self._kernel.rmap
        nr = pgtable.hpage_pmd_nr
        old = self._kernel.pgtable_generic.pmdp_invalidate(vma, haddr, pmdp)
        folio = self._folio_of(old)
        if pte_dirty(old):
            folio.flags |= PG_dirty
        exclusive = folio.page_exclusive(folio.pfn)
        if freeze and exclusive:
            freeze = rmap.folio_try_share_anon_rmap(folio, folio.pfn)
        if not freeze:
            folio.refcount += nr - 1
            rmap.folio_add_anon_rmap_ptes(
                folio, folio.pfn, nr, vma, exclusive=exclusive
            )
        table = self._kernel.pgtable_generic.pgtable_trans_huge_withdraw(pmdp)
        first = table.pfn << pgtable.page_shift
        if freeze:
            for page in range(nr):
                entry = make_migration_pte(
                    pgtable.pte_advance_pfn(old, page),
                    folio.pfn + page,
                    exclusive=exclusive,
                )
                pgtable.set_pte(first + page * 8, entry)
        else:
            entry = pgtable.pfn_pte(folio.pfn, vma.page_prot)
            if pte_write(old):
                entry = pgtable.pte_mkwrite(entry)
            if not pte_young(old):
                entry = pte_mkold(entry)
            if pte_dirty(old):
                entry = pte_mkdirty(entry)
            if pte_uffd_wp(old):
                entry = pte_mkuffd_wp(entry)
            pgtable.set_ptes(vma.mm, haddr, first, entry, nr)
        rmap.folio_remove_rmap_pmd(folio, vma)
        if freeze:
            self._kernel.swap.folio_put(folio)
        pgtable.populate(pmdp, table.pfn)

    def split_huge_pmd_address(self, vma: VmArea, address: int) -> None:
        """Split the block around *address*, if there is one."""
        pmdp = self._pgtable.find_pmd(vma.mm, address)
        if pmdp is not None:
            self.split_huge_pmd(vma, pmdp, address)

    def split_huge_pmd_if_needed(self, vma: VmArea, address: int) -> None:
        """Split a block that *vma* can no longer have once it is cut at *address*.

        Source: split_huge_pmd_if_needed(), for vma_adjust_trans_huge().
        """
        size = self._pgtable.pmd_size
        start = address & -size
        if address != start and vma.start <= start and start + size <= vma.end:
            self.split_huge_pmd_address(vma, address)

    # -- split a folio ---------------------------------------------------------------

    def deferred_split_folio(
        self, folio: LargeFolio, *, partially_mapped: bool
    ) -> None:
        """Queue a folio to be split should memory become short.

        Every block is queued when it is mapped; that part of it became unused is what
        makes the split worth while.
        """
        if folio.order < _SMALLEST_ORDER:
            return
        if partially_mapped:
            folio.partially_mapped = True
        if not folio.deferred_split:
            folio.deferred_split = True
            self.deferred_split_queue.append(folio)

    def folio_unqueue_deferred_split(self, folio: Folio) -> None:
        """Take a folio off the queue, as it is split or goes away."""
        if isinstance(folio, LargeFolio) and folio.deferred_split:
            self.deferred_split_queue.remove(folio)
            folio.deferred_split = False
            folio.partially_mapped = False

    def deferred_split_scan(self) -> int:
        """Split what waits for it and is partly unused; return how many folios.

        The kernel's shrinker also splits blocks that hold mostly zeros, if told to.
        """
        split = 0
        for folio in [f for f in self.deferred_split_queue if f.partially_mapped]:
            if not folio_trylock(folio):
                continue
            folio.refcount += 1
            head: Folio | int = self.split_folio(folio)
            if isinstance(head, int):
                head = folio
            else:
                split += 1
            folio_unlock(self._machine, head)
            self._kernel.swap.folio_put(head)
        return split

    def split_folio(self, folio: Folio) -> Folio | int:
        """Make every page of a large anonymous folio a folio of its own.

        The folio is locked, and the caller holds a reference. All its entries, of
        whatever process, first say that the page migrates; if then nobody else holds
        it, the pages part and the entries are made anew. A page of zeros is mapped no
        more: the zero page takes its place.

        Returns:
            The first page's folio, which has the lock and the reference now. Otherwise
            a negative error number, and nothing has changed: ``-EBUSY`` for what cannot
            be split, ``-EAGAIN`` while somebody holds a reference.
        """
        rmap = self._kernel.rmap
        assert isinstance(folio, LargeFolio)
        anon_vma = rmap.folio_get_anon_vma(folio)
        if anon_vma is None:
            return -EBUSY
        rmap.anon_vma_lock_write(anon_vma)
        head: Folio | int = -EAGAIN
        if folio.refcount - 1 == folio.mapcount:  # can_split_folio()
            migrate = self._kernel.migrate
            first, nr, index = folio.pfn, folio.nr_pages, folio.index
            self._unmap_folio(folio)
            if folio.refcount == 1 and not folio.mapcount:  # folio_ref_freeze()
                head = self._split_unmapped(folio)
            migrate.remove_migration_ptes(
                anon_vma, first, nr, index, unused_to_zeropage=not isinstance(head, int)
            )
            if isinstance(head, Folio):
                self._release_tails(first, nr)
        rmap.anon_vma_unlock_write(anon_vma)
        rmap.put_anon_vma(anon_vma)
        return head

    def _unmap_folio(self, folio: LargeFolio) -> None:
        """Let every entry that maps a folio say that it migrates: unmap_folio()."""
        rmap = self._kernel.rmap
        for vma, start, end in rmap.rmap_walk_anon(
            folio.mapping, folio.index, folio.nr_pages
        ):
            rmap.try_to_migrate_one(folio, vma, start, end)
        rmap.try_to_unmap_flush()

    def _split_unmapped(self, folio: LargeFolio) -> Folio:
        """Give each page of a folio that nobody maps a folio of its own, all locked."""
        self.folio_unqueue_deferred_split(folio)
        pages = self._kernel.page_alloc.split(folio)
        for number, page in enumerate(pages):
            page.flags = folio.flags & (
                PG_locked | PG_dirty | PG_lru | PG_swapbacked | PG_uptodate
            )
            page.mapping = folio.mapping
            page.index = folio.index + number
        folio.refcount = 0
        return pages[0]

    def _release_tails(self, first: int, nr: int) -> None:
        """Unlock all pages of a split folio but the first; the unmapped ones go."""
        for pfn in range(first + 1, first + nr):
            page = self._kernel.page_alloc.folio_of(pfn)
            folio_unlock(self._machine, page)
            self._kernel.swap.folio_put(page)

    # --------------------------------------------------------------------------------

    def _folio_of(self, pmd: int) -> LargeFolio:
        """Return the folio that a block entry maps."""
        folio = self._kernel.page_alloc.folio_of(self._pgtable.pte_pfn(pmd))
        assert isinstance(folio, LargeFolio)
        return folio
