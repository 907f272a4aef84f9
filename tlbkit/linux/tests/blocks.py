"""A driver that hands in blocks when its areas are faulted."""

from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_WRITE,
    VM_FAULT_FALLBACK,
    VmOperations,
)


class Driver(VmOperations):
    """Answers faults of its areas with one folio, or one block of frames.

    Args:
        kernel: Its kernel.
        what: The folio, or the first of the frames.
    """

    __slots__ = ("kernel", "what")

    def __init__(self, kernel, what):
        self.kernel = kernel
        self.what = what

    def huge_fault(self, vmf, order):
        """Map the block, if it is asked for one of its size."""
        huge = self.kernel.huge_memory
        pmd = order == self.kernel.pgtable.hpage_pmd_order
        write = bool(vmf.flags & FAULT_FLAG_WRITE)
        if isinstance(self.what, int):
            if self.what & ((1 << order) - 1):
                return VM_FAULT_FALLBACK
            insert = huge.vmf_insert_pfn_pmd if pmd else huge.vmf_insert_pfn_pud
        else:
            if self.what.order != order:
                return VM_FAULT_FALLBACK
            insert = huge.vmf_insert_folio_pmd if pmd else huge.vmf_insert_folio_pud
        return insert(vmf, self.what, write=write)
