"""Long work: the same rows whatever runs it, kept as they come, gone on with."""

import json
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.errors import InputError
from tlbkit.lab.work import Journal, Task, rows

WORK = {"what": "squares"}


def square(number):
    """Answer one task."""
    return {"number": number, "square": number * number}


def tasks(numbers, do=square):
    """Return a task for each number."""
    return [Task(str(number), do, (number,)) for number in numbers]


class Stops:
    """Answers some tasks, then is interrupted."""

    def __init__(self, after):
        self.asked = []
        self._after = after

    def __call__(self, number):
        """Answer one task, or be interrupted."""
        if len(self.asked) == self._after:
            raise KeyboardInterrupt
        self.asked.append(number)
        return square(number)


@given(st.lists(st.integers(), unique=True))
def test_rows_come_in_the_order_of_their_tasks(numbers):
    """Threads end in any order; the rows are those of a run one by one."""
    with ThreadPoolExecutor(3) as threads:
        assert rows(tasks(numbers), threads) == [square(one) for one in numbers]


@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 40))
def test_what_was_interrupted_goes_on_and_repeats_nothing(
    tmp_path_factory, first, second, torn
):
    """Stopped twice anywhere, its last line torn: each task is done once in all."""
    path = tmp_path_factory.mktemp("work") / "squares.part"
    asked = []
    for after in (first, second, 99):
        stops = Stops(after)
        try:
            with Journal(path, WORK) as journal:
                found = rows(tasks(range(8), stops), journal=journal)
        except KeyboardInterrupt:
            with path.open("a", encoding="utf-8") as file:
                file.write('{"key": "7", "row": {"number": 7, "square": 49}}'[:torn])
        asked += stops.asked
    assert found == [square(one) for one in range(8)]
    assert sorted(asked) == list(range(8))


class Slow(Executor):
    """Answers its oldest call only when it holds as many as it may."""

    def __init__(self, most):
        self.held = []
        self._most = most

    def submit(self, fn, /, *args, **_):
        """Hold one more call."""
        future: Future[Any] = Future()
        self.held.append((future, fn, args))
        assert len(self.held) <= self._most
        if len(self.held) == self._most:
            self.drain(1)
        return future

    def drain(self, number):
        """Answer the oldest calls."""
        for _ in range(number):
            future, fn, args = self.held.pop(0)
            future.set_result(fn(*args))


def test_a_million_tasks_are_not_queued_at_once():
    """An executor never holds more than 256 calls, however long the work."""
    slow = Slow(256)
    numbers = range(1000)

    def told(done, of):
        if of - done == len(slow.held):
            slow.drain(len(slow.held))

    assert rows(tasks(numbers), slow, progress=told) == list(map(square, numbers))


def test_progress_counts_what_was_kept(tmp_path):
    """It begins at what the journal holds, and ends at all."""
    with Journal(tmp_path / "j", WORK) as journal:
        rows(tasks(range(3)), journal=journal)
    told = []
    with Journal(tmp_path / "j", WORK) as journal:
        rows(tasks(range(5)), journal=journal, progress=lambda *one: told.append(one))
    assert told == [(3, 5), (4, 5), (5, 5)]


def test_an_error_of_a_task_ends_the_work_and_keeps_the_rest(tmp_path):
    """What was done before it is in the journal."""

    def fails(number):
        if number == 2:
            raise InputError("two")
        return square(number)

    with (
        pytest.raises(InputError, match="two"),
        Journal(tmp_path / "j", WORK) as journal,
    ):
        rows(tasks(range(5), fails), journal=journal)
    with Journal(tmp_path / "j", WORK) as journal:
        assert journal.rows == {str(one): square(one) for one in range(2)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"work": {"what": "cubes"}}\n', "of another work"),
        ("hello\n", "line 1: this is no line"),
        ('{"work": {"what": "squares"}}\n{"key": "1"}\n', "line 2: this is no line"),
        ('{"work": {"what": "squares"}}\n[]\n', "line 2: this is no line"),
    ],
)
def test_a_journal_that_does_not_fit_is_refused(tmp_path, text, said):
    """It is never mixed with rows of something else, and never overwritten."""
    path = tmp_path / "j"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=said), Journal(path, WORK):
        pass
    assert path.read_text("utf-8") == text


def test_a_journal_where_none_can_be_is_refused(tmp_path):
    """A folder is no file; bytes are no text."""
    with pytest.raises(InputError, match="directory"), Journal(tmp_path, WORK):
        pass
    (tmp_path / "j").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match="text"), Journal(tmp_path / "j", WORK):
        pass


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.floats(0, 1)))
def test_a_row_is_kept_as_it_is(tmp_path_factory, row):
    """Any names and values come back."""
    path = tmp_path_factory.mktemp("work") / "j"
    with Journal(path, WORK) as journal:
        journal.keep("k", row)
    with Journal(path, WORK) as journal:
        assert journal.rows == {"k": row}
    assert len(path.read_text("utf-8").splitlines()) == 2
    assert json.loads(path.read_text("utf-8").splitlines()[0]) == {"work": WORK}
