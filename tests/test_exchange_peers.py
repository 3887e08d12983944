"""The same direction in other tools themselves: token for token, and logits within rounding.

They are no dependencies: `pip install --no-deps --target FOLDER -r benchmarks/peers.txt -r
benchmarks/exchange.txt`, then `PYTHONPATH=src:FOLDER python -m pytest -m peers`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import lab
from helpers.direction_files import MODEL, tensors_of, vectors
from steersweep import dim_directions, load_extraction_set
from steersweep.methods.formats.reading import read_direction_file

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from exchange import ASKED, Asked, compared, lab_as_gguf

# activation-steering adds float16 numbers; all else differs by the order of float32 sums.
LARGEST = {"cast": 5e-3}


@pytest.mark.peers
@pytest.mark.parametrize(
    "asked", ASKED, ids=lambda asked: f"{asked.tool}-{asked.edit.operation}-{asked.edit.span}"
)
def test_other_tools_answer_the_same(asked: Asked, tmp_path: Path) -> None:
    qwen = lab("qwen-7b")
    (found,) = dim_directions(qwen, load_extraction_set("extract-dim-5"), layers=[3])
    args = argparse.Namespace(model=MODEL, prompts=8, tokens=40, gguf=lab_as_gguf(MODEL, tmp_path))
    seen = compared(asked, found, 9.0, args, qwen)
    assert seen.same == seen.tokens > 100
    assert seen.largest < LARGEST.get(asked.format, 1e-4)
    assert seen.steered > 0


@pytest.mark.peers
def test_files_that_other_tools_wrote_are_read(tmp_path: Path) -> None:
    vars(np)["float_"] = np.float64  # repeng 0.4.0 is written for numpy 1
    from repeng import ControlVector
    from steering_vectors import SteeringVector

    ControlVector("qwen2", vectors()).export_gguf(tmp_path / "v.gguf")
    torch.save(SteeringVector(tensors_of(vectors())), tmp_path / "v.pt")
    for name in ("v.gguf", "v.pt"):
        held = read_direction_file(tmp_path / name).directions
        assert [*held] == [*vectors()]
        for layer, vector in vectors().items():
            found = held[layer].vector.numpy() * held[layer].raw_norm
            assert float(np.abs(found - vector).max()) < 1e-6
