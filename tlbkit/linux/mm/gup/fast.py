"""The fast way: a walk without a lock, with interrupts off.

Two things keep what it reads alive. Tables are freed only after every CPU had its
interrupts on, so no table goes while the walk can be in it. And a page is taken first
and looked at afterwards: if the entry that led to it has changed, it is given back.

Neither helps against a table that stays and gets a new owner. Whoever unhooks such a
table interrupts every CPU, and waits, before the owner may change it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pte_access_permitted,
    pte_none,
    pte_present,
    pte_protnone,
    pte_write,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.linux.fs import AddressSpace
from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
from tlbkit.linux.include.linux.mm import (
    FOLL_FAST_ONLY,
    FOLL_LONGTERM,
    FOLL_PIN,
    FOLL_TOUCH,
    FOLL_UNLOCKABLE,
    FOLL_WRITE,
)
from tlbkit.linux.include.linux.mm_types import PG_referenced
from tlbkit.linux.include.linux.pgtable import (
    PGTABLE_LEVEL_PGD,
    PGTABLE_LEVEL_PMD,
    PGTABLE_LEVEL_PTE,
    PGTABLE_LEVEL_PUD,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EFAULT, EOVERFLOW
from tlbkit.linux.mm.gup.slow import GupSlow

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, Page
    from tlbkit.linux.include.linux.pgtable import PgtableLevel

_LONG_WRITES = FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE


class GupFast(GupSlow):
    """The lockless walk, level by level.

    Each level tells whether the walk may go on, and appends the pages that it took.

    Events: ``gup read``; ``what`` is the level and where the entry stands, ``new`` what
    was read there. ``gup take``; ``what`` is a page, ``new`` how many references.
    """

    __slots__ = ()

    def _entry(self, level: PgtableLevel, entryp: int) -> int:
        """Read an entry once. What is done next goes by the value, whatever follows."""
        # Of a contiguous block all entries are read, here in one step: ptep_get() and
        # ptep_get_lockless() are one.
        entry = self._pgtable.ptep_get(entryp)
        events = self._machine.events
        if "gup read" in events.heard:
            cpu = self._machine.running.number
            events.emit(cpu, "gup read", (level, entryp), new=entry)
        return entry

    # -- leaves ----------------------------------------------------------------------

    @staticmethod
    def gup_fast_folio_allowed(folio: Folio, flags: int) -> bool:
        """Tell whether a folio may be had without knowing the VMA.

        Long pins for writing are not for files that track what is written: the pin
        would write after they had looked. Whether a file does is known of the VMA, so
        here none is trusted but shared memory and hugetlb.

        Source: mm/gup.c, gup_fast_folio_allowed()
        Deviates: no folio is secret memory.
        """
        if flags & _LONG_WRITES != _LONG_WRITES or isinstance(folio, HugetlbFolio):
            return True
        mapping = folio.mapping
        if mapping is None:
            return False
        return folio.anon or (
            isinstance(mapping, AddressSpace) and mapping.ops.swap_backed
        )

    def gup_fast_pte_range(
        self, pmd: int, pmdp: int, addr: int, end: int, flags: int, pages: list[Page]
    ) -> bool:
        """Take pages of one table; each PTE is looked at again, and the PMD above.

        Collapse takes a whole table away while its entries still stand.

        Source: mm/gup.c, gup_fast_pte_range()
        """
        pgtable = self._pgtable
        ptep = pgtable.pte_offset_lockless(pmd, addr)
        while addr < end:
            pte = self._entry(PGTABLE_LEVEL_PTE, ptep)
            if pte_protnone(pte):
                return False
            if not pte_access_permitted(pte, write=bool(flags & FOLL_WRITE)):
                return False
            if pgtable.pte_special(pte):
                return False
            page = pgtable.pte_pfn(pte)
            folio = self.try_grab_folio_fast(page, 1, flags)
            if folio is None:
                return False
            same = self._entry(PGTABLE_LEVEL_PMD, pmdp) == pmd
            if not self._machine.holds("pmd_val", same):
                self.gup_put_folio(folio, 1, flags)
                return False
            same = self._entry(PGTABLE_LEVEL_PTE, ptep) == pte
            if not self._machine.holds("pte_val", same):
                self.gup_put_folio(folio, 1, flags)
                return False
            if not self.gup_fast_folio_allowed(folio, flags):
                self.gup_put_folio(folio, 1, flags)
                return False
            if not pte_write(pte) and self.gup_must_unshare(None, flags, folio, page):
                self.gup_put_folio(folio, 1, flags)
                return False
            folio.flags |= PG_referenced
            pages.append(page)
            ptep += SLOT
            addr += pgtable.page_size
        return True

    def gup_fast_pmd_leaf(
        self, orig: int, pmdp: int, addr: int, end: int, flags: int, pages: list[Page]
    ) -> bool:
        """Take pages of a huge page that a PMD maps, and look at that PMD again.

        Nothing is known of the PUD above it any more. PageAnonExclusive is that of the
        folio's first page.

        Source: mm/gup.c, gup_fast_pmd_leaf()
        """
        pgtable = self._pgtable
        if not pte_access_permitted(orig, write=bool(flags & FOLL_WRITE)):
            return False
        if pgtable.pmd_special(orig):
            return False
        refs = (end - addr) >> pgtable.page_shift
        page = pgtable.pmd_pfn(orig)
        page += (addr & (pgtable.pmd_size - 1)) >> pgtable.page_shift
        folio = self.try_grab_folio_fast(page, refs, flags)
        if folio is None:
            return False
        same = self._entry(PGTABLE_LEVEL_PMD, pmdp) == orig
        if not self._machine.holds("pmd_val", same):
            self.gup_put_folio(folio, refs, flags)
            return False
        if not self.gup_fast_folio_allowed(folio, flags):
            self.gup_put_folio(folio, refs, flags)
            return False
        if not pte_write(orig) and self.gup_must_unshare(None, flags, folio, folio.pfn):
            self.gup_put_folio(folio, refs, flags)
            return False
        pages += range(page, page + refs)
        folio.flags |= PG_referenced
        return True

    def gup_fast_pud_leaf(
        self, orig: int, pudp: int, addr: int, end: int, flags: int, pages: list[Page]
    ) -> bool:
        """Take pages of a huge page that a PUD maps, and look at that PUD again.

        Source: mm/gup.c, gup_fast_pud_leaf()
        """
        pgtable = self._pgtable
        if not pte_access_permitted(orig, write=bool(flags & FOLL_WRITE)):
            return False
        if pgtable.pud_special(orig):
            return False
        refs = (end - addr) >> pgtable.page_shift
        page = pgtable.pud_pfn(orig)
        page += (addr & (pgtable.pud_size - 1)) >> pgtable.page_shift
        folio = self.try_grab_folio_fast(page, refs, flags)
        if folio is None:
            return False
        same = self._entry(PGTABLE_LEVEL_PUD, pudp) == orig
        if not self._machine.holds("pud_val", same):
            self.gup_put_folio(folio, refs, flags)
            return False
        if not self.gup_fast_folio_allowed(folio, flags):
            self.gup_put_folio(folio, refs, flags)
            return False
        if not pte_write(orig) and self.gup_must_unshare(None, flags, folio, folio.pfn):
            self.gup_put_folio(folio, refs, flags)
            return False
        pages += range(page, page + refs)
        folio.flags |= PG_referenced
        return True

    # -- levels ----------------------------------------------------------------------

    def gup_fast_pmd_range(
        self, pmdp: int, addr: int, end: int, flags: int, pages: list[Page]
    ) -> bool:
        """Walk the PMDs of one table.

        The PUD above is not looked at again: a walker that has come here goes on, also
        if the way here was cut behind it.

        Source: mm/gup.c, gup_fast_pmd_range()
        """
        pgtable = self._pgtable
        while addr < end:
            pmd = self._entry(PGTABLE_LEVEL_PMD, pmdp)
            following = pgtable.addr_end(addr, end, pgtable.pmd_shift)
            if not pte_present(pmd):
                return False
            if pmd_leaf(pmd):
                if pte_protnone(pmd):
                    return False
                if not self.gup_fast_pmd_leaf(pmd, pmdp, addr, following, flags, pages):
                    return False
            elif not self.gup_fast_pte_range(pmd, pmdp, addr, following, flags, pages):
                return False
            pmdp += SLOT
            addr = following
        return True

    def gup_fast_pud_range(
        self, pudp: int, addr: int, end: int, flags: int, pages: list[Page]
    ) -> bool:
        """Walk the PUDs of one table, from the one at *pudp* on.

        Source: mm/gup.c, gup_fast_pud_range()
        """
        pgtable = self._pgtable
        while addr < end:
            pud = self._entry(PGTABLE_LEVEL_PUD, pudp)
            following = pgtable.addr_end(addr, end, pgtable.pud_shift)
            if not pte_present(pud):
                return False
            if pmd_leaf(pud):
                if not self.gup_fast_pud_leaf(pud, pudp, addr, following, flags, pages):
                    return False
            else:
                pmdp = pgtable.pmd_offset_lockless(pud, addr)
                if not self.gup_fast_pmd_range(pmdp, addr, following, flags, pages):
                    return False
            pudp += SLOT
            addr = following
        return True

    def gup_fast_pgd_range(
        self, mm: MmStruct, addr: int, end: int, flags: int, pages: list[Page]
    ) -> None:
        """Walk from the top.

        Source: mm/gup.c, gup_fast_pgd_range()
        Deviates: the level of the P4D is folded, so gup_fast_p4d_range() is left out;
        where that of the PUD is folded too, it is not read at all.
        """
        pgtable = self._pgtable
        if pgtable.folded_pud:
            self.gup_fast_pud_range(
                pgtable.pgd_offset(mm, addr), addr, end, flags, pages
            )
            return
        while addr < end:
            pgd = self._entry(PGTABLE_LEVEL_PGD, pgtable.pgd_offset(mm, addr))
            following = pgtable.addr_end(addr, end, pgtable.pgdir_shift)
            if pte_none(pgd):
                return
            pudp = pgtable.pud_offset_lockless(pgd, addr)
            if not self.gup_fast_pud_range(pudp, addr, following, flags, pages):
                return
            addr = following

    # -- the whole -------------------------------------------------------------------

    def gup_fast(
        self, mm: MmStruct, start: int, end: int, gup_flags: int, pages: list[Page]
    ) -> int:
        """Take the pages of a range as far as it goes without a lock; say how many.

        A fork makes private pages read-only in the parent; a page that was pinned
        meanwhile might be shared by now. So nothing is pinned across one.

        Source: mm/gup.c, gup_fast()
        """
        seq = mm.write_protect_seq
        pin = gup_flags & FOLL_PIN
        if pin and not self._machine.holds("raw_seqcount_try_begin", not seq & 1):
            return 0
        found: list[Page] = []
        cpu = self._machine.running
        off = cpu.irq_disable()  # local_irq_save()
        self.gup_fast_pgd_range(mm, start, end, gup_flags, found)
        if off:
            cpu.irq_enable()  # local_irq_restore()
        self._kernel.rcu.quiesce()
        forked = mm.write_protect_seq != seq  # read_seqcount_retry()
        if pin and self._machine.sees("write_protect_seq", forked):
            self.unpin_user_pages(found)  # gup_fast_unpin_user_pages()
            return 0
        pages += found
        return len(found)

    def gup_fast_fallback(
        self,
        mm: MmStruct,
        start: int,
        nr_pages: int,
        gup_flags: int,
        pages: list[Page],
    ) -> int:
        """Take pages from *start* on: the fast way, and what is left the slow way.

        Args:
            mm: The address space that runs here; there is no fast way to another.
            start: Of any byte of the first page.
            nr_pages: How many pages.
            gup_flags: ``FOLL_`` bits; FOLL_GET or FOLL_PIN is among them.
            pages: Gets the pages.

        Returns:
            How many were taken, perhaps fewer than asked; or a negative error number if
            none was.

        Source: mm/gup.c, gup_fast_fallback()
        Deviates: no page has to be moved away first for a long pin, so
        __gup_longterm_locked() is left out.
        """
        pgtable = self._pgtable
        if gup_flags & FOLL_PIN:
            self.mm_set_has_pinned_flag(mm)
        start &= pgtable.page_mask
        end = start + (nr_pages << pgtable.page_shift)
        if end >> 64:
            return -EOVERFLOW
        if end > pgtable.task_size:
            return -EFAULT
        nr_pinned = self.gup_fast(mm, start, end, gup_flags, pages)
        if nr_pinned == nr_pages or gup_flags & FOLL_FAST_ONLY:
            return nr_pinned
        start += nr_pinned << pgtable.page_shift
        ret, _ = self.get_user_pages_locked_(
            mm,
            start,
            nr_pages - nr_pinned,
            pages,
            gup_flags | FOLL_TOUCH | FOLL_UNLOCKABLE,
            locked=False,
        )
        if ret < 0:
            return nr_pinned or ret
        return ret + nr_pinned
