"""50944692052b: UFFDIO_MOVE clears a run of pages and flushes them together."""

from tlbkit.patches import series
from tlbkit.patches.patch import Figure, Kind, Patch, Role

_CHANGELOG = "changelog of 50944692052b"
_ANDROID = "userfaultfd garbage collection on an arm64 Android device"

PATCH = Patch(
    commit="50944692052b1e76fd211f4da0798ab19d7fc276",
    subject="userfaultfd MOVE: one TLB flush for each run of present pages",
    series=series.MOVE,
    kind=Kind.PERFORMANCE,
    role=Role.PULL_REQUEST,
    author="Lokesh Gidra",
    release="v6.18",
    touches={
        "mm/userfaultfd.c": (
            "check_ptes_for_batched_move",
            "move_present_ptes",
            "move_swap_pte",
            "move_zeropage_pte",
            "move_pages_ptes",
            "move_pages",
        ),
    },
    chapter="book/commits/userfaultfd-move.md",
    sources=(
        "mainline 50944692052b",
        "Message-ID 20250816191123.3601561-1-lokeshgidra@google.com (v6)",
    ),
    figures=(
        Figure(
            name="flush share before",
            value=40,
            unit="%",
            what=f"of move_pages_pte() spent in ptep_clear_flush(), before; {_ANDROID}",
            source=_CHANGELOG,
            qualifier="over",
        ),
        Figure(
            name="lookup share before",
            value=20,
            unit="%",
            what=f"of move_pages_pte() spent in vm_normal_folio(), before; {_ANDROID}",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="lookup share after",
            value=70,
            unit="%",
            what=f"of the page mover spent in vm_normal_folio(), after; {_ANDROID}",
            source=_CHANGELOG,
            qualifier="over",
        ),
        Figure(
            name="own share after",
            value=20,
            unit="%",
            what=f"of the page mover spent in itself and its flush, after; {_ANDROID}",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="benchmark before",
            value=45,
            unit="min",
            what="garbage-collection benchmark on cuttlefish, an x86_64 guest, before",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="benchmark after",
            value=20,
            unit="min",
            what="the same benchmark on the same x86_64 guest, after",
            source=_CHANGELOG,
            qualifier="about",
        ),
        Figure(
            name="compaction time saved",
            value=50,
            unit="%",
            what="less time to compact in system_server, on an arm64 Android device",
            source=_CHANGELOG,
            qualifier="over",
        ),
    ),
    note=(
        "move_present_pte() and move_pages_pte() became plural; the test for the next "
        "page is new. The same commit brought the mistake that f025ca73decd repairs."
    ),
)
