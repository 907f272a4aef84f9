"""What a PMD entry that is no table may be: include/linux/huge_mm.h and leafops.h.

A transparent huge page is mapped by a present PMD entry. While it migrates as a whole,
a migration entry stands in its place, which the hardware takes for an empty one.
"""

from __future__ import annotations

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_none,
    pte_present,
)
from tlbkit.linux.include.linux.swapops import is_migration_entry, pte_to_swp_entry


def pmd_is_migration_entry(pmd: int) -> bool:
    """Tell whether the huge page of a PMD entry migrates as a whole.

    Source: include/linux/leafops.h, pmd_is_migration_entry()
    """
    return (
        not pte_none(pmd)
        and not pte_present(pmd)
        and is_migration_entry(pte_to_swp_entry(pmd))
    )


def pmd_is_valid_softleaf(pmd: int) -> bool:
    """Tell whether software finds a huge page where the hardware finds nothing.

    Source: include/linux/leafops.h, pmd_is_valid_softleaf()
    Deviates: There is no memory of devices, so every such entry is a migration entry.
    """
    return pmd_is_migration_entry(pmd)


def pmd_is_huge(pmd: int) -> bool:
    """Tell whether a PMD entry maps a huge page, or stands for one that migrates.

    Source: include/linux/huge_mm.h, pmd_is_huge()
    """
    if pte_present(pmd):
        return pmd_trans_huge(pmd)
    return not pte_none(pmd)
