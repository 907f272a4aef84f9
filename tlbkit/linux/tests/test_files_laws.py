"""Mapped files, law by law: random programs against a plain account of contents."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.linux.arch.arm64.mm.fault import OutOfMemoryError
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.tests.audit import audit, audit_tlbs
from tlbkit.linux.tests.support import PAGE, boot
from tlbkit.observe.sanitizer import Sanitizer

PAGES = 18
KINDS = ("shared", "private", "memfd", "private memfd", "anonymous")
OLD, NEW = "v6.17", "v6.19"
page = st.sampled_from([0, 1, 2, 7, 15, 16, 17])
who = st.integers(0, 2)
kind = st.sampled_from(KINDS)
cpu = st.integers(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), who, kind, page, cpu),
        st.tuples(st.just("write"), who, kind, page, cpu),
        st.tuples(st.just("read"), who, kind, page, cpu),
        st.tuples(st.just("mprotect"), who, kind, page, st.sampled_from(["r", "rw"])),
        st.tuples(st.just("msync"), who, kind, page, cpu),
        st.tuples(st.just("pageout"), who, kind, page, cpu),
        st.tuples(st.just("dontneed"), who, kind, page, cpu),
        st.tuples(st.just("truncate"), who, kind, page, st.integers(0, PAGES)),
        st.tuples(st.just("munmap"), who, kind, page, cpu),
        st.tuples(st.just("pwrite"), who, kind, page, cpu),
        st.tuples(st.just("drop"), who, kind, page, cpu),
        st.tuples(st.just("fork"), who, kind, page, cpu),
        st.tuples(st.just("exit"), who, kind, page, cpu),
    ),
    max_size=24,
)


class Account:
    """What one program must see: files as lists, private pages as they are copied.

    Every page of the file is one word here. It knows nothing of entries or counts.
    """

    def __init__(self):
        self.files = {"file": [0] * PAGES, "memfd": [0] * PAGES}
        self.sizes = {"file": PAGES, "memfd": PAGES}
        self.shared_anonymous = [0] * PAGES

    @staticmethod
    def file_of(kind):
        """Which file a mapping is of, if it has a name here."""
        return {
            "shared": "file",
            "private": "file",
            "memfd": "memfd",
            "private memfd": "memfd",
        }.get(kind)

    def expected(self, space, kind, at):
        """What a read gives: a word, or the name of the signal."""
        if (kind, at) in space["gone"]:
            return "SIGSEGV"
        file = self.file_of(kind)
        if file is None:
            return self.shared_anonymous[at]
        if at >= self.sizes[file]:
            return "SIGBUS"
        if kind.startswith("private") and at in space["copies"][kind]:
            return space["copies"][kind][at]
        return self.files[file][at]

    def write(self, space, kind, at, value):
        """Write, and return what came of it."""
        old = self.expected(space, kind, at)
        if isinstance(old, str):
            return old
        if (kind, at) in space["read only"]:
            return "SIGSEGV"
        if kind == "anonymous":
            self.shared_anonymous[at] = value
        elif kind.startswith("private"):
            space["copies"][kind][at] = value
        else:
            self.files[self.file_of(kind)][at] = value
        return None

    def truncate(self, file, size, spaces):
        """Cut the file off, and every private copy of what lay behind."""
        self.sizes[file] = size
        self.files[file] = [
            word if at < size else 0 for at, word in enumerate(self.files[file])
        ]
        for space in spaces:
            for kind, copies in space["copies"].items():
                if self.file_of(kind) == file:
                    for at in [at for at in copies if at >= size]:
                        del copies[at]


class Program:
    """A few processes with every kind of mapping, and the account of each."""

    def __init__(self, version, **machine):
        self.kernel = boot(version, cpus=2, **machine)
        self.account = Account()
        first = self.kernel.spawn()
        self.fds = {
            "file": first.open("f", create=True),
            "memfd": first.memfd_create("m"),
        }
        for fd in self.fds.values():
            first.ftruncate(fd, PAGES * PAGE)
        self.bases = {"anonymous": first.mmap(PAGES * PAGE, shared=True)}
        for kind in KINDS[:-1]:
            self.bases[kind] = first.mmap(
                PAGES * PAGE,
                fd=self.fds[Account.file_of(kind)],
                shared=not kind.startswith("private"),
            )
        self.processes = [first]
        self.spaces = [
            {
                "gone": set(),
                "read only": set(),
                "copies": {"private": {}, "private memfd": {}},
            }
        ]
        self.strict = True
        self.word = 0

    def step(self, what, who, kind, at, extra):
        """Do one step, and compare what it showed with the account."""
        if not self.processes:
            return
        who %= len(self.processes)
        process, space = self.processes[who], self.spaces[who]
        address = self.bases[kind] + at * PAGE
        file = Account.file_of(kind)
        self.word += 1
        if what == "write":
            must = self.account.write(space, kind, at, self.word)
            got = self._try(lambda: process.write(address, self.word, cpu=extra))
            self._compare(got, must)
        elif what == "read":
            got = self._try(lambda: process.read(address, cpu=extra))
            self._compare(got, self.account.expected(space, kind, at))
        elif what == "mprotect":
            got = self._try(lambda: process.mprotect(address, PAGE, extra))
            self._compare(got, "ENOMEM" if (kind, at) in space["gone"] else None)
            if got is None:
                change = space["read only"].add if extra == "r" else self._free(space)
                change((kind, at))
        elif what == "msync":
            got = self._try(lambda: process.msync(address, PAGE))
            self._compare(got, "ENOMEM" if (kind, at) in space["gone"] else None)
        elif what in ("pageout", "dontneed"):
            got = self._try(lambda: process.madvise(address, PAGE, what))
            self._compare(got, "ENOMEM" if (kind, at) in space["gone"] else None)
            if what == "dontneed" and kind.startswith("private") and got is None:
                space["copies"][kind].pop(at, None)
        elif what == "truncate" and file is not None:
            process.ftruncate(self.fds[file], extra * PAGE)
            self.account.truncate(file, extra, self.spaces)
        elif what == "munmap":
            process.munmap(address, PAGE)
            space["gone"].add((kind, at))
        elif what == "pwrite" and file is not None:
            process.pwrite(self.fds[file], at * PAGE, self.word)
            sizes = self.account.sizes
            if at >= sizes[file]:
                # The last page is only begun, and mapped all the same.
                process.ftruncate(self.fds[file], (at + 1) * PAGE)
                sizes[file] = at + 1
            self.account.files[file][at] = self.word
        elif what == "drop":
            for inode in self.kernel.file_table.inodes:
                self.kernel.truncate.invalidate_mapping_pages(inode.mapping)
        elif what == "fork" and len(self.processes) < 3:
            self.processes.append(process.fork(cpu=extra))
            copies = {key: dict(value) for key, value in space["copies"].items()}
            self.spaces.append(
                {
                    "gone": set(space["gone"]),
                    "read only": set(space["read only"]),
                    "copies": copies,
                }
            )
        elif what == "exit":
            process.exit()
            del self.processes[who], self.spaces[who]

    @staticmethod
    def _free(space):
        return space["read only"].discard

    @staticmethod
    def _try(operation):
        try:
            return operation()
        except Signal as signal:
            return signal.signal
        except SystemCallError as error:
            return error.errno

    def _compare(self, got, must):
        if self.strict:
            assert got == must

    def check(self):
        """The books balance, and no TLB grants more than the tables do."""
        audit(self.kernel)
        audit_tlbs(self.kernel)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.booleans(), st.sampled_from([0, 2, 4]))
def test_old_and_new_kernels_keep_the_same_account(steps, hw_dbm, order):
    """Contents, errors and signals are those of the account, in either kernel."""
    for version in (OLD, NEW):
        program = Program(version, hw_dbm=hw_dbm)
        for inode in program.kernel.file_table.inodes:
            inode.mapping.folio_order = order
        for step in steps:
            program.step(*step)
            program.check()
        for process in tuple(program.processes):
            process.exit()
        program.check()
        names = [inode.name for inode in program.kernel.file_table.inodes]
        assert "f" in names
        assert "memfd:m" not in names


@settings(max_examples=25, deadline=None)
@given(STEPS, st.booleans(), st.sampled_from([0, 4]))
def test_no_rule_is_broken_on_the_way(steps, hw_dbm, order):
    """At no event does a CPU hold more than the tables give, unless a flush is owed."""
    program = Program(NEW, hw_dbm=hw_dbm)
    for inode in program.kernel.file_table.inodes:
        inode.mapping.folio_order = order
    with Sanitizer(program.kernel) as rules:
        for step in steps:
            program.step(*step)
    assert rules.reports == []


@settings(max_examples=40, deadline=None)
@given(STEPS, st.integers(0, 40))
def test_an_allocation_that_fails_leaves_nothing_behind(steps, when):
    """Whatever allocation fails, the books balance, and in the end all is free."""
    program = Program(NEW)
    countdown = when

    def fail():
        nonlocal countdown
        countdown -= 1
        return countdown == 0

    program.kernel.page_alloc.fail = fail
    program.strict = False
    for step in steps:
        with suppress(OutOfMemoryError, SystemCallError):
            program.step(*step)
        program.check()
    program.kernel.page_alloc.fail = None
    for process in tuple(program.processes):
        process.exit()
    program.kernel.spawn().unlink("f")
    for process in tuple(program.kernel.processes):
        process.exit()
    program.check()
    assert program.kernel.page_alloc.in_use == 2


@pytest.mark.parametrize("version", [OLD, NEW])
@pytest.mark.parametrize("kind", ["file", "memfd"])
def test_every_failing_allocation_of_a_write_is_undone(version, kind):
    """The first write through a mapping fails cleanly at each of its allocations."""
    for shared in (False, True):
        for failing in range(1, 9):
            program = Program(version)
            process = program.processes[0]
            base = process.mmap(PAGES * PAGE, fd=program.fds[kind], shared=shared)
            left = failing

            def fail():
                nonlocal left
                left -= 1
                return left == 0

            program.kernel.page_alloc.fail = fail
            failed = False
            try:
                process.write(base, 5)
            except OutOfMemoryError:
                failed = True
            program.check()
            program.kernel.page_alloc.fail = None
            process.write(base, 6)
            assert process.read(base) == 6
            program.check()
            if not failed:
                break
        assert failing > 1


@pytest.mark.parametrize("page_shift", [14, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_larger_pages_change_nothing_that_a_program_sees(page_shift, kind):
    """With pages of 16 and 64 KiB each kind of mapping holds what was written."""
    kernel = boot(NEW, cpus=2, page_shift=page_shift)
    size = 1 << page_shift
    process = kernel.spawn()
    fd = None
    if kind != "anonymous":
        memfd = "memfd" in kind
        fd = process.memfd_create("m") if memfd else process.open("f", create=True)
        process.ftruncate(fd, 4 * size)
        kernel.file_table.inodes[-1].mapping.folio_order = 2
    shared = not kind.startswith("private")
    base = process.mmap(4 * size, fd=fd, shared=shared)
    for at in range(4):
        process.read(base + at * size)
        process.write(base + at * size, at + 1, cpu=1)
    child = process.fork(cpu=1)
    process.msync(base, 4 * size)
    child.write(base, 9)
    assert process.read(base) == (9 if shared else 1)
    process.munmap(base + size, size)
    assert child.read(base + size) == 2
    audit(kernel)
    audit_tlbs(kernel)
