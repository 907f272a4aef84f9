"""The book speaks its field's language: words, terms, sentences to read aloud."""

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


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield each paragraph and list item of a page, with the line where it begins.

    Front matter, code and the options of directives are none.
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
        heading = line.startswith("#")
        ends = not line.strip() or bool(re.match(r"\s*(:|\|---|\(\S+\)=$)", line))
        if paragraph and (ends or heading or re.match(r"\s*([-*] |\d+\. )", line)):
            yield first, " ".join(paragraph)
            paragraph = []
        if heading:
            yield number, line
        elif not ends:
            first = first if paragraph else number
            paragraph.append(line.strip())
    if paragraph:
        yield first, " ".join(paragraph)


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of a page; what stands between backticks is one word."""
    for line, paragraph in paragraphs(text):
        yield line, re.sub(r"`[^`]*`", "`code`", paragraph)


def private_words(page: Path) -> list[str]:
    """Return what a page says in words of its own, with what to say instead."""
    return [
        f"{page.relative_to(ROOT)}:{line}: {found[0]!r}; say: {refused.say}"
        for line, paragraph in prose(page.read_text("utf-8"))
        for refused in REFUSED
        if (found := re.search(refused.pattern, paragraph, re.IGNORECASE))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_no_private_word_stands_for_a_term_of_the_field(page):
    """A reader who knows the kernel finds its words, and every sentence its agent."""
    assert not (wrong := private_words(page)), "\n".join(wrong)


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


GLOSSARY = ROOT / "book" / "glossary.md"
LISTS = frozenset({"glossary", "bibliography"})
"""Pages that are looked up and not read: they explain terms and name titles."""

EVERYDAY = frozenset(
    {
        *("block", "broadcast", "descriptor", "event", "fault", "frame", "gather"),
        *("global", "leaf", "level", "mapping", "mm", "pin", "present", "preemption"),
        *("reach", "regime", "slot", "stale", "table", "taint", "unshare", "walk"),
    }
)
"""Terms that are also words of every day, or parts of longer terms and of names."""


def terms() -> list[tuple[str, ...]]:
    """Return the terms of the glossary; those of one entry stand together."""
    entries: list[list[str]] = []
    fresh = True
    inside = False
    for line in GLOSSARY.read_text("utf-8").split("\n"):
        if line.startswith("```"):
            inside = "{glossary}" in line
        elif inside and line and not line.startswith(" "):
            if fresh:
                entries.append([])
            entries[-1].append(line)
            fresh = False
        else:
            fresh = True
    return [tuple(entry) for entry in entries]


def first_use(page: Path, entry: tuple[str, ...]) -> tuple[int, bool] | None:
    """Return the line of a page that first uses a term, and whether it is linked there.

    Headings, code, links and the text of roles use no term.
    """
    words = "|".join(re.escape(word) for word in entry)
    case = re.IGNORECASE if all(word.islower() for word in entry) else 0
    used = re.compile(rf"(?<![\w-])(?:{words})(?:s|es)?(?![\w-])", case)
    longer = [
        w for other in terms() for w in other if w not in entry and used.search(w)
    ]
    for line, paragraph in paragraphs(page.read_text("utf-8")):
        links = re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]*)>?`", paragraph)
        plain = re.sub(r"(\{[\w:]+\})?`[^`]*`|\[[^\]]*\]\([^)]*\)", " ", paragraph)
        if any(link in entry for link in links):
            return line, True
        for term in longer:
            plain = re.sub(re.escape(term), " ", plain, flags=re.IGNORECASE)
        if not paragraph.startswith("#") and used.search(plain):
            return line, False
    return None


def unlinked(page: Path) -> list[str]:
    """Return the terms of the glossary that a page uses before it links them."""
    found = [
        (entry, use)
        for entry in terms()
        if not EVERYDAY & set(entry) and (use := first_use(page, entry))
    ]
    return [
        f"{page.relative_to(ROOT)}:{line}: link {entry[0]!r} with the role 'term'"
        for entry, (line, linked) in found
        if not linked
    ]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.stem not in LISTS], ids=lambda p: p.stem
)
def test_a_term_is_linked_where_a_chapter_first_uses_it(page):
    """A newcomer can look up each term of the glossary the moment they meet it."""
    assert not (missing := unlinked(page)), "\n".join(missing)


def test_everyday_terms_are_in_the_glossary():
    """The list of everyday terms excuses nothing that is no term."""
    assert {word for entry in terms() for word in entry} >= EVERYDAY


class Habit(NamedTuple):
    """A habit of style that makes a sentence harder to read.

    Attributes:
        pattern: What is refused, as a regular expression over a paragraph of prose.
        why: Why.
    """

    pattern: str
    why: str


HABITS = (
    Habit(
        r"\b(?:obviously|of course|clearly|simply|basically|needless to say)\b",
        "what is clear need not be called so, and what is not clear is not made so",
    ),
    Habit(r"\u2014| -- ", "a dash hides how two clauses belong together: say it"),
    Habit(r"\b(the|a|an|of|to|is|in|that) \1\b", "a word stands twice"),
    Habit(r"\bnot just\b", "say what it is"),
)
LONGEST = 48
"""Words in a sentence; what is longer was two thoughts each time we looked."""


def bad_habits(page: Path) -> list[str]:
    """Return the sentences of a page that are hard to read, with the reason."""
    wrong = []
    for line, paragraph in prose(page.read_text("utf-8")):
        where = f"{page.relative_to(ROOT)}:{line}"
        wrong += [
            f"{where}: {found[0]!r}: {habit.why}"
            for habit in HABITS
            if (found := re.search(habit.pattern, paragraph, re.IGNORECASE))
        ]
        if not paragraph.startswith(("|", "*", "#")):
            wrong += [
                f"{where}: {len(words)} words: {' '.join(words[:8])} ..."
                for sentence in re.split(r"(?<=[.!?:;)]) ", paragraph)
                if len(words := sentence.split()) > LONGEST
            ]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_sentences_can_be_read_aloud(page):
    """A sentence carries one thought, and no word that only fills."""
    assert not (wrong := bad_habits(page)), "\n".join(wrong)


@pytest.mark.parametrize(
    "sentence",
    [
        "This is obviously true.",
        "It waits -- and then goes on.",
        "The the lock.",
        "It is not just slow.",
        "word " * (LONGEST + 1),
    ],
)
def test_habits_are_found(sentence, tmp_path, monkeypatch):
    """Each habit is refused where a page has it."""
    page = tmp_path / "page.md"
    page.write_text(sentence, "utf-8")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert bad_habits(page)
