"""The objects of memory management: pages, areas, address spaces, faults.

Source: include/linux/mm_types.h, page-flags.h and rmap.h.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import UserfaultfdCtx
    from tlbkit.linux.include.linux.fs import File
    from tlbkit.linux.include.linux.hugetlb import HugetlbVmaLock, PrivateReservation
    from tlbkit.linux.include.linux.mm import VmOperations
    from tlbkit.linux.kernel.locking import RwSemaphore, SpinLock

# What pages of private memory have comes first: Python keeps one object for each
# number up to 256, so that the flags of a million pages take no memory.
PG_locked: Final = 1 << 0
PG_referenced: Final = 1 << 1
PG_anon_exclusive: Final = 1 << 2
PG_dirty: Final = 1 << 3
PG_lru: Final = 1 << 4
PG_active: Final = 1 << 5
PG_swapbacked: Final = 1 << 6
PG_swapcache: Final = 1 << 7
PG_reserved: Final = 1 << 8
PG_uptodate: Final = 1 << 9
PG_ksm: Final = 1 << 10
PG_table: Final = 1 << 11
PG_zone_device: Final = 1 << 12

ENTIRELY_MAPPED: Final = 0x800000
"""What a folio that a block entry maps has in its count of mapped pages."""
FOLIO_PAGES_MAPPED: Final = ENTIRELY_MAPPED - 1
"""The part of that count that is pages."""
GUP_PIN_COUNTING_BIAS: Final = 1024
"""What one pin adds to the reference count of a small folio."""

TLB_FLUSH_BATCH_FLUSHED_SHIFT: Final = 16
"""Where ``tlb_flush_batched`` counts the batches that were flushed; mm/rmap.c."""
TLB_FLUSH_BATCH_PENDING_MASK: Final = (1 << TLB_FLUSH_BATCH_FLUSHED_SHIFT - 1) - 1
"""The half of it that counts those that were begun."""
TLB_FLUSH_BATCH_PENDING_LARGE: Final = TLB_FLUSH_BATCH_PENDING_MASK // 2
"""From here on it begins anew, before it could meet the other half."""

Page = int
"""One page, by its frame number; all else that struct page holds is in its folio."""


class AnonVma:
    """What the pages of a family of private areas have in common.

    Attributes:
        root: The oldest ancestor, whose lock protects all of the tree.
        lock: Its reader-writer lock; only the root's is ever taken.
        refcount: Areas and walkers that use it.
    """

    __slots__ = ("lock", "refcount", "root")

    def __init__(self, lock: RwSemaphore, root: AnonVma | None = None) -> None:
        self.root: AnonVma = self if root is None else root
        self.lock = lock
        self.refcount = 1


class Folio:
    """A page, or a block of pages, that the kernel manages as one.

    Attributes:
        pfn: Its first frame.
        order: log2 of its pages.
        refcount: References; at zero it is freed. 0 on a new folio means "not in use".
        mapcount: Page-table entries that map it or a page of it (not biased by one).
        flags: The ``PG_`` bits.
        mapping: An `AnonVma`, or the file that it belongs to, or ``None``.
        index: Its place in the mapping, in pages.
    """

    __slots__ = ("flags", "index", "mapcount", "mapping", "order", "pfn", "refcount")

    def __init__(self, pfn: int, order: int = 0) -> None:
        self.pfn = pfn
        self.order = order
        self.refcount = 1
        self.mapcount = 0
        self.flags = 0
        self.mapping: Any = None
        self.index = 0

    @property
    def anon(self) -> bool:
        """Whether it is anonymous memory.

        Source: include/linux/page-flags.h, folio_test_anon()
        """
        return isinstance(self.mapping, AnonVma)

    @property
    def nr_pages(self) -> int:
        """How many pages it has.

        Source: include/linux/mm.h, folio_nr_pages()
        """
        return 1 << self.order

    def maybe_dma_pinned(self) -> bool:
        """Tell whether somebody may have pinned it: folio_maybe_dma_pinned().

        Source: include/linux/mm.h, folio_maybe_dma_pinned()
        """
        return self.refcount >= GUP_PIN_COUNTING_BIAS

    def page_exclusive(self, pfn: int) -> bool:
        """Tell whether page *pfn* of it belongs to one process: PageAnonExclusive().

        Source: include/linux/page-flags.h, PageAnonExclusive()
        """
        del pfn
        return bool(self.flags & PG_anon_exclusive)

    def __repr__(self) -> str:
        """Name it by frame and counts."""
        return (
            f"<Folio pfn={self.pfn:#x} order={self.order} refs={self.refcount} "
            f"maps={self.mapcount} flags={self.flags:#x}>"
        )


def ptdesc_pmd_pts_count(table: Folio) -> int:
    """Return how many PUD entries point to a PMD table besides the first.

    The number stands where other pages have their place in a file; a new table has 0.

    Source: include/linux/mm_types.h, ptdesc_pmd_pts_count()
    """
    return table.index


def ptdesc_pmd_pts_inc(table: Folio) -> None:
    """Count one more PUD entry that points to a PMD table.

    Source: include/linux/mm_types.h, ptdesc_pmd_pts_inc()
    """
    table.index += 1


def ptdesc_pmd_pts_dec(table: Folio) -> None:
    """Count one PUD entry less.

    Source: include/linux/mm_types.h, ptdesc_pmd_pts_dec()
    """
    table.index -= 1


def ptdesc_pmd_is_shared(table: Folio) -> bool:
    """Tell whether more than one PUD entry points to a PMD table.

    Source: include/linux/mm_types.h, ptdesc_pmd_is_shared()
    """
    return bool(table.index)


class LargeFolio(Folio):
    """A folio of more than one page.

    Its ``mapcount`` counts entries: a block entry that maps all of it counts once. As
    there, no count here is biased by one.

    Attributes:
        entire_mapcount: Block entries that map all of it.
        page_mapcount: For each page, the page entries that map it.
        nr_pages_mapped: Pages with a ``page_mapcount``, and `ENTIRELY_MAPPED` while
            there is an ``entire_mapcount``.
        exclusive: For each page, whether it belongs to one process. A folio that is
            mapped by a block has one such mark, its first page's.
        pincount: Pins, counted apart from references.
        deferred_split: It is queued to be split should memory become short.
        partially_mapped: And part of it is mapped no more, so that it is worth it.
        mm_id: Two of the address spaces that map it; more than two are not told apart.
        mm_id_mapcount: How many entries each of the two has.
        maybe_mapped_shared: More than one address space may map it.
    """

    __slots__ = (
        "deferred_split",
        "entire_mapcount",
        "exclusive",
        "maybe_mapped_shared",
        "mm_id",
        "mm_id_mapcount",
        "nr_pages_mapped",
        "page_mapcount",
        "partially_mapped",
        "pincount",
    )

    def __init__(self, pfn: int, order: int) -> None:
        super().__init__(pfn, order)
        self.entire_mapcount = 0
        self.page_mapcount = array("i", bytes(4 << order))
        self.nr_pages_mapped = 0
        self.exclusive = bytearray(1 << order)
        self.pincount = 0
        self.deferred_split = False
        self.partially_mapped = False
        self.mm_id: list[MmStruct | None] = [None, None]
        self.mm_id_mapcount = [0, 0]
        self.maybe_mapped_shared = False

    def maybe_dma_pinned(self) -> bool:
        """Tell whether somebody pinned it.

        Source: include/linux/mm.h, folio_maybe_dma_pinned()
        """
        return self.pincount > 0

    def page_exclusive(self, pfn: int) -> bool:
        """Tell whether page *pfn* of it belongs to one process.

        Source: include/linux/page-flags.h, PageAnonExclusive()
        """
        return bool(self.exclusive[pfn - self.pfn])

    def add_mapcount(self, nr: int, mm: MmStruct) -> None:
        """Count *nr* more entries, of *mm*: folio_add_large_mapcount().

        Source: include/linux/rmap.h, folio_add_large_mapcount()
        """
        total = self.mapcount = self.mapcount + nr
        ids, counts = self.mm_id, self.mm_id_mapcount
        if mm in ids:
            counts[ids.index(mm)] += nr
        elif None in ids:
            slot = ids.index(None)
            ids[slot] = mm
            counts[slot] = nr
            if total != nr:
                self.maybe_mapped_shared = True

    def sub_mapcount(self, nr: int, mm: MmStruct) -> None:
        """Count *nr* entries of *mm* less: folio_sub_large_mapcount().

        Once one of the two known address spaces has all entries, it is the only one.
        What it had before it became known is not in its count, so that may come late.

        Source: include/linux/rmap.h, folio_sub_large_mapcount()
        """
        self.mapcount -= nr
        ids, counts = self.mm_id, self.mm_id_mapcount
        if mm in ids:
            slot = ids.index(mm)
            counts[slot] = max(counts[slot] - nr, 0)
            if counts[slot]:
                return
            ids[slot] = None
        if self.mapcount in counts:
            self.maybe_mapped_shared = False


class VmArea:
    """A range of one address space with one set of rights: struct vm_area_struct.

    Attributes:
        mm: The address space.
        start, end: Its addresses, end not included.
        flags: The ``VM_`` bits.
        page_prot: The entry bits that a new page starts from.
        pgoff: Of its first page in the file, or its address in pages if it has none.
        anon_vma: Set once a private page was, or will be, made.
        file: What it maps, or ``None`` for anonymous memory.
        ops: Who handles its faults, or ``None`` for anonymous memory: vm_ops.
        uffd: The userfaultfd context that watches it, or ``None``.
        vm_lock: Held for reading by who works in it without the mmap lock; made when
            it is first taken.
        vm_lock_seq: Which holding of the mmap lock last marked it as being changed.
        private_data: What its owner keeps with it: vm_private_data.
        maybe_guard: Guard regions were installed in it: VM_MAYBE_GUARD, which the
            kernel has among the flags, and which no merge or change of flags loses.
    """

    __slots__ = (
        "anon_vma",
        "end",
        "file",
        "flags",
        "maybe_guard",
        "mm",
        "ops",
        "page_prot",
        "pgoff",
        "private_data",
        "start",
        "uffd",
        "vm_lock",
        "vm_lock_seq",
    )

    def __init__(
        self, mm: MmStruct, start: int, end: int, flags: int, page_prot: int, pgoff: int
    ) -> None:
        self.mm = mm
        self.start = start
        self.end = end
        self.flags = flags
        self.page_prot = page_prot
        self.pgoff = pgoff
        self.anon_vma: AnonVma | None = None
        self.file: File | None = None
        self.ops: VmOperations | None = None
        self.uffd: UserfaultfdCtx | None = None
        self.vm_lock: RwSemaphore | None = None
        self.vm_lock_seq = 0
        self.private_data: HugetlbVmaLock | PrivateReservation | None = None
        self.maybe_guard = False

    @property
    def anonymous(self) -> bool:
        """Whether nobody but the kernel itself fills it: vma_is_anonymous().

        Source: include/linux/mm.h, vma_is_anonymous()
        """
        return self.ops is None

    @property
    def dax(self) -> bool:
        """Whether it maps persistent memory without a page cache: vma_is_dax().

        Source: include/linux/fs.h, vma_is_dax()
        """
        return self.ops is not None and self.ops.dax

    def __repr__(self) -> str:
        """Name it by range and flags."""
        return f"<VmArea {self.start:#x}-{self.end:#x} flags={self.flags:#x}>"


class MmStruct:
    """One address space: struct mm_struct.

    Attributes:
        pgd: Physical address of its top-level table.
        context: Its address-space number with generation, owned by arch/arm64/mm.
        vmas: Its areas, by address.
        cpumask: CPUs that ever ran it, whose TLBs may know it: mm_cpumask(). Others
            than arm64 interrupt these; on arm64 a broadcast reaches every CPU.
        mmap_lock: Protects the areas.
        page_table_lock: Protects upper-level tables and tells who changes them.
        tlb_flush_pending: How many gathers are at work: mm_tlb_flush_pending().
        tlb_flush_batched: Batches of unmapping that were begun, and how many of them
            were flushed: see `TLB_FLUSH_BATCH_FLUSHED_SHIFT`.
        anonpages, filepages, shmempages, swapents: Resident pages by kind, in pages.
        pgtables: Tables in use, by level (1 for PUD to 3 for PTE tables).
        total_vm, locked_vm: Pages mapped and pages locked.
        users: Threads and borrowers that may use the addresses.
        hugetlb_usage: Pages of huge pages that it mapped, less those that it unmapped;
            of a shared table these may be different address spaces.
        huge_zero: It holds a reference to the huge zero folio: MMF_HUGE_ZERO_FOLIO.
        has_pinned: Pages of it were pinned once: MMF_HAS_PINNED.
        write_protect_seq: Odd while a fork makes its private pages read-only.
        comm: The name of its process, as reports give it.
    """

    __slots__ = (
        "anonpages",
        "comm",
        "context",
        "cpumask",
        "filepages",
        "has_pinned",
        "huge_zero",
        "hugetlb_usage",
        "locked_vm",
        "mmap_base",
        "mmap_lock",
        "page_table_lock",
        "pgd",
        "pgtables",
        "regimes",
        "shmempages",
        "swapents",
        "tlb_flush_batched",
        "tlb_flush_pending",
        "total_vm",
        "users",
        "vmas",
        "write_protect_seq",
    )

    def __init__(
        self, pgd: int, mmap_base: int, mmap_lock: RwSemaphore, ptl: SpinLock
    ) -> None:
        self.pgd = pgd
        self.mmap_base = mmap_base
        self.context = 0
        self.cpumask: set[int] = set()
        self.regimes: tuple[Any, Any] | None = None
        self.vmas: list[VmArea] = []
        self.mmap_lock = mmap_lock
        self.page_table_lock = ptl
        self.tlb_flush_pending = 0
        self.tlb_flush_batched = 0
        self.anonpages = 0
        self.filepages = 0
        self.shmempages = 0
        self.swapents = 0
        self.pgtables = [0, 0, 0, 0]
        self.total_vm = 0
        self.locked_vm = 0
        self.users = 1
        self.huge_zero = False
        self.hugetlb_usage = 0
        self.has_pinned = False
        self.write_protect_seq = 0
        self.comm = "a.out"

    @property
    def tlb_flush_batched_pending(self) -> bool:
        """Whether a batch was begun and is not known to be flushed.

        Source: none; it is what flush_tlb_batched_pending() asks first.
        """
        pending = self.tlb_flush_batched & TLB_FLUSH_BATCH_PENDING_MASK
        return pending != self.tlb_flush_batched >> TLB_FLUSH_BATCH_FLUSHED_SHIFT


@dataclass(slots=True)
class VmFault:
    """One fault on its way through the handlers: struct vm_fault.

    Attributes:
        vma: The area.
        address: Page-aligned.
        real_address: As accessed.
        flags: The ``FAULT_FLAG_`` bits.
        pmd, pte: Where the entries stand, once found; ``pte`` is ``None`` without one.
        orig_pmd, orig_pte: What they said when they were first read.
        page: The folio that the fault is about, once known.
        cow_page: The folio that takes the place of a file's: a private copy.
        pgoff: The place of the page in what the area maps, in pages.
        prealloc_pte: A page table for the day when it is needed.
        ptl: The lock on the table, while held.
    """

    vma: VmArea
    address: int
    real_address: int
    flags: int
    pmd: int = 0
    pud: int = 0
    pte: int | None = None
    orig_pmd: int = 0
    orig_pte: int = 0
    page: Folio | None = None
    cow_page: Folio | None = None
    pgoff: int = 0
    prealloc_pte: Folio | None = None
    ptl: SpinLock | None = None


def folio_maybe_mapped_shared(folio: Folio) -> bool:
    """Tell whether more than one address space may map *folio*.

    Source: include/linux/mm.h, folio_maybe_mapped_shared()
    """
    if isinstance(folio, LargeFolio):
        return folio.maybe_mapped_shared
    return folio.mapcount > 1
