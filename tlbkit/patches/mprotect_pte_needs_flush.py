"""c320dbb7c80d: mprotect asks whether a TLB can hold what it has just changed."""

from tlbkit.linux.arch.arm64.include.asm.tlbflush import TlbFlush
from tlbkit.patches import series
from tlbkit.patches.patch import Figure, Kind, Patch, Role

_CHANGELOG = "changelog of c320dbb7c80d"
_FIRST = "first posting, Message-ID 20250918103638.77282-1-dev.jain@arm.com"


class TlbFlushBefore(TlbFlush):
    """The generic answer, which arm64 had: every changed entry is flushed.

    Source: include/asm-generic/tlb.h, v6.17.
    """

    __slots__ = ()

    @staticmethod
    def pte_needs_flush(old: int, new: int) -> bool:
        """Say that a changed entry needs a flush, whatever it was.

        Source: include/asm-generic/tlb.h, pte_needs_flush()
        """
        del old, new
        return True

    @classmethod
    def huge_pmd_needs_flush(cls, old: int, new: int) -> bool:
        """Say the same of a block entry.

        Source: include/asm-generic/tlb.h, huge_pmd_needs_flush()
        """
        return cls.pte_needs_flush(old, new)


PATCH = Patch(
    commit="c320dbb7c80d93a762c01b4a652d9292629869e7",
    subject="arm64: mprotect skips the flush of entries that no TLB can hold stale",
    series=series.MPROTECT,
    kind=Kind.PERFORMANCE,
    role=Role.PULL_REQUEST,
    author="Dev Jain",
    release="v6.19",
    touches={
        "arch/arm64/include/asm/tlbflush.h": (
            "__pte_flags_need_flush",
            "pte_needs_flush",
            "huge_pmd_needs_flush",
        ),
    },
    chapter="book/commits/mprotect.md",
    sources=(
        "mainline c320dbb7c80d, applied to the arm64 tree on 2025-11-13",
        "Message-ID 20251017160251.96717-1-dev.jain@arm.com (v2 resent, as merged)",
        "Message-ID 20250918103638.77282-1-dev.jain@arm.com (v1)",
    ),
    figures=(
        Figure(
            name="before",
            value=3.2,
            unit="us",
            what=(
                "mean none->rw transition of a program that flips between PROT_NONE "
                "and PROT_READ|PROT_WRITE, before; the machine is not named"
            ),
            source=_CHANGELOG,
        ),
        Figure(
            name="after",
            value=2.85,
            unit="us",
            what="the same, after",
            source=_CHANGELOG,
        ),
        Figure(
            name="improvement",
            value=12.3,
            unit="%",
            what="ratio of the two times, less one",
            source=_CHANGELOG,
        ),
        Figure(
            name="time saved",
            value=10.9,
            unit="%",
            what="of the time before, from the same two times",
            source=_CHANGELOG,
            kind="derived",
        ),
        Figure(
            name="after, first version",
            value=2.95,
            unit="us",
            what="the same, with the first version, which tested the wrong bit as well",
            source=_FIRST,
        ),
        Figure(
            name="improvement, first version",
            value=8.5,
            unit="%",
            what="ratio of the two times, less one, with the first version",
            source=_FIRST,
        ),
    ),
    reverts={"tlbflush": TlbFlushBefore},
    note=(
        "The changelog also names clearing uffd-wp as a saving; that is so only if the "
        "same pass does not give back the write permission."
    ),
)
