"""Everybody who meets: of private pages, the pages of files, huge pages, and walks."""

from __future__ import annotations

from typing import Final

from tlbkit.lab.gallery.file_meetings import FILE_MEETINGS
from tlbkit.lab.gallery.gup_meetings import GUP_MEETINGS
from tlbkit.lab.gallery.hugetlb_meetings import HUGETLB_MEETINGS
from tlbkit.lab.gallery.meetings import MEETINGS

PROGRAMME: Final = MEETINGS | FILE_MEETINGS | HUGETLB_MEETINGS | GUP_MEETINGS
"""Every meeting of the gallery, by its name."""
