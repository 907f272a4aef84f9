"""Every TLBI of a replay, as columns."""

from __future__ import annotations

from array import array
from importlib import import_module
from math import isnan, nan
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.tlbi import OPERATIONS
from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.lab.trace.records import Where

NAMES = ("form", "call", "function", "file")
"""The columns that hold names."""


class Issued:
    """The TLBIs of a replay in their order, six numbers each.

    Names are held once, so that a long trace costs no more memory than its numbers.
    """

    def __init__(self) -> None:
        self._times = array("d")
        self._numbers = {name: array("q") for name in ("task", "line", *NAMES)}
        self._names: dict[str, int] = {}

    def __len__(self) -> int:
        """How many TLBIs were issued."""
        return len(self._times)

    def __eq__(self, other: object) -> bool:
        """Tell whether both hold the same TLBIs; untold times are equal."""
        return (
            isinstance(other, Issued)
            and self._times.tobytes() == other._times.tobytes()
            and self._numbers == other._numbers
            and self._names == other._names
        )

    __hash__ = object.__hash__

    def add(
        self,
        form: str,
        task: int,
        call: str,
        function: str,
        at: Where | None,
        time: float | None,
    ) -> None:
        """Note one TLBI: its form, who issued it in which call, line and function."""
        self._times.append(nan if time is None else time)
        self._numbers["task"].append(task)
        self._numbers["line"].append(0 if at is None else at.line)
        for name, value in zip(
            NAMES, (form, call, function, "" if at is None else at.file), strict=True
        ):
            code = self._names.setdefault(value, len(self._names))
            self._numbers[name].append(code)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each TLBI as a row; the names are those of `columns`.

        A time that the trace does not tell is ``None``.
        """
        names = list(self._names)
        for place, time in enumerate(self._times):
            row: dict[str, Any] = {"time": None if isnan(time) else time}
            for name, numbers in self._numbers.items():
                one = numbers[place]
                row[name] = names[one] if name in NAMES else one
            row["broadcast"] = OPERATIONS[row["form"]].broadcast
            yield row

    def columns(self) -> dict[str, Any]:
        """Return NumPy arrays of one length: a row for each TLBI, in order.

        ``time`` in seconds on the clock of the trace, NaN where it tells none;
        ``task``, the thread, 0 where it is not told; ``line`` of ``file`` that made it;
        ``form`` such as VALE1IS; the system ``call``, or "page fault"; the kernel
        ``function`` that asked for it; ``broadcast``, whether it went to all CPUs.
        """
        import numpy as np  # noqa: PLC0415 - counts alone need no arrays

        names = np.array(list(self._names) or [""], dtype=str)
        found = {"time": np.array(self._times)}
        for name, numbers in self._numbers.items():
            one = np.array(numbers)
            found[name] = names[one] if name in NAMES else one
        broadcast = [OPERATIONS[form].broadcast for form in found["form"].tolist()]
        return {**found, "broadcast": np.array(broadcast, dtype=bool)}

    def frame(self) -> Any:
        """Return `columns` as a pandas data frame.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            pandas: Any = import_module("pandas")
        except ModuleNotFoundError:
            raise InputError(
                "a data frame needs pandas: pip install pandas; columns() needs NumPy "
                "alone"
            ) from None
        return pandas.DataFrame(self.columns())
