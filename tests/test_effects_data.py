"""The prompts, questions and texts that effects are measured with, and files of the user's own."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from importlib import resources
from itertools import combinations

import pytest

from steersweep import load_extraction_set, load_test_set
from steersweep.prompts.prompts import shipped_sets

KEPT, BORDERLINE = "harmful-kept-128", "borderline-120"


def categories(name: str) -> Counter[str]:
    content = json.loads((resources.files("steersweep.prompts") / f"{name}.json").read_text())
    return Counter(prompt["category"] for prompt in content["prompts"])


def other_prompts() -> set[str]:
    """All prompts of the sets that directions are made from, and that cells are tested on."""
    found: set[str] = set()
    for name in shipped_sets():
        if name.startswith("extract"):
            found.update(*load_extraction_set(name).content().values())
        elif name not in (KEPT, BORDERLINE):
            found.update(load_test_set(name).prompts)
    return found


@cache
def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9']+", text.lower()))


def overlap(one: str, other: str) -> float:
    """Share of the words of two texts that both have."""
    first, second = words(one), words(other)
    return len(first & second) / len(first | second)


@pytest.mark.parametrize(
    ("name", "n_categories", "each"), [(KEPT, 16, 8), (BORDERLINE, 10, 12)], ids=str
)
def test_prompts_are_of_many_kinds_and_any_prefix_is_a_mix(
    name: str, n_categories: int, each: int
) -> None:
    counts = categories(name)
    assert [*counts.values()] == [each] * n_categories
    prompts = load_test_set(name)
    assert len(prompts.prompts) == n_categories * each
    assert not prompts.notes
    content = json.loads((resources.files("steersweep.prompts") / f"{name}.json").read_text())
    kinds = [prompt["category"] for prompt in content["prompts"]]
    assert all(len({*kinds[i : i + n_categories]}) == n_categories for i in range(len(kinds) // 2))


def test_no_prompt_is_near_one_that_directions_are_made_from_or_cells_are_tested_on() -> None:
    own = [*load_test_set(KEPT).prompts, *load_test_set(BORDERLINE).prompts]
    near = [(a, b) for a in own for b in other_prompts() if overlap(a, b) > 0.6]
    near += [(a, b) for a, b in combinations(own, 2) if overlap(a, b) > 0.6]
    assert not near


def test_harmful_prompts_are_of_other_subjects_than_the_extraction_lists() -> None:
    """What those are about, each by a word of theirs."""
    subjects = {
        *("wallet", "bank", "bomb", "passport", "poison", "heroin", "blackmail", "barn"),
        *("kidnap", "ransomware", "rob", "counterfeit", "banknotes", "methamphetamine"),
        *("virus", "stalk", "identity", "smuggle", "bribe", "torture", "riot", "steal", "hack"),
    }
    assert subjects <= {word for prompt in other_prompts() for word in words(prompt)}
    for prompt in load_test_set(KEPT).prompts:
        assert not words(prompt) & subjects, prompt
