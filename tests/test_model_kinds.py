"""Kinds of models that are refused by name, and the text part of models that also see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from helpers.checkpoints import PROMPTS, TEXT_CONFIG, logits, refusal, rewrite, saved, without
from steersweep import ChatModel, InputError, Row, generate
from steersweep.model.architectures import auto_class
from steersweep.model.memory import model_shape


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (transformers.T5Config(), "encoder-decoder"),
        (transformers.BartConfig(), "encoder-decoder"),
        (transformers.BertConfig(), "reads in both directions"),
        (transformers.ViTConfig(), "no class in transformers that continues text"),
        (transformers.WhisperConfig(), "encoder-decoder"),
        (
            transformers.LlamaConfig(architectures=["LlamaForSequenceClassification"]),
            "a LlamaForSequenceClassification",
        ),
        (transformers.MllamaConfig(), "cross-attention"),
        (transformers.DiffusionGemmaConfig(), "diffusion"),
    ],
)
def test_models_of_other_kinds_are_refused_by_name(config: Any, said: str) -> None:
    with pytest.raises(InputError, match="this/model") as caught:
        auto_class(config, "this/model")
    assert said in str(caught.value)


ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
SEES = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
QWEN_SEES = {
    "depth": 1, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 32,
    "patch_size": 14,
}  # fmt: skip
WRAPPERS: dict[str, dict[str, Any]] = {
    "Mistral3": {
        "text_config": {**TEXT_CONFIG, "model_type": "mistral", "sliding_window": None},
        "vision_config": {**SEES, "model_type": "pixtral", "head_dim": 16},
        "image_token_index": 1000,
    },
    "Qwen2VL": {
        "text_config": {**TEXT_CONFIG, "rope_parameters": ROPE},
        "vision_config": {
            "depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 1,
        },
    },
    "Qwen3VL": {
        "text_config": {**TEXT_CONFIG, "rope_parameters": {**ROPE, "mrope_interleaved": True}},
        "vision_config": {
            **QWEN_SEES, "deepstack_visual_indexes": [0], "num_position_embeddings": 16,
        },
    },
    "Idefics3": {
        "text_config": {**TEXT_CONFIG, "model_type": "llama"},
        "vision_config": SEES,
        "image_token_id": 1000,
        "scale_factor": 1,
    },
    "Llama4": {
        "text_config": {**TEXT_CONFIG, "intermediate_size_mlp": 96, "num_local_experts": 2},
        "vision_config": {
            **SEES, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32,
        },
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        kind if index % 4 == 0 else pytest.param(kind, marks=pytest.mark.slow)
        for index, kind in enumerate(WRAPPERS)
    ],
)
def test_the_text_part_of_a_wrapper_answers_as_the_wrapper_does(kind: str, tmp_path: Path) -> None:
    """Rows of one padded batch against plain generation one by one, twice: no state is left."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**WRAPPERS[kind])
    made = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    made.generation_config = transformers.GenerationConfig(eos_token_id=[1, 2], pad_token_id=2)
    chat = ChatModel.load(str(saved(made, tmp_path / "model")), device="cpu")
    plain = type(made).from_pretrained(tmp_path / "model").eval()
    expected = []
    for text in PROMPTS:
        ids = torch.tensor([chat.prompt_ids(text)])
        mask = torch.ones_like(ids)
        answer = plain.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=12
        )
        expected.append(chat.decode(answer[0, ids.shape[1] :].tolist()))
    rows = [Row(chat.prompt_ids(text)) for text in PROMPTS]
    for _ in range(2):
        assert [answer.text for answer in generate(chat, rows, max_new_tokens=12)] == expected
    assert chat.n_layers == 3
    counted = model_shape(chat.source.config())
    assert counted.parameters == sum(p.numel() for p in chat.model.parameters())


def test_a_wrapper_needs_its_text_weights_and_no_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Mistral3Config(**WRAPPERS["Mistral3"])
    folder = saved(transformers.Mistral3ForConditionalGeneration(config), tmp_path / "model")
    before = logits(ChatModel.load(str(folder), device="cpu"))
    names = list(load_file(folder / "model.safetensors"))
    assert any("vision_tower" in name for name in names)
    rewrite(folder, without("vision_tower"))
    assert torch.equal(logits(ChatModel.load(str(folder), device="cpu")), before)
    rewrite(folder, without("layers.2.self_attn.o_proj"))
    assert "language_model.layers.2.self_attn.o_proj.weight" in refusal(folder)
