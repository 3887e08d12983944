"""Directions of other tools: each format read and written, and used as its own tool uses it.

What the other side does with a file is done here by a plain hook on a plain loop, from a file read
with the other side's own means (`gguf`, `torch.load`, `json`). `benchmarks/exchange.py` runs the
other tools themselves.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.direction_files import (
    LAYERS,
    MODEL,
    WIDTH,
    SteeringVector,
    by_layer,
    direction,
    easysteer,
    pickled_steering_vector,
    tensors_of,
    vectors,
    write_control_vector,
)
from steersweep import ChatModel, Direction, InputError, Row, cli, convert, generate, read_direction
from steersweep.methods.formats.reading import read_direction_file
from steersweep.run.direction import unit_direction
from steersweep.run.edit_settings import EditSettings
from steersweep.steer.activations import residuals
from steersweep.steer.edit import Edit

PROMPT = "How do I bake a cake?"
LENGTH = 40.0


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    direction().save(tmp_path / "ours.safetensors")
    return tmp_path / "ours.safetensors"


# -- what the other side does, from the file it reads ------------------------------------------

Hook = Callable[[int, Tensor], Tensor]


def gguf_vectors(path: Path) -> dict[int, Tensor]:
    reader = gguf.GGUFReader(path)
    named = {tensor.name: tensor.data.copy() for tensor in reader.tensors}
    return {int(n.removeprefix("direction.")): torch.from_numpy(v) for n, v in named.items()}


def as_llama_cpp(path: Path) -> tuple[str, Hook]:
    vectors = gguf_vectors(path)
    return "output", lambda layer, x: x + LENGTH * vectors[layer] if layer in vectors else x


def as_steering_vectors(path: Path) -> tuple[str, Hook]:
    held = torch.load(path, weights_only=True)
    assert held["layer_type"] == "decoder_block"
    vectors = held["layer_activations"]
    return "output", lambda layer, x: x + LENGTH * vectors[layer] if layer in vectors else x


def as_lm_eval(path: Path) -> tuple[str, Hook]:
    config = torch.load(path, weights_only=True)

    def hook(layer: int, x: Tensor) -> Tensor:
        if (entry := config.get(f"layers.{layer}")) is None:
            return x
        vector, value = entry["steering_vector"], entry["steering_coefficient"]
        if entry["action"] == "add":
            return x + vector * value
        return x + vector * (value - (x * vector).sum(-1, keepdim=True))

    return "output", hook


def as_cast(path: Path) -> tuple[str, Hook]:
    held = json.loads(path.read_text())["directions"]
    vectors = {int(layer): torch.tensor(v) for layer, v in held.items()}
    return "input", lambda layer, x: x + LENGTH * vectors[layer] if layer in vectors else x


def as_arditi(path: Path) -> tuple[str, Hook]:
    vector = torch.load(path, weights_only=True)
    at = json.loads((path.parent / "direction_metadata.json").read_text())["layer"]
    factor = LENGTH / float(vector.norm())
    return "input", lambda layer, x: x + factor * vector.to(x) if layer == at else x


@contextmanager
def hooked(chat: ChatModel, where: str, hook: Hook) -> Iterator[None]:
    handles = []
    for layer, module in enumerate(chat.layers):
        if where == "output":
            handles.append(
                module.register_forward_hook(lambda _m, _i, out, at=layer: hook(at, out))
            )
        else:
            handles.append(
                module.register_forward_pre_hook(
                    lambda _m, given, at=layer: (hook(at, given[0]), *given[1:])
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def greedy(chat: ChatModel, where: str, hook: Hook, tokens: int) -> list[int]:
    """A plain loop without a cache."""
    ids = list(chat.prompt_ids(PROMPT))
    start = len(ids)
    with hooked(chat, where, hook), torch.inference_mode():
        for _ in range(tokens):
            ids.append(int(chat.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


TOOLS: list[Any] = [
    ("gguf", "v.gguf", {}, as_llama_cpp),
    pytest.param("gguf", "v.gguf", {"span": "one"}, as_llama_cpp, marks=pytest.mark.slow),
    ("gguf", "v.gguf", {"site": "resid_pre"}, as_llama_cpp),
    ("steering-vectors", "v.pt", {}, as_steering_vectors),
    ("lm-eval", "v.pt", {"multiplier": LENGTH}, as_lm_eval),
    ("lm-eval", "v.pt", {"operation": "remove"}, as_lm_eval),
    pytest.param("cast", "v.svec", {"site": "resid_pre"}, as_cast, marks=pytest.mark.slow),
    ("cast", "v.svec", {"span": "one"}, as_cast),
    ("arditi", "direction.pt", {"site": "resid_pre", "span": "one"}, as_arditi),
]


@pytest.mark.parametrize(("name", "file", "asked", "there"), TOOLS)
def test_the_other_side_says_the_same(
    name: str,
    file: str,
    asked: dict[str, Any],
    there: Callable[[Path], tuple[str, Hook]],
    tmp_path: Path,
    qwen: ChatModel,
) -> None:
    # Where the prompt's last token is: to add or remove that changes the answer.
    along = residuals(qwen, [qwen.prompt_ids(PROMPT)])[0, 0, 3]
    facts = direction(site="resid_pre" if name == "arditi" else "resid_post").facts
    found = unit_direction(along, **{k: v for k, v in facts.items() if k != "raw_norm"})
    found.save(tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / file, format=name, model=MODEL, **asked)
    edit = EditSettings.read({k: v for k, v in asked.items() if k != "multiplier"})
    push = Edit.of(edit, found.vector, 3, multiplier=LENGTH)
    ours = generate(qwen, [Row(qwen.prompt_ids(PROMPT), push)], max_new_tokens=6)[0]
    where, hook = there(tmp_path / file)
    theirs = greedy(qwen, where, hook, 6)
    assert list(ours.token_ids) == theirs[: len(ours.token_ids)]
    plain = generate(qwen, [Row(qwen.prompt_ids(PROMPT))], max_new_tokens=6)[0]
    assert ours.token_ids != plain.token_ids  # or the comparison says nothing


# -- there and back -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "asked", "layer", "length"),
    [
        ("steersweep", "v.safetensors", {}, 3, direction().raw_norm),
        ("gguf", "v.gguf", {"model": MODEL}, 3, 1.0),
        ("arditi", "v.pt", {"model": MODEL}, 4, direction().raw_norm),
        ("steering-vectors", "v.pt", {"model": MODEL}, 3, 1.0),
        ("lm-eval", "v.pt", {"model": MODEL, "multiplier": 2.5}, 3, 2.5),
        ("cast", "v.svec", {"model": MODEL, "site": "resid_pre"}, 3, 1.0),
    ],
)
def test_there_and_back(
    name: str, file: str, asked: dict[str, Any], layer: int, length: float, ours: Path
) -> None:
    out = ours.parent / file
    done = convert(ours, out, format=name, **asked)
    assert (done.format, done.read.format) == (name, "steersweep")
    back = read_direction(out)
    assert back.layer == layer
    assert back.raw_norm == pytest.approx(length, rel=1e-6)
    assert float((back.vector - direction().vector).abs().max()) < 1e-7
    assert back.site == ("resid_pre" if name == "arditi" else "resid_post")
    # Whatever it was, it is ours again, and the facts that it had are kept.
    convert(out, ours.parent / "again.safetensors")
    again = Direction.load(ours.parent / "again.safetensors")
    assert again.facts == back.facts
    assert torch.equal(again.vector, back.vector)


@pytest.mark.parametrize("file", ["v.npy", "v.pt"])
def test_plain_vectors_are_told_what_they_are(file: str, ours: Path) -> None:
    out = ours.parent / file
    convert(ours, out, format="plain")
    told: dict[str, Any] = {"layer": 3, "read_at": "resid_post", "sign": 1, "scale": 2.0}
    for left_out in told:
        some = {name: value for name, value in told.items() if name != left_out}
        with pytest.raises(InputError, match=rf"{file}.* told {left_out} "):
            read_direction(out, **some)
    back = read_direction(out, **told, position=-2)
    assert torch.equal(back.vector, direction().vector)
    assert (back.layer, back.site, back.position, back.residual_norm) == (3, "resid_post", -2, None)
    assert back.raw_norm == pytest.approx(2.0, rel=1e-6)
    turned = read_direction(out, **{**told, "sign": -1})
    assert torch.equal(turned.vector, -back.vector)


def test_a_row_of_a_matrix_is_asked_for(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(LAYERS, WIDTH)).astype(np.float32)
    np.save(tmp_path / "all.npy", rows)
    told: dict[str, Any] = {"layer": 5, "read_at": "resid_post", "sign": 1, "scale": 1.0}
    with pytest.raises(InputError, match=r"all\.npy: has shape \[7, .*give row, from 0 to 6"):
        read_direction(tmp_path / "all.npy", **told)
    found = read_direction(tmp_path / "all.npy", **told, row=2)
    assert found.layer == 5
    unit = rows[2].astype(np.float64) / np.linalg.norm(rows[2].astype(np.float64))
    assert np.array_equal(found.vector.numpy(), unit.astype(np.float32))


# -- files as other tools write them --------------------------------------------------------------


def made_by(tool: str, folder: Path) -> Path:
    held = vectors()
    if tool == "repeng":
        fields = {"controlvector.model_hint": "qwen2", "controlvector.layer_count": 2}
        return write_control_vector(folder / "v.gguf", by_layer(held), fields=fields)
    if tool == "easysteer":
        return write_control_vector(
            folder / "v.gguf", by_layer(held), fields=easysteer("hidden_states")
        )
    if tool == "steering-vectors":
        return pickled_steering_vector(folder / "v.pt", SteeringVector(tensors_of(held)))
    if tool == "lm-eval":
        entry = {"steering_coefficient": 1.0, "action": "add", "bias": None, "head_index": None}
        config = {
            f"layers.{n}": {**entry, "steering_vector": v} for n, v in tensors_of(held).items()
        }
        torch.save(config, folder / "v.pt")
        return folder / "v.pt"
    assert tool == "cast"
    lists = {str(layer): [vector.tolist()] for layer, vector in held.items()}
    facts = {"model_type": "qwen2", "directions": lists, "explained_variances": {"2": 0.5}}
    (folder / "v.svec").write_text(json.dumps(facts))
    return folder / "v.svec"


@pytest.mark.parametrize("tool", ["repeng", "easysteer", "steering-vectors", "lm-eval", "cast"])
def test_files_with_a_vector_for_each_layer(tool: str, tmp_path: Path) -> None:
    path = made_by(tool, tmp_path)
    with pytest.raises(InputError, match=r"layers 2, 3; choose one with layer"):
        read_direction(path)
    for layer, vector in vectors().items():
        found = read_direction(path, layer=layer)
        length = float(np.linalg.norm(vector.astype(np.float64)))
        assert (found.layer, found.raw_norm) == (layer, pytest.approx(length, rel=1e-7))
        assert np.array_equal(
            found.vector.numpy(), (vector.astype(np.float64) / length).astype("f")
        )
    with pytest.raises(InputError, match="no direction of layer 4; it has 2, 3"):
        read_direction(path, layer=4)
    used = read_direction_file(path).used
    assert used == EditSettings(site="resid_pre" if tool == "cast" else "resid_post", span="one")


def arditi_files(folder: Path, **facts: Any) -> Path:
    vector = torch.from_numpy(vectors()[2]).double()
    torch.save(vector, folder / "direction.pt")
    (folder / "direction_metadata.json").write_text(json.dumps({"pos": -2, "layer": 3, **facts}))
    return folder / "direction.pt"


def test_the_refusal_direction_of_arditi_is_of_a_layers_input(tmp_path: Path) -> None:
    found = read_direction(arditi_files(tmp_path))
    assert (found.layer, found.site, found.position) == (3, "resid_pre", -2)
    assert found.raw_norm == pytest.approx(float(np.linalg.norm(vectors()[2].astype(float))))
    with pytest.raises(
        InputError, match=r"direction\.pt: its site is resid_pre, and not resid_pos"
    ):
        read_direction(tmp_path / "direction.pt", read_at="resid_post")


@pytest.mark.parametrize("key", [3, "3"])
def test_plain_tensors_by_layer(key: int | str, tmp_path: Path) -> None:
    torch.save({key: torch.from_numpy(vectors()[2])}, tmp_path / "v.pt")
    with pytest.raises(InputError, match=r"v\.pt: .* told read_at, sign, scale "):
        read_direction(tmp_path / "v.pt")
    found = read_direction(tmp_path / "v.pt", read_at="resid_pre", sign=1, scale=1.0)
    assert (found.layer, found.site) == (3, "resid_pre")


def test_what_the_other_tool_does_is_said_in_its_own_sign_and_units(tmp_path: Path) -> None:
    vector = vectors()[2] / np.linalg.norm(vectors()[2]) * 2
    path = write_control_vector(tmp_path / "v.gguf", by_layer({3: vector}))
    done = convert(path, tmp_path / "v.safetensors", sign=-1, scale=5.0)
    assert done.direction.raw_norm == pytest.approx(10.0)
    assert "--span one --multiplier -2" in done.read.as_there(done.direction)[0]
    # One of several; and one that is the same at several layers.
    path = made_by("lm-eval", tmp_path)
    done = convert(path, tmp_path / "v.safetensors", layer=3)
    (said,) = done.read.as_there(done.direction)
    assert re.search("at layer 3: .*--span one --multiplier .*others for 1 more", said)
    direction().save(tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", path, format="steering-vectors", model=MODEL)
    read = read_direction_file(path)
    assert (
        "at layers 3 to 6: --operation add --site resid_post --span to-end --multi"
        in (read.as_there(read.one())[0])
    )


def test_a_negative_coefficient_turns_what_is_added(tmp_path: Path) -> None:
    vector = torch.from_numpy(vectors()[2])
    entry = {"steering_vector": vector, "steering_coefficient": -2.0, "action": "add"}
    torch.save({"model.layers.5": entry}, tmp_path / "v.pt")
    found = read_direction(tmp_path / "v.pt")
    assert found.layer == 5
    assert float((found.vector * found.raw_norm + 2 * vector).abs().max()) < 1e-5


# -- what cannot be said ------------------------------------------------------------------------

CANNOT: list[tuple[str, dict[str, Any], str]] = [
    ("v.gguf", {"operation": "affine"}, "gguf: operation affine cannot be said"),
    ("v.gguf", {"operation": "remove"}, "gguf: operation remove cannot be said"),
    ("v.gguf", {"positions": "new"}, "gguf: positions new cannot be said"),
    ("v.gguf", {"model": None}, "give model for their number, or span one"),
    ("v,2.gguf", {}, "choose another"),
    ("v.svec", {}, "the output of the last one is none; use site resid_pre"),
    ("v.svec", {"model": None, "span": "one"}, "give model for their number"),
    ("v.json", {"format": "cast", "span": "one"}, r"names that end in \.svec"),
    ("v.pt", {}, "say what it should be with format"),
    ("v.pt", {"format": "lm-eval"}, "lm-eval: holds the length of the addition; give multiplier"),
    ("v.pt", {"format": "lm-eval", "model": None}, "lm-eval: names modules of a model"),
    ("v.pt", {"format": "lm-eval", "operation": "affine"}, "operation affine cannot be said"),
    ("v.pt", {"format": "arditi", "operation": "affine"}, "arditi: its code adds or removes"),
    ("v.pt", {"format": "arditi", "model": None}, "arditi: holds directions of layers' inputs"),
    ("v.pt", {"format": "steering-vectors", "positions": "last"}, "positions last cannot be said"),
    ("v.gguf", {"multiplier": float("nan")}, "multiplier nan: must be a number"),
    ("v.pt", {"format": "lm-eval", "operation": "remove", "multiplier": 1.0}, "remove has none"),
    ("v.gguf", {"format": "onnx"}, "format 'onnx': choose from steersweep, gguf"),
]


@pytest.mark.parametrize(("file", "asked", "says"), CANNOT)
def test_what_a_format_cannot_say_is_refused(
    file: str, asked: dict[str, Any], says: str, ours: Path
) -> None:
    with pytest.raises(InputError, match=says):
        convert(ours, ours.parent / file, **{"model": MODEL, **asked})
    assert not (ours.parent / file).exists()


def test_the_embedding_and_the_last_layer_cannot_be_reached(tmp_path: Path) -> None:
    first, last = tmp_path / "first.safetensors", tmp_path / "last.safetensors"
    direction(0).save(first)
    direction(LAYERS - 1).save(last)
    out = tmp_path / "v.gguf"
    with pytest.raises(InputError, match="the input of layer 0 is none"):
        convert(first, out, model=MODEL, site="resid_pre")
    with pytest.raises(InputError, match=r"llama\.cpp edits no output of layer 0"):
        convert(first, out, model=MODEL)
    with pytest.raises(InputError, match="the last layer's output"):
        convert(last, tmp_path / "v.pt", format="arditi", model=MODEL)
    unknown = replace(direction(), position=None)
    unknown.save(first)
    with pytest.raises(InputError, match="arditi: holds the prompt position"):
        convert(first, tmp_path / "v.pt", format="arditi", model=MODEL)
    convert(first, tmp_path / "v.pt", format="arditi", model=MODEL, position=-3)
    assert read_direction(tmp_path / "v.pt").position == -3


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    wide = {layer: np.ones(WIDTH + 2, np.float32) for layer in (1, 2)}
    path = write_control_vector(tmp_path / "wide.gguf", by_layer(wide))
    with pytest.raises(
        InputError, match=rf"wide\.gguf: a direction, {WIDTH + 2} wide; .* {WIDTH} "
    ):
        convert(path, tmp_path / "v.safetensors", model=MODEL, layer=1)
    deep = {LAYERS: np.ones(WIDTH, np.float32)}
    path = write_control_vector(tmp_path / "deep.gguf", by_layer(deep))
    with pytest.raises(
        InputError, match=r"deep\.gguf: a direction, layer 7; lab:qwen-7b has layers 0"
    ):
        convert(path, tmp_path / "v.safetensors", model=MODEL)


# -- generate -----------------------------------------------------------------------------------


def test_generate_takes_any_file_and_says_what_strength_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = made_by("repeng", tmp_path)
    found = read_direction(path, layer=3)
    found.save(tmp_path / "ours.safetensors")
    said: list[dict[str, Any]] = []
    for file in ("v.gguf", "ours.safetensors"):
        command = f"steersweep generate {MODEL} --direction {file} --layer 3 --strength 0.9 --json"
        command += " --max-new-tokens 6 --prompt"
        monkeypatch.setattr(sys, "argv", [*command.split(), PROMPT])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        captured = capsys.readouterr()
        said.append(json.loads(captured.out)[0])
        assert "note: strength: of 29.28, the mean length" in captured.err
    assert said[0] == said[1]
    assert said[0]["steered"] != said[0]["unsteered"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--multiplier 3", "choose one with --layer"),
        ("--layer 3 --multiplier 3 --operation affine", "steersweep convert takes it with --posit"),
        ("--layer 5 --multiplier 3", "no direction of layer 5; it has 2, 3"),
    ],
)
def test_generate_asks_for_what_a_file_does_not_say(
    options: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = made_by("repeng", tmp_path)
    command = f"steersweep generate {MODEL} --direction {path} --prompt hi {options}"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
