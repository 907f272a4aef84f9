"""mm/migrate.c: what system calls do to pages that are on their way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.machine import StuckError
from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_present
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_unlock
from tlbkit.linux.include.linux.swapops import (
    SWP_MIGRATION_READ,
    SWP_MIGRATION_READ_EXCLUSIVE,
    SWP_MIGRATION_WRITE,
    migration_entry_pfn,
    pte_to_swp_entry,
)
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.mm.rmap.walk import TTU_BATCH_FLUSH, TTU_RMAP_LOCKED
from tlbkit.linux.tests.audit import all_frames, audit, audit_tlbs, entries
from tlbkit.linux.tests.support import PAGE, boot, issued

PAGES = 4
HERE, THERE = 1 << 32, 1 << 33


class Migration:
    """Pages that no entry maps until `end`, which puts them back.

    Args:
        kernel: The kernel.
        process: Whose they are, all of them written.
        base: Where they are.
    """

    def __init__(self, kernel, process, base):
        self.kernel = kernel
        rmap = kernel.rmap
        self.folios = []
        for pte in entries(kernel, process, base, PAGES):
            folio = kernel.page_alloc.folio_of(kernel.pgtable.pte_pfn(pte))
            folio_lock(kernel.machine, folio)
            folio.refcount += 1
            anon_vma = rmap.folio_get_anon_vma(folio)
            rmap.anon_vma_lock_write(anon_vma)
            rmap.try_to_migrate(folio, TTU_RMAP_LOCKED | TTU_BATCH_FLUSH)
            rmap.anon_vma_unlock_write(anon_vma)
            self.folios.append((folio, anon_vma))
        rmap.try_to_unmap_flush()
        # Otherwise the next call would flush all, not to rely on it: no count of ours.
        rmap.flush_tlb_batched_pending(process.mm)

    def end(self):
        """Map every page again wherever an entry still waits for it."""
        kernel, rmap = self.kernel, self.kernel.rmap
        for folio, anon_vma in self.folios:
            rmap.anon_vma_lock_write(anon_vma)
            kernel.migrate.remove_migration_ptes(
                anon_vma, folio.pfn, 1, folio.index, unused_to_zeropage=False
            )
            rmap.anon_vma_unlock_write(anon_vma)
            rmap.put_anon_vma(anon_vma)
            folio_unlock(kernel.machine, folio)
            kernel.swap.folio_put(folio)


class NoMigration:
    """The same program without a migration."""

    def __init__(self, kernel, process, base):
        """Do nothing."""

    def end(self):
        """Do nothing."""


def written():
    """Start a process that has written its pages, at `HERE`."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(PAGES * PAGE, addr=HERE, fixed=True)
    for page in range(PAGES):
        process.write(base + page * PAGE, page + 1, cpu=page % 2)
    return kernel, process, base


def kinds(kernel, process, base):
    """The kind of entry of each page, all of which migrate."""
    return [pte_to_swp_entry(pte).type for pte in entries(kernel, process, base, PAGES)]


CALLS = {
    "read-only": lambda process, page: process.mprotect(page, PAGE, "r"),
    "writable": lambda process, page: process.mprotect(page, PAGE, "rw"),
    "no access": lambda process, page: process.mprotect(page, PAGE, "none"),
    "unmap": lambda process, page: process.munmap(page, PAGE),
    "discard": lambda process, page: process.madvise(page, PAGE, "dontneed"),
    "fork": lambda process, _page: process.fork(cpu=3),
    "move": lambda process, page: process.mremap(
        page, PAGE, PAGE, maymove=True, fixed=True, new_address=page + THERE - HERE
    ),
}


def tried(call, *arguments):
    """What an access or a call gives: a value, or the signal or error that it gets."""
    try:
        return call(*arguments)
    except Signal as signal:
        return str(signal)
    except SystemCallError as error:
        return error.errno


def after(steps, migration):
    """Run a program while pages migrate, or not; return what every process has then."""
    kernel, process, base = written()
    pages = migration(kernel, process, base)
    seen: list[object] = []
    for call, page in steps:
        result = tried(CALLS[call], process, base + page * PAGE)
        seen.append(result if isinstance(result, str) else "")
    pages.end()
    audit(kernel)
    audit_tlbs(kernel)
    places = [at + page * PAGE for at in (HERE, THERE) for page in range(PAGES)]
    owners = list(kernel.processes)
    seen.extend([tried(owner.read, place) for place in places] for owner in owners)
    for number, owner in enumerate(owners):
        for place in places:
            tried(owner.write, place, 100 + number)
    seen.extend([tried(owner.read, place) for place in places] for owner in owners)
    audit(kernel)
    audit_tlbs(kernel)
    for owner in owners:
        owner.exit()
    assert all_frames(kernel) == 2
    return seen


programs = st.lists(
    st.tuples(st.sampled_from(sorted(CALLS)), st.integers(0, PAGES - 1)), max_size=6
)


@settings(deadline=None, max_examples=60)
@given(programs)
def test_a_migration_is_not_seen(steps):
    """Whatever is called while pages migrate, memory ends as if they had stayed."""
    assert after(steps, Migration) == after(steps, NoMigration)


def whole(call):
    """Migrate every page, do *call* to the whole range, and return all of it."""
    kernel, process, base = written()
    pages = Migration(kernel, process, base)
    return kernel, process, base, pages, issued(kernel, lambda: call(process, base))


def test_read_only_takes_the_right_from_the_entry():
    """To protect a writable migration makes it readable; the page is still exclusive.

    No TLB holds anything of it, so nothing is flushed.
    """
    kernel, process, base, pages, counts = whole(
        lambda process, base: process.mprotect(base, PAGES * PAGE, "r")
    )
    assert kinds(kernel, process, base) == [SWP_MIGRATION_READ_EXCLUSIVE] * PAGES
    assert counts.tlbi == {}
    pages.end()
    with pytest.raises(Signal, match="SIGSEGV"):
        process.write(base, 9)
    process.mprotect(base, PAGES * PAGE, "rw")
    frames = kernel.page_alloc.in_use
    process.write(base, 9)
    assert kernel.page_alloc.in_use == frames, "it is not copied"


def test_fork_makes_the_migration_shared():
    """A fork leaves both entries readable and shared: each side's write copies."""
    kernel, process, base, pages, _ = whole(lambda process, _base: process.fork())
    child = kernel.processes[-1]
    assert child is not process
    for owner in (process, child):
        assert kinds(kernel, owner, base) == [SWP_MIGRATION_READ] * PAGES
    pages.end()
    child.write(base, 9)
    assert process.read(base) == 1
    process.write(base + PAGE, 8)
    assert child.read(base + PAGE) == 2
    audit(kernel)


def test_mremap_moves_the_entry():
    """To move a migration entry keeps it as it is, and the page ends there."""
    kernel, process, _, pages, _ = whole(
        lambda process, base: process.mremap(
            base,
            PAGES * PAGE,
            PAGES * PAGE,
            maymove=True,
            fixed=True,
            new_address=THERE,
        )
    )
    assert kinds(kernel, process, THERE) == [SWP_MIGRATION_WRITE] * PAGES
    frames = [
        migration_entry_pfn(pte_to_swp_entry(pte))
        for pte in entries(kernel, process, THERE, PAGES)
    ]
    assert frames == [folio.pfn for folio, _ in pages.folios]
    pages.end()
    assert [process.read(THERE + page * PAGE) for page in range(PAGES)] == [1, 2, 3, 4]
    audit(kernel)


@pytest.mark.parametrize("call", ["unmap", "discard"])
def test_a_page_that_nobody_waits_for_is_freed(call):
    """Where the entry has gone, the page goes with the last of the migration.

    What munmap flushes is the table, which it frees.
    """
    _, process, _, pages, counts = whole(
        lambda process, base: [
            CALLS[call](process, base + page * PAGE) for page in range(PAGES)
        ]
    )
    assert process.mm.anonpages == 0
    assert set(counts.tlbi) == ({"RVAE1IS"} if call == "unmap" else set())
    folios = [folio for folio, _ in pages.folios]
    pages.kernel.swap.lru_add_drain_all()
    assert [folio.refcount for folio in folios] == [1] * PAGES
    pages.end()
    assert [folio.refcount for folio in folios] == [0] * PAGES


def test_who_touches_it_waits():
    """An access waits for the page's lock, and goes on when the migration has ended."""
    kernel, process, base = written()
    pages = Migration(kernel, process, base)
    with pytest.raises(StuckError, match="migration"):
        process.read(base)

    def others(done, _what):
        pages.end()
        assert done()

    kernel.machine.waiter = others
    assert process.read(base) == 1
    audit(kernel)


def test_a_pinned_page_ends_the_walk_and_what_comes_after_it_stays_mapped():
    """Entries before a page that may be pinned migrate; its own and all later stay."""
    kernel = boot()
    kernel.huge_memory.set_hugepages_enabled(64, "always")
    process = kernel.spawn()
    base = process.mmap(16 * PAGE, addr=1 << 32, fixed=True)
    for page in range(16):
        process.write(base + page * PAGE, page + 1)
    pte = kernel.pgtable.read(kernel.pgtable.find_pte(process.mm, base))
    folio = kernel.page_alloc.folio_of(kernel.pgtable.pte_pfn(pte))
    process.fork().exit()
    for page in range(3, 16):
        process.write(base + page * PAGE, page + 1)
    pinned = process.pin(base + 3 * PAGE, PAGE, write=True)
    rmap = kernel.rmap
    folio_lock(kernel.machine, folio)
    anon_vma = rmap.folio_get_anon_vma(folio)
    rmap.anon_vma_lock_write(anon_vma)
    walk = rmap.rmap_walk_anon(anon_vma, folio.index, 16)
    flags = TTU_RMAP_LOCKED | TTU_BATCH_FLUSH
    assert [
        rmap.try_to_migrate_one(folio, vma, start, flags) for vma, start, _ in walk
    ] == [False]
    rmap.try_to_unmap_flush()
    left = [pte_present(pte) for pte in entries(kernel, process, base, 16)]
    assert left == [False] * 3 + [True] * 13
    kernel.migrate.remove_migration_ptes(
        anon_vma, folio.pfn, 16, folio.index, unused_to_zeropage=False
    )
    rmap.anon_vma_unlock_write(anon_vma)
    rmap.put_anon_vma(anon_vma)
    folio_unlock(kernel.machine, folio)
    kernel.gup.unpin_user_pages(pinned)
    assert [process.read(base + page * PAGE) for page in range(16)] == [*range(1, 17)]
    audit(kernel)
