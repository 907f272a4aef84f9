"""Trace small programs on real arm64 kernels, and count what these issue meanwhile.

    python3 tests/kernel/capture.py 6.17.13 --into traces
    python3 tests/kernel/capture.py 6.17.13 --into traces --random --huge jitx shell

Into the folder go ``PROGRAM.strace.xz`` and ``PROGRAM.perf.xz``, which
``python -m tlbkit trace`` reads, and ``measured.json``: what the kernel executed for
the tasks of each program while it was traced, from its execve on. The programs are
those of ``tests/kernel/programs``, and ``loader`` is Debian's sqlite3.

It needs what ``measure.py`` needs, and fetches 60 MB of Debian's packages besides,
once: strace, perf and the programs' libraries for arm64. Nothing is installed. A boot
takes half a minute, and each program half a minute more on two cores.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from measure import (  # noqa: E402 - its folder is named above
    CACHE,
    CPUS,
    GUEST,
    Archive,
    Emulator,
    MeasureError,
    need,
    run,
)

PROGRAMS: Final = Path(__file__).parent / "programs"
NAMES: Final = (*sorted(path.stem for path in PROGRAMS.iterdir()), "loader")
PACKAGES: Final = (
    *("base-files", "bash", "busybox-static", "coreutils", "dash", "findutils", "grep"),
    *("linux-perf", "python3", "sed", "sqlite3", "strace", "tar", "xz-utils"),
)

FORMS: Final = {
    (2, 1): "RVAE1IS",
    (2, 5): "RVALE1IS",
    (3, 1): "VAE1IS",
    (3, 2): "ASIDE1IS",
    (3, 5): "VALE1IS",
    (6, 1): "RVAE1",
    (6, 5): "RVALE1",
    (7, 1): "VAE1",
    (7, 2): "ASIDE1",
    (7, 5): "VALE1",
}
"""TLBIs of one address space by CRm and op2; others are of the kernel's mappings."""


def userland(archive: Archive, cache: Path = CACHE) -> Path:
    """Return a file system with strace, perf and the programs, made if need be."""
    root = cache / "userland"
    if not root.exists():
        archive.update()
        debs = archive.download(PACKAGES)
        half = cache / "userland.part"
        shutil.rmtree(half, ignore_errors=True)
        for deb in debs:
            run("dpkg-deb", "-x", deb, half)
        for folder in ("bin", "sbin", "lib"):
            if not (half / folder).exists():
                (half / folder).symlink_to(f"usr/{folder}")
        for unread in ("doc", "man", "locale", "info"):
            shutil.rmtree(half / "usr/share" / unread, ignore_errors=True)
        half.rename(root)
    programs = root / "programs"
    programs.mkdir(exist_ok=True)
    cross = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    for source in PROGRAMS.iterdir():
        if source.suffix == ".c":
            made = programs / source.stem
            run(cross, "-O1", "-pthread", "-w", "-o", made, source)
        else:
            shutil.copy(source, programs)
    for folder in ("proc", "sys", "dev", "out", "tmp"):
        (root / folder).mkdir(exist_ok=True)
    shutil.copy(GUEST / "capture.sh", root / "init")
    (root / "init").chmod(0o755)
    return root


def packed(root: Path, initrd: Path) -> None:
    """Write a file system as an initial one."""
    names = "\0".join(str(path.relative_to(root)) for path in root.rglob("*"))
    with initrd.open("wb") as file:
        subprocess.run(
            [need("cpio", "cpio"), "-0", "-o", "-H", "newc", "--quiet"],
            input=names.encode(),
            stdout=file,
            cwd=root,
            check=True,
        )


def boot(
    qemu: str, kernel: Path, cpu: str, initrd: Path, words: Sequence[str], plugin: str
) -> str:
    """Boot once, and return what the guest printed."""
    data = Path(qemu).resolve().parents[1] / "share" / "qemu"
    return run(
        *("nice", "-n", "15", qemu),
        *(("-L", str(data)) if data.is_dir() else ()),
        *("-machine", "virt,gic-version=3", "-cpu", CPUS[cpu].cpu),
        *("-smp", "4", "-m", "3G", "-accel", "tcg,thread=multi"),
        *("-nographic", "-no-reboot", "-nic", "none"),
        *("-kernel", kernel, "-initrd", initrd),
        *("-append", " ".join((CPUS[cpu].options, *words)), "-plugin", plugin),
    ).replace("\r", "")


def files_of(printed: str) -> dict[str, bytes]:
    """Return what the guest packed and printed: name -> contents."""
    found = re.search(r"^begin\n(.*?)^end$", printed, re.MULTILINE | re.DOTALL)
    if found is None:
        raise MeasureError(f"the guest did not come to its end:\n{printed[-2000:]}")
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(found[1]))) as archive:
        return {
            Path(member.name).name: file.read()
            for member in archive
            if (file := archive.extractfile(member)) is not None
        }


def counted(events: Iterable[str], tasks: Sequence[int]) -> dict[str, Any]:
    """Return what a kernel issued for some tasks, from the first one's execve on.

    The address space of before the execve is given back by it, which is no work of the
    program's.
    """
    first, known = tasks[0], frozenset(tasks)
    tlbi: Counter[str] = Counter()
    others: Counter[str] = Counter()
    begun = left = False
    for line in events:
        kind, number, *rest = line.split()
        task = int(number)
        if task not in known:
            continue
        begun = begun or (kind == "X" and task == first)
        if not begun:
            continue
        if kind == "T":
            form = FORMS.get((int(rest[0]) >> 3, int(rest[0]) & 7))
            if form == "ASIDE1IS" and task == first and not left:
                left = True
            elif form is not None:
                tlbi[form] += 1
        elif kind == "D":
            others[f"sync_{rest[0]}"] += 1
        elif kind == "F":
            others["faults"] += 1
    return {"tlbi": dict(sorted(tlbi.items())), **dict(sorted(others.items()))}


def capture(
    version: str, cpu: str, programs: Sequence[str], words: Sequence[str], into: Path
) -> None:
    """Trace programs on one kernel, and write what came of it into a folder."""
    emulator = Emulator(need("qemu-system-aarch64", "qemu-system-arm"))
    emulator.check()
    archive = Archive()
    kernel, _ = archive.kernel(version)
    into.mkdir(parents=True, exist_ok=True)
    initrd, plugin = CACHE / "userland.cpio", CACHE / "tasks.so"
    packed(userland(archive), initrd)
    run(
        *(need("gcc", "gcc libc6-dev"), "-O2", "-shared", "-fPIC"),
        *("-fvisibility=hidden", "-o", plugin, GUEST / "tasks.c"),
    )
    told = CACHE / "events"
    say = f"{plugin},out={told}"
    printed = boot(emulator.path, kernel, cpu, initrd, (), say)
    at = dict(re.findall(r"^symbol (\w+) \w (\w+)$", printed, re.MULTILINE))
    symbols = {name: address for address, name in at.items()}
    say += f",fault={symbols['do_mem_abort']},exec={symbols['begin_new_exec']}"
    asked = (f"programs={','.join(programs)}", *words)
    files = files_of(boot(emulator.path, kernel, cpu, initrd, asked, say))
    events = told.read_text("utf-8").splitlines()
    measured = {}
    for program in programs:
        text = files[f"{program}.strace"].decode()
        tasks = dict.fromkeys(map(int, re.findall(r"^(\d+) ", text, re.MULTILINE)))
        measured[program] = counted(events, list(tasks))
        for tool in ("strace", "perf"):
            data = lzma.compress(files[f"{program}.{tool}"], preset=9)
            (into / f"{program}.{tool}.xz").write_bytes(data)
    report = json.dumps(measured, indent=1, sort_keys=True)
    (into / "measured.json").write_text(f"{report}\n", "utf-8")
    print(f"{', '.join(programs)}: in {into}")


def main() -> int:
    """Capture what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0],
        epilog=f"programs: {', '.join(NAMES)}",
    )
    parser.add_argument("kernel", help="a version, as measure.py --list names them")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="default: all")
    parser.add_argument("--into", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--cpu", choices=CPUS, default="range")
    parser.add_argument("--random", action="store_true", help="random addresses")
    parser.add_argument("--huge", action="store_true", help="huge pages always")
    asked = parser.parse_intermixed_args()
    unknown = set(asked.programs) - set(NAMES)
    if unknown:
        parser.error(f"no program is called {', '.join(sorted(unknown))}")
    words = ["random=on"] * asked.random + ["huge=on"] * asked.huge
    try:
        programs = asked.programs or list(NAMES)
        capture(asked.kernel, asked.cpu, programs, words, asked.into)
    except MeasureError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
