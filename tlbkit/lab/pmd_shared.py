"""Whether a huge page is a process's own: what is counted, and who answers by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.arm64.machine import Machine
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import SWITCH, Exploration, switch
from tlbkit.lab.parameter import Parameter
from tlbkit.linux.fs.proc.task_mmu import PM_MMAP_EXCLUSIVE
from tlbkit.linux.include.linux.mm_types import ptdesc_pmd_pts_count
from tlbkit.linux.mm.mempolicy import MPOL_MF_MOVE
from tlbkit.patches.hugetlb_pmd_shared import PATCH
from tlbkit.patches.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value

BASE: Final = 1 << 40
COUNTED: Final = (
    "pt_share_count of the table",
    "references of the table",
    "map count of the page",
)
"""The rows that are counts; the others are what somebody makes of them."""


def asked(users: int, apart: int, *, held: bool, before: bool) -> dict[str, str]:
    """Return what is counted about a huge page, and what a kernel answers by it.

    Args:
        users: Processes that use the table in which its entry stands, at least 1.
        apart: Processes that map the page besides, read-only. They use another table.
        held: Code that looks at memory by frames holds the table for a moment.
        before: On the kernel without the commit.
    """
    cpus = users + apart
    kernel = Kernel(Machine(cpus), "v6.19", (PATCH.hash,) if before else ())
    size, length = kernel.pgtable.pmd_size, kernel.pgtable.pud_size
    kernel.hugetlb.set_max_huge_pages(2)
    first = kernel.spawn()
    first.mmap(length, addr=BASE, shared=True, hugetlb=True, noreserve=True, fixed=True)
    others = [first.fork(cpu=n) for n in range(1, cpus)]
    first.write(BASE, 7)
    for number, other in enumerate(others, 1):
        if number >= users:
            other.mprotect(BASE, length, "r")
        other.read(BASE)
    ptep = kernel.pgtable.find_pmd(first.mm, BASE)
    assert ptep is not None
    table = kernel.hugetlb.ptdesc(ptep)
    table.refcount += held
    folio = kernel.hugetlb.folio(kernel.pgtable.read(ptep))
    counts = (ptdesc_pmd_pts_count(table), table.refcount, folio.mapcount)
    shared = kernel.hugetlb.hugetlb_pmd_shared(ptep)
    area = first.mm.vmas[1]
    first.mm.mmap_lock.down_read()
    lines = kernel.task_mmu.smap_gather_stats(area).lines
    words = kernel.task_mmu.pagemap_read(first.mm, BASE, BASE + size)
    first.mm.mmap_lock.up_read()
    own = bool(words[0] & PM_MMAP_EXCLUSIVE)
    moved = first.mbind(BASE, length, MPOL_MF_MOVE)
    return dict(zip(COUNTED, map(str, counts), strict=True)) | {
        "hugetlb_pmd_shared()": "yes" if shared else "no",
        "smaps, Shared_Hugetlb": f"{lines['Shared_Hugetlb']:,} kB",
        "smaps, Private_Hugetlb": f"{lines['Private_Hugetlb']:,} kB",
        "pagemap, mapped by one only": "yes" if own else "no",
        "pages that MPOL_MF_MOVE takes": str(moved),
    }


class PmdShared(Exploration):
    """A huge page, those who use its table and those who do not, before and after.

    Columns: ``what``, ``before``, ``after``: the rows of the table.
    """

    name = "pmd-shared"
    title = "Whose is this huge page?"
    parameters = (
        Parameter("users", "processes that use the table", "processes", 3, (1, 2, 3)),
        Parameter("apart", "others, by another table", "processes", 0, (0, 1, 2)),
        switch("held", "a passing reference holds the table"),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Ask both kernels about the same page."""
        settings = self.settings(params)
        users, apart = int(settings["users"]), int(settings["apart"])
        held = settings["held"] == SWITCH[1]
        old, new = (
            asked(users, apart, held=held, before=before) for before in (True, False)
        )
        differing = [name for name in new if old[name] != new[name]]
        return Answer(
            columns={
                "what": list(new),
                "before": list(old.values()),
                "after": list(new.values()),
            },
            header=["of the first process's page", f"without {PATCH.hash}", "with it"],
            rows=[[name, old[name], new[name]] for name in new],
            text=_reading(users, users + apart, held=held, differing=differing),
        )


def _reading(users: int, processes: int, *, held: bool, differing: list[str]) -> str:
    """Say whose the page is, and whether both kernels know."""
    whose = "It is the first process's own."
    if processes > 1:
        whose = f"{processes} processes use it."
    if not differing:
        luck = (
            " Without the commit the helper is right by luck: it counts the reference "
            "in passing."
        )
        return f"{whose} Both kernels say so.{luck * (held and users > 1)}"
    if processes == 1:
        return (
            f"{whose} Without the commit a reference in passing makes it look shared."
        )
    if len(differing) == 1:
        return (
            f"{whose} Without the commit the helper is wrong, but misleads no caller: "
            "two entries map the page, and its mapcount says so."
        )
    return (
        f"{whose} Without the commit the kernel calls it private, and would move it "
        "from under the others."
    )
