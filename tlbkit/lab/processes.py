"""A pool of processes that outlives each of its workers."""

from __future__ import annotations

from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tlbkit.errors import TlbkitError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

P = ParamSpec("P")
T = TypeVar("T")

_TRIES = 3
"""How often a task may take its worker with it before it is given up."""


class WorkerLostError(TlbkitError):
    """A task ended its worker each time that it was run: memory, or a crash."""

    def __init__(self, task: str) -> None:
        super().__init__(
            f"{task} ended its process {_TRIES} times; is there memory enough?"
        )


class Processes(Executor):
    """Runs each call in one of some processes; a lost process costs one call anew.

    The standard library's pool gives up every call that waits when one of its
    processes dies. Here each process is a pool of its own, so that only the call that
    it was at is run again, in a new one.

    Args:
        workers: How many processes.
    """

    def __init__(self, workers: int) -> None:
        self._threads = ThreadPoolExecutor(workers)
        self._idle: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
        self._workers = workers
        for _ in range(workers):
            self._idle.put(_one())

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Have *fn* called in the next process that is free."""

        def do() -> T:
            process = self._idle.get()
            try:
                for _ in range(_TRIES):
                    try:
                        return process.submit(fn, *args, **kwargs).result()
                    except BrokenProcessPool:
                        process.shutdown(wait=False)
                        process = _one()
                raise WorkerLostError(getattr(fn, "__name__", "a call"))
            finally:
                self._idle.put(process)

        return self._threads.submit(do)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the standard library's signature
        """End the processes once what they are at is done."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            for _ in range(self._workers):
                self._idle.get().shutdown(wait=True, cancel_futures=cancel_futures)


def _one() -> ProcessPoolExecutor:
    """Return a pool of one process, which starts with the first call."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))
