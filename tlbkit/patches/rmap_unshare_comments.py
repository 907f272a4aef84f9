"""a8682d500f69: two comments in rmap say what unsharing a PMD table unmaps."""

from __future__ import annotations

from tlbkit.linux.mm.rmap.walk import TTU_HWPOISON, TTU_RMAP_LOCKED
from tlbkit.patches import series
from tlbkit.patches.patch import Correction, Kind, Patch, Role, Verdict
from tlbkit.patches.unshare_trial import BASE, Trial


def unmapped(one: str, flags: int) -> Verdict:
    """Unmap the page from the leaver by rmap; look at all counts, and at the table."""
    trial = Trial()
    kernel = trial.kernel
    hugetlb = kernel.hugetlb
    entry = kernel.pgtable.read(trial.ptep)
    folio = hugetlb.folio(entry)
    before = (trial.table.refcount, folio.refcount, folio.mapcount)
    hugetlb.mapping(trial.vma).i_mmap_rwsem.down_write()
    getattr(kernel.rmap, one)(folio, trial.vma, BASE, flags)
    counts = (trial.table.refcount, folio.refcount, folio.mapcount)
    gone = kernel.pgtable.find_pmd(trial.leaver.mm, BASE) is None
    kept = kernel.pgtable.read(trial.ptep) == entry
    return Verdict(old=counts != before, new=gone and kept and counts == before)


def unmapped_as_bad() -> Verdict:
    """Do so as a failure of memory does."""
    return unmapped("try_to_unmap_one", TTU_HWPOISON | TTU_RMAP_LOCKED)


def unmapped_to_migrate() -> Verdict:
    """Do so as a migration does."""
    return unmapped("try_to_migrate_one", TTU_RMAP_LOCKED)


PATCH = Patch(
    commit="a8682d500f691b6dfaa16ae1502d990aeb86e8be",
    subject="rmap: two comments say that unsharing unmaps a table, and so its folio",
    series=series.HUGETLB,
    kind=Kind.COMMENT,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.19",
    touches={"mm/rmap.c": ("try_to_unmap_one", "try_to_migrate_one")},
    chapter="book/commits/comments.md",
    sources=(
        "mainline a8682d500f69, in v6.19-rc7",
        "Message-ID 20251223214037.580860-4-david@kernel.org (v3 3/4)",
    ),
    note="Some lists spell the hash a8682d5f00f69, with two digits changed.",
    corrections=tuple(
        Correction(
            place=place,
            old="the count of a PMD page is dropped, as shared pages are counted so",
            new="the PMD table is unmapped, and with it the folio that it maps",
            tried=tried,
        )
        for place, tried in (
            ("try_to_unmap_one", unmapped_as_bad),
            ("try_to_migrate_one", unmapped_to_migrate),
        )
    ),
)
