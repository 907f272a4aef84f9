"""Make the package with its machine compiled, once, in a folder of its own.

    python .ci/compiled.py

prints the folder. A Python that has it first on PYTHONPATH runs the compiled package.
It is made for the Python that runs this, and found again until the sources change. It
needs a C compiler and, to fetch mypy, the network.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from environment import CACHE, ROOT, alone, say

SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
COMPILERS = ("cc", "gcc", "clang", "cl")


def can_compile() -> bool:
    """Tell whether there is a C compiler, and what it needs to know of this Python."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    return any(map(shutil.which, COMPILERS)) and header.exists()


def compiled() -> Path:
    """Return the folder that holds the compiled package."""
    modules = sorted((ROOT / "tlbkit").rglob("*.py"))
    key = hashlib.sha256(sys.version.encode())
    for path in (*(ROOT / name for name in SOURCES), *modules):
        key.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    folder = CACHE / f"compiled-{key.hexdigest()[:12]}"
    with alone():
        if not folder.exists():
            for old in CACHE.glob("compiled-*"):
                shutil.rmtree(old)
            _make(folder)
    return folder


def _make(folder: Path) -> None:
    say(f"Compiling tlbkit into {folder.relative_to(ROOT)}: about half a minute, once.")
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        copy, made = Path(name, "source"), Path(name, "made")
        # Built beside the sources, it would leave its C files among them.
        shutil.copytree(
            ROOT / "tlbkit",
            copy / "tlbkit",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for source in SOURCES:
            shutil.copy(ROOT / source, copy)
        pip = (sys.executable, "-m", "pip", "install", "--no-input", "--no-deps")
        done = subprocess.run(
            [*pip, "--disable-pip-version-check", "--target", str(made), str(copy)],
            env=os.environ | {"TLBKIT_COMPILE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(
                f"tlbkit could not be compiled:\n{done.stdout}{done.stderr}"
            )
        made.rename(folder)


if __name__ == "__main__":
    print(compiled())
