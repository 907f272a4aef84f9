"""A trace, done again by a kernel of the model: each call, each fault in its place."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from tlbkit.errors import TlbkitError
from tlbkit.lab.trace.foresee import STACK, Foresight, Stack
from tlbkit.lab.trace.records import (
    Call,
    Ended,
    Executed,
    Forked,
    Mapped,
    PageFault,
    Where,
)
from tlbkit.lab.trace.words import fields, flags, number, path
from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_present, pte_write
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.include.uapi.linux.userfaultfd import FEATURES
from tlbkit.linux.mm.memfd import MFD_HUGETLB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tlbkit.lab.trace.records import MoveArguments, Record
    from tlbkit.linux.include.linux.fs import AddressSpace
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.process import Process, Thread
    from tlbkit.linux.userfaultfd_fd import UserfaultFd

Policy = Literal["written", "read", "none"]
"""What a first touch was of which the trace does not tell: a write, a read, nothing."""

POLICIES: Final[tuple[Policy, ...]] = ("written", "read", "none")

PROT: Final = {
    "PROT_NONE": 0,
    "PROT_READ": 1,
    "PROT_WRITE": 2,
    "PROT_EXEC": 4,
    "PROT_BTI": 0x10,
}
MAP: Final = {
    "MAP_SHARED": 0x1,
    "MAP_PRIVATE": 0x2,
    "MAP_SHARED_VALIDATE": 0x3,
    "MAP_FIXED": 0x10,
    "MAP_ANONYMOUS": 0x20,
    "MAP_NORESERVE": 0x4000,
    "MAP_POPULATE": 0x8000,
    "MAP_STACK": 0x20000,
    "MAP_HUGETLB": 0x40000,
    "MAP_FIXED_NOREPLACE": 0x100000,
}
CLONE: Final = {"CLONE_VM": 0x100, "CLONE_VFORK": 0x4000, "CLONE_THREAD": 0x10000}
_MREMAP: Final = {"MREMAP_MAYMOVE": 1, "MREMAP_FIXED": 2, "MREMAP_DONTUNMAP": 4}
_MS: Final = {"MS_ASYNC": 1, "MS_INVALIDATE": 2, "MS_SYNC": 4}
_NAMES: Final = ("none", "r", "w", "rw", "x", "rx", "wx", "rwx")
_KERNEL_READS: Final = ("from_user", "get_user", "strn", "futex", "gup", "pin_")
_ADVICE_BY_NUMBER: Final = {
    "0x66": "guard_install",
    "0x67": "guard_remove",
    "102": "guard_install",
    "103": "guard_remove",
}
"""Advice that is younger than the strace that met it."""

_AGEING: Final = {"free", "cold", "pageout"}
_WITHOUT_TABLES: Final = {"willneed", "mergeable", "unmergeable", "guard_remove"}
_PUNCH_HOLE: Final = 0x3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_PROGRAM: Final = 1 << 20  # what a program is taken for that no line has the size of
_SEGMENT: Final = "/SYSV "
_SHARED_MEMORY: Final = (  # names alone
    "/dev/shm/",  # noqa: S108
    "/memfd:",
    "memfd:",
    _SEGMENT,
)
_MOST_SAID: Final = 8  # sentences of a kind
_PROGRAM_MOST: Final = 1 << 30  # bytes from a program's first page to its last
_MOST_SUPPOSED: Final = 1 << 16  # pages of one call
_AROUND: Final = 16  # file pages that a read fault maps at once
_CLOCKWORK: Final = frozenset(
    {
        "execve",
        "sched_setaffinity",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "wait4",
        "waitid",
        "exit",
        "exit_group",
        "futex",
        "close",
        "openat",
        "read",
        "write",
        "prlimit64",
        "getrandom",
        "restart_syscall",
        "clone",
        "clone3",
        "fork",
        "vfork",
    }
)
"""Calls that change no translation by themselves, or are followed by other means."""


@dataclass(slots=True)
class Task:
    """One thread of the trace.

    Attributes:
        thread: What stands for it in the model.
        process: The process that it belongs to; a child of vfork is in its parent's.
        vfork: Whether it only borrows the address space, until it begins a program.
    """

    thread: Thread
    process: Process
    vfork: bool = False


@dataclass(slots=True)
class Told:
    """What a replay has to say of the trace.

    Attributes:
        calls: Calls that were replayed, by name.
        left: Calls that the model does not have, by name.
        faults: Faults of the trace that were replayed.
        passed: Those that were not: before the program began, or of other programs.
        waiting: Faults that waited for a userfaultfd to bring their page.
        adopted: Pages that existed with no line that made them.
        supposed: Pages that were touched by the policy, since no line tells of any.
        unshown_moves: UFFDIO_MOVE whose arguments no line shows.
        differs: Where the model answered otherwise than the kernel did.
    """

    calls: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    passed: int = 0
    waiting: int = 0
    adopted: int = 0
    supposed: int = 0
    unshown_moves: int = 0
    differs: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """Say what the answer does not rest on the trace for, a sentence each."""
        said = []
        if self.left:
            names = ", ".join(f"{name} ({n:,})" for name, n in self.left.most_common())
            said.append(
                f"calls that are not modelled, and change nothing here: {names}"
            )
        if self.passed:
            said.append(
                f"{self.passed:,} faults are of other programs, or before the program "
                "began, and were left out"
            )
        if self.adopted:
            said.append(
                f"{self.adopted:,} pages were in use with no line that maps them, and "
                "were taken for private memory"
            )
        if self.supposed:
            said.append(
                f"{self.supposed:,} pages were touched by the policy alone, since no "
                "line tells of page faults"
            )
        if self.unshown_moves:
            said.append(
                f"{self.unshown_moves:,} UFFDIO_MOVE were left out: strace does not "
                "print what they move; a kernel probe on userfaultfd_ioctl does"
            )
        for what, n in self.differs.most_common():
            said.append(f"the model answered otherwise {n:,} times: {what}")
        said += self.examples
        return said


class Replay:
    """Replays a trace on one kernel.

    Args:
        kernel: Fresh, on a machine of its own.
        records: In their order.
        touch: What an untold first touch was.
        ahead: What later records tell of earlier ones, if it is known already.
    """

    def __init__(
        self,
        kernel: Kernel,
        records: Sequence[Record],
        touch: Policy = "written",
        ahead: Foresight | None = None,
    ) -> None:
        self.told = Told()
        self.at: tuple[int, str, Where | None, float | None] = (0, "", None, None)
        self._kernel = kernel
        self._page = kernel.pgtable.page_size
        self._records = records
        self._touch = touch
        self._ahead = ahead or Foresight(records, self._page)
        self._moves = {task: deque(all_) for task, all_ in self._ahead.moves.items()}
        self._tasks: dict[int, Task] = {}
        self._uffds: dict[tuple[int, int], UserfaultFd | None] = {}
        self._breaks: dict[int, int] = {}
        self._sizes: dict[str, int] = {}
        self._fds: dict[tuple[int, str], int] = {}
        self._memfds: dict[tuple[int, int], str] = {}
        self._aliases: dict[str, str] = {}
        self._started = False
        self._settling: set[int] = set()
        self._beginning: set[int] = set()
        self._segments: dict[int, Mapped] = {}
        self._cpus = len(kernel.machine.cpus)
        self._has_calls = any(isinstance(record, Call) for record in records)
        self._has_faults = any(isinstance(record, PageFault) for record in records)
        self._do: dict[str, Callable[[Task, Call], None]] = {
            "mmap": self._mmap,
            "mmap2": self._mmap,
            "munmap": self._munmap,
            "mprotect": self._mprotect,
            "pkey_mprotect": self._mprotect,
            "madvise": self._madvise,
            "mremap": self._mremap,
            "brk": self._brk,
            "msync": self._msync,
            "mlock": self._mlock,
            "mlock2": self._mlock,
            "userfaultfd": self._userfaultfd,
            "ioctl": self._ioctl,
            "memfd_create": self._memfd,
            "shmat": self._shmat,
            "shmdt": self._shmdt,
            "sched_setaffinity": self._affinity,
        }

    # -- the way through the records -------------------------------------------------

    def run(self) -> Told:
        """Replay all records, and end what has not ended."""
        for place, record in enumerate(self._records):
            self._step(place, record)
        for pid in list(self._tasks):
            self._end(pid)
        return self.told

    def _step(self, place: int, record: Record) -> None:
        """Replay one record."""
        name = record.name if isinstance(record, Call) else "page fault"
        self.at = (record.task, name, record.at, record.time)
        if isinstance(record, Call):
            if place not in self._ahead.later:
                self._call(record, place)
            elif record.name.startswith("execve"):
                self._beginning.add(record.task)
        elif isinstance(record, PageFault):
            self._fault(place, record)
        elif isinstance(record, Mapped):
            self._mapped(record)
        elif isinstance(record, Executed):
            if not self._has_calls or record.task in self._beginning:
                self._beginning.discard(record.task)
                self._exec(record.task, record.cpu, place)
        elif isinstance(record, Forked):
            if not self._has_calls and record.parent in self._tasks:
                self._fork(record.parent, record.task, same=record.pid != record.task)
        elif isinstance(record, Ended):
            self._end(record.task)

    def _call(self, call: Call, place: int) -> None:
        """Replay a system call that succeeded."""
        if call.name.startswith("execve"):
            if call.result == 0:
                self._exec(call.task, call.cpu, place)
            return
        task = self._tasks.get(call.task)
        if task is None:
            return
        self._settling.discard(call.task)
        if call.name == "exit_group":
            self._end_process(call.task)
            return
        if call.failed or call.result is None:
            return
        if call.name in {"clone", "clone3", "fork", "vfork"}:
            self._clone(call)
            return
        do = self._do.get(call.name)
        if do is None:
            if call.name not in _CLOCKWORK:
                self.told.left[call.name] += 1
            return
        self._guarded(call.name, call.at, lambda: do(task, call))
        self.told.calls[call.name] += 1

    def _guarded(self, what: str, at: Where, do: Callable[[], None]) -> None:
        """Do something, and note it where the model answers otherwise."""
        try:
            do()
        except (SystemCallError, Signal, TlbkitError) as error:
            kind = getattr(error, "errno", None) or getattr(error, "code", None)
            self.told.differs[f"{what}: {kind or type(error).__name__}"] += 1
            if len(self.told.examples) < _MOST_SAID:
                self.told.examples.append(f"{at}: {what}: {error}")

    # -- tasks -----------------------------------------------------------------------

    def _exec(self, number: int, cpu: int | None, place: int) -> None:
        """Begin a program: a new address space, and no thread but this one."""
        task = self._tasks.get(number)
        where = self._cpu(cpu)
        if task is None:
            if self._started and self._has_calls:
                return
            process = self._kernel.spawn(where)
            self._tasks[number] = Task(process, process)
            self._started = True
        elif task.vfork:
            process = self._kernel.spawn(where)
            self._tasks[number] = Task(process, process)
        else:
            for other in self._threads_of(number):
                if other != number:
                    del self._tasks[other]
            task.process.migrate(task.thread.cpu)
            task.process.execve()
            task.thread = task.process
        pid = number
        self._breaks.pop(pid, None)
        self._fds = {key: fd for key, fd in self._fds.items() if key[0] != pid}
        self._settling.add(number)
        stack = self._ahead.stacks.get(place)
        if stack is not None:
            task = self._tasks[number]
            at = self._records[place].at
            self._guarded("execve", at, lambda: self._stack(task, stack))

    def _stack(self, task: Task, stack: Stack) -> None:
        """Have the top of a new stack in memory, where it belongs.

        execve writes arguments and environment to the top of the address space. Where
        addresses are random it then moves them down, which invalidates the old place
        and frees its table.
        """
        written = stack.written(self._page)
        old = task.thread.stack
        if not written or not old:
            return
        length = len(written)
        first = old.stop - length
        task.thread.madvise(first, length, "populate_write")
        if written.stop == old.stop:
            return
        if old.start < first:
            task.thread.munmap(old.start, first - old.start)
        task.thread.mremap(
            first,
            length,
            length,
            maymove=True,
            fixed=True,
            new_address=written.start,
        )

    def _clone(self, call: Call) -> None:
        """Begin a thread, a child, or a child that borrows the address space."""
        text = " ".join(call.args)
        found = 0
        for word, bit in CLONE.items():
            found |= bit * (word in text)
        if call.name == "vfork":
            found |= CLONE["CLONE_VM"] | CLONE["CLONE_VFORK"]
        child = call.result
        if child:
            self._fork(
                call.task,
                child,
                same=bool(found & CLONE["CLONE_VM"]),
                thread=bool(found & CLONE["CLONE_THREAD"]),
            )

    def _fork(
        self, parent: int, child: int, *, same: bool, thread: bool = True
    ) -> None:
        """Make a task: one that shares its parent's address space, or has a copy."""
        task = self._tasks[parent]
        where = self._cpu(None)
        if same:
            new = Task(task.process.thread(where), task.process, vfork=not thread)
        else:
            task.process.migrate(task.thread.cpu)
            process = task.process.fork(where)
            new = Task(process, process)
            self._breaks[child] = self._breaks.get(self._pid(parent), 0)
            for (pid, name), fd in list(self._fds.items()):
                if pid == self._pid(parent):
                    self._fds[child, name] = fd
        self._tasks[child] = new

    def _end(self, number: int) -> None:
        """End one task; its process ends with the last of them."""
        task = self._tasks.pop(number, None)
        if task is None or task.vfork:
            return
        if not any(one.process is task.process for one in self._tasks.values()):
            task.process.migrate(task.thread.cpu)
            self._guarded("exit", Where("", 0), task.process.exit)

    def _end_process(self, number: int) -> None:
        """End all tasks of a process."""
        if self._tasks[number].vfork:
            del self._tasks[number]
            return
        for other in self._threads_of(number):
            if other != number:
                del self._tasks[other]
        self._end(number)

    def _threads_of(self, number: int) -> list[int]:
        """Return the tasks of the same process, without children of vfork."""
        process = self._tasks[number].process
        return [
            one
            for one, task in self._tasks.items()
            if task.process is process and not task.vfork
        ]

    def _pid(self, number: int) -> int:
        """Return the number of a task's process."""
        task = self._tasks.get(number)
        if task is not None and task.vfork:
            for other, one in self._tasks.items():
                if one.process is task.process and not one.vfork:
                    return self._ahead.process.get(other, other)
        return self._ahead.process.get(number, number)

    def _cpu(self, recorded: int | None) -> int:
        """Return where a task runs: where it was seen, else one after the other."""
        if recorded is not None:
            return recorded % self._cpus
        return len(self._tasks) % self._cpus

    def _affinity(self, _: Task, call: Call) -> None:
        """Move a task where it asked to be, if that is one CPU."""
        if len(call.args) > 2:
            one = number(call.args[2].strip("[]"))
            who = number(call.args[0]) or call.task
            if one is not None and who in self._tasks:
                self._tasks[who].thread.migrate(one % self._cpus)

    # -- memory ----------------------------------------------------------------------

    def _whole(self, length: int) -> int:
        """Round a length up to pages."""
        return -(-length // self._page) * self._page

    def _numbers(self, call: Call, *names: str) -> tuple[int, ...]:
        """Return the first arguments as numbers; by name where the tool gave names."""
        if call.named:
            return tuple(number(call.named.get(name, "0")) or 0 for name in names)
        found = [number(arg) or 0 for arg in call.args[: len(names)]]
        return tuple(found + [0] * (len(names) - len(found)))

    def _word(self, call: Call, place: int, name: str) -> str:
        """Return one argument as a word."""
        if call.named:
            return call.named.get(name, "")
        return call.args[place] if place < len(call.args) else ""

    def _mmap(self, task: Task, call: Call) -> None:
        """Map what was mapped, at the address that the kernel chose."""
        _, length = self._numbers(call, "addr", "len")
        how = flags(self._word(call, 3, "flags"), MAP, ("MAP_",))
        prot = flags(self._word(call, 2, "prot"), PROT, ("PROT_",))
        offset = number(self._word(call, 5, "off")) or 0
        assert call.result is not None
        fd, name = None, ""
        if not how & MAP["MAP_ANONYMOUS"]:
            name = self._file_name(call)
            fd = self._file(task, self._pid(call.task), name, offset + length)
        task.thread.mmap(
            length,
            _NAMES[prot & 7],
            addr=call.result,
            fixed=True,
            fd=fd,
            offset=offset,
            shared=bool(how & 1),
            noreserve=bool(how & MAP["MAP_NORESERVE"]),
            populate=bool(how & MAP["MAP_POPULATE"]),
            bti=bool(prot & PROT["PROT_BTI"]),
            hugetlb=bool(how & MAP["MAP_HUGETLB"]),
        )
        if how & MAP["MAP_STACK"]:
            task.thread.madvise(call.result, length, "nohugepage")

    def _file_name(self, call: Call) -> str:
        """Return the name of a mapped file; a made one where only a number is told."""
        word = self._word(call, 4, "fd")
        name = path(word)
        if not name:
            fd = number(word)
            known = self._memfds.get((self._pid(call.task), fd or 0))
            name = known or f"fd {fd} of {self._pid(call.task)}"
        return name

    def _file(self, task: Task, pid: int, name: str, size: int) -> int:
        """Return a process's descriptor of a file of at least *size* bytes."""
        fd = self._fds.get((pid, name))
        if fd is None:
            if name in self._ahead.huge_files:
                fd = task.thread.memfd_create(name, MFD_HUGETLB)
            elif name.startswith(_SHARED_MEMORY):
                fd = task.thread.memfd_create(name)
            else:
                fd = task.thread.open(name, create=True)
            self._fds[pid, name] = fd
        size = self._whole(size)
        if size > self._sizes.get(name, 0):
            task.thread.ftruncate(fd, size)
            self._sizes[name] = size
        return fd

    def _memfd(self, task: Task, call: Call) -> None:
        """Note the descriptor of a memfd."""
        name = f"memfd:{path(call.args[0]) or call.at.line}"
        pid = self._pid(call.task)
        if "MFD_HUGETLB" in " ".join(call.args[1:]):
            fd = task.thread.memfd_create(name, MFD_HUGETLB)
            self._fds[pid, name] = fd
        self._memfds[pid, call.result or 0] = name

    def _shmat(self, task: Task, call: Call) -> None:
        """Attach a segment of System V, as long as perf saw it mapped."""
        start = call.result
        length = self._ahead.attached.get((call.task, start or 0))
        if start is None or length is None:
            self.told.left["shmat of unknown length"] += 1
            return
        name = f"{_SEGMENT}{call.args[0] if call.args else ''}"
        fd = self._file(task, self._pid(call.task), name, length)
        rights = "r" if "SHM_RDONLY" in " ".join(call.args) else "rw"
        task.thread.mmap(length, rights, addr=start, fixed=True, fd=fd, shared=True)

    def _shmdt(self, task: Task, call: Call) -> None:
        """Detach the segment that begins at an address."""
        vma = self._vma(task, number(call.args[0]) or 0) if call.args else None
        if vma is None or vma.file is None:
            self.told.left["shmdt of what is not attached"] += 1
            return
        task.thread.munmap(vma.start, vma.end - vma.start)

    def _suppose(self, task: Task, start: int, length: int) -> None:
        """Touch what a call is about, where nothing tells what the program touched.

        A page matters to a flush only if it is there, so by the policy each page that
        the program could reach was touched before a call changes its range.
        """
        if self._has_faults or self._touch == "none":
            return
        first = start & -self._page
        last = min(start + length, first + _MOST_SUPPOSED * self._page)
        for page in range(first, last, self._page):
            vma = self._vma(task, page)
            if vma is None or not vma.flags & 7 or self._is_present(task, page):
                continue
            self._cache(vma, page)
            write = self._touch == "written" and self._may_write(vma)
            self._access(task, page, write=write)
            self.told.supposed += 1

    def _munmap(self, task: Task, call: Call) -> None:
        start, length = self._numbers(call, "addr", "len")
        self._suppose(task, start, length)
        task.thread.munmap(start, length)

    def _mprotect(self, task: Task, call: Call) -> None:
        start, length = self._numbers(call, "start", "len")
        prot = flags(self._word(call, 2, "prot"), PROT, ("PROT_",))
        self._adopt(task, start, length, "rw")
        self._suppose(task, start, length)
        task.thread.mprotect(
            start, length, _NAMES[prot & 7], bti=bool(prot & PROT["PROT_BTI"])
        )

    def _madvise(self, task: Task, call: Call) -> None:
        start, length = self._numbers(call, "start", "len_in")
        word = self._word(call, 2, "behavior").partition(" ")[0]
        advice = _ADVICE_BY_NUMBER.get(word, word).removeprefix("MADV_").lower()
        if advice in _WITHOUT_TABLES:
            return
        self._adopt(task, start, length, "rw")
        self._suppose(task, start, length)
        if advice == "remove":
            self._remove(task, start, length)
            return
        if advice == "guard_install":
            advice = "dontneed"
        if advice in _AGEING and self._touch == "written":
            self._use(task, start, length)
        task.thread.madvise(start, length, advice)

    def _use(self, task: Task, start: int, length: int) -> None:
        """Write once more to what is there, for which no line is needed.

        Advice on how memory was used is given after it was used.
        """
        for page in range(start & -self._page, start + length, self._page):
            vma = self._vma(task, page)
            if (
                vma is not None
                and self._may_write(vma)
                and self._is_writable(task, page)
            ):
                self._access(task, page, write=True)

    def _remove(self, task: Task, start: int, length: int) -> None:
        """Take a part of a mapped file away, from all who map it."""
        vma = self._vma(task, start)
        if vma is None or vma.file is None:
            return
        offset = vma.pgoff * self._page + start - vma.start
        for fd, file in task.thread.open_files.items():
            if file.inode is vma.file.inode:
                task.thread.fallocate(fd, _PUNCH_HOLE, offset, length)
                return

    def _mremap(self, task: Task, call: Call) -> None:
        start, old, new = self._numbers(call, "addr", "old_len", "new_len")
        how = flags(self._word(call, 3, "flags"), _MREMAP, ("MREMAP_",))
        assert call.result is not None
        self._adopt(task, start, max(old, self._page), "rw")
        self._suppose(task, start, old)
        moves = call.result != start
        task.thread.mremap(
            start,
            old,
            new,
            maymove=moves or bool(how & 1),
            fixed=moves,
            dontunmap=bool(how & 4),
            new_address=call.result if moves else 0,
        )

    def _brk(self, task: Task, call: Call) -> None:
        """Let the heap grow or shrink to what the call returned."""
        assert call.result is not None
        pid = self._pid(call.task)
        old = self._breaks.get(pid)
        self._breaks[pid] = call.result
        if old is None or old == call.result:
            return
        first, last = self._whole(old), self._whole(call.result)
        if last > first:
            task.thread.mmap(last - first, "rw", addr=first, fixed=True)
        elif last < first:
            task.thread.munmap(last, first - last)

    def _msync(self, task: Task, call: Call) -> None:
        start, length = self._numbers(call, "start", "len")
        how = flags(self._word(call, 2, "flags"), _MS, ("MS_",))
        task.thread.msync(start, self._whole(length), how)

    def _mlock(self, task: Task, call: Call) -> None:
        """Bring in what becomes locked; the lock itself changes no translation."""
        start, length = self._numbers(call, "start", "len")
        for page in range(start & -self._page, start + length, self._page):
            vma = self._vma(task, page)
            if vma is not None and not self._is_present(task, page):
                self._access(task, page, write=self._may_write(vma))

    # -- userfaultfd -----------------------------------------------------------------

    def _userfaultfd(self, _: Task, call: Call) -> None:
        assert call.result is not None
        self._uffds[self._pid(call.task), call.result] = None

    def _ioctl(self, task: Task, call: Call) -> None:
        """Do what a request to a userfaultfd asks; other devices are not modelled."""
        if len(call.args) < 2:
            return
        key = self._pid(call.task), number(call.args[0]) or 0
        request = call.args[1]
        asked = fields(call.args[2]) if len(call.args) > 2 else {}
        if key not in self._uffds:
            if request.startswith("UFFDIO_"):
                self.told.left[f"ioctl {request}"] += 1
            return
        if request == "UFFDIO_API":
            words = asked.get("features", "").partition("=>")[0].strip().split("|")
            names = [word.removeprefix("UFFD_FEATURE_") for word in words]
            known = [name for name in names if name in FEATURES]
            self._uffds[key] = task.thread.userfaultfd(*known)
            return
        found = self._uffds[key]
        if found is None:
            self.told.left[f"ioctl {request} before UFFDIO_API"] += 1
            return
        uffd = found.used_by(task.thread)
        if request == "UFFDIO_MOVE":
            self._move(uffd, call)
            return
        inner = fields(asked.get("range", ""))
        start = number(inner.get("start", asked.get("start", "0"))) or 0
        length = number(inner.get("len", asked.get("len", "0"))) or 0
        mode = asked.get("mode", "")
        if request == "UFFDIO_REGISTER":
            uffd.register(
                start,
                length,
                missing="MISSING" in mode,
                wp="MODE_WP" in mode,
                minor="MINOR" in mode,
            )
        elif request == "UFFDIO_UNREGISTER":
            uffd.unregister(start, length)
        elif request == "UFFDIO_COPY":
            destination = number(asked.get("dst", "0")) or 0
            source = number(asked.get("src", "0")) or 0
            self._adopt(task, source, length, "rw")
            uffd.copy(destination, source, length, wp="MODE_WP" in mode)
        elif request == "UFFDIO_ZEROPAGE":
            uffd.zeropage(start, length)
        elif request == "UFFDIO_WRITEPROTECT":
            uffd.writeprotect(start, length, protect="MODE_WP" in mode)
        elif request == "UFFDIO_WAKE":
            uffd.wake(start, length)
        elif request == "UFFDIO_CONTINUE":
            uffd.continue_(start, length)
        else:
            self.told.left[f"ioctl {request}"] += 1

    def _move(self, uffd: UserfaultFd, call: Call) -> None:
        """Move pages, if a probe saw the arguments, which strace does not print."""
        waiting = self._moves.get(call.task)
        if not waiting:
            self.told.unshown_moves += 1
            return
        asked: MoveArguments = waiting.popleft()
        uffd.move(
            asked.dst, asked.src, asked.length, allow_src_holes=bool(asked.mode & 2)
        )

    # -- faults ----------------------------------------------------------------------

    def _fault(self, place: int, fault: PageFault) -> None:
        """Touch what was touched."""
        task = self._tasks.get(fault.task)
        if task is None:
            self.told.passed += 1
            return
        self.told.faults += 1
        if fault.cpu is not None:
            task.thread.migrate(fault.cpu % self._cpus)
        address = self._place(task, fault)
        if address is None or self._touch == "none":
            return
        if place in self._ahead.refused:
            self._refused(task, address)
            return
        if fault.file.startswith("/") and not fault.file.startswith("//"):
            self._adopt_file(task, place, fault)
        self._adopt(task, address & -self._page, self._page, "rw")
        self._guarded(
            "page fault", fault.at, lambda: self._touched(task, place, address)
        )

    def _refused(self, task: Task, address: int) -> None:
        """Access what may not be accessed: the fault counts, and maps nothing."""
        vma = self._vma(task, address)
        if vma is None or not self._may_write(vma):
            with suppress(Signal):
                self._access(task, address & -8, write=True)

    def _place(self, task: Task, fault: PageFault) -> int | None:
        """Return the address of a fault, also where a place in a file was recorded.

        Where only a descriptor was told when the file was mapped, the youngest mapping
        that has that place is taken for it, and keeps the name.
        """
        if not fault.offset:
            return fault.address
        unnamed = None
        for vma in task.thread.mm.vmas:
            if vma.file is None:
                continue
            first = vma.pgoff * self._page
            if not first <= fault.address < first + vma.end - vma.start:
                continue
            name = vma.file.inode.name
            if self._aliases.get(name, name) == fault.file:
                return vma.start + fault.address - first
            if name.startswith("fd ") and name not in self._aliases:
                unnamed = vma
        if unnamed is not None and unnamed.file is not None:
            self._aliases[unnamed.file.inode.name] = fault.file
            return unnamed.start + fault.address - unnamed.pgoff * self._page
        return self._program(task, fault)

    def _program(self, task: Task, fault: PageFault) -> int | None:
        """Map a file that execve mapped, where no line says at which address."""
        pid = self._pid(fault.task)
        size = self._whole(fault.address + _PROGRAM)
        fd = self._file(task, pid, fault.file, size)
        start = task.thread.mmap(size, "rw", fd=fd)
        self.told.adopted += size // self._page
        return start + fault.address

    def _touched(self, task: Task, place: int, address: int) -> None:
        """Read or write as the trace tells, or as the policy has it."""
        fault = self._records[place]
        assert isinstance(fault, PageFault)
        vma = self._vma(task, address)
        if vma is None:
            return
        word = address & -8
        if vma.uffd is not None and not self._is_present(task, address):
            self.told.waiting += 1
            return
        if self._is_present(task, address):
            write = self._may_write(vma)
        elif place in self._ahead.reads or not self._may_write(vma):
            write = False
        elif fault.ip >> 63 or not fault.ip:
            write = not any(part in fault.symbol for part in _KERNEL_READS)
        else:
            write = self._touch == "written"
        self._cache(vma, address)
        if not write and fault.ip and fault.ip & -self._page == address & -self._page:
            task.thread.execute(address & -4)
            return
        self._access(task, word, write=write)

    def _access(self, task: Task, address: int, *, write: bool) -> None:
        """Load or store one word."""
        if write:
            task.thread.write(address, 1)
        else:
            task.thread.read(address)

    def _cache(self, vma: VmArea, address: int) -> None:
        """Have the pages of a file around a fault in memory: a warm page cache."""
        if vma.file is None or vma.ops is not self._kernel.filemap.vm_ops:
            return
        around = _AROUND * self._page
        first = max(address & -around, vma.start)
        last = min(first + around, vma.end)
        size = -(-vma.file.inode.size // self._page)
        index = vma.pgoff + (first - vma.start) // self._page
        for one in range(index, min(index + (last - first) // self._page, size)):
            self._read_in(vma.file.mapping, one)

    def _read_in(self, mapping: AddressSpace, index: int) -> None:
        """Have one page of a file in memory."""
        folio = self._kernel.filemap.read_mapping_folio(mapping, index)
        if not isinstance(folio, int):
            self._kernel.swap.folio_put(folio)

    def _vma(self, task: Task, address: int) -> VmArea | None:
        """Return what is mapped at an address."""
        return self._kernel.vma.vma_lookup(task.thread.mm, address)

    def _may_write(self, vma: VmArea) -> bool:
        """Tell whether a mapping may be written."""
        return bool(vma.flags & 2)

    def _is_present(self, task: Task, address: int) -> bool:
        """Tell whether the tables hold a page for an address."""
        return pte_present(self._entry(task, address))

    def _is_writable(self, task: Task, address: int) -> bool:
        """Tell whether a write to an address needs no fault."""
        entry = self._entry(task, address)
        return pte_present(entry) and pte_write(entry)

    def _entry(self, task: Task, address: int) -> int:
        """Return the last entry for an address; 0 if there is none."""
        pgtable, mm = self._kernel.pgtable, task.thread.mm
        entryp = pgtable.find_pte(mm, address)
        if entryp is None:
            entryp = pgtable.find_pmd(mm, address)
        return 0 if entryp is None else pgtable.read(entryp)

    # -- what no line has made -------------------------------------------------------

    def _mapped(self, record: Mapped) -> None:
        """Map what execve mapped; what a system call mapped, its own line tells."""
        task = self._tasks.get(record.task)
        if task is None:
            return
        if self._has_calls and record.task not in self._settling:
            return
        if not record.length:
            return
        if record.name == STACK:
            return
        bits = sum(1 << i for i, right in enumerate("rwx") if right in record.rights)
        fd = None
        offset = 0
        if record.name.startswith("/") and not record.name.startswith("//"):
            offset = record.offset & -self._page
            pid = self._pid(record.task)
            fd = self._file(task, pid, record.name, offset + record.length)
            self._cut(task, record)
        self._guarded(
            "execve",
            record.at,
            lambda: self._map_at(task, record, _NAMES[bits], fd, offset),
        )

    def _cut(self, task: Task, record: Mapped) -> None:
        """Take away what the first part of a file was mapped for too long.

        execve maps the first segment over the place of all, and cuts it where it ends;
        the record is of before. It ends no later than the next segment begins in the
        file.
        """
        first = self._segments.get(record.task)
        self._segments[record.task] = record
        if first is None or first.name != record.name or not record.offset:
            return
        start = first.start + (record.offset & -self._page) - first.offset
        end = first.start + self._whole(first.length)
        if first.start < start < record.start <= end:
            task.thread.munmap(start, record.start - start)

    def _map_at(
        self, task: Task, record: Mapped, prot: str, fd: int | None, offset: int
    ) -> None:
        """Make one mapping."""
        task.thread.mmap(
            self._whole(record.length),
            prot,
            addr=record.start,
            fixed=True,
            fd=fd,
            offset=offset,
            shared="s" in record.rights,
        )

    def _adopt_file(self, task: Task, place: int, fault: PageFault) -> None:
        """Map a file that execve mapped, where no record tells of it.

        It lies where the program touches it from here on. Its data begin at the first
        page that is written after it was read.
        """
        if self._vma(task, fault.address) is not None:
            return
        pid = self._pid(fault.task)
        low = high = fault.address & -self._page
        data = 0
        for later in range(place, len(self._records)):
            one = self._records[later]
            if one.task != fault.task:
                continue
            if isinstance(one, Executed) or (
                isinstance(one, Call) and one.name.startswith("execve")
            ):
                break
            if isinstance(one, PageFault) and one.file == fault.file:
                page = one.address & -self._page
                low, high = min(low, page), max(high, page)
                if later in self._ahead.reads and (not data or page < data):
                    data = page
        if high - low > _PROGRAM_MOST:
            return
        size = high + self._page - low
        fd = self._file(task, pid, fault.file, size)
        for start, end, prot in (
            (low, data or low + size, "rx"),
            (data or low + size, low + size, "rw"),
        ):
            for hole, until in self._holes(task, start, end):
                task.thread.mmap(
                    until - hole, prot, addr=hole, fixed=True, fd=fd, offset=hole - low
                )
                self.told.adopted += (until - hole) // self._page

    def _holes(self, task: Task, start: int, end: int) -> list[tuple[int, int]]:
        """Return where in a range nothing is mapped."""
        found = []
        at = start
        while at < end:
            vma = self._kernel.vma.find_vma(task.thread.mm, at)
            if vma is not None and vma.start <= at:
                at = vma.end
                continue
            until = end if vma is None else min(vma.start, end)
            found.append((at, until))
            at = until
        return found

    def _adopt(self, task: Task, start: int, length: int, prot: str) -> None:
        """Map what must have been there, since a call or an access succeeded on it."""
        for at, until in self._holes(
            task, start & -self._page, start + self._whole(length)
        ):
            task.thread.mmap(until - at, prot, addr=at, fixed=True)
            self.told.adopted += (until - at) // self._page
