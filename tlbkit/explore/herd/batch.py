"""Many files of litmus tests, of herd7's form and of the package's own, in one go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tlbkit.errors import InputError
from tlbkit.explore.herd.judge import judge_herd
from tlbkit.explore.herd.test import HerdTest, is_herd, load_herd
from tlbkit.explore.herd.values import MissingError
from tlbkit.explore.litmus.doubts import doubts
from tlbkit.explore.litmus.form import LitmusTest, load
from tlbkit.explore.litmus.search import (
    MAX_STATES,
    SearchTooLargeError,
    judge,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

STANDARD_INPUT = "-"
"""The name that stands for standard input."""

MAX_BYTES = 4_000_000
"""The longest file that is read."""


class Trouble(Enum):
    """Why a test has no verdict."""

    NONE = ""
    DAMAGED = "not well formed"
    MISSING = "not had here"
    TOO_LARGE = "too many states"


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of one test.

    Attributes:
        source: The file.
        test: The name of the test; "" if the file could not be read so far.
        ets2: Whether the CPUs had FEAT_ETS2.
        verdict: The verdict, or "".
        expected: What the file or a list of verdicts says, or "".
        states: How many states the search saw.
        witness: An execution that shows the verdict, if one does.
        trouble: Why there is no verdict.
        reason: The same in a sentence.
        doubts: What may be a slip in the test, a sentence each.
    """

    source: str
    test: str
    ets2: bool = False
    verdict: str = ""
    expected: str = ""
    states: int = 0
    witness: tuple[str, ...] | None = None
    trouble: Trouble = Trouble.NONE
    reason: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def disagrees(self) -> bool:
        """Tell whether there is a verdict, and it is not the one that is expected."""
        return bool(self.verdict) and self.expected not in ("", self.verdict)

    def to_json(self) -> dict[str, Any]:
        """Return what came of the test as a JSON object."""
        whole: dict[str, Any] = {
            "name": self.test,
            "file": self.source,
            "ets2": self.ets2,
            "verdict": self.verdict or None,
            "expected": self.expected or None,
            "agrees": None
            if not self.verdict or not self.expected
            else not self.disagrees,
            "witness": None if self.witness is None else list(self.witness),
            "states": self.states,
        }
        if self.reason:
            whole["reason"] = self.reason
        if self.doubts:
            whole["doubts"] = list(self.doubts)
        return whole


def files(names: Iterable[str]) -> Iterator[str]:
    """Yield the files that are meant: a folder stands for its `*.litmus` files.

    Raises:
        InputError: There is no such file, or a folder has none.
    """
    for name in names:
        if name == STANDARD_INPUT or not Path(name).is_dir():
            yield name
            continue
        found = sorted(str(path) for path in Path(name).rglob("*.litmus"))
        if not found:
            raise InputError(f"{name}: there is no file *.litmus in this folder")
        yield from found


def read(name: str, standard_input: IO[bytes]) -> str:
    """Return the text of a file, or of standard input if its name is `-`.

    Raises:
        InputError: It cannot be read, or is no text.
    """
    try:
        if name == STANDARD_INPUT:
            content = standard_input.read(MAX_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name}: {reason}") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{name}: more than {MAX_BYTES:,} bytes: no litmus tests")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{name}: this is not a text file in UTF-8") from None


def judge_text(
    text: str,
    source: str,
    *,
    ets2: bool = False,
    kinds: Mapping[str, str] | None = None,
    limit: int = MAX_STATES,
    tell: Callable[[str], object] = lambda _: None,
) -> Iterator[Judged]:
    """Yield what comes of each test of a file.

    Args:
        text: What the file says, in either form.
        source: Its name.
        ets2: Whether the CPUs have FEAT_ETS2.
        kinds: Verdicts to compare with, by the name of the test.
        limit: The most states of one test.
        tell: Hears the name of each test before it is judged.
    """
    expected = kinds or {}
    tests: list[LitmusTest | HerdTest]
    try:
        tests = [load_herd(text, source)] if is_herd(text) else [*load(text, source)]
    except MissingError as error:
        yield Judged(
            source,
            text.split("\n", 1)[0].removeprefix("AArch64").strip()[:80],
            ets2,
            trouble=Trouble.MISSING,
            reason=str(error),
        )
        return
    except InputError as error:
        yield Judged(source, "", ets2, trouble=Trouble.DAMAGED, reason=str(error))
        return
    for test in tests:
        tell(test.name)
        wanted = expected.get(test.name, "")
        if isinstance(test, LitmusTest):
            wanted = test.expected[ets2] if test.expected else wanted.lower()
        blank = Judged(source, test.name, ets2, expected=wanted)
        if isinstance(test, LitmusTest):
            blank = replace(blank, doubts=tuple(doubts(test)))
        try:
            if isinstance(test, LitmusTest):
                own = judge(test, ets2=ets2, limit=limit)
                verdict, states, witness = str(own), own.states, own.witness
            else:
                found = judge_herd(test, ets2=ets2, limit=limit)
                verdict, states, witness = found.verdict, found.states, found.witness
        except SearchTooLargeError as error:
            yield replace(blank, trouble=Trouble.TOO_LARGE, reason=str(error))
        except MissingError as error:
            yield replace(blank, trouble=Trouble.MISSING, reason=str(error))
        else:
            yield replace(blank, verdict=verdict, states=states, witness=witness)
