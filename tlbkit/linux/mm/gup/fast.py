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
from tlbkit.linux.include.linux.fs import AddressSpace
from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
from tlbkit.linux.include.linux.mm import (
    FOLL_FAST_ONLY,
    FOLL_LONGTERM,
    FOLL_PIN,
    FOLL_WRITE,
)
from tlbkit.linux.include.linux.mm_types import PG_referenced
from tlbkit.linux.include.linux.pgtable import (
    PGTABLE_LEVEL_PGD,
    PGTABLE_LEVEL_PMD,
    PGTABLE_LEVEL_PTE,
    PGTABLE_LEVEL_PUD,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EFAULT
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

    def gup_fast_fallback(
        self, mm: MmStruct, start: int, nr: int, flags: int
    ) -> list[Page] | int:
        """Take *nr* pages from *start* on: the fast way, and what is left the slow way.

        Args:
            mm: The address space that runs here; there is no fast way to another.
            start: Of any byte of the first page.
            nr: How many pages.
            flags: ``FOLL_`` bits; FOLL_GET or FOLL_PIN is among them.

        Returns:
            The pages, perhaps fewer than asked; or a negative error number if there is
            none to give.
        """
        pgtable = self._pgtable
        start &= pgtable.page_mask
        end = start + nr * pgtable.page_size
        if flags & FOLL_PIN:
            mm.has_pinned = True  # mm_set_has_pinned_flag()
        if start < 0 or end > pgtable.task_size:
            return -EFAULT
        pages = self.gup_fast(mm, start, end, flags)
        if len(pages) == nr or flags & FOLL_FAST_ONLY:
            return pages
        start += len(pages) * pgtable.page_size
        rest = self.get_user_pages_unlocked(mm, start, nr - len(pages), flags)
        if isinstance(rest, int):
            return pages or rest
        return pages + rest

    def gup_fast(self, mm: MmStruct, start: int, end: int, flags: int) -> list[Page]:
        """Take the pages of a range as far as it goes without a lock.

        A fork makes private pages read-only in the parent; a page that was pinned
        meanwhile might be shared by now. So nothing is pinned across one.
        """
        seq = mm.write_protect_seq
        if self._machine.sees("raw_seqcount_try_begin", flags & FOLL_PIN and seq & 1):
            return []
        pages: list[Page] = []
        cpu = self._machine.running
        off = cpu.irq_disable()  # local_irq_save()
        self.gup_fast_pgd_range(mm, start, end, flags, pages)
        if off:
            cpu.irq_enable()  # local_irq_restore()
        self._kernel.rcu.quiesce()
        forked = flags & FOLL_PIN and mm.write_protect_seq != seq
        if self._machine.sees("write_protect_seq", forked):
            self.unpin_user_pages(pages)  # gup_fast_unpin_user_pages()
            return []
        return pages

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

    # -- levels ----------------------------------------------------------------------

    def gup_fast_pgd_range(
        self, mm: MmStruct, addr: int, end: int, flags: int, pages: list[Page]
    ) -> None:
        """Walk from the top."""
        pgtable = self._pgtable
        if pgtable.folded_pud:
            self.gup_fast_pud_range(
                pgtable.pgd_offset(mm, addr), addr, end, flags, pages
            )
            return
        while addr < end:
            following = pgtable.addr_end(addr, end, pgtable.pgdir_shift)
            pgd = self._entry(PGTABLE_LEVEL_PGD, pgtable.pgd_offset(mm, addr))
            if pte_none(pgd):
                return
            pudp = pgtable.pud_offset_lockless(pgd, addr)
            if not self.gup_fast_pud_range(pudp, addr, following, flags, pages):
                return
            addr = following

    def gup_fast_pud_range(
        self, pudp: int, addr: int, end: int, flags: int, pages: list[Page]
    ) -> bool:
        """Walk the PUD entries of one table, from the one at *pudp* on."""
        pgtable = self._pgtable
        while addr < end:
            following = pgtable.addr_end(addr, end, pgtable.pud_shift)
            pud = self._entry(PGTABLE_LEVEL_PUD, pudp)
            if not pte_present(pud):
                return False
            if pmd_leaf(pud):
                if not self.gup_fast_pud_leaf(pud, pudp, addr, following, flags, pages):
                    return False
            else:
                pmdp = pgtable.pmd_offset_lockless(pud, addr)
                if not self.gup_fast_pmd_range(pmdp, addr, following, flags, pages):
                    return False
            pudp += 8
            addr = following
        return True

    def gup_fast_pmd_range(
        self, pmdp: int, addr: int, end: int, flags: int, pages: list[Page]
    ) -> bool:
        """Walk the PMD entries of one table.

        The PUD entry above is not looked at again: a walker that has come here goes on,
        also if the way here was cut behind it.
        """
        pgtable = self._pgtable
        while addr < end:
            following = pgtable.addr_end(addr, end, pgtable.pmd_shift)
            pmd = self._entry(PGTABLE_LEVEL_PMD, pmdp)
            if not pte_present(pmd) or pte_protnone(pmd):
                return False
            if pmd_leaf(pmd):
                if not self.gup_fast_pmd_leaf(pmd, pmdp, addr, following, flags, pages):
                    return False
            elif not self.gup_fast_pte_range(pmd, pmdp, addr, following, flags, pages):
                return False
            pmdp += 8
            addr = following
        return True

    # -- leaves ----------------------------------------------------------------------

    def gup_fast_pud_leaf(
        self, pud: int, pudp: int, addr: int, end: int, flags: int, pages: list[Page]
    ) -> bool:
        """Take pages of a block that a PUD entry maps, and look at that entry again."""
        pgtable = self._pgtable
        if not pte_access_permitted(pud, write=bool(flags & FOLL_WRITE)):
            return False
        if pgtable.pud_special(pud):
            return False
        first = pgtable.pud_pfn(pud) + (
            (addr & (pgtable.pud_size - 1)) >> pgtable.page_shift
        )
        refs = (end - addr) >> pgtable.page_shift
        folio = self.try_grab_folio_fast(first, refs, flags)
        if folio is None:
            return False
        if self._machine.sees("pud_val", self._entry(PGTABLE_LEVEL_PUD, pudp) != pud):
            self.gup_put_folio(folio, refs, flags)
            return False
        return self._keep(folio, first, refs, pud, flags, pages)

    def gup_fast_pmd_leaf(
        self, pmd: int, pmdp: int, addr: int, end: int, flags: int, pages: list[Page]
    ) -> bool:
        """Take pages of a block that a PMD entry maps, and look at that entry again.

        Nothing is known of the PUD entry above it any more.
        """
        pgtable = self._pgtable
        if not pte_access_permitted(pmd, write=bool(flags & FOLL_WRITE)):
            return False
        if pgtable.pmd_special(pmd):
            return False
        first = pgtable.pmd_pfn(pmd) + (
            (addr & (pgtable.pmd_size - 1)) >> pgtable.page_shift
        )
        refs = (end - addr) >> pgtable.page_shift
        folio = self.try_grab_folio_fast(first, refs, flags)
        if folio is None:
            return False
        if self._machine.sees("pmd_val", self._entry(PGTABLE_LEVEL_PMD, pmdp) != pmd):
            self.gup_put_folio(folio, refs, flags)
            return False
        return self._keep(folio, first, refs, pmd, flags, pages)

    def gup_fast_pte_range(
        self, pmd: int, pmdp: int, addr: int, end: int, flags: int, pages: list[Page]
    ) -> bool:
        """Take pages of one table; each entry is looked at again, and the one above.

        Collapse takes a whole table away while its entries still stand.
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
            changed = self._entry(PGTABLE_LEVEL_PMD, pmdp) != pmd
            if self._machine.sees("pmd_val", changed):
                self.gup_put_folio(folio, 1, flags)
                return False
            changed = self._entry(PGTABLE_LEVEL_PTE, ptep) != pte
            if self._machine.sees("pte_val", changed):
                self.gup_put_folio(folio, 1, flags)
                return False
            if not self._keep(folio, page, 1, pte, flags, pages):
                return False
            ptep += 8
            addr += pgtable.page_size
        return True

    def _keep(
        self,
        folio: Folio,
        first: Page,
        refs: int,
        entry: int,
        flags: int,
        pages: list[Page],
    ) -> bool:
        """Keep pages whose entry still stands, if they may be had without the area."""
        shared = not pte_write(entry) and self.gup_must_unshare(
            None, flags, folio, first
        )
        if shared or not self.gup_fast_folio_allowed(folio, flags):
            self.gup_put_folio(folio, refs, flags)
            return False
        folio.flags |= PG_referenced
        pages += range(first, first + refs)
        return True

    @staticmethod
    def gup_fast_folio_allowed(folio: Folio, flags: int) -> bool:
        """Tell whether a folio may be had without knowing the area.

        Long pins for writing are not for files that track what is written: the pin
        would write after they had looked. Whether a file does is known of the area.
        """
        if flags & _LONG_WRITES != _LONG_WRITES or folio.anon:
            return True
        if isinstance(folio, HugetlbFolio):
            return True
        mapping = folio.mapping
        return isinstance(mapping, AddressSpace) and mapping.ops.swap_backed
