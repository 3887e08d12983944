"""Directions from files in sweeps and searches: tried like those of a method, with its controls."""

from __future__ import annotations

import json
import pickle
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from conftest import lab
from helpers.direction_files import MODEL, WIDTH, by_layer, direction, write_control_vector
from steersweep import InputError, convert, dim_directions, find, load_extraction_set, sweep
from steersweep.methods.handed import handed_in
from steersweep.run.folder import RunFolder
from steersweep.sweeps.settings import make_job, make_settings

SMALL: dict[str, Any] = {
    "layers": [3],
    "strengths": [0.3],
    "max_prompts": 5,
    "max_new_tokens": 8,
    "quiet": True,
}


def dim_file(folder: Path, layer: int = 3) -> Path:
    (found,) = dim_directions(lab("qwen-7b"), load_extraction_set("extract-dim-5"), layers=[layer])
    found.save(folder / "found.safetensors")
    return folder / "found.safetensors"


def test_a_file_is_tried_as_a_method_is(tmp_path: Path) -> None:
    own = dim_file(tmp_path)
    convert(own, tmp_path / "theirs.gguf", model=MODEL)
    asked: dict[str, Any] = {"methods": "dim", "extraction": "extract-dim-5", **SMALL}
    asked["directions"] = [tmp_path / "theirs.gguf"]
    found = sweep(MODEL, out=tmp_path / "run", **asked)
    dim, theirs = found.results
    assert [dim.method, theirs.method] == ["dim", "theirs"]
    (of_dim,), (cell,) = dim.conditions, theirs.conditions
    # The same direction, so the same answers, under the same control.
    assert [s.response for s in cell.samples] == [s.response for s in of_dim.samples]
    assert cell.against_dim is not None
    assert cell.cosine_to_dim == pytest.approx(1.0, abs=1e-6)
    control = theirs.controls.random_direction
    assert control is not None
    assert control.key == dim.controls.random_direction.key
    assert cell.steering.residual_norm == of_dim.steering.residual_norm
    # What is not known of it stays unknown, also in the files.
    assert (cell.extraction_prompts, cell.steering.position) == (None, None)
    store = RunFolder(tmp_path / "run")
    kept = store.paths.condition(cell.key)
    assert json.loads(kept.read_text())["result"]["position"] is None
    held = store.direction(cell.steering.direction_key)
    assert held is not None
    assert (held.method, held.model_id, held.prompts) == ("theirs", "qwen2", "")
    (written,) = (tmp_path / "run/results").glob("*.json")
    schema = json.loads((resources.files("steersweep.run") / "result.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(written.read_text()))
    # The same call again computes nothing anew.
    before = kept.stat().st_mtime_ns
    again = sweep(MODEL, out=tmp_path / "run", **asked)
    assert kept.stat().st_mtime_ns == before
    assert again.results[1].conditions[0].key == cell.key


def test_files_alone_need_no_method_and_other_numbers_are_another_run(tmp_path: Path) -> None:
    direction(seed=1).save(tmp_path / "mine.safetensors")
    asked: dict[str, Any] = {"directions": [tmp_path / "mine.safetensors"], **SMALL}
    found = sweep(MODEL, out=tmp_path / "run", **asked)
    (result,) = found.results
    assert (result.method, result.conditions[0].steering.position) == ("mine", -1)
    assert result.controls.random_direction is not None
    prompts = json.loads((tmp_path / "run/prompts.json").read_text())
    assert (prompts["extraction"], prompts["harmful"]) == ({}, [])
    direction(seed=2).save(tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match="own_methods"):
        sweep(MODEL, out=tmp_path / "run", **asked)


def test_layers_that_a_file_has_no_direction_of_are_left_out(tmp_path: Path) -> None:
    numbers = np.random.default_rng(3).normal(size=(2, WIDTH)).astype(np.float32)
    path = write_control_vector(tmp_path / "some.gguf", by_layer({2: numbers[0], 4: numbers[1]}))
    asked = {**SMALL, "layers": [2, 3, 4]}
    (result,) = sweep(MODEL, out=tmp_path / "run", directions=[path], **asked).results
    assert [cell.layer for cell in result.conditions] == [2, 4]
    assert [cell.layer for cell in result.controls.random_directions] == [2, 4]
    for cell, vector in zip(result.conditions, numbers, strict=True):
        held = RunFolder(tmp_path / "run").direction(cell.steering.direction_key)
        assert held is not None
        unit = vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))
        assert torch.equal(held.vector, torch.from_numpy(unit.astype(np.float32)))
    assert any("layer 3" in note and "some.gguf" in note for note in result.notes)
    with pytest.raises(InputError, match=r"nothing to sweep: some, layer 3: .*some\.gguf"):
        sweep(MODEL, out=tmp_path / "other", directions=[path], **{**SMALL, "layers": [3]})


def test_affine_edits_ask_for_the_position(tmp_path: Path) -> None:
    path = write_control_vector(tmp_path / "v.gguf", by_layer({3: np.ones(WIDTH, np.float32)}))
    with pytest.raises(InputError, match=r"v\.gguf: does not say at which prompt position"):
        make_settings([MODEL], directions=[path], strengths="0.1", operation="affine")
    convert(path, tmp_path / "v.safetensors", position=-2)
    asked = {**SMALL, "operation": "affine", "extraction": "extract-dim-5", "max_prompts": 3}
    out = tmp_path / "run"
    (result,) = sweep(MODEL, out=out, directions=[tmp_path / "v.safetensors"], **asked).results
    (cell,) = result.conditions
    assert cell.steering.reference is not None
    assert str(cell.extraction_prompts).startswith("extract-dim-5@")  # whose mean is put back


def test_files_are_told_apart_and_named(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        direction(seed=ord(folder)).save(tmp_path / folder / "refusal v2!.safetensors")
    files = [tmp_path / folder / "refusal v2!.safetensors" for folder in ("a", "b")]
    assert [one.name for one in handed_in(files[:1])] == ["refusal-v2-"]
    assert [one.name for one in handed_in(files)] == ["a-refusal-v2-", "b-refusal-v2-"]
    with pytest.raises(InputError, match="give it once"):
        handed_in([files[0], files[0]])
    direction().save(tmp_path / "dim.safetensors")
    with pytest.raises(InputError, match=r"dim\.safetensors: dim is the name of a method"):
        make_settings([MODEL], directions=[tmp_path / "dim.safetensors"], strengths="0.1")


def test_a_file_that_does_not_fit_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    wide = {3: np.ones(WIDTH + 2, np.float32)}
    path = write_control_vector(tmp_path / "wide.gguf", by_layer(wide))
    settings = make_settings([MODEL], directions=[path], strengths="0.1")
    with pytest.raises(InputError, match=r"wide\.gguf: a direction, \d+ wide"):
        make_job(settings, settings.models[0], "cpu", "2026-01-01")


def test_a_job_takes_its_directions_along(tmp_path: Path) -> None:
    direction().save(tmp_path / "mine.safetensors")
    settings = make_settings([MODEL], directions=[tmp_path / "mine.safetensors"], strengths="0.1")
    job = make_job(settings, settings.models[0], "cpu", "2026-01-01")
    (tmp_path / "mine.safetensors").unlink()
    there = pickle.loads(pickle.dumps(job)).own_methods["mine"].load()
    assert there.name == "mine"
    assert torch.equal(there.directions[3].vector, direction().vector)


@pytest.mark.slow
def test_a_search_takes_files_too(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"directions": [dim_file(tmp_path)], "layers": [2, 3]}
    found = find(MODEL, out=tmp_path / "run", quiet=True, **asked)
    assert found.searched.method == "found"
    assert found.searched.found
