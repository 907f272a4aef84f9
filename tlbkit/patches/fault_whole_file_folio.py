"""19773df031bc: a fault maps all of a file's large folio, and not one page of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.mm.memory import Memory
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmFault


class MemoryBefore(Memory):
    """Only a folio of shared memory is mapped as a whole: RSS says what is used.

    Source: mm/memory.c, v6.17.
    """

    __slots__ = ()

    def _whole_folio(self, vmf: VmFault, folio: Folio) -> tuple[int, int]:
        """Return how many pages of *folio* can be mapped at once, and from where.

        Source: mm/memory.c, finish_fault()
        """
        assert vmf.vma.ops is not None
        if not vmf.vma.ops.is_shmem:
            return 1, vmf.address
        return super()._whole_folio(vmf, folio)


PATCH = Patch(
    commit="19773df031bcc67d5caa06bf0ddbbff40174be7a",
    subject="a fault tries to map all of a file's large folio",
    series=series.CONTEXT,
    kind=Kind.PERFORMANCE,
    role=Role.CONTEXT,
    author="Kiryl Shutsemau",
    release="v6.18",
    touches={"mm/memory.c": ("finish_fault",)},
    chapter="",
    sources=(
        "mainline 19773df031bc",
        "mm/memory.c of v6.17 and v6.18, compared",
    ),
    reverts={"memory": MemoryBefore},
    note=(
        "Its repair 74207de2ba10, which maps nothing beyond the end of a file, is of "
        "the same release, and so always there with it here."
    ),
)
