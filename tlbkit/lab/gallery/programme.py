"""Everybody who meets: of pages, files, huge pages, walks, swap, and want of memory."""

from __future__ import annotations

from typing import Final

from tlbkit.lab.gallery.file_meetings import FILE_MEETINGS
from tlbkit.lab.gallery.gup_meetings import GUP_MEETINGS
from tlbkit.lab.gallery.huge_meetings import HUGE_MEETINGS
from tlbkit.lab.gallery.hugetlb_meetings import HUGETLB_MEETINGS
from tlbkit.lab.gallery.meetings import MEETINGS
from tlbkit.lab.gallery.pressure_meetings import PRESSURE_MEETINGS
from tlbkit.lab.gallery.swap_meetings import SWAP_MEETINGS

PROGRAMME: Final = (
    MEETINGS
    | FILE_MEETINGS
    | HUGETLB_MEETINGS
    | GUP_MEETINGS
    | HUGE_MEETINGS
    | SWAP_MEETINGS
    | PRESSURE_MEETINGS
)
"""Every meeting of the gallery, by its name."""
