"""Build the book, with warnings as errors, and serve it on this machine.

    python3 book/serve.py

It makes its own environment, builds what has changed since the last time, and serves
the result until Ctrl-C. It needs Python 3.11 or newer and, the first time, a network.
"""

import argparse
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".ci"))

import environment
from environment import ROOT, say

SITE = ROOT / "_build" / "html"
STAMP = ROOT / "_build" / "built.json"
LOG = ROOT / "_build" / "build.log"
PORTS_TRIED = 20


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site's files quietly, each with the type that a browser demands."""

    # A system's own table may call these something that a browser refuses to run.
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        """Have the browser ask again each time: the next build changes the files."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: the console is for what the reader can act on."""


class Server(http.server.ThreadingHTTPServer):
    """A server that never shares a port with another program."""

    allow_reuse_address = sys.platform != "win32"  # there it would mean sharing
    daemon_threads = True


def main() -> int:
    """Build the book and serve it on localhost."""
    arguments = parse()
    python = environment.prepare("book", fresh=arguments.fresh)
    with environment.alone():
        build(python, live=arguments.live, everything=arguments.fresh)
    if not arguments.build_only:
        serve(arguments.port)
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        help="where to serve (8000); a port in use gives way to the next free one",
    )
    parser.add_argument(
        "--build-only", action="store_true", help="build, and do not serve"
    )
    parser.add_argument(
        "--no-live",
        dest="live",
        action="store_false",
        help="leave out the Python that runs in the page; its pages say so",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="make the environment and the book anew"
    )
    return parser.parse_args()


def build(python: Path, *, live: bool, everything: bool) -> None:
    """Bring the site up to date; a warning stops the build.

    Sphinx knows what a change touches. It tells a warning only once, however: after a
    build that failed, all is built again, so that no warning is missed.
    """
    wanted = {"tools": str(python), "live": live, "sources": fingerprint()}
    built = json.loads(STAMP.read_text("utf-8")) if STAMP.exists() else {}
    if built == wanted and not everything:
        say("The book is up to date.")
        return
    if everything or built.get("tools") != wanted["tools"]:
        shutil.rmtree(ROOT / "_build", ignore_errors=True)
    say(f"Building {'what changed' if SITE.exists() else 'the book: about 5 min'}.")
    start = time.monotonic()
    STAMP.unlink(missing_ok=True)
    LOG.parent.mkdir(exist_ok=True)
    setting = {"TLBKIT_SITE_LIVE": "on" if live else "off"}
    with LOG.open("w", encoding="utf-8") as log:
        done = subprocess.run(
            [python.parent / "jupyter-book", "build", ".", "-W", "--keep-going", "-n"],
            cwd=ROOT,
            env=environment.variables(python) | setting,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise SystemExit(complaint(LOG.read_text("utf-8", errors="replace")))
    STAMP.write_text(json.dumps(wanted), "utf-8")
    say(f"Built in {time.monotonic() - start:.0f} s.")


def is_current() -> bool:
    """Tell whether the site stands there, live, built from the sources as they are."""
    if not STAMP.exists():
        return False
    built = json.loads(STAMP.read_text("utf-8"))
    return bool(built["live"]) and built["sources"] == fingerprint()


def fingerprint() -> str:
    """Return a digest of all that the book may be made of."""
    digest = hashlib.sha256()
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def sources() -> Iterator[Path]:
    """Yield the files that the book may be made of, in a fixed order."""
    skipped = {"__pycache__", "_build", "build", "dist", "jupyter_execute"}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not name.endswith(".egg-info")
            and name not in skipped
        )
        yield from (Path(folder, name) for name in sorted(files))


def complaint(text: str) -> str:
    """Return what matters of the failed build's output *text*."""
    text = re.sub(r"\x1b\[[\d;]*m", "", text)  # Sphinx colours even what goes to a file
    lines = text.splitlines()
    marked = [line for line in lines if re.search(r"WARNING|ERROR|Error:", line)]
    shown = "\n".join(dict.fromkeys(marked[:40])) or "\n".join(lines[-20:])
    hint = (
        " Without the page's own Python: python3 book/serve.py --no-live"
        if "Pyodide" in text
        else ""
    )
    return (
        f"{shown}\n\nThe book was not built; all that the build said is in "
        f"{LOG.relative_to(ROOT)}.{hint}"
    )


def serve(port: int) -> None:
    """Serve the site until the user stops it."""
    with listen(port) as server:
        say(f"Serving the book at http://localhost:{server.server_port}/ (Ctrl-C ends)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")


def listen(port: int) -> Server:
    """Return a server on *port*, or on the next one that is free."""
    handler = functools.partial(Handler, directory=str(SITE))
    for candidate in range(port, port + PORTS_TRIED):
        try:
            server = Server(("127.0.0.1", candidate), handler)
        except (OSError, OverflowError):
            continue
        if candidate != port:
            say(f"Port {port} is in use; taking {server.server_port}.")
        return server
    raise SystemExit(
        f"No port from {port} to {port + PORTS_TRIED - 1} can be opened; name another "
        f"with --port, or let the system choose one with --port 0."
    )


if __name__ == "__main__":
    environment.launch(main)
