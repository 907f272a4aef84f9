"""c0c6ccd9828c: whether a special bit exists is asked for each level by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.mm.memory import Memory
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.pgtable import PgtableLevel


class MemoryBefore(Memory):
    """An architecture with the bit in page entries was taken to have it everywhere.

    Source: mm/memory.c, v6.18.
    """

    __slots__ = ()

    def pgtable_level_has_pxx_special(self, level: PgtableLevel) -> bool:
        """Tell whether page entries have a special bit, whatever the level."""
        del level
        return self._kernel.config.arch_has_pte_special


PATCH = Patch(
    commit="c0c6ccd9828c3a1950623b546fa57292a77b5c73",
    subject="mm: __vm_normal_page() asks whether this level has a special bit",
    series=series.LATER,
    kind=Kind.FIX,
    role=Role.LATER_FIX,
    author="David Hildenbrand",
    release="v7.1",
    touches={"mm/memory.c": ("pgtable_level_has_pxx_special", "__vm_normal_page")},
    chapter="book/commits/normal-page.md",
    sources=(
        "mainline c0c6ccd9828c, merged 2026-05-18; in v6.18.34 and v7.0.11",
        "Message-ID 20260430-pmd_special-v1-1-dbcbcfd72c20@kernel.org",
        "OSV record of CVE-2026-64181",
    ),
    needs={
        "af38538801c6": "it changes __vm_normal_page(), which that one makes",
        "2db308160b5a": "one of its three levels is the PUD that was added there",
        "4c89792ea0a2": "both change the same branch of __vm_normal_page()",
    },
    repairs="af38538801c6",
    reverts={"memory": MemoryBefore},
    note=(
        "Reported on 32-bit x86 and by a LoongArch developer. arm64 has the bit for "
        "PTEs and PMDs, so for a huge zero PMD it saw no difference."
    ),
)
