"""mm/swap.c: batches on their way to the LRU lists, and the references they hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.linux.include.linux.mm_types import (
    PG_active,
    PG_lru,
    PG_referenced,
    PG_swapbacked,
)
from tlbkit.linux.mm.swap import FOLIO_BATCH_SIZE
from tlbkit.linux.tests.audit import audit
from tlbkit.linux.tests.support import PAGE, boot, issued, touched
from tlbkit.linux.tests.test_huge_memory import blocks
from tlbkit.linux.tests.test_madvise import folios

VERSIONS = pytest.mark.parametrize("version", ["v6.17", "v6.19"])
COPY = {"VALE1IS": 1}


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "deactivate", "lazyfree", "isolate", "drain"]),
            st.integers(0, 3),
            st.integers(0, 1),
        ),
        max_size=60,
    )
)
def test_a_batch_holds_one_reference_for_each_time_a_folio_is_in_it(steps):
    """A folio has one reference more for each time a batch has it, and no other."""
    kernel = boot(cpus=2)
    swap = kernel.swap
    process, base = touched(kernel, 4)
    pages = folios(kernel, process, base, 4)
    swap.lru_add_drain_all()
    queued = [[0, 0] for _ in pages]
    isolated = [0] * len(pages)
    for what, number, cpu in steps:
        kernel.machine.running = kernel.machine.cpu(cpu)
        folio = pages[number]
        if what == "drain":
            swap.lru_add_drain()
            for counts in queued:
                counts[cpu] = 0
            if queued[number] == [0, 0] and not isolated[number]:
                assert folio.flags & PG_lru
            continue
        before = folio.refcount
        if what == "isolate":
            isolated[number] += kernel.vmscan.folio_isolate_lru(folio)
            continue
        if what == "add" and isolated[number]:
            isolated[number] -= 1
            swap.folio_add_lru(folio)
            swap.folio_put(folio)
            queued[number][cpu] += 1
        elif what == "deactivate":
            swap.folio_deactivate(folio)
            queued[number][cpu] += folio.refcount - before
        elif what == "lazyfree":
            swap.folio_mark_lazyfree(folio)
            queued[number][cpu] += folio.refcount - before
        if sum(counts[cpu] for counts in queued) >= FOLIO_BATCH_SIZE:
            return
        assert folio.refcount == 1 + sum(queued[number]) + isolated[number]
    swap.lru_add_drain_all()
    assert [folio.refcount for folio in pages] == [1 + count for count in isolated]
    assert [bool(folio.flags & PG_lru) for folio in pages] == [
        not count for count in isolated
    ]


def test_a_full_batch_and_one_with_a_large_folio_do_not_wait():
    """The 31st folio of a batch moves all of it, and so does a large one."""
    kernel = boot()
    process, base = touched(kernel, FOLIO_BATCH_SIZE - 1)
    waiting = folios(kernel, process, base, FOLIO_BATCH_SIZE - 1)
    assert {folio.refcount for folio in waiting} == {2}
    more = process.mmap(PAGE, "rw")
    process.write(more, 1)
    assert {folio.refcount for folio in waiting} == {1}
    kernel = boot()
    process, base = touched(kernel, 3)
    waiting = folios(kernel, process, base, 3)
    other, block = blocks(kernel, 1)
    other.write(block, 1)
    assert {folio.refcount for folio in waiting} == {1}


def test_what_was_isolated_is_left_alone_by_a_batch():
    """Who isolates a folio that a batch has finds its flags as it left them."""
    kernel = boot()
    process, base = touched(kernel, 1)
    (folio,) = folios(kernel, process, base, 1)
    kernel.swap.lru_add_drain_all()
    process.madvise(base, PAGE, "free")
    assert kernel.vmscan.folio_isolate_lru(folio)
    kernel.swap.lru_add_drain_all()
    assert folio.flags & (PG_lru | PG_swapbacked) == PG_swapbacked
    kernel.vmscan.folio_putback_lru(folio)
    kernel.swap.lru_add_drain_all()
    assert folio.flags & PG_lru
    assert folio.refcount == 1
    audit(kernel)


@VERSIONS
def test_dropping_other_pages_does_not_change_who_is_alone(version):
    """MADV_DONTNEED drains no batch, so the next write copies with it or without."""
    forms = []
    for unrelated in (False, True):
        kernel = boot(version, cpus=2)
        process, base = touched(kernel, 1)
        other = process.mmap(PAGE)
        if unrelated:
            process.madvise(other, PAGE, "dontneed")
        process.fork(cpu=1).exit()
        counts = issued(kernel, lambda p=process, a=base: p.write(a, 2, cpu=1))
        forms.append(counts.tlbi)
    assert forms == [COPY, COPY]


@VERSIONS
@pytest.mark.parametrize("advice", ["cold", "free"])
def test_advice_leaves_a_reference_in_a_batch_that_no_write_drains(version, advice):
    """After COLD or FREE a folio is on its list and in a batch: a write copies it."""
    kernel = boot(version)
    process, base = touched(kernel, 4)
    process.madvise(base, 4 * PAGE, advice)
    (folio, *_) = folios(kernel, process, base, 4)
    assert folio.flags & PG_lru
    assert folio.refcount == 2
    process.fork().exit()
    counts = issued(kernel, lambda: process.write(base, 3))
    assert counts.tlbi == COPY
    audit(kernel)


def test_cold_pages_lose_their_place_when_the_batch_moves():
    """MADV_COLD clears the reference at once; the generation is left to the batch."""
    kernel = boot()
    process, base = touched(kernel, 1)
    (folio,) = folios(kernel, process, base, 1)
    kernel.swap.lru_add_drain_all()
    folio.flags |= PG_referenced
    assert folio.flags & PG_active
    process.madvise(base, PAGE, "cold")
    assert not folio.flags & PG_referenced
    kernel.swap.lru_add_drain_all()
    assert folio.flags & PG_active, "what has no file goes to a younger one again"
    process.madvise(base, PAGE, "free")
    kernel.swap.lru_add_drain_all()
    assert not folio.flags & (PG_active | PG_swapbacked)
    process.madvise(base, PAGE, "cold")
    assert folio.refcount == 1, "it is in the oldest one already"
