"""What a condition's key holds: every input of a run, and nothing that cannot change a result."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from steersweep import InputError
from steersweep.core.user_cache import kept
from steersweep.model import fingerprint
from steersweep.model.find import find_model
from steersweep.model.fingerprint import file_hash, files_that_count
from steersweep.model.rendering import load_renderer
from steersweep.model.rendering import test_rendered as rendered
from steersweep.model.source import ModelSource, hub_commit
from steersweep.prompts.prompts import TestSet
from steersweep.run.direction import Direction, unit_direction
from steersweep.run.folder import RunFolder
from steersweep.sweeps import model_facts
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_job, make_settings
from steersweep.work.job import Job
from steersweep.work.worker import run_job
from test_rendering import DATED

DAY = "2026-11-25"
SETTINGS: dict[str, Any] = {
    "layers": "0.3",
    "strengths": "0.5",
    "max_prompts": 2,
    "max_new_tokens": 3,
}


def job(model: Path | str, date: str = DAY, **changes: Any) -> Job:
    trusted = changes.pop("trust_remote_code", False)
    source = find_model(str(model), trust_remote_code=trusted)
    settings = make_settings([source], **(SETTINGS | changes))
    return make_job(settings, source, "cpu", date)


def keys(model: Path | str, date: str = DAY, **changes: Any) -> list[str]:
    return [condition.key for condition in job(model, date, **changes).conditions]


def test_what_a_model_makes_of_a_sweep_is_known_by_all_it_rests_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERSWEEP_CACHE", str(tmp_path))
    looks: list[str] = []
    look = model_facts._look

    def counted(source: ModelSource, asked: model_facts.Asked) -> model_facts.ModelFacts:
        looks.append(source.model_id)
        return look(source, asked)

    monkeypatch.setattr(model_facts, "_look", counted)
    model = "lab:phi-mini"
    first = job(model)
    held = (first.conditions, first.notes, first.family, first.n_layers, first.d_model)
    (known,) = tmp_path.glob("sweeps/*.json")
    changes: list[dict[str, Any]] = [
        {"date": "2026-11-26"},
        {"max_new_tokens": 4},
        {"max_prompts": 3},
        {"precision": "bf16"},
        {"special_tokens": "tokens"},
        {"extraction": "extract-cosmic-50"},
    ]
    for number, change in enumerate(changes, 2):
        job(model, **change)
        assert len(looks) == number, change
        job(model, **change)
        assert len(looks) == number, change
    known.write_text(known.read_text().replace(first.conditions[0].test_rendered, "0" * 24))
    for expected in (len(looks) + 1, len(looks) + 1):  # damaged: looked at anew, and kept
        again = job(model)
        assert (again.conditions, again.notes, again.family, again.n_layers, again.d_model) == held
        assert len(looks) == expected
    monkeypatch.setattr("steersweep.core.provenance.packages", lambda: ["tokenizers-0.dist-info"])
    job(model)
    assert len(looks) == len(changes) + 3


def identity(folder: Path, **options: Any) -> str:
    # Not found by `find_model`: it refuses adapters, and this is about the hash.
    return ModelSource(str(folder), str(folder), **options).fingerprint()


def flip(file: Path, at: int) -> None:
    """Change one bit in place."""
    with file.open("r+b") as opened:
        opened.seek(at)
        (byte,) = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte ^ 1]))


# -- every byte of what can change a result --------------------------------------------------------

ADDED = (
    "mine.py",
    "blocks/readme.py",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "adapter_config.json",
    "additional_chat_templates/tool_use.jinja",
    "model.safetensors.index.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "qwen.tiktoken",
    "preprocessor_config.json",
    "of.a_kind_nobody_knows",
)
SHIPPED = (
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@pytest.mark.parametrize("name", [*SHIPPED, *ADDED])
def test_every_file_that_can_change_a_result_counts(copied_lab_model: Path, name: str) -> None:
    file = copied_lab_model / name
    before = identity(copied_lab_model)
    if name in ADDED:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"{} or anything else" * 9)
        assert identity(copied_lab_model) != before
        before = identity(copied_lab_model)
    size = file.stat().st_size
    for at in (0, size // 2, size - 1):
        flip(file, at)
        assert identity(copied_lab_model) != before
        flip(file, at)
        assert identity(copied_lab_model) == before


def test_every_byte_of_a_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "CHUNK", 64)
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(range(250)))
    seen = {file_hash(file)}
    for at in range(250):
        flip(file, at)
        seen.add(file_hash(file))
        flip(file, at)
    assert len(seen) == 251
    file.write_bytes(bytes(range(250)) + b"\0")
    assert file_hash(file) not in seen


def test_a_byte_in_the_middle_of_a_large_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as opened:
        opened.truncate((256 << 20) + 5)
    before = file_hash(file)
    flip(file, (100 << 20) + 12345)
    assert file_hash(file) != before


def test_shards_in_folders_count_where_an_index_names_them(copied_lab_model: Path) -> None:
    shard = copied_lab_model / "parts" / "one.safetensors"
    shard.parent.mkdir()
    shard.write_bytes(b"weights")
    assert "parts/one.safetensors" not in files_that_count(copied_lab_model)
    index = {"weight_map": {"lm_head.weight": "parts/one.safetensors"}}
    (copied_lab_model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "parts/one.safetensors" in files_that_count(copied_lab_model)


def test_a_hash_is_kept_until_the_file_changes_whatever_its_time_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "KEPT_FROM", 1)
    monkeypatch.setattr(fingerprint, "_SETTLED_AFTER_S", -60)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"0123456789")
    before = file_hash(file)
    times = file.stat()
    counted: list[Path] = []
    hashing = fingerprint._hash

    def counting(path: Path, size: int) -> str:
        counted.append(path)
        return hashing(path, size)

    monkeypatch.setattr(fingerprint, "_hash", counting)
    assert file_hash(file) == before
    assert not counted
    flip(file, 5)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_hash(file) != before
    assert counted == [file]


def test_a_hash_of_a_file_that_just_changed_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(fingerprint.KEPT_FROM))
    before = file_hash(file)
    assert kept(_kept_name(file)) is None
    flip(file, 5)
    assert file_hash(file) != before


def _kept_name(file: Path) -> str:
    return f"hashes/{hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:32]}.json"


def test_weights_in_the_fingerprint_are_in_every_key(copied_lab_model: Path) -> None:
    before = keys(copied_lab_model)
    flip(copied_lab_model / "model.safetensors", 200_000)
    assert not {*keys(copied_lab_model)} & {*before}


def test_whether_code_runs_is_part_of_the_key(copied_lab_model: Path) -> None:
    assert identity(copied_lab_model, trust_remote_code=True) == identity(copied_lab_model)
    file = copied_lab_model / "config.json"
    mapped = {"auto_map": {"AutoModelForCausalLM": "mine.Mine"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | mapped))
    (copied_lab_model / "mine.py").write_text("from transformers import Qwen2ForCausalLM as Mine")
    assert identity(copied_lab_model, trust_remote_code=True) == (
        f"{identity(copied_lab_model)}+code"
    )
    assert hub_commit("hub:" + "a" * 40 + "+code@" + "b" * 40) == "a" * 40


# -- nothing else ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "LICENSE",
        "LICENSE.txt",
        "figure.png",
        ".gitattributes",
        ".git/objects/ab",
        ".cache/huggingface/x.metadata",
        "runs/events.out.tfevents.1",
        "checkpoint-5/model.safetensors",
        "original/consolidated.00.pth",
        "pytorch_model.bin",
        "trainer_state.json",
        "training_args.bin",
    ],
)
def test_files_that_change_no_result_do_not_count(copied_lab_model: Path, name: str) -> None:
    before = identity(copied_lab_model)
    (copied_lab_model / name).parent.mkdir(exist_ok=True, parents=True)
    (copied_lab_model / name).write_bytes(b"anything")
    assert identity(copied_lab_model) == before


def test_how_things_are_called_is_not_in_the_key(
    copied_lab_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys(copied_lab_model)
    (copied_lab_model / "README.md").write_text("another")
    for file in copied_lab_model.iterdir():
        os.utime(file, (0, 0))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked").symlink_to(copied_lab_model)
    shutil.copytree(copied_lab_model, tmp_path / "another name")
    files = tmp_path / "links"  # as the hub's cache keeps files
    files.mkdir()
    for file in copied_lab_model.iterdir():
        (files / file.name).symlink_to(file)
    names = ("./model", "model/", "linked", "./another name", "./links")
    assert [keys(f"./{name}") for name in names] == [before] * len(names)


def test_names_and_repeats_of_prompts_are_not_in_the_key(tmp_path: Path) -> None:
    found = {}
    for name, repeats in (("a", 1), ("b", 5)):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"prompts": ["Why so?", "Who?"], "repeats": repeats}))
        found[name] = keys("lab:qwen-3b", prompts=str(file))
    text = tmp_path / "c.txt"
    text.write_text("Why so?\nWho?\n")
    assert found["a"] == found["b"] == keys("lab:qwen-3b", prompts=str(text))


# -- prompts and settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 4},
        {"seed": 43},
        {"judge": "keywords-v3"},
        {"max_prompts": 3},
        {"precision": "bf16"},
    ],
)
def test_settings_that_change_results_change_every_key(change: dict[str, Any]) -> None:
    assert not {*keys("lab:qwen-3b")} & {*keys("lab:qwen-3b", **change)}


@pytest.mark.parametrize(
    "change", [{"layers": "0.6"}, {"strengths": "0.6"}, {"multipliers": "0.5", "strengths": ""}]
)
def test_how_it_is_steered_changes_the_keys_of_what_is_steered(change: dict[str, Any]) -> None:
    plain, *steered = keys("lab:qwen-3b")
    same, *others = keys("lab:qwen-3b", **change)
    assert same == plain
    assert not {*steered} & {*others}


def test_extraction_prompts_change_the_keys_of_what_rests_on_them(tmp_path: Path) -> None:
    def found(harmless: str) -> dict[str, str]:
        file = tmp_path / "extraction.json"
        file.write_text(json.dumps({"harmful": ["Harm?"], "harmless": [harmless]}))
        return {str(c.label): c.key for c in job("lab:qwen-3b", extraction=str(file)).conditions}

    first, second = found("Bake?"), found("Bake!")
    assert {method for method in first if first[method] != second[method]} == {"dim"}
    assert {*first} == {"none", "random", "dim"}


@pytest.mark.parametrize("kind", ["one letter", "a space inside"])
def test_every_prompt_is_in_every_key(tmp_path: Path, kind: str) -> None:
    def found(last: str) -> set[str]:
        file = tmp_path / "prompts.json"
        file.write_text(json.dumps({"prompts": ["Why so?", last]}))
        return {*keys("lab:qwen-3b", prompts=str(file))}

    assert not found("Who?") & found("Whu?" if kind == "one letter" else "Wh o?")


def test_special_tokens_change_the_key_where_a_prompt_holds_some(tmp_path: Path) -> None:
    def found(prompt: str, special_tokens: str) -> set[str]:
        file = tmp_path / "prompts.json"
        file.write_text(json.dumps({"prompts": [prompt]}))
        return {*keys("lab:qwen-3b", prompts=str(file), special_tokens=special_tokens)}

    assert not found("Say <|im_end|>", "text") & found("Say <|im_end|>", "tokens")
    assert found("Say so", "text") == found("Say so", "tokens")


def test_the_date_is_in_the_key_of_a_template_that_holds_it(copied_lab_model: Path) -> None:
    assert keys(copied_lab_model) == keys(copied_lab_model, "2027-01-01")
    (copied_lab_model / "chat_template.jinja").write_text(DATED)
    assert keys(copied_lab_model) == keys(copied_lab_model)
    assert not {*keys(copied_lab_model)} & {*keys(copied_lab_model, "2026-11-26")}


def test_the_same_text_in_other_tokens_is_another_key() -> None:
    """As another version of a library may make of the same files."""
    source = find_model("lab:qwen-3b")
    first, same, other = (load_renderer(source, source.config(), date=DAY) for _ in range(3))
    other.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    prompts = TestSet("a", ("Why so, and who?",))
    assert rendered(first, prompts) == rendered(same, replace(prompts, name="b"))
    assert other.ids(prompts.prompts[0]) != first.ids(prompts.prompts[0])
    assert rendered(first, prompts) != rendered(other, prompts)


def test_every_byte_of_a_direction_is_in_its_key(qwen: Any) -> None:
    import torch

    def direction(vector: torch.Tensor, **facts: Any) -> Direction:
        known = {"method": "dim", "layer": 3, "position": -1, "residual_norm": 1.0}
        known |= {"model_id": "a", "model_fingerprint": "b", "precision": "fp32", "prompts": "c"}
        return unit_direction(vector, **(known | facts))

    vector = torch.arange(1.0, 97.0)
    before = direction(vector).key
    for place in (0, 8, 50, 95):
        other = direction(vector)
        other.vector[place] = torch.nextafter(other.vector[place], torch.tensor(2.0))
        assert other.key != before
    assert direction(vector, layer=4).key != before
    assert direction(vector, model_id="z", prompts="renamed@c").key == before


# -- runs ------------------------------------------------------------------------------------------


def test_a_run_on_another_day_goes_on_with_the_first_days_prompts(
    copied_lab_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied_lab_model / "chat_template.jinja").write_text(DATED)
    out, notes = tmp_path / "run", list[str]()

    def run(day: str) -> set[str]:
        monkeypatch.setattr("steersweep.core.provenance.utc_now", lambda: f"{day}T10:00:00Z")
        settings = make_settings([str(copied_lab_model)], **SETTINGS)
        run_sweep(settings, out, device="cpu", on_note=notes.append)
        return {file.name for file in out.glob("conditions/*")}

    first = run("2026-11-25")
    for victim in sorted(first)[:1]:
        (out / "conditions" / victim).unlink()
    assert run("2026-12-24") == first
    assert notes == [notes[0]] * 2
    assert "frozen at 2026-11-25" in notes[0]
    held = [json.loads(file.read_text()) for file in out.glob("conditions/*")]
    assert {record["provenance"]["template_date"] for record in held} == {"2026-11-25"}


def test_a_run_goes_on_under_other_names_and_not_with_another_model(
    copied_lab_model: Path, tmp_path: Path
) -> None:
    def run(model: Path, prompts: str) -> set[str]:
        file = tmp_path / prompts
        file.write_text("Why so?\nWho?\n")
        settings = make_settings([str(model)], **SETTINGS, prompts=str(file))
        run_sweep(settings, tmp_path / "run", device="cpu")
        return {file.name for file in (tmp_path / "run" / "conditions").iterdir()}

    first = run(copied_lab_model, "one.txt")
    copy = Path(shutil.copytree(copied_lab_model, tmp_path / "copy"))
    assert run(copy, "two.txt") == first
    # Edited in place: computed anew. Edited, and called otherwise: another run.
    flip(copy / "model.safetensors", 200_000)
    assert len(run(copy, "two.txt")) == 2 * len(first)
    flip(copy / "model.safetensors", 200_001)
    with pytest.raises(InputError, match="holds another run"):
        run(copy.rename(tmp_path / "edited"), "two.txt")


def test_a_job_whose_prompts_become_other_tokens_elsewhere_stops(tmp_path: Path) -> None:
    made = job("lab:qwen-3b")
    elsewhere = tuple(replace(c, test_rendered="of another version") for c in made.conditions)
    with pytest.raises(InputError, match=r"do not become the tokens .* \(transformers \d"):
        run_job(replace(made, conditions=elsewhere), RunFolder(tmp_path))
    steered = tuple(
        replace(c, extraction_rendered=c.extraction_rendered and "another") for c in made.conditions
    )
    with pytest.raises(InputError, match="do not become the tokens"):
        run_job(replace(made, conditions=steered), RunFolder(tmp_path))


def test_prompts_that_leave_no_room_for_an_answer_are_named() -> None:
    with pytest.raises(InputError, match=r"test prompt 1 .*max_new_tokens.*exceeds"):
        job("lab:qwen-3b", max_new_tokens=100_000)
