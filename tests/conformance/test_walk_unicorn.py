"""Our walk and Unicorn's MMU agree about random tables, many thousand times a run."""

from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import NamedTuple

import pytest
from unicorn_oracle import TABLES, TABLES_SIZE, UnicornMMU

from tlbkit.arm64.descriptor import OUTER_SHAREABLE
from tlbkit.arm64.fault import Fault
from tlbkit.arm64.granule import GRANULES, LAST_LEVEL
from tlbkit.arm64.image import AT_ACCESS, Words, par
from tlbkit.arm64.permission import EL0_EXECUTE, EL1_EXECUTE
from tlbkit.arm64.registers import PAR
from tlbkit.arm64.tests.random_tables import Image, plain_image
from tlbkit.arm64.walk import Translation, translate

SEED = 20
IMAGES = 300
PROBES_AT_LEAST = 50_000
QUESTIONS = [(name, pan) for name in AT_ACCESS for pan in (0, 1)]

# What an answer can be here, each of which must turn up often enough to be tested:
# a fault by kind and level, a success by log2 of the bytes of the page or block.
CLASSES = (
    *(("translation", level) for level in range(4)),
    *((kind, level) for kind in ("access_flag", "permission") for level in (1, 2, 3)),
    *(
        ("ok", granule.shift(level))
        for granule in GRANULES
        for level in range(LAST_LEVEL + 1)
        if granule.has_leaf(level)
    ),
)
CLASS_AT_LEAST = 500


class Judgement(NamedTuple):
    """What both said about all images.

    Attributes:
        seen: Unicorn's answers, counted by class.
        different: where the two disagree: the probe and both answers.
    """

    seen: Counter[tuple[str, int]]
    different: list[object]


def shareability_is_known_wrong(par_el1: PAR) -> bool:
    """Unicorn's PAR.SH means nothing for Device and Non-cacheable memory."""
    return par_el1.attr < 0x10 or par_el1.attr in {0x40, 0x44}


def class_of(outcome: Translation | Fault) -> tuple[str, int]:
    """The class of an answer."""
    if isinstance(outcome, Fault):
        return outcome.kind.value, outcome.level
    return "ok", outcome.leaf.shift


def judge(images: Iterable[Image]) -> Judgement:
    """Ask both about every address of every image, with every instruction."""
    unicorn = UnicornMMU()
    judgement = Judgement(Counter(), [])
    for image in images:
        unicorn.load(image.registers, image.memory)
        regime, memory = image.regime(), Words(image.memory)
        for name, pan in QUESTIONS:
            need = AT_ACCESS[name][pan]
            answers = unicorn.translate(name, image.vas, pan)
            for va, raw in zip(image.vas, answers, strict=True):
                outcome = translate(regime, memory, va, need)
                ours, theirs = par(outcome, va), PAR.decode(raw)
                if theirs.fault is None and shareability_is_known_wrong(theirs):
                    theirs = theirs._replace(sh=OUTER_SHAREABLE)
                if ours != theirs:
                    judgement.different.append((hex(va), name, pan, ours, theirs))
                judgement.seen[class_of(outcome)] += 1
    return judgement


@pytest.fixture(scope="module")
def images() -> list[Image]:
    """Many random images, the same in every run."""
    rng = Random(SEED)
    return [plain_image(rng, TABLES, TABLES + TABLES_SIZE) for _ in range(IMAGES)]


@pytest.fixture(scope="module")
def judgement(images: list[Image]) -> Judgement:
    """Judge them all, once."""
    return judge(images)


def test_every_answer_is_unicorns(judgement: Judgement) -> None:
    """Address, attributes, shareability, kind and level of fault are the same."""
    different = judgement.different
    print(f"{judgement.seen.total():,} probes judged by Unicorn")
    assert not different, f"{len(different)} differ, such as {different[:3]}"


def test_enough_of_everything_was_judged(judgement: Judgement) -> None:
    """At least 50,000 probes, and every class of answer many hundred times."""
    seen = judgement.seen
    print("\n".join(f"{seen[answer]:7,} {answer}" for answer in CLASSES))
    assert seen.total() >= PROBES_AT_LEAST
    assert min(seen[answer] for answer in CLASSES) >= CLASS_AT_LEAST
    # Nothing falls outside the classes; in particular there is no address size fault,
    # which Unicorn could not have confirmed.
    assert set(seen) == set(CLASSES)


def test_one_address_is_judged_as_many_are(images: list[Image]) -> None:
    """The short way to ask, which the benchmark takes, gives the same answers."""
    unicorn = UnicornMMU()
    for image in images[:20]:
        unicorn.load(image.registers, image.memory)
        for name in AT_ACCESS:
            many = unicorn.translate(name, image.vas)
            assert many == [unicorn.translate_one(name, va) for va in image.vas]


@pytest.mark.parametrize(("el", "need"), [(0, EL0_EXECUTE), (1, EL1_EXECUTE)])
def test_every_fetch_is_unicorns(images: list[Image], el: int, need: int) -> None:
    """What may be executed, and by whom, is what Unicorn starts to execute."""
    unicorn = UnicornMMU()
    seen: Counter[bool] = Counter()
    for image in images:
        unicorn.load(image.registers, image.memory)
        regime, memory = image.regime(), Words(image.memory)
        aligned = [va & ~3 for va in image.vas]
        theirs = unicorn.fetches(aligned, el)
        ours = [
            not isinstance(translate(regime, memory, va, need), Fault) for va in aligned
        ]
        assert ours == theirs
        seen.update(theirs)
    print(
        f"{seen.total():,} fetches at EL{el} judged by Unicorn, {seen[True]:,} allowed"
    )
    assert min(seen[True], seen[False]) >= CLASS_AT_LEAST
