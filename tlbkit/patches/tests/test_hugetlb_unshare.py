"""Unsharing before, as pushed, by halves, and fixed: interrupts, flushes, mistakes."""

from dataclasses import replace

import pytest

from tlbkit.arm64.machine import Machine
from tlbkit.linux.kernel import kernel as linux
from tlbkit.linux.kernel.config import ARM64
from tlbkit.linux.kernel.locking import LockError
from tlbkit.linux.mm.hugetlb import Hugetlb
from tlbkit.linux.mm.mempolicy import MPOL_MF_MOVE_ALL
from tlbkit.linux.mm.mmu_gather import Gather
from tlbkit.linux.tests import huge_pages
from tlbkit.linux.tests.huge_pages import BASE, GIB, HUGE, end_all
from tlbkit.linux.tests.support import boot, issued, stale
from tlbkit.observe.rules.rule import RuleBrokenError

ELSEWHERE = (1 << 44) + HUGE


class Sharers(huge_pages.Sharers):
    """Sharers on kernels that break the rules, where they unshare by leaves alone."""

    def __init__(self, version, users, blocks=1, **machine):
        machine.setdefault("rules", version == "fixed")
        super().__init__(version, users, blocks, **machine)


def leave(scene, user, how):
    """Make *user* unshare all its tables in one way; what that issued."""
    length = scene.length
    acts = {
        "munmap": lambda: user.munmap(BASE, length),
        "exit": user.exit,
        "dontneed": lambda: user.madvise(BASE, length, "dontneed"),
        "mprotect": lambda: user.mprotect(BASE, length, "r"),
        "mremap": lambda: user.mremap(
            BASE, length, length, maymove=True, fixed=True, new_address=ELSEWHERE
        ),
        "uffd": lambda: user.userfaultfd().register(
            BASE, length, missing=False, wp=True
        ),
    }
    return issued(scene.kernel, acts[how])


HOWS = ("munmap", "exit", "dontneed", "mprotect", "mremap", "uffd")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("users", [2, 3, 5])
@pytest.mark.parametrize("blocks", [1, 2, 9])
def test_one_leaver(how, users, blocks):
    """Before, an IPI for each table; after one at most, if a single user is left."""
    sent = [
        leave(scene, scene.users[0], how).ipi_broadcasts
        for scene in (
            Sharers("v6.17", users, blocks, cpus=6),
            Sharers("v6.19", users, blocks, cpus=6),
        )
    ]
    assert sent == [blocks, int(users == 2)]


@pytest.mark.parametrize("version", ["v6.17", "pr350", "v6.19", "fixed"])
@pytest.mark.parametrize("how", ["munmap", "exit"])
def test_a_single_user_sends_none(version, how):
    """Who shares with nobody clears entries, frees tables, and interrupts nobody."""
    scene = Sharers(version, users=1, blocks=2)
    assert leave(scene, scene.users[0], how).ipi_broadcasts == 0
    end_all(scene.kernel)


@pytest.mark.parametrize("how", ["munmap", "exit"])
@pytest.mark.parametrize("users", [2, 3, 5])
def test_all_leave_in_turn(how, users):
    """T(P-1) broadcasts before and one after, for P processes and T tables."""
    totals = []
    for version in ("v6.17", "v6.19"):
        scene = Sharers(version, users, 9, cpus=8)
        counts = [leave(scene, user, how) for user in scene.users]
        totals.append(sum(c.ipi_broadcasts for c in counts))
        assert sum(c.ipi_cpus for c in counts) == 7 * totals[-1]
        end_all(scene.kernel)
    assert totals == [9 * (users - 1), 1]


@pytest.mark.parametrize("users", [2, 3])
@pytest.mark.parametrize("how", HOWS[:-1])
@pytest.mark.parametrize("version", ["v6.17", "v6.19", "fixed"])
def test_no_leaver_keeps_a_translation(version, how, users):
    """Whoever unshares has nothing of the block in any TLB, last sharer or not."""
    scene = Sharers(version, users, 1, cpus=4)
    user = scene.users[0]
    for cpu in range(4):
        user.read(BASE, cpu=cpu)
    if how == "exit":
        return  # the ASID is not used again
    leave(scene, user, how)
    assert all(stale(scene.kernel, user, cpu, BASE) is None for cpu in range(4))


@pytest.mark.parametrize("users", [2, 3, 5])
@pytest.mark.parametrize("version", ["v6.17", "v6.19"])
def test_a_migration_unshares_all_but_one(version, users):
    """n-1 areas unshare and the last one clears: n-1 broadcasts before, one after."""
    scene = Sharers(version, users, 1)
    scene.kernel.hugetlb.set_max_huge_pages(513)
    counts = issued(
        scene.kernel, lambda: scene.users[0].mbind(BASE, HUGE, MPOL_MF_MOVE_ALL)
    )
    assert counts.ipi_broadcasts == (users - 1 if version == "v6.17" else 1)
    assert [user.read(BASE) for user in scene.users] == [0] * users


# -- mistakes that some tests do not see ----------------------------------------------


class OneLife(Gather):
    """The word that a table has a single user left goes with any flush."""

    def _reset_range(self, tlb):
        super()._reset_range(tlb)
        tlb.fully_unshared_tables = False


class Forgotten(Hugetlb):
    """Nobody settles what was unshared before the lock is released."""

    def huge_pmd_unshare_flush(self, tlb, vma):
        """Leave it to the end of the gather."""


def family_of(parts, users, *, debug_vm=False):
    """Sharers on the newest kernel with some parts replaced."""
    config = replace(ARM64, debug_vm=debug_vm)
    kernel = linux.Kernel(Machine(4), {**linux.PARTS, **parts}, config)
    kernel.hugetlb.set_max_huge_pages(512)
    first = kernel.spawn()
    first.mmap(GIB, addr=BASE, shared=True, hugetlb=True)
    family = [first, *(first.fork(cpu=n) for n in range(1, users))]
    for process in family:
        process.read(BASE)
    return kernel, family


@pytest.mark.parametrize("how", ["munmap", "exit"])
def test_a_flush_must_not_settle_the_interrupt(how):
    """If any flush cleared both flags, the flush before the IPI would lose the IPI."""
    for parts, sent in (({}, 1), ({"gather": OneLife}, 0)):
        kernel, (_, leaver) = family_of(parts, users=2)
        acts = {"munmap": lambda p=leaver: p.munmap(BASE, GIB), "exit": leaver.exit}
        assert issued(kernel, acts[how]).ipi_broadcasts == sent


@pytest.mark.parametrize(("users", "warned"), [(2, True), (3, False)])
def test_only_two_sharers_see_a_settlement_that_was_forgotten(users, warned):
    """The warning comes if a table has one user left, so three sharers hide it."""
    kernel, family = family_of({"hugetlb": Forgotten}, users, debug_vm=True)
    family[1].munmap(BASE, GIB)
    assert bool(kernel.panic.warnings) == warned


# -- which flush ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "blocks", "forms"),
    [
        ("neoverse-n1", 1, ["ASIDE1IS", "ASIDE1IS", "ASIDE1IS"]),
        ("neoverse-v2", 1, ["RVALE1IS", "RVALE1IS", "RVAE1IS"]),
        ("neoverse-v2", 8, ["RVALE1IS", "RVALE1IS", "RVAE1IS"]),
        ("neoverse-v2", 9, ["ASIDE1IS", "ASIDE1IS", "ASIDE1IS"]),
    ],
)
@pytest.mark.parametrize("users", [2, 3])
def test_leaf_only_where_the_flush_is_one_range(model, blocks, forms, users):
    """Only a range of 1 to 8 GiB on FEAT_TLBIRANGE is leaf-only, until it is fixed."""
    for version, form in zip(("v6.17", "v6.19", "fixed"), forms, strict=True):
        scene = Sharers(version, users, blocks, model=model, cpus=4)
        assert set(leave(scene, scene.users[1], "dontneed").tlbi) == {form}


@pytest.mark.parametrize(
    ("version", "flushed"), [("v6.17", 0), ("v6.19", 0), ("fixed", 1)]
)
def test_exit_flushes_for_unsharing_once_it_is_fixed(version, flushed):
    """A process that unshares while it exits flushes its ASID only since c2ff4764e03e.

    The other flush is that of the tables that it frees.
    """
    scene = Sharers(version, 2, 1)
    assert leave(scene, scene.users[1], "exit").tlbi["ASIDE1IS"] == 1 + flushed


def steal(version, users=2):
    """Let the stayer reuse the table, and read through a leaver's walk cache."""
    scene = Sharers(version, users, 1, cpus=4, rules=False)
    one, two = scene.users[:2]
    thread = two.thread(cpu=3)
    thread.read(BASE)
    for user in scene.users[1:]:
        user.madvise(BASE, GIB, "dontneed")
    one.munmap(BASE + HUGE, HUGE)
    one.mmap(HUGE, addr=BASE + HUGE, fixed=True)
    one.write(BASE + HUGE, 0x5EC)
    return thread.read(BASE + HUGE)


@pytest.mark.parametrize("users", [2, 3])
def test_the_walk_cache_leads_into_another_process(users):
    """Leaf-only flushes leave the way into a table that was given to another use."""
    assert steal("v6.17", users) == steal("v6.19", users) == 0x5EC
    assert steal("fixed", users) == 0


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("users", [2, 3])
def test_the_rules_hold_once_it_is_fixed(how, users):
    """Nobody who unshares leaves anything stale behind in the fixed kernel."""
    # With two blocks mremap would move tables to where they could be shared, and the
    # kernel would wait for itself: `test_moving_to_where_it_could_be_shared`.
    scene = Sharers("fixed", users, 1, cpus=4)
    for user in scene.users:
        for cpu in range(4):
            user.read(BASE, cpu=cpu)
    for user in scene.users:
        leave(scene, user, how)


def test_moving_to_where_it_could_be_shared():
    """A move of an exclusive table to a whole block asks for the lock that it holds.

    Derived from the code: huge_pte_alloc() looks for sharers under i_mmap_rwsem, which
    move_hugetlb_page_tables() has for writing.
    """
    scene = Sharers("fixed", 1, 2)
    with pytest.raises(LockError, match="self-deadlock"):
        leave(scene, scene.users[0], "mremap")


def test_the_rules_see_the_walk_cache():
    """Before, the sanitizer reports the way into the table that a CPU still has."""
    scene = Sharers("v6.19", 2, cpus=4, rules=True)

    def go():
        leave(scene, scene.users[1], "dontneed")
        scene.users[1].munmap(BASE, GIB)  # the last flush came after the last lock

    with pytest.raises(RuleBrokenError, match="stale-translation"):
        go()


# -- mprotect, and the misplaced line ------------------------------------------------


def protect(version, touched=(0,), pages=4, without=()):
    """Take write permission from huge pages; what was issued, and what is left."""
    kernel = boot(version, cpus=2, rules=False)
    kernel.hugetlb.set_max_huge_pages(pages)
    user = kernel.spawn()
    user.mmap(pages * HUGE, addr=BASE, shared=True, hugetlb=True)
    for page in touched:
        user.write(BASE + page * HUGE, 1, cpu=1)
    kernel.machine.taken_out = frozenset(without)
    counts = issued(kernel, lambda: user.mprotect(BASE, pages * HUGE, "r"))
    left = [
        page
        for page in touched
        if (entry := stale(kernel, user, 1, BASE + page * HUGE)) is not None
        and entry.leaf.permissions_dirty & 2
    ]
    return dict(counts.tlbi), left


def test_mprotect_pays_one_more_flush_of_the_asid():
    """Before one range flush with tables; after a leaf-only one, and the whole ASID."""
    assert protect("v6.17")[0] == {"RVAE1IS": 1}
    assert protect("v6.19")[0] == {"RVALE1IS": 1, "ASIDE1IS": 1}


def test_mprotect_of_nothing():
    """Without a present entry, before flushes the range and after the ASID."""
    assert protect("v6.17", touched=())[0] == {"RVAE1IS": 1}
    assert protect("v6.19", touched=())[0] == {"ASIDE1IS": 1}


@pytest.mark.parametrize("version", ["v6.17", "v6.19"])
def test_a_split_within_mprotect_unshares_in_a_gather_of_its_own(version):
    """To cut an area within a block flushes for the table that it shares no more."""
    scene = Sharers(version, users=1, cpus=2)
    counts = issued(scene.kernel, lambda: scene.users[0].mprotect(BASE, 4 * HUGE, "r"))
    before = {"RVAE1IS": 2}
    after = {"RVALE1IS": 1, "ASIDE1IS": 2}
    assert dict(counts.tlbi) == (before if version == "v6.17" else after)


def test_as_pushed_the_changed_entries_are_not_flushed_under_the_locks():
    """The range flush is missing, and the flush at the end of the gather hides it."""
    every = (0, 1, 2, 3)
    assert protect("v6.19", every)[0] == {"RVALE1IS": 1, "ASIDE1IS": 1}
    assert protect("pr350", every) == ({"ASIDE1IS": 1}, [])
    assert protect("pr350", (0,))[0] == {"RVALE1IS": 1, "ASIDE1IS": 1}, "empty ones"


def test_unmasked_the_misplaced_line_leaves_writable_entries():
    """Without the flush of nested gathers stale entries survive, in that form only."""
    without = ("tlbi ASIDE1IS in tlb_finish_mmu",)
    assert protect("v6.19", (0, 1, 2, 3), without=without)[1] == []
    assert protect("pr350", (0, 1, 2, 3), without=without)[1] == [0, 1, 2, 3]


# -- smaps, pagemap, mbind -----------------------------------------------------------


@pytest.mark.parametrize("users", [1, 2, 3])
def test_shared_huge_pages_in_smaps(users):
    """A page that a shared table maps is shared, since ca1a47cd3f5f."""
    for version, private in (("v6.17", True), ("v6.19", users == 1)):
        scene = Sharers(version, users)
        for user in scene.users:
            mm = user.mm
            mm.mmap_lock.down_read()
            stats = scene.kernel.task_mmu.smap_gather_stats(mm.vmas[1])
            words = scene.kernel.task_mmu.pagemap_read(mm, BASE, BASE + 8192)
            mm.mmap_lock.up_read()
            found = (stats.private_hugetlb, stats.shared_hugetlb)
            assert found == ((HUGE, 0) if private else (0, HUGE))
            assert [word >> 56 & 1 for word in words] == [int(private)] * 2


@pytest.mark.parametrize("users", [1, 2, 3])
def test_mbind_leaves_shared_huge_pages(users):
    """MPOL_MF_MOVE leaves what others use through a shared table; MOVE_ALL does not."""
    for version, moved in (("v6.17", 1), ("v6.19", int(users == 1))):
        scene = Sharers(version, users)
        scene.kernel.hugetlb.set_max_huge_pages(513)
        assert scene.users[0].mbind(BASE, GIB, 2) == moved
        scene = Sharers(version, users)
        scene.kernel.hugetlb.set_max_huge_pages(513)
        assert scene.users[0].mbind(BASE, GIB, MPOL_MF_MOVE_ALL) == 1
