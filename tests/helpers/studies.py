"""A small study of lab models, and what a study found."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml

from steersweep.study.plan import Plan
from steersweep.study.plan_file import parse_plan

SMALL: dict[str, Any] = {
    "name": "small",
    "prompts": {
        "test": "benign-120",
        "max": 6,
        "extraction": {"dim": "extract-dim-5", "cosmic": "extract-dim-5"},
    },
    "decoding": {"max_new_tokens": 24, "rows": 12},
    "precision": "fp32",
    "strength": {"relative": 0.3},
    "families": {
        "qwen": [
            {
                "name": "q3",
                "model": "lab:qwen-3b",
                "n_layers": 9,
                "billions": 0.0004,
                "gpu": "local",
            },
            {
                "name": "q7",
                "model": "lab:qwen-7b",
                "n_layers": 7,
                "billions": 0.0007,
                "gpu": "local",
            },
        ],
        "mistral": [
            {
                "name": "m7",
                "model": "lab:mistral-7b",
                "n_layers": 8,
                "billions": 0.0007,
                "gpu": "local",
            }
        ],
    },
    "family_sweep": {
        "methods": ["dim"],
        "models": [{"model": "q7", "layers": [0.5]}, {"model": "m7", "layers": [0.4, 0.5]}],
    },
    "follow_up": {"layers": [0.7], "strengths": [{"relative": 0.5}]},
    "size_sweep": {"methods": ["dim", "cosmic"]},
    "precision_sweep": {"precisions": ["fp32", "bf16"], "methods": ["dim"], "tiers": 2},
    "transfer_sweep": {"methods": ["dim"], "among": ["q3", "q7", "m7"]},
    # Low enough that six prompts and 24 tokens get somewhere.
    "thresholds": {"works": 0.5, "partial": 0.05},
}


def small(**changes: Any) -> Plan:
    return parse_plan(yaml.safe_dump(copy.deepcopy(SMALL) | changes), "small.yaml")


def comparable(folder: Path) -> dict[str, Any]:
    """What a study found, without moments and durations."""
    # A digest covers the moments.
    moments = {"timestamp", "runtime_seconds", "seconds", "extraction_seconds", "digest"}

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in moments}
        return [strip(item) for item in value] if isinstance(value, list) else value

    found: dict[str, Any] = {"findings": (folder / "FINDINGS_LOG.md").read_text()}
    for file in sorted([*folder.glob("decisions/*.json"), *folder.glob("results/*.json")]):
        name = file.name.rsplit("_", 1)[0] if file.parent.name == "results" else file.name
        found[name] = strip(json.loads(file.read_text()))
    return found


class Clock:
    """Half a second for every look at it, so that costs do not depend on the machine."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += 0.5
        return self._now
