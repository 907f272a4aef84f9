"""What one upstream commit is: the values that the registry holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Kind(StrEnum):
    """What a commit wants to change."""

    PERFORMANCE = "performance"
    FIX = "fix"
    CLEAN_UP = "clean-up"
    RENAME = "rename"
    COMMENT = "comment"


class Role(StrEnum):
    """Why a commit is in the registry."""

    PULL_REQUEST = "pull request"
    """One of the eighteen commits that pull request 350 carries."""

    CLAIMED = "claimed by the pull request"
    """Named in the text of pull request 350, but not among its eighteen commits."""

    LATER_FIX = "later fix"
    """Repairs a commit of the registry, or an earlier repair of one."""

    CONTEXT = "context"
    """Changed a modelled function between two releases; of no series of the book.

    It is here so that the name of a release tells the truth. It needs no chapter.
    """


@dataclass(frozen=True, slots=True)
class Series:
    """Patches that were posted together.

    Attributes:
        name: Short, unique.
        title: What the series is about, in our words.
        cover: The mail that opens it, or how it came instead.
    """

    name: str
    title: str
    cover: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One published number, with everything that has to be said beside it.

    Attributes:
        name: Unique within its commit.
        value: The number, in *unit*.
        unit: For example ``us`` or ``%``.
        what: What was measured, on what, before or after.
        source: The mail or commit that says so.
        qualifier: What stands before the number in the source, if anything.
        kind: ``quoted`` as it stands in the source; ``derived`` from quoted figures.
    """

    name: str
    value: float
    unit: str
    what: str
    source: str
    qualifier: Literal["", "about", "over"] = ""
    kind: Literal["quoted", "derived"] = "quoted"

    def __str__(self) -> str:
        """Give the number as a sentence may say it: ``over 40 %``."""
        return f"{self.qualifier} {self.value:g} {self.unit}".lstrip()


class Verdict(NamedTuple):
    """How a claim fared when it was tried.

    Attributes:
        old: What the old wording claims is the case.
        new: What the new wording claims is.
    """

    old: bool
    new: bool


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Correction:
    """One sentence of a comment that a commit corrects, as something to be tried.

    Attributes:
        place: The kernel function in which the comment stands.
        old: What it claimed, in our words.
        new: What it says now; empty if the sentence is gone.
        tried: Does what the comment speaks of on a fresh kernel, and looks.
    """

    place: str
    old: str
    new: str
    tried: Callable[[], Verdict]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Patch:
    """One upstream commit, and how the model takes it out again.

    Two values are equal only if they are the same object. Mappings are read-only.

    Attributes:
        commit: Upstream commit, all forty digits.
        subject: What it does, one line, in our words.
        series: What it was posted with.
        kind: What it wants to change.
        role: Why it is here.
        author: Who wrote it; empty if that was not read.
        release: First mainline release that holds it, such as ``v6.18``.
        touches: Kernel file -> the functions, types or options that it changes there,
            by the names that they have afterwards.
        chapter: Path of its chapter in this repository; it need not exist before the
            commit is complete. Empty for a commit of role context.
        sources: Commits, mails and records that say all this.
        figures: Numbers that were published with it.
        needs: Hash -> why this commit cannot stand without that one: it changes what
            that one changed, or relies on what that one made true. One that changes
            comments alone is needed for the text only, and is not missed.
        repairs: For a later fix, the hash of the commit whose fault it is.
        note: What a reader has to know before citing the entry.
        reverts: Part -> a class derived directly from that part, with each function
            that this commit changed as it stood just before, and no state of its own.
        corrections: Of a commit that only changes comments, what it corrects.
    """

    commit: str
    subject: str
    series: Series
    kind: Kind
    role: Role
    author: str
    release: str
    touches: Mapping[str, tuple[str, ...]]
    chapter: str
    sources: tuple[str, ...]
    figures: tuple[Figure, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    repairs: str = ""
    note: str = ""
    reverts: Mapping[str, type[Any]] = field(default_factory=dict)
    corrections: tuple[Correction, ...] = ()

    def __post_init__(self) -> None:
        """Make the mappings read-only."""
        for name in ("touches", "needs", "reverts"):
            frozen = MappingProxyType(dict(getattr(self, name)))
            object.__setattr__(self, name, frozen)

    @property
    def hash(self) -> str:
        """The twelve digits by which the kernel's own texts name a commit."""
        return self.commit[:12]

    @property
    def state(self) -> Literal["complete", "registered"]:
        """Whether the model can do without what this commit did, or only tells of it.

        It can be built without the code, or it can try what a comment claims.
        """
        return "complete" if self.reverts or self.corrections else "registered"

    @property
    def files(self) -> tuple[str, ...]:
        """The kernel files that it changes."""
        return tuple(self.touches)

    @property
    def functions(self) -> tuple[str, ...]:
        """The names that it changes, each once, in the order of the files."""
        return tuple(
            dict.fromkeys(name for row in self.touches.values() for name in row)
        )

    def figure(self, name: str) -> Figure:
        """Find a published figure by its name.

        Raises:
            InputError: If the commit has no figure of that name.
        """
        for figure in self.figures:
            if figure.name == name:
                return figure
        known = ", ".join(figure.name for figure in self.figures) or "none"
        raise InputError(f"{self.hash} has no figure {name!r}; it has: {known}")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AsPushed:
    """How one commit of a backport differs from the upstream commit it brings.

    Attributes:
        of: Hash of the upstream commit.
        backport: The commit of the backport, all forty digits.
        subject: What differs, one line.
        touches: Kernel file -> functions whose bodies differ.
        effects: What follows from it, one sentence each.
        sources: Where both sides were read.
        replaces: Part -> a class derived directly from that part, with the bodies as
            the backport has them.
    """

    of: str
    backport: str
    subject: str
    touches: Mapping[str, tuple[str, ...]]
    effects: tuple[str, ...]
    sources: tuple[str, ...]
    replaces: Mapping[str, type[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the mappings read-only."""
        for name in ("touches", "replaces"):
            frozen = MappingProxyType(dict(getattr(self, name)))
            object.__setattr__(self, name, frozen)

    @property
    def state(self) -> Literal["complete", "registered"]:
        """Whether the model can be built with the difference, or only tells of it."""
        return "complete" if self.replaces else "registered"
