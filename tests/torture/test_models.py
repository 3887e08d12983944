"""Hostile models: weights, configs, tokenizers and templates that are wrong or contradictory."""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torture.helpers.cases import Case, Torture, void
from torture.helpers.hostile import hostile
from torture.helpers.models import (
    LAYER,
    Make,
    good,
    only_adapter,
    with_adapter,
    with_bytes,
    with_config,
    with_json,
    with_tensors,
    with_text,
    with_thing,
    with_weights_as,
    without,
)
from torture.helpers.runs import LIMIT_OF_A_RUN_S, Ground

_TENSOR = f"{LAYER}.mlp.down_proj.weight"
_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 810608\n"
_USER = "<|im_start|>user\n"
_END = "<|im_end|>\n<|im_start|>assistant\n"


def _torch_file(path: Path) -> bytes:
    import torch
    from safetensors.torch import load_file

    saved = io.BytesIO()
    torch.save(load_file(path), saved)
    return saved.getvalue()


def _first_layer_of(count: int) -> Any:
    """Tensors renumbered so that only `count` layers are there."""

    def change(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            parts = name.split(".")
            if parts[1] == "layers" and int(parts[2]) >= count:
                del tensors[name]

    return change


def _renamed(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors[f"transformer.{name}"] = tensors.pop(name)


def _ones(*shape: int) -> Any:
    import torch

    return torch.ones(*(shape or (4,)), dtype=torch.float16)


def _short_vocabulary(tensors: dict[str, Any]) -> None:
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:512]


WEIGHTS: Mapping[str, tuple[Make, bool | None]] = {
    "tensor-missing": (with_tensors(lambda t: t.pop(_TENSOR)), True),
    "norm-missing": (with_tensors(lambda t: t.pop(f"{LAYER}.input_layernorm.weight")), True),
    "bias-missing": (with_tensors(lambda t: t.pop(f"{LAYER}.self_attn.q_proj.bias")), True),
    "embedding-missing": (with_tensors(lambda t: t.pop("model.embed_tokens.weight")), True),
    "layer-missing": (with_tensors(_first_layer_of(8)), True),
    "layers-missing": (with_tensors(_first_layer_of(1)), True),
    "all-missing": (with_tensors(lambda t: t.clear() or t.update(x=_ones())), True),
    "all-renamed": (with_tensors(_renamed), None),
    "tensor-foreign": (
        with_tensors(lambda t: t.update({f"{LAYER}.mlp.gate.weight": _ones()})),
        True,
    ),
    "layer-foreign": (with_tensors(lambda t: t.update({_TENSOR.replace("4", "9"): _ones()})), True),
    "escape-foreign": (with_tensors(lambda t: t.update({"x\x1b[2J.weight": _ones()})), True),
    "head-foreign": (with_tensors(lambda t: t.update({"lm_head.weight": _ones(1024, 64)})), None),
    "shape-wrong": (with_tensors(lambda t: t.update({_TENSOR: t[_TENSOR][:, :-1]})), True),
    "shape-turned": (with_tensors(lambda t: t.update({_TENSOR: t[_TENSOR].T})), True),
    "vocabulary-short": (with_tensors(_short_vocabulary), True),
    "nan": (with_tensors(lambda t: t.update({_TENSOR: t[_TENSOR] * math.nan})), True),
    "infinite": (with_tensors(lambda t: t.update({_TENSOR: t[_TENSOR] * math.inf})), True),
    "integers": (with_tensors(lambda t: t.update({_TENSOR: t[_TENSOR].char()})), True),
    "zeros": (with_tensors(lambda t: t.update({n: x * 0 for n, x in t.items()})), None),
    "untied": (with_config(tie_word_embeddings=False), True),
    "cut-early": (with_bytes("model.safetensors", lambda b: b[:5]), True),
    "cut-in-header": (with_bytes("model.safetensors", lambda b: b[:900]), True),
    "cut-half": (with_bytes("model.safetensors", lambda b: b[: len(b) // 2]), True),
    "cut-late": (with_bytes("model.safetensors", lambda b: b[:-1]), True),
    "longer": (with_bytes("model.safetensors", lambda b: b + b"\0" * 64), True),
    "empty": (with_bytes("model.safetensors", lambda _b: b""), True),
    "zero-filled": (with_bytes("model.safetensors", lambda b: bytes(len(b))), True),
    "header-huge": (with_bytes("model.safetensors", lambda b: b"\xff" * 8 + b[8:]), True),
    "header-flipped": (with_bytes("model.safetensors", lambda b: b[:99] + b"\x80" + b[100:]), True),
    "pointer": (with_text("model.safetensors", _POINTER.format("0" * 64)), True),
    "pickle-inside": (with_bytes("model.safetensors", lambda _b: pickle.dumps({"x": 1})), True),
    "html-inside": (with_text("model.safetensors", "<!doctype html>Sign in"), True),
    "as-bin": (with_weights_as("pytorch_model.bin", _torch_file), True),
    "as-pth": (with_weights_as("consolidated.00.pth", _torch_file), True),
    "as-gguf": (with_weights_as("model.gguf", lambda _p: b"GGUF\x03\x00\x00\x00"), True),
    "missing": (without("model.safetensors"), True),
    "fifo": (with_thing("model.safetensors", os.mkfifo), True),
    "folder": (with_thing("model.safetensors", Path.mkdir), True),
    "loop": (with_thing("model.safetensors", lambda p: p.symlink_to(p.name)), True),
    "dangling": (with_thing("model.safetensors", lambda p: p.symlink_to("nowhere")), True),
    "unreadable": (
        with_thing("model.safetensors", lambda p: (p.write_bytes(b"x"), p.chmod(0))),
        True,
    ),
    "index-without-shards": (
        with_weights_as(
            "model.safetensors.index.json",
            lambda _p: b'{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}',
        ),
        True,
    ),
    "index-escaping": (
        with_weights_as(
            "model.safetensors.index.json",
            lambda _p: b'{"weight_map": {"model.norm.weight": "../../../etc/passwd"}}',
        ),
        True,
    ),
    "index-no-json": (with_weights_as("model.safetensors.index.json", lambda _p: b"["), True),
    "adapter-beside": (with_adapter, None),
    "adapter-alone": (only_adapter, True),
    "adapter-broken": (with_text("adapter_config.json", "{"), None),
}

CONFIGS: Mapping[str, tuple[Make, bool | None]] = {
    "layer-less": (with_config(num_hidden_layers=8, layer_types=["full_attention"] * 8), True),
    "layer-more": (with_config(num_hidden_layers=10, layer_types=["full_attention"] * 10), True),
    "layers-billion": (with_config(num_hidden_layers=10**9, layer_types=None), True),
    "layers-negative": (with_config(num_hidden_layers=-1, layer_types=None), True),
    "layers-none": (with_config(num_hidden_layers=0, layer_types=[]), True),
    "layers-text": (with_config(num_hidden_layers="9"), True),
    "layers-float": (with_config(num_hidden_layers=9.5), True),
    "layers-null": (with_config(num_hidden_layers=None), True),
    "layer-types-short": (with_config(layer_types=["full_attention"]), True),
    "layer-types-unknown": (with_config(layer_types=["magic"] * 9), True),
    "width": (with_config(hidden_size=128), True),
    "width-huge": (with_config(hidden_size=10**7), True),
    "width-odd": (with_config(hidden_size=63), True),
    "width-zero": (with_config(hidden_size=0), True),
    "vocabulary-less": (with_config(vocab_size=512), True),
    "vocabulary-more": (with_config(vocab_size=2048), True),
    "vocabulary-huge": (with_config(vocab_size=10**10), True),
    "heads": (with_config(num_attention_heads=5), True),
    "heads-zero": (with_config(num_attention_heads=0), True),
    "key-heads": (with_config(num_key_value_heads=3), True),
    "head-size": (with_config(head_dim=7), True),
    "positions-short": (with_config(max_position_embeddings=4), True),
    "positions-negative": (with_config(max_position_embeddings=-1), True),
    "activation-unknown": (with_config(hidden_act="magic\x1b[2J"), True),
    "norm-nan": (with_config(rms_norm_eps=math.nan), True),
    "type-unknown": (with_config(model_type="nothing-of-this-name\x1b[2J"), True),
    "type-other": (with_config(model_type="llama"), None),
    "type-encoder": (with_config(model_type="bert", architectures=["BertModel"]), True),
    "type-number": (with_config(model_type=7), True),
    "class-unknown": (with_config(architectures=["Nothing"]), None),
    "pad-beyond": (with_config(pad_token_id=99_999), None),
    "end-beyond": (with_config(eos_token_id=99_999), None),
    "end-text": (with_config(eos_token_id="stop"), None),
    "own-code": (with_config(auto_map={"AutoModelForCausalLM": "evil.Model"}), None),
    "quantized-unknown": (with_config(quantization_config={"quant_method": "magic\x1b[2J"}), True),
    "quantized-gptq": (with_config(quantization_config={"quant_method": "gptq", "bits": 4}), True),
    "quantized-list": (with_config(quantization_config=[]), None),
    "dtype-unknown": (with_config(dtype="float12"), None),
    "rope-unknown": (with_config(rope_parameters={"rope_type": "magic", "rope_theta": 1.0}), True),
    "empty": (with_text("config.json", ""), True),
    "object": (with_text("config.json", "{}"), True),
    "list": (with_text("config.json", "[]"), True),
    "null": (with_text("config.json", "null"), True),
    "deep": (with_text("config.json", "[" * 100_000), True),
    "cut": (with_bytes("config.json", lambda b: b[:300]), True),
    "utf16": (with_bytes("config.json", lambda b: b.decode().encode("utf-16")), None),
    "bom": (with_bytes("config.json", lambda b: b"\xef\xbb\xbf" + b), None),
    "million-digits": (with_text("config.json", f'{{"vocab_size": {"9" * 1_000_000}}}'), True),
    "missing": (without("config.json"), True),
    "fifo": (with_thing("config.json", os.mkfifo), True),
    "folder": (with_thing("config.json", Path.mkdir), True),
    "loop": (with_thing("config.json", lambda p: p.symlink_to(p.name)), True),
    "generation-broken": (with_text("generation_config.json", "{"), None),
    "generation-list": (with_text("generation_config.json", "[]"), None),
    "generation-samples": (
        with_json("generation_config.json", lambda c: c.update(temperature="hot", top_p=9)),
        None,
    ),
}


def _moved(tokenizer: Any, token: str) -> None:
    """Give a special token an id that the model has no row for, everywhere it has one."""
    tokenizer["model"]["vocab"][token] = 70_000
    next(one for one in tokenizer["added_tokens"] if one["content"] == token).update(id=70_000)


TOKENIZERS: Mapping[str, tuple[Make, bool | None]] = {
    "missing": (without("tokenizer.json"), True),
    "both-missing": (without("tokenizer.json", "tokenizer_config.json"), True),
    "empty": (with_text("tokenizer.json", ""), True),
    "object": (with_text("tokenizer.json", "{}"), True),
    "cut": (with_bytes("tokenizer.json", lambda b: b[:9_000]), True),
    "deep": (with_text("tokenizer.json", "[" * 100_000), True),
    "pointer": (with_text("tokenizer.json", _POINTER.format("1" * 64)), True),
    "fifo": (with_thing("tokenizer.json", os.mkfifo), True),
    "folder": (with_thing("tokenizer.json", Path.mkdir), True),
    "ids-beyond": (
        with_json("tokenizer.json", lambda t: t["model"]["vocab"].update({"river": 5_000_000})),
        None,
    ),
    # In no prompt, and no logit stands for it: nothing can go wrong with it.
    "special-beyond": (with_json("tokenizer.json", lambda t: _moved(t, "<|endoftext|>")), False),
    "used-special-beyond": (with_json("tokenizer.json", lambda t: _moved(t, "<|im_end|>")), True),
    "no-end": (with_json("tokenizer_config.json", lambda t: t.update(eos_token=None)), None),
    "no-pad": (with_json("tokenizer_config.json", lambda t: t.update(pad_token=None)), None),
    "other-end": (with_json("tokenizer_config.json", lambda t: t.update(eos_token="river")), None),
    "class-unknown": (
        with_json("tokenizer_config.json", lambda t: t.update(tokenizer_class="Magic\x1b[2J")),
        None,
    ),
    "length-negative": (
        with_json("tokenizer_config.json", lambda t: t.update(model_max_length=-1)),
        None,
    ),
    "length-short": (
        with_json("tokenizer_config.json", lambda t: t.update(model_max_length=2)),
        None,
    ),
    "settings-list": (with_text("tokenizer_config.json", "[]"), True),
    "settings-cut": (with_text("tokenizer_config.json", "{"), True),
}

# Templates that drop, change or add to what the user says must be refused.
TEMPLATES: Mapping[str, tuple[str, bool | None]] = {
    "empty": ("", True),
    "fixed": (f"{_USER}Hello{_END}", True),
    "no-text": (_USER + "{{ messages[0]['role'] }}" + _END, True),
    "first-letters": (_USER + "{{ messages[0]['content'][:5] }}" + _END, True),
    "last-letters": (_USER + "{{ messages[0]['content'][-5:] }}" + _END, True),
    "upper": (_USER + "{{ messages[0]['content'] | upper }}" + _END, True),
    "reversed": (_USER + "{{ messages[0]['content'] | reverse }}" + _END, True),
    "twice": (_USER + "{{ messages[0]['content'] * 2 }}" + _END, None),
    "escaped": (_USER + "{{ messages[0]['content'] | e }}" + _END, None),
    "no-end": (_USER + "{{ messages[0]['content'] }}", None),
    "after-tokens": (_END + "{{ messages[0]['content'] }}", None),
    "raises": ("{{ raise_exception('never\x1b[2J again') }}", True),
    "raises-for-text": (
        _USER + "{% if 'river' in messages[0]['content'] %}{{ raise_exception('no rivers') }}"
        "{% endif %}{{ messages[0]['content'] }}" + _END,
        None,
    ),
    "wants-system": (
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('system first') }}{% endif %}",
        True,
    ),
    "wants-parts": (_USER + "{{ messages[0]['content'][0]['text'] }}" + _END, None),
    "divides": ("{{ 1 // 0 }}", True),
    "undefined": ("{{ nothing.of.this }}", True),
    "unknown-filter": ("{{ messages | magic }}", True),
    "cut": (_USER + "{{ messages[0]['content'", True),
    "open-loop": ("{% for m in messages %}{{ m['content'] }}", True),
    "loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        True,
    ),
    "loops-and-says": (
        "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
        True,
    ),
    "grows": (
        "{% set n = namespace(x='aaaaaaaaaa') %}{% for a in range(99) %}"
        "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        True,
    ),
    "multiplies": ("{{ 'a' * 9999999999 }}", True),
    "powers": ("{{ 9 ** 9 ** 9 }}", True),
    "pads": ("{{ '%9999999999d' % 7 }}", True),
    "centers": ("{{ 'a' | center(9999999999) }}", True),
    "long": (_USER + "word " * 100_000 + "{{ messages[0]['content'] }}" + _END, True),
    "calls-itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", True),
    "deep": ("(" * 20_000, None),
    "deep-expression": ("{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}", True),
    "escapes-sandbox": ("{{ messages.__class__.__mro__[1].__subclasses__() }}", True),
    "imports": ("{% import 'os' as os %}", True),
    "includes": ("{% include '/etc/passwd' %}", True),
    "random": (_USER + "{{ messages[0]['content'] }}{{ range(9) | random }}" + _END, None),
    "date": (_USER + "{{ strftime_now('%H:%M:%S') }} {{ messages[0]['content'] }}" + _END, None),
    "date-escape": (
        _USER + "{{ strftime_now('\x1b[2J') }}{{ messages[0]['content'] }}" + _END,
        None,
    ),
    "surrogate": (_USER + "{{ '\\ud800' }}{{ messages[0]['content'] }}" + _END, True),
    "nul": (_USER + "\0{{ messages[0]['content'] }}" + _END, None),
    "crlf": (_USER + "{{ messages[0]['content'] }}" + _END.replace("\n", "\r\n"), None),
    "number": ("{{ 7 }}", True),
}


def commands(full: bool) -> dict[str, tuple[str, ...]]:
    """What is tried on each model."""
    device = ("--device", "cpu")
    sweep = ("sweep", "model", "--layers", "0.5", "--strengths", "0.35", "--max-prompts", "2")
    found = {"sweep": (*sweep, "--max-new-tokens", "4", "--out", "run", "--quiet", *device)}
    if full:
        found["smoke"] = ("smoke", "model", *device)
        extract = ("extract", "model", "--layer", "0.5", "-o", "d.safetensors")
        found["extract"] = (*extract, *device)
    return found


def model_cases(
    ground: Ground, part: str, models: Mapping[str, tuple[Make, bool | None]], *, full: bool
) -> list[Case]:
    cases = []
    for command, arguments in commands(full).items():
        for name, (make, refused) in models.items():
            cases.append(
                hostile(
                    ground,
                    f"{part}-{name}-{command}",
                    make,
                    arguments,
                    refused=refused,
                    names=("model",),
                    limit_s=LIMIT_OF_A_RUN_S,
                )
            )
    return cases


def test_good_model(torture: Torture, ground: Ground) -> None:
    """The copy that all others are made from is accepted."""
    cases = [
        hostile(
            ground,
            f"model-good-{name}",
            lambda f: void(good(f)),
            arguments,
            refused=False,
            limit_s=60,
        )
        for name, arguments in commands(full=True).items()
    ]
    torture.attack("an undamaged model", cases, small=3)


def test_weights(torture: Torture, ground: Ground) -> None:
    full = torture.full
    torture.attack("models: weights", model_cases(ground, "weights", WEIGHTS, full=full), small=24)


def test_configs(torture: Torture, ground: Ground) -> None:
    full = torture.full
    torture.attack("models: config", model_cases(ground, "config", CONFIGS, full=full), small=24)


def test_tokenizers(torture: Torture, ground: Ground) -> None:
    full = torture.full
    cases = model_cases(ground, "tokenizer", TOKENIZERS, full=full)
    torture.attack("models: tokenizer", cases, small=12)


def test_templates(torture: Torture, ground: Ground) -> None:
    full = torture.full
    models = {
        name: (with_text("chat_template.jinja", text), refused)
        for name, (text, refused) in TEMPLATES.items()
    }
    torture.attack("models: template", model_cases(ground, "template", models, full=full), small=24)
