"""One running kernel: its parts, one object for each kernel source file.

Source: none; a kernel is an object here, so that two can be compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64.granule import GRANULES
from tlbkit.arm64.regime import Capabilities, Regime
from tlbkit.arm64.registers import MAIR, TCR, TTBR
from tlbkit.errors import TlbkitError
from tlbkit.linux.arch.arm64.include.asm.pgtable import Pgtable
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import MAIR_EL1
from tlbkit.linux.arch.arm64.include.asm.tlb import Tlb
from tlbkit.linux.arch.arm64.include.asm.tlbflush import TlbFlush
from tlbkit.linux.arch.arm64.kernel.mte import Mte
from tlbkit.linux.arch.arm64.mm.context import Context
from tlbkit.linux.arch.arm64.mm.contpte import Contpte
from tlbkit.linux.arch.arm64.mm.fault import ArmFault
from tlbkit.linux.arch.arm64.mm.hugetlbpage import Hugetlbpage
from tlbkit.linux.arch.arm64.mm.ptdump import Ptdump
from tlbkit.linux.arch.powerpc.mm.ptdump.ptdump import PowerpcPtdump
from tlbkit.linux.drivers.char.mem import Mem
from tlbkit.linux.drivers.xen.gntdev import Gntdev
from tlbkit.linux.fs.dax import Dax
from tlbkit.linux.fs.disk import Disk
from tlbkit.linux.fs.exec import Exec
from tlbkit.linux.fs.file import FilesStruct
from tlbkit.linux.fs.file_table import FileTable
from tlbkit.linux.fs.hugetlbfs.inode import Hugetlbfs
from tlbkit.linux.fs.pmem import Pmem
from tlbkit.linux.fs.proc.task_mmu import TaskMmu
from tlbkit.linux.fs.userfaultfd import FsUserfaultfd
from tlbkit.linux.include.linux.mm_types import PG_reserved
from tlbkit.linux.kernel.config import ARM64, Config
from tlbkit.linux.kernel.fork import Fork
from tlbkit.linux.kernel.panic import Panic
from tlbkit.linux.kernel.printk.printk import Printk
from tlbkit.linux.kernel.rcu import Rcu
from tlbkit.linux.kernel.sched import Sched
from tlbkit.linux.kernel.smp import Smp
from tlbkit.linux.kernel.time.timer import Timer
from tlbkit.linux.mm.filemap import Filemap
from tlbkit.linux.mm.gup import Gup
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.linux.mm.hugetlb import Hugetlb
from tlbkit.linux.mm.khugepaged import Khugepaged
from tlbkit.linux.mm.madvise import Madvise
from tlbkit.linux.mm.memfd import Memfd
from tlbkit.linux.mm.memory import Memory
from tlbkit.linux.mm.mempolicy import Mempolicy
from tlbkit.linux.mm.migrate import Migrate
from tlbkit.linux.mm.mmap import Mmap
from tlbkit.linux.mm.mmap_lock import MmapLock
from tlbkit.linux.mm.mmu_gather import Gather
from tlbkit.linux.mm.mmu_notifier import MmuNotifier
from tlbkit.linux.mm.mprotect import Mprotect
from tlbkit.linux.mm.mremap import Mremap
from tlbkit.linux.mm.msync import Msync
from tlbkit.linux.mm.page_alloc import PageAlloc
from tlbkit.linux.mm.page_io import PageIo
from tlbkit.linux.mm.page_vma_mapped import PageVmaMapped
from tlbkit.linux.mm.page_writeback import PageWriteback
from tlbkit.linux.mm.pagewalk import Pagewalk
from tlbkit.linux.mm.pgtable_generic import PgtableGeneric
from tlbkit.linux.mm.ptdump import PtdumpWalk
from tlbkit.linux.mm.rmap import Rmap
from tlbkit.linux.mm.shmem import Shmem
from tlbkit.linux.mm.swap import Swap
from tlbkit.linux.mm.swap_state import SwapState
from tlbkit.linux.mm.swapfile import Swapfile
from tlbkit.linux.mm.truncate import Truncate
from tlbkit.linux.mm.userfaultfd import Userfaultfd
from tlbkit.linux.mm.vma import Vma
from tlbkit.linux.mm.vmscan import Vmscan
from tlbkit.linux.mm.vmstat import Vmstat
from tlbkit.linux.process import Process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.arm64.machine import Machine

PARTS: Final[Mapping[str, type]] = {
    "printk": Printk,
    "timer": Timer,
    "pgtable": Pgtable,
    "contpte": Contpte,
    "mte": Mte,
    "panic": Panic,
    "vmstat": Vmstat,
    "page_alloc": PageAlloc,
    "mmu_notifier": MmuNotifier,
    "rcu": Rcu,
    "smp": Smp,
    "sched": Sched,
    "context": Context,
    "tlbflush": TlbFlush,
    "tlb": Tlb,
    "gather": Gather,
    "pgtable_generic": PgtableGeneric,
    "swap": Swap,
    "swapfile": Swapfile,
    "swap_state": SwapState,
    "page_io": PageIo,
    "gup": Gup,
    "page_vma_mapped": PageVmaMapped,
    "rmap": Rmap,
    "mmap_lock": MmapLock,
    "vma": Vma,
    "file_table": FileTable,
    "page_writeback": PageWriteback,
    "filemap": Filemap,
    "truncate": Truncate,
    "disk": Disk,
    "dax": Dax,
    "pmem": Pmem,
    "shmem": Shmem,
    "memfd": Memfd,
    "hugetlbpage": Hugetlbpage,
    "hugetlb": Hugetlb,
    "hugetlbfs": Hugetlbfs,
    "mempolicy": Mempolicy,
    "memory": Memory,
    "huge_memory": HugeMemory,
    "pagewalk": Pagewalk,
    "task_mmu": TaskMmu,
    "ptdump_walk": PtdumpWalk,
    "ptdump": Ptdump,
    "powerpc_ptdump": PowerpcPtdump,
    "mem": Mem,
    "gntdev": Gntdev,
    "migrate": Migrate,
    "khugepaged": Khugepaged,
    "vmscan": Vmscan,
    "madvise": Madvise,
    "mmap": Mmap,
    "msync": Msync,
    "mprotect": Mprotect,
    "mremap": Mremap,
    "userfaultfd": Userfaultfd,
    "fs_userfaultfd": FsUserfaultfd,
    "fault": ArmFault,
    "fork": Fork,
    "exec": Exec,
}
"""The parts of the newest kernel, in the order in which they are made."""


class MachineTakenError(TlbkitError):
    """A kernel was to be started on a machine that another one runs on."""

    def __init__(self, kernel: object) -> None:
        name = getattr(kernel, "name", "")
        super().__init__(
            f"a kernel{f' named {name}' if name else ''} runs on this machine already, "
            "and both would use the same frames and ASIDs; make a Machine for each "
            "kernel"
        )
        self.kernel = kernel


class Kernel:
    """A kernel on a machine: its parts are its attributes.

    Args:
        machine: A kernel owns its machine; two kernels need two.
        parts: The class of each part, by its name in `PARTS`; a kernel without a commit
            has subclasses in some places.
        config: What it is built with.

    Attributes:
        config: As given.
        zero_pfn: The frame of the zero page.

    Errors:
        MachineTakenError: Another kernel was started on the machine.
    """

    printk: Printk
    timer: Timer
    pgtable: Pgtable
    contpte: Contpte
    mte: Mte
    panic: Panic
    vmstat: Vmstat
    page_alloc: PageAlloc
    mmu_notifier: MmuNotifier
    rcu: Rcu
    smp: Smp
    sched: Sched
    context: Context
    tlbflush: TlbFlush
    tlb: Tlb
    gather: Gather
    pgtable_generic: PgtableGeneric
    swap: Swap
    swapfile: Swapfile
    swap_state: SwapState
    page_io: PageIo
    gup: Gup
    page_vma_mapped: PageVmaMapped
    rmap: Rmap
    mmap_lock: MmapLock
    vma: Vma
    file_table: FileTable
    page_writeback: PageWriteback
    filemap: Filemap
    truncate: Truncate
    disk: Disk
    dax: Dax
    pmem: Pmem
    shmem: Shmem
    memfd: Memfd
    hugetlbpage: Hugetlbpage
    hugetlb: Hugetlb
    hugetlbfs: Hugetlbfs
    mempolicy: Mempolicy
    memory: Memory
    huge_memory: HugeMemory
    pagewalk: Pagewalk
    task_mmu: TaskMmu
    ptdump_walk: PtdumpWalk
    ptdump: Ptdump
    powerpc_ptdump: PowerpcPtdump
    mem: Mem
    gntdev: Gntdev
    migrate: Migrate
    khugepaged: Khugepaged
    vmscan: Vmscan
    madvise: Madvise
    mmap: Mmap
    msync: Msync
    mprotect: Mprotect
    mremap: Mremap
    userfaultfd: Userfaultfd
    fs_userfaultfd: FsUserfaultfd
    fault: ArmFault
    fork: Fork
    exec: Exec

    def __init__(
        self,
        machine: Machine,
        parts: Mapping[str, type[Any]] = PARTS,
        config: Config = ARM64,
    ) -> None:
        if machine.software is not None:
            raise MachineTakenError(machine.software)
        machine.software = self
        self.machine = machine
        self.config = config
        self.processes: list[Process] = []
        for name, part in parts.items():
            setattr(self, name, part(self))
        zero = self._boot_frame()
        self.zero_pfn = zero
        self.huge_memory.thp_shrinker_init()
        self._boot = self._boot_regime(self._boot_frame())

    def regime(self, pgd: int, asid: int) -> Regime:
        """Return the translation registers for the tables at *pgd* under *asid*."""
        common = int(self.machine.model.shared_tlb > 1)
        ttbr1 = TTBR.at(self._boot.ttbr1.base(wide=False), asid, common)
        return self._boot.with_ttbr(TTBR.at(pgd, cnp=common), ttbr1)

    def spawn(self, cpu: int = 0) -> Process:
        """Start a process with nothing but a stack, and one thread, on *cpu*."""
        mm = self.exec.new_mm()
        if mm is None:
            raise BootError("no memory for the tables of a first process")
        process = Process(self, mm, self.machine.cpu(cpu).number, FilesStruct())
        self.processes.append(process)
        return process

    def _boot_frame(self) -> int:
        """Return a zeroed frame that is never given back."""
        folio = self.page_alloc.alloc_zeroed()
        if folio is None:
            raise BootError("no memory at boot")
        folio.flags |= PG_reserved
        return folio.pfn

    def _boot_regime(self, swapper_pfn: int) -> Regime:
        """Return the registers as the kernel sets them up: arch/arm64/mm/proc.S."""
        model = self.machine.model
        granule = next(g for g in GRANULES if g.page_shift == model.page_shift)
        swapper = swapper_pfn << model.page_shift
        return Regime.of(
            tcr=TCR.of(
                granule,
                va_bits=self.pgtable.va_bits,
                pa_bits=model.pa_bits,
                A1=1,
                AS=int(model.asid_bits == 16),
                HA=int(model.hw_af),
                HD=int(model.hw_dbm),
                DS=int(model.lpa2),
            ),
            mair=MAIR.decode(MAIR_EL1),
            ttbr0=TTBR.at(swapper),
            ttbr1=TTBR.at(swapper),
            capabilities=Capabilities(
                pa_bits=model.pa_bits,
                asid16=model.asid_bits == 16,
                access_flag=model.hw_af,
                dirty=model.hw_dbm,
                lpa2=model.lpa2,
            ),
        )


class BootError(TlbkitError):
    """A kernel could not start."""
