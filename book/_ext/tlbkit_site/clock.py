"""What takes how long when the site is built, for ``serve.py --times``."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

_SECONDS = "tlbkit_seconds"


class Clock:
    """The phases of one build; pages keep their own seconds in their metadata.

    A page that has not changed is not read again, and keeps what it took.
    """

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.since = time.monotonic()

    def end(self, phase: str) -> None:
        """Count what has passed since the last phase as *phase*."""
        now = time.monotonic()
        self.phases[phase] = round(now - self.since, 1)
        self.since = now

    def begin_page(self, app: "Sphinx", page: str, _text: list[str]) -> None:
        """Note when a page begins to be read."""
        app.env.metadata[page][_SECONDS] = time.monotonic()

    def end_page(self, app: "Sphinx", _doctree: "nodes.document") -> None:
        """Note how long it took, its cells included."""
        kept: dict[str, Any] = app.env.metadata[app.env.docname]
        kept[_SECONDS] = round(time.monotonic() - kept[_SECONDS], 1)

    def read(self, _app: "Sphinx", _env: "BuildEnvironment") -> None:
        """Note that all pages are read."""
        self.end("reading and running all pages")

    def built(self, app: "Sphinx", error: Exception | None) -> None:
        """Keep the times beside the site."""
        if error is not None or app.builder.format != "html":
            return
        self.end("writing them")
        known = {page: data.get(_SECONDS, 0) for page, data in app.env.metadata.items()}
        told = {"phases": self.phases, "pages": known}
        kept = Path(app.outdir).parent / "times.json"
        kept.write_text(json.dumps(told, indent=1), "utf-8")


def connect(app: "Sphinx") -> None:
    """Start a clock with a build."""
    clock = Clock()
    app.connect("source-read", clock.begin_page)
    app.connect("doctree-read", clock.end_page, priority=999)
    app.connect("env-updated", clock.read)
    app.connect("build-finished", clock.built, priority=999)
