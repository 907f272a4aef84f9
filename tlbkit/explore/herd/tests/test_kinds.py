"""Lists of verdicts."""

import pytest

from tlbkit.errors import InputError
from tlbkit.explore.herd import load_kinds


def test_each_line_is_a_verdict():
    """Two spellings of each; comments and what follows are passed over."""
    text = "# all\na Allow\nb  Forbidden (1 0)\n\nc Required # sure\nd Order\ne\n"
    assert load_kinds(text, "k") == {"a": "Allowed", "b": "Forbidden", "c": "Required"}


@pytest.mark.parametrize("text", ["a b\n", "x Allow\nx Forbid\n", "a " + "b" * 10_000])
def test_what_is_no_verdict_is_refused_with_its_line(text):
    """So is a test with two verdicts."""
    with pytest.raises(InputError, match=r"^k:\d+: ") as caught:
        load_kinds(text, "k")
    assert len(str(caught.value)) < 300
