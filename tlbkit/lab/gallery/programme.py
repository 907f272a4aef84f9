"""Everybody who meets: of private pages, and of the pages of files."""

from __future__ import annotations

from typing import Final

from tlbkit.lab.gallery.file_meetings import FILE_MEETINGS
from tlbkit.lab.gallery.meetings import MEETINGS

PROGRAMME: Final = MEETINGS | FILE_MEETINGS
"""Every meeting of the gallery, by its name."""
