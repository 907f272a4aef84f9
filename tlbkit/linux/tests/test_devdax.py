"""Device DAX: memory mapped by entries of one size, up to a PUD's block."""

import pytest

from tlbkit.errors import InputError
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pte_write,
    pte_wrprotect,
)
from tlbkit.linux.drivers.dax.device import DevDax
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.tests.audit import audit_tlbs
from tlbkit.linux.tests.support import boot

LEVELS = pytest.mark.parametrize("level", ["pte", "pmd", "pud"])


class Scene:
    """A device of one piece of a level's size, mapped by a process."""

    def __init__(self, level, version="fixed", *, nr=1, length=None):
        self.kernel = boot(version, cpus=2)
        pgtable = self.pgtable = self.kernel.pgtable
        self.size = {
            "pte": pgtable.page_size,
            "pmd": pgtable.pmd_size,
            "pud": pgtable.pud_size,
        }[level]
        self.dev = DevDax(self.kernel, self.size, nr)
        self.process = self.kernel.spawn()
        self.fd = self.process._files.fd_install(self.dev.open())
        self.length = length or self.size * nr
        self.base = self.process.mmap(
            self.length, fd=self.fd, shared=True, addr=self.size * 4
        )
        self.folio = self.dev.folios[0]

    def entry(self):
        """The PUD entry of the first address."""
        pudp = self.kernel.memory.pud_alloc(self.process.mm, self.base)
        return self.pgtable.read(pudp)


@LEVELS
def test_one_fault_maps_a_piece(level):
    """It is counted once, and all of it is resident; the memory is the device's."""
    scene = Scene(level)
    pages = scene.size >> 12
    assert scene.process.read(scene.base) == 0
    assert (scene.folio.refcount, scene.folio.mapcount) == (1, 1)
    assert scene.process.mm.filepages == pages
    scene.process.write(scene.base + scene.size - 8, 5, cpu=1)
    last = (scene.folio.pfn << 12) + scene.size - 8
    assert scene.kernel.machine.memory.read(last) == 5
    assert pmd_leaf(scene.entry()) == (level == "pud")
    assert (scene.folio.refcount, scene.folio.mapcount) == (1, 1)
    assert not scene.kernel.panic.warnings


@LEVELS
def test_what_is_unmapped_stays_the_device_s(level):
    """Counts go down to nothing, and the frames are not given to anybody."""
    scene = Scene(level)
    scene.process.write(scene.base, 1)
    scene.process.munmap(scene.base, scene.length)
    assert (scene.folio.refcount, scene.folio.mapcount) == (0, 0)
    assert scene.process.mm.filepages == 0
    assert scene.kernel.page_alloc.folio(scene.folio.pfn) is scene.folio
    audit_tlbs(scene.kernel)


def test_a_pud_s_block_counts_as_mapped_but_not_as_a_pmd_s():
    """The node's statistics know files by pages, and blocks only of PMD entries."""
    scene = Scene("pud")
    scene.process.read(scene.base)
    node = scene.kernel.vmstat.node
    assert node["NR_FILE_MAPPED"] == 512 * 512
    assert node["NR_FILE_PMDMAPPED"] == node["NR_SHMEM_PMDMAPPED"] == 0


def test_two_threads_and_a_child_map_the_same_block():
    """The second thread finds the entry; the child faults for itself."""
    scene = Scene("pud")
    for cpu in (0, 1):
        scene.process.read(scene.base, cpu=cpu)
    assert scene.folio.mapcount == 1
    child = scene.process.fork()
    assert scene.folio.mapcount == 1
    child.write(scene.base, 3)
    assert scene.folio.mapcount == 2
    assert scene.process.read(scene.base) == 3
    child.exit()
    assert scene.folio.mapcount == 1


def test_a_block_that_was_read_is_written_in_place():
    """A write fault at a read-only PUD entry gives rights, and maps nothing anew."""
    scene = Scene("pud")
    scene.process.read(scene.base)
    pudp = scene.kernel.memory.pud_alloc(scene.process.mm, scene.base)
    read_only = pte_wrprotect(scene.entry())
    scene.kernel.machine.memory.write(pudp, read_only)
    scene.kernel.tlbflush.flush_tlb_mm(scene.process.mm)
    scene.process.write(scene.base, 4)
    assert pte_write(scene.entry())
    assert (scene.folio.refcount, scene.folio.mapcount) == (1, 1)


@pytest.mark.parametrize("version", ["v6.17", "fixed"])
def test_smaller_faults_are_refused(version):
    """A device of blocks has no pages to map."""
    scene = Scene("pmd", version, nr=2)
    scene.process.madvise(scene.base, scene.length, "nohugepage")
    with pytest.raises(Signal, match="SIGBUS"):
        scene.process.read(scene.base)


def test_behind_the_device_is_a_signal():
    """An area may be longer than the device."""
    scene = Scene("pmd", nr=1, length=4 << 20)
    assert scene.process.read(scene.base) == 0
    with pytest.raises(Signal, match="SIGBUS"):
        scene.process.read(scene.base + scene.size)


def test_areas_are_shared_and_aligned():
    """Anything else is refused when it is mapped."""
    scene = Scene("pmd")
    with pytest.raises(SystemCallError, match="EINVAL"):
        scene.process.mmap(scene.size, fd=scene.fd)
    with pytest.raises(SystemCallError, match="EINVAL"):
        scene.process.mmap(4096, fd=scene.fd, shared=True)


def test_entries_have_three_sizes():
    """No device can be made of other pieces."""
    kernel = boot(cpus=1)
    with pytest.raises(InputError, match="0x200000"):
        DevDax(kernel, 64 << 10)
