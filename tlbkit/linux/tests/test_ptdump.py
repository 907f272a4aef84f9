"""Tables as text, and the name that two things had."""

from itertools import pairwise

import pytest

from tlbkit.linux.arch.arm64.mm.ptdump import PTE_BITS
from tlbkit.linux.arch.powerpc.mm.ptdump.ptdump import (
    PG_LEVEL,
    PowerpcPtdump,
    RedefinitionError,
    translation_unit,
)
from tlbkit.linux.include.linux.pgtable import TAGS, PgtableLevel
from tlbkit.linux.tests.support import boot
from tlbkit.patches.kernels import Kernel
from tlbkit.patches.ptdump_level_rename import PowerpcPtdumpBefore

LOW = 1 << 40


def dumped(kernel, process):
    """The lines of a process, without its stack's."""
    return kernel.ptdump.dump(process.mm)


def test_lines_of_pages_and_blocks():
    """Neighbours that say the same are one line, with amount, level and bits."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(16 * 4096, addr=LOW)
    for n in range(3):
        process.write(base + n * 4096, n)
    process.read(base + 3 * 4096)
    kernel.huge_memory.enabled = "always"
    block = process.mmap(4 << 20, addr=LOW + (1 << 30))
    process.write(block, 1)
    process.write(block + (2 << 20), 1)
    lines = dumped(kernel, process)
    assert [line[:37] for line in lines] == [
        "0x0000010000000000-0x0000010000003000",
        "0x0000010000003000-0x0000010000004000",
        "0x0000010040000000-0x0000010040400000",
    ]
    assert [line[37:] for line in lines] == [
        "          12K PTE   USR RW NX SHD AF NG         UXN    MEM/NORMAL",
        "           4K PTE   USR ro NX SHD AF NG         UXN    MEM/NORMAL",
        "           4M PMD   USR RW NX SHD AF NG     BLK UXN    MEM/NORMAL",
    ]


def test_holes_are_shown_on_request():
    """With holes every address is in one line, and the lines follow each other."""
    for model_shift in (12, 16):
        kernel = boot(page_shift=model_shift)
        process = kernel.spawn()
        process.write(process.mmap(kernel.pgtable.page_size, addr=LOW), 1)
        lines = kernel.ptdump.dump(process.mm, holes=True)
        spans = [line.split()[0].split("-") for line in lines]
        ends = [(int(first, 16), int(last, 16)) for first, last in spans]
        assert ends[0][0] == 0
        assert ends[-1][1] == kernel.pgtable.task_size
        assert all(a[1] == b[0] for a, b in pairwise(ends))
        names = {line.split()[2] for line in lines}
        assert names == {"PGD", "PMD", "PTE"} | (
            {"PUD"} if model_shift == 12 else set()
        )


def test_contiguous_pages_say_so():
    """A group of sixteen is one line with CON."""
    kernel = boot()
    kernel.huge_memory.set_hugepages_enabled(64, "always")
    process = kernel.spawn()
    base = process.mmap(1 << 16, addr=LOW)
    process.write(base, 1)
    (line,) = dumped(kernel, process)
    assert line.split()[1:3] == ["64K", "PTE"]
    assert " CON " in line


def test_a_page_that_is_hidden_is_shown_as_such():
    """PROT_NONE leaves entries that are not valid: F."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(4096, addr=LOW)
    process.write(base, 1)
    process.mprotect(base, 4096, "none")
    (line,) = dumped(kernel, process)
    assert line.split("PTE")[1].startswith(" F ")


def test_every_kind_of_memory_has_a_name():
    """Each value of the attribute field that Linux uses prints exactly one name."""
    for kind in range(5):
        names = [bit.text(kind << 2) for bit in PTE_BITS if bit.clear is None]
        assert len([name for name in names if name]) == 1


# -- 30680d5ef0dc: the name ------------------------------------------------------------


def test_one_name_for_two_things_does_not_build():
    """The old name of powerpc's structure and the new enum meet in one source file."""
    with pytest.raises(RedefinitionError, match="'pgtable_level' is declared twice"):
        translation_unit(TAGS, PowerpcPtdumpBefore.tags())
    seen = translation_unit(TAGS, PowerpcPtdump.tags())
    assert seen["pgtable_level"] is PgtableLevel
    assert set(seen) == {"pgtable_level", "flag_info", "ptdump_pg_level"}


def test_each_named_kernel_builds():
    """v6.17 has the old name and no such enum; later kernels have the enum alone."""
    for name in ("v6.17", "pr350", "v6.19", "fixed"):
        kernel = boot(name)
        assert isinstance(kernel, Kernel)
        enum = {} if "b22cc9a9c7ff" in kernel.missing else TAGS
        translation_unit(enum, kernel.powerpc_ptdump.tags())


def test_the_enum_needs_the_rename():
    """Whoever takes the rename out takes the enum out with it, and is told why."""
    kernel = boot(without=["30680d5ef0dc"])
    assert "b22cc9a9c7ff" in kernel.missing
    assert any("pgtable_level" in said for said in kernel.said)
    old = kernel.powerpc_ptdump.tags()
    assert old["pgtable_level"] is PowerpcPtdump.tags()["ptdump_pg_level"]


def test_powerpc_s_levels_are_what_they_were():
    """A rename changes no value."""
    assert [level.name for level in PG_LEVEL] == ["PGD", "P4D", "PUD", "PMD", "PTE"]
    assert all(level.mask == PG_LEVEL[0].mask for level in PG_LEVEL)
