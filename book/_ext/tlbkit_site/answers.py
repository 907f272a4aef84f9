"""The answers that come with the pages: those that one move of a control leads to.

A reader's first move, and each move from where a form stands at first, is answered by
a file, at once; Python in the page answers all others. Both are the same function's
answers. They are kept in the cache until the package changes.
"""

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tlbkit.show.bridge import reply

_FORM = re.compile(
    r'<form class="tlbkit-explorer".*?<script type="application/json">(.*?)</script>',
    re.DOTALL,
)
_STAGE = re.compile(r'<form class="tlbkit-stage"[^>]* data-follows="([^"]+)"')

Setting = tuple[int | str, ...]


def asked(page: str) -> Iterator[tuple[str, tuple[str, ...], Setting]]:
    """Yield what one move leads to: scenario, the parameters' names, their values."""
    for found in _FORM.finditer(page):
        spec = json.loads(found[1])
        names = tuple(parameter["name"] for parameter in spec["parameters"])
        start = tuple(spec["start"])
        yield spec["scenario"], names, start
        for i, parameter in enumerate(spec["parameters"]):
            for choice in parameter["choices"]:
                if choice != start[i]:
                    yield spec["scenario"], names, (*start[:i], choice, *start[i + 1 :])


def followed(page: str) -> set[str]:
    """Return the scenarios whose settings a stage of the page shows, drawn."""
    return set(_STAGE.findall(page))


def key(setting: Setting) -> str:
    """Return what the page calls a setting: its values as JavaScript writes them.

    >>> key((64, "none"))
    '[64,"none"]'
    """
    return json.dumps(setting, separators=(",", ":"), ensure_ascii=False)


def answer(asked: tuple[str, tuple[str, ...], Setting], *, staged: bool) -> Any:
    """Return what Python in the page would reply."""
    scenario, names, setting = asked
    params = dict(zip(names, setting, strict=True))
    request = {"scenario": scenario, "params": params, "stage": staged}
    return json.loads(reply(json.dumps(request)))


def answers(pages: Mapping[str, str], cache: Path) -> dict[str, dict[str, Any]]:
    """Return for each scenario on *pages* its answers by setting.

    Args:
        pages: The HTML of pages, by name.
        cache: The file that keeps the answers of one state of the package.
    """
    questions = sorted({one for page in pages.values() for one in asked(page)}, key=str)
    drawn = set[str]().union(*map(followed, pages.values()))
    known = json.loads(cache.read_text("utf-8")) if cache.exists() else {}
    found: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for staged in (False, True):
            new = [
                question
                for question in questions
                if (question[0] in drawn) == staged
                and key(question[2]) not in known.get(_name(question[0], staged), {})
            ]
            for question, told in zip(
                new, pool.map(partial(answer, staged=staged), new), strict=True
            ):
                kept = known.setdefault(_name(question[0], staged), {})
                kept[key(question[2])] = told
    for scenario, _, setting in questions:
        told = known[_name(scenario, scenario in drawn)][key(setting)]
        found.setdefault(scenario, {})[key(setting)] = told
    for old in cache.parent.glob("answers-*.json"):
        old.unlink()
    cache.write_text(json.dumps(known), "utf-8")
    return found


def _name(scenario: str, staged: bool) -> str:  # noqa: FBT001 - a cache's key
    return f"{scenario} on a stage" if staged else scenario
