"""The memory of a Python that has started and imported the package, for the pages.

A page that begins from it neither starts Python nor compiles and imports the package,
which is most of what a reader would wait for. It belongs to one release of Pyodide and
one state of the package, and is kept in the cache by both.
"""

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from tlbkit_site import node, pyodide

_SCRIPT = Path(__file__).with_name("snapshot.mjs")


class SnapshotError(Exception):
    """Node could not be had, or the page's Python did not start in it."""


def started(cache: Path, package: bytes, name: str) -> Path:
    """Return the snapshot of *package*, an archive called *name*; made if need be.

    Raises:
        SnapshotError: It could not be made; the message says why.
    """
    kept = cache / f"snapshot-{pyodide.VERSION}-{name}.bin.gz"
    if kept.is_file():
        return kept
    with TemporaryDirectory(dir=cache, prefix="starting-") as place:
        workplace = Path(place)
        archive = workplace / "package.zip"
        archive.write_bytes(package)
        pyodide.unpack(pyodide.archive(cache), workplace / "python")
        made = workplace / "snapshot.bin.gz"
        try:
            run, environment = node.command("node", workplace)
            files = [str(workplace / "python"), str(archive), str(made)]
            subprocess.run(
                [*run, str(_SCRIPT), *files],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            )
        except subprocess.CalledProcessError as error:
            said = str(error.stderr).strip() or f"Node ended with {error.returncode}"
            raise SnapshotError(said[-2000:]) from error
        for old in cache.glob("snapshot-*.bin.gz"):
            old.unlink()
        made.replace(kept)
    return kept
