"""Which kind of dump a text is."""

from __future__ import annotations

import re
from typing import Final

from tlbkit.errors import InputError
from tlbkit.lab.dump.ptdump import Ptdump
from tlbkit.lab.dump.vtop import Vtop

_VTOP: Final = re.compile(r"^\s*VIRTUAL\s+PHYSICAL\s*$", re.MULTILINE | re.IGNORECASE)
_PTDUMP: Final = re.compile(
    r"^\s*(?:---\[ .* \]---|0x[0-9a-f]{16}-0x[0-9a-f]{16}\s)", re.MULTILINE
)


def read_dump(text: str, name: str) -> Ptdump | Vtop:
    """Read a dump of page tables, of whichever kind it is.

    Args:
        text: What the tool wrote.
        name: Of the file, for messages.

    Raises:
        InputError: It is of neither kind, or damaged; one line that says where.
    """
    if _VTOP.search(text):
        return Vtop.parse(text, name)
    if _PTDUMP.search(text):
        return Ptdump.parse(text, name)
    raise InputError(
        f"{name}: this is no page-table dump of debugfs (kernel_page_tables), not what "
        "crash prints for vtop, and no table image in JSON"
    )
