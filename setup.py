"""Compile the machine, where TLBKIT_COMPILE=1 asks for it; pyproject.toml has the rest.

What is compiled is the same source: mypyc makes C of modules whose types are checked.
"""

import os
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup

HOT = (
    "tlbkit/arm64/cached.py",
    "tlbkit/arm64/cpu.py",
    "tlbkit/arm64/memory.py",
    "tlbkit/arm64/tlb.py",
    "tlbkit/arm64/tlb_array.py",
    "tlbkit/arm64/tlbi.py",
    "tlbkit/arm64/walk.py",
    "tlbkit/linux/arch/arm64/include/asm/pgtable.py",
)


def compiler() -> list[str]:
    """Return the pin of what compiles, as the tests use it."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    pins: list[str] = project["optional-dependencies"]["test"]
    return [pin for pin in pins if pin.startswith("mypy==")]


def extensions() -> list[Extension]:
    """Return the hot modules as extensions; none before the compiler was brought."""
    if find_spec("mypyc") is None:
        return []  # a build first asks what it needs, in an environment without it
    from mypyc.build import mypycify  # noqa: PLC0415 - the usual build does without

    found: list[Extension] = mypycify(["--ignore-missing-imports", *HOT])
    return found


if os.environ.get("TLBKIT_COMPILE") != "1":
    setup()
elif "editable_wheel" in sys.argv:
    sys.exit(
        "TLBKIT_COMPILE=1 and an editable installation exclude each other: what is "
        "compiled would stay as it is while its sources change. Use: pip install ."
    )
else:
    setup(setup_requires=compiler(), ext_modules=extensions())
