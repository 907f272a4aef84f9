"""The package with its machine compiled: the same, only faster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiled import can_compile, compiled

pytestmark = pytest.mark.skipif(
    not can_compile(), reason="there is no C compiler, or no Python.h (python3-dev)"
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def folder() -> Path:
    """Where the compiled package is."""
    return compiled()


def python(
    folder: Path, *arguments: str, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run Python with the compiled package before all others.

    Laws are held to few values: the plain package is, elsewhere, held to many.
    """
    few = {"TLBKIT_HYPOTHESIS": "mutation"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | few | {"PYTHONPATH": str(folder)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_machine_and_the_kernel_pass_their_own_tests(folder: Path):
    """The tests of machine, kernel and listeners hold of what is compiled."""
    parts = [str(folder / "tlbkit" / part) for part in ("arm64", "linux", "observe")]
    options = ("-q", "-x", "-n0", "-p", "no:cacheprovider")
    run = python(folder, "-m", "pytest", *options, *parts, cwd=folder)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


def test_what_is_compiled_says_that_it_cannot_be_explored(folder: Path, tmp_path: Path):
    """A search needs the plain package, of which it can see what a step touches."""
    run = python(folder, "-m", "tlbkit", "random", "--runs", "1", cwd=tmp_path)
    assert run.returncode == 1
    assert "TLBKIT_COMPILE" in run.stderr
