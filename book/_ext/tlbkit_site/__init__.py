"""What the site needs beyond Jupyter Book: live Python, and no request elsewhere.

Everything a page loads is served by the site itself: Bokeh's script is the one of the
installed package (so that both sides speak the same version), MathJax is pruned to
what pages use, and the package ``tlbkit`` travels as an archive that the page's Python
imports. Scripts that would come from another host are dropped.
"""

import importlib.util
import json
import os
import re
import shutil
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import bokeh
from sphinx import addnodes
from sphinx.errors import ExtensionError

from tlbkit.show import game
from tlbkit.show.explorer import STATIC_PAGE
from tlbkit.show.stage.page import asset
from tlbkit_site import (
    address,
    answers,
    clock,
    cores,
    finding,
    galleries,
    head,
    pyodide,
    snapshot,
    terms,
)
from tlbkit_site.bundle import bundle, fingerprint

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment

LIVE = "TLBKIT_SITE_LIVE"
"""Environment variable: ``off`` builds a site whose controls do not answer."""

FRONT = "TLBKIT_SITE_FRONT"
"""Environment variable: ``on`` where the front page is built alone, to be early."""

BOOK = Path(__file__).resolve().parents[2]
ROOT = BOOK.parent
BOKEH_SCRIPT = f"bokeh-{version('bokeh')}.min.js"
PYODIDE_FOLDER = f"pyodide-{pyodide.VERSION}"
STAGE = {
    name: f"stage-{fingerprint(asset(name).encode())}{Path(name).suffix}"
    for name in ("stage.css", "stage.js")
}
"""The style and the script of the stage, and what they are called in the site."""
GAME = {
    name: f"game-{fingerprint(game.asset(name).encode())}{Path(name).suffix}"
    for name in ("game.css", "game.js")
}
"""The same of the game."""
_MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")


def _live() -> bool:
    """Tell whether the site is to answer in the page."""
    wanted = os.environ.get(LIVE, "on")
    if wanted not in {"on", "off"}:
        raise ExtensionError(f"{LIVE}={wanted}: say on or off")
    return wanted == "on"


def _configure(_app: "Sphinx", config: "Config") -> None:
    """Settle what depends on the sources and on where the project lives."""
    # Kernels inherit it, so that chapters emit pages and not widgets.
    os.environ[STATIC_PAGE] = "1"
    config["tlbkit_package"] = fingerprint(bundle(ROOT / "tlbkit"))
    own = [
        path
        for folder in (BOOK / "_static", Path(__file__).parent)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    config["tlbkit_site"] = (
        fingerprint(
            *(path.read_bytes() for path in sorted(own)), repr((STAGE, GAME)).encode()
        ),
        _live(),
    )
    repository = address.repository(ROOT / "pyproject.toml")
    config.html_theme_options.update(address.theme_options(repository))
    config["html_baseurl"] = base = head.base_of(repository)
    if base:
        offer = f'<a href="{base}tlbkit.pdf">All chapters as one PDF</a>'
        config.html_theme_options["extra_footer"] = offer
    config.templates_path.append(str(Path(__file__).parent / "templates"))


def _begin(app: "Sphinx") -> None:
    """Begin what takes minutes and needs no page."""
    if app.builder.format == "html":
        galleries.begin(ROOT / ".cache", app.config["tlbkit_package"])


def _fetch(app: "Sphinx") -> None:
    """Have the page's Python at hand, started, before the work depends on it."""
    if app.builder.format != "html" or not _live():
        return
    kept = ROOT / ".cache"
    try:
        pyodide.archive(kept)
        snapshot.started(kept, bundle(ROOT / "tlbkit"), app.config["tlbkit_package"])
    except pyodide.PyodideUnavailableError as error:
        # An exception would bury the sentence under the tools' own tracebacks.
        raise SystemExit(
            f"ERROR: Pyodide {pyodide.VERSION}, the pages' own Python, is not in .cache"
            f" and could not be fetched: {error}\nBuild again with a network,"
            f" or build a site without live Python: {LIVE}=off"
        ) from error
    except snapshot.SnapshotError as error:
        raise SystemExit(
            f"ERROR: the pages' own Python, Pyodide {pyodide.VERSION}, could not be"
            f" started by Node: {error}\nUse Node 20 or newer, or build a site without"
            f" live Python: {LIVE}=off"
        ) from error


def _files(app: "Sphinx") -> dict[str, str]:
    """Return what live pages load, by the name that the page's script has for it."""
    package = app.config["tlbkit_package"]
    return {
        "worker": f"worker.js?v={app.config['tlbkit_site'][0]}",
        "python": f"{PYODIDE_FOLDER}/",
        "snapshot": f"{PYODIDE_FOLDER}/tlbkit-{package}.memory",
        "package": f"tlbkit-{package}.zip",
        "answers": f"answers-{package}/",
    }


@cache
def _weight(package: str) -> int:
    """Return how many bytes Python in a page needs, with the *package* of that name."""
    kept = ROOT / ".cache"
    archive = bundle(ROOT / "tlbkit")
    memory = snapshot.started(kept, archive, package).stat().st_size
    return len(archive) + memory + pyodide.size(pyodide.archive(kept))


GLOSSARY = "book/glossary"
PICTURE = "_static/readme-stage.png"
"""What others show of the site."""


@cache
def _terms(env: "BuildEnvironment") -> dict[str, str]:
    """Return what the glossary says, by the names of its anchors."""
    known = GLOSSARY in env.found_docs
    return dict(terms.told(env.get_doctree(GLOSSARY))) if known else {}


def _parts(env: "BuildEnvironment") -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the contents of the book: each part's caption, its pages, their titles.

    The first part has no caption: it is the front page alone.
    """

    def named(page: str) -> tuple[str, str]:
        return page, env.titles[page].astext()

    front = env.config.root_doc
    parts = [("", [named(front)])]
    for part in env.tocs[front].findall(addnodes.toctree):
        pages = [named(page) for _, page in part["entries"]]
        parts.append((part["caption"] or "", pages))
    return parts


def _contents(
    app: "Sphinx",
    _page: str,
    _template: str,
    context: dict[str, Any],
    _doctree: "nodes.document | None",
) -> None:
    """Let every page show the contents of the book."""
    context["site_parts"] = _parts(app.env)


def _words(
    app: "Sphinx",
    page: str,
    _template: str,
    context: dict[str, Any],
    doctree: "nodes.document | None",
) -> None:
    """Let a page say what it is about, and the glossary what its words mean."""
    if doctree is None:
        return
    body = head.untitled_cells(context["body"])
    known = {} if page == GLOSSARY else _terms(app.env)
    found = f'<span data-pagefind-meta="kind:{finding.kind(page)}"></span>'
    context["body"] = terms.beside(body, known) + found
    context["metatags"] += head.tags(
        context["title"],
        head.description(doctree),
        f"{page}.html",
        app.config["html_baseurl"],
        PICTURE,
    )


def _finds(app: "Sphinx", out: Path) -> None:
    """Help people and machines to find what the site holds."""
    finding.index(out)
    base = app.config["html_baseurl"]
    pages = [f"{page}.html" for page in sorted(app.env.found_docs)]
    if base:
        (out / "sitemap.xml").write_text(head.sitemap(base, pages), "utf-8")
    root = urlsplit(base).path or "/"
    missing = head.not_found(app.config["html_title"] or app.config["project"], root)
    (out / "404.html").write_text(missing, "utf-8")


def _scripts(
    app: "Sphinx",
    _page: str,
    _template: str,
    context: dict[str, Any],
    _doctree: "nodes.document | None",
) -> None:
    """Give pages the scripts that they need; drop what another host would serve."""
    attributes = {"data-live": "off"}
    if _live():
        files = _files(app) | {"bytes": str(_weight(app.config["tlbkit_package"]))}
        attributes = {f"data-{name}": value for name, value in files.items()}
    if "tlbkit-trace" in context.get("body", ""):
        app.add_js_file("trace.js", loading_method="defer", priority=601, **attributes)
    if "tlbkit-explorer" in context.get("body", ""):
        if "tlbkit-figure" in context["body"]:
            app.add_js_file(BOKEH_SCRIPT, loading_method="defer", priority=600)
        app.add_js_file(
            "explorer.js", loading_method="defer", priority=601, **attributes
        )
    if "tlbkit-player" in context.get("body", ""):
        app.add_js_file("player.js", loading_method="defer", priority=601)
    if "tlbkit-gallery" in context.get("body", ""):
        app.add_js_file("gallery.js", loading_method="defer", priority=602)
    if "tlbkit-game" in context.get("body", ""):
        app.add_css_file(GAME["game.css"], priority=902)
        app.add_js_file(GAME["game.js"], loading_method="defer", priority=602)
    if re.search("tlbkit-(stage|gallery|game)", context.get("body", "")):
        app.add_css_file(STAGE["stage.css"], priority=901)
        app.add_js_file(STAGE["stage.js"], loading_method="defer", priority=601)
    if os.environ.get(FRONT) == "on":
        app.add_js_file("front.js", loading_method="defer", priority=601)
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "://" not in str(getattr(script, "filename", script))
    ]


def _assets(app: "Sphinx", error: Exception | None) -> None:
    """Put what the pages load beside them."""
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    static = out / "_static"
    scripts = Path(bokeh.__file__).parent / "server" / "static" / "js"
    shutil.copyfile(scripts / "bokeh.min.js", static / BOKEH_SCRIPT)
    for name, called in STAGE.items():
        (static / called).write_text(asset(name), "utf-8")
    for name, called in GAME.items():
        (static / called).write_text(game.asset(name), "utf-8")

    kept = galleries.made(ROOT / ".cache", app.config["tlbkit_package"])
    shutil.copytree(kept, static, dirs_exist_ok=True)

    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise ExtensionError("sphinx-mathjax-offline is not installed")
    mathjax = Path(spec.origin).parent / "static" / "mathjax"
    for part in _MATHJAX:
        target = static / "mathjax" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (mathjax / part).is_dir():
            shutil.copytree(mathjax / part, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(mathjax / part, target)

    for stale in (*static.glob("tlbkit-*.zip"), *static.glob("*/tlbkit-*.memory")):
        stale.unlink()
    for stale in static.glob("answers-*"):
        shutil.rmtree(stale)
    if _live():
        _python(app, static)

    _finds(app, out)
    # Hosts that run Jekyll would otherwise hide folders that begin with "_".
    (out / ".nojekyll").touch()


def _python(app: "Sphinx", static: Path) -> None:
    """Put Python, the package, and the answers that need neither, beside the pages."""
    kept, files = ROOT / ".cache", _files(app)
    package = bundle(ROOT / "tlbkit")
    (static / files["package"]).write_bytes(package)
    pyodide.unpack(pyodide.archive(kept), static / PYODIDE_FOLDER)
    shutil.copyfile(
        snapshot.started(kept, package, app.config["tlbkit_package"]),
        static / files["snapshot"],
    )
    pages = {
        path.name: path.read_text("utf-8")
        for path in Path(app.outdir, "book").rglob("*.html")
    }
    folder = static / files["answers"]
    folder.mkdir()
    known = kept / f"answers-{app.config['tlbkit_package']}.json"
    for scenario, told in answers.answers(pages, known).items():
        text = json.dumps(told, separators=(",", ":"))
        (folder / f"{scenario}.json").write_text(text, "utf-8")


def setup(app: "Sphinx") -> dict[str, Any]:
    """Register the extension with Sphinx."""
    # A changed package re-runs every chapter; a changed site rewrites every page.
    app.add_config_value("tlbkit_package", "", "env")
    app.add_config_value("tlbkit_site", (), "html")
    app.connect("config-inited", _configure)
    app.connect("config-inited", cores.share)
    clock.connect(app)
    app.connect("builder-inited", _fetch)
    app.connect("builder-inited", _begin)
    app.connect("html-page-context", _contents)
    app.connect("html-page-context", _words, priority=800)
    app.connect("html-page-context", _scripts, priority=900)
    app.connect("build-finished", _assets)
    app.add_css_file("book.css", priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
