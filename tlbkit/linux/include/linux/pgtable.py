"""Levels of page tables: include/linux/pgtable.h, enum pgtable_level."""

from __future__ import annotations

from typing import Final, Literal

PgtableLevel = Literal["pte", "pmd", "pud", "p4d", "pgd"]

PGTABLE_LEVEL_PTE: Final = "pte"
PGTABLE_LEVEL_PMD: Final = "pmd"
PGTABLE_LEVEL_PUD: Final = "pud"
PGTABLE_LEVEL_P4D: Final = "p4d"
PGTABLE_LEVEL_PGD: Final = "pgd"
