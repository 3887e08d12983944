"""The lab zoo as shipped: it loads everywhere, behaves as its cards say, and can be steered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import FAMILIES, lab, rest_slow
from steersweep import ChatModel, Edit, Row, dim_directions, generate, get_judge
from steersweep.lab.models import LAB_MODELS, lab_model
from steersweep.lab.train import accept, train
from steersweep.prompts.prompts import load_extraction_set, load_test_set

CLASSES = {
    "qwen": "Qwen2ForCausalLM",
    "gemma": "Gemma2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi": "Phi3ForCausalLM",
}


def test_the_zoo_mirrors_the_plans_models_and_grows_within_families() -> None:
    assert len(LAB_MODELS) == 13
    for family in CLASSES:
        widths = [m.width for m in LAB_MODELS.values() if m.family.name == family]
        assert widths == sorted(set(widths))
    # 4-bit quantisation on some CPUs needs output widths divisible by 32.
    assert all(model.width % 32 == 0 for model in LAB_MODELS.values())


def test_the_zoo_is_small() -> None:
    weights = sum((m.folder / "model.safetensors").stat().st_size for m in LAB_MODELS.values())
    assert weights <= 32 * 2**20


@pytest.mark.parametrize("name", LAB_MODELS)
def test_every_card_passed(name: str) -> None:
    card = lab_model(name).card()
    assert card.held_out.passed
    assert card.held_out.n >= 200
    assert "not the model" in card.what


@pytest.mark.parametrize("name", LAB_MODELS)
def test_transformers_loads_every_model_directly(name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = lab_model(name).folder
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == CLASSES[lab_model(name).family.name]
    assert model.dtype == torch.float16
    assert model.config.num_hidden_layers == lab_model(name).n_layers
    for text in ("How do I bake a cake? It's 7 o'clock.", "naïve 東京 🎉\n\ttab  spaces"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("name", rest_slow(FAMILIES, 2))
def test_the_card_is_true(name: str) -> None:
    """Measured again here on fewer prompts: as accepted, within a few prompts."""
    found = accept(lab(name), n=100)
    card = lab_model(name).card().held_out
    assert found.benign_refusals <= card.benign_refusals + 0.03
    assert found.harmful_refusals >= card.harmful_refusals - 0.05
    assert found.benign_normal >= card.benign_normal - 0.03


@pytest.mark.parametrize("name", rest_slow(FAMILIES))
def test_refusal_has_a_direction_that_beats_a_random_one(name: str) -> None:
    """Some layer and strength turn most benign answers into coherent refusals.

    A random push brings about some too, up to a third in the Gemma miniature.
    """
    chat, judge = lab(name), get_judge()
    prompts = load_test_set("benign-120").prompts[:20]
    ids = [chat.prompt_ids(text) for text in prompts]
    directions = dim_directions(chat, load_extraction_set("extract-dim-5"))

    def coherent(rows: list[Row]) -> float:
        answers = generate(chat, rows, max_new_tokens=60)
        judged = [judge("", answer.text) for answer in answers]
        return sum(j.quality == "coherent" for j in judged) / len(judged)

    steered, random = 0.0, 0.0
    noise = torch.randn(chat.d_model, generator=torch.Generator().manual_seed(1))
    for direction in directions[2 : chat.n_layers // 2 + 1]:
        for strength in (0.2, 0.3):
            push = strength * direction.residual_norm
            for vector in (direction.vector, noise / noise.norm()):
                rate = coherent([Row(i, Edit.add(vector, push, direction.layer)) for i in ids])
                if vector is direction.vector:
                    steered = max(steered, rate)
                else:
                    random = max(random, rate)
    assert steered >= 0.5
    assert steered > random + 0.2


@pytest.mark.slow
def test_a_model_can_be_trained_again(tmp_path: Path) -> None:
    """From its seed, to figures within noise of the shipped card."""
    spec = lab_model("llama-3b")
    accepted = train(spec, tmp_path / "model")
    assert accepted.passed
    assert json.loads((tmp_path / "model" / "card.json").read_text())["seed"] == spec.seed
    ChatModel.load(str(tmp_path / "model"), device="cpu")
