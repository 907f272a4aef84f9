"""Interleavings: the reader is the scheduler.

`tlbkit.explore.search` looks for the shortest schedule that breaks a rule, over flows
of `tlbkit.explore.scheduler`; `tlbkit.explore.graph` draws all schedules of a small
scenario. They need greenlet; `tlbkit.explore.litmus`, which runs litmus tests, does
not.

The package can be called, and then it is `tlbkit.explore.search.explore`: both would
have the same name in ``tlbkit``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlbkit.explore.search import Search


class _Explore(ModuleType):
    """This package, which is called to search: ``from tlbkit import explore``."""

    def __call__(self, *arguments: Any, **settings: Any) -> Search:
        """Search schedules: `tlbkit.explore.search.explore`."""
        from tlbkit.explore.search import explore  # noqa: PLC0415 - it needs greenlet

        return explore(*arguments, **settings)


sys.modules[__name__].__class__ = _Explore
