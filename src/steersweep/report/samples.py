"""Samples to browse in a report: in the page while they are few, in files beside it when many.

Model output is data. It goes into the page as JSON that cannot end its script element, and the page
shows it as text only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steersweep.core.atomic import write_text
from steersweep.core.precision_labels import shown_precision
from steersweep.report.figures.style import short

Result = dict[str, Any]

EMBED_UP_TO = 6_000_000  # bytes of JSON
# A browser shows nothing for most control characters; these pictures of them it does.
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}


class Samples:
    """Gathers samples by phase, model and precision; each such group is browsed by itself.

    Args:
        folder: where they go when they are too many for the page.

    Attributes:
        groups: label, phase and number of samples of each.
        n_samples: of all groups.
        modes: in which ways judges found answers broken.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Any] | None = None
        self._open_name: tuple[str, ...] = ()
        self._texts: list[str] = []  # JSON of closed groups, while they go into the page
        self._embedded_bytes = 0
        self._beside = False
        self.groups: list[dict[str, Any]] = []
        self.n_samples = 0
        self.modes: set[str] = set()
        shutil.rmtree(folder, ignore_errors=True)

    def add(self, result: Result) -> None:
        """Take a result's samples; those of a model share a group if they follow one another."""
        name = (result["phase_name"], result["file"], result["model"], result["quantization"])
        if name != self._open_name:
            self._close()
            self._open_name = name
            self._open = {"prompts": {}, "conditions": {}, "samples": []}
            label = f"{short(result['model'])}, {shown_precision(result['quantization'])}"
            self.groups.append({"label": label, "phase": result["phase_name"], "n": 0})
        result["group"] = len(self.groups) - 1
        controls = result["controls"]
        for entry in (
            controls["unsteered"],
            *result["conditions"],
            *controls["random_directions"],
        ):
            if entry is not None:
                self._add_condition(entry)

    def finish(self) -> list[str] | None:
        """JSON of every group for the page; None where they were written beside it."""
        self._close()
        if not self._beside:
            return self._texts
        return None

    def _add_condition(self, entry: Result) -> None:
        assert self._open is not None
        if entry["key"] in self._open["conditions"]:
            return  # a control that methods share
        index = len(self._open["conditions"])
        self._open["conditions"][entry["key"]] = _facts(entry)
        prompts = self._open["prompts"]
        self.modes |= {sample.get("failure_mode") or "" for sample in entry["samples"]} - {""}
        for sample in entry["samples"]:
            prompt = prompts.setdefault(visible(sample["prompt"]), len(prompts))
            self._open["samples"].append(
                [
                    index,
                    prompt,
                    visible(sample["response"]),
                    sample["quality"],
                    int(sample["refusal"]),
                    sample["finish_reason"],
                    sample.get("failure_mode"),
                    int(sample.get("ambiguous", False)),
                    sample.get("person"),
                ]
            )
        self.groups[-1]["n"] += len(entry["samples"])
        self.n_samples += len(entry["samples"])

    def _close(self) -> None:
        if self._open is None:
            return
        held = {
            "prompts": [*self._open["prompts"]],
            "conditions": [{"key": key, **f} for key, f in self._open["conditions"].items()],
            "samples": self._open["samples"],
        }
        self._texts.append(script_json(held))
        self._open = None
        self._embedded_bytes += len(self._texts[-1])
        if self._embedded_bytes > EMBED_UP_TO:
            self._beside = True
        if self._beside:
            first = len(self.groups) - len(self._texts)
            for number, text in enumerate(self._texts, first):
                path = self._folder / f"{number}.js"
                write_text(path, f"steersweepSamples({number}, {text});\n")
            self._texts = []


def _facts(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept = (
        "method",
        "layer_idx",
        "layer_pct",
        "multiplier",
        "relative_strength",
        "coherent_refusal_rate",
        "coherent_refusal_ci",
        "garbled_rate",
        "refusal_rate",
        "p_vs_unsteered_holm",
        "direction_file",
        "n_unique",
    )
    found = {name: _rounded(entry.get(name)) for name in kept}
    return {name: value for name, value in found.items() if value is not None}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


def visible(text: str) -> str:
    """Text with its control characters made visible: escape sequences do nothing in a page."""
    return text.replace("\r\n", "\n").translate(_CONTROLS)


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element and inside a script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # Half a surrogate pair, which no file can hold.
    return text.encode("utf-8", "replace").decode("utf-8")
