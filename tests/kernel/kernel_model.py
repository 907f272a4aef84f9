"""Play a program of `kernel_text` on the model, and say what each line came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kernel_text import PAGE, Line, Seen, parse

from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import find_model
from tlbkit.arm64.tlbi import range_pages
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.mm.memfd import MFD_HUGETLB
from tlbkit.linux.mm.msync import MS_ASYNC, MS_INVALIDATE, MS_SYNC
from tlbkit.linux.process import LivelockError
from tlbkit.linux.userfaultfd_fd import UserfaultFd
from tlbkit.patches.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tlbkit.arm64.events import Event
    from tlbkit.linux.process import Process, Thread

CPUS = 4
BOARDS = {
    "range": "neoverse-v2",
    "norange": "neoverse-n1",
    "lpa2": "neoverse-v2,lpa2",
    "kpti": "neoverse-v2,kpti",
}
"""Which CPU model stands for each board of ``measure.py``."""

HUGE_PAGES = 128
OWN_PAGES = 32
HEARD = ("tlbi", "dsb", "fault", "spurious", "ipi")
WORD = (1 << 64) - 1


class Window:
    """What a machine does while one line is played."""

    def __init__(self) -> None:
        self.tlbi: Counter[str] = Counter()
        self.pages: Counter[str] = Counter()
        self.open: Counter[int] = Counter()
        self.syncs: Counter[str] = Counter()
        self.faults = 0
        self.broadcasts = 0
        self.spurious = 0

    def hear(self, event: Event) -> None:
        """Count one event."""
        if event.kind == "tlbi":
            name = event.what.name
            self.tlbi[name] += 1
            self.pages[name] += (
                range_pages(event.new >> 44 & 3, event.new >> 39 & 31)
                if event.what.ranged
                else 1
            )
            self.open[event.cpu] += 1
        elif event.kind == "fault":
            self.faults += 1
        elif event.kind == "spurious":
            self.spurious += 1
        elif event.kind == "ipi":
            self.broadcasts += bool(event.what)
        elif event.what in ("ish", "nsh") and self.open.pop(event.cpu, 0):
            self.syncs[event.what] += 1

    def seen(self, answer: int | str) -> Seen:
        """Return what was counted, for a line that came to *answer*."""
        # A fault that ends in a signal is none that the kernel counts for a process.
        faults = self.faults - (isinstance(answer, str) and answer.startswith("SIG"))
        tlbi = {name: (n, self.pages[name]) for name, n in self.tlbi.items()}
        return Seen(
            answer,
            max(faults, 0),
            tlbi,
            self.syncs["ish"],
            self.syncs["nsh"],
            self.broadcasts,
        )


@dataclass
class Player:
    """One process: its threads by CPU, and its slots of descriptors."""

    process: Process
    threads: dict[int, Thread] = field(default_factory=dict)
    slots: dict[int, int | UserfaultFd] = field(default_factory=dict)

    def thread(self, cpu: int | None) -> Thread:
        """Return who acts."""
        return self.process if cpu is None else self.threads[cpu]


class Model:
    """A kernel that plays programs.

    Args:
        kernel: A name of `tlbkit.patches.registry.KERNELS`.
        cpu: A name of `BOARDS`.
        without: Commits to leave out besides.
    """

    def __init__(
        self, kernel: str, cpu: str = "range", without: Iterable[str] = ()
    ) -> None:
        model = replace(find_model(BOARDS[cpu]), epan=cpu != "norange")
        self.machine = Machine(CPUS, model)
        self.kernel = Kernel(self.machine, kernel, without)
        self.kernel.huge_memory.enabled = "madvise"
        self.kernel.hugetlb.set_max_huge_pages(HUGE_PAGES)
        self.players: dict[int, Player] = {}
        self.last = Window()

    def play(self, program: Sequence[str]) -> Iterator[Seen]:
        """Play a program with a new process 0, and yield what each line came to."""
        self.players = {0: Player(self.kernel.spawn(0))}
        self._own_pages(self.players[0])
        for text in program:
            yield self.do(parse(text))
        for player in self.players.values():
            player.process.exit()

    @staticmethod
    def _own_pages(player: Player) -> None:
        """Let a process write to pages of its own, here of its stack.

        The guest does that when it is made and after each fork. They are so many that
        others go from the batch in which new pages wait for the LRU lists.
        """
        end = player.process.mm.vmas[-1].end
        for page in range(OWN_PAGES):
            player.process.write(end - 8 - page * PAGE, 0)

    def do(self, line: Line) -> Seen:
        """Play one line in a window of its own."""
        do: Callable[..., int | None] = getattr(self, f"do_{line.verb}")
        player = None if line.who is None else self.players[line.who]
        window = self.last = Window()
        self.machine.events.listen(window.hear, HEARD)
        try:
            answer: int | str = do(player, line, *line.words) or 0
        except SystemCallError as error:
            answer = error.errno
        except Signal as error:
            answer = f"{error.signal}/{error.code}"
        except LivelockError:
            answer = "LIVELOCK"
        finally:
            self.machine.events.leave(window.hear)
        if line.verb == "fork" and answer == 0 and player is not None:
            self._own_pages(player)
            self._own_pages(self.players[int(line.words[0])])
        return window.seen(answer)

    # -- the whole kernel ------------------------------------------------------------

    def do_thp(self, _: None, __: Line, how: Any) -> None:
        """Say who gets huge pages."""
        self.kernel.huge_memory.enabled = how

    def do_mthp(self, _: None, __: Line, kib: str, how: Any) -> None:
        """Say who gets folios of a size."""
        self.kernel.huge_memory.set_hugepages_enabled(int(kib), how)

    # -- processes -------------------------------------------------------------------

    def do_fork(self, player: Player, _: Line, child: str) -> None:
        """Make process *child*."""
        made = player.process.fork()
        slots = {
            slot: fd.used_by(made) if isinstance(fd, UserfaultFd) else fd
            for slot, fd in player.slots.items()
        }
        self.players[int(child)] = Player(made, {}, slots)

    def do_exit(self, player: Player, line: Line) -> None:
        """End a process."""
        assert line.who is not None
        del self.players[line.who]
        player.process.exit()

    def do_thread(self, player: Player, _: Line, cpu: str) -> None:
        """Start a thread on *cpu*."""
        player.threads[int(cpu)] = player.process.thread(int(cpu))

    # -- accesses --------------------------------------------------------------------

    def do_read(
        self, player: Player, line: Line, at: str, times: str = "1", step: str = "4096"
    ) -> int:
        """Read words, and answer with their sum."""
        thread = player.thread(line.cpu)
        total = 0
        for number in range(int(times)):
            total += thread.read(int(at, 0) + number * int(step, 0))
        return total & WORD

    def do_write(
        self,
        player: Player,
        line: Line,
        at: str,
        value: str,
        times: str = "1",
        step: str = "4096",
    ) -> None:
        """Write one word to each of several places."""
        thread = player.thread(line.cpu)
        for number in range(int(times)):
            thread.write(int(at, 0) + number * int(step, 0), int(value, 0))

    # -- system calls ----------------------------------------------------------------

    def do_mmap(
        self,
        player: Player,
        line: Line,
        at: str,
        length: str,
        prot: str,
        flags: str,
        slot: str = "",
        offset: str = "0",
    ) -> int:
        """Map something."""
        words = set(flags.split(",")) - {"private", "anon"}
        return player.thread(line.cpu).mmap(
            int(length, 0),
            prot,
            addr=int(at, 0),
            fd=self._fd(player, slot) if slot else None,
            offset=int(offset, 0),
            **dict.fromkeys(words, True),
        )

    def do_munmap(self, player: Player, line: Line, at: str, length: str) -> None:
        """Unmap a range."""
        player.thread(line.cpu).munmap(int(at, 0), int(length, 0))

    def do_mprotect(
        self, player: Player, line: Line, at: str, length: str, prot: str
    ) -> None:
        """Change rights."""
        player.thread(line.cpu).mprotect(int(at, 0), int(length, 0), prot)

    def do_madvise(
        self, player: Player, line: Line, at: str, length: str, advice: str
    ) -> None:
        """Give advice."""
        player.thread(line.cpu).madvise(int(at, 0), int(length, 0), advice)

    def do_mremap(
        self,
        player: Player,
        line: Line,
        at: str,
        old: str,
        new: str,
        flags: str,
        to: str = "0",
    ) -> int:
        """Grow, shrink or move."""
        words = set(flags.split(",")) - {"-"}
        return player.thread(line.cpu).mremap(
            int(at, 0),
            int(old, 0),
            int(new, 0),
            new_address=int(to, 0),
            **dict.fromkeys(words, True),
        )

    def do_msync(
        self, player: Player, line: Line, at: str, length: str, flags: str
    ) -> None:
        """Write files back."""
        known = {"async": MS_ASYNC, "sync": MS_SYNC, "invalidate": MS_INVALIDATE}
        bits = sum(known[word] for word in flags.split(","))
        player.thread(line.cpu).msync(int(at, 0), int(length, 0), bits)

    # -- files -----------------------------------------------------------------------

    @staticmethod
    def _fd(player: Player, slot: str) -> int:
        fd = player.slots.get(int(slot), -1)
        assert isinstance(fd, int)
        return fd

    def do_memfd(self, player: Player, _: Line, slot: str, kind: str = "small") -> None:
        """Make a file of shared memory."""
        flags = MFD_HUGETLB if kind == "huge" else 0
        player.slots[int(slot)] = player.process.memfd_create("m", flags)

    def do_ftruncate(self, player: Player, _: Line, slot: str, size: str) -> None:
        """Give a file a size."""
        player.process.ftruncate(self._fd(player, slot), int(size, 0))

    def do_pread(self, player: Player, _: Line, slot: str, offset: str) -> int:
        """Read a word of a file; -1 at its end."""
        word = player.process.pread(self._fd(player, slot), int(offset, 0))
        return -1 if word is None else word

    def do_pwrite(
        self,
        player: Player,
        _: Line,
        slot: str,
        offset: str,
        value: str,
        times: str = "1",
        step: str = "4096",
    ) -> None:
        """Write one word to each of several places of a file."""
        fd = self._fd(player, slot)
        for number in range(int(times)):
            at = int(offset, 0) + number * int(step, 0)
            player.process.pwrite(fd, at, int(value, 0))

    def do_close(self, player: Player, _: Line, slot: str) -> None:
        """Give a descriptor back."""
        fd = player.slots.pop(int(slot), -1)
        if isinstance(fd, UserfaultFd):
            fd.close()
        else:
            player.process.close(fd)

    # -- userfaultfd -----------------------------------------------------------------

    @staticmethod
    def _uffd(player: Player, slot: str) -> UserfaultFd:
        fd = player.slots[int(slot)]
        assert isinstance(fd, UserfaultFd)
        return fd

    def do_uffd(self, player: Player, _: Line, slot: str, features: str = "-") -> None:
        """Open a userfaultfd."""
        names = [] if features == "-" else features.upper().split(",")
        player.slots[int(slot)] = player.process.userfaultfd(*names)

    def do_register(
        self, player: Player, _: Line, slot: str, at: str, length: str, modes: str
    ) -> None:
        """Watch a range."""
        asked = modes.split(",")
        self._uffd(player, slot).register(
            int(at, 0),
            int(length, 0),
            missing="missing" in asked,
            wp="wp" in asked,
            minor="minor" in asked,
        )

    def do_unregister(
        self, player: Player, _: Line, slot: str, at: str, length: str
    ) -> None:
        """Watch it no more."""
        self._uffd(player, slot).unregister(int(at, 0), int(length, 0))

    def do_wp(
        self, player: Player, _: Line, slot: str, at: str, length: str, how: str
    ) -> None:
        """Protect against writes, or give them free."""
        self._uffd(player, slot).writeprotect(
            int(at, 0), int(length, 0), protect=how == "on"
        )

    def do_copy(
        self,
        player: Player,
        _: Line,
        slot: str,
        to: str,
        source: str,
        length: str,
        flags: str = "-",
    ) -> int:
        """Fill pages with a copy."""
        return self._uffd(player, slot).copy(
            int(to, 0), int(source, 0), int(length, 0), wp=flags == "wp"
        )

    def do_zero(self, player: Player, _: Line, slot: str, at: str, length: str) -> int:
        """Fill pages with zeros."""
        return self._uffd(player, slot).zeropage(int(at, 0), int(length, 0))

    def do_continue(
        self, player: Player, _: Line, slot: str, at: str, length: str
    ) -> int:
        """Map what a file has."""
        return self._uffd(player, slot).continue_(int(at, 0), int(length, 0))

    def do_move(
        self,
        player: Player,
        _: Line,
        slot: str,
        to: str,
        source: str,
        length: str,
        flags: str = "-",
    ) -> int:
        """Move pages."""
        return self._uffd(player, slot).move(
            int(to, 0), int(source, 0), int(length, 0), allow_src_holes=flags == "holes"
        )
