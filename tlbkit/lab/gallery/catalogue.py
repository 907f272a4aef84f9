"""The gallery as a catalogue: each point with what a reader would look for it by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tlbkit.lab.gallery import verdicts
from tlbkit.patches.registry import PATCHES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.gallery.verdicts import Verdict

KINDS: Final[Mapping[str, str]] = {
    "tlbi": "TLBI",
    "dsb": "DSB or ISB",
    "isb": "DSB or ISB",
    "ipi": "IPI",
    "irq": "interrupts off",
    "call_rcu": "RCU",
    "lock": "lock",
}
"""What sort of thing the first word of a point names; all others are re-checks."""

RECHECK: Final = "re-check"
MOVED: Final = "moved operation"

FLOWS: Final[Mapping[str, str]] = {
    "fault-path": "page fault",
    "files": "files",
    "fork": "fork",
    "gup-fast": "GUP-fast",
    "huge-memory": "huge pages",
    "hugetlb-unshare": "hugetlb",
    "mmu-gather": "munmap and exit",
    "moving-and-reclaim": "mremap, swap and reclaim",
    "mprotect": "mprotect",
    "tlb": "contpte",
    "userfaultfd-move": "userfaultfd",
    "write-fault": "copy on write",
}
"""What the chapters of the flows are about, by the names of their pages."""


class History(NamedTuple):
    """Where a point was missing in the real kernel, or nearly.

    Attributes:
        text: What happened, in a sentence.
        commit: The commit that put it right, or put it in.
        subject: Of the commit, in our words.
        record: Its CVE, if it has one.
    """

    text: str
    commit: str
    subject: str
    record: str = ""

    @property
    def source(self) -> str:
        """Name the sources."""
        return ", ".join(filter(None, [f"mainline {self.commit}", self.record]))


_COW: Final = History(
    "A parent reused a page that its child could still read through a reference, so "
    "the child saw what the parent wrote later.",
    "17839856fd58",
    "gup: break COW for readers too; do_wp_page() later asked for the only reference",
    "CVE-2020-29374",
)
_FORK: Final = History(
    "GUP-fast pinned a page while fork() made it copy-on-write, and the owner's next "
    "write went to a copy that the device never saw.",
    "57efa1fe5957",
    "mm/gup: a sequence count keeps GUP-fast from racing with fork",
)
_SPLIT: Final = History(
    "A VMA that was about to be split lost its shared table too early, and a fault "
    "could share it again.",
    "081056dc00a2",
    "mm/hugetlb: unshare tables in the middle of a split, not before it",
    "CVE-2025-38084",
)
_GATHERS: Final = History(
    "Two threads in MADV_DONTNEED gathered the same pages; the second found nothing "
    "to flush and returned while the first had not flushed.",
    "99baac21e458",
    "mm: flush everything if another gather is open",
)
_COLLAPSE: Final = History(
    "A walk without a lock took a page from a table that khugepaged had just unhooked.",
    "70cbc3cc78a9",
    "mm: gup-fast looks at the PMD again",
)

HISTORY: Final[Mapping[str, History]] = {
    "tlbi moved after unlock in move_ptes": History(
        "mremap() released the page table lock before it flushed, so another thread "
        "could free the page while the old translation was still in a TLB.",
        "eb66ae030829",
        "mremap: flush the TLB before the page can be released",
        "CVE-2018-18281",
    ),
    "tlbi moved after unlock in move_normal_pmd": History(
        "mremap() moved a whole table without the rmap lock; reclaim flushed the new "
        "address only, and freed what the old one still reached.",
        "97113eb39fa7",
        "mm/mremap: hold the rmap lock while page table entries move",
        "CVE-2022-41222",
    ),
    "tlbi in flush_tlb_batched_pending": History(
        "mprotect() found an entry that reclaim had cleared without a flush yet, and "
        "returned while another CPU could still write.",
        "3ea277194daa",
        "mm, mprotect: flush if reclaim has put a flush off",
    ),
    "mm_tlb_flush_nested in tlb_finish_mmu": _GATHERS,
    "tlb_delay_rmap in zap_present_folio_ptes": History(
        "munmap() dropped the mapping of a dirty file page before its flush; a write "
        "through the stale entry came after the page was cleaned, and was lost.",
        "5df397dec7c4",
        "mm: drop the rmap of a dirty page behind the flush",
    ),
    "raw_seqcount_try_begin in gup_fast": _FORK,
    "write_protect_seq in gup_fast": _FORK,
    "folio_ref_count in wp_can_reuse_anon_folio": _COW,
    "folio_ref_count in do_huge_pmd_wp_page": _COW,
    "SWAP_HAS_CACHE in swapcache_prepare": History(
        "Two faults read one swap entry without the swap cache, and the slower one "
        "mapped what was out of date by then.",
        "13ddaf26be32",
        "mm/swap: hold the swap entry while the cache is skipped",
        "CVE-2024-26759",
    ),
    "ipi in tlb_flush_unshared_tables": History(
        "GUP-fast was still in a table of huge pages when the last other sharer put "
        "it to another use.",
        "1013af4f585f",
        "mm/hugetlb: interrupt all CPUs when a table is unshared",
        "CVE-2025-38085",
    ),
    "lock i_mmap_rwsem in split_vma": _SPLIT,
    "pmd_val in gup_fast_pte_range": _COLLAPSE,
    "ipi in collapse_huge_page": History(
        "The look at the PMD alone was not enough where RCU does not free tables: "
        "khugepaged interrupts as well.",
        "2ba99c5e0881",
        "mm/khugepaged: interrupt walks without a lock",
    ),
    "tlbi in do_wp_page": History(
        "A page was copied while another thread could still write through an entry "
        "whose flush userfaultfd had put off.",
        "6ce64428d620",
        "mm/userfaultfd: flush before a write-protected page is copied",
    ),
}
"""What is known of points of the real kernel, by their names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One point, and how to find it.

    Attributes:
        verdict: What happens without it.
        kind: What sort of thing it is.
        flow: What is being done where it stands.
        function: Where it stands.
        commits: Those of the registry that touch that function: short hash and subject.
        history: What is known of it in the real kernel.
    """

    verdict: Verdict
    kind: str
    flow: str
    function: str
    commits: tuple[tuple[str, str], ...]
    history: History | None

    @property
    def outcome(self) -> str:
        """Say what comes of it, in a few words."""
        if self.verdict.verdict != verdicts.BREAKS:
            return "nothing breaks"
        if self.verdict.harm is None:
            return "a rule is broken, no harm found"
        return self.verdict.harm.kind

    @property
    def searched(self) -> str:
        """Say what was searched, in a sentence."""
        one = self.verdict
        many = f"{one.runs:,} schedules of {len(one.meetings)} meetings"
        if one.verdict == verdicts.BREAKS:
            stops = one.preemptions
            how = f"{stops} preemption{'s' if stops != 1 else ''}"
            return (
                f"The shortest that breaks needs {how} and {one.steps} steps ({many})."
            )
        loads = "with a step at each load of a page-table word"
        if one.complete:
            return f"All {many} with up to {one.preemptions} preemptions, {loads}."
        return (
            f"{many}, {loads}: all with up to {one.preemptions} preemptions, and some "
            "with one more; the search was not complete."
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain dictionaries and lists."""
        history = self.history
        return {
            **self.verdict.to_json(),
            "kind": self.kind,
            "about": self.flow,
            "function": self.function,
            "outcome": self.outcome,
            "commits": [list(one) for one in self.commits],
            "history": history and {**history._asdict(), "source": history.source},
        }


def catalogue() -> list[Entry]:
    """Return every point of the gallery, by flow, kind and name."""
    entries = [_entry(one) for one in verdicts.gallery()]
    return sorted(entries, key=lambda one: (one.flow, one.kind, one.verdict.point))


def _entry(verdict: Verdict) -> Entry:
    what, _, function = verdict.point.partition(" in ")
    page = verdict.chapter.rpartition("/")[2].removesuffix(".md")
    kind = KINDS.get(what.split()[0], RECHECK)
    return Entry(
        verdict,
        MOVED if " moved " in what else kind,
        FLOWS[page],
        function,
        _touching().get(function.strip("_"), ()),
        HISTORY.get(verdict.point),
    )


@cache
def _touching() -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the commits of the registry by the functions that they touch."""
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    for patch in PATCHES:
        for functions in patch.touches.values():
            for function in functions:
                name = function.strip("_")
                one = patch.commit[:12], patch.subject
                found[name] = (*found.get(name, ()), one)
    return found
