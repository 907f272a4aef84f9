"""What a rule is, and what is said when one is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlbkit.errors import TlbkitError

if TYPE_CHECKING:
    from tlbkit.observe.calls import Call

_WIDTH = 72
_INDENT = "  "


@dataclass(frozen=True, slots=True)
class Allowance:
    """A case in which a rule may look broken, and is not.

    Attributes:
        name: In a few words.
        why: What makes it safe.
    """

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that must hold after every step.

    Attributes:
        id: Its name in reports.
        statement: One sentence.
        sources: What demands it: the architecture, or the kernel.
        exceptions: The cases that are allowed.
    """

    id: str
    statement: str
    sources: tuple[str, ...]
    exceptions: tuple[Allowance, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain dictionaries and texts."""
        return {
            "id": self.id,
            "statement": self.statement,
            "sources": list(self.sources),
            "exceptions": [
                {"name": one.name, "why": one.why} for one in self.exceptions
            ],
        }


@dataclass(frozen=True, slots=True)
class Section:
    """One paragraph of a report.

    Attributes:
        title: What it tells, as ``"Filled by CPU 1 at step 12"``.
        lines: The details.
        calls: The functions that were at work then, the innermost first.
    """

    title: str
    lines: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()

    def __str__(self) -> str:
        """Write it as a kernel log does."""
        return "\n".join(
            [
                f"{self.title}:" if self.lines or self.calls else self.title,
                *(_INDENT + line for line in self.lines),
                *(_INDENT + str(call) for call in self.calls),
            ]
        )


@dataclass(frozen=True, slots=True)
class Report:
    """One broken rule: what, where, who.

    Attributes:
        rule: Which.
        headline: What happened, in one line.
        cpu: Who was running when it showed.
        step: The event after which it showed, by its running number.
        sections: Who did what, in the order to read them.
    """

    rule: Rule
    headline: str
    cpu: int
    step: int
    sections: tuple[Section, ...]

    def __str__(self) -> str:
        """Write it in the style of the kernel's own sanitizers."""
        where = next((s.calls[0].function for s in self.sections if s.calls), "user")
        return "\n".join(
            [
                "=" * _WIDTH,
                f"BUG: {self.rule.id} in {where}",
                self.headline,
                *(f"\n{section}" for section in self.sections),
                f"\nRule {self.rule.id}: {self.rule.statement}",
                *(f"{_INDENT}{source}" for source in self.rule.sources),
                "=" * _WIDTH,
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain dictionaries, lists and texts."""
        return {
            "rule": self.rule.id,
            "headline": self.headline,
            "cpu": self.cpu,
            "step": self.step,
            "sections": [
                {
                    "title": section.title,
                    "lines": list(section.lines),
                    "calls": [str(call) for call in section.calls],
                }
                for section in self.sections
            ],
        }


class RuleBrokenError(TlbkitError):
    """A rule of the sanitizer was broken; `report` says how."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"{report.rule.id}: {report.headline}\n{report}")
        self.report = report


def sections(*parts: Section | None) -> tuple[Section, ...]:
    """Return the sections that there are."""
    return tuple(part for part in parts if part is not None)
