"""From an abort to the fault handlers, and back: arch/arm64/mm/fault.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.permission import EL0_EXECUTE, EL0_WRITE, EL1_WRITE, EL1_WRITE_PAN
from tlbkit.errors import TlbkitError
from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_valid_cont
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    PTE_AF,
    PTE_CONT,
    PTE_DIRTY,
    PTE_RDONLY,
    PTE_WRITE,
)
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_INSTRUCTION,
    FAULT_FLAG_KILLABLE,
    FAULT_FLAG_TRIED,
    FAULT_FLAG_USER,
    FAULT_FLAG_WRITE,
    VM_EXEC,
    VM_FAULT_COMPLETED,
    VM_FAULT_ERROR,
    VM_FAULT_HWPOISON,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_READ,
    VM_WRITE,
)
from tlbkit.linux.include.linux.pgtable import PGTABLE_LEVEL_PTE
from tlbkit.linux.include.uapi.asm_generic.errno import Signal

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.include.linux.pgtable import PgtableLevel
    from tlbkit.linux.kernel.kernel import Kernel

_ACCESS_BITS: Final = PTE_RDONLY | PTE_AF | PTE_WRITE | PTE_DIRTY
_ADDRESS_SIZE: Final = FaultKind.ADDRESS_SIZE
_WRITES: Final = EL0_WRITE | EL1_WRITE | EL1_WRITE_PAN
_DEFAULT_FLAGS: Final = FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE | FAULT_FLAG_USER


class OutOfMemoryError(TlbkitError):
    """No page could be had for a fault; the kernel would look for a victim to kill."""

    def __init__(self, address: int) -> None:
        super().__init__(f"out of memory while handling a fault at {address:#x}")
        self.address = address


class ArmFault:
    """The architecture's side of faults."""

    __slots__ = ("_kernel", "_machine", "_memory")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._memory = kernel.machine.memory

    def do_mem_abort(self, mm: MmStruct, address: int, need: int, fault: Fault) -> None:
        """Handle the abort of an access, or send the signal that Linux would.

        Args:
            mm: The address space that runs.
            address: As accessed.
            need: The access bit of `tlbkit.arm64.permission`.
            fault: What the hardware said.

        Errors:
            Signal: The access is not allowed, or leads nowhere.
            OutOfMemoryError: It is allowed, and there is no memory.

        Source: arch/arm64/mm/fault.c, do_mem_abort()
        """
        if fault.kind is _ADDRESS_SIZE:
            raise Signal("SIGBUS", "BUS_ADRERR", address)
        if address >= self._kernel.pgtable.task_size:
            raise Signal("SIGSEGV", "SEGV_MAPERR", address)
        flags = _DEFAULT_FLAGS
        if need & EL0_EXECUTE:
            flags |= FAULT_FLAG_INSTRUCTION
            wanted = VM_EXEC
        elif need & _WRITES:
            flags |= FAULT_FLAG_WRITE
            wanted = VM_WRITE
        else:
            # Write implies read, and without EPAN so does execute.
            wanted = VM_READ | VM_WRITE
            if not self._machine.model.epan:
                wanted |= VM_EXEC
        self.do_page_fault(mm, address, wanted, flags)

    def do_page_fault(
        self, mm: MmStruct, address: int, wanted: int, flags: int
    ) -> None:
        """Find the area, check its rights, and let the generic handler do the rest.

        Source: arch/arm64/mm/fault.c, do_page_fault()
        """
        lock = mm.mmap_lock
        while True:
            lock.down_read()
            vma = self._kernel.mmap.vma_lookup(mm, address)
            if vma is None:
                lock.up_read()
                raise Signal("SIGSEGV", "SEGV_MAPERR", address)
            if not vma.flags & wanted:
                lock.up_read()
                raise Signal("SIGSEGV", "SEGV_ACCERR", address)
            result = self._kernel.memory.handle_mm_fault(vma, address, flags)
            if result & VM_FAULT_COMPLETED:
                return  # the handler has released the lock
            if not result & VM_FAULT_RETRY:
                break
            flags |= FAULT_FLAG_TRIED  # and the handler has released the lock here too
        lock.up_read()
        if not result & VM_FAULT_ERROR:
            return
        if result & VM_FAULT_OOM:
            raise OutOfMemoryError(address)
        if result & VM_FAULT_HWPOISON:
            raise Signal("SIGBUS", "BUS_MCEERR_AR", address)
        if result & VM_FAULT_SIGBUS:
            raise Signal("SIGBUS", "BUS_ADRERR", address)
        raise Signal("SIGSEGV", "SEGV_MAPERR", address)

    def ptep_set_access_flags(
        self, vma: VmArea, address: int, ptep: int, entry: int, *, dirty: bool
    ) -> bool:
        """Give a page entry, or its contiguous block, more rights; tell if it changed.

        *entry* is what the entry said, with more rights.

        Source: arch/arm64/include/asm/pgtable.h.
        """
        if entry & PTE_CONT:
            entry &= ~PTE_CONT
            if pte_valid_cont(self._kernel.pgtable.read(ptep)):
                return self._kernel.contpte.contpte_ptep_set_access_flags(
                    vma, address, ptep, entry, dirty=dirty
                )
        return self.ptep_set_access_flags_(vma, address, ptep, entry, dirty=dirty)

    def pmdp_set_access_flags(
        self, vma: VmArea, address: int, pmdp: int, entry: int, *, dirty: bool
    ) -> bool:
        """Give a block entry more rights; *address* is where the block begins.

        Source: arch/arm64/include/asm/pgtable.h, pmdp_set_access_flags()
        """
        return self.ptep_set_access_flags_(vma, address, pmdp, entry, dirty=dirty)

    def ptep_set_access_flags_(
        self, vma: VmArea, address: int, ptep: int, entry: int, *, dirty: bool
    ) -> bool:
        """Give one entry more rights, never fewer; tell whether it changed at all.

        A relaxed entry needs no broadcast: a CPU that still holds the strict one
        faults, finds nothing to change, and drops it by itself. Devices cannot fault so
        cheaply and are told.

        Source: arch/arm64/mm/fault.c, __ptep_set_access_flags()
        """
        cpu = self._machine.running
        old = self._memory.read(ptep)
        if old == entry:
            return False
        wanted = entry & _ACCESS_BITS
        while True:
            # Bits of permission are set where either has them; RDONLY only if both do.
            new = (old & ~PTE_RDONLY) | (wanted & ~PTE_RDONLY)
            new |= old & wanted & PTE_RDONLY
            was = cpu.compare_exchange(ptep, old, new, "ptep_set_access_flags")
            if was == old:
                break
            old = was
        if dirty:
            self.flush_relaxed(vma, address)
        return True

    def flush_relaxed(self, vma: VmArea, address: int) -> None:
        """Drop the strict entry that this CPU just faulted on.

        Source: arch/arm64/mm/fault.c, __ptep_set_access_flags()
        """
        self._kernel.tlbflush.local_flush_tlb_page(vma, address)

    def flush_tlb_fix_spurious_fault(
        self, vma: VmArea, address: int, level: PgtableLevel = PGTABLE_LEVEL_PTE
    ) -> None:
        """Drop this CPU's entry for an address that faulted although it may be used.

        Source: arch/arm64/include/asm/pgtable.h, flush_tlb_fix_spurious_fault()
        """
        del level  # a flush without a level hint drops a block as well as a page
        self._kernel.tlbflush.local_flush_tlb_page_nonotify(vma, address)
