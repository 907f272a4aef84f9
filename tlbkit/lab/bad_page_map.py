"""A page-table entry with one bit turned, the report of it, and the report read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.arm64.machine import Machine
from tlbkit.errors import InputError, TlbkitError
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import Exploration, menu
from tlbkit.lab.parameter import Parameter
from tlbkit.linux.arch.arm64.include.asm import pgtable_hwdef as hwdef
from tlbkit.linux.include.linux import mm as flags
from tlbkit.linux.include.uapi.asm_generic.errno import NAMES
from tlbkit.patches.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tlbkit.lab.parameter import Value
    from tlbkit.linux.process import Process

PAGE_SHIFT: Final = 12
BLOCK: Final = 2 << 20
LEVELS: Final = ("pte", "pmd")
DOERS: Final = ("munmap", "smaps", "get_user_pages")
ADDRESS: Final = 1 << 40


class Field(NamedTuple):
    """Part of an entry.

    Attributes:
        bits: Where it stands, as ``"63"`` or ``"47:12"``.
        name: Linux's name for it.
        value: What it holds.
        meaning: What that says.
    """

    bits: str
    name: str
    value: int
    meaning: str


_FLAGS: Final = (
    (hwdef.PTE_UFFD_WP, "PTE_UFFD_WP", "write-protected by userfaultfd", ""),
    (hwdef.PTE_SPECIAL, "PTE_SPECIAL", "no normal page", "a normal page"),
    (hwdef.PTE_DIRTY, "PTE_DIRTY", "dirty, by software", ""),
    (hwdef.PTE_UXN, "PTE_UXN", "not executable", "executable"),
    (hwdef.PTE_PXN, "PTE_PXN", "not for the kernel to execute", "executable for it"),
    (hwdef.PTE_CONT, "PTE_CONT", "one of a contiguous group", ""),
    (hwdef.PTE_DBM, "PTE_WRITE", "may be written", "may not be written"),
    (hwdef.PTE_GP, "PTE_GP", "guarded against stray branches", ""),
    (hwdef.PTE_NG, "PTE_NG", "of one address space", "of all address spaces"),
    (hwdef.PTE_AF, "PTE_AF", "used lately", "not used lately"),
    (hwdef.PTE_RDONLY, "PTE_RDONLY", "read-only, or clean", "written, or may be"),
    (hwdef.PTE_USER, "PTE_USER", "for programs", "not for programs"),
)
_KNOWN: Final = (
    sum(mask for mask, *_ in _FLAGS)
    | hwdef.PTE_VALID
    | hwdef.PTE_TABLE_BIT
    | hwdef.PTE_SHARED
    | hwdef.PTE_ATTRINDX_MASK
)
_FRAME: Final = (1 << 48) - (1 << PAGE_SHIFT)


def entry_fields(entry: int, level: str) -> list[Field]:
    """Take an arm64 entry of 4 KiB pages apart, from the highest bit down.

    Args:
        entry: All 64 bits.
        level: ``"pte"``, ``"pmd"`` or ``"pud"``: where it stands.

    >>> [f.name for f in entry_fields(0, "pte")]
    ['frame', 'PTE_VALID']
    """
    fields = [
        Field(str(bit), "?", 1, "Linux never sets it")
        for bit in range(63, 47, -1)
        if entry >> bit & 1 and not _KNOWN >> bit & 1
    ]
    for mask, name, is_set, is_clear in _FLAGS:
        value = int(bool(entry & mask))
        if entry & hwdef.PTE_VALID and (meaning := is_set if value else is_clear):
            place = str(mask.bit_length() - 1)
            fields.append(Field(place, name, value, meaning))
    frame = (entry & _FRAME) >> PAGE_SHIFT
    fields.append(Field("47:12", "frame", frame, f"physical {frame << PAGE_SHIFT:#x}"))
    if entry & hwdef.PTE_VALID:
        memory = (entry & hwdef.PTE_ATTRINDX_MASK) >> hwdef.PTE_ATTRINDX_SHIFT
        kinds = ("normal memory", "tagged memory", "uncached memory")
        kind = kinds[memory] if memory < len(kinds) else "a device"
        fields.append(Field("4:2", "attribute", memory, kind))
    is_table = int(bool(entry & hwdef.PTE_TABLE_BIT))
    valid = int(bool(entry & hwdef.PTE_VALID))
    if valid:
        page = "a page" if level == "pte" else "a table"
        wrong = "nothing: reserved" if level == "pte" else "a block"
        fields.append(Field("1", "type", is_table, page if is_table else wrong))
    fields.append(Field("0", "PTE_VALID", valid, "valid" if valid else "not valid"))
    return sorted(fields, key=lambda field: -int(field.bits.split(":")[0]))


@dataclass(frozen=True, slots=True)
class Report:
    """What one report of a bad entry says.

    Attributes:
        process: The name of the process.
        level: Where the entry stands.
        entry: What it says.
        tables: The entries on the way to it, by level, as far as there are tables.
        addr: The address that it is for.
        vm_flags: The flags of the VMA.
        index: The place of the address in what the VMA maps, in pages.
        file: What that is, or "" for private memory.
        dumped: Why a page was described, or "" if none was.
    """

    process: str
    level: str
    entry: int
    tables: dict[str, int]
    addr: int
    vm_flags: int
    index: int
    file: str
    dumped: str

    @property
    def flag_names(self) -> list[str]:
        """The names of the VMA's flags."""
        return [
            name
            for name, value in vars(flags).items()
            if name.startswith("VM_")
            and not name.startswith(("VM_FAULT", "VM_ACCESS", "VM_SPECIAL"))
            and isinstance(value, int)
            and value & (value - 1) == 0
            and self.vm_flags & value
        ]


_FIRST = re.compile(r"BUG: Bad page map in process (.*)  (\w+):([0-9a-f]{8,})(.*)")
_PAIR = re.compile(r"(\w+):([0-9a-f]+)")


def read_report(lines: Iterable[str]) -> Report:
    """Read the first report of a bad entry out of a log.

    Raises:
        InputError: There is none, or it breaks off.
    """
    rest = iter(lines)
    for line in rest:
        first = _FIRST.fullmatch(line)
        if first:
            break
    else:
        raise InputError("the log has no line that begins 'BUG: Bad page map in'")
    tables = {name: int(value, 16) for name, value in _PAIR.findall(first[4])}
    dumped = ""
    for line in rest:
        if line.startswith("pgd:"):
            tables |= {name: int(value, 16) for name, value in _PAIR.findall(line)}
        elif line.startswith("page dumped because: "):
            dumped = line.partition(": ")[2]
        elif line.startswith("addr:"):
            area = {name: int(value, 16) for name, value in _PAIR.findall(line)}
            file = next(rest, "file:(null) ").removeprefix("file:").split(" ")[0]
            return Report(
                first[1],
                first[2],
                int(first[3], 16),
                tables,
                area["addr"],
                area.get("vm_flags", area.get("flags", 0)),
                area["index"],
                "" if file == "(null)" else file,
                dumped,
            )
    raise InputError("the report breaks off before the line that begins 'addr:'")


class Broken:
    """A process with one entry that is not what the kernel wrote.

    Args:
        version: A name of `tlbkit.patches.registry.KERNELS`.
        level: Where the entry stands: a page's, or a block's.
        bit: Which of its bits is turned.
    """

    def __init__(self, version: str, level: str, bit: int) -> None:
        self.kernel = Kernel(Machine(1), version)
        self.kernel.huge_memory.enabled = "always" if level == "pmd" else "never"
        self.process: Process = self.kernel.spawn()
        self.base = self.process.mmap(BLOCK, addr=ADDRESS)
        self.process.write(self.base, 42)
        find = (
            self.kernel.pgtable.find_pmd
            if level == "pmd"
            else self.kernel.pgtable.find_pte
        )
        place = find(self.process.mm, self.base)
        assert place is not None
        self.good = self.kernel.pgtable.read(place)
        self.bad = self.good ^ 1 << bit
        self.kernel.machine.memory.write(place, self.bad)

    def meet(self, how: str) -> str:
        """Let the kernel come across the entry, and return how that went.

        Args:
            how: One of `DOERS`.
        """
        mm = self.process.mm
        try:
            if how == "munmap":
                self.process.munmap(self.base, BLOCK)
            elif how == "smaps":
                vma = self.kernel.vma.vma_lookup(mm, self.base)
                assert vma is not None
                self.kernel.task_mmu.smap_gather_stats(vma)
            else:
                mm.mmap_lock.down_read()
                found = self.kernel.gup.get_user_page(mm, self.base)
                mm.mmap_lock.up_read()
                return NAMES[-found] if isinstance(found, int) else "a page"
        except (AssertionError, TlbkitError) as error:
            return f"the model stops, for lack of what the entry names: {error}"
        return "ok"


class BadPageMap(Exploration):
    """One bit of an entry turned, by a fault of memory or of software.

    Columns: ``field``, ``bits``, ``value``, ``chosen`` are the entry as it then
    stands; chosen is what the turned bit belongs to.
    """

    name = "bad-page-map"
    title = "Turn a bit of an entry, and read the report"
    parameters = (
        Parameter("bit", "bit that turns", "", 40, (0, 12, 37, 40, 47, 56, 63)),
        menu("level", "level of the entry", LEVELS),
        menu("meets", "what meets the entry", DOERS),
        menu("kernel", "kernel", ("v6.19", "v6.17")),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Turn the bit, and let the kernel meet it; errors as in `Exploration`."""
        settings = self.settings(params)
        level, bit = str(settings["level"]), int(settings["bit"])
        broken = Broken(str(settings["kernel"]), level, bit)
        outcome = broken.meet(str(settings["meets"]))
        log = broken.kernel.printk.log
        fields = entry_fields(broken.bad, level)
        return Answer(
            columns={
                "field": [field.name for field in fields],
                "bits": [field.bits for field in fields],
                "value": [f"{field.value:#x}, {field.meaning}" for field in fields],
                "chosen": [int(_holds(field.bits, bit)) for field in fields],
            },
            header=["line of the log", "what it says"],
            rows=[[line, explain(line)] for line in log] or [["(none)", outcome]],
            text=_reading(broken, bit, outcome, log),
        )


def _holds(bits: str, bit: int) -> bool:
    """Tell whether a field such as "47:12" has a bit."""
    high, _, low = bits.partition(":")
    return int(low or high) <= bit <= int(high)


_LINES: Final = (
    ("BUG: Bad page map:", "so many reports were left out in the last minute"),
    ("BUG: Bad page map in", "who runs, and the entry, with its level"),
    ("BUG: Bad rss", "pages that were counted for the process and never given back"),
    ("pgd:", "the entries on the way down, read again"),
    ("page dumped", "why the page is described"),
    ("page:", "the page that the entry maps, as its counts are now"),
    ("addr:", "the address, and the VMA that it lies in"),
    ("file:", "what the VMA maps, and which functions serve it"),
    ("CPU:", "where the CPU is; then the kernel marks itself as tainted"),
)


def explain(line: str) -> str:
    """Say what a line of a report is there for.

    >>> explain("addr:0000000000400000 vm_flags:00000073")
    'the address, and the VMA that it lies in'
    """
    return next((text for start, text in _LINES if line.startswith(start)), "")


def _reading(broken: Broken, bit: int, outcome: str, log: Sequence[str]) -> str:
    """Say in words what came of it."""
    head = (
        f"Bit {bit} makes {broken.good:#x} into {broken.bad:#x}. "
        f"What meets it ends so: {outcome}."
    )
    if not any(line.startswith("BUG: Bad page map in") for line in log):
        return f"{head} No report is written."
    report = read_report(log)
    names = ", ".join(report.flag_names)
    return (
        f"{head} The report is of the {report.level} entry for {report.addr:#x}, in a "
        f"VMA with {names}. The kernel is marked: "
        f"{' '.join(sorted(broken.kernel.panic.taints))}."
    )
