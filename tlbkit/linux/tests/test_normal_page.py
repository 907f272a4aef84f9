"""Who asks which page an entry maps: drivers, walkers, smaps, pagemap and GUP."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.machine import Machine
from tlbkit.lab.normal_page import Area, Frame, Situation, legal
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pte_present,
)
from tlbkit.linux.fs.proc.task_mmu import (
    PM_FILE,
    PM_MMAP_EXCLUSIVE,
    PM_PFRAME_MASK,
    PM_PRESENT,
)
from tlbkit.linux.include.linux.fs import AddressSpaceOperations, FileOperations
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_WRITE,
    VM_FAULT_NOPAGE,
    VM_FAULT_SIGBUS,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_REMAP_FLAGS,
    VM_SHARED,
    VmOperations,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.mm_types import LargeFolio, PG_reserved, VmFault
from tlbkit.linux.include.linux.pgtable import PgtableLevel
from tlbkit.linux.include.uapi.asm_generic.errno import EEXIST, EFAULT, EINVAL, ENOMEM
from tlbkit.linux.kernel import kernel as linux
from tlbkit.linux.kernel.config import ARM64, PROFILES, Config, with_profile
from tlbkit.linux.kernel.panic import BugError
from tlbkit.linux.mm.page_alloc import RAM_BASE
from tlbkit.linux.mm.pagewalk import FW_ZEROPAGE
from tlbkit.linux.tests.support import PAGE
from tlbkit.patches.build import build
from tlbkit.patches.huge_zero_special import HugeMemoryBefore
from tlbkit.patches.kernels import Kernel

BLOCK = 2 << 20
UART = 0x0900_0000
"""Where a device's registers are on many boards: below all memory."""
PROFILED = pytest.mark.parametrize("profile", PROFILES)


def kernel_of(version="fixed", *, config: Config = ARM64, without=()) -> Kernel:
    """A kernel on one CPU."""
    return Kernel(Machine(1), version, without, config)


def area(kernel: Kernel, process: Any, addr: int) -> Any:
    """The area that an address lies in."""
    return kernel.vma.vma_lookup(process.mm, addr)


class Device(VmOperations, FileOperations):
    """A driver that maps one frame for each fault, as it is told to."""

    __slots__ = ("kernel", "kind", "pfn")

    def __init__(self, kernel, kind, pfn):
        self.kernel = kernel
        self.kind = kind
        self.pfn = pfn

    def mmap(self, file, vma):
        """Make the area one for frames, or for both."""
        del file
        vma.ops = self
        vma.flags |= VM_PFNMAP if self.kind == "pfn" else VM_MIXEDMAP
        return 0

    def fault(self, vmf):
        """Map the frame that belongs to the address."""
        vma = vmf.vma
        offset = (vmf.address - vma.start) // PAGE
        memory = self.kernel.memory
        if self.kind == "pfn":
            return memory.vmf_insert_pfn(vma, vmf.address, self.pfn + offset)
        return memory.vmf_insert_mixed(vma, vmf.address, self.pfn + offset)


def mapped_device(kernel, kind, pfn, *, pages=4, shared=True):
    """A process that maps *pages* frames of a device from *pfn* on."""
    device = Device(kernel, kind, pfn)
    inode = kernel.file_table.new_inode("/dev/it", device, AddressSpaceOperations())
    inode.nlink = 1
    return mapped(kernel, kernel.file_table.alloc_file(inode), pages, shared=shared)


def mapped(kernel, file, pages, *, offset=0, shared=True, prot="rw"):
    """A process that maps an open file, and where."""
    process = kernel.spawn()
    fd = process.open_device(file)
    base = process.mmap(pages * PAGE, prot, fd=fd, offset=offset, shared=shared)
    return process, base


def smaps(kernel, process, addr):
    """What smaps says of the area around an address."""
    return kernel.task_mmu.smap_gather_stats(area(kernel, process, addr)).lines


def untouched(kernel) -> bool:
    """Nothing was reported, and nothing warned of."""
    return not kernel.printk.log and not kernel.panic.warnings


# -- frames by number --------------------------------------------------------------


@PROFILED
@pytest.mark.parametrize("version", ["v6.17", "v6.19", "fixed"])
def test_a_device_s_registers_are_mapped_and_not_counted(profile, version):
    """Raw frames come and go by every architecture's means, without a trace."""
    kernel = kernel_of(version, config=with_profile(profile))
    before = kernel.page_alloc.in_use
    process, base = mapped(kernel, kernel.mem.open(), 4, offset=UART)
    kernel.machine.memory.write(UART + PAGE, 7)
    assert process.read(base + PAGE) == 7
    assert smaps(kernel, process, base)["Rss"] == 0
    child = process.fork()
    assert child.read(base + PAGE) == 7
    process.write(base, 5)
    assert kernel.machine.memory.read(UART) == child.read(base) == 5
    for one in (child, process):
        one.exit()
    assert kernel.page_alloc.in_use == before
    assert untouched(kernel)


@PROFILED
def test_a_private_mapping_of_memory_by_number_holds_copies(profile):
    """A write copies; the copy is a normal page, told by the row without a bit."""
    kernel = kernel_of(config=with_profile(profile))
    folio: Any = kernel.page_alloc.alloc(2)
    for n in range(4):
        kernel.machine.memory.write((folio.pfn + n) * PAGE, 40 + n)
    process, base = mapped(
        kernel, kernel.mem.open(), 4, offset=folio.pfn * PAGE, shared=False
    )
    assert [process.read(base + n * PAGE) for n in range(4)] == [40, 41, 42, 43]
    process.write(base + PAGE, 1)
    assert kernel.machine.memory.read((folio.pfn + 1) * PAGE) == 41
    assert smaps(kernel, process, base)["Anonymous"] == 4
    assert (folio.mapcount, process.mm.anonpages) == (0, 1)
    child = process.fork()
    child.write(base + PAGE, 2)
    assert process.read(base + PAGE) == 1
    for one in (process, child):
        one.exit()
    assert folio.refcount == 1
    assert untouched(kernel)


def test_private_frames_cover_their_area_or_are_refused():
    """A part of a private area has no row that tells copies apart: EINVAL."""
    kernel = kernel_of()
    process = kernel.spawn()
    vma = area(kernel, process, process.mmap(4 * PAGE))
    remap = kernel.memory.remap_pfn_range
    assert remap(vma, vma.start, 99, PAGE, vma.page_prot) == -EINVAL
    assert remap(vma, vma.start, 99, 4 * PAGE, vma.page_prot) == 0
    assert vma.pgoff == 99
    with pytest.raises(BugError, match="where something is"):
        remap(vma, vma.start, 99, 4 * PAGE, vma.page_prot)


def test_frames_that_could_not_all_be_mapped_are_not():
    """A driver that is told of an error may give all of its memory away."""
    kernel = kernel_of()
    process = kernel.spawn()
    pages = 1024
    vma = area(kernel, process, process.mmap(pages * PAGE, shared=True))
    kernel.page_alloc.fail = lambda: process.mm.pgtables[3] > 0
    remap = kernel.memory.remap_pfn_range
    size = vma.end - vma.start
    assert remap(vma, vma.start, 99, size, vma.page_prot) == -ENOMEM
    kernel.page_alloc.fail = None
    entries = [
        kernel.pgtable.read(ptep)
        for addr in range(vma.start, vma.end, PAGE)
        if (ptep := kernel.pgtable.find_pte(process.mm, addr)) is not None
    ]
    assert entries
    assert not any(entries)
    assert vma.flags & VM_REMAP_FLAGS == VM_REMAP_FLAGS


@PROFILED
@pytest.mark.parametrize("kind", ["pfn", "mixed"])
def test_a_fault_brings_a_frame(kind, profile):
    """A driver's fault handler maps frames, of devices or memory, and twice is once."""
    for memory in (False, True):
        kernel = kernel_of(config=with_profile(profile))
        folio: Any = kernel.page_alloc.alloc(2)
        pfn = folio.pfn if memory else UART // PAGE
        process, base = mapped_device(kernel, kind, pfn)
        process.write(base + PAGE, 9)
        assert kernel.machine.memory.read((pfn + 1) * PAGE) == 9
        vma = area(kernel, process, base)
        counted = kind == "mixed" and memory and profile == "000"
        assert folio.mapcount == int(counted)
        assert smaps(kernel, process, base)["Rss"] == 4 * counted
        again = kernel.memory.vmf_insert_mixed if kind == "mixed" else None
        if again is not None:
            assert again(vma, base + PAGE, pfn + 1, mkwrite=True) == VM_FAULT_NOPAGE
            assert again(vma, vma.end, pfn) == VM_FAULT_SIGBUS
        else:
            insert = kernel.memory.vmf_insert_pfn
            assert insert(vma, vma.end, pfn) == VM_FAULT_SIGBUS
        process.exit()
        assert (folio.mapcount, folio.refcount) == (0, 1)
        assert untouched(kernel)


def test_frames_need_an_area_for_them():
    """A frame in an area that is not for it stops the kernel, or is refused."""
    kernel = kernel_of()
    process = kernel.spawn()
    vma = area(kernel, process, process.mmap(PAGE))
    with pytest.raises(BugError, match="VM_PFNMAP or"):
        kernel.memory.vmf_insert_pfn(vma, vma.start, 1)
    assert kernel.memory.vmf_insert_mixed(vma, vma.start, 1) == VM_FAULT_SIGBUS
    zero = kernel.zero_pfn
    mixed = kernel.memory.vmf_insert_mixed
    assert mixed(vma, vma.start, zero, mkwrite=True) == VM_FAULT_SIGBUS
    assert mixed(vma, vma.start, zero) == VM_FAULT_NOPAGE
    vma.flags |= VM_PFNMAP
    with pytest.raises(BugError, match="private"):
        kernel.memory.vmf_insert_pfn(vma, vma.start, 1)
    vma.flags ^= VM_PFNMAP | VM_MIXEDMAP
    with pytest.raises(BugError, match="counted"):
        kernel.memory.vmf_insert_pfn(vma, vma.start, zero)


def test_a_driver_s_page_is_counted():
    """vm_insert_page() takes a reference and counts; errors take none."""
    kernel = kernel_of()
    process, base = mapped_device(kernel, "mixed", 0)
    vma = area(kernel, process, base)
    folio: Any = kernel.page_alloc.alloc()
    insert = kernel.memory.vm_insert_page
    assert insert(vma, base, folio.pfn) == 0
    assert (folio.refcount, folio.mapcount, process.mm.filepages) == (2, 1, 1)
    assert kernel.vmstat.node["NR_FILE_MAPPED"] == 1
    assert insert(vma, base, folio.pfn) < 0
    assert insert(vma, vma.end, folio.pfn) == -EFAULT
    assert insert(vma, base + PAGE, UART // PAGE) == -EINVAL
    assert (folio.refcount, folio.mapcount) == (2, 1)
    assert smaps(kernel, process, base)["Rss"] == 4
    process.exit()
    assert (folio.refcount, folio.mapcount) == (1, 0)
    assert untouched(kernel)


def test_the_zero_page_is_inserted_marked_and_read_only():
    """A write fault that inserts the zero page gets an entry that nobody may write."""
    kernel = kernel_of()
    process, base = mapped_device(kernel, "mixed", 0)
    vma = area(kernel, process, base)
    zero = kernel.zero_pfn
    vmf = VmFault(vma, base, base, FAULT_FLAG_WRITE)
    refused = kernel.memory.vmf_insert_page_mkwrite(vmf, zero, write=True)
    assert refused == VM_FAULT_SIGBUS, "where it could be exchanged unnoticed"
    vma.flags &= ~VM_SHARED
    code = kernel.memory.vmf_insert_page_mkwrite(vmf, zero, write=True)
    assert code == VM_FAULT_NOPAGE
    ptep = kernel.pgtable.find_pte(process.mm, base)
    assert ptep is not None
    entry = kernel.pgtable.read(ptep)
    assert kernel.pgtable.pte_special(entry)
    assert kernel.page_alloc.folio_of(zero).mapcount == 0
    process.exit()
    assert untouched(kernel)


# -- Xen's grants ------------------------------------------------------------------

FOREIGN = [0x7F_0000 + n for n in range(3)]


@pytest.mark.parametrize(
    ("without", "config"),
    [
        ((), Config(find_normal_page=True)),
        (("4c89792ea0a2",), ARM64),
        (("af38538801c6",), ARM64),
    ],
    ids=["find", "special, shared", "special, PTE only"],
)
def test_grants_are_normal_pages_to_who_asks_their_driver(without, config):
    """Smaps counts them, and GUP finds the driver's own pages behind foreign frames."""
    kernel = kernel_of(config=config, without=without)
    before = kernel.page_alloc.in_use
    file = kernel.gntdev.open(FOREIGN)
    process, base = mapped(kernel, file, 3)
    vma = area(kernel, process, base)
    pages = [
        kernel.memory.vm_normal_page(vma, base + n * PAGE, entry_of(kernel, process, n))
        for n in range(3)
    ]
    assert all(page is not None and kernel.page_alloc.pfn_valid(page) for page in pages)
    assert len(set(pages)) == 3
    assert smaps(kernel, process, base)["Rss"] == 12
    folio = kernel.gup.get_user_page(process.mm, base + PAGE)
    assert not isinstance(folio, int)
    assert folio.pfn == pages[1]
    kernel.swap.folio_put(folio)
    process.exit()
    assert kernel.page_alloc.in_use == before
    assert untouched(kernel)


def test_a_part_of_the_grants_can_be_unmapped():
    """What is split off keeps its pages; what goes is taken back by the hypervisor."""
    kernel = kernel_of(config=Config(find_normal_page=True))
    before = kernel.page_alloc.in_use
    process, base = mapped(kernel, kernel.gntdev.open(FOREIGN), 3)
    pages = [kernel.gup.get_user_page(process.mm, base + n * PAGE) for n in range(3)]
    process.munmap(base + PAGE, PAGE)
    for n in (0, 2):
        assert kernel.gup.get_user_page(process.mm, base + n * PAGE) is pages[n]
    for folio in (*pages, pages[0], pages[2]):
        assert not isinstance(folio, int)
        kernel.swap.folio_put(folio)
    process.mmap(PAGE, addr=base + PAGE, fixed=True)
    process.write(base + PAGE, 1)
    process.exit()
    kernel.swap.lru_add_drain_all()
    assert kernel.page_alloc.in_use == before
    assert untouched(kernel)


def entry_of(kernel, process, n):
    """The entry of page *n* of the last area."""
    base = process.mm.vmas[1].start
    ptep = kernel.pgtable.find_pte(process.mm, base + n * PAGE)
    return kernel.pgtable.read(ptep)


def test_grants_are_raw_frames_to_a_kernel_without_the_hook():
    """With the option off they are special entries like any: no page, and no report."""
    kernel = kernel_of()
    process, base = mapped(kernel, kernel.gntdev.open(FOREIGN), 3)
    assert smaps(kernel, process, base)["Rss"] == 0
    assert kernel.gup.get_user_page(process.mm, base) == -EEXIST
    process.exit()
    assert untouched(kernel)


# -- folio_walk_start --------------------------------------------------------------


def test_a_walk_finds_page_and_lock():
    """Of a page, and of each page of a block: its own page, with the table locked."""
    kernel = kernel_of()
    process = kernel.spawn()
    kernel.huge_memory.enabled = "always"
    block = process.mmap(BLOCK)
    process.write(block, 1)
    kernel.huge_memory.enabled = "never"
    small = process.mmap(4 * PAGE)
    process.write(small + PAGE, 2)
    walk = kernel.pagewalk
    for addr, level in ((small + PAGE, "pte"), (block + 300 * PAGE, "pmd")):
        found = walk.folio_walk_start(area(kernel, process, addr), addr)
        assert found is not None
        assert str(found.level) == level
        found.ptl.assert_held()
        offset = 300 if level == "pmd" else 0
        assert found.page == found.folio.pfn + offset
        walk.folio_walk_end(found)
        assert found.ptl.holder is None
    assert walk.folio_walk_start(area(kernel, process, small), small) is None


@pytest.mark.parametrize("huge", [False, True])
def test_pages_of_zeros_are_found_on_request_only(huge):
    """Without the flag nothing is found; with it the folio is, and no page."""
    kernel = kernel_of()
    process = kernel.spawn()
    kernel.huge_memory.enabled = "always" if huge else "never"
    base = process.mmap(BLOCK)
    process.read(base)
    vma = area(kernel, process, base)
    assert kernel.pagewalk.folio_walk_start(vma, base) is None
    found = kernel.pagewalk.folio_walk_start(vma, base, FW_ZEROPAGE)
    assert found is not None
    assert found.page is None
    expected = kernel.huge_memory.huge_zero_folio if huge else None
    assert found.folio is (expected or kernel.page_alloc.folio_of(kernel.zero_pfn))
    kernel.pagewalk.folio_walk_end(found)


def pud_scene(kernel, pud, *, flags=0):
    """A process one of whose PUD entries is *pud*."""
    process = kernel.spawn()
    size = kernel.pgtable.pud_size
    base = 4 * size
    process.mmap(PAGE, addr=base, fixed=True)
    process.write(base, 1)
    vma = area(kernel, process, base)
    vma.end = base + size
    vma.flags |= flags
    pudp = kernel.pgtable.pud_offset(kernel.pgtable.pgd_offset(process.mm, base), base)
    old = kernel.pgtable.read(pudp)
    kernel.machine.memory.write(pudp, pud)
    return vma, base, pudp, old


def pud_leaf(kernel, pfn, *, special=False):
    """An entry that maps a PUD block."""
    entry = kernel.pgtable.mk_huge_pmd(pfn, 0x0060_0000_0000_0F43)
    return kernel.pgtable.pud_mkspecial(entry) if special else entry


def pud_folio(kernel):
    """A folio of a whole PUD block, in memory that nobody uses."""
    pfn = (RAM_BASE >> 12) + (4 << 18)
    folio = LargeFolio(pfn, 18)
    alloc = kernel.page_alloc
    first = pfn - (RAM_BASE >> 12)
    alloc._folios += [None] * (first + 1 - len(alloc._folios))
    alloc._folios[first] = folio
    return folio


@pytest.mark.parametrize("version", ["v6.17", "fixed"])
def test_a_pud_block_gives_page_k(version):
    """Page k of the block is found at k pages from its start, and the lock is held."""
    kernel = kernel_of(version)
    folio = pud_folio(kernel)
    vma, base, *_ = pud_scene(kernel, pud_leaf(kernel, folio.pfn))
    for k in (0, 1, 511, 512, 262143):
        found = kernel.pagewalk.folio_walk_start(vma, base + k * PAGE)
        assert found is not None
        assert (found.folio, found.page) == (folio, folio.pfn + k)
        assert found.level is PgtableLevel.PUD
        found.ptl.assert_held()
        kernel.pagewalk.folio_walk_end(found)


@pytest.mark.parametrize(
    ("profile", "flags", "special", "old", "new"),
    [
        ("111", 0, False, True, True),
        ("111", VM_PFNMAP, True, False, False),
        ("000", VM_PFNMAP, False, True, False),
        ("000", VM_MIXEDMAP, False, True, True),
        ("110", VM_PFNMAP, False, True, False),
    ],
)
def test_raw_pud_blocks_are_no_longer_found(profile, flags, special, old, new):
    """Without a bit, the old walk took every PUD leaf for a folio."""
    for version, expected in (("v6.17", old), ("fixed", new)):
        kernel = kernel_of(version, config=with_profile(profile))
        folio = pud_folio(kernel)
        entry = pud_leaf(kernel, folio.pfn, special=special)
        vma, base, *_ = pud_scene(kernel, entry, flags=flags)
        vma.pgoff = folio.pfn
        found = kernel.pagewalk.folio_walk_start(vma, base)
        assert (found is not None) == expected
        if found is not None:
            kernel.pagewalk.folio_walk_end(found)
        assert kernel.memory.pud_lockptr(vma.mm).holder is None


def test_a_pud_block_beyond_memory_is_reported_and_not_found():
    """The old walk returned its page; the new one says what it is."""
    for version, log in (("v6.17", False), ("fixed", True)):
        kernel = kernel_of(version)
        pfn = 1 << 35
        vma, base, *_ = pud_scene(kernel, pud_leaf(kernel, pfn))
        if version == "v6.17":
            assert kernel.pagewalk.page_of_pud(vma, base, pud_leaf(kernel, pfn)) == pfn
        else:
            assert kernel.pagewalk.folio_walk_start(vma, base) is None
        assert any("Bad page map" in line for line in kernel.printk.log) == log


def test_a_pud_that_becomes_a_table_is_walked_through():
    """A leaf is read again under the lock; if it is a table by then, one goes on."""
    kernel = kernel_of()
    folio = pud_folio(kernel)
    vma, base, pudp, table = pud_scene(kernel, pud_leaf(kernel, folio.pfn))

    def split(event: Any) -> None:
        if event.new == "acquired" and event.what is vma.mm.page_table_lock:
            kernel.machine.memory.write(pudp, table)

    kernel.machine.events.listen(split, {"lock"})
    found = kernel.pagewalk.folio_walk_start(vma, base)
    assert found is not None
    assert found.level is PgtableLevel.PTE
    kernel.pagewalk.folio_walk_end(found)
    assert vma.mm.page_table_lock.holder is None


def test_what_is_not_there_is_not_found_and_locks_nothing():
    """Empty entries at each level end the walk."""
    kernel = kernel_of()
    process = kernel.spawn()
    base = process.mmap(BLOCK, addr=8 << 30)
    vma = area(kernel, process, base)
    assert kernel.pagewalk.folio_walk_start(vma, base) is None
    process.mmap(PAGE, addr=(8 << 30) + 2 * BLOCK)
    process.write((8 << 30) + 2 * BLOCK, 1)
    assert kernel.pagewalk.folio_walk_start(vma, base) is None


# -- smaps and pagemap -------------------------------------------------------------


def test_smaps_of_a_program():
    """Pages and blocks, dirty and clean, one's own and shared, add up."""
    kernel = kernel_of()
    process = kernel.spawn()
    base = process.mmap(8 * PAGE)
    for n in range(3):
        process.write(base + n * PAGE, n)
    process.read(base + 5 * PAGE)
    lines = smaps(kernel, process, base)
    assert (lines["Rss"], lines["Pss"], lines["Private_Dirty"]) == (12, 12, 12)
    child = process.fork()
    lines = smaps(kernel, child, base)
    assert (lines["Rss"], lines["Pss"], lines["Shared_Dirty"]) == (12, 6, 12)
    assert lines["Referenced"] == 0
    assert smaps(kernel, process, base)["Referenced"] == 12


@pytest.mark.parametrize("exact", [True, False])
def test_smaps_of_a_block(exact):
    """A block is anonymous huge memory, in both ways to count."""
    kernel = kernel_of(config=Config(page_mapcount=exact))
    kernel.huge_memory.enabled = "always"
    process = kernel.spawn()
    base = process.mmap(BLOCK)
    process.write(base, 1)
    lines = smaps(kernel, process, base)
    assert lines["Rss"] == lines["AnonHugePages"] == lines["Private_Dirty"] == 2048
    process.fork()
    lines = smaps(kernel, process, base)
    assert (lines["Pss"], lines["Shared_Dirty"]) == (1024, 2048)


@PROFILED
def test_the_huge_zero_folio_in_smaps(profile):
    """It is in nobody's numbers; but v6.19 on 100 counts it as a file's block."""
    for version in ("v6.17", "v6.19", "fixed"):
        kernel = kernel_of(version, config=with_profile(profile))
        kernel.huge_memory.enabled = "always"
        process = kernel.spawn()
        base = process.mmap(BLOCK)
        assert process.read(base) == 0
        lines = smaps(kernel, process, base)
        words = kernel.task_mmu.pagemap_read(process.mm, base, base + 2 * PAGE)
        wrong = version == "v6.19" and profile == "100"
        assert lines["FilePmdMapped"] == lines["Rss"] == 2048 * wrong
        assert [bool(word & PM_FILE) for word in words] == [wrong] * 2
        vma = area(kernel, process, base)
        found = kernel.pagewalk.folio_walk_start(vma, base)
        assert (found is not None) == wrong
        if found is not None:
            kernel.pagewalk.folio_walk_end(found)


def test_pagemap():
    """Present pages name their frame; a page of one's own is said to be so."""
    kernel = kernel_of()
    process = kernel.spawn()
    base = process.mmap(4 * PAGE)
    process.write(base, 1)
    process.read(base + PAGE)
    mine, zero, nothing, _ = kernel.task_mmu.pagemap_read(
        process.mm, base, base + 4 * PAGE
    )
    assert mine & (PM_PRESENT | PM_MMAP_EXCLUSIVE) == PM_PRESENT | PM_MMAP_EXCLUSIVE
    assert zero == PM_PRESENT | kernel.zero_pfn
    assert nothing == 0
    process.fork()
    (shared,) = kernel.task_mmu.pagemap_read(process.mm, base, base + PAGE)
    assert shared == PM_PRESENT | mine & PM_PFRAME_MASK


# -- GUP ---------------------------------------------------------------------------


def test_gup_takes_a_reference_and_faults_in():
    """A page that is not there is brought; zeros are given but not to a dump."""
    kernel = kernel_of()
    process = kernel.spawn()
    base = process.mmap(2 * PAGE)
    folio = kernel.gup.get_user_page(process.mm, base, write=True)
    assert not isinstance(folio, int)
    assert folio.anon
    kernel.swap.folio_put(folio)
    zero = kernel.gup.get_user_page(process.mm, base + PAGE)
    assert not isinstance(zero, int)
    assert zero.pfn == kernel.zero_pfn
    kernel.swap.folio_put(zero)
    assert kernel.gup.get_user_page(process.mm, base + PAGE, dump=True) == -EFAULT
    assert kernel.gup.get_user_page(process.mm, 0) == -EFAULT


def test_gup_ignores_the_mark_of_a_block():
    """The slow way gives the huge zero folio, marked or not, but not to a dump."""
    kernel = kernel_of()
    kernel.huge_memory.enabled = "always"
    process = kernel.spawn()
    base = process.mmap(BLOCK)
    process.read(base)
    folio = kernel.gup.get_user_page(process.mm, base + 7 * PAGE)
    assert folio is kernel.huge_memory.huge_zero_folio
    assert folio is not None
    kernel.swap.folio_put(folio)
    assert kernel.gup.get_user_page(process.mm, base, dump=True) == -EFAULT
    mine = kernel.gup.get_user_page(process.mm, base, write=True)
    assert mine is not kernel.huge_memory.huge_zero_folio
    assert not isinstance(mine, int)
    kernel.swap.folio_put(mine)


# -- what a kernel can bring about -------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["read", "write", "fork", "protect", "unmap", "device", "mem", "exit"]
        ),
        st.integers(0, 7),
        st.booleans(),
    ),
    max_size=15,
)


def entries_of(kernel, mm):
    """Every leaf of an address space with the level it stands at."""
    pgtable = kernel.pgtable
    for pmdp, addr, end in kernel.memory.pmd_entries(mm, 0, pgtable.task_size):
        pmd = pgtable.read(pmdp)
        if pmd_leaf(pmd):
            yield addr, pmd, PgtableLevel.PMD
        elif pmd & 1:
            for at in range(addr, end, PAGE):
                pte = pgtable.read(pgtable.pte_offset(pmdp, at))
                if pte_present(pte):
                    yield at, pte, PgtableLevel.PTE


AREAS_BY_FLAG: dict[int, Area] = {
    0: "ordinary",
    VM_PFNMAP: "PFNMAP",
    VM_MIXEDMAP: "MIXEDMAP",
}


def situation_of(kernel, vma, addr, entry, level):
    """The situation that an entry is, as the enumeration knows it."""
    pgtable = kernel.pgtable
    pte = level is PgtableLevel.PTE
    pfn = pgtable.pte_pfn(entry) if pte else pgtable.pmd_pfn(entry)
    kind = vma.flags & (VM_PFNMAP | VM_MIXEDMAP)
    frame: Frame = "memory"
    if kernel.memory.is_zero_pfn(pfn):
        frame = "zero page"
    elif kernel.memory.is_huge_zero_pfn(pfn):
        frame = "huge zero folio"
    return Situation(
        special=pgtable.pte_special(entry) if pte else pgtable.pmd_special(entry),
        area=AREAS_BY_FLAG[kind],
        linear=pfn == vma.pgoff + (addr - vma.start) // PAGE,
        cow=is_cow_mapping(vma.flags),
        memmap=kernel.page_alloc.pfn_valid(pfn),
        frame=frame,
        above=pfn > kernel.page_alloc.highest_memmap_pfn,
    )


@pytest.mark.parametrize("profile", ["110", "111", "000"])
@settings(max_examples=8, deadline=None)
@given(STEPS)
def test_whatever_is_mapped_is_in_the_legal_domain(profile, steps):
    """All that faults, forks, drivers and mprotect make is where old equals new."""
    config = with_profile(profile)
    kernel = kernel_of(config=config)
    kernel.huge_memory.enabled = "always"
    first = kernel.spawn()
    base = first.mmap(4 * BLOCK)
    processes = [first]
    for what, place, flag in steps:
        process = processes[place % len(processes)]
        addr = base + place * BLOCK // 2 + flag * PAGE
        match what:
            case "read":
                process.read(addr)
            case "write":
                process.write(addr, place)
            case "fork" if len(processes) < 3:
                processes.append(process.fork())
            case "protect":
                process.mprotect(addr & -PAGE, PAGE, "rw")
            case "unmap" if flag:
                process.madvise(addr & -PAGE, PAGE, "dontneed")
            case "device":
                owner, at = mapped_device(
                    kernel, "mixed" if flag else "pfn", UART // PAGE
                )
                owner.write(at, 1)
                processes.append(owner)
                base_of_new = owner.mmap(4 * BLOCK, addr=base, fixed=True)
                assert base_of_new == base
            case "mem":
                owner, at = mapped(
                    kernel, kernel.mem.open(), 4, offset=UART, shared=flag
                )
                owner.write(at, 1)
                processes.append(owner)
                owner.mmap(4 * BLOCK, addr=base, fixed=True)
            case "exit" if len(processes) > 1 and process is not first:
                processes.remove(process)
                process.exit()
        for mm in kernel.fork.mmlist:
            for at, entry, level in entries_of(kernel, mm):
                vma = kernel.vma.vma_lookup(mm, at)
                assert vma is not None
                seen = situation_of(kernel, vma, at, entry, level)
                assert legal(seen, level, has_special=config.has_special(level)), seen
    assert untouched(kernel)


def test_a_mark_that_is_forgotten_leaves_the_legal_domain():
    """Old bodies that mark no huge zero folio make entries where old and new differ."""
    parts = dict(build(linux.PARTS, "fixed").parts)
    marked = parts["huge_memory"]
    parts["huge_memory"] = type("Forgetful", (HugeMemoryBefore, marked), {})
    outside = []
    for profile in ("110", "000"):
        config = with_profile(profile)
        kernel = linux.Kernel(Machine(1), parts, config)
        kernel.huge_memory.enabled = "always"
        process = kernel.spawn()
        process.read(process.mmap(BLOCK))
        ((at, entry, level),) = entries_of(kernel, process.mm)
        vma = kernel.vma.vma_lookup(process.mm, at)
        seen = situation_of(kernel, vma, at, entry, level)
        outside.append(not legal(seen, level, has_special=config.has_special(level)))
    assert outside == [True, False]


def test_a_block_is_in_its_row_only_at_its_beginning():
    """Without a bit, an address inside a block makes its frame look out of place."""
    kernel = kernel_of(config=with_profile("000"))
    process = kernel.spawn()
    vma = area(kernel, process, process.mmap(2 * BLOCK, addr=1 << 40))
    folio: Any = kernel.page_alloc.alloc(9)
    vma.flags |= VM_PFNMAP
    vma.pgoff = folio.pfn
    pmd = kernel.pgtable.mk_huge_pmd(folio.pfn, vma.page_prot)
    ask = kernel.memory.vm_normal_page_pmd
    assert ask(vma, vma.start, pmd) is None
    assert ask(vma, vma.start + PAGE, pmd) == folio.pfn


def test_reserved_pages_are_pages():
    """That memory is set aside says nothing about who maps it."""
    kernel = kernel_of()
    process = kernel.spawn()
    vma = area(kernel, process, process.mmap(PAGE))
    reserved = kernel.zero_pfn + 1  # the other frame of the boot
    entry = kernel.pgtable.pfn_pte(reserved, vma.page_prot)
    assert kernel.page_alloc.folio_of(reserved).flags & PG_reserved
    assert kernel.memory.vm_normal_page(vma, vma.start, entry) == reserved
