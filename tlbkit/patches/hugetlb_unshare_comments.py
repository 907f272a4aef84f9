"""3937027caecb: two comments in hugetlb give the real reason for the early flush."""

from __future__ import annotations

from tlbkit.linux.include.linux.mm_types import ptdesc_pmd_is_shared
from tlbkit.patches import series
from tlbkit.patches.patch import Correction, Kind, Patch, Role, Verdict
from tlbkit.patches.unshare_trial import BASE, Trial


def recorded() -> Verdict:
    """Unshare, and look into the gather."""
    trial = Trial()
    tlb = trial.unshare()
    whole = tlb.start <= BASE and tlb.end >= BASE + trial.length
    return Verdict(old=not tlb.recorded, new=tlb.recorded and whole)


def kept_by_the_lock() -> Verdict:
    """Unshare; look at the table's references, and let the stayer try to use it."""
    trial = Trial()
    before = trial.table.refcount
    trial.unshare()
    dropped = trial.table.refcount < before
    return Verdict(old=dropped, new=not trial.stayer_can_change_the_table())


def answered_by_references() -> Verdict:
    """Hold the table of a single user, as who looks at pages may for a moment."""
    trial = Trial()
    trial.release(trial.unshare())
    alone = ptdesc_pmd_is_shared(trial.table)
    trial.table.refcount += 1
    return Verdict(
        old=ptdesc_pmd_is_shared(trial.table) != alone,
        new=ptdesc_pmd_is_shared(trial.table) is False,
    )


def reused_without_a_reference() -> Verdict:
    """Unshare and release the locks; look what it took for the stayer to go on."""
    trial = Trial()
    before = trial.table.refcount
    trial.release(trial.unshare())
    dropped = trial.table.refcount < before
    return Verdict(old=dropped, new=trial.stayer_can_change_the_table())


PATCH = Patch(
    commit="3937027caecb4f8251e82dd857ba1d749bb5a428",
    subject="hugetlb: two comments say why the flush after unsharing cannot wait",
    series=series.HUGETLB,
    kind=Kind.COMMENT,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.19",
    touches={
        "mm/hugetlb.c": ("__unmap_hugepage_range", "hugetlb_change_protection"),
    },
    chapter="book/commits/comments.md",
    sources=(
        "mainline 3937027caecb, in v6.19-rc7",
        "Message-ID 20251223214037.580860-3-david@kernel.org (v3 2/4)",
    ),
    note=(
        "8 lines added, 16 removed, none of them code. It did not apply cleanly to "
        "6.17: upstream had meanwhile mended a typing error in the old text."
    ),
    corrections=(
        Correction(
            place="__unmap_hugepage_range",
            old="that a table was unshared is not recorded in the gather",
            new="all that the table maps is recorded, so that the flush finds it",
            tried=recorded,
        ),
        Correction(
            place="__unmap_hugepage_range",
            old="the lock of the file keeps the last reference from being dropped",
            new="the lock keeps who is left with the table from changing it",
            tried=kept_by_the_lock,
        ),
        Correction(
            place="__unmap_hugepage_range",
            old="references tell whether a table is shared, so none can be kept",
            new="",
            tried=answered_by_references,
        ),
        Correction(
            place="hugetlb_change_protection",
            old="unsharing drops a reference, and another task may drop the last one",
            new="once the lock is released, who is left with the table may change it",
            tried=reused_without_a_reference,
        ),
    ),
)
