"""A fault on a hole of a file in persistent memory, by what is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.arm64.machine import Machine
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import SWITCH, Exploration, menu, switch
from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_none
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_FALLBACK,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
)
from tlbkit.linux.include.linux.mm_types import VmFault
from tlbkit.patches.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value

COMMIT: Final = "b0f86aaebed1"
NOTHING, ZERO, DATA = (
    "nothing is there",
    "zeros are there",
    "another huge page is there",
)
NO_FOLIO, NO_MEMORY = "there is no huge zero folio", "there is no memory for a table"
BEFORE = "the huge page begins before the VMA"
SITUATIONS: Final = (NOTHING, ZERO, DATA, NO_FOLIO, NO_MEMORY, BEFORE)
"""What the fault may meet."""

ANSWERS: Final = {
    VM_FAULT_NOPAGE: "NOPAGE: repeat the access",
    VM_FAULT_FALLBACK: "FALLBACK: map pages instead",
    VM_FAULT_SIGBUS: "SIGBUS",
    VM_FAULT_OOM: "out of memory",
}


class Loaded(NamedTuple):
    """What came of loading a hole.

    Attributes:
        answer: ``VM_FAULT_`` bits.
        traces: The trace points that were passed.
        changed: The entry is another one.
        mapped: There is an entry at all.
        stored: Tables in store under the entry's table.
    """

    answer: int
    traces: list[str]
    changed: bool
    mapped: bool
    stored: int


def load(situation: str, *, before: bool, deposit: bool) -> Loaded:
    """Load a hole by a block, with the DAX entry locked as its caller has it.

    Args:
        situation: One of `SITUATIONS`.
        before: By the kernel without the commit.
        deposit: The architecture wants a table in store.
    """
    kernel = Kernel(Machine(), "fixed", (COMMIT,) if before else ())
    pgtable = kernel.pgtable
    size = pgtable.pmd_size
    inode = kernel.pmem.create("hole", 2 * size)
    process = kernel.spawn()
    base = process.mmap(2 * size, fd=process.open("hole"), shared=True)
    vma = kernel.vma.vma_lookup(process.mm, base)
    pmdp = kernel.memory.pmd_alloc(process.mm, base)
    assert vma is not None
    assert pmdp is not None
    traces: list[str] = []
    kernel.machine.events.listen(lambda event: traces.append(event.what), ["dax"])
    kernel.pgtable_generic.arch_needs_pgtable_deposit = deposit
    vmf = VmFault(vma, base, base, 0)
    vmf.pmd = pmdp
    entry = kernel.dax.grab_mapping_entry(inode.mapping, 0, pgtable.hpage_pmd_order)
    assert not isinstance(entry, int)
    if situation != NO_FOLIO:
        kernel.huge_memory.mm_get_huge_zero_folio(process.mm)
    if situation == ZERO:
        kernel.dax.dax_pmd_load_hole(vmf, entry)
        traces.clear()
    elif situation == DATA:
        block = pgtable.mk_huge_pmd(7 * pgtable.hpage_pmd_nr, vma.page_prot)
        kernel.machine.memory.write(pmdp, block)
    elif situation == BEFORE:
        vma.start += pgtable.page_size
    if situation in {NO_FOLIO, NO_MEMORY}:
        kernel.page_alloc.fail = lambda: True
    old = pgtable.read(pmdp)
    answer = kernel.dax.dax_pmd_load_hole(vmf, entry)
    new = pgtable.read(pmdp)
    stored = kernel.pgtable_generic.deposited(pmdp)
    return Loaded(answer, traces, new != old, not pte_none(new), stored)


class DaxHole(Exploration):
    """Loading a hole by a block, before the common insertion and after.

    Columns: ``what``, ``before``, ``after``: the rows of the table.
    """

    name = "dax-hole"
    title = "A hole is read"
    parameters = (
        menu("situation", "the fault finds that", SITUATIONS),
        switch("deposit", "the architecture stores a table"),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Load the hole twice."""
        settings = self.settings(params)
        found = [
            in_words(
                load(
                    str(settings["situation"]),
                    before=before,
                    deposit=settings["deposit"] == SWITCH[1],
                )
            )
            for before in (True, False)
        ]
        rows = [[name, *(side[name] for side in found)] for name in found[0]]
        differing = [name for name, old, new in rows if old != new]
        text = f"With {COMMIT} and without it, the same."
        if differing:
            text = f"{COMMIT} makes a difference to: {', '.join(differing)}."
        return Answer(
            columns={
                name: [row[place] for row in rows]
                for place, name in enumerate(("what", "before", "after"))
            },
            header=["what", f"without {COMMIT}", "with it"],
            rows=rows,
            text=text,
        )


def in_words(loaded: Loaded) -> dict[str, str]:
    """Say what came of it."""
    entry = "untouched"
    if loaded.changed:
        entry = "zeros, mapped now"
    elif not loaded.mapped:
        entry = "none"
    caller = "nothing"
    if loaded.answer == VM_FAULT_FALLBACK:
        caller = "takes away what is mapped" if loaded.mapped else "maps a page"
    return {
        "answer": ANSWERS[loaded.answer],
        "entry": entry,
        "the caller then": caller,
        "trace": ", ".join(loaded.traces) or "none",
        "tables in store": str(loaded.stored),
    }
