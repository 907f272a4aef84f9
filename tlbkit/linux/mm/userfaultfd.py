"""What user space lets the kernel do to missing pages: mm/userfaultfd.c.

It fills them (COPY, ZEROPAGE), protects them (WRITEPROTECT), and moves pages to them
from elsewhere without copying (MOVE). MOVE takes a run of present pages at a time and
flushes once for all of them: their source entries are cleared one by one, their
destination entries become valid at once, and both tables stay locked until the flush of
the source is done. So other CPUs may reach a page by both addresses for a while, but
not by the old one when the call returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.permission import EL0_READ
from tlbkit.errors import TlbkitError
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pmd_trans_huge,
    pte_dirty,
    pte_mkdirty,
    pte_mkuffd_wp,
    pte_none,
    pte_present,
)
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    MM_CP_TRY_CHANGE_WRITABLE,
    MM_CP_UFFD_WP,
    MM_CP_UFFD_WP_RESOLVE,
    VM_ACCESS_FLAGS,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_SHADOW_STACK,
    VM_SHARED,
    VM_UFFD,
    VM_UFFD_WP,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import PG_locked, VmArea
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_trylock, folio_unlock
from tlbkit.linux.include.linux.swapops import (
    is_migration_entry,
    non_swap_entry,
    pte_none_mostly,
    pte_swp_exclusive,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    uffd_disable_huge_pmd_share,
    userfaultfd_wp,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EBUSY,
    EEXIST,
    EFAULT,
    EINTR,
    EINVAL,
    ENOENT,
    ENOMEM,
    Signal,
)
from tlbkit.linux.include.uapi.linux.userfaultfd import (
    UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES,
)

if TYPE_CHECKING:
    from tlbkit.arm64.machine import Machine
    from tlbkit.linux.fs.userfaultfd import UserfaultfdCtx
    from tlbkit.linux.include.linux.mm_types import AnonVma, Folio, MmStruct
    from tlbkit.linux.include.linux.swapops import SwpEntry
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.kernel.locking import SpinLock

_TRIES_BEFORE_GIVING_UP: Final = 64
_NOT_MOVABLE: Final = VM_PFNMAP | VM_IO | VM_HUGETLB | VM_MIXEDMAP | VM_SHADOW_STACK


class MoveLivelockError(TlbkitError):
    """A move tries the same page for ever, though nothing changes between two tries."""

    def __init__(self, cpu: int, address: int) -> None:
        super().__init__(
            f"CPU {cpu}: UFFDIO_MOVE has tried {_TRIES_BEFORE_GIVING_UP} times to move "
            f"the page at {address:#x} and would go on; the call never returns"
        )
        self.cpu = cpu
        self.address = address


@dataclass(slots=True)
class Move:
    """How far one UFFDIO_MOVE has come: the variables of move_pages().

    Attributes:
        mm: The address space, in which both areas are.
        src_vma, dst_vma: The areas, locked for reading; they may be one.
        src_addr, dst_addr: The next page on either side.
        src_end: Where the source range ends.
        holes: Whether pages that are not there count as moved.
        src_pmd, dst_pmd: Where the PMD entries of the next page stand.
        dst_pmdval: What the destination's said.
        huge: Whether the source's is a block, which is locked then.
        tries: How often this page was tried already.
    """

    mm: MmStruct
    src_vma: VmArea
    dst_vma: VmArea
    src_addr: int
    dst_addr: int
    src_end: int
    holes: bool
    src_pmd: int = 0
    dst_pmd: int = 0
    dst_pmdval: int = 0
    huge: bool = False
    tries: int = 0


@dataclass(frozen=True, slots=True)
class PtePair:
    """The two entries of one page's move, as they were when they were read.

    Attributes:
        src_pte, dst_pte: Where they stand.
        orig_src_pte, orig_dst_pte: What they said.
        dst_pmd: Where the entry stands that points to the destination's table.
        dst_pmdval: What it said.
        src_ptl, dst_ptl: The locks of the two tables, which may be one.
    """

    src_pte: int
    dst_pte: int
    orig_src_pte: int
    orig_dst_pte: int
    dst_pmd: int
    dst_pmdval: int
    src_ptl: SpinLock
    dst_ptl: SpinLock


@dataclass(slots=True)
class Fill:
    """How far one COPY, ZEROPAGE or CONTINUE has come.

    Attributes:
        dst_start: Where the missing pages begin.
        src_start: Where their contents begin, or ``None`` for the zero page.
        length: In bytes.
        wp: Whether the new pages are write-protected.
        done: Bytes filled.
        folio: A new page whose contents could not be copied under the lock.
        present: Only pages that the file has already are mapped: CONTINUE.
    """

    dst_start: int
    src_start: int | None
    length: int
    wp: bool = False
    done: int = 0
    folio: Folio | None = None
    present: bool = False


class HeldFolio:
    """A source page that is held and locked while its move is prepared.

    Attributes:
        folio: The page, or ``None``.
        pte: What its entry said when it was taken.
        referenced: Whether a reference is held besides the lock.
        anon_vma: Its anon_vma, referenced and locked for writing, or ``None``.
    """

    __slots__ = ("_kernel", "anon_vma", "folio", "pte", "referenced")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.folio: Folio | None = None
        self.pte = 0
        self.referenced = False
        self.anon_vma: AnonVma | None = None

    def take(self, folio: Folio, pte: int) -> None:
        """Note that *folio* is held; it has its reference and its lock already."""
        self.folio = folio
        self.pte = pte
        self.referenced = True

    def lock(self, folio: Folio) -> None:
        """Note that *folio* is locked, and that its page table keeps it."""
        self.folio = folio
        self.referenced = False

    def drop_reference(self) -> None:
        """Let go of the reference and keep the lock: the page table holds one too."""
        assert self.folio is not None
        self.referenced = False
        self._kernel.swap.folio_put(self.folio)

    def release_folio(self) -> None:
        """Let go of the page."""
        folio, self.folio = self.folio, None
        if folio is not None:
            folio_unlock(self._kernel.machine, folio)
            if self.referenced:
                self._kernel.swap.folio_put(folio)

    def release(self) -> None:
        """Let go of everything."""
        if self.anon_vma is not None:
            self._kernel.rmap.anon_vma_unlock_write(self.anon_vma)
            self._kernel.rmap.put_anon_vma(self.anon_vma)
            self.anon_vma = None
        self.release_folio()


def double_pt_lock(ptl1: SpinLock, ptl2: SpinLock) -> None:
    """Take the locks of two tables, which may be one, the lower address first."""
    first, second = sorted((ptl1, ptl2), key=lambda ptl: ptl.address)
    first.acquire()
    if second is not first:
        second.acquire()


def double_pt_unlock(ptl1: SpinLock, ptl2: SpinLock) -> None:
    """Release what `double_pt_lock` took."""
    ptl1.release()
    if ptl2 is not ptl1:
        ptl2.release()


class Userfaultfd:
    """Filling, protecting and moving pages on behalf of user space."""

    __slots__ = ("_kernel", "_machine", "_memory", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine: Machine = kernel.machine
        self._memory = kernel.machine.memory
        self._pgtable = kernel.pgtable

    # -- locking areas ---------------------------------------------------------------

    def find_vma_and_prepare_anon(self, mm: MmStruct, addr: int) -> VmArea | int:
        """Return the area of *addr*, ready for private pages; the mmap lock is held."""
        mm.mmap_lock.assert_held()
        vma = self._kernel.vma.vma_lookup(mm, addr)
        if vma is None:
            return -ENOENT
        if not vma.flags & VM_SHARED:
            self._kernel.rmap.anon_vma_prepare(vma)
        return vma

    def uffd_lock_vma(self, mm: MmStruct, address: int) -> VmArea | int:
        """Return the area of *address*, locked for reading and ready for private pages.

        ``-ENOENT`` if there is none.
        """
        vma = self._kernel.mmap_lock.lock_vma_under_rcu(mm, address)
        if vma is not None:
            if vma.flags & VM_SHARED or vma.anon_vma is not None:
                return vma
            # An anon_vma must be made first, and for that the mmap lock is needed.
            self._kernel.mmap_lock.vma_end_read(vma)
        mm.mmap_lock.down_read()
        found = self.find_vma_and_prepare_anon(mm, address)
        if isinstance(found, VmArea):
            self._kernel.mmap_lock.vma_start_read_locked(found)
        mm.mmap_lock.up_read()
        return found

    def uffd_mfill_lock(self, mm: MmStruct, start: int, length: int) -> VmArea | int:
        """Return the watched area that all of a range is in, locked for reading."""
        vma = self.uffd_lock_vma(mm, start)
        if isinstance(vma, int):
            return vma
        if start + length <= vma.end and vma.uffd is not None:
            return vma
        self._kernel.mmap_lock.vma_end_read(vma)
        return -ENOENT

    def uffd_move_lock(
        self, mm: MmStruct, dst_start: int, src_start: int
    ) -> tuple[VmArea, VmArea] | int:
        """Return the areas of a destination and a source, each locked once.

        The source is only tried while the destination is locked: somebody who changes
        both could wait for the one that is held and hold the one that is wanted. If the
        try fails, both are locked under the mmap lock, which keeps changers out.
        """
        locks = self._kernel.mmap_lock
        dst_vma = self.uffd_lock_vma(mm, dst_start)
        if isinstance(dst_vma, int):
            return dst_vma
        if dst_vma.start <= src_start < dst_vma.end:
            return dst_vma, dst_vma
        src_vma = locks.lock_vma_under_rcu(mm, src_start)
        if src_vma is not None:
            return dst_vma, src_vma
        locks.vma_end_read(dst_vma)
        mm.mmap_lock.down_read()
        result = self._uffd_move_lock_slow(mm, dst_start, src_start)
        mm.mmap_lock.up_read()
        return result

    def _uffd_move_lock_slow(
        self, mm: MmStruct, dst_start: int, src_start: int
    ) -> tuple[VmArea, VmArea] | int:
        locks = self._kernel.mmap_lock
        dst_vma = self.find_vma_and_prepare_anon(mm, dst_start)
        if isinstance(dst_vma, int):
            return dst_vma
        src_vma: VmArea | None = dst_vma
        if not dst_vma.start <= src_start < dst_vma.end:
            src_vma = self._kernel.vma.vma_lookup(mm, src_start)
        if src_vma is None:
            return -ENOENT
        locks.vma_start_read_locked(dst_vma)
        if src_vma is not dst_vma:
            locks.vma_start_read_locked(src_vma)
        return dst_vma, src_vma

    def uffd_move_unlock(self, dst_vma: VmArea, src_vma: VmArea) -> None:
        """Release what `uffd_move_lock` locked."""
        self._kernel.mmap_lock.vma_end_read(src_vma)
        if src_vma is not dst_vma:
            self._kernel.mmap_lock.vma_end_read(dst_vma)

    # -- COPY and ZEROPAGE -----------------------------------------------------------

    def mfill_atomic_copy(
        self, ctx: UserfaultfdCtx, dst: int, src: int, length: int, *, wp: bool
    ) -> int:
        """Fill missing pages with copies from *src*, write-protected if *wp*.

        Returns:
            Bytes filled, or a negative error number if there are none.
        """
        return self.mfill_atomic(ctx, Fill(dst, src, length, wp))

    def mfill_atomic_zeropage(
        self, ctx: UserfaultfdCtx, start: int, length: int
    ) -> int:
        """Map the zero page at missing pages; returns as `mfill_atomic_copy`."""
        return self.mfill_atomic(ctx, Fill(start, None, length))

    def mfill_atomic_continue(
        self, ctx: UserfaultfdCtx, start: int, length: int, *, wp: bool
    ) -> int:
        """Map pages that the file has already; returns as `mfill_atomic_copy`."""
        return self.mfill_atomic(ctx, Fill(start, None, length, wp, present=True))

    def mfill_atomic(self, ctx: UserfaultfdCtx, fill: Fill) -> int:
        """Fill missing pages one by one, up to the first that cannot be.

        User memory that is not there cannot be faulted in under the lock of the area.
        Then the new page is kept, the lock dropped, the copy made, and everything
        checked again.
        """
        try:
            while True:
                vma = self.uffd_mfill_lock(ctx.mm, fill.dst_start, fill.length)
                if isinstance(vma, int):
                    return fill.done or vma
                ctx.map_changing_lock.down_read()
                error = self._mfill_locked(ctx, vma, fill)
                ctx.map_changing_lock.up_read()
                self._kernel.mmap_lock.vma_end_read(vma)
                if fill.folio is None:
                    return fill.done or error
                assert fill.src_start is not None
                if not self._fault_in_and_copy(fill.folio, fill.src_start + fill.done):
                    return fill.done or -EFAULT
        finally:
            if fill.folio is not None:
                self._kernel.swap.folio_put(fill.folio)

    def _mfill_locked(self, ctx: UserfaultfdCtx, vma: VmArea, fill: Fill) -> int:
        """Fill what can be filled without dropping the lock; 0 or an error number."""
        if ctx.mmap_changing and not self._machine.skips("mmap_changing"):
            return -EAGAIN
        if fill.wp and not vma.flags & VM_UFFD_WP:
            return -EINVAL
        shmem = vma.ops is not None and vma.ops.is_shmem
        if not shmem and (fill.present or not vma.anonymous):
            return -EINVAL
        while fill.done < fill.length:
            error = self._mfill_atomic_pte(vma, fill)
            if error:
                return error
            fill.done += self._pgtable.page_size
            if self._kernel.sched.fatal_signal_pending(ctx.mm):
                return -EINTR
        return 0

    def _mfill_atomic_pte(self, vma: VmArea, fill: Fill) -> int:
        """Fill the next page; 0 or a negative error number."""
        dst = fill.dst_start + fill.done
        dst_pmd = self._kernel.memory.pmd_alloc(vma.mm, dst)
        if dst_pmd is None or not self._kernel.memory.pte_alloc(vma.mm, dst_pmd):
            return -ENOMEM
        if not pmd_table(self._pgtable.read(dst_pmd)):
            return -EEXIST
        if fill.present:
            return self.mfill_atomic_pte_continue(dst_pmd, vma, dst, wp=fill.wp)
        if vma.flags & VM_SHARED:
            return self.shmem_mfill_atomic_pte(dst_pmd, vma, dst, fill)
        if fill.src_start is None:
            return self.mfill_atomic_pte_zeropage(dst_pmd, vma, dst)
        return self.mfill_atomic_pte_copy(dst_pmd, vma, dst, fill)

    def mfill_atomic_pte_copy(
        self, dst_pmd: int, vma: VmArea, dst: int, fill: Fill
    ) -> int:
        """Fill one page with a copy.

        If the source cannot be read without a fault, the new page is left in *fill*.
        """
        folio = self.filled_folio(fill)
        if isinstance(folio, int):
            return folio
        error = self.mfill_atomic_install_pte(dst_pmd, vma, dst, folio, wp=fill.wp)
        if error:
            self._kernel.swap.folio_put(folio)
        return error

    def filled_folio(self, fill: Fill) -> Folio | int:
        """Return a new page with the next contents, or a negative error number.

        ``-ENOENT`` with the page left in *fill*: the source cannot be read without a
        fault.
        """
        folio, fill.folio = fill.folio, None
        if folio is not None:
            return folio
        if fill.src_start is None:
            return self._kernel.page_alloc.alloc_zeroed() or -ENOMEM
        folio = self._kernel.page_alloc.alloc()
        if folio is None:
            return -ENOMEM
        if not self._copy_from_user(folio, fill.src_start + fill.done):
            fill.folio = folio
            return -ENOENT
        return folio

    def shmem_mfill_atomic_pte(
        self, dst_pmd: int, vma: VmArea, dst: int, fill: Fill
    ) -> int:
        """Fill one page of shared memory: the file gets it, and then the area.

        Source: mm/shmem.c.
        """
        folio = self.filled_folio(fill)
        if isinstance(folio, int):
            return folio
        index = self._kernel.rmap.linear_page_index(vma, dst)
        error = self._kernel.shmem.shmem_add_to_page_cache(vma, folio, index)
        if not error:
            error = self.mfill_atomic_install_pte(dst_pmd, vma, dst, folio, wp=fill.wp)
            if error:
                self._kernel.filemap.filemap_remove_folio(folio)
                self._kernel.swap.lru_add_drain()
            folio_unlock(self._machine, folio)
        if error:
            self._kernel.swap.folio_put(folio)
        return error

    def mfill_atomic_pte_continue(
        self, dst_pmd: int, vma: VmArea, dst: int, *, wp: bool
    ) -> int:
        """Map a page that the file has already; ``-EFAULT`` if it has none."""
        assert vma.file is not None
        index = self._kernel.rmap.linear_page_index(vma, dst)
        mapping = vma.file.mapping
        folio = self._kernel.filemap.filemap_get_folio(mapping, index)
        if folio is None or index >= self._kernel.filemap.pages_in_file(mapping.host):
            if folio is not None:
                self._kernel.swap.folio_put(folio)
            return -EFAULT
        folio_lock(self._machine, folio)
        error = self.mfill_atomic_install_pte(dst_pmd, vma, dst, folio, wp=wp)
        folio_unlock(self._machine, folio)
        if error:
            self._kernel.swap.folio_put(folio)
        return error

    def mfill_atomic_install_pte(
        self, dst_pmd: int, vma: VmArea, dst: int, folio: Folio, *, wp: bool
    ) -> int:
        """Map a page where no page is; a marker of write protection gives way.

        A page of a file in a private area is not writable: a write has to copy it.
        """
        pgtable = self._pgtable
        cached = folio.mapping is not None
        pfn = folio.pfn
        if cached:
            pfn += self._kernel.rmap.linear_page_index(vma, dst) - folio.index
        entry = pte_mkdirty(pgtable.pfn_pte(pfn, vma.page_prot))
        if vma.flags & VM_WRITE and (vma.flags & VM_SHARED or not cached):
            entry = pgtable.pte_mkwrite(entry)
        if wp:
            entry = pte_mkuffd_wp(entry)
        ptep = pgtable.pte_offset(dst_pmd, dst)
        with self._kernel.memory.pte_lockptr(pgtable.read(dst_pmd)):
            empty = pte_none_mostly(pgtable.read(ptep))
            if not empty and not self._machine.skips("pte_none_mostly"):
                return -EEXIST
            if cached:
                self._kernel.rmap.folio_add_file_rmap_pte(folio, pfn, vma)
                self._kernel.swap.inc_file_counter(vma.mm, folio)
            else:
                self._kernel.rmap.folio_add_new_anon_rmap(folio, vma, dst)
                self._kernel.swap.folio_add_lru(folio)
                vma.mm.anonpages += 1
            pgtable.set_ptes(vma.mm, dst, ptep, entry, 1)
        return 0

    def mfill_atomic_pte_zeropage(self, dst_pmd: int, vma: VmArea, dst: int) -> int:
        """Map the zero page where nothing is, not even a marker."""
        pgtable = self._pgtable
        entry = pgtable.pfn_pte(self._kernel.zero_pfn, vma.page_prot)
        ptep = pgtable.pte_offset(dst_pmd, dst)
        with self._kernel.memory.pte_lockptr(pgtable.read(dst_pmd)):
            empty = pte_none(pgtable.read(ptep))
            if not empty and not self._machine.skips("pte_none"):
                return -EEXIST
            pgtable.set_pte(ptep, pgtable.pte_mkspecial(entry))
        return 0

    def _copy_from_user(self, folio: Folio, src: int) -> bool:
        """Copy one page of the running process; false if that would fault."""
        page_size = self._pgtable.page_size
        cpu = self._machine.running
        target = folio.pfn << self._pgtable.page_shift
        # Two pieces where the source does not begin with a page, one otherwise.
        first = page_size - src % page_size
        for offset, size in ((0, first), (first, page_size - first)):
            if not size:
                continue
            pa = cpu.translate(src + offset, EL0_READ)
            if isinstance(pa, Fault):
                return False
            if size == page_size:
                self._memory.copy_frame(pa >> self._pgtable.page_shift, folio.pfn)
                continue
            for at in range(0, size, 8):
                self._memory.write(target + offset + at, self._memory.read(pa + at))
        return True

    def _fault_in_and_copy(self, folio: Folio, src: int) -> bool:
        """Copy one page of the running process, whose faults are handled now.

        Returns:
            False if the process has nothing that it could read there.
        """
        cpu = self._machine.running
        mm = self._kernel.sched.current[cpu.number]
        assert mm is not None
        page_size = self._pgtable.page_size
        while not self._copy_from_user(folio, src):
            for address in (src, src + page_size - 8):
                fault = cpu.translate(address, EL0_READ)
                if not isinstance(fault, Fault):
                    continue
                try:
                    self._kernel.fault.do_mem_abort(mm, address, EL0_READ, fault)
                except Signal:
                    return False
        return True

    # -- WRITEPROTECT ----------------------------------------------------------------

    def uffd_wp_range(
        self, vma: VmArea, start: int, length: int, *, enable_wp: bool
    ) -> int:
        """Protect the pages of a range of *vma*, or give writes free.

        Giving free tries to give write permission back at once, where a write fault
        would do no more than that.

        Returns:
            How many entries changed, or a negative error number.
        """
        how = MM_CP_UFFD_WP if enable_wp else MM_CP_UFFD_WP_RESOLVE
        mprotect = self._kernel.mprotect
        if not enable_wp and mprotect.vma_wants_manual_pte_write_upgrade(vma):
            how |= MM_CP_TRY_CHANGE_WRITABLE
        tlb = self._kernel.gather.tlb_gather_mmu(vma.mm)
        result = mprotect.change_protection(tlb, vma, start, start + length, how)
        self._kernel.gather.tlb_finish_mmu(tlb)
        return result

    def mwriteprotect_range(
        self, ctx: UserfaultfdCtx, start: int, length: int, *, enable_wp: bool
    ) -> int:
        """Protect or give free a range of areas, all watched; 0 or an error number.

        Areas before the one that gives an error keep their change.
        """
        mm = ctx.mm
        end = start + length
        mm.mmap_lock.down_read()
        ctx.map_changing_lock.down_read()
        error = -EAGAIN if ctx.mmap_changing else -ENOENT
        if not ctx.mmap_changing:
            for vma in self._kernel.vma.overlapping(mm, start, end):
                if not userfaultfd_wp(vma):
                    error = -ENOENT
                    break
                first, last = max(vma.start, start), min(vma.end, end)
                changed = self.uffd_wp_range(
                    vma, first, last - first, enable_wp=enable_wp
                )
                error = min(changed, 0)
                if error:
                    break
        ctx.map_changing_lock.up_read()
        mm.mmap_lock.up_read()
        return error

    # -- MOVE: one call --------------------------------------------------------------

    def move_pages(
        self,
        ctx: UserfaultfdCtx,
        dst_start: int,
        src_start: int,
        length: int,
        mode: int,
    ) -> int:
        """Move private anonymous pages within one address space, without copying.

        Args:
            ctx: Who watches the destination.
            dst_start: Page-aligned; nothing may be there.
            src_start: Page-aligned; pages there must belong to this process alone.
            length: In bytes, of pages.
            mode: The ``UFFDIO_MOVE_MODE_`` bits.

        Returns:
            Bytes moved, or a negative error number if there are none; never 0. Who gets
            fewer bytes than *length* learns the reason by asking for the rest.
        """
        locked = self.uffd_move_lock(ctx.mm, dst_start, src_start)
        if isinstance(locked, int):
            return locked
        dst_vma, src_vma = locked
        ctx.map_changing_lock.down_read()
        try:
            if ctx.mmap_changing and not self._machine.skips("mmap_changing"):
                return -EAGAIN
            if src_vma.flags & VM_SHARED or src_start + length > src_vma.end:
                return -EINVAL
            if dst_vma.flags & VM_SHARED or dst_start + length > dst_vma.end:
                return -EINVAL
            error = self.validate_move_areas(ctx, src_vma, dst_vma)
            if error:
                return error
            return self.move_pages_loop(
                Move(
                    ctx.mm,
                    src_vma,
                    dst_vma,
                    src_start,
                    dst_start,
                    src_start + length,
                    bool(mode & UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES),
                )
            )
        finally:
            ctx.map_changing_lock.up_read()
            self.uffd_move_unlock(dst_vma, src_vma)

    @staticmethod
    def validate_move_areas(
        ctx: UserfaultfdCtx, src_vma: VmArea, dst_vma: VmArea
    ) -> int:
        """Return ``-EINVAL`` unless pages of one area may be pages of the other."""
        differ = src_vma.flags ^ dst_vma.flags
        if differ & VM_ACCESS_FLAGS or src_vma.page_prot != dst_vma.page_prot:
            return -EINVAL
        if differ & VM_LOCKED or not src_vma.flags & VM_WRITE:
            return -EINVAL
        if (src_vma.flags | dst_vma.flags) & _NOT_MOVABLE:
            return -EINVAL
        if dst_vma.uffd is not ctx:
            return -EINVAL
        if not src_vma.anonymous or not dst_vma.anonymous:
            return -EINVAL
        return 0

    def move_pages_loop(self, move: Move) -> int:
        """Move page by page, run by run or block by block: the loop of move_pages().

        ``-EAGAIN`` from a step means that something changed under it: it is repeated.
        """
        moved = 0
        error = 0
        while move.src_addr < move.src_end:
            failed = self.move_prepare(move)
            if failed:
                error = failed
                break
            step = 0
            if move.huge:
                error = self.move_block(move)
                step = self._pgtable.pmd_size
            else:
                result = self.move_pages_ptes(move, move.src_end - move.src_addr)
                if result < 0:
                    error = result
                else:
                    error = 0
                    step = result
            if self._kernel.sched.fatal_signal_pending(move.mm):
                if error in {0, -EAGAIN}:
                    error = -EINTR
                break
            if error == -EAGAIN:
                self.move_again(move)
                continue
            if error:
                break
            self.move_on(move, step)
            moved += step
        return moved or error

    def move_prepare(self, move: Move) -> int:
        """Find or make the tables of the next page; 0 or a negative error number.

        A block that cannot move as one is split. One that can is locked, and
        ``move.huge`` says so.
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        while True:
            src_pmd = pgtable.find_pmd(move.mm, move.src_addr)
            if src_pmd is None:
                if not move.holes:
                    return -ENOENT
                src_pmd = memory.pmd_alloc(move.mm, move.src_addr)
                if src_pmd is None:
                    return -ENOMEM
            dst_pmd = memory.pmd_alloc(move.mm, move.dst_addr)
            if dst_pmd is None:
                return -ENOMEM
            move.src_pmd, move.dst_pmd = src_pmd, dst_pmd
            move.dst_pmdval = pgtable.read(dst_pmd)
            if pmd_trans_huge(move.dst_pmdval):
                return -EEXIST
            move.huge = self._lock_block(src_pmd)
            src_pmdval = pgtable.read(src_pmd)
            if not move.huge:
                break
            if not self.move_splits_huge_pmd(move) and pte_none(move.dst_pmdval):
                return 0
            shared = self.block_is_shared(src_pmdval)
            memory.pmd_lockptr(src_pmd).release()
            if shared:
                return -EBUSY
            self._kernel.huge_memory.split_huge_pmd(
                move.src_vma, src_pmd, move.src_addr
            )
        if pte_none(src_pmdval):
            if not move.holes:
                return -ENOENT
            if not memory.pte_alloc(move.mm, src_pmd):
                return -ENOMEM
        return 0 if memory.pte_alloc(move.mm, dst_pmd) else -ENOMEM

    def _lock_block(self, pmdp: int) -> bool:
        """Lock a PMD entry if it is a block; tell whether: pmd_trans_huge_lock()."""
        if not pmd_trans_huge(self._pgtable.read(pmdp)):
            return False
        ptl = self._kernel.memory.pmd_lockptr(pmdp)
        ptl.acquire()
        if pmd_trans_huge(self._pgtable.read(pmdp)):
            return True
        ptl.release()
        return False

    def move_splits_huge_pmd(self, move: Move) -> bool:
        """Tell whether what is left of a move cannot take a block as one."""
        size = self._pgtable.pmd_size
        return bool(
            (move.src_addr | move.dst_addr) & (size - 1)
            or move.src_end - move.src_addr < size
        )

    def block_is_shared(self, pmd: int) -> bool:
        """Tell whether a block may be another process's too; zeros are nobody's."""
        if self._kernel.huge_memory.is_huge_zero_pmd(pmd):
            return False
        pfn = self._pgtable.pte_pfn(pmd)
        return not self._kernel.page_alloc.folio_of(pfn).page_exclusive(pfn)

    def move_block(self, move: Move) -> int:
        """Move the block that `move_prepare` has locked; 0 or an error number."""
        return self._kernel.huge_memory.move_pages_huge_pmd(
            move.mm,
            move.dst_pmd,
            move.src_pmd,
            move.dst_pmdval,
            move.dst_vma,
            move.src_vma,
            move.dst_addr,
            move.src_addr,
        )

    def move_again(self, move: Move) -> None:
        """Prepare to try the same page again.

        The kernel has no limit. Here nothing but another CPU could make the next try
        differ, so after many the loop is taken for endless.
        """
        move.tries += 1
        if move.tries >= _TRIES_BEFORE_GIVING_UP:
            raise MoveLivelockError(self._machine.running.number, move.src_addr)

    @staticmethod
    def move_on(move: Move, step: int) -> None:
        """Go on to what lies *step* bytes further, on either side."""
        move.src_addr += step
        move.dst_addr += step
        move.tries = 0

    # -- MOVE: one run of pages ------------------------------------------------------

    def move_pages_ptes(self, move: Move, length: int) -> int:
        """Move what can be moved at once, from the next page on.

        A page that is not there, the zero page, and a page in swap are moved alone.
        Present pages are moved together with those that follow them.

        Args:
            move: How far the call has come.
            length: Bytes that are left.

        Returns:
            Bytes moved, or a negative error number.
        """
        held = HeldFolio(self._kernel)
        notifier = self._kernel.mmu_notifier
        end = move.src_addr + length
        with notifier.invalidate_range(move.mm, "CLEAR", move.src_addr, end):
            try:
                while True:
                    pair = self.map_ptes(move)
                    if pair is None:
                        return -EAGAIN
                    if not pte_none(pair.orig_dst_pte):
                        return -EEXIST
                    if pte_none(pair.orig_src_pte):
                        return self._pgtable.page_size if move.holes else -ENOENT
                    moved = held.folio is not None and held.pte != pair.orig_src_pte
                    if moved and not self._machine.skips("pte_same"):
                        return -EAGAIN
                    if not pte_present(pair.orig_src_pte):
                        result = self.move_nonpresent_pte(move, pair, held)
                        if result is None:
                            continue
                        return result
                    if self.is_zero_pfn(pair.orig_src_pte):
                        return self.move_zeropage_pte(move, pair)
                    error = self.hold_folio(move, pair, held)
                    if error == 0:
                        return self.move_present_ptes(move, pair, held, length)
                    if error is not None:
                        return error
            finally:
                held.release()

    def map_ptes(self, move: Move) -> PtePair | None:
        """Read the next page's two entries, each under its lock.

        ``None`` if one of the tables is not there any more.
        """
        pgtable = self._pgtable
        dst_pmdval = pgtable.read(move.dst_pmd)
        src_pmdval = pgtable.read(move.src_pmd)
        if not pmd_table(dst_pmdval) or not pmd_table(src_pmdval):
            return None
        dst_pte = pgtable.pte_offset(move.dst_pmd, move.dst_addr)
        src_pte = pgtable.pte_offset(move.src_pmd, move.src_addr)
        dst_ptl = self._kernel.memory.pte_lockptr(dst_pmdval)
        src_ptl = self._kernel.memory.pte_lockptr(src_pmdval)
        with dst_ptl:
            orig_dst_pte = pgtable.ptep_get(dst_pte)
        with src_ptl:
            orig_src_pte = pgtable.ptep_get(src_pte)
        return PtePair(
            src_pte,
            dst_pte,
            orig_src_pte,
            orig_dst_pte,
            move.dst_pmd,
            dst_pmdval,
            src_ptl,
            dst_ptl,
        )

    def is_zero_pfn(self, pte: int) -> bool:
        """Tell whether an entry maps the zero page."""
        return self._pgtable.pte_pfn(pte) == self._kernel.zero_pfn

    def is_pte_pages_stable(self, pair: PtePair) -> bool:
        """Tell whether the entries still say what they said; both locks are held."""
        read = self._pgtable.ptep_get
        return (
            read(pair.src_pte) == pair.orig_src_pte
            and read(pair.dst_pte) == pair.orig_dst_pte
            and self._pgtable.read(pair.dst_pmd) == pair.dst_pmdval
        )

    def hold_folio(self, move: Move, pair: PtePair, held: HeldFolio) -> int | None:
        """Hold and lock the source page and its anon_vma, and make it small.

        Returns:
            0 once all is held, a negative error number, or ``None`` if something had to
            be waited for: then the entries must be read again.
        """
        if held.folio is None:
            result = self._take_folio(move, pair, held)
            if result != 0:
                return result
        folio = held.folio
        assert folio is not None
        if folio.order:
            head = self._kernel.huge_memory.split_folio(folio)
            if isinstance(head, int):
                return head
            held.folio = head
            held.release_folio()
            return None
        if held.anon_vma is not None:
            return 0
        # Who looks for the users of a page walks its anon_vma without the page's lock.
        held.anon_vma = anon_vma = self._kernel.rmap.folio_get_anon_vma(folio)
        if anon_vma is None:
            return -EAGAIN
        if self._kernel.rmap.anon_vma_trylock_write(anon_vma):
            return 0
        self._kernel.rmap.anon_vma_lock_write(anon_vma)
        return None

    def _take_folio(self, move: Move, pair: PtePair, held: HeldFolio) -> int | None:
        """Hold and lock the page that the source entry maps; as `hold_folio`."""
        pair.src_ptl.acquire()
        same = self._pgtable.ptep_get(pair.src_pte) == pair.orig_src_pte
        if not same and not self._machine.skips("pte_same"):
            pair.src_ptl.release()
            return -EAGAIN
        folio = self._kernel.memory.vm_normal_folio(
            move.src_vma, move.src_addr, pair.orig_src_pte
        )
        if folio is None or not folio.page_exclusive(folio.pfn):
            pair.src_ptl.release()
            return -EBUSY
        locked = folio_trylock(folio)
        if not locked and folio.order:
            # A reference held while waiting would keep everybody from splitting it.
            pair.src_ptl.release()
            self._machine.wait(
                lambda: not folio.flags & PG_locked, "the lock of a large folio"
            )
            return -EAGAIN
        folio.refcount += 1
        pair.src_ptl.release()
        if not locked:
            folio_lock(self._machine, folio)
        held.take(folio, pair.orig_src_pte)
        if not locked:
            return None
        return 0 if folio.anon else -EBUSY

    def move_present_ptes(
        self, move: Move, pair: PtePair, held: HeldFolio, length: int
    ) -> int:
        """Move a run of present pages, and flush their old addresses once.

        The run begins with the page in *held*. It ends where a table on either side
        does, and before the first page that is not as simple as those so far.

        Returns:
            Bytes moved, or a negative error number if the first page cannot be.
        """
        pgtable = self._pgtable
        folio = held.folio
        anon_vma = held.anon_vma
        assert folio is not None
        assert anon_vma is not None
        src_addr, dst_addr = move.src_addr, move.dst_addr
        src_pte, dst_pte = pair.src_pte, pair.dst_pte
        src_end = src_addr + min(
            self.left_in_table(dst_addr, length), self.left_in_table(src_addr, length)
        )
        double_pt_lock(pair.dst_ptl, pair.src_ptl)
        error = self.check_present_pte(pair, folio)
        if error:
            double_pt_unlock(pair.dst_ptl, pair.src_ptl)
            return error
        # The page table has a reference; while it is locked nobody can take that.
        held.drop_reference()
        while True:
            pte = pgtable.ptep_get_and_clear(move.mm, src_addr, src_pte)
            pinned = folio.maybe_dma_pinned()
            if pinned and not self._machine.skips("folio_maybe_dma_pinned"):
                # Somebody was faster, without a lock: put it back and stop.
                pgtable.set_pte(src_pte, pte)
                error = -EBUSY
                break
            self.move_folio(move.dst_vma, dst_addr, folio)
            pgtable.set_pte(dst_pte, self.moved_pte(move.dst_vma, folio, pte))
            src_addr += pgtable.page_size
            if src_addr == src_end:
                break
            dst_addr += pgtable.page_size
            src_pte += 8
            dst_pte += 8
            held.release_folio()
            folio = self.check_ptes_for_batched_move(
                move.src_vma, src_addr, src_pte, dst_pte, anon_vma
            )
            if folio is None:
                break
            held.lock(folio)
        moved = src_addr - move.src_addr
        if moved:
            self._kernel.tlbflush.flush_tlb_range(move.src_vma, move.src_addr, src_addr)
        held.release_folio()
        double_pt_unlock(pair.dst_ptl, pair.src_ptl)
        return moved or error

    def left_in_table(self, addr: int, length: int) -> int:
        """Return how much of *length* bytes from *addr* on is in one PTE table."""
        return (
            self._pgtable.addr_end(addr, addr + length, self._pgtable.pmd_shift) - addr
        )

    def check_present_pte(self, pair: PtePair, folio: Folio) -> int:
        """Return why a run cannot begin with *folio*, or 0; both locks are held."""
        stable = self.is_pte_pages_stable(pair)
        if not stable and not self._machine.skips("is_pte_pages_stable"):
            return -EAGAIN
        if folio.order or folio.maybe_dma_pinned():
            return -EBUSY
        exclusive = folio.page_exclusive(folio.pfn)
        if not exclusive and not self._machine.skips("PageAnonExclusive"):
            return -EBUSY
        return 0

    def check_ptes_for_batched_move(
        self,
        src_vma: VmArea,
        src_addr: int,
        src_pte: int,
        dst_pte: int,
        src_anon_vma: AnonVma,
    ) -> Folio | None:
        """Return the page that goes on a run, locked; ``None`` if the run ends here.

        No reference is taken: its table is locked until it has been moved.
        """
        pgtable = self._pgtable
        empty = pte_none(pgtable.ptep_get(dst_pte))
        if not empty and not self._machine.skips("pte_none"):
            return None
        pte = pgtable.ptep_get(src_pte)
        if pte_none(pte) or not pte_present(pte) or self.is_zero_pfn(pte):
            return None
        folio = self._kernel.memory.vm_normal_folio(src_vma, src_addr, pte)
        if folio is None or not folio_trylock(folio):
            return None
        if (
            not folio.page_exclusive(folio.pfn)
            or folio.order
            or folio.mapping is not src_anon_vma
        ):
            folio_unlock(self._machine, folio)
            return None
        return folio

    def move_folio(self, dst_vma: VmArea, dst_addr: int, folio: Folio) -> None:
        """Let *folio* be found where it is from now on."""
        self._kernel.rmap.folio_move_anon_rmap(folio, dst_vma)
        folio.index = self._kernel.rmap.linear_page_index(dst_vma, dst_addr)

    def moved_pte(self, dst_vma: VmArea, folio: Folio, src_pte: int) -> int:
        """Return the destination's entry: writable, and dirty if the source's was."""
        pte = self._pgtable.pfn_pte(folio.pfn, dst_vma.page_prot)
        if pte_dirty(src_pte):
            pte = pte_mkdirty(pte)
        return self._pgtable.pte_mkwrite(pte)

    def move_zeropage_pte(self, move: Move, pair: PtePair) -> int:
        """Map the zero page at the destination instead; bytes or an error number."""
        pgtable = self._pgtable
        double_pt_lock(pair.dst_ptl, pair.src_ptl)
        stable = self.is_pte_pages_stable(pair)
        stable = stable or self._machine.skips("is_pte_pages_stable")
        if stable:
            zero = pgtable.pfn_pte(self._kernel.zero_pfn, move.dst_vma.page_prot)
            self._kernel.pgtable_generic.ptep_clear_flush(
                move.src_vma, move.src_addr, pair.src_pte
            )
            pgtable.set_pte(pair.dst_pte, pgtable.pte_mkspecial(zero))
        double_pt_unlock(pair.dst_ptl, pair.src_ptl)
        return pgtable.page_size if stable else -EAGAIN

    def move_nonpresent_pte(
        self, move: Move, pair: PtePair, held: HeldFolio
    ) -> int | None:
        """Move an entry whose page is in swap.

        If the swap cache has the page, it is locked first and moves along.

        Returns:
            Bytes moved, a negative error number, or ``None`` if the page had to be
            waited for: then the entries must be read again.
        """
        entry = pte_to_swp_entry(pair.orig_src_pte)
        if is_migration_entry(entry):
            self._kernel.migrate.migration_entry_wait(entry)
            return -EAGAIN
        if non_swap_entry(entry):
            return -EFAULT
        if not pte_swp_exclusive(pair.orig_src_pte):
            return -EBUSY
        if self._kernel.swapfile.get_swap_device(entry) is None:
            return -EAGAIN
        if held.folio is None:
            folio = self._kernel.swap_state.swap_cache_get_folio(entry)
            if folio is not None and folio.order:
                # A large folio that nothing maps cannot be split.
                self._kernel.swap.folio_put(folio)
                return -EBUSY
            if folio is not None:
                locked = folio_trylock(folio)
                if not locked:
                    folio_lock(self._machine, folio)
                held.take(folio, pair.orig_src_pte)
                if not locked:
                    return None
        return self.move_swap_pte(move, pair, held.folio, entry)

    def move_swap_pte(
        self, move: Move, pair: PtePair, folio: Folio | None, entry: SwpEntry
    ) -> int:
        """Move the entry of a page in swap, and its cached copy *folio*, if any.

        No TLB holds it, so nothing is flushed. If the cache has got a copy since it was
        looked at, that would be left behind.

        Returns:
            Bytes moved, or a negative error number.
        """
        pgtable = self._pgtable
        cached = self._kernel.swap_state.folios.get(entry)
        if folio is not None and cached is not folio:
            return -EAGAIN
        double_pt_lock(pair.dst_ptl, pair.src_ptl)
        stable = self.is_pte_pages_stable(pair)
        if stable and folio is None:
            stable = not self._kernel.swapfile.has_cache(entry)
        if stable:
            if folio is not None:
                self.move_folio(move.dst_vma, move.dst_addr, folio)
            pte = pgtable.ptep_get_and_clear(move.mm, move.src_addr, pair.src_pte)
            pgtable.set_pte(pair.dst_pte, pte)
        double_pt_unlock(pair.dst_ptl, pair.src_ptl)
        return pgtable.page_size if stable else -EAGAIN

    # -- what is watched -------------------------------------------------------------

    def userfaultfd_set_vm_flags(self, vma: VmArea, flags: int) -> None:
        """Give *vma* flags; shared pages are not writable at once while protected."""
        changed = vma.flags ^ flags
        vma.flags = flags
        if flags & VM_SHARED and changed & VM_UFFD_WP:
            self._kernel.vma.vma_set_page_prot(vma)

    def userfaultfd_set_ctx(
        self, vma: VmArea, ctx: UserfaultfdCtx | None, vm_flags: int
    ) -> None:
        """Let *ctx* watch *vma*, in the ways of *vm_flags*, or nobody."""
        self._kernel.mmap_lock.vma_start_write(vma)
        vma.uffd = ctx
        self.userfaultfd_set_vm_flags(vma, vma.flags & ~VM_UFFD | vm_flags)

    def userfaultfd_clear_vma(self, vma: VmArea, start: int, end: int) -> int:
        """Stop watching a part of *vma*; 0 or a negative error number."""
        if userfaultfd_wp(vma):
            self.uffd_wp_range(vma, start, end - start, enable_wp=False)
        result = self._kernel.vma.vma_modify_flags_uffd(
            vma, start, end, vma.flags & ~VM_UFFD, None
        )
        if isinstance(result, int):
            return result
        self.userfaultfd_set_ctx(result, None, 0)
        return 0

    def userfaultfd_register_range(
        self, ctx: UserfaultfdCtx, vm_flags: int, start: int, end: int
    ) -> int:
        """Watch a range for *ctx*; the mmap lock is held for writing.

        Returns:
            0, or a negative error number; what comes before its place is watched.
        """
        at = start
        while at < end:
            vma = self._kernel.vma.find_vma(ctx.mm, at)
            if vma is None or vma.start >= end:
                break
            at, until = max(at, vma.start), min(end, vma.end)
            if vma.uffd is not ctx or vma.flags & vm_flags != vm_flags:
                result = self._kernel.vma.vma_modify_flags_uffd(
                    vma, at, until, vma.flags & ~VM_UFFD | vm_flags, ctx
                )
                if isinstance(result, int):
                    return result
                self.userfaultfd_set_ctx(result, ctx, vm_flags)
                if is_vm_hugetlb_page(result) and uffd_disable_huge_pmd_share(result):
                    self._kernel.hugetlb.hugetlb_unshare_all_pmds(result)
            at = until
        return 0

    def userfaultfd_release_all(self, ctx: UserfaultfdCtx) -> None:
        """Stop watching anything for *ctx*, which is being closed."""
        mm = ctx.mm
        mm.mmap_lock.down_write()
        for vma in [vma for vma in mm.vmas if vma.uffd is ctx]:
            if vma.uffd is ctx:
                self.userfaultfd_clear_vma(vma, vma.start, vma.end)
        mm.mmap_lock.up_write()
