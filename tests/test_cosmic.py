"""COSMIC's rules: selection, variants, per-layer directions, bad input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from conftest import FAMILIES, lab, rest_slow
from steersweep import ChatModel, InputError, NumericalError, SteersweepError
from steersweep.methods.candidates import (
    SplitIds,
    candidates_from,
    lowest_kl,
    next_token_kl,
)
from steersweep.methods.cosmic import (
    Cosmic,
    CosmicAffine,
    CosmicPaper,
    CosmicStudy2026,
)
from steersweep.methods.cosmic_rules import CosmicRules
from steersweep.methods.cosmic_scoring import (
    BROKEN,
    Place,
    Scorer,
    cosmic_positions,
    find_candidates,
)
from steersweep.methods.cosmic_search import _Search, score_candidates
from steersweep.methods.cosmic_selection import (
    CosmicScores,
    best_position,
    dropped_by,
    may_be_too_deep,
    select,
)
from steersweep.methods.extraction import extract_directions
from steersweep.methods.method import Given
from steersweep.prompts.prompts import ExtractionSet, load_extraction_set
from steersweep.steer.passes import clean_logits, clean_states

NAN = float("nan")
VARIANTS = {m.name: m.rules for m in (Cosmic, CosmicAffine, CosmicPaper, CosmicStudy2026)}


def scores(comply: Any, refuse: Any = None, kl: Any = None, norms: Any = None) -> CosmicScores:
    table = torch.tensor(comply, dtype=torch.float64)

    def or_full(values: Any, fill: float) -> Tensor:
        if values is None:
            return torch.full_like(table, fill)
        return torch.tensor(values, dtype=torch.float64)

    return CosmicScores(
        positions=tuple(range(-table.shape[0], 0)),
        scored=torch.ones_like(table, dtype=torch.bool),
        comply=table,
        refuse=or_full(refuse, 0.0),
        kl=or_full(kl, 0.0),
        norms=or_full(norms, 1.0),
        layer_similarity=torch.zeros(table.shape[1]),
        low_layers=(0,),
    )


VALUES = st.one_of(st.floats(-1, 1), st.sampled_from([NAN, float("inf"), -float("inf"), 0.5, 0.5]))


@st.composite
def score_tables(draw: st.DrawFn, broken_kl: bool = True) -> CosmicScores:
    n_positions, n_layers = draw(st.integers(1, 6)), draw(st.integers(1, 12))

    def table(values: st.SearchStrategy[float]) -> list[list[float]]:
        row = st.lists(values, min_size=n_layers, max_size=n_layers)
        return draw(st.lists(row, min_size=n_positions, max_size=n_positions))

    kl = st.one_of(st.floats(0, 0.2), st.just(NAN if broken_kl else BROKEN))
    norms = st.sampled_from([0.0, 1e-7, 1e-6, 1.0])
    return scores(table(VALUES), table(VALUES), table(kl), table(norms))


@given(score_tables(), st.sampled_from(sorted(VARIANTS)), st.booleans())
def test_selection_returns_the_best_candidate_no_rule_drops(
    table: CosmicScores, variant: str, official: bool
) -> None:
    rules = VARIANTS[variant].as_official() if official else VARIANTS[variant]
    n_layers = table.comply.shape[1]
    try:
        choice = select(table, rules)
    except SteersweepError as error:
        reasons = str(error)
        assert "depth" in reasons
        assert "non-finite" in reasons
        return
    place = choice.position, choice.layer
    assert bool(choice.kept[place])
    assert rules.first_layer <= choice.layer < int(0.8 * n_layers)
    assert rules.max_kl is None or not float(table.kl[place]) > rules.max_kl
    assert official or float(table.norms[place]) >= 1e-6
    best = table.total[choice.kept].max()
    assert float(table.total[place]) == float(best)
    assert torch.isfinite(best)


def test_all_filtered_says_by_which_rule() -> None:
    table = scores([[0.1] * 10] * 2, kl=[[0.3] * 10] * 2, norms=[[0.0] + [1.0] * 9] * 2)
    with pytest.raises(SteersweepError, match=r"20 candidates .*depth 4, kl 20, zero-length 2"):
        select(table, CosmicRules())


def test_ties_go_to_the_earlier_position_then_the_lower_layer() -> None:
    flat = scores([[0.5] * 10] * 3)
    choice = select(flat, replace(CosmicRules(), median_rule=False))
    assert (choice.position, choice.layer) == (0, 0)


def test_the_depth_rule_rounds_down() -> None:
    table = scores([[float(layer) for layer in range(13)]] * 2)  # int(0.8 * 13) = 10
    assert select(table, replace(CosmicRules(), median_rule=False)).layer == 9


def test_a_kl_of_exactly_the_limit_is_kept() -> None:
    table = scores([[0.1, 0.9, 0.3, 0, 0]], kl=[[0.0, 0.1, 0.0, 0, 0]])
    assert select(table, CosmicRules()).layer == 1


def test_the_median_rule_takes_the_lower_median_and_needs_both() -> None:
    """Best layers of positions -5..-2: 1, 2, 6, 7; the lower median is 2, the upper 6."""

    def peaks(*layers: int) -> list[list[float]]:
        rows = [[float(layer == peak) for layer in range(20)] for peak in layers]
        return [*rows, [0.1] * 20]

    both = select(scores(peaks(1, 2, 6, 7), peaks(1, 2, 6, 7)), CosmicRules())
    assert both.dropped["median"][-1].nonzero()[:, 0].tolist() == list(range(3, 20))
    assert not both.dropped["median"][:-1].any()
    # NaN counts as lowest, and peaks in dropped layers count too.
    refuse = [[NAN] * 19 + [1.0]] * 4 + [[0.1] * 20]
    one = select(scores(peaks(1, 2, 6, 7), refuse), CosmicRules())
    assert not one.dropped["median"].any()


def test_the_median_rule_drops_what_scores_of_some_positions_prove() -> None:
    """Best layers of positions -5..-2 are 1, 2, 6, 7, so layers from 3 on are too deep."""
    rows = [[float(layer == peak) for layer in range(20)] for peak in (1, 2, 6, 7)]
    whole = scores([*rows, [0.1] * 20], [*rows, [0.1] * 20])

    def known(*positions: int) -> list[int]:
        scored = torch.zeros_like(whole.scored)
        scored[[*positions, -1]] = True
        some = replace(whole, scored=scored, comply=whole.comply.masked_fill(~scored, NAN))
        deep = dropped_by(some, CosmicRules())["median"][-1].nonzero()[:, 0].tolist()
        unsure = [may_be_too_deep(some, (4, layer)) for layer in range(20)]
        assert unsure == [layer > 2 and layer not in deep for layer in range(20)]
        return deep

    assert known() == []
    assert known(3) == []
    assert known(2, 3) == list(range(8, 20))  # 6 and 7: the median is 7 at most
    assert known(1, 2) == list(range(7, 20))  # 2 and 6: it is 6 at most
    assert known(0, 1) == list(range(3, 20))  # 1 and 2: it is 2 at most
    assert not may_be_too_deep(whole, (3, 19))


def test_the_best_position_at_a_layer_skips_what_has_no_length_or_number() -> None:
    table = scores([[0.9, 0.9], [0.8, NAN], [0.7, 0.1]], norms=[[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    assert best_position(table, 0) == 1
    assert best_position(table, 1) == 0
    with pytest.raises(SteersweepError, match="layer 0"):
        best_position(scores([[NAN, 1.0]]), 0)


def test_scores_survive_json() -> None:
    table = scores([[0.1, NAN], [0.3, 0.4]])
    again = CosmicScores.from_json(table.as_json())
    assert torch.equal(again.comply.nan_to_num(9), table.comply.nan_to_num(9))
    assert again.positions == table.positions
    assert again.low_layers == table.low_layers


# -- on real models ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> ExtractionSet:
    whole = load_extraction_set("extract-cosmic-50")
    return ExtractionSet(
        "small",
        whole.harmful[:6],
        whole.harmless[:7],
        whole.harmful_val[:5],
        whole.harmless_val[:4],
    )


def split(chat: ChatModel, prompts: ExtractionSet) -> SplitIds:
    return SplitIds.of(chat, prompts.split(), prompts.name)


def test_shallow_models_compare_one_layer_and_say_so(qwen: ChatModel, small: ExtractionSet) -> None:
    found = extract_directions(qwen, "cosmic", small, [3])
    assert found.state is not None
    assert len(found.state["low_layers"]) == 1
    assert any("less than one" in note for note in found.notes)
    rules = CosmicRules().as_official()
    data = split(qwen, small)
    candidates = find_candidates(qwen, data, rules, [-1])
    with pytest.raises(SteersweepError, match="official code fails"):
        score_candidates(qwen, data, candidates, rules)


def test_deep_models_compare_a_tenth_of_the_layers(small: ExtractionSet) -> None:
    chat = lab("qwen-14b")
    found = extract_directions(chat, "cosmic", small, [3])
    assert found.state is not None
    similarity = found.state["layer_similarity"]
    assert found.state["low_layers"] == [similarity.index(min(similarity))]
    assert not found.notes


@pytest.mark.parametrize("family", rest_slow(FAMILIES, 2), indirect=True)
@pytest.mark.parametrize("method", ["cosmic", "cosmic-affine", "cosmic-paper", "cosmic-study-2026"])
def test_every_variant_gives_directions_and_its_own_choice(
    family: ChatModel, small: ExtractionSet, method: str
) -> None:
    layers = [2, 4]
    found = extract_directions(family, method, small, layers)
    assert list(found.at_layer) == layers
    assert found.chosen is not None
    assert found.chosen.method == f"{method}@auto"
    for direction in (*found.at_layer.values(), found.chosen):
        assert float(direction.vector.norm()) == pytest.approx(1, abs=1e-6)
        assert direction.raw_norm > 0
        assert direction.residual_norm > 0
        assert direction.site == VARIANTS[method].candidate_site
        assert direction.position in cosmic_positions(family, VARIANTS[method])
    # Scores computed before give the same directions without new passes.
    again = extract_directions(family, method, small, layers, given=Given(state=found.state))
    assert torch.equal(again.at_layer[4].vector, found.at_layer[4].vector)


def test_a_direction_is_read_at_its_layers_input(qwen: ChatModel, small: ExtractionSet) -> None:
    """`layer` means what it means in the official code."""
    found = extract_directions(qwen, "cosmic", small, [4]).at_layer[4]
    means = [
        clean_states(qwen, [qwen.prompt_ids(text) for text in texts], [3]).mean(0)[0]
        for texts in (small.harmful, small.harmless)
    ]
    data = split(qwen, small)
    candidates = candidates_from(qwen, data.harmful_train, data.harmless_train, positions=[-1])
    torch.testing.assert_close(candidates.vectors[0, 4], means[0] - means[1], atol=1e-5, rtol=1e-4)
    at = candidates_from(
        qwen, data.harmful_train, data.harmless_train, positions=[found.position]
    ).vectors[0, 4]
    torch.testing.assert_close(found.vector.double(), at / at.norm(), atol=1e-5, rtol=1e-4)


def test_the_study_variant_averages_cosines_of_all_pairs(
    qwen: ChatModel, small: ExtractionSet
) -> None:
    """Against a plain double loop over prompts."""
    rules = VARIANTS["cosmic-study-2026"]
    both = small.unsplit()
    data = SplitIds.of(qwen, both, "small")
    candidates = find_candidates(qwen, data, rules, [-2, -1])
    found = score_candidates(qwen, data, candidates, rules)
    (low,) = found.low_layers
    layer, position = low - 1, 1  # the addition shows at the compared layer
    push = (candidates.vectors[position, layer] / candidates.norms[position, layer]).float()
    with qwen.layer_hooks(lambda _layer, hidden: hidden + push, [layer]):
        pushed = [_after(qwen, ids, low) for ids in data.harmless_val]
    harmful = [_after(qwen, ids, low) for ids in data.harmful_val]
    cosines = [torch.cosine_similarity(a, b, dim=0) for a in pushed for b in harmful]
    assert float(found.refuse[position, layer]) == pytest.approx(
        float(torch.stack(cosines).mean()), abs=1e-5
    )
    assert found.kl.isnan().all()
    assert select(found, rules).layer >= 1


@pytest.mark.parametrize("family", rest_slow(FAMILIES, 2), indirect=True)
@pytest.mark.parametrize("max_kl", rest_slow([0.1, 1e-4, 0.02, 10.0, None]))
@pytest.mark.parametrize("variant", ["cosmic", "cosmic-affine"])
def test_scores_of_some_candidates_choose_what_scores_of_all_do(
    family: ChatModel, small: ExtractionSet, max_kl: float | None, variant: str
) -> None:
    data = split(family, small)
    rules = replace(VARIANTS[variant], max_kl=max_kl)
    every = replace(rules, score_all=True)
    candidates = find_candidates(family, data, rules, cosmic_positions(family, rules))
    whole = score_candidates(family, data, candidates, every, max_rows=32)
    assert bool(whole.scored.all())
    found = score_candidates(family, data, candidates, rules, max_rows=32)
    _agree(found, whole, max_kl)
    assert _place(found, rules) == _place(whole, every)
    # And after a round trip through the record, and once layers are asked for later.
    again = CosmicScores.from_json(found.as_json())
    assert _place(again, rules) == _place(whole, every)
    layers = [1, family.n_layers - 1]
    more = score_candidates(family, data, candidates, rules, layers=layers, known=again)
    assert _place(more, rules) == _place(whole, every)
    for layer in layers:
        assert best_position(more, layer) == best_position(whole, layer)


def _agree(found: CosmicScores, whole: CosmicScores, max_kl: float | None) -> None:
    """What was measured is what measuring all gives."""
    torch.testing.assert_close(found.refuse, whole.refuse, atol=1e-6, rtol=0, equal_nan=True)
    at = found.scored
    torch.testing.assert_close(found.comply[at], whole.comply[at], atol=1e-6, rtol=0)
    assert found.comply[~at].isnan().all()
    if max_kl is None:
        assert found.kl.isnan().all()
        return
    at = ~found.kl.isnan()
    bounded = at & (found.kl > max_kl)
    assert (whole.kl[bounded] > max_kl).all()
    # float32 rounds in proportion, so larger KLs may differ by more than 1e-6.
    assert (found.kl[bounded] <= whole.kl[bounded] * (1 + 1e-6) + 1e-6).all()
    passed = at & ~bounded
    torch.testing.assert_close(found.kl[passed], whole.kl[passed], atol=1e-6, rtol=0)


def _place(table: CosmicScores, rules: CosmicRules) -> tuple[int, int] | None:
    try:
        choice = select(table, rules)
    except SteersweepError:
        return None
    return choice.position, choice.layer


def test_candidates_that_cannot_be_chosen_are_not_scored() -> None:
    """The best candidate rules out most of the others."""
    chat = lab("qwen-14b")
    prompts = load_extraction_set("extract-cosmic-50")
    data = split(chat, prompts)
    rules = replace(CosmicRules(), max_kl=None)
    candidates = find_candidates(chat, data, rules, cosmic_positions(chat, rules))
    found = score_candidates(chat, data, candidates, rules)
    place = _place(found, rules)
    assert place is not None
    assert int(found.scored.sum()) < found.scored.numel() / 4
    eligible = torch.arange(12) < int(0.8 * 12)
    beaten = found.refuse + 1 < found.total[place]
    assert (found.scored | beaten | ~eligible | (found.norms < 1e-6)).all()


class _Table(Scorer):
    """Hands out scores that are there already, where others are measured."""

    def __init__(self, whole: CosmicScores) -> None:
        self._whole = whole

    @property
    def places(self) -> list[Place]:
        n_positions, n_layers = self._whole.comply.shape
        return [(p, layer) for p in range(n_positions) for layer in range(n_layers)]

    def parts(self, n_places: int) -> int:
        return 2

    def refuse(self, places: Sequence[Place], _on_share: Any = None) -> list[float]:
        return [float(self._whole.refuse[place]) for place in places]

    def comply(self, places: Sequence[Place]) -> list[float]:
        return [float(self._whole.comply[place]) for place in places]

    def kl(self, places: Sequence[Place], *, limit: float = math.inf) -> list[float]:
        found = [float(self._whole.kl[place]) for place in places]
        return [limit + (value - limit) / 2 if value > limit else value for value in found]


@given(score_tables(broken_kl=False), st.sampled_from(["cosmic", "cosmic-study-2026"]))
def test_the_search_chooses_what_selection_from_all_scores_does(
    whole: CosmicScores, variant: str
) -> None:
    """Whatever the scores: ties, candidates without length, scores that are no number."""
    rules = VARIANTS[variant]
    blank = torch.full_like(whole.comply, NAN)
    found = replace(
        whole,
        scored=torch.zeros_like(whole.scored),
        comply=blank.clone(),
        refuse=blank.clone(),
        kl=blank.clone(),
    )
    saved: list[int] = []
    told: list[tuple[str, float]] = []

    def tell(stage: str, share: float) -> None:
        told.append((stage, share))

    search = _Search(
        _Table(whole), found, rules, tell, lambda scores: saved.append(int(scores.scored.sum()))
    )
    search.measure_refuse()
    for layer in range(0, whole.comply.shape[1], 3):
        search.find_best_at(layer)
    search.find_choice()
    assert saved == sorted(saved)
    assert all(0 <= share <= 1 for _, share in told)
    assert _place(found, rules) == _place(whole, rules)
    for layer in range(0, whole.comply.shape[1], 3):
        try:
            expected = best_position(whole, layer)
        except SteersweepError:
            with pytest.raises(SteersweepError, match="no COSMIC candidate"):
                best_position(found, layer)
        else:
            assert best_position(found, layer) == expected


@given(st.integers(2, 3000), st.integers(0, 2**32 - 1), st.floats(0.01, 60))
def test_kl_has_a_lower_bound_that_some_distribution_comes_near(
    vocabulary: int, seed: int, scale: float
) -> None:
    torch.manual_seed(seed)
    p, q = torch.randn((2, 20, vocabulary), dtype=torch.float64) * scale
    lowest = lowest_kl(p)
    assert bool((next_token_kl(p, q) >= lowest - 1e-12).all())
    assert bool((next_token_kl(p, p) >= lowest - 1e-12).all())
    assert bool((lowest > -1e-6 * vocabulary - 1e-12).all())
    # The best q + epsilon is p over a price, or epsilon where that is less: found by bisection.
    p = p.softmax(-1)
    low, high = torch.zeros((20, 1), dtype=torch.float64), torch.ones((20, 1), dtype=torch.float64)
    for _ in range(60):
        price = (low + high) / 2
        too_much = (p / price - 1e-6).clamp(min=0).sum(-1, keepdim=True) > 1
        low, high = torch.where(too_much, price, low), torch.where(too_much, high, price)
    best = (p / high - 1e-6).clamp(min=0)
    nearest = (p * ((p + 1e-6).log() - (best + 1e-6).log())).sum(-1)
    torch.testing.assert_close(lowest, nearest, atol=1e-7, rtol=0)


def test_a_kl_above_the_limit_takes_few_prompts_once_some_are_known_to_be_disturbed(
    monkeypatch: pytest.MonkeyPatch, qwen: ChatModel
) -> None:
    data = split(qwen, load_extraction_set("extract-cosmic-50"))
    harmless = [*data.harmless_val, *data.harmless_train]
    data = replace(data, harmless_val=harmless)
    rules = CosmicRules()
    candidates = find_candidates(qwen, data, rules, cosmic_positions(qwen, rules))
    asked: list[list[int]] = []
    of_prompts = Scorer._kl_of_prompts

    def count(self: Scorer, edits: Any, chosen: Sequence[int]) -> Tensor:
        asked.append(list(chosen))
        return of_prompts(self, edits, chosen)

    monkeypatch.setattr(Scorer, "_kl_of_prompts", count)
    scorer = Scorer(qwen, data, candidates, rules, (3,), 256)
    places = [(6, 4), (6, 3), (1, 4)]
    exact = Scorer(qwen, data, candidates, rules, (3,), 256).kl(places)
    assert [sorted(some) for some in asked] == [list(range(len(harmless)))]
    asked.clear()
    limit = min(exact) / 2
    first, *others = [scorer.kl([place], limit=limit)[0] for place in places]
    assert limit < first < exact[0]
    assert all(limit < found < value for found, value in zip(others, exact[1:], strict=True))
    p = clean_logits(qwen, harmless).double().softmax(-1)
    entropy = torch.special.entr(p).sum(-1)
    assert asked[0] == entropy.argsort(descending=True)[:16].tolist()
    assert len(asked[-1]) == len(asked[-2]) == 16  # one look is enough for the others
    n_first = sum(len(some) for some in asked[:-2])
    assert n_first > 16
    # The most disturbed come first, and nothing is asked twice.
    seen = [prompt for some in asked[:-2] for prompt in some]
    assert len(set(seen)) == len(seen)
    # Without a bound in the way it is the mean over all of them.
    assert scorer.kl(places, limit=max(exact) + 1) == pytest.approx(exact, abs=1e-5)


def _after(chat: ChatModel, ids: Any, layer: int) -> Tensor:
    """The last token after a layer; of the last layer, after the final norm."""
    held: list[Tensor] = []
    if layer == chat.n_layers - 1:
        reading = chat.final_states(lambda final: held.append(final[0]))
    else:
        reading = chat.layer_hooks(lambda _layer, hidden: held.append(hidden[0, -1]), [layer])
    with reading:
        batch = chat.pad([ids])
        chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)
    return held[0]


def test_one_position_skips_the_median_rule_and_says_so(
    qwen: ChatModel, small: ExtractionSet
) -> None:
    data = split(qwen, small)
    rules = CosmicRules()
    candidates = find_candidates(qwen, data, rules, [-1])
    found = score_candidates(qwen, data, candidates, rules)
    assert any("one position" in note for note in found.notes)
    assert "median" not in dropped_by(found, rules)


def test_training_and_validation_that_overlap_are_named(
    qwen: ChatModel, small: ExtractionSet
) -> None:
    mixed = replace(small, harmful_val=(small.harmful[0], *small.harmful_val))
    found = extract_directions(qwen, "cosmic", mixed, [3])
    assert any(small.harmful[0] in note and "1 prompts" in note for note in found.notes)


def test_a_set_without_validation_prompts_is_split() -> None:
    whole = load_extraction_set("extract-cosmic-50")
    parts = replace(whole, harmful_val=(), harmless_val=()).split()
    assert (len(parts.harmful_train), len(parts.harmful_val)) == (32, 18)
    assert parts.shared == ()
    assert load_extraction_set("extract-cosmic-50").split().shared == ()


def test_too_few_prompts_are_refused(qwen: ChatModel, small: ExtractionSet) -> None:
    with pytest.raises(InputError, match="1 harmless val prompts"):
        extract_directions(qwen, "cosmic", replace(small, harmless_val=("Hi.",)), [3])
    with pytest.raises(InputError, match="harmful train"):
        extract_directions(qwen, "cosmic", replace(small, harmful=("Hi.",)), [3])


def test_identical_classes_are_refused(qwen: ChatModel, small: ExtractionSet) -> None:
    with pytest.raises(InputError, match="same activations"):
        extract_directions(qwen, "cosmic", replace(small, harmful=small.harmless), [3])


def test_unknown_methods_are_named(qwen: ChatModel, small: ExtractionSet) -> None:
    with pytest.raises(InputError, match="cosmic-affine"):
        extract_directions(qwen, "cosmos", small, [3])


def test_non_finite_activations_are_refused(qwen: ChatModel, small: ExtractionSet) -> None:
    with (
        qwen.layer_hooks(lambda _layer, hidden: hidden * float("inf"), [2]),
        pytest.raises(NumericalError, match="NaN or infinite"),
    ):
        extract_directions(qwen, "cosmic", small, [3])


def test_validation_lists_come_in_pairs(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"harmful": ["a"], "harmless": ["b"], "harmful_val": ["c"]}')
    with pytest.raises(InputError, match='"harmful_val" alone'):
        load_extraction_set(str(path))
