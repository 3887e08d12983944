"""What a study says, word for word, of a model that cannot load, a weak push, and a success."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import with_a_long_stream
from steersweep.model.find import find_model
from steersweep.study.plan_file import parse_plan
from steersweep.study.study import run_study


def without_weights(folder: Path) -> Path:
    """A model folder whose weights are missing."""
    whole = Path(find_model("lab:mistral-7b").location)
    folder.mkdir()
    for file in whole.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def planned(name: str, model: str, n_layers: int) -> dict[str, Any]:
    return {
        "name": name,
        "model": model,
        "n_layers": n_layers,
        "billions": 0.0007,
        "gpu": "local",
    }


def findings(folder: Path) -> str:
    """The log of a study of one of each kind; without marks, and with `DIR` for the folder."""
    layers = [0.2, 0.5, 0.8]
    plan = {
        "name": "golden",
        "prompts": {"test": "benign-120", "max": 10, "extraction": {"dim": "extract-dim-5"}},
        "decoding": {"max_new_tokens": 24, "rows": 60},
        "precision": "fp32",
        "strength": {"multiplier": 9},
        "families": {
            "qwen": [planned("q7", "lab:qwen-7b", 7)],
            "mistral": [planned("m7", str(without_weights(folder / "empty")), 8)],
            "llama": [planned("l8", str(with_a_long_stream(folder / "long", 50.0)), 8)],
            "phi": [planned("p", "lab:phi-mini", 8)],
        },
        "family_sweep": {
            "methods": ["dim"],
            "models": [{"model": name, "layers": layers} for name in ("m7", "l8", "q7")],
            "confirmed": {"phi": {"model": "p", "layer": 0.5}},
        },
        "fallback": {"model": "m7", "layers": [0.5], "strengths": [{"multiplier": 20}]},
        "thresholds": {"works": 0.5, "partial": 0.2},
    }
    run_study(parse_plan(yaml.safe_dump(plan), "golden.yaml"), folder / "run")
    found = (folder / "run" / "FINDINGS_LOG.md").read_text().replace(str(folder), "DIR")
    return "".join(f"{line}\n" for line in found.splitlines() if not line.startswith("<!--"))


@pytest.mark.slow
def test_findings_of_one_that_cannot_load_one_pushed_weakly_and_one_that_works(
    tmp_path: Path,
) -> None:
    assert findings(tmp_path) == Path(__file__).with_name("golden_findings.md").read_text()
