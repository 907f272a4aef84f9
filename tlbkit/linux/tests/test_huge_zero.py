"""The huge zero folio: who holds it, what maps it, and what that costs nobody."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import find_model
from tlbkit.errors import TlbkitError
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pmd_trans_huge,
    pte_dirty,
    pte_write,
)
from tlbkit.linux.include.uapi.asm_generic.errno import Signal
from tlbkit.linux.kernel.config import ARM64
from tlbkit.linux.kernel.kernel import PARTS
from tlbkit.linux.kernel.kernel import Kernel as PlainKernel
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.linux.mm.page_alloc import BadPageError
from tlbkit.linux.tests.audit import audit
from tlbkit.linux.tests.support import boot
from tlbkit.patches.huge_zero_special import HugeMemoryBefore
from tlbkit.patches.kernels import Kernel

PAGE = 4096
WITHOUT_MARK = "d82d09e48219"


class ForgetfulFork(HugeMemory):
    """fork takes what is marked for frames, as a patch's second version did."""

    __slots__ = ()

    copy_huge_pmd = HugeMemoryBefore.copy_huge_pmd


class UnmarkedFault(HugeMemory):
    """A read fault maps the huge zero folio without marking the entry."""

    __slots__ = ()

    set_huge_zero_folio = HugeMemoryBefore.set_huge_zero_folio


def patched(part=HugeMemory, **changes):
    """A newest kernel with another class for its blocks."""
    model = replace(find_model("neoverse-v2"), **changes)
    return PlainKernel(Machine(2, model), {**PARTS, "huge_memory": part})


def mapped(kernel, process=None):
    """A process that has read a block of untouched memory, and its address."""
    process = process or kernel.spawn()
    kernel.huge_memory.enabled = "always"
    base = process.mmap(kernel.pgtable.pmd_size)
    process.read(base)
    return process, base


def pmd_of(kernel, process, base):
    """The PMD entry of an address."""
    return kernel.pgtable.read(kernel.pgtable.find_pmd(process.mm, base))


def counts(kernel, *processes):
    """All that mapping the huge zero folio must leave alone."""
    zero = kernel.huge_memory.huge_zero_folio
    return (
        zero.refcount,
        zero.mapcount,
        zero.entire_mapcount,
        zero.nr_pages_mapped,
        [(p.mm.anonpages, p.mm.filepages, p.mm.shmempages) for p in processes],
        dict(kernel.vmstat.node),
    )


# -- programs ------------------------------------------------------------------------

STEPS = st.lists(
    st.sampled_from(
        [
            "read",
            "write",
            "fork",
            "ro",
            "rw",
            "split",
            "unmap",
            "move",
            "exit",
            "shrink",
            "dontneed",
        ],
    ),
    max_size=25,
)


class Program:
    """Up to four processes with a block each, held to every law after each step."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.huge = kernel.huge_memory
        self.huge.enabled = "always"
        self.size = kernel.pgtable.pmd_size
        self.page = kernel.pgtable.page_size
        self.alive = [kernel.spawn()]
        self.bases = [self.alive[0].mmap(self.size)]

    def run(self, steps):
        """Do all steps in turn, and end everything."""
        for number, step in enumerate(steps):
            turn = number % len(self.alive)
            try:
                getattr(self, step)(turn, self.alive[turn], self.bases[turn])
            except Signal:
                assert step in {"read", "write"}
            self.check()
        for process in self.alive:
            process.exit()
        self.alive.clear()
        self.check()
        self.kernel.swap.lru_add_drain_all()
        self.huge.shrink_huge_zero_folio_scan()
        assert self.huge.huge_zero_folio is None

    def check(self):
        """The laws of counts and stores, and the marks of all entries."""
        audit(self.kernel)
        holders = sum(process.mm.huge_zero for process in self.alive)
        zero = self.huge.huge_zero_folio
        if zero is None:
            assert (self.huge.huge_zero_refcount, holders) == (0, 0)
        else:
            assert self.huge.huge_zero_refcount == 1 + holders
            assert (zero.refcount, zero.mapcount) == (1, 0)
        for process in self.alive:
            self.check_entries(process)

    def check_entries(self, process):
        """Who maps the huge zero folio holds it, by entries that say "special"."""
        pgtable = self.kernel.pgtable
        for vma in process.mm.vmas:
            for pmdp, addr, _ in self.kernel.memory.pmd_entries(
                process.mm, vma.start, vma.end
            ):
                pmd = pgtable.read(pmdp)
                if not pmd_trans_huge(pmd):
                    continue
                self.kernel.page_alloc.folio_of(pgtable.pmd_pfn(pmd))
                if self.huge.is_huge_zero_pmd(pmd):
                    assert process.mm.huge_zero
                    assert not pte_write(pmd)
                    assert not pte_dirty(pmd)
                    normal = self.kernel.memory.vm_normal_page_pmd(vma, addr, pmd)
                    assert normal is None
                    assert pgtable.pmd_special(pmd), "outside the legal domain"
                else:
                    assert not pgtable.pmd_special(pmd)

    def read(self, _, process, base):
        process.read(base + self.page)

    def write(self, _, process, base):
        process.write(base + 2 * self.page, 1)

    def fork(self, turn, process, _):
        if len(self.alive) < 4:
            self.alive.append(process.fork())
            self.bases.append(self.bases[turn])

    def ro(self, _, process, base):
        process.mprotect(base, self.size, "r")

    def rw(self, _, process, base):
        process.mprotect(base, self.size, "rw")

    def split(self, _, process, base):
        process.mprotect(base + self.page, self.page, "r")

    def unmap(self, turn, process, base):
        process.munmap(base, self.size)
        self.bases[turn] = process.mmap(self.size)

    def dontneed(self, _, process, base):
        process.madvise(base, self.size, "dontneed")

    def move(self, turn, process, base):
        target = process.mmap(self.size)
        process.munmap(target, self.size)
        self.bases[turn] = process.mremap(
            base, self.size, self.size, new_address=target, maymove=True, fixed=True
        )

    def exit(self, turn, process, _):
        if len(self.alive) > 1:
            del self.alive[turn], self.bases[turn]
            process.exit()

    def shrink(self, *_):
        self.huge.shrink_huge_zero_folio_scan()


@given(STEPS)
@settings(deadline=None, max_examples=60)
def test_programs_keep_the_laws_of_the_huge_zero_folio(steps):
    """Whoever maps it holds it, by marked entries, and nothing else counts it."""
    Program(patched()).run(steps)


@pytest.mark.parametrize("page_shift", [14, 16])
def test_other_page_sizes_keep_them_as_well(page_shift):
    """A block is 2048 pages of 16 KiB, or 8192 of 64 KiB."""
    kernel = patched(page_shift=page_shift)
    program = Program(kernel)
    program.run(["read", "fork", "ro", "write", "move", "split", "read", "exit"])
    assert kernel.pgtable.hpage_pmd_nr == 1 << page_shift - 3
    assert broken_by(ForgetfulFork, ["read", "fork"], page_shift=page_shift)


def broken_by(part, steps, **changes):
    """Whether a law is broken on the way."""
    try:
        Program(patched(part, **changes)).run(steps)
    except (AssertionError, TlbkitError, KeyError):
        return True
    return False


def test_without_the_exclusion_in_fork_a_law_is_broken():
    """The second version of the patch that marks entries fails at the first fork."""
    assert not broken_by(HugeMemory, ["read", "fork"])
    assert broken_by(ForgetfulFork, ["read", "fork"])


def test_without_the_mark_in_the_fault_an_entry_is_not_legal():
    """Where the architecture has the bit, an unmarked entry is taken for a page."""
    assert not broken_by(HugeMemory, ["read"])
    assert broken_by(UnmarkedFault, ["read"])


# -- what the exclusion in fork is for -----------------------------------------------


def test_a_child_without_exclusion_has_no_table_in_store():
    """Its tables are counted one short, and to split its block finds none."""
    for part, stored in ((HugeMemory, 1), (ForgetfulFork, 0)):
        kernel = patched(part)
        process, base = mapped(kernel)
        child = process.fork()
        pmdp = kernel.pgtable.find_pmd(child.mm, base)
        assert kernel.pgtable_generic.deposited(pmdp) == stored
        assert child.mm.pgtables[3] == stored
        if stored:
            child.mprotect(base, PAGE, "r")
        else:
            with pytest.raises(BadPageError, match="no table is kept"):
                child.mprotect(base, PAGE, "r")


def test_a_child_without_exclusion_maps_what_the_shrinker_frees():
    """It does not hold the folio; once its parent is gone, nobody does."""
    for part, held in ((HugeMemory, True), (ForgetfulFork, False)):
        kernel = patched(part)
        process, base = mapped(kernel)
        child = process.fork()
        assert child.mm.huge_zero == held
        process.exit()
        assert kernel.huge_memory.shrink_huge_zero_folio_scan() == (0 if held else 512)
        pmd = pmd_of(kernel, child, base)
        pfn = kernel.pgtable.pmd_pfn(pmd)
        assert (kernel.page_alloc.folio(pfn) is not None) == held
        if not held:
            # The next to get these frames shows its data to the child.
            other = kernel.spawn()
            room = other.mmap(kernel.pgtable.pmd_size)
            other.write(room, 0x5EC2E7)
            assert child.read(base) == 0x5EC2E7


# -- one step at a time --------------------------------------------------------------


@pytest.mark.parametrize("version", ["v6.17", "v6.19", "fixed"])
def test_to_map_and_unmap_it_counts_nothing(version):
    """A thousand mappings in one process and in its child leave every count alone."""
    kernel = boot(version, cpus=1)
    process, _ = mapped(kernel)
    first = counts(kernel, process)
    bases = [mapped(kernel, process)[1] for _ in range(20)]
    child = process.fork()
    assert counts(kernel, process, child)[:4] == first[:4]
    assert kernel.huge_memory.huge_zero_refcount == 3
    for base in bases:
        process.munmap(base, kernel.pgtable.pmd_size)
    assert counts(kernel, process) == first
    audit(kernel)


@pytest.mark.parametrize("marked", [True, False])
def test_every_copy_of_an_entry_keeps_its_mark(marked):
    """fork, mremap and mprotect copy the value; the mark is there if it was."""
    without = () if marked else (WITHOUT_MARK,)
    kernel = boot("v6.19", cpus=1, without=without)
    size = kernel.pgtable.pmd_size
    process, base = mapped(kernel)
    target = process.mmap(size)
    process.munmap(target, size)
    child = process.fork()
    process.mprotect(base, size, "r")
    process.mremap(base, size, size, new_address=target, maymove=True, fixed=True)
    for who, where in ((child, base), (process, target)):
        pmd = pmd_of(kernel, who, where)
        assert kernel.huge_memory.is_huge_zero_pmd(pmd)
        assert kernel.pgtable.pmd_special(pmd) == marked
        vma = kernel.vma.vma_lookup(who.mm, where)
        assert kernel.memory.vm_normal_page_pmd(vma, where, pmd) is None


def test_a_split_of_zeros_keeps_every_count():
    """512 entries of the small zero page, marked, from the table in store."""
    kernel = boot("v6.19", cpus=1)
    process, base = mapped(kernel)
    first = counts(kernel, process)
    tables = process.mm.pgtables[3]
    process.mprotect(base + PAGE, PAGE, "r")
    assert pmd_table(pmd_of(kernel, process, base))
    for page in range(512):
        pte = kernel.pgtable.read(
            kernel.pgtable.find_pte(process.mm, base + page * PAGE)
        )
        assert kernel.pgtable.pte_special(pte)
        assert kernel.pgtable.pte_pfn(pte) == kernel.zero_pfn
    assert counts(kernel, process) == first
    assert process.mm.pgtables[3] == tables


def test_a_process_that_ends_last_leaves_it_to_the_shrinker():
    """Only the shrinker frees it: a count of 0 at the end of a process is a bug."""
    kernel = boot("v6.19", cpus=1)
    process, _ = mapped(kernel)
    kernel.huge_memory.huge_zero_refcount = 1  # as if the shrinker's had been lost
    with pytest.raises(BadPageError, match="only the shrinker"):
        kernel.huge_memory.mm_put_huge_zero_folio(process.mm)


def test_a_process_holds_it_while_nothing_is_mapped():
    """The flag goes when the process does, and not with the last mapping."""
    kernel = boot("v6.19", cpus=1)
    process, base = mapped(kernel)
    process.munmap(base, kernel.pgtable.pmd_size)
    assert kernel.huge_memory.shrink_huge_zero_folio_scan() == 0
    process.exit()
    assert kernel.huge_memory.shrink_huge_zero_folio_scan() == 512


def test_without_memory_for_it_a_read_gets_a_page():
    """The fault falls back to the small zero page, and keeps no table for it."""
    kernel = boot("v6.19", cpus=1)
    kernel.huge_memory.enabled = "always"
    process = kernel.spawn()
    base = process.mmap(kernel.pgtable.pmd_size)
    process.read(process.mmap(PAGE))  # makes the upper tables
    answers = iter([False, True])  # the table in store, and then the folio
    kernel.page_alloc.fail = lambda: next(answers, False)
    process.read(base)
    kernel.page_alloc.fail = None
    assert pmd_table(pmd_of(kernel, process, base))
    assert not process.mm.huge_zero
    audit(kernel)


@pytest.mark.parametrize("same", [True, False], ids=["a thread", "a process"])
def test_who_meets_another_maker_keeps_the_other_s_folio(same):
    """Two make the folio at once: one is kept, and each process is counted once."""
    kernel = boot("fixed", cpus=1)
    huge = kernel.huge_memory
    one = kernel.spawn()
    other = one if same else kernel.spawn()
    used = kernel.page_alloc.in_use
    met = []

    def meanwhile():
        kernel.page_alloc.fail = None
        met.append(huge.mm_get_huge_zero_folio(other.mm))
        return False

    kernel.page_alloc.fail = meanwhile
    assert huge.mm_get_huge_zero_folio(one.mm) is met[0] is huge.huge_zero_folio
    assert huge.huge_zero_refcount == (2 if same else 3)
    assert kernel.page_alloc.in_use == used + 512
    for process in {one, other}:
        process.exit()
    assert huge.shrink_huge_zero_folio_scan() == 512


def test_the_shrinker_cannot_take_what_is_about_to_be_held():
    """Between the making and the flag, the count is the shrinker's and the maker's."""
    kernel = boot("fixed", cpus=1)
    huge = kernel.huge_memory
    assert huge.get_huge_zero_folio()
    assert huge.huge_zero_refcount == 2
    assert huge.shrink_huge_zero_folio_scan() == 0


def test_the_one_that_stays_is_never_counted():
    """Made at boot, held by nobody in particular, and not the shrinker's to free."""
    config = replace(ARM64, persistent_huge_zero_folio=True)
    kernel = Kernel(Machine(1), "v6.19", config=config)
    huge = kernel.huge_memory
    assert huge.huge_zero_folio is not None
    process, base = mapped(kernel)
    assert huge.is_huge_zero_pmd(pmd_of(kernel, process, base))
    assert not process.mm.huge_zero
    child = process.fork()
    child.write(base, 1)
    process.exit()
    child.exit()
    assert huge.shrink_huge_zero_folio_scan() == 0
    assert (huge.huge_zero_folio.refcount, huge.huge_zero_folio.mapcount) == (1, 0)


# -- lockless users ------------------------------------------------------------------


@pytest.mark.parametrize(("version", "fast"), [("v6.17", True), ("v6.19", False)])
def test_pages_of_zeros_are_got_the_slow_way_once_marked(version, fast):
    """What looks without a lock has no area to ask, and gives up at the mark."""
    kernel = boot(version, cpus=1)
    process, base = mapped(kernel)
    pages = process.get_pages(base, PAGE, fast_only=True)
    assert bool(pages) == fast
    process.put_pages(pages)
    process.write(base, 1)
    pages = process.get_pages(base, PAGE, write=True, fast_only=True)
    assert pages
    process.put_pages(pages)
