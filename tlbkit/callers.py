"""Who calls whom: the one place that looks at Python's stack.

A step that can be taken out is named after the function that asks for it, a report
names the path of kernel functions to what it found, and a recording folds its steps
into calls. All three need the frames that are at work.
"""

from __future__ import annotations

from inspect import currentframe
from typing import TYPE_CHECKING

from tlbkit.errors import TlbkitError

if TYPE_CHECKING:
    from types import FrameType


def caller() -> FrameType:
    """Return the frame of whoever called the function that asks.

    Raises:
        TlbkitError: This Python does not show its stack, or nobody called.

    >>> def asks():
    ...     return caller().f_code.co_name
    >>> def calls():
    ...     return asks()
    >>> calls()
    'calls'
    """
    here = currentframe()
    asks = here.f_back if here else None
    found = asks.f_back if asks else None
    if found is None:
        raise TlbkitError(
            "the stack of Python is needed to name callers, and it is not to be seen; "
            "run this on CPython or Pyodide, inside a function"
        )
    return found
