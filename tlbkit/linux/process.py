"""What user space sees: processes and threads, whose methods are the system calls.

Source: none; these are the doors to the kernel, each named after its system call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.permission import EL0_EXECUTE, EL0_READ, EL0_WRITE
from tlbkit.arm64.tags import ATTR_TAGGED, TAG_GRANULE
from tlbkit.errors import InputError, TlbkitError
from tlbkit.linux.arch.arm64.include.asm.uaccess import untagged_addr
from tlbkit.linux.include.linux.fs import FMODE_READ, FMODE_WRITE
from tlbkit.linux.include.linux.mm import (
    FOLL_FAST_ONLY,
    FOLL_GET,
    FOLL_LONGTERM,
    FOLL_PIN,
    FOLL_WRITE,
    VM_ARM64_BTI,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_MTE,
    VM_READ,
    VM_WRITE,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EBADF,
    EINVAL,
    ENOMEM,
    Signal,
    SystemCallError,
)
from tlbkit.linux.mm.madvise import ADVICE
from tlbkit.linux.mm.memfd import FLAGS
from tlbkit.linux.mm.mmap import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_HUGETLB,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_TYPE,
)
from tlbkit.linux.mm.mremap import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE
from tlbkit.linux.mm.msync import MS_SYNC
from tlbkit.linux.userfaultfd_fd import UserfaultFd, feature_bits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tlbkit.arm64.cpu import Cpu
    from tlbkit.linux.fs.file import FilesStruct
    from tlbkit.linux.fs.userfaultfd import Unmapping
    from tlbkit.linux.include.linux.fs import File
    from tlbkit.linux.include.linux.mm_types import MmStruct, Page
    from tlbkit.linux.kernel.kernel import Kernel

PROT: Final = {
    "none": 0,
    "r": VM_READ,
    "w": VM_WRITE,
    "x": VM_EXEC,
    "rw": VM_READ | VM_WRITE,
    "rx": VM_READ | VM_EXEC,
    "wx": VM_WRITE | VM_EXEC,
    "rwx": VM_READ | VM_WRITE | VM_EXEC,
}
"""Protections by the names that `mmap` and `mprotect` take."""

_MODES: Final = {
    "r": FMODE_READ,
    "w": FMODE_WRITE,
    "rw": FMODE_READ | FMODE_WRITE,
}
_FAULTS_BEFORE_GIVING_UP: Final = 64
_ULONG: Final = (1 << 64) - 1
"""What an argument can say: addresses are unsigned long, lengths size_t."""


class LivelockError(TlbkitError):
    """An access faults for ever, though the kernel says each time that it may go on."""

    def __init__(self, cpu: int, address: int) -> None:
        super().__init__(
            f"CPU {cpu}: the access to {address:#x} still faults after "
            f"{_FAULTS_BEFORE_GIVING_UP} handled faults; a stale entry is never dropped"
        )
        self.cpu = cpu
        self.address = address


class ProcessGoneError(TlbkitError):
    """A process was used after it had exited."""

    def __init__(self, call: str) -> None:
        super().__init__(f"{call}: this process has exited; spawn or fork another one")


def _protection(prot: str) -> int:
    """Return the ``VM_`` bits of a protection by name."""
    try:
        return PROT[prot]
    except KeyError:
        raise InputError(f"prot {prot!r}: known are {', '.join(PROT)}") from None


class Thread:
    """One thread of a process, on one CPU.

    System calls raise `SystemCallError` with the errno that Linux would give; accesses
    raise `Signal` where Linux would send one. Each system call begins with an event
    ``call``: ``what`` is its name, ``new`` its arguments.
    """

    __slots__ = ("_files", "_kernel", "_mm", "cpu")

    def __init__(
        self, kernel: Kernel, mm: MmStruct, cpu: int, files: FilesStruct
    ) -> None:
        self._kernel = kernel
        self._mm: MmStruct | None = mm
        self._files = files
        self.cpu = cpu

    @property
    def mm(self) -> MmStruct:
        """The address space; `ProcessGoneError` after the end."""
        if self._mm is None:
            raise ProcessGoneError("mm")
        return self._mm

    @property
    def open_files(self) -> Mapping[int, File]:
        """What its descriptors stand for."""
        return self._files.fds

    @property
    def stack(self) -> range:
        """The addresses of the stack: what /proc/self/maps calls [stack]."""
        for vma in self.mm.vmas:
            if vma.flags & VM_GROWSDOWN:
                return range(vma.start, vma.end)
        return range(0)

    def _enter(self, what: str, cpu: int | None = None) -> Cpu:
        """Run on *cpu*, or on the thread's own, from here on, to do *what*."""
        mm = self._mm
        if mm is None:
            raise ProcessGoneError(what)
        kernel = self._kernel
        machine = kernel.machine
        core = machine.cpus[self.cpu] if cpu is None else machine.cpu(cpu)
        kernel.sched.run_on(mm, core)
        return core

    def enter_kernel(self, name: str, *arguments: int | str) -> None:
        """Begin the system call *name*, or a request to a descriptor of that name."""
        core = self._enter(name)
        events = self._kernel.machine.events
        if "call" in events.heard:
            events.emit(core.number, "call", name, new=arguments)

    @staticmethod
    def _result(call: str, value: int) -> int:
        """Return what a kernel function returned, or raise its error."""
        if value < 0:
            raise SystemCallError(call, -value)
        return value

    def end(self) -> None:
        """Be no more: the process exits, or becomes another program."""
        self._mm = None

    def migrate(self, cpu: int) -> None:
        """Move the thread to another CPU; what the old one's TLB holds stays there."""
        if self._mm is None:
            raise ProcessGoneError("migrate")
        self.cpu = self._kernel.machine.cpu(cpu).number

    # -- accesses --------------------------------------------------------------------

    def read(self, address: int, *, cpu: int | None = None, size: int = 8) -> int:
        """Load *size* bytes at *address*, through the TLB of the thread's CPU.

        They need not be aligned: to memory that is mapped here, the CPU accesses any
        1, 2, 4 or 8 bytes of a page.
        """
        core = self._enter("read", cpu)
        value = core.read(address, EL0_READ, size)
        faults = 0
        while isinstance(value, Fault):
            faults = self._abort(core, address, EL0_READ, value, faults)
            value = core.read(address, EL0_READ, size)
        return value

    def load_tag(self, address: int) -> int:
        """Return the allocation tag at *address*, as LDG does; 0 without PROT_MTE."""
        pa, attr = self._tagged(address)
        return self._kernel.machine.tags.load(pa) if attr == ATTR_TAGGED else 0

    def store_tag(self, address: int, tag: int) -> None:
        """Give 16 aligned bytes another tag, as STG does; needs PROT_MTE."""
        if address % TAG_GRANULE:
            raise InputError(
                f"store_tag({address:#x}): a tag belongs to {TAG_GRANULE} aligned bytes"
            )
        self.write(address, self.read(address))  # it faults like a store
        pa, attr = self._tagged(address)
        if attr == ATTR_TAGGED:
            self._kernel.machine.tags.store(pa, tag)

    def read_checked(self, address: int, key: int = 0) -> int:
        """Load a word through a pointer whose tag is *key*; a wrong one is a signal."""
        if self.load_tag(address) != key and self._tagged(address)[1] == ATTR_TAGGED:
            raise Signal("SIGSEGV", "SEGV_MTESERR", address)
        return self.read(address)

    def _tagged(self, address: int) -> tuple[int, int]:
        """Return where *address* lies, and what kind of memory it is mapped as."""
        self.read(address, size=1)
        found = self._enter("tag").resolve(address, EL0_READ)
        assert not isinstance(found, Fault)
        offset = address & ((1 << found.leaf.shift) - 1)
        return found.pa + offset, found.leaf.attr

    def write(
        self, address: int, value: int, *, cpu: int | None = None, size: int = 8
    ) -> None:
        """Store the *size* bytes of *value* at *address*, as `read` loads them."""
        core = self._enter("write", cpu)
        fault = core.write(address, value, EL0_WRITE, size)
        faults = 0
        while fault is not None:
            faults = self._abort(core, address, EL0_WRITE, fault, faults)
            fault = core.write(address, value, EL0_WRITE, size)

    def execute(self, address: int, *, cpu: int | None = None) -> None:
        """Fetch an instruction from *address*."""
        core = self._enter("execute", cpu)
        fault = core.execute(address)
        faults = 0
        while fault is not None:
            faults = self._abort(core, address, EL0_EXECUTE, fault, faults)
            fault = core.execute(address)

    def _abort(
        self, core: Cpu, address: int, need: int, fault: Fault, faults: int
    ) -> int:
        """Have the fault of an access handled; return how many that makes."""
        self._kernel.fault.do_mem_abort(self.mm, address, need, fault)
        if faults + 1 == _FAULTS_BEFORE_GIVING_UP:
            raise LivelockError(core.number, address)
        return faults + 1

    # -- system calls ----------------------------------------------------------------

    def mmap(
        self,
        length: int,
        prot: str = "rw",
        *,
        addr: int | None = None,
        fd: int | None = None,
        offset: int = 0,
        shared: bool = False,
        fixed: bool = False,
        noreplace: bool = False,
        noreserve: bool = False,
        populate: bool = False,
        mte: bool = False,
        bti: bool = False,
        hugetlb: bool = False,
        flags: int = 0,
    ) -> int:
        """Map a file, or anonymous memory, and return its address.

        Args:
            length: In bytes.
            prot: A name of `PROT`.
            addr: A hint, or the place, which *fixed* and *noreplace* must have.
            fd: The descriptor of the file; without it MAP_ANONYMOUS.
            offset: Where in the file to begin, in bytes; whole pages.
            shared: MAP_SHARED instead of MAP_PRIVATE.
            fixed: MAP_FIXED: what is there is unmapped.
            noreplace: MAP_FIXED_NOREPLACE: what is there is an error.
            noreserve: MAP_NORESERVE.
            populate: MAP_POPULATE: the pages are faulted in at once.
            mte: PROT_MTE: the memory's tags count, if the CPU has tags at all.
            bti: PROT_BTI: code is entered where it allows it, and nowhere else.
            hugetlb: MAP_HUGETLB: huge pages of a pool, of the default size unless
                *flags* hold another (MAP_HUGE_64KB).
            flags: ``MAP_`` bits besides, of `tlbkit.linux.mm.mmap`. If they hold a type
                (MAP_SHARED_VALIDATE), that counts and not *shared*.
        """
        if addr is None and (fixed or noreplace):
            how = "fixed" if fixed else "noreplace"
            raise InputError(f"mmap({how}=True): say where, with addr=")
        if not flags & MAP_TYPE:
            flags |= MAP_SHARED if shared else MAP_PRIVATE
        flags |= MAP_FIXED * fixed | MAP_FIXED_NOREPLACE * noreplace
        flags |= MAP_NORESERVE * noreserve | MAP_POPULATE * populate
        flags |= MAP_HUGETLB * hugetlb
        if fd is None:
            flags |= MAP_ANONYMOUS
        protection = _protection(prot)
        self.enter_kernel("mmap", length, prot)
        kernel = self._kernel
        if kernel.mte.supported:  # otherwise PROT_MTE is passed over
            protection |= VM_MTE * mte
        protection |= VM_ARM64_BTI * bti
        addr, length, offset = (addr or 0) & _ULONG, length & _ULONG, offset & _ULONG
        mm = self.mm
        file = None
        if offset & ~kernel.pgtable.page_mask:
            raise SystemCallError("mmap", EINVAL)
        if fd is not None:
            file = self._fget("mmap", fd)
        found = kernel.mmap.hugetlb_file(length, flags, file)
        if isinstance(found, int):
            raise SystemCallError("mmap", -found)
        length, target = found
        mm.mmap_lock.down_write()
        result = kernel.mmap.do_mmap(
            mm,
            addr,
            length,
            protection,
            flags,
            target,
            offset >> kernel.pgtable.page_shift,
        )
        mm.mmap_lock.up_write()
        if file is None and target is not None:
            kernel.file_table.fput(target)
        if populate and result >= 0:
            kernel.gup.mm_populate(mm, result, length)
        return self._result("mmap", result)

    def munmap(self, address: int, length: int) -> None:
        """Remove every mapping of a range."""
        self.enter_kernel("munmap", address, length)
        mm = self.mm
        unmapped: list[Unmapping] = []
        mm.mmap_lock.down_write()
        result = self._kernel.mmap.do_munmap(
            mm, untagged_addr(address & _ULONG), length & _ULONG, unmapped
        )
        mm.mmap_lock.up_write()
        self._kernel.fs_userfaultfd.userfaultfd_unmap_complete(unmapped)
        self._result("munmap", result)

    def mremap(
        self,
        address: int,
        old_length: int,
        new_length: int,
        *,
        maymove: bool = False,
        fixed: bool = False,
        dontunmap: bool = False,
        new_address: int = 0,
    ) -> int:
        """Give a mapping another length or another place, and return its address.

        Args:
            address: Where it is.
            old_length: Of what is resized or moved, in bytes.
            new_length: Of what it becomes, in bytes.
            maymove: MREMAP_MAYMOVE: it may go elsewhere if there is no room to grow.
            fixed: MREMAP_FIXED: it goes to *new_address*; what is there is unmapped.
            dontunmap: MREMAP_DONTUNMAP: its pages go elsewhere, and the old addresses
                stay mapped, with no pages.
            new_address: Where it goes, or with *dontunmap* alone a hint.
        """
        flags = MREMAP_MAYMOVE * maymove | MREMAP_FIXED * fixed
        flags |= MREMAP_DONTUNMAP * dontunmap
        self.enter_kernel("mremap", address, old_length, new_length)
        result = self._kernel.mremap.do_mremap(
            self.mm,
            untagged_addr(address & _ULONG),
            old_length & _ULONG,
            new_length & _ULONG,
            flags,
            new_address & _ULONG,
        )
        return self._result("mremap", result)

    def mprotect(
        self, address: int, length: int, prot: str, *, bti: bool = False
    ) -> None:
        """Give a range the rights *prot*, a name of `PROT`, and *bti*: PROT_BTI."""
        protection = _protection(prot) | VM_ARM64_BTI * bti
        self.enter_kernel("mprotect", address, length, prot)
        self._result(
            "mprotect",
            self._kernel.mprotect.do_mprotect_pkey(
                self.mm, untagged_addr(address & _ULONG), length & _ULONG, protection
            ),
        )

    def madvise(self, address: int, length: int, advice: str | int) -> None:
        """Say something of a range, for example ``"hugepage"`` or ``"collapse"``.

        Args:
            address: Page-aligned.
            length: In bytes.
            advice: A name of `tlbkit.linux.mm.madvise.ADVICE`, or a number.
        """
        if isinstance(advice, str) and advice not in ADVICE:
            raise InputError(f"advice {advice!r}: known are {', '.join(ADVICE)}")
        self.enter_kernel("madvise", address, length, advice)
        behavior = ADVICE[advice] if isinstance(advice, str) else advice
        self._result(
            "madvise",
            self._kernel.madvise.do_madvise(
                self.mm, address & _ULONG, length & _ULONG, behavior
            ),
        )

    def mbind(self, address: int, length: int, flags: int) -> int:
        """Move the huge pages of a range to other frames, and return how many moved.

        Args:
            address: Page-aligned.
            length: In bytes.
            flags: ``MPOL_MF_`` bits of `tlbkit.linux.mm.mempolicy`.
        """
        self.enter_kernel("mbind", address, length, flags)
        return self._result(
            "mbind",
            self._kernel.mempolicy.do_mbind(
                self.mm, untagged_addr(address & _ULONG), length & _ULONG, flags
            ),
        )

    def msync(self, address: int, length: int, flags: int = MS_SYNC) -> None:
        """Write back the files that a range maps shared; *flags* are ``MS_`` bits."""
        self.enter_kernel("msync", address, length, flags)
        address = untagged_addr(address & _ULONG)
        self._result(
            "msync",
            self._kernel.msync.msync(self.mm, address, length & _ULONG, flags),
        )

    # -- pages that a driver takes ---------------------------------------------------

    def pin(
        self,
        address: int,
        length: int,
        *,
        write: bool = False,
        longterm: bool = False,
        fast_only: bool = False,
    ) -> list[Page]:
        """Pin the pages of a range, as a driver does that lets a device at them.

        Args:
            address: Of the first byte.
            length: In bytes.
            write: FOLL_WRITE: the device will write.
            longterm: FOLL_LONGTERM: for as long as user space likes.
            fast_only: FOLL_FAST_ONLY: no more than can be had without a lock.

        Returns:
            The pages by their frame numbers, perhaps fewer than asked; `unpin` them.

        Source: mm/gup.c, pin_user_pages_fast().
        """
        flags = FOLL_PIN | FOLL_WRITE * write | FOLL_LONGTERM * longterm
        flags |= FOLL_FAST_ONLY * fast_only
        return self._gup("pin_user_pages_fast", address, length, flags)

    def get_pages(
        self,
        address: int,
        length: int,
        *,
        write: bool = False,
        fast_only: bool = False,
    ) -> list[Page]:
        """Take a reference to each page of a range: get_user_pages_fast()."""
        flags = FOLL_GET | FOLL_WRITE * write | FOLL_FAST_ONLY * fast_only
        return self._gup("get_user_pages_fast", address, length, flags)

    def _gup(self, call: str, address: int, length: int, flags: int) -> list[Page]:
        if length <= 0:
            raise InputError(f"{address:#x}: {length} bytes have no page; give some")
        self.enter_kernel(call, address, length)
        size = self._kernel.pgtable.page_size
        nr = (address + length - 1) // size - address // size + 1
        pages: list[Page] = []
        gup = self._kernel.gup
        self._result(call, gup.gup_fast_fallback(self.mm, address, nr, flags, pages))
        return pages

    def unpin(self, pages: Iterable[Page]) -> None:
        """Undo `pin`."""
        self._enter("unpin")
        self._kernel.gup.unpin_user_pages(pages)

    def put_pages(self, pages: Iterable[Page]) -> None:
        """Undo `get_pages`."""
        self._enter("put_pages")
        self._kernel.gup.put_pages(pages)

    # -- files -----------------------------------------------------------------------

    def open(self, name: str, mode: str = "rw", *, create: bool = False) -> int:
        """Open a file by name and return its descriptor.

        Args:
            name: Any text; there are no folders. Under /dev/hugepages, or another mount
                point of `tlbkit.linux.fs.hugetlbfs.inode.Hugetlbfs`, it is that of a
                file of huge pages, elsewhere that of a file on a disk.
            mode: ``"r"``, ``"w"`` or ``"rw"``.
            create: O_CREAT: make it if there is none.
        """
        if mode not in _MODES:
            raise InputError(f"mode {mode!r}: known are {', '.join(_MODES)}")
        self.enter_kernel("open", name, mode)
        file = self._kernel.file_table.do_open(name, _MODES[mode], create=create)
        return self._install("open", file)

    def open_device(self, file: File | int) -> int:
        """Return a descriptor of what a driver has opened, as `Mem.open` returns it."""
        self.enter_kernel("open")
        return self._install("open", file)

    def memfd_create(self, name: str, *flags: int | str) -> int:
        """Return the descriptor of an empty file of shared memory.

        Args:
            name: For messages.
            flags: Names of `tlbkit.linux.mm.memfd.FLAGS`, with ``MFD_`` or without, or
                bits. ``"HUGETLB"`` makes a file of huge pages, of the default size
                unless another is given: ``"HUGETLB", "HUGE_1GB"``.
        """
        bits = 0
        for flag in flags:
            name_of = flag.removeprefix("MFD_") if isinstance(flag, str) else None
            if name_of is not None and name_of not in FLAGS:
                raise InputError(f"memfd flag {flag!r}: known are {', '.join(FLAGS)}")
            bits |= int(flag) if name_of is None else FLAGS[name_of]
        self.enter_kernel("memfd_create", name, bits)
        made = self._kernel.memfd.memfd_create(name, bits)
        return self._install("memfd_create", made)

    def close(self, fd: int) -> None:
        """Give a descriptor back; mappings of the file stay."""
        self.enter_kernel("close", fd)
        file = self._fget("close", fd)
        del self._files.fds[fd]
        self._kernel.file_table.fput(file)

    def unlink(self, name: str) -> None:
        """Take the name of a file away; it goes with its last user."""
        self.enter_kernel("unlink", name)
        self._result("unlink", self._kernel.file_table.do_unlink(name))

    def ftruncate(self, fd: int, size: int) -> None:
        """Give a file another size, in bytes."""
        self.enter_kernel("ftruncate", fd, size)
        file = self._fget("ftruncate", fd)
        self._result("ftruncate", self._kernel.file_table.do_ftruncate(file, size))

    def fsync(self, fd: int) -> None:
        """Write back all that is dirty of a file."""
        self.enter_kernel("fsync", fd)
        file = self._fget("fsync", fd)
        self._result("fsync", file.ops.fsync(file, 0, file.inode.size))

    def pread(self, fd: int, offset: int) -> int | None:
        """Return the 64-bit word at byte *offset* of a file, ``None`` at its end.

        *offset* is a multiple of 8, as memory has words of that size.
        """
        self.enter_kernel("pread", fd, offset)
        self._check_offset("pread", offset)
        file = self._fget("pread", fd)
        if not file.mode & FMODE_READ:
            raise SystemCallError("pread", EBADF)
        word = file.ops.read_iter(file, offset)
        return None if word is None else self._result("pread", word)

    def pwrite(self, fd: int, offset: int, value: int) -> None:
        """Store a 64-bit word at byte *offset* of a file, also beyond its end."""
        self.enter_kernel("pwrite", fd, offset)
        self._check_offset("pwrite", offset)
        file = self._fget("pwrite", fd)
        if not file.mode & FMODE_WRITE:
            raise SystemCallError("pwrite", EBADF)
        self._result("pwrite", file.ops.write_iter(file, offset, value))

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        """Fill a range of a file with pages, or punch a hole into it.

        Args:
            fd: The descriptor.
            mode: ``FALLOC_FL_`` bits; 0 fills the range, and makes the file larger.
            offset: The first byte.
            length: How many.
        """
        self.enter_kernel("fallocate", fd, mode, offset, length)
        file = self._fget("fallocate", fd)
        error = self._kernel.file_table.vfs_fallocate(file, mode, offset, length)
        self._result("fallocate", error)

    @staticmethod
    def _check_offset(call: str, offset: int) -> None:
        if offset < 0:
            raise SystemCallError(call, EINVAL)
        if offset % 8:
            raise InputError(f"offset={offset:#x}: give a multiple of 8")

    def _fget(self, call: str, fd: int) -> File:
        """Return the open file of a descriptor, or raise EBADF."""
        file = self._files.fget(fd)
        if file is None:
            raise SystemCallError(call, EBADF)
        return file

    def _install(self, call: str, file: File | int) -> int:
        if isinstance(file, int):
            raise SystemCallError(call, -file)
        return self._files.fd_install(file)

    # -- userfaultfd -----------------------------------------------------------------

    def userfaultfd(self, *features: str, flags: int = 0) -> UserfaultFd:
        """Return a descriptor through which faults of this process can be answered.

        It is ready for use: UFFDIO_API was asked for the features.

        Args:
            features: Names of `tlbkit.linux.include.uapi.linux.userfaultfd.FEATURES`,
                for example ``"WP_ASYNC"``. Moving pages needs none.
            flags: ``UFFD_USER_MODE_ONLY``, ``O_NONBLOCK`` and ``O_CLOEXEC``.
        """
        feature_bits(features)
        self.enter_kernel("userfaultfd", *features)
        ctx = self._kernel.fs_userfaultfd.new_userfaultfd(self.mm, flags)
        if isinstance(ctx, int):
            raise SystemCallError("userfaultfd", -ctx)
        fd = UserfaultFd(self._kernel, self, ctx)
        fd.api(*features)
        return fd


class Process(Thread):
    """A process: its first thread, and the address space that all its threads share."""

    __slots__ = ("_threads",)

    def __init__(
        self, kernel: Kernel, mm: MmStruct, cpu: int, files: FilesStruct
    ) -> None:
        super().__init__(kernel, mm, cpu, files)
        self._threads: list[Thread] = []

    def thread(self, cpu: int) -> Thread:
        """Return another thread of this process, on *cpu*."""
        if self._mm is None:
            raise ProcessGoneError("thread")
        number = self._kernel.machine.cpu(cpu).number
        thread = Thread(self._kernel, self._mm, number, self._files)
        self._threads.append(thread)
        return thread

    def fork(self, cpu: int | None = None) -> Process:
        """Return a child process with a copy of the address space.

        Args:
            cpu: Where the child runs; the parent's CPU if not given.
        """
        self.enter_kernel("fork")
        kernel = self._kernel
        number = self.cpu if cpu is None else kernel.machine.cpu(cpu).number
        copy = kernel.fork.dup_mm(self.mm)
        if isinstance(copy, int):
            raise SystemCallError("fork", -copy)
        child = Process(kernel, copy, number, self._files.dup_fd())
        kernel.processes.append(child)
        return child

    def execve(self) -> None:
        """Replace the address space by a new program's, with nothing but a stack.

        The other threads end.
        """
        self.enter_kernel("execve")
        mm = self._kernel.exec.new_mm()
        if mm is None:
            raise SystemCallError("execve", ENOMEM)
        old = self.mm
        self._end_threads()
        self._mm = mm
        self._kernel.sched.run_on(mm, self._kernel.machine.running)
        self._kernel.fork.mmput(old)

    def kill(self) -> None:
        """Be sent SIGKILL: what the process does in the kernel stops where it may.

        A process that is killed in the midst of a system call must still `exit`.
        """
        if self._mm is None:
            raise ProcessGoneError("kill")
        self._kernel.sched.killed.add(self._mm)

    def exit(self) -> None:
        """End the process and give back all that it had."""
        self.enter_kernel("exit")
        mm = self.mm
        self._end_threads()
        self._mm = None
        self._kernel.processes.remove(self)
        self._kernel.fork.mmput(mm)
        self._files.close_files(self._kernel.file_table.fput)

    def _end_threads(self) -> None:
        """Let no other thread use the address space any more: it is about to go."""
        while self._threads:
            self._threads.pop().end()
