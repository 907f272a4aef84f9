"""Laws of physical memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.memory import MemoryAccessError, PhysicalMemory, WordError

SHIFTS = (12, 14, 16)
FRAMES = (0, 1, 511, 512, 513, 1 << 36)
words = st.integers(0, (1 << 64) - 1) | st.just(0)
frames = st.sampled_from(FRAMES)
indices = st.sampled_from((0, 1, 2, 511))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), frames, indices, words),
        st.tuples(st.just("swap"), frames, indices, words),
        st.tuples(st.just("compare"), frames, indices, words, words),
        st.tuples(st.just("right compare"), frames, indices, words),
        st.tuples(st.just("clear"), frames),
        st.tuples(st.just("copy"), frames, frames),
        st.tuples(st.just("save"), frames, frames),
        st.tuples(st.just("whole"), frames),
    ),
    max_size=40,
)


@given(st.sampled_from(SHIFTS), operations)
def test_memory_is_a_dictionary_of_words(shift, sequence):
    """Every operation does what it would do on words that are zero until written."""
    memory = PhysicalMemory(shift)
    model = {}
    for name, pfn, *rest in sequence:
        key = pfn, rest[0] if rest else 0
        pa = (pfn << shift) + 8 * rest[0] if rest else 0
        match name:
            case "write":
                memory.write(pa, rest[1])
                model[key] = rest[1]
            case "swap":
                assert memory.swap(pa, rest[1]) == model.get(key, 0)
                model[key] = rest[1]
            case "compare":
                was = model.get(key, 0)
                assert memory.compare_exchange(pa, rest[1], rest[2]) == was
                if was == rest[1]:
                    model[key] = rest[2]
            case "right compare":
                was = model.get(key, 0)
                assert memory.compare_exchange(pa, was, rest[1]) == was
                model[key] = rest[1]
            case "clear":
                memory.clear_frame(pfn)
                model = {key: word for key, word in model.items() if key[0] != pfn}
            case "copy":
                source, target = pfn, rest[0]
                memory.copy_frame(source, target)
                copy = {key[1]: word for key, word in model.items() if key[0] == source}
                model = {key: word for key, word in model.items() if key[0] != target}
                model |= {(target, index): word for index, word in copy.items()}
            case "save":
                source, target = pfn, rest[0]
                saved = memory.save_frame(source)
                memory.write(source << shift, 77)
                memory.load_frame(target, saved)
                copy = {key[1]: word for key, word in model.items() if key[0] == source}
                model[source, 0] = 77
                model = {key: word for key, word in model.items() if key[0] != target}
                model |= {(target, index): word for index, word in copy.items()}
            case "whole":
                held = memory.frame(pfn)
                assert held[0] == model.get((pfn, 0), 0)
    for pfn in FRAMES:
        for index in (0, 1, 2, 510, 511):
            found = memory.read((pfn << shift) + 8 * index)
            assert found == model.get((pfn, index), 0)
        mine = [word for key, word in model.items() if key[0] == pfn]
        assert memory.is_clear(pfn) is not any(mine)


@given(st.sampled_from(SHIFTS), frames, words)
def test_a_frame_is_the_memory_itself(shift, pfn, word):
    """Who has the words of a frame reads and writes memory with them."""
    memory = PhysicalMemory(shift)
    memory.write(pfn << shift, word)
    held = memory.frame(pfn)
    assert len(held) == 1 << shift - 3
    assert held[0] == word
    held[7] = word
    assert memory.read((pfn << shift) + 56) == word
    memory.write((pfn << shift) + 64, word)
    assert held[8] == word


@given(st.sampled_from(SHIFTS), st.data())
def test_zeros_are_counted_up_to_a_word_that_is_none(shift, data):
    """As many words are zero as one finds by reading on, to the end of the frame."""
    memory = PhysicalMemory(shift)
    places = st.integers(0, memory.words - 1)
    for index, word in data.draw(st.dictionaries(places, words, max_size=4)).items():
        memory.write(8 * index, word)
    start = data.draw(places)
    count = 0
    while start + count < memory.words and not memory.read(8 * (start + count)):
        count += 1
    assert memory.zeros(8 * start) == count


@pytest.mark.parametrize("pa", [1, 4, -8, 0x1007])
@pytest.mark.parametrize("whole", [False, True])
def test_only_whole_aligned_words_are_accessed(pa, whole):
    """Any other address is an error that names it, and nothing changes."""
    memory = PhysicalMemory()
    if whole:
        memory.frame(0)
        memory.frame(1)
    for access in (
        lambda: memory.read(pa),
        lambda: memory.write(pa, 1),
        lambda: memory.swap(pa, 1),
        lambda: memory.compare_exchange(pa, 0, 1),
    ):
        with pytest.raises(MemoryAccessError, match="multiple of 8") as caught:
            access()
        assert caught.value.pa == pa
    assert memory.is_clear(0)
    assert memory.is_clear(1)


@pytest.mark.parametrize("value", [-1, 1 << 64])
@pytest.mark.parametrize("pa", [0, 8, 0x1000])
def test_a_word_has_64_bits(pa, value):
    """What does not fit is an error, and nothing changes."""
    memory = PhysicalMemory()
    memory.frame(1)
    for store in (
        lambda: memory.write(pa, value),
        lambda: memory.swap(pa, value),
        lambda: memory.compare_exchange(pa, 0, value),
    ):
        with pytest.raises(WordError, match="a word holds") as caught:
            store()
        assert (caught.value.pa, caught.value.value) == (pa, value)
    assert memory.read(pa) == 0


@given(
    st.sampled_from(SHIFTS),
    frames,
    st.lists(
        st.tuples(st.integers(0, 56), st.sampled_from((1, 2, 4, 8)), words),
        max_size=20,
    ),
)
def test_memory_is_a_string_of_bytes_too(shift, pfn, stores):
    """A part of a word, or of two, is what it would be in a string of bytes."""
    memory = PhysicalMemory(shift)
    model = bytearray(64)
    base = pfn << shift
    for place, size, word in stores:
        value = word & (1 << 8 * size) - 1
        old = int.from_bytes(model[place : place + size], "little")
        assert memory.load(base + place, size) == old
        assert memory.replace(base + place, value, size) == old
        model[place : place + size] = value.to_bytes(size, "little")
    for place in range(0, 64, 8):
        word = int.from_bytes(model[place : place + 8], "little")
        assert memory.read(base + place) == word
