"""How a kernel is put together without some of its commits.

A kernel is made of parts, one class for each kernel source file. The parts as they
stand in ``tlbkit.linux`` hold every commit. Each commit brings, for the parts that it
changed, a class with the old bodies. To leave commits out, those classes are laid over
the part, oldest commit first, so that of several old bodies the oldest answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tlbkit.errors import InputError
from tlbkit.patches import registry
from tlbkit.patches.patch import Kind

if TYPE_CHECKING:
    from tlbkit.patches.patch import AsPushed, Patch

Parts = Mapping[str, type[Any]]


@dataclass(frozen=True, slots=True)
class Build:
    """A kernel's parts, and what was left out to get them.

    Attributes:
        parts: Part -> the class to make it from.
        missing: Hashes of the commits that are not in it.
        said: What the caller should be told, one sentence each.
    """

    parts: Parts
    missing: frozenset[str]
    said: tuple[str, ...]


def closure(
    without: Iterable[str], patches: Sequence[Patch] = registry.PATCHES
) -> tuple[frozenset[str], list[str]]:
    """Tell which commits go if the commits *without* go, and why.

    One that changes comments alone takes none along: no code rests on it.

    Args:
        without: Hashes of commits of *patches*, twelve digits each.
        patches: The commits there are, oldest first.

    Returns:
        The hashes of all that go, and one sentence for each that was not named itself,
        oldest first.
    """
    gone = set(without)
    comments = {patch.hash for patch in patches if patch.kind is Kind.COMMENT}
    said = []
    # A commit needs only older ones, so one pass from the oldest finds every dependent.
    for patch in patches:
        lost = [
            (other, why)
            for other, why in patch.needs.items()
            if other in gone and other not in comments
        ]
        if lost and patch.hash not in gone:
            gone.add(patch.hash)
            other, why = lost[0]
            said.append(
                f"without {other}, {patch.hash} goes as well ({patch.subject}): {why}"
            )
    return frozenset(gone), said


def foundation(
    including: Iterable[str], patches: Sequence[Patch] = registry.PATCHES
) -> tuple[frozenset[str], dict[str, str]]:
    """Tell which commits must be there if the commits *including* are, and why.

    Args:
        including: Hashes of commits of *patches*, twelve digits each.
        patches: The commits there are, oldest first.

    Returns:
        The hashes of all that must be there, and a sentence for each that was not
        named itself, by its hash.
    """
    there = set(including)
    comments = {patch.hash for patch in patches if patch.kind is Kind.COMMENT}
    said: dict[str, str] = {}
    # A commit needs only older ones, so one pass from the newest finds all of them.
    for patch in reversed(patches):
        if patch.hash not in there:
            continue
        for other, why in patch.needs.items():
            if other not in there and other not in comments:
                there.add(other)
                said[other] = f"with {patch.hash}, {other} is there as well: {why}"
    return frozenset(there), said


def parts(
    patched: Parts,
    missing: Collection[str],
    *,
    as_pushed: Sequence[AsPushed] = (),
    patches: Sequence[Patch] = registry.PATCHES,
) -> Parts:
    """Make the parts of a kernel that lacks the commits *missing*.

    Args:
        patched: Part -> its class with every commit in it.
        missing: Hashes of the commits to leave out, as :func:`closure` completes them.
        as_pushed: Commits that are there, but in a form of their own. Such a form takes
            the place of its commit's old bodies; if the commit is missing, it is too.
        patches: The commits there are, oldest first.

    Returns:
        The same parts; one that a missing commit changed is a new class, whose bases
        are the classes with the old bodies, oldest first, and then the part. A part
        that nothing changed is the very class that was given.

    Raises:
        InputError: If a commit changes a part that *patched* does not have.
    """
    forms = {form.of: form for form in as_pushed}
    layers: dict[str, dict[type[Any], None]] = {}
    for patch in patches:
        changed: Parts = {}
        if patch.hash in missing:
            changed = patch.reverts
        elif patch.hash in forms:
            changed = forms[patch.hash].replaces
        for name, old in changed.items():
            if name not in patched:
                known = ", ".join(patched)
                raise InputError(
                    f"{patch.hash} changes part {name!r}, which this kernel does not "
                    f"have; it has: {known}"
                )
            layers.setdefault(name, {})[old] = None
    return MappingProxyType(
        {
            name: _layered(part, tuple(layers[name])) if name in layers else part
            for name, part in patched.items()
        }
    )


def build(
    patched: Parts,
    kernel: str = registry.DEFAULT_KERNEL,
    without: Iterable[str] = (),
    including: Iterable[str] = (),
) -> Build:
    """Make the parts of a named kernel, with commits left out or put in if asked.

    Args:
        patched: Part -> its class with every commit in it.
        kernel: A name of :data:`tlbkit.patches.registry.KERNELS`.
        without: Hashes, or unique beginnings of hashes, of commits to leave out.
        including: The same, of commits to put in, as a backport would.

    Returns:
        The parts, and what to tell the caller: each commit that goes only because it
        needs one that goes, or is there because another needs it, and each that makes
        no difference to the model.

    Raises:
        InputError: If the kernel or a commit is unknown, or one is to be left out that
            another needs which is to be there.
    """
    version = registry.kernel(kernel)
    asked = {registry.find(text).hash for text in without}
    wanted, because = foundation(registry.find(text).hash for text in including)
    missing, said = closure((version.missing - wanted) | asked)
    if torn := wanted & missing:
        raise InputError(
            f"{', '.join(sorted(torn))} would have to be there and be left out; "
            "give less of what is to be there, or of what is to go"
        )
    said = [because[one] for one in because if one in version.missing] + said
    said += [
        f"{patch.hash} changes comments alone: the model is the same without it"
        for patch in registry.PATCHES
        if patch.hash in asked and patch.kind is Kind.COMMENT
    ]
    said += [
        f"{patch.hash} is registered, but not built: the model is the same without it"
        for patch in registry.PATCHES
        if patch.hash in missing - version.missing and patch.state == "registered"
    ]
    made = parts(patched, missing, as_pushed=version.as_pushed)
    return Build(made, missing, tuple(said))


def overlaid(parts: Parts, replaces: Parts) -> Parts:
    """Lay new bodies over parts; the parts that nothing replaces are the same."""
    return {
        name: _layered(part, (replaces[name],)) if name in replaces else part
        for name, part in parts.items()
    }


def _layered(part: type[Any], old: tuple[type[Any], ...]) -> type[Any]:
    """Lay old bodies over a part, the first of them on top."""
    return type(
        part.__name__,
        (*old, part),
        {
            "__doc__": part.__doc__,
            "__module__": part.__module__,
            "__qualname__": part.__qualname__,
        },
    )
