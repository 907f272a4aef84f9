"""The report of a bad entry: its lines, its limit, its mark, and who may ask for it."""

from typing import Any

import pytest

from tlbkit.arm64.machine import Machine
from tlbkit.linux.include.linux.pgtable import PgtableLevel
from tlbkit.linux.kernel.time.timer import HZ
from tlbkit.linux.tests.support import PAGE, boot
from tlbkit.patches.kernels import Kernel

BAD = 0x0060_0100_8000_0FC3


def scene(version="fixed", **changes):
    """A kernel with a process that has one page, its area, and where that is."""
    kernel = boot(version, cpus=2, **changes)
    process = kernel.spawn()
    base = process.mmap(4 * kernel.pgtable.page_size, addr=1 << 40)
    process.write(base, 1)
    vma = kernel.vma.vma_lookup(process.mm, base)
    return kernel, process, vma, base


def report(kernel, vma, base, level=PgtableLevel.PTE, page=None):
    """Ask for a report; return the lines that it adds."""
    before = len(kernel.printk.log)
    kernel.memory.print_bad_page_map(vma, base, BAD, page, level)
    return kernel.printk.log[before:]


def test_the_lines_of_a_report():
    """Process and entry, tables, area, file, CPU: in this order, in this form."""
    kernel, process, vma, base = scene()
    process.mm.comm = "victim"
    lines = report(kernel, vma, base)
    dump = kernel.memory.pgtable_dump(vma.mm, base)
    anon_vma = kernel.printk.address(vma.anon_vma)
    assert lines == [
        "BUG: Bad page map in process victim  pte:60010080000fc3",
        " ".join(f"{name}:{value:08x}" for name, value, _ in dump),
        (
            f"addr:{base:016x} vm_flags:{vma.flags:08x} anon_vma:{anon_vma:016x} "
            f"mapping:{0:016x} index:{base >> 12:x}"
        ),
        "file:(null) fault:0x0 mmap:0x0 mmap_prepare: 0x0 read_folio:0x0",
        "CPU: 0 Comm: victim Not tainted",
    ]


def test_values_have_at_least_eight_digits():
    """Small values are filled up with zeros; large ones are written whole."""
    kernel, _, vma, base = scene()
    kernel.memory.print_bad_page_map(vma, base, 0x42, None, PgtableLevel.PMD)
    assert kernel.printk.log[0].endswith("  pmd:00000042")


def test_the_area_of_a_file():
    """A file is named, with those who answer for it."""
    kernel = Kernel(Machine(1), "fixed")
    process = kernel.spawn()
    fd = process.open("data", create=True)
    process.ftruncate(fd, PAGE)
    base = process.mmap(PAGE, fd=fd, shared=True)
    vma = kernel.vma.vma_lookup(process.mm, base)
    assert vma is not None
    assert vma.file is not None
    lines = report(kernel, vma, base)
    assert f"mapping:{kernel.printk.address(vma.file.mapping):016x} index:0" in lines[2]
    assert lines[3].startswith("file:data fault:")
    assert "0x0" not in lines[3].replace("mmap_prepare: 0x0", "")


def test_levels_are_named():
    """A report names its level, and one of an unknown level still comes."""
    kernel, _, vma, base = scene()
    for level, name in ((PgtableLevel.PTE, "pte"), (PgtableLevel.PUD, "pud")):
        assert f"  {name}:" in report(kernel, vma, base, level)[0]
    unknown: Any = 17
    assert "  unknown:" in report(kernel, vma, base, unknown)[0]


def test_a_page_is_described_between_tables_and_area():
    """Only if the caller knows it; its counts, and why."""
    kernel, process, vma, base = scene()
    ptep = kernel.pgtable.find_pte(process.mm, base)
    page = kernel.pgtable.pte_pfn(kernel.pgtable.read(ptep))
    lines = report(kernel, vma, base, page=page)
    starts = [line.split(":")[0].split(" ")[0] for line in lines]
    assert starts == ["BUG", "pgd", "page", "page", "addr", "file", "CPU"]
    assert lines[2].startswith("page: refcount:2 mapcount:1 mapping:")
    assert lines[3] == "page dumped because: bad page map"
    old, _, vma, base = scene("v6.17")
    old.memory.print_bad_pte(vma, base, BAD, page)
    assert "page dumped because: bad pte" in old.printk.log


@pytest.mark.parametrize(
    ("stop", "shown"), [("top", "pgd p4d"), ("pud", "pgd p4d pud")]
)
@pytest.mark.parametrize("how", ["empty", "leaf"])
def test_the_walk_ends_where_there_is_no_table(stop, shown, how):
    """An entry that is empty, or a leaf, is the last that is shown."""
    kernel, process, vma, base = scene()
    pgtable = kernel.pgtable
    pgdp = pgtable.pgd_offset(process.mm, base)
    place = pgdp if stop == "top" else pgtable.pud_offset(pgdp, base)
    kernel.machine.memory.write(place, 0 if how == "empty" else 0x8000_0701)
    line = report(kernel, vma, base, PgtableLevel.PUD)[1]
    assert [part.split(":")[0] for part in line.split()] == shown.split()


def test_folded_levels_repeat_their_entry():
    """With 64 KiB pages there are three levels, and the first entry stands thrice."""
    kernel, _, vma, base = scene(page_shift=16)
    values = [part.split(":")[1] for part in report(kernel, vma, base)[1].split()]
    assert len(values) == 4
    assert len(set(values[:3])) == 1
    kernel, _, vma, base = scene()
    values = [part.split(":")[1] for part in report(kernel, vma, base)[1].split()]
    assert values[0] == values[1] != values[2]


# -- the limit -----------------------------------------------------------------------


def headings(kernel):
    """How many reports there are, and what summaries say."""
    log = kernel.printk.log
    return (
        sum(line.startswith("BUG: Bad page map in") for line in log),
        [line for line in log if line.startswith("BUG: Bad page map:")],
    )


def test_the_sixty_first_is_left_out():
    """61 at once: 60 shown; the next after a minute says first that 1 is missing."""
    kernel, _, vma, base = scene()
    for _ in range(61):
        report(kernel, vma, base)
    assert headings(kernel) == (60, [])
    kernel.timer.pass_time(60)
    lines = report(kernel, vma, base)
    assert lines[0] == "BUG: Bad page map: 1 messages suppressed"
    assert lines[1].startswith("BUG: Bad page map in process")
    assert headings(kernel)[0] == 61


def test_the_minute_begins_with_the_first():
    """60 spread over 59.9 s and one at 60 s: none is ever left out."""
    kernel, _, vma, base = scene()
    start = kernel.timer.jiffies
    for n in range(60):
        kernel.timer.jiffies = start + round(n / 59 * 59.9 * HZ)
        assert report(kernel, vma, base)
    kernel.timer.jiffies = start + 60 * HZ
    assert report(kernel, vma, base)
    assert headings(kernel) == (61, [])


def test_one_a_second_goes_on_for_ever():
    """The limit is for bursts: sixty a minute are always let through."""
    kernel, _, vma, base = scene()
    for _ in range(200):
        assert report(kernel, vma, base)
        kernel.timer.pass_time(1)
    assert headings(kernel) == (200, [])


def test_what_is_left_out_does_nothing_at_all():
    """No line, no walk, and no mark either."""
    kernel, _, vma, base = scene()
    for _ in range(60):
        report(kernel, vma, base)
    kernel.panic.taints.clear()
    kernel.panic.lock_debugging = True
    kernel.machine.memory.write(kernel.pgtable.pgd_offset(vma.mm, base), 0)
    assert report(kernel, vma, base) == []
    assert not kernel.panic.taints
    assert kernel.panic.lock_debugging


def test_the_old_report_walked_before_it_knew():
    """v6.17 read the PMD entry first of all, and read it too where none is shown."""
    reads = []
    for version in ("v6.17", "fixed"):
        kernel, _, vma, base = scene(version)
        for _ in range(60):
            kernel.memory.print_bad_pte(vma, base, BAD, None)
        memory = kernel.machine.memory
        seen: list[int] = []
        pgtable = kernel.pgtable
        inner = pgtable._read

        def read(place, seen=seen, inner=inner):
            seen.append(place)
            return inner(place)

        pgtable._read = read
        kernel.memory.print_bad_pte(vma, base, BAD, None)
        reads.append(bool(seen))
        assert memory is kernel.machine.memory
    assert reads == [True, False]


def test_a_report_marks_the_kernel():
    """B for a bad page; lock reports are no longer believed."""
    kernel, _, vma, base = scene()
    assert kernel.panic.print_tainted() == "Not tainted"
    report(kernel, vma, base)
    assert kernel.panic.taints == {"B"}
    assert not kernel.panic.lock_debugging
    assert report(kernel, vma, base)[-1].endswith("Tainted: B")


def test_the_limit_is_one_for_all():
    """Another process, on another CPU, counts for the same sixty."""
    kernel, _, vma, base = scene()
    for _ in range(60):
        report(kernel, vma, base)
    other = kernel.spawn(cpu=1)
    addr = other.mmap(PAGE)
    other.write(addr, 1)
    assert report(kernel, kernel.vma.vma_lookup(other.mm, addr), addr) == []
    assert kernel.memory.nr_unshown == 1


# -- met in earnest ------------------------------------------------------------------


def test_a_count_below_zero_is_reported_with_its_page():
    """An entry for a page that nobody counts: zap takes one away, and sees it."""
    kernel, process, vma, base = scene()
    folio: Any = kernel.page_alloc.alloc()
    folio.mapping = vma.anon_vma
    folio.refcount = 5
    ptep = kernel.pgtable.find_pte(process.mm, base)
    good = kernel.pgtable.read(ptep)
    kernel.machine.memory.write(
        ptep + 8, kernel.pgtable.pfn_pte(folio.pfn, good & ~((1 << 48) - (1 << 12)))
    )
    process.munmap(base + PAGE, PAGE)
    log = kernel.printk.log
    assert log[0].startswith("BUG: Bad page map in process a.out  pte:")
    assert any(line.startswith("page: refcount:5 mapcount:-1") for line in log)


@pytest.mark.parametrize("call", ["fork", "mprotect", "munmap", "madvise", "write"])
@pytest.mark.parametrize("version", ["v6.17", "v6.19", "fixed"])
def test_every_walk_survives_a_frame_beyond_memory(call, version):
    """Each caller treats what is reported as no normal page, and goes on."""
    kernel, process, vma, base = scene(version)
    assert vma is not None
    ptep = kernel.pgtable.find_pte(process.mm, base)
    bad = kernel.pgtable.read(ptep) | 1 << 45
    if call == "write":
        bad = bad & ~(1 << 51) | 1 << 7
    kernel.machine.memory.write(ptep, bad)
    kernel.tlbflush.flush_tlb_mm(process.mm)
    match call:
        case "fork":
            process.fork()
        case "mprotect":
            process.mprotect(base, PAGE, "r")
            process.mprotect(base, PAGE, "rw")
        case "munmap":
            process.munmap(base, PAGE)
        case "madvise":
            process.madvise(base, PAGE, "dontneed")
        case _:
            process.write(base, 9)
            assert process.read(base) == 9
    assert kernel.printk.log[0].startswith("BUG: Bad page map in process a.out  pte:")
