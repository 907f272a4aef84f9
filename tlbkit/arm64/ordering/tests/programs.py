"""Random small programs."""

from __future__ import annotations

from functools import partial
from operator import ne

from hypothesis import strategies as st

from tlbkit.arm64.ordering import (
    INVALID,
    Accesses,
    Atomic,
    Branch,
    Choice,
    CompareAndSwap,
    Computed,
    Data,
    Depends,
    Dmb,
    Domain,
    Dsb,
    Entry,
    Hardware,
    Instruction,
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


def _add(read):
    """Return a number made of one that was read."""
    return read + 10


@st.composite
def dependent_threads(draw, number, size):
    """Draw the steps of a thread that computes with what it reads, as assembly does."""
    steps: list[Instruction] = []
    read: list[str] = []
    for place in range(draw(st.integers(1, size))):
        register = f"r{place}"
        earlier = draw(st.sampled_from([*read, ""]))
        on = Depends()
        if earlier:
            kinds = ("address", "data", "picked_address", "picked_data")
            kind = draw(st.sampled_from(kinds))
            on = Depends(**{kind: frozenset([earlier])})
        value = 10 * number + place
        faults = draw(st.sampled_from((None, None, None, True, False)))
        computed = Computed((register,), _add)
        step = draw(
            st.one_of(
                st.builds(
                    Load,
                    _data,
                    st.just(register),
                    acquire=st.booleans(),
                    weak=st.booleans(),
                    depends=st.just(on),
                    faults=st.just(faults),
                ),
                st.builds(
                    Store,
                    _data,
                    st.just(value),
                    release=st.booleans(),
                    depends=st.just(on),
                    faults=st.just(faults),
                ),
                st.builds(
                    Atomic,
                    _data,
                    st.sampled_from((value, computed)),
                    st.just(register),
                    acquire=st.booleans(),
                    release=st.booleans(),
                    returns=st.booleans(),
                    depends=st.just(on),
                ),
                st.builds(Store, _table, entries, depends=st.just(on)),
                st.builds(Tlbi, st.sampled_from(PAGES), depends=st.just(on)),
                barriers,
            )
        )
        steps.append(step)
        if faults and getattr(step, "faults", None):
            steps.append(Isb())
        elif isinstance(step, Load | Atomic):
            read.append(register)
            if draw(st.booleans()):
                wanted = draw(st.integers(100, 101))
                is_wanted = Computed((register,), partial(ne, wanted))
                on = Depends(data=frozenset([register]))
                steps.append(Choice(is_wanted, draw(st.booleans()), on))
    return tuple(steps)


@st.composite
def dependent_programs(draw, size=3):
    """Draw a program of two threads that compute, on CPUs that may differ."""
    hardware = (draw(st.sampled_from(Hardware)), draw(st.sampled_from(Hardware)))
    return Program(
        tuple(draw(dependent_threads(number, size)) for number in range(2)),
        tuple((page, draw(entries)) for page in PAGES),
        tuple((frame, 100 + i) for i, frame in enumerate(FRAMES)),
        by_cpu=hardware,
    )


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
