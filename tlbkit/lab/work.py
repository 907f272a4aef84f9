"""Long work: many runs that need nothing of each other, on any executor.

A sweep of a scenario, the share of each commit in a trace and many traces on many
kernels are all this: a list of tasks, each with a key, each answered by one row. The
rows come in the order of the tasks whatever ran them, and a journal keeps them as they
come, so that work that was interrupted goes on and repeats nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor, Future
    from pathlib import Path
    from types import TracebackType
    from typing import Self, TextIO

Row = dict[str, Any]
"""What one task answers: names and values that JSON can hold."""

_IN_FLIGHT = 256
"""How many tasks an executor holds at most: a million must not be queued at once."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run among many.

    Attributes:
        key: Tells it from all others of the same work, today and on the next start.
        do: Answers it; must be importable where the executor runs it.
        arguments: What *do* is called with.
    """

    key: str
    do: Callable[..., Row]
    arguments: tuple[Any, ...]


class Journal:
    """The rows of a work as they come, one JSON line each.

    Args:
        path: The file; an existing one is gone on with.
        work: What the rows belong to. A journal of another work is refused.

    Errors:
        InputError: The file is of another work, or a line of it is damaged. The last
            line may be torn, as it is after a crash: it is dropped.
    """

    def __init__(self, path: Path, work: Mapping[str, Any]) -> None:
        self._path = path
        self._work = json.loads(json.dumps(work))
        self.rows: dict[str, Row] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        """Read what is there, and be ready to write more."""
        try:
            text = self._path.read_text("utf-8") if self._path.exists() else ""
            whole = text[: text.rfind("\n") + 1]
            self._take(whole.splitlines())
            self._file = self._path.open("r+" if text else "w", encoding="utf-8")
            self._file.seek(len(whole.encode()))
            self._file.truncate()
            if not whole:
                self._write({"work": self._work})
        except OSError as error:
            raise InputError(f"{self._path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"{self._path}: this is not a text file") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; its rows stay."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def keep(self, key: str, row: Row) -> None:
        """Write one row down before anything else happens."""
        self.rows[key] = row
        self._write({"key": key, "row": row})

    def _write(self, value: object) -> None:
        assert self._file is not None, "a journal is written inside its `with` block"
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()

    def _take(self, lines: Sequence[str]) -> None:
        """Take the rows of an earlier start."""
        for number, line in enumerate(lines, 1):
            try:
                value = json.loads(line)
                if number > 1:
                    self.rows[str(value["key"])] = dict(value["row"])
                    continue
                work = value["work"]
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{self._path}, line {number}: this is no line of a journal; "
                    "remove the file to begin anew"
                ) from None
            if work != self._work:
                raise InputError(
                    f"{self._path} holds rows of another work; remove it, or name "
                    "another file"
                )


def rows(
    tasks: Sequence[Task],
    executor: Executor | None = None,
    journal: Journal | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Do all tasks that the journal does not hold, and return the rows of all.

    Args:
        tasks: What is to be done; their keys differ.
        executor: Runs them: threads, a process pool, ``tlbkit.lab.Processes``, what
            ``distributed.Client.get_executor`` returns. By default they run here, one
            after the other.
        journal: Keeps each row as it comes, and holds those of an earlier start.
        progress: Is told how many are done, and of how many.

    Returns:
        One row for each task, in their order, whatever the order in which they ended.

    Errors:
        What a task raises ends the work; the rows that came before are in the journal.
    """
    known = journal.rows if journal is not None else {}
    left = [task for task in tasks if task.key not in known]
    done = {task.key: known[task.key] for task in tasks if task.key in known}
    if progress is not None:
        progress(len(done), len(tasks))
    for task, row in _here(left) if executor is None else _on(executor, left):
        done[task.key] = row
        if journal is not None:
            journal.keep(task.key, row)
        if progress is not None:
            progress(len(done), len(tasks))
    return [done[task.key] for task in tasks]


def _here(tasks: Iterable[Task]) -> Iterator[tuple[Task, Row]]:
    for task in tasks:
        yield task, task.do(*task.arguments)


def _on(executor: Executor, tasks: Iterable[Task]) -> Iterator[tuple[Task, Row]]:
    """Yield each task with its row as soon as it has one."""
    from concurrent.futures import (  # noqa: PLC0415 - no page pays for the import
        FIRST_COMPLETED,
        wait,
    )

    todo = iter(tasks)
    waiting: dict[Future[Row], Task] = {}
    try:
        while True:
            for task in islice(todo, _IN_FLIGHT - len(waiting)):
                waiting[executor.submit(task.do, *task.arguments)] = task
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    finally:
        for future in waiting:
            future.cancel()
