"""What the kernels make of the huge zero folio, by how its entry came."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import NEOVERSE_V2
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import SWITCH, Exploration, menu, switch
from tlbkit.patches.kernels import Kernel
from tlbkit.patches.registry import KERNELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.linux.process import Process

WAYS: Final = ("a read fault", "fork", "mprotect", "mremap", "userfaultfd MOVE")
"""How an entry for zeros can come about."""

_TAG: Final = 5


def used_before(kernel: Kernel) -> None:
    """Let a process fill a block with bytes and tags, and end."""
    process = kernel.spawn()
    size = kernel.pgtable.pmd_size
    base = process.mmap(size, mte=kernel.mte.supported)
    process.write(base, 0xD1E7)
    process.store_tag(base, _TAG)
    process.exit()
    kernel.swap.lru_add_drain_all()
    kernel.rcu.quiesce()


def zeros(kernel: Kernel, way: str) -> tuple[Process, int]:
    """Return a process that maps the huge zero folio by an entry that came by *way*."""
    process = kernel.spawn()
    size = kernel.pgtable.pmd_size
    base = process.mmap(size, mte=kernel.mte.supported)
    process.read(base)
    if way == "fork":
        process = process.fork()
    elif way == "mprotect":
        process.mprotect(base, size, "r")
    elif way == "mremap":
        target = process.mmap(size, mte=kernel.mte.supported)
        base = process.mremap(
            base, size, size, maymove=True, fixed=True, new_address=target
        )
    elif way == "userfaultfd MOVE":
        target = process.mmap(size, mte=kernel.mte.supported)
        fd = process.userfaultfd()
        fd.register(target, size)
        fd.move(target, base, size)
        base = target
    return process, base


def seen(version: str, way: str, *, init_on_free: bool) -> dict[str, str]:
    """What each reader of the entry makes of it, in words."""
    kernel = Kernel(Machine(1, replace(NEOVERSE_V2, mte=True)), version)
    kernel.huge_memory.enabled = "always"
    kernel.page_alloc.init_on_free = init_on_free
    used_before(kernel)
    process, base = zeros(kernel, way)
    pgtable = kernel.pgtable
    pmdp = pgtable.find_pmd(process.mm, base)
    vma = kernel.vma.vma_lookup(process.mm, base)
    assert pmdp is not None
    assert vma is not None
    pmd = pgtable.read(pmdp)
    pfn = pgtable.pmd_pfn(pmd)
    normal = kernel.memory.vm_normal_page_pmd(vma, base, pmd)
    if kernel.huge_memory.is_huge_zero_pmd(pmd):
        frame = "zeros"
    elif kernel.page_alloc.pfn_valid(pfn):
        frame = "other memory"
    else:
        frame = "no memory"
    fast = process.get_pages(base, 1, fast_only=True)
    return {
        "it maps": frame,
        "special": "yes" if pgtable.pmd_special(pmd) else "no",
        "normal page": "no" if normal is None else "yes",
        "lockless GUP": "takes it" if fast else "gives up",
        "first tag": str(kernel.machine.tags.load(pfn << pgtable.page_shift)),
    }


class HugeZero(Exploration):
    """The huge zero folio in each named kernel.

    Columns: ``what``, and one for each of `tlbkit.patches.registry.KERNELS`.
    """

    name = "huge-zero"
    title = "The huge zero folio in each kernel"
    parameters = (
        menu("way", "the entry came by", WAYS),
        switch("init_on_free", "pages are zeroed when they are freed"),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Make the entry in each kernel, and ask who reads it."""
        settings = self.settings(params)
        found = {
            version: seen(
                version,
                str(settings["way"]),
                init_on_free=settings["init_on_free"] == SWITCH[1],
            )
            for version in KERNELS
        }
        names = list(found["fixed"])
        wrong = [v for v, rows in found.items() if v != "fixed" and _bad(rows)]
        text = "All of them do what they should."
        if wrong:
            text = f"In {', '.join(wrong)} something is wrong: see frame and tag."
        return Answer(
            columns={
                "what": names,
                **{v: list(rows.values()) for v, rows in found.items()},
            },
            header=["the entry", *found],
            rows=[[name, *(rows[name] for rows in found.values())] for name in names],
            text=text,
        )


def _bad(rows: Mapping[str, str]) -> bool:
    """Tell whether a process would notice: another frame, or old tags."""
    return rows["it maps"] != "zeros" or rows["first tag"] != "0"
