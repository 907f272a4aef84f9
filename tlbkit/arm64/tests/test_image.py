"""Laws and examples of answering a dumped table image."""

import copy
import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.granule import GRANULE_4K
from tlbkit.arm64.image import AT_ACCESS, address_translate, answer, run
from tlbkit.arm64.registers import PAR, TCR
from tlbkit.arm64.tests import reference
from tlbkit.arm64.tests.random_tables import any_image
from tlbkit.errors import InputError

PAGE = 0x55000 | d.TYPE_PAGE | d.AP_EL0 | d.AF | d.INNER_SHAREABLE << d.SH_SHIFT
CLEAN = PAGE & ~d.AF | d.AP_READ_ONLY | d.DBM


def image(*probes, page=PAGE, **fields):
    """An image that maps one page at 0x1000, and probes."""
    tcr = TCR.of(GRANULE_4K, **fields)
    return {
        "regs": {
            "TCR": hex(tcr.encode()),
            "MAIR": "0xff",
            "TTBR0": "0x1000",
            "TTBR1": "0x0",
        },
        "memory": [
            ["0x1000", "0x2003"],
            ["0x2000", "0x3003"],
            ["0x3000", "0x4003"],
            ["0x4008", hex(page)],
        ],
        "probes": list(probes),
    }


def as_dump(grown, probes):
    """A grown image in the form of a dump, which has no words that cannot be."""
    pa_bits = grown.capabilities.pa_bits
    return {
        "regs": {name: hex(value) for name, value in grown.registers.items()},
        "cpu": {"pa_bits": pa_bits},
        "memory": [
            [hex(pa), hex(word)]
            for pa, word in grown.memory.items()
            if not pa >> pa_bits
        ],
        "unlisted": "zero",
        "probes": probes,
    }


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 32))
def test_a_dump_is_answered_as_the_reference_answers(seed):
    """Every access of a dumped image: result, fault, and what hardware rewrote."""
    grown = any_image(Random(seed))
    questions = [
        (va, kind, el, pan)
        for va in grown.vas
        for kind in ("ld", "st", "ex")
        for el in (0, 1)
        for pan in (0, 1)
    ]
    dump = as_dump(
        grown,
        [
            {"va": hex(va), "access": kind, "el": el, "pan": pan}
            for va, kind, el, pan in questions
        ],
    )

    def read(pa):
        return grown.memory.get(pa, 0)

    pa_bits = grown.capabilities.pa_bits
    for question, said in zip(questions, run(json.dumps(dump)), strict=True):
        expected = reference.access(grown.registers, pa_bits, read, *question)
        if expected[0] == "fault":
            _, kind, level = expected
            assert said == {"fault": kind, "level": level, "rewrote": []}
        else:
            _, pa, attr, sh, entry_pa, after, _, _ = expected
            rewritten = [] if after == read(entry_pa) else [[entry_pa, after]]
            assert int(said["pa"], 16) == pa
            assert int(said["attr"], 16) == attr
            assert said["sh"] == sh
            assert [[int(x, 16) for x in pair] for pair in said["rewrote"]] == rewritten


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 32))
def test_an_instruction_is_answered_as_par_reports_it(seed):
    """A probe by AT has the fields of PAR_EL1, and nothing was rewritten."""
    grown = any_image(Random(seed))
    questions = [
        (va, name, pan) for va in grown.vas for name in AT_ACCESS for pan in (0, 1)
    ]
    probes = [{"va": hex(va), "at": name, "pan": pan} for va, name, pan in questions]
    regime = grown.regime()
    memory = type("Memory", (), {"read": lambda _, pa: grown.memory.get(pa, 0)})()
    answers = answer(as_dump(grown, probes))
    for (va, name, pan), said in zip(questions, answers, strict=True):
        par = address_translate(regime, memory, name, va, pan)
        if par.fault:
            kind, level = par.fault
            assert said == {"fault": kind.value, "level": level}
        else:
            attr = f"0x{par.attr:02x}"
            assert said == {"pa": hex(par.pa), "attr": attr, "sh": par.sh}
        assert PAR.decode(par.encode()) == par


@given(st.permutations(range(4)))
def test_probes_do_not_disturb_each_other(order):
    """Each probe sees the image as given, whatever was asked before."""
    probes = [
        {"va": "0x1000", "access": "st", "el": 0},
        {"va": "0x1000", "access": "ld", "el": 0},
        {"va": "0x1000", "at": "S1E0W"},
        {"va": "0x2000", "access": "ex", "el": 1},
    ]
    straight = answer(image(*probes, page=CLEAN, HA=1, HD=1))
    shuffled = answer(image(*[probes[i] for i in order], page=CLEAN, HA=1, HD=1))
    assert shuffled == [straight[i] for i in order]


def test_an_instruction_reports_the_4k_around_and_an_access_the_byte():
    """PAR_EL1 has no low bits; an access goes to one byte."""
    at = {"va": "0x1234", "at": "S1E0R"}
    ld = {"va": "0x1234", "access": "ld", "el": 0}
    assert answer(image(at, ld)) == [
        {"pa": "0x55000", "attr": "0xff", "sh": 3},
        {"pa": "0x55234", "attr": "0xff", "sh": 3, "rewrote": []},
    ]


@pytest.mark.parametrize(
    ("probe", "rewritten"),
    [
        ({"access": "ld", "el": 0}, [["0x4008", hex(CLEAN | d.AF)]]),
        ({"access": "st", "el": 0}, [["0x4008", hex(PAGE | d.DBM)]]),
        ({"access": "st", "el": 1, "pan": 1}, []),
    ],
)
def test_hardware_rewrites_the_descriptor_of_an_allowed_access(probe, rewritten):
    """A load sets AF, a store makes dirty as well, a refused access does nothing."""
    (said,) = answer(image({"va": "0x1000", **probe}, page=CLEAN, HA=1, HD=1))
    assert said["rewrote"] == rewritten
    assert ("fault" in said) == (not rewritten)


@pytest.mark.parametrize(
    ("probe", "allowed"),
    [
        ({"at": "S1E1R", "pan": 1}, True),
        ({"at": "S1E1RP", "pan": 1}, False),
        ({"at": "S1E1RP", "pan": 0}, True),
        ({"at": "S1E1WP"}, True),
        ({"at": "S1E1WP", "pan": 1}, False),
        ({"at": "S1E0W", "pan": 1}, True),
    ],
)
def test_only_the_p_instructions_honour_pan(probe, allowed):
    """PSTATE.PAN matters to S1E1RP and S1E1WP, and is 0 where it is left out."""
    (said,) = answer(image({"va": "0x1000", **probe}))
    assert ("pa" in said) == allowed


def test_a_frame_of_which_a_word_is_listed_is_listed_whole():
    """Its other words are zero: an address whose table is not there faults."""
    (said,) = answer(image({"va": "0x200000", "at": "S1E0R"}))
    assert said == {"fault": "translation", "level": 2}


@pytest.mark.parametrize("level", range(4))
def test_a_word_that_is_missing_is_said(level):
    """Where the walk needs a frame of which nothing is listed, that is the answer."""
    dump = image(
        {"va": "0x1008", "at": "S1E0R"}, {"va": "0x1008", "access": "ld", "el": 1}
    )
    gone = dump["memory"].pop(level)
    assert answer(dump) == [{"missing": gone[0], "level": level}] * 2
    zero = answer(dump | {"unlisted": "zero"})
    assert [one["level"] for one in zero] == [level] * 2
    assert answer(dump | {"unlisted": "missing"}) == answer(dump)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 32), st.data())
def test_what_is_missing_was_needed(seed, data):
    """A walk that needs no word of a frame is answered as if the frame were there.

    And the word that one misses is the first that it needs of that frame.
    """
    grown = any_image(Random(seed))
    probes = [{"va": hex(va), "at": "S1E1R"} for va in grown.vas]
    whole = as_dump(grown, probes)
    page = 16  # the largest granule: words of one frame of any size go together
    frames = sorted({int(pa, 16) >> page for pa, _ in whole["memory"]})
    lost = data.draw(st.sampled_from(frames))
    rest = [pair for pair in whole["memory"] if int(pair[0], 16) >> page != lost]
    there, torn = answer(whole), answer(whole | {"memory": rest, "unlisted": "missing"})
    for one, other in zip(there, torn, strict=True):
        assert one == other or "missing" in other


def test_sctlr_may_be_given():
    """WXN comes from SCTLR, and is clear without it."""
    probe = {"va": "0x1000", "access": "ex", "el": 0}
    dump = image(probe)
    assert "pa" in answer(dump)[0]
    dump["regs"]["SCTLR"] = hex(1 << 19 | 1)
    assert answer(dump) == [{"fault": "permission", "level": 3, "rewrote": []}]


def test_the_cpu_may_be_given():
    """A CPU of 32 bits faults where a larger one does not."""
    dump = image({"va": "0x1000", "at": "S1E0R"}, page=PAGE | 1 << 32)
    assert "pa" in answer(dump)[0]
    dump["cpu"] = {"pa_bits": 32}
    assert answer(dump) == [{"fault": "address_size", "level": 3}]


def wrong(place, value):
    """A good image with one part replaced, or taken out if the value is None."""
    dump = image(
        {"va": "0x1000", "at": "S1E0R"}, {"va": "0x0", "access": "ld", "el": 1}
    )
    part = dump
    *way, last = place
    for step in way:
        part = part[step]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return dump


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["regs"], None, 'the image: "regs" is missing'),
        (["probes"], {}, "probes: {} is not an array"),
        (["extra"], 1, 'the image: "extra" is unknown; there are regs, probes, '),
        (["regs", "TCR"], None, 'regs: "TCR" is missing'),
        (["regs", "TCR"], "0x10000000000000000", "regs.TCR: .* more than 64 bits"),
        (["regs", "MAIR"], 255, "regs.MAIR: 255 is not a hex string"),
        (["regs", "TCR"], "0x0", "regs: TCR_EL1.T0SZ is 0: with the 4K granule"),
        (["regs", "TTBR0"], "0x1010", "regs: TTBR0_EL1: the table at 0x1010 is not"),
        (["regs", "SCTLR"], "0x0", "regs: SCTLR_EL1.M is 0"),
        (["cpu"], {"lpa3": True}, 'cpu: "lpa3" is unknown; there are pa_bits, '),
        (["cpu"], {"pa_bits": 47}, "cpu.pa_bits: 47 is none of 32, 36, "),
        (["cpu"], {"lpa2": 1}, "cpu.lpa2: 1 is none of true, false"),
        (["memory", 1], ["0x2000"], r"memory\[1\]: not a pair"),
        (["memory", 1], "0x2000", r'memory\[1\]: "0x2000" is not an array'),
        (
            ["memory", 1, 0],
            "0x2004",
            r"memory\[1\]\[0\]: 0x2004 is not a multiple of 8",
        ),
        (["memory", 1, 0], "0x1000", r"memory\[1\]\[0\]: 0x1000 was listed before"),
        (["memory", 1, 0], hex(1 << 52), r"memory\[1\]\[0\]: .* more than 52 bits"),
        (["memory"], None, 'the image: neither "memory" nor "files" is there'),
        (["unlisted"], "ones", 'unlisted: "ones" is none of "zero", "missing"'),
        (["files"], {}, "files: {} is not an array"),
        (["files"], [{"path": "x"}], r"files\[0\]: an image that lies nowhere"),
        (["memory", 1, 1], "0x", r'memory\[1\]\[1\]: "0x" is not a hex string'),
        (["memory", 1, 1], "-0x1", r'memory\[1\]\[1\]: "-0x1" is not a hex string'),
        (["probes", 0], "x", r'probes\[0\]: "x" is not an object'),
        (["probes", 0, "va"], None, r'probes\[0\]: "va" is missing'),
        (["probes", 0, "va"], "zz", r'probes\[0\]\.va: "zz" is not a hex string'),
        (
            ["probes", 0, "at"],
            "S1E2R",
            r'probes\[0\]\.at: "S1E2R" is none of "S1E0R", ',
        ),
        (["probes", 0, "pan"], 2, r"probes\[0\]\.pan: 2 is none of 0, 1"),
        (["probes", 0, "pan"], True, r"probes\[0\]\.pan: true is none of 0, 1"),
        (
            ["probes", 0, "el"],
            1,
            r'probes\[0\]: "el" is unknown; there are va, at, pan',
        ),
        (["probes", 1, "el"], None, r'probes\[1\]: "el" is missing'),
        (["probes", 1, "access"], "rd", r'probes\[1\]\.access: "rd" is none of "ld", '),
        (["probes", 1, "at"], "S1E0R", r'probes\[1\]: "at" is unknown'),
        (["probes", 1, "va"], "0x1" + "0" * 99, r"probes\[1\]\.va: .* than 64 bits"),
        (["probes", 1, "va"], list(range(99)), r"probes\[1\]\.va: .{40}\.\.\. is not"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_place(place, value, message):
    """A malformed part is named by its place in the JSON."""
    with pytest.raises(InputError, match=message) as caught:
        answer(wrong(place, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON: Expecting value"),
        ("[" * 100_000, "not JSON: maximum recursion"),
        ("9" * 5000, "not JSON: "),
        ("[]", r"the image: \[\] is not an object"),
        ('{"regs": 1, "regs": 2}', 'the image: "regs" stands twice'),
    ],
)
def test_what_is_no_image_at_all_is_refused(text, message):
    """Text that is no JSON, or JSON of something else, is one error."""
    with pytest.raises(InputError, match=message):
        run(text)


def test_a_word_above_the_physical_addresses_is_refused():
    """A CPU of 32 bits has no memory at 4 GiB, so no dump of it has."""
    dump = image({"va": "0x1000", "at": "S1E0R"})
    dump["cpu"] = {"pa_bits": 32}
    dump["memory"].append(["0x100000000", "0x1"])
    with pytest.raises(InputError, match=r"memory\[4\]\[0\]: .* of 32 bits"):
        answer(dump)


def test_an_image_equal_to_another_word_for_word_may_repeat_itself():
    """Listing the same word twice is no contradiction."""
    dump = image({"va": "0x1000", "at": "S1E0R"})
    twice = copy.deepcopy(dump)
    twice["memory"] *= 2
    assert answer(twice) == answer(dump)
