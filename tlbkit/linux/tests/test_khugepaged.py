"""mm/khugepaged.c: MADV_COLLAPSE of pages that are away, and of what cannot hold it."""

import pytest

from tlbkit.linux.arch.arm64.include.asm.pgtable import pmd_trans_huge
from tlbkit.linux.include.uapi.asm_generic.errno import SystemCallError
from tlbkit.linux.tests.audit import audit, audit_tlbs
from tlbkit.linux.tests.support import PAGE, boot
from tlbkit.linux.tests.test_mremap import filled, holds

HUGE = 512 * PAGE


@pytest.mark.parametrize("synchronous", [True, False])
def test_what_is_swapped_out_is_brought_in_first(synchronous):
    """Pages in swap are read before the table is unhooked, and no word is lost."""
    kernel = boot()
    kernel.swapfile.swapon(64, synchronous_io=synchronous)
    process, base = filled(kernel, 512)
    process.madvise(base, 5 * PAGE, "pageout")
    assert process.mm.swapents == 5
    process.madvise(base, HUGE, "collapse")
    pmdp = kernel.pgtable.find_pmd(process.mm, base)
    assert pmd_trans_huge(kernel.pgtable.read(pmdp))
    assert process.mm.swapents == 0
    assert holds(process, base, 512) == list(range(1, 513))
    audit(kernel)
    audit_tlbs(kernel)


def test_a_mapping_must_have_room_for_a_huge_page():
    """One that is too small is refused, and so is a range between two boundaries."""
    kernel = boot()
    process = kernel.spawn()
    small = process.mmap(PAGE, addr=1 << 33, fixed=True)
    process.write(small, 1)
    with pytest.raises(SystemCallError, match="EINVAL"):
        process.madvise(small, PAGE, "collapse")
    large = process.mmap(2 * HUGE, addr=1 << 34, fixed=True)
    process.write(large, 1)
    process.madvise(large, PAGE, "collapse")
    with pytest.raises(SystemCallError, match="EINVAL"):
        process.madvise(large + PAGE, PAGE, "collapse")
