"""A stage is complete in every rendering, and says what is wrong with a request."""

import json
import re

import pytest

from tlbkit.errors import InputError
from tlbkit.show.explorer import STATIC_PAGE
from tlbkit.show.stage import Stage
from tlbkit.show.stage.page import asset, content, standalone
from tlbkit.show.stage.tests.support import small


def two():
    """One scene on two kernels."""
    return Stage("Two", {v: small(v) for v in ("v6.17", "v6.19")}, lead="Look.", at=3)


def test_the_page_holds_what_the_script_shows(monkeypatch):
    """The JSON at the end is the content; style and script are the page's own."""
    monkeypatch.setenv(STATIC_PAGE, "1")
    made = two()._repr_mimebundle_()["text/html"]
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', made)
    assert json.loads(data) == json.loads(json.dumps(content(two())))
    assert "<style>" not in made


def test_a_notebook_gets_style_and_script_along(monkeypatch):
    """What a kernel returns draws by itself."""
    monkeypatch.delenv(STATIC_PAGE, raising=False)
    made = two()._repr_mimebundle_()
    assert made["text/html"] == standalone(two())
    assert asset("stage.js") in made["text/html"]
    assert made["text/plain"] == two().text()


def test_text_alone_tells_it():
    """A terminal shows title, lead, and what both kernels do."""
    said = repr(two())
    assert said.startswith("Two\nLook.\n\nv6.17: ")
    assert "\nv6.19: " in said
    assert "sends TLBI VALE1IS for page 0, to every CPU" in said


def test_kernels_that_do_the_same_are_one():
    """Where nothing differs there is one picture, with both names."""
    same = Stage("unmap", pages=2)
    assert same.names == ("v6.17 and v6.19",)
    assert len(same.films) == 1
    assert not same.differs


def test_only_one_or_two_are_shown():
    """More recordings than two have no room."""
    with pytest.raises(InputError, match="3 recordings"):
        Stage("Three", dict.fromkeys("abc", small()))
    with pytest.raises(InputError, match="no scenario"):
        Stage("no such")
