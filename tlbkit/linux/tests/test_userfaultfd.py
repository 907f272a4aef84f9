"""mm/userfaultfd.c: what moves, what is flushed, what is refused, and in what order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.events import Event
from tlbkit.arm64.machine import StuckError
from tlbkit.errors import InputError
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pmd_trans_huge,
    pte_dirty,
    pte_none,
    pte_uffd_wp,
    pte_write,
    pte_young,
)
from tlbkit.linux.arch.arm64.include.asm.tlbflush import range_steps
from tlbkit.linux.include.linux.mm import VM_LOCKED, VM_PFNMAP
from tlbkit.linux.include.linux.mm_types import PG_locked
from tlbkit.linux.include.linux.swapops import migration_entry_pfn, pte_to_swp_entry
from tlbkit.linux.include.uapi.asm_generic.errno import SystemCallError
from tlbkit.linux.kernel.locking import SpinLock
from tlbkit.linux.mm.userfaultfd import MoveLivelockError
from tlbkit.linux.tests.support import PAGE, boot, issued, stale, total
from tlbkit.linux.tests.test_tlbflush import closed_form
from tlbkit.linux.tests.watched import Scene, check_end
from tlbkit.observe.sanitizer import audit

BLOCK = 1 << 21
BEFORE, AFTER, FIXED = "v6.17", "v6.19", "fixed"
VERSIONS = pytest.mark.parametrize("version", [BEFORE, AFTER, FIXED])


def answer(request):
    """Make a request; return its errno, empty on success, and what was done."""
    try:
        return "", request()
    except SystemCallError as error:
        return error.errno, error.detail


def refused(request):
    """Make a request that must fail; return its errno and its output field."""
    errno, detail = answer(request)
    assert errno
    return errno, detail


def hear(kernel, kinds, listener):
    """Let *listener* be another CPU that acts at each event of these kinds."""
    kernel.machine.events.listen(listener, kinds)


# -- whole runs ------------------------------------------------------------------------


@pytest.mark.parametrize("holes", [False, True])
@settings(max_examples=60, deadline=None)
@given(
    source=st.text("pppcz.sPWwu", min_size=1, max_size=12),
    target=st.text("....p", max_size=12),
    gap=st.integers(0, 3),
    order=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 12)), max_size=3),
)
def test_both_ways_move_the_same(source, target, gap, order, holes):
    """Kernels old and new move the same bytes, answer the same, leave the same.

    TLBs agree with the tables after each call, every count is exact, and nothing is
    lost or left at the end.
    """
    outcomes = []
    for version in (BEFORE, AFTER):
        scene = Scene(version, source, target[: len(source)], gap=gap)
        scene.read_all()
        answers = []
        for first, pages in [*order, (0, len(source))]:
            at = min(first, len(source) - 1) * PAGE
            length = min(pages * PAGE, scene.length - at)
            request = scene.dst + at, scene.src + at, length
            answers.append(
                answer(
                    lambda scene=scene, request=request: scene.fd.move(
                        *request, allow_src_holes=holes
                    )
                )
            )
            audit(scene.kernel)
        outcomes.append((answers, scene.memory()))
        scene.unpin()
        check_end(scene.kernel)
    assert outcomes[0] == outcomes[1]


@VERSIONS
def test_t3_1_a_run_is_flushed_once(version):
    """T3.1: pages of one table on either side: before a flush each, after one."""
    pages = 64
    scene = Scene(version, "p" * pages)
    scene.read_all()
    counts = issued(
        scene.kernel, lambda: scene.fd.move(scene.dst, scene.src, scene.length)
    )
    flushes = pages if version == BEFORE else 1
    assert counts.dsb == {"ishst": flushes + 1, "ish": flushes}, "one table is new"
    assert counts.notifier == flushes
    assert counts.notifier_ranges == flushes
    name = "VALE1IS" if version == BEFORE else "RVAE1IS"
    assert counts.tlbi == {name: flushes}


@settings(max_examples=40, deadline=None)
@given(
    first=st.integers(0, 20),
    pages=st.integers(1, 70),
    version=st.sampled_from([BEFORE, AFTER]),
    ranges=st.booleans(),
    kpti=st.booleans(),
    lpa2=st.booleans(),
    page_shift=st.sampled_from([12, 14]),
)
def test_a_run_s_flush_arithmetic(
    first, pages, version, ranges, kpti, lpa2, page_shift
):
    """Operations follow from the pages: n before; R(n) with ranges and n without after.

    Each of them twice where the kernel has an ASID of its own; two barriers a flush.
    With LPA2 a range operation begins at 64 KiB, so what comes before goes singly.
    """
    scene = Scene(
        version,
        "." * first + "p" * pages,
        range_tlbi=ranges,
        kpti=kpti,
        lpa2=lpa2,
        page_shift=page_shift,
    )
    src = scene.src + first * scene.page
    counts = issued(
        scene.kernel, lambda: scene.fd.move(scene.dst, src, pages * scene.page)
    )
    steps = range_steps(
        src, pages, scene.page, page_shift=page_shift, has_range=ranges, lpa2=lpa2
    )
    expected = len(list(steps)) if version == AFTER else pages
    assert total(counts) == (1 + kpti) * expected
    if version == AFTER and not lpa2:
        assert expected == (closed_form(pages) if ranges else pages)
    flushes = 1 if version == AFTER else pages
    assert counts.dsb == {"ishst": flushes + 1, "ish": flushes}, "one table is new"


@pytest.mark.parametrize(
    ("model", "version", "tlbi"),
    [
        ("neoverse-v2", BEFORE, {"VALE1IS": 512}),
        ("neoverse-v2", AFTER, {"RVAE1IS": 1}),
        ("neoverse-n1", BEFORE, {"VALE1IS": 512}),
        ("neoverse-n1", AFTER, {"ASIDE1IS": 1}),
    ],
)
def test_a_whole_table_without_ranges_is_an_asid_flush(model, version, tlbi):
    """512 pages are a full table: without range operations the batch flushes it all."""
    scene = Scene(version, "p" * 512, model=model)
    counts = issued(
        scene.kernel, lambda: scene.fd.move(scene.dst, scene.src, scene.length)
    )
    assert counts.tlbi == tlbi


@pytest.mark.parametrize(
    ("gap", "runs"), [(0, [512]), (100, [412, 100]), (511, [1, 511])]
)
def test_runs_are_cut_at_tables_of_both_addresses(gap, runs):
    """A run ends where a table does, on the side where one ends first."""
    scene = Scene(AFTER, "p" * 512, gap=gap)
    counts = issued(
        scene.kernel, lambda: scene.fd.move(scene.dst, scene.src, scene.length)
    )
    assert counts.dsb["ish"] == len(runs)
    assert total(counts) == sum(closed_form(run) for run in runs)


def test_a_run_ends_with_the_source_s_table():
    """The cut is where either table ends: here the source's, after 12 of 20 pages."""
    scene = Scene(AFTER, "p" * 520)
    at = scene.src + 500 * PAGE
    counts = issued(scene.kernel, lambda: scene.fd.move(scene.dst, at, 20 * PAGE))
    assert counts.dsb["ish"] == 2
    assert total(counts) == closed_form(12) + closed_form(8)


def test_a_run_drops_tables_from_walk_caches_and_a_page_did_not():
    """One flush for all is of tables too; the flush of one page left them alone."""
    held = []
    for version in (BEFORE, AFTER):
        scene = Scene(version, "pp", cpus=1)
        scene.read_all()
        scene.fd.move(scene.dst, scene.src, scene.length)
        asid = scene.kernel.context.asid(scene.process.mm)
        walk_cache = scene.kernel.machine.cpus[0].tlb.walk
        held.append(
            [
                table.shift
                for tag, table in walk_cache.items()
                if tag == asid and table.va >> table.shift == scene.src >> table.shift
            ]
        )
    assert held[0]
    assert not held[1]


@VERSIONS
def test_a_run_need_not_be_contiguous_in_memory(version):
    """Only virtual addresses must follow each other: frames may lie anywhere."""
    scene = Scene(version, "........")
    pages = list(range(8))
    for page in (5, 2, 7, 0, 3, 6, 1, 4):
        scene.process.write(scene.src + page * PAGE, page)
    counts = issued(
        scene.kernel, lambda: scene.fd.move(scene.dst, scene.src, scene.length)
    )
    assert counts.dsb["ish"] == (8 if version == BEFORE else 1)
    assert [scene.peek(scene.dst + page * PAGE) for page in pages] == pages


# -- what ends a run -------------------------------------------------------------------


@VERSIONS
def test_t3_2_a_hole_between_two_pages(version):
    """T3.2: with ALLOW_SRC_HOLES a hole counts as moved; without, the call ends."""
    scene = Scene(version, "p.p")
    counts = issued(
        scene.kernel,
        lambda: scene.fd.move(scene.dst, scene.src, 3 * PAGE, allow_src_holes=True),
    )
    assert counts.dsb["ish"] == 2
    assert scene.peek(scene.dst + 2 * PAGE) == 3
    assert pte_none(scene.pte(scene.dst + PAGE))
    scene = Scene(version, "p.p")
    assert refused(lambda: scene.fd.move(scene.dst, scene.src, 3 * PAGE)) == (
        "EAGAIN",
        PAGE,
    )
    rest = scene.dst + PAGE, scene.src + PAGE, 2 * PAGE
    assert refused(lambda: scene.fd.move(*rest)) == ("ENOENT", -2)


@VERSIONS
@pytest.mark.parametrize("index", [0, 1, 3])
def test_t3_3_an_occupied_destination(version, index):
    """T3.3: what comes before it moves; asked first, it is EEXIST, hole or not."""
    scene = Scene(version, "pppp", "." * index + "p")
    if index:
        request = scene.fd.move, (scene.dst, scene.src, scene.length)
        assert refused(lambda: request[0](*request[1])) == ("EAGAIN", index * PAGE)
    at = index * PAGE
    rest = scene.dst + at, scene.src + at, PAGE
    assert refused(lambda: scene.fd.move(*rest)) == ("EEXIST", -17)
    scene.process.munmap(scene.src + at, PAGE)
    scene.process.mmap(PAGE, addr=scene.src + at, fixed=True)
    assert refused(lambda: scene.fd.move(*rest)) == ("EEXIST", -17)
    assert scene.peek(scene.dst + at) == 1001 + index


@VERSIONS
def test_t3_4_pages_in_swap_are_moved_without_a_flush(version):
    """T3.4: no TLB holds an entry of a page in swap, so none is told."""
    scene = Scene(version, "wwww")
    entries = [scene.pte(scene.src + page * PAGE) for page in range(4)]
    counts = issued(
        scene.kernel, lambda: scene.fd.move(scene.dst, scene.src, scene.length)
    )
    assert counts.tlbi == {}
    assert [scene.pte(scene.dst + page * PAGE) for page in range(4)] == entries
    assert not any(scene.pte(scene.src + page * PAGE) for page in range(4))


@VERSIONS
def test_t3_5_zero_pages_are_flushed_one_by_one(version):
    """T3.5: the zero page is moved alone, with a flush of one page, old and new."""
    scene = Scene(version, "zzz")
    scene.read_all()
    counts = issued(
        scene.kernel, lambda: scene.fd.move(scene.dst, scene.src, scene.length)
    )
    assert counts.tlbi == {"VALE1IS": 3}
    assert scene.process.read(scene.dst) == 0
    audit(scene.kernel)
    zero = scene.kernel.page_alloc.folio_of(scene.kernel.zero_pfn)
    assert (zero.refcount, zero.mapcount) == (1, 0)


@VERSIONS
@pytest.mark.parametrize("index", [1, 3])
def test_t3_6_a_pinned_page_ends_the_call(version, index):
    """T3.6: those before it move, its entry stays as it is; asked first, EBUSY."""
    scene = Scene(version, "p" * index + "Pp")
    at = index * PAGE
    pinned = scene.pte(scene.src + at)
    answers = []
    counts = issued(
        scene.kernel,
        lambda: answers.append(
            refused(lambda: scene.fd.move(scene.dst, scene.src, scene.length))
        ),
    )
    assert answers == [("EAGAIN", at)]
    assert counts.dsb["ish"] == (index if version == BEFORE else 1)
    assert scene.pte(scene.src + at) == pinned
    rest = scene.dst + at, scene.src + at, PAGE
    counts = issued(
        scene.kernel, lambda: answers.append(refused(lambda: scene.fd.move(*rest)))
    )
    assert answers[1] == ("EBUSY", -16)
    assert counts.tlbi == {}


@pytest.mark.parametrize(
    ("letter", "seen_next"),
    [
        (".", ("ENOENT", -2)),
        ("W", ("EBUSY", -16)),
        ("m", ("EFAULT", -14)),
        ("s", ("EBUSY", -16)),
        ("P", ("EBUSY", -16)),
    ],
)
@VERSIONS
def test_what_ends_a_run_and_cannot_move(version, letter, seen_next):
    """A page that cannot move lets those before it go; its own reason comes next."""
    scene = Scene(version, f"pp{letter}p")
    before = scene.pte(scene.src + 2 * PAGE)
    assert refused(lambda: scene.fd.move(scene.dst, scene.src, scene.length)) == (
        "EAGAIN",
        2 * PAGE,
    )
    rest = scene.dst + 2 * PAGE, scene.src + 2 * PAGE, 2 * PAGE
    assert refused(lambda: scene.fd.move(*rest)) == seen_next
    assert scene.pte(scene.src + 2 * PAGE) == before
    audit(scene.kernel)


@pytest.mark.parametrize(
    ("source", "flushes"),
    [
        ("pppp", 1),
        ("pcup", 1),
        ("pzpp", 3),
        ("zzpp", 3),
        ("ppwp", 2),
        ("wwww", 0),
        ("ppap", 1),
        ("pppppppz", 2),
    ],
)
def test_what_ends_a_run_and_moves(source, flushes):
    """Dirty, clean and protected pages make one run; others a run of their own."""
    scene = Scene(AFTER, source)
    counts = issued(
        scene.kernel, lambda: scene.fd.move(scene.dst, scene.src, scene.length)
    )
    assert counts.dsb["ish"] == flushes
    audit(scene.kernel)


@pytest.mark.parametrize(
    ("version", "flushes"), [("v6.17", 4), ("pr350", 3), ("v6.18", 3), ("v6.19", 1)]
)
def test_a_page_of_another_anon_vma_ended_a_run(version, flushes):
    """While the anon_vma was locked, a run had no page of another one."""
    scene = Scene(version, "ppap")
    counts = issued(
        scene.kernel, lambda: scene.fd.move(scene.dst, scene.src, scene.length)
    )
    assert counts.dsb["ish"] == flushes
    audit(scene.kernel)


@VERSIONS
def test_a_locked_page_is_slept_for(version):
    """A page that somebody has locked ends a run; the call sleeps until it is free."""
    scene = Scene(version, "ppLp")
    locked = scene.folio(scene.src + 2 * PAGE)

    def unlock(done, _what):
        assert scene.peek(scene.dst + PAGE) == 2
        locked.flags &= ~PG_locked
        assert done()

    scene.kernel.machine.waiter = unlock
    counts = issued(
        scene.kernel, lambda: scene.fd.move(scene.dst, scene.src, scene.length)
    )
    assert counts.dsb["ish"] == (4 if version == BEFORE else 2)
    audit(scene.kernel)


@VERSIONS
def test_a_locked_page_that_nobody_unlocks_blocks(version):
    """Where nobody else runs, the sleep for a page is an error that says so."""
    scene = Scene(version, "L")
    with pytest.raises(StuckError, match="lock of folio"):
        scene.fd.move(scene.dst, scene.src, PAGE)
    assert not scene.process.mm.mmap_lock.readers
    assert scene.process.mm.users == 1


def meanwhile(scene, pfn, entry):
    """Let the page that migrates be unlocked by others, who store *entry* for it."""
    folio = scene.kernel.page_alloc.folio_of(pfn)

    def others(done, _what):
        scene.set_pte(scene.src, entry)
        folio.flags &= ~PG_locked
        assert done()

    scene.kernel.machine.waiter = others


@VERSIONS
def test_a_migrating_page_is_waited_for(version):
    """A page on its way to another frame is tried again once it is there."""
    scene = Scene(version, "g")
    with pytest.raises(StuckError, match="migration"):
        scene.fd.move(scene.dst, scene.src, PAGE)
    pfn = migration_entry_pfn(pte_to_swp_entry(scene.pte(scene.src)))
    vma = scene.kernel.vma.vma_lookup(scene.process.mm, scene.src)
    meanwhile(scene, pfn, scene.kernel.pgtable.pfn_pte(pfn, vma.page_prot))
    done = answer(lambda: scene.fd.move(scene.dst, scene.src, PAGE))
    # The batching kernel takes the success of a second try for a failure.
    assert done == (("EEXIST", -17) if version == AFTER else ("", PAGE))
    assert scene.peek(scene.dst) == 1
    audit(scene.kernel)


# -- what a moved page looks like ------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize(("letter", "dirty"), [("p", True), ("c", False), ("u", True)])
def test_t3_10_the_new_entry_is_made_anew(version, letter, dirty):
    """T3.10: writable, young, dirty exactly if the old one was, and never protected."""
    scene = Scene(version, letter * 3)
    scene.fd.move(scene.dst, scene.src, scene.length)
    for page in range(3):
        pte = scene.pte(scene.dst + page * PAGE)
        assert pte_write(pte)
        assert pte_young(pte)
        assert pte_dirty(pte) == dirty
        assert not pte_uffd_wp(pte)


@VERSIONS
def test_a_moved_page_is_found_where_it_is(version):
    """Its anon_vma and its index are those of the destination afterwards."""
    scene = Scene(version, "ppp")
    folios = [scene.folio(scene.src + page * PAGE) for page in range(3)]
    scene.fd.move(scene.dst, scene.src, scene.length)
    vma = scene.kernel.vma.vma_lookup(scene.process.mm, scene.dst)
    for page, folio in enumerate(folios):
        assert folio.mapping is vma.anon_vma
        assert folio.index == (scene.dst >> 12) + page
        assert (folio.mapcount, folio.flags & PG_locked) == (1, 0)


@VERSIONS
def test_t3_8_no_tlb_reaches_a_moved_page_by_its_old_address(version):
    """T3.8: when the call returns, what every CPU held of the source is gone."""
    scene = Scene(version, "pzcp" * 4)
    scene.read_all()
    assert all(
        stale(scene.kernel, scene.process, cpu, scene.src) for cpu in range(scene.cpus)
    )
    scene.fd.move(scene.dst, scene.src, scene.length)
    for at in range(scene.src, scene.src + scene.length, PAGE):
        for cpu in range(scene.cpus):
            assert stale(scene.kernel, scene.process, cpu, at) is None
    audit(scene.kernel)


@pytest.mark.parametrize(("version", "reached"), [(BEFORE, False), (AFTER, True)])
def test_both_addresses_lead_to_a_page_until_the_run_is_flushed(version, reached):
    """The old kernel flushes a page before it has a new address, the new one after.

    Then another CPU can read it by both. The tables stay locked all the while.
    """
    scene = Scene(version, "pp")
    scene.read_all()
    seen = []
    other = scene.kernel.machine.cpu(1)

    def look(event):
        if event.kind == "tlbi":
            seen.append((other.read(scene.src), other.read(scene.dst)))
            pmdp = scene.kernel.pgtable.find_pmd(scene.process.mm, scene.src)
            ptl = scene.kernel.memory.pte_lockptr(scene.kernel.pgtable.read(pmdp))
            assert ptl.held

    hear(scene.kernel, ["tlbi"], look)
    scene.fd.move(scene.dst, scene.src, scene.length)
    assert seen[0][0] == 1
    assert (seen[0][1] == 1) == reached
    assert len(seen) == (1 if reached else 2)


# -- others act meanwhile --------------------------------------------------------------


def dirtied_once(scene, address, number=3):
    """Let another CPU write to a clean page once a PTE lock is taken *number* times."""
    other = scene.kernel.machine.cpu(1)
    done: list[Event] = []

    def write(event):
        table = isinstance(event.what, SpinLock) and event.what.name.startswith("PTE")
        if table and event.new == "acquired" and len(done) < number:
            done.append(event)
            if len(done) == number:  # the first two were taken to read the entries
                assert other.write(address, 77) is None

    hear(scene.kernel, ["lock"], write)
    return done


@pytest.mark.parametrize(
    ("version", "answer"),
    [(BEFORE, PAGE), (AFTER, ("EEXIST", -17)), (FIXED, PAGE)],
)
def test_t3_9_a_page_that_was_tried_twice(version, answer):
    """T3.9: after EAGAIN and success the batching kernel forgets that the page moved.

    A CPU whose hardware marks the page dirty between two looks at its entry is enough.
    The data has moved all the same.
    """
    scene = Scene(version, "c")
    scene.read_all()
    done = dirtied_once(scene, scene.src)
    try:
        given_back = scene.fd.move(scene.dst, scene.src, PAGE)
    except SystemCallError as error:
        given_back = (error.errno, error.detail)
    assert len(done) == 3
    assert given_back == answer
    assert scene.peek(scene.dst) == 77
    assert pte_dirty(scene.pte(scene.dst))
    assert pte_none(scene.pte(scene.src))


@pytest.mark.parametrize("version", [BEFORE, FIXED])
@pytest.mark.parametrize("number", [3, 4, 5])
def test_an_entry_may_change_at_any_time(version, number):
    """Before the page is taken or after, a changed entry only costs another try."""
    scene = Scene(version, "cp")
    scene.read_all()
    dirtied_once(scene, scene.src, number)
    assert scene.fd.move(scene.dst, scene.src, scene.length) == scene.length
    assert scene.peek(scene.dst) == 77
    audit(scene.kernel)


@pytest.mark.parametrize("version", [BEFORE, FIXED])
def test_a_page_may_change_while_its_lock_is_slept_for(version):
    """A page that was written while the call slept is looked at anew."""
    scene = Scene(version, "c")
    scene.read_all()
    folio = scene.folio(scene.src)
    folio.flags |= PG_locked

    def unlock(done, _what):
        assert scene.kernel.machine.cpu(1).write(scene.src, 77) is None
        folio.flags &= ~PG_locked
        assert done()

    scene.kernel.machine.waiter = unlock
    assert scene.fd.move(scene.dst, scene.src, PAGE) == PAGE
    assert scene.peek(scene.dst) == 77
    audit(scene.kernel)


@pytest.mark.parametrize("version", [BEFORE, FIXED])
def test_a_page_tried_twice_within_a_run(version):
    """A run goes on after a page that had to be tried again."""
    scene = Scene(version, "cppp")
    scene.read_all()
    dirtied_once(scene, scene.src)
    assert scene.fd.move(scene.dst, scene.src, scene.length) == scene.length


@pytest.mark.parametrize("version", [AFTER, FIXED])
def test_a_forgotten_success_can_make_the_call_endless(version):
    """If what is met after the forgotten success is a hole that counts, nothing ends.

    The hole is moved again and again, from the same place to the same place.
    """
    scene = Scene(version, "g")
    pfn = migration_entry_pfn(pte_to_swp_entry(scene.pte(scene.src)))
    meanwhile(scene, pfn, 0)
    request = scene.dst, scene.src, PAGE
    if version == AFTER:
        with pytest.raises(MoveLivelockError, match="never returns"):
            scene.fd.move(*request, allow_src_holes=True)
    else:
        assert scene.fd.move(*request, allow_src_holes=True) == PAGE


@pytest.mark.parametrize(("version", "flushes"), [(BEFORE, 1), (AFTER, 0), (FIXED, 0)])
def test_a_first_page_that_is_pinned_while_it_is_cleared(version, flushes):
    """Its entry is put back bit by bit; only the old kernel has flushed by then."""
    scene = Scene(version, "pp")
    pte, folio = scene.pte(scene.src), scene.folio(scene.src)

    def pin(event):
        if event.why == "ptep_get_and_clear" and not folio.maybe_dma_pinned():
            scene.kernel.gup.try_grab_folio(folio)

    hear(scene.kernel, ["store"], pin)
    answers = []
    counts = issued(
        scene.kernel,
        lambda: answers.append(
            refused(lambda: scene.fd.move(scene.dst, scene.src, scene.length))
        ),
    )
    assert answers == [("EBUSY", -16)]
    assert counts.dsb["ish"] == flushes
    assert scene.pte(scene.src) == pte
    assert not folio.flags & PG_locked
    audit(scene.kernel)


@pytest.mark.parametrize("version", [AFTER, FIXED])
def test_a_later_page_that_is_pinned_while_it_is_cleared(version):
    """Those before it are flushed and counted; it is put back, and EBUSY comes next."""
    scene = Scene(version, "ppp")
    scene.read_all()
    pte, folio = scene.pte(scene.src + PAGE), scene.folio(scene.src + PAGE)

    def pin(event):
        cleared = event.why == "ptep_get_and_clear" and event.old == pte
        if cleared and not folio.maybe_dma_pinned():
            scene.kernel.gup.try_grab_folio(folio)

    hear(scene.kernel, ["store"], pin)
    assert refused(lambda: scene.fd.move(scene.dst, scene.src, scene.length)) == (
        "EAGAIN",
        PAGE,
    )
    assert scene.pte(scene.src + PAGE) == pte
    audit(scene.kernel)


@VERSIONS
def test_a_killed_process_stops_after_a_run(version):
    """SIGKILL ends the call with EINTR; what moved last is not counted, nobody asks."""
    scene = Scene(version, "zzzz")
    scene.process.kill()
    request = scene.dst, scene.src, scene.length
    assert refused(lambda: scene.fd.move(*request)) == ("EINTR", -4)
    assert pte_none(scene.pte(scene.src))
    assert not pte_none(scene.pte(scene.src + PAGE))
    audit(scene.kernel)


@VERSIONS
def test_a_real_error_is_not_hidden_by_a_signal(version):
    """A process that is to die still learns EEXIST: the signal overrides no error."""
    scene = Scene(version, "p", "p")
    scene.process.kill()
    assert refused(lambda: scene.fd.move(scene.dst, scene.src, PAGE)) == ("EEXIST", -17)


# -- locks -----------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("back", [False, True])
def test_two_tables_are_locked_by_address(version, back):
    """Of two tables the lower is locked first, whichever the source is."""
    scene = Scene(version, "pp", "..")
    if back:
        scene.fd.move(scene.dst, scene.src, scene.length)
        scene.fd.register(scene.src, scene.length)
        scene.src, scene.dst = scene.dst, scene.src
    held: list[SpinLock] = []
    pairs = []

    def follow(event):
        if not isinstance(event.what, SpinLock):
            return
        if event.new == "released":
            held.remove(event.what)
            return
        held.append(event.what)
        if len(held) == 2:
            pairs.append(tuple(lock.address for lock in held))

    hear(scene.kernel, ["lock"], follow)
    scene.fd.move(scene.dst, scene.src, scene.length)
    assert len(pairs) == (2 if version == BEFORE else 1)
    assert all(first < second for first, second in pairs)
    assert not held


@VERSIONS
def test_what_is_locked_while_pages_move(version):
    """Both VMAs for reading, no mmap lock; before v6.19 the anon_vma for writing."""
    scene = Scene(version, "pp")
    mm = scene.process.mm
    areas = [scene.kernel.vma.vma_lookup(mm, at) for at in (scene.src, scene.dst)]
    anon_vma = scene.folio(scene.src).mapping
    running = scene.kernel.machine.cpus[0]
    looked = []

    def look(event):
        if event.why != "ptep_get_and_clear":
            return
        looked.append(event)
        assert all(vma.vm_lock.readers == [running] for vma in areas)
        held = running if version in ("v6.17", "pr350", "v6.18") else None
        assert anon_vma.root.lock.writer is held
        assert not mm.mmap_lock.readers
        assert mm.mmap_lock.writer is None

    hear(scene.kernel, ["store"], look)
    scene.fd.move(scene.dst, scene.src, scene.length)
    assert len(looked) == 2
    assert not any(vma.vm_lock.readers for vma in areas)
    assert anon_vma.root.lock.writer is None
    assert anon_vma.refcount == 1


@pytest.mark.parametrize(("version", "extra"), [(BEFORE, 1), (AFTER, 0)])
def test_who_keeps_a_page_while_it_moves(version, extra):
    """Old: a reference besides the page table's. New: it is dropped before the run."""
    scene = Scene(version, "p")
    scene.kernel.swap.lru_add_drain_all()
    folio = scene.folio(scene.src)
    references = []

    def look(event):
        if event.why == "ptep_get_and_clear":
            references.append(folio.refcount)

    hear(scene.kernel, ["store"], look)
    scene.fd.move(scene.dst, scene.src, PAGE)
    assert references == [1 + extra]
    assert folio.refcount == 1


@VERSIONS
def test_no_table_is_made_to_find_nothing(version):
    """Without ALLOW_SRC_HOLES a source without tables is left so; with it, not."""
    scene = Scene(version, "")
    mm = scene.process.mm
    for holes in (False, True):
        empty = scene.process.mmap(BLOCK, addr=(2 + holes) << 40, fixed=True)
        scene.process.read(scene.src)
        scene.fd.zeropage(scene.dst + (2 + holes) * PAGE, PAGE)
        before = list(mm.pgtables)
        request = scene.dst, empty, PAGE
        done = answer(lambda r=request, h=holes: scene.fd.move(*r, allow_src_holes=h))
        assert done == (("", PAGE) if holes else ("ENOENT", -2))
        assert (mm.pgtables != before) == holes
    # A table of tables alone, without the last one.
    scene.process.mmap(2 * BLOCK, addr=5 << 40, fixed=True)
    scene.process.read((5 << 40) + BLOCK)
    before = list(mm.pgtables)
    request = scene.dst + PAGE, 5 << 40, PAGE
    assert refused(lambda: scene.fd.move(*request)) == ("ENOENT", -2)
    assert mm.pgtables == before


@VERSIONS
def test_one_area_is_locked_once(version):
    """Source and destination may be in one area."""
    scene = Scene(version, "pp..")
    scene.fd.register(scene.src, scene.length)
    assert scene.fd.move(scene.src + 2 * PAGE, scene.src, 2 * PAGE) == 2 * PAGE
    assert [scene.peek(scene.src + page * PAGE) for page in (2, 3)] == [1, 2]
    vma = scene.kernel.vma.vma_lookup(scene.process.mm, scene.src)
    assert not vma.vm_lock.readers


@VERSIONS
@pytest.mark.parametrize("changed", ["src", "dst"])
@pytest.mark.parametrize("gone", [False, True])
def test_an_area_that_is_being_changed_is_locked_with_the_mmap_lock(
    version, changed, gone
):
    """If the try fails, both are locked under the lock that keeps changers out.

    By then either may be gone.
    """
    scene = Scene(version, "p")
    mm = scene.process.mm
    areas = [scene.kernel.vma.vma_lookup(mm, at) for at in (scene.src, scene.dst)]
    mm.mmap_lock.sequence += 1
    mm.mmap_lock.writer = scene.kernel.machine.cpus[1]
    area = areas[changed == "dst"]
    area.vm_lock_seq = mm.mmap_lock.sequence

    def finish(done, what):
        assert what == "mmap_lock"
        assert not any(vma.vm_lock and vma.vm_lock.readers for vma in areas)
        if gone:
            mm.vmas.remove(area)
        mm.mmap_lock.writer = None
        assert done()

    scene.kernel.machine.waiter = finish
    done = answer(lambda: scene.fd.move(scene.dst, scene.src, PAGE))
    assert done == (("ENOENT", -2) if gone else ("", PAGE))
    assert not mm.mmap_lock.readers
    assert not any(vma.vm_lock and vma.vm_lock.readers for vma in areas)


@VERSIONS
def test_a_locked_anon_vma_is_slept_for(version):
    """Somebody walks the anon_vma: the call lets go of the tables and sleeps."""
    scene = Scene(version, "pp")
    lock = scene.folio(scene.src).mapping.root.lock
    reader = scene.kernel.machine.cpus[1]
    lock.readers.append(reader)

    def finish(done, what):
        assert what == "anon_vma"
        lock.readers.remove(reader)
        assert done()

    scene.kernel.machine.waiter = finish
    assert scene.fd.move(scene.dst, scene.src, scene.length) == scene.length
    assert lock.writer is None


# -- what is refused, and in which order -----------------------------------------------


@VERSIONS
def test_move_errors_come_in_the_order_of_the_kernel(version):
    """Of two faults of a request, the one that the kernel tests first is reported."""
    scene = Scene(version, "pppp", "....")
    move, src, dst, page = scene.fd.move, scene.src, scene.dst, PAGE
    top = scene.kernel.pgtable.task_size
    hole = scene.process.mmap(page)
    scene.process.munmap(hole, page)

    scene.fd.ctx.mmap_changing = 1  # before even the arguments are looked at
    assert refused(lambda: move(dst + 1, src, page)) == ("EAGAIN", -11)
    scene.fd.ctx.mmap_changing = 0
    for bad in ((dst + 1, src, page), (dst, src + 1, page), (dst, src, 0)):
        assert refused(lambda bad=bad: move(*bad)) == ("EINVAL", None)
    for bad in ((dst, src, 1), (top, src, page), (dst, top - page, 2 * page)):
        assert refused(lambda bad=bad: move(*bad)) == ("EINVAL", None)
    # No area, before any question about the other one.
    assert refused(lambda: move(hole, hole, page)) == ("ENOENT", -2)
    assert refused(lambda: move(dst, hole, page)) == ("ENOENT", -2)
    assert refused(lambda: move(dst, src, 1 << 23)) == ("EINVAL", -22)
    # A destination that nobody watches, or somebody else does.
    assert refused(lambda: move(src + 2 * page, src, page)) == ("EINVAL", -22)
    other = scene.process.userfaultfd()
    assert refused(lambda: other.move(dst, src, page)) == ("EINVAL", -22)


@VERSIONS
@pytest.mark.parametrize("flag", [VM_LOCKED, VM_PFNMAP])
@pytest.mark.parametrize("side", ["src", "dst"])
def test_move_wants_areas_that_are_alike(version, flag, side):
    """Locked on one side only, or of pages that are not counted, is EINVAL."""
    scene = Scene(version, "p")
    vma = scene.kernel.vma.vma_lookup(scene.process.mm, getattr(scene, side))
    vma.flags |= flag
    assert refused(lambda: scene.fd.move(scene.dst, scene.src, PAGE)) == (
        "EINVAL",
        -22,
    )


@VERSIONS
@pytest.mark.parametrize("prot", ["r", "rwx", "none"])
@pytest.mark.parametrize("both", [False, True])
def test_move_wants_equal_rights_and_writable_pages(version, prot, both):
    """Rights that differ are EINVAL; so are equal ones without write permission."""
    scene = Scene(version, "p")
    scene.process.mprotect(scene.src, PAGE, prot)
    if both:
        scene.process.mprotect(scene.dst, PAGE, prot)
    if both and prot == "rwx":
        assert scene.fd.move(scene.dst, scene.src, PAGE) == PAGE
        return
    assert refused(lambda: scene.fd.move(scene.dst, scene.src, PAGE)) == (
        "EINVAL",
        -22,
    )


@VERSIONS
def test_move_wants_private_memory(version):
    """Shared memory moves neither from nor to anywhere."""
    scene = Scene(version, "p")
    shared = scene.process.mmap(PAGE, shared=True)
    assert refused(lambda: scene.fd.move(scene.dst, shared, PAGE)) == ("EINVAL", -22)
    assert refused(lambda: scene.fd.move(shared, scene.src, PAGE)) == ("EINVAL", -22)


@VERSIONS
def test_move_is_within_one_process_that_lives(version):
    """In another process's hands it moves nothing, of a dead process nothing at all."""
    scene = Scene(version, "pp")
    stranger = scene.kernel.spawn()
    there = scene.fd.used_by(stranger)
    assert refused(lambda: there.move(scene.dst, scene.src, PAGE)) == ("EINVAL", None)
    mm = scene.process.mm
    scene.process.exit()
    stranger._mm = mm
    assert refused(lambda: there.move(scene.dst, scene.src, PAGE)) == ("ESRCH", None)


@VERSIONS
def test_the_layout_may_begin_to_change_after_the_first_look(version):
    """The second look is under the lock; its EAGAIN is the same."""
    scene = Scene(version, "p")

    def change(event):
        if event.what is scene.fd.ctx.map_changing_lock and event.new == "read":
            scene.fd.ctx.mmap_changing = 1

    hear(scene.kernel, ["lock"], change)
    assert refused(lambda: scene.fd.move(scene.dst, scene.src, PAGE)) == (
        "EAGAIN",
        -11,
    )


# -- without memory --------------------------------------------------------------------


def fail_at(kernel, number):
    """Let the allocation *number*, from 0, and all after it fail; count them."""
    asked: list[None] = []

    def fail():
        asked.append(None)
        return len(asked) > number

    kernel.page_alloc.fail = fail
    return asked


@VERSIONS
def test_an_allocation_that_fails_loses_nothing(version):
    """Whichever allocation fails, what moved has moved, and the rest is where it was.

    The destination is in a part of the address space that has no tables yet.
    """
    for number in range(6):
        scene = Scene(version, "p" * 6, gap=510)
        far = scene.process.mmap(1 << 22, addr=1 << 40, fixed=True)
        scene.fd.register(far, 1 << 22)
        dst = far + (1 << 21) - 3 * PAGE  # the last three pages of one table
        before = sorted(
            filter(None, (scene.peek(scene.src + p * PAGE) for p in range(6)))
        )
        asked = fail_at(scene.kernel, number)
        errno, moved = answer(lambda s=scene, d=dst: s.fd.move(d, s.src, 6 * PAGE))
        assert errno in {"", "EAGAIN"} if moved > 0 else errno == "ENOMEM"
        moved = max(moved, 0)
        scene.kernel.page_alloc.fail = None
        assert moved in {0, 3 * PAGE, 6 * PAGE}
        values = [scene.peek(scene.src + at) for at in range(moved, 6 * PAGE, PAGE)]
        values += [scene.peek(dst + at) for at in range(0, moved, PAGE)]
        assert sorted(values) == before
        audit(scene.kernel)
        check_end(scene.kernel)
        if len(asked) <= number:
            break
    assert moved == 6 * PAGE
    assert number > 2


@VERSIONS
@pytest.mark.parametrize("request_name", ["copy", "zeropage"])
def test_a_fill_that_fails_loses_nothing(version, request_name):
    """COPY and ZEROPAGE end at the allocation that fails and count what they did."""
    for number in range(9):
        scene = Scene(version, "pppp")
        far = scene.process.mmap(1 << 22, addr=1 << 40, fixed=True)
        scene.fd.register(far, 1 << 22)
        dst = far + (1 << 21) - 2 * PAGE
        asked = fail_at(scene.kernel, number)
        source = (scene.src,) if request_name == "copy" else ()
        request = getattr(scene.fd, request_name)
        errno, done = answer(lambda r=request, a=(dst, *source, 4 * PAGE): r(*a))
        assert errno in {"", "EAGAIN"} if done > 0 else errno == "ENOMEM"
        scene.kernel.page_alloc.fail = None
        audit(scene.kernel)
        check_end(scene.kernel)
        if len(asked) <= number:
            break
    assert done == 4 * PAGE


# -- COPY and ZEROPAGE -----------------------------------------------------------------


@VERSIONS
def test_copy_makes_pages_of_one_s_own(version):
    """A copied page is dirty, writable and exclusive; nothing is flushed."""
    scene = Scene(version, "pp")
    counts = issued(
        scene.kernel, lambda: scene.fd.copy(scene.dst, scene.src, scene.length)
    )
    assert counts.tlbi == {}
    for page in range(2):
        pte = scene.pte(scene.dst + page * PAGE)
        assert pte_write(pte)
        assert pte_dirty(pte)
        folio = scene.folio(scene.dst + page * PAGE)
        assert folio.page_exclusive(folio.pfn)
        assert scene.process.read(scene.dst + page * PAGE) == page + 1
        assert scene.process.read(scene.src + page * PAGE) == page + 1
    audit(scene.kernel)
    check_end(scene.kernel)


def test_copy_reads_its_source_wherever_it_begins():
    """The source need not begin with a page."""
    scene = Scene(AFTER, "pp")
    scene.process.write(scene.src + PAGE - 8, 71)
    scene.process.write(scene.src + 8, 72)
    scene.fd.copy(scene.dst, scene.src + 8, PAGE)
    assert scene.process.read(scene.dst) == 72
    assert scene.process.read(scene.dst + PAGE - 16) == 71
    assert scene.process.read(scene.dst + PAGE - 8) == 2


def test_copy_faults_its_source_in():
    """A source page that is not there yet is faulted in without the area's lock."""
    scene = Scene(AFTER, "..")
    assert scene.fd.copy(scene.dst, scene.src, scene.length) == scene.length
    assert scene.process.read(scene.dst) == 0
    audit(scene.kernel)


def test_copy_of_nothing_is_efault():
    """A source that the process may not read ends the request, and frees its page."""
    scene = Scene(AFTER, "p")
    scene.process.mprotect(scene.src + 4 * PAGE, PAGE, "none")
    before = scene.src + 3 * PAGE
    scene.process.write(before, 5)
    bad = scene.src + 4 * PAGE
    assert refused(lambda: scene.fd.copy(scene.dst, bad, PAGE)) == ("EFAULT", -14)
    assert refused(lambda: scene.fd.copy(scene.dst, before, 2 * PAGE)) == (
        "EAGAIN",
        PAGE,
    )
    check_end(scene.kernel)


@VERSIONS
def test_fill_errors_come_in_the_order_of_the_kernel(version):
    """Layout, source range, destination range, mode, area, kind of area, entry."""
    scene = Scene(version, "pp", ".p")
    fd, src, dst, page = scene.fd, scene.src, scene.dst, PAGE
    fd.ctx.mmap_changing = 1
    assert refused(lambda: fd.copy(dst + 1, src, page)) == ("EAGAIN", -11)
    assert refused(lambda: fd.zeropage(dst + 1, page)) == ("EAGAIN", -11)
    fd.ctx.mmap_changing = 0
    assert refused(lambda: fd.copy(dst + 1, src, page)) == ("EINVAL", None)
    assert refused(lambda: fd.zeropage(dst + 1, page)) == ("EINVAL", None)
    assert refused(lambda: fd.copy(src, src, page)) == ("ENOENT", -2)
    plain = scene.process.userfaultfd()
    only = scene.process.mmap(page)
    plain.register(only, page)
    assert refused(lambda: plain.copy(only, src, page, wp=True)) == ("EINVAL", -22)
    assert refused(lambda: fd.copy(dst + page, src, page)) == ("EEXIST", -17)
    assert refused(lambda: fd.zeropage(dst, 2 * page)) == ("EAGAIN", page)
    mm = scene.process.mm
    scene.process.exit()
    stranger = scene.kernel.spawn()
    there = fd.used_by(stranger)
    assert mm.users == 0
    assert refused(lambda: there.zeropage(dst, page)) == ("ESRCH", None)


def test_zeropage_maps_the_one_zero_page():
    """It is read without a fault, and written by a copy."""
    scene = Scene(AFTER, "..")
    assert scene.fd.zeropage(scene.dst, 2 * PAGE) == 2 * PAGE
    assert scene.process.read(scene.dst) == 0
    scene.process.write(scene.dst, 3)
    assert scene.process.read(scene.dst + PAGE) == 0
    audit(scene.kernel)


@VERSIONS
def test_a_killed_process_stops_filling(version):
    """SIGKILL ends a fill after the page at hand, which counts."""
    scene = Scene(version, "pp")
    scene.process.kill()
    assert refused(lambda: scene.fd.copy(scene.dst, scene.src, 2 * PAGE)) == (
        "EAGAIN",
        PAGE,
    )
    assert refused(lambda: scene.fd.zeropage(scene.dst + PAGE, 2 * PAGE)) == (
        "EAGAIN",
        PAGE,
    )


def test_the_layout_may_begin_to_change_after_a_fill_s_first_look():
    """The second look is under the lock; its EAGAIN is the same."""
    scene = Scene(AFTER, "p")

    def change(event):
        if event.what is scene.fd.ctx.map_changing_lock and event.new == "read":
            scene.fd.ctx.mmap_changing = 1

    hear(scene.kernel, ["lock"], change)
    assert refused(lambda: scene.fd.zeropage(scene.dst, PAGE)) == ("EAGAIN", -11)
    scene.fd.ctx.mmap_changing = 0
    assert refused(lambda: scene.fd.writeprotect(scene.dst, PAGE))[0] == "EAGAIN"


def test_memory_that_is_only_noted_is_not_filled():
    """Files can be watched for writes with WP_ASYNC, and nothing else."""
    scene = Scene(AFTER, "p")
    fd = scene.process.userfaultfd("WP_ASYNC")
    file = scene.process.open("f", create=True)
    mapped = scene.process.mmap(PAGE, fd=file, shared=True)
    fd.register(mapped, PAGE, missing=False, wp=True)
    assert refused(lambda: fd.copy(mapped, scene.src, PAGE)) == ("EINVAL", -22)
    assert refused(lambda: fd.zeropage(mapped, PAGE)) == ("EINVAL", -22)
    with pytest.raises(InputError, match="multiple of 8"):
        fd.copy(mapped, scene.src + 1, PAGE)


# -- WRITEPROTECT ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "source", "protect", "flushes"),
    [
        # Rows 13 to 16 of the truth table, then a place without a page.
        (BEFORE, "p", True, 1),
        (AFTER, "p", True, 1),
        (BEFORE, "s", True, 1),
        (AFTER, "s", True, 0),
        (BEFORE, "s", False, 1),
        (AFTER, "s", False, 0),
        (BEFORE, "p", False, 1),
        (AFTER, "p", False, 1),
        (BEFORE, ".", True, 0),
        (AFTER, ".", True, 0),
    ],
)
def test_what_protecting_and_freeing_flushes(version, source, protect, flushes):
    """A page that was or becomes writable is flushed; a mark alone no longer is."""
    scene = Scene(version, "", source)
    if not protect:
        scene.fd.writeprotect(scene.dst, PAGE)
    counts = issued(
        scene.kernel, lambda: scene.fd.writeprotect(scene.dst, PAGE, protect=protect)
    )
    assert counts.dsb["ish"] == flushes
    pte = scene.pte(scene.dst)
    assert pte_uffd_wp(pte) == (protect and source != ".")
    assert pte_write(pte) == (source == "p" and not protect)


@VERSIONS
def test_freeing_pages_of_one_s_own_makes_them_writable_at_once(version):
    """No fault follows: what a fault would do is done already."""
    scene = Scene(version, "", "pppp")
    scene.fd.writeprotect(scene.dst, 4 * PAGE)
    scene.fd.writeprotect(scene.dst, 4 * PAGE, protect=False)

    def write():
        for page in range(4):
            scene.process.write(scene.dst + page * PAGE, page)

    assert not issued(scene.kernel, write).faults["permission"]


@VERSIONS
def test_writeprotect_errors_come_in_the_order_of_the_kernel(version):
    """Layout, range, mode, and then areas that are not watched for writes."""
    scene = Scene(version, "p")
    fd, dst = scene.fd, scene.dst
    fd.ctx.mmap_changing = 1
    assert refused(lambda: fd.writeprotect(dst + 1, PAGE)) == ("EAGAIN", None)
    fd.ctx.mmap_changing = 0
    assert refused(lambda: fd.writeprotect(dst + 1, PAGE))[0] == "EINVAL"
    assert refused(lambda: fd.writeprotect(dst, PAGE, dontwake=True))[0] == "EINVAL"
    assert refused(lambda: fd.writeprotect(scene.src, PAGE))[0] == "ENOENT"
    gone = scene.process.mmap(PAGE)
    scene.process.munmap(gone, PAGE)
    assert refused(lambda: fd.writeprotect(gone, PAGE))[0] == "ENOENT"


@VERSIONS
def test_markers_need_tables(version):
    """To protect what is not there needs tables; without memory for them: ENOMEM."""
    scene = Scene(version, "p")
    fd = scene.process.userfaultfd("WP_UNPOPULATED")
    area = scene.process.mmap(1 << 21, addr=1 << 40, fixed=True)
    fd.register(area, 1 << 21, missing=False, wp=True)
    fail_at(scene.kernel, 0)
    assert refused(lambda: fd.writeprotect(area, PAGE))[0] == "ENOMEM"
    scene.kernel.page_alloc.fail = None
    fd.writeprotect(area, PAGE)
    assert scene.pte(area)
    fd.writeprotect(area, PAGE, protect=False)
    assert not scene.pte(area)
    fd.writeprotect(area, PAGE)
    fd.close()
    assert not scene.pte(area)
    check_end(scene.kernel)


def test_a_marker_gives_way_to_a_copy_and_not_to_zeros():
    """COPY fills a place that is only marked; ZEROPAGE finds it occupied."""
    scene = Scene(AFTER, "p")
    fd = scene.process.userfaultfd("WP_UNPOPULATED")
    area = scene.process.mmap(2 * PAGE)
    fd.register(area, 2 * PAGE, missing=True, wp=True)
    fd.writeprotect(area, 2 * PAGE)
    assert refused(lambda: fd.zeropage(area, PAGE)) == ("EEXIST", -17)
    assert refused(lambda: fd.move(area, scene.src, PAGE)) == ("EEXIST", -17)
    assert fd.copy(area, scene.src, PAGE) == PAGE
    assert scene.process.read(area) == 1
    check_end(scene.kernel)


# -- blocks and other large folios -----------------------------------------------------


class Blocks:
    """A process with two blocks written, and room for three that is watched.

    Args:
        version: Name of the kernel.
        kib: Size of the folios that a write makes.
        written: Pages of the source that are written, each with its number and one.
    """

    def __init__(self, version, *, kib=2048, written=range(1024)):
        self.kernel = boot(version)
        self.huge = self.kernel.huge_memory
        self.huge.set_hugepages_enabled(kib, "always")
        self.process = self.kernel.spawn()
        self.src = self.process.mmap(2 * BLOCK)
        self.dst = self.process.mmap(3 * BLOCK)
        for page in written:
            self.process.write(self.src + page * PAGE, page + 1, cpu=page % 4)
        self.fd = self.process.userfaultfd()
        self.fd.register(self.dst, 3 * BLOCK)

    def pmd(self, address):
        """The PMD entry of an address."""
        pgtable = self.kernel.pgtable
        return pgtable.read(pgtable.find_pmd(self.process.mm, address))

    def folio(self, address):
        """The folio that a block or page entry maps at an address."""
        pgtable = self.kernel.pgtable
        entry = self.pmd(address)
        if pmd_table(entry):
            entry = pgtable.read(pgtable.find_pte(self.process.mm, address))
        return self.kernel.page_alloc.folio_of(pgtable.pte_pfn(entry))

    def values(self, base, pages):
        """What the first words of *pages* pages are, as read by the process."""
        return [self.process.read(base + page * PAGE) for page in range(pages)]


@VERSIONS
def test_t3_7_an_aligned_block_moves_whole(version):
    """T3.7: both aligned and all of it asked for: one flush for the block, no split."""
    blocks = Blocks(version)
    folio = blocks.folio(blocks.src)
    answers = []
    counts = issued(
        blocks.kernel,
        lambda: answers.append(blocks.fd.move(blocks.dst, blocks.src, 2 * BLOCK)),
    )
    assert answers == [2 * BLOCK]
    assert counts.tlbi == {"RVAE1IS": 2}
    assert counts.dsb == {"ishst": 2, "ish": 2}
    assert pmd_trans_huge(blocks.pmd(blocks.dst))
    assert blocks.folio(blocks.dst) is folio
    assert blocks.values(blocks.dst, 1024) == list(range(1, 1025))
    audit(blocks.kernel)
    check_end(blocks.kernel)


@VERSIONS
@pytest.mark.parametrize(
    ("to", "at", "pages"), [(1, 0, 512), (0, 1, 511), (0, 0, 16), (3, 5, 700)]
)
def test_t3_7_a_block_that_cannot_move_whole_is_split(version, to, at, pages):
    """T3.7: a misaligned or partial block is split, page by page; never an error."""
    blocks = Blocks(version)
    request = blocks.dst + to * PAGE, blocks.src + at * PAGE, pages * PAGE
    assert blocks.fd.move(*request) == pages * PAGE
    assert not pmd_trans_huge(blocks.pmd(blocks.src))
    assert blocks.folio(blocks.dst + to * PAGE).order == 0
    expected = list(range(at + 1, at + pages + 1))
    assert blocks.values(blocks.dst + to * PAGE, pages) == expected
    left = blocks.values(blocks.src, 1024)
    expected = [0 if at <= page < at + pages else page + 1 for page in range(1024)]
    assert left == expected
    audit(blocks.kernel)
    check_end(blocks.kernel)


@VERSIONS
def test_a_block_is_split_if_there_is_a_table_already(version):
    """A destination that once had a page keeps its table: no block can go there."""
    blocks = Blocks(version)
    blocks.fd.zeropage(blocks.dst + PAGE, PAGE)
    request = blocks.dst, blocks.src, BLOCK
    assert refused(lambda: blocks.fd.move(*request)) == ("EAGAIN", PAGE)
    assert not pmd_trans_huge(blocks.pmd(blocks.src))
    audit(blocks.kernel)


@VERSIONS
@pytest.mark.parametrize("to", [0, 1])
@pytest.mark.parametrize("why", ["shared", "occupied"])
def test_a_block_that_must_not_move(version, to, why):
    """Shared with a child it is EBUSY, split or not; a block in the way is EEXIST."""
    blocks = Blocks(version)
    if why == "shared":
        child = blocks.process.fork()
        assert child.read(blocks.src) == 1
    else:
        blocks.fd.move(blocks.dst, blocks.src + BLOCK, BLOCK)
    before = blocks.pmd(blocks.src)
    expected = ("EBUSY", -16) if why == "shared" else ("EEXIST", -17)
    request = blocks.dst + to * PAGE, blocks.src, BLOCK
    assert refused(lambda: blocks.fd.move(*request)) == expected
    assert blocks.pmd(blocks.src) == before
    audit(blocks.kernel)


@VERSIONS
def test_a_pinned_block(version):
    """Whole it is EBUSY. To move in parts it must be split, and cannot be.

    The call tries until somebody lets go of the pin, or kills the process.
    """
    blocks = Blocks(version)
    folio = blocks.folio(blocks.src)
    blocks.kernel.gup.try_grab_folio(folio)
    assert refused(lambda: blocks.fd.move(blocks.dst, blocks.src, BLOCK)) == (
        "EBUSY",
        -16,
    )
    with pytest.raises(MoveLivelockError):
        blocks.fd.move(blocks.dst, blocks.src, PAGE)
    blocks.process.kill()
    assert refused(lambda: blocks.fd.move(blocks.dst, blocks.src, PAGE)) == (
        "EINTR",
        -4,
    )
    audit(blocks.kernel)
    blocks.kernel.gup.unpin_user_page(folio)
    check_end(blocks.kernel)


def test_a_block_of_zeros_moves_whole_and_in_parts():
    """Zeros belong to nobody: they move as a block, and split into zero pages.

    Since fae654083bfa, that is; before it the whole block went to a frame of no memory.
    """
    blocks = Blocks("fixed", written=())
    assert [blocks.process.read(blocks.src + at) for at in (0, BLOCK)] == [0, 0]
    assert blocks.huge.is_huge_zero_pmd(blocks.pmd(blocks.src))
    assert blocks.fd.move(blocks.dst, blocks.src, BLOCK) == BLOCK
    assert blocks.huge.is_huge_zero_pmd(blocks.pmd(blocks.dst))
    for fill in (blocks.fd.zeropage, blocks.fd.writeprotect):
        expected = "EEXIST" if fill == blocks.fd.zeropage else "ENOENT"
        assert refused(lambda fill=fill: fill(blocks.dst, PAGE))[0] == expected
    to, at = blocks.dst + BLOCK, blocks.src + BLOCK
    assert blocks.fd.move(to + PAGE, at, 3 * PAGE) == 3 * PAGE
    assert blocks.values(to + PAGE, 3) == [0, 0, 0]
    assert not pmd_trans_huge(blocks.pmd(at))
    audit(blocks.kernel)


@VERSIONS
def test_a_locked_large_folio_is_waited_for_without_a_reference(version):
    """A reference would keep its owner from splitting it; the kernel tries again."""
    blocks = Blocks(version, kib=64)
    folio = blocks.folio(blocks.src)
    assert folio.order == 4
    folio.flags |= PG_locked
    references = folio.refcount

    def unlock(done, _what):
        assert folio.refcount == references
        folio.flags &= ~PG_locked
        assert done()

    blocks.kernel.machine.waiter = unlock
    if version == AFTER:  # tried again: its success is taken for a failure
        assert refused(lambda: blocks.fd.move(blocks.dst, blocks.src, PAGE)) == (
            "EEXIST",
            -17,
        )
    else:
        assert blocks.fd.move(blocks.dst, blocks.src, PAGE) == PAGE
    audit(blocks.kernel)


@pytest.mark.parametrize("kib", [64, 2048])
@settings(max_examples=6, deadline=None)
@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 16, 512, 513, 700]),
            st.sampled_from([0, 3, 16, 512, 600]),
            st.sampled_from([1, 16, 40, 512, 530]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_both_ways_move_large_folios_the_same(kib, moves):
    """Also of large folios old and new kernel move the same, whole or in parts."""
    outcomes = []
    for version in (BEFORE, AFTER):
        blocks = Blocks(version, kib=kib, written=range(0, 1024, 2))
        answers = []
        for to, at, pages in moves:
            request = blocks.dst + to * PAGE, blocks.src + at * PAGE, pages * PAGE
            answers.append(
                answer(lambda blocks=blocks, request=request: blocks.fd.move(*request))
            )
            audit(blocks.kernel)
        blocks.fd.close()
        values = blocks.values(blocks.src, 1024) + blocks.values(blocks.dst, 1536)
        outcomes.append((answers, values))
        check_end(blocks.kernel)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("shared", [False, True])
def test_protection_taken_back_makes_private_memory_writable_only(shared):
    """A shared VMA that is watched maps read-only from the start, and stays so."""
    kernel = boot(cpus=1)
    process = kernel.spawn()
    base = process.mmap(PAGE, shared=shared)
    uffd = process.userfaultfd("SIGBUS", "PAGEFAULT_FLAG_WP")
    uffd.register(base, PAGE, missing=False, wp=True)
    process.write(base, 1)
    counts = issued(kernel, lambda: uffd.writeprotect(base, PAGE, protect=False))
    pte = kernel.pgtable.read(kernel.pgtable.find_pte(process.mm, base))
    assert pte_write(pte) == (not shared)
    assert counts.tlbi == ({"VALE1IS": 1} if shared else {})
