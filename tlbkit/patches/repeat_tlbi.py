"""a8f78680ee6b: the repeat-TLBI erratum costs one more TLBI for each wait."""

from __future__ import annotations

from tlbkit.linux.arch.arm64.include.asm.tlbflush import USER_ASID_FLAG, TlbFlush
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role


class TlbFlushBefore(TlbFlush):
    """Where the erratum is, a DSB and the same TLBI again follow each TLBI.

    Source: arch/arm64/include/asm/tlbflush.h, v6.19.
    """

    __slots__ = ()

    def _tlbi_user(self, name: str, operand: int) -> None:
        """Issue *name*, and again for the user's own ASID where the kernel has one."""
        self._tlbi(name, operand)
        if self._model.kpti:
            self._tlbi(name, operand | USER_ASID_FLAG)

    def _tlbi(self, name: str, operand: int) -> None:
        """Issue *name*, of whatever reach; with the erratum, wait and repeat it."""
        cpu = self._machine.running
        cpu.tlbi(name, operand)
        if self._model.repeat_tlbi:
            cpu.dsb("ish")
            cpu.tlbi(name, operand)

    def tlbi_sync_s1ish_(self) -> None:
        """Wait for broadcasts that this CPU issued.

        Where this is called, the source has the barrier itself.
        """
        self._machine.running.dsb("ish")

    def arch_tlbbatch_should_defer(self) -> bool:  # type: ignore[override]
        """Tell whether unmapping may leave its waits to the end of a batch.

        With the erratum every TLBI is waited for as it is issued, so nothing is won.

        Source: arch/arm64/include/asm/tlbflush.h, arch_tlbbatch_should_defer()
        """
        return not self._model.repeat_tlbi


PATCH = Patch(
    commit="a8f78680ee6bf795086384e8aea159a52814f827",
    subject="arm64: the repeat-TLBI workaround acts once for each wait",
    series=series.CONTEXT,
    kind=Kind.PERFORMANCE,
    role=Role.CONTEXT,
    author="Mark Rutland",
    release="v7.0",
    touches={
        "arch/arm64/include/asm/tlbflush.h": (
            "__TLBI_0",
            "__TLBI_1",
            "__tlbi_sync_s1ish",
            "flush_tlb_all",
            "flush_tlb_mm",
            "flush_tlb_page",
            "arch_tlbbatch_should_defer",
            "arch_tlbbatch_flush",
            "__flush_tlb_range",
            "flush_tlb_kernel_range",
            "__flush_tlb_kernel_pgtable",
        ),
    },
    chapter="",
    sources=(
        "mainline a8f78680ee6b",
        "its backports to the stable trees, which tell the errata apart",
    ),
    reverts={"tlbflush": TlbFlushBefore},
    note=(
        "Only broadcasts of stage 1 are repeated, by a TLBI that names nothing. Local "
        "flushes are not, and unmapping may put its waits off."
    ),
)
