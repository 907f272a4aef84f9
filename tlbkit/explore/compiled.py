"""Exploring needs the plain package; what is compiled shows nobody its fields."""

from __future__ import annotations

from types import MemberDescriptorType

from tlbkit.arm64.cpu import Cpu
from tlbkit.errors import TlbkitError


class CompiledError(TlbkitError):
    """What a step touches was asked of a compiled machine."""


def check_plain() -> None:
    """Raise `CompiledError` if the machine is compiled."""
    if not isinstance(Cpu.__dict__["tlb"], MemberDescriptorType):
        raise CompiledError(
            "this tlbkit was compiled (TLBKIT_COMPILE=1): long runs are faster, but "
            "nothing can see what a step touches, so no schedule can be explored; do "
            "that with the plain package, as the clone holds it"
        )
