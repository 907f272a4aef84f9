"""arch/arm64/include/asm/tlbflush.h: which TLBIs, how many, between which barriers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.events import Event
from tlbkit.arm64.tlbi import OPERATIONS, decode, range_pages
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import (
    PTE_SWBITS_MASK,
    PTE_VALID,
)
from tlbkit.linux.arch.arm64.include.asm.tlbflush import TlbFlush, range_steps
from tlbkit.linux.tests.support import PAGE, boot, issued, total

U64 = st.integers(0, (1 << 64) - 1)
LIMIT = 1 << 21

# Pages and operations, read off a running kernel or computed from its rule.
PUBLISHED = {
    1: 1,
    2: 1,
    3: 2,
    16: 1,
    31: 2,
    63: 2,
    64: 1,
    65: 2,
    511: 3,
    512: 1,
    513: 2,
    4096: 1,
    65535: 4,
    65536: 1,
    LIMIT - 1: 5,
    LIMIT: 1,
}


def closed_form(pages):
    """Operations for *pages* pages: one for each digit that is not zero."""
    digits = (
        pages >> 16,
        pages >> 11 & 31,
        pages >> 6 & 31,
        pages >> 1 & 31,
        pages & 1,
    )
    return sum(digit > 0 for digit in digits)


def area(kernel, pages, *, at=1 << 40):
    """An address space with one area of *pages* pages at *at*."""
    process = kernel.spawn()
    size = kernel.pgtable.page_size
    process.mmap(pages * size, "rw", addr=at, fixed=True)
    return process.mm.vmas[1]


# -- the range arithmetic --------------------------------------------------------------


@given(st.integers(1, LIMIT), st.integers(0, 1 << 30))
def test_range_steps_cover_each_page_exactly_once(pages, first):
    """The operations of a range join up, from its first page to its last."""
    at = first * PAGE
    for step in range_steps(at, pages, PAGE, has_range=True):
        assert step.start == at
        if step.scale is not None:
            assert step.pages == range_pages(step.scale, step.num)
        at += step.pages * PAGE
    assert at == (first + pages) * PAGE


@given(st.integers(1, LIMIT))
def test_operation_count_is_the_closed_form(pages):
    """A range needs one operation for each digit of its length that is not zero."""
    steps = list(range_steps(0, pages, PAGE, has_range=True))
    assert len(steps) == closed_form(pages)


@pytest.mark.parametrize(("pages", "operations"), PUBLISHED.items())
def test_operation_count_is_as_published(pages, operations):
    """The counts that the kernel was seen to issue are the model's."""
    assert len(list(range_steps(0, pages, PAGE, has_range=True))) == operations


def test_every_length_up_to_a_table_of_tables_by_brute_force():
    """No length from 1 to 69,999 pages needs more or fewer than the closed form."""
    for pages in range(1, 70_000, 7):
        steps = sum(1 for _ in range_steps(0, pages, PAGE, has_range=True))
        assert steps == closed_form(pages)


@given(st.integers(1, 1 << 16), st.integers(0, 15))
def test_lpa2_ranges_begin_on_64_kib(pages, offset):
    """With 52-bit addresses a range operation can only name a 64 KiB boundary."""
    start = (1 << 40) + offset * PAGE
    for step in range_steps(start, pages, PAGE, has_range=True, lpa2=True):
        assert step.scale is None or step.start % (1 << 16) == 0


@pytest.mark.parametrize(
    ("pages", "singles", "ranges"), [(512, 16, 2), (16, 16, 0), (511, 15, 2)]
)
def test_lpa2_leading_singles(pages, singles, ranges):
    """One page past a boundary, single operations lead up to the next one."""
    steps = list(range_steps(PAGE, pages, PAGE, has_range=True, lpa2=True))
    alone = [step for step in steps if step.scale is None]
    assert (len(alone), len(steps) - len(alone)) == (singles, ranges)


# -- T1: the functions -----------------------------------------------------------------


@pytest.mark.parametrize("kpti", [False, True])
def test_t1_1_flush_tlb_page(kpti):
    """T1.1: one page is one TLBI an ASID, two barriers, no ISB, one notifier call."""
    kernel = boot(kpti=kpti)
    vma = area(kernel, 4)
    counts = issued(kernel, lambda: kernel.tlbflush.flush_tlb_page(vma, vma.start))
    assert counts.tlbi == {"VALE1IS": 1 + kpti}
    assert counts.dsb == {"ishst": 1, "ish": 1}
    assert counts.isb == 0
    assert counts.notifier == 1


@pytest.mark.parametrize("kpti", [False, True])
@pytest.mark.parametrize("pages", [1, 3, 16, 511, 512, 4096, LIMIT])
def test_t1_2_flush_tlb_range_with_range_operations(pages, kpti):
    """T1.2: any range up to 8 GiB takes R(p) operations and two barriers."""
    kernel = boot(kpti=kpti)
    vma = area(kernel, pages)
    counts = issued(
        kernel, lambda: kernel.tlbflush.flush_tlb_range(vma, vma.start, vma.end)
    )
    assert total(counts) == (1 + kpti) * closed_form(pages)
    assert set(counts.tlbi) <= {"VAE1IS", "RVAE1IS"}
    assert counts.dsb == {"ishst": 1, "ish": 1}


@pytest.mark.parametrize("model", ["neoverse-v2", "neoverse-n1"])
def test_one_page_more_than_a_range_can_name_is_an_asid_flush(model):
    """Past 2^21 pages every CPU model flushes the whole address space instead."""
    kernel = boot(model=model)
    vma = area(kernel, LIMIT + 1)
    counts = issued(
        kernel, lambda: kernel.tlbflush.flush_tlb_range(vma, vma.start, vma.end)
    )
    assert counts.tlbi == {"ASIDE1IS": 1}


@pytest.mark.parametrize(("page_shift", "limit"), [(12, 512), (14, 2048)])
def test_t1_3_without_range_operations(page_shift, limit):
    """T1.3: one table's worth of pages, and every page is too many to name singly."""
    kernel = boot(model="neoverse-n1", page_shift=page_shift)
    vma = area(kernel, limit)
    size = kernel.pgtable.page_size

    def flush(pages):
        end = vma.start + pages * size
        return issued(
            kernel, lambda: kernel.tlbflush.flush_tlb_range(vma, vma.start, end)
        ).tlbi

    assert flush(limit - 1) == {"VAE1IS": limit - 1}
    assert flush(limit) == {"ASIDE1IS": 1}


def test_t1_4_blocks_without_range_operations():
    """T1.4: up to 511 blocks go one by one, 512 (1 GiB) by ASID."""
    kernel = boot(model="neoverse-n1")
    block = kernel.pgtable.pmd_size
    vma = area(kernel, 512 * block // PAGE)

    def flush(blocks):
        end = vma.start + blocks * block
        return issued(
            kernel, lambda: kernel.tlbflush.flush_pmd_tlb_range(vma, vma.start, end)
        ).tlbi

    assert flush(511) == {"VAE1IS": 511}
    assert flush(512) == {"ASIDE1IS": 1}


def test_one_block_on_a_range_cpu_is_one_range_operation():
    """A 2 MiB block is 512 pages to a range operation: scale 1, NUM 7, level 2."""
    kernel = boot()
    vma = area(kernel, 512)
    seen: list[Event] = []
    kernel.machine.events.listen(seen.append)
    kernel.tlbflush.flush_pmd_tlb_range(vma, vma.start, vma.end)
    (tlbi,) = [event for event in seen if event.kind == "tlbi"]
    assert tlbi.what.name == "RVAE1IS"
    assert (tlbi.new >> 44 & 3, tlbi.new >> 39 & 31, tlbi.new >> 37 & 3) == (1, 7, 2)


def test_gib_blocks_over_the_limit_fall_back_far_below_512_strides():
    """16 blocks of 1 GiB are more pages than a range can name, so they go by ASID."""
    kernel = boot()
    vma = area(kernel, 16 << 18)
    counts = issued(
        kernel, lambda: kernel.tlbflush.flush_pud_tlb_range(vma, vma.start, vma.end)
    )
    assert counts.tlbi == {"ASIDE1IS": 1}


@given(
    st.integers(0, 1 << 20),
    st.integers(1, 4096),
    st.sampled_from(["neoverse-v2", "neoverse-n1"]),
    st.booleans(),
)
def test_a_range_flush_names_all_of_its_pages(first, pages, model, kpti):
    """Whatever the CPU, no page of a range is left unnamed, under either ASID."""
    kernel = boot(model=model, kpti=kpti, cpus=1)
    process = kernel.spawn()
    vma = process.mm
    start = (1 << 40) + first * PAGE
    seen: list[Event] = []
    kernel.machine.events.listen(seen.append)
    kernel.tlbflush.flush_tlb_range_nosync_(
        vma, start, start + pages * PAGE, PAGE, last_level=True, level=3
    )
    named: dict[int, list[tuple[int, int]]] = {}
    for event in seen:
        if event.kind == "tlbi":
            target = decode(event.what, event.new)
            count = named.setdefault(target.asid, [])
            count.append((target.first, target.last))
    assert len(named) == 1 + kpti
    for spans in named.values():
        if spans == [(0, (1 << 64) - 1)]:
            continue
        at = start
        for low, high in spans:
            assert low == at
            at = max(high + 1, low + PAGE)
        assert at == start + pages * PAGE


def test_t1_7_batched_unmap_waits_once():
    """T1.7: n pages of reclaim start n flushes and wait for all of them once."""
    kernel = boot(model="neoverse-n1")
    vma = area(kernel, 8)

    def batch():
        for page in range(8):
            at = vma.start + page * PAGE
            kernel.tlbflush.arch_tlbbatch_add_pending(vma.mm, at, at + PAGE)
        kernel.tlbflush.arch_tlbbatch_flush()

    counts = issued(kernel, batch)
    assert counts.tlbi == {"VALE1IS": 8}
    assert counts.dsb == {"ishst": 8, "ish": 1}


def test_t1_8_page_aging_never_waits():
    """T1.8: clearing n access flags starts n flushes and waits for none."""
    kernel = boot(model="neoverse-n1", rules=False)
    process = kernel.spawn()
    base = process.mmap(8 * PAGE)
    for page in range(8):
        process.write(base + page * PAGE, page)
    vma = process.mm.vmas[1]

    def age():
        for page in range(8):
            at = base + page * PAGE
            ptep = kernel.pgtable.find_pte(process.mm, at)
            assert kernel.pgtable_generic.ptep_clear_flush_young(vma, at, ptep)

    counts = issued(kernel, age)
    assert counts.tlbi == {"VALE1IS": 8}
    assert counts.dsb == {"ishst": 8}


def test_t1_10_only_user_flushes_double_for_kpti():
    """T1.10: kernel addresses have one ASID's worth of entries, with KPTI or not."""
    kernel = boot(kpti=True)
    vma = area(kernel, 1)
    user = issued(kernel, lambda: kernel.tlbflush.flush_tlb_mm(vma.mm))
    high = 0xFFFF_8000_0000_0000
    inside = issued(
        kernel, lambda: kernel.tlbflush.flush_tlb_kernel_range(high, high + 3 * PAGE)
    )
    assert user.tlbi == {"ASIDE1IS": 2}
    assert inside.tlbi == {"RVAALE1IS": 1, "VAALE1IS": 1}
    assert inside.isb == 1


def test_the_repeat_erratum_issues_everything_twice():
    """Each TLBI is followed by a DSB and itself, and batches are not deferred."""
    kernel = boot(repeat_tlbi=True)
    vma = area(kernel, 1)
    counts = issued(kernel, lambda: kernel.tlbflush.flush_tlb_page(vma, vma.start))
    assert counts.tlbi == {"VALE1IS": 2}
    assert counts.dsb == {"ishst": 1, "ish": 2}
    assert not kernel.tlbflush.arch_tlbbatch_should_defer()


def test_the_repeat_erratum_issues_one_more_for_each_wait_since_v7_0():
    """A wait for broadcasts is followed by one TLBI and a DSB, a local wait by none."""
    kernel = boot("v7.0", repeat_tlbi=True, model="neoverse-n1")
    vma = area(kernel, 3)
    flush = kernel.tlbflush
    counts = issued(kernel, lambda: flush.flush_tlb_range(vma, vma.start, vma.end))
    assert counts.tlbi == {"VAE1IS": 3, "VALE1IS": 1}
    assert counts.dsb == {"ishst": 1, "ish": 2}
    local = issued(kernel, lambda: flush.local_flush_tlb_page(vma, vma.start))
    assert (local.tlbi, local.dsb) == ({"VALE1": 1}, {"nshst": 1, "nsh": 1})
    assert flush.arch_tlbbatch_should_defer()


def test_page_flushes_give_no_level():
    """A page flush must drop a block too, so it may not name a level."""
    kernel = boot()
    vma = area(kernel, 1)
    seen: list[Event] = []
    kernel.machine.events.listen(seen.append)
    kernel.tlbflush.flush_tlb_page(vma, vma.start)
    kernel.tlbflush.local_flush_tlb_page(vma, vma.start)
    kernel.tlbflush.flush_tlb_range(vma, vma.start, vma.end)
    levels = [
        decode(event.what, event.new).level for event in seen if event.kind == "tlbi"
    ]
    assert levels == [None, None, None]


def test_every_name_that_the_kernel_issues_is_an_operation():
    """The forms that range flushes build by prefix exist."""
    for name in ("VAE1IS", "VALE1IS", "VAALE1IS"):
        assert name in OPERATIONS
        assert "R" + name in OPERATIONS


# -- the decision of c320dbb7c80d ------------------------------------------------------


@given(U64, U64)
def test_what_was_invalid_needs_no_flush(old, new):
    """What no TLB may hold cannot become stale."""
    assert not TlbFlush.pte_needs_flush(old & ~PTE_VALID, new)


@given(U64, U64)
def test_software_bits_never_decide(old, new):
    """Bits that no walker reads make no difference, on either side."""
    answer = TlbFlush.pte_needs_flush(old, new)
    assert TlbFlush.pte_needs_flush(old ^ (new & PTE_SWBITS_MASK), new) == answer
    assert TlbFlush.pte_needs_flush(old, new ^ (old & PTE_SWBITS_MASK)) == answer


@pytest.mark.parametrize("bit", range(64))
def test_each_bit_of_a_valid_entry(bit):
    """A valid entry needs a flush for each bit that hardware reads, and no other."""
    old = PTE_VALID | 0x0040_0000_8000_0F40
    new = old ^ 1 << bit
    software = bool(PTE_SWBITS_MASK >> bit & 1)
    assert TlbFlush.pte_needs_flush(old, new) == (not software)
    assert TlbFlush.huge_pmd_needs_flush(old, new) == (not software)


@given(U64)
def test_an_unchanged_entry_needs_no_flush(pte):
    """Nothing can be stale that did not change."""
    assert not TlbFlush.pte_needs_flush(pte, pte)


@pytest.mark.parametrize("kernel", ["v6.17", "pr350", "v6.19", "fixed"])
@given(old=U64, new=U64)
def test_only_kernels_without_the_commit_always_flush(kernel, old, new):
    """Before c320dbb7c80d the answer was yes, whatever the entries."""
    rule = boot(kernel, cpus=1).tlbflush.pte_needs_flush
    expected = kernel == "v6.17" or TlbFlush.pte_needs_flush(old, new)
    assert rule(old, new) == expected
