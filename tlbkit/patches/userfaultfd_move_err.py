"""f025ca73decd: a page that moved makes UFFDIO_MOVE forget the error before it."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="f025ca73decda1f895a4b80b961d3bc88825298a",
    subject="userfaultfd MOVE: clear the error of a try once a later try succeeds",
    series=series.LATER,
    kind=Kind.FIX,
    role=Role.LATER_FIX,
    author="",
    release="v7.3",
    touches={"mm/userfaultfd.c": ("move_pages",)},
    chapter="book/commits/userfaultfd-move.md",
    sources=(
        "mainline f025ca73decd, merged by 2026-09-05, after v7.2",
        "dfc17986c608 in v7.2.y, pushed 2026-09-11",
    ),
    needs={"50944692052b": "before it the loop assigned the error on every try"},
    repairs="50944692052b",
    note=(
        "Known by its title and its place in the logs; its text was not read. That "
        "50944692052b is at fault follows from reading both versions of the loop. The "
        "release is the one that was open when it was merged."
    ),
)
