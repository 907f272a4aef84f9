"""``at``: where addresses lead, by a table image or by a dump of real page tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64 import image
from tlbkit.arm64.image import PA_BITS
from tlbkit.errors import InputError
from tlbkit.lab.dump import read_dump
from tlbkit.lab.free_text import number
from tlbkit.show.text import table

if TYPE_CHECKING:
    import argparse

REGISTERS: Final = ("TCR", "MAIR", "TTBR0", "TTBR1", "SCTLR")
_LARGEST: Final = 256 << 20
_PLACE: Final = re.compile(r"(.+?)@(0[xX][0-9a-fA-F]+)(?:\+(0[xX][0-9a-fA-F]+))?")


def add_at(one: argparse.ArgumentParser) -> None:
    """Say what ``at`` takes."""
    one.add_argument(
        "given",
        nargs="*",
        metavar="FILE|ADDRESS",
        help="a table image in JSON (see tlbkit.arm64.image), a page-table dump of "
        "debugfs, or what crash prints for vtop; then addresses in hex",
    )
    one.add_argument(
        "--memory",
        action="append",
        default=[],
        metavar="FILE[@PA[+OFFSET]]",
        help="instead of an image: an ELF core, or raw bytes with the physical address "
        "of the first; may be repeated",
    )
    one.add_argument(
        "--reg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"with --memory: the registers {', '.join(REGISTERS)}",
    )


def at(asked: argparse.Namespace) -> None:
    """Answer for every address, and print it."""
    files, vas = _sorted(asked.given)
    if asked.memory:
        if files:
            raise InputError(f"{files[0]}: with --memory there is no other file")
        answers = image.answer(_image(asked, vas), Path())
    elif len(files) == 1:
        answers = _answers(files[0], vas)
    else:
        raise InputError("name one file, or memory with --memory, and addresses in hex")
    if asked.json:
        print(json.dumps(answers, indent=2))
        return
    rows = [[one.get("va", str(n)), said(one)] for n, one in enumerate(answers)]
    print(table(["probe", "answer"], rows))


def said(answer: dict[str, Any]) -> str:
    """Return the answer to one probe in words."""
    if "missing" in answer and "level" in answer:
        return (
            f"not in the image: table word {answer['missing']} of level "
            f"{answer['level']}"
        )
    return ", ".join(
        f"{name} {value if isinstance(value, str | int) else json.dumps(value)}"
        for name, value in answer.items()
        if name != "va"
    )


def _sorted(given: list[str]) -> tuple[list[str], list[int]]:
    """Part names of files from addresses."""
    files = [one for one in given if not one.lower().startswith("0x")]
    vas = [number("address", one) for one in given if one.lower().startswith("0x")]
    return files, vas


def _answers(name: str, vas: list[int]) -> list[dict[str, Any]]:
    """Return the answers of one file, of whichever kind it is."""
    text = _read(name)
    if not text.lstrip().startswith(("{", "[")):
        return read_dump(text, name).answers(vas)
    try:
        parts = image.parse(text)
        if vas and isinstance(parts, dict):
            parts = {**parts, "probes": _probes(vas)}
        return image.answer(parts, Path(name).parent)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _probes(vas: list[int]) -> list[dict[str, Any]]:
    """Ask as EL1 would read, which every address can be asked for."""
    return [{"va": hex(va), "at": "S1E1R"} for va in vas]


def _image(asked: argparse.Namespace, vas: list[int]) -> dict[str, Any]:
    """Return what the command line says of memory and registers as an image."""
    if not vas:
        raise InputError("--memory: name addresses in hex, as in 0xffff000040000000")
    registers: dict[str, str] = {}
    for text in asked.reg:
        name, _, value = text.partition("=")
        if name.upper() not in REGISTERS or name.upper() in registers:
            raise InputError(
                f"--reg {text}: give each of {', '.join(REGISTERS)} once, as in "
                "TTBR0=0x41000000"
            )
        registers[name.upper()] = hex(number(name, value))
    if "TTBR0" not in registers and "TTBR1" in registers:
        registers["TTBR0"] = registers["TTBR1"]
    registers.setdefault("TTBR1", registers.get("TTBR0", "0x0"))
    for name in ("TCR", "MAIR", "TTBR0"):
        if name not in registers:
            raise InputError(f"--memory: give --reg {name}=VALUE; a walk needs it")
    files = []
    for text in asked.memory:
        read = _PLACE.fullmatch(text)
        if read is None:
            files.append({"path": text})
            continue
        files.append({"path": read[1], "pa": hex(number("pa", read[2], PA_BITS))})
        if read[3]:
            files[-1]["offset"] = read[3]
    return {"regs": registers, "files": files, "probes": _probes(vas)}


def _read(path: str) -> str:
    """Return the text of a file that the caller named."""
    try:
        if Path(path).stat().st_size > _LARGEST:
            raise InputError(
                f"{path}: this is too large for a dump in text; memory is given with "
                "--memory"
            )
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise InputError(
            f"{path}: this is not a text file in UTF-8; memory is given with --memory"
        ) from None
