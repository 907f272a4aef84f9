"""Files in persistent memory: holes, data, blocks and pages, and what they count."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.events import Event
from tlbkit.lab.dax_hole import (
    BEFORE,
    DATA,
    NO_FOLIO,
    NO_MEMORY,
    SITUATIONS,
    ZERO,
    Loaded,
    load,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pmd_table,
    pmd_trans_huge,
    pte_dirty,
    pte_none,
    pte_write,
)
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_FALLBACK,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
)
from tlbkit.linux.include.linux.mm_types import VmFault
from tlbkit.linux.include.uapi.asm_generic.errno import Signal
from tlbkit.linux.tests.audit import audit_tlbs
from tlbkit.linux.tests.support import boot
from tlbkit.observe.sanitizer import Sanitizer

BLOCK = 2 << 20
PAGE = 4096
COMMIT = "b0f86aaebed1"


class Scene:
    """A file of some blocks, all of it a hole, and a process that maps it shared."""

    def __init__(self, version="fixed", *, blocks=2, without=(), cpus=2):
        self.kernel = boot(version, cpus=cpus, without=without)
        self.pgtable = self.kernel.pgtable
        self.inode = self.kernel.pmem.create("data", blocks * BLOCK)
        self.process = self.kernel.spawn()
        self.fd = self.process.open("data")
        self.base = self.process.mmap(blocks * BLOCK, fd=self.fd, shared=True)
        self.traces: list[str] = []
        self.kernel.machine.events.listen(
            lambda event: self.traces.append(event.what), ["dax"]
        )

    def pmd(self, process=None, base=None):
        """The PMD entry of an address, the first of the file's by default."""
        process = process or self.process
        pmdp = self.pgtable.find_pmd(process.mm, base or self.base)
        return self.pgtable.read(pmdp) if pmdp else 0

    def fault(self, *, write=False, address=None):
        """A fault on its way, as the handler of blocks meets it."""
        at = address or self.base
        vma = self.kernel.vma.vma_lookup(self.process.mm, at)
        vmf = VmFault(vma, at, at, int(write))
        vmf.pgoff = self.kernel.rmap.linear_page_index(vma, at)
        vmf.pmd = self.kernel.memory.pmd_alloc(self.process.mm, at)
        return vmf

    def huge_fault(self, **how):
        """What the area's owner answers to a fault for a block."""
        vmf = self.fault(**how)
        return vmf.vma.ops.huge_fault(vmf, self.pgtable.hpage_pmd_order)


# -- one access at a time ------------------------------------------------------------


def test_a_read_of_a_hole_maps_the_huge_zero_folio():
    """It is marked, uncounted, read-only, and no table is stored for it."""
    scene = Scene()
    assert scene.process.read(scene.base + 5 * PAGE) == 0
    zero = scene.kernel.huge_memory.huge_zero_folio
    assert scene.kernel.huge_memory.is_huge_zero_pmd(scene.pmd())
    assert scene.pgtable.pmd_special(scene.pmd())
    assert not pte_write(scene.pmd())
    assert (zero.refcount, zero.mapcount, scene.process.mm.filepages) == (1, 0, 0)
    assert scene.process.mm.huge_zero
    assert scene.process.mm.pgtables[3] == 0
    assert scene.traces == ["dax_pmd_load_hole"]


def test_a_write_of_a_hole_maps_new_memory_by_a_block():
    """The file gets a block of frames in a row, dirty and writable."""
    scene = Scene()
    scene.process.write(scene.base + 8, 5)
    assert pmd_trans_huge(scene.pmd())
    assert pte_write(scene.pmd())
    assert pte_dirty(scene.pmd())
    assert scene.process.mm.filepages == 512
    assert scene.kernel.pmem.word("data", 8) == 5
    entry = scene.kernel.dax.entry_at(scene.inode.mapping, 300)
    assert (entry.order, entry.kind, entry.dirty, entry.locked) == (
        9,
        "data",
        True,
        False,
    )


def test_a_write_over_zeros_takes_them_from_everybody():
    """Who mapped the zeros faults again, and reads what was written."""
    scene = Scene()
    other = scene.kernel.spawn()
    there = other.mmap(BLOCK, fd=other.open("data"), shared=True)
    assert other.read(there) == scene.process.read(scene.base) == 0
    scene.process.write(scene.base, 7)
    assert pte_none(scene.pmd(other, there))
    assert other.read(there) == 7
    audit_tlbs(scene.kernel)


def test_data_read_first_is_written_where_it_stands():
    """A second write fault finds the same folio, and only gives rights."""
    scene = Scene()
    scene.process.write(scene.base, 1)
    other = scene.kernel.spawn()
    there = other.mmap(BLOCK, fd=other.open("data"), shared=True)
    assert other.read(there) == 1
    assert not pte_write(scene.pmd(other, there))
    folio = scene.kernel.page_alloc.folio_of(scene.pgtable.pmd_pfn(scene.pmd()))
    assert (folio.refcount, folio.mapcount) == (2, 2)
    other.write(there, 2)
    assert pte_write(scene.pmd(other, there))
    assert (folio.refcount, folio.mapcount) == (2, 2)
    assert scene.process.read(scene.base) == 2


@pytest.mark.parametrize("written", [False, True])
def test_a_private_write_copies_one_page(written):
    """The block goes, and the page that was written is the process's own."""
    scene = Scene()
    if written:
        scene.process.write(scene.base + PAGE, 1)
    other = scene.kernel.spawn()
    there = other.mmap(BLOCK, fd=other.open("data"))
    assert other.read(there + PAGE) == int(written)
    other.write(there + PAGE, 9)
    assert pmd_table(scene.pmd(other, there))
    assert (other.mm.anonpages, other.mm.filepages) == (1, 0)
    assert scene.process.read(scene.base + PAGE) == int(written)
    assert scene.kernel.pmem.word("data", PAGE) == int(written)


@pytest.mark.parametrize(
    ("offset", "length", "write"),
    [(PAGE, BLOCK, False), (0, BLOCK // 2, False), (0, BLOCK, False)],
    ids=["another colour", "half a block", "behind the end"],
)
def test_where_no_block_fits_pages_are_mapped(offset, length, write):
    """Colour, area and end of the file decide before anything is looked up."""
    scene = Scene(blocks=2)
    if length == BLOCK and not offset:
        scene.process.ftruncate(scene.fd, BLOCK // 2)
    other = scene.kernel.spawn()
    fd = other.open("data")
    there = other.mmap(length, fd=fd, offset=offset, shared=True)
    assert other.read(there) == 0
    assert pmd_table(scene.pmd(other, there))
    assert scene.kernel.dax.thp_fault_fallback == 1
    other.write(there, 3)
    assert scene.kernel.pmem.word("data", offset) == 3
    assert not write


def test_a_page_where_a_block_of_zeros_is_takes_its_place():
    """The zeros are unmapped everywhere, and pages are mapped from then on."""
    scene = Scene()
    scene.process.read(scene.base)
    other = scene.kernel.spawn()
    there = other.mmap(BLOCK, fd=other.open("data"), offset=PAGE, shared=True)
    other.read(there)
    assert pte_none(scene.pmd())
    entry = scene.kernel.dax.entry_at(scene.inode.mapping, 1)
    assert (entry.order, entry.kind) == (0, "zero")
    assert scene.process.read(scene.base) == 0
    assert pmd_table(scene.pmd()), "a block conflicts with the page now"


def test_a_page_of_a_block_of_data_is_mapped_beside_it():
    """The entry stays a block's; the folio is mapped by both kinds of entries."""
    scene = Scene()
    scene.process.write(scene.base + PAGE, 4)
    other = scene.kernel.spawn()
    there = other.mmap(BLOCK, fd=other.open("data"), offset=PAGE, shared=True)
    assert other.read(there) == 4
    folio = scene.kernel.page_alloc.folio_of(scene.pgtable.pmd_pfn(scene.pmd()))
    assert (folio.entire_mapcount, folio.page_mapcount[1]) == (1, 1)
    assert folio.refcount == folio.mapcount == 2


def test_a_file_knows_of_every_page_that_is_written():
    """A page that was only read asks again before it is written."""
    scene = Scene()
    other = scene.kernel.spawn()
    there = other.mmap(BLOCK, fd=other.open("data"), offset=PAGE, shared=True)
    for write in (False, True):
        other.read(there)
        entry = scene.kernel.dax.entry_at(scene.inode.mapping, 1)
        assert entry.dirty == write
        if not write:
            other.write(there, 1)
    third = scene.kernel.spawn()
    here = third.mmap(BLOCK, fd=third.open("data"), offset=PAGE, shared=True)
    third.read(here)
    entry = scene.kernel.dax.entry_at(scene.inode.mapping, 1)
    entry.dirty = False  # as if it had been written back
    third.write(here, 2)
    assert entry.dirty


def test_behind_the_end_of_a_file_is_a_signal():
    """Neither a page nor a block is mapped there."""
    scene = Scene(blocks=2)
    scene.process.ftruncate(scene.fd, BLOCK)
    with pytest.raises(Signal, match="SIGBUS"):
        scene.process.read(scene.base + BLOCK)
    assert scene.huge_fault(address=scene.base + BLOCK) == VM_FAULT_SIGBUS


def test_what_is_cut_off_is_unmapped_and_reads_as_zeros_if_it_returns():
    """Entries, frames and mappings go with the end of the file."""
    scene = Scene()
    scene.process.write(scene.base + BLOCK, 6)
    scene.process.ftruncate(scene.fd, BLOCK)
    assert pte_none(scene.pmd(base=scene.base + BLOCK))
    assert scene.kernel.dax.entry_at(scene.inode.mapping, 512) is None
    scene.process.ftruncate(scene.fd, 2 * BLOCK)
    assert scene.process.read(scene.base + BLOCK) == 0


def test_mprotect_keeps_zeros_read_only():
    """Rights to write are given by a fault, which knows the file."""
    scene = Scene()
    scene.process.read(scene.base)
    scene.process.mprotect(scene.base, BLOCK, "r")
    scene.process.mprotect(scene.base, BLOCK, "rw")
    assert scene.kernel.huge_memory.is_huge_zero_pmd(scene.pmd())
    assert not pte_write(scene.pmd())
    scene.process.write(scene.base, 2)
    assert scene.kernel.pmem.word("data", 0) == 2


@pytest.mark.parametrize("data", [False, True])
def test_a_block_of_a_file_is_not_split_into_pages(data):
    """The entry goes, and with it reference and mapping, if it had any."""
    scene = Scene()
    if data:
        scene.process.write(scene.base, 1)
    else:
        scene.process.read(scene.base)
    folio = scene.kernel.page_alloc.folio_of(scene.pgtable.pmd_pfn(scene.pmd()))
    scene.process.munmap(scene.base + PAGE, PAGE)
    assert pte_none(scene.pmd())
    assert folio.mapcount == 0
    assert folio.refcount == (0 if data else 1)
    assert scene.process.mm.filepages == 0
    assert scene.process.read(scene.base) == int(data)


def test_a_child_finds_the_file_by_itself():
    """Fork copies no entries of such an area, zeros or not."""
    scene = Scene()
    scene.process.read(scene.base)
    scene.process.write(scene.base + BLOCK, 1)
    child = scene.process.fork()
    assert not child.mm.huge_zero
    assert scene.pmd(child) == 0
    assert child.read(scene.base + BLOCK) == 1


# -- a hole, before the common insertion and after -----------------------------------


@pytest.mark.parametrize("deposit", [False, True])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_loading_a_hole_in_every_situation(situation, deposit):
    """Two situations are answered otherwise: something is there, or it does not fit.

    Callers keep the second from happening, and nobody was seen to reach the first.
    """
    old, new = (
        load(situation, before=before, deposit=deposit) for before in (True, False)
    )
    there = situation in {ZERO, DATA}
    kept = int(deposit and situation == ZERO)
    traced = ["dax_pmd_load_hole"]
    done = Loaded(
        VM_FAULT_NOPAGE, traced, changed=True, mapped=True, stored=int(deposit)
    )
    fallback = Loaded(
        VM_FAULT_FALLBACK,
        ["dax_pmd_load_hole_fallback"],
        changed=False,
        mapped=there,
        stored=kept,
    )
    if situation == NO_FOLIO:
        assert old == new == fallback
    elif there:
        assert old == fallback
        assert new == Loaded(
            VM_FAULT_NOPAGE, traced, changed=False, mapped=True, stored=kept
        )
    elif situation == NO_MEMORY and deposit:
        assert old == new
        assert new == Loaded(VM_FAULT_OOM, [], changed=False, mapped=False, stored=0)
    elif situation == BEFORE:
        assert old == done
        assert new == Loaded(VM_FAULT_SIGBUS, [], changed=False, mapped=False, stored=0)
    else:
        assert old == new == done


def test_a_second_fault_on_zeros_no_longer_destroys_them():
    """Before, the block was taken away and pages of zeros were mapped instead."""
    for before in (True, False):
        scene = Scene(without=(COMMIT,) if before else ())
        scene.process.read(scene.base)
        answer = scene.huge_fault()  # as a thread that saw nothing there
        assert answer == (VM_FAULT_FALLBACK if before else VM_FAULT_NOPAGE)
        assert scene.kernel.dax.thp_fault_fallback == int(before)
        assert pte_none(scene.pmd()) == before
        assert scene.process.read(scene.base) == 0
        assert pmd_trans_huge(scene.pmd()), "the next fault maps the block again"


def test_the_same_answer_makes_progress():
    """After "nothing to do", the access finds the leaf that is there."""
    scene = Scene()
    assert scene.huge_fault() == VM_FAULT_NOPAGE
    assert scene.huge_fault() == VM_FAULT_NOPAGE
    faults: list[Event] = []
    scene.kernel.machine.events.listen(faults.append, ["fault"])
    assert scene.process.read(scene.base) == 0
    assert not faults


# -- programs ------------------------------------------------------------------------

PLACES = st.sampled_from([0, 1, 511, 512, 700])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "read", "write", "protect", "shrink"]),
        st.integers(0, 2),
        PLACES,
    ),
    min_size=4,
    max_size=16,
)


def check_folios(scene, maps):
    """Mapcounts of all folios of the file are those of the entries that map them."""
    kernel = scene.kernel
    pgtable = scene.pgtable
    entries: dict[int, int] = {}
    for process, _ in maps:
        pages = anon = 0
        for vma in process.mm.vmas:
            for pmdp, addr, end in kernel.memory.pmd_entries(
                process.mm, vma.start, vma.end
            ):
                pmd = pgtable.read(pmdp)
                if pmd_leaf(pmd):
                    if kernel.huge_memory.is_huge_zero_pmd(pmd):
                        assert process.mm.huge_zero
                        continue
                    pages += 512
                    pfn = pgtable.pmd_pfn(pmd)
                    entries[pfn] = entries.get(pfn, 0) + 1
                elif pmd_table(pmd):
                    for at in range(addr, end, PAGE):
                        pte = pgtable.read(pgtable.pte_offset(pmdp, at))
                        if pte_none(pte) or pgtable.pte_special(pte):
                            continue
                        folio = kernel.page_alloc.folio_of(pgtable.pte_pfn(pte))
                        anon += folio.anon
                        pages += not folio.anon
                        entries[folio.pfn] = entries.get(folio.pfn, 0) + 1
        assert (process.mm.filepages, process.mm.anonpages) == (pages, anon)
    for pfn, count in entries.items():
        assert kernel.page_alloc.folio_of(pfn).mapcount == count
    zero = kernel.huge_memory.huge_zero_folio
    if zero is not None:
        assert (zero.refcount, zero.mapcount) == (1, 0)


@given(STEPS)
@settings(deadline=None, max_examples=120)
def test_programs_read_what_was_written(steps):
    """Two shared mappings, one of another colour, and a private one agree on the file.

    The private one sees what others write until it writes a page itself.
    """
    scene = Scene(blocks=2)
    second, private = scene.kernel.spawn(), scene.kernel.spawn()
    odd = second.mmap(
        2 * BLOCK - PAGE, fd=second.open("data"), offset=PAGE, shared=True
    )
    own = private.mmap(2 * BLOCK, fd=private.open("data"))
    maps = [(scene.process, scene.base), (second, odd - PAGE), (private, own)]
    file: dict[int, int] = {}
    copies: dict[int, int] = {}
    for number, (step, who, place) in enumerate(steps):
        process, base = maps[who]
        if who == 1 and place == 0:
            continue
        at = base + place * PAGE
        try:
            if step == "read":
                seen = copies.get(place, file.get(place, 0)) if who == 2 else None
                expected = file.get(place, 0) if seen is None else seen
                assert process.read(at) == expected
            elif step == "write":
                process.write(at, number + 1)
                (copies if who == 2 else file)[place] = number + 1
            elif step == "protect":
                process.mprotect(at, PAGE, "r")
                process.mprotect(at, PAGE, "rw")
            elif step == "shrink":
                scene.kernel.huge_memory.shrink_huge_zero_folio_scan()
        except Signal:
            pytest.fail("every address is mapped")
        check_folios(scene, maps)
        audit_tlbs(scene.kernel)
    for place, value in file.items():
        assert scene.kernel.pmem.word("data", place * PAGE) == value
    for process, _ in maps:
        process.exit()
    scene.kernel.swap.lru_add_drain_all()
    assert not scene.kernel.panic.warnings


@pytest.mark.parametrize("version", ["v6.17", "v6.19", "fixed"])
def test_holes_and_data_keep_every_rule(version):
    """No stale translation, no wrong count, no lock out of order, at any event."""
    kernel = boot(version, cpus=2)
    with Sanitizer(kernel) as rules:
        kernel.pmem.create("data", 4 * BLOCK)
        first, second = kernel.spawn(0), kernel.spawn(1)
        fd, other = first.open("data"), second.open("data")
        shared = first.mmap(4 * BLOCK, fd=fd, shared=True)
        private = second.mmap(4 * BLOCK, fd=other)
        odd = second.mmap(BLOCK, fd=other, offset=PAGE, shared=True)
        for at in (0, BLOCK):
            assert first.read(shared + at) == second.read(private + at) == 0
        first.write(shared + PAGE, 5)
        assert second.read(odd) == second.read(private + PAGE) == 5
        second.write(private + PAGE, 6)
        second.write(odd, 7)
        child = first.fork()
        child.write(shared + 2 * BLOCK, 8)
        first.munmap(shared + BLOCK + PAGE, PAGE)
        first.ftruncate(fd, BLOCK)
        for process in (child, first, second):
            process.exit()
    assert rules.reports == []
    assert kernel.pmem.word("data", PAGE) == 7


@pytest.mark.parametrize("page", [2, 5, 511])
def test_what_a_truncated_huge_page_is_followed_by_lasts(page):
    """After a cut within a huge page, what is written behind is the file's again."""
    kernel = boot(cpus=1)
    kernel.pmem.create("cut", BLOCK)
    process = kernel.spawn()
    fd = process.open("cut")
    base = process.mmap(BLOCK, addr=1 << 32, fixed=True, fd=fd, shared=True)
    process.write(base, 1)
    process.write(base + page * PAGE, 7)
    process.ftruncate(fd, 2 * PAGE)
    process.ftruncate(fd, BLOCK)
    assert process.read(base + page * PAGE) == 0
    process.write(base + page * PAGE, 9)
    assert kernel.pmem.word("cut", page * PAGE) == 9
    assert (process.read(base), kernel.pmem.word("cut", 0)) == (1, 1)
    process.exit()


def test_truncation_waits_for_a_fault_at_work():
    """An entry that a fault has locked is forgotten only once it is unlocked."""
    kernel = boot(cpus=1)
    inode = kernel.pmem.create("busy", BLOCK)
    entry = kernel.dax.grab_mapping_entry(inode.mapping, 3, 0)
    waited: list[str] = []

    def finish(until, what):
        waited.append(what)
        kernel.dax._unlock(inode.mapping, entry)
        assert until()

    kernel.machine.wait = finish
    kernel.dax.dax_delete_mapping_entries(inode.mapping, 0)
    assert len(waited) == 1
    assert kernel.dax.entry_at(inode.mapping, 3) is None
