"""Page tables of real machines, as the tools that people have write them.

Two kinds of text: the kernel's page-table dump of debugfs
(:mod:`~tlbkit.lab.dump.ptdump`), and what `crash` prints for ``vtop``
(:mod:`~tlbkit.lab.dump.vtop`). Table words and whole files of memory are images:
`tlbkit.arm64.image`.
"""

from tlbkit.lab.dump.ptdump import Ptdump
from tlbkit.lab.dump.read import read_dump
from tlbkit.lab.dump.vtop import Vtop

__all__ = ["Ptdump", "Vtop", "read_dump"]
