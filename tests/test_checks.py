"""What every run of a model checks first, and what it does with layers that have no direction."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import lab, rest_slow
from steersweep import ChatModel, InputError, Row, dim_directions, generate, load_extraction_set
from steersweep.core.errors import SteersweepError
from steersweep.methods.extraction import extract_directions
from steersweep.methods.noise import NoDirection
from steersweep.model.batch import Batch
from steersweep.model.kv_cache import _BufferedLayer
from steersweep.prompts.prompts import ExtractionSet
from steersweep.run.direction import Direction
from steersweep.run.folder import RunFolder
from steersweep.smoke.basics import cache, padding
from steersweep.smoke.looks import LOOKS
from steersweep.smoke.passes import PlainPasses, is_apart, share_of_fault
from steersweep.smoke.required import check_for_run, check_for_user
from steersweep.smoke.smoke import Check, smoke
from steersweep.steer.activations import residuals
from steersweep.steer.everywhere import ablation_sites_of
from steersweep.steer.found import forget
from steersweep.steer.pair_masks import takes_pair_masks
from steersweep.steer.probe import Probe
from steersweep.steer.regime import Regime
from steersweep.steer.regime_search import regime_of
from test_cli import refused, run

SWEEP = ("--layers=0.5", "--strengths=0.2", "--max-prompts=2", "--max-new-tokens=4", "--quiet")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What checks found in one test is not known in another."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("STEERSWEEP_CACHE", str(folder))
    return folder


def copied(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(lab(name).source.location, folder))


def retemplated(folder: Path, old: str, new: str) -> None:
    template = folder / "chat_template.jinja"
    text = template.read_text("utf-8")
    assert old in text
    template.write_text(text.replace(old, new), "utf-8")


def reweighted(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# -- planted faults --------------------------------------------------------------------------------


def cuts_text(folder: Path, _patch: pytest.MonkeyPatch) -> None:
    retemplated(folder, "['content']", "['content'][:40]")


def wants_parts(folder: Path) -> Path:
    retemplated(
        folder,
        "message['content']",
        "message['content'] | selectattr('text') | map(attribute='text') | join",
    )
    return folder


def lacks_the_answers_beginning(folder: Path, _patch: pytest.MonkeyPatch) -> None:
    retemplated(folder, "add_generation_prompt", "never")


def ends_in_plain_text(folder: Path, _patch: pytest.MonkeyPatch) -> None:
    retemplated(folder, "<|im_end|>", "<|im_over|>")


def holds_nan(folder: Path, _patch: pytest.MonkeyPatch) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")

    reweighted(folder, change)


def is_constant(folder: Path, _patch: pytest.MonkeyPatch) -> None:
    reweighted(folder, lambda weights: weights["model.layers.1.mlp.up_proj.weight"].fill_(0.25))


def does_not_hear(folder: Path, _patch: pytest.MonkeyPatch) -> None:
    """Attention writes nearly nothing, so all prompts, which end alike, get one answer."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        for name, weight in weights.items():
            if name.endswith("o_proj.weight"):
                weight.mul_(1e-5)

    reweighted(folder, change)


def has_untrained_tokens(folder: Path, _patch: pytest.MonkeyPatch) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        embeddings = weights["model.embed_tokens.weight"]
        embeddings[:8] = embeddings.mean(0)

    reweighted(folder, change)


def shows_padding(patch: pytest.MonkeyPatch) -> None:
    pad = ChatModel.pad

    def leaking(self: ChatModel, sequences: Any) -> Batch:
        batch = pad(self, sequences)
        return Batch(batch.input_ids, torch.ones_like(batch.attention_mask), batch.position_ids)

    patch.setattr(ChatModel, "pad", leaking)


def forgets(patch: pytest.MonkeyPatch) -> None:
    update = _BufferedLayer.update

    def stale(self: Any, keys: Any, values: Any, *rest: Any, **named: Any) -> Any:
        found = update(self, keys, values, *rest, **named)
        return (found[0], found[1].flip(-2)) if keys.shape[-2] == 1 else found

    patch.setattr(_BufferedLayer, "update", stale)


FAULTS: dict[str, tuple[str, Callable[..., None], int, str]] = {
    "template cuts": ("qwen-3b", cuts_text, 2, "chat_template.jinja: the chat template changes or"),
    "no lead": ("phi-mini", lacks_the_answers_beginning, 2, "does not open the answer"),
    "no ending": ("qwen-3b", ends_in_plain_text, 2, "ending: the template ends an answer with"),
    "NaN": ("mistral-7b", holds_nan, 2, "model.layers.1.mlp.down_proj.weight holds NaN"),
    "constant": ("llama-3b", is_constant, 2, "up_proj.weight is 0.25 everywhere"),
    "deaf": ("qwen-3b", does_not_hear, 2, "weights: the next token is the same whatever is asked"),
    "untrained": ("llama-3b", has_untrained_tokens, 2, "have the same embedding"),
}
FOUND_BY_CHECKS = ("no ending", "constant", "deaf", "untrained")


@pytest.fixture
def faulty(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, int, str]:
    name, plant, code, said = FAULTS[request.param]
    plant(copied(name, tmp_path / "model"), monkeypatch)
    facts = {"raw_norm": 1.0, "residual_norm": 1.0, "model_id": "m", "model_fingerprint": "f"}
    vector = torch.nn.functional.normalize(torch.ones(lab(name).d_model), dim=0)
    Direction(vector, "dim", layer=1, position=-1, precision="fp32", prompts="p", **facts).save(
        tmp_path / "d.safetensors"
    )
    return request.param, code, said


COMMANDS = {
    "sweep": ("sweep", "model", *SWEEP, "--out=run"),
    "extract": ("extract", "model", "--layer=0.5", "--output=new.safetensors"),
    "generate": (
        "generate", "model", "--direction=d.safetensors", "--strength=0.1", "--prompt=Hello",
        "--max-new-tokens=4",
    ),
}  # fmt: skip


def stops(faulty: tuple[str, int, str], command: Sequence[str], place: Path) -> None:
    name, code, said = faulty
    done = run(*command, cwd=place)
    assert done.returncode == code, done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: model: ")
    assert said in error
    assert ("--accept-mismatch" in error) == (name in FOUND_BY_CHECKS)
    assert not (place / "new.safetensors").exists()


@pytest.mark.parametrize("faulty", FAULTS, indirect=True)
def test_a_planted_fault_stops_a_command(faulty: tuple[str, int, str], tmp_path: Path) -> None:
    stops(faulty, COMMANDS["extract"], tmp_path)


@pytest.mark.parametrize("faulty", rest_slow(sorted(FAULTS, key="no ending".__ne__)), indirect=True)
def test_a_planted_fault_stops_the_other_commands(
    faulty: tuple[str, int, str], tmp_path: Path
) -> None:
    stops(faulty, COMMANDS["sweep"], tmp_path)
    stops(faulty, COMMANDS["generate"], tmp_path)


@pytest.mark.parametrize(("plant", "look"), [(shows_padding, padding), (forgets, cache)])
@pytest.mark.parametrize("name", rest_slow(["mistral-7b", "gemma-2b"]))
def test_padding_and_cache_are_got_around_or_seen(
    plant: Callable[..., None], look: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that is there from the start is got around; one that comes later is seen."""
    texts = ("Hello", "How do I bake a cake for a friend who likes plums?")

    def answers(chat: ChatModel) -> list[str]:
        rows = [Row(chat.prompt_ids(text)) for text in texts]
        return [answer.text for answer in generate(chat, rows, max_new_tokens=12)]

    late = ChatModel.load(f"lab:{name}", device="cpu")
    expected = answers(late)
    assert not look(late, PlainPasses(late))[0]
    plant(monkeypatch)
    assert look(late, PlainPasses(late))[0]
    early = ChatModel.load(f"lab:{name}", device="cpu")
    forget(early)  # as with another version of a library
    assert answers(early) == expected


def test_a_template_may_begin_with_the_token_for_what_is_unknown(tmp_path: Path) -> None:
    """As in OLMo and GPT-2, where one token begins texts, ends them and stands for the unknown."""
    folder = copied("qwen-3b", tmp_path / "model")
    file = folder / "tokenizer_config.json"
    unknown = {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **unknown}))
    template = folder / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text())
    chat = ChatModel.load(str(folder), device="cpu")
    assert chat.prompt_ids("Hello")[0] == chat.tokenizer.unk_token_id
    assert check_for_user(chat) == ()


def test_a_template_that_wants_parts_is_given_them(tmp_path: Path) -> None:
    chat = ChatModel.load(str(wants_parts(copied("gemma-2b", tmp_path / "model"))), device="cpu")
    assert chat.prompt_ids("Hello") == lab("gemma-2b").prompt_ids("Hello")
    assert any("wants a list of parts" in note for note in chat.renderer.notes())


@pytest.mark.parametrize("faulty", ["constant"], indirect=True)
def test_a_mismatch_may_be_accepted_everywhere_and_is_said(
    faulty: tuple[str, int, str], tmp_path: Path
) -> None:
    for name, command in COMMANDS.items():
        done = run(*command, "--accept-mismatch", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        where = done.stdout if name == "sweep" else done.stderr
        assert "goes on although incompatible: weights: " in where


def test_a_model_is_checked_once_until_something_it_rests_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    folder = copied("qwen-3b", tmp_path / "model")
    check_for_user(ChatModel.load(str(folder), device="cpu"))
    (kept,) = own_cache.glob("models/*/checks-*.json")
    made: list[str] = []

    def counted(_chat: ChatModel, note: Callable[[Check], None], only: Collection[str]) -> None:
        made.append("checked")
        for name in only:
            note(Check(name, True, "", 0.0))

    monkeypatch.setattr("steersweep.smoke.required.check_model", counted)
    check_for_user(ChatModel.load(str(folder), device="cpu"))
    assert made == []
    check_for_user(ChatModel.load(str(folder), device="cpu", precision="bf16"))
    assert made == ["checked"]
    retemplated(folder, "assistant", "helper")
    check_for_user(ChatModel.load(str(folder), device="cpu"))
    assert made == ["checked"] * 2
    kept.write_text(kept.read_text()[:-20])
    retemplated(folder, "helper", "assistant")
    check_for_user(ChatModel.load(str(folder), device="cpu"))
    assert made == ["checked"] * 3


def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_arguments: Any) -> None:
        raise AssertionError("the model is looked at")

    for where in ("regime_search.Probe", "pair_masks._looked", "everywhere._left"):
        monkeypatch.setattr(f"steersweep.steer.{where}", look)


def looks(chat: ChatModel) -> list[Any]:
    return [regime_of(chat), takes_pair_masks(chat), ablation_sites_of(chat)]


def test_what_was_found_about_a_model_is_known_in_other_processes(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    def load(**options: str) -> ChatModel:
        return ChatModel.load("lab:gemma-2b", device="cpu", **options)

    found = looks(load())
    with pytest.MonkeyPatch.context() as patched:
        no_looks(patched)
        assert looks(load()) == found
        other = load()
        wrapped = ChatModel.wrap(other.model, other.tokenizer)  # nobody knows which code it runs
        for chat in (load(precision="bf16"), wrapped):
            with pytest.raises(AssertionError, match="looked at"):
                takes_pair_masks(chat)
        patched.setattr("steersweep.core.provenance.packages", lambda: ["torch-3.0.dist-info"])
        with pytest.raises(AssertionError, match="looked at"):
            takes_pair_masks(load())
    (held,) = own_cache.glob("models/*/regime.json")
    held.write_text(held.read_text().replace('"found": {}', '"found": {"pads": false}'))
    seen: list[ChatModel] = []
    monkeypatch.setattr(
        "steersweep.steer.regime_search.Probe", lambda chat: (seen.append(chat), Probe(chat))[1]
    )
    chat = load()
    assert looks(chat) == found
    assert seen == [chat]
    forget(chat)
    assert looks(chat) == found
    assert len(seen) == 2


def test_a_model_that_was_refused_is_looked_at_again(own_cache: Path) -> None:
    chat = ChatModel.load("lab:qwen-3b", device="cpu")
    forward = chat.model.forward
    chat.model.forward = lambda *_a, **_k: forward()
    with pytest.raises(InputError, match="cannot be run right"):
        regime_of(chat)
    assert not [*own_cache.glob("models/*/*.json")]
    assert regime_of(ChatModel.load("lab:qwen-3b", device="cpu")) == Regime()


def test_a_new_run_folder_takes_this_users_checks_and_smoke_makes_them_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a check that failed nothing is kept: it may have been the moment's fault."""
    made: list[str] = []

    def counted(chat: ChatModel, plain: PlainPasses) -> tuple[bool, str]:
        made.append("cache")
        return len(made) == 1, "out of luck"

    monkeypatch.setitem(LOOKS, "cache", counted)
    chat = ChatModel.load("lab:qwen-3b", device="cpu")

    def check(folder: str) -> str:
        store = RunFolder(tmp_path / folder)
        check_for_run(chat, store, every=False, accept_mismatch=False)
        return next((store.root / "extraction").glob("checks-*.json")).read_text()

    with pytest.raises(SteersweepError, match="incompatible: cache: out of luck"):
        check("a")
    assert check("b") == check("c")
    assert check_for_user(chat) == ()
    assert len(made) == 2
    of_methods = Check("methods", True, "", 0.0)
    monkeypatch.setattr("steersweep.smoke.smoke.check_methods", lambda: of_methods)
    assert smoke("lab:qwen-3b", device="cpu").passed
    assert len(made) == 3


def test_a_difference_that_a_tolerance_allows_is_seen_where_it_is_much_of_the_fault() -> None:
    chat = lab("qwen-3b")
    assert not is_apart(chat, 1e-7, share=1.0)  # rounding, on a model that does not care
    assert is_apart(chat, 1.5e-4, share=0.4)
    assert not is_apart(chat, 1.5e-4, share=1e-4)
    assert is_apart(chat, float("inf"), share=0.0)


def test_in_eight_bits_rounding_beside_a_small_fault_is_none() -> None:
    """On qwen-coder-1.5b it was 0.26 of what padding changes, and another way."""
    plain = lab("qwen-3b")
    eight = ChatModel.load("lab:qwen-3b", precision="int8-dynamic", device="cpu")
    made = torch.Generator().manual_seed(0)
    fault, other = torch.randn(2, 400, generator=made)
    rounding = 0.3 * (other - (other @ fault) / (fault @ fault) * fault)
    assert share_of_fault(plain, rounding, fault) > 0.2
    assert share_of_fault(eight, rounding, fault) < 0.01
    for chat in (plain, eight):
        assert share_of_fault(chat, rounding + 0.5 * fault, fault) > 0.4


def test_padding_that_shows_is_found_in_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ChatModel.load("lab:qwen-3b", precision="int8-dynamic", device="cpu")
    assert not padding(chat, PlainPasses(chat))[0]
    shows_padding(monkeypatch)
    wrong, said = padding(chat, PlainPasses(chat))
    assert wrong, said


# -- how answers end -------------------------------------------------------------------------------


def only_eos(folder: Path, token: str, number: int) -> None:
    for name, change in (
        ("tokenizer_config.json", {"eos_token": token}),
        ("generation_config.json", {"eos_token_id": number}),
        ("config.json", {"eos_token_id": number}),
    ):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("qwen-3b", "<|endoftext|>"),
        ("llama-3b", "<|end_of_text|>"),
        pytest.param("gemma-2b", "<eos>", marks=pytest.mark.slow),
    ],
)
def test_answers_end_where_the_template_ends_a_turn(name: str, token: str, tmp_path: Path) -> None:
    original = lab(name)
    folder = copied(name, tmp_path / "model")
    only_eos(folder, token, original.tokenizer.convert_tokens_to_ids(token))
    chat = ChatModel.load(str(folder), device="cpu")
    assert len(chat.declared_eos_ids) == 1
    assert chat.eos_ids == original.eos_ids
    rows = [Row(chat.prompt_ids("How do I bake a cake?"))]
    found, expected = (generate(model, rows, max_new_tokens=40) for model in (chat, original))
    assert found == expected
    assert expected[0].finish_reason == "eos"
    notes = check_for_user(chat)
    assert len(notes) == 1
    assert f"the model's files name only '{token}'" in notes[0]
    assert check_for_user(original) == ()


def test_a_run_says_and_keeps_that_an_ending_was_added(tmp_path: Path) -> None:
    only_eos(copied("qwen-3b", tmp_path / "model"), "<|endoftext|>", 2)
    done = run("sweep", "model", *SWEEP[:-1], "--out=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    note = "answers end at '<|im_end|>' too, by which the chat template ends a turn"
    assert note in done.stderr
    assert note in done.stdout
    assert note in html.unescape((tmp_path / "run" / "report.html").read_text("utf-8"))
    (result,) = json.loads(next((tmp_path / "run" / "results").glob("*.json")).read_text())
    assert result["notes"][0].startswith(note)
    assert result["provenance"]["notes"][0].startswith(note)


# -- no direction ----------------------------------------------------------------------------------


def narrow_model(folder: Path, model_class: str = "MistralForCausalLM", **shape: Any) -> Path:
    """The first layer of it sees the template's last tokens only, which are the same everywhere."""
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, model_class)
    sizes = dict.fromkeys(("hidden_size", "intermediate_size"), 64)
    config = cls.config_class(
        vocab_size=1024, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, sliding_window=4, initializer_range=0.15, max_position_embeddings=512,
        bos_token_id=None, eos_token_id=1, pad_token_id=2, **sizes, **shape,
    )  # fmt: skip
    cls(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(lab("qwen-7b").source.location) / name, folder / name)
    return folder


@pytest.mark.parametrize("precision", rest_slow(["fp32", "int8", "bf16", "fp16"], fast=2))
@pytest.mark.parametrize(
    ("model_class", "shape", "without"),
    [
        ("MistralForCausalLM", {}, [0, 1]),
        ("Gemma2ForCausalLM", {"query_pre_attn_scalar": 16}, [0]),  # its layer 1 sees everything
    ],
)
def test_a_difference_of_rounding_is_no_direction(
    model_class: str, shape: dict[str, Any], without: list[int], precision: str, tmp_path: Path
) -> None:
    folder = narrow_model(tmp_path / "model", model_class, **shape)
    chat = ChatModel.load(str(folder), device="cpu", precision=precision)
    prompts = load_extraction_set("extract-dim-5")
    ids = [chat.prompt_ids(text) for text in (*prompts.harmful, *prompts.harmless)]
    states = residuals(chat, ids)[:, 0, 0].double()
    assert float((states - states.mean(0)).norm(dim=-1).max()) < 0.02 * float(states[0].norm())
    found = extract_directions(chat, "dim", prompts, [0, 1, 3])
    assert list(found.missing) == without
    assert "layer 0: no direction" in found.missing[0]
    assert list(found.at_layer) == [layer for layer in (0, 1, 3) if layer not in without]
    with pytest.raises(NoDirection, match=r"layer 0: no direction.*leave that layer out"):
        dim_directions(chat, prompts)
    assert [d.layer for d in dim_directions(chat, prompts, layers=[3, 2])] == [3, 2]


@pytest.mark.parametrize("precision", rest_slow(["int8", "fp32", "bf16"]))
def test_real_directions_are_kept_in_every_precision(precision: str) -> None:
    chat = ChatModel.load("lab:qwen-3b", device="cpu", precision=precision)
    assert len(dim_directions(chat, load_extraction_set("extract-dim-5"))) == chat.n_layers


@pytest.mark.parametrize("method", ["dim", "cosmic-study-2026"])
def test_the_same_prompts_in_both_classes_have_no_direction(method: str) -> None:
    texts = load_extraction_set("extract-cosmic-50").harmful[:6]
    same = ExtractionSet("same", texts, tuple(reversed(texts)))
    with pytest.raises(InputError, match="so there is no direction; are the two lists the same"):
        extract_directions(lab("qwen-3b"), method, same, [1])


def test_a_sweep_leaves_out_layers_without_a_direction_and_says_so(tmp_path: Path) -> None:
    narrow_model(tmp_path / "model")
    texts = load_extraction_set("extract-cosmic-50")
    few = {"harmful": texts.harmful[:8], "harmless": texts.harmless[:8]}
    (tmp_path / "few.json").write_text(json.dumps(few))
    command = (
        "sweep", "model", "--methods=dim,cosmic", "--layers=0,2", "--strengths=0.2", "--out=run",
        "--max-prompts=2", "--max-new-tokens=4", "--extraction=few.json",
    )  # fmt: skip
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(next((tmp_path / "run" / "results").glob("*.json")).read_text())
    dim, cosmic = (r for r in results if "@" not in r["method"])
    for result in (dim, cosmic):
        assert "dim, layer 0: no direction" in "\n".join(result["notes"])
        assert "cosmic, layer 0: no direction" in "\n".join(result["notes"])
        assert [entry["layer_idx"] for entry in result["conditions"]] == [2]
        assert [e["layer_idx"] for e in result["controls"]["random_directions"]] == [2]
    assert "dim, layer 0: no direction" in done.stdout
    assert "dim, layer 0: no direction" in done.stderr
    assert "layer 0: no direction" in (tmp_path / "run" / "report.html").read_text("utf-8")
    held = json.loads(next((tmp_path / "run" / "extraction").glob("dim-*.json")).read_text())
    assert list(held["missing"]) == ["0", "1"]
    again = run(*command, cwd=tmp_path)
    assert "already finished" in again.stderr


def test_only_layers_without_a_direction_are_refused_by_name(tmp_path: Path) -> None:
    narrow_model(tmp_path / "model")
    sweep = ("sweep", "model", "--layers=0", *SWEEP[1:], "--out=run")
    for _ in range(2):  # the second time it is known before the model is loaded
        said = refused(*sweep, cwd=tmp_path)
        assert "model: nothing to sweep: dim, layer 0: no direction" in said
    extract = ("extract", "model", "--layer=0", "--output=d.safetensors")
    assert "extract-dim-5" in refused(*extract, cwd=tmp_path)
    assert not (tmp_path / "d.safetensors").exists()


# -- models that think -----------------------------------------------------------------------------


def test_reasoning_that_the_template_opens_is_not_the_answer(tmp_path: Path) -> None:
    folder = copied("qwen-3b", tmp_path / "model")
    retemplated(
        folder,
        "%}<|im_start|>assistant\n{% endif %}",
        "%}<|im_start|>assistant\n<think>\n{% endif %}",
    )
    assert ChatModel.load(str(folder), device="cpu").opened_thought == "<think>\n"
    done = run("sweep", "model", *SWEEP[:-1], "--out=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the chat template opens the model's reasoning (<think>)") == 1
    assert "2 have no answer within 4 tokens" in done.stderr
    (result,) = json.loads(next((tmp_path / "run" / "results").glob("*.json")).read_text())
    unsteered = result["controls"]["unsteered"]
    assert all(s["response"].startswith("<think>\n") for s in unsteered["samples"])
    assert (unsteered["normal_rate"], unsteered["garbled_rate"]) == (0.0, 1.0)
    assert unsteered["failure_modes"] == {"no-answer": 2}
    assert "2 have no answer within 4 tokens" in "\n".join(result["notes"])
    run("extract", "model", "--layer=0.5", "--output=d.safetensors", cwd=tmp_path)
    asked = run(*COMMANDS["generate"], cwd=tmp_path)
    assert "unsteered: <think>\n" in asked.stdout
    assert "1 have no answer within 4 tokens" in asked.stderr


def test_special_tokens_that_mark_reasoning_stay_in_the_text() -> None:
    chat = ChatModel.load("lab:qwen-3b", device="cpu")
    plain = chat.token_ids("Hello there")
    assert chat.decode([1, *plain, 1]) == "Hello there"
    marks = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>"]
    chat.tokenizer.add_special_tokens({"additional_special_tokens": marks})
    chat = ChatModel(chat.model, chat.tokenizer, source=chat.source)
    channel, message, start, end = chat.tokenizer.convert_tokens_to_ids(marks)
    ids = [channel, *chat.token_ids("analysis"), message, *plain, end, 1]
    assert chat.decode(ids) == "<|channel|>analysis<|message|>Hello there<|end|>"
    assert chat.decode([1, *plain, 1]) == "Hello there"
    assert start not in plain


# -- options ---------------------------------------------------------------------------------------


def test_generate_and_extract_take_what_other_commands_take(tmp_path: Path) -> None:
    extract = ("extract", "lab:qwen-3b", "--layer=0.5", "--output=d.safetensors", "--json")
    done = run(*extract, "--revision=main", "--trust-remote-code", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["layer"], facts["method"], facts["notes"]) == (
        lab("qwen-3b").n_layers // 2,
        "dim",
        [],
    )
    generated = run(
        "generate", "lab:qwen-3b", *COMMANDS["generate"][2:], "--revision=main", "--rows=1",
        "--trust-remote-code", "--precision=fp32", "--device=cpu", "--quiet", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert generated.returncode == 0, generated.stderr
    assert [pair["prompt"] for pair in json.loads(generated.stdout)] == ["Hello"]
    wide = ("generate", "lab:qwen-7b", *COMMANDS["generate"][2:])
    assert f"d.safetensors: a direction of lab:qwen-3b, {lab('qwen-3b').d_model} wide" in refused(
        *wide, cwd=tmp_path
    )
    deep = Direction.load(tmp_path / "d.safetensors")
    Direction(**{**vars(deep), "layer": 40}).save(tmp_path / "d.safetensors")
    said = refused("generate", "lab:qwen-3b", *COMMANDS["generate"][2:], cwd=tmp_path)
    assert "layer 40; lab:qwen-3b has layers 0 to " in said
