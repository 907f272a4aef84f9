"""Flush sequences that stood in kernels, each with the report that it stands for.

The code is ours: it does, in as few lines as show it, what the report says.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Example(NamedTuple):
    """A sequence, and where its like was found.

    Attributes:
        title: What is wrong with it.
        source: The public report.
        text: As `tlbkit.lab.sequence.form` reads it.
    """

    title: str
    source: str
    text: str


EXAMPLES: Final = {
    "local": Example(
        "an invalidation for this CPU alone, where others run too",
        "zephyrproject-rtos/zephyr issue 98344, mended by pull request 97887",
        """page x = a rw
CPU 0:
    ldr  x0, =pte(x)
    str  xzr, [x0]
    dsb  ishst
    tlbi vmalle1
    dsb  nsh
    isb
    .free a
""",
    ),
    "no-barrier": Example(
        "no DSB between the store and the TLBI",
        "rcore-os/tgoskits pull request 2008, its first point",
        """page x = a rw
CPU 0:
    ldr  x0, =pte(x)
    str  xzr, [x0]
    ldr  x1, =va(x)
    tlbi vaae1is, x1
    dsb  sy
    isb
    .free a
""",
    ),
    "shift": Example(
        "the address is shifted by the page size, where the operand wants 12 bits",
        "zephyrproject-rtos/zephyr issue 115708, mended by pull request 115712",
        """cpu apple-16k
page x = a rw
CPU 0:
    ldr  x0, =pte(x)
    str  xzr, [x0]
    dsb  ishst
    ldr  x1, =x
    lsr  x1, x1, #14
    tlbi vaae1is, x1
    dsb  ish
    .free a
""",
    ),
    "one-by-one": Example(
        "a broadcast for each page, where one instruction takes a range",
        "what Linux did until it learnt the range form: arm64 mailing list, 2020, "
        "tlb: Use the TLBI RANGE feature in arm64",
        """page x = a rw x 4
CPU 0:
    ldr  x0, =pte(x)
    str  xzr, [x0]
    str  xzr, [x0, #8]
    str  xzr, [x0, #16]
    str  xzr, [x0, #24]
    dsb  ishst
    ldr  x1, =va(x)
    tlbi vaae1is, x1
    add  x1, x1, #1
    tlbi vaae1is, x1
    add  x1, x1, #1
    tlbi vaae1is, x1
    add  x1, x1, #1
    tlbi vaae1is, x1
    dsb  ish
    .free a
""",
    ),
}
"""By name."""
