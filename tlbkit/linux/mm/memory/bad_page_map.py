"""The report of an entry that maps what it must not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import pmd_leaf, pte_present
from tlbkit.linux.include.linux.fs import AddressSpaceOperations
from tlbkit.linux.include.linux.pgtable import (
    PGTABLE_LEVEL_PTE,
    PgtableLevel,
    pgtable_level_to_str,
)
from tlbkit.linux.kernel.panic import TAINT_BAD_PAGE
from tlbkit.linux.kernel.time.timer import HZ
from tlbkit.linux.mm.memory.tables import MemoryTables

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, Page, VmArea
    from tlbkit.linux.kernel.kernel import Kernel

REPORTS_A_MINUTE: Final = 60


class BadPageMap(MemoryTables):
    """Reports, at most sixty a minute, over all tasks."""

    __slots__ = ("nr_shown", "nr_unshown", "resume")

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.nr_shown = 0
        self.nr_unshown = 0
        self.resume = 0

    def is_bad_page_map_ratelimited(self) -> bool:
        """Tell whether a report must be left out, and count it either way.

        A minute begins with the first report after the last minute was used up, or
        after boot. How many were left out is told when the next one is not.

        Source: mm/memory.c, is_bad_page_map_ratelimited()
        """
        jiffies = self._kernel.timer.jiffies
        if self.nr_shown == REPORTS_A_MINUTE:
            if jiffies < self.resume:
                self.nr_unshown += 1
                return True
            if self.nr_unshown:
                self._kernel.printk.pr_alert(
                    f"BUG: Bad page map: {self.nr_unshown} messages suppressed"
                )
                self.nr_unshown = 0
            self.nr_shown = 0
        if not self.nr_shown:
            self.resume = jiffies + 60 * HZ
        self.nr_shown += 1
        return False

    def print_bad_page_map(
        self,
        vma: VmArea,
        addr: int,
        entry: int,
        page: Page | None,
        level: PgtableLevel,
    ) -> None:
        """Report a leaf entry that maps what it must not; the caller deals with it.

        Args:
            vma: The area.
            addr: An address that the entry is for.
            entry: What it says. Its table is locked, and something keeps the tables
                above from going away: the lock of the address space, of the area, or
                of the folio's reverse mapping.
            page: The page that it maps, if that is known to be one.
            level: Where the entry stands.

        Source: mm/memory.c, print_bad_page_map()
        """
        if self.is_bad_page_map_ratelimited():
            return
        pr_alert = self._kernel.printk.pr_alert
        name = pgtable_level_to_str(level)
        pr_alert(f"BUG: Bad page map in process {self._comm()}  {name}:{entry:08x}")
        self.print_bad_page_map_pgtable_(vma.mm, addr)
        if page is not None:
            self._dump_page(page, "bad page map")
        self._print_area(vma, addr)
        self._taint()

    def print_bad_pte(
        self, vma: VmArea, addr: int, pte: int, page: Page | None
    ) -> None:
        """Report a page entry.

        Source: mm/memory.c, print_bad_pte()
        """
        self.print_bad_page_map(vma, addr, pte, page, PGTABLE_LEVEL_PTE)

    def print_bad_page_map_pgtable_(self, mm: MmStruct, addr: int) -> None:
        """Log the entries on the way down to *addr*, as far as there are tables.

        A level that is folded away shows the entry of the level below. The page
        entries' table is not looked at: where it must be mapped first to be read, the
        caller has it mapped already. Its entry is in the report's first line.

        Source: mm/memory.c, __print_bad_page_map_pgtable()
        """
        line = ""
        for name, entry, goes_on in self.pgtable_dump(mm, addr):
            line += f"{name}:{entry:08x} "
            if not goes_on:
                break
        self._kernel.printk.pr_alert(line.rstrip())

    def pgtable_dump(self, mm: MmStruct, addr: int) -> list[tuple[str, int, bool]]:
        """Return name and value of each entry on the way to *addr*, PGD to PMD.

        The third of each item says whether there is a table below.

        Source: mm/memory.c, __print_bad_page_map_pgtable()
        """
        pgtable = self._pgtable
        top = pgtable.read(pgtable.pgd_offset(mm, addr))
        found = [("pgd", top, True)]  # p4d and, if folded, pud are this very entry
        if pgtable.folded_pud:
            found.append(("p4d", top, True))
            pud = top
        else:
            found.append(("p4d", top, self._goes_on(top)))
            if not found[-1][2]:
                return found
            pudp = pgtable.pud_offset(pgtable.pgd_offset(mm, addr), addr)
            pud = pgtable.read(pudp)
        found.append(("pud", pud, self._goes_on(pud)))
        if found[-1][2]:
            pudp = pgtable.pud_offset(pgtable.pgd_offset(mm, addr), addr)
            found.append(("pmd", pgtable.read(pgtable.pmd_offset(pudp, addr)), False))
        return found

    @staticmethod
    def _goes_on(entry: int) -> bool:
        """Tell whether an entry is there and maps nothing itself."""
        return pte_present(entry) and not pmd_leaf(entry)

    def _comm(self) -> str:
        """Return the name of the process that runs, as ``current->comm`` gives it."""
        number = self._machine.running.number
        mm = self._kernel.sched.current[number]
        return f"swapper/{number}" if mm is None else mm.comm

    def _dump_page(self, page: Page, reason: str) -> None:
        """Log what is known of a page: mm/debug.c, dump_page()."""
        pr_alert = self._kernel.printk.pr_alert
        folio = self._kernel.page_alloc.folio(page)
        if folio is None:
            pr_alert(f"page: refcount:0 mapcount:0 mapping:{0:016x} pfn:{page:#x}")
        else:
            mapping = self._kernel.printk.address(folio.mapping)
            pr_alert(
                f"page: refcount:{folio.refcount} mapcount:{folio.mapcount} "
                f"mapping:{mapping:016x} index:{folio.index + page - folio.pfn:#x} "
                f"pfn:{page:#x}"
            )
        pr_alert(f"page dumped because: {reason}")

    def _print_area(self, vma: VmArea, addr: int) -> None:
        """Log the area and what it maps."""
        address = self._kernel.printk.address
        index = self._kernel.rmap.linear_page_index(vma, addr)
        mapping = None if vma.file is None else vma.file.mapping
        pr_alert = self._kernel.printk.pr_alert
        pr_alert(
            f"addr:{addr:016x} vm_flags:{vma.flags:08x} "
            f"anon_vma:{address(vma.anon_vma):016x} "
            f"mapping:{address(mapping):016x} index:{index:x}"
        )
        name = mmap = fault = read_folio = None
        if vma.ops is not None and vma.ops.has("fault"):
            fault = vma.ops
        if vma.file is not None:
            name, mmap = vma.file.inode.name, vma.file.ops
            a_ops = type(vma.file.mapping.ops)
            if a_ops.read_folio is not AddressSpaceOperations.read_folio:
                read_folio = vma.file.mapping.ops
        pr_alert(
            f"file:{name or '(null)'} fault:{_symbol(fault)} mmap:{_symbol(mmap)} "
            f"mmap_prepare: 0x0 read_folio:{_symbol(read_folio)}"
        )

    def _taint(self) -> None:
        """Log where the CPU is, as far as that is known here, and mark the kernel."""
        number = self._machine.running.number
        self._kernel.printk.pr_alert(
            f"CPU: {number} Comm: {self._comm()} {self._kernel.panic.print_tainted()}"
        )
        self._kernel.panic.add_taint(TAINT_BAD_PAGE, lockdep_ok=False)


def _symbol(owner: object) -> str:
    """Return whose function ``%ps`` would print the name of; functions have none."""
    return "0x0" if owner is None else type(owner).__name__
