"""Tiny models with random weights, one of every architecture that differs in what matters here.

Shapes are facts about transformers' own configs. Each has windows and chunks shorter than the
prompts, so that they show, and layers of every kind that the architecture mixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steersweep.core.errors import SteersweepError

WIDTH, LAYERS, VOCABULARY = 64, 4, 1024
Shape = Mapping[str, Any]  # arguments of a config of transformers

_DENSE: Shape = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
_GPT: Shape = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": 512,
}
_ENDS: Shape = {
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}
_HALF_FULL = ["sliding_attention", "full_attention"] * 2
_HALF_LINEAR = ["linear_attention", "full_attention"] * 2
_VISION: Shape = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


@dataclass(frozen=True)
class Architecture:
    """A tiny model to build.

    Attributes:
        kind: what is special about it, for people.
        config: name of the config's class in transformers.
        shape: the config's arguments.
        text: for wrappers: arguments of the text part's config.
        vision: for wrappers: arguments of the vision part's config.
    """

    kind: str
    config: str
    shape: Shape = field(default_factory=dict)
    text: Shape | None = None
    vision: Shape | None = None


def _dense(kind: str, config: str, *without: str, **more: Any) -> Architecture:
    shape = {name: value for name, value in _DENSE.items() if name not in without}
    return Architecture(kind, config, {**shape, **_ENDS, **more})


def _gpt(kind: str, config: str, **more: Any) -> Architecture:
    return Architecture(kind, config, {**_GPT, **_ENDS, **more})


def _own(kind: str, config: str, **shape: Any) -> Architecture:
    return Architecture(kind, config, {"vocab_size": VOCABULARY, **_ENDS, **shape})


def _wrapper(kind: str, config: str, text: Shape, vision: Shape, **more: Any) -> Architecture:
    return Architecture(kind, config, more, {**_DENSE, **_ENDS, **text}, vision)


_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LOCAL_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
_ROUTED = {
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
}
_DELTA = {
    "layer_types": _HALF_LINEAR,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_MAMBA = {"mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2}
_MAMBA2 = {
    **_MAMBA,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
_STATES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "state_size": 8,
    "conv_kernel": 4,
    "expand": 2,
}
_SCALED = {
    "residual_multiplier": 0.3,
    "logits_scaling": 4.0,
    "embedding_multiplier": 6.0,
    "attention_multiplier": 0.1,
}

ARCHITECTURES: dict[str, Architecture] = {
    # dense
    "llama": _dense("dense", "LlamaConfig"),
    "qwen2": _dense("dense", "Qwen2Config", "head_dim"),
    "qwen3": _dense("norms of queries and keys", "Qwen3Config"),
    "gemma": _dense("scaled embedding", "GemmaConfig"),
    "granite": _dense("scaled residuals and logits", "GraniteConfig", **_SCALED),
    "glm4": _dense("norms after attention and MLP", "Glm4Config"),
    "olmo2": _dense("norms after attention and MLP only", "Olmo2Config", "head_dim"),
    "smollm3": _dense("not all with positions", "SmolLM3Config", no_rope_layers=[1, 1, 1, 0]),
    "nemotron": _dense("squared ReLU", "NemotronConfig"),
    "starcoder2": _dense("layer norms with biases", "Starcoder2Config", "head_dim"),
    "diffllama": _dense("differential attention", "DiffLlamaConfig"),
    "nanochat": _dense("no norm weights, capped logits", "NanoChatConfig"),
    "bitnet": _dense("norms inside attention and MLP", "BitNetConfig"),
    "stablelm": _dense("partial rotary", "StableLmConfig", "head_dim"),
    "persimmon": _dense("fused projections", "PersimmonConfig", "num_key_value_heads", "head_dim"),
    # attention and MLP side by side
    "cohere": _dense("parallel", "CohereConfig", logit_scale=0.25),
    "phi": _dense("parallel", "PhiConfig", "head_dim"),
    "gptj": _gpt("parallel", "GPTJConfig", rotary_dim=8),
    "gpt_neox": _dense("parallel", "GPTNeoXConfig", "num_key_value_heads", "head_dim"),
    "falcon": _own(
        "parallel", "FalconConfig",
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
    ),
    "codegen": _gpt("parallel", "CodeGenConfig", rotary_dim=8),
    # learned positions, ALiBi
    "gpt2": _gpt("learned positions", "GPT2Config"),
    "gpt_bigcode": _gpt("learned positions, one key head", "GPTBigCodeConfig"),
    "opt": _own(
        "learned positions, no MLP module", "OPTConfig",
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, ffn_dim=96,
        word_embed_proj_dim=WIDTH, max_position_embeddings=512,
    ),
    "gpt_neo": _own(
        "learned positions, local attention", "GPTNeoConfig",
        hidden_size=WIDTH, num_layers=LAYERS, num_heads=4, intermediate_size=96,
        attention_types=[[["global", "local"], 2]], window_size=8, max_position_embeddings=512,
    ),
    "bloom": _own("ALiBi", "BloomConfig", hidden_size=WIDTH, n_layer=LAYERS, n_head=4),
    "mpt": _own("ALiBi", "MptConfig", d_model=WIDTH, n_layers=LAYERS, n_heads=4, max_seq_len=512),
    # windows and chunks
    "mistral": _dense("sliding", "MistralConfig", sliding_window=8),
    "phi3": _dense("sliding", "Phi3Config", sliding_window=8),
    "gemma2": _dense(
        "sliding and full, soft caps, norms after", "Gemma2Config",
        sliding_window=8, query_pre_attn_scalar=16,
    ),
    "gemma3_text": _dense(
        "sliding and full, norms after", "Gemma3TextConfig",
        sliding_window=8, query_pre_attn_scalar=16, layer_types=_HALF_FULL,
    ),
    "cohere2": _dense(
        "sliding and full, parallel", "Cohere2Config",
        sliding_window=8, layer_types=_HALF_FULL, logit_scale=0.25,
    ),
    "olmo3": _dense("sliding and full", "Olmo3Config", sliding_window=8, layer_types=_HALF_FULL),
    "exaone4": _dense(
        "sliding and full", "Exaone4Config", sliding_window=8, layer_types=_HALF_FULL
    ),
    "llama4_text": _dense(
        "chunked and full, MoE", "Llama4TextConfig",
        attention_chunk_size=8, no_rope_layers=[1, 0, 1, 0], num_local_experts=4,
        layer_types=["chunked_attention", "full_attention"] * 2, intermediate_size_mlp=96,
        interleave_moe_layer_step=2,
    ),
    # keys and values shared between layers, several streams, inputs per layer
    "gemma3n_text": _dense(
        "shared keys, several streams", "Gemma3nTextConfig",
        sliding_window=8, layer_types=_HALF_FULL, num_kv_shared_layers=2,
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCABULARY, laurel_rank=8,
        activation_sparsity_pattern=[0.0] * LAYERS,
    ),
    "gemma4_text": _dense(
        "shared keys, inputs per layer", "Gemma4TextConfig",
        sliding_window=8, layer_types=_HALF_FULL, num_kv_shared_layers=2,
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCABULARY, global_head_dim=16,
    ),
    # mixtures of experts
    "mixtral": _dense("MoE", "MixtralConfig", **_LOCAL_MOE),
    "qwen3_moe": _dense("MoE", "Qwen3MoeConfig", **_MOE),
    "olmoe": _dense("MoE", "OlmoeConfig", "head_dim", num_experts=4, num_experts_per_tok=2),
    "gpt_oss": _dense(
        "MoE, sliding, attention sinks", "GptOssConfig",
        sliding_window=8, layer_types=_HALF_FULL, **_LOCAL_MOE,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "granitemoeshared": _dense(
        "MoE beside a shared MLP", "GraniteMoeSharedConfig",
        shared_intermediate_size=64, **_LOCAL_MOE,
    ),
    "jetmoe": _dense(
        "MoE in attention too", "JetMoeConfig", "head_dim", "num_attention_heads",
        kv_channels=16, **_LOCAL_MOE,
    ),
    "doge": _dense("scaled residuals", "DogeConfig"),
    "dbrx": _own(
        "MoE, attention with its norms", "DbrxConfig",
        d_model=WIDTH, n_layers=LAYERS, n_heads=4, max_seq_len=512,
        attn_config={"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        ffn_config={
            "ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": WIDTH,
        },
    ),
    # compressed keys and values
    "deepseek_v3": _dense("MLA, MoE", "DeepseekV3Config", "head_dim", **{**_MLA, **_ROUTED}),
    "deepseek_v2": _dense(
        "MLA, MoE", "DeepseekV2Config", "head_dim",
        **{**_MLA, **_ROUTED, "n_shared_experts": 1, "topk_method": "greedy"},
    ),
    "minicpm3": _dense("MLA", "MiniCPM3Config", "head_dim", **_MLA),
    # states beside attention, or instead of it
    "qwen3_next": _dense(
        "linear attention, MoE", "Qwen3NextConfig",
        shared_expert_intermediate_size=32, **_DELTA, **_MOE,
    ),
    "qwen3_5_text": _dense("linear attention", "Qwen3_5TextConfig", **_DELTA),
    "olmo_hybrid": _dense("linear attention", "OlmoHybridConfig", "head_dim", **_DELTA),
    "kimi_linear": _dense(
        "linear attention, MLA, MoE", "KimiLinearConfig", "head_dim",
        **{**_MLA, "q_lora_rank": None}, layer_types=_HALF_LINEAR, linear_head_dim=16,
        linear_num_heads=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
    ),
    "minimax": _dense(
        "lightning attention, MoE", "MiniMaxConfig",
        layer_types=_HALF_LINEAR, block_size=8, **_LOCAL_MOE,
    ),
    "granitemoehybrid": _dense(
        "state space", "GraniteMoeHybridConfig",
        layer_types=["mamba", "attention"] * 2, num_local_experts=0, shared_intermediate_size=96,
        **_MAMBA2,
    ),
    "bamba": _dense(
        "state space", "BambaConfig", attn_layer_indices=[1, 3], **_MAMBA2,
    ),
    "falcon_h1": _dense(
        "state space beside attention", "FalconH1Config", mamba_d_ssm=128, **_MAMBA2
    ),
    "jamba": _dense(
        "state space, MoE", "JambaConfig", "head_dim",
        attn_layer_period=2, attn_layer_offset=1, num_experts=4, num_experts_per_tok=2,
        use_mamba_kernels=False, mamba_dt_rank=8, **_MAMBA,
    ),
    "nemotron_h": _dense(
        "state space", "NemotronHConfig",
        layers_block_type=["mamba", "attention", "mamba", "mlp"], ssm_state_size=8,
        mamba_num_heads=4, mamba_head_dim=32, n_groups=1, chunk_size=16, use_mamba_kernels=False,
    ),
    "zamba": _dense(
        "state space, shared attention", "ZambaConfig", "head_dim", "num_key_value_heads",
        num_key_value_heads=4, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False,
        mamba_dt_rank=8, n_mamba_heads=2, **_MAMBA,
    ),
    "zamba2": _dense(
        "state space, shared attention", "Zamba2Config", "head_dim", "num_key_value_heads",
        layers_block_type=["mamba", "hybrid"] * 2, mamba_ngroups=1, n_mamba_heads=4, chunk_size=16,
        use_mamba_kernels=False, **_MAMBA,
    ),
    "lfm2": _dense(
        "short convolutions", "Lfm2Config", "head_dim", layer_types=["conv", "full_attention"] * 2,
        block_multiple_of=8,
    ),
    "recurrent_gemma": _dense(
        "states kept in modules, sliding", "RecurrentGemmaConfig", "head_dim",
        attention_window_size=8, lru_width=WIDTH, block_types=["recurrent", "attention"],
    ),
    "mamba": _own("state space only", "MambaConfig", time_step_rank=8, **_STATES),
    "mamba2": _own(
        "state space only", "Mamba2Config",
        num_heads=4, head_dim=32, n_groups=1, chunk_size=16, **_STATES,
    ),
    "falcon_mamba": _own("state space only", "FalconMambaConfig", time_step_rank=8, **_STATES),
    "rwkv": _own(
        "states only", "RwkvConfig",
        hidden_size=WIDTH, num_hidden_layers=LAYERS, context_length=512,
        attention_hidden_size=WIDTH,
    ),
    "xlstm": _own(
        "states only", "xLSTMConfig", hidden_size=WIDTH, num_blocks=LAYERS, num_heads=4,
        chunk_size=16,
    ),
    # text parts of wrappers
    "gemma3": _wrapper(
        "wrapper, sliding and full", "Gemma3Config",
        {"sliding_window": 8, "query_pre_attn_scalar": 16, "layer_types": _HALF_FULL}, _VISION,
        mm_tokens_per_image=4, image_token_index=1000, boi_token_index=1001, eoi_token_index=1002,
    ),
    "mistral3": _wrapper(
        "wrapper", "Mistral3Config", {"model_type": "mistral", "sliding_window": None},
        {**_VISION, "model_type": "pixtral", "head_dim": 16}, image_token_index=1000,
    ),
    "llava": _wrapper(
        "wrapper", "LlavaConfig", {"model_type": "llama"},
        {**_VISION, "model_type": "clip_vision_model"}, image_token_index=1000,
    ),
    "qwen2_vl": _wrapper(
        "wrapper, positions in three parts", "Qwen2VLConfig", {"rope_parameters": _MROPE},
        {"depth": 1, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 1},
        image_token_id=1000, video_token_id=1001, vision_start_token_id=1002,
        vision_end_token_id=1003,
    ),
    "qwen3_vl": _wrapper(
        "wrapper, positions in three parts", "Qwen3VLConfig", {"rope_parameters": _MROPE},
        {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32,
         "out_hidden_size": WIDTH, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        image_token_id=1000, video_token_id=1001, vision_start_token_id=1002,
        vision_end_token_id=1003,
    ),
    "idefics3": _wrapper(
        "wrapper", "Idefics3Config", {"model_type": "llama"}, _VISION, image_token_id=1000,
        scale_factor=2,
    ),
    "mllama": _wrapper(
        "wrapper, cross-attention", "MllamaConfig",
        {"cross_attention_layers": [1, 3], "bos_token_id": 0},
        {**_VISION, "num_global_layers": 1, "attention_heads": 2, "vision_output_dim": 64,
         "intermediate_layers_indices": [0], "max_num_tiles": 1,
         "supported_aspect_ratios": [[1, 1]]},
        image_token_index=1000,
    ),
}  # fmt: skip


class NotInThisRelease(SteersweepError):
    """The installed transformers has no such architecture."""


def build(name: str) -> Any:
    """A tiny network of an architecture, random weights, always the same.

    Raises:
        NotInThisRelease: transformers lacks it.
    """
    import torch
    import transformers

    wanted = ARCHITECTURES[name]
    kind: Any = getattr(transformers, wanted.config, None)
    if kind is None:
        raise NotInThisRelease(f"{wanted.config} is not in transformers {transformers.__version__}")
    parts = {}
    if wanted.text is not None:
        parts = {"text_config": dict(wanted.text), "vision_config": dict(wanted.vision or {})}
    config = kind(**wanted.shape, **parts)
    torch.manual_seed(0)
    auto: Any = (
        transformers.AutoModelForCausalLM
        if wanted.text is None
        else transformers.AutoModelForImageTextToText
    )
    network = auto.from_config(config, dtype=torch.float32).eval()
    make_informative(network)
    return network


def make_informative(network: Any) -> None:
    """Weights of a size at which every part of a tiny network changes its answers."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim >= 2 and float(weight.std()) < 0.05:
                weight.normal_(0, 0.15, generator=generator)
            elif weight.ndim == 1 and "norm" in name:
                weight.mul_(1 + 0.3 * torch.rand(weight.shape, generator=generator))
                if name.endswith("weight"):
                    weight.add_(0.2 * torch.rand(weight.shape, generator=generator))
    network.requires_grad_(False)
