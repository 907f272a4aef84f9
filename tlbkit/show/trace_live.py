"""The desk for traces in Jupyter: ipywidgets over a real kernel."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from tlbkit.arm64.models import DEFAULT_MODEL, MODELS
from tlbkit.errors import TlbkitError
from tlbkit.show.trace_desk import TOUCHES, ask, sentence
from tlbkit.show.trace_page import trace_page

if TYPE_CHECKING:
    from tlbkit.show.trace_desk import TraceDesk

_WIDE = {"width": "100%"}


def widget(desk: TraceDesk) -> widgets.VBox:
    """Return the desk as a widget that replays in this kernel."""
    upload = widgets.FileUpload(multiple=True, description="Files of one run")
    touch = widgets.Dropdown(
        options=[(said, name) for name, said in TOUCHES.items()],
        description="Untold touches",
        style={"description_width": "9em"},
        layout={"width": "34em", "max_width": "100%"},
    )
    cpu = widgets.Dropdown(
        options=list(MODELS),
        value=DEFAULT_MODEL,
        description="CPU model",
        style={"description_width": "9em"},
    )
    commits = widgets.Checkbox(value=True, description="Ask each commit too")
    replay = widgets.Button(description="Replay")
    example = widgets.Button(description="Use the example", disabled=not desk.example)
    progress = widgets.IntProgress(layout={"visibility": "hidden"})
    status = widgets.HTML('<p role="status"></p>')
    page = widgets.HTML(layout=_WIDE)

    def tell(done: int, of: int, _: str) -> None:
        progress.max, progress.value = of, done
        progress.layout.visibility = "visible"

    def answer(files: dict[str, bytes]) -> None:
        try:
            found = ask(files, touch.value, cpu.value, commits=commits.value, tell=tell)
        except TlbkitError as error:
            status.value = f'<p role="status">{escape(str(error))}</p>'
            return
        finally:
            progress.layout.visibility = "hidden"
        status.value = f'<p role="status">{escape(sentence(found))}</p>'
        page.value = (
            '<iframe title="The answer" sandbox style="width: 100%; height: 40em; '
            f'border: 1px solid #8888" srcdoc="{escape(trace_page(found))}"></iframe>'
        )

    def uploaded(_: Any) -> None:
        answer({one["name"]: bytes(one["content"]) for one in upload.value})

    replay.on_click(uploaded)
    example.on_click(lambda _: answer(desk.example))
    return widgets.VBox(
        [
            widgets.HTML("<b>Replay a trace of yours</b>"),
            upload,
            touch,
            cpu,
            commits,
            widgets.HBox([replay, example, progress]),
            status,
            page,
        ]
    )
