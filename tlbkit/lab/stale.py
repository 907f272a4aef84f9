"""Two CPUs, two truths: a descriptor changes, and what each CPU still believes."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64 import tlbi
from tlbkit.arm64.fault import Fault
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.permission import EL0_READ, EL0_WRITE
from tlbkit.arm64.walk import Translation, hardware_update, translate
from tlbkit.lab.answer import Answer
from tlbkit.lab.bare import leaf, start
from tlbkit.lab.exploration import Exploration, menu
from tlbkit.lab.walk import ADDRESS, FRAME
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import PTE_DIRTY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.arm64.cpu import Cpu
    from tlbkit.lab.parameter import Value

PAGE = 1 << 12
ASID = 0x25
MODEL = "neoverse-v2"
VA = ADDRESS & ~(PAGE - 1)
OTHER_FRAME = FRAME + PAGE
STRANGERS_FRAME = FRAME + 2 * PAGE


class Verdict(StrEnum):
    """What a CPU's belief comes to."""

    AGREES = "agrees with the tables"
    SPURIOUS = "harmless: faults once for nothing"
    IDLE = "harmless: the page looks idle"
    HOLE = "a hole"


class Change(NamedTuple):
    """Something that software does to the tables while others run.

    Attributes:
        before: The page's descriptor before.
        after: The page's descriptor after.
        unlink: The page's table is taken out of the tree, and the descriptor *after*
            is what a new owner of the table's frame happens to write there.
    """

    before: int
    after: int
    unlink: bool = False

    def scoped(self, not_global: int) -> Change:
        """The same for pages of one ASID, or for global ones if *not_global* is 0."""
        before, after = (
            word & ~d.NG | not_global if word & d.VALID else word
            for word in (self.before, self.after)
        )
        return self._replace(before=before, after=after)


_PAGE = leaf(FRAME)
_READ_ONLY = _PAGE | d.AP_READ_ONLY

CHANGES = {
    "the page is unmapped": Change(_PAGE, 0),
    "another frame takes its place": Change(_PAGE, leaf(OTHER_FRAME)),
    "writing is forbidden": Change(_PAGE, _READ_ONLY),
    "writing is allowed": Change(_READ_ONLY, _PAGE),
    "a page appears": Change(0, _PAGE),
    "the access flag is cleared": Change(_PAGE, _PAGE & ~d.AF),
    "a software bit is set": Change(_PAGE, _PAGE | PTE_DIRTY),
    "its table is unlinked and reused": Change(
        _PAGE, leaf(STRANGERS_FRAME), unlink=True
    ),
}


class Issue(NamedTuple):
    """One TLBI of a flush.

    Attributes:
        name: Of the instruction.
        operand: Its operand.
    """

    name: str
    operand: int


_HERE = tlbi.encode_va(VA, ASID)
_SHORT = tlbi.encode_range(VA - 2 * PAGE, ASID, scale=0, num=0)
_FITTING = tlbi.encode_range(VA - PAGE, ASID, scale=0, num=0)

FLUSHES: dict[str, tuple[Issue | None, str]] = {
    "none": (None, ""),
    "TLBI VALE1IS, no DSB after it": (Issue("VALE1IS", _HERE), ""),
    "TLBI VALE1IS; DSB ISH": (Issue("VALE1IS", _HERE), "ish"),
    "TLBI VALE1; DSB NSH (local)": (Issue("VALE1", _HERE), "nsh"),
    "TLBI VAE1IS; DSB ISH": (Issue("VAE1IS", _HERE), "ish"),
    "TLBI VALE1IS for another ASID; DSB ISH": (
        Issue("VALE1IS", tlbi.encode_va(VA, ASID + 1)),
        "ish",
    ),
    "TLBI VALE1IS with TTL 3; DSB ISH": (
        Issue("VALE1IS", tlbi.encode_va(VA, ASID, 3)),
        "ish",
    ),
    "TLBI VALE1IS with TTL 2; DSB ISH": (
        Issue("VALE1IS", tlbi.encode_va(VA, ASID, 2)),
        "ish",
    ),
    "TLBI RVALE1IS of 2 pages; DSB ISH": (Issue("RVALE1IS", _FITTING), "ish"),
    "TLBI RVALE1IS, one page short; DSB ISH": (Issue("RVALE1IS", _SHORT), "ish"),
    "TLBI ASIDE1IS; DSB ISH": (Issue("ASIDE1IS", tlbi.encode_asid(ASID)), "ish"),
    "TLBI VMALLE1IS; DSB ISH": (Issue("VMALLE1IS", 0), "ish"),
}
"""What software can do about it: a TLBI, and the barrier after it."""

SCOPES = {"one ASID (nG = 1)": d.NG, "every ASID (nG = 0)": 0}


def scene(change: Change, flush: tuple[Issue | None, str]) -> Machine:
    """Let two CPUs use the page, change it on CPU 0, and flush there.

    Args:
        change: What is changed.
        flush: The TLBI and the barrier after it.
    """
    machine = Machine(2, MODEL)
    tables = start(machine, ASID, HA=1, HD=1)
    entry = tables.entry(VA)
    machine.memory.write(entry, change.before)
    for cpu in machine.cpus:
        cpu.translate(VA, EL0_READ)
    first = machine.cpu(0)
    first.store(tables.entry(VA, level=2) if change.unlink else entry, 0)
    if not change.unlink:
        first.store(entry, change.after)
    issue, barrier = flush
    first.dsb("ishst")
    if issue is not None:
        first.tlbi(issue.name, issue.operand)
    if barrier:
        first.dsb(barrier)
    if change.unlink:
        # No descriptor to whoever writes it: a number in his own memory.
        machine.memory.write(entry, change.after)
    return machine


def believes(cpu: Cpu) -> str:
    """What the TLB of a CPU says of the page, in words."""
    for entry in cpu.tlb.entries():
        may = "read and write" if entry.leaf.permissions & EL0_WRITE else "read"
        return f"{may} {_frame(entry.pa)}"
    levels = [cached.table.level for cached in cpu.tlb.walk.items()]
    if not levels:
        return "nothing"
    return f"nothing, but where a level {max(levels)} table is"


def _frame(pa: int) -> str:
    """A frame, in words."""
    names = {FRAME: "the frame", OTHER_FRAME: "the other frame"}
    return names.get(pa, "a stranger's frame")


def judge(cpu: Cpu, need: int) -> tuple[str, Verdict]:
    """Make an access on a CPU; tell what comes of it, and how it stands to the tables.

    The access changes the machine, so each needs a scene of its own.
    """
    memory = cpu.machine.memory
    truth = translate(cpu.regime, memory, VA, need)
    found = cpu.translate(VA, need)
    if isinstance(found, Fault):
        allowed = isinstance(truth, Translation)
        return str(found), Verdict.SPURIOUS if allowed else Verdict.AGREES
    said = f"reaches {_frame(found)}"
    if not isinstance(truth, Translation) or truth.pa != found:
        return said, Verdict.HOLE
    if hardware_update(truth, need) != memory.read(truth.descriptor_pa):
        return said, Verdict.IDLE
    return said, Verdict.AGREES


ACCESSES = (("reads", EL0_READ), ("writes", EL0_WRITE))


class Stale(Exploration):
    """A page that two CPUs use, a change, and the flush that follows it.

    Columns: ``cpu``, ``access`` and ``verdict`` of each access.
    """

    name = "stale"
    title = "Two CPUs, two truths"
    parameters = (
        menu("change", "what CPU 0 does", tuple(CHANGES)),
        menu("flush", "and then", tuple(FLUSHES)),
        menu("scope", "the page belongs to", tuple(SCOPES)),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Change, flush, and let both CPUs go on; errors as in `Exploration`."""
        settings = self.settings(params)
        change = CHANGES[str(settings["change"])].scoped(SCOPES[str(settings["scope"])])
        flush = FLUSHES[str(settings["flush"])]
        rows = []
        verdicts = []
        for number in (0, 1):
            for name, need in ACCESSES:
                cpu = scene(change, flush).cpu(number)
                belief = believes(cpu)
                said, verdict = judge(cpu, need)
                rows.append([f"CPU {number} {name}", belief, said, verdict.value])
                verdicts.append(verdict)
        return Answer(
            columns={
                "cpu": [0, 0, 1, 1],
                "access": [name for name, _ in ACCESSES] * 2,
                "verdict": [verdict.value for verdict in verdicts],
            },
            header=["then", "its TLB says", "so it", "which is"],
            rows=rows,
            text=_reading(verdicts),
        )


def _reading(verdicts: list[Verdict]) -> str:
    """What the verdicts come to."""
    if Verdict.HOLE in verdicts:
        return (
            "A hole: a CPU does what the tables forbid, and no fault tells the kernel."
        )
    if set(verdicts) == {Verdict.AGREES}:
        return "Both CPUs do as the tables say."
    if Verdict.IDLE in verdicts:
        return "Harmless: no access goes wrong, but the kernel takes the page for idle."
    return "Harmless: the fault finds nothing wrong, and the access is made again."
