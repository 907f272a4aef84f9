"""What fallocate() can do to a range of a file: include/uapi/linux/falloc.h."""

from __future__ import annotations

from typing import Final

FALLOC_FL_KEEP_SIZE: Final = 0x01
"""Leave the size of the file alone."""
FALLOC_FL_PUNCH_HOLE: Final = 0x02
"""Free the pages of the range; they read as zeros."""
