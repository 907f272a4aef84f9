"""d82d09e48219: every PMD that maps the huge zero folio carries the special bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_clear_uffd_wp,
    pte_mkdirty,
    pte_mkold,
    pte_mkyoung,
    pte_none,
    pte_present,
    pte_write,
    pte_wrprotect,
)
from tlbkit.linux.include.linux.huge_mm import pmd_is_valid_softleaf
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.mm_types import Folio, MmStruct
from tlbkit.linux.include.linux.userfaultfd_k import userfaultfd_wp
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN, ENOMEM
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.linux.mm.huge_memory.insert import first_frame
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import LargeFolio, VmArea


class HugeMemoryBefore(HugeMemory):
    """What maps the huge zero folio is told by its frame alone.

    Source: mm/huge_memory.c, just before the commit.
    """

    __slots__ = ()

    def set_huge_zero_folio(
        self,
        pgtable: Folio,
        mm: MmStruct,
        vma: VmArea,
        pmd: int,
        zero_folio: LargeFolio,
    ) -> None:
        """Map the huge zero folio, and deposit *pgtable*.

        Source: mm/huge_memory.c, set_huge_zero_folio(), just before the commit
        """
        entry = self._pgtable.mk_huge_pmd(zero_folio.pfn, vma.page_prot)
        self._kernel.pgtable_generic.pgtable_trans_huge_deposit(pmd, pgtable)
        self._pgtable.set_pte(pmd, entry)
        mm.pgtables[3] += 1

    def insert_pmd(
        self,
        vma: VmArea,
        addr: int,
        pmd: int,
        fop: Folio | int,
        prot: int,
        *,
        write: bool,
    ) -> int:
        """Map *fop* at a PMD entry, and count it if it is counted.

        Source: mm/huge_memory.c, insert_pmd(), just before the commit
        """
        kernel = self._kernel
        if not vma.start <= addr < vma.end:
            return VM_FAULT_SIGBUS
        pgtable = None
        if kernel.pgtable_generic.arch_needs_pgtable_deposit:
            pgtable = kernel.page_alloc.alloc_table("PTE table")
            if pgtable is None:
                return VM_FAULT_OOM
        with kernel.memory.pmd_lockptr(pmd):
            entry = self._pgtable.read(pmd)
            if not pte_none(entry):
                if not write:
                    pass
                elif self._pgtable.pmd_pfn(entry) == first_frame(fop):
                    entry = pte_mkdirty(pte_mkyoung(entry))
                    entry = kernel.memory.maybe_mkwrite(entry, vma)
                    kernel.fault.pmdp_set_access_flags(
                        vma, addr, pmd, entry, dirty=True
                    )
                elif not self.is_huge_zero_pmd(entry):
                    kernel.panic.warn_on_once("insert_pmd", "another frame is mapped")
            else:
                if isinstance(fop, Folio):
                    entry = self._pgtable.mk_huge_pmd(fop.pfn, vma.page_prot)
                    if not self.is_huge_zero_folio(fop):
                        fop.refcount += 1
                        kernel.rmap.folio_add_file_rmap_pmd(fop, vma)
                        kernel.swap.inc_file_counter(vma.mm, fop, fop.nr_pages)
                else:
                    entry = self._pgtable.mk_huge_pmd(fop, prot)
                    entry = self._pgtable.pmd_mkspecial(entry)
                if write:
                    entry = pte_mkyoung(pte_mkdirty(entry))
                    entry = kernel.memory.maybe_mkwrite(entry, vma)
                if pgtable is not None:
                    kernel.pgtable_generic.pgtable_trans_huge_deposit(pmd, pgtable)
                    vma.mm.pgtables[3] += 1
                    pgtable = None
                self._pgtable.set_pte(pmd, entry)
        if pgtable is not None:
            kernel.page_alloc.free(pgtable)
        return VM_FAULT_NOPAGE

    def copy_huge_pmd(
        self,
        dst_mm: MmStruct,
        dst_pmd: int,
        src_pmd: int,
        addr: int,
        dst_vma: VmArea,
        src_vma: VmArea,
    ) -> int:
        """Share a huge page with a child; what is special maps frames, and no zeros.

        Source: mm/huge_memory.c, copy_huge_pmd(), just before the commit
        """
        memory = self._kernel.memory
        pmd = self._pgtable.read(src_pmd)
        if pte_present(pmd) and self._pgtable.pmd_special(pmd):
            # It is not read again: mmap_lock is held for writing, so it cannot change.
            with memory.pmd_lockptr(dst_pmd), memory.pmd_lockptr(src_pmd):
                if is_cow_mapping(src_vma.flags) and pte_write(pmd):
                    self._kernel.panic.warn_on_once(
                        "copy_huge_pmd", "frames are writable in a private VMA"
                    )
                self._pgtable.set_pte(dst_pmd, pte_mkold(pmd))
            return 0
        if not dst_vma.anonymous:
            return 0  # the child's own faults find it again
        pgtable = self._kernel.page_alloc.alloc_table("PTE table")
        if pgtable is None:
            return -ENOMEM
        with memory.pmd_lockptr(dst_pmd), memory.pmd_lockptr(src_pmd):
            pmd = self._pgtable.read(src_pmd)
            if pmd_is_valid_softleaf(pmd):
                self.copy_huge_non_present_pmd(
                    dst_mm, dst_pmd, src_pmd, dst_vma, pmd, pgtable
                )
                return 0
            if not self._machine.holds("pmd_trans_huge", pmd_trans_huge(pmd)):
                self._kernel.page_alloc.free(pgtable)
                return -EAGAIN
            pinned = False
            if self.is_huge_zero_pmd(pmd):
                self.mm_get_huge_zero_folio(dst_mm)  # there is one, so this only counts
            else:
                src_folio = self.pmd_folio(pmd)
                src_folio.refcount += 1
                pinned = not self._kernel.rmap.folio_try_dup_anon_rmap_pmd(
                    src_folio, dst_vma, src_vma
                )
                if not pinned:
                    dst_mm.anonpages += src_folio.nr_pages
            if not pinned:
                dst_mm.pgtables[3] += 1
                self._kernel.pgtable_generic.pgtable_trans_huge_deposit(
                    dst_pmd, pgtable
                )
                self._pgtable.ptep_set_wrprotect_(src_pmd, pmd)
                if not userfaultfd_wp(dst_vma):
                    pmd = pte_clear_uffd_wp(pmd)
                self._pgtable.set_pte(dst_pmd, pte_mkold(pte_wrprotect(pmd)))
                return 0
            self._kernel.swap.folio_put(src_folio)
            self._kernel.page_alloc.free(pgtable)
        self.split_huge_pmd_(src_vma, src_pmd, addr, freeze=False)
        return -EAGAIN


PATCH = Patch(
    commit="d82d09e482199e6bbc204df10b2082f764cbe1f4",
    subject="THP: PMD mappings of the huge zero folio are marked special",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "mm/huge_memory.c": ("set_huge_zero_folio", "insert_pmd", "copy_huge_pmd"),
        "mm/memory.c": ("vm_normal_page", "vm_normal_page_pmd"),
    },
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline d82d09e48219",
        "Message-ID 20250811112631.759341-6-david@redhat.com (v3 5/11)",
    ),
    needs={
        "5528ef06da01": "it marks the leaf that insert_pmd() learnt to build there",
        "b0f86aaebed1": (
            "otherwise DAX builds such a leaf by itself, and it would stay unmarked"
        ),
    },
    note=(
        "In mm/memory.c only comments change. The claim that nothing changes holds for "
        "vm_normal_page_pmd(); other readers of the bit do notice: lockless GUP goes "
        "the slow way, arm64 no longer initialises MTE tags when it maps the folio, "
        "and UFFDIO_MOVE rebuilds the entry without the bit. Its second version lacked "
        "the exclusion in copy_huge_pmd() that fork needs."
    ),
    reverts={"huge_memory": HugeMemoryBefore},
)
