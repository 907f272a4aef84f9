"""A point of the gallery, seen: without it up to the harm, and with it unharmed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.errors import InputError, TlbkitError
from tlbkit.explore import search
from tlbkit.explore.alike import follow, taped
from tlbkit.explore.scheduler import Choice
from tlbkit.lab.gallery import harm, verdicts
from tlbkit.lab.gallery.names import check
from tlbkit.lab.gallery.programme import PROGRAMME
from tlbkit.lab.recorded import mapped_pages
from tlbkit.linux.kernel.kernel import Kernel
from tlbkit.observe.recorder import recording

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.arm64.machine import Machine
    from tlbkit.explore.scheduler import Run, Schedule
    from tlbkit.lab.gallery.verdicts import Harm
    from tlbkit.observe.recorder import Recorder
    from tlbkit.observe.recording import Recording


PAGES: Final = 8
"""So many pages of one mapping are shown, from its beginning."""


class Take(NamedTuple):
    """One kernel on one schedule.

    Attributes:
        name: What kernel it is.
        recording: What it did, up to the harm, or until all flows were done.
        run: The run, with the world as it was left and what was raised.
        ending: How it ends, in a sentence.
        harmed: Whether it ends in harm.
    """

    name: str
    recording: Recording
    run: Run
    ending: str
    harmed: bool


class _Camera:
    """Records a machine, and watches every page that somebody has mapped."""

    def __init__(self) -> None:
        self._recorder: Recorder | None = None

    @contextmanager
    def around(self, machine: Machine) -> Iterator[None]:
        """Record until the end of the ``with`` block."""
        kernel = machine.software
        assert isinstance(kernel, Kernel)
        with recording(machine, mapped_pages(kernel, PAGES)) as recorder:
            self._recorder = recorder
            yield

    def finish(self) -> Recording:
        """Return what was recorded."""
        assert self._recorder is not None
        return self._recorder.finish()


SAFE: Final = "No harm: each access gets what the tables say."


def ends(point: str, meeting: str = "") -> Harm:
    """Return how it ends without a point: as the gallery says, or in another meeting.

    Args:
        point: As the gallery names it.
        meeting: Where to search; if not given, nothing is searched.

    Errors:
        InputError: There is no such point or meeting, or no harm comes of it.
    """
    known = verdicts.find(point).harm
    if known is not None and not meeting:
        if _still(point, known):
            return known
        meeting = known.meeting  # the flows have changed since
    found = None
    if meeting:
        check("meeting", meeting, PROGRAMME, "python -m tlbkit meetings")
        breach = search.explore(PROGRAMME[meeting].scenario({point}), loads=True).breach
        found = harm.told(harm.find(point, meeting, breach)) if breach else None
    if found is None:
        raise InputError(f"{point!r}: no harm was found without it")
    return found


def _still(point: str, told: Harm) -> bool:
    """Tell whether a schedule that is kept ends in the harm that it is kept for."""
    scenario = PROGRAMME[told.meeting].scenario(
        {point}, rules=harm.Witness, more=told.more
    )
    run = search.replay(scenario, _schedule(told), loads=True)
    return run.error is not None and harm.kind(run.error) == told.kind


def _schedule(told: Harm) -> Schedule:
    return tuple(Choice(step, flow) for step, flow in told.schedule)


def replay(point: str, told: Harm) -> tuple[Take, Take]:
    """Show what is harmed without a point, and the same schedule with it.

    Neither goes on to the end of the processes: where the harm is that memory is not
    given back then, that shows in no step, and is told.
    """
    meeting = PROGRAMME[told.meeting]
    broken = meeting.scenario({point}, rules=harm.Witness, more=told.more, leave=False)
    camera = _Camera()
    run, tape = taped(broken, _schedule(told), camera.around, loads=True)
    ending = _line(run.error) if run.error else f"When the processes end: {told.error}"
    without = Take(f"without {point}", camera.finish(), run, ending, harmed=True)
    camera = _Camera()
    complete = meeting.scenario(more=told.more, leave=False)
    run = follow(complete, tape, camera.around)
    ending = _line(run.error) if run.error else SAFE
    return without, Take(
        "the complete kernel", camera.finish(), run, ending, harmed=bool(run.error)
    )


def _line(error: TlbkitError) -> str:
    """Return what an error says, without the report behind it."""
    return str(error).partition("\n")[0]
