"""Chapters run, are found, and name only what there is."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from myst_nb.core.read import read_myst_markdown_notebook
from traitlets.config import Config

from tlbkit.patches.registry import KERNELS, PATCHES

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
CHAPTERS = {
    path.relative_to(ROOT).with_suffix("").as_posix(): path
    for path in sorted(BOOK.rglob("*.md"))
    if not path.relative_to(BOOK).parts[0].startswith("_")
}


def entries(node: Any) -> Iterator[str]:
    """Yield every page that a table of contents names."""
    if isinstance(node, dict):
        yield from (node[key] for key in ("root", "file") if key in node)
        for below in node.values():
            yield from entries(below)
    elif isinstance(node, list):
        for below in node:
            yield from entries(below)


def pages() -> list[str]:
    """Return the pages of the book in reading order."""
    return list(entries(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))))


def test_every_chapter_is_in_the_contents_once():
    """What is written can be found, and what is promised is written."""
    assert sorted(pages()) == sorted(CHAPTERS)


@pytest.fixture
def shell(tmp_path) -> Iterator[InteractiveShell]:
    """Return a fresh IPython in this process: a kernel's start would cost seconds."""
    settings = Config({"HistoryManager": {"enabled": False}})
    yield InteractiveShell.instance(config=settings, ipython_dir=str(tmp_path))
    InteractiveShell.clear_instance()


@pytest.mark.parametrize("name", CHAPTERS)
def test_cells_run(name, shell, monkeypatch):
    """Every cell of a chapter runs, in order, and shows what it returns."""
    path = CHAPTERS[name]
    monkeypatch.chdir(path.parent)
    book = read_myst_markdown_notebook(path.read_text("utf-8"), path=path)
    for cell in book.cells:
        if cell.cell_type == "code":
            with capture_output() as captured:
                done = shell.run_cell(cell.source)
            # A failure while showing a result stops no cell; it is only printed.
            assert done.success, captured.stdout
            assert not captured.stderr, cell.source


@pytest.mark.parametrize("name", CHAPTERS)
def test_cells_are_cells_in_jupyterlab_too(name):
    """JupyterLab finds in a chapter the cells that the book runs."""
    path = CHAPTERS[name]
    text = path.read_text("utf-8")
    ours = [c.source for c in read_myst_markdown_notebook(text, path=path).cells]
    theirs = [c.source for c in jupytext.reads(text, fmt="md:myst").cells]
    assert ours == theirs
    if "{code-cell}" in text:
        header = yaml.safe_load(text.split("---")[1])
        form = header["jupytext"]["text_representation"]
        assert (form["extension"], form["format_name"]) == (".md", "myst")
        assert header["kernelspec"]["name"] == "python3"


def test_commits_are_known():
    """Each commit that the book cites is in the registry or in the bibliography."""
    cited = re.compile(r"(?<![\w./#-])(?:[0-9a-f]{12}|[0-9a-f]{40})(?![\w@-])")
    known = [patch.hash for patch in PATCHES]
    known += [form.backport for kernel in KERNELS.values() for form in kernel.as_pushed]
    known += [h for patch in PATCHES for s in patch.sources for h in cited.findall(s)]
    known += cited.findall((BOOK / "bibliography.md").read_text("utf-8"))
    unknown = {
        (name, commit)
        for name, path in CHAPTERS.items()
        for commit in cited.findall(path.read_text("utf-8"))
        if not any(h.startswith(commit) or commit.startswith(h) for h in known)
        and not commit.isdigit()
    }
    assert not unknown


@pytest.mark.parametrize(
    "script", sorted(BOOK.glob("_static/*.js")), ids=lambda p: p.name
)
def test_scripts_name_no_other_host(script):
    """The page's own scripts load only what the site serves."""
    assert not re.search(r"(?:https?|wss?):?//", script.read_text("utf-8"))


def test_styles_name_no_other_host():
    """The book's style loads only what the site serves."""
    for style in BOOK.glob("_static/*.css"):
        assert not re.search(r"@import|url\(|//", style.read_text("utf-8"))


def test_binder_finds_what_it_reads():
    """Binder's files stand at the root, no folder hides them, its script can run."""
    assert not (ROOT / "binder").exists()
    assert not (ROOT / ".binder").exists()
    assert re.fullmatch(r"python-3\.1[1-4]", (ROOT / "runtime.txt").read_text().strip())
    assert (ROOT / "requirements.txt").is_file()
    script = ROOT / "postBuild"
    assert script.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", str(script)], check=True)
