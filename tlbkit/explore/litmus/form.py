"""The two written forms of a litmus test, text and JSON, read and written.

The docstring of the package describes the forms.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.ordering import (
    CompareAndSwap,
    Data,
    Entry,
    Hardware,
    Load,
    Program,
    Swap,
    entry_from_words,
    named_page,
)
from tlbkit.errors import InputError
from tlbkit.explore.litmus.conditions import (
    FAULTS,
    Condition,
    Equal,
    Faulted,
    Frame,
    Register,
    TableWord,
    atoms,
    condition_text,
    parse_condition,
)
from tlbkit.explore.litmus.steps import NAME, NUMBER, parse_step, step_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tlbkit.arm64.ordering import Instruction

VERDICTS = ("allowed", "forbidden")

RESERVED = frozenset(
    {
        *("all", "invalid", "pte", "frame", "fault", "not", "and", "or"),
        *("LD", "LDAR", "STLR", "SWAP", "CAS", "DMB", "DSB", "ISB", "TLBI", "BRANCH"),
        *FAULTS,
    }
)
"""Words of the forms, which name no page, frame or entry."""


@dataclass(frozen=True, slots=True)
class LitmusTest:
    """A program, and a question about how its executions can end.

    Attributes:
        name: One word.
        program: What is run.
        condition: The outcome asked about.
        entries: (name, entry) for the table words that the steps name.
        about: A line for people.
        expected: The verdicts without and with FEAT_ETS2, if the file states them.
    """

    name: str
    program: Program
    condition: Condition
    entries: tuple[tuple[str, Entry], ...] = ()
    about: str = ""
    expected: tuple[str, str] | None = None

    def __str__(self) -> str:
        """Write the test in the text form."""
        return _text(self)


def load(text: str, source: str = "litmus") -> list[LitmusTest]:
    """Read every test of a file in the text form or in the JSON form.

    Args:
        text: What the file says; JSON if it starts with a bracket or a brace.
        source: The name of the file, for messages.

    Raises:
        InputError: The text is not well formed; the message says where and what.
    """
    try:
        if text.lstrip()[:1] in ("[", "{"):
            tests = _load_json(text, source)
        else:
            tests = _load_text(text, source)
    except InputError as error:
        raise InputError(_short(str(error))) from error
    names = [test.name for test in tests]
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(
                _short(f"{source}: two tests are called {name!r}; rename one")
            )
    if not tests:
        raise InputError(
            f"{source}: there is no test in it; one starts with 'test NAME'"
        )
    return tests


MAX_MESSAGE = 500
"""The longest message about a file: what is wrong is said, not all that is there."""


def _short(message: str) -> str:
    if len(message) <= MAX_MESSAGE:
        return message
    half = MAX_MESSAGE // 2 - 3
    return f"{message[:half]} [...] {message[-half:]}"


def to_json(test: LitmusTest) -> dict[str, Any]:
    """Return the test as an object of the JSON form."""
    program = test.program
    names = _names(test)
    whole: dict[str, Any] = {"name": test.name}
    if test.about:
        whole["about"] = test.about
    whole["hardware"] = program.hardware.value
    whole["frames"] = dict(program.frames)
    whole["pages"] = {page: str(entry) for page, entry in program.tables}
    whole["entries"] = {name: str(entry) for name, entry in test.entries}
    whole["threads"] = {
        f"P{number}": [step_text(step, names) for step in thread]
        for number, thread in enumerate(program.threads)
    }
    whole["exists"] = condition_text(test.condition, names)
    if test.expected:
        whole["expect"] = list(test.expected)
    return whole


def _text(test: LitmusTest) -> str:
    program = test.program
    names = _names(test)
    lines = [f"test {test.name}"]
    lines += [f"  about {test.about}"] if test.about else []
    lines += [f"  hardware {program.hardware.value}"]
    lines += [f"  frame {name} = {value}" for name, value in program.frames]
    lines += [f"  page {name} = {entry}" for name, entry in program.tables]
    lines += [f"  entry {name} = {entry}" for name, entry in test.entries]
    for number, thread in enumerate(program.threads):
        steps = "; ".join(step_text(step, names) for step in thread)
        lines.append(f"  P{number}: {steps}".rstrip())
    lines.append(f"  exists {condition_text(test.condition, names)}")
    lines += [f"  expect {' '.join(test.expected)}"] if test.expected else []
    return "\n".join(lines) + "\n"


def _names(test: LitmusTest) -> dict[Entry, str]:
    """Return the name of each entry; the first, where one entry has several."""
    return {entry: name for name, entry in reversed(test.entries)}


# A test from its parts ------------------------------------------------------


@dataclass
class _Draft:
    """The parts of one test as they are read; `test` puts them together."""

    name: str
    about: str = ""
    hardware: str = Hardware.NONE.value
    frames: dict[str, int] = field(default_factory=dict)
    pages: dict[str, Entry] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    threads: list[list[Instruction]] = field(default_factory=list)
    condition: Condition | None = None
    expected: tuple[str, str] | None = None

    said: set[str] = field(default_factory=set)

    def once(self, keyword: str) -> None:
        """Refuse what a test may say once, if it says it again."""
        if keyword in self.said:
            raise InputError(f"{keyword!r} is said a second time in this test")
        self.said.add(keyword)

    def define(self, kind: str, name: str, value: str) -> None:
        """Take a frame, a page or an entry."""
        if not re.fullmatch(NAME, name) or name in RESERVED:
            raise InputError(f"{kind} {name!r}: take another name, a plain word")
        if kind == "frame":
            if name in self.frames:
                raise InputError(f"frame {name!r} is there already")
            if not re.fullmatch(NUMBER, value):
                raise InputError(f"frame {name!r}: {value!r} is no number")
            self.frames[name] = int(value)
            return
        entries = self.pages if kind == "page" else self.entries
        if name in entries:
            raise InputError(f"{kind} {name!r} is there already")
        entries[name] = entry_from_words(value)

    def thread(self, label: str) -> list[Instruction]:
        """Return the steps of a thread, a new one if it is the next."""
        number = int(label.removeprefix("P"))
        if number == len(self.threads):
            self.threads.append([])
        if number >= len(self.threads):
            raise InputError(f"thread {label}: threads are P0, P1, P2, in this order")
        return self.threads[number]

    def expect(self, words: list[str]) -> None:
        """Take the verdicts without and with ETS2."""
        if len(words) != 2 or not set(words) <= set(VERDICTS):
            raise InputError(
                f"expect {' '.join(words)!r}: two of 'allowed' and 'forbidden', "
                "without and with ETS2"
            )
        self.expected = words[0], words[1]

    def test(self) -> LitmusTest:
        """Check the whole and return it."""
        if not re.fullmatch(r"[^\s#]+", self.name):
            raise InputError("a test's name is one word, without '#'")
        if "#" in self.about:
            raise InputError("about: '#' starts a comment; leave it out")
        if self.condition is None:
            raise InputError("it asks nothing: add an 'exists' line")
        if self.hardware not in [hardware.value for hardware in Hardware]:
            raise InputError(f"hardware {self.hardware!r} is none of none, af, dirty")
        self._fill_in()
        program = Program(
            tuple(tuple(steps) for steps in self.threads),
            tuple(self.pages.items()),
            tuple(self.frames.items()),
            Hardware(self.hardware),
        )
        self._check(self.condition)
        return LitmusTest(
            self.name,
            program,
            self.condition,
            tuple(self.entries.items()),
            self.about,
            self.expected,
        )

    def _fill_in(self) -> None:
        """Add the pages and frames that are used but were left to the default."""
        for steps in self.threads:
            for step in steps:
                page = named_page(step)
                if page in RESERVED:
                    raise InputError(
                        f"page {page!r}: the word means something else; take another"
                    )
                if page and page not in self.pages:
                    self.pages[page] = Entry(valid=True, frame=page)
        for entry in (*self.pages.values(), *self.entries.values()):
            if entry.valid:
                self.frames.setdefault(entry.frame, 0)

    def _check(self, condition: Condition) -> None:
        """Check that what the condition speaks of is there."""
        reads = [
            {
                step.register: isinstance(step.target, Data)
                for step in steps
                if isinstance(step, Load | Swap | CompareAndSwap)
            }
            for steps in self.threads
        ]
        for atom in atoms(condition):
            place = atom.place if isinstance(atom, Equal) else atom
            if isinstance(place, Register | Faulted) and place.thread >= len(reads):
                raise InputError(f"condition: there is no thread P{place.thread}")
            match place:
                case Register(thread, name) if name not in reads[thread]:
                    raise InputError(f"condition: P{thread} has no register {name!r}")
                case Frame(name) if name not in self.frames:
                    raise InputError(f"condition: there is no frame {name!r}")
                case TableWord(page) | Faulted(page=str(page)) if (
                    page not in self.pages
                ):
                    raise InputError(f"condition: there is no page {page!r}")
            match atom:
                case Equal(Register(thread, name), value) if value != 0 and reads[
                    thread
                ][name] != isinstance(value, int):
                    what = "data" if reads[thread][name] else "a pte"
                    raise InputError(
                        f"condition: P{thread}.{name} is read from {what}; "
                        "data is a number, a pte an entry"
                    )


# The text form --------------------------------------------------------------


def _load_text(text: str, source: str) -> list[LitmusTest]:
    tests = []
    for start, name, lines in _blocks(text, source):
        draft = _Draft(name)
        for number, line in lines:
            try:
                _take_line(draft, line)
            except InputError as error:
                raise InputError(f"{source}:{number}: {error}") from error
        try:
            tests.append(draft.test())
        except InputError as error:
            raise InputError(f"{source}:{start}: test {name!r}: {error}") from error
    return tests


def _blocks(text: str, source: str) -> list[tuple[int, str, list[tuple[int, str]]]]:
    """Cut a file into tests: the first line's number, the name, the other lines."""
    blocks: list[tuple[int, str, list[tuple[int, str]]]] = []
    for number, whole in enumerate(text.splitlines(), 1):
        line = whole.split("#", 1)[0].strip()
        keyword, _, rest = line.partition(" ")
        if keyword == "test":
            blocks.append((number, rest.strip(), []))
        elif line and not blocks:
            raise InputError(f"{source}:{number}: {line!r}: a test starts 'test NAME'")
        elif line:
            blocks[-1][2].append((number, line))
    return blocks


def _take_line(draft: _Draft, line: str) -> None:
    """Read one line of the text form into the test being read."""
    if match := re.fullmatch(r"(P\d+)\s*:(.*)", line):
        steps = draft.thread(match[1])
        parts = [part.strip() for part in match[2].split(";")]
        for part in parts:
            if part:
                steps.append(parse_step(part, draft.entries))
            elif len(parts) > 1:
                raise InputError(f"{match[1]}: there is an empty step between two ';'")
        return
    keyword, _, rest = line.partition(" ")
    rest = rest.strip()
    if keyword in ("about", "hardware", "exists", "expect"):
        draft.once(keyword)
    match keyword:
        case "about":
            draft.about = rest
        case "hardware":
            draft.hardware = rest
        case "frame" | "page" | "entry":
            name, equals, value = rest.partition("=")
            if not equals:
                raise InputError(f"{line!r}: write '{keyword} NAME = ...'")
            draft.define(keyword, name.strip(), value.strip())
        case "exists":
            draft.condition = parse_condition(rest, draft.entries)
        case "expect":
            draft.expect(rest.split())
        case _:
            raise InputError(
                f"{keyword!r} is none of test, about, hardware, frame, page, entry, "
                "P0:, P1:, P2:, exists, expect"
            )


# The JSON form --------------------------------------------------------------


def _load_json(text: str, source: str) -> list[LitmusTest]:
    try:
        json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        raise InputError(f"{source}:{error.lineno}: not JSON: {error.msg}") from error
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: JSON too large to read: {error}") from error
    tests = []
    for number, item in _json_items(text):
        try:
            tests.append(_from_json(item))
        except InputError as error:
            raise InputError(f"{source}:{number}: {error}") from error
    return tests


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, whose keys must differ."""
    whole = dict(pairs)
    if len(whole) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"key {twice!r} stands twice in one object")
    return whole


def _json_items(text: str) -> Iterator[tuple[int, Any]]:
    """Yield each test of well-formed JSON, a list or one test, and its line number."""
    decoder = json.JSONDecoder()
    at = len(text) - len(text.lstrip())
    at += text[at] == "["
    while match := re.compile(r"[\s,]*(?=\{|[^\]\s,])").match(text, at):
        item, end = decoder.raw_decode(text, match.end())
        yield text.count("\n", 0, match.end()) + 1, item
        at = end


_KEYS = (
    "name",
    "about",
    "hardware",
    "frames",
    "pages",
    "entries",
    "threads",
    "exists",
    "expect",
)


def _from_json(item: Any) -> LitmusTest:
    whole = _typed(item, dict, "a test")
    for key in whole:
        if key not in _KEYS:
            raise InputError(f"key {key!r} is none of {', '.join(_KEYS)}")
    draft = _Draft(_typed(whole.get("name"), str, "name"))
    draft.about = " ".join(_typed(whole.get("about", ""), str, "about").split())
    draft.hardware = _typed(whole.get("hardware", "none"), str, "hardware")
    for kind, key in (("frame", "frames"), ("page", "pages"), ("entry", "entries")):
        wanted = int if kind == "frame" else str
        for word, value in _typed(whole.get(key, {}), dict, key).items():
            draft.define(kind, word, str(_typed(value, wanted, f"{key}.{word}")))
    for label, steps in _typed(whole.get("threads"), dict, "threads").items():
        if not re.fullmatch(r"P\d+", label):
            raise InputError(f"threads: {label!r} is none of P0, P1, P2")
        thread = draft.thread(label)
        for index, step in enumerate(_typed(steps, list, f"threads.{label}")):
            words = _typed(step, str, f"threads.{label}[{index}]")
            thread.append(parse_step(words, draft.entries))
    condition = _typed(whole.get("exists"), str, "exists")
    draft.condition = parse_condition(condition, draft.entries)
    if "expect" in whole:
        draft.expect(list(map(str, _typed(whole["expect"], list, "expect"))))
    return draft.test()


def _typed(value: Any, kind: type, what: str) -> Any:
    """Return a JSON value of the kind wanted, or say what is wrong with it."""
    if not isinstance(value, kind) or isinstance(value, bool):
        words = {dict: "an object", list: "an array", str: "a string", int: "a number"}
        raise InputError(f"{what}: {words[kind]} is wanted, not {json.dumps(value)}")
    return value


def dump_text(tests: Iterable[LitmusTest]) -> str:
    """Write tests as a file in the text form; `load` reads them back."""
    return "\n".join(str(test) for test in tests)


def dump_json(tests: Iterable[LitmusTest]) -> str:
    """Write tests as a file in the JSON form; `load` reads them back."""
    return json.dumps([to_json(test) for test in tests], indent=1) + "\n"
