"""Laws of the door between the page and Python."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit import lab
from tlbkit.show.bridge import reply
from tlbkit.show.panels import PANELS, feeds
from tlbkit.show.stage.page import content
from tlbkit.show.stage.show import LIVE_PAGES, Stage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def test_a_reply_is_the_scenarios_own_answer():
    """The page gets the text, the rows and the data of the same run."""
    for name in PANELS:
        scenario = lab.find_exploration(name)
        params = {p.name: p.default for p in scenario.parameters}
        answer = scenario.answer(params)
        assert json.loads(reply(json.dumps({"scenario": name, "params": params}))) == {
            "text": answer.text,
            "header": list(answer.header),
            "rows": [list(row) for row in answer.rows],
            "panels": feeds(name, answer.columns),
        }


@given(st.text() | st.fixed_dictionaries({"scenario": JSON, "params": JSON}))
def test_no_request_raises(request_):
    """Whatever arrives, the reply is JSON: an answer, or one sentence."""
    text = request_ if isinstance(request_, str) else json.dumps(request_)
    assert json.loads(reply(text))["error"]


@pytest.mark.parametrize(
    "params", [{"pages": -7}, {"pages": "many"}, {"wheels": 4}], ids=str
)
def test_a_refused_setting_is_a_sentence(params):
    """A value that the scenario refuses comes back in its own words."""
    said = json.loads(reply(json.dumps({"scenario": "mprotect", "params": params})))
    assert (
        str(next(iter(params.values()))) in said["error"] or "wheels" in said["error"]
    )
    assert "bug" not in said["error"]


def test_the_page_needs_only_the_standard_library():
    """The door opens where no package at all is installed."""
    script = (
        "import sys; from tlbkit.show.bridge import reply; print(reply(sys.argv[1]))"
    )
    request = json.dumps({"scenario": "mprotect", "params": {}})
    done = subprocess.run(  # noqa: S603 - this very Python
        [sys.executable, "-S", "-c", script, request],
        cwd=lab.__file__.rsplit("tlbkit", 1)[0],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "error" not in json.loads(done.stdout)


def test_a_stage_is_told_if_one_follows():
    """A page with a live stage gets its films for the setting, and no more pages."""
    request = {"scenario": "unmap", "params": {"pages": 64}, "stage": True}
    told = json.loads(reply(json.dumps(request)))["stage"]
    assert told == json.loads(json.dumps(content(Stage("unmap", pages=8))))
    assert len(told["films"][0]["columns"]) == LIVE_PAGES
