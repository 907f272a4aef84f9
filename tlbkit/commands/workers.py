"""Long work from the command line: on what it runs, how far it is, how it goes on."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlbkit.errors import InputError, TlbkitError
from tlbkit.lab import tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

_EVERY = 0.1
"""Seconds between two lines of progress."""


class StoppedError(TlbkitError):
    """Long work was interrupted; what was done of it is kept."""


def add_workers(one: argparse.ArgumentParser) -> None:
    """Let a command say on what its work runs."""
    where = one.add_mutually_exclusive_group()
    where.add_argument(
        "--workers",
        type=workers,
        default=1,
        metavar="N",
        help="processes of this machine; default %(default)s",
    )
    where.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="the scheduler of a Dask cluster, such as tcp://10.0.0.1:8786",
    )


def add_out(one: argparse.ArgumentParser) -> None:
    """Let a command say where its rows go."""
    one.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the rows to it, as its name ends: " + ", ".join(tables.FORMS),
    )


def workers(text: str) -> int:
    """Return a number of processes."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r}: write a number from 1 to 1024")
    return int(text)


@contextmanager
def executor_of(asked: argparse.Namespace) -> Iterator[Executor | None]:
    """Give the executor that the command line asks for; none is: here, one by one."""
    if asked.cluster:
        with _cluster(asked.cluster) as executor:
            yield executor
    elif asked.workers == 1:
        yield None
    else:
        from tlbkit.lab.processes import Processes  # noqa: PLC0415 - long work alone

        executor = Processes(asked.workers)
        try:
            yield executor
        finally:
            executor.shutdown(cancel_futures=True)


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    try:
        distributed: Any = import_module("distributed")
    except ModuleNotFoundError:
        raise InputError(
            "--cluster needs Dask: pip install distributed, the same on all machines"
        ) from None
    try:
        client = distributed.Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise InputError(f"--cluster {address}: {error}") from None
    with client:
        yield client.get_executor()


class Progress:
    """One line on standard error that tells how far long work is, on a terminal."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._told = 0.0
        self._first: int | None = None

    def __call__(self, done: int, of: int) -> None:
        """Tell how many runs are done, of how many, and how long the rest will take."""
        now = time.monotonic()
        self._first = done if self._first is None else self._first
        if not sys.stderr.isatty() or (now - self._told < _EVERY and done < of):
            return
        self._told = now
        new = done - self._first
        left = (now - self._begun) / new * (of - done) if new else 0.0
        rest = f", {left:,.0f} s left" if left >= 1 else ""
        end = "\n" if done == of else ""
        print(f"\r{done:,}/{of:,} runs{rest}\x1b[K", end=end, file=sys.stderr)
        sys.stderr.flush()


def journal_of(out: Path | None) -> Path | None:
    """Return where rows are kept until all of *out* is there; check *out* first."""
    if out is None:
        return None
    tables.check(out)
    if out.exists():
        raise InputError(f"{out} is there already; remove it, or name another file")
    return out.with_name(f"{out.name}.part")


@contextmanager
def going_on(journal: Path | None) -> Iterator[None]:
    """Say at Ctrl-C what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (
            f"what was done is in {journal}; the same command goes on from there"
            if journal is not None
            else "with --out FILE, what was done would be kept"
        )
        raise StoppedError(f"stopped; {kept}") from None
