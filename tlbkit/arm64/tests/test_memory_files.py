"""Files of physical memory: cores and raw bytes, whole and damaged."""

import struct
from array import array

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlbkit.arm64.image import answer
from tlbkit.arm64.memory_files import MemoryFile
from tlbkit.arm64.tests.test_image import image
from tlbkit.errors import InputError

reused = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def elf(segments, machine=183):
    """An ELF core whose segments are (physical address, bytes)."""
    start = 64 + 56 * len(segments)
    headers, body = b"", b""
    for pa, data in segments:
        offset = start + len(body)
        headers += struct.pack(
            "<IIQQQQQQ", 1, 0, offset, 0, pa, len(data), len(data), 0
        )
        body += data
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(ident, 4, machine, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0),
    )
    return head + headers + body


def words(*values):
    """Some words as bytes."""
    return array("Q", values).tobytes()


segments = st.lists(
    st.tuples(
        st.integers(0, 40).map(lambda n: n << 12),
        st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda one: one[0],
)


@reused
@given(segments)
def test_a_core_has_the_words_of_its_segments(tmp_path, held):
    """Each word lies where its segment says, and there are no others."""
    path = tmp_path / "core"
    path.write_bytes(elf([(pa, words(*values)) for pa, values in held]))
    core = MemoryFile(path)
    for pa, values in held:
        assert [core.read(pa + 8 * n) for n in range(len(values))] == values
        assert core.read(pa + 8 * len(values)) is None
    assert core.read(1 << 40) is None


def test_raw_bytes_begin_where_the_caller_says(tmp_path):
    """At the address given, behind the bytes that are passed over."""
    path = tmp_path / "raw"
    path.write_bytes(words(1, 2, 3) + b"xyz")
    raw = MemoryFile(path, 0x4000_0000, 8)
    found = [raw.read(0x4000_0000 + 8 * n) for n in range(-1, 4)]
    assert found == [None, 2, 3, None, None]


def test_an_image_may_have_its_tables_in_files(tmp_path):
    """Words listed, a core and raw bytes are one memory."""
    dump = image({"va": "0x1000", "at": "S1E0R"})
    whole = answer(dump)
    tables = {int(pa, 16): int(word, 16) for pa, word in dump["memory"]}
    (tmp_path / "core").write_bytes(elf([(0x2000, words(tables[0x2000]))]))
    (tmp_path / "raw").write_bytes(words(tables[0x3000]))
    dump["memory"] = [
        pair for pair in dump["memory"] if pair[0] in ("0x1000", "0x4008")
    ]
    dump["files"] = [{"path": "core"}, {"path": "raw", "pa": "0x3000"}]
    assert answer(dump, tmp_path) == whole
    dump["files"].pop()
    assert answer(dump, tmp_path) == [{"missing": "0x3000", "level": 2}]


@pytest.mark.parametrize(
    ("content", "how", "said"),
    [
        (None, {}, "No such file"),
        (b"", {"pa": 0}, "the file is empty"),
        (b"KDUMP   \0\0", {}, "a compressed kdump; unpack it"),
        (b"makedumpfile\0", {}, "a flattened dump"),
        (b"\x1f\x8b\x08", {"pa": 0}, "packed by gzip"),
        (words(1), {}, "say which physical address"),
        (words(1), {"pa": 4}, "multiples of 8"),
        (words(1), {"pa": 0, "offset": 8}, "within the 0x8 bytes"),
        (elf([(0, words(1))]), {"pa": 0}, "says itself where its bytes belong"),
        (elf([(0, words(1))], machine=62), {}, "little-endian arm64"),
        (elf([]), {}, "no segment with bytes"),
        (elf([(0, words(1, 2))])[:-8], {}, "segment 0 ends at"),
        (elf([(0, words(1))])[:70], {}, "program headers are cut off"),
        (b"\x7fELF\x02\x01", {}, "its header is cut off"),
    ],
)
def test_a_file_that_is_no_memory_is_refused(tmp_path, content, how, said):
    """The error names the file, what is wrong with it, and what to do."""
    path = tmp_path / "memory"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        MemoryFile(path, **how)
    assert said in str(error.value)
    assert str(path) in str(error.value)


@reused
@given(st.data())
def test_a_damaged_core_is_read_or_refused(tmp_path, data):
    """Whatever bytes of it change, it ends in words or in one sentence."""
    whole = bytearray(elf([(0x1000, words(1, 2)), (0x9000, words(3))]))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(
            st.integers(0, 255)
        )
    path = tmp_path / "core"
    path.write_bytes(bytes(whole[: data.draw(st.integers(1, len(whole)))]))
    try:
        core = MemoryFile(path)
    except InputError as error:
        said = str(error)
    else:
        said = str(core.read(0x1000))
    assert said
