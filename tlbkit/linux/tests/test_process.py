"""What user space sees of a process, where no kernel function answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.cpu import AccessError
from tlbkit.errors import InputError
from tlbkit.linux.include.linux.mm_types import GUP_PIN_COUNTING_BIAS
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.process import ProcessGoneError
from tlbkit.linux.tests.audit import audit
from tlbkit.linux.tests.support import boot

PAGE = 4096
HUGE = 2 << 20


# -- accesses ------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2 * PAGE - 8),
            st.sampled_from((1, 2, 4, 8)),
            st.integers(0, (1 << 64) - 1),
        ),
        max_size=12,
    )
)
def test_accesses_of_any_size_see_one_string_of_bytes(accesses):
    """Aligned or not, bytes read are those written last, over both pages."""
    process = boot().spawn()
    base = process.mmap(2 * PAGE)
    model = bytearray(2 * PAGE)
    for place, size, word in accesses:
        value = word & (1 << 8 * size) - 1
        if place % PAGE + size > PAGE:
            with pytest.raises(AccessError, match=hex(base + PAGE)):
                process.write(base + place, value, size=size)
            continue
        process.write(base + place, value, size=size)
        model[place : place + size] = value.to_bytes(size, "little")
        assert process.read(base + place, size=size) == value
    for place in range(0, 2 * PAGE, 512):
        word = int.from_bytes(model[place : place + 8], "little")
        assert process.read(base + place) == word


@pytest.mark.parametrize(("size", "value"), [(8, 1 << 64), (8, -1), (1, 256)])
def test_a_value_that_does_not_fit_is_refused_before_the_fault(size, value):
    """The error names the address that was given, and no page came in for it."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(PAGE)
    in_use = kernel.page_alloc.in_use
    with pytest.raises(AccessError, match=f"{base + 8:#x}.* does not fit") as refused:
        process.write(base + 8, value, size=size)
    assert refused.value.va == base + 8
    assert kernel.page_alloc.in_use == in_use


@pytest.mark.parametrize("size", [0, 3, 16, -1])
def test_no_access_has_another_size(size):
    """A CPU has instructions for 1, 2, 4 and 8 bytes."""
    process = boot().spawn()
    base = process.mmap(PAGE)
    with pytest.raises(AccessError, match="1, 2, 4, 8 bytes"):
        process.read(base, size=size)


def test_a_fault_of_a_part_is_one_at_its_own_address():
    """What Linux reports is the address of the access, not that of its word."""
    process = boot().spawn()
    base = process.mmap(PAGE, "r")
    with pytest.raises(Signal) as signal:
        process.write(base + 5, 1, size=2)
    assert signal.value.address == base + 5


def test_a_tag_belongs_to_sixteen_aligned_bytes():
    """A tag is stored where STG can, and nowhere else."""
    process = boot(mte=True).spawn()
    base = process.mmap(PAGE, mte=True)
    process.store_tag(base + 16, 5)
    assert process.load_tag(base + 31) == 5
    assert process.load_tag(base + 32) == 0
    with pytest.raises(InputError, match=f"store_tag.{base + 3:#x}"):
        process.store_tag(base + 3, 5)


# -- arguments -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fixed", "noreplace"])
def test_what_is_fixed_has_an_address(how):
    """To map at a fixed place, and to say none, is refused; 0 is a place."""
    process = boot().spawn()
    with pytest.raises(InputError, match=rf"mmap.{how}=True.*addr="):
        process.mmap(PAGE, **{how: True})
    assert process.mmap(PAGE, addr=1 << 32, **{how: True}) == 1 << 32


@pytest.mark.parametrize("length", [0, -PAGE])
def test_to_pin_nothing_is_refused(length):
    """A range without a byte has no page, so there is nothing to ask the kernel."""
    process = boot().spawn()
    base = process.mmap(PAGE)
    with pytest.raises(InputError, match=hex(base)):
        process.pin(base, length)


def test_pinned_pages_are_frame_numbers():
    """`pin` returns the frames where the pages lie, as many as there are."""
    kernel = boot()
    process = kernel.spawn()
    base = process.mmap(2 * PAGE)
    pages = process.pin(base, 2 * PAGE, write=True)
    assert len(set(pages)) == 2
    for pfn in pages:
        assert kernel.page_alloc.folio_of(pfn).refcount > GUP_PIN_COUNTING_BIAS
    process.unpin(pages)


# -- files of huge pages -------------------------------------------------------------


def test_a_memfd_has_its_flags_by_name():
    """Names are the bits; a wrong name is refused with the names there are."""
    kernel = boot()
    kernel.hugetlb.set_max_huge_pages(1)
    process = kernel.spawn()
    fd = process.memfd_create("pool", "HUGETLB", "HUGE_2MB")
    base = process.mmap(HUGE, fd=fd, shared=True)
    process.write(base, 7)
    assert process.mm.hugetlb_usage == 1 << 9
    with pytest.raises(InputError, match=r"'HUGE': known are .*HUGETLB, HUGE_64KB"):
        process.memfd_create("pool", "HUGE")
    with pytest.raises(SystemCallError, match="EINVAL"):
        process.memfd_create("pool", "HUGE_2MB")


def test_a_path_on_hugetlbfs_is_a_file_of_huge_pages():
    """It lasts from one open to the next, is shared, and goes with its name."""
    kernel = boot()
    kernel.hugetlb.set_max_huge_pages(2)
    one, other = kernel.spawn(0), kernel.spawn(1)
    fd = one.open("/dev/hugepages/ring", create=True)
    base = one.mmap(2 * HUGE, fd=fd, shared=True)
    one.write(base + HUGE, 7)
    one.close(fd)
    there = other.open("/dev/hugepages/ring", "r")
    assert other.pread(there, HUGE) == 7
    with pytest.raises(SystemCallError, match="EINVAL"):
        one.pwrite(one.open("/dev/hugepages/ring"), 0, 1)
    one.unlink("/dev/hugepages/ring")
    with pytest.raises(SystemCallError, match="ENOENT"):
        other.open("/dev/hugepages/ring")
    one.exit()
    other.exit()
    audit(kernel)
    assert kernel.hugetlb.default_hstate.free_huge_pages == 2


def test_a_mount_has_the_size_that_it_is_given():
    """The deepest mount point decides, and a name under none is on the disk."""
    kernel = boot()
    kernel.hugetlb.set_max_huge_pages(1, 1 << 30)
    kernel.hugetlbfs.mount("/dev/hugepages/1G", 1 << 30)
    process = kernel.spawn()
    sizes = []
    for name in ("/dev/hugepages/a", "/dev/hugepages/1G/a", "/dev/hugepages"):
        process.open(name, create=True)
        inode = kernel.file_table.names[name]
        sizes.append(getattr(inode, "hstate", None) and inode.hstate.size)
    assert sizes == [HUGE, 1 << 30, None]
    with pytest.raises(InputError, match="huge pages here have"):
        kernel.hugetlbfs.mount("/mnt", 12345)


# -- the stack, and the end ----------------------------------------------------------


def test_the_stack_can_be_used():
    """Its addresses are mapped, from the first to the last."""
    process = boot().spawn()
    stack = process.stack
    for address in (stack[0], stack[-1] & -8):
        process.write(address, 3)
        assert process.read(address) == 3
    assert stack.stop in {vma.end for vma in process.mm.vmas}


CALLS = {
    "read": lambda process: process.read(0),
    "write": lambda process: process.write(0, 1),
    "execute": lambda process: process.execute(0),
    "mmap": lambda process: process.mmap(PAGE),
    "munmap": lambda process: process.munmap(0, PAGE),
    "unpin": lambda process: process.unpin([]),
    "migrate": lambda process: process.migrate(1),
    "close": lambda process: process.close(3),
}
OF_A_PROCESS = {
    "exit": lambda process: process.exit(),
    "kill": lambda process: process.kill(),
    "fork": lambda process: process.fork(),
    "execve": lambda process: process.execve(),
    "thread": lambda process: process.thread(0),
}


@pytest.mark.parametrize("call", CALLS | OF_A_PROCESS)
def test_after_the_end_every_call_says_so(call):
    """Whatever is asked of a process that has exited, the answer names the call."""
    process = boot().spawn()
    process.exit()
    with pytest.raises(ProcessGoneError, match=f"^{call}: this process has exited"):
        (CALLS | OF_A_PROCESS)[call](process)


@pytest.mark.parametrize("end", ["exit", "execve"])
@pytest.mark.parametrize("call", CALLS)
def test_threads_end_with_their_process(call, end):
    """A thread is none after its process exits, or becomes another program."""
    kernel = boot()
    process = kernel.spawn()
    thread = process.thread(1)
    getattr(process, end)()
    with pytest.raises(ProcessGoneError, match=f"^{call}: "):
        CALLS[call](thread)
