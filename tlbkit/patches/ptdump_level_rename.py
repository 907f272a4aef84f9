"""30680d5ef0dc: powerpc's page-table dump gives up the name ``pgtable_level``."""

from __future__ import annotations

from tlbkit.linux.arch.powerpc.mm.ptdump.ptdump import (
    FlagInfo,
    PowerpcPtdump,
    PtdumpPgLevel,
)
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role


class PowerpcPtdumpBefore(PowerpcPtdump):
    """The structure had the name that the levels of tables were to get.

    Source: arch/powerpc/mm/ptdump/ptdump.h, v6.17.
    """

    __slots__ = ()

    @staticmethod
    def tags() -> dict[str, type]:
        """Return the names that the header gives to its structures."""
        return {"flag_info": FlagInfo, "pgtable_level": PtdumpPgLevel}


PATCH = Patch(
    commit="30680d5ef0dc7a1032edc1519e85cbb504280d73",
    subject="powerpc: the dump's struct pgtable_level becomes struct ptdump_pg_level",
    series=series.NORMAL_PAGE,
    kind=Kind.RENAME,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "arch/powerpc/mm/ptdump/8xx.c": ("pg_level",),
        "arch/powerpc/mm/ptdump/book3s64.c": ("pg_level",),
        "arch/powerpc/mm/ptdump/ptdump.h": ("struct ptdump_pg_level", "pg_level"),
        "arch/powerpc/mm/ptdump/shared.c": ("pg_level",),
    },
    chapter="book/commits/rmap.md",
    sources=(
        "mainline 30680d5ef0dc",
        "Message-ID 20250811112631.759341-7-david@redhat.com (v3 6/11)",
    ),
    reverts={"powerpc_ptdump": PowerpcPtdumpBefore},
    note="Its posting says ptdump_pglevel in the title; arm64's spelling was merged.",
)
