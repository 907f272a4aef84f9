"""What was wrong with the huge zero folio once its entries were marked; the repairs."""

from dataclasses import replace

import pytest

from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import find_model
from tlbkit.lab.insert import Place
from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_mkuffd_wp, pte_uffd_wp
from tlbkit.linux.include.linux.mm import VM_FAULT_NOPAGE
from tlbkit.linux.include.uapi.asm_generic.errno import Signal
from tlbkit.linux.kernel.config import ARM64
from tlbkit.linux.mm.page_alloc import BadPageError
from tlbkit.linux.tests.support import boot
from tlbkit.patches.kernels import Kernel

MARK = "d82d09e48219"
UNCOUNTED = "5528ef06da01"
TAGS, ZEROING, INIT_ON_FREE = "adfb6609c680", "5bebe8de1926", "6a288a4ddb4a"
MOVE = "fae654083bfa"


# -- insertion -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("without", "counted", "marked"),
    [(UNCOUNTED, True, False), (MARK, False, False), (None, False, True)],
    ids=["at first", "not counted", "and marked"],
)
def test_the_huge_zero_folio_is_inserted_uncounted_then_marked(
    without, counted, marked
):
    """First it was counted like any folio, then not, and then its entry was marked.

    A zero page that counts as resident breaks a rule.
    """
    reverted = (without,) if without else ()
    kernel = boot("fixed", cpus=1, without=reverted, rules=not counted)
    place = Place(kernel)
    zero = kernel.huge_memory.mm_get_huge_zero_folio(place.mm)
    assert place.insert(zero) == VM_FAULT_NOPAGE
    assert (zero.refcount, zero.mapcount) == (1 + counted, int(counted))
    assert place.mm.filepages == 512 * counted
    assert place.pgtable.pmd_special(place.entry) == marked
    assert kernel.vmstat.node["NR_FILE_MAPPED"] == 512 * counted


def test_an_inserted_huge_zero_folio_must_not_be_written():
    """The insertion does not refuse a write: every process would share what is written.

    No caller asks for one; this is what would come of it.
    """
    kernel = boot("fixed", cpus=1)
    place = Place(kernel)
    zero = kernel.huge_memory.mm_get_huge_zero_folio(place.mm)
    place.insert(zero, write=True)
    place.process.write(place.vma.start, 7)
    other = kernel.spawn()
    kernel.huge_memory.enabled = "always"
    base = other.mmap(2 << 20)
    assert other.read(base) == 7, "not zero"


# -- userfaultfd MOVE ----------------------------------------------------------------


def moved(without=(), version="fixed", **how):
    """Move a block of zeros; return what is needed to look at it."""
    kernel = boot(version, cpus=1, without=without)
    kernel.huge_memory.enabled = "always"
    process = kernel.spawn()
    size = kernel.pgtable.pmd_size
    src, dst = process.mmap(size), process.mmap(size)
    process.read(src)
    if how.get("protected"):
        pmdp = kernel.pgtable.find_pmd(process.mm, src)
        entry = pte_mkuffd_wp(kernel.pgtable.read(pmdp))
        kernel.machine.memory.write(pmdp, entry)
    fd = process.userfaultfd()
    fd.register(dst, size)
    fd.move(dst, src, size)
    vma = kernel.vma.vma_lookup(process.mm, dst)
    pmd = kernel.pgtable.read(kernel.pgtable.find_pmd(process.mm, dst))
    return kernel, process, vma, pmd


def test_a_moved_block_of_zeros_stays_what_it_was():
    """The entry keeps frame and mark; only a protection by userfaultfd goes."""
    for protected in (False, True):
        kernel, process, vma, pmd = moved(protected=protected)
        assert kernel.huge_memory.is_huge_zero_pmd(pmd)
        assert kernel.pgtable.pmd_special(pmd)
        assert not pte_uffd_wp(pmd)
        assert kernel.memory.vm_normal_page_pmd(vma, vma.start, pmd) is None
        process.exit()
        assert kernel.huge_memory.shrink_huge_zero_folio_scan() == 512


@pytest.mark.parametrize("version", ["v6.17", "pr350", "v6.19"])
def test_before_the_repair_it_was_mapped_to_a_frame_that_is_no_memory(version):
    """The entry was built from a folio that nobody had looked up, and unmarked."""
    kernel, process, vma, pmd = moved(version=version)
    pgtable = kernel.pgtable
    assert not kernel.huge_memory.is_huge_zero_pmd(pmd)
    assert not pgtable.pmd_special(pmd)
    assert not kernel.page_alloc.pfn_valid(pgtable.pmd_pfn(pmd))
    assert pgtable.pmd_pfn(pmd) << 12 == 0x8010_8000_0000
    assert kernel.memory.vm_normal_page_pmd(vma, vma.start, pmd) is None
    with pytest.raises(BadPageError):
        process.exit()


def test_a_mark_that_is_lost_makes_zeros_a_page():
    """With the frame right and the mark gone, walkers take the folio for a normal one.

    Whoever unmaps what they found then drops a mapping and a reference that nobody had:
    the folio goes while every process that maps it believes in it.
    """
    kernel, _process, vma, pmd = moved()
    zero = kernel.huge_memory.huge_zero_folio
    unmarked = pmd & ~(1 << 56)
    folio = kernel.memory.vm_normal_folio_pmd(vma, vma.start, unmarked)
    assert folio is zero
    # What a process may read of itself would count the zeros as a file's block:
    pmdp = kernel.pgtable.find_pmd(vma.mm, vma.start)
    assert kernel.task_mmu.smap_gather_stats(vma).resident == 0
    kernel.machine.memory.write(pmdp, unmarked)
    assert kernel.task_mmu.smap_gather_stats(vma).file_thp == 2 << 20
    # What unmapping a normal folio does, as a rewritten zap would:
    kernel.rmap.folio_remove_rmap_pmd(folio, vma)
    assert folio.mapcount == -1
    with pytest.raises(BadPageError, match="page tables map it"):
        kernel.swap.folio_put(folio)


# -- memory tags ---------------------------------------------------------------------


class Tagged:
    """A kernel on CPUs with tags, whose first free block has tags and bytes in it."""

    def __init__(self, version="v6.17", *, without=(), mte=True, config=ARM64):
        model = replace(find_model("neoverse-v2"), mte=mte)
        self.kernel = Kernel(Machine(1, model), version, without, config=config)
        self.kernel.huge_memory.enabled = "always"

    def soil(self, *, init_on_free=False):
        """Let a process use a block, tags and all, and end."""
        kernel = self.kernel
        process = kernel.spawn()
        base = process.mmap(2 << 20, mte=kernel.mte.supported)
        process.write(base, 0xD1E7)
        if kernel.mte.supported:
            process.store_tag(base, 5)
        pmdp = kernel.pgtable.find_pmd(process.mm, base)
        assert pmdp is not None
        self.pfn = kernel.pgtable.pmd_pfn(kernel.pgtable.read(pmdp))
        kernel.page_alloc.init_on_free = init_on_free
        process.exit()
        kernel.swap.lru_add_drain_all()
        kernel.rcu.quiesce()
        return self

    def reader(self):
        """A process that has read untouched memory, which is where that block was."""
        process = self.kernel.spawn()
        base = process.mmap(2 << 20, mte=self.kernel.mte.supported)
        value = process.read(base)
        zero = self.kernel.huge_memory.huge_zero_folio
        assert zero is not None
        assert zero.pfn == self.pfn, "the same frames"
        return process, base, value


def seen(**how):
    """The first word and the first tag of untouched memory."""
    init_on_free = how.pop("init_on_free", False)
    process, base, value = Tagged(**how).soil(init_on_free=init_on_free).reader()
    return value, process.load_tag(base)


def test_before_the_mark_tags_were_cleared_when_the_entry_was_made():
    """v6.17 maps the folio by an unmarked entry, and clears the tags then."""
    assert seen(version="v6.17") == (0, 0)


def test_the_mark_let_old_tags_show():
    """With the mark, and nothing else, a process sees another one's tags."""
    assert seen(version="pr350") == (0, 5)
    assert seen(version="fixed", without=(TAGS,)) == (0, 5)


def test_a_pointer_without_a_tag_faults_on_them():
    """The architecture's promise is that fresh memory has tag 0."""
    process, base, _ = Tagged(version="pr350").soil().reader()
    with pytest.raises(Signal, match="SEGV_MTESERR"):
        process.read_checked(base)
    process, base, _ = Tagged(version="v6.19").soil().reader()
    assert process.read_checked(base) == 0


@pytest.mark.parametrize("version", ["v6.19", "fixed"])
def test_the_folio_is_born_with_clear_tags(version):
    """v6.18 as released asks the allocator for them."""
    assert seen(version=version) == (0, 0)


def test_with_init_on_free_the_tags_stayed_until_v7_1():
    """The page was zero already, so nobody looked at its tags either."""
    assert seen(version="v6.17", init_on_free=True) == (0, 0)
    assert seen(version="v6.19", init_on_free=True) == (0, 5)
    assert seen(version="fixed", init_on_free=True) == (0, 0)


@pytest.mark.parametrize("helper", [True, False], ids=["arm64", "x86"])
def test_asking_for_tags_lost_the_zeros_where_there_are_none(helper):
    """v6.18-rc6 handed out a huge zero folio that was not zero, but on arm64."""
    config = replace(ARM64, arch_has_tag_helper=helper)
    found = [
        seen(version="v6.19", without=without, mte=False, config=config)[0]
        for without in ((TAGS,), (ZEROING,), ())
    ]
    assert found == [0, 0 if helper else 0xD1E7, 0]


def test_tags_of_a_page_that_is_mapped_are_cleared_once():
    """A page's tags are made 0 when it is first mapped as tagged memory, and kept."""
    kernel = Tagged(version="fixed").soil().kernel
    process = kernel.spawn()
    base = process.mmap(2 << 20, mte=True)
    process.write(base, 1)
    assert process.load_tag(base) == 0
    process.store_tag(base, 9)
    process.mprotect(base, 2 << 20, "r")
    assert process.load_tag(base) == 9
    plain = process.mmap(4096)
    process.write(plain, 1)
    process.store_tag(plain, 3)
    assert process.load_tag(plain) == 0, "no PROT_MTE, no tags"


def test_tags_need_a_cpu_that_has_them():
    """PROT_MTE is passed over otherwise: there is memory, and it has no tags."""
    kernel = boot("fixed", cpus=1)
    process = kernel.spawn()
    base = process.mmap(4096, mte=True)
    process.store_tag(base, 3)
    assert process.load_tag(base) == 0
