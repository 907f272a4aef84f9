"""What a kernel was built with, as far as it decides something here: Kconfig.

Source: none; these are settings of the build.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from tlbkit.errors import InputError
from tlbkit.linux.include.linux.pgtable import (
    PGTABLE_LEVEL_PMD,
    PGTABLE_LEVEL_PTE,
    PGTABLE_LEVEL_PUD,
    PgtableLevel,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The options of one kernel; the defaults are arm64's with blocks.

    Attributes:
        arch_has_pte_special: A PTE has a bit that says "no normal page".
        arch_supports_pmd_pfnmap: A PMD leaf has one.
        arch_supports_pud_pfnmap: A PUD leaf has one.
        find_normal_page: A driver may find the page behind a special entry; only
            Xen's grant device, which arm64 has not, selects it.
        page_mapcount: Pages of a large folio have counts of their own; without them
            (CONFIG_NO_PAGE_MAPCOUNT) the folio is counted as a whole.
        arch_has_tag_helper: The architecture has a way to clear pages with their tags;
            arm64 has, whether its CPUs have tags or not.
        persistent_huge_zero_folio: The huge zero folio is made at boot and stays.
        debug_vm: Conditions that can never be true are looked at: CONFIG_DEBUG_VM.
    """

    arch_has_pte_special: bool = True
    arch_supports_pmd_pfnmap: bool = True
    arch_supports_pud_pfnmap: bool = False
    find_normal_page: bool = False
    page_mapcount: bool = True
    arch_has_tag_helper: bool = True
    persistent_huge_zero_folio: bool = False
    debug_vm: bool = False

    @property
    def profile(self) -> str:
        """Which levels have a special bit, as a digit for PTE, PMD and PUD each."""
        return "".join(
            str(int(has))
            for has in (
                self.arch_has_pte_special,
                self.arch_supports_pmd_pfnmap,
                self.arch_supports_pud_pfnmap,
            )
        )

    def has_special(self, level: PgtableLevel) -> bool:
        """Tell whether a leaf of *level* can be marked special."""
        if level is PGTABLE_LEVEL_PTE:
            return self.arch_has_pte_special
        if level is PGTABLE_LEVEL_PMD:
            return self.arch_supports_pmd_pfnmap
        return level is PGTABLE_LEVEL_PUD and self.arch_supports_pud_pfnmap


ARM64: Final = Config()

PROFILES: Final = {
    "000": "an architecture without the bit, such as 32-bit Arm without LPAE",
    "100": "32-bit x86: the bit for page entries alone",
    "110": "arm64: the bit for page entries and PMD blocks",
    "111": "64-bit x86: the bit for PUD blocks as well",
}
"""Which levels have a special bit, PTE, PMD, PUD, and where it is so."""


def with_profile(profile: str, config: Config = ARM64) -> Config:
    """Return *config* with the special bits of *profile*, one of `PROFILES`."""
    if profile not in PROFILES:
        raise InputError(f"profile {profile!r}: known are {', '.join(PROFILES)}")
    pte, pmd, pud = (digit == "1" for digit in profile)
    return replace(
        config,
        arch_has_pte_special=pte,
        arch_supports_pmd_pfnmap=pmd,
        arch_supports_pud_pfnmap=pud,
    )
