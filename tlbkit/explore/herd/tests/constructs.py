"""Tests of our own, one for each thing that a file of herd7 can say, with its verdict.

The verdicts follow from the architecture; where one is not plain, the comment says why.
"""

from __future__ import annotations


def written(
    columns: dict[str, str], initial: str, question: str, header: str = ""
) -> str:
    """Return a file: a column of instructions, divided by `;`, for each thread."""
    cells = {name: body.split(";") for name, body in columns.items()}
    height = max(map(len, cells.values()))
    rows = [" | ".join(cells) + " ;"]
    for row in range(height):
        line = [body[row].strip() if row < len(body) else "" for body in cells.values()]
        rows.append(" | ".join(line) + " ;")
    head = ["AArch64 own", *([header] if header else [])]
    return "\n".join([*head, "{", initial, "}", *rows, question]) + "\n"


MESSAGE = "0:X1=x; 0:X3=y; 1:X1=x; 1:X3=y;"
SENT = "MOV W0,#1; STR W0,[X1]; DMB ST; STR W0,[X3]"

ALLOWED, FORBIDDEN, REQUIRED = "Allowed", "Forbidden", "Required"

CASES: dict[str, tuple[str, str, str]] = {}
"""By what it is about: the file, the verdict without and with FEAT_ETS2."""


def case(
    about: str,
    columns: dict[str, str],
    initial: str,
    question: str,
    verdict: str,
    ets2: str = "",
    header: str = "",
) -> None:
    """Add a test; `ets2` is the verdict with FEAT_ETS2, if it is another."""
    text = written(columns, initial, question, header)
    CASES[about] = text, verdict, ets2 or verdict


def reader(about: str, body: str, verdict: str, more: str = "", ets2: str = "") -> None:
    """Add a test in which P1 sees the flag, and after `body` not what was before."""
    case(
        about,
        {"P0": SENT, "P1": body},
        MESSAGE + more,
        "exists (1:X0=1 /\\ 1:X2=0)",
        verdict,
        ets2,
    )


# Dependencies and barriers, on data that always translates.
reader("no order", "LDR W0,[X3]; LDR W2,[X1]", ALLOWED)
reader("DMB LD", "LDR W0,[X3]; DMB LD; LDR W2,[X1]", FORBIDDEN)
reader("DMB ISHST", "LDR W0,[X3]; DMB ISHST; LDR W2,[X1]", ALLOWED)
reader("DSB SY", "LDR W0,[X3]; DSB SY; LDR W2,[X1]", FORBIDDEN)
reader("LDAR", "LDAR W0,[X3]; LDR W2,[X1]", FORBIDDEN)
reader("LDAPR", "LDAPR W0,[X3]; LDR W2,[X1]", FORBIDDEN)
reader("an address", "LDR W0,[X3]; EOR W4,W0,W0; LDR W2,[X1,W4,SXTW]", FORBIDDEN)
reader(
    "an address by AND",
    "LDR W0,[X3]; AND W4,W0,#128; LDR W2,[X1,W4,SXTW]",
    FORBIDDEN,
)
reader("a branch", "LDR W0,[X3]; CBNZ W0,L; L: LDR W2,[X1]", ALLOWED)
reader("a branch and ISB", "LDR W0,[X3]; CBNZ W0,L; L: ISB; LDR W2,[X1]", FORBIDDEN)
reader(
    "a comparison and ISB",
    "LDR W0,[X3]; CMP W0,#1; B.NE L; ISB; LDR W2,[X1]; L: NOP",
    FORBIDDEN,
)
reader(
    "a picked address",  # CSEL picks: no order for a load
    "LDR W0,[X3]; CMP W0,#1; CSEL W4,WZR,WZR,EQ; LDR W2,[X1,W4,SXTW]",
    ALLOWED,
)
reader(
    "a picked branch and ISB",
    "LDR W0,[X3]; CMP W0,#1; CSET W4,EQ; CBZ W4,L; L: ISB; LDR W2,[X1]",
    FORBIDDEN,
)
reader(
    "a loop that waits",
    "L: LDR W0,[X3]; CBZ W0,L; DMB LD; LDR W2,[X1]",
    FORBIDDEN,
)
reader("a skip over the load", "LDR W0,[X3]; CBNZ W0,L; LDR W2,[X1]; L:", ALLOWED)
reader("SWP with acquire", "MOV W5,#2; SWPA W5,W0,[X3]; LDR W2,[X1]", FORBIDDEN)
reader("SWP without a destination", "SWPA WZR,WZR,[X3]; LDR W2,[X1]", FORBIDDEN)
reader("LDADD without order", "MOV W5,#0; LDADD W5,W0,[X3]; LDR W2,[X1]", ALLOWED)
reader(
    "a pointer that is read",
    "LDR W0,[X3]; EOR W5,W0,W0; LDR X6,[X7,W5,SXTW]; LDR W2,[X6]",
    FORBIDDEN,
    "1:X7=p; int *p=&x;",
)


def writer(about: str, body: str, verdict: str) -> None:
    """Add a test in which a read of P0 must come before its write, or need not."""
    case(
        about,
        {"P0": body, "P1": "LDR W0,[X3]; DMB SY; MOV W2,#1; STR W2,[X1]"},
        MESSAGE,
        "exists (0:X0=1 /\\ 1:X0=1)",
        verdict,
    )


writer("a write in no order", "LDR W0,[X1]; MOV W4,#1; STR W4,[X3]", ALLOWED)
writer(
    "the data of a write",
    "LDR W0,[X1]; EOR W4,W0,W0; ADD W4,W4,#1; STR W4,[X3]",
    FORBIDDEN,
)
writer("the value of a write", "LDR W0,[X1]; STR W0,[X3]", FORBIDDEN)
writer(
    "a picked value",
    "LDR W0,[X1]; MOV W4,#1; CMP W0,#1; CSEL W4,W4,W4,EQ; STR W4,[X3]",
    FORBIDDEN,
)
writer(
    "a branch before a write",
    "LDR W0,[X1]; MOV W4,#1; CBZ W0,L; L: STR W4,[X3]",
    FORBIDDEN,
)
writer("STLR", "LDR W0,[X1]; MOV W4,#1; STLR W4,[X3]", FORBIDDEN)
writer("SWPL", "LDR W0,[X1]; MOV W4,#1; SWPL W4,W5,[X3]", FORBIDDEN)

# Entries.
CHANGED = "0:X1=pte_x; 0:X3=y; 0:X5=x; 1:X1=x; 1:X3=y;"
UNMAP = "STR X0,[X1]; DSB ISH; LSR X6,X5,#12; TLBI VAAE1IS,X6; DSB ISH"
SEEN = "LDR W0,[X3]; DMB LD; L0: LDR W2,[X1]"
GONE = " 0:X0=(oa:PA(x), valid:0);"


def changed(
    about: str, writes: str, reads: str, question: str, verdict: str, **more: str
) -> None:
    """Add a test in which P0 changes the entry of x, and P1 uses it."""
    case(
        about,
        {"P0": f"{writes}; MOV W4,#1; STR W4,[X3]", "P1": reads},
        CHANGED + more.pop("initial", GONE),
        question,
        verdict,
        **more,
    )


NO_FAULT = "exists (1:X0=1 /\\ ~fault(P1:L0,x))"
changed("TLBI by address", UNMAP, SEEN, NO_FAULT, FORBIDDEN)
changed(
    "TLBI of all",
    "STR X0,[X1]; DSB ISH; TLBI VMALLE1IS; DSB ISH",
    SEEN,
    NO_FAULT,
    FORBIDDEN,
)
changed("TLBI here only", UNMAP.replace("IS,", ","), SEEN, NO_FAULT, ALLOWED)
changed(
    "TLBI without DSB",
    UNMAP.replace("; DSB ISH; LSR", "; LSR"),
    SEEN,
    NO_FAULT,
    ALLOWED,
)
changed("no TLBI", "STR X0,[X1]; DSB ISH", SEEN, NO_FAULT, ALLOWED)
changed(
    "a fault of a kind",
    "STR X0,[X1]; DSB ISH",
    SEEN,
    "exists (1:X0=1 /\\ Fault(P1:L0,x,MMU:Translation))",
    ALLOWED,
)
changed(
    "a fault of another kind",
    "STR X0,[X1]; DSB ISH",
    SEEN,
    "exists (fault(P1,x,MMU:Permission))",
    FORBIDDEN,
)
changed(
    "a fault elsewhere", "STR X0,[X1]; DSB ISH", SEEN, "exists (fault(P1,y))", FORBIDDEN
)
changed("the last entry", UNMAP, SEEN, "forall (pte_x=(oa:PA(x), valid:0))", REQUIRED)
changed("a filter", UNMAP, SEEN, "filter (1:X0=1)\nforall (fault(P1:L0,x))", REQUIRED)
changed("not in every execution", UNMAP, SEEN, "forall (fault(P1:L0,x))", ALLOWED)
changed(
    "no execution",
    UNMAP,
    SEEN,
    "locations [1:X2; x; fault(P1:L0,x);]\n~exists (1:X0=1 /\\ not (fault(P1)))",
    FORBIDDEN,
)
changed(
    "a valid entry again",
    "STR X0,[X1]; DSB ISH",
    SEEN.replace("DMB LD", "DSB SY; ISB"),
    "exists (1:X0=1 /\\ fault(P1:L0,x))",
    FORBIDDEN,
    initial="[PTE(x)]=(valid:0); 0:X0=(oa:PA(x));",
)
changed(
    "a walk that went ahead",
    "STR X0,[X1]; DMB ST",
    "LDR W0,[X3]; L0: LDR W2,[X1]",
    "exists (1:X0=1 /\\ fault(P1:L0,x))",
    ALLOWED,
    ets2=FORBIDDEN,
    initial="[PTE(x)]=(valid:0); 0:X0=(oa:PA(x));",
)
changed(
    "a clear bit",
    "MOV X0,#1; STCLR X0,[X1]; DSB ISH",
    SEEN,
    "exists (pte_x=(oa:PA(x)))",
    FORBIDDEN,
    initial="",
)
changed(
    "a set bit",
    "MOV X0,#1; LSL X0,X0,#7; LDSET X0,X7,[X1]; DSB ISH",
    SEEN,
    "forall (pte_x=(db:0) /\\ 0:X7=(oa:phy_x))",
    REQUIRED,
    initial="",
)
changed(
    "CAS of an entry",
    "LDR X7,[X1]; CAS X7,X0,[X1]; DSB ISH",
    SEEN,
    "forall (pte_x=(valid:0))",
    REQUIRED,
)
changed(
    "CAS that fails",
    "MOV X8,X0; CAS X8,X0,[X1]; DSB ISH",
    SEEN,
    "forall (pte_x=(oa:phy_x) /\\ 0:X8=(oa:phy_x))",
    REQUIRED,
)

# Fault handlers.
HANDLED = "ADR X9,L1; MSR ELR_EL1,X9; ERET"
case(
    "a handler",
    {"P0": "L0: LDR W0,[X1]; MOV W2,#1; L1: NOP", "P0.F": HANDLED},
    "[PTE(x)]=(valid:0); 0:X1=x;",
    'forall (fault(P0:L0,x) /\\ 0:X2=0 /\\ 0:X9=label:"P0:L1")',
    REQUIRED,
)
case(
    "a handler that goes on",
    {
        "P0": "LDR W0,[X1]; MOV W2,#1",
        "P0.F": "MRS X4,ELR_EL1; ADD X4,X4,#4; MSR ELR_EL1,X4; ERET",
    },
    "[PTE(x)]=(valid:0); 0:X1=x;",
    "forall (0:X2=1)",
    REQUIRED,
)
case(
    "a handler that mends",
    {"P0": "LDR W0,[X1]", "P0.F": "STR X2,[X3]; DSB ISH; ERET"},
    "[PTE(x)]=(valid:0); x=5; 0:X1=x; 0:X2=(oa:PA(x)); 0:X3=pte_x;",
    "forall (0:X0=5)",
    REQUIRED,
)
case(
    "a handler is after the walk",  # the exception synchronises the context
    {
        "P0": SENT.replace("STR W0,[X3]", "STR X5,[X6]"),
        "P1": "LDR W0,[X3]",
        "P1.F": "LDR W2,[X1]",
    },
    "[PTE(y)]=(valid:1); 0:X1=x; 0:X3=y; 0:X5=(oa:PA(y), valid:0); 0:X6=PTE(y);"
    "1:X1=x; 1:X3=y;",
    "exists (fault(P1,y) /\\ 1:X2=0)",
    FORBIDDEN,
)
case(
    "tried again",
    {"P0": "STR X2,[X3]", "P1": "LDR W0,[X1]; MOV W2,#7"},
    "[PTE(x)]=(valid:0); x=5; 0:X2=(oa:PA(x)); 0:X3=pte_x; 1:X1=x;",
    "forall (1:X0=5 /\\ 1:X2=7)",
    REQUIRED,
    header="Variant=handled",
)
case(
    "a fault is fatal",
    {"P0": "LDR W0,[X1]; MOV W2,#1"},
    "[PTE(x)]=(af:0); 0:X1=x;",
    "forall (fault(P0,x,AccessFlag) /\\ 0:X2=0)",
    REQUIRED,
)

# Hardware management.
YOUNG = "[PTE(x)]=(af:0); x=5; 0:X1=x; 1:X1=x;"
case(
    "the access flag here",
    {"P0": "LDR W0,[X1]"},
    YOUNG.replace("1:X1=x;", ""),
    "forall (0:X0=5 /\\ pte_x=(oa:phy_x))",
    REQUIRED,
    header="TTHM=HA",
)
case(
    "the access flag on one CPU",
    {"P0": "LDR W0,[X1]", "P1": "LDR W0,[X1]"},
    YOUNG,
    "exists (fault(P0))",
    FORBIDDEN,
    header="TTHM=P0:HA",
)
case(
    "no access flag on the other",
    {"P0": "LDR W0,[X1]", "P1": "LDR W0,[X1]"},
    YOUNG,
    "exists (fault(P1,x,AccessFlag))",
    ALLOWED,
    header="TTHM=P0:HA",
)
case(
    "the dirty state",
    {"P0": "MOV W0,#7; STR W0,[X1]"},
    "[PTE(x)]=(db:0,dbm:1); 0:X1=x;",
    "forall (x=7 /\\ pte_x=(dbm:1))",
    REQUIRED,
    header="TTHM=HA HD",
)
case(
    "no dirty state",
    {"P0": "MOV W0,#7; STR W0,[X1]"},
    "[PTE(x)]=(db:0,dbm:1); 0:X1=x;",
    "forall (fault(P0,x,Permission))",
    REQUIRED,
    header="TTHM=HA",
)
case(
    "a CAS that fails may dirty",
    {"P0": "MOV W0,#1; CAS W0,W2,[X1]"},
    "[PTE(x)]=(db:0,dbm:1); 0:X1=x;",
    "exists (pte_x=(dbm:1))",
    ALLOWED,
    header="TTHM=HD",
)
case(
    "a CAS that fails need not",
    {"P0": "MOV W0,#1; CAS W0,W2,[X1]"},
    "[PTE(x)]=(db:0,dbm:1); 0:X1=x;",
    "exists (pte_x=(db:0,dbm:1))",
    ALLOWED,
    header="TTHM=HD",
)

# Atomics and exclusives on data, four threads, registers.
COUNT = "MOV W2,#1; LDADD W2,W0,[X1]"
case(
    "no increment is lost",
    {f"P{n}": COUNT for n in range(4)},
    "".join(f"{n}:X1=x; " for n in range(4)),
    "forall (x=4)",
    REQUIRED,
)
case(
    "loads and stores lose one",
    {f"P{n}": "LDR W0,[X1]; ADD W0,W0,#1; STR W0,[X1]" for n in range(2)},
    "0:X1=x; 1:X1=x;",
    "exists (x=1)",
    ALLOWED,
)
case(
    "exclusives",
    {f"P{n}": "LDXR W0,[X1]; ADD W0,W0,#1; STXR W4,W0,[X1]" for n in range(2)},
    "0:X1=x; 1:X1=x;",
    "exists (x=1 /\\ 0:X4=0 /\\ 1:X4=0)",
    FORBIDDEN,
)
case(
    "a store-exclusive alone",
    {"P0": "STXR W4,W0,[X1]"},
    "0:X1=x; 0:X0=3;",
    "exists (0:X4=0 \\/ x=3)",
    FORBIDDEN,
)
case(
    "registers",
    {
        "P0": "MOV W0,#5; ADD W1,W0,#2; SUB W2,W1,#1; LSL W3,W2,#4;"
        "LSR W4,W3,#5; ORR W5,W4,#8; BIC W6,W5,W4; CSINC W7,W6,W5,NE"
    },
    "",
    "forall (0:X1=7 /\\ 0:X2=6 /\\ 0:X3=96 /\\ 0:X4=3 /\\ 0:X5=0xb /\\ 0:X6=8"
    " /\\ 0:X7=8)",
    REQUIRED,
)
case(
    "a loop that counts",
    {"P0": "MOV W0,#5; L: ADD W1,W1,#2; SUB W0,W0,#1; CBNZ W0,L"},
    "",
    "forall (0:X1=10)",
    REQUIRED,
)
case(
    "conditions",
    {
        "P0": "MOV W0,#5; CMP W0,#7; CSET W1,LT; CSET W2,HI; CSET W3,LE;"
        "CSET W4,CS; CSET W5,MI; TST W0,#2; CSET W6,EQ"
    },
    "",
    "forall (0:X1=1 /\\ 0:X2=0 /\\ 0:X3=1 /\\ 0:X4=0 /\\ 0:X5=1 /\\ 0:X6=1)",
    REQUIRED,
)
case(
    "a mapping of another frame",
    {"P0": "LDR W0,[X1]"},
    "[PTE(x)]=(oa:PA(y)); x=1; y=2; 0:X1=x;",
    "forall (0:X0=2 /\\ [x]=1)",
    REQUIRED,
)
case(
    "an array of one value",
    {"P0": "LDR W0,[X1]"},
    "int x[3]={4,4,4}; 0:X1=x;",
    "forall (0:X0=4 /\\ 0:X9<>1)",
    REQUIRED,
)
case("nothing asked", {"P0": "NOP"}, "", "locations [0:X1;]", REQUIRED)
