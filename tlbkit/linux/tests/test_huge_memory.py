"""mm/huge_memory.c: what becomes of blocks, what is flushed, and what is counted."""

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tlbkit.arm64.events import Event
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.tlbi import decode, encode_va
from tlbkit.errors import InputError
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    PAGE_NONE,
    pmd_table,
    pmd_trans_huge,
    pte_dirty,
    pte_mkclean,
    pte_mkold,
    pte_mkuffd_wp,
    pte_none,
    pte_protnone,
    pte_special,
    pte_uffd_wp,
    pte_valid,
    pte_write,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.tlbflush import TlbFlush
from tlbkit.linux.arch.arm64.mm.fault import OutOfMemoryError
from tlbkit.linux.include.linux.huge_mm import pmd_is_migration_entry
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_TRIED,
    FAULT_FLAG_WRITE,
    VM_HUGEPAGE,
    VM_NOHUGEPAGE,
)
from tlbkit.linux.include.linux.mm_types import (
    ENTIRELY_MAPPED,
    FOLIO_PAGES_MAPPED,
    Folio,
    LargeFolio,
    PG_active,
    PG_lru,
    PG_referenced,
    PG_swapbacked,
    VmFault,
)
from tlbkit.linux.include.linux.pagemap import folio_trylock, folio_unlock
from tlbkit.linux.include.linux.swapops import (
    SWP_MIGRATION_READ,
    SWP_MIGRATION_READ_EXCLUSIVE,
    pte_to_swp_entry,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EBUSY,
    Signal,
    SystemCallError,
)
from tlbkit.linux.kernel.kernel import PARTS
from tlbkit.linux.kernel.kernel import Kernel as NewestKernel
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.linux.mm.page_alloc import BadPageError
from tlbkit.linux.process import LivelockError
from tlbkit.linux.tests.audit import all_frames, audit, audit_tlbs, contiguous
from tlbkit.linux.tests.support import PAGE, boot, issued, pin, stale, total

BLOCK = 512 * PAGE
WAIT = ["ishst", "ish"]
"""The barriers of a flush."""
TABLE = ["ishst"]
"""The barrier after an upper entry is stored that points to a table, or did."""
SPLIT = [*WAIT, *TABLE, *TABLE]
"""A PMD entry is hidden and flushed; it points to the table, after a copy of it did."""
VERSIONS = ["v6.17", "v6.19"]
both = pytest.mark.parametrize("version", VERSIONS)


def room(kernel, count):
    """Start a process with memory for *count* blocks, which it has not touched."""
    kernel.huge_memory.enabled = "always"
    process = kernel.spawn()
    return process, process.mmap(count * kernel.pgtable.pmd_size)


def blocks(kernel, count, *, written=True):
    """Map *count* blocks, and write the number of each block into its first word."""
    process, base = room(kernel, count)
    size = kernel.pgtable.pmd_size
    for number in range(count):
        if written:
            process.write(base + number * size, number)
        else:
            assert process.read(base + number * size) == 0
    return process, base


def pmd_of(kernel, process, address):
    """The PMD entry of *address*."""
    return kernel.pgtable.read(kernel.pgtable.find_pmd(process.mm, address))


def folio_of(kernel, process, address):
    """The folio that the block at *address* maps."""
    pfn = kernel.pgtable.pte_pfn(pmd_of(kernel, process, address))
    return kernel.page_alloc.folio_of(pfn)


def forms(kernel, operation):
    """The TLBIs that *operation* issues, in order, and the barriers."""
    named, barriers = targets(kernel, operation)
    return [name for name, _ in named], barriers


def targets(kernel, operation):
    """The same, and what each TLBI names."""
    seen: list[Event] = []
    lpa2 = kernel.machine.model.lpa2
    kernel.machine.events.listen(seen.append, {"tlbi", "dsb"})
    operation()
    kernel.machine.events.leave(seen.append)
    named = [
        (event.what.name, decode(event.what, event.new, lpa2=lpa2))
        for event in seen
        if event.kind == "tlbi"
    ]
    return named, [event.what for event in seen if event.kind == "dsb"]


def single(kernel, name):
    """The form that one block flush has on this kernel's CPUs."""
    return ("R" if kernel.machine.model.range_tlbi else "") + name


# -- settings ------------------------------------------------------------------------


def test_who_gets_blocks():
    """Settings, advice and the area decide together; refusal beats everything."""
    for enabled, advice, expected in [
        ("never", "hugepage", False),
        ("madvise", None, False),
        ("madvise", "hugepage", True),
        ("madvise", "nohugepage", False),
        ("always", None, True),
        ("always", "nohugepage", False),
    ]:
        kernel = boot()
        kernel.huge_memory.enabled = enabled
        process = kernel.spawn()
        base = process.mmap(BLOCK)
        if advice:
            process.madvise(base, BLOCK, advice)
        process.write(base, 1)
        assert pmd_trans_huge(pmd_of(kernel, process, base)) == expected
        audit(kernel)


def test_the_default_is_to_ask():
    """Without a word, blocks go to who asks for them, and there are no other sizes."""
    kernel = boot()
    assert kernel.huge_memory.enabled == "madvise"
    assert kernel.huge_memory.mthp_orders == 0


@pytest.mark.parametrize("kib", [0, 3, 4, 8, 100, 4096])
def test_a_size_that_no_folio_has(kib):
    """A large folio has a power of two of pages, from four up to a block."""
    with pytest.raises(InputError, match="power of two from 16 to 2048 KiB"):
        boot().huge_memory.set_hugepages_enabled(kib, "always")


@given(st.sampled_from([16, 32, 64, 1024, 2048]))
def test_a_size_may_be_written_as_the_kernel_writes_it(kib):
    """64, "64kB", "64K" and "64 kib" are one size, and so are "1MB" and 1024."""
    texts = [kib, f"{kib}kB", f"{kib}K", f"{kib} kib", str(kib)]
    texts += [f"{kib >> 10}MB"] if kib >> 10 else []
    for text in texts:
        kernel = boot()
        kernel.huge_memory.set_hugepages_enabled(text, "always")
        vma = kernel.vma.vma_lookup((p := kernel.spawn()).mm, p.mmap(PAGE))
        order = (kib // 4).bit_length() - 1
        assert kernel.huge_memory.thp_vma_allowable_orders(vma, 1 << order)


@given(st.text(max_size=8))
def test_a_text_that_is_no_size_is_refused(text):
    """What does not begin with a number is an error that says how to write one."""
    assume(not text[:1].isdigit())
    with pytest.raises(InputError, match="write a size"):
        boot().huge_memory.set_hugepages_enabled(text, "never")


def test_an_unknown_setting_is_refused():
    """A wrong word is an error with the words there are, and changes nothing."""
    kernel = boot()
    with pytest.raises(InputError, match="'always', 'madvise' and 'never'"):
        kernel.huge_memory.enabled = "often"
    with pytest.raises(InputError, match="'inherit'"):
        kernel.huge_memory.set_hugepages_enabled(64, "often")
    assert kernel.huge_memory.enabled == "madvise"


@given(st.sampled_from(["always", "madvise", "never"]), st.data())
def test_a_size_inherits_or_decides(enabled, data):
    """A size is allowed if its own word is, or the common one where it says so."""
    kernel = boot()
    kernel.huge_memory.enabled = enabled
    words = ["always", "inherit", "madvise", "never"]
    chosen = {
        kib: data.draw(st.sampled_from(words)) for kib in (16, 32, 64, 1024, 2048)
    }
    for kib, word in chosen.items():
        kernel.huge_memory.set_hugepages_enabled(kib, word)
    for flags in (0, VM_HUGEPAGE, VM_NOHUGEPAGE):
        process = kernel.spawn()
        vma = kernel.vma.vma_lookup(process.mm, process.mmap(PAGE))
        vma.flags |= flags
        for kib, word in chosen.items():
            order = (kib // 4).bit_length() - 1
            how = enabled if word == "inherit" else word
            expected = not flags & VM_NOHUGEPAGE and (
                how == "always" or (how == "madvise" and bool(flags & VM_HUGEPAGE))
            )
            allowed = kernel.huge_memory.thp_vma_allowable_orders(vma, 1 << order)
            assert bool(allowed) == expected


# -- the first fault -----------------------------------------------------------------


@both
def test_a_write_maps_a_block(version):
    """One fault makes all of a block writable, dirty and one's own, without a flush."""
    kernel = boot(version)
    process, base = room(kernel, 1)
    counts = issued(kernel, lambda: process.write(base + 5 * PAGE, 7))
    assert (counts.tlbi, counts.faults.total()) == ({}, 1)
    pmd = pmd_of(kernel, process, base)
    assert (pte_write(pmd), pte_dirty(pmd), pte_young(pmd)) == (True, True, True)
    assert process.mm.anonpages == 512
    for page in range(512):
        assert process.read(base + page * PAGE) == (7 if page == 5 else 0)
    audit(kernel)
    audit_tlbs(kernel)


def test_a_read_maps_zeros_that_cost_nothing():
    """The huge zero folio is in no count, is marked special, and is read-only."""
    kernel = boot()
    process, base = blocks(kernel, 2, written=False)
    zero = kernel.huge_memory.huge_zero_folio
    assert (zero.refcount, zero.mapcount) == (1, 0)
    assert process.mm.anonpages == 0
    pmd = pmd_of(kernel, process, base)
    assert pte_special(pmd)
    assert not pte_write(pmd)
    assert kernel.huge_memory.is_huge_zero_pmd(pmd)
    audit(kernel)


def test_without_use_zero_page_a_read_maps_a_block():
    """The setting decides whether zeros are shared."""
    kernel = boot()
    kernel.huge_memory.use_zero_page = False
    process, base = blocks(kernel, 1, written=False)
    assert kernel.huge_memory.huge_zero_folio is None
    assert process.mm.anonpages == 512
    assert pte_write(pmd_of(kernel, process, base))


def test_a_block_must_fit_into_its_area():
    """At the edges of an area there are pages."""
    kernel = boot()
    process, base = room(kernel, 2)
    process.munmap(base + BLOCK + 3 * PAGE, BLOCK)
    process.write(base, 1)
    process.write(base + BLOCK, 1)
    assert pmd_trans_huge(pmd_of(kernel, process, base))
    assert pmd_table(pmd_of(kernel, process, base + BLOCK))
    audit(kernel)


def test_the_huge_zero_folio_counts_processes():
    """It is held once for each process that ever mapped it, until that ends."""
    kernel = boot()
    huge = kernel.huge_memory
    first, base = blocks(kernel, 3, written=False)
    assert huge.shrink_huge_zero_folio_scan() == 0
    child = first.fork()
    first.munmap(base, 3 * BLOCK)
    assert huge.shrink_huge_zero_folio_scan() == 0, "unmapping drops nothing"
    first.exit()
    assert huge.shrink_huge_zero_folio_scan() == 0
    audit(kernel)
    child.exit()
    assert huge.shrink_huge_zero_folio_scan() == 512
    assert huge.huge_zero_folio is None
    assert huge.shrink_huge_zero_folio_scan() == 0


# -- write to zeros ------------------------------------------------------------------


@both
@pytest.mark.parametrize("model", ["neoverse-v2", "neoverse-n1"])
def test_a_write_to_zeros(version, model):
    """Row "huge zero write" of 5.4: one block flush; the stored table stays there."""
    kernel = boot(version, model=model)
    process, base = blocks(kernel, 1, written=False)
    tables = process.mm.pgtables[3]
    names, dsb = forms(kernel, lambda: process.write(base + 9 * PAGE, 3))
    assert (names, dsb) == ([single(kernel, "VAE1IS")], ["ishst", "ish"])
    assert process.mm.pgtables[3] == tables
    assert process.read(base + 9 * PAGE) == 3
    audit(kernel)
    audit_tlbs(kernel)


def test_a_write_to_zeros_without_memory_splits_them():
    """If there is no block to be had, the zeros are split and one page is copied."""
    kernel = boot()
    process, base = blocks(kernel, 1, written=False)
    failures = iter([True, False])
    kernel.page_alloc.fail = lambda: next(failures, False)
    process.write(base + 9 * PAGE, 3)
    kernel.page_alloc.fail = None
    assert pmd_table(pmd_of(kernel, process, base))
    assert process.mm.anonpages == 1
    assert not any(contiguous(kernel, process, base, 512)), "special pages never fold"
    audit(kernel)


# -- fork and copy on write ----------------------------------------------------------


@both
@pytest.mark.parametrize("kpti", [False, True])
@pytest.mark.parametrize("count", [1, 5])
def test_fork_of_blocks_is_one_flush(version, kpti, count):
    """Row "fork" of 5.4: one flush by ASID, however many blocks, after two tables."""
    kernel = boot(version, kpti=kpti)
    process, _ = blocks(kernel, count)
    names, dsb = forms(kernel, process.fork)
    assert (names, dsb) == (["ASIDE1IS"] * (1 + kpti), [*TABLE, *TABLE, *WAIT])
    audit(kernel)
    audit_tlbs(kernel)


@pytest.mark.parametrize(
    ("version", "name", "dsb"),
    [("v6.17", "VALE1IS", ["ishst", "ish"]), ("v6.19", "VALE1", ["nshst", "nsh"])],
)
@pytest.mark.parametrize("model", ["neoverse-v2", "neoverse-n1"])
def test_a_write_to_a_block_of_ones_own(version, name, dsb, model):
    """Row "THP reuse" of 4.4: a page's flush at the block's base, without a level."""
    kernel = boot(version, model=model)
    process, base = blocks(kernel, 1)
    process.fork().exit()
    seen, barriers = targets(kernel, lambda: process.write(base + 77 * PAGE, 1))
    ((issued_name, target),) = seen
    assert (issued_name, barriers) == (name, dsb)
    assert (target.first, target.last, target.level) == (base, base, None)
    assert pmd_trans_huge(pmd_of(kernel, process, base))
    audit(kernel)
    audit_tlbs(kernel)


@both
@pytest.mark.parametrize("model", ["neoverse-v2", "neoverse-n1"])
def test_a_write_to_a_shared_block_is_three_flushes(version, model):
    """Row "THP write, shared" of 5.4: split, unfold, copy; each a broadcast."""
    kernel = boot(version, model=model)
    process, base = blocks(kernel, 1)
    process.fork()
    names, dsb = forms(kernel, lambda: process.write(base + 77 * PAGE, 1))
    unfold = [single(kernel, "VALE1IS")] * (1 if model == "neoverse-v2" else 16)
    split = [single(kernel, "VAE1IS")]
    assert names == [*split, *unfold, "VALE1IS"]
    assert dsb == [*SPLIT, *WAIT, *WAIT]
    audit(kernel)
    audit_tlbs(kernel)


def test_a_split_block_is_contiguous_but_where_it_was_written():
    """A split stores blocks of 16 at once; only the one that was written unfolds."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    process.fork()
    process.write(base + 77 * PAGE, 1)
    expected = [page // 16 != 77 // 16 for page in range(512)]
    assert contiguous(kernel, process, base, 512) == expected


def test_fork_shares_and_nobody_sees_the_other_s_writes():
    """After fork each writes for itself, whichever order they write in."""
    for first in (0, 1):
        kernel = boot()
        process, base = blocks(kernel, 1)
        pair = [process, process.fork(1)]
        folio = folio_of(kernel, process, base)
        assert (folio.mapcount, folio.refcount) == (2, 2)
        assert not folio.page_exclusive(folio.pfn)
        for number in (first, 1 - first):
            pair[number].write(base + 8, 100 + number)
        assert [one.read(base + 8) for one in pair] == [100, 101]
        assert [one.read(base + PAGE) for one in pair] == [0, 0]
        audit(kernel)


def test_a_child_s_block_is_old_and_read_only():
    """Both lose the right to write; the child's entry was not used yet."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    child = process.fork()
    for one, young in ((process, True), (child, False)):
        pmd = pmd_of(kernel, one, base)
        assert not pte_write(pmd)
        assert pte_young(pmd) == young


def test_fork_of_zeros_counts_the_child_only():
    """The child holds the huge zero folio once more; the mark is inherited."""
    kernel = boot()
    process, base = blocks(kernel, 1, written=False)
    child = process.fork()
    assert child.mm.huge_zero
    assert pte_special(pmd_of(kernel, child, base))
    assert child.mm.anonpages == 0
    audit(kernel)


def test_fork_of_a_raw_block_copies_the_entry():
    """What is special and not the huge zero folio has no count and no stored table."""
    kernel = boot(rules=False)
    process, base = blocks(kernel, 1, written=False)
    pgtable = kernel.pgtable
    pmdp = pgtable.find_pmd(process.mm, base)
    zeros = pgtable.read(pmdp)
    raw = zeros + (1 << pgtable.pmd_shift)
    pgtable.set_pte(pmdp, 0)
    pgtable.set_pte(pmdp, raw)
    child = process.fork()
    copy = pgtable.find_pmd(child.mm, base)
    assert pgtable.pte_pfn(pgtable.read(copy)) == pgtable.pte_pfn(raw)
    assert not child.mm.huge_zero
    assert kernel.pgtable_generic.deposited(copy) == 0
    pgtable.set_pte(copy, 0)
    pgtable.set_pte(pmdp, 0)
    pgtable.set_pte(pmdp, zeros)
    audit(kernel)


@both
def test_fork_of_a_pinned_block_splits_and_copies(version):
    """T5.3: the parent's block is split; the child gets copies of all its pages."""
    kernel = boot(version)
    process, base = blocks(kernel, 1)
    process.write(base + 3 * PAGE, 33)
    folio = folio_of(kernel, process, base)
    pin(kernel, process.mm, folio)
    child = process.fork()
    assert pmd_table(pmd_of(kernel, process, base))
    assert child.read(base + 3 * PAGE) == 33
    counts = issued(kernel, lambda: process.write(base + 3 * PAGE, 34))
    assert (total(counts), counts.faults.total()) == (0, 0), "the page stayed its own"
    assert child.read(base + 3 * PAGE) == 33
    kernel.gup.unpin_user_page(folio)
    audit(kernel)


@both
def test_a_reference_forces_the_split(version):
    """T5.4: who holds a reference may look at the block, so it is not reused."""
    kernel = boot(version)
    process, base = blocks(kernel, 1)
    process.fork().exit()
    folio = folio_of(kernel, process, base)
    folio.refcount += 1
    process.write(base + PAGE, 1)
    assert pmd_table(pmd_of(kernel, process, base))
    kernel.swap.folio_put(folio)
    audit(kernel)


def test_the_last_of_three_reuses_the_block():
    """Not who maps the block is asked but who holds it: the last one may keep it."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    child = process.fork()
    grandchild = child.fork()
    process.exit()
    child.exit()
    grandchild.write(base, 5)
    assert pmd_trans_huge(pmd_of(kernel, grandchild, base))
    audit(kernel)


# -- a stale entry -------------------------------------------------------------------


def upgraded(kernel):
    """A block that CPU 1 holds read-only, though CPU 0 has made it writable."""
    process, base = blocks(kernel, 1)
    process.fork().exit()
    process.read(base, cpu=1)
    process.write(base, 1, cpu=0)
    return process, base


def test_a_spurious_fault_on_a_block():
    """Row "THP spurious" of 4.4: one local flush, of the page that faulted."""
    kernel = boot("v6.19")
    process, base = upgraded(kernel)
    assert stale(kernel, process, 1, base) is not None
    counts = issued(kernel, lambda: process.write(base + 99 * PAGE, 2, cpu=1))
    assert counts.tlbi == {"VALE1": 1}
    assert counts.dsb == {"nshst": 1, "nsh": 1}
    assert (counts.spurious_faults, counts.notifier) == (1, 0)
    audit_tlbs(kernel)


@pytest.mark.parametrize("without", [(), ("cb1fa2e99955",)])
def test_before_there_is_no_spurious_fault_on_a_block(without):
    """The broadcast leaves no stale entry, with the helper and without it."""
    kernel = boot("v6.19" if without else "v6.17", without=without)
    process, base = upgraded(kernel)
    assert stale(kernel, process, 1, base) is None
    counts = issued(kernel, lambda: process.write(base, 2, cpu=1))
    assert (counts.tlbi, counts.faults.total()) == ({}, 0)


def test_the_helper_alone_changes_no_flush():
    """79301c7d605a flushes nothing by itself: v6.17 with it issues what v6.17 does."""
    seen = []
    for version, without in (("v6.17", ()), ("v6.19", ("cb1fa2e99955",))):
        kernel = boot(version, without=without)
        process, base = blocks(kernel, 1)
        process.fork().exit()
        names = forms(kernel, lambda p=process, a=base: p.write(a, 1))
        seen.append(names)
    assert seen[0] == seen[1]


def test_without_the_helper_the_local_flush_goes_as_well():
    """A CPU with a stale block would fault for ever, so both go, and it is said."""
    kernel = boot("v6.19", without=("79301c7d605a",))
    assert any("cb1fa2e99955 goes as well" in sentence for sentence in kernel.said)
    process, base = upgraded(kernel)
    process.write(base, 2, cpu=1)


def test_a_retried_fault_on_a_block_is_left_alone():
    """T4.6: with TRIED nothing is flushed; the access faults again, and that helps."""
    kernel = boot("v6.19")
    process, base = upgraded(kernel)
    vma = kernel.vma.vma_lookup(process.mm, base)
    flags = FAULT_FLAG_WRITE | FAULT_FLAG_TRIED
    process.read(base, cpu=1)
    counts = issued(kernel, lambda: kernel.memory.handle_mm_fault(vma, base + 8, flags))
    assert counts.tlbi == {}
    process.write(base + 8, 1, cpu=1)


def test_t4_9_a_level_hint_would_leave_the_block():
    """T4.9: with TTL 3 in the local page flush, a stale block is never dropped."""

    class Hinted(TlbFlush):
        """A local page flush that takes every leaf for a page."""

        __slots__ = ()

        def _local_flush_tlb_page_nosync(self, mm, addr):
            self._machine.running.dsb("nshst")
            asid = self._kernel.context.asid(mm)
            self._tlbi_user("VALE1", encode_va(addr, asid, 3))

    kernel = boot("v6.19")
    kernel = NewestKernel(
        type(kernel.machine)(4, kernel.machine.model), {**PARTS, "tlbflush": Hinted}
    )
    kernel.huge_memory.enabled = "always"
    process = kernel.spawn()
    base = process.mmap(BLOCK)
    process.write(base, 1)
    process.fork().exit()
    process.read(base, cpu=1)
    with pytest.raises(LivelockError):
        process.write(base, 1, cpu=0)


def test_an_old_block_becomes_young_without_a_flush():
    """T4.8: a read that finds the access flag clear flushes nothing, in any kernel."""
    for version in VERSIONS:
        kernel = boot(version, model="cortex-a72")
        process, base = blocks(kernel, 1)
        child = process.fork()
        counts = issued(kernel, lambda p=child, a=base: p.read(a))
        assert (counts.tlbi, counts.faults.total()) == ({}, 1)
        assert pte_young(pmd_of(kernel, child, base))


def test_touch_tells_whether_it_was_news():
    """To touch what is young and dirty changes nothing: that is what spurious means."""
    kernel = boot(rules=False)
    process, base = blocks(kernel, 1)
    pmdp = kernel.pgtable.find_pmd(process.mm, base)
    vma = kernel.vma.vma_lookup(process.mm, base)
    vmf = VmFault(vma, base, base, FAULT_FLAG_WRITE, pmd=pmdp)
    vmf.orig_pmd = kernel.pgtable.read(pmdp)
    assert not kernel.huge_memory.huge_pmd_set_accessed(vmf)
    kernel.pgtable.ptep_test_and_clear_young_(pmdp)
    assert not kernel.huge_memory.huge_pmd_set_accessed(vmf), "somebody changed it"
    vmf.orig_pmd = kernel.pgtable.read(pmdp)
    assert kernel.huge_memory.huge_pmd_set_accessed(vmf)


# -- mprotect ------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["neoverse-v2", "neoverse-n1"])
@pytest.mark.parametrize("kpti", [False, True])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_t2_8_none_to_rw(model, kpti, count):
    """T2.8: h blocks from none to rw are h + 1 flushes before, and h after."""
    for version, gathered in (("v6.17", 1), ("v6.19", 0)):
        kernel = boot(version, model=model, kpti=kpti)
        process, base = blocks(kernel, count)
        size = count * BLOCK
        process.mprotect(base, size, "none")
        assert pte_protnone(pmd_of(kernel, process, base))
        names, dsb = forms(
            kernel, lambda p=process, a=base, s=size: p.mprotect(a, s, "rw")
        )
        block = [single(kernel, "VAE1IS")] * (1 + kpti)
        assert names[: len(block) * count] == block * count
        hull = names[len(block) * count :]
        assert bool(hull) == bool(gathered)
        assert set(hull) <= {single(kernel, "VALE1IS")}
        assert dsb == ["ishst", "ish"] * (count + gathered)
        counts = issued(kernel, lambda p=process, a=base: p.write(a, 1))
        assert counts.faults.total() == (0 if kernel.machine.model.hw_dbm else 1)
        audit(kernel)
        audit_tlbs(kernel)


@both
@pytest.mark.parametrize(("old", "new"), [("rw", "r"), ("rw", "none"), ("r", "rw")])
def test_a_valid_block_is_flushed_twice(version, old, new):
    """A change of a visible block is flushed by the invalidation and by the gather."""
    kernel = boot(version)
    process, base = blocks(kernel, 3)
    process.mprotect(base, 3 * BLOCK, old)
    names, dsb = forms(kernel, lambda: process.mprotect(base, 3 * BLOCK, new))
    assert names == ["RVAE1IS"] * 3 + names[3:]
    assert names[3:]
    assert set(names[3:]) == {"RVALE1IS"}
    assert dsb == ["ishst", "ish"] * 4
    audit_tlbs(kernel)


@both
def test_partial_mprotect_is_three_flushes(version):
    """Row "part of a THP" of 8.2: split, unfold, and the page itself."""
    kernel = boot(version)
    process, base = blocks(kernel, 1)
    names, dsb = forms(kernel, lambda: process.mprotect(base + 100 * PAGE, PAGE, "r"))
    assert names == ["RVAE1IS", "RVALE1IS", "VALE1IS"]
    assert dsb == [*SPLIT, *WAIT, *WAIT]
    with pytest.raises(Signal, match="SEGV_ACCERR"):
        process.write(base + 100 * PAGE, 1)
    process.write(base + 101 * PAGE, 1)
    audit(kernel)
    audit_tlbs(kernel)


class Reclaimed(HugeMemory):
    """Reclaim takes each block just before it would be split."""

    __slots__ = ()

    def split_huge_pmd_(self, vma, pmdp, haddr, *, freeze):
        """Come too late, and find nothing to split."""
        self._pgtable.ptep_get_and_clear_(pmdp)
        super().split_huge_pmd_(vma, pmdp, haddr, freeze=freeze)


def test_a_block_that_is_gone_is_no_page_that_changed():
    """Protection of a part of a block that reclaim was faster to take is no error."""
    kernel = NewestKernel(Machine(1), {**PARTS, "huge_memory": Reclaimed})
    process, base = blocks(kernel, 1)
    vma = kernel.vma.vma_lookup(process.mm, base)
    assert vma is not None
    tlb = kernel.gather.tlb_gather_mmu(process.mm)
    changed = kernel.mprotect.change_protection(tlb, vma, base, base + PAGE, 0)
    kernel.gather.tlb_finish_mmu(tlb)
    assert changed == 0


def test_an_entry_is_not_taken_for_what_it_is_not():
    """A block has no lock of a page table, and a page is no block: both are told."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    pmd = kernel.pgtable.read(kernel.pgtable.find_pmd(process.mm, base))
    with pytest.raises(BadPageError, match="taken for a page table"):
        kernel.memory.pte_lockptr(pmd)
    folio = kernel.page_alloc.alloc()
    entry = kernel.pgtable.pfn_pte(folio.pfn, PAGE_NONE)
    with pytest.raises(BadPageError, match="taken for a huge page's"):
        kernel.huge_memory.pmd_folio(entry)


@both
@pytest.mark.parametrize(
    ("first", "pages", "edges"),
    [(16, 16, 0), (16, 32, 0), (17, 15, 1), (16, 15, 1), (15, 18, 2), (0, 500, 1)],
)
def test_each_touched_edge_is_unfolded(version, first, pages, edges):
    """Whole blocks of 16 are changed as they are; only cut ones cost a flush each."""
    kernel = boot(version)
    process, base = blocks(kernel, 1)
    names, _ = forms(
        kernel, lambda: process.mprotect(base + first * PAGE, pages * PAGE, "r")
    )
    assert names[0] == "RVAE1IS"
    assert names[1 : 1 + edges] == ["RVALE1IS"] * edges
    counts = issued(kernel, lambda: process.munmap(base, BLOCK))
    assert counts.tlbi
    audit(kernel)


def test_mprotect_keeps_what_blocks_hold():
    """A cycle through none loses no word, and no dirty state."""
    kernel = boot()
    process, base = blocks(kernel, 2)
    for prot in ("none", "r", "rw", "rx", "none", "rw"):
        process.mprotect(base, 2 * BLOCK, prot)
        assert pte_dirty(pmd_of(kernel, process, base))
        audit(kernel)
    assert [process.read(base), process.read(base + BLOCK)] == [0, 1]


def test_an_ineligible_block_does_not_become_writable():
    """What fork left shared stays read-only, and so do zeros."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    zeros = process.mmap(BLOCK)
    process.read(zeros)
    process.fork()
    for address in (base, zeros):
        process.mprotect(address, BLOCK, "r")
        process.mprotect(address, BLOCK, "rw")
        assert not pte_write(pmd_of(kernel, process, address))
    audit(kernel)


@both
def test_numa_hinting_hides_blocks_and_a_fault_shows_them(version):
    """Row 18 of 2.2: hiding is flushed twice; showing again flushes nothing."""
    kernel = boot(version)
    process, base = blocks(kernel, 2)
    zeros = process.mmap(BLOCK)
    process.read(zeros)
    vma = kernel.vma.vma_lookup(process.mm, base)
    names, _ = forms(
        kernel, lambda: kernel.mempolicy.change_prot_numa(vma, base, base + 2 * BLOCK)
    )
    assert names[:2] == ["RVAE1IS"] * 2
    assert set(names[2:]) == {"RVALE1IS"}
    assert pte_protnone(pmd_of(kernel, process, base))
    counts = issued(kernel, lambda: process.write(base + PAGE, 4))
    assert (counts.tlbi, counts.faults.total()) == ({}, 1)
    assert pte_valid(pmd_of(kernel, process, base))
    other = kernel.vma.vma_lookup(process.mm, zeros)
    counts = issued(
        kernel, lambda: kernel.mempolicy.change_prot_numa(other, zeros, zeros + BLOCK)
    )
    assert total(counts) == 0, "nobody moves zeros"
    audit(kernel)
    audit_tlbs(kernel)


@both
def test_numa_hinting_of_pages(version):
    """Single pages and those of a large folio come back too, with nothing flushed."""
    kernel = boot(version)
    kernel.huge_memory.set_hugepages_enabled(64, "madvise")
    process = kernel.spawn()
    base = process.mmap(32 * PAGE)
    process.madvise(base + 16 * PAGE, 16 * PAGE, "hugepage")
    for page in range(32):
        process.write(base + page * PAGE, page)
    for start in (base, base + 16 * PAGE):
        vma = kernel.vma.vma_lookup(process.mm, start)
        end = start + 16 * PAGE
        assert kernel.mempolicy.change_prot_numa(vma, start, end) == 16
        assert kernel.mempolicy.change_prot_numa(vma, start, end) == 0
    counts = issued(kernel, lambda: process.write(base, 1))
    assert (counts.tlbi, counts.faults.total()) == ({}, 1)
    counts = issued(kernel, lambda: process.read(base + 20 * PAGE))
    assert counts.faults.total() == 1
    folded = contiguous(kernel, process, base + 16 * PAGE, 16)
    assert all(folded), "the last of the block folds it"
    counts = issued(
        kernel, lambda: [process.read(base + n * PAGE) for n in range(16, 32)]
    )
    assert counts.faults.total() == 0, "one fault brings back the whole folio"
    audit(kernel)
    audit_tlbs(kernel)


# -- unmap ---------------------------------------------------------------------------


@both
def test_munmap_of_blocks(version):
    """Blocks go by one flush with a level; for stored tables nothing is flushed."""
    kernel = boot(version)
    process, base = blocks(kernel, 4)
    guard = process.mmap(PAGE, addr=base + 4 * BLOCK, fixed=True)
    process.write(guard, 1)
    seen, dsb = targets(kernel, lambda: process.munmap(base, 4 * BLOCK))
    ((name, target),) = seen
    assert (name, target.level) == ("RVALE1IS", 2)
    assert (target.first, target.last) == (base, base + 4 * BLOCK - 1)
    assert dsb == ["ishst", "ish"]
    assert process.mm.anonpages == 1
    audit(kernel)
    audit_tlbs(kernel)


@both
def test_munmap_of_part_of_a_block(version):
    """Row "zap of part of a THP" of 8.2: split, unfold, and the page itself."""
    kernel = boot(version)
    process, base = blocks(kernel, 1)
    folio = folio_of(kernel, process, base)
    names, dsb = forms(kernel, lambda: process.munmap(base + 100 * PAGE, PAGE))
    assert names == ["RVAE1IS", "RVALE1IS", "VALE1IS"]
    assert dsb == [*SPLIT, *WAIT, *WAIT]
    assert folio.partially_mapped
    audit(kernel)
    audit_tlbs(kernel)


@both
def test_exit_with_blocks(version):
    """Row "exit of the child" of 5.4: one flush by ASID, for the tables above."""
    kernel = boot(version)
    before = kernel.page_alloc.in_use
    process, base = blocks(kernel, 3)
    process.read(process.mmap(BLOCK))
    process.mprotect(base + 5 * PAGE, PAGE, "r")
    names, dsb = forms(kernel, process.exit)
    assert (names, dsb) == (["ASIDE1IS"], [*TABLE, *WAIT])
    assert all_frames(kernel) == before
    assert kernel.huge_memory.deferred_split_queue == []


# -- move ----------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [0, 1 << 30])
def test_move_huge_pmd(gap):
    """Row "mremap of a THP" of 8.2: one block flush; the stored table follows."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    target = process.mmap(BLOCK, addr=base - BLOCK - gap, fixed=True)
    vma = kernel.vma.vma_lookup(process.mm, base)
    new = kernel.memory.pmd_alloc(process.mm, target)
    old = kernel.pgtable.find_pmd(process.mm, base)
    move = kernel.huge_memory.move_huge_pmd
    names, dsb = forms(kernel, lambda: move(vma, base, old, new))
    assert (names, dsb) == (["RVAE1IS"], ["ishst", "ish"])
    assert process.read(target) == 0
    assert not move(vma, base, old, new), "nothing is left to move"
    audit_tlbs(kernel)
    audit(kernel)


# -- split ---------------------------------------------------------------------------


@both
@pytest.mark.parametrize("model", ["neoverse-v2", "neoverse-n1", "cortex-a75"])
def test_splitting_an_entry_is_one_block_flush(version, model):
    """Row of 15: hide, one non-leaf flush of the block, then the table."""
    kernel = boot(version, model=model)
    process, base = blocks(kernel, 1)
    vma = kernel.vma.vma_lookup(process.mm, base)
    pmdp = kernel.pgtable.find_pmd(process.mm, base)
    split = kernel.huge_memory.split_huge_pmd
    seen, dsb = targets(kernel, lambda: split(vma, pmdp, base + 7 * PAGE))
    kpti = kernel.machine.model.kpti
    assert [name for name, _ in seen] == [single(kernel, "VAE1IS")] * (1 + kpti)
    level = 2 if kernel.machine.model.ttl else None
    assert {(target.first, target.level) for _, target in seen} == {(base, level)}
    assert dsb == SPLIT
    assert all(contiguous(kernel, process, base, 512))
    assert forms(kernel, lambda: split(vma, pmdp, base)) == ([], []), "only once"
    audit(kernel)
    audit_tlbs(kernel)


def test_a_split_keeps_rights_and_state():
    """Write permission, access flag and the mark of userfaultfd go to each page."""
    kernel = boot(rules=False)
    process, base = blocks(kernel, 1)
    pgtable = kernel.pgtable
    pmdp = pgtable.find_pmd(process.mm, base)
    vma = kernel.vma.vma_lookup(process.mm, base)
    process.fork().exit()
    pgtable.ptep_test_and_clear_young_(pmdp)
    pgtable.set_pte(pmdp, pgtable.read(pmdp) | 1 << 58)
    kernel.huge_memory.split_huge_pmd(vma, pmdp, base)
    for page in (0, 15, 16, 511):
        pte = pgtable.read(pgtable.find_pte(process.mm, base + page * PAGE))
        assert (pte_write(pte), pte_young(pte)) == (False, False)
        assert pte_uffd_wp(pte)
        assert pte_dirty(pte)


def test_a_cut_area_has_no_block_over_the_cut():
    """An area that is split in the middle of a block splits the block first."""
    kernel = boot()
    process, base = blocks(kernel, 3)
    process.madvise(base + BLOCK + PAGE, PAGE, "nohugepage")
    states = [pmd_trans_huge(pmd_of(kernel, process, base + n * BLOCK)) for n in (0, 1)]
    assert states == [True, False]
    assert pmd_trans_huge(pmd_of(kernel, process, base + 2 * BLOCK))
    process.madvise(base + 2 * BLOCK, BLOCK, "nohugepage")
    assert pmd_trans_huge(pmd_of(kernel, process, base + 2 * BLOCK)), (
        "a cut at its edge"
    )
    audit(kernel)


def test_a_neighbour_that_takes_a_part_over_splits_the_block():
    """Moving the border between two areas into a block splits the block, either way."""
    for side in (-1, 1):
        kernel = boot()
        process, base = blocks(kernel, 3)
        process.madvise(base + BLOCK + side * BLOCK, BLOCK, "nohugepage")
        edge = base + BLOCK if side < 0 else base + 2 * BLOCK - 3 * PAGE
        process.madvise(edge, 3 * PAGE, "nohugepage")
        assert pmd_table(pmd_of(kernel, process, base + BLOCK))
        audit(kernel)


# -- folios --------------------------------------------------------------------------


def test_splitting_a_folio_keeps_every_word():
    """Both processes read what they read before, from folios of one page."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    for page in range(0, 512, 50):
        process.write(base + page * PAGE, page + 1)
    child = process.fork(1)
    child.write(base + 50 * PAGE, 999)
    folio = folio_of(kernel, process, base)
    folio.refcount += 1
    assert folio_trylock(folio)
    head = kernel.huge_memory.split_folio(folio)
    assert isinstance(head, Folio)
    assert (head.order, head.pfn) == (0, folio.pfn)
    folio_unlock(kernel.machine, head)
    kernel.swap.folio_put(head)
    for page in range(0, 512, 25):
        word = page + 1 if page % 50 == 0 else 0
        assert process.read(base + page * PAGE) == word
        assert child.read(base + page * PAGE) == (999 if page == 50 else word)
    audit(kernel)
    audit_tlbs(kernel)


def test_a_page_of_zeros_is_not_kept():
    """Pages that hold nothing give way to the zero page when a folio is split."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    process.write(base, 1)
    process.write(base + 7 * PAGE + 8, 1)
    process.munmap(base + 100 * PAGE, 12 * PAGE)
    assert kernel.huge_memory.deferred_split_scan() == 1
    assert process.mm.anonpages == 2
    assert process.read(base + 7 * PAGE + 8) == 1
    audit(kernel)


def test_only_partly_used_folios_are_split_for_memory():
    """A whole huge page is queued, but counts as used; what lost a part comes back."""
    kernel = boot()
    process, base = blocks(kernel, 2)
    huge = kernel.huge_memory
    assert len(huge.deferred_split_queue) == 2
    assert huge.deferred_split_scan() == 0
    assert not huge.deferred_split_queue
    process.munmap(base, PAGE)
    assert len(huge.deferred_split_queue) == 1
    assert huge.deferred_split_scan() == 1
    assert not huge.deferred_split_queue
    assert pmd_trans_huge(pmd_of(kernel, process, base + BLOCK))
    audit(kernel)


def test_a_folio_that_somebody_holds_is_not_split():
    """EAGAIN, and nothing has changed: not an entry, not a count."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    folio = folio_of(kernel, process, base)
    pmd = pmd_of(kernel, process, base)
    folio.refcount += 2
    assert folio_trylock(folio)
    counts = issued(kernel, lambda: kernel.huge_memory.split_folio(folio))
    assert (total(counts), pmd_of(kernel, process, base)) == (0, pmd)
    folio_unlock(kernel.machine, folio)
    folio.refcount -= 2
    audit(kernel)


@pytest.mark.parametrize("repeat", [False, True])
def test_the_flushes_of_a_folio_split(repeat):
    """Its pages are unmapped with one wait for all, unless an erratum forbids it."""
    kernel = boot(model="neoverse-n1", repeat_tlbi=repeat)
    process, base = blocks(kernel, 1)
    process.mprotect(base, PAGE, "r")
    folio = kernel.huge_memory.deferred_split_queue[0]
    folio.refcount += 1
    assert folio_trylock(folio)
    counts = issued(kernel, lambda: kernel.huge_memory.split_folio(folio))
    unfolds = 31  # one block of 16 was unfolded by mprotect
    assert counts.tlbi == {"VALE1IS": (512 + unfolds * 16) * (1 + repeat)}
    assert counts.dsb["ishst"] == 512 + unfolds
    if not repeat:
        assert counts.dsb["ish"] == unfolds + 1


def test_who_finds_cleared_entries_flushes_first():
    """After a batched unmap the next to take the table's lock flushes by ASID, once."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    process.write(base + 200 * PAGE, 1)
    process.mprotect(base, PAGE, "r")
    (folio,) = kernel.huge_memory.deferred_split_queue
    folio.refcount += 1
    assert folio_trylock(folio)
    head = kernel.huge_memory.split_folio(folio)
    folio_unlock(kernel.machine, head)
    kernel.swap.folio_put(head)
    change = [
        forms(kernel, lambda n=n: process.mprotect(base + (200 + n) * PAGE, PAGE, "r"))
        for n in (0, 1)
    ]
    assert change[0][0] == ["ASIDE1IS", "VALE1IS"]
    assert "ASIDE1IS" not in change[1][0]
    audit(kernel)


# -- collapse ------------------------------------------------------------------------


@both
def test_collapse_makes_a_block_of_pages(version):
    """One flush of all that the table led to, and the words are where they were."""
    kernel = boot(version)
    process = kernel.spawn()
    base = process.mmap(BLOCK)
    for page in range(0, 512, 3):
        process.write(base + page * PAGE, page, cpu=page % 4)
    process.read(base + PAGE)
    names, dsb = forms(kernel, lambda: process.madvise(base, BLOCK, "collapse"))
    assert (names, dsb) == (["RVAE1IS"], ["ishst", "ish"])
    assert pmd_trans_huge(pmd_of(kernel, process, base))
    assert process.mm.anonpages == 512
    for page in range(512):
        assert process.read(base + page * PAGE) == (page if page % 3 == 0 else 0)
    audit(kernel)
    audit_tlbs(kernel)


def test_collapse_without_range_operations_flushes_by_asid():
    """A block at page stride is 512 operations: the limit makes it one by ASID."""
    kernel = boot(model="neoverse-n1")
    process = kernel.spawn()
    base = process.mmap(BLOCK)
    process.write(base, 1)
    names, _ = forms(kernel, lambda: process.madvise(base, BLOCK, "collapse"))
    assert names == ["ASIDE1IS"]


def test_collapse_interrupts_every_cpu():
    """The table may be walked without a lock, so all others must have let go of it."""
    kernel = boot(cpus=4)
    process = kernel.spawn()
    base = process.mmap(BLOCK)
    process.write(base, 1)
    counts = issued(kernel, lambda: process.madvise(base, BLOCK, "collapse"))
    assert (counts.ipi_broadcasts, counts.ipi_cpus) == (1, 3)


def test_collapse_of_shared_pages_copies_them():
    """The other process keeps the pages, and each its own words."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(BLOCK)
    for page in range(64):
        process.write(base + page * PAGE, page)
    child = process.fork()
    process.madvise(base, BLOCK, "collapse")
    process.write(base + 5 * PAGE, 500)
    assert (process.read(base + 5 * PAGE), child.read(base + 5 * PAGE)) == (500, 5)
    audit(kernel)


def test_collapse_puts_a_split_block_together_again():
    """Pages of a large folio are copied in runs, and no block of them is unfolded."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    process.write(base + 300 * PAGE, 3)
    process.mprotect(base, BLOCK // 2, "r")
    process.mprotect(base, BLOCK // 2, "rw")
    assert pmd_table(pmd_of(kernel, process, base))
    names, _ = forms(kernel, lambda: process.madvise(base, BLOCK, "collapse"))
    assert names == ["RVAE1IS"]
    assert process.read(base + 300 * PAGE) == 3
    audit(kernel)
    audit_tlbs(kernel)


def refused(process, *arguments):
    """The error that a system call ends with."""
    with pytest.raises(SystemCallError) as caught:
        process.madvise(*arguments)
    return caught.value.errno


def test_collapse_errors():
    """Refused, nothing to collapse, held by somebody, and no memory, in this order."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(2 * BLOCK)
    assert refused(process, base, BLOCK, "collapse") == "EINVAL", "nothing there"
    process.write(base, 1)
    kernel.swap.lru_add_drain_all()
    pte = kernel.pgtable.read(kernel.pgtable.find_pte(process.mm, base))
    folio = kernel.page_alloc.folio_of(kernel.pgtable.pte_pfn(pte))
    folio.refcount += 1
    assert refused(process, base, BLOCK, "collapse") == "EAGAIN"
    folio.refcount -= 1
    assert refused(process, base, 2 * BLOCK, "collapse") == "EINVAL", "the second half"
    assert pmd_trans_huge(pmd_of(kernel, process, base)), "but the first was done"
    process.munmap(base, BLOCK)
    process.write(base + BLOCK, 1)
    kernel.page_alloc.fail = lambda: True
    assert refused(process, base + BLOCK, BLOCK, "collapse") == "ENOMEM"
    kernel.page_alloc.fail = None
    process.madvise(base + BLOCK, BLOCK, "nohugepage")
    assert refused(process, base + BLOCK, BLOCK, "collapse") == "EINVAL"
    process.madvise(base + BLOCK, BLOCK // 2, "hugepage")
    assert refused(process, base + BLOCK, BLOCK, "collapse") == "EINVAL"
    audit(kernel)


def test_collapse_of_less_than_a_block_is_no_error():
    """Where no whole block lies in the range of a touched VMA, nothing is done."""
    process = boot().spawn()
    base = process.mmap(BLOCK)
    process.write(base, 1)
    process.madvise(base + PAGE, BLOCK - PAGE, "collapse")


def test_collapse_of_a_block_is_no_change():
    """What is a block already counts as done."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    counts = issued(kernel, lambda: process.madvise(base, BLOCK, "collapse"))
    assert total(counts) == 0


# -- madvise -------------------------------------------------------------------------


def test_advice_steps_over_holes_and_tells_of_them():
    """What is mapped gets the advice; ENOMEM says that something was not."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(4 * BLOCK)
    process.munmap(base + BLOCK, BLOCK)
    assert refused(process, base, 4 * BLOCK, "hugepage") == "ENOMEM"
    for place, expected in ((0, True), (2, True), (3, True)):
        vma = kernel.vma.vma_lookup(process.mm, base + place * BLOCK)
        assert bool(vma.flags & VM_HUGEPAGE) == expected


def test_advice_errors():
    """Misaligned is EINVAL, nothing is no error, and unknown advice is told what is."""
    process = boot().spawn()
    base = process.mmap(BLOCK)
    assert refused(process, base + 1, BLOCK, "hugepage") == "EINVAL"
    assert refused(process, base, -1, "hugepage") == "EINVAL"
    assert refused(process, 0, PAGE, "hugepage") == "ENOMEM"
    process.madvise(base, 0, "hugepage")
    with pytest.raises(InputError, match=r"known are .*collapse"):
        process.madvise(base, BLOCK, "think_twice")


def test_advice_divides_and_joins_areas():
    """Advice to a part cuts the area; the same advice to the rest joins it again."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(4 * PAGE)
    areas = len(process.mm.vmas)
    process.madvise(base + PAGE, PAGE, "hugepage")
    assert len(process.mm.vmas) == areas + 2
    process.madvise(base, 4 * PAGE, "hugepage")
    assert len(process.mm.vmas) == areas


# -- allocation failures -------------------------------------------------------------


def scenario(kernel, fail_at=None):
    """Use blocks in many ways, while allocation number *fail_at* fails."""
    calls = 0

    def fail():
        nonlocal calls
        calls += 1
        return calls - 1 == fail_at

    kernel.huge_memory.enabled = "always"
    process = kernel.spawn()
    kernel.page_alloc.fail = fail
    children = []
    try:
        base = process.mmap(3 * BLOCK)
        process.write(base, 1)
        process.read(base + BLOCK)
        process.write(base + BLOCK + PAGE, 2)
        children.append(process.fork())
        process.write(base + 7 * PAGE, 3)
        process.mprotect(base + BLOCK, PAGE, "r")
        process.madvise(base, 2 * BLOCK, "collapse")
    except (SystemCallError, OutOfMemoryError):
        pass
    kernel.page_alloc.fail = None
    return process, children, calls


def test_no_allocation_failure_leaks():
    """Whichever allocation fails, the books are right, and all frames come back."""
    kernel = boot()
    before = kernel.page_alloc.in_use
    process, children, calls = scenario(kernel)
    audit(kernel)
    assert calls > 10
    for fail_at in range(calls):
        kernel = boot()
        process, children, _ = scenario(kernel, fail_at)
        audit(kernel)
        audit_tlbs(kernel)
        for one in (process, *children):
            one.exit()
        assert all_frames(kernel) == before


# -- counts --------------------------------------------------------------------------


def large(kernel, order=9):
    """A large folio that nothing maps, and an area for it."""
    process = kernel.spawn()
    vma = kernel.vma.vma_lookup(process.mm, process.mmap(BLOCK))
    kernel.rmap.anon_vma_prepare(vma)
    return kernel.page_alloc.alloc(order), vma


def counts_of(folio):
    """What is counted of a folio: entire, all, and mapped pages."""
    return folio.entire_mapcount, folio.mapcount, folio.nr_pages_mapped


def test_checked_vectors_of_the_rmap_arithmetic():
    """The life of a block in two processes, step by step, as the kernel counts it."""
    kernel = boot()
    rmap = kernel.rmap
    folio, mine = large(kernel)
    _, other = large(kernel)
    rmap.folio_add_new_anon_rmap(folio, mine, mine.start)
    assert counts_of(folio) == (1, 1, ENTIRELY_MAPPED)
    assert rmap.folio_try_dup_anon_rmap_pmd(folio, other, mine)
    assert counts_of(folio) == (2, 2, ENTIRELY_MAPPED)
    rmap.folio_add_anon_rmap_ptes(folio, folio.pfn, 512, mine, exclusive=False)
    assert counts_of(folio) == (2, 514, ENTIRELY_MAPPED + 512)
    rmap.folio_remove_rmap_pmd(folio, mine)
    assert counts_of(folio) == (1, 513, ENTIRELY_MAPPED + 512)
    rmap.folio_remove_rmap_ptes(folio, folio.pfn, 1, mine)
    assert counts_of(folio) == (1, 512, ENTIRELY_MAPPED + 511)
    assert not folio.partially_mapped
    rmap.folio_remove_rmap_pmd(folio, other)
    assert counts_of(folio) == (0, 511, 511)
    assert folio.partially_mapped
    rmap.folio_remove_rmap_ptes(folio, folio.pfn + 1, 511, mine)
    assert counts_of(folio) == (0, 0, 0)


def test_splitting_one_s_own_entry_queues_nothing():
    """Page mappings come before the block mapping goes, so no page is ever free."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    folio = folio_of(kernel, process, base)
    vma = kernel.vma.vma_lookup(process.mm, base)
    pmdp = kernel.pgtable.find_pmd(process.mm, base)
    kernel.huge_memory.split_huge_pmd(vma, pmdp, base)
    assert counts_of(folio) == (0, 512, 512)
    assert not folio.partially_mapped


additions = st.lists(
    st.one_of(
        st.tuples(st.just("pmd"), st.integers(0, 2)),
        st.tuples(
            st.just("ptes"),
            st.integers(0, 2),
            st.integers(0, 63),
            st.integers(1, 64),
        ),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(additions, st.randoms())
def test_removals_in_any_order_undo_additions(steps, random):
    """Counts, owners and the pages-mapped total come back, whatever the order."""
    kernel = boot()
    folio, first = large(kernel, 6)
    areas = [first, large(kernel)[1], large(kernel)[1]]
    rmap = kernel.rmap
    undo: list[tuple[Any, ...]] = []
    for step in steps:
        vma = areas[step[1]]
        if step[0] == "pmd":
            rmap.folio_add_anon_rmap_pmd(folio, vma, exclusive=False)
            undo.append((rmap.folio_remove_rmap_pmd, folio, vma))
        else:
            nr = min(step[3], 64 - step[2])
            pfn = folio.pfn + step[2]
            rmap.folio_add_anon_rmap_ptes(folio, pfn, nr, vma, exclusive=False)
            undo.append((rmap.folio_remove_rmap_ptes, folio, pfn, nr, vma))
        check_sums(folio)
    random.shuffle(undo)
    for remove, *arguments in undo:
        remove(*arguments)
        check_sums(folio)
    assert counts_of(folio) == (0, 0, 0)
    assert folio.mm_id == [None, None]
    assert not folio.maybe_mapped_shared


def check_sums(folio: LargeFolio):
    """Laws 3 and 4: mapped pages, and all mappings, are sums of the others."""
    mapped = sum(count > 0 for count in folio.page_mapcount)
    assert folio.nr_pages_mapped & FOLIO_PAGES_MAPPED == mapped
    assert bool(folio.nr_pages_mapped & ENTIRELY_MAPPED) == bool(folio.entire_mapcount)
    assert folio.mapcount == sum(folio.page_mapcount) + folio.entire_mapcount


def test_more_than_two_owners_are_not_told_apart():
    """When the two that are known have gone, the third is still taken for shared."""
    kernel = boot()
    folio, first = large(kernel, 4)
    second, third = large(kernel)[1], large(kernel)[1]
    rmap = kernel.rmap
    for vma in (first, second, third):
        rmap.folio_add_anon_rmap_ptes(folio, folio.pfn, 16, vma, exclusive=False)
    rmap.folio_remove_rmap_ptes(folio, folio.pfn, 16, first)
    rmap.folio_remove_rmap_ptes(folio, folio.pfn, 16, second)
    assert folio.mapcount == 16
    assert folio.maybe_mapped_shared, "too careful, never the other way round"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=30))
def test_not_shared_is_never_wrong(steps):
    """A folio that is said to be exclusive is mapped by one address space only."""
    kernel = boot()
    folio, first = large(kernel, 2)
    areas = [first, *(large(kernel)[1] for _ in range(3))]
    held = [0, 0, 0, 0]
    for add, number in steps:
        if add:
            kernel.rmap.folio_add_anon_rmap_pmd(folio, areas[number], exclusive=False)
            held[number] += 1
        elif held[number]:
            kernel.rmap.folio_remove_rmap_pmd(folio, areas[number])
            held[number] -= 1
        if not folio.maybe_mapped_shared:
            assert sum(map(bool, held)) <= 1


def test_a_pinned_folio_is_shared_with_nobody():
    """EBUSY changes nothing: not a count, not a mark."""
    kernel = boot()
    folio, mine = large(kernel)
    _, other = large(kernel)
    kernel.rmap.folio_add_new_anon_rmap(folio, mine, mine.start)
    pin(kernel, mine.mm, folio)
    before = counts_of(folio), bytes(folio.exclusive), list(folio.mm_id_mapcount)
    assert not kernel.rmap.folio_try_dup_anon_rmap_pmd(folio, other, mine)
    assert not kernel.rmap.folio_try_dup_anon_rmap_ptes(
        folio, folio.pfn, 16, other, mine
    )
    after = counts_of(folio), bytes(folio.exclusive), list(folio.mm_id_mapcount)
    assert before == after


# -- whole programs ------------------------------------------------------------------

PLACES = st.sampled_from([0, 1, 15, 16, 17, 300, 511, 512, 513, 528, 1023])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["write", "read"]), PLACES, st.integers(0, 3)),
        st.tuples(st.just("fork"), st.integers(0, 3)),
        st.tuples(st.just("exit")),
        st.tuples(
            st.just("mprotect"), PLACES, PLACES, st.sampled_from(["none", "r", "rw"])
        ),
        st.tuples(st.just("munmap"), PLACES, PLACES),
        st.tuples(
            st.just("madvise"),
            PLACES,
            PLACES,
            st.sampled_from(["hugepage", "nohugepage", "collapse"]),
        ),
        st.tuples(st.just("shrink")),
        st.tuples(st.just("split")),
    ),
    max_size=14,
)


class Program:
    """A few processes that do what they are told, watched for every law."""

    def __init__(self, version, sizes, **changes):
        self.kernel = boot(version, **changes)
        self.kernel.huge_memory.enabled = "always"
        for kib in sizes:
            self.kernel.huge_memory.set_hugepages_enabled(kib, "always")
        self.empty = self.kernel.page_alloc.in_use
        first = self.kernel.spawn()
        self.base = first.mmap(2 * BLOCK)
        self.alive = [first]
        self.words: list[dict[int, int]] = [{}]
        self.trace = []

    def run(self, steps):
        """Do all steps, then end everything."""
        for number, step in enumerate(steps):
            self.trace.append(self.step(number, *step))
            audit(self.kernel)
            audit_tlbs(self.kernel)
            # A TLB may forget at any time. That an mprotect which flushes nothing makes
            # pages a block while TLBs hold them is a test of its own.
            for cpu in self.kernel.machine.cpus:
                for entry in list(cpu.tlb.entries()):
                    cpu.tlb.drop(entry)
        while self.alive:
            self.alive.pop().exit()
        assert all_frames(self.kernel) == self.empty
        assert self.kernel.huge_memory.deferred_split_queue == []
        return self.trace

    def step(self, number, what, *rest):
        """Do one step as the process whose turn it is; return what it sees."""
        turn = number % len(self.alive)
        process, words = self.alive[turn], self.words[turn]
        try:
            return getattr(self, what)(process, words, number, *rest)
        except (SystemCallError, Signal) as error:
            return str(error)

    def write(self, process, words, number, place, cpu):
        process.write(self.base + place * PAGE, number + 1, cpu=cpu)
        words[place] = number + 1

    def read(self, process, words, _, place, cpu):
        word = process.read(self.base + place * PAGE, cpu=cpu)
        assert word == words.get(place, 0)
        return word

    def fork(self, process, words, _, cpu):
        if len(self.alive) < 3:
            self.alive.append(process.fork(cpu))
            self.words.append(dict(words))

    def exit(self, process, *_):
        if len(self.alive) > 1:
            turn = self.alive.index(process)
            self.alive.pop(turn).exit()
            self.words.pop(turn)

    def mprotect(self, process, _, __, one, other, prot):
        first, last = sorted((one, other))
        process.mprotect(self.base + first * PAGE, (last - first + 1) * PAGE, prot)

    def munmap(self, process, words, _, one, other):
        first, last = sorted((one, other))
        process.munmap(self.base + first * PAGE, (last - first + 1) * PAGE)
        for place in list(words):
            if first <= place <= last:
                del words[place]

    def madvise(self, process, _, __, one, other, advice):
        first, last = sorted((one, other))
        process.madvise(self.base + first * PAGE, (last - first + 1) * PAGE, advice)

    def shrink(self, *_):
        return self.kernel.huge_memory.shrink_huge_zero_folio_scan()

    def split(self, *_):
        return self.kernel.huge_memory.deferred_split_scan()


SIZES = st.sets(st.sampled_from([16, 64, 256]), max_size=2)


@settings(max_examples=40, deadline=None)
@given(STEPS, SIZES)
def test_programs_keep_every_law_in_both_kernels(steps, sizes):
    """Words, errors and counts are the same before and after, and all are right."""
    traces = [Program(version, sizes).run(steps) for version in VERSIONS]
    assert traces[0] == traces[1]


@settings(max_examples=15, deadline=None)
@given(STEPS, st.sampled_from(["neoverse-n1", "cortex-a75", "cortex-a72"]))
def test_programs_keep_every_law_on_other_cpus(steps, model):
    """Without range operations, with two ASIDs a process, without hardware dirty."""
    Program("v6.19", [64], model=model).run(steps)


# -- other page sizes ----------------------------------------------------------------


def test_blocks_of_16k_pages():
    """A block is 2048 pages of 16K; counts and forms follow from the arithmetic."""
    kernel = boot(page_shift=14)
    pgtable = kernel.pgtable
    assert (pgtable.pmd_size, pgtable.hpage_pmd_nr) == (32 << 20, 2048)
    process, base = blocks(kernel, 2)
    assert process.mm.anonpages == 4096
    names, dsb = forms(kernel, process.fork)
    assert (names, dsb) == (["ASIDE1IS"], [*TABLE, *TABLE, *WAIT])
    page = pgtable.page_size
    names, dsb = forms(kernel, lambda: process.write(base + 5 * page, 1))
    assert names == ["RVAE1IS", "RVALE1IS", "VALE1IS"]
    blocks_of_128 = contiguous(kernel, process, base, 256)
    assert blocks_of_128 == [False] * 128 + [True] * 128
    audit(kernel)
    audit_tlbs(kernel)


def test_nothing_is_empty_of_its_pmd():
    """An untouched place has no entry, and no table."""
    kernel = boot()
    process, base = room(kernel, 1)
    process.write(process.mmap(PAGE), 1)
    pmdp = kernel.pgtable.find_pmd(process.mm, base)
    assert pmdp is None or pte_none(kernel.pgtable.read(pmdp))


# -- a huge page that migrates as a whole --------------------------------------------


class Migrating:
    """A process whose huge page is on its way: an entry of migration stands for it."""

    def __init__(self, kernel, process, base):
        self.kernel = kernel
        self.huge = kernel.huge_memory
        self.process = process
        self.base = base
        self.vma = kernel.vma.vma_lookup(process.mm, base)
        self.pmdp = kernel.pgtable.find_pmd(process.mm, base)
        self.folio = folio_of(kernel, process, base)
        self.before = kernel.pgtable.read(self.pmdp)
        kernel.swap.lru_add_drain_all()
        self.folio.refcount += 1  # the one who migrates it
        assert folio_trylock(self.folio)

    def set(self):
        """Store the entry; its answer."""
        with self.kernel.memory.pmd_lockptr(self.pmdp):
            return self.huge.set_pmd_migration_entry(
                self.vma, self.base, self.pmdp, self.folio
            )

    def entry(self, process=None):
        """What stands there now, or in another process."""
        return pmd_of(self.kernel, process or self.process, self.base)

    def back(self, *processes):
        """Map it again in each process, and let go of it."""
        for process in processes or (self.process,):
            vma = self.kernel.vma.vma_lookup(process.mm, self.base)
            pmdp = self.kernel.pgtable.find_pmd(process.mm, self.base)
            with self.kernel.memory.pmd_lockptr(pmdp):
                self.huge.remove_migration_pmd(vma, pmdp, self.folio)
        self.release()

    def release(self):
        """Let go of it."""
        folio_unlock(self.kernel.machine, self.folio)
        self.kernel.swap.folio_put(self.folio)


@settings(max_examples=30)
@given(
    written=st.booleans(),
    young=st.booleans(),
    prot=st.sampled_from(["rw", "r"]),
    forked=st.booleans(),
    watched=st.booleans(),
)
def test_migration_gives_back_the_entry_that_it_took(
    written, young, prot, forked, watched
):
    """Rights, access flag, dirty state, uffd-wp and exclusivity survive a migration."""
    kernel = boot(rules=False)
    process, base = blocks(kernel, 1)
    if forked:
        process.fork().exit()
    process.mprotect(base, BLOCK, prot)
    pmdp = kernel.pgtable.find_pmd(process.mm, base)
    pmd = kernel.pgtable.read(pmdp)
    if not young:
        pmd = pte_mkold(pmd)
    if not written:
        pmd = pte_mkclean(pmd)
    if watched:
        pmd = pte_mkuffd_wp(pmd)
    kernel.pgtable.set_pte(pmdp, pmd)
    moving = Migrating(kernel, process, base)
    exclusive = moving.folio.page_exclusive(moving.folio.pfn)
    assert moving.set() == 0
    assert pmd_is_migration_entry(moving.entry())
    assert (moving.folio.mapcount, moving.folio.refcount) == (0, 1)
    assert not moving.folio.page_exclusive(moving.folio.pfn)
    moving.back()
    assert moving.entry() == pmd
    assert moving.folio.page_exclusive(moving.folio.pfn) == exclusive
    audit(kernel)


def test_a_pinned_huge_page_does_not_migrate():
    """EBUSY, and the entry, its counts and its mark are what they were."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    pages = process.pin(base, PAGE)
    moving = Migrating(kernel, process, base)
    assert moving.set() == -EBUSY
    assert moving.entry() == moving.before
    assert moving.folio.page_exclusive(moving.folio.pfn)
    moving.release()
    process.unpin(pages)
    audit(kernel)


def test_fork_of_a_huge_page_that_migrates():
    """Parent and child wait for it, read-only, and it is exclusive to neither."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    process.write(base, 7)
    moving = Migrating(kernel, process, base)
    moving.set()
    child = process.fork()
    for each in (process, child):
        entry = pte_to_swp_entry(moving.entry(each))
        assert entry.type == SWP_MIGRATION_READ
        assert each.mm.anonpages == 512
    assert kernel.pgtable_generic.deposited(moving.pmdp) == 1
    moving.back(process, child)
    assert not pte_write(moving.entry())
    assert not moving.folio.page_exclusive(moving.folio.pfn)
    child.write(base, 8)
    assert (process.read(base), child.read(base)) == (7, 8)
    audit(kernel)
    child.exit()
    process.exit()
    audit(kernel)


def test_mprotect_of_a_huge_page_that_migrates():
    """It comes back read-only and exclusive, and nothing is flushed for it."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    process.read(base)
    moving = Migrating(kernel, process, base)
    moving.set()
    assert forms(kernel, lambda: process.mprotect(base, BLOCK, "r"))[0] == []
    entry = pte_to_swp_entry(moving.entry())
    assert entry.type == SWP_MIGRATION_READ_EXCLUSIVE
    moving.back()
    assert not pte_write(moving.entry())
    assert moving.folio.page_exclusive(moving.folio.pfn)
    process.mprotect(base, BLOCK, "rw")
    process.write(base, 5)
    assert process.read(base) == 5
    audit(kernel)


def test_mremap_of_a_huge_page_that_migrates():
    """The entry moves with its deposited table, and no TLB needs to hear of it."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    process.write(base, 9)
    moving = Migrating(kernel, process, base)
    moving.set()
    target = 3 << 30
    names, _ = forms(
        kernel,
        lambda: process.mremap(
            base, BLOCK, BLOCK, maymove=True, fixed=True, new_address=target
        ),
    )
    assert names == []
    moving.base = target
    assert pmd_is_migration_entry(moving.entry())
    moving.back()
    assert process.read(target) == 9
    process.exit()
    audit(kernel)


def test_a_part_of_a_huge_page_that_migrates():
    """Its entry splits into those of its pages, each as the whole was."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    moving = Migrating(kernel, process, base)
    moving.set()
    whole = pte_to_swp_entry(moving.entry())
    kernel.huge_memory.split_huge_pmd(moving.vma, moving.pmdp, base)
    for page in (0, 1, 511):
        ptep = kernel.pgtable.find_pte(process.mm, base + page * PAGE)
        entry = pte_to_swp_entry(kernel.pgtable.read(ptep))
        assert entry == whole._replace(offset=whole.offset + page)
    assert (moving.folio.mapcount, moving.folio.refcount) == (0, 1)
    kernel.migrate.remove_migration_ptes(
        moving.vma.anon_vma,
        moving.folio.pfn,
        512,
        moving.folio.index,
        unused_to_zeropage=False,
    )
    moving.release()
    assert process.read(base) == 0
    assert moving.folio.mapcount == 512
    audit(kernel)


def test_munmap_of_a_huge_page_that_migrates():
    """It is counted off with its table, and stays with who migrates it."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    moving = Migrating(kernel, process, base)
    moving.set()
    process.munmap(base, BLOCK)
    assert process.mm.anonpages == 0
    assert moving.folio.refcount == 1
    moving.release()
    audit(kernel)


def test_an_access_waits_for_the_migration():
    """A fault on the entry ends when the folio is unlocked, and the access succeeds."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    process.write(base, 4)
    moving = Migrating(kernel, process, base)
    moving.set()
    back: list[str] = []

    def wait(condition, what):
        assert "migration" in what
        if not back:
            back.append(what)
            moving.back()
        assert condition()

    kernel.machine.wait = wait
    assert process.read(base) == 4
    assert back
    audit(kernel)


def test_the_pages_of_a_folio_are_as_young_as_it_was():
    """A split keeps the generation of a folio, and that it was used, for each page."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    for page in range(3):
        process.write(base + page * PAGE, 1)
    kernel.swap.lru_add_drain_all()
    folio = folio_of(kernel, process, base)
    kept = PG_active | PG_referenced | PG_lru | PG_swapbacked
    folio.flags |= kept
    folio.refcount += 1
    assert folio_trylock(folio)
    head = kernel.huge_memory.split_folio(folio)
    assert isinstance(head, Folio)
    pages = [kernel.page_alloc.folio_of(folio.pfn + page) for page in range(3)]
    assert [page.flags & kept for page in pages] == [kept] * 3
    folio_unlock(kernel.machine, head)
    kernel.swap.folio_put(head)
