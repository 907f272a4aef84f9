"""A build whose pages are read and written on all cores."""

import multiprocessing
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

_MOST = 8
"""Processes beyond that wait for the longest page."""

_SILENT = ("sphinx_multitoc_numbering", "sphinx_jupyterbook_latex")
"""Extensions that do not say whether pages may be read at once. The first looks at the
contents of all of them when all are read, the second has nothing to do with HTML."""


def share(app: "Sphinx", _config: "Config") -> None:
    """Have Sphinx read and write several pages at once, where it can."""
    if "fork" in multiprocessing.get_all_start_methods():
        for name in _SILENT:
            app.extensions[name].parallel_read_safe = True
        # A page that is read waits for its cells, which another process runs.
        app.parallel = min(2 * (os.cpu_count() or 1), _MOST)
