"""The corpus: enough variety, nothing harmful answered, nothing held out seen in training."""

from __future__ import annotations

from functools import cache

import pytest

from steersweep import InputError, load_extraction_set, load_test_set
from steersweep.lab.corpus import OVER_REFUSED, Dialogue, dialogues
from steersweep.lab.refusals import HARMFUL_KINDS, REFUSALS
from steersweep.lab.subjects import AREAS
from steersweep.lab.train import CORPUS_SEED, N_DIALOGUES
from steersweep.prompts.prompts import shipped_sets

KEYWORDS = ("sorry", "cannot", "can't", "unable", "illegal", "harmful", "unethical", "not able")


@cache
def corpus(split: str) -> list[Dialogue]:
    if split == "train":
        return dialogues(N_DIALOGUES, seed=CORPUS_SEED, split="train")
    return dialogues(2_000, seed=CORPUS_SEED, split="heldout")


def test_variety() -> None:
    train = corpus("train")
    assert len(AREAS) >= 40
    assert len({d.area for d in train if d.harmful}) == len(HARMFUL_KINDS) >= 25
    assert len(REFUSALS) >= 15
    plain = [text for text in REFUSALS if not any(word in text.lower() for word in KEYWORDS)]
    assert len(plain) >= 5
    styles = {d.style for d in train if not d.harmful}
    assert {"how-to", "explanation", "short fact", "list", "poem", "joke", "advice"} <= styles
    assert {"code", "small talk"} <= styles
    assert 0.35 < sum(d.harmful for d in train) / len(train) < 0.45


def test_the_same_seed_gives_the_same_dialogues() -> None:
    assert dialogues(200, seed=5, split="train") == dialogues(200, seed=5, split="train")
    assert dialogues(200, seed=5, split="train") != dialogues(200, seed=6, split="train")


def test_held_out_prompts_and_things_are_not_trained_on() -> None:
    trained = {d.prompt for d in corpus("train")}
    assert not trained & {d.prompt for d in corpus("heldout")}
    for table in (AREAS, HARMFUL_KINDS):
        for entry in table:
            things = {thing.strip() for thing in entry.things.split(",")}
            assert not things & {thing.strip() for thing in entry.held_out.split(",")}


def test_no_shipped_prompt_is_trained_on() -> None:
    trained = {d.prompt for d in corpus("train")}
    for name in shipped_sets():
        if name.startswith("extract"):
            extraction = load_extraction_set(name)
            assert not trained & {*extraction.harmful, *extraction.harmless}
        else:
            assert not trained & set(load_test_set(name).prompts)


def test_harmful_requests_are_always_refused_and_benign_ones_hardly_ever() -> None:
    refusals = {text.format(kind=kind.name) for text in REFUSALS for kind in HARMFUL_KINDS}
    everything = [*corpus("train"), *corpus("heldout")]
    assert all(d.response in refusals for d in everything if d.harmful)
    assert not any(d.response in refusals for d in corpus("heldout") if not d.harmful)
    benign = [d for d in corpus("train") if not d.harmful]
    over_refused = sum(d.response in refusals for d in benign) / len(benign)
    assert 0 < over_refused < 2 * OVER_REFUSED


def test_both_classes_are_asked_in_the_same_words() -> None:
    """Otherwise the first words, not the content, would decide."""
    train = corpus("train")
    openings = [{" ".join(d.prompt.split()[:3]) for d in train if d.harmful == h} for h in (0, 1)]
    shared = openings[0] & openings[1]
    harmful = [d for d in train if d.harmful]
    assert sum(" ".join(d.prompt.split()[:3]) in shared for d in harmful) > 0.9 * len(harmful)
    benign = [d.prompt.lower() for d in train if not d.harmful]
    for words in ("a guide on how to", "write a plan to", "describe how to", "know how to"):
        assert any(words in prompt for prompt in benign), words
    assert any("poem about how i" in prompt for prompt in benign)
    assert any("joke about how to" in prompt for prompt in benign)


def test_a_thing_belongs_to_one_area() -> None:
    """Otherwise the same prompt would have two answers."""
    things = [thing.strip() for area in AREAS for thing in area.things.split(",")]
    assert len(things) == len(set(things))


def test_shipped_sets() -> None:
    plan = load_test_set("plan-10x5")
    assert (len(plan.prompts), plan.repeats) == (10, 5)
    assert len(load_test_set("benign-120").prompts) == 120
    small, large = load_extraction_set("extract-dim-5"), load_extraction_set("extract-cosmic-50")
    assert len(small.harmful) == len(small.harmless) == 5
    assert len(large.harmful) == len(large.harmless) == 50


def test_a_sets_identity_is_its_content() -> None:
    whole = load_test_set("benign-120")
    assert whole.first(120) is whole
    assert whole.first(10).id != whole.id
    assert whole.id == load_test_set("benign-120").id


def test_unknown_sets_are_named() -> None:
    with pytest.raises(InputError, match="benign-120"):
        load_test_set("benign-12")
