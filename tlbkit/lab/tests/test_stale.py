"""Laws of staleness: which changes wait for nobody, and which flush is enough."""

import pytest

from tlbkit.arm64 import descriptor as d
from tlbkit.lab.stale import (
    ACCESSES,
    CHANGES,
    FLUSHES,
    SCOPES,
    Stale,
    Verdict,
    judge,
    scene,
)
from tlbkit.linux.arch.arm64.include.asm.tlbflush import TlbFlush

EVERYTHING = "TLBI VMALLE1IS; DSB ISH"
PAGE = "TLBI VALE1IS; DSB ISH"
TABLES_TOO = "TLBI VAE1IS; DSB ISH"


def verdicts(change, flush, scope="one ASID (nG = 1)"):
    """The verdict on each CPU's read and write."""
    params = {"change": change, "flush": flush, "scope": scope}
    return set(Stale().answer(params).columns["verdict"])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("change", CHANGES)
def test_what_linux_does_not_flush_agrees(change, scope):
    """Where `pte_needs_flush` says no, no flush at all leaves no CPU behind."""
    made = CHANGES[change].scoped(SCOPES[scope])
    if made.unlink or TlbFlush.pte_needs_flush(made.before, made.after):
        assert verdicts(change, "none", scope) != {Verdict.AGREES}
    else:
        assert verdicts(change, "none", scope) == {Verdict.AGREES}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("change", CHANGES)
def test_everything_flushed_agrees(change, scope):
    """After all entries of all CPUs are gone, both do as the tables say."""
    assert verdicts(change, EVERYTHING, scope) == {Verdict.AGREES}


@pytest.mark.parametrize("change", CHANGES)
def test_a_leaf_needs_its_own_flush_and_a_table_more(change):
    """The page's flush is enough for every change of the page, not of the table."""
    enough = {Verdict.AGREES} == verdicts(change, PAGE)
    assert enough != CHANGES[change].unlink
    assert verdicts(change, TABLES_TOO) == {Verdict.AGREES}


def test_only_lost_rights_and_frames_make_holes():
    """Whoever gains rights takes a fault too many at worst."""
    holes = {name for name in CHANGES if Verdict.HOLE in verdicts(name, "none")}
    assert holes == {
        "the page is unmapped",
        "another frame takes its place",
        "writing is forbidden",
        "its table is unlinked and reused",
    }
    assert Verdict.SPURIOUS in verdicts("writing is allowed", "none")
    assert verdicts("the access flag is cleared", "none") == {Verdict.IDLE}


@pytest.mark.parametrize("change", ["the page is unmapped", "writing is forbidden"])
def test_a_local_flush_helps_its_own_cpu(change):
    """CPU 0 agrees afterwards, CPU 1 is as stale as before."""
    answer = Stale().answer({"change": change, "flush": "TLBI VALE1; DSB NSH (local)"})
    by_cpu: dict[int, set[str]] = {0: set(), 1: set()}
    for cpu, verdict in zip(
        answer.columns["cpu"], answer.columns["verdict"], strict=True
    ):
        by_cpu[cpu].add(verdict)
    assert by_cpu[0] == {Verdict.AGREES}
    assert Verdict.HOLE in by_cpu[1]


@pytest.mark.parametrize("name", FLUSHES)
def test_by_address_takes_global_entries_and_by_asid_leaves_them(name):
    """The wrong ASID does not matter to a global page; the right one does not help."""
    issue, barrier = FLUSHES[name]
    gone = verdicts("the page is unmapped", name, "every ASID (nG = 0)") == {
        Verdict.AGREES
    }
    waited = issue is not None and barrier == "ish"
    if not waited or name.startswith("TLBI ASIDE1IS"):
        assert not gone
    elif "another ASID" in name:
        assert gone


def test_each_access_has_a_scene_of_its_own():
    """An access that walks does not help the next one to its answer."""
    change, flush = CHANGES["the page is unmapped"], FLUSHES["none"]
    for _, need in ACCESSES:
        first = judge(scene(change, flush).cpu(1), need)
        assert first == judge(scene(change, flush).cpu(1), need)


def test_scopes_change_only_ng():
    """A global page differs from one of an ASID by nG alone."""
    for change in CHANGES.values():
        for scope in SCOPES.values():
            made = change.scoped(scope)
            assert (made.before ^ change.before) & ~d.NG == 0
            assert (made.after ^ change.after) & ~d.NG == 0
