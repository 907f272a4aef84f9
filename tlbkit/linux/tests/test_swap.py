"""Swap: slots, the swap cache, what reclaim flushes, and how pages come back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.permission import EL0_READ
from tlbkit.errors import InputError
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_present,
    pte_uffd_wp,
    pte_write,
)
from tlbkit.linux.arch.arm64.mm.fault import OutOfMemoryError
from tlbkit.linux.include.linux.mm_types import (
    TLB_FLUSH_BATCH_FLUSHED_SHIFT,
    TLB_FLUSH_BATCH_PENDING_LARGE,
    PG_locked,
    PG_swapbacked,
    PG_swapcache,
)
from tlbkit.linux.include.linux.pagemap import folio_trylock, folio_unlock
from tlbkit.linux.include.linux.swapops import (
    SwpEntry,
    pte_swp_exclusive,
    pte_swp_uffd_wp,
    pte_to_swp_entry,
)
from tlbkit.linux.include.uapi.asm_generic.errno import SystemCallError
from tlbkit.linux.mm.rmap.walk import TTU_BATCH_FLUSH
from tlbkit.linux.mm.swapfile import BadSwapError
from tlbkit.linux.tests.audit import all_frames, audit, audit_tlbs, entries
from tlbkit.linux.tests.support import PAGE, boot, issued, stale, total, touched
from tlbkit.linux.tests.test_huge_memory import blocks, forms
from tlbkit.linux.tests.test_madvise import folios
from tlbkit.linux.tests.test_mremap import FAR, filled, holds, moving
from tlbkit.linux.tests.watched import Scene

BLOCK = 512 * PAGE
WAIT = ["ishst", "ish"]
both = pytest.mark.parametrize("version", ["v6.17", "v6.19"])
devices = pytest.mark.parametrize("synchronous", [True, False])


def swapping(pages, *, slots=2048, synchronous=True, **machine):
    """A kernel with swap, and a process with *pages* numbered pages."""
    kernel = boot(**machine)
    kernel.swapfile.swapon(slots, synchronous_io=synchronous)
    process, base = filled(kernel, pages)
    return kernel, process, base


def page_out(process, base, pages):
    """The call that reclaims a range."""
    return lambda: process.madvise(base, pages * PAGE, "pageout")


def slots_used(kernel):
    """How many slots are in use."""
    return sum(len(device.swap_map) for device in kernel.swapfile.devices)


# -- what reclaim flushes --------------------------------------------------------------


@pytest.mark.parametrize("kpti", [False, True])
def test_t1_7_clean_pages_go_with_one_wait(kpti):
    """T1.7: n batched unmaps are n times (ishst, VALE1IS) and one final dsb ish."""
    kernel, process, base = swapping(20, kpti=kpti)
    process.madvise(base, 20 * PAGE, "free")
    kernel.swap.lru_add_drain_all()
    names, dsb = forms(kernel, page_out(process, base, 20))
    assert names == ["VALE1IS"] * 20 * (1 + kpti)
    assert dsb == ["ishst"] * 20 + ["ish"]
    assert process.mm.anonpages == process.mm.swapents == 0
    assert slots_used(kernel) == 0
    assert holds(process, base, 20) == [0] * 20
    audit(kernel)
    audit_tlbs(kernel)


def test_dirty_pages_are_waited_for_one_by_one():
    """A page that is written out is flushed before that: no batch is left to wait for.

    So of the saving of a batch nothing is left where pages are dirty.
    """
    kernel, process, base = swapping(20)
    names, dsb = forms(kernel, page_out(process, base, 20))
    assert names == ["VALE1IS"] * 20
    assert dsb == WAIT * 20
    assert process.mm.swapents == 20
    audit(kernel)
    audit_tlbs(kernel)


@pytest.mark.parametrize("advice", [None, "free"])
def test_repeated_tlbis_are_not_put_off(advice):
    """With the repeat-TLBI erratum each flush of a range is waited for at once."""
    kernel, process, base = swapping(5, repeat_tlbi=True, model="neoverse-n1")
    if advice:
        process.madvise(base, 5 * PAGE, advice)
        kernel.swap.lru_add_drain_all()
    counts = issued(kernel, page_out(process, base, 5))
    assert counts.tlbi == {"VAE1IS": 10}, "each twice, and not leaf only"
    assert counts.dsb == {"ishst": 5, "ish": 10}
    assert not process.mm.tlb_flush_batched_pending
    audit(kernel)


def test_who_comes_after_a_batch_flushes_the_asid():
    """Whoever changes entries after a batch cannot know that it was waited for."""
    kernel, process, base = swapping(8)
    page_out(process, base, 8)()
    assert process.mm.tlb_flush_batched_pending
    counts = issued(kernel, lambda: process.mprotect(base, 8 * PAGE, "r"))
    assert counts.tlbi == {"ASIDE1IS": 1}
    again = issued(kernel, lambda: process.mprotect(base, 8 * PAGE, "rw"))
    assert again.tlbi == {}, "no entry is present, and the batch is over"


@given(
    steps=st.lists(st.sampled_from(["begin", "flush", "meanwhile"]), max_size=30),
    begun=st.sampled_from([0, 1, TLB_FLUSH_BATCH_PENDING_LARGE]),
)
def test_a_batch_is_pending_until_a_flush_that_began_after_it(steps, begun):
    """A batch begun during a flush stays pending; any other is over after the flush."""
    kernel, process, base = swapping(1, rules=False)
    mm = process.mm
    mm.tlb_flush_batched = begun | begun << TLB_FLUSH_BATCH_FLUSHED_SHIFT
    (pte,) = entries(kernel, process, base, 1)

    def begin():
        kernel.rmap.set_tlb_ubc_flush_pending(mm, pte, base, base + PAGE)

    def meanwhile(_):
        kernel.machine.events.leave(meanwhile)
        begin()

    pending = False
    for step in steps:
        if step == "begin":
            begin()
            pending = True
            continue
        if step == "meanwhile":
            kernel.machine.events.listen(meanwhile, {"tlbi"})
        asked = issued(kernel, lambda: kernel.rmap.flush_tlb_batched_pending(mm)).tlbi
        if step == "meanwhile" and not pending:
            kernel.machine.events.leave(meanwhile)
        assert ("ASIDE1IS" in asked) is pending
        pending = step == "meanwhile" and pending
        assert mm.tlb_flush_batched_pending is pending


def test_a_block_is_split_then_unmapped_page_by_page():
    """A block's entry is split; contiguous blocks unfold as their first page goes."""
    kernel = boot()
    kernel.swapfile.swapon(2048)
    process, base = blocks(kernel, 1)
    for page in range(512):
        process.write(base + page * PAGE, page + 1)
    names, _ = forms(kernel, page_out(process, base, 512))
    assert names[0] == "RVAE1IS"
    assert names.count("RVALE1IS") == 32
    assert names.count("VALE1IS") == 512
    assert (process.mm.anonpages, process.mm.swapents) == (0, 512)
    assert slots_used(kernel) == 512
    audit(kernel)
    assert holds(process, base, 512) == list(range(1, 513))
    audit(kernel)
    audit_tlbs(kernel)


def test_a_block_that_was_given_up_goes_whole():
    """A lazily freed block needs neither slots nor a split: one block flush."""
    kernel = boot()
    process, base = blocks(kernel, 1)
    process.madvise(base, BLOCK, "free")
    names, dsb = forms(kernel, page_out(process, base, 512))
    assert (names, dsb) == (["RVAE1IS"], WAIT)
    assert process.mm.anonpages == 0
    assert process.read(base) == 0
    audit(kernel)
    audit_tlbs(kernel)


def test_large_folios_that_were_given_up_go_in_one_flush():
    """Entries of one lazily freed folio are cleared, and flushed, together."""
    kernel = boot()
    kernel.huge_memory.set_hugepages_enabled(64, "always")
    process, base = filled(kernel, 64)
    process.madvise(base, 64 * PAGE, "free")
    names, dsb = forms(kernel, page_out(process, base, 64))
    assert names == ["RVALE1IS"] * 4
    assert dsb == ["ishst"] * 4 + ["ish"]
    audit(kernel)


def test_no_frame_is_free_before_its_flush_is_done():
    """When reclaim gives a frame back, no TLB knows it any more."""
    kernel = boot()
    kernel.swapfile.swapon(64)
    process, base = touched(kernel, 40, cpus=(0, 1, 2, 3))
    process.madvise(base, 20 * PAGE, "free")
    kernel.swap.lru_add_drain_all()
    freed = []

    def check(event):
        freed.append(event.what)
        for cpu in kernel.machine.cpus:
            assert event.what not in {e.pa // PAGE for e in cpu.tlb.entries()}

    kernel.machine.events.listen(check, {"free"})
    page_out(process, base, 40)()
    assert len(freed) == 40
    audit(kernel)


def test_without_the_flush_a_write_is_lost():
    """Leave out the flush before the write-out: a later write does not survive."""
    kernel = boot(cpus=2, model="neoverse-n1", rules=False)
    kernel.swapfile.swapon(64)
    process, base = touched(kernel, 2, cpus=(0, 1))
    kernel.swap.lru_add_drain_all()
    kernel.machine.taken_out = frozenset({"tlbi VALE1IS in try_to_unmap_one"})
    page_out(process, base, 2)()
    kernel.machine.taken_out = frozenset()
    assert stale(kernel, process, 1, base + PAGE) is not None
    process.write(base + PAGE, 99, cpu=1)
    assert process.read(base + PAGE, cpu=0) == 1


# -- what goes and what stays ----------------------------------------------------------


def test_without_swap_nothing_goes():
    """There is nowhere to put pages: PAGEOUT is no error, and does nothing."""
    kernel = boot()
    process, base = filled(kernel, 8)
    assert issued(kernel, page_out(process, base, 8)).tlbi == {}
    assert process.mm.anonpages == 8
    audit(kernel)


@pytest.mark.parametrize("slots", [3, 8, 400, 512])
def test_a_device_that_is_full(slots):
    """What finds no slot stays; a block without a row of slots goes in pieces."""
    kernel = boot()
    kernel.swapfile.swapon(slots)
    process, base = blocks(kernel, 1)
    for page in range(512):
        process.write(base + page * PAGE, page + 1)
    page_out(process, base, 512)()
    # A row of 512 slots begins at 512, as slot 0 is the header.
    assert process.mm.swapents == slots
    audit(kernel)
    assert holds(process, base, 512) == list(range(1, 513))
    audit(kernel)
    audit_tlbs(kernel)


def test_pages_that_others_map_pin_or_lock_stay():
    """PAGEOUT takes only what is this process's alone and nobody holds."""
    kernel, process, base = swapping(4)
    (_, pinned, locked, free) = folios(kernel, process, base, 4)
    kernel.swap.lru_add_drain_all()
    process.madvise(base + PAGE, 3 * PAGE, "dontfork")
    child = process.fork()
    kernel.gup.try_grab_folio(pinned)
    locked.flags |= PG_locked
    page_out(process, base, 4)()
    present = [pte_present(pte) for pte in entries(kernel, process, base, 4)]
    assert present == [True, True, True, False]
    assert pinned.flags & PG_swapcache == 0
    assert free.refcount == 0
    locked.flags &= ~PG_locked
    kernel.gup.unpin_user_page(pinned)
    child.exit()
    audit(kernel)


def test_a_page_that_is_pinned_meanwhile_stays_and_keeps_its_entry():
    """The entry was cleared and flushed; it comes back as it was."""
    kernel, process, base = swapping(1)
    (folio,) = folios(kernel, process, base, 1)
    kernel.swap.lru_add_drain_all()
    before = entries(kernel, process, base, 1)
    folio_trylock(folio)
    folio.refcount += 1
    assert kernel.swapfile.folio_alloc_swap(folio) == 0
    kernel.gup.try_grab_folio(folio)
    kernel.rmap.try_to_unmap(folio, TTU_BATCH_FLUSH)
    kernel.rmap.try_to_unmap_flush()
    assert entries(kernel, process, base, 1) == before
    assert kernel.swapfile.folio_free_swap(folio)
    folio_unlock(kernel.machine, folio)
    kernel.gup.unpin_user_page(folio)
    kernel.swap.folio_put(folio)
    assert process.mm.swapents == slots_used(kernel) == 0
    audit(kernel)


@pytest.mark.parametrize("hardware", [True, False])
@pytest.mark.parametrize("thp", [False, True])
def test_what_is_written_after_free_is_kept(hardware, thp):
    """A page that was given up and written again is no longer droppable."""
    kernel = boot(hw_af=hardware, hw_dbm=hardware)
    if thp:
        process, base = blocks(kernel, 1)
    else:
        process, base = filled(kernel, 8)
    pages = 512 if thp else 8
    process.madvise(base, pages * PAGE, "free")
    kernel.swap.lru_add_drain_all()
    process.write(base + 3 * PAGE, 77)
    page_out(process, base, pages)()
    assert process.read(base + 3 * PAGE) == 77
    assert process.mm.anonpages == (512 if thp else 1)
    pfn = kernel.machine.cpu(0).translate(base + 3 * PAGE, EL0_READ) // PAGE
    assert kernel.page_alloc.folio_of(pfn).flags & PG_swapbacked
    audit(kernel)
    audit_tlbs(kernel)


def test_a_given_up_page_that_somebody_holds_stays():
    """A reference may stand for a write that no entry tells of."""
    kernel, process, base = swapping(1)
    process.madvise(base, PAGE, "free")
    kernel.swap.lru_add_drain_all()
    (folio,) = folios(kernel, process, base, 1)
    folio.refcount += 1
    page_out(process, base, 1)()
    assert process.mm.anonpages == 1
    assert not folio.flags & PG_swapbacked
    kernel.swap.folio_put(folio)
    audit(kernel)


# -- how pages come back ---------------------------------------------------------------


@both
@devices
def test_a_read_brings_the_page_back_writable(version, synchronous):
    """Who had a page alone has it alone again: writable, and without a flush."""
    kernel, process, base = swapping(4, kernel=version, synchronous=synchronous)
    page_out(process, base, 4)()
    assert all(map(pte_swp_exclusive, entries(kernel, process, base, 4)))
    counts = issued(kernel, lambda: holds(process, base, 4))
    assert counts.tlbi == {}
    assert all(map(pte_write, entries(kernel, process, base, 4)))
    assert issued(kernel, lambda: process.write(base, 5)).tlbi == {}
    assert process.mm.swapents == 0
    audit(kernel)
    audit_tlbs(kernel)


def test_past_the_swap_cache_or_through_it():
    """A device that answers at once needs no cached copy, and its slots are free."""
    for synchronous, cached in ((True, 0), (False, 4)):
        kernel, process, base = swapping(4, synchronous=synchronous)
        page_out(process, base, 4)()
        holds(process, base, 4)
        assert len(kernel.swap_state.folios) == slots_used(kernel) == cached
        audit(kernel)


@devices
def test_a_write_takes_the_page_out_of_the_cache(synchronous):
    """A page that is about to differ from its slot gives the slot up."""
    kernel, process, base = swapping(2, synchronous=synchronous)
    page_out(process, base, 2)()
    process.write(base, 9)
    assert holds(process, base, 2) == [9, 2]
    assert slots_used(kernel) == (0 if synchronous else 1)
    audit(kernel)


def test_a_clean_cached_page_goes_again_without_a_write():
    """Slot and page still agree, so the second time nothing is written out."""
    kernel, process, base = swapping(4, synchronous=False)
    page_out(process, base, 4)()
    holds(process, base, 4)
    kernel.swap.lru_add_drain_all()
    kernel.rmap.flush_tlb_batched_pending(process.mm)
    kernel.swapfile.devices[0].contents[1][0] = 0xC0FFEE
    names, dsb = forms(kernel, page_out(process, base, 4))
    assert (names, dsb) == (["VALE1IS"] * 4, ["ishst"] * 4 + ["ish"])
    assert process.read(base) == 0xC0FFEE
    audit(kernel)


@both
@devices
def test_fork_shares_what_is_in_swap(version, synchronous):
    """An entry is counted for each process, none has it alone, and writes copy."""
    kernel, process, base = swapping(4, kernel=version, synchronous=synchronous)
    page_out(process, base, 4)()
    child = process.fork()
    assert not any(map(pte_swp_exclusive, entries(kernel, process, base, 4)))
    assert set(kernel.swapfile.devices[0].swap_map.values()) == {2}
    assert child.mm.swapents == 4
    audit(kernel)
    assert holds(child, base, 4) == [1, 2, 3, 4]
    assert not any(map(pte_write, entries(kernel, child, base, 4)))
    audit(kernel)
    process.write(base, 50)
    child.write(base, 60)
    child.write(base + PAGE, 61)
    assert holds(process, base, 4) == [50, 2, 3, 4]
    assert holds(child, base, 4) == [60, 61, 3, 4]
    audit(kernel)
    audit_tlbs(kernel)
    child.exit()
    process.write(base + 2 * PAGE, 52)
    assert holds(process, base, 4) == [50, 2, 52, 4]
    audit(kernel)
    process.exit()
    assert all_frames(kernel) == 2
    assert slots_used(kernel) == 0


@both
def test_the_last_user_of_a_cached_page_takes_it_over(version):
    """Once the other process is gone, a write reuses the page and frees its slot."""
    kernel, process, base = swapping(2, kernel=version)
    page_out(process, base, 2)()
    child = process.fork()
    holds(process, base, 2)
    assert len(kernel.swap_state.folios) == 2
    child.exit()
    kernel.swap.lru_add_drain_all()
    audit(kernel)
    counts = issued(kernel, lambda: process.write(base, 5))
    assert counts.tlbi == {"VALE1IS" if version == "v6.17" else "VALE1": 1}
    assert len(kernel.swap_state.folios) == 1
    audit(kernel)


@devices
def test_zap_and_exit_free_the_slots(synchronous):
    """What is unmapped in swap gives its slot back, cached or not, without a flush."""
    kernel, process, base = swapping(8, synchronous=synchronous)
    page_out(process, base, 8)()
    kernel.rmap.flush_tlb_batched_pending(process.mm)
    process.read(base)
    counts = issued(kernel, lambda: process.madvise(base + PAGE, 4 * PAGE, "dontneed"))
    assert counts.tlbi == {}
    assert process.mm.swapents == 3
    audit(kernel)
    assert (
        issued(kernel, lambda: process.madvise(base + 5 * PAGE, PAGE, "free")).tlbi
        == {}
    )
    assert process.mm.swapents == 2, "MADV_FREE drops what is in swap at once"
    process.munmap(base, 7 * PAGE)
    audit(kernel)
    process.exit()
    assert all_frames(kernel) == 2
    assert slots_used(kernel) == 0


def test_entries_in_swap_move_with_mremap():
    """An entry in swap moves without a flush, and is read at its new place."""
    kernel, process, base = swapping(8)
    page_out(process, base, 8)()
    kernel.rmap.flush_tlb_batched_pending(process.mm)
    process.mmap(PAGE, addr=base + 8 * PAGE, fixed=True, prot="r")
    assert issued(kernel, moving(process, base, 8 * PAGE, 2 * FAR)).tlbi == {}
    assert holds(process, 2 * FAR, 8) == list(range(1, 9))
    audit(kernel)


def test_mprotect_of_entries_in_swap():
    """Row 22 of 2.2: no flush; the page comes back with the rights of its area."""
    kernel, process, base = swapping(2)
    page_out(process, base, 2)()
    kernel.rmap.flush_tlb_batched_pending(process.mm)
    assert issued(kernel, lambda: process.mprotect(base, 2 * PAGE, "r")).tlbi == {}
    process.read(base)
    assert not pte_write(entries(kernel, process, base, 1)[0])
    process.mprotect(base, 2 * PAGE, "rw")
    process.write(base + PAGE, 4)
    assert holds(process, base, 2) == [1, 4]
    audit(kernel)


def test_protection_of_userfaultfd_survives_swap():
    """The mark goes to the swap entry and back; it can change meanwhile."""
    kernel, process, base = swapping(3)
    fd = process.userfaultfd()
    fd.register(base, 3 * PAGE, missing=True, wp=True)
    fd.writeprotect(base, 2 * PAGE)
    page_out(process, base, 3)()
    assert [pte_swp_uffd_wp(p) for p in entries(kernel, process, base, 3)] == [
        True,
        True,
        False,
    ]
    fd.writeprotect(base + PAGE, PAGE, protect=False)
    fd.writeprotect(base + 2 * PAGE, PAGE)
    holds(process, base, 3)
    found = entries(kernel, process, base, 3)
    assert [pte_uffd_wp(pte) for pte in found] == [True, False, True]
    assert [pte_write(pte) for pte in found] == [False, True, False]
    audit(kernel)


def test_without_memory_a_page_stays_in_swap():
    """A fault that finds no page changes nothing, and can be repeated."""
    kernel, process, base = swapping(2)
    page_out(process, base, 2)()
    kernel.page_alloc.fail = lambda: True
    with pytest.raises(OutOfMemoryError):
        process.read(base)
    kernel.page_alloc.fail = None
    audit(kernel)
    assert holds(process, base, 2) == [1, 2]
    audit(kernel)


# -- userfaultfd MOVE ------------------------------------------------------------------


@both
def test_move_takes_the_cached_copy_along(version):
    """A page that is in swap and in the cache is found at its new place again."""
    scene = Scene(version, "w")
    kernel = scene.kernel
    value = scene.src
    entry = pte_to_swp_entry(scene.pte(scene.src))
    folio = kernel.swap_state.read_swap_cache_async(entry)
    kernel.swap.lru_add_drain_all()
    folio.mapping = kernel.vma.vma_lookup(scene.process.mm, scene.src).anon_vma
    kernel.swap.folio_put(folio)
    counts = issued(kernel, lambda: scene.fd.move(scene.dst, scene.src, PAGE))
    assert total(counts) == 0
    assert folio.index == scene.dst // PAGE
    assert scene.process.read(scene.dst) == value
    assert scene.folio(scene.dst) is folio
    audit(kernel)


@both
def test_move_of_a_cached_block_is_refused(version):
    """A large folio that nothing maps cannot be split: EBUSY."""
    scene = Scene(version, "w")
    kernel = scene.kernel
    kernel.swapfile.swapon(64)
    large = kernel.page_alloc.alloc_zeroed(2)
    large.flags |= PG_swapbacked
    entry = SwpEntry(1, 4)
    device = kernel.swapfile.devices[1]
    for offset in range(4, 8):
        device.swap_map[offset] = 1
        device.cached.add(offset)
    kernel.swap_state.add_to_swap_cache(large, entry)
    pte = scene.pte(scene.src)
    scene.set_pte(scene.src, pte & 0xFFF | entry.type << 6 | entry.offset << 12)
    with pytest.raises(SystemCallError, match="EBUSY"):
        scene.fd.move(scene.dst, scene.src, PAGE)
    assert large.refcount == 5


@both
def test_move_waits_for_a_locked_cached_copy(version):
    """Somebody reads the page in: its lock is waited for, then all is read anew."""
    scene = Scene(version, "w")
    kernel = scene.kernel
    entry = pte_to_swp_entry(scene.pte(scene.src))
    folio = kernel.swap_state.read_swap_cache_async(entry)
    folio.mapping = kernel.vma.vma_lookup(scene.process.mm, scene.src).anon_vma
    folio_trylock(folio)
    waits = []

    def other_threads(done, what):
        waits.append(what)
        folio_unlock(kernel.machine, folio)
        assert done()

    kernel.machine.waiter = other_threads
    assert scene.fd.move(scene.dst, scene.src, PAGE) == PAGE
    assert len(waits) == 1
    kernel.swap.folio_put(folio)
    audit(kernel)


# -- slots -----------------------------------------------------------------------------


def test_slots_of_a_large_folio_are_a_row():
    """A large folio gets slots in a row, aligned to their number."""
    kernel = boot()
    device = kernel.swapfile.swapon(64)
    kernel.huge_memory.set_hugepages_enabled(64, "always")
    process, base = filled(kernel, 32)
    page_out(process, base, 32)()
    offsets = [
        pte_to_swp_entry(pte).offset for pte in entries(kernel, process, base, 32)
    ]
    assert offsets == [*range(16, 32), *range(32, 48)]
    assert device.free == 32
    audit(kernel)


def test_a_slot_that_nobody_has_is_an_error():
    """To count down what is not counted, or to name what is not there, is reported."""
    kernel = boot()
    kernel.swapfile.swapon(4)
    with pytest.raises(BadSwapError, match="nothing is known"):
        kernel.swapfile.swap_duplicate(SwpEntry(0, 1))
    with pytest.raises(BadSwapError, match="nothing is known"):
        kernel.swapfile.swap_free(SwpEntry(3, 1))
    kernel.swapfile.devices[0].swap_map[1] = 0
    with pytest.raises(BadSwapError, match="that nobody had"):
        kernel.swapfile.swap_free(SwpEntry(0, 1))


def test_devices_have_a_size_and_a_number():
    """A device has at least one slot, and there are at most 27."""
    kernel = boot()
    with pytest.raises(InputError, match="at least one"):
        kernel.swapfile.swapon(0)
    for number in range(27):
        assert kernel.swapfile.swapon(1).type == number
    with pytest.raises(InputError, match="27"):
        kernel.swapfile.swapon(1)


# -- together --------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["pageout", "write", "read", "fork", "dontneed", "free", "exit", "r"]
            ),
            st.integers(0, 60),
            st.integers(1, 40),
            st.integers(0, 2),
        ),
        max_size=10,
    ),
    st.booleans(),
    st.sampled_from(["v6.17", "v6.19"]),
    st.sampled_from([8, 200]),
    st.sampled_from([0, 64]),
)
def test_contents_survive_swap(steps, synchronous, version, slots, kib):
    """Whatever is paged out, shared and written: contents, counts and slots are right.

    A page that was given up may be dropped; then it reads as zero.
    """
    kernel = boot(version, cpus=2)
    if kib:
        kernel.huge_memory.set_hugepages_enabled(kib, "always")
    kernel.swapfile.swapon(slots, synchronous_io=synchronous)
    process, base = filled(kernel, 64)
    worlds = [(process, {page: {page + 1} for page in range(64)})]
    for number, (how, first, count, who) in enumerate(steps):
        owner, known = worlds[who % len(worlds)]
        owner.migrate(number % 2)
        last = min(first + count, 64)
        length = (last - first) * PAGE
        if how == "fork":
            worlds.append((owner.fork(), {page: set(v) for page, v in known.items()}))
        elif how == "exit" and len(worlds) > 1:
            worlds.remove((owner, known))
            owner.exit()
        elif how in {"pageout", "dontneed", "free"}:
            owner.madvise(base + first * PAGE, length, how)
            for page in range(first, last):
                if how == "dontneed":
                    known[page] = {0}
                elif how == "free":
                    # A page that is shared may be given up by one of several.
                    for _, other in worlds:
                        other[page].add(0)
        elif how == "r":
            owner.mprotect(base + first * PAGE, length, "r")
            owner.mprotect(base + first * PAGE, length, "rw")
        elif how in {"read", "write"}:
            for page in range(first, last):
                if how == "write":
                    owner.write(base + page * PAGE, 1000 + number)
                    known[page] = {1000 + number}
                assert owner.read(base + page * PAGE) in known[page]
        audit(kernel)
        audit_tlbs(kernel)
    for owner, known in worlds:
        for page, values in known.items():
            assert owner.read(base + page * PAGE) in values
    for owner, _ in worlds:
        owner.exit()
    assert all_frames(kernel) == 2
    assert slots_used(kernel) == 0


@pytest.mark.parametrize("synchronous", [True, False])
def test_without_memory_nothing_is_leaked(synchronous):
    """Fail each allocation of a round through swap in turn: slots and frames add up."""
    for failing in range(1, 40):
        kernel, process, base = swapping(6, synchronous=synchronous)
        left = [failing]

        def fail(left=left):
            left[0] -= 1
            return left[0] == 0

        kernel.page_alloc.fail = fail
        errors = 0
        try:
            page_out(process, base, 6)()
            child = process.fork()
            child.write(base, 9)
            process.write(base + PAGE, 8)
            holds(process, base, 6)
        except (SystemCallError, OutOfMemoryError):
            errors = 1
        kernel.page_alloc.fail = None
        audit(kernel)
        for owner in tuple(kernel.processes):
            owner.exit()
        assert all_frames(kernel) == 2
        assert slots_used(kernel) == 0
        if not errors:
            return
    raise AssertionError("the round never ran to its end")
