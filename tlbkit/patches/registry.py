"""The one list of commits, from which tables, chapters, kernels and tests are made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tlbkit.errors import InputError
from tlbkit.patches import (
    dax_hole_huge_zero,
    fault_whole_file_folio,
    find_normal_page,
    folio_add_rmap_statistics,
    huge_zero_special,
    huge_zero_tags,
    huge_zero_tags_init_on_free,
    huge_zero_zeroing,
    hugetlb_pmd_shared,
    hugetlb_unshare_comments,
    hugetlb_unshare_gather,
    insert_huge_zero_folio,
    insert_pmd,
    insert_pud,
    lazyfree_write_bit,
    move_huge_zero_special,
    mprotect_pte_needs_flush,
    mremap_write_bit,
    normal_page_special_by_level,
    pgtable_level,
    pr350_hugetlb_record,
    print_bad_page_map,
    prot_numa_huge,
    prot_numa_pinned,
    ptdump_level_rename,
    repeat_tlbi,
    rmap_unshare_comments,
    spurious_fault_pmd,
    unshare_walk_cache,
    userfaultfd_move_anon_vma,
    userfaultfd_move_batching,
    userfaultfd_move_err,
    vm_normal_page,
    vm_normal_page_pud,
    write_fault_local_flush,
)
from tlbkit.patches.patch import Patch, Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.patches.patch import AsPushed

PATCHES: tuple[Patch, ...] = (
    # v6.18, merge window
    folio_add_rmap_statistics.PATCH,
    insert_pmd.PATCH,
    insert_pud.PATCH,
    insert_huge_zero_folio.PATCH,
    dax_hole_huge_zero.PATCH,
    huge_zero_special.PATCH,
    ptdump_level_rename.PATCH,
    pgtable_level.PATCH,
    print_bad_page_map.PATCH,
    vm_normal_page.PATCH,
    vm_normal_page_pud.PATCH,
    find_normal_page.PATCH,
    userfaultfd_move_batching.PATCH,
    fault_whole_file_folio.PATCH,
    # v6.18-rc6 and -rc7
    mremap_write_bit.PATCH,
    huge_zero_tags.PATCH,
    huge_zero_zeroing.PATCH,
    # v6.19, merge window
    userfaultfd_move_anon_vma.PATCH,
    prot_numa_pinned.PATCH,
    prot_numa_huge.PATCH,
    mprotect_pte_needs_flush.PATCH,
    spurious_fault_pmd.PATCH,
    write_fault_local_flush.PATCH,
    # v6.19-rc7
    hugetlb_pmd_shared.PATCH,
    hugetlb_unshare_comments.PATCH,
    rmap_unshare_comments.PATCH,
    hugetlb_unshare_gather.PATCH,
    # v7.0 and later
    lazyfree_write_bit.PATCH,
    repeat_tlbi.PATCH,
    move_huge_zero_special.PATCH,
    huge_zero_tags_init_on_free.PATCH,
    normal_page_special_by_level.PATCH,
    unshare_walk_cache.PATCH,
    userfaultfd_move_err.PATCH,
)
"""Every commit, in the order in which mainline got them, oldest first."""


@dataclass(frozen=True, slots=True)
class KernelVersion:
    """A kernel that has a name: which commits are in it, and in which form.

    Attributes:
        name: As in ``--kernel``.
        summary: What it is, one line.
        patches: Hashes of the commits that it holds.
        as_pushed: Those that it holds in a form of its own.
    """

    name: str
    summary: str
    patches: frozenset[str]
    as_pushed: tuple[AsPushed, ...] = ()

    @property
    def missing(self) -> frozenset[str]:
        """Hashes of the commits of the registry that it does not hold."""
        return frozenset(patch.hash for patch in PATCHES) - self.patches


def _released(patch: Patch) -> tuple[int, int]:
    """Order releases as numbers: v6.9 comes before v6.19."""
    major, minor = patch.release.removeprefix("v").split(".")
    return int(major), int(minor)


def _released_by(release: tuple[int, int]) -> frozenset[str]:
    """Return the hashes of all commits that a mainline release holds."""
    return frozenset(p.hash for p in PATCHES if _released(p) <= release)


_KERNELS = (
    KernelVersion(
        "v6.17",
        "before all of them",
        frozenset(),
    ),
    KernelVersion(
        "pr350",
        "v6.17 with the eighteen commits as pull request 350 pushed them",
        frozenset(p.hash for p in PATCHES if p.role is Role.PULL_REQUEST),
        (pr350_hugetlb_record.VARIANT,),
    ),
    KernelVersion(
        "v6.18",
        "mainline v6.18: the normal-page series and MOVE; the rest came with v6.19",
        _released_by((6, 18)),
    ),
    KernelVersion(
        "v6.19",
        "mainline v6.19: the eighteen, the two about write faults, no fix of v7.0 on",
        _released_by((6, 19)),
    ),
    KernelVersion(
        "v7.0",
        "mainline v7.0: v6.19 with the first later fixes, and what else changed",
        _released_by((7, 0)),
    ),
    KernelVersion(
        "fixed",
        "v6.19 with every later fix to these commits",
        _released_by((6, 19))
        | frozenset(p.hash for p in PATCHES if p.role is Role.LATER_FIX),
    ),
)

KERNELS: Mapping[str, KernelVersion] = MappingProxyType({k.name: k for k in _KERNELS})
"""The kernels that have a name, oldest first."""

DEFAULT_KERNEL = "v6.19"


def find(text: str) -> Patch:
    """Find the commit whose hash *text* is, or begins as nobody else's does.

    Raises:
        InputError: If no commit begins so, or more than one.
    """
    prefix = text.strip().lower()
    hits = [p for p in PATCHES if p.commit.startswith(prefix)]
    if len(hits) == 1:
        return hits[0]
    names = ", ".join(p.hash for p in hits or PATCHES)
    if hits:
        raise InputError(f"commit {text!r} is ambiguous; give more digits of: {names}")
    raise InputError(
        f"no commit {text!r} here; allowed is a hash, or its first digits, of: {names}"
    )


def kernel(name: str) -> KernelVersion:
    """Find a kernel by its name.

    Raises:
        InputError: If no kernel has that name.
    """
    if name in KERNELS:
        return KERNELS[name]
    raise InputError(
        f"no kernel {name!r}; allowed are: {', '.join(KERNELS)}{_near(name)}"
    )


_RELEASE = re.compile(r"v?([0-9]{1,3})\.([0-9]{1,3})([.-].*)?", re.ASCII)


def _near(name: str) -> str:
    """Say which of the kernels comes closest to a name that is none."""
    read = _RELEASE.fullmatch(name.strip().lower())
    if read is None:
        return ""
    asked = int(read[1]), int(read[2])
    releases = {
        (int(major), int(minor)): version
        for version in KERNELS
        if version.startswith("v")
        for major, minor in [version.removeprefix("v").split(".")]
    }
    older = [release for release in releases if release <= asked]
    if not older:
        oldest = releases[min(releases)]
        return f"; {oldest} has none of these commits, like every older kernel"
    near = releases[max(older)]
    if asked in releases:
        more = ", and what yours adds or lacks can be said by commit" if read[3] else ""
        return f"; closest is {near}{more}"
    return (
        f"; the newest release here is {near}, and fixed is v6.19 with every later fix"
    )


def as_json() -> list[dict[str, Any]]:
    """Give the whole registry as plain lists, dictionaries, strings and numbers."""
    return [
        {
            "hash": patch.hash,
            "commit": patch.commit,
            "subject": patch.subject,
            "series": patch.series.title,
            "kind": patch.kind.value,
            "state": patch.state,
            "chapter": patch.chapter,
            "role": patch.role.value,
            "repairs": patch.repairs,
            "author": patch.author,
            "release": patch.release,
            "kernels": [k.name for k in _KERNELS if patch.hash in k.patches],
            "touches": {file: list(names) for file, names in patch.touches.items()},
            "needs": dict(patch.needs),
            "figures": [
                {
                    "name": figure.name,
                    "value": figure.value,
                    "unit": figure.unit,
                    "qualifier": figure.qualifier,
                    "kind": figure.kind,
                    "what": figure.what,
                    "source": figure.source,
                }
                for figure in patch.figures
            ],
            "sources": list(patch.sources),
            "note": patch.note,
        }
        for patch in PATCHES
    ]
