"""fork, copy on write and write faults: kernel/fork.c, mm/memory.c, arch fault.c."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_dirty, pte_write
from tlbkit.linux.arch.arm64.mm.fault import OutOfMemoryError
from tlbkit.linux.include.linux.mm import FAULT_FLAG_TRIED, FAULT_FLAG_WRITE
from tlbkit.linux.include.uapi.asm_generic.errno import SystemCallError
from tlbkit.linux.tests.support import PAGE, boot, issued, stale, total, touched

VERSIONS = pytest.mark.parametrize("version", ["v6.17", "v6.19"])


def pte_of(kernel, process, address):
    """The entry that maps *address*."""
    return kernel.pgtable.read(kernel.pgtable.find_pte(process.mm, address))


def folio_of(kernel, process, address):
    """The folio that *address* is mapped to."""
    pfn = kernel.pgtable.pte_pfn(pte_of(kernel, process, address))
    return kernel.page_alloc.folio_of(pfn)


# -- first touch -----------------------------------------------------------------------


@VERSIONS
def test_t5_5_first_touch(version):
    """T5.5: a first write flushes nothing; a read before it costs one broadcast."""
    kernel = boot(version)
    process = kernel.spawn()
    base = process.mmap(2 * PAGE)
    assert issued(kernel, lambda: process.write(base, 1)).tlbi == {}
    assert issued(kernel, lambda: process.read(base + PAGE)).tlbi == {}
    assert process.read(base + PAGE) == 0
    counts = issued(kernel, lambda: process.write(base + PAGE, 2))
    assert counts.tlbi == {"VALE1IS": 1}


def test_the_zero_page_is_shared_and_never_counted():
    """Reads of fresh memory map one frame that no count mentions."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(4 * PAGE)
    for page in range(4):
        assert process.read(base + page * PAGE) == 0
    frames = {
        kernel.pgtable.pte_pfn(pte_of(kernel, process, base + page * PAGE))
        for page in range(4)
    }
    assert frames == {kernel.zero_pfn}
    zero = kernel.page_alloc.folio_of(kernel.zero_pfn)
    assert (zero.refcount, zero.mapcount) == (1, 0)
    assert process.mm.anonpages == 0


# -- fork ------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("pages", [0, 1, 700])
@pytest.mark.parametrize("kpti", [False, True])
def test_t5_1_fork_flushes_once(version, pages, kpti):
    """T5.1: fork of any number of pages is one flush by ASID, with two barriers.

    One more barrier follows each table that the child is given.
    """
    kernel = boot(version, kpti=kpti)
    process, _ = touched(kernel, pages or 1)
    children = []
    counts = issued(kernel, lambda: children.append(process.fork()))
    assert counts.tlbi == {"ASIDE1IS": 1 + kpti}
    tables = sum(children[0].mm.pgtables[1:])
    assert tables >= 3
    assert counts.dsb == {"ishst": tables + 1, "ish": 1}


def test_a_child_sees_what_the_parent_wrote_before_and_not_after():
    """Parent and child have one past and two futures."""
    kernel = boot()
    process, base = touched(kernel, 4)
    child = process.fork(cpu=1)
    process.write(base, 100)
    child.write(base + PAGE, 200)
    assert [child.read(base + n * PAGE) for n in range(4)] == [0, 200, 2, 3]
    assert [process.read(base + n * PAGE) for n in range(4)] == [100, 1, 2, 3]


@VERSIONS
def test_t5_2_both_write_everything(version):
    """T5.2: N pages written by both cost N copies and N reuses, whoever is first."""
    kernel = boot(version, model="neoverse-n1")
    process, base = touched(kernel, 6)
    child = process.fork(cpu=1)
    kernel.swap.lru_add_drain_all()

    def both():
        for page in range(6):
            first, second = (process, child) if page % 2 else (child, process)
            first.write(base + page * PAGE, 10)
            second.write(base + page * PAGE, 20)

    counts = issued(kernel, both)
    reuses = {"VALE1IS": 12} if version == "v6.17" else {"VALE1IS": 6, "VALE1": 6}
    assert counts.tlbi == reuses


def test_t5_3_a_pinned_page_is_copied_at_fork():
    """T5.3: the child gets a copy at once, so the parent's page stays writable."""
    kernel = boot()
    process, base = touched(kernel, 1)
    process.pin(base, PAGE, write=True)
    child = process.fork()
    assert pte_write(pte_of(kernel, process, base))
    assert pte_write(pte_of(kernel, child, base))
    assert folio_of(kernel, process, base) is not folio_of(kernel, child, base)
    counts = issued(kernel, lambda: process.write(base, 5))
    assert (counts.tlbi, counts.faults) == ({}, {})
    assert child.read(base) == 0


@VERSIONS
def test_t5_4_a_reference_forces_a_copy(version):
    """T5.4: somebody who may look at the page makes a write copy it, by broadcast."""
    kernel = boot(version)
    process, base = touched(kernel, 1)
    child = process.fork()
    child.exit()
    folio = folio_of(kernel, process, base)
    folio.refcount += 1
    counts = issued(kernel, lambda: process.write(base, 1))
    assert counts.tlbi == {"VALE1IS": 1}
    assert folio_of(kernel, process, base) is not folio


def test_fork_flushes_also_when_it_fails():
    """Entries that a failed fork made read-only are flushed before it returns."""
    kernel = boot(cpus=2)
    process, base = touched(kernel, 600, cpus=(0, 1))
    in_use = kernel.page_alloc.in_use
    left = [3]

    def fail():
        left[0] -= 1
        return left[0] < 0

    kernel.page_alloc.fail = fail
    with pytest.raises(SystemCallError, match="ENOMEM"):
        process.fork()
    kernel.page_alloc.fail = None
    assert stale(kernel, process, 0, base) is None
    assert kernel.page_alloc.in_use == in_use
    process.write(base, 1, cpu=1)


@pytest.mark.parametrize("point", range(12))
def test_an_allocation_that_fails_leaks_nothing(point):
    """Whichever allocation of fork, write and exit fails, every frame comes back."""
    kernel = boot(cpus=1)
    calls = [0]

    def fail():
        calls[0] += 1
        return calls[0] == point + 1

    process, base = touched(kernel, 520)
    before = kernel.page_alloc.in_use
    kernel.page_alloc.fail = fail
    with suppress(SystemCallError, OutOfMemoryError):
        child = process.fork()
        child.write(base, 1)
        child.exit()
    kernel.page_alloc.fail = None
    kernel.swap.lru_add_drain_all()
    for other in [p for p in kernel.processes if p is not process]:
        other.exit()
    kernel.swap.lru_add_drain_all()
    assert kernel.page_alloc.in_use == before
    assert process.mm.anonpages == 520


# -- reuse and spurious faults ---------------------------------------------------------


@VERSIONS
def test_t4_1_rewriting_after_the_child_has_gone(version):
    """T4.1: W pages cost W broadcasts before, W local flushes and some after."""
    kernel = boot(version, cpus=3, model="neoverse-n1")
    process, base = touched(kernel, 8)
    process.fork().exit()
    for page in range(8):  # two other CPUs cache every page, read-only
        for cpu in (1, 2):
            process.read(base + page * PAGE, cpu=cpu)

    def rewrite():
        for page in range(8):
            process.write(base + page * PAGE, 9)
        for page in range(4):  # and one of them writes to half of the pages
            process.write(base + page * PAGE, 10, cpu=1)

    counts = issued(kernel, rewrite)
    if version == "v6.17":
        assert counts.tlbi == {"VALE1IS": 8}
        assert counts.spurious_faults == 0
    else:
        assert counts.tlbi == {"VALE1": 8 + 4}
        assert counts.spurious_faults == 4
    # T4.7: devices hear of each upgrade once, and of no spurious fix.
    assert counts.notifier == 8


def test_t4_2_one_cpu_each_means_no_spurious_fault():
    """T4.2: pages that only one CPU touches cost no broadcast and no spurious fault."""
    kernel = boot(cpus=4)
    process, base = touched(kernel, 16, cpus=(0, 1, 2, 3))
    process.fork().exit()

    def rewrite():
        for page in range(16):
            process.write(base + page * PAGE, 1, cpu=page % 4)

    counts = issued(kernel, rewrite)
    assert set(counts.tlbi) == {"VALE1"}
    assert counts.spurious_faults == 0


def test_t4_3_an_asid_flush_ends_all_spurious_faults():
    """T4.3: after fork's flush no CPU has an entry left that could be too strict."""
    kernel = boot(cpus=2)
    process, base = touched(kernel, 8)
    process.fork().exit()
    for page in range(8):
        process.read(base + page * PAGE, cpu=1)
        process.write(base + page * PAGE, 1)
    process.fork().exit()
    for page in range(8):
        process.write(base + page * PAGE, 2)
    counts = issued(
        kernel, lambda: [process.write(base + n * PAGE, 3, cpu=1) for n in range(8)]
    )
    assert counts.spurious_faults == 0


def test_t4_4_a_stale_read_only_entry_reads_right():
    """T4.4: an entry with fewer rights leads to the same frame, so reads are true."""
    kernel = boot(cpus=2)
    process, base = touched(kernel, 1)
    process.fork().exit()
    process.read(base, cpu=1)
    process.write(base, 42)
    assert stale(kernel, process, 1, base) is not None
    counts = issued(kernel, lambda: process.read(base, cpu=1))
    assert process.read(base, cpu=1) == 42
    assert counts.faults == {}


def test_t4_6_a_retried_fault_is_not_fixed_at_once():
    """T4.6: FAULT_FLAG_TRIED puts the fix off; the next fault does it, and no more."""
    kernel = boot(cpus=2)
    process, base = touched(kernel, 1)
    process.fork().exit()
    process.read(base, cpu=1)
    process.write(base, 1)
    vma = process.mm.vmas[1]
    process.read(base, cpu=1)
    flags = FAULT_FLAG_WRITE | FAULT_FLAG_TRIED
    counts = issued(kernel, lambda: kernel.memory.handle_mm_fault(vma, base, flags))
    assert (counts.tlbi, counts.spurious_faults) == ({}, 0)
    counts = issued(kernel, lambda: process.write(base, 2, cpu=1))
    assert counts.faults == {"permission": 1}
    assert counts.spurious_faults == 1


def test_t4_8_a_read_fault_flushes_nothing():
    """T4.8: setting the access flag for a read needs no TLBI: it was in no TLB."""
    for version in ("v6.17", "v6.19"):
        kernel = boot(version, model="cortex-a72", rules=False)
        process, base = touched(kernel, 1)
        ptep = kernel.pgtable.find_pte(process.mm, base)
        kernel.pgtable_generic.ptep_clear_flush_young(process.mm.vmas[1], base, ptep)
        kernel.machine.cpus[0].dsb("ish")
        counts = issued(kernel, lambda p=process, a=base: p.read(a))
        assert counts.faults == {"access_flag": 1}
        assert counts.tlbi == {}


def test_t4_5_a_local_flush_is_not_enough_for_a_copy():
    """T4.5: if a copy flushed locally, another CPU would go on reading the old page."""
    kernel = boot(cpus=2, model="neoverse-n1", rules=False)
    process, base = touched(kernel, 1)
    process.fork(cpu=1)
    process.read(base, cpu=1)
    kernel.machine.taken_out = frozenset({"tlbi VALE1IS in wp_page_copy"})
    process.write(base, 7)
    kernel.machine.taken_out = frozenset()
    assert process.read(base, cpu=1) == 0  # the old page: what the broadcast is for


@VERSIONS
def test_software_dirty_tracking(version):
    """Without hardware dirty state a write to a clean writable page is one flush."""
    kernel = boot(version, model="cortex-a72", rules=False)
    process, base = touched(kernel, 1)
    ptep = kernel.pgtable.find_pte(process.mm, base)
    pte = kernel.pgtable.read(ptep)
    clean = (pte | 1 << 7) & ~(1 << 55)
    kernel.pgtable.set_pte(ptep, clean)
    kernel.tlbflush.flush_tlb_mm(process.mm)
    assert pte_write(clean)
    assert not pte_dirty(clean)
    counts = issued(kernel, lambda: process.write(base, 1))
    assert counts.tlbi == {"VALE1IS" if version == "v6.17" else "VALE1": 1}
    assert pte_dirty(pte_of(kernel, process, base))


def test_hardware_dirty_tracking_takes_no_fault():
    """With hardware dirty state the same write is the walker's business alone."""
    kernel = boot(rules=False)
    process, base = touched(kernel, 1)
    ptep = kernel.pgtable.find_pte(process.mm, base)
    kernel.pgtable.set_pte(ptep, (kernel.pgtable.read(ptep) | 1 << 7) & ~(1 << 55))
    kernel.tlbflush.flush_tlb_mm(process.mm)
    counts = issued(kernel, lambda: process.write(base, 1))
    assert (counts.tlbi, counts.faults) == ({}, {})
    assert pte_dirty(pte_of(kernel, process, base))


# -- exit ------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["parent", "child"])
def test_either_may_exit_first(order):
    """Whoever goes first, the other keeps its memory, and all comes back at the end."""
    kernel = boot()
    process, base = touched(kernel, 20)
    child = process.fork()
    first, second = (process, child) if order == "parent" else (child, process)
    first.exit()
    assert [second.read(base + n * PAGE) for n in range(20)] == list(range(20))
    second.exit()
    kernel.swap.lru_add_drain_all()
    assert kernel.page_alloc.in_use == 2  # the zero page and the kernel's own table


def test_exit_flushes_its_tables_once():
    """The end of an address space is one flush by ASID, whatever it held."""
    kernel = boot()
    process, _ = touched(kernel, 2000)
    counts = issued(kernel, process.exit)
    assert counts.tlbi == {"ASIDE1IS": 1}


def test_exit_of_an_untouched_process_flushes_nothing():
    """Without tables there is nothing that a walk cache could hold."""
    kernel = boot()
    process = kernel.spawn()
    process.mmap(8 * PAGE)
    assert total(issued(kernel, process.exit)) == 0


# -- before and after agree ------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "read", "fork", "exit", "r", "rw", "none", "unmap"]),
        st.integers(0, 3),
        st.integers(0, 5),
        st.integers(0, 1),
    ),
    max_size=30,
)


def play(version, steps):
    """Run a program on a kernel and return all that it could see."""
    kernel = boot(version, cpus=2)
    process, base = touched(kernel, 6)
    alive = [process]
    seen: list[object] = []
    for what, who, page, cpu in steps:
        if not alive:
            break
        actor = alive[who % len(alive)]
        at = base + page * PAGE
        try:
            if what == "write":
                actor.write(at, len(seen), cpu=cpu)
            elif what == "read":
                seen.append(actor.read(at, cpu=cpu))
            elif what == "fork" and len(alive) < 4:
                alive.append(actor.fork(cpu=cpu))
            elif what == "exit" and len(alive) > 1:
                alive.remove(actor)
                actor.exit()
            elif what == "unmap":
                actor.munmap(at, PAGE)
            elif what in ("r", "rw", "none"):
                actor.mprotect(at, 2 * PAGE, what)
        except Exception as error:  # noqa: BLE001 - what it was is what is compared
            seen.append(str(error))
    kernel.swap.lru_add_drain_all()
    counts = []
    for actor in alive:
        for page in range(6):
            ptep = kernel.pgtable.find_pte(actor.mm, base + page * PAGE)
            if ptep and kernel.pgtable.read(ptep):
                folio = folio_of(kernel, actor, base + page * PAGE)
                counts.append((folio.mapcount, folio.refcount))
    for actor in alive:
        actor.exit()
    kernel.swap.lru_add_drain_all()
    assert kernel.page_alloc.in_use == 2
    return seen, counts


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_old_and_new_kernels_agree_on_everything_but_flushes(steps):
    """A program sees the same values and errors, and leaves the same counts."""
    assert play("v6.17", steps) == play("v6.19", steps)


# -- batches of one folio --------------------------------------------------------------

BATCH = 16


def folio_of_sixteen(kernel):
    """A process with one folio of 16 pages, at an address that is aligned to it."""
    kernel.huge_memory.set_hugepages_enabled(BATCH * 4, "always")  # KiB
    process = kernel.spawn()
    base = process.mmap(BATCH * PAGE, addr=1 << 32, fixed=True)
    process.write(base, 1)
    return process, base


@settings(max_examples=40, deadline=None)
@given(
    written=st.sets(st.integers(0, BATCH - 1)),
    pinned=st.sets(st.integers(0, BATCH - 1), max_size=2),
    version=st.sampled_from(["v6.17", "v6.18", "v6.19"]),
)
def test_fork_keeps_the_dirty_bit_of_every_private_entry(written, pinned, version):
    """What was written through the parent's entry is dirty in the child's as well.

    A page of a folio that is pinned is copied, and so it is dirty in any case.
    """
    kernel = boot(version)
    kernel.swapfile.swapon(64)
    process, base = folio_of_sixteen(kernel)
    for page in range(1, BATCH):
        process.write(base + page * PAGE, 1)
    process.madvise(base, BATCH * PAGE, "free")
    for page in sorted(written):
        process.write(base + page * PAGE, 100 + page)
    held = [process.pin(base + page * PAGE, PAGE) for page in sorted(pinned)]
    before = [
        pte_dirty(kernel.pgtable.ptep_get(kernel.pgtable.find_pte(process.mm, at)))
        for at in range(base, base + BATCH * PAGE, PAGE)
    ]
    child = process.fork()
    for page in range(BATCH):
        ptep = kernel.pgtable.find_pte(child.mm, base + page * PAGE)
        dirty = pte_dirty(kernel.pgtable.ptep_get(ptep))
        assert dirty == before[page] or (dirty and pinned)
    for pages in held:
        process.unpin(pages)
    process.exit()
    child.madvise(base, BATCH * PAGE, "pageout")
    for page in sorted(written):
        assert child.read(base + page * PAGE) == 100 + page


def test_a_page_that_was_cleaned_apart_is_not_lost_with_its_folio():
    """Of a folio that MADV_FREE gave up, the one page written since is kept."""
    kernel = boot()
    kernel.swapfile.swapon(64)
    process, base = folio_of_sixteen(kernel)
    process.madvise(base, 4 * PAGE, "free")
    process.write(base + PAGE, 0x1234)
    child = process.fork()
    process.exit()
    child.madvise(base, 4 * PAGE, "pageout")
    assert child.read(base + PAGE) == 0x1234


def test_a_child_gets_a_table_before_anybody_looks_whether_it_needs_one():
    """Over a PMD table that is empty by now, fork makes one for the child as well."""
    kernel = boot()
    kernel.huge_memory.enabled = "madvise"
    process = kernel.spawn()
    base = process.mmap(512 * PAGE, addr=1 << 37, fixed=True)
    process.madvise(base, 512 * PAGE, "hugepage")
    process.write(base, 1)
    process.madvise(base, 512 * PAGE, "dontneed")
    child = process.fork()
    assert child.mm.pgtables == [0, 1, 1, 0]
    assert issued(kernel, lambda: child.munmap(base, 512 * PAGE)).tlbi == {"RVAE1IS": 1}


def test_a_child_that_is_not_watched_writes_shared_memory_at_once():
    """Fork drops the watch, and with it the write bit's absence from vm_page_prot."""
    kernel = boot()
    process = kernel.spawn()
    fd = process.memfd_create("m")
    process.ftruncate(fd, 8 * PAGE)
    base = process.mmap(8 * PAGE, shared=True, fd=fd)
    for page in range(8):
        process.write(base + page * PAGE, 1)
    process.userfaultfd().register(base, 8 * PAGE, missing=False, wp=True)
    child = process.fork()
    child.read(base + PAGE)
    counts = issued(kernel, lambda: child.write(base + 6 * PAGE, 5))
    assert counts.faults.total() == 0


# -- who drains the batches of the LRU lists -------------------------------------------


@pytest.mark.parametrize("version", ["v6.17", "v6.18", "v6.19"])
@pytest.mark.parametrize("dontneed", [False, True])
def test_dropping_pages_drains_no_batch(version, dontneed):
    """MADV_DONTNEED of other memory does not decide whether a write copies."""
    kernel = boot(version, cpus=2, model="neoverse-n1")
    process = kernel.spawn()
    base, other = process.mmap(PAGE), process.mmap(PAGE)
    process.write(base, 1, cpu=0)
    if dontneed:
        process.madvise(other, PAGE, "dontneed")
    process.fork(cpu=1).exit()
    counts = issued(kernel, lambda: process.write(base, 2, cpu=1))
    assert counts.tlbi == {"VALE1IS": 1}


@pytest.mark.parametrize("advice", ["cold", "free"])
def test_advice_on_its_way_to_the_lists_holds_the_page(advice):
    """A batch that moves a page on the lists holds it, and no write drains that one."""
    kernel = boot()
    process, base = touched(kernel, 4)
    process.madvise(base, 4 * PAGE, advice)
    process.fork().exit()
    counts = issued(kernel, lambda: process.write(base, 3))
    assert counts.tlbi == {"VALE1IS": 1}


@pytest.mark.parametrize("version", ["v6.17", "v6.19"])
def test_a_child_inherits_a_batched_flush_that_is_pending(version):
    """Its parent has unmapped pages in a batch, so the child's first zap flushes."""
    kernel = boot(version, epan=True)
    process = kernel.spawn()
    size = kernel.pgtable.pmd_size
    source = process.mmap(size, addr=1 << 37, fixed=True)
    target = process.mmap(size, addr=(1 << 37) + (1 << 30) + 5 * PAGE, fixed=True)
    process.madvise(source, size, "hugepage")
    process.write(source, 1)
    watch = process.userfaultfd()
    watch.register(target, size)
    watch.move(target, source, size)  # not aligned like its huge page, which it splits
    child = process.fork()
    assert issued(kernel, child.exit).tlbi == {"ASIDE1IS": 2}
