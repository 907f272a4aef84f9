"""Who may do what: access bits, and the rules that turn descriptor bits into them.

An access is one bit, the rights of a leaf are the OR of the accesses it allows, and
a check is one AND. PAN is part of the access, not of the rights: an EL1 load made
with PSTATE.PAN = 1 asks for ``EL1_READ_PAN``.

Source: Arm ARM (DDI 0487) D8.4 "Memory access control", stage 1, direct permissions.
"""

from __future__ import annotations

(
    EL0_READ,
    EL0_WRITE,
    EL0_EXECUTE,
    EL1_READ,
    EL1_WRITE,
    EL1_EXECUTE,
    EL1_READ_PAN,
    EL1_WRITE_PAN,
) = (1 << n for n in range(8))

EL0_ANY = EL0_READ | EL0_WRITE | EL0_EXECUTE
ANY_WRITE = EL0_WRITE | EL1_WRITE | EL1_WRITE_PAN
ANY_EXECUTE = EL0_EXECUTE | EL1_EXECUTE

ACCESS_NAMES = {
    EL0_READ: "EL0 read",
    EL0_WRITE: "EL0 write",
    EL0_EXECUTE: "EL0 execute",
    EL1_READ: "EL1 read",
    EL1_WRITE: "EL1 write",
    EL1_EXECUTE: "EL1 execute",
    EL1_READ_PAN: "EL1 read, PAN set",
    EL1_WRITE_PAN: "EL1 write, PAN set",
}


def allowed(
    *,
    user: bool,
    read_only: bool,
    uxn: bool,
    pxn: bool,
    wxn: bool = False,
    epan: bool = False,
) -> int:
    """Accesses that a leaf allows, as the OR of their bits.

    Args:
        user: EL0 may access: AP[1], unless a table took it away.
        read_only: AP[2], or a table above says so.
        uxn: EL0 may not execute, by the leaf or a table.
        pxn: EL1 may not execute, by the leaf or a table.
        wxn: SCTLR_EL1.WXN, what is writable is not executable.
        epan: SCTLR_EL1.EPAN, PAN also guards pages that EL0 may only execute.
    """
    user_writes = user and not read_only
    rights = EL1_READ
    if not read_only:
        rights |= EL1_WRITE
    if user:
        rights |= EL0_READ
    if user_writes:
        rights |= EL0_WRITE
    # EL0 execution needs no read access: execute-only pages exist.
    if not uxn and not (wxn and user_writes):
        rights |= EL0_EXECUTE
    # What EL0 may write, EL1 never executes.
    if not pxn and not user_writes and not (wxn and not read_only):
        rights |= EL1_EXECUTE
    guarded = user or (epan and rights & EL0_EXECUTE)
    if not guarded:
        rights |= EL1_READ_PAN
        if not read_only:
            rights |= EL1_WRITE_PAN
    return rights


def access_bit(kind: str, *, el: int, pan: int = 0) -> int:
    """Access bit of a load, store or fetch made at an exception level.

    Args:
        kind: "ld", "st" or "ex".
        el: 0 or 1.
        pan: PSTATE.PAN, 0 or 1; it concerns loads and stores at EL1 only.

    Raises:
        KeyError: no such kind of access or exception level.
    """
    return _ACCESS_BITS[kind, el][pan]


def describe(rights: int) -> str:
    """Names of the accesses in *rights*, comma-separated, for people."""
    names = [name for bit, name in ACCESS_NAMES.items() if rights & bit]
    return "; ".join(names) or "nothing"


# What is asked for with PSTATE.PAN = 0 and 1.
_ACCESS_BITS = {
    ("ld", 0): (EL0_READ, EL0_READ),
    ("st", 0): (EL0_WRITE, EL0_WRITE),
    ("ex", 0): (EL0_EXECUTE, EL0_EXECUTE),
    ("ld", 1): (EL1_READ, EL1_READ_PAN),
    ("st", 1): (EL1_WRITE, EL1_WRITE_PAN),
    ("ex", 1): (EL1_EXECUTE, EL1_EXECUTE),
}
