"""Missing pages that user space fills: COPY, ZEROPAGE and CONTINUE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.permission import EL0_READ
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pte_mkdirty,
    pte_mkuffd_wp,
    pte_none,
)
from tlbkit.linux.include.linux.mm import (
    VM_SHARED,
    VM_UFFD_WP,
    VM_WRITE,
)
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_unlock
from tlbkit.linux.include.linux.swapops import pte_none_mostly
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EEXIST,
    EFAULT,
    EINTR,
    EINVAL,
    ENOENT,
    ENOMEM,
    Signal,
)
from tlbkit.linux.mm.userfaultfd.areas import UffdAreas

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import UserfaultfdCtx
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea


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


class UffdFill(UffdAreas):
    """Filling missing pages on behalf of user space."""

    __slots__ = ()

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
        if self._machine.sees("mmap_changing", ctx.mmap_changing):
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
        found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, dst_pmd, dst)
        if found is None:
            return -EAGAIN
        ptep, ptl = found
        try:
            empty = pte_none_mostly(pgtable.read(ptep))
            if not self._machine.holds("pte_none_mostly", empty):
                return -EEXIST
            if cached:
                self._kernel.rmap.folio_add_file_rmap_pte(folio, pfn, vma)
                self._kernel.swap.inc_file_counter(vma.mm, folio)
            else:
                self._kernel.rmap.folio_add_new_anon_rmap(folio, vma, dst)
                self._kernel.swap.folio_add_lru(folio)
                vma.mm.anonpages += 1
            pgtable.set_ptes(vma.mm, dst, ptep, entry, 1)
        finally:
            ptl.release()
        return 0

    def mfill_atomic_pte_zeropage(self, dst_pmd: int, vma: VmArea, dst: int) -> int:
        """Map the zero page where nothing is, not even a marker."""
        pgtable = self._pgtable
        entry = pgtable.pfn_pte(self._kernel.zero_pfn, vma.page_prot)
        found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, dst_pmd, dst)
        if found is None:
            return -EAGAIN
        ptep, ptl = found
        try:
            if not self._machine.holds("pte_none", pte_none(pgtable.read(ptep))):
                return -EEXIST
            pgtable.set_pte(ptep, pgtable.pte_mkspecial(entry))
        finally:
            ptl.release()
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
