"""What the gallery and the game open in the page: a file for each replay and level.

Making them takes minutes and needs no page, so a build begins them in a process of its
own and reads the chapters meanwhile. They are kept until the package changes; builds
that run at once make them once.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlbkit.show.explorer import STATIC_PAGE
from tlbkit.show.gallery import Gallery
from tlbkit.show.game import Game

if sys.platform != "win32":
    import fcntl


def begin(kept: Path, package: str) -> None:
    """Begin to make the files of a package, beside whatever goes on."""
    subprocess.Popen(
        [sys.executable, __file__, str(kept), package],
        env={**os.environ, STATIC_PAGE: "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # who waits for the files makes them, and is told
    )


def made(kept: Path, package: str) -> Path:
    """Return the folder of the files: once whatever makes them is done, or made here.

    Args:
        kept: The folder that outlives a build.
        package: Fingerprint of the package that they show.
    """
    folder = kept / f"gallery-{package}"
    with _alone(kept):
        if folder.is_dir():
            return folder
        for stale in kept.glob("gallery-*"):
            shutil.rmtree(stale)
        part = folder.with_suffix(".part")
        for kind in ("gallery", "game"):
            (part / kind).mkdir(parents=True)
        for name, html in Gallery().fragments():
            (part / "gallery" / f"{name}.html").write_text(html, "utf-8")
        for name, tree in Game().trees():
            (part / "game" / f"{name}.json").write_text(tree, "utf-8")
        part.rename(folder)
    return folder


@contextmanager
def _alone(kept: Path) -> Iterator[None]:
    """Let one process at a time make them, where the system can lock a file."""
    kept.mkdir(exist_ok=True)
    with (kept / "gallery.lock").open("w") as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    made(Path(sys.argv[1]), sys.argv[2])
