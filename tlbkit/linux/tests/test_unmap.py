"""munmap, exit and the gather behind them: what is flushed, and what is freed when."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.events import Event
from tlbkit.linux.include.asm_generic.tlb import MMU_GATHER_BUNDLE
from tlbkit.linux.include.linux.mm import ZAP_FLAG_DROP_MARKER
from tlbkit.linux.include.linux.mm_types import PG_referenced
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_GUARD,
    PTE_MARKER_POISONED,
    PTE_MARKER_UFFD_WP,
    make_pte_marker,
    pte_marker_get,
)
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.mm.memory.zap import ZapDetails
from tlbkit.linux.tests.support import PAGE, boot, issued, stale, touched
from tlbkit.linux.tests.test_tlbflush import closed_form

BLOCK = 512 * PAGE


def tlbis(kernel, operation):
    """The names and operands of the TLBIs that *operation* issues, in order."""
    seen: list[Event] = []
    kernel.machine.events.listen(seen.append)
    operation()
    kernel.machine.events.leave(seen.append)
    return [(e.what.name, e.new) for e in seen if e.kind == "tlbi"]


# -- which flush -----------------------------------------------------------------------


def test_a_neighbour_keeps_the_tables():
    """Pages go with a leaf flush only, while another area uses their tables."""
    kernel = boot(model="neoverse-n1")
    process, base = touched(kernel, 64)
    counts = issued(kernel, lambda: process.munmap(base, 16 * PAGE))
    assert counts.tlbi == {"VALE1IS": 16}
    assert counts.dsb == {"ishst": 1, "ish": 1}


def test_the_last_area_takes_its_tables_along():
    """Without neighbours the tables go too, with one flush that reaches walk caches."""
    kernel = boot(model="neoverse-n1")
    process, base = touched(kernel, 16)
    counts = issued(kernel, lambda: process.munmap(base, 16 * PAGE))
    assert counts.dsb == {"ishst": 2, "ish": 2}
    assert counts.tlbi == {"VALE1IS": 16, "VAE1IS": 1}
    assert process.mm.pgtables == [0, 1, 1, 0]  # the stack may need the upper ones


def test_a_range_cpu_needs_two_flushes_for_any_unmap():
    """1,000 pages and their tables go with one leaf flush and one for the tables."""
    kernel = boot()
    process, base = touched(kernel, 1000)
    counts = issued(kernel, lambda: process.munmap(base, 1000 * PAGE))
    assert counts.dsb == {"ishst": 2, "ish": 2}
    leaf = sum(counts.tlbi.get(name, 0) for name in ("VALE1IS", "RVALE1IS"))
    assert leaf == closed_form(1000)


def test_leaf_flushes_name_level_3():
    """A gather that met page entries only says so, where the CPU understands it."""
    kernel = boot()
    process, base = touched(kernel, 32)
    (first, *_) = tlbis(kernel, lambda: process.munmap(base, 16 * PAGE))
    assert first[0] == "RVALE1IS"
    assert first[1] >> 37 & 3 == 3


def test_unmapping_what_was_never_touched_flushes_nothing():
    """No entry, no flush: an empty range has nothing in any TLB."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(1000 * PAGE)
    assert issued(kernel, lambda: process.munmap(base, 1000 * PAGE)).tlbi == {}


def test_a_nested_gather_flushes_everything():
    """A gather that is not alone cannot know what the other has not flushed yet."""
    kernel = boot()
    process, base = touched(kernel, 8)
    outer = kernel.gather.tlb_gather_mmu(process.mm)
    counts = issued(kernel, lambda: process.munmap(base, PAGE))
    assert counts.tlbi["ASIDE1IS"] == 1
    kernel.gather.tlb_finish_mmu(outer)
    assert process.mm.tlb_flush_pending == 0


def test_a_gather_that_recorded_nothing_flushes_nothing():
    """Opening and ending a gather is free."""
    kernel = boot()
    process, _ = touched(kernel, 1)
    tlb = kernel.gather.tlb_gather_mmu(process.mm)
    assert issued(kernel, lambda: kernel.gather.tlb_finish_mmu(tlb)).tlbi == {}


@pytest.mark.parametrize("pages", [9_000, 12_000, 25_000])
def test_a_full_gather_flushes_on_the_way(pages):
    """About 9,700 pages fit into a gather; then it flushes, frees them and goes on."""
    kernel = boot()
    process, base = touched(kernel, pages)
    counts = issued(kernel, lambda: process.munmap(base, pages * PAGE))
    on_the_way = pages // (MMU_GATHER_BUNDLE + 19 * 510)
    assert counts.dsb["ish"] == 2 + on_the_way


def test_without_memory_for_batches_a_gather_flushes_more_often():
    """A gather that cannot grow gives up its pages early, and loses none."""
    kernel = boot()
    process, base = touched(kernel, 64)
    in_use = kernel.page_alloc.in_use
    kernel.page_alloc.fail = lambda: True
    counts = issued(kernel, lambda: process.munmap(base, 64 * PAGE))
    kernel.page_alloc.fail = None
    kernel.swap.lru_add_drain_all()
    assert counts.dsb["ish"] > 2
    assert kernel.page_alloc.in_use == in_use - 64 - 1
    assert counts.ipi_broadcasts == 1  # the table waits for walkers by itself


# -- when it is safe -------------------------------------------------------------------


def test_no_frame_is_free_before_its_flush_is_done():
    """When a frame goes back to the allocator, no TLB or walk cache knows it."""
    kernel = boot()
    process, base = touched(kernel, 600, cpus=(0, 1, 2, 3))
    kernel.swap.lru_add_drain_all()
    freed: list[int] = []

    def check(event):
        if event.kind != "free":
            return
        freed.append(event.what)
        for cpu in kernel.machine.cpus:
            frames = {entry.pa // PAGE for entry in cpu.tlb.entries()}
            frames |= {table.pa // PAGE for _, table in cpu.tlb.walk.items()}
            assert event.what not in frames

    kernel.machine.events.listen(check)
    process.munmap(base, 600 * PAGE)
    assert len(freed) == 600 + 2


def test_after_munmap_no_cpu_reaches_the_pages():
    """Every TLB has let go when the call returns, and an access is a SIGSEGV."""
    kernel = boot(cpus=4)
    process, base = touched(kernel, 8, cpus=(0, 1, 2, 3))
    process.munmap(base, 4 * PAGE)
    for cpu in range(4):
        for page in range(4):
            assert stale(kernel, process, cpu, base + page * PAGE) is None
    with pytest.raises(Signal, match="SEGV_MAPERR"):
        process.read(base, cpu=1)
    assert process.read(base + 4 * PAGE, cpu=3) == 4


def test_without_the_flush_another_process_is_read():
    """Leave out unmap's TLBIs: the frame gets a new owner, whose secret is read."""
    kernel = boot(cpus=2, model="neoverse-n1", rules=False)
    victim = kernel.spawn(cpu=0)
    secret = victim.mmap(2 * PAGE)
    victim.write(secret, 0)
    process, base = touched(kernel, 8, cpus=(1,))
    kernel.swap.lru_add_drain_all()
    kernel.machine.taken_out = frozenset({"tlbi VALE1IS in unmap_region"})
    process.munmap(base, PAGE)
    kernel.machine.taken_out = frozenset()
    victim.write(secret + PAGE, 0x5EC2E7)
    assert process.read(base, cpu=1) == 0x5EC2E7


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1300), st.integers(1, 1300), st.integers(0, 2)),
        max_size=8,
    ),
    st.sampled_from(["neoverse-v2", "neoverse-n1"]),
)
def test_tables_and_frames_come_back(operations, model):
    """Whatever is mapped and unmapped, at the end every table and frame is free."""
    kernel = boot(cpus=1, model=model)
    process = kernel.spawn()
    base = process.mmap(1400 * PAGE, addr=(1 << 40) - 700 * PAGE, fixed=True)
    for first, count, kind in operations:
        at = base + first * PAGE
        length = min(count, 1400 - first) * PAGE
        if kind == 0:
            process.munmap(at, length)
        elif kind == 1:
            process.mmap(length, addr=at, fixed=True)
        else:
            for offset in range(0, length, 37 * PAGE):
                try:
                    process.write(at + offset, 1)
                except Signal:
                    assert kernel.vma.vma_lookup(process.mm, at + offset) is None
    process.munmap(base, 1400 * PAGE)
    assert len(process.mm.vmas) == 2  # code and stack
    assert process.mm.pgtables[3] == 0
    assert (process.mm.anonpages, process.mm.total_vm) == (0, 16 + 33)
    process.exit()
    kernel.swap.lru_add_drain_all()
    assert kernel.page_alloc.in_use == 2


# -- places and errors -----------------------------------------------------------------


def test_mappings_go_down_from_the_top():
    """Two mappings are neighbours, the later one below, and merge into one area."""
    process = boot().spawn()
    first = process.mmap(4 * PAGE)
    second = process.mmap(4 * PAGE)
    assert second == first - 4 * PAGE
    assert len(process.mm.vmas) == 3  # it, code and stack


def test_whole_blocks_are_aligned_to_blocks():
    """A mapping of a multiple of 2 MiB begins at one, so that it can have them."""
    process = boot().spawn()
    process.mmap(PAGE)
    assert process.mmap(2 * BLOCK) % BLOCK == 0


def test_a_hint_is_taken_where_it_is_free():
    """An address without MAP_FIXED is a wish: granted, or replaced by another place."""
    process = boot().spawn()
    at = 1 << 40
    assert process.mmap(PAGE, addr=at) == at
    assert process.mmap(PAGE, addr=at) != at


@pytest.mark.parametrize(
    ("arguments", "errno"),
    [
        ({"length": 0}, "EINVAL"),
        ({"length": 1 << 60}, "ENOMEM"),
        ({"length": PAGE, "addr": 1, "fixed": True}, "EINVAL"),
        ({"length": PAGE, "addr": 1 << 48, "fixed": True}, "ENOMEM"),
    ],
)
def test_mmap_errors(arguments, errno):
    """Mmap refuses by name what Linux refuses."""
    with pytest.raises(SystemCallError) as caught:
        boot().spawn().mmap(**arguments)
    assert caught.value.errno == errno


def test_noreplace():
    """MAP_FIXED_NOREPLACE leaves alone what is there."""
    process = boot().spawn()
    at = process.mmap(2 * PAGE)
    with pytest.raises(SystemCallError, match="EEXIST"):
        process.mmap(PAGE, addr=at, noreplace=True)


@pytest.mark.parametrize("bad", [(1, PAGE), (0, 0), (1 << 48, PAGE)])
def test_munmap_errors(bad):
    """Munmap wants an aligned address, a length, and both below the top."""
    process, base = touched(boot(), 1)
    offset, length = bad
    with pytest.raises(SystemCallError, match="EINVAL"):
        process.munmap(base + offset if offset == 1 else offset, length)
    assert process.read(base) == 0


# -- what changes while a range is cleared ---------------------------------------------


def test_a_huge_page_that_comes_meanwhile_is_cleared_too():
    """An entry that became huge between two looks is looked at again, not for ever."""
    kernel = boot(cpus=2)
    kernel.huge_memory.enabled = "always"
    process = kernel.spawn()
    base = -(-process.mmap(2 * BLOCK + BLOCK) // BLOCK) * BLOCK
    process.write(base + BLOCK, 1)  # the PMD table is there, and base's entry is empty
    pmd = kernel.pgtable.find_pmd(process.mm, base)
    look = kernel.pgtable._read
    seen: list[int] = []

    def meanwhile(ptep):
        value = look(ptep)
        if ptep == pmd and not seen:
            seen.append(value)
            process.write(base, 7, cpu=1)
            kernel.machine.running = kernel.machine.cpu(0)
        return value

    kernel.pgtable._read = meanwhile
    process.madvise(base, BLOCK, "dontneed")
    kernel.pgtable._read = look
    assert seen == [0]
    assert not kernel.pgtable.read(pmd)
    assert process.read(base, cpu=1) == 0


def test_a_protected_page_in_swap_leaves_its_protection_in_a_file():
    """MADV_DONTNEED of a private copy keeps that the place is write-protected."""
    kernel = boot(cpus=2)
    kernel.swapfile.swapon(8)
    process = kernel.spawn()
    fd = process.memfd_create("m")
    process.ftruncate(fd, PAGE)
    base = process.mmap(PAGE, fd=fd)
    process.write(base, 1)
    uffd = process.userfaultfd("SIGBUS", "PAGEFAULT_FLAG_WP")
    uffd.register(base, PAGE, missing=False, wp=True)
    uffd.writeprotect(base, PAGE)
    process.madvise(base, PAGE, "pageout")
    assert process.mm.swapents == 1
    process.madvise(base, PAGE, "dontneed")
    pte = kernel.pgtable.read(kernel.pgtable.find_pte(process.mm, base))
    assert pte_marker_get(pte) == PTE_MARKER_UFFD_WP


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize(
    "marker", [PTE_MARKER_UFFD_WP, PTE_MARKER_POISONED, PTE_MARKER_GUARD]
)
def test_which_marker_stays(marker, file, drop):
    """A guard stays unless all goes; poison never does; protection only in a file."""
    kernel = boot(cpus=1, rules=False)
    process = kernel.spawn()
    base = process.mmap(2 * PAGE, shared=file)
    process.write(base, 1)
    vma = kernel.vma.vma_lookup(process.mm, base)
    ptep = kernel.pgtable.find_pte(process.mm, base + PAGE)
    kernel.pgtable.set_pte(ptep, make_pte_marker(marker))
    details = ZapDetails(even_cows=True, zap_flags=ZAP_FLAG_DROP_MARKER * drop)
    kernel.memory.zap_page_range_single(vma, base, 2 * PAGE, details)
    stays = {
        PTE_MARKER_UFFD_WP: file and not drop,
        PTE_MARKER_POISONED: False,
        PTE_MARKER_GUARD: not drop,
    }[marker]
    assert bool(kernel.pgtable.read(ptep)) == stays


@pytest.mark.parametrize("advice", ["normal", "sequential", "random"])
def test_use_counts_only_where_it_will_come_again(advice):
    """A file's page that goes was used, unless the range is read once or at random."""
    kernel = boot(cpus=1)
    process = kernel.spawn()
    fd = process.open("f", create=True)
    process.ftruncate(fd, PAGE)
    base = process.mmap(PAGE, fd=fd, shared=True)
    process.madvise(base, PAGE, advice)
    process.read(base)
    vma = kernel.vma.vma_lookup(process.mm, base)
    folio = vma.file.mapping.pages[0]
    folio.flags &= ~PG_referenced
    process.munmap(base, PAGE)
    assert bool(folio.flags & PG_referenced) == (advice == "normal")
