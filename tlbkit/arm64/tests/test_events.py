"""Laws of the event stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.events import Event, Stream

KINDS = ("store", "fill", "drop", "dsb")
kinds = st.lists(st.sampled_from(KINDS), max_size=12)
interests = st.none() | st.sets(st.sampled_from(KINDS))


def emit_all(stream, sequence):
    """Emit events of these kinds, as an emitter does."""
    for number, kind in enumerate(sequence):
        if kind in stream.heard:
            stream.emit(number, kind)


@given(kinds, st.lists(interests, max_size=4))
def test_each_listener_hears_what_it_asked_for_in_order(sequence, wanted):
    """A listener is told every event of its kinds, once and in order, and no other."""
    stream = Stream()
    heard: list[list[Event]] = [[] for _ in wanted]
    for kinds_of_one, events in zip(wanted, heard, strict=True):
        stream.listen(events.append, kinds_of_one)
    emit_all(stream, sequence)
    for kinds_of_one, events in zip(wanted, heard, strict=True):
        expected = [
            (number, kind)
            for number, kind in enumerate(sequence)
            if kinds_of_one is None or kind in kinds_of_one
        ]
        assert [(event.cpu, event.kind) for event in events] == expected


@given(kinds)
def test_numbers_run_from_one(sequence):
    """Events that somebody hears are numbered without gaps."""
    stream = Stream()
    events: list[Event] = []
    stream.listen(events.append)
    emit_all(stream, sequence)
    assert [event.number for event in events] == list(range(1, len(sequence) + 1))
    assert stream.number == len(sequence)


@given(kinds, interests)
def test_what_nobody_hears_is_not_asked_for(sequence, wanted):
    """`heard` has exactly the kinds that listeners and scheduler have named."""
    stream = Stream()
    assert not any(kind in stream.heard for kind in sequence)
    listener = list[Event]().append
    stream.listen(listener, wanted)
    for kind in sequence:
        assert (kind in stream.heard) is (wanted is None or kind in wanted)
    stream.schedule(listener, {"dsb"})
    assert "dsb" in stream.heard
    stream.leave(listener)
    for kind in sequence:
        assert (kind in stream.heard) is (kind == "dsb")
    stream.schedule(None)
    assert not any(kind in stream.heard for kind in sequence)


def test_listeners_are_told_one_after_the_other():
    """Those who came first are told first."""
    stream = Stream()
    told = []
    for name in "abc":

        def listener(event, name=name):
            told.append((name, event.kind))

        stream.listen(listener)
    emit_all(stream, ["store", "fill"])
    assert told == [(name, kind) for kind in ("store", "fill") for name in "abc"]


def test_one_who_never_listened_cannot_leave():
    """To remove a listener that is not there is an error, and all others stay."""
    stream = Stream()
    one, other, never = (list[Event]().append for _ in range(3))
    stream.listen_by_kind({"dsb": one, "fill": other})
    with pytest.raises(ValueError, match="not in list"):
        stream.leave(one, never)
    assert "dsb" in stream.heard
    stream.leave(one, other)
    assert "dsb" not in stream.heard
    assert "fill" not in stream.heard


@given(kinds, kinds, kinds)
def test_held_events_are_told_together(before, held, after):
    """Keeping events back changes when they are told, not what or in which order."""
    stream = Stream()
    told = []
    stream.listen(lambda event: told.append(event.kind))
    emit_all(stream, before)
    assert stream.hold()
    assert not stream.hold()
    emit_all(stream, held)
    assert told == before
    stream.release()
    assert told == before + held
    emit_all(stream, after)
    assert told == before + held + after


def test_the_scheduler_acts_when_everybody_knows():
    """It is called after all listeners, and once for a group, with the last of it."""
    stream = Stream()
    told = []
    stream.schedule(lambda event: told.append(("act", event.kind)), {"fill", "store"})
    stream.listen(lambda event: told.append(("hear", event.kind)))
    emit_all(stream, ["store", "dsb"])
    assert told == [("hear", "store"), ("act", "store"), ("hear", "dsb")]
    told.clear()
    stream.hold()
    emit_all(stream, ["store", "fill", "dsb"])
    stream.release()
    assert told[-1] == ("act", "fill")
    assert [kind for who, kind in told if who == "hear"] == ["store", "fill", "dsb"]
    assert len(told) == 4


def test_a_scheduler_may_make_events_of_its_own():
    """What happens while another CPU runs is told in between, with higher numbers."""
    stream = Stream()
    told = []
    stream.listen(lambda event: told.append((event.number, event.kind)))

    def other(event):
        stream.schedule(None)
        stream.emit(1, "dsb")
        assert event.kind == "fill"

    stream.schedule(other)
    stream.hold()
    emit_all(stream, ["store", "fill"])
    stream.release()
    stream.emit(0, "drop")
    assert told == [(1, "store"), (2, "fill"), (3, "dsb"), (4, "drop")]
