"""The smoke test: real architectures pass it, and each known trap, planted, is caught by name."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import FAMILIES, gpt2, random_model, rest_slow
from helpers.studies import small
from steersweep import ChatModel, InputError, Row, generate, load_extraction_set
from steersweep.methods import cosmic_scoring, official
from steersweep.methods.dim import dim_directions
from steersweep.model.batch import Batch
from steersweep.model.rendering import Renderer
from steersweep.smoke.smoke import Check, check_methods, check_model, smoke
from steersweep.steer import passes
from steersweep.steer.activations import residuals
from steersweep.steer.edit import Edit
from steersweep.steer.parity import Parity, compare_readers, read_with_nnsight
from steersweep.steer.regime_search import regime_of
from steersweep.steer.row_edits import RowEdits
from steersweep.study.study import StudyOptions, run_study
from test_cli import refused, run

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
HEADS = {**SHAPE, "head_dim": 16}
EXPERTS = {"num_experts_per_tok": 2}
OLD = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Qwen2ForCausalLM": SHAPE,
    "Qwen3ForCausalLM": HEADS,
    "Qwen3MoeForCausalLM": {**HEADS, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 32},
    "Gemma2ForCausalLM": HEADS,
    "Gemma3ForCausalLM": HEADS,
    "LlamaForCausalLM": SHAPE,
    "Llama4ForCausalLM": {**HEADS, "intermediate_size_mlp": 128, "num_local_experts": 2},
    "MistralForCausalLM": SHAPE,
    "MixtralForCausalLM": {**SHAPE, **EXPERTS, "num_local_experts": 4},
    "Phi3ForCausalLM": {**SHAPE, "pad_token_id": 0},
    "Olmo2ForCausalLM": SHAPE,
    "OlmoeForCausalLM": {**SHAPE, **EXPERTS, "num_experts": 4},
    "GPT2LMHeadModel": {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 256},
    "GPTNeoXForCausalLM": SHAPE,
    "FalconForCausalLM": {**OLD, "multi_query": True, "alibi": False, "bias": False},
    "BloomForCausalLM": {"hidden_size": 64, "n_layer": 4, "n_head": 4},
    "OPTForCausalLM": {**OLD, "ffn_dim": 128, "word_embed_proj_dim": 64},
}


# Those that no lab model is an instance of, and of each kind one, come first.
UNLIKE = ("Qwen3Moe", "Gemma3", "Llama4", "GPT2", "GPTNeoX", "Bloom", "OPT")
UNLIKE_FIRST = sorted(ARCHITECTURES, key=lambda name: not name.startswith(UNLIKE))


def checks(chat: ChatModel) -> dict[str, Check]:
    found: list[Check] = []
    check_model(chat, found.append)
    return {check.name: check for check in found}


def failed(chat: ChatModel) -> set[str]:
    return {name for name, check in checks(chat).items() if not check.passed}


@pytest.mark.parametrize("name", rest_slow(UNLIKE_FIRST, fast=len(UNLIKE)))
def test_an_architecture_works_exactly(name: str) -> None:
    """Every site by every reader, batches, the cache, steering and greedy decoding."""
    chat = random_model(name, **ARCHITECTURES[name])
    assert failed(chat) == set()
    readers = {parity.reader: parity for parity in compare_readers(chat)}
    assert readers["nnsight"].n_sites == chat.n_layers + 2
    assert readers["transformers"].n_sites == chat.n_layers + 1  # not the last layer's output
    assert all(parity.difference == 0 for parity in readers.values())


def test_nnsight_leaves_nothing_in_the_network() -> None:
    chat = ChatModel.load("lab:qwen-7b", device="cpu")

    def own() -> dict[str, set[str]]:
        return {name: {*vars(module)} for name, module in chat.model.named_modules()}

    before, forward = own(), chat.layers[0].forward
    assert read_with_nnsight(chat, [chat.prompt_ids("Hello")])
    assert own() == before
    assert chat.layers[0].forward == forward
    assert next(p for p in compare_readers(chat) if p.reader == "nnsight").equal  # once more


def test_an_architecture_without_such_layers_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="decoder layers of a XLMWithLMHeadModel were not found"):
        random_model("XLMWithLMHeadModel", emb_dim=64, n_layers=4, n_heads=4)


def test_lab_models_pass(family: ChatModel) -> None:
    assert failed(family) == set()
    assert family.turn_end is not None
    assert family.turn_end.token in family.declared_eos_ids


# -- traps, planted ------------------------------------------------------------------------------


@pytest.fixture
def chat() -> ChatModel:
    """A model of its own, to be broken."""
    return ChatModel.load("lab:qwen-7b", device="cpu")


def right_padding(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    def pad(self: ChatModel, sequences: Any) -> Batch:
        width = max(map(len, sequences))
        ids = torch.tensor([[*s, *[self.pad_id] * (width - len(s))] for s in sequences])
        mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
        return Batch(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0))

    patch.setattr(ChatModel, "pad", pad)


def doubled_bos(chat: ChatModel, _patch: pytest.MonkeyPatch) -> None:
    chat.tokenizer.bos_token = "<|endoftext|>"
    chat.tokenizer.chat_template = "{{ bos_token }}{{ bos_token }}" + chat.tokenizer.chat_template
    chat.renderer = Renderer(chat.tokenizer, chat.source)


def first_row_only(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    """`output[0]` where the output is a tensor."""

    def attach(self: ChatModel, hook: Any, layer: int, site: str) -> Any:
        def on_output(_module: Any, _inputs: Any, output: Any) -> None:
            hook(layer, output[0][None].expand_as(output))

        if site != "resid_post":
            return original(self, hook, layer, site)
        return self.layers[layer].register_forward_hook(on_output)

    original = ChatModel._attach
    patch.setattr(ChatModel, "_attach", attach)


def after_the_norm(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    """`hidden_states[-1]` for the last layer's output."""
    norm = chat.model.model.norm

    def attach(self: ChatModel, hook: Any, layer: int, site: Any) -> Any:
        if site != "resid_post" or layer != self.n_layers - 1:
            return original(self, hook, layer, site)
        return norm.register_forward_hook(lambda _m, _i, output: hook(layer, output))

    original = ChatModel._attach
    patch.setattr(ChatModel, "_attach", attach)


def one_layer_late(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    """The input of a layer for its output."""
    original = ChatModel._attach

    def attach(self: ChatModel, hook: Any, layer: int, site: Any) -> Any:
        return original(self, hook, layer, "resid_pre" if site == "resid_post" else site)

    patch.setattr(ChatModel, "_attach", attach)


def edits_that_are_lost(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    original = ChatModel._attach

    def attach(self: ChatModel, hook: Any, layer: int, site: Any) -> Any:
        return original(self, lambda at, hidden: (hook(at, hidden), None)[1], layer, site)

    patch.setattr(ChatModel, "_attach", attach)


def not_finite(chat: ChatModel, _patch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        chat.layers[4].mlp.down_proj.weight[0, 0] = float("nan")


def penalised(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    """Greedy that lowers the logits of seen tokens, as transformers' repetition penalty does."""

    logits = ChatModel.logits

    def penalised_generate(chat: ChatModel, rows: Any, **options: Any) -> Any:
        seen = [*rows[0].prompt_ids]

        def lower(self: ChatModel, *arguments: Any, **named: Any) -> Any:
            found = logits(self, *arguments, **named).clone()
            found[..., seen] -= 100.0
            seen.append(int(found[0, -1].argmax()))
            return found

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(ChatModel, "logits", lower)
            return generate(chat, rows, **options)

    patch.setattr("steersweep.smoke.looks.generate", penalised_generate)


def one_eos_of_two(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(chat.__dict__, "eos_ids", frozenset({chat.tokenizer.pad_token_id or 0}))


def wrong_tokens(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    to_prompts = RowEdits.to_prompts

    def half(self: Any, rows: slice, mask: torch.Tensor) -> Any:
        wrong = torch.zeros_like(mask)
        wrong[:, : mask.shape[1] // 2] = 1  # padding and some of the prompt
        return to_prompts(self, rows, wrong)

    patch.setattr(RowEdits, "to_prompts", half)


def steered_padding(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    """Attention hides padding, so no answer shows it."""
    steer = RowEdits.to_prompts
    patch.setattr(RowEdits, "to_prompts", lambda self, rows, mask: steer(self, rows, mask | 1))


def unsteered_hidden_states(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    """Reading transformers' own hidden states, which are older than a later steering hook."""

    def read(chat: ChatModel, prompts: Any) -> torch.Tensor:
        states = chat.hidden_states(chat.pad(prompts))[1:]
        return torch.stack([layer[:, -1] for layer in states], 1)[:, None].float()

    patch.setattr("steersweep.smoke.looks.residuals", read)


def edits_in_place(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    original = ChatModel._attach

    def attach(self: ChatModel, hook: Any, layer: int, site: Any) -> Any:
        def overwrite(at: int, hidden: torch.Tensor) -> None:
            edited = hook(at, hidden)
            if edited is not None:
                hidden.copy_(edited)

        return original(self, overwrite, layer, site)

    patch.setattr(ChatModel, "_attach", attach)


def float64_and_eager_attention(chat: ChatModel, _patch: pytest.MonkeyPatch) -> None:
    chat.model.set_attn_implementation("eager")
    chat.model.double()


def orthogonalised_weights(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    """What reads and writes the stream is made orthogonal to the direction, once, for ablation."""

    def run_edits(chat: ChatModel, prompts: Any, wanted: Any, **options: Any) -> Iterator[Any]:
        for index, edit in enumerate(wanted):
            if not edit.all_writes:
                done = passes.run_edits(chat, prompts, [edit], **options)
            else:
                weights = [chat.model.get_input_embeddings().weight.T]
                for layer in chat.layers:
                    weights += [layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight]
                for weight in weights:
                    weight.sub_(torch.outer(edit.removed, edit.removed @ weight))
                nothing = Edit.add(torch.zeros(chat.d_model), 1.0, 0)
                done = passes.run_edits(chat, prompts, [nothing], **options)
            for reading in done:
                yield replace(reading, edits=[index])

    patch.setattr("steersweep.smoke.looks.run_edits", run_edits)


TRAPS: dict[str, tuple[Callable[..., None], set[str]]] = {
    "right padding": (right_padding, {"padding"}),
    "doubled BOS": (doubled_bos, {"template"}),
    "output[0] is batch row 0": (first_row_only, {"readers"}),
    "hidden_states[-1] is after the final norm": (after_the_norm, {"readers"}),
    "input for output": (one_layer_late, {"readers"}),
    "unsteered hidden states": (unsteered_hidden_states, {"steering"}),
    "edits that are lost": (edits_that_are_lost, {"steering", "rows"}),
    "edits in place": (edits_in_place, {"rows"}),
    "float64, eager attention and left padding": (float64_and_eager_attention, {"padding"}),
    "NaN": (not_finite, {"extraction", "padding", "greedy", "generation"}),
    "repetition penalty": (penalised, {"greedy"}),
    "one EOS id of several": (one_eos_of_two, {"ending"}),
    "the wrong tokens are steered": (wrong_tokens, {"padding", "rows"}),
    "steered padding": (steered_padding, {"rows"}),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_planted_trap_is_caught(
    trap: str, chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, expected = TRAPS[trap]  # without it the model passes, see test_lab_models_pass
    regime_of(chat)  # what is wrong from the start on is got around
    plant(chat, monkeypatch)
    found = failed(chat)
    assert expected <= found
    assert trap != "NaN" or "readers" not in found  # they agree on it


def test_orthogonalised_weights_are_no_ablation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which shows where norms follow attention and MLP, and where the embedding is tied."""
    gemma = ChatModel.load("lab:gemma-2b", device="cpu")
    orthogonalised_weights(gemma, monkeypatch)
    assert "edits" in failed(gemma)


def rounded_share(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cosmic_scoring, "int", lambda value: round(value + 0.49), raising=False)


def scores_a_little_off(patch: pytest.MonkeyPatch) -> None:
    """The same candidate wins: comparing choices alone would not show it."""
    score = official.score_candidates

    def scaled(*arguments: Any, **options: Any) -> Any:
        scores = score(*arguments, **options)
        return replace(scores, comply=scores.comply * 0.999)

    patch.setattr(official, "score_candidates", scaled)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "seen", "unseen"),
    [
        (rounded_share, "layers compared", "mean differences"),
        (scores_a_little_off, "COSMIC linear: S_comply", "choice"),
    ],
)
def test_wrong_arithmetic_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None],
    seen: str,
    unseen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    check = check_methods.__wrapped__()
    assert not check.passed
    assert seen in check.seen
    assert unseen not in check.seen


def test_missing_position_ids_are_got_around_or_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which shows where positions are learned."""
    late = gpt2.__wrapped__()  # of its own: what is found out about it would stay
    rows = [Row(late.prompt_ids(text)) for text in ("Hello", "What is the tallest mountain here?")]
    expected = generate(late, rows, max_new_tokens=8)
    monkeypatch.setattr(late, "_takes_position_ids", False)
    assert "padding" in failed(late)
    learned = gpt2.__wrapped__()
    monkeypatch.setattr(learned, "_takes_position_ids", False)
    assert not regime_of(learned).pads
    assert generate(learned, rows, max_new_tokens=8) == expected


def test_the_site_where_readers_part_is_named(
    chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_the_norm(chat, monkeypatch)
    found = next(p for p in compare_readers(chat) if p.reader == "nnsight")
    assert found.site == f"layer {chat.n_layers - 1}"


# -- where it is used ----------------------------------------------------------------------------


def test_a_job_stops_where_readers_disagree_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = Parity("nnsight", False, 0.5, 1e-5, "layer 3", 9)
    monkeypatch.setattr("steersweep.smoke.looks.compare_readers", lambda _chat: [apart])
    command = ("sweep", "lab:qwen-3b", "--layers", "0.5", "--strengths", "0.2", "--max-prompts=2")
    done = run(*command, "--out", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert "incompatible: readers: nnsight 5.0e-01 (9 sites), apart from layer 3 on" in done.stderr
    assert run(*command, "--out", "run", "--accept-mismatch", cwd=tmp_path).returncode == 0
    held = json.loads(next((tmp_path / "run" / "extraction").glob("checks-*.json")).read_text())
    assert "layer 3" in next(c["seen"] for c in held["checks"] if c["name"] == "readers")


def test_a_study_skips_a_model_that_fails_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Any = ChatModel.__dict__["eos_ids"]
    one_token = frozenset({3})
    monkeypatch.setattr(
        ChatModel,
        "eos_ids",
        property(lambda chat: one_token if chat.family == "qwen" else original.func(chat)),
    )
    options = StudyOptions(until="family_sweep")
    store = run_study(small(), tmp_path / "run", options)
    failures = store.read_json(store.root / "phases/family_sweep-failures.json")
    assert list(failures) == ["q7 family fp32"]
    assert "incompatible: ending: the template ends an answer with" in failures["q7 family fp32"]
    families = store.read_json(store.root / "decisions/family_sweep.json")["families"]
    assert {row["family"]: row["action"] == "not-run" for row in families} == {
        "mistral": False,
        "qwen": True,
    }


def test_a_reader_that_cannot_read_a_model_is_no_disagreement(
    chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: Any) -> Any:
        raise KeyError("no such envoy")

    monkeypatch.setattr("steersweep.steer.parity.read_with_nnsight", broken)
    found = {parity.reader: parity for parity in compare_readers(chat)}
    assert found["nnsight"].equal
    assert "no such envoy" in found["nnsight"].error
    assert "nnsight cannot read it" in checks(chat)["readers"].seen


@pytest.mark.parametrize("family", rest_slow(FAMILIES, 2), indirect=True)
@pytest.mark.parametrize("site", ["resid_post", "resid_pre"])
def test_nnsight_extracts_what_hooks_extract(family: ChatModel, site: Any) -> None:
    prompts = [family.prompt_ids(text) for text in ("Hello", "How do I bake a cake?")]
    hooks = residuals(family, prompts, positions=(-1, -2), site=site, max_rows=1)
    assert torch.equal(
        hooks,
        residuals(family, prompts, positions=(-1, -2), site=site, max_rows=1, backend="nnsight"),
    )
    texts = load_extraction_set("extract-dim-5")
    one = dim_directions(family, texts)[2]
    other = dim_directions(family, texts, backend="nnsight")[2]
    assert torch.equal(one.vector, other.vector)


def test_extract_by_nnsight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("extract", "lab:qwen-3b", "--layer", "0.5", "-o", "d.safetensors", "--backend")
    assert run(*command, "nnsight", cwd=tmp_path).returncode == 0
    assert "choose hooks or nnsight" in refused(*command, "tea leaves", cwd=tmp_path)
    monkeypatch.setattr("steersweep.steer.activations.find_spec", lambda _name: None)
    assert "pip install 'steersweep[nnsight]'" in refused(*command, "nnsight", cwd=tmp_path)


def test_what_was_seen_is_the_same_on_a_slow_machine(
    chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one model are compared by what they hold: seconds are a field of their own."""
    fast = checks(chat)
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: 1000 * now())
    slow = checks(chat)
    assert {name: check.seen for name, check in fast.items()} == {
        name: check.seen for name, check in slow.items()
    }
    assert slow["generation"].seconds > fast["generation"].seconds


def test_the_command_says_what_it_saw_and_ends_accordingly(
    tmp_path: Path, copied_lab_model: Path
) -> None:
    good = run("smoke", "lab:qwen-7b", cwd=tmp_path)
    assert good.returncode == 0
    assert "<|im_start|>" in good.stdout  # special tokens are visible
    assert good.stdout.rstrip().endswith("passed")
    template = copied_lab_model / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>", "<|im_over|>"))
    bad = run("smoke", str(copied_lab_model), "--json", cwd=tmp_path)
    assert bad.returncode == 1
    found = json.loads(bad.stdout)
    assert [check["name"] for check in found["checks"] if not check["passed"]] == ["ending"]
    missing = run("smoke", "lab:nothing", cwd=tmp_path)
    assert missing.returncode == 1
    assert re.search(r"^FAIL +[0-9.]+ s  load ", missing.stdout, re.M)


def test_a_model_that_is_not_the_catalogs_is_flagged(
    chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {"n_layers": 28, "d_model": 3584}
    monkeypatch.setattr(
        "steersweep.smoke.looks.model_shapes", lambda: {chat.source.location: shape}
    )
    assert failed(chat) == {"layers"}


def test_smoke_is_quick_to_say_what_does_not_load(tmp_path: Path) -> None:
    found = smoke(str(tmp_path))
    assert not found.passed
    assert [check.name for check in found.checks] == ["load"]
