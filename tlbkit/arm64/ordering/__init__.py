"""What order Arm gives to page-table stores, translations and their invalidation.

A small machine: one to four CPUs, a few words of data and a few table words, and
CPUs that translate and execute out of order as far as the architecture lets them.
`OrderingModel` enumerates its executions: `enabled(state)` yields what may happen
next, `step(state, transition)` gives the state after it, and states are values.

Each instruction of a thread is one or a few *events* (`events.py`). An execution is
the events of all threads, one at a time, in any order that these rules leave open:

1.  **Memory.** There is one memory. A write reaches it at one moment, and every CPU
    and every table walk sees it from then on.
2.  **Access.** An access to data first *walks*: it takes a table word. Then it reads or
    writes the frame found there, or takes a fault. A walk takes the word in memory, or
    one that a TLB of its CPU holds. A TLB may fetch a word at any moment, unasked,
    and hold it for any time, if the word would not fault for translation or access
    flag; it may drop it at any moment. So the state keeps all that the TLBs of a CPU
    *may* hold, and a walk takes any of it. A walk does not see a store of its own
    CPU that has not reached memory.
3.  **Speculation.** Walks and reads may run ahead of what comes before them. Nothing
    is written on the strength of an access that may still fault: a write, and a
    hardware update, wait for the walks of all accesses before them. A fault ends its
    thread, and what ran ahead of it did not happen.
4.  **One word, one order.** A write waits for the earlier accesses of its thread to
    the same word. A read gets the nearest earlier write of its thread that is still
    on its way, else what is in memory. Of two reads of one word the first does not
    see the newer value, unless the newer is an update by the CPU's own walker.
    Nobody writes between the two halves of an atomic.
5.  **Hardware update.** With hardware access flags a walk that finds the flag clear
    sets it; with hardware dirty state a store that finds a clean entry (read-only,
    DBM set) makes it writable. The update is atomic and finds the word that the walk
    found. It has no order with the access that caused it. The access flag may be set
    unasked at any moment, the dirty state never.
6.  **DMB** orders the reads and writes before it with the reads, writes and faults
    after it; `ld` only the reads before it, `st` only writes, with writes and faults.
    It orders no walk, no hardware update and no TLBI. A load-acquire comes before the
    reads, writes and faults after it; a store-release comes after the reads and writes
    before it, and before later load-acquires.
7.  **DSB** orders the reads and writes before it with everything after it except
    walks and hardware updates; `ld` only the reads before it, `st` only the writes.
    Without `ld` and `st` it also waits for earlier walks, updates and TLBI.
8.  **ISB** waits for the DSBs, the branches and the walks before it, and everything
    after it, walks too, waits for it. It does not wait for reads and writes.
9.  **Branch.** A branch waits for the read of its register; writes, updates, TLBI and
    ISB after it wait for the branch. Reads and walks do not.
10. **FEAT_ETS2.** A walk that gives a translation or access-flag fault waits for all
    reads and writes before it, and a DSB orders walks and updates after it too.
11. **TLBI.** A TLBI waits for the DSBs before it, and is then in flight. It is complete
    once a later DSB (without `ld` or `st`) of its thread is done, and that DSB waits,
    on each CPU concerned, until no TLB holds a word that was stale when the TLBI was
    sent; and on the *other* CPUs also until every access translated by such a word has
    read, written or faulted, and the accesses before one that read or wrote are
    translated. Words fetched since it was sent may stay. A local TLBI concerns its own
    CPU. A DSB of the non-shareable domain waits for the own CPU only.
12. **Dependencies.** What has an address made of a read waits for the read, and so does
    a write whose value is; what is written after such an access, and an ISB after it,
    wait too. Where a read only *picks* the address or the value (CSEL, CAS), reads and
    walks do not wait, but writes, updates and TLBI do, and so does what is written
    after anything picked. A read that gets an own store has what that depends on.

Sources: Arm ARM (DDI 0487) B2.3, where the rules are relations: 1 *observed-by*; 2
*translation-intrinsically-before* and *TTD-observed-by*; 3, 9
*dependency-ordered-before*; 4 the *internal visibility* and *atomic* requirements and
*explicitly-hazard-ordered-before*; 6 *barrier-ordered-before*; 7 *DSB-ordered-before*;
8 *IFB-ordered-before*; 10 *ETS-ordered-before*; 11 *TLBI-ordered-before*; 12
*dependency-* and *pick-ordered-before*; D8 for what a TLB may hold and for hardware
updates. The same relations stand in Arm's machine-readable model (herdtools7,
`aarch64.cat`, variants `vmsa` and `ets2`), on which this model was tried: it has the
same outcomes on thousands of random programs, and the same verdicts on herdtools7's own
tests of translation. The background is Simner et al., "Relaxed virtual memory in
Armv8-A" (ESOP 2022).

It differs from that model in two places, on purpose. There a DSB completes a TLBI on
all CPUs whatever its domain; here `DSB nsh` does so on its own CPU only (Arm ARM, DSB).
There an entry whose access flag is clear may be held if hardware sets access flags and
the access has a permission fault; here it never is (Arm ARM D8, the access flag).

Domains of DMB, and of DSB apart from rule 11, change nothing: all observers here are
CPUs of one inner shareable domain.

A program is straight: where its way depends on what it reads, it is several programs,
and a `Choice` in each says what must have been read on it. `tlbkit.explore.herd` makes
them of assembly. A fault ends its thread, unless the program says that it goes on after
it; an exception entry and a return are then an `Isb`.

Left out: ASIDs and VMIDs, levels, blocks and walk caches (one table word translates one
page); the walks of accesses to the tables themselves; user mode; instruction fetch;
accesses of several sizes and the place of a word in its page; memory types; FEAT_ETS3.
Where software breaks break-before-make the architecture also permits faults and
mixtures of entries; here every access uses one whole entry.
"""

from tlbkit.arm64.ordering.entries import (
    INVALID,
    Entry,
    Hardware,
    entry_from_words,
)
from tlbkit.arm64.ordering.events import Event, Kind
from tlbkit.arm64.ordering.model import OrderingModel
from tlbkit.arm64.ordering.program import (
    Access,
    Accesses,
    Atomic,
    Branch,
    Choice,
    CompareAndSwap,
    Computed,
    Data,
    Depends,
    Dmb,
    Domain,
    Dsb,
    Instruction,
    Isb,
    Load,
    Program,
    Store,
    Swap,
    Table,
    Tlbi,
    Value,
    named_page,
)
from tlbkit.arm64.ordering.reduction import Reduction
from tlbkit.arm64.ordering.state import (
    Cell,
    Do,
    Outcome,
    SetAccessFlag,
    State,
    Transition,
    Walk,
)

__all__ = [
    "INVALID",
    "Access",
    "Accesses",
    "Atomic",
    "Branch",
    "Cell",
    "Choice",
    "CompareAndSwap",
    "Computed",
    "Data",
    "Depends",
    "Dmb",
    "Do",
    "Domain",
    "Dsb",
    "Entry",
    "Event",
    "Hardware",
    "Instruction",
    "Isb",
    "Kind",
    "Load",
    "OrderingModel",
    "Outcome",
    "Program",
    "Reduction",
    "SetAccessFlag",
    "State",
    "Store",
    "Swap",
    "Table",
    "Tlbi",
    "Transition",
    "Value",
    "Walk",
    "entry_from_words",
    "named_page",
]
