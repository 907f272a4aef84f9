"""The levels of the game, in the order in which they are to be played."""

from __future__ import annotations

from typing import Final

from tlbkit.errors import InputError
from tlbkit.lab.gallery import harm
from tlbkit.lab.gallery.game import Level
from tlbkit.lab.gallery.walkers import SECRET

_WRITE: Final = frozenset({harm.WRITE})
_READ: Final = frozenset({harm.READ})
_USE: Final = frozenset({harm.READ, harm.WRITE})
_LEAK: Final = frozenset({harm.LEAKED})
_LOST: Final = frozenset({harm.LOST})
_BOOKS: Final = frozenset({harm.CORRUPT})

_WALK: Final = "gup_fast"
_IPI: Final = frozenset({"ipi", "read", "write"})
_FREE: Final = frozenset({"free", "write"})
_LOCKS: Final = frozenset({"lock", "store", "write"})

LEVELS: Final = (
    Level(
        "one-barrier",
        "One missing barrier",
        "CPU 0 takes the right to write away. Let CPU 1 write when mprotect() is over.",
        "A TLBI is complete only after a DSB of the CPU that issued it. Until then "
        "another TLB may still hold the entry.",
        "protect",
        ("dsb ish in flush_tlb_range_",),
        _WRITE,
        hint="Nobody waits for the TLBI. Let CPU 0 finish; then use what CPU 1 has.",
    ),
    Level(
        "nothing-missing",
        "Nothing missing",
        "The same mprotect() on the complete kernel. Let CPU 1 write when it must not.",
        "Between the store of the entry and the end of the flush CPU 1 may still "
        "write; mprotect() has not returned, and nobody was promised anything.",
        "protect",
        wanted=_WRITE,
        reason="The DSB waits until every TLB has dropped the entry, and only then "
        "does mprotect() release its locks. A write before that is allowed.",
        hint="When does mprotect() return, and what does CPU 1's TLB hold then?",
    ),
    Level(
        "no-flush",
        "No flush at all",
        "Let CPU 1 write to the page that mprotect() has made read-only.",
        "A TLB goes on using what it holds, whatever the page tables say.",
        "protect",
        ("tlbi in tlb_flush",),
        _WRITE,
        hint="CPU 1's TLB held a writable entry before anything happened.",
    ),
    Level(
        "freed",
        "Somebody else's memory",
        "munmap() frees a page. Let CPU 1 use it after that.",
        "A frame is freed behind the flush, never before: whoever gets it next must be "
        "the only one who can reach it.",
        "unmap",
        ("tlbi in tlb_flush",),
        _USE,
        hint="Let munmap() go on until the tables map nothing, then let CPU 1 write.",
    ),
    Level(
        "freed-in-time",
        "The frame is yours",
        "The same munmap() on the complete kernel. Reach the freed frame from CPU 1.",
        "mmu_gather clears all entries, flushes once, and frees all pages behind that.",
        "unmap",
        wanted=_USE,
        reason="tlb_flush_mmu() flushes and waits before it frees a single page, so no "
        "TLB leads to a frame when it is free.",
        hint="Look for the step that frees the page, and for the DSB before it.",
    ),
    Level(
        "protect-write",
        "Write-protected for a monitor",
        "userfaultfd write-protects a page. Let CPU 1 write without anybody noticing.",
        "A monitor that was told that a page is write-protected relies on the flush.",
        "write-protect",
        ("tlbi in tlb_flush",),
        _WRITE,
        hint="UFFDIO_WRITEPROTECT returns with no flush behind it.",
    ),
    Level(
        "old-page",
        "Two pages, one address",
        "CPU 0 writes to a page that a child shares, and gets a copy. Let CPU 1, a "
        "thread of the same process, read the old page afterwards.",
        "Copy on write leads an address to another frame, so the old entry is removed "
        "and flushed on every CPU before the new one is stored.",
        "copy",
        ("tlbi in ptep_clear_flush",),
        _READ,
        hint="CPU 1 must still hold the entry of the old page when the fault is over.",
    ),
    Level(
        "new-page",
        "One address, one page",
        "The same copy on write on the complete kernel. Let CPU 1 read the old page.",
        "ptep_clear_flush() clears, flushes and waits; then set_pte stores the copy.",
        "copy",
        wanted=_READ,
        reason="No TLB holds the old entry when the new one is stored: clear, TLBI and "
        "DSB come first, under the PTL.",
        hint="Where does CPU 1's next read look for the page?",
    ),
    Level(
        "dirty-file",
        "Clean, or so it says",
        "fsync() makes a page of a file read-only before it is written back. Let CPU 1 "
        "write after that, without a fault.",
        "If a write needs no fault, nobody marks the page dirty again, and what it "
        "wrote is never written back.",
        "write back",
        ("tlbi in ptep_clear_flush",),
        _WRITE,
        hint="fsync() changes the entry; what does CPU 1 hold?",
    ),
    Level(
        "clean-file",
        "Clean, and it is",
        "The same fsync() on the complete kernel.",
        "folio_mkclean() flushes each entry before the page is written back.",
        "write back",
        wanted=_WRITE,
        reason="The entry is flushed under the PTL, before write-back begins; the next "
        "write faults, and marks the page dirty again.",
        hint="Does CPU 1's write fault?",
    ),
    Level(
        "relaxed",
        "More rights, and no broadcast",
        "mprotect() gives the right to write, and the kernel does not even flush its "
        "own TLB. Do harm.",
        "An entry that grants less than the tables does no harm: it costs one spurious "
        "fault. So a write fault flushes on its own CPU only, since cb1fa2e99955.",
        "permit",
        ("tlbi in flush_relaxed",),
        _USE,
        reason="A stale entry that is stricter makes its CPU fault; the handler finds "
        "nothing to change, drops the entry, and the access goes on.",
        hint="What can a TLB entry do that grants less than the tables?",
    ),
    Level(
        "fork-window",
        "A child that hears everything",
        "fork() makes the parent's pages read-only. Let a thread of the parent write "
        "to a page that the child has now as well.",
        "fork() ends with a flush of the parent: its threads on other CPUs must fault "
        "and copy before they write.",
        "fork",
        ("tlbi in dup_mmap",),
        _WRITE,
        hint="CPU 1 holds a writable entry from before the fork.",
    ),
    Level(
        "fork-closed",
        "A child of its own",
        "The same fork() on the complete kernel.",
        "One flush of the whole address space ends fork(), whatever it copied.",
        "fork",
        wanted=frozenset({harm.WRITE, harm.LEAKED}),
        reason="dup_mmap() flushes the parent before it gives up the mmap lock, so "
        "every later write faults and gets a copy.",
        hint="When is the first moment at which the child could read?",
    ),
    Level(
        "reused",
        "A page with two owners",
        "Let the child see what a thread of the parent wrote after the fork.",
        "A page may be reused for writing only if nobody else has a reference to it.",
        "fork",
        ("folio_ref_count in wp_can_reuse_anon_folio",),
        _LEAK,
        hint="No flush is missing. Let fork() finish, and then let CPU 1 write twice.",
    ),
    Level(
        "moved",
        "The page has moved",
        "UFFDIO_MOVE takes a page to another address. Let CPU 1 write through the old "
        "one.",
        "MOVE clears the source and flushes it before the page appears elsewhere.",
        "move source",
        ("tlbi in move_present_ptes",),
        _WRITE,
        hint="Let MOVE store the destination, then write through the source.",
    ),
    Level(
        "moved-safely",
        "The page has moved, and everybody knows",
        "The same MOVE on the complete kernel.",
        "The source is flushed while both PTLs are held; a thread that faults there "
        "waits for the monitor.",
        "move source",
        wanted=_USE,
        reason="The flush of the source is complete before the PTLs are released, and "
        "before that a write is a write to the page on its way.",
        hint="Follow the frame's letter from one column to the other.",
    ),
    Level(
        "batch",
        "Two pages, one flush",
        "MOVE takes two pages in one batch. Let CPU 1 write through the old address of "
        "the second.",
        "A batch may clear many entries and flush once, if the flush covers all of "
        "them and comes before the locks are released.",
        "move run",
        ("tlbi in move_present_ptes",),
        _WRITE,
        hint="The batch is one step for the tables, and no step for the TLBs.",
    ),
    Level(
        "remapped",
        "mremap() without a flush",
        "mremap() takes a page to another address. Let CPU 1 use the old one.",
        "An address that was moved away must be flushed, although no page is freed.",
        "remap",
        ("tlbi in move_ptes",),
        _USE,
        hint="As with MOVE: old address, old entry.",
    ),
    Level(
        "whole-table",
        "A table that moves",
        "mremap() moves a whole page table at once. Let CPU 1 go on using it at the "
        "old address.",
        "Where a table is unlinked, the walk cache must forget it too: the TLBI may "
        "not be for the last level only.",
        "remap table",
        ("tlbi in move_normal_pmd",),
        _USE,
        hint="One store moved 2 MiB. What is still in CPU 1's TLB and walk cache?",
    ),
    Level(
        "huge-move",
        "Two megabytes move",
        "MOVE takes a huge page elsewhere. Let CPU 1 write through the old address.",
        "A PMD mapping is one entry; pmdp_huge_clear_flush() clears and flushes it.",
        "move block",
        ("tlbi in pmdp_huge_clear_flush",),
        _WRITE,
        hint="One entry covers all columns.",
    ),
    Level(
        "huge-zero",
        "Nothing moves",
        "MOVE takes the huge zero folio elsewhere. Let CPU 1 read it at the old "
        "address afterwards.",
        "Even zeros need the flush: the old address must fault, so that the monitor "
        "hears of it.",
        "move huge zeros",
        ("tlbi in pmdp_huge_clear_flush",),
        _READ,
        hint="Reading zeros where nothing is mapped is harm enough here.",
    ),
    Level(
        "huge-drop",
        "Two megabytes freed",
        "MADV_DONTNEED frees a huge page. Let CPU 1 read it after that.",
        "The gather knows the size of what it clears, and flushes with that stride.",
        "drop block",
        ("tlbi RVALE1IS in flush_tlb_range_nosync_",),
        _READ,
        hint="The range TLBI of the gather never leaves CPU 0.",
    ),
    Level(
        "hugetlb-copy",
        "The flush comes too late",
        "A hugetlb page is copied on write, and its flush comes only after the PTL is "
        "released. Let CPU 1 read the old page after the new one is there.",
        "Clear, flush and store belong together under one lock.",
        "copy huge",
        ("tlbi moved after unlock in flush_hugetlb_tlb_range_",),
        _READ,
        hint="Stop CPU 0 between the store of the copy and the late flush.",
    ),
    Level(
        "two-gathers",
        "Two gathers at once",
        "Two CPUs write-protect the same page for a monitor. Let a thread write after "
        "one of them has returned.",
        "A gather that is not alone in its address space flushes everything: what it "
        "found already changed may not be flushed yet.",
        "write-protects",
        ("mm_tlb_flush_nested in tlb_finish_mmu",),
        _WRITE,
        hint="The second finds nothing to do. What has the first not done yet?",
    ),
    Level(
        "two-gathers-safe",
        "Two gathers, and both wait",
        "The same two gathers on the complete kernel.",
        "mm_tlb_flush_nested() makes the second flush for the first.",
        "write-protects",
        wanted=_WRITE,
        steps=frozenset({"store", "tlbi", "write"}),
        reason="Whichever gather ends while the other is open flushes the whole "
        "address space before it returns.",
        hint="Let the second return before the first has flushed.",
    ),
    Level(
        "reclaim-batch",
        "Three CPUs, and a flush put off",
        "Reclaim unmaps a page and waits for no TLB. Let a thread write to it when it "
        "is free.",
        "Reclaim may issue its TLBIs one by one and wait once, but it must wait before "
        "it frees a page.",
        "reclaim and protect",
        ("dsb ish in arch_tlbbatch_flush",),
        _USE,
        steps=_FREE,
        hint="Reclaim is the third thread. Nobody else needs to do anything.",
    ),
    Level(
        "swap-twice",
        "One slot, two readers",
        "Two threads read the same page in from swap, and nothing keeps the second "
        "from the slot. Make the kernel's books wrong.",
        "A fault that skips the swap cache still holds the slot, so that a second "
        "fault waits (13ddaf26be32, CVE-2024-26759).",
        "swap in",
        ("SWAP_HAS_CACHE in swapcache_prepare",),
        _BOOKS,
        steps=_LOCKS,
        hint="Both must have looked at the entry before one of them stores a page.",
    ),
    Level(
        "lazy-free",
        "Free, unless you write",
        "MADV_FREE gives pages up, and reclaim does not look whether one was written "
        "since. Lose a write.",
        "A page that was given up may be discarded only if it is still clean once no "
        "TLB can make it dirty.",
        "free",
        ("folio_test_dirty in try_to_unmap_one",),
        _LOST,
        steps=_LOCKS,
        hint="Write after MADV_FREE has returned, and before reclaim unmaps the page.",
    ),
    Level(
        "stolen",
        "A walk without a lock",
        "GUP-fast walks the tables while munmap() frees the page, and does not look at "
        "the entry again. Get hold of a page of another process.",
        "GUP-fast takes a reference first and then looks at the entry once more: only "
        "if it is unchanged was the page still mapped.",
        "walk and unmap",
        ("pte_val in gup_fast_pte_range",),
        _LEAK,
        loads=_WALK,
        steps=_FREE | {"store"},
        hint="Stop the walk when it has read the entry; let munmap() free the page.",
    ),
    Level(
        "unshared",
        "A table that changes hands",
        "Two processes share a table of huge pages, and one leaves without an IPI. "
        "Let its walk take a page of the other's private memory.",
        "Before a shared table gets another use, the IPI ends every walk that could be "
        "in it (1013af4f585f, CVE-2025-38085).",
        "unshare and walk",
        ("ipi in tlb_flush_unshared_tables",),
        _LEAK,
        loads=_WALK,
        steps=frozenset({"ipi", "write"}),
        word=SECRET,
        hint="Stop the walk when it has read the PUD entry.",
    ),
    Level(
        "unshared-safe",
        "A table that changes hands, with the IPI",
        "The same on the complete kernel.",
        "A walk has interrupts off, and the IPI waits for it.",
        "unshare and walk",
        wanted=_LEAK,
        loads=_WALK,
        steps=frozenset({"ipi", "write"}),
        reason="The process that leaves waits for the IPI, the IPI waits for the walk, "
        "and the table gets no other use before that.",
        hint="Who waits for whom?",
    ),
    Level(
        "pull-request-350",
        "Three CPUs, and what pull request 350 brought along",
        "The pull request's gather flushes an unshared table for the last level only. "
        "Let CPU 0 read the other process's secret, 0x5ec2e7.",
        "Unsharing unlinks a table, so the walk cache must forget it: c2ff4764e03e, "
        "which pull request 350 does not have.",
        "unshare and read",
        wanted=_READ,
        word=SECRET,
        steps=_IPI,
        reverted="c2ff4764e03e",
        hint="CPU 0's walk cache knows the table. Let CPU 2 put the secret into it.",
    ),
    Level(
        "pull-request-350-mended",
        "What c2ff4764e03e mended",
        "The same with the later fix.",
        "A gather that unshared a table flushes its walk-cache entries too.",
        "unshare and read",
        wanted=_READ,
        word=SECRET,
        steps=_IPI,
        reason="The TLBI is no longer for the last level only, so no walk cache leads "
        "into the table when it gets its next use.",
        hint="Compare the name of the TLBI with the level before.",
    ),
)
"""Every level, in order."""


def find(name: str) -> Level:
    """Return the level called *name*; `InputError` says which there are."""
    for level in LEVELS:
        if level.name == name:
            return level
    known = ", ".join(level.name for level in LEVELS)
    raise InputError(f"no level is called {name!r}; known: {known}")
