"""What the tests of hugetlb share: sharers of a mapping, and the books of the pools."""

from collections import Counter, defaultdict

from tlbkit.linux.arch.arm64.include.asm.pgtable import pmd_table, pte_none, pte_present
from tlbkit.linux.fs.hugetlbfs.inode import HugetlbfsInode
from tlbkit.linux.include.linux.hugetlb import (
    HPAGE_RESV_OWNER,
    Hstate,
    HugetlbFolio,
    is_vm_hugetlb_page,
)
from tlbkit.linux.include.linux.mm import VM_MAYSHARE
from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, ptdesc_pmd_pts_count
from tlbkit.linux.tests.support import boot

GIB = 1 << 30
HUGE = 2 << 20
BASE = 1 << 40
BOOT_FRAMES = 2


class Sharers:
    """Processes that map the same GiBs of one file, one on each CPU.

    Args:
        version: Name of the kernel.
        users: How many processes map it.
        blocks: GiBs, each with one table.
        touched: Each process reads one page of each GiB, so that tables are shared.
        without: Commits that the kernel lacks.
        machine: Of `boot`.
    """

    def __init__(
        self, version="fixed", users=2, blocks=1, *, touched=True, without=(), **machine
    ):
        machine.setdefault("cpus", max(users, 2))
        self.kernel = boot(version, without=without, **machine)
        self.kernel.hugetlb.set_max_huge_pages(blocks * 512)
        self.length = blocks * GIB
        first = self.kernel.spawn()
        first.mmap(self.length, addr=BASE, shared=True, hugetlb=True, fixed=True)
        cpus = machine["cpus"]
        self.users = [first, *(first.fork(cpu=n % cpus) for n in range(1, users))]
        if touched:
            for user in self.users:
                for block in range(blocks):
                    user.read(BASE + block * GIB)

    def count(self, block=0):
        """How many PUD entries point to the table of a GiB, beyond the first."""
        for user in self.kernel.processes:
            table = table_of(self.kernel, user.mm, BASE + block * GIB)
            if table is not None:
                return ptdesc_pmd_pts_count(table)
        return None


def table_of(kernel, mm, addr):
    """The PMD table of an address, or None."""
    pgtable = kernel.pgtable
    pgd = pgtable.read(pgtable.pgd_offset(mm, addr))
    if not pmd_table(pgd):
        return None
    pud = pgtable.read(pgtable.pud_offset(pgtable.pgd_offset(mm, addr), addr))
    return kernel.page_alloc.folio_of(pgtable.pte_pfn(pud)) if pmd_table(pud) else None


def audit_hugetlb(kernel):
    """Share counts, mapcounts, references and promises are as the tables say."""
    hugetlb = kernel.hugetlb
    hooks: dict[Folio, set[tuple[MmStruct, int]]] = defaultdict(set)
    entries: dict[Folio, set[int]] = defaultdict(set)
    promised: Counter[Hstate] = Counter()
    for mm in kernel.fork.mmlist:
        for vma in mm.vmas:
            if not is_vm_hugetlb_page(vma):
                continue
            h = hugetlb.hstate_vma(vma)
            promised[h] += _private_promise(hugetlb, h, vma)
            for addr in range(vma.start, vma.end, h.size):
                ptep = kernel.hugetlbpage.huge_pte_offset(mm, addr, h.size)
                if ptep is None:
                    continue
                if h.size == kernel.pgtable.pmd_size:
                    span = addr >> kernel.pgtable.pud_shift
                    hooks[hugetlb.ptdesc(ptep)].add((mm, span))
                pte = kernel.pgtable.read(ptep)
                if not pte_none(pte) and pte_present(pte):
                    entries[hugetlb.folio(pte)].add(ptep)
    for table, places in hooks.items():
        assert ptdesc_pmd_pts_count(table) == len(places) - 1, "share count"
    cached = _cached(kernel, promised)
    folios = set(entries) | cached
    for folio in folios:
        assert folio.mapcount == folio.entire_mapcount == len(entries[folio])
        held = folio.nr_pages if folio in cached else 0
        assert folio.refcount == folio.mapcount + held
    for h in hugetlb.hstates:
        used = sum(folio.hstate is h for folio in folios)
        assert h.nr_huge_pages == h.free_huge_pages + used, "a huge page is lost"
        # What its owner unmapped while a child still maps it, a page gives back when it
        # is freed; the owner's VMA, once it is gone, has taken that back before.
        owed = sum(folio.hstate is h and folio.restore_reserve for folio in folios)
        assert h.resv_huge_pages + owed == promised[h]
        assert h.free_huge_pages >= h.resv_huge_pages >= 0
        runs = sum(count for _, count in h.fresh)
        assert h.free_huge_pages == len(h.free) + runs


def _private_promise(hugetlb, h, vma):
    """What is promised to a private area and not used yet."""
    if vma.flags & VM_MAYSHARE or not hugetlb.is_vma_resv_set(vma, HPAGE_RESV_OWNER):
        return 0
    start = hugetlb.vma_hugecache_offset(h, vma, vma.start)
    end = hugetlb.vma_hugecache_offset(h, vma, vma.end)
    return end - start - vma.private_data.resv_map.region_count(start, end)


def _cached(kernel, promised):
    """The huge pages of all files; what those are promised besides is counted."""
    cached: set[Folio] = set()
    for inode in kernel.file_table.inodes:
        if isinstance(inode, HugetlbfsInode):
            places = sum(end - start for start, end in inode.resv_map.regions)
            promised[inode.hstate] += places - len(inode.mapping.pages)
            cached.update(inode.mapping.pages.values())
    assert all(isinstance(folio, HugetlbFolio) for folio in cached)
    return cached


def end_all(kernel):
    """End every process, and hold that nothing is left of what they had."""
    for process in tuple(kernel.processes):
        process.exit()
    kernel.rcu.quiesce()
    assert kernel.page_alloc.in_use == BOOT_FRAMES
    for h in kernel.hugetlb.hstates:
        assert h.free_huge_pages == h.nr_huge_pages
        assert not h.resv_huge_pages
        assert not h.surplus_huge_pages
