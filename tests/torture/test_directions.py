"""Hostile direction files: no directions, facts that cannot be, other programs' files."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torture.helpers.cases import Case, Torture
from torture.helpers.hostile import hostile
from torture.helpers.runs import Ground
from torture.test_prompt_files import no_files

_FILE = "d.safetensors"
_GENERATE = (
    *("generate", "lab:qwen-7b", "--direction", _FILE, "--strength", "0.3", "--prompt", "Hello"),
    *("--max-new-tokens", "4", "--device", "cpu", "--json"),
)

Change = Callable[[dict[str, Any], dict[str, str]], None]
"""Changes a file's tensors and facts."""


def _vector(change: Callable[[Any], Any]) -> Change:
    return lambda tensors, _facts: tensors.update(direction=change(tensors["direction"]))


def _fact(name: str, value: Any) -> Change:
    return lambda _tensors, facts: facts.__setitem__(name, json.dumps(value))


def _raw_fact(name: str, value: str) -> Change:
    return lambda _tensors, facts: facts.__setitem__(name, value)


def _put_at(x: Any, value: float) -> Any:
    changed = x.clone()
    changed[3] = value
    return changed


# What a direction must be: finite, of length 1, of the model's width, with facts that can be.
TENSORS: Mapping[str, tuple[Change, bool | None]] = {
    "zeroed": (_vector(lambda x: x * 0), True),
    "tripled": (_vector(lambda x: x * 3), True),
    "tiny": (_vector(lambda x: x * 1e-30), True),
    "huge": (_vector(lambda x: x * 1e30), True),
    "nan": (_vector(lambda x: x * math.nan), True),
    "one-nan": (_vector(lambda x: _put_at(x, math.nan)), True),
    "one-infinity": (_vector(lambda x: _put_at(x, math.inf)), True),
    "too-short": (_vector(lambda x: x[:-1] / x[:-1].norm()), True),
    "too-long": (_vector(lambda x: __import__("torch").cat([x, x]) / math.sqrt(2)), True),
    "one-number": (_vector(lambda x: x[:1] * 0 + 1), True),
    "no-number": (_vector(lambda x: x[:0]), True),
    "scalar": (_vector(lambda x: x[0] * 0 + 1), True),
    "matrix": (_vector(lambda x: x.repeat(3, 1)), True),
    "row": (_vector(lambda x: x.unsqueeze(0)), True),
    "integers": (_vector(lambda x: (x * 100).int()), True),
    "booleans": (_vector(lambda x: x > 0), True),
    "double": (_vector(lambda x: x.double()), None),
    "half": (_vector(lambda x: x.half()), None),
    "bfloat16": (_vector(lambda x: x.bfloat16()), None),
    "float8": (_vector(lambda x: x.to(__import__("torch").float8_e4m3fn)), None),
    "complex": (_vector(lambda x: x + 1j), True),
    "other-name": (lambda tensors, _f: tensors.update(other=tensors.pop("direction")), True),
    "second-tensor": (lambda tensors, _f: tensors.update(other=tensors["direction"] * 2), None),
    "no-facts": (lambda _t, facts: facts.clear(), True),
    "no-layer": (lambda _t, facts: facts.pop("layer"), True),
    "layer-beyond": (_fact("layer", 99), True),
    "layer-negative": (_fact("layer", -1), True),
    "layer-float": (_fact("layer", 2.5), True),
    "layer-text": (_fact("layer", "2"), True),
    "layer-true": (_fact("layer", True), True),
    "layer-null": (_fact("layer", None), True),
    "layer-huge": (_fact("layer", 10**30), True),
    "layer-digits": (_raw_fact("layer", "9" * 10_000), True),
    "norm-nan": (_fact("residual_norm", math.nan), True),
    "norm-negative": (_fact("residual_norm", -3.0), True),
    "norm-zero": (_fact("residual_norm", 0), True),
    "norm-infinite": (_fact("residual_norm", math.inf), True),
    "norm-text": (_fact("residual_norm", "28"), True),
    "norm-list": (_fact("residual_norm", [28]), True),
    "norm-null": (_fact("residual_norm", None), True),
    "fact-no-json": (_raw_fact("method", "{"), True),
    "fact-deep": (_raw_fact("method", "[" * 100_000), True),
    "fact-megabyte": (_raw_fact("extra", json.dumps("x" * 1_000_000)), None),
    "unknown-fact": (_fact("colour", "red"), None),
    "site-unknown": (_fact("site", "resid_mid"), True),
    "position-text": (_fact("position", "last"), True),
    "model-escape": (_fact("model_id", "other\x1b]0;title\x07\x1b[2J"), None),
    "model-number": (_fact("model_id", 7), True),
    "model-surrogate": (_raw_fact("model_id", '"\\ud800"'), None),
    "method-escape": (_fact("method", "dim\x1b[31m"), None),
}


def changed(direction: Path, change: Change) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from safetensors import safe_open
        from safetensors.torch import save_file

        with safe_open(direction, framework="pt") as file:
            facts = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        change(tensors, facts)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, folder / _FILE, metadata=facts)

    return make


def bytes_of(direction: Path) -> dict[str, bytes]:
    """Files that are not, or no longer, safetensors."""
    import io

    import torch

    good = direction.read_bytes()
    saved = io.BytesIO()
    torch.save({"direction": torch.ones(64)}, saved)
    length = int.from_bytes(good[:8], "little")
    return {
        "empty": b"",
        "seven-bytes": good[:7],
        "cut-in-header": good[:40],
        "cut-in-tensor": good[:-10],
        "longer": good + b"\0" * 10,
        "header-endless": b"\xff" * 8 + good[8:],
        "header-gigabyte": (2**30).to_bytes(8, "little") + good[8:],
        "header-no-json": good[:8] + b"x" * length + good[8 + length :],
        "header-list": (2).to_bytes(8, "little") + b"[]",
        "header-deep": (100_000).to_bytes(8, "little") + b"[" * 100_000,
        "pickle": pickle.dumps({"direction": [1.0] * 64}),
        "torch": saved.getvalue(),
        "numpy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'shape': (64,)}",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 616\n",
        "json": b'{"direction": [1, 0]}',
        "html": b"<!doctype html><title>Sign in</title>",
        "gguf": b"GGUF\x03\x00\x00\x00" + bytes(64),
    }


def direction_cases(ground: Ground) -> list[Case]:
    cases = []
    for name, (change, refused) in TENSORS.items():
        make = changed(ground.direction, change)
        cases.append(
            hostile(ground, f"direction-{name}", make, _GENERATE, refused=refused, names=(_FILE,))
        )
    for name, data in bytes_of(ground.direction).items():

        def write(folder: Path, data: bytes = data) -> None:
            (folder / _FILE).write_bytes(data)

        cases.append(hostile(ground, f"direction-{name}", write, _GENERATE, names=(_FILE,)))
    for name, make in no_files(_FILE).items():
        cases.append(hostile(ground, f"direction-{name}", make, _GENERATE, names=(_FILE,)))
    return cases


def test_directions(torture: Torture, ground: Ground) -> None:
    torture.attack("direction files", direction_cases(ground), small=30)
