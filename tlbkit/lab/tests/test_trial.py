"""Patches of one's own: read, tried, judged."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit import lab
from tlbkit.errors import InputError
from tlbkit.lab.trial import OwnPatch, attempt, load_patch, patched, play, program
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import PTE_UXN
from tlbkit.linux.arch.arm64.include.asm.tlbflush import TlbFlush
from tlbkit.linux.include.uapi.asm_generic.errno import EINVAL
from tlbkit.linux.mm.mprotect import Mprotect
from tlbkit.patches.mprotect_pte_needs_flush import PATCH


class Never(TlbFlush):
    """A change of rights never flushes."""

    __slots__ = ()

    @staticmethod
    def pte_needs_flush(old: int, new: int) -> bool:
        """Say no."""
        del old, new
        return False


class Waiting(Mprotect):
    """The same, with one DSB more."""

    __slots__ = ()

    def change_protection(self, *arguments, **flags):
        """Wait for nothing at the end."""
        changed = super().change_protection(*arguments, **flags)
        self._kernel.machine.running.dsb("nsh")
        return changed


class Refusing(Mprotect):
    """Nobody gets other rights."""

    __slots__ = ()

    def do_mprotect_pkey(self, *arguments):
        """Return an error, whatever is asked."""
        del arguments
        return -EINVAL


def tried(part, one, kernel="v6.19", **how):
    """Try one class."""
    patch = OwnPatch("mine.py", "mine", {part: one})
    return attempt(patch, kernel, **{"preemptions": 0, "programs": 3} | how)


def test_a_patch_that_forgets_a_flush_breaks_with_its_way():
    """A scenario and meetings break, and the way to each breach is there."""
    found = tried("tlbflush", Never, scenarios=[lab.find("mprotect")])
    wheres = {one.where: one for one in found.breaks}
    assert {"scenario mprotect", "meeting protect"} <= wheres.keys()
    assert "can still use" in wheres["meeting protect"].error
    assert any("mprotect" in step for step in wheres["meeting protect"].way)
    assert found.patch.functions == {"pte_needs_flush"}
    assert not found.needless


def test_an_old_body_is_a_patch_too():
    """The body before a commit, laid over v6.19, costs what that commit saved."""
    (before,) = PATCH.reverts.values()
    found = tried("tlbflush", before, scenarios=[lab.find("mprotect")])
    assert not found.breaks
    changed = {(one.what, one.without, one.with_it) for one in found.changes}
    assert ("DSBs that complete a TLBI", 0, 1) in changed


class Granting(TlbFlush):
    """To grant the right to execute does not flush either."""

    __slots__ = ()

    @staticmethod
    def pte_needs_flush(old: int, new: int) -> bool:
        """Say no where only UXN is cleared."""
        if not new & PTE_UXN:
            old &= ~PTE_UXN
        return TlbFlush.pte_needs_flush(old, new)


def test_a_fault_for_ever_is_found_by_a_program():
    """No rule breaks where a strict entry stays, but a fetch never ends."""
    found = tried("tlbflush", Granting, programs=40)
    assert found.breaks
    for one in found.breaks:
        assert one.where.startswith("random program")
        assert "still faults after" in one.error


def test_a_barrier_that_nothing_needs_is_named():
    """What is added for nothing breaks nothing where it is left out."""
    found = tried("mprotect", Waiting)
    assert not found.breaks
    assert "dsb nsh in change_protection" in found.needless
    assert "tlbi in change_protection" not in found.needless
    assert found.meetings["protect"] >= 1


def test_another_errno_is_seen_by_a_program():
    """Random programs answer alike, or the first step that does not is told."""
    found = tried("mprotect", Refusing, programs=5)
    broken = [one for one in found.breaks if one.where.startswith("random program")]
    assert broken
    assert "and answers mprotect: EINVAL" in broken[0].error
    assert broken[0].way[-1].startswith("mprotect")
    assert "meeting permit" in {one.where for one in found.breaks}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_programs_are_their_seed(seed):
    """The same seed makes the same program, and a kernel always answers alike."""
    steps = program(seed)
    assert steps == program(seed)
    said = play(patched(None), steps)
    assert said == play(patched(None), steps)
    assert len(said) >= len(steps)


def test_a_file_is_read(tmp_path):
    """The module is run, and its classes are the patch."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from tlbkit.linux.mm.mprotect import Mprotect\n"
        "class Mine(Mprotect):\n"
        "    __slots__ = ()\n"
        "    def mprotect_fixup(self, *a):\n"
        "        return super().mprotect_fixup(*a)\n"
        "REPLACES = {'mprotect': Mine}\n"
    )
    patch = load_patch(path)
    assert (patch.name, patch.title) == ("mine.py", "mine")
    assert patch.functions == {"mprotect_fixup"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("def", "mine.py, line 1: "),
        ("x = 1\n1 / 0", "mine.py, line 2: ZeroDivisionError"),
        ("import nowhere", "line 1: ModuleNotFoundError"),
        ("x = 1", "a patch has REPLACES"),
        ("REPLACES = {}", "a patch has REPLACES"),
        ("REPLACES = {'mmu': int}", "no part 'mmu'; there are printk"),
        ("REPLACES = {'mprotect': int}", "is a class derived from Mprotect"),
        ("REPLACES = {'mprotect': 1}", "is a class derived from Mprotect"),
    ],
)
def test_what_is_no_patch_is_said(tmp_path, text, said):
    """The error names the file, the line, and what a patch looks like."""
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as error:
        load_patch(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(max_size=40))
def test_any_text_is_a_patch_or_refused(tmp_path_factory, text):
    """Whatever stands in the file, it ends in one sentence."""
    path = tmp_path_factory.mktemp("patch") / "mine.py"
    path.write_text(f"# {text}\nREPLACES = None\n", "utf-8", "surrogateescape")
    with pytest.raises(InputError, match=r"mine\.py"):
        load_patch(path)


def test_an_unknown_kernel_is_refused():
    """Before anything is run."""
    with pytest.raises(InputError, match="no kernel 'v9'"):
        tried("tlbflush", Never, kernel="v9")
