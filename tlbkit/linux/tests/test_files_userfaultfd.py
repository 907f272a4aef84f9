"""userfaultfd on shared memory: missing pages, minor faults, and protection."""

import pytest

from tlbkit.linux.include.uapi.asm_generic.errno import SystemCallError
from tlbkit.linux.tests.audit import audit, audit_tlbs
from tlbkit.linux.tests.support import PAGE, boot


class Watched:
    """A file of shared memory of 4 pages, mapped twice, and one mapping watched."""

    def __init__(self, **modes):
        self.kernel = boot()
        self.process = self.kernel.spawn()
        self.fd = self.process.memfd_create("m")
        self.process.ftruncate(self.fd, 4 * PAGE)
        self.watched = self.process.mmap(4 * PAGE, fd=self.fd, shared=True)
        self.other = self.process.mmap(4 * PAGE, fd=self.fd, shared=True)
        self.uffd = self.process.userfaultfd()
        self.uffd.register(self.watched, 4 * PAGE, **modes)
        self.messages = []

    def serve(self, answer):
        """Answer each message by *answer*, on another CPU."""
        helper = self.uffd.used_by(self.process.thread(1))

        def handler(message):
            self.messages.append(message)
            answer(helper, message)

        self.uffd.serve(handler)

    def check(self):
        """The books balance, and no TLB grants more than the tables do."""
        audit(self.kernel)
        audit_tlbs(self.kernel)


def test_a_missing_page_is_the_files_once_it_is_filled():
    """COPY into shared memory: every mapping of the file sees what was filled."""
    scene = Watched()
    source = scene.process.mmap(PAGE)
    scene.process.write(source, 77)
    scene.serve(lambda fd, message: fd.copy(message.address, source, PAGE))
    assert scene.process.read(scene.watched + PAGE) == 77
    assert scene.process.read(scene.other + PAGE) == 77
    scene.process.write(scene.other + PAGE, 78)
    assert scene.process.read(scene.watched + PAGE) == 78
    assert [message.address for message in scene.messages] == [scene.watched + PAGE]
    assert not scene.messages[0].minor
    scene.check()


def test_a_page_that_the_file_has_is_not_missing():
    """Only who watches minor faults is told of it; COPY says EEXIST."""
    scene = Watched()
    source = scene.process.mmap(PAGE)
    scene.process.write(source, 1)
    scene.process.write(scene.other, 5)
    assert scene.process.read(scene.watched) == 5
    assert not scene.messages
    scene.process.write(scene.other + PAGE, 6)
    with pytest.raises(SystemCallError, match="EEXIST"):
        scene.uffd.copy(scene.watched + PAGE, source, PAGE)
    scene.check()


def test_zeropage_of_shared_memory_is_a_page_of_zeros():
    """There is no zero page to share: the file gets a page of its own."""
    scene = Watched()
    scene.uffd.zeropage(scene.watched, 2 * PAGE)
    assert scene.process.mm.shmempages == 2
    scene.process.write(scene.watched, 3)
    assert scene.process.read(scene.other) == 3
    scene.check()


def test_a_minor_fault_is_told_and_continued():
    """CONTINUE maps what somebody changed through another mapping meanwhile."""
    scene = Watched(missing=False, minor=True)
    scene.process.write(scene.other, 10)

    def answer(fd, message):
        assert message.minor
        scene.process.write(scene.other, 11, cpu=1)
        fd.continue_(message.address, PAGE)

    scene.serve(answer)
    assert scene.process.read(scene.watched) == 11
    assert len(scene.messages) == 1
    with pytest.raises(SystemCallError, match="EEXIST"):
        scene.uffd.continue_(scene.watched, PAGE)
    with pytest.raises(SystemCallError, match="EFAULT"):
        scene.uffd.continue_(scene.watched + PAGE, PAGE)
    scene.check()


def test_beyond_the_end_of_the_file_nothing_is_filled():
    """COPY and ZEROPAGE say EFAULT, and leave nothing behind."""
    scene = Watched()
    scene.process.ftruncate(scene.fd, PAGE)
    source = scene.process.mmap(PAGE)
    scene.process.write(source, 1)
    with pytest.raises(SystemCallError, match="EFAULT"):
        scene.uffd.copy(scene.watched + PAGE, source, PAGE)
    with pytest.raises(SystemCallError, match="EFAULT"):
        scene.uffd.zeropage(scene.watched + 2 * PAGE, PAGE)
    scene.check()


def test_a_protected_page_stays_so_when_its_entry_goes():
    """MADV_DONTNEED leaves a mark, and the page that comes back is protected."""
    scene = Watched(missing=False, wp=True)
    scene.process.write(scene.watched, 1)
    scene.uffd.writeprotect(scene.watched, 2 * PAGE)
    scene.process.madvise(scene.watched, 2 * PAGE, "dontneed")
    assert scene.process.read(scene.watched) == 1
    scene.serve(
        lambda fd, message: fd.writeprotect(message.address, PAGE, protect=False)
    )
    scene.process.write(scene.watched, 2)
    scene.process.write(scene.watched + PAGE, 3)
    assert [message.wp for message in scene.messages] == [True, True]
    assert scene.process.read(scene.other) == 2
    scene.check()
    scene.process.munmap(scene.watched, 4 * PAGE)
    scene.check()


def test_who_protects_shared_pages_is_told_by_each_mapping_alone():
    """Protection belongs to the entries of one area; other mappings write freely."""
    scene = Watched(missing=False, wp=True)
    scene.process.write(scene.watched, 1)
    scene.uffd.writeprotect(scene.watched, PAGE)
    scene.process.write(scene.other, 2)
    assert not scene.messages
    assert scene.process.read(scene.watched) == 2
    scene.check()


@pytest.mark.parametrize("private", [False, True])
def test_pages_of_files_do_not_move(private):
    """MOVE takes anonymous memory on both sides: EINVAL for any mapping of a file."""
    kernel = boot()
    process = kernel.spawn()
    fd = process.memfd_create("m")
    process.ftruncate(fd, 4 * PAGE)
    file = process.mmap(4 * PAGE, fd=fd, shared=not private)
    anonymous = process.mmap(4 * PAGE)
    process.write(file, 1)
    process.write(anonymous, 2)
    uffd = process.userfaultfd()
    uffd.register(file, 4 * PAGE)
    target = process.mmap(4 * PAGE)
    uffd.register(target, 4 * PAGE)
    with pytest.raises(SystemCallError, match="EINVAL"):
        uffd.move(target, file, PAGE)
    with pytest.raises(SystemCallError, match="EINVAL"):
        uffd.move(file + PAGE, anonymous, PAGE)
    assert (process.read(file), process.read(anonymous)) == (1, 2)
    audit(kernel)


@pytest.mark.parametrize("failing", range(1, 5))
@pytest.mark.parametrize("request_of", ["copy", "zeropage"])
def test_filling_shared_memory_without_memory_leaves_nothing(request_of, failing):
    """ENOMEM at any allocation: the file has no page more, and a retry fills it."""
    scene = Watched()
    source = scene.process.mmap(PAGE)
    scene.process.write(source, 9)
    left = failing

    def fail():
        nonlocal left
        left -= 1
        return left == 0

    def fill():
        if request_of == "copy":
            scene.uffd.copy(scene.watched, source, PAGE)
        else:
            scene.uffd.zeropage(scene.watched, PAGE)

    scene.kernel.page_alloc.fail = fail
    errno = None
    try:
        fill()
    except SystemCallError as error:
        errno = error.errno
    scene.kernel.page_alloc.fail = None
    assert errno == ("ENOMEM" if left <= 0 else None)
    if errno:
        assert scene.process.mm.shmempages == 0
        scene.check()
        fill()
    assert scene.process.read(scene.watched) == (9 if request_of == "copy" else 0)
    scene.check()
