"""The same explorer on a real kernel in JupyterLab, as Binder opens it."""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tlbkit import lab
from tlbkit.show import Stage

HERE = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[2]
SAMPLE = Path(__file__).parent / "sample"
TOOLS = Path(sys.executable).parent


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    """Wait until JupyterLab answers."""
    for _ in range(240):
        try:
            with closing(http.client.HTTPConnection(HERE, port)) as connection:
                connection.request("GET", "/api")
                connection.getresponse()
        except (OSError, http.client.HTTPException):
            assert server.poll() is None
            time.sleep(0.25)
        else:
            return
    pytest.fail("JupyterLab did not start")


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory, request) -> Iterator[str]:
    """Return the address of a JupyterLab that Binder's own script has set up."""
    request.getfixturevalue("browser")  # nothing is set up where there is none
    home = tmp_path_factory.mktemp("jupyter")
    shutil.copytree(SAMPLE, home / "book")
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    environment = {
        **os.environ,
        **{f"JUPYTER_{name}": str(home / name) for name in names},
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "PATH": os.pathsep.join([str(TOOLS), os.environ["PATH"]]),
    }
    subprocess.run(
        [str(ROOT / "postBuild")], env=environment, check=True, capture_output=True
    )
    port = free_port()
    with subprocess.Popen(
        [
            str(TOOLS / "jupyter-lab"),
            "--no-browser",
            "--allow-root",
            f"--port={port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={home / 'book'}",
            "--IdentityProvider.token=",
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.extension_manager=readonly",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        address = f"http://{HERE}:{port}"
        wait_for(port, server)
        yield address
        server.terminate()


def wait_for_kernel(page: Page, server: str) -> None:
    """Wait until the server has a kernel, idle, and the browser a connection to it.

    Who runs a cell before that is asked which kernel to take.
    """
    for _ in range(240):
        kernels = page.request.get(f"{server}/api/kernels").json()
        if any(k["execution_state"] == "idle" and k["connections"] for k in kernels):
            return
        page.wait_for_timeout(250)
    pytest.fail("the notebook has no kernel")


def run_the_first_cell(page: Page, server: str, chapter: str) -> None:
    """Open a chapter as a notebook, and run its first cell."""
    # In a workspace of its own, or the notebooks of other tests would open again.
    page.goto(f"{server}/lab/workspaces/{Path(chapter).stem}/tree/{chapter}")
    page.locator(".jp-NotebookPanel [data-status=idle]").first.wait_for(timeout=60_000)
    cell = page.locator(".jp-CodeCell").first
    unasked = cell.locator(".jp-InputPrompt").get_by_text("[ ]:", exact=True)
    wait_for_kernel(page, server)
    # Until it knows so too, the notebook drops what it is asked; a reader asks again.
    # A cell that waits or has run has another mark than this.
    for _ in range(60):
        if not unasked.count():
            break
        cell.locator(".jp-InputArea-editor").click()
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(1000)


def test_the_stage_is_drawn_in_a_notebook(jupyter, visit):
    """The same script draws the same film, and the address stays the notebook's."""
    page = visit.page
    run_the_first_cell(page, jupyter, "stage.md")
    form = page.locator(".tlbkit-stage[data-live]").first
    form.wait_for(timeout=60_000)
    film = Stage("fork-reuse", pages=6, cpus=72, threads=2).films[0]
    address = page.url
    for moment in range(1, 4):
        form.locator("[data-do=step]").click()
        said = form.locator(".tlbkit-happened").first.inner_text()
        assert said == film["texts"][film["moments"][moment - 1][1]]
    board = form.locator(".tlbkit-board").first
    assert board.locator("[data-row='page/0'] .cell").count() == len(film["columns"])
    assert page.url == address
    assert not visit.foreign


def test_the_explorer_runs_on_a_kernel(jupyter, visit):
    """A chapter opens as a notebook; its slider moves by keyboard and agrees."""
    page = visit.page
    run_the_first_cell(page, jupyter, "sample.md")
    handle = page.locator(".widget-slider [role=slider]").first
    handle.wait_for(timeout=60_000)
    page.locator(".jp-OutputArea canvas").first.wait_for()
    handle.focus()
    handle.press("ArrowRight")
    pages = lab.find("mprotect").parameters[0]
    moved = pages.choices[pages.choices.index(pages.default) + 1]
    answer = lab.find("mprotect").answer({pages.name: moved})
    page.get_by_text(answer.text, exact=True).first.wait_for(timeout=10_000)
    table = page.locator(".tlbkit-table tbody tr").all()
    shown = [row.locator("th, td").all_inner_texts() for row in table]
    assert shown == [list(row) for row in answer.rows]
    drawn = page.evaluate(
        """() => Bokeh.documents.flatMap(d => [...d._all_models.values()])
          .filter(m => m.name === "pairs").map(m => [...m.data.before])"""
    )
    assert answer.columns["before"] in drawn
    assert not visit.foreign
