"""Why nothing breaks without some points: what each of them is for, if not for safety.

An argument is no proof. It stands beside a search of every schedule with up to two
preemptions in every meeting that comes by the point, and says what that search could
not know.
"""

from __future__ import annotations

from typing import Final

_RELAXED: Final = (
    "The entry gained rights. A CPU that keeps the strict one only faults once more, "
    "finds nothing to change, and drops it then: flush_tlb_fix_spurious_fault(). "
    "This flush saves that second fault."
)
_NO_STORE: Final = (
    "The DSB before a TLBI makes this CPU's descriptor stores visible to walkers "
    "first. Here this CPU has stored nothing: whoever relaxed the entry did so "
    "before it released the lock that this CPU has taken since."
)
_FORK_LOCK: Final = (
    "fork holds the mmap lock for writing and has marked the VMA, so page faults stay "
    "out. The table's lock keeps out who comes without either: migration, by rmap. "
    "Reclaim does not touch pages of a pool, and migration does not meet fork here."
)
_CHANGING: Final = (
    "The lock makes who changes the layout (fork, mremap and munmap with userfaultfd "
    "events) wait for requests that have seen no change announced. It is about the "
    "monitor's view of the process; tables and pages have their own locks."
)
_PAGE_LOCKED: Final = (
    "The page that is mapped here is locked, so a second fault on it, write-back and "
    "truncation wait; and munmap, mprotect and fork are kept out by the mmap lock. "
    "The table's lock is for who needs neither, such as reclaim by rmap, which meets "
    "nobody here."
)
_SLOW: Final = (
    "This is the slow way, taken after a writer was met. Without the mmap lock the "
    "area could be gone when it is locked. Here the look-up and the lock of the area "
    "are one step for every other CPU, so no schedule comes between: RCU is left "
    "out."
)

_FILE_FIRST: Final = (
    "Whoever unmaps, protects or unshares huge pages holds the area's lock and "
    "i_mmap_rwsem for writing, and whoever faults holds the area's lock for reading: "
    "they keep each other out before they come to the table. Of a shared table only "
    "the count and the way to it change, not the entries. Its lock is for who comes by "
    "rmap to a private page, as migration does, and meets nobody here."
)
_ONE_FAULT: Final = (
    "The fault mutex lets one fault at a time come to a huge page, and the area's lock "
    "keeps out who unmaps or protects it. The table's lock is for who comes by rmap to "
    "a private page, as migration does, and meets nobody here."
)
_SEEMS_EMPTY: Final = (
    "One word is read. The lock makes the reader wait for somebody who has cleared the "
    "entry and is about to store another one; whoever does so here holds the area's "
    "lock as well, which the reader has."
)
_NUMBERS: Final = (
    "The lock keeps the numbers of the pool in step with each other. In the model all "
    "that is done to them under it is one step for other CPUs, so no schedule can come "
    "between: numbers that software keeps are not torn apart here."
)
_RMAP_ONLY: Final = (
    "Who gets here holds the mmap lock for writing and has marked the area, so faults "
    "and system calls stay out. The table's lock is for who comes by the page: reclaim "
    "and migration, which take no lock of the address space. No meeting has one of "
    "those at this place at this moment."
)
_COLLAPSE: Final = (
    "The mmap lock keeps everybody else out, and the table is unhooked when its "
    "entries are looked at for good. Reclaim by rmap and walkers without a lock are "
    "left, and no meeting has them beside a collapse."
)
_ANON_VMA: Final = (
    "The anon_vma's lock is between who moves entries and who looks for all entries "
    "of a page. What a walk misses is found by the count of mappings, and the page "
    "stays; that a walk goes wrong takes reclaim of a page just while it moves or is "
    "collapsed, and no meeting has that for pages."
)
_NEVER_WRITABLE: Final = (
    "It guards a copy made while another CPU can still write through a stale "
    "entry. An entry that was writable maps a page of one process, and such a "
    "page is not copied but reused; who could be copied was never writable. The "
    "flush dates from when a count of references decided that."
)
_SEEN_AT_ONCE: Final = (
    "They let walkers see entries that were stored, and this CPU forget older reads. "
    "Without them an access may meet the old, invalid entry once more; its fault finds "
    "nothing to do. Entries of user space can do without them; here a store is seen "
    "at once."
)
_RELAXED_LATER: Final = (
    "The entry gained rights, or has them already. To flush it after the unlock is "
    "early enough: the access is tried again only when the fault is over."
)
_MMAP_LOCK: Final = (
    "The flush comes behind the locks of the tables, and still under the mmap lock, "
    "which is held for writing. Who unmaps the page meanwhile comes by rmap, flushes "
    "the new address alone, and frees what the old one still reaches. That takes "
    "reclaim of one of its pages just then. No meeting has it at this place; with a "
    "huge page it breaks: move_huge_pmd."
)

_TREE_WALK: Final = (
    "It keeps areas from leaving the file's tree while truncation walks it. That "
    "takes an munmap at the same time, and no meeting has both."
)

ARGUMENTS: Final[dict[str, str]] = {
    "dsb ishst in emit_pte_barriers": _SEEN_AT_ONCE,
    "isb in emit_pte_barriers": _SEEN_AT_ONCE,
    "lock mmap_lock in try_vma_read_lock": (
        "It is the slow way of madvise, taken when the VMA is locked by a writer or is "
        "too small for the range. The look-up of the VMA and what is done to it come "
        "without a stop that another CPU could use: the writer met here is done by "
        "then, or waits at the lock of the table."
    ),
    "tlbi moved after unlock in do_wp_page": _NEVER_WRITABLE,
    "tlbi moved after unlock in flush_relaxed": _RELAXED_LATER,
    "tlbi moved after unlock in flush_tlb_batched_pending": (
        "What it waits for was unmapped by another task, which writes the page out or "
        "frees it only behind a flush of its own. The caller needs the flush before it "
        "returns, and behind the unlock is before that."
    ),
    "tlbi moved after unlock in flush_tlb_fix_spurious_fault": _RELAXED_LATER,
    "tlbi moved after unlock in move_normal_pmd": _MMAP_LOCK,
    "tlbi moved after unlock in pmdp_collapse_flush": _COLLAPSE,
    "tlbi moved before store in do_wp_page": _NEVER_WRITABLE,
    "FAULT_FLAG_TRIED in fix_spurious_fault": (
        "A retried fault that finds nothing to change is usually not stale: its "
        "first try did the work. To flush here as well is a local flush too many, no "
        "harm."
    ),
    "dsb nsh in local_flush_tlb_page": _RELAXED,
    "dsb nshst in local_flush_tlb_page": _RELAXED,
    "dsb nshst in local_flush_tlb_page_nonotify": _NO_STORE,
    "lock PMD table in copy_hugetlb_page_range": _FORK_LOCK,
    "lock PMD table in hugetlb_change_protection": _FILE_FIRST,
    "lock PMD table in hugetlb_fault": _ONE_FAULT,
    "lock PMD table in hugetlb_no_page": _ONE_FAULT,
    "lock PMD table in hugetlb_pte_stable": _SEEMS_EMPTY,
    "lock PMD table in hugetlb_unshare_pmds": _FILE_FIRST,
    "lock PMD table in hugetlb_wp": _ONE_FAULT,
    "lock PMD table in unmap_hugepage_range_": _FILE_FIRST,
    "lock PTE table in finish_fault": _PAGE_LOCKED,
    "lock PTE table in finish_mkwrite_fault": _PAGE_LOCKED,
    "lock hugetlb_lock in alloc_hugetlb_folio": _NUMBERS,
    "lock hugetlb_lock in free_huge_folio": _NUMBERS,
    "lock hugetlb_lock in hugetlb_acct_memory": _NUMBERS,
    "lock hugetlb_lock in unmap_hugepage_range_": _NUMBERS,
    "lock i_mmap_rwsem in vma_link_file": (
        "An area enters the file's tree. Whoever walks the tree and misses it finds "
        "one table fewer to share, and makes its own. That the tree itself stays whole "
        "is what the lock is for; in the model an area enters it in one step."
    ),
    "lock i_mmap_rwsem in unmap_mapping_folio": _TREE_WALK,
    "lock i_mmap_rwsem in unmap_mapping_pages": _TREE_WALK,
    "lock map_changing_lock in mfill_atomic": _CHANGING,
    "lock map_changing_lock in move_pages": _CHANGING,
    "lock map_changing_lock in mwriteprotect_range": _CHANGING,
    "lock mmap_lock in uffd_lock_vma": _SLOW,
    "lock mmap_lock in uffd_move_lock": _SLOW,
    "lock page_table_lock in hugetlb_no_page": _ONE_FAULT,
    "lock page_table_lock in hugetlb_pte_stable": _SEEMS_EMPTY,
    "lock page_table_lock in unmap_hugepage_range_": _FILE_FIRST,
    "lock vma lock in vma_start_read_locked": (
        "Who gets here holds the mmap lock for reading, which already keeps out "
        "whoever changes areas; the area's lock goes on doing so once the mmap lock "
        "is dropped. The writer met here, mprotect, meets MOVE again at the table's "
        "lock."
    ),
    "pmd_val in gup_fast_pte_range": (
        "A table that is freed is unhooked with empty entries. Only collapse unhooks a "
        "full one; it then interrupts every CPU, so that walks that began before end, "
        "and finds the page that they took held. The look at the entry above is older "
        "than that interrupt, and one of the two is enough."
    ),
    "tlbi VALE1 in local_flush_tlb_page": _RELAXED,
    "tlbi in do_wp_page": _NEVER_WRITABLE,
    "tlbi in flush_relaxed": _RELAXED,
    "vm_lock_seq in vma_start_read": (
        "The mark keeps new readers out of an area while its flags change. Here the "
        "one who changes it is mprotect, and mprotect and MOVE meet again at the "
        "table's lock: whichever comes second finds what the first has left."
    ),
    "SWAP_HAS_CACHE in move_swap_pte": (
        "Whoever reads the page in meanwhile finds the entry gone, and gives its copy "
        "up: pte_same. Harm takes a copy that was mapped at the source, unmapped again "
        "and stayed in the swap cache, all between the two looks of MOVE: then it "
        "would say of itself that it is at the source. No meeting has that."
    ),
    "ipi in collapse_huge_page": (
        "It ends walks without a lock of a table that is unhooked. "
        "tlbkit.lab.gallery.walkers has such walkers; none of them meets a collapse."
    ),
    "lock PMD table in move_normal_pmd": _RMAP_ONLY,
    "lock PMD table in collapse_huge_page": _COLLAPSE,
    "lock PTE table in collapse_huge_page": _COLLAPSE,
    "lock PTE table in hpage_collapse_scan_pmd": _COLLAPSE,
    "lock anon_vma in anon_vma_lock_write": _ANON_VMA,
    "lock anon_vma in try_to_unmap": _ANON_VMA,
}
"""An argument for each point that can be taken out unharmed."""

_NO_EVENTS: Final = (
    "It fails only while a change of layout is being told to a monitor: userfaultfd "
    "with events. No meeting has a monitor that listens to them."
)
_HELD: Final = (
    "Whoever shares or pins a page under MOVE would have to pass the area's lock, "
    "which MOVE holds, or come by GUP-fast, which takes no lock. No meeting has "
    "GUP-fast."
)

_NO_RMAP: Final = (
    "The entry changes only under the area's lock, or under the fault mutex, which "
    "this fault holds too. It takes who comes by rmap without either: migration of a "
    "private huge page. No meeting has it."
)

NOT_MET: Final[dict[str, str]] = {
    "folio_ref_freeze in remove_mapping_": (
        "It needs somebody who finds the page in the swap cache, or in its file, after "
        "reclaim has looked at its references for the first time."
    ),
    "PageAnonExclusive in move_present_ptes": _HELD,
    "folio_maybe_dma_pinned in move_present_ptes": _HELD,
    "mmap_changing in mfill_atomic": _NO_EVENTS,
    "mmap_changing in move_pages": _NO_EVENTS,
    "mmap_changing in mfill_atomic_hugetlb": _NO_EVENTS,
    "pte_none_mostly in hugetlb_mfill_atomic_pte": (
        "It needs a monitor that fills a huge page, and somebody who is faster; no "
        "meeting has a monitor of huge pages."
    ),
    "hugetlb_pte_stable in hugetlb_no_page": (
        "It needs a pool that is empty and an entry that changes, and the fault mutex "
        "keeps those out that could do both. The drop of the mutex while a page is "
        "taken from a child is the exception; or a huge page that a monitor is asked "
        "for, and another who fills it meanwhile. No meeting has either."
    ),
    "pte_same in _copy_entry": (
        "It needs a huge page that is pinned when its process forks, and an entry that "
        "changes although fork holds the mmap lock."
    ),
    "pte_same in do_numa_page": (
        "It needs an entry hidden by NUMA balancing and a second fault on it; no "
        "meeting hides entries."
    ),
    "pte_same in handle_pte_marker": (
        "It needs a marker that is out of date and a second fault on it; no meeting "
        "leaves markers behind."
    ),
    "pte_same in hugetlb_fault": _NO_RMAP,
    "pte_same in hugetlb_no_page": _NO_RMAP,
    "pte_same in hugetlb_wp": (
        "It needs an owner for whose copy no page is left, so that it takes its "
        "child's, and lets go of its locks meanwhile; or who comes by rmap to a "
        "private huge page without them. No meeting has either."
    ),
    "collapse_huge_page_isolate in _collapse_locked": (
        "It fails if a page gets another user between the scan and the second look; "
        "that takes GUP-fast or reclaim beside a collapse, and no meeting has it."
    ),
    "folio_matches_swap_entry in move_swap_pte": (
        "It needs a page that leaves the swap cache between the look at it and its "
        "lock; in the meetings MOVE looks before the other one has read it."
    ),
    "pmd_same in do_huge_pmd_numa_page": (
        "It needs a block hidden by NUMA balancing; no meeting hides entries."
    ),
    "pmd_trans_huge in split_huge_pmd_locked": (
        "It needs two at once who split one block; each split is 512 stores, too many "
        "for this table."
    ),
}
"""Checks of the code that no meeting comes by, each with what a meeting would need."""
