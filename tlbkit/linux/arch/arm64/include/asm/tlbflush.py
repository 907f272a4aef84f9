"""How arm64 flushes its TLBs.

Every user flush has one shape: a DSB that makes the descriptor stores visible to table
walkers, the TLBIs, and a DSB that waits until they are done.

A name that the kernel spells with two leading underscores has one trailing underscore
here, because Python would mangle it.

Source: arch/arm64/include/asm/tlbflush.h, v6.19.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.arm64.tlbi import encode_asid, encode_range, encode_va, range_pages
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    PTE_SWBITS_MASK,
    PTE_VALID,
)
from tlbkit.linux.include.linux.mm import ULONG_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel

USER_ASID_FLAG: Final = 1 << 48
MAX_TLBI_RANGE_PAGES: Final = range_pages(3, 31)
TLBI_TTL_UNKNOWN: Final = None


class RangeStep(NamedTuple):
    """One TLBI of a range flush.

    Attributes:
        start: First address named.
        pages: How many pages it covers, or, for a single address, moves on by.
        scale: SCALE of a range operation; ``None`` for an operation on one address.
        num: NUM of a range operation; 0 for an operation on one address.
    """

    start: int
    pages: int
    scale: int | None
    num: int


def range_steps(
    start: int,
    pages: int,
    stride: int,
    *,
    page_shift: int = 12,
    has_range: bool,
    lpa2: bool = False,
) -> Iterator[RangeStep]:
    """Yield, in order, the TLBIs that flush *pages* pages from *start*.

    Large units go first, so that what a range operation needs aligned (LPA2: 64 KiB)
    stays aligned; the odd last page goes alone. Source: __flush_tlb_range_op().

    >>> [step[1:] for step in range_steps(0, 513, 4096, has_range=True)]
    [(512, 1, 7), (1, None, 0)]
    >>> len(list(range_steps(0, 5, 4096, has_range=False)))
    5

    Source: arch/arm64/include/asm/tlbflush.h, __flush_tlb_range_op()
    """
    scale = 3
    while pages > 0:
        if not has_range or pages == 1 or (lpa2 and start & 0xFFFF):
            yield RangeStep(start, stride >> page_shift, None, 0)
            start += stride
            pages -= stride >> page_shift
            continue
        shift = 5 * scale + 1
        num = (min(pages, 32 << shift) >> shift) - 1
        if num >= 0:
            covered = range_pages(scale, num)
            yield RangeStep(start, covered, scale, num)
            start += covered << page_shift
            pages -= covered
        scale -= 1


class TlbFlush:
    """The flushes of arch/arm64/include/asm/tlbflush.h."""

    __slots__ = (
        "_kernel",
        "_machine",
        "_max_dvm_ops",
        "_model",
        "_page_size",
    )

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._model = kernel.machine.model
        self._page_size = 1 << self._model.page_shift
        self._max_dvm_ops = 1 << (self._model.page_shift - 3)  # MAX_DVM_OPS

    # -- decisions -------------------------------------------------------------------

    @staticmethod
    def pte_needs_flush(old: int, new: int) -> bool:
        """Tell whether replacing entry *old* by *new* can leave a stale translation.

        What the hardware could not see is in no TLB, and what only software reads no
        TLB remembers. Relaxing a valid entry counts as a change like any other.

        Source: arch/arm64/include/asm/tlbflush.h, pte_needs_flush()
        """
        if not old & PTE_VALID:
            return False
        return bool((old ^ new) & ~PTE_SWBITS_MASK)

    @classmethod
    def huge_pmd_needs_flush(cls, old: int, new: int) -> bool:
        """Tell the same of a block entry, whose bits mean the same.

        Source: arch/arm64/include/asm/tlbflush.h, huge_pmd_needs_flush()
        """
        return cls.pte_needs_flush(old, new)

    # -- the shape of every flush ----------------------------------------------------

    def _tlbi_user(self, name: str, operand: int) -> None:
        """Issue *name*, and again for the user's own ASID where the kernel has one.

        Source: arch/arm64/include/asm/tlbflush.h, __tlbi_user()
        """
        cpu = self._machine.running
        cpu.tlbi(name, operand)
        if self._model.kpti:
            cpu.tlbi(name, operand | USER_ASID_FLAG)

    def _tlbi(self, name: str, operand: int) -> None:
        """Issue *name*.

        Source: arch/arm64/include/asm/tlbflush.h, __tlbi()
        """
        self._machine.running.tlbi(name, operand)

    def tlbi_sync_s1ish_(self) -> None:
        """Wait for broadcasts that this CPU issued, twice where an erratum asks for it.

        The second wait is for some TLBI, whichever: here one that names nothing.

        Source: arch/arm64/include/asm/tlbflush.h, __tlbi_sync_s1ish()
        """
        cpu = self._machine.running
        cpu.dsb("ish")
        if self._model.repeat_tlbi:
            cpu.tlbi("VALE1IS", 0)
            cpu.dsb("ish")

    def _level(self, level: int | None) -> int | None:
        """Return the level to name, or none where the CPU would not understand it."""
        return level if self._model.ttl else None

    # -- this CPU only ---------------------------------------------------------------

    def local_flush_tlb_all(self) -> None:
        """Drop everything from this CPU's TLB.

        Source: arch/arm64/include/asm/tlbflush.h, local_flush_tlb_all()
        """
        cpu = self._machine.running
        cpu.dsb("nshst")
        self._tlbi("VMALLE1", 0)
        cpu.dsb("nsh")
        cpu.isb()

    def local_flush_tlb_page_nonotify(self, vma: VmArea, addr: int) -> None:
        """Drop the leaf entry of one page from this CPU's TLB, and tell no device.

        Source: arch/arm64/include/asm/tlbflush.h, local_flush_tlb_page_nonotify()
        """
        self._local_flush_tlb_page_nosync(vma.mm, addr)
        self._machine.running.dsb("nsh")

    def local_flush_tlb_page(self, vma: VmArea, addr: int) -> None:
        """Drop the leaf entry of one page from this CPU's TLB and from devices.

        Source: arch/arm64/include/asm/tlbflush.h, local_flush_tlb_page()
        """
        mm = vma.mm
        self._local_flush_tlb_page_nosync(mm, addr)
        size = self._page_size
        addr &= -size
        self._kernel.mmu_notifier.mmu_notifier_arch_invalidate_secondary_tlbs(
            mm, addr, addr + size
        )
        self._machine.running.dsb("nsh")

    def local_flush_tlb_contpte(self, vma: VmArea, addr: int) -> None:
        """Drop the leaf entries of a block from this CPU's TLB and from devices.

        Source: arch/arm64/include/asm/tlbflush.h, local_flush_tlb_contpte()
        """
        size = self._kernel.contpte.cont_pte_size
        addr &= -size
        cpu = self._machine.running
        cpu.dsb("nshst")
        asid = self._kernel.context.asid(vma.mm)
        for single, operand in self._range_operands(
            addr, addr + size, self._page_size, asid, 3
        ):
            self._tlbi_user("VALE1" if single else "RVALE1", operand)
        self._kernel.mmu_notifier.mmu_notifier_arch_invalidate_secondary_tlbs(
            vma.mm, addr, addr + size
        )
        cpu.dsb("nsh")

    def _local_flush_tlb_page_nosync(self, mm: MmStruct, addr: int) -> None:
        self._machine.running.dsb("nshst")
        self._tlbi_user("VALE1", encode_va(addr, self._kernel.context.asid(mm)))

    # -- every CPU -------------------------------------------------------------------

    def flush_tlb_all(self) -> None:
        """Drop everything from every CPU's TLB.

        Source: arch/arm64/include/asm/tlbflush.h, flush_tlb_all()
        """
        cpu = self._machine.running
        cpu.dsb("ishst")
        self._tlbi("VMALLE1IS", 0)
        self.tlbi_sync_s1ish_()
        cpu.isb()

    def flush_tlb_mm(self, mm: MmStruct) -> None:
        """Drop every translation of *mm*, tables included, from every CPU's TLB.

        Source: arch/arm64/include/asm/tlbflush.h, flush_tlb_mm()
        """
        cpu = self._machine.running
        cpu.dsb("ishst")
        self._tlbi_user("ASIDE1IS", encode_asid(self._kernel.context.asid(mm)))
        self.tlbi_sync_s1ish_()
        self._kernel.mmu_notifier.mmu_notifier_arch_invalidate_secondary_tlbs(
            mm, 0, ULONG_MAX
        )

    def flush_tlb_page(self, vma: VmArea, addr: int) -> None:
        """Drop the leaf entry of one page, of whatever level, from every CPU's TLB.

        Source: arch/arm64/include/asm/tlbflush.h, flush_tlb_page()
        """
        self.flush_tlb_page_nosync(vma.mm, addr)
        self.tlbi_sync_s1ish_()

    def flush_tlb_page_nosync(self, mm: MmStruct, addr: int) -> None:
        """Start that and do not wait; a later DSB of this CPU completes it.

        Source: arch/arm64/include/asm/tlbflush.h, flush_tlb_page_nosync()
        """
        self._machine.running.dsb("ishst")
        self._tlbi_user("VALE1IS", encode_va(addr, self._kernel.context.asid(mm)))
        addr &= ~(self._page_size - 1)
        self._kernel.mmu_notifier.mmu_notifier_arch_invalidate_secondary_tlbs(
            mm, addr, addr + self._page_size
        )

    def flush_tlb_range(self, vma: VmArea, start: int, end: int) -> None:
        """Drop all levels of a range: callers may have changed tables as well.

        Source: arch/arm64/include/asm/tlbflush.h, flush_tlb_range()
        """
        self.flush_tlb_range_(vma, start, end, self._page_size, last_level=False)

    def flush_pmd_tlb_range(self, vma: VmArea, start: int, end: int) -> None:
        """Drop a range of PMD blocks, and the tables above them.

        Source: arch/arm64/include/asm/pgtable.h, flush_pmd_tlb_range()
        """
        stride = self._kernel.pgtable.pmd_size
        self.flush_tlb_range_(vma, start, end, stride, last_level=False, level=2)

    def flush_pud_tlb_range(self, vma: VmArea, start: int, end: int) -> None:
        """Drop a range of PUD blocks, and the tables above them.

        Source: arch/arm64/include/asm/pgtable.h, flush_pud_tlb_range()
        """
        stride = self._kernel.pgtable.pud_size
        self.flush_tlb_range_(vma, start, end, stride, last_level=False, level=1)

    def flush_tlb_range_(
        self,
        vma: VmArea,
        start: int,
        end: int,
        stride: int,
        *,
        last_level: bool,
        level: int | None = TLBI_TTL_UNKNOWN,
    ) -> None:
        """Drop a range and wait: __flush_tlb_range().

        Source: arch/arm64/include/asm/tlbflush.h, __flush_tlb_range()
        """
        self.flush_tlb_range_nosync_(
            vma.mm, start, end, stride, last_level=last_level, level=level
        )
        self.tlbi_sync_s1ish_()

    def flush_tlb_range_nosync_(
        self,
        mm: MmStruct,
        start: int,
        end: int,
        stride: int,
        *,
        last_level: bool,
        level: int | None = TLBI_TTL_UNKNOWN,
    ) -> None:
        """Start to drop a range: __flush_tlb_range_nosync().

        Args:
            mm: Whose range.
            start: Rounded down to *stride*.
            end: Rounded up to it.
            stride: Bytes that one operation without a range moves on by.
            last_level: Leave tables in the walk cache.
            level: Level of every leaf in the range, where it is known.

        A range too long to be worth it becomes one `flush_tlb_mm`, which waits.

        Source: arch/arm64/include/asm/tlbflush.h, __flush_tlb_range_nosync()
        """
        start &= -stride
        end = -(-end & -stride)
        if self._range_limit_excess(start, end, stride):
            self.flush_tlb_mm(mm)
            return
        self._machine.running.dsb("ishst")
        name = "VALE1IS" if last_level else "VAE1IS"
        asid = self._kernel.context.asid(mm)
        for single, operand in self._range_operands(start, end, stride, asid, level):
            self._tlbi_user(name if single else "R" + name, operand)
        self._kernel.mmu_notifier.mmu_notifier_arch_invalidate_secondary_tlbs(
            mm, start, end
        )

    def _range_operands(
        self, start: int, end: int, stride: int, asid: int, level: int | None
    ) -> Iterator[tuple[bool, int]]:
        """Yield each TLBI of a range: whether it is a single one, and its operand."""
        model = self._model
        shift = model.page_shift
        for step in range_steps(
            start,
            (end - start) >> shift,
            stride,
            page_shift=shift,
            has_range=model.range_tlbi,
            lpa2=model.lpa2,
        ):
            if step.scale is None:
                hint = self._level(level)
                yield True, encode_va(step.start, asid, hint, shift)
            else:
                yield (
                    False,
                    encode_range(
                        step.start,
                        asid,
                        step.scale,
                        step.num,
                        level,
                        shift,
                        lpa2=model.lpa2,
                    ),
                )

    def _range_limit_excess(self, start: int, end: int, stride: int) -> bool:
        """Tell whether so many operations would be needed that one for all is cheaper.

        Source: __flush_tlb_range_limit_excess().
        """
        if not self._model.range_tlbi and end - start >= self._max_dvm_ops * stride:
            return True
        return (end - start) >> self._model.page_shift > MAX_TLBI_RANGE_PAGES

    # -- kernel mappings -------------------------------------------------------------

    def flush_tlb_kernel_range(self, start: int, end: int) -> None:
        """Drop the leaf entries of a range of kernel addresses.

        Source: arch/arm64/include/asm/tlbflush.h, flush_tlb_kernel_range()
        """
        stride = self._page_size
        start &= -stride
        end = -(-end & -stride)
        if self._range_limit_excess(start, end, stride):
            self.flush_tlb_all()
            return
        cpu = self._machine.running
        cpu.dsb("ishst")
        for single, operand in self._range_operands(start, end, stride, 0, None):
            self._tlbi("VAALE1IS" if single else "RVAALE1IS", operand)
        self.tlbi_sync_s1ish_()
        cpu.isb()

    def flush_tlb_kernel_pgtable(self, addr: int) -> None:
        """Drop a table of kernel addresses: __flush_tlb_kernel_pgtable().

        Source: arch/arm64/include/asm/tlbflush.h, __flush_tlb_kernel_pgtable()
        """
        cpu = self._machine.running
        cpu.dsb("ishst")
        self._tlbi("VAAE1IS", encode_va(addr))
        self.tlbi_sync_s1ish_()
        cpu.isb()

    # -- batched unmap ---------------------------------------------------------------

    @staticmethod
    def arch_tlbbatch_should_defer() -> bool:
        """Tell whether unmapping may leave its waits to the end of a batch: always.

        Source: arch/arm64/include/asm/tlbflush.h, arch_tlbbatch_should_defer()
        """
        return True

    def arch_tlbbatch_add_pending(self, mm: MmStruct, start: int, end: int) -> None:
        """Start the flush of pages that reclaim has just unmapped.

        Source: arch/arm64/include/asm/tlbflush.h, arch_tlbbatch_add_pending()
        """
        self.flush_tlb_range_nosync_(
            mm, start, end, self._page_size, last_level=True, level=3
        )

    def arch_tlbbatch_flush(self) -> None:
        """Wait for every flush that this CPU started.

        Source: arch/arm64/include/asm/tlbflush.h, arch_tlbbatch_flush()
        """
        self.tlbi_sync_s1ish_()
