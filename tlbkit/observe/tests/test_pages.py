"""Laws of pages and their entries: whose they are, who holds them, what is written."""

from contextlib import contextmanager

from tlbkit import Kernel, Machine
from tlbkit.arm64.models import find_model
from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_dirty, pte_mkclean
from tlbkit.linux.include.linux.mm_types import PG_dirty, PG_swapcache
from tlbkit.linux.include.linux.pagemap import folio_trylock
from tlbkit.linux.include.linux.swapops import SwpEntry, swp_entry_to_pte
from tlbkit.linux.mm.rmap import Rmap
from tlbkit.linux.mm.rmap.walk import TTU_BATCH_FLUSH
from tlbkit.observe.sanitizer import Sanitizer

PAGE = 4096
BLOCK = 2 << 20


class Written:
    """A process on a kernel with a swap file, and a page that it has written."""

    def __init__(self, *, shared=False):
        self.kernel = Kernel(Machine(3, find_model("neoverse-v2")))
        self.kernel.swapfile.swapon(64)
        self.process = self.kernel.spawn()
        self.page = self.process.mmap(PAGE, shared=shared)
        self.process.write(self.page, 1)
        self.kernel.swap.lru_add_drain_all()

    def place(self, process=None):
        """Where the entry of the page stands."""
        ptep = self.kernel.pgtable.find_pte((process or self.process).mm, self.page)
        assert ptep is not None
        return ptep

    @property
    def entry(self):
        """The entry."""
        return self.kernel.pgtable.read(self.place())

    @property
    def folio(self):
        """The page."""
        return self.kernel.page_alloc.folio_of(self.kernel.pgtable.pte_pfn(self.entry))

    @contextmanager
    def lock(self, process=None):
        """Lock the table."""
        pmd = self.kernel.pgtable.find_pmd((process or self.process).mm, self.page)
        assert pmd is not None
        with self.kernel.memory.pte_lockptr(self.kernel.pgtable.read(pmd)):
            yield

    def store(self, *entries, process=None):
        """Store entries one after the other, each under the lock; return the rules."""
        with Sanitizer(self.kernel, halt=False) as rules:
            for entry in entries:
                with self.lock(process):
                    self.kernel.pgtable.set_pte(self.place(process), 0)
                    self.kernel.tlbflush.flush_tlb_mm((process or self.process).mm)
                    self.kernel.pgtable.set_pte(self.place(process), entry)
        return {report.rule.id for report in rules.reports}


def test_only_what_is_exclusive_is_writable():
    """A page that fork has shared is not mapped for writing again without a copy."""
    box = Written()
    box.process.fork()
    assert "anon-exclusive" not in box.store(box.entry)
    writable = box.kernel.pgtable.pte_mkwrite(box.entry)
    assert "anon-exclusive" in box.store(writable)


def test_what_is_exclusive_is_mapped_once():
    """A page with two entries belongs to nobody alone."""
    box = Written()
    box.process.fork()
    box.kernel.rmap.set_page_anon_exclusive(box.folio, box.folio.pfn)
    assert "anon-exclusive" in box.store(box.entry)


def test_a_pinned_page_stays_where_it_is():
    """It may be unmapped, and neither another page nor swap takes its place."""
    for pinned in (True, False):
        box = Written()
        other = box.process.mmap(PAGE)
        box.process.write(other, 2)
        ptep = box.kernel.pgtable.find_pte(box.process.mm, other)
        assert ptep is not None
        foreign = box.kernel.pgtable.read(ptep)
        if pinned:
            box.process.pin(box.page, PAGE, write=True)
        slot = swp_entry_to_pte(SwpEntry(0, 1))
        for entry in (foreign, slot):
            old = box.entry
            assert ("pinned-page" in box.store(entry)) is pinned
            box.store(old)
        assert "pinned-page" not in box.store(0, foreign)


def test_what_a_file_s_entry_knew_its_folio_knows():
    """A dirty entry of a file goes, or turns clean, once its folio is dirty."""
    for known in (True, False):
        for change in (pte_mkclean, lambda _: 0):
            box = Written(shared=True)
            assert pte_dirty(box.entry)
            box.folio.flags &= ~PG_dirty
            if known:
                box.folio.flags |= PG_dirty
            assert ("dirty-bit" in box.store(change(box.entry))) is not known


def test_what_goes_to_swap_is_written_there():
    """A dirty entry becomes a slot of the swap file only if its page is dirty."""
    for known in (True, False):
        box = Written()
        if known:
            box.folio.flags |= PG_dirty
        slot = swp_entry_to_pte(SwpEntry(0, 1))
        assert ("dirty-bit" in box.store(slot)) is not known


def test_a_copy_in_swap_does_not_outlive_a_write():
    """An entry that turns clean must not leave an old copy behind."""
    for cached in (True, False):
        box = Written()
        if cached:
            box.folio.flags |= PG_swapcache
        assert ("dirty-bit" in box.store(pte_mkclean(box.entry))) is cached


def test_fork_keeps_the_dirty_bit():
    """A child knows of its page what its parent knows."""
    box = Written()
    child = box.process.fork()
    copied = box.kernel.pgtable.read(box.place(child))
    assert pte_dirty(copied)
    for forks in (True, False):
        if forks:
            box.process.mm.mmap_lock.down_write()
        assert "dirty-bit" not in box.store(0, copied, process=child)
        found = box.store(0, pte_mkclean(copied), process=child)
        assert ("dirty-bit" in found) is forks
        if forks:
            box.process.mm.mmap_lock.up_write()


def test_reclaim_and_writing_back_keep_what_was_written():
    """Sound flows that clean pages break no rule."""
    box = Written()
    shared = box.process.mmap(PAGE, shared=True)
    free = box.process.mmap(PAGE)
    with Sanitizer(box.kernel) as rules:
        for address in (shared, free):
            box.process.write(address, 1)
        box.process.madvise(free, PAGE, "free")
        for address in (box.page, shared, free):
            box.process.madvise(address, PAGE, "pageout")
        assert box.process.read(box.page) == 1
        assert box.process.read(shared) == 1
    assert rules.reports == []


def test_a_call_that_returns_has_waited_for_reclaim(monkeypatch):
    """What reclaim unmapped before a call is out of every TLB when the call returns."""
    for waits in (True, False):
        if not waits:
            monkeypatch.setattr(Rmap, "flush_tlb_batched_pending", lambda *_: None)
        box = Written()
        folio = box.folio
        box.process.thread(2).write(box.page, 2)
        with Sanitizer(box.kernel, halt=False) as rules:
            box.kernel.spawn(1).enter_kernel("kswapd")
            assert folio_trylock(folio)
            assert box.kernel.vmscan.folio_isolate_lru(folio)
            assert not box.kernel.swapfile.folio_alloc_swap(folio)
            box.kernel.rmap.try_to_unmap(folio, TTU_BATCH_FLUSH)
            box.process.madvise(box.page, PAGE, "dontneed")
            box.process.munmap(box.page, PAGE)  # so the call before has returned
        found = {report.rule.id for report in rules.reports}
        assert ("returned-call" in found) is not waits
