"""A huge page is inserted where an entry may be already: every input, old and new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64.machine import Machine
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import SWITCH, Exploration, menu, switch
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pte_dirty,
    pte_mkdirty,
    pte_none,
    pte_present,
    pte_write,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import PTE_WRITE
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_WRITE,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_MIXEDMAP,
    VM_WRITE,
    VmOperations,
)
from tlbkit.linux.include.linux.mm_types import Folio, LargeFolio, VmFault
from tlbkit.linux.include.linux.swapops import SwpEntry, swp_entry_to_pte
from tlbkit.patches.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.linux.mm.page_alloc import PageAlloc

EXISTING: Final = (
    "none",
    "same frame, read-only",
    "same frame, writable",
    "huge zero",
    "another block",
    "table",
    "migration",
)
"""What may stand at an entry before a block is inserted."""

WHAT: Final = ("folio", "frames", "folio of another order", "huge zero folio")
"""What may be inserted."""

INSIDE, BEFORE, AFTER = "inside", "begins before the VMA", "lies after the VMA"
WHERE: Final = (INSIDE, BEFORE, AFTER)
"""Where the block lies."""

LEVELS: Final = ("pmd", "pud")
"""The levels at which blocks are inserted."""

COMMIT: Final = {"pmd": "b7298e418e29", "pud": "77e493280e92"}
"""Which commit gave a level its common half."""

ZERO: Final = "5528ef06da01"
"""Which commit lets the huge zero folio in."""

ANSWERS: Final = {
    VM_FAULT_NOPAGE: "NOPAGE",
    VM_FAULT_SIGBUS: "SIGBUS",
    VM_FAULT_OOM: "OOM",
}


class Place:
    """A driver's VMA of one huge page, whose entry says what was asked for.

    Args:
        kernel: Made for this place.
        existing: One of `EXISTING`.
        deposit: The architecture wants a table in store for each block.
        vm_write: The VMA is writable.
        level: One of `LEVELS`.

    Attributes:
        process, mm, vma: The only process, its address space, and the VMA.
        entryp: Where the entry stands.
        folio: Of the size of the block.
        wrong: Of another.
        other: Frames that belong to neither.
    """

    def __init__(
        self,
        kernel: Kernel,
        existing: str = "none",
        *,
        deposit: bool = False,
        vm_write: bool = True,
        level: str = "pmd",
    ) -> None:
        self.kernel = kernel
        pgtable = self.pgtable = kernel.pgtable
        self.level = level
        size = pgtable.pmd_size if level == "pmd" else pgtable.pud_size
        order = (size >> pgtable.page_shift).bit_length() - 1
        self.process = kernel.spawn()
        self.mm = self.process.mm
        start = self.process.mmap(size, addr=size * 8, shared=True)
        vma = kernel.vma.vma_lookup(self.mm, start)
        assert vma is not None
        self.vma = vma
        vma.flags |= VM_MIXEDMAP
        vma.ops = VmOperations()
        if not vm_write:
            vma.flags &= ~VM_WRITE
        kernel.vma.vma_set_page_prot(vma)
        memory = kernel.memory
        walk = memory.pmd_alloc if level == "pmd" else memory.pud_alloc
        entryp = walk(self.mm, start)
        assert entryp is not None
        self.entryp = entryp
        # Nobody looks it up by its frames, so it need not come from the allocator.
        self.folio = LargeFolio(3 << order, order)
        self.wrong = _got(kernel.page_alloc, 2)
        self.other = 5 << order
        kernel.pgtable_generic.arch_needs_pgtable_deposit = deposit
        self._lay(existing)

    def _lay(self, existing: str) -> None:
        """Let the entry say *existing*, without telling any count."""
        pgtable = self.pgtable
        leaf = pgtable.mk_huge_pmd
        prot = self.vma.page_prot
        huge = self.kernel.huge_memory
        if existing == "table":
            table = self.kernel.page_alloc.alloc_table("a table")
            assert table is not None
            pgtable.pmd_populate(self.entryp, table.pfn)
            return
        entry = 0
        if existing == "huge zero":
            zero = huge.mm_get_huge_zero_folio(self.mm)
            assert zero is not None
            entry = leaf(zero.pfn, prot)
        elif existing == "migration":
            entry = swp_entry_to_pte(SwpEntry(27, self.other))
        elif existing == "another block":
            entry = leaf(self.other, prot)
        elif existing == "same frame, read-only":
            entry = leaf(self.folio.pfn, prot & ~PTE_WRITE)
        elif existing == "same frame, writable":
            entry = pte_mkdirty(pgtable.pte_mkwrite(leaf(self.folio.pfn, prot)))
        self.kernel.machine.memory.write(self.entryp, entry)

    def insert(
        self, what: Folio | int, *, write: bool = False, address: int | None = None
    ) -> int:
        """Insert a folio, or a block of frames; return the fault's answer."""
        at = self.vma.start if address is None else address
        vmf = VmFault(self.vma, at, at, FAULT_FLAG_WRITE * write)
        vmf.pmd = vmf.pud = self.entryp
        huge = self.kernel.huge_memory
        if isinstance(what, int):
            if self.level == "pmd":
                return huge.vmf_insert_pfn_pmd(vmf, what, write=write)
            return huge.vmf_insert_pfn_pud(vmf, what, write=write)
        if self.level == "pmd":
            return huge.vmf_insert_folio_pmd(vmf, what, write=write)
        return huge.vmf_insert_folio_pud(vmf, what, write=write)

    @property
    def entry(self) -> int:
        """What the entry says."""
        return self.pgtable.read(self.entryp)

    def state(self) -> dict[str, Any]:
        """All that an insertion may change, but for warnings."""
        folio = self.folio
        return {
            "entry": self.entry,
            "refcount": folio.refcount,
            "mapcount": folio.mapcount,
            "entire": folio.entire_mapcount,
            "pages mapped": folio.nr_pages_mapped,
            "wrong": (self.wrong.refcount, self.wrong.mapcount),
            "rss": (self.mm.filepages, self.mm.shmempages, self.mm.anonpages),
            "nr_ptes": self.mm.pgtables[3],
            "deposited": self.kernel.pgtable_generic.deposited(self.entryp),
            "frames": self.kernel.page_alloc.in_use,
        }


def _got(page_alloc: PageAlloc, order: int) -> Folio:
    """Return a new folio; there is memory for it."""
    folio = page_alloc.alloc(order)
    assert folio is not None
    return folio


def in_words(place: Place) -> str:
    """Say what the entry of a place is."""
    entry = place.entry
    if pte_none(entry):
        return "nothing"
    if not pte_present(entry):
        return "a note of a migration"
    if not pmd_leaf(entry):
        return "a table"
    rights = "writable" if pte_write(entry) else "read-only"
    marks = [
        name
        for name, said in (
            ("young", pte_young(entry)),
            ("dirty", pte_dirty(entry)),
            ("special", place.pgtable.pmd_special(entry)),
        )
        if said
    ]
    return ", ".join(["a block", rights, *marks])


class Insert(Exploration):
    """One insertion by a kernel without a commit, and by one with it.

    The commit is the one that gave the level its common half; for the huge zero folio,
    the one that lets it in.

    Columns: ``what``, ``before``, ``after``: the rows of the table.
    """

    name = "insert"
    title = "A huge page is inserted"
    parameters = (
        menu("level", "entry", LEVELS),
        menu("what", "what is inserted", WHAT),
        menu("existing", "what is there", EXISTING),
        menu("where", "the huge page", WHERE),
        switch("write", "the access is a write"),
        switch("vm_write", "the VMA is writable", "on"),
        switch("deposit", "the architecture stores a table"),
        switch("memory", "there is memory for it", "on"),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Insert twice, and put what came of it side by side."""
        settings = self.settings(params)
        before = outcome(settings, complete=False)
        after = outcome(settings, complete=True)
        rows = [[name, before[name], after[name]] for name in after]
        differing = [row[0] for row in rows if row[1] != row[2]]
        commit = asked(settings)
        text = f"With {commit} and without it, the kernel does the same."
        if differing:
            text = f"{commit} makes a difference to: {', '.join(differing)}."
        return Answer(
            columns={
                name: [row[place] for row in rows]
                for place, name in enumerate(("what", "before", "after"))
            },
            header=["what", f"without {commit}", "with it"],
            rows=rows,
            text=text,
        )


def asked(settings: Mapping[str, Value]) -> str:
    """The commit that the settings ask about."""
    if settings["what"] == "huge zero folio":
        return ZERO
    return COMMIT[str(settings["level"])]


def outcome(settings: Mapping[str, Value], *, complete: bool) -> dict[str, str]:
    """What one insertion comes to, in words, with the commit or without."""
    level = str(settings["level"])
    without = () if complete else (asked(settings),)
    on = {name: value == SWITCH[1] for name, value in settings.items()}
    place = Place(
        Kernel(Machine(), "fixed", without),
        str(settings["existing"]),
        deposit=on["deposit"],
        vm_write=on["vm_write"],
        level=level,
    )
    kernel, vma = place.kernel, place.vma
    what: Folio | int = place.folio
    if settings["what"] == "frames":
        what = place.folio.pfn
    elif settings["what"] == "folio of another order":
        what = place.wrong
    elif settings["what"] == "huge zero folio":
        zero = kernel.huge_memory.mm_get_huge_zero_folio(place.mm)
        assert zero is not None
        what = zero
    address = vma.start
    if settings["where"] == BEFORE:
        address = vma.start = vma.start + place.pgtable.page_size
    elif settings["where"] == AFTER:
        address = vma.end
    if not on["memory"]:
        kernel.page_alloc.fail = lambda: True
    answer = place.insert(what, write=on["write"], address=address)
    held = what if isinstance(what, Folio) else place.folio
    return {
        "answer": ANSWERS[answer],
        "entry": in_words(place),
        "references to the folio": str(held.refcount),
        "mappings of the folio": str(held.mapcount),
        "pages resident": f"{place.mm.filepages:,}",
        "tables in store": str(kernel.pgtable_generic.deposited(place.entryp)),
        "warnings": "; ".join(kernel.panic.warnings) or "none",
    }
