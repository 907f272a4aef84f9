"""Sharing tables of huge pages: who shares, who unshares, and what that sends."""

from itertools import permutations

import pytest

from tlbkit.linux.include.linux.mm_types import ptdesc_pmd_pts_count
from tlbkit.linux.kernel.locking import LockError
from tlbkit.linux.tests.huge_pages import (
    BASE,
    GIB,
    HUGE,
    Sharers,
    audit_hugetlb,
    end_all,
    table_of,
)
from tlbkit.linux.tests.support import boot, issued

LEAVE = {
    "munmap": lambda user, length: user.munmap(BASE, length),
    "exit": lambda user, _: user.exit(),
}


@pytest.mark.parametrize("users", [1, 2, 3, 5])
def test_the_count_is_of_further_users(users):
    """A table that n address spaces use has the count n - 1, and one reference."""
    scene = Sharers(users=users)
    assert scene.count() == users - 1
    tables = {table_of(scene.kernel, user.mm, BASE) for user in scene.users}
    assert len(tables) == 1
    assert tables.pop().refcount == 1
    audit_hugetlb(scene.kernel)


def test_forks_share_nothing_and_faults_do():
    """A fork copies no table; the first to touch makes one, the k-th shares it."""
    scene = Sharers(users=4, touched=False)
    assert scene.count() is None
    for further, child in enumerate(scene.users[1:]):
        child.read(BASE)
        assert scene.count() == further
    end_all(scene.kernel)


def test_children_one_after_another_share_nothing():
    """Children that never live together each build and free a table of their own."""
    scene = Sharers(users=1, touched=False)
    parent = scene.users[0]
    for _ in range(3):
        child = parent.fork(cpu=1)
        child.read(BASE)
        assert scene.count() == 0
        assert issued(scene.kernel, child.exit).ipi_broadcasts == 0
    end_all(scene.kernel)


def test_sharing_joins_what_is_written():
    """What one user writes all others read, at once, whoever mapped the page."""
    scene = Sharers(users=3)
    for page, user in enumerate(scene.users):
        user.write(BASE + page * HUGE, page + 1)
    for user in scene.users:
        assert [user.read(BASE + page * HUGE) for page in range(3)] == [1, 2, 3]
    folio = scene.kernel.hugetlb.folio(
        scene.kernel.pgtable.read(
            scene.kernel.pgtable.find_pmd(scene.users[0].mm, BASE)
        )
    )
    assert folio.mapcount == 1, "one entry maps it, for all three"


@pytest.mark.parametrize("how", LEAVE)
@pytest.mark.parametrize("users", [1, 2, 3, 5])
@pytest.mark.parametrize("blocks", [1, 2, 9])
def test_only_the_last_sharer_sends_one_interrupt(how, users, blocks):
    """Of n users that leave in turn, the (n-1)-th alone sends one IPI broadcast."""
    scene = Sharers(users=users, blocks=blocks, cpus=6)
    sent = []
    for user in scene.users:
        counts = issued(scene.kernel, lambda user=user: LEAVE[how](user, scene.length))
        sent.append(counts.ipi_broadcasts)
        audit_hugetlb(scene.kernel)
    assert sent == [int(n == users - 2) for n in range(users)]
    end_all(scene.kernel)


@pytest.mark.parametrize("how", LEAVE)
@pytest.mark.parametrize("users", [2, 3])
def test_every_order_of_leaving_ends_clean(how, users):
    """In whatever order they leave, the count falls by one each time."""
    for order in permutations(range(users)):
        scene = Sharers(users=users)
        for left, who in enumerate(order, 1):
            LEAVE[how](scene.users[who], scene.length)
            assert scene.count() == (users - left - 1 if left < users else None)
            audit_hugetlb(scene.kernel)
        end_all(scene.kernel)


def test_unsharing_touches_no_entry():
    """To leave a shared table changes neither its entries nor the pages' counts."""
    scene = Sharers(users=2)
    kernel = scene.kernel
    table = table_of(kernel, scene.users[0].mm, BASE)
    before = list(kernel.machine.memory.frame(table.pfn))
    tables = [user.mm.pgtables[2] for user in scene.users]
    scene.users[1].munmap(BASE, GIB)
    assert list(kernel.machine.memory.frame(table.pfn)) == before
    assert [user.mm.pgtables[2] for user in scene.users] == [tables[0], tables[1] - 1]


def test_a_dontneed_of_one_page_drops_the_whole_block():
    """MADV_DONTNEED on one shared huge page takes all of the table from this process.

    The data is still in the file, and faults bring it back.
    """
    scene = Sharers(users=2)
    one, other = scene.users
    for page in range(4):
        one.write(BASE + page * HUGE, page)
    one.madvise(BASE, HUGE, "dontneed")
    assert table_of(scene.kernel, one.mm, BASE) is None
    assert scene.count() == 0
    assert [one.read(BASE + page * HUGE) for page in range(4)] == [0, 1, 2, 3]
    assert scene.count() == 1, "and the fault shares the table again"
    assert other.read(BASE + 3 * HUGE) == 3


def test_one_process_may_share_with_itself():
    """Two mappings of one file in one address space share: the count is of entries."""
    kernel = boot("fixed", cpus=2)
    kernel.hugetlb.set_max_huge_pages(512)
    process = kernel.spawn()
    fd = process.memfd_create("twice", 0x4)
    process.ftruncate(fd, GIB)
    for base in (BASE, BASE + 4 * GIB):
        process.mmap(GIB, fd=fd, addr=base, shared=True, fixed=True)
        process.read(base)
    table = table_of(kernel, process.mm, BASE)
    assert ptdesc_pmd_pts_count(table) == 1
    assert issued(kernel, lambda: process.munmap(BASE, GIB)).ipi_broadcasts == 1
    process.close(fd)
    end_all(kernel)


@pytest.mark.parametrize(
    ("offset", "length", "blocks"),
    [
        (0, GIB, 1),
        (HUGE, GIB + HUGE, 0),
        (HUGE, 2 * GIB, 1),
        (0, GIB - HUGE, 0),
        (GIB - HUGE, 2 * GIB + 2 * HUGE, 2),
    ],
)
def test_only_whole_aligned_blocks_are_shared(offset, length, blocks):
    """A table can be shared if all that it could map lies in the area."""
    kernel = boot("fixed", cpus=2)
    kernel.hugetlb.set_max_huge_pages(2048)
    parent = kernel.spawn()
    start = BASE + offset
    parent.mmap(length, addr=start, shared=True, hugetlb=True, fixed=True)
    child = parent.fork(cpu=1)
    shared = set()
    for addr in range(start, start + length, 256 * HUGE):
        for process in (parent, child):
            process.read(addr)
        table = table_of(kernel, child.mm, addr)
        if ptdesc_pmd_pts_count(table):
            shared.add(addr // GIB)
    assert len(shared) == blocks
    audit_hugetlb(kernel)


def test_other_rights_share_nothing():
    """After mprotect of one sharer it has a table of its own, with the count 0."""
    scene = Sharers(users=2)
    one, other = scene.users
    one.mprotect(BASE, GIB, "r")
    assert table_of(scene.kernel, one.mm, BASE) is None
    one.read(BASE)
    tables = [table_of(scene.kernel, user.mm, BASE) for user in (one, other)]
    assert tables[0] is not tables[1]
    assert [ptdesc_pmd_pts_count(table) for table in tables] == [0, 0]
    audit_hugetlb(scene.kernel)


@pytest.mark.parametrize(
    ("page_shift", "shared"), [(12, True), (14, True), (16, False)]
)
def test_pages_of_64_kib_share_nothing(page_shift, shared):
    """Tables are shared with pages of 4 and 16 KiB, not with those of 64 KiB."""
    kernel = boot("fixed", cpus=2, page_shift=page_shift)
    span = kernel.pgtable.pud_size
    kernel.hugetlb.set_max_huge_pages(4)
    parent = kernel.spawn()
    base = parent.mmap(
        span, addr=8 * span, shared=True, hugetlb=True, noreserve=True, fixed=True
    )
    child = parent.fork(cpu=1)
    parent.write(base, 3)
    assert child.read(base) == 3
    table = kernel.hugetlb.ptdesc(kernel.pgtable.find_pmd(child.mm, base))
    assert ptdesc_pmd_pts_count(table) == shared


def test_unsharing_needs_its_locks():
    """To unshare without i_mmap_rwsem, or without the area's lock, is reported."""
    scene = Sharers(users=2)
    kernel = scene.kernel
    vma = scene.users[0].mm.vmas[1]
    tlb = kernel.gather.tlb_gather_mmu_vma(vma)
    ptep = kernel.pgtable.find_pmd(vma.mm, BASE)
    with pytest.raises(LockError, match="i_mmap_rwsem of anon_hugepage: must be held"):
        kernel.hugetlb.huge_pmd_unshare(tlb, vma, BASE, ptep)
    vma.file.mapping.i_mmap_rwsem.down_write()
    with pytest.raises(LockError, match="hugetlb vma lock 0x10000000000: must be held"):
        kernel.hugetlb.huge_pmd_unshare(tlb, vma, BASE, ptep)
    with pytest.raises(LockError, match="must be taken before i_mmap_rwsem"):
        kernel.hugetlb.hugetlb_vma_lock_write(vma)
    vma.file.mapping.i_mmap_rwsem.up_write()
    with pytest.raises(LockError, match="i_mmap_rwsem of anon_hugepage: must be held"):
        kernel.hugetlb.huge_pmd_unshare_flush(tlb, vma)
    with pytest.raises(LockError, match="hugetlb vma lock 0x10000000000: must be held"):
        kernel.hugetlb.hugetlb_walk(vma, BASE, HUGE)
