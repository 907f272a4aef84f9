"""Pools of huge pages, promises, faults of private mappings, and sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.models import find_model
from tlbkit.errors import InputError
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.mm.hugetlb.resv_map import ResvMap
from tlbkit.linux.mm.memfd import MFD_HUGE_64KB, MFD_HUGETLB
from tlbkit.linux.mm.mempolicy import MPOL_MF_MOVE
from tlbkit.linux.mm.mmap import MAP_HUGE_1GB, MAP_HUGE_32MB, MAP_HUGE_64KB
from tlbkit.linux.tests.huge_pages import GIB, HUGE, audit_hugetlb, end_all
from tlbkit.linux.tests.support import boot, issued

SPANS = st.tuples(st.integers(0, 30), st.integers(1, 8))
COUNTS = st.integers(1, 40)
CHANGES = st.lists(st.tuples(st.sampled_from(["add", "del"]), SPANS), max_size=12)


@given(CHANGES, SPANS)
def test_a_reserve_map_is_a_set_of_places(changes, asked):
    """It counts as a set of places does, in intervals that never touch."""
    regions = ResvMap()
    places: set[int] = set()
    for what, (start, length) in changes:
        span = set(range(start, start + length))
        if what == "add":
            assert regions.region_add(start, start + length) == len(span - places)
            places |= span
        else:
            assert regions.region_del(start, start + length) == len(span & places)
            places -= span
    start, end = asked[0], sum(asked)
    assert regions.region_count(start, end) == len(places & set(range(start, end)))
    assert regions.region_chg(start, end) == len(set(range(start, end)) - places)
    ends = [edge for region in regions.regions for edge in region]
    assert ends == sorted(set(ends))


def machine(pages=8, **changes):
    """A kernel with some huge pages, and a process."""
    kernel = boot("fixed", cpus=2, **changes)
    kernel.hugetlb.set_max_huge_pages(pages)
    return kernel, kernel.spawn()


def numbers(kernel):
    """Total, free and promised pages of the default pool."""
    h = kernel.hugetlb.default_hstate
    return h.nr_huge_pages, h.free_huge_pages, h.resv_huge_pages


# -- promises ------------------------------------------------------------------------


def test_what_is_not_all_mapped_is_not_moved_and_not_held():
    """mbind() of a range with a hole lets go of the huge pages it had collected."""
    kernel, process = machine()
    base = process.mmap(HUGE, hugetlb=True)
    process.write(base, 1)
    with pytest.raises(SystemCallError, match="EFAULT"):
        process.mbind(base, 2 * HUGE, MPOL_MF_MOVE)
    audit_hugetlb(kernel)
    process.exit()
    assert numbers(kernel) == (8, 8, 0)


def test_a_promise_is_kept_once():
    """A page that was promised, and copied since, is free when the child gives it up.

    Nobody is promised it: the owner has its copy.
    """
    kernel, owner = machine()
    base = owner.mmap(2 * HUGE, hugetlb=True)
    owner.write(base, 1)
    child = owner.fork()
    owner.write(base, 2)
    assert numbers(kernel) == (8, 6, 1)
    child.exit()
    assert numbers(kernel) == (8, 7, 1)
    owner.munmap(base, 2 * HUGE)
    assert numbers(kernel) == (8, 8, 0)


@pytest.mark.parametrize("shared", [True, False])
def test_pages_are_promised_by_mmap_and_taken_by_faults(shared):
    """Mmap takes nothing from the pool and keeps others from it; a touch takes one."""
    kernel, process = machine()
    base = process.mmap(6 * HUGE, hugetlb=True, shared=shared)
    assert numbers(kernel) == (8, 8, 6)
    with pytest.raises(SystemCallError, match="mmap: ENOMEM"):
        process.mmap(3 * HUGE, hugetlb=True)
    process.write(base, 1)
    assert numbers(kernel) == (8, 7, 5)
    audit_hugetlb(kernel)
    process.munmap(base, 6 * HUGE)
    assert numbers(kernel) == (8, 8, 0)
    end_all(kernel)


def test_a_shared_file_is_promised_once():
    """Whoever maps the same place of a file adds no promise; its end takes it back."""
    kernel, process = machine()
    fd = process.memfd_create("huge", MFD_HUGETLB)
    process.ftruncate(fd, 4 * HUGE)
    one = process.mmap(4 * HUGE, fd=fd, shared=True)
    two = process.mmap(4 * HUGE, fd=fd, shared=True)
    process.write(one + HUGE, 5)
    assert numbers(kernel) == (8, 7, 3)
    process.munmap(one, 4 * HUGE)
    assert process.read(two + HUGE) == 5
    process.munmap(two, 4 * HUGE)
    assert numbers(kernel) == (8, 7, 3), "the file has them still"
    process.ftruncate(fd, HUGE)
    assert numbers(kernel) == (8, 8, 1)
    process.close(fd)
    assert numbers(kernel) == (8, 8, 0)


def test_without_a_promise_a_touch_may_fail():
    """MAP_NORESERVE maps more than there is; whoever comes too late gets SIGBUS."""
    kernel, process = machine(pages=2)
    base = process.mmap(4 * HUGE, hugetlb=True, shared=True, noreserve=True)
    for page in range(2):
        process.write(base + page * HUGE, page)
    with pytest.raises(Signal, match="SIGBUS"):
        process.write(base + 2 * HUGE, 2)
    audit_hugetlb(kernel)
    end_all(kernel)


def test_surplus_pages_come_and_go():
    """Over the number of the pool pages are made if allowed, and go when freed."""
    kernel, process = machine(pages=1)
    h = kernel.hugetlb.default_hstate
    h.nr_overcommit_huge_pages = 2
    base = process.mmap(3 * HUGE, hugetlb=True, shared=True)
    assert (h.nr_huge_pages, h.surplus_huge_pages, h.resv_huge_pages) == (3, 2, 3)
    for page in range(3):
        process.write(base + page * HUGE, page)
    audit_hugetlb(kernel)
    process.munmap(base, 3 * HUGE)
    assert (h.nr_huge_pages, h.surplus_huge_pages, h.free_huge_pages) == (1, 0, 1)
    end_all(kernel)


def test_a_pool_shrinks_to_what_is_used():
    """Pages in use or promised stay over a lower number, as surplus, until freed."""
    kernel, process = machine(pages=8)
    base = process.mmap(3 * HUGE, hugetlb=True, shared=True)
    process.write(base, 1)
    kernel.hugetlb.set_max_huge_pages(0)
    h = kernel.hugetlb.default_hstate
    assert (h.nr_huge_pages, h.surplus_huge_pages) == (3, 3)
    audit_hugetlb(kernel)
    process.exit()
    assert h.nr_huge_pages == 0


# -- private mappings ----------------------------------------------------------------


def test_a_private_page_is_copied_on_write():
    """After a fork the writer gets a copy, the other keeps what there was."""
    kernel, parent = machine()
    base = parent.mmap(2 * HUGE, hugetlb=True)
    parent.write(base, 1)
    child = parent.fork(cpu=1)
    assert child.read(base) == 1
    child.write(base, 2)
    assert (parent.read(base), child.read(base)) == (1, 2)
    parent.write(base, 3)
    assert (parent.read(base), child.read(base)) == (3, 2)
    audit_hugetlb(kernel)
    end_all(kernel)


def test_the_owner_takes_the_page_from_its_children():
    """With no page left for its copy, the owner unmaps the child, who then dies of it.

    The owner was promised its pages; the child was not.
    """
    kernel, parent = machine(pages=1)
    base = parent.mmap(HUGE, hugetlb=True)
    parent.write(base, 1)
    child = parent.fork(cpu=1)
    assert child.read(base) == 1
    parent.write(base, 2)
    assert parent.read(base) == 2
    with pytest.raises(Signal, match="SIGBUS"):
        child.read(base)
    audit_hugetlb(kernel)
    end_all(kernel)


def test_a_child_without_a_page_dies():
    """A child's copy needs a page that nobody was promised."""
    kernel, parent = machine(pages=1)
    base = parent.mmap(HUGE, hugetlb=True)
    parent.write(base, 1)
    child = parent.fork(cpu=1)
    with pytest.raises(Signal, match="SIGBUS"):
        child.write(base, 2)
    assert parent.read(base) == 1
    end_all(kernel)


def test_a_private_mapping_of_a_file_copies_its_pages():
    """What a private mapping writes the file never sees."""
    kernel, process = machine()
    fd = process.memfd_create("huge", MFD_HUGETLB)
    process.ftruncate(fd, HUGE)
    shared = process.mmap(HUGE, fd=fd, shared=True)
    private = process.mmap(HUGE, fd=fd)
    process.write(shared, 1)
    assert process.read(private) == 1
    process.write(private, 2)
    assert (process.read(shared), process.read(private)) == (1, 2)
    audit_hugetlb(kernel)
    process.close(fd)
    end_all(kernel)


# -- sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "size"),
    [(MAP_HUGE_64KB, 1 << 16), (0, HUGE), (MAP_HUGE_32MB, 1 << 25)],
)
@pytest.mark.parametrize("shared", [True, False])
def test_each_size_is_mapped_by_its_own_entries(code, size, shared):
    """Pages of a size are written, copied, protected and unmapped as a whole."""
    kernel = boot("fixed", cpus=2)
    kernel.hugetlb.set_max_huge_pages(4, size)
    process = kernel.spawn()
    base = process.mmap(2 * size, hugetlb=True, shared=shared, flags=code)
    assert base % size == 0
    for address in (base, base + size - 8, base + size):
        process.write(address, address, cpu=1)
    child = process.fork()
    child.write(base + size - 8, 7)
    assert process.read(base + size - 8, cpu=1) == (7 if shared else base + size - 8)
    process.mprotect(base, size, "r")
    with pytest.raises(Signal, match="SEGV_ACCERR"):
        process.write(base, 1, cpu=1)
    process.mprotect(base, size, "rw")
    process.write(base, 5, cpu=1)
    assert child.read(base) == (5 if shared else base)
    audit_hugetlb(kernel)
    end_all(kernel)


@pytest.mark.parametrize("version", ["v6.17", "fixed"])
@pytest.mark.parametrize(
    ("code", "size"), [(MAP_HUGE_64KB, 1 << 16), (0, HUGE), (MAP_HUGE_32MB, 1 << 25)]
)
@given(
    touched=st.sets(st.integers(0, 39), max_size=6), first=st.integers(0, 39), n=COUNTS
)
def test_pages_are_found_between_empty_entries(version, code, size, touched, first, n):
    """Of a range that is unmapped every page goes, however far apart, and no other."""
    kernel = boot(version, cpus=2)
    kernel.hugetlb.set_max_huge_pages(8, size)
    process = kernel.spawn()
    base = process.mmap(40 * size, hugetlb=True, noreserve=True, flags=code)
    for page in touched:
        process.write(base + page * size, page + 1)
    last = min(first + n, 40)
    process.munmap(base + first * size, (last - first) * size)
    free = next(h for h in kernel.hugetlb.hstates if h.size == size).free_huge_pages
    left = {page for page in touched if not first <= page < last}
    assert free == 8 - len(left)
    for page in left:
        assert process.read(base + page * size) == page + 1
    end_all(kernel)


def test_a_page_of_a_gib():
    """A PUD leaf maps 1 GiB, and its table is never shared."""
    kernel = boot("fixed", cpus=2)
    kernel.hugetlb.set_max_huge_pages(1, GIB)
    process = kernel.spawn()
    base = process.mmap(GIB, hugetlb=True, shared=True, flags=MAP_HUGE_1GB)
    process.write(base + GIB - 8, 9)
    child = process.fork(cpu=1)
    assert child.read(base + GIB - 8) == 9
    assert issued(kernel, child.exit).ipi_broadcasts == 0
    end_all(kernel)


def test_sizes_that_there_are_not():
    """A size that the architecture has not is EINVAL for mmap, and named for a pool."""
    kernel, process = machine()
    with pytest.raises(SystemCallError, match="mmap: EINVAL"):
        process.mmap(HUGE, hugetlb=True, flags=22 << 26)
    with pytest.raises(SystemCallError, match="memfd_create: EINVAL"):
        process.memfd_create("x", MFD_HUGE_64KB)
    with pytest.raises(InputError, match="huge pages here have 65536, 2097152, "):
        kernel.hugetlb.set_max_huge_pages(1, 4096)
    sizes = boot(model=find_model("neoverse-v2").name, page_shift=16).hugetlb.hstates
    assert [h.size for h in sizes] == [2 << 20, 512 << 20, 16 << 30]


@pytest.mark.parametrize("call", ["munmap", "mprotect", "mremap", "fixed"])
def test_huge_pages_are_not_cut(call):
    """A range that would cut a huge page is EINVAL, and nothing has changed."""
    kernel, process = machine()
    base = process.mmap(4 * HUGE, hugetlb=True, shared=True)
    process.write(base, 1)
    acts = {
        "munmap": lambda: process.munmap(base + 4096, HUGE),
        "mprotect": lambda: process.mprotect(base, 4096, "r"),
        "mremap": lambda: process.mremap(base + 4096, HUGE, HUGE, maymove=True),
        "fixed": lambda: process.mmap(HUGE, addr=base + 4096, fixed=True, hugetlb=True),
    }
    with pytest.raises(SystemCallError, match="EINVAL"):
        acts[call]()
    assert process.read(base) == 1
    audit_hugetlb(kernel)


def test_moved_pages_keep_their_promises():
    """Mremap moves private pages with what is left of their reservation."""
    kernel, process = machine()
    base = process.mmap(4 * HUGE, hugetlb=True)
    process.write(base + HUGE, 1)
    at = process.mremap(
        base, 4 * HUGE, 4 * HUGE, maymove=True, fixed=True, new_address=1 << 41
    )
    assert process.read(at + HUGE) == 1
    assert numbers(kernel) == (8, 7, 3)
    audit_hugetlb(kernel)
    process.write(at, 2)
    end_all(kernel)


def test_a_truncated_file_takes_private_copies_along():
    """What lies behind the new end is unmapped everywhere; a touch there is SIGBUS."""
    kernel, process = machine()
    fd = process.memfd_create("huge", MFD_HUGETLB)
    process.ftruncate(fd, 2 * HUGE)
    shared = process.mmap(2 * HUGE, fd=fd, shared=True)
    private = process.mmap(2 * HUGE, fd=fd)
    process.write(shared + HUGE, 1)
    process.write(private + HUGE, 2)
    process.ftruncate(fd, HUGE)
    for base in (shared, private):
        with pytest.raises(Signal, match="SIGBUS"):
            process.read(base + HUGE)
    audit_hugetlb(kernel)
    process.close(fd)
    end_all(kernel)


def test_a_promise_that_a_fault_has_noted_meanwhile_is_taken_back():
    """Between the count and the note of a mapping's promises others may note some."""
    kernel = boot(cpus=1)
    kernel.hugetlb.set_max_huge_pages(4)
    process = kernel.spawn()
    fd = process.memfd_create("m", MFD_HUGETLB)
    size = 2 << 20
    process.ftruncate(fd, 2 * size)
    hugetlb = kernel.hugetlb
    acct = hugetlb.hugetlb_acct_memory
    noted: list[int] = []

    def promise(h, delta):
        error = acct(h, delta)
        if not noted:
            inode = kernel.file_table.inodes[-1]
            noted.append(inode.resv_map.region_add(0, 1))
        return error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(hugetlb), "hugetlb_acct_memory", lambda _, *a: promise(*a))
        process.mmap(2 * size, fd=fd, shared=True)
    assert noted == [1]
    assert hugetlb.default_hstate.resv_huge_pages == 1
