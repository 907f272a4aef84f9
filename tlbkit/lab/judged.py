"""Conditions that a reader writes, judged over every input.

A condition is a Python function, or in the page an expression of the same names. It is
called with every input there is; the answer is the smallest input for which it is
wrong, or that it is safe and what it costs beside the kernel's own.
"""

from __future__ import annotations

import ast
from abc import abstractmethod
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64.machine import Machine
from tlbkit.errors import InputError
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import Exploration, line
from tlbkit.linux.arch.arm64.include.asm import pgtable_hwdef as hw
from tlbkit.linux.arch.arm64.include.asm.tlbflush import TlbFlush
from tlbkit.linux.include.linux.pagemap import folio_lock
from tlbkit.linux.kernel.kernel import Kernel
from tlbkit.observe.counters import counting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tlbkit.lab.parameter import Value

    Condition = Callable[..., object]

_PAGE: Final = 4096
_ALLOWED: Final = (
    ast.Expression,
    ast.BoolOp,
    ast.And,
    ast.Or,
    ast.UnaryOp,
    ast.Not,
    ast.Invert,
    ast.BinOp,
    ast.BitAnd,
    ast.BitOr,
    ast.BitXor,
    ast.Compare,
    ast.Eq,
    ast.NotEq,
    ast.Name,
    ast.Load,
    ast.Constant,
)
"""What an expression may be made of: enough for a condition, and for nothing else."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to be said of a condition.

    Attributes:
        right: Whether it is safe.
        inputs: For how many inputs it was asked.
        wrong: For how many it says no where yes is needed.
        example: The smallest of those, in words; "" if there is none.
        harm: What comes of that one.
        more: For how many it says yes where the kernel does not.
        fewer: For how many it says no where the kernel says yes, and may.
    """

    right: bool
    inputs: int
    wrong: int = 0
    example: str = ""
    harm: str = ""
    more: int = 0
    fewer: int = 0

    def __str__(self) -> str:
        """Say it in sentences."""
        if not self.right:
            return (
                f"Not safe: wrong for {self.wrong:,} of {self.inputs:,} inputs. "
                f"The smallest: {self.example}. {self.harm}"
            )
        said = f"Safe for all {self.inputs:,} inputs"
        if not self.more and not self.fewer:
            return f"{said}, and exactly what the kernel does."
        costs = []
        if self.more:
            costs.append(f"yes {_times(self.more)} more often than the kernel's")
        if self.fewer:
            costs.append(f"no {_times(self.fewer)} where the kernel's says yes")
        return f"{said}. It says {' and '.join(costs)}."


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


class JudgedExercise(Exploration):
    """A condition to be written, and its judge.

    Attributes:
        names: What the condition is given, in order.
        bits: Further names that an expression may use.
        start: An expression to begin with.
    """

    names: tuple[str, ...]
    bits: Mapping[str, int] = {}
    start: str

    @abstractmethod
    def inputs(self) -> Iterator[tuple[int, ...]]:
        """Yield every input."""

    @abstractmethod
    def words(self, values: tuple[int, ...]) -> str:
        """Say an input in words."""

    @abstractmethod
    def needed(self, values: tuple[int, ...]) -> str:
        """Say what comes of a no; nothing if a no does no harm."""

    @abstractmethod
    def kernel(self, values: tuple[int, ...]) -> bool:
        """Return what the kernel does."""

    def judge(self, condition: Condition) -> Judgement:
        """Ask a condition for every input.

        Raises:
            InputError: It fails for an input.
        """
        wrong: list[tuple[int, ...]] = []
        inputs = more = fewer = 0
        for values in self.inputs():
            inputs += 1
            try:
                yes = bool(condition(*values))
            except Exception as problem:
                raise InputError(
                    f"the condition fails for {self.words(values)}: {problem!r}"
                ) from problem
            if not yes and self.needed(values):
                wrong.append(values)
            elif yes != self.kernel(values):
                more += yes
                fewer += not yes
        if not wrong:
            return Judgement(right=True, inputs=inputs, more=more, fewer=fewer)
        smallest = min(wrong, key=_size)
        return Judgement(
            right=False,
            inputs=inputs,
            wrong=len(wrong),
            example=self.words(smallest),
            harm=self.needed(smallest),
        )

    def condition(self, text: str) -> Condition:
        """Return the function that an expression is.

        Raises:
            InputError: It is no such expression.
        """
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except SyntaxError as problem:
            raise InputError(
                f"{text!r} is no expression: {problem.msg}; write one of "
                + ", ".join((*self.names, *self.bits))
            ) from None
        known = {*self.names, *self.bits}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id not in known:
                raise InputError(
                    f"there is no {node.id!r} here; there are: "
                    + ", ".join((*self.names, *self.bits))
                )
            if not isinstance(node, _ALLOWED):
                raise InputError(
                    f"{text!r}: use and, or, not, &, |, ^, ~, == and != only"
                )
        code = compile(tree, "the condition", "eval")
        scope: dict[str, Any] = {"__builtins__": {}, **self.bits}

        def asked(*values: int) -> object:
            scope.update(zip(self.names, values, strict=True))
            return eval(code, scope)  # noqa: S307 - names and operators, seen above

        return asked

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Judge an expression; errors as in `Exploration`."""
        text = str(self.settings(params)["condition"])
        found = self.judge(self.condition(text))
        rows = [
            ["safe", "yes" if found.right else "no"],
            ["inputs", f"{found.inputs:,}"],
            ["no, and yes is needed", f"{found.wrong:,}"],
            ["yes, and the kernel's says no", f"{found.more:,}"],
            ["no, and the kernel's says yes", f"{found.fewer:,}"],
        ]
        return Answer({}, ["judged", "result"], rows, str(found))


def _size(values: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Fewest bits first."""
    return sum(value.bit_count() for value in values), values


class NeedsFlush(JudgedExercise):
    """``pte_needs_flush(old, new)``, over every change of the bits that matter."""

    name = "write-needs-flush"
    title = "Write pte_needs_flush() yourself"
    names = ("old", "new")
    bits: Mapping[str, int] = {
        "VALID": hw.PTE_VALID,
        "RDONLY": hw.PTE_RDONLY,
        "AF": hw.PTE_AF,
        "NG": hw.PTE_NG,
        "FRAME": 1 << 12,
        "DBM": hw.PTE_DBM,
        "UXN": hw.PTE_UXN,
        "DIRTY": hw.PTE_DIRTY,
        "SWBITS": hw.PTE_SWBITS_MASK,
    }
    start = "old & VALID"
    parameters = (line("condition", "A flush is needed if", start),)

    def inputs(self) -> Iterator[tuple[int, ...]]:
        """Yield every pair of entries."""
        bits = [bit for name, bit in self.bits.items() if name != "SWBITS"]
        entries = [
            sum(bit for bit, is_set in zip(bits, chosen, strict=True) if is_set)
            for chosen in product((False, True), repeat=len(bits))
        ]
        yield from product(entries, repeat=2)

    def words(self, values: tuple[int, ...]) -> str:
        """Name the bits of both entries."""
        old, new = map(self._bits, values)
        return f"old = {old}, new = {new}"

    def _bits(self, entry: int) -> str:
        names = [
            name for name, bit in self.bits.items() if name != "SWBITS" and entry & bit
        ]
        return " | ".join(names) or "0"

    def needed(self, values: tuple[int, ...]) -> str:
        """Say what a TLB that keeps *old* grants and *new* does not."""
        old, new = values
        if not old & hw.PTE_VALID or not old & hw.PTE_AF:
            return ""  # no TLB holds it
        if not new & hw.PTE_VALID:
            return "A TLB still leads to the page, and the tables map nothing."
        if (old ^ new) & 1 << 12:
            return "A TLB still leads to the old frame."
        if _writable(old) and not _writable(new):
            return "A TLB still lets user space write; the tables say read-only."
        if not old & hw.PTE_UXN and new & hw.PTE_UXN:
            return "A TLB still lets user space execute; the tables do not."
        if (old ^ new) & hw.PTE_NG:
            return "A TLB still has the entry for the wrong address spaces."
        return ""

    def kernel(self, values: tuple[int, ...]) -> bool:
        """Ask the kernel's own."""
        return TlbFlush.pte_needs_flush(*values)


def _writable(entry: int) -> bool:
    """Tell whether hardware lets user space write, at once or by marking it dirty."""
    return not entry & hw.PTE_RDONLY or bool(entry & hw.PTE_DBM)


class _OfGather(JudgedExercise):
    """What a gather asks for, given what it has noted; the kernel's own is run."""

    def inputs(self) -> Iterator[tuple[int, ...]]:
        """Yield every state of the flags."""
        yield from product((0, 1), repeat=len(self.names))

    def words(self, values: tuple[int, ...]) -> str:
        """Name the flags that are set."""
        flags = [
            name for name, is_set in zip(self.names, values, strict=True) if is_set
        ]
        return " and ".join(flags) or "no flag at all"


class GatherReachesWalks(_OfGather):
    """Whether the flush of a gather must reach walk caches: `Tlb.tlb_flush`."""

    name = "write-gather-flush"
    title = "Write when a gather must flush walk caches"
    names = ("freed_tables", "unshared_tables", "cleared_ptes", "cleared_pmds")
    start = "freed_tables"
    parameters = (
        line("condition", "The TLBI is not for the last level only if", start),
    )

    def needed(self, values: tuple[int, ...]) -> str:
        """Say which table a walk cache still leads to."""
        freed, unshared, *_ = values
        if freed:
            return "A walk cache still leads to a table that is freed."
        if unshared:
            return "A walk cache still leads to a table that has another owner now."
        return ""

    def kernel(self, values: tuple[int, ...]) -> bool:
        """Let the kernel flush, and look at its TLBIs."""
        kernel = Kernel(Machine(1))
        mm = kernel.spawn().mm
        tlb = kernel.gather.tlb_gather_mmu(mm)
        tlb.start, tlb.end = 0, 1 << 12
        for name, is_set in zip(self.names, values, strict=True):
            setattr(tlb, name, bool(is_set))
        with counting(kernel.machine) as counters:
            kernel.tlb.tlb_flush(tlb)
        return any("VAE1" in name for name in counters.tlbi)


class UnsharingInterrupts(_OfGather):
    """Whether a gather that unshared tables must interrupt all CPUs."""

    name = "write-unshare-interrupt"
    title = "Write when unsharing needs the IPI"
    names = ("unshared_tables", "fully_unshared_tables", "freed_tables")
    start = "unshared_tables"
    parameters = (line("condition", "Every CPU is interrupted if", start),)

    def needed(self, values: tuple[int, ...]) -> str:
        """Say whose walk is in a table that may change."""
        _, fully, _ = values
        if fully:
            return (
                "A walk without a lock may be in a table whose last user now changes "
                "it, and takes a page of private memory."
            )
        return ""

    def kernel(self, values: tuple[int, ...]) -> bool:
        """Let the kernel flush, and count its interrupts."""
        kernel = Kernel(Machine(2))
        mm = kernel.spawn().mm
        tlb = kernel.gather.tlb_gather_mmu(mm)
        for name, is_set in zip(self.names, values, strict=True):
            setattr(tlb, name, bool(is_set))
        with counting(kernel.machine) as counters:
            kernel.gather.tlb_flush_unshared_tables(tlb)
        return counters.ipi_broadcasts > 0


class BatchEnds(JudgedExercise):
    """Where a batch of MOVE ends: `Move.check_ptes_for_batched_move`."""

    name = "write-batch-end"
    title = "Write where a batch of MOVE ends"
    names = ("dst_mapped", "src_present", "zero_page", "locked", "exclusive")
    start = "dst_mapped or not src_present"
    parameters = (line("condition", "The batch ends before this page if", start),)

    def inputs(self) -> Iterator[tuple[int, ...]]:
        """Yield every state of the page behind the last one of a batch."""
        for values in product((0, 1), repeat=len(self.names)):
            _, present, zero, locked, exclusive = values
            folio = present and not zero
            if (present or not zero) and (folio or not locked | exclusive):
                yield values

    def words(self, values: tuple[int, ...]) -> str:
        """Say each flag, set or not."""
        return ", ".join(
            name if is_set else f"not {name}"
            for name, is_set in zip(self.names, values, strict=True)
        )

    def needed(self, values: tuple[int, ...]) -> str:
        """Say what would be moved that must not be."""
        mapped, present, zero, locked, exclusive = values
        if mapped:
            return (
                "The page that is mapped at the destination is overwritten, and lost."
            )
        if not present:
            return "There is no page, and an entry that says otherwise is made."
        if zero:
            return "The zero page has no rmap to be changed, and is taken for a folio."
        if locked:
            return "Another thread has locked the folio and works with its old address."
        if not exclusive:
            return "A child shares the page, and its entry knows nothing of the move."
        return ""

    def kernel(self, values: tuple[int, ...]) -> bool:
        """Bring a page into that state, and ask the kernel's own."""
        mapped, present, zero, locked, exclusive = values
        kernel = Kernel(Machine(1))
        process = kernel.spawn()
        src, dst = process.mmap(2 * _PAGE), process.mmap(2 * _PAGE)
        for address in (src, dst):
            process.write(address + _PAGE, 1)  # so that there are tables
        if mapped:
            process.write(dst, 1)
        if zero:
            process.read(src)
        elif present:
            process.write(src, 1)
            if not exclusive:
                process.fork(0)
        pgtable, mm = kernel.pgtable, process.mm
        src_pte, dst_pte = pgtable.find_pte(mm, src), pgtable.find_pte(mm, dst)
        assert src_pte is not None
        assert dst_pte is not None
        if locked:
            pfn = pgtable.pte_pfn(pgtable.ptep_get(src_pte))
            folio_lock(kernel.machine, kernel.page_alloc.folio_of(pfn))
        vma = kernel.vma.vma_lookup(mm, src)
        assert vma is not None
        moved = kernel.userfaultfd.check_ptes_for_batched_move(
            vma, src, src_pte, dst_pte
        )
        return moved is None


EXERCISES: Final[Mapping[str, JudgedExercise]] = {
    one.name: one
    for one in (
        NeedsFlush(),
        GatherReachesWalks(),
        BatchEnds(),
        UnsharingInterrupts(),
    )
}
"""Every judged exercise, by name."""


def find(name: str) -> JudgedExercise:
    """Return the exercise called *name*; `InputError` says which there are."""
    try:
        return EXERCISES[name]
    except KeyError:
        raise InputError(
            f"no exercise is called {name!r}; there are: {', '.join(EXERCISES)}"
        ) from None
