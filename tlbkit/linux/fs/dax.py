"""Direct access: files whose pages are mapped where they last (fs/dax.c).

There is no page cache. What is mapped is persistent memory itself, and for a hole a
page of zeros, until somebody writes there. For each page or block of a file that is
mapped the file's address space holds an *entry*: which frames, whether they are zeros,
and whether somebody is at work on it. Two faults on one place wait for each other
there.

Left out: files that share their blocks (reflink), MAP_SYNC, and errors of the memory.
Writing back is nothing but a flush of caches, and is left out too.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from tlbkit.linux.arch.arm64.include.asm.pgtable import pmd_trans_huge, pte_none
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_WRITE,
    VM_FAULT_DONE_COW,
    VM_FAULT_FALLBACK,
    VM_FAULT_NOPAGE,
    VM_FAULT_SIGBUS,
    VM_SHARED,
)
from tlbkit.linux.include.linux.mm_types import PG_dirty

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import AddressSpace
    from tlbkit.linux.include.linux.mm_types import Folio, VmFault
    from tlbkit.linux.kernel.kernel import Kernel

EMPTY: Final = "empty"
ZERO: Final = "zero"
DATA: Final = "data"


@dataclass(slots=True, eq=False)
class Entry:
    """What a file's address space knows of one page or block that is mapped.

    Attributes:
        index: Its place in the file, in pages; a block's begins at a block.
        order: log2 of its pages: 0 or a block's.
        kind: ``"empty"`` at first, ``"zero"`` of a hole, ``"data"``.
        folio: What is mapped, once something is.
        locked: Somebody is at work on it.
        dirty: It was written through.
    """

    index: int
    order: int
    kind: Literal["empty", "zero", "data"] = EMPTY
    folio: Folio | None = None
    locked: bool = False
    dirty: bool = False


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of a file that lies in a row, or nowhere: struct iomap.

    Attributes:
        index: Its first page in the file.
        nr: Its pages.
        pfn: Its first frame, or ``None`` for a hole.
    """

    index: int
    nr: int
    pfn: int | None


def _unlocked(entry: Entry) -> bool:
    """Tell whether nobody is at work on an entry any more."""
    return not entry.locked


class DaxOwner(ABC):
    """Who knows where the pages of files lie: struct iomap_ops."""

    __slots__ = ()

    @abstractmethod
    def iomap_begin(self, mapping: AddressSpace, index: int, *, write: bool) -> Extent:
        """Return the extent around a page; for a write there must be none but data.

        Source: include/linux/iomap.h, iomap_begin() of struct iomap_ops
        """

    @abstractmethod
    def associate(self, mapping: AddressSpace, index: int, order: int) -> Folio:
        """Return the pages of a place of a file as one folio of that order.

        Source: fs/dax.c, dax_associate_entry()
        """


class Dax:
    """Faults of areas that map such files.

    Events: ``dax``; ``what`` is the name of a trace point, ``new`` the answer.

    Attributes:
        thp_fault_fallback: How often a block could not be had, and pages were mapped.
    """

    __slots__ = ("_entries", "_kernel", "_machine", "_pgtable", "thp_fault_fallback")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable
        self._entries: dict[AddressSpace, dict[int, Entry]] = {}
        self.thp_fault_fallback = 0

    def _trace(self, name: str, answer: int) -> None:
        if "dax" in self._machine.events.heard:
            cpu = self._machine.running.number
            self._machine.events.emit(cpu, "dax", name, new=answer)

    # -- entries ---------------------------------------------------------------------

    def entry_at(self, mapping: AddressSpace, index: int) -> Entry | None:
        """Return the entry of the page, or of the block, at a place of a file.

        Source: none; it is a look into the tree of a file, which is a dictionary here.
        """
        entries = self._entries.get(mapping, {})
        entry = entries.get(index)
        if entry is None:
            entry = entries.get(index & -self._pgtable.hpage_pmd_nr)
            if entry is not None and not entry.order:
                return None
        return entry

    def grab_mapping_entry(
        self, mapping: AddressSpace, index: int, order: int
    ) -> Entry | int:
        """Return the entry for a fault, locked; or ``VM_FAULT_FALLBACK``.

        A block cannot be had where pages are mapped already. A page can be had where a
        block of zeros is: that one gives way.

        Source: fs/dax.c, grab_mapping_entry()
        """
        entry = self._unlocked_entry(mapping, index, order)
        if entry is not None and entry.order < order:
            return VM_FAULT_FALLBACK
        if entry is not None and entry.order > order and entry.kind != DATA:
            entry.locked = True
            if entry.kind == ZERO:
                self._kernel.memory.unmap_mapping_pages(
                    mapping, entry.index, 1 << entry.order, even_cows=False
                )
            self._forget(mapping, entry)
            entry = None
        if entry is None:
            entry = Entry(index & -(1 << order), order)
            self._entries.setdefault(mapping, {})[entry.index] = entry
        entry.locked = True
        return entry

    def _unlocked_entry(
        self, mapping: AddressSpace, index: int, order: int
    ) -> Entry | None:
        """Return an entry within the pages asked for, once nobody is at work on it."""
        while True:
            found = self.entry_at(mapping, index)
            if found is None and order:
                first = index & -(1 << order)
                entries = self._entries.get(mapping, {})
                inside = [at for at in entries if first <= at < first + (1 << order)]
                found = entries[min(inside)] if inside else None
            if found is None or not found.locked:
                return found
            self._machine.wait(
                partial(_unlocked, found),
                f"the DAX entry of page {found.index:#x}",
            )

    def _forget(self, mapping: AddressSpace, entry: Entry) -> None:
        """Take an entry out of its file."""
        entry.locked = False
        entries = self._entries[mapping]
        del entries[entry.index]
        if not entries:
            del self._entries[mapping]

    def dax_insert_entry(
        self, vmf: VmFault, entry: Entry, folio: Folio, kind: Literal["zero", "data"]
    ) -> None:
        """Let a locked entry say what is about to be mapped.

        Where zeros give way to data, whoever maps the zeros must fault again.

        Source: fs/dax.c, dax_insert_entry()
        """
        mapping = self._mapping(vmf)
        if entry.kind == ZERO and kind == DATA:
            self._kernel.memory.unmap_mapping_pages(
                mapping, entry.index, 1 << entry.order, even_cows=False
            )
        if entry.kind != DATA:
            entry.kind = kind
            entry.folio = folio
        if vmf.flags & FAULT_FLAG_WRITE:
            entry.dirty = True
            folio.flags |= PG_dirty

    def dax_delete_mapping_entries(self, mapping: AddressSpace, first: int) -> None:
        """Forget what a file has from page *first* on, once nobody is at work on it.

        Nothing from there on is mapped. What is left of a huge page is mapped anew, by
        pages, since the file may get other frames for the rest of it.

        Source: fs/dax.c, dax_delete_mapping_range()
        Deviates: what comes before *first* is unmapped here, where the kernel waits
        until nobody maps or pins the huge page (dax_break_layout()).
        """
        while True:
            behind = [
                entry
                for entry in self._entries.get(mapping, {}).values()
                if entry.index + (1 << entry.order) > first
            ]
            if not behind:
                return
            entry = behind[0]
            if entry.locked:
                self._machine.wait(
                    partial(_unlocked, entry),
                    f"the DAX entry of page {entry.index:#x}",
                )
                continue
            if entry.index < first:
                self._kernel.memory.unmap_mapping_pages(
                    mapping, entry.index, 1 << entry.order, even_cows=False
                )
            self._forget(mapping, entry)

    # -- a fault for a page ----------------------------------------------------------

    def dax_iomap_pte_fault(self, vmf: VmFault, owner: DaxOwner) -> int:
        """Map the page of a fault: data, or zeros where a hole is read.

        Source: fs/dax.c, dax_iomap_pte_fault()
        """
        mapping = self._mapping(vmf)
        if vmf.pgoff >= self._kernel.filemap.pages_in_file(mapping.host):
            return VM_FAULT_SIGBUS
        entry = self.grab_mapping_entry(mapping, vmf.pgoff, 0)
        if isinstance(entry, int):
            return entry
        if pmd_trans_huge(self._pgtable.read(vmf.pmd)):
            answer = VM_FAULT_NOPAGE  # a block was faster; the access finds it
        else:
            write = bool(vmf.flags & FAULT_FLAG_WRITE) and vmf.cow_page is None
            extent = owner.iomap_begin(mapping, vmf.pgoff, write=write)
            answer = self.dax_fault_iter(
                vmf, owner, extent, entry, write=write, pmd=False
            )
        self._unlock(mapping, entry)
        return answer

    def dax_fault_iter(
        self,
        vmf: VmFault,
        owner: DaxOwner,
        extent: Extent,
        entry: Entry,
        *,
        write: bool,
        pmd: bool,
    ) -> int:
        """Map what an extent says, as a block or as a page; *entry* is locked.

        A page may be asked for where the entry is a block's.

        Source: fs/dax.c, dax_fault_iter()
        """
        if not pmd and vmf.cow_page is not None:
            return self.dax_fault_cow_page(vmf, extent, vmf.cow_page)
        if extent.pfn is None:
            if pmd:
                return self.dax_pmd_load_hole(vmf, entry)
            return self.dax_load_hole(vmf, entry)
        pfn = extent.pfn + entry.index - extent.index
        if pmd and pfn & (self._pgtable.hpage_pmd_nr - 1):
            return VM_FAULT_FALLBACK  # frames in a row, but not where a block begins
        mapping = self._mapping(vmf)
        if entry.kind == DATA:
            assert entry.folio is not None
            folio = entry.folio
        else:
            folio = owner.associate(mapping, entry.index, entry.order)
        self.dax_insert_entry(vmf, entry, folio, DATA)
        folio.refcount += 1
        if pmd:
            huge = self._kernel.huge_memory
            answer = huge.vmf_insert_folio_pmd(vmf, folio, write=write)
        else:
            page = folio.pfn + vmf.pgoff - folio.index
            insert = self._kernel.memory.vmf_insert_page_mkwrite
            answer = insert(vmf, page, write=write)
        self._kernel.swap.folio_put(folio)
        return answer

    def dax_fault_cow_page(self, vmf: VmFault, extent: Extent, copy: Folio) -> int:
        """Fill the private copy of a page, and map that.

        Source: fs/dax.c, dax_fault_cow_page()
        """
        memory = self._machine.memory
        if extent.pfn is None:
            memory.clear_frame(copy.pfn)
        else:
            memory.copy_frame(extent.pfn + vmf.pgoff - extent.index, copy.pfn)
        return self._kernel.memory.finish_fault(vmf) or VM_FAULT_DONE_COW

    def dax_load_hole(self, vmf: VmFault, entry: Entry) -> int:
        """Map the zero page where a hole is read.

        Source: fs/dax.c, dax_load_hole()
        """
        zero = self._kernel.zero_pfn
        folio = self._kernel.page_alloc.folio_of(zero)
        self.dax_insert_entry(vmf, entry, folio, ZERO)
        insert = self._kernel.memory.vmf_insert_page_mkwrite
        answer = insert(vmf, zero, write=False)
        self._trace("dax_load_hole", answer)
        return answer

    # -- a fault for a block ---------------------------------------------------------

    def dax_iomap_pmd_fault(self, vmf: VmFault, owner: DaxOwner) -> int:
        """Map the block around a fault; ``VM_FAULT_FALLBACK`` if pages must do.

        Source: fs/dax.c, dax_iomap_pmd_fault()
        """
        mapping = self._mapping(vmf)
        end = self._kernel.filemap.pages_in_file(mapping.host)
        if vmf.pgoff >= end:
            return VM_FAULT_SIGBUS
        answer = VM_FAULT_FALLBACK
        if not self.dax_fault_check_fallback(vmf, end):
            answer = self._pmd_fault(vmf, owner, mapping)
        if answer == VM_FAULT_FALLBACK:
            self._kernel.huge_memory.split_huge_pmd(vmf.vma, vmf.pmd, vmf.address)
            self.thp_fault_fallback += 1
        return answer

    def _pmd_fault(self, vmf: VmFault, owner: DaxOwner, mapping: AddressSpace) -> int:
        """Lock the entry of a block, and map it."""
        entry = self.grab_mapping_entry(
            mapping, vmf.pgoff, self._pgtable.hpage_pmd_order
        )
        if isinstance(entry, int):
            return entry
        pmd = self._pgtable.read(vmf.pmd)
        if not pte_none(pmd) and not pmd_trans_huge(pmd):
            answer = 0  # pages were faster; the access is repeated
        else:
            write = bool(vmf.flags & FAULT_FLAG_WRITE)
            extent = owner.iomap_begin(mapping, entry.index, write=write)
            answer = VM_FAULT_FALLBACK
            if extent.nr == self._pgtable.hpage_pmd_nr:
                answer = self.dax_fault_iter(
                    vmf, owner, extent, entry, write=write, pmd=True
                )
        self._unlock(mapping, entry)
        return answer

    def dax_fault_check_fallback(self, vmf: VmFault, end: int) -> bool:
        """Tell whether no block can be had here, whatever the file holds.

        Args:
            vmf: The fault.
            end: Pages of the file.

        Source: fs/dax.c, dax_fault_check_fallback()
        """
        pgtable = self._pgtable
        vma = vmf.vma
        pages = pgtable.hpage_pmd_nr
        if (vmf.pgoff ^ vmf.address >> pgtable.page_shift) % pages:
            return True  # blocks of the file and of the addresses do not coincide
        if vmf.flags & FAULT_FLAG_WRITE and not vma.flags & VM_SHARED:
            return True
        start = vmf.address & -pgtable.pmd_size
        if start < vma.start or start + pgtable.pmd_size > vma.end:
            return True
        return (vmf.pgoff | (pages - 1)) >= end

    def dax_pmd_load_hole(self, vmf: VmFault, entry: Entry) -> int:
        """Map the huge zero folio where a hole is read.

        Source: fs/dax.c, dax_pmd_load_hole()
        """
        zero = self._kernel.huge_memory.mm_get_huge_zero_folio(vmf.vma.mm)
        if zero is None:
            self._trace("dax_pmd_load_hole_fallback", VM_FAULT_FALLBACK)
            return VM_FAULT_FALLBACK
        self.dax_insert_entry(vmf, entry, zero, ZERO)
        answer = self._kernel.huge_memory.vmf_insert_folio_pmd(vmf, zero, write=False)
        if answer == VM_FAULT_NOPAGE:
            self._trace("dax_pmd_load_hole", answer)
        return answer

    # --------------------------------------------------------------------------------

    @staticmethod
    def _mapping(vmf: VmFault) -> AddressSpace:
        assert vmf.vma.file is not None
        return vmf.vma.file.mapping

    def dax_iomap_fault(self, vmf: VmFault, order: int, owner: DaxOwner) -> int:
        """Handle a fault for pages of *order*, as log2: a page or a PMD's block.

        Source: fs/dax.c, dax_iomap_fault()
        """
        if not order:
            return self.dax_iomap_pte_fault(vmf, owner)
        if order == self._pgtable.hpage_pmd_order:
            return self.dax_iomap_pmd_fault(vmf, owner)
        return VM_FAULT_FALLBACK

    def _unlock(self, mapping: AddressSpace, entry: Entry) -> None:
        """Let others at an entry; an empty one goes: dax_unlock_entry()."""
        entry.locked = False
        if entry.kind == EMPTY:
            self._forget(mapping, entry)
