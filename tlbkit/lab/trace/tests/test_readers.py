"""Every way in which strace and perf print, and what is none of them."""

import gzip
import lzma

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit import Trace
from tlbkit.errors import InputError
from tlbkit.lab.trace.records import Call, Ended, Executed, Mapped, PageFault
from tlbkit.lab.trace.words import flags, split

CALLS = (
    'execve("/bin/a", [...], 0xff /* 9 vars */) = 0',
    "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7000",
    "munmap(0x7000, 8192) = 0",
)
PREFIXES = {
    "-f -ttt": "167   1796075885.7{0}3241 ",
    "-f -tt": "167   21:53:0{0}.449881 ",
    "-f -t": "167   21:53:0{0} ",
    "-f -r": "167        0.00{0}132 ",
    "-f": "167   ",
    "[pid N] -tt": "[pid   167] 21:53:0{0}.449881 ",
    "none": "",
}


def read(text, name="a.txt"):
    """Read one file that holds *text*."""
    return Trace.of_text({name: text.encode()})


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
@pytest.mark.parametrize("took", ["", " <0.000314>"])
def test_the_same_calls_are_read_however_they_are_printed(prefix, took):
    """Neither the way to tell time nor the one to tell threads changes a call."""
    lines = [prefix.format(i) + call + took for i, call in enumerate(CALLS)]
    trace = read("\n".join(lines))
    assert trace.used == 1
    calls = [record for record in trace.records if isinstance(record, Call)]
    assert [call.name for call in calls] == ["execve", "mmap", "munmap"]
    assert [call.result for call in calls] == [0, 0x7000, 0]
    assert len({call.task for call in calls}) == 1
    assert calls[1].args[2] == "PROT_READ|PROT_WRITE"


def test_a_call_that_ends_later_stands_where_it_began():
    """Its arguments and its result come from the line on which it was resumed."""
    trace = read(
        "1 mprotect(0x7000, 4096, PROT_READ <unfinished ...>\n"
        "2 munmap(0x9000, 4096) = 0\n"
        "1 <... mprotect resumed>) = -1 ENOMEM (Cannot allocate memory)\n"
    )
    first, second = trace.records
    assert (first.name, first.errno, first.result) == ("mprotect", "ENOMEM", -1)
    assert second.name == "munmap"


def test_a_line_that_was_printed_into_another_is_mended():
    """What strace says itself may stand in the midst of a call."""
    trace = read(
        "munmap(0x7000, 4096) = 0\n"
        "clone3({flags=CLONE_VM\n"
        " => {parent_tid=[9]}, 88) = 9\n"
    )
    assert trace.used == 1
    assert trace.records[1].result == 9


def test_a_file_for_each_thread_has_its_number_in_its_name():
    """-ff prints no number on the lines."""
    trace = Trace.of_text({"log.41": b"munmap(0x7000, 4096) = 0\n"})
    assert trace.records[0].task == 41


def test_ends_signals_and_remarks_are_no_calls():
    """They are read, and only an end is kept."""
    trace = read(
        "munmap(0x7000, 4096) = 0\n"
        "--- SIGSEGV {si_signo=SIGSEGV} ---\n"
        "strace: Process 9 attached\n"
        "+++ exited with 0 +++\n"
    )
    assert trace.used == 1
    assert [type(record) for record in trace.records] == [Call, Ended]


def test_flags_are_read_by_name_and_by_number():
    """0x10 is PROT_BTI on arm64, which strace gives as a number."""
    assert flags("PROT_READ|0x10", {"PROT_READ": 1}) == 0x11


@given(st.text(max_size=200))
def test_arguments_are_cut_without_losing_a_character_of_them(text):
    """Whatever the text: all that is no comma and no space is in some argument."""
    kept = "".join(split(text)).replace(",", "").split()
    assert "".join(kept) == "".join(text.replace(",", "").split())


PERF = (
    "  a  167/167 [002] 9.5: PERF_RECORD_COMM exec: a:167/167\n"
    "  a  167/167 [002] 9.6: PERF_RECORD_MMAP2 167/167: [0x7000(0x2000) @ 0x1000 00:02 "
    "20 3]: r-xp /bin/a\n"
    "  a b 167/168 [001] 9.7: page-faults:  7010 [unknown] (/bin/a)  "
    "ffff800080f9208c __arch_clear_user ([kernel.kallsyms])\n"
)


def test_perf_script_tells_programs_mappings_and_faults():
    """With its own records and addresses, whatever spaces a name has."""
    trace = read(PERF)
    executed, mapped, fault = trace.records
    assert isinstance(executed, Executed)
    assert isinstance(mapped, Mapped)
    assert (mapped.start, mapped.length, mapped.offset) == (0x7000, 0x2000, 0x1000)
    assert isinstance(fault, PageFault)
    assert (fault.address, fault.cpu, fault.task, fault.pid) == (0x7010, 1, 168, 167)
    assert fault.symbol == "__arch_clear_user"


def test_a_perf_script_without_addresses_says_what_is_missing():
    """The number after the event is then the instruction."""
    trace = read("jit 181 22.14: 1 page-faults: fffff7fc5248 [unknown] (/lib/ld.so)\n")
    assert not trace.records
    assert any("-F +addr" in note for note in trace.notes)


def test_perf_trace_tells_calls_and_places_in_files():
    """Times are in ms, arguments have names, a fault may be at a place in a file."""
    trace = read(
        " 9.110 ( 0.001 ms): a/7 munmap(addr: 0x7000, len: 4096)   = 0\n"
        " 9.160 ( 0.000 ms): a/7 minfault [f+0x4] => /bin/a@0x20 (d.)\n"
    )
    call, fault = trace.records
    assert call.named == {"addr": "0x7000", "len": "4096"}
    assert (fault.file, fault.address, fault.offset) == ("/bin/a", 0x20, True)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_packed_file_is_unpacked(pack):
    """By what it is, not by its name."""
    trace = Trace.of_text({"x": pack(b"munmap(0x7000, 4096) = 0\n")})
    assert trace.used == 1


def test_a_damaged_archive_is_an_error_that_names_the_file():
    """It is no traceback of a library."""
    with pytest.raises(InputError, match="x: it is packed, and damaged"):
        Trace.of_text({"x": lzma.compress(b"munmap(0x7000, 4096) = 0\n")[:-9]})


def test_what_is_of_no_tool_is_refused_by_name():
    """With what would have been read."""
    with pytest.raises(InputError, match="strace, perf script or perf trace"):
        read("hello\nworld\n", "poem.txt")


def test_a_line_that_cannot_be_read_is_named_and_stops_nothing():
    """By file and number."""
    trace = read("munmap(0x7000, 4096) = 0\n?!\nmunmap(0x9000, 4096) = 0\n")
    assert [str(at) for at in trace.readings[0].unread] == ["a.txt:2"]
    assert len(trace.records) == 2


@given(
    st.lists(st.sampled_from([*CALLS, *PERF.splitlines(), "1 ", "=", "\x00("])),
    st.data(),
)
def test_no_text_ends_in_a_traceback(lines, data):
    """Lines that are cut, mixed or damaged are read, or refused in words."""
    cut = [line[: data.draw(st.integers(0, len(line)))] for line in lines]
    try:
        trace = read("\n".join(cut))
    except InputError:
        return
    trace.replay("v6.19", cpus=2)
