"""b22cc9a9c7ff: rmap's levels become everybody's, and a wrong one fails the build."""

from __future__ import annotations

from enum import IntEnum

from tlbkit.linux.mm.rmap import Rmap
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role


class RmapLevel(IntEnum):
    """The levels as rmap alone knew them: enum rmap_level of include/linux/rmap.h."""

    PTE = 0
    PMD = 1
    PUD = 2


class RmapBefore(Rmap):
    """A level that none of the switches knew was warned of once, and nothing done.

    Source: include/linux/rmap.h and mm/rmap.c, v6.17.
    """

    __slots__ = ()

    def _unsupported_level(self, level: object) -> None:
        """Warn, in a kernel that is built to; go on with what the caller wanted."""
        if self._kernel.config.debug_vm:
            self._kernel.panic.warn_on_once(
                "__folio_rmap_sanity_checks", f"there is no level {level}"
            )


PATCH = Patch(
    commit="b22cc9a9c7ff0ad8998d58fdd7122de6038c46a7",
    subject="rmap: enum rmap_level becomes enum pgtable_level; others fail to build",
    series=series.NORMAL_PAGE,
    kind=Kind.RENAME,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "include/linux/pgtable.h": ("enum pgtable_level",),
        "include/linux/rmap.h": (
            "__folio_rmap_sanity_checks",
            "__folio_dup_file_rmap",
            "folio_dup_file_rmap_ptes",
            "folio_dup_file_rmap_pte",
            "folio_dup_file_rmap_pmd",
            "__folio_try_dup_anon_rmap",
            "folio_try_dup_anon_rmap_ptes",
            "folio_try_dup_anon_rmap_pte",
            "folio_try_dup_anon_rmap_pmd",
            "__folio_try_share_anon_rmap",
            "folio_try_share_anon_rmap_pte",
            "folio_try_share_anon_rmap_pmd",
        ),
        "mm/rmap.c": (
            "__folio_add_rmap",
            "__folio_add_anon_rmap",
            "folio_add_anon_rmap_ptes",
            "folio_add_anon_rmap_pmd",
            "__folio_add_file_rmap",
            "folio_add_file_rmap_ptes",
            "folio_add_file_rmap_pmd",
            "folio_add_file_rmap_pud",
            "__folio_remove_rmap",
            "folio_remove_rmap_ptes",
            "folio_remove_rmap_pmd",
            "folio_remove_rmap_pud",
        ),
    },
    chapter="book/commits/rmap.md",
    sources=(
        "mainline b22cc9a9c7ff",
        "Message-ID 20250811112631.759341-8-david@redhat.com (v3 7/11)",
    ),
    needs={
        "878d9e8cebbb": "it changes the rmap helpers in the form given to them there",
        "30680d5ef0dc": "two things named pgtable_level do not build on powerpc",
    },
    reverts={"rmap": RmapBefore},
    note=(
        "The PMD form of file-rmap duplication passes the PTE level, before and after; "
        "fork copies no file PMD, so nothing follows. The sanity helper became "
        "always-inline when merged, because some clang builds kept it out of line and "
        "then met the build-time check."
    ),
)
