"""Laws of the explorer: one scenario, three renderings, one answer."""

import json
import re
from html import unescape
from typing import Any, cast

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from tlbkit import lab
from tlbkit.errors import InputError
from tlbkit.show import Explorer
from tlbkit.show.explorer import STATIC_PAGE
from tlbkit.show.panels import PANELS, Fields, Written, feeds
from tlbkit.show.text import table

MPROTECT = lab.find_exploration("mprotect")


@st.composite
def starts(draw):
    """A scenario's name with settings that it allows, one by one and together."""
    name = draw(st.sampled_from(sorted(PANELS)))
    chosen = {
        parameter.name: draw(st.sampled_from(parameter.choices or [parameter.default]))
        for parameter in lab.find_exploration(name).controls
    }
    try:
        lab.find_exploration(name).asked(chosen)
    except InputError:
        reject()
    return name, chosen


def page(explorer):
    """Return an explorer's HTML."""
    from tlbkit.show.page import html  # noqa: PLC0415 - Bokeh only where it is drawn

    return html(explorer)


def cells(html):
    """Return the rows of a table as its reader sees them."""
    body = html.partition("<tbody>")[2].partition("</tbody>")[0]
    return [
        [unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", body)
    ]


@given(starts())
@settings(max_examples=20, deadline=None)
def test_text_and_page_show_the_same_answer(start):
    """For any settings both renderings hold the scenario's rows and its reading."""
    name, chosen = start
    explorer = Explorer(name, **chosen)
    answer = lab.find_exploration(name).asked(chosen)
    shown = page(explorer)
    assert table(answer.header, answer.rows) in repr(explorer)
    assert answer.text in repr(explorer)
    assert cells(shown) == [list(row) for row in answer.rows]
    assert answer.text in unescape(shown)


def figures(html):
    """Return the data of every source that a page's figures start from."""
    spec = json.loads(
        html.partition('<script type="application/json">')[2].partition("</script>")[0]
    )
    found = []

    def look(node, here):
        if isinstance(node, dict):
            if node.get("name") == "ColumnDataSource":
                attributes = node["attributes"]
                data = dict(attributes["data"]["entries"])
                here[attributes["name"]] = data
            for below in node.values():
                look(below, here)
        elif isinstance(node, list):
            for below in node:
                look(below, here)

    for item in filter(None, spec["figures"]):
        here: dict[str, object] = {}
        look(item, here)
        found.append(here)
    return found


def test_figures_start_from_the_feeds():
    """What the build draws is what the page would draw for the same settings."""
    for name in PANELS:
        explorer = Explorer(name)
        wanted = feeds(name, lab.find_exploration(name).answer({}).columns)
        drawn = [
            feed
            for panel, feed in zip(PANELS[name], wanted, strict=True)
            if not isinstance(panel, Written)
        ]
        assert figures(page(explorer)) == drawn


def test_the_page_says_every_choice():
    """Each control of the page offers exactly what its parameter allows."""
    spec = json.loads(
        page(Explorer("mprotect"))
        .partition('<script type="application/json">')[2]
        .partition("</script>")[0]
    )
    assert [(p["name"], tuple(p["choices"])) for p in spec["parameters"]] == [
        (p.name, tuple(p.choices)) for p in MPROTECT.controls
    ]


def test_words_of_a_scenario_cannot_break_the_page():
    """Whatever a title holds, it is text and never markup."""

    class Sly:
        name = "mprotect"
        title = "</script><b>&"
        controls = MPROTECT.controls

        def asked(self, params):
            return MPROTECT.asked(params)

    shown = page(Explorer(cast("Any", Sly())))
    assert shown.count("<script") == shown.count("</script>") == 1
    assert "<b>" not in shown


def test_the_environment_chooses_the_rendering(monkeypatch):
    """The site build gets a page, a kernel gets a widget, both get the text."""
    explorer = Explorer("mprotect")
    monkeypatch.delenv(STATIC_PAGE, raising=False)
    live = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in live
    monkeypatch.setenv(STATIC_PAGE, "1")
    static = explorer._repr_mimebundle_()
    assert set(static) == {"text/plain", "text/html"}
    assert static["text/plain"] == live["text/plain"] == repr(explorer)


def test_controls_of_the_widget_ask_the_scenario():
    """Moving a control in a kernel shows that setting's answer, figures included."""
    import ipywidgets  # noqa: PLC0415 - only where it is shown
    from bokeh.models import ColumnDataSource  # noqa: PLC0415 - the same
    from jupyter_bokeh import BokehModel  # noqa: PLC0415 - the same

    from tlbkit.show.live import widget  # noqa: PLC0415 - the same

    def inside(node, kind):
        if isinstance(node, kind):
            yield node
        for child in getattr(node, "children", ()):
            yield from inside(child, kind)

    box = widget(Explorer("mprotect"))
    pages = MPROTECT.parameters[0]
    slider = next(inside(box, ipywidgets.SelectionSlider))
    slider.value = pages.choices[-1]
    answer = MPROTECT.answer({pages.name: pages.choices[-1]})
    texts = [unescape(html.value) for html in inside(box, ipywidgets.HTML)]
    assert any(answer.text in text for text in texts)
    assert [list(row) for row in answer.rows] in map(cells, texts)
    shown = [
        {s.name: dict(s.data) for s in m._model.select({"type": ColumnDataSource})}
        for m in inside(box, BokehModel)
    ]
    assert shown == feeds("mprotect", answer.columns)


@pytest.mark.parametrize(
    ("name", "kind", "setting"),
    [
        ("walk", "Text", {"va": "0xffff_ffff_8000_1000"}),
        ("permissions", "Checkbox", {"dirty": "on"}),
        ("stale", "Dropdown", {"change": "another frame takes its place"}),
    ],
)
def test_text_and_ticks_of_the_widget_ask_too(name, kind, setting):
    """Free text, a tick and a menu are answered in a kernel as in the page."""
    import ipywidgets  # noqa: PLC0415 - only where it is shown

    from tlbkit.show.live import widget  # noqa: PLC0415 - the same

    box = widget(Explorer(name))
    value = next(iter(setting.values()))
    control = next(c for c in box.children if type(c) is getattr(ipywidgets, kind))
    control.value = {"on": True}.get(value, value)
    answer = lab.find_exploration(name).answer(setting)
    shown = [unescape(c.value) for c in box.children if type(c) is ipywidgets.HTML]
    assert any(answer.text in text for text in shown)
    assert [list(row) for row in answer.rows] in map(cells, shown)


@pytest.mark.parametrize("name", lab.EXPLORATIONS)
def test_no_label_of_the_widget_is_cut(name):
    """The longest label has room beside its control, at half an em a letter."""
    import ipywidgets  # noqa: PLC0415 - only where it is shown

    from tlbkit.show.live import widget  # noqa: PLC0415 - the same

    beside = (ipywidgets.SelectionSlider, ipywidgets.Dropdown, ipywidgets.Text)
    for control in widget(Explorer(name)).children:
        if isinstance(control, beside):
            room = float(control.style.description_width.removesuffix("em"))
            assert room >= len(control.description) / 2


def test_fields_are_boxes_in_the_page_and_in_a_kernel():
    """Each box holds the bits, the name and the value; chosen ones are marked."""
    from tlbkit.show.page import fields_html  # noqa: PLC0415 - Bokeh only if drawn

    [panel] = PANELS["tlbi"]
    assert isinstance(panel, Fields)
    answer = lab.find_exploration("tlbi").answer({})
    boxes = re.findall(
        r"<li[^>]*><small>(.*?)</small><span>(.*?)</span><code>(.*?)</code></li>",
        fields_html(panel, answer.columns),
    )
    columns = (answer.columns[name] for name in ("bits", "field", "value"))
    assert boxes == list(zip(*columns, strict=True))
    assert page(Explorer("tlbi")).count("<li>") == len(boxes)


def test_settings_to_start_from_are_checked():
    """A wrong name or value is refused with the ones that are allowed."""
    with pytest.raises(InputError, match=r"'wheels'.*pages"):
        Explorer("mprotect", wheels=4)
    with pytest.raises(InputError, match=r"pages=3.*choose from 1, 2, 4"):
        Explorer("mprotect", pages=3)
    with pytest.raises(InputError):
        Explorer("nothing")
