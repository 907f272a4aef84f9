"""Two processes that share one table of huge pages, to try what comments claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.arm64.machine import Machine, StuckError
from tlbkit.linux.kernel.kernel import Kernel

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.mm.mmu_gather import MmuGather
    from tlbkit.linux.process import Process

BASE: Final = 1 << 40


class Trial:
    """A leaver on CPU 0 and a stayer on CPU 1, in the middle of an unshare or not.

    Attributes:
        kernel: The newest one.
        leaver, stayer: The processes.
        length: Bytes that the table maps.
        table: What they share.
    """

    def __init__(self) -> None:
        self.kernel = Kernel(Machine(2))
        self.length = self.kernel.pgtable.pud_size
        self.kernel.hugetlb.set_max_huge_pages(2)
        self.stayer: Process = self.kernel.spawn(cpu=1)
        self.stayer.mmap(
            self.length,
            addr=BASE,
            shared=True,
            hugetlb=True,
            noreserve=True,
            fixed=True,
        )
        self.leaver: Process = self.stayer.fork(cpu=0)
        self.stayer.write(BASE, 1)
        self.leaver.read(BASE)
        ptep = self.kernel.pgtable.find_pmd(self.leaver.mm, BASE)
        assert ptep is not None
        self.ptep = ptep
        self.table: Folio = self.kernel.hugetlb.ptdesc(ptep)
        self.kernel.sched.run_on(self.leaver.mm, self.kernel.machine.cpu(0))

    @property
    def vma(self) -> VmArea:
        """The leaver's area."""
        return self.leaver.mm.vmas[1]

    def unshare(self) -> MmuGather:
        """Unshare the table for the leaver; the locks stay held, nothing is flushed."""
        hugetlb = self.kernel.hugetlb
        tlb = self.kernel.gather.tlb_gather_mmu_vma(self.vma)
        hugetlb.hugetlb_vma_lock_write(self.vma)
        hugetlb.mapping(self.vma).i_mmap_rwsem.down_write()
        with hugetlb.huge_pte_lockptr(self.vma, self.ptep):
            hugetlb.huge_pmd_unshare(tlb, self.vma, BASE, self.ptep)
        return tlb

    def release(self, tlb: MmuGather) -> None:
        """Flush, release the locks, and end the gather."""
        hugetlb = self.kernel.hugetlb
        hugetlb.huge_pmd_unshare_flush(tlb, self.vma)
        hugetlb.mapping(self.vma).i_mmap_rwsem.up_write()
        hugetlb.hugetlb_vma_unlock_write(self.vma)
        self.kernel.gather.tlb_finish_mmu(tlb)

    def stayer_can_change_the_table(self) -> bool:
        """Tell whether the stayer can empty an entry of the table that it has now."""
        frame = self.kernel.machine.memory.frame(self.table.pfn)
        try:
            self.stayer.munmap(BASE, self.kernel.pgtable.pmd_size)
        except StuckError:
            return False
        return not frame[0]
