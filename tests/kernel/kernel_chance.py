"""Programs of chance: what is done is drawn from a seed, with arguments at the edges.

A `Writer` knows what its program has mapped, so that most lines meet something; some
go a page too far, begin between two pages, or ask for what nobody has. Addresses are
always said, as a kernel that chooses them chooses others than the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

from kernel_text import FIRST, GIB, GUARD, HUGE, PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCESSES: Final = 3
AREAS: Final = 5
PLACES: Final = 6
LENGTHS: Final = (24, 36, 36, 60)
LOOKED_AT: Final = 6
"""How many pages of each mapping are read at the end."""

ADVICE: Final = (
    "dontneed",
    "dontneed",
    "free",
    "cold",
    "pageout",
    "hugepage",
    "nohugepage",
    "collapse",
    "populate_read",
    "populate_write",
    "dontfork",
    "dofork",
    "wipeonfork",
    "keeponfork",
)
RIGHTS: Final = (*["rw"] * 7, "r", "r", "none", "rx", "rwx")


@dataclass(slots=True)
class Area:
    """A range that was mapped, as far as the writer knows."""

    start: int
    pages: int
    kind: str


@dataclass(slots=True)
class Writer:
    """Writes one program.

    Args:
        random: Where chance comes from.
    """

    random: Random
    lines: list[str] = field(default_factory=lambda: [GUARD])
    areas: dict[int, list[Area]] = field(default_factory=lambda: {0: []})
    threads: dict[int, list[int]] = field(default_factory=lambda: {0: []})
    files: dict[int, str] = field(default_factory=dict)
    watching: bool = False
    watched: list[Area] = field(default_factory=list)
    born: int = 0
    value: int = 0
    mapped: int = 0

    # -- what is drawn ---------------------------------------------------------------

    def who(self) -> int:
        """Draw a process."""
        return self.random.choice(sorted(self.areas))

    def actor(self, process: int) -> str:
        """Draw one of its threads."""
        cpu = self.random.choice([None, None, None, *self.threads[process]])
        return str(process) if cpu is None else f"{process}.{cpu}"

    def area(self, process: int) -> Area:
        """Draw something that is mapped, or was."""
        areas = self.areas[process]
        return self.random.choice(areas) if areas else Area(FIRST, 4, "gone")

    def within(self, area: Area) -> tuple[int, int]:
        """Draw a range that has to do with an area: its address and length."""
        random = self.random
        pages = max(area.pages, 1)
        first = min(
            random.choice([0, 0, 0, 1, pages // 2, pages - 1, random.randrange(pages)]),
            pages - 1,
        )
        most = pages - first
        count = random.choice([most, most, 1, 1, 2, random.randint(1, most)])
        start, length = area.start + first * PAGE, count * PAGE
        edge = random.random()
        if edge < 0.02:
            start += 8
        elif edge < 0.04:
            length += random.choice([1, PAGE, 64 * PAGE])
        elif edge < 0.05:
            length = 0
        elif edge < 0.06:
            start = random.choice([0, FIRST + 40 * GIB, 1 << 48])
        elif edge < 0.065:
            length = random.choice([1 << 47, (1 << 64) - PAGE])
        return start, length

    def place(self, pages: int) -> int:
        """Draw where something new comes: often beside or over something else."""
        random = self.random
        start = FIRST + random.randrange(PLACES) * GIB
        if pages * PAGE >= HUGE:
            return start + random.choice([0, 0, HUGE])
        return start + random.choice([0, 0, 1, 3, 16, 508, 512]) * PAGE

    # -- lines -----------------------------------------------------------------------

    def add(self, text: str) -> None:
        """Write a line."""
        self.lines.append(text)

    def mmap(self, process: int | None = None) -> None:
        """Map something."""
        random = self.random
        process = self.who() if process is None else process
        if len(self.areas[process]) >= AREAS:
            return
        kind = random.choices(
            ["anon", "shared", "file", "private file", "huge", "pool", "shared pool"],
            [10, 3, 4, 2, 6, 1, 1],
        )[0]
        pages = random.choice([1, 2, 4, 4, 16, 17, 40])
        if kind == "huge" or "pool" in kind:
            pages = random.choice([512, 512, 1024])
        start = self.place(pages)
        flags = random.choices(
            ["fixed", "noreplace", "fixed,populate", "fixed,noreserve"], [14, 1, 1, 1]
        )[0]
        flags = (
            "shared," if kind.startswith("shared") or kind == "file" else "private,"
        ) + flags
        more = ""
        if "file" in kind:
            if not self.files:
                self.memfd()
            slot = random.choice(sorted(self.files))
            more = f" {slot} {random.choice([*[0] * 9, 1, 4, 100]) * PAGE:#x}"
        else:
            flags += ",anon"
        if "pool" in kind:
            flags += ",hugetlb"
        rights = random.choice([*["rw"] * 10, "r", "none", "rwx"])
        length = pages * PAGE
        self.add(
            f"{self.actor(process)} mmap {start:#x} {length:#x} {rights} {flags}{more}"
        )
        self.areas[process].append(Area(start, pages, kind))
        if kind == "huge" and random.random() < 0.8:
            self.add(f"{process} madvise {start:#x} {pages * PAGE:#x} hugepage")

    def memfd(self) -> None:
        """Make a file, before there is more than one process to know of it."""
        if len(self.files) >= 2:
            return
        slot = len(self.files)
        for process in sorted(self.areas):
            self.add(f"{process} memfd {slot}")
            size = self.random.choice([1, 8, 40, 40]) * PAGE
            self.add(f"{process} ftruncate {slot} {size:#x}")
        self.files[slot] = "small"

    def write(self) -> None:
        """Write to some pages."""
        process = self.who()
        area = self.area(process)
        start, times, step = self.pages_of(area)
        self.value += 1
        self.add(
            f"{self.actor(process)} write {start:#x} {self.value} {times} {step:#x}"
        )

    def read(self) -> None:
        """Read some pages."""
        process = self.who()
        start, times, step = self.pages_of(self.area(process))
        self.add(f"{self.actor(process)} read {start:#x} {times} {step:#x}")

    def pages_of(self, area: Area) -> tuple[int, int, int]:
        """Draw some pages of an area: where, how many, and how far apart."""
        random = self.random
        pages = max(area.pages, 1)
        first = random.choice([0, 0, 0, 1 % pages, pages - 1, random.randrange(pages)])
        step = random.choice([1, 1, 2, 8, 512]) if pages >= 512 else 1
        room = -(-(pages - first) // step)
        times = min(room, random.choice([1, 1, 2, 4, 16, 40]))
        if random.random() < 0.03:
            times += 1
        return area.start + first * PAGE, times, step * PAGE

    def mprotect(self) -> None:
        """Change rights."""
        process = self.who()
        start, length = self.within(self.area(process))
        rights = self.random.choice(RIGHTS)
        self.add(f"{self.actor(process)} mprotect {start:#x} {length:#x} {rights}")

    def madvise(self) -> None:
        """Give advice."""
        process = self.who()
        start, length = self.within(self.area(process))
        advice = self.random.choice(ADVICE)
        self.add(f"{self.actor(process)} madvise {start:#x} {length:#x} {advice}")

    def munmap(self) -> None:
        """Unmap a range."""
        process = self.who()
        area = self.area(process)
        start, length = self.within(area)
        self.add(f"{self.actor(process)} munmap {start:#x} {length:#x}")
        self.forget(process, area, start, length)

    def mremap(self) -> None:
        """Move, grow or shrink."""
        random, process = self.random, self.who()
        area = self.area(process)
        start, old = self.within(area)
        if random.random() < 0.25:
            new = old + random.choice([-1, 1, 2]) * PAGE
            self.add(
                f"{self.actor(process)} mremap {start:#x} {old:#x} {max(new, 0):#x} -"
            )
            return
        if random.random() < 0.6:
            start, old = area.start, area.pages * PAGE
        new = random.choice([old, old, old, old + PAGE, max(old - PAGE, PAGE)])
        flags = random.choice(
            ["maymove,fixed", "maymove,fixed", "maymove,fixed,dontunmap"]
        )
        if "dontunmap" in flags:
            new = random.choice([old, old, old, new])
        to = self.place(new // PAGE)
        self.add(
            f"{self.actor(process)} mremap {start:#x} {old:#x} {new:#x} {flags} {to:#x}"
        )
        if "dontunmap" not in flags:
            self.forget(process, area, start, old)
        if len(self.areas[process]) < AREAS + 2 and 0 < new < GIB:
            self.areas[process].append(Area(to, new // PAGE, area.kind))

    def forget(self, process: int, area: Area, start: int, length: int) -> None:
        """Think no more of an area of which nothing is left."""
        whole = (start, length) == (area.start, area.pages * PAGE)
        if whole and area in self.areas[process]:
            self.areas[process].remove(area)

    def msync(self) -> None:
        """Write files back."""
        process = self.who()
        start, length = self.within(self.area(process))
        flags = self.random.choice(["sync", "async", "invalidate", "sync,async"])
        self.add(f"{self.actor(process)} msync {start:#x} {length:#x} {flags}")

    def fork(self) -> None:
        """Make a child."""
        if len(self.areas) >= PROCESSES or self.born >= 5:
            return
        parent = self.who()
        self.born += 1
        self.add(f"{parent} fork {self.born}")
        self.areas[self.born] = [
            Area(one.start, one.pages, one.kind) for one in self.areas[parent]
        ]
        self.threads[self.born] = []

    def exit(self) -> None:
        """End a child."""
        children = sorted(self.areas.keys() - {0})
        if children:
            child = self.random.choice(children)
            self.add(f"{child} exit")
            del self.areas[child], self.threads[child]

    def thread(self) -> None:
        """Start a thread on another CPU."""
        process = self.who()
        free = sorted({1, 2, 3} - set(self.threads[process]))
        if free:
            cpu = self.random.choice(free)
            self.add(f"{process} thread {cpu}")
            self.threads[process].append(cpu)

    def file(self) -> None:
        """Do something to a file."""
        if not self.files or len(self.areas) > 1:
            return
        random = self.random
        slot = random.choice(sorted(self.files))
        offset = random.choice([0, 1, 2, 3, 7, 39]) * PAGE
        self.value += 1
        self.add(
            random.choice(
                [
                    f"0 pwrite {slot} {offset:#x} {self.value}",
                    f"0 pread {slot} {offset:#x}",
                    f"0 ftruncate {slot} {offset:#x}",
                    f"0 ftruncate {slot} {offset + 100:#x}",
                ]
            )
        )

    def open_userfaultfd(self) -> None:
        """Open the one userfaultfd of a program, whose faults are signals."""
        random = self.random
        if not self.watching:
            features = "sigbus,pagefault_flag_wp,move"
            if random.random() < 0.3:
                features += ",wp_unpopulated"
            if random.random() < 0.2:
                features += ",wp_async,wp_unpopulated"
            if random.random() < 0.3:
                features += ",minor_shmem"
            self.add(f"0 uffd 9 {features}")
            self.watching = True

    def fill(self) -> None:
        """Prepare something to be filled or protected, and do it."""
        random = self.random
        self.open_userfaultfd()
        pages = random.choice([1, 2, 4, 16, 17, 512, 513])
        length = pages * PAGE
        source, target = (
            FIRST + (PLACES + 2 * random.randrange(2) + i) * GIB for i in range(2)
        )
        target += random.choice([0, 0, 5 * PAGE])
        for start in (source, target):
            self.add(f"0 mmap {start:#x} {length:#x} rw private,fixed,anon")
            if pages >= 512 and random.random() < 0.5:
                self.add(f"0 madvise {start:#x} {length:#x} hugepage")
        step = random.choice([1, 1, 1, 2])
        self.value += 1
        self.add(
            f"0 write {source:#x} {self.value} {-(-pages // step)} {step * PAGE:#x}"
        )
        modes = random.choice(["missing", "missing,wp"])
        if random.random() < 0.3:
            self.fork()
            if random.random() < 0.6:
                self.exit()
        what = random.choice(["move", "move", "move", "copy", "zero", "protect"])
        if what == "protect":
            self.add(f"0 register 9 {source:#x} {length:#x} wp")
            self.add(f"0 wp 9 {source:#x} {length:#x} on")
            self.watched.append(Area(source, pages, "anon"))
        else:
            self.add(f"0 register 9 {target:#x} {length:#x} {modes}")
            flag = random.choice(["-", "holes" if what == "move" else "wp"])
            self.add(
                f"0 zero 9 {target:#x} {length:#x}"
                if what == "zero"
                else f"0 {what} 9 {target:#x} {source:#x} {length:#x} {flag}"
            )
            self.watched.append(Area(target, pages, "anon"))
        self.areas[0] = self.areas[0][-AREAS:]
        self.areas[0] += [Area(source, pages, "anon"), Area(target, pages, "anon")]

    def watch(self) -> None:
        """Watch a range through a userfaultfd, or answer for it."""
        random = self.random
        self.open_userfaultfd()
        if not self.watched or random.random() < 0.3:
            modes = random.choice(
                ["missing", "wp", "missing,wp", "missing,wp", "minor"]
            )
            if "missing" in modes and len(self.areas[0]) < AREAS:
                self.mmap(0)
            area = self.areas[0][-1] if self.areas[0] else self.area(0)
            self.add(f"0 register 9 {area.start:#x} {area.pages * PAGE:#x} {modes}")
            self.watched.append(area)
            return
        target, origin = random.choice(self.watched), self.area(0)
        start, length = self.within(target)
        source, _ = self.within(origin)
        to, size = start, min(length, 1024 * PAGE)
        if random.random() < 0.6:
            to, source = target.start, origin.start
            size = min(target.pages, origin.pages) * PAGE
        self.add(
            random.choice(
                [
                    f"0 unregister 9 {start:#x} {length:#x}",
                    f"0 wp 9 {start:#x} {length:#x} on",
                    f"0 wp 9 {start:#x} {length:#x} on",
                    f"0 write {start:#x} 77 {max(min(length // PAGE, 8), 1)} {PAGE:#x}",
                    f"0 wp 9 {start:#x} {length:#x} off",
                    f"0 copy 9 {to:#x} {source:#x} {size:#x} -",
                    f"0 copy 9 {to:#x} {source:#x} {size:#x} wp",
                    f"0 zero 9 {to:#x} {size:#x}",
                    f"0 continue 9 {to:#x} {size:#x}",
                    f"0 move 9 {to:#x} {source:#x} {size:#x} -",
                    f"0 move 9 {to:#x} {source:#x} {size:#x} holes",
                ]
            )
        )

    def system(self) -> None:
        """Say who gets huge pages from here on."""
        how = self.random.choice(["always", "madvise", "never"])
        self.add(f"- thp {how}")

    # -- the whole -------------------------------------------------------------------

    def write_all(self) -> list[str]:
        """Write a program."""
        random = self.random
        if random.random() < 0.3:
            self.add("- thp always")
        if random.random() < 0.3:
            self.add(f"- mthp {random.choice([16, 64, 64])} always")
        watches = random.random() < 0.4
        self.mmap()
        self.write()
        verbs = (
            (self.mmap, 8),
            (self.write, 22),
            (self.read, 10),
            (self.mprotect, 12),
            (self.madvise, 14),
            (self.munmap, 5),
            (self.mremap, 6),
            (self.msync, 2),
            (self.fork, 7),
            (self.exit, 4),
            (self.thread, 2),
            (self.file, 3),
            (self.watch, 14 * watches),
            (self.fill, 6 * watches),
            (self.system, 1),
        )
        steps, weights = zip(*verbs, strict=True)
        length = random.choice(LENGTHS)
        while len(self.lines) < length:
            random.choices(steps, weights)[0]()
        self.lines += self.looks()
        return self.lines

    def looks(self) -> Iterator[str]:
        """Read what each process has in the end."""
        for process, areas in sorted(self.areas.items()):
            for area in areas:
                step = max(area.pages // LOOKED_AT, 1)
                times = min(area.pages, LOOKED_AT)
                if times:
                    yield f"{process} read {area.start:#x} {times} {step * PAGE:#x}"


def program(seed: int) -> list[str]:
    """Write the program of a seed."""
    return Writer(Random(seed)).write_all()
