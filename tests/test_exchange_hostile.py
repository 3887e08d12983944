"""Files with directions as nobody should hand them in: one line that names file and field.

Nothing in them is run, and none needs more memory than it has bytes.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.direction_files import (
    MODEL,
    WIDTH,
    SteeringVector,
    by_layer,
    direction,
    easysteer,
    pickled_steering_vector,
    vectors,
    write_control_vector,
)
from steersweep import InputError, convert, read_direction
from steersweep.steer.edit import Edit

VECTOR = torch.from_numpy(vectors()[2])
NUMBERS = vectors()[2]
TOLD: dict[str, Any] = {"layer": 2, "read_at": "resid_post", "sign": 1, "scale": 1.0}


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


class Files:
    """Files in a folder, each with what has to be said of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.says: dict[Path, str] = {}

    def add(self, name: str, says: str, data: bytes | str | None = None) -> Path:
        path = self.folder / name
        if data is not None:
            path.write_bytes(data.encode() if isinstance(data, str) else data)
        self.says[path] = says
        return path

    def saved(self, name: str, value: Any, says: str) -> None:
        torch.save(value, self.add(name, says))

    def control(self, name: str, says: str, tensors: Mapping[str, Any], **more: Any) -> None:
        write_control_vector(self.add(name, says), tensors, **more)

    def array(self, name: str, value: Any, says: str) -> None:
        np.save(self.add(name, says), value)


def anything(files: Files) -> None:
    files.add("folder", "is a folder").mkdir()
    os.mkfifo(files.add("pipe", "is a pipe"))
    files.add("loop", "cannot be read").symlink_to(files.folder / "loop")
    files.add("nothing", "cannot be read: No such file")
    files.add("dangling", "cannot be read").symlink_to(files.folder / "gone")
    files.add("empty", "is empty", b"")
    files.add("text", "is no file with a direction", "a direction\n")
    files.add("model.json", "is no file with a direction", '{"hidden_size": 8}')


def ours(files: Files) -> None:
    direction().save(files.folder / "whole.safetensors")
    whole = (files.folder / "whole.safetensors").read_bytes()
    files.add("cut.safetensors", "cannot be used as a direction", whole[:-100])
    files.add("header.safetensors", "cannot be used", struct.pack("<Q", 2**60) + whole[8:])
    files.add("list.safetensors", "no whole safetensors", struct.pack("<Q", 4) + b'{"a"')


def control_vectors(files: Files) -> None:
    good = write_control_vector(files.folder / "whole.gguf", by_layer(vectors())).read_bytes()
    files.add("cut.gguf", r"direction\.\d: is cut", good[:-100])
    files.add("header.gguf", "cut or damaged within its header", good[:60])
    files.add(
        "counts.gguf", "cut or damaged within", good[:8] + struct.pack("<QQ", 2**60, 1) + good[24:]
    )
    files.control("nan.gguf", r"direction\.2: holds NaN", by_layer({2: NUMBERS * np.nan}))
    files.control("zero.gguf", r"direction\.2: has no length", by_layer({2: NUMBERS * 0}))
    files.control(
        "matrix.gguf", r"direction\.2: has shape", {"direction.2": NUMBERS.reshape(2, -1)}
    )
    files.control("ints.gguf", r"stored as type", {"direction.2": NUMBERS.astype(np.int32)})
    files.control("widths.gguf", "different widths", by_layer({1: NUMBERS, 2: NUMBERS[:-2]}))
    files.control("minus.gguf", "counts from the end", by_layer({-1: NUMBERS}))
    files.control("name.gguf", "layer 'x' is no whole number", {"direction.x": NUMBERS})
    files.control("other.gguf", "weights: is no direction", {"weights": NUMBERS})
    files.control("none.gguf", "holds no vector", {})
    files.control("twice.gguf", "there twice", {"direction.2": NUMBERS, "direction.02": NUMBERS})
    files.control("arch.gguf", "general.architecture is 'llama'", {}, architecture="llama")
    fields: dict[str, Any] = {"controlvector.layer_count": 9}
    files.control("count.gguf", "layer_count is 9", by_layer(vectors()), fields=fields)
    heads = easysteer("attention_heads")
    files.control("heads.gguf", "is of 'attention_heads'", by_layer(vectors()), fields=heads)
    unsaid = easysteer(None)
    files.control("unsaid.gguf", "does not say of what", by_layer(vectors()), fields=unsaid)
    broken = {"controlvector.easysteer": "{"}
    files.control("broken.gguf", "controlvector.easysteer", by_layer(vectors()), fields=broken)


def torch_files(files: Files) -> None:
    files.saved(
        "runs.pt", {"layer_activations": Runs()}, r"names (posix|nt)\.system, and loading it could"
    )
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(Runs(), protocol=protocol)
        files.add(f"bare{protocol}.pt", r"names (posix|nt)\.system", data)
    files.add("bare0.pt", "is no file with a direction", pickle.dumps(Runs(), protocol=0))
    path = files.add("archive4.pt", r"names (posix|nt)\.system")
    torch.save({"layer_activations": Runs()}, path, pickle_protocol=4)
    torch.save(VECTOR, files.add("protocol4.pt", "has pickle protocol 4"), pickle_protocol=4)
    np.savez(files.folder / "many.npz", a=NUMBERS)
    files.add("many.pt", r"archive of arrays \(\.npz\)", (files.folder / "many.npz").read_bytes())
    files.saved("class.pt", Edit.remove(VECTOR, 1), "names steersweep.steer.edit.Edit")
    torch.save(VECTOR, files.folder / "whole.pt")
    files.add("cut.pt", "is cut or damaged", (files.folder / "whole.pt").read_bytes()[:-200])
    locked = bytearray((files.folder / "whole.pt").read_bytes())
    for sign, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := locked.find(sign, start + 1)) >= 0:
            locked[start + flags] |= 1
    files.add("locked.pt", "encrypted", bytes(locked))
    with zipfile.ZipFile(
        files.add("bomb.pt", "is compressed"), "w", zipfile.ZIP_DEFLATED
    ) as archive:
        archive.writestr("a/data.pkl", b"\0" * 10**7)
    files.saved("huge.pt", VECTOR[:1].expand(2**40), "has shape|says nothing but numbers")


def with_metadata(files: Files) -> None:
    for name, facts, says in (
        ("facts-list", [], "is a list, no object"),
        ("facts-empty", {}, "layer is missing"),
        ("facts-layer", {"pos": -1, "layer": "3.0"}, "layer .* is no whole number"),
        ("facts-true", {"pos": -1, "layer": True}, "is no whole number"),
        ("facts-minus", {"pos": -1, "layer": -1}, "counts from the end"),
        ("facts-pos", {"pos": 0, "layer": 1}, "pos is 0"),
        ("facts-none", {"pos": None, "layer": 1}, "pos is None"),
    ):
        files.saved(f"{name}.pt", VECTOR, rf"{name}_metadata\.json: .*{says}")
        (files.folder / f"{name}_metadata.json").write_text(json.dumps(facts))
    files.saved("facts-words.pt", VECTOR, "facts-words_metadata.json: is no JSON")
    (files.folder / "facts-words_metadata.json").write_text("pos -1")
    files.saved("facts-gone.pt", VECTOR, "facts-gone_metadata.json: cannot be read")
    (files.folder / "facts-gone_metadata.json").symlink_to(files.folder / "gone")
    for name, value, says in (
        ("nan", VECTOR * torch.nan, "holds NaN"),
        ("zero", VECTOR * 0, "has no length"),
        ("shape", torch.ones(3, 4, 5), r"has shape \[3, 4, 5\]"),
        ("bool", VECTOR > 0, "real numbers"),
        ("complex", VECTOR.to(torch.complex64), "real numbers"),
        ("dict", {"layer": 3}, "no vector of numbers"),
        ("stride", VECTOR[:1].expand(2**40), "fewer numbers stored"),
        ("sparse", VECTOR.to_sparse(), "real numbers"),
    ):
        files.saved(f"of-{name}.pt", value, says)
        (files.folder / f"of-{name}_metadata.json").write_text('{"pos": -1, "layer": 2}')


def steering_vectors(files: Files) -> None:
    for name, made, says in (
        ("mlp", SteeringVector({2: VECTOR}, "mlp"), "layer_type is 'mlp'"),
        ("list", SteeringVector([VECTOR]), "layer_activations is a list"),
        ("minus", SteeringVector({-1: VECTOR}), r"layer_activations\[-1\]: layer -1 counts"),
        ("nan", SteeringVector({1: VECTOR * torch.nan}), r"layer_activations\[1\]: holds NaN"),
        ("zero", SteeringVector({1: VECTOR * 0}), r"layer_activations\[1\]: has no length"),
        ("none", SteeringVector({}), "holds no vector"),
        ("widths", SteeringVector({1: VECTOR, 2: VECTOR[1:]}), "different widths"),
        ("key", SteeringVector({"1": VECTOR}), "is no whole number"),
        ("high", SteeringVector({10**9: VECTOR}), "no model has as many"),
    ):
        pickled_steering_vector(files.add(f"sv-{name}.pt", says), made)


def steer_configs(files: Files) -> None:
    entry = {"steering_vector": VECTOR, "steering_coefficient": 2.0, "action": "add"}
    for name, changed, says in (
        ("nan", {"steering_coefficient": float("nan")}, "steering_coefficient is nan"),
        ("text", {"steering_coefficient": "2"}, "steering_coefficient is '2'"),
        ("zero", {"steering_coefficient": 0.0}, "nothing is added"),
        ("vector", {"steering_vector": VECTOR * torch.inf}, "steering_vector: holds NaN"),
        ("head", {"head_index": 3}, "head_index"),
        ("bias", {"bias": VECTOR}, "bias: goes with the action clamp"),
        ("action", {"action": "ablate"}, "action is 'ablate'"),
        ("value", {"action": "clamp"}, "clamps a component to a value of its own"),
    ):
        files.saved(f"le-{name}.pt", {"layers.2": {**entry, **changed}}, says)
    tower = {"vision_model.encoder.layers.2": entry}
    files.saved("le-vision.pt", tower, "'vision_model.encoder.layers.2': is no decoder layer")
    files.saved("le-mlp.pt", {"layers.2.mlp": entry}, "'layers.2.mlp': is no decoder layer")
    files.saved(
        "le-short.pt", {"layers.2": entry, "layers.3": {"action": "add"}}, "'layers.3': must have"
    )
    files.saved(
        "le-twice.pt", {"layers.2": entry, "model.layers.2": entry}, "layer 2 is there twice"
    )
    removing = {**entry, "action": "clamp", "steering_coefficient": 0.0}
    files.saved(
        "le-both.pt", {"layers.2": entry, "layers.3": removing}, "adds in some modules and clamps"
    )
    features = "loader,action,sparse_model,hookpoint,feature_index,steering_coefficient\n"
    files.add("le.csv", "features of sparse autoencoders", features)


def svec_files(files: Files) -> None:
    for name, facts, says in (
        ("list", [1, 2], "directions: must be an object"),
        ("none", {"model_type": "llama", "directions": {}}, "holds no vector"),
        ("flat", {"directions": [1.0, 2.0]}, "directions: must be an object"),
        ("texts", {"directions": {"2": ["1.0", "2.0"]}}, r"directions\.2: is no list of numbers"),
        ("one", {"directions": {"2": 3.5}}, r"directions\.2: is float"),
        ("deep", {"directions": {"2": [[1.0], [2.0]]}}, r"directions\.2: is no list of numbers"),
        ("zeros", {"directions": {"2": [0.0, 0.0]}}, r"directions\.2: has no length"),
        ("large", {"directions": {"2": [10**400, 1]}}, "too large a number"),
        ("key", {"directions": {"layer": [1.0, 2.0]}}, "layer 'layer' is no whole number"),
        ("type", {"model_type": 3, "directions": {"2": [1.0, 2.0]}}, "model_type: is '3'"),
    ):
        files.add(f"cast-{name}.svec", says, json.dumps(facts))
    files.add("cast-nan.svec", "is no JSON: NaN", '{"directions": {"2": [NaN, 1.0]}}')
    files.add("cast-cut.svec", "is no JSON", '{"directions": {"2": [0.1, ')
    files.add("cast-deep.svec", "nested too deeply", '{"directions":' * 20_000)


def plain_vectors(files: Files) -> None:
    files.array("objects.npy", np.array([{}, 1], dtype=object), "pickled objects")
    np.save(files.folder / "whole.npy", NUMBERS)
    plain = (files.folder / "whole.npy").read_bytes()
    files.add("cut.npy", "is cut", plain[:-8])
    files.add("huge.npy", "is cut", plain.replace(b"(%d,)" % WIDTH, b"(10000000000000,)")[:200])
    files.array("nan.npy", NUMBERS * np.nan, "holds NaN")
    files.array("texts.npy", np.array(["a", "b"]), "no vector of numbers")
    files.array("cube.npy", np.ones((2, 3, 4)), "has shape")
    files.array("one.npy", np.ones(1), "has 1 numbers")
    files.saved("names.pt", {"harmful": VECTOR}, "no vectors by layer")


KINDS = [
    anything,
    ours,
    control_vectors,
    torch_files,
    with_metadata,
    steering_vectors,
    steer_configs,
    svec_files,
    plain_vectors,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_hostile_files_are_named_and_run_nothing(
    kind: Callable[[Files], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kind(files := Files(tmp_path))
    for path, says in files.says.items():
        with pytest.raises(InputError) as error:
            read_direction(path, **(TOLD if kind is plain_vectors else {}))
        message = str(error.value)
        assert re.search(says, message), f"{path.name}: {message}"
        assert path.stem in message
        assert "\n" not in message
    assert files.says
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def ours_file(tmp_path: Path) -> Path:
    direction().save(tmp_path / "ours.safetensors")
    return tmp_path / "ours.safetensors"


def test_damage_anywhere_is_an_error_or_a_direction(ours_file: Path) -> None:
    files = {"steersweep": "v.safetensors", "gguf": "v.gguf", "cast": "v.svec", "plain": "v.npy"}
    files |= {"arditi": "a.pt", "steering-vectors": "s.pt", "lm-eval": "l.pt"}
    random = np.random.default_rng(0)
    refused = unnamed = 0
    for name, file in files.items():
        length = None if name in ("arditi", "cast") else 9.0
        path = ours_file.parent / file
        convert(ours_file, path, format=name, model=MODEL, span="one", multiplier=length)
        whole = path.read_bytes()
        for number in range(36):
            damaged = bytearray(whole)
            if number % 3 == 0:
                damaged = damaged[: random.integers(len(whole))]
            else:  # most of what a file says stands at its beginning or its end
                ends = min(len(whole), 1200)
                at = random.integers(ends) - (ends if number % 3 == 1 else 0)
                damaged[at] ^= 1 << random.integers(8)
            path.write_bytes(damaged)
            try:
                found = read_direction(path, **(TOLD if name == "plain" else {}))
            except InputError as error:
                unnamed += str(path) not in str(error) and "_metadata.json" not in str(error)
                refused += 1
            else:
                assert float(found.vector.norm()) == pytest.approx(1.0)
    assert unnamed == 0
    assert refused > 100
