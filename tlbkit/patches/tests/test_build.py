"""Leaving commits out: what goes with them, and whose old body answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.errors import InputError
from tlbkit.patches import registry
from tlbkit.patches.build import build, closure, foundation, parts
from tlbkit.patches.patch import AsPushed, Kind, Patch, Role, Series

HASHES = [p.hash for p in registry.PATCHES]
sets_of_hashes = st.frozensets(st.sampled_from(HASHES))


class Toy:
    """A part as it stands with every commit."""

    def flush(self) -> str:
        """Say which body answers."""
        return "newest"

    def walk(self) -> str:
        """Say which body answers."""
        return f"walk, then {self.flush()}"


class ToyBeforeFirst(Toy):
    """Before the first commit."""

    def flush(self) -> str:
        """Say which body answers."""
        return "before the first"


class ToyBeforeSecond(Toy):
    """Before the second commit, after the first."""

    def flush(self) -> str:
        """Say which body answers."""
        return "before the second"

    def walk(self) -> str:
        """Say which body answers."""
        return "old walk"


class ToyAsPushed(Toy):
    """The first commit, as a backport has it."""

    def flush(self) -> str:
        """Say which body answers."""
        return "misplaced"


class Other:
    """A part that no commit changes."""


PARTS = {"toy": Toy, "other": Other}

EVERY_PART = {
    name: revert.__bases__[0]
    for patch in registry.PATCHES
    for name, revert in patch.reverts.items()
}
"""The parts that the commits built so far change."""


def toy(digit, reverts, needs=()):
    """Make a commit whose hash is one digit, twelve times."""
    return Patch(
        commit=digit * 40,
        subject=f"commit {digit}",
        series=Series("toy", "toy", "nowhere"),
        kind=Kind.FIX,
        role=Role.PULL_REQUEST,
        author="nobody",
        release="v6.19",
        touches={},
        chapter="",
        sources=(),
        needs={other * 12: "it does" for other in needs},
        reverts=reverts,
    )


FIRST = toy("1", {"toy": ToyBeforeFirst})
SECOND = toy("2", {"toy": ToyBeforeSecond}, needs="1")
TOYS = (FIRST, SECOND)
PUSHED = AsPushed(
    of=FIRST.hash,
    backport="3" * 40,
    subject="misplaced",
    touches={},
    effects=(),
    sources=(),
    replaces={"toy": ToyAsPushed},
)


def toy_without(*patches, as_pushed=()):
    """Make the toy part without some of the toy commits."""
    missing = {patch.hash for patch in patches}
    return parts(PARTS, missing, as_pushed=as_pushed, patches=TOYS)["toy"]


@given(sets_of_hashes)
def test_closure_keeps_what_it_was_given(without):
    """Whatever is to go, goes."""
    assert without <= closure(without)[0]


@given(sets_of_hashes)
def test_closure_is_done_after_once(without):
    """What is complete stays as it is, with nothing more to say."""
    gone, _ = closure(without)
    assert closure(gone) == (gone, [])


@given(sets_of_hashes, sets_of_hashes)
def test_closure_of_more_is_more(some, more):
    """To take out more commits never brings one back."""
    assert closure(some)[0] <= closure(some | more)[0]


@given(sets_of_hashes, sets_of_hashes)
def test_closure_goes_one_by_one_or_all_at_once(some, more):
    """What goes with two sets goes with one of them: each need alone is enough."""
    assert closure(some | more)[0] == closure(some)[0] | closure(more)[0]


@given(sets_of_hashes)
def test_closure_leaves_only_what_can_stand(without):
    """No commit that stays needs the code of one that goes."""
    gone, _ = closure(without)
    code = {p.hash for p in registry.PATCHES if p.kind is not Kind.COMMENT}
    for patch in registry.PATCHES:
        assert patch.hash in gone or not gone & code & set(patch.needs)


@given(sets_of_hashes)
def test_closure_says_each_thing_once(without):
    """There is one sentence for each commit that goes without having been named."""
    gone, said = closure(without)
    dragged = [h for h in HASHES if h in gone - without]
    assert len(said) == len(dragged)
    for sentence, name in zip(said, dragged, strict=True):
        assert f"{name} goes as well" in sentence


@given(st.sets(st.sampled_from(TOYS)), st.booleans())
def test_old_bodies_lie_oldest_first(missing, pushed):
    """The order of the classes is: old bodies by age, then the part, and each once."""
    forms = (PUSHED,) if pushed else ()
    made = toy_without(*missing, as_pushed=forms)
    expected: list[type] = []
    if FIRST in missing:
        expected.append(ToyBeforeFirst)
    elif pushed:
        expected.append(ToyAsPushed)
    if SECOND in missing:
        expected.append(ToyBeforeSecond)
    own = [c for c in made.__mro__ if c not in {made, Toy, object}]
    assert own == expected
    assert issubclass(made, Toy)


def test_the_oldest_body_answers():
    """With both commits gone, the function is as before the first of them."""
    assert toy_without(FIRST, SECOND)().flush() == "before the first"
    assert toy_without(SECOND)().flush() == "before the second"
    assert toy_without()().flush() == "newest"


def test_a_body_that_stayed_calls_the_old_one():
    """An old body answers to everyone who calls it, not only from outside."""
    assert toy_without(FIRST)().walk() == "walk, then before the first"


def test_an_old_body_of_one_commit_stays_beside_the_older_of_another():
    """Of two commits gone, each gives back the functions that only it changed."""
    assert toy_without(FIRST, SECOND)().walk() == "old walk"


def test_a_backport_s_form_stands_where_its_commit_stood():
    """It hides the upstream body and what came after, but not what came before."""
    forms = (PUSHED,)
    assert toy_without(as_pushed=forms)().flush() == "misplaced"
    assert toy_without(SECOND, as_pushed=forms)().flush() == "misplaced"
    assert toy_without(FIRST, as_pushed=forms)().flush() == "before the first"


def test_what_nothing_changed_is_the_class_that_was_given():
    """A part without old bodies is not wrapped, so it costs nothing."""
    made = parts(PARTS, {FIRST.hash}, patches=TOYS)
    assert made["other"] is Other
    assert parts(PARTS, set(), patches=TOYS)["toy"] is Toy
    assert list(made) == list(PARTS)


def test_a_made_class_looks_like_its_part():
    """Messages and documentation name the part, not how it was put together."""
    made = toy_without(FIRST)
    assert (made.__name__, made.__module__, made.__doc__) == (
        Toy.__name__,
        Toy.__module__,
        Toy.__doc__,
    )


def test_one_class_of_old_bodies_may_serve_two_commits():
    """A class that two commits share is laid over the part once."""
    twins = (toy("1", {"toy": ToyBeforeFirst}), toy("2", {"toy": ToyBeforeFirst}))
    missing = {twin.hash for twin in twins}
    made = parts(PARTS, missing, patches=twins)["toy"]
    assert made().flush() == "before the first"


def test_two_kernels_live_side_by_side():
    """Taking a commit out of one kernel leaves the part of every other as it is."""
    toy_without(FIRST, SECOND)
    assert Toy().flush() == "newest"


def test_a_part_that_is_not_there_is_named():
    """A commit that changes an unknown part is reported with the parts there are."""
    with pytest.raises(InputError, match=r"'toy'.*it has: other"):
        parts({"other": Other}, {FIRST.hash}, patches=TOYS)


def test_closure_tells_the_way():
    """The sentence names the commit that went, the one that follows, and the reason."""
    gone, said = closure([FIRST.hash], TOYS)
    assert gone == {FIRST.hash, SECOND.hash}
    assert said == [
        "without 111111111111, 222222222222 goes as well (commit 2): it does"
    ]


@pytest.mark.parametrize("version", registry.KERNELS.values(), ids=lambda k: k.name)
def test_a_named_kernel_comes_without_remarks(version):
    """A named kernel is what its name says; there is nothing to add."""
    made = build(EVERY_PART, version.name)
    assert made.missing == version.missing
    assert made.said == ()


def test_leaving_out_a_commit_takes_its_dependents_along():
    """Without the marking of huge zero PMDs the shared decision cannot stand either."""
    made = build(EVERY_PART, "fixed", without=["d82d09"])
    assert made.missing - registry.kernel("fixed").missing == {
        "d82d09e48219",
        "af38538801c6",
        "2db308160b5a",
        "4c89792ea0a2",
        "c0c6ccd9828c",
    }
    assert sum("goes as well" in sentence for sentence in made.said) == 4


COMMENTS = [patch.hash for patch in registry.PATCHES if patch.kind is Kind.COMMENT]


@pytest.mark.parametrize("commit", COMMENTS)
def test_a_comment_takes_no_code_along(commit):
    """Without a commit that changes comments alone, every body stays, and that is said.

    Others may need its text: their old bodies are not laid over the parts for it.
    """
    made, whole = (build(EVERY_PART, "v6.19", out) for out in ([commit], []))
    assert made.missing == whole.missing | {commit}
    for name, part in made.parts.items():
        assert part.__mro__[1:] == whole.parts[name].__mro__[1:]
    (said,) = made.said
    assert said.startswith(f"{commit} changes comments alone")


@given(sets_of_hashes)
def test_a_foundation_is_whole(including):
    """What must be there needs nothing that is not, but for the text of comments."""
    there, said = foundation(including)
    assert including <= there
    assert set(said) == there - including
    comments = set(COMMENTS)
    for patch in registry.PATCHES:
        assert patch.hash not in there or set(patch.needs) <= there | comments
    assert foundation(there) == (there, {})


@given(sets_of_hashes)
def test_to_leave_out_is_the_other_side_of_to_put_in(including):
    """v6.17 with some commits is `fixed` and more, without all others."""
    made = build(EVERY_PART, "v6.17", including=including)
    there, _ = foundation(including)
    assert made.missing == frozenset(HASHES) - there


@pytest.mark.parametrize("patch", registry.PATCHES, ids=lambda patch: patch.hash)
def test_to_put_in_what_is_there_changes_nothing(patch):
    """A commit that a kernel has already is neither added nor told of."""
    for name, version in registry.KERNELS.items():
        if patch.hash in version.patches:
            made = build(EVERY_PART, name, including=[patch.hash])
            assert (made.missing, made.said) == (version.missing, ())


def test_what_is_put_in_brings_what_it_needs():
    """The local flush needs the PMD level, that needs the enum, and all is told."""
    made = build(EVERY_PART, "v6.17", including=["cb1fa2e9"])
    gone = registry.kernel("v6.17").missing - made.missing
    assert {"cb1fa2e99955", "79301c7d605a", "b22cc9a9c7ff"} <= gone
    assert len(made.said) == len(gone) - 1
    assert all("is there as well" in sentence for sentence in made.said)


def test_what_is_to_be_there_and_not_is_refused():
    """A commit cannot be put in where one that it needs is to be left out."""
    with pytest.raises(InputError, match="79301c7d605a, cb1fa2e99955 would have to"):
        build(EVERY_PART, "v6.17", without=["79301c"], including=["cb1fa2"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("6.18.3", "closest is v6.18, and what yours adds"),
        ("6.19", "closest is v6.19"),
        ("v6.19-rc5", "closest is v6.19"),
        ("v5.4", "like every older kernel"),
        ("v7.4", "the newest release here is v7.0"),
        ("v6.17.13-1.el10", "closest is v6.17"),
        ("mainline", "allowed are: v6.17, pr350, v6.18, v6.19, v7.0, fixed"),
    ],
)
def test_a_kernel_that_is_not_here_is_answered_with_what_is(name, said):
    """The error names all kernels, and the one that comes closest."""
    with pytest.raises(InputError) as error:
        registry.kernel(name)
    assert said in str(error.value)


def test_what_a_kernel_never_had_is_not_reported():
    """Only what the request adds to the kernel's own gaps is worth a sentence."""
    said = build(EVERY_PART, "v6.19", without=["8ce720d5bd91"]).said
    assert not any("c2ff4764e03e" in sentence for sentence in said)


def test_a_commit_that_is_not_built_says_so():
    """Leaving out a commit that the model only tells of is answered with that."""
    waiting = [p for p in registry.PATCHES if p.state == "registered"]
    for patch in waiting:
        said = build(EVERY_PART, "fixed", without=[patch.hash]).said
        assert any(s.startswith(f"{patch.hash} is registered") for s in said)


def test_unknown_names_are_refused():
    """A wrong kernel or commit is an input error, with what is allowed."""
    with pytest.raises(InputError, match="allowed are"):
        build({}, "v6.16")
    with pytest.raises(InputError, match="allowed is"):
        build({}, without=["nothing"])
