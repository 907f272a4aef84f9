"""The book speaks its field's language: no private word where Linux or Arm has one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for page in (ROOT / "book").rglob("*.md")
    if "reference" not in page.relative_to(ROOT).parts
)

UNREVISED: frozenset[str] = frozenset(
    {
        "bad-page-map",
        "files",
        "fork",
        "huge-memory",
        "huge-zero-folio",
        "insert-pmd-pud",
        "moving-and-reclaim",
        "normal-page",
        "rmap",
        "the-gallery",
        "the-rules",
        "you-are-the-scheduler",
    }
)
"""The pages that still await their revision; the list may only shrink."""


class Refused(NamedTuple):
    """A wording that hides the agent, or replaces a term of the field.

    Attributes:
        pattern: What is refused, as a regular expression over a paragraph of prose.
        say: What to write instead.
    """

    pattern: str
    say: str


REFUSED = (
    Refused(r"\bwhoever\b", "name the agent: the caller, CPU 1, the handler"),
    Refused(r"\bsomebody\b", "name the agent: another CPU, another process"),
    Refused(r"\beverybody\b", "name the agents: every CPU, every caller"),
    Refused(r"\bthe lock of (the|its|a) file\b", "i_mmap_rwsem"),
    Refused(r"\bthe lock of (the|its|a) tables?\b", "the page table lock (PTL)"),
    Refused(r"\bthe lock of (the|its|an) areas?\b", "the VMA lock"),
    Refused(r"\bthe lock of the address space\b", "mmap_lock"),
    Refused(r"\b(the|its|their|each|an?) areas?\b", "VMA"),
    Refused(r"\bmark(ed)? (as )?exclusive\b|\bexclusive mark\b", "PageAnonExclusive"),
    Refused(r"\b(page|block) of zeros\b", "the zero page, the huge zero folio"),
    Refused(r"\bcopying on write\b", "copy-on-write"),
    Refused(r"\bflow of (the )?kernel\b", "kernel path"),
    Refused(r"\ba pin(ning)? of pages\b", "GUP pin"),
    Refused(r"(?:^|[.!?] )Who \w+s?\b[^?]*\.(?: |$)", "name the agent, not 'who'"),
)


SAMPLES = (
    "Whoever comes second waits, and somebody else pays for everybody.",
    "The caller takes the lock of the file, then the lock of the table.",
    "It takes the lock of its area, not the lock of the address space.",
    "Only then may the page be marked exclusive.",
    "Reads find the block of zeros, writes begin copying on write.",
    "A flow of the kernel may meet a pin of pages.",
    "It waits. Who takes the entry away drops the count.",
)


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield each paragraph of a page that is prose, with the line where it begins.

    Front matter, code, directives' options and what stands between backticks are not.
    """
    lines = text.split("\n")
    start = lines.index("---", 1) + 1 if lines[0] == "---" else 0
    paragraph: list[str] = []
    first, fence = start, ""
    for number, line in enumerate(lines[start:], start + 1):
        opening = re.match(r"\s*(`{3,}|~{3,})", line)
        if fence:
            if opening and opening[1].startswith(fence) and not line.strip(" `~"):
                fence = ""
            continue
        if opening and not re.match(r"\s*`{3,}\{(glossary|dropdown|admonition)", line):
            fence = opening[1]
            line = ""  # noqa: PLW2901 - a fence ends a paragraph
        if not line.strip() or line.lstrip().startswith((":", "|---")):
            if paragraph:
                yield first, " ".join(paragraph)
            paragraph = []
            continue
        if not paragraph:
            first = number
        paragraph.append(re.sub(r"`[^`]*`", "`code`", line.strip()))
    if paragraph:
        yield first, " ".join(paragraph)


def private_words(page: Path) -> list[str]:
    """Return what a page says in words of its own, with what to say instead."""
    return [
        f"{page.relative_to(ROOT)}:{line}: {found[0]!r}; say: {refused.say}"
        for line, paragraph in prose(page.read_text("utf-8"))
        for refused in REFUSED
        if (found := re.search(refused.pattern, paragraph, re.IGNORECASE))
    ]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.stem not in UNREVISED], ids=lambda p: p.stem
)
def test_no_private_word_stands_for_a_term_of_the_field(page):
    """A reader who knows the kernel finds its words, and every sentence its agent."""
    assert not (wrong := private_words(page)), "\n".join(wrong)


@pytest.mark.parametrize("stem", sorted(UNREVISED))
def test_a_page_that_passes_is_struck_from_the_list(stem):
    """A page is excused only for as long as it has something to mend."""
    [page] = [p for p in PAGES if p.stem == stem]
    assert private_words(page), f"strike {stem!r} from UNREVISED: it passes"


@pytest.mark.parametrize("refused", REFUSED, ids=lambda r: r.say)
def test_what_is_refused_is_found(refused):
    """Each wording of the list is refused where a page uses it."""
    assert any(re.search(refused.pattern, line, re.IGNORECASE) for line in SAMPLES)


def test_code_and_options_are_no_prose():
    """What a reader does not read as a sentence is not judged as one."""
    page = (
        "---\na: somebody\n---\nOne.\n\n```{code-cell}\nsomebody\n```\n`somebody` is."
    )
    assert list(prose(page)) == [(4, "One."), (9, "`code` is.")]
