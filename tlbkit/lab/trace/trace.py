"""A trace of a program of yours, to be replayed on kernels and asked for commits."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import DEFAULT_MODEL
from tlbkit.errors import InputError
from tlbkit.lab.trace.answer import TraceAnswer
from tlbkit.lab.trace.foresee import Foresight, huge_files, huge_pages
from tlbkit.lab.trace.read import lines_of, merged, reading_of, text_lines
from tlbkit.lab.trace.records import Call, PageFault, used
from tlbkit.lab.trace.replay import POLICIES, Policy, Replay
from tlbkit.lab.trace.result import Replayed, Share
from tlbkit.lab.trace.words import number
from tlbkit.lab.trace.words import path as path_of
from tlbkit.lab.variant import Variant
from tlbkit.linux.tuning import tune
from tlbkit.observe.calls import path
from tlbkit.observe.counters import counting
from tlbkit.observe.timing import timing
from tlbkit.patches import registry
from tlbkit.patches.build import closure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor

    from tlbkit.arm64.events import Event
    from tlbkit.lab.trace.records import Reading, Record
    from tlbkit.linux.mm.huge_memory.settings import Enabled
    from tlbkit.patches.patch import Patch

_FLUSHING = frozenset(
    {
        "arch/arm64/include/asm/tlbflush.h",
        "arch/arm64/include/asm/tlb.h",
        "include/asm-generic/tlb.h",
        "mm/mmu_gather.c",
    }
)
"""Who flushes for others: a flush is told by who asks for it."""

_HUGE = 2 << 20
_DOUBTS = 4  # places of small pages for one that may be huge
_MOST_HUGE_PAGES = 4096


@dataclass(frozen=True)
class Trace:
    """What one run of a program did, read from what strace and perf wrote of it.

    Attributes:
        records: What happened, in order.
        readings: Of each file, what was read and what was not.
        notes: What a reader must know of it, a sentence each.
    """

    records: tuple[Record, ...]
    readings: tuple[Reading, ...]
    notes: tuple[str, ...]

    @classmethod
    def read(cls, *files: str) -> Trace:
        """Read files of strace, ``perf script`` or ``perf trace`` of one run.

        Args:
            files: Names; packed ones are unpacked, ``-`` is standard input.

        Raises:
            InputError: A file cannot be read, or is of none of these tools.
        """
        return cls._of([reading_of(name, lines_of(name)) for name in files])

    @classmethod
    def of_text(cls, files: Mapping[str, bytes]) -> Trace:
        """The same for files that are at hand: name -> contents."""
        return cls._of(
            [reading_of(name, text_lines(name, data)) for name, data in files.items()]
        )

    @classmethod
    def _of(cls, readings: Sequence[Reading]) -> Trace:
        if not readings:
            raise InputError(
                "name at least one file of strace, perf script or perf trace"
            )
        # Calls tell of memory what faults only touch, so they come first.
        ordered = sorted(readings, key=lambda one: one.kind != "strace")
        records, notes = merged(ordered)
        notes += [note for reading in ordered for note in reading.notes]
        if not any(isinstance(record, PageFault) for record in records):
            notes.append(
                "no file tells of page faults, so no page is touched; add: perf record "
                "-e page-faults -c 1 -d, and perf script -F +addr"
            )
        return cls(tuple(records), tuple(ordered), tuple(notes))

    @property
    def used(self) -> float:
        """Which part of all lines was read."""
        return used(self.readings)

    @cached_property
    def thp(self) -> Enabled:
        """Whether huge pages were always used, as the faults tell; else madvise.

        If they were, one fault brings all of a huge page.
        """
        once, more = huge_pages(self.records)
        return "always" if once and more <= _DOUBTS * once else "madvise"

    def replay(
        self,
        kernel: str | Variant = registry.DEFAULT_KERNEL,
        *,
        cpu: str = DEFAULT_MODEL,
        cpus: int = 4,
        touch: Policy = "written",
        thp: Enabled | None = None,
        tuning: Mapping[str, object] | None = None,
    ) -> Replayed:
        """Do it again on one kernel, and count.

        Args:
            kernel: A name, or a kernel without some commits.
            cpu: A CPU model by name, with properties if you like.
            cpus: How many CPUs the machine has.
            touch: What a first touch was of which the trace does not tell.
            thp: What /sys/kernel/mm/transparent_hugepage/enabled says; by default as
                it was where the trace was taken, see `thp`.
            tuning: More settings, as `tlbkit.linux.tuning.tune` takes them.

        Raises:
            InputError: A name is unknown.
        """
        if touch not in POLICIES:
            raise InputError(f"touch {touch!r}: known are {', '.join(POLICIES)}")
        variant = Variant(kernel) if isinstance(kernel, str) else kernel
        machine = Machine(cpus, cpu)
        made = variant.start(machine)
        made.huge_memory.enabled = thp or self.thp
        made.hugetlb.set_max_huge_pages(self._huge_pages)
        tune(made, tuning or {})
        size = made.pgtable.page_size
        if size not in self._ahead:
            self._ahead[size] = Foresight(self.records, size)
        replay = Replay(made, self.records, touch, self._ahead[size])
        result = Replayed(variant, cpu, replay.told)
        hear = _listener(result, replay)
        machine.events.listen(hear, {"tlbi", "dsb"})
        with counting(machine) as counts, timing(machine) as clocks:
            replay.run()
        machine.events.leave(hear)
        result.tlbi = counts.tlbi
        result.ipi_broadcasts = counts.ipi_broadcasts
        result.faults = counts.faults.total() + result.told.waiting
        result.spurious = counts.spurious_faults
        result.cost_ns = clocks.bill().elapsed_ns
        return result

    def shares(
        self,
        older: str = "v6.17",
        newer: str = "v6.19",
        progress: Callable[[int, int, str], None] | None = None,
        executor: Executor | None = None,
        **how: Any,
    ) -> Iterator[Share]:
        """Yield what each commit changes: left out of *newer*, and alone in *older*.

        A commit whose functions the program never enters is not run: without it the
        kernel does exactly the same.

        Args:
            older: Name of the kernel that has none of them.
            newer: Name of the kernel whose commits are asked for.
            progress: Is told how many commits are done, of how many, and which is next.
            executor: Runs the replays, as for `tlbkit.lab.work.rows`; by default they
                run here, one after the other.
            how: As for `replay`.
        """
        here = registry.kernel(newer).patches
        base = {name: self.replay(name, **how) for name in (older, newer)}
        entered = self._entered(older, **how) | self._entered(newer, **how)
        asked = [patch for patch in registry.PATCHES if patch.hash in here]
        left = here - registry.kernel(older).patches
        ways = {
            patch.hash: _without_and_alone(patch, newer, left)
            if entered & frozenset(_changed(patch))
            else (None, None)
            for patch in asked
        }
        replayed = self._begun(
            [one for way in ways.values() for one in way], executor, how
        )
        for done, patch in enumerate(asked):
            if progress is not None:
                progress(done, len(asked), patch.hash)
            without, alone = ways[patch.hash]
            yield _share(
                patch,
                base[older],
                base[newer],
                base[newer] if without is None else replayed(without),
                base[older] if alone is None else replayed(alone),
            )

    def answer(
        self,
        kernels: Sequence[str] = ("v6.17", registry.DEFAULT_KERNEL),
        *,
        cpu: str = DEFAULT_MODEL,
        cpus: int = 4,
        touch: Policy = "written",
        tuning: Mapping[str, object] | None = None,
        commits: bool = False,
        progress: Callable[[int, int, str], None] | None = None,
        executor: Executor | None = None,
    ) -> TraceAnswer:
        """Replay it on some kernels, and ask for each commit's share if that is wanted.

        Ctrl-C while commits are asked for ends the asking, and keeps what was answered.

        Args:
            kernels: Names, the oldest first.
            cpu: Name of a CPU model.
            cpus: How many CPUs the machine has.
            touch: What a first touch was of which the trace does not tell.
            tuning: As for `replay`.
            commits: Whether each commit is asked for, between the first and the last.
            progress: As for `shares`.
            executor: As for `shares`.

        Raises:
            InputError: A name is unknown.
        """
        how: dict[str, Any] = {
            "cpu": cpu,
            "cpus": cpus,
            "touch": touch,
            "tuning": tuning,
        }
        found = {name: self.replay(name, **how) for name in kernels}
        shares: list[Share] = []
        complete = True
        if commits:
            asked = self.shares(kernels[0], kernels[-1], progress, executor, **how)
            try:
                shares.extend(asked)
            except KeyboardInterrupt:
                complete = False
        shares.sort(key=lambda one: -max(abs(one.without), abs(one.alone)))
        return TraceAnswer(
            self.readings,
            self.notes,
            found,
            tuple(shares),
            cpu,
            cpus,
            touch,
            complete,
        )

    def _begun(
        self,
        variants: Sequence[Variant | None],
        executor: Executor | None,
        how: Mapping[str, Any],
    ) -> Callable[[Variant], Replayed]:
        """Return what answers for a kernel: an executor has begun all by then."""
        if executor is None:
            return lambda one: self.replay(one, **how)
        begun = {
            one: executor.submit(self.replay, one, **how)
            for one in dict.fromkeys(variants)
            if one is not None
        }
        return lambda one: begun[one].result()

    def _entered(self, kernel: str, **how: Any) -> frozenset[str]:
        """Return the names of all functions that a replay enters."""
        names: set[str] = set()

        def note(frame: Any, event: str, _: object) -> None:
            if event == "call":
                names.add(frame.f_code.co_name)

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            self.replay(kernel, **how)
        finally:
            sys.setprofile(before)
        return frozenset(names)

    @cached_property
    def _ahead(self) -> dict[int, Foresight]:
        """What later records tell of earlier ones, by the size of a page in bytes."""
        return {}

    @cached_property
    def _huge_pages(self) -> int:
        """Return how many huge pages the program maps, for the pool to hold them."""
        total = 0
        files = huge_files(self.records)
        for record in self.records:
            if not isinstance(record, Call) or record.name != "mmap":
                continue
            is_huge = any("HUGETLB" in arg for arg in record.args)
            if len(record.args) > 4 and path_of(record.args[4]) in files:
                is_huge = True
            if is_huge and record.result:
                # Twice: a child of fork may write to its own.
                total += 2 * (number(record.args[1]) or _HUGE)
        return min(-(-total // _HUGE), _MOST_HUGE_PAGES)


def _changed(patch: Patch) -> Iterator[str]:
    """Yield the names of the functions that a commit changed, as the model has them."""
    for old in patch.reverts.values():
        for name, value in vars(old).items():
            if isinstance(value, FunctionType | staticmethod | classmethod | property):
                yield name


def _without_and_alone(
    patch: Patch, newer: str, left: frozenset[str]
) -> tuple[Variant, Variant | None]:
    """Return the newer kernel without a commit, and the older one with it alone.

    *left* are the commits that lie between both. The second is ``None`` where the
    commit cannot stand alone: what it needs depends on others.
    """
    gone = left - {patch.hash} - _needs(patch)
    alone = None
    if patch.hash not in closure(gone)[0]:
        alone = Variant(newer, tuple(sorted(gone)))
    return Variant(newer, (patch.hash,)), alone


def _share(
    patch: Patch, old: Replayed, new: Replayed, out: Replayed, alone: Replayed
) -> Share:
    """Return what a commit changes: *out* is *new* without it, *alone* has it alone."""
    return Share(
        patch.hash,
        patch.subject,
        patch.role.value,
        tuple(one.hash for one in registry.PATCHES if one.hash in _needs(patch)),
        out.broadcasts - new.broadcasts,
        old.broadcasts - alone.broadcasts,
        out.sync_ish - new.sync_ish,
        old.sync_ish - alone.sync_ish,
        out.local - new.local,
    )


def _needs(patch: Patch) -> frozenset[str]:
    """Return all that a commit stands on."""
    found = set(patch.needs)
    for other in patch.needs:
        found |= _needs(registry.find(other))
    return frozenset(found)


def _listener(result: Replayed, replay: Replay) -> Callable[[Event], None]:
    """Return what counts completing barriers, and who issued each broadcast."""
    broadcasts: set[int] = set()
    locals_: set[int] = set()

    def hear(event: Event) -> None:
        if event.kind == "tlbi":
            (broadcasts if event.what.broadcast else locals_).add(event.cpu)
            _attribute(result, replay, event.what.name, broadcast=event.what.broadcast)
        elif event.what in {"ish", "sy"}:
            result.sync_ish += event.cpu in broadcasts
            result.sync_nsh += event.cpu in locals_ - broadcasts
            broadcasts.discard(event.cpu)
            locals_.discard(event.cpu)
        elif event.what == "nsh":
            result.sync_nsh += event.cpu in locals_
            locals_.discard(event.cpu)

    return hear


def _attribute(result: Replayed, replay: Replay, form: str, *, broadcast: bool) -> None:
    """Note one TLBI for the task, the call, the line and the function."""
    task, call, line, time = replay.at
    asks = (one.function for one in path(limit=48) if one.file not in _FLUSHING)
    function = next(asks, call)
    result.issued.add(form, task, call, function, line, time)
    if not broadcast:
        return
    result.by_task[task] += 1
    result.by_call[call] += 1
    if line is not None:
        result.by_line[line] += 1
    result.by_function[function] += 1
