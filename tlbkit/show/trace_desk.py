"""A desk for traces: a reader drops files, and reads which commits they would feel."""

from __future__ import annotations

import base64
import gzip
import json
import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64.models import DEFAULT_MODEL, MODELS
from tlbkit.errors import InputError, TlbkitError
from tlbkit.lab.trace import POLICIES, Trace
from tlbkit.lab.trace.read import lines_of
from tlbkit.show.explorer import STATIC_PAGE
from tlbkit.show.trace_page import trace_page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.lab.trace import TraceAnswer

TOUCHES: Final = {
    "written": "a page that may be written was written",
    "read": "each page was read",
    "none": "no page was touched",
}
"""What each policy supposes of a first touch that the trace does not tell."""


class TraceDesk:
    """Where a reader's own trace is answered: in the page, in Jupyter, in text.

    Args:
        example: Files of one run that are at hand for a first try.

    Raises:
        InputError: A file of the example cannot be read.
    """

    def __init__(self, *example: str | Path) -> None:
        self.example = {
            Path(name).name.removesuffix(".xz"): "".join(lines_of(str(name))).encode()
            for name in example
        }

    def text(self) -> str:
        """Return what a terminal shows: the answer to the example, and the command."""
        lines = ["python -m tlbkit trace FILE... --commits answers for files of yours."]
        if self.example:
            answer = Trace.of_text(self.example).answer()
            lines += [
                f"{name}: {one.broadcasts:,} broadcasts, {one.local:,} local TLBIs"
                for name, one in answer.kernels.items()
            ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return the rendering for whatever displays this object."""
        if os.environ.get(STATIC_PAGE):
            return {"text/plain": self.text(), "text/html": html(self)}
        from tlbkit.show.trace_live import widget  # noqa: PLC0415 - a page has no widgets

        bundle: dict[str, Any] = widget(self)._repr_mimebundle_()
        return bundle | {"text/plain": self.text()}


def ask(
    files: Mapping[str, bytes],
    touch: str,
    cpu: str,
    *,
    commits: bool,
    tell: Callable[[int, int, str], None] | None = None,
) -> TraceAnswer:
    """Answer for files that a reader gave.

    Args:
        files: Name -> contents.
        touch: A policy, one of `POLICIES`.
        cpu: Name of a CPU model.
        commits: Whether each commit is asked for.
        tell: Is told how many commits are done, of how many, and which is next.

    Raises:
        InputError: There is no file, or it is of no tool that is read.
    """
    policies = {name: name for name in POLICIES}
    if touch not in policies:
        raise InputError(f"touch {touch!r}: known are {', '.join(POLICIES)}")
    return Trace.of_text(files).answer(
        cpu=cpu, touch=policies[touch], commits=commits, progress=tell
    )


def reply(request: str, tell: Callable[[int, int, str], None]) -> str:
    """Answer one request of the page; both are JSON, as in `tlbkit.show.bridge`.

    Args:
        request: ``{"files": {name: base64}, "touch", "cpu", "commits"}``.
        tell: Is told how far the commits are.

    Returns:
        ``{"page": HTML, "text": a sentence, "json": the answer}``, or
        ``{"error": sentence}``. Nothing is raised.
    """
    try:
        asked = json.loads(request)
        files = {name: base64.b64decode(data) for name, data in asked["files"].items()}
        answer = ask(
            files, asked["touch"], asked["cpu"], commits=asked["commits"], tell=tell
        )
        return json.dumps(
            {
                "page": trace_page(answer),
                "text": sentence(answer),
                "json": answer.to_json(),
            }
        )
    except TlbkitError as error:
        return json.dumps({"error": str(error)})
    except Exception as error:  # noqa: BLE001 - a bug must reach the reader as a sentence
        kind = type(error).__name__
        return json.dumps({"error": f"tlbkit has a bug here: {kind}: {error}"})


def sentence(answer: TraceAnswer) -> str:
    """Say the answer in one sentence, for the line that screen readers announce."""
    counts = ", ".join(
        f"{one.broadcasts:,} broadcasts on {name}"
        for name, one in answer.kernels.items()
    )
    felt = sum(one.felt for one in answer.shares)
    if not answer.shares:
        return f"{counts}."
    return f"{counts}; {felt} of {len(answer.shares)} commits would be felt."


def html(desk: TraceDesk) -> str:
    """Return the desk as HTML that ``book/_static/trace.js`` brings to life."""
    packed = {
        name: base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
        for name, data in desk.example.items()
    }
    example = (
        '<button type="button" data-do="example">Use the example</button>'
        if packed
        else ""
    )
    touches = "".join(
        f'<option value="{name}">{escape(TOUCHES[name])}</option>' for name in POLICIES
    )
    models = "".join(
        f"<option{' selected' if name == DEFAULT_MODEL else ''}>{escape(name)}</option>"
        for name in MODELS
    )
    data = json.dumps({"example": packed}).replace("<", "\\u003c")
    return (
        '<form class="tlbkit-trace" aria-label="Your own trace" autocomplete="off">'
        '<p class="tlbkit-title">Replay a trace of yours, here in the page</p>'
        '<fieldset disabled><div class="tlbkit-drop">'
        "<label>Files of strace, <code>perf script</code> or <code>perf trace</code> "
        'of one run: drop them here, or <input type="file" name="files" multiple>'
        "</label>"
        '<label>or paste one <textarea name="pasted" rows="3" spellcheck="false" '
        'placeholder="12:00:00.1 mmap(NULL, 4096, …) = 0x7f…"></textarea></label>'
        "<ul></ul></div>"
        '<label>Where no page fault is told, <select name="touch">'
        f"{touches}</select></label> "
        f'<label>CPU model <select name="cpu">{models}</select></label> '
        '<label><input type="checkbox" name="commits" checked> '
        "ask each commit too, which takes longer</label>"
        '<p class="tlbkit-buttons"><button type="submit">Replay</button>'
        '<button type="button" data-do="stop" disabled>Stop</button>'
        f"{example}</p></fieldset>"
        '<progress value="0" max="1" aria-label="Commits asked" hidden></progress>'
        '<p role="status">Nothing leaves your machine: the trace is replayed by Python '
        "in this page. This needs the page to be live.</p>"
        '<p class="tlbkit-saved" hidden><a data-save="html">Save this page</a> '
        '<a data-save="json">Save the JSON</a></p>'
        '<iframe title="The answer" sandbox="allow-same-origin" hidden></iframe>'
        f'<script type="application/json">{data}</script></form>'
    )
