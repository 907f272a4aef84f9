"""Random small programs."""

from __future__ import annotations

from hypothesis import strategies as st

from tlbkit.arm64.ordering import (
    INVALID,
    Accesses,
    Branch,
    CompareAndSwap,
    Data,
    Dmb,
    Domain,
    Dsb,
    Entry,
    Hardware,
    Isb,
    Load,
    Program,
    Store,
    Swap,
    Table,
    Tlbi,
)

PAGES = ("x", "y")
FRAMES = ("a", "b")


def to(frame, **bits):
    """Return a valid entry."""
    return Entry(valid=True, frame=frame, **bits)


entries = st.one_of(
    st.just(INVALID),
    st.builds(
        to,
        st.sampled_from(FRAMES),
        writable=st.booleans(),
        young=st.booleans(),
        dbm=st.booleans(),
    ),
)
barriers = st.one_of(
    st.builds(Dmb, st.sampled_from(Accesses), st.sampled_from(Domain)),
    st.builds(Dsb, st.sampled_from(Accesses), st.sampled_from(Domain)),
    st.just(Isb()),
)
_data = st.builds(Data, st.sampled_from(PAGES))
_table = st.just(Table("x"))


@st.composite
def threads(draw, number, size):
    """Draw the steps of one thread; each load gets a register of its own."""
    steps = []
    for place in range(draw(st.integers(1, size))):
        register = f"r{place}"
        step = draw(
            st.one_of(
                st.builds(Load, _data, st.just(register), acquire=st.booleans()),
                st.builds(
                    Store, _data, st.just(10 * number + place), release=st.booleans()
                ),
                st.builds(Load, _table, st.just(register)),
                st.builds(Store, _table, entries),
                st.builds(Swap, _table, entries, st.just(register)),
                st.builds(CompareAndSwap, _table, entries, entries, st.just(register)),
                st.builds(
                    Tlbi, st.sampled_from((*PAGES, None)), broadcast=st.booleans()
                ),
                barriers,
                barriers,
            )
        )
        steps.append(step)
        if getattr(step, "register", "") and draw(st.booleans()):
            steps.append(Branch(register))
    return tuple(steps)


@st.composite
def programs(draw, size=3, most_threads=2):
    """Draw a program of `most_threads` threads of `size` steps at most."""
    count = draw(st.integers(1, most_threads))
    return Program(
        tuple(draw(threads(number, size)) for number in range(count)),
        tuple((page, draw(entries)) for page in PAGES),
        tuple((frame, 100 + i) for i, frame in enumerate(FRAMES)),
        draw(st.sampled_from(Hardware)),
    )
