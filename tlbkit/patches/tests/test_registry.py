"""The registry: complete, consistent, and honest about what is not built yet."""

import json
import pkgutil
import re
from dataclasses import FrozenInstanceError
from importlib import import_module
from itertools import combinations, pairwise
from pathlib import Path
from types import MappingProxyType

import pytest

import tlbkit.patches
from tlbkit.errors import InputError
from tlbkit.patches import registry
from tlbkit.patches.build import closure
from tlbkit.patches.patch import AsPushed, Kind, Patch, Role

REPOSITORY = Path(__file__).parents[3]

PULL_REQUEST = frozenset(
    {
        "50944692052b",
        "878d9e8cebbb",
        "b7298e418e29",
        "77e493280e92",
        "5528ef06da01",
        "b0f86aaebed1",
        "d82d09e48219",
        "30680d5ef0dc",
        "b22cc9a9c7ff",
        "ec63a44011dc",
        "af38538801c6",
        "2db308160b5a",
        "4c89792ea0a2",
        "c320dbb7c80d",
        "ca1a47cd3f5f",
        "3937027caecb",
        "a8682d500f69",
        "8ce720d5bd91",
    }
)
WRITE_FAULT = frozenset({"79301c7d605a", "cb1fa2e99955"})
MERGED_BY_V6_19 = frozenset({"adfb6609c680", "5bebe8de1926"})

NOT_BUILT = 0
"""How many commits are registered only. Building one demands that this goes down."""

VARIANTS_NOT_BUILT = 0
"""The same for the forms in which a backport pushed a commit."""


def every_patch():
    """Run a test once for each commit, named by its hash."""
    return pytest.mark.parametrize("patch", registry.PATCHES, ids=lambda p: p.hash)


def modules():
    """Import every module of the folder that can hold a commit."""
    path = tlbkit.patches.__path__
    names = (info.name for info in pkgutil.iter_modules(path) if info.name != "tests")
    return [import_module(f"tlbkit.patches.{name}") for name in names]


def needed_by(patch: Patch) -> set[str]:
    """Collect all that a commit needs, directly or not."""
    hashes = set(patch.needs)
    for other in patch.needs:
        hashes |= needed_by(registry.find(other))
    return hashes


def test_the_twenty_are_there_once():
    """Each commit of the pull request and of its claimed series has one entry."""
    roles = {
        role: [p.hash for p in registry.PATCHES if p.role is role] for role in Role
    }
    assert sorted(roles[Role.PULL_REQUEST]) == sorted(PULL_REQUEST)
    assert sorted(roles[Role.CLAIMED]) == sorted(WRITE_FAULT)


def test_every_module_is_listed():
    """A module that holds a commit is in the registry, and the other way round."""
    held = [module.PATCH for module in modules() if hasattr(module, "PATCH")]
    assert sorted(p.hash for p in held) == sorted(p.hash for p in registry.PATCHES)


def test_every_variant_is_used():
    """A form pushed by a backport belongs to a named kernel that holds its commit."""
    held = {module.VARIANT for module in modules() if hasattr(module, "VARIANT")}
    used = {form for k in registry.KERNELS.values() for form in k.as_pushed}
    assert held == used
    for version in registry.KERNELS.values():
        assert {form.of for form in version.as_pushed} <= version.patches


@every_patch()
def test_nothing_is_left_empty(patch):
    """A reader of an entry finds what it is, where it acts and who says so."""
    assert re.fullmatch(r"[0-9a-f]{40}", patch.commit)
    assert re.fullmatch(r"v\d\.\d+", patch.release)
    assert patch.subject
    assert len(patch.subject) <= 80
    assert not patch.subject.endswith(".")
    assert patch.series.name
    assert patch.series.title
    assert patch.files
    assert all(patch.touches.values())
    assert any(patch.hash in source for source in patch.sources)
    assert patch.author or "not read" in patch.note


@every_patch()
def test_figures_are_quoted_with_their_source(patch):
    """A published number has a name of its own, a unit, a meaning and a source."""
    assert len({figure.name for figure in patch.figures}) == len(patch.figures)
    for figure in patch.figures:
        assert figure.unit
        assert figure.what
        assert figure.source
        assert patch.figure(figure.name) is figure


@every_patch()
def test_chapter_is_a_path_that_exists_once_the_commit_is_complete(patch):
    """A complete commit has its chapter; a registered one at least a place for it.

    What stands there only as context has none.
    """
    if patch.role is Role.CONTEXT:
        assert not patch.chapter
        return
    assert re.fullmatch(r"book/commits/[a-z0-9-]+\.md", patch.chapter)
    assert patch.state == "registered" or (REPOSITORY / patch.chapter).is_file()


@every_patch()
def test_each_corrected_sentence_fails_in_its_old_words(patch):
    """Tried on a fresh kernel, what a comment claimed fails, and what it says holds."""
    assert bool(patch.corrections) == (patch.kind is Kind.COMMENT)
    for claim in patch.corrections:
        assert claim.place in patch.functions
        assert claim.old
        verdict = claim.tried()
        assert not verdict.old, claim.old
        assert verdict.new, claim.new


@every_patch()
def test_a_commit_needs_only_older_ones(patch):
    """What a commit stands on was merged before it, and each reason is given."""
    order = [p.hash for p in registry.PATCHES]
    older = order[: order.index(patch.hash)]
    assert set(patch.needs) <= set(older)
    assert all(patch.needs.values())


@every_patch()
def test_a_later_fix_names_what_it_repairs(patch):
    """Exactly the later fixes repair a commit, and that one was merged before."""
    assert bool(patch.repairs) == (patch.role is Role.LATER_FIX)
    if patch.repairs:
        order = [p.hash for p in registry.PATCHES]
        assert order.index(patch.repairs) < order.index(patch.hash)


def test_who_changes_the_same_name_depends_on_the_older():
    """Two commits that change one name of one file cannot be taken out in any order."""
    for older, newer in combinations(registry.PATCHES, 2):
        shared = {
            (file, name)
            for file in set(older.files) & set(newer.files)
            for name in set(older.touches[file]) & set(newer.touches[file])
        }
        assert not shared or older.hash in needed_by(newer), (
            f"{newer.hash} and {older.hash} both change {shared}"
        )


def test_old_bodies_belong_to_one_commit_or_to_a_chain():
    """Of two commits that bring an old body of one function, the newer needs the older.

    Otherwise, with the older alone taken out, its old body would hide what the newer
    one changed.
    """
    for older, newer in combinations(registry.PATCHES, 2):
        for part in set(older.reverts) & set(newer.reverts):
            shared = bodies(older.reverts[part]) & bodies(newer.reverts[part])
            assert not shared or older.hash in needed_by(newer), (
                f"{newer.hash} and {older.hash} both bring {shared} of {part}"
            )


@every_patch()
def test_old_bodies_lie_directly_on_their_part(patch):
    """A class with old bodies has its part as only base, and no state of its own."""
    for part, revert in patch.reverts.items():
        assert len(revert.__bases__) == 1
        assert bodies(revert)
        assert "__init__" not in vars(revert)
        for other in registry.PATCHES:
            if part in other.reverts:
                assert other.reverts[part].__bases__ == revert.__bases__


def bodies(revert: type) -> set[str]:
    """Name what a class with old bodies defines itself."""
    return {name for name in vars(revert) if not name.startswith("__")}


def test_releases_never_go_back():
    """The order of the registry is that of mainline."""
    releases = [tuple(map(int, p.release[1:].split("."))) for p in registry.PATCHES]
    assert releases == sorted(releases)


def test_twelve_digits_tell_all_apart():
    """No two commits share the digits by which they are named."""
    assert len({p.hash for p in registry.PATCHES}) == len(registry.PATCHES)


def test_the_number_of_commits_not_built_only_falls():
    """Whoever builds a commit lowers the number; nobody may raise it by unbuilding."""
    waiting = [p.hash for p in registry.PATCHES if p.state == "registered"]
    assert len(waiting) == NOT_BUILT, f"write {len(waiting)} here: {waiting}"


def test_the_number_of_variants_not_built_only_falls():
    """Whoever builds the form that a backport pushed lowers the number."""
    forms = {form for k in registry.KERNELS.values() for form in k.as_pushed}
    waiting = [form.of for form in forms if form.state == "registered"]
    assert len(waiting) == VARIANTS_NOT_BUILT, f"write {len(waiting)} here: {waiting}"


def test_named_kernels_hold_what_their_names_say():
    """v6.17 has none, pr350 its own, a release what mainline had then.

    "fixed" is v6.19 with every later fix, whenever that was merged.
    """
    kernels = registry.KERNELS
    assert list(kernels) == ["v6.17", "pr350", "v6.18", "v6.19", "v7.0", "fixed"]
    assert kernels["v6.17"].patches == frozenset()
    assert kernels["pr350"].patches == PULL_REQUEST
    releases = [kernels[name].patches for name in ("v6.18", "v6.19", "v7.0")]
    assert releases == sorted(releases, key=len)
    for older, newer in pairwise(releases):
        assert older < newer
    told = {p.hash for p in registry.PATCHES if p.role is not Role.CONTEXT}
    assert releases[1] & told == PULL_REQUEST | WRITE_FAULT | MERGED_BY_V6_19
    later = {p.hash for p in registry.PATCHES if p.role is Role.LATER_FIX}
    assert kernels["fixed"].patches == releases[1] | later
    assert registry.DEFAULT_KERNEL == "v6.19"


def test_without_names_every_commit_some_kernel_holds():
    """Each commit is in a named kernel, so that each can be seen at work."""
    held = frozenset[str]().union(*(k.patches for k in registry.KERNELS.values()))
    assert held == {p.hash for p in registry.PATCHES}


@pytest.mark.parametrize("version", registry.KERNELS.values(), ids=lambda k: k.name)
def test_a_named_kernel_stands_by_itself(version):
    """Nothing in a named kernel needs a commit that it lacks."""
    assert closure(version.missing) == (version.missing, [])


@every_patch()
def test_a_commit_is_found_by_every_beginning_that_is_its_own(patch):
    """A prefix finds the commit if, and only if, no other commit begins so."""
    for length in range(1, 41):
        prefix = patch.commit[:length]
        others = [p for p in registry.PATCHES if p.commit.startswith(prefix)]
        if others == [patch]:
            assert registry.find(prefix.upper()) is patch
        else:
            with pytest.raises(InputError, match="ambiguous.*" + patch.hash):
                registry.find(prefix)


@pytest.mark.parametrize("text", ["", " ", "a8682d5f00f69", "v6.19", "0" * 12])
def test_an_unknown_commit_is_told_what_is_allowed(text):
    """What names no commit is answered with those that there are, on one line."""
    with pytest.raises(InputError) as caught:
        registry.find(text)
    assert "c320dbb7c80d" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_kernel_is_told_what_is_allowed():
    """What names no kernel is answered with those that there are."""
    with pytest.raises(
        InputError, match=r"v6\.17, pr350, v6\.18, v6\.19, v7\.0, fixed"
    ):
        registry.kernel("v6.16")


def test_an_unknown_figure_is_told_what_is_allowed():
    """What names no figure is answered with those that the commit has, if any."""
    with pytest.raises(InputError, match=r"'median'.*before, after"):
        registry.find("c320dbb7c80d").figure("median")
    with pytest.raises(InputError, match="none"):
        registry.find("30680d5ef0dc").figure("before")


def test_figures_keep_their_qualifiers():
    """A number that was published as a bound or roughly is never given as exact."""
    move = registry.find("50944692052b")
    assert str(move.figure("flush share before")) == "over 40 %"
    assert str(move.figure("lookup share before")) == "about 20 %"
    assert str(registry.find("c320dbb7c80d").figure("after")) == "2.85 us"


def test_the_published_improvement_is_a_ratio():
    """12.3 % is 3.2 us over 2.85 us; of the time itself 10.9 % were saved."""
    figure = registry.find("c320dbb7c80d").figure
    before, after = figure("before").value, figure("after").value
    assert figure("improvement").value == round((before / after - 1) * 100, 1)
    assert figure("time saved").value == round((1 - after / before) * 100, 1)


def test_json_form_says_all_and_nothing_else():
    """The plain form survives JSON, in order, with all that the command line prints."""
    rows = registry.as_json()
    assert json.loads(json.dumps(rows)) == rows
    assert [row["hash"] for row in rows] == [p.hash for p in registry.PATCHES]
    for row in rows:
        assert row["state"] in {"complete", "registered"}
        assert row["kind"] in {"performance", "fix", "clean-up", "rename", "comment"}
        assert {"subject", "series", "chapter"} <= row.keys()
        assert row["kernels"]


def test_a_value_cannot_be_changed():
    """Entries are shared by everyone, so their mappings are read-only."""
    patch = registry.PATCHES[0]
    for mapping in (patch.touches, patch.needs, patch.reverts):
        assert isinstance(mapping, MappingProxyType)
    with pytest.raises(FrozenInstanceError):
        setattr(patch, "subject", "other")  # noqa: B010 - the point is that it fails


def test_a_backport_differs_only_where_its_commit_acts():
    """What a backport pushed differently lies within what the commit touches."""
    for version in registry.KERNELS.values():
        for form in version.as_pushed:
            assert isinstance(form, AsPushed)
            touches = registry.find(form.of).touches
            for file, names in form.touches.items():
                assert set(names) <= set(touches[file])
            assert form.effects
            assert form.sources
