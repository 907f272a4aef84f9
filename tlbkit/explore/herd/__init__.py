"""herd7's litmus tests of translation, read as they are and judged.

`load_herd` reads a file of herd7 (herdtools7) for `AArch64` with the variant `vmsa`,
`judge_herd` gives its verdict, and `judge_text` does both for a file of any form. The
model that runs the tests is `tlbkit.arm64.ordering`; nothing of herd7 is needed, and
none of its tests is in the package. From the command line::

    python -m tlbkit litmus herdtools7/catalogue/aarch64-VMSA/tests --kinds kinds.txt

What is read:

===================== ==============================================================
header                `TTHM=HA`, `HD`, `P0:HA`, ...; `Variant=` `vmsa`, `kvm`, `ets2`,
                      `fatal` (`precise`), `handled` (`imprecise`)
initial state         `x=1`, `int *p=&x`, types; `pte_x` and `PTE(x)` (`TTD(x)`) with
                      `oa:PA(y)` (`phy_y`), `valid`, `af`, `db`, `dbm`; registers with
                      numbers, addresses and entries
loads and stores      `LDR`, `LDAR`, `LDAPR`, `LDXR`, `LDAXR`, `STR`, `STLR`, `STXR`,
                      `STLXR`, with `[X1]` or `[X1,W2,SXTW]`
atomics               `SWP`, `CAS`, `LDADD`, `LDSET`, `LDCLR`, `LDEOR`, `STADD`, ...,
                      with `A`, `L`, `AL`; on data and on entries
barriers              `DMB`, `DSB` of every domain, for all, loads or stores; `ISB`
TLBI                  `VMALLE1`, `VAE1`, `VALE1`, `VAAE1`, `VAALE1`, with `IS` or `OS`
branches              `B`, `B.EQ`, ..., `CBZ`, `CBNZ`, `TBZ`, `TBNZ`; loops are gone
                      through up to three times, as herd7 does
arithmetic            `MOV`, `ADD`, `SUB`, `SUBS`, `AND`, `ANDS`, `ORR`, `EOR`, `BIC`,
                      `BICS`, `LSL`, `LSR`, `CMP`, `TST`, `CSEL`, `CSET`, `CSINC`, ...
fault handlers        a column `P0.F`; `ADR`, `MSR ELR_EL1`, `MRS`, `ERET`
question              `exists`, `~exists`, `forall`, none (every execution is possible);
                      `locations`, `filter`; registers, `[x]`, `pte_x`,
                      `fault(P0:L0, x, MMU:Translation)`, labels; and, or, not
===================== ==============================================================

The verdict is `Allowed` or `Forbidden` for `exists`, and `Required` for a `forall` that
every execution meets. What is not had here is refused by name (`MissingError`), and
never guessed: user mode (`el0:0`), words inside a page, other system registers, memory
attributes, instruction fetch, tags.

A thread whose way depends on what it reads is run once for each way; each way is a
straight program of the model that says what must have been read on it.
"""

from tlbkit.explore.herd.batch import Judged, Trouble, files, judge_text, read
from tlbkit.explore.herd.judge import HerdVerdict, judge_herd
from tlbkit.explore.herd.kinds import load_kinds
from tlbkit.explore.herd.test import HerdTest, is_herd, load_herd
from tlbkit.explore.herd.values import MissingError

__all__ = [
    "HerdTest",
    "HerdVerdict",
    "Judged",
    "MissingError",
    "Trouble",
    "files",
    "is_herd",
    "judge_herd",
    "judge_text",
    "load_herd",
    "load_kinds",
    "read",
]
