"""Samples to browse in a report: in the page while they are few, in files beside it when many.

Model output is data. It goes into the page as JSON that cannot end its script element, and the page
shows it as text only.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steersweep.core.atomic import write_text
from steersweep.core.precision_labels import shown_precision
from steersweep.report.figures.style import short
from steersweep.report.run import Listed
from steersweep.run.cell import Cell, SteeredCell

EMBED_UP_TO = 6_000_000  # bytes of JSON
MOST_OF_GROUP = 50_000  # samples, so that a browser loads them in a moment
# A browser shows nothing for most control characters; these pictures of them it does.
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}


@dataclass
class Group:
    """Samples that are browsed together.

    Attributes:
        label: what they are of.
        phase: name of the phase.
        n: how many there are.
    """

    label: str
    phase: str
    n: int = 0


@dataclass
class _Open:
    """A group that is being gathered: prompts by their number, facts of conditions by key."""

    prompts: dict[str, int] = field(default_factory=dict)
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: list[list[Any]] = field(default_factory=list)


class Samples:
    """Gathers samples by phase, model and precision; each such group is browsed by itself.

    Args:
        folder: where they go when they are too many for the page.

    Attributes:
        groups: what was gathered.
        n_samples: of all groups.
        modes: in which ways judges found answers broken.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: _Open | None = None
        self._open_name: tuple[str, ...] = ()
        self._numbers: dict[tuple[str, ...], dict[str, int]] = {}  # by condition
        self._texts: list[str] = []  # JSON of closed groups, while they go into the page
        self._embedded_bytes = 0
        self._beside = False
        self.groups: list[Group] = []
        self.n_samples = 0
        self.modes: set[str] = set()
        shutil.rmtree(folder, ignore_errors=True)

    def add(self, listed: Listed) -> None:
        """Take a result's samples; those of a model share a group if they follow one another."""
        result, name = listed.result, _name(listed)
        if name != self._open_name:
            self._begin(listed)
        controls = result.controls
        for cell in (controls.unsteered, *result.conditions, *controls.random_directions):
            if cell is None or cell.key in self._numbers[name]:
                continue  # a control that methods share
            if self._open is None or len(self._open.samples) > MOST_OF_GROUP:
                self._begin(listed)
            self._numbers[name][cell.key] = len(self.groups) - 1
            if self._open is not None:
                self._add_cell(self._open, cell)

    def number(self, listed: Listed, key: str) -> int:
        """Of the group that has a condition's samples."""
        held = self._numbers[_name(listed)]
        return held.get(key, min(held.values(), default=0))

    def _begin(self, listed: Listed) -> None:
        """Close the group that is open, and open one for a result, or one more."""
        result, name = listed.result, _name(listed)
        self._close()
        held = self._numbers.setdefault(name, {})
        part = 1 + len({*held.values()})
        label = f"{short(result.model)}, {shown_precision(result.quantization)}"
        self.groups.append(Group(label if part == 1 else f"{label}, part {part}", listed.phase))
        self._open_name, self._open = name, _Open()

    def finish(self) -> list[str] | None:
        """JSON of every group for the page; None where they were written beside it."""
        self._close()
        if not self._beside:
            return self._texts
        return None

    def _add_cell(self, group: _Open, cell: Cell) -> None:
        index = len(group.conditions)
        group.conditions[cell.key] = _facts(cell)
        prompts = group.prompts
        for sample in cell.samples:
            judged = sample.judgement
            prompt = prompts.setdefault(visible(sample.prompt), len(prompts))
            self.modes |= {judged.failure_mode} if judged.failure_mode else set()
            group.samples.append(
                [
                    index,
                    prompt,
                    visible(sample.response),
                    judged.quality,
                    int(judged.refusal),
                    sample.finish_reason,
                    judged.failure_mode,
                    int(judged.ambiguous),
                ]
            )
        self.groups[-1].n += len(cell.samples)
        self.n_samples += len(cell.samples)

    def _close(self) -> None:
        if self._open is None:
            return
        held = {
            "prompts": [*self._open.prompts],
            "conditions": [{"key": key, **f} for key, f in self._open.conditions.items()],
            "samples": self._open.samples,
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


def _name(listed: Listed) -> tuple[str, ...]:
    return listed.phase, listed.file, listed.result.model, listed.result.quantization


def _facts(cell: Cell) -> dict[str, Any]:
    """What the page shows of a condition; what there is not is left out."""
    rates, at = cell.rates, cell.steering
    compared = cell.against_unsteered if isinstance(cell, SteeredCell) else None
    found = {
        "method": cell.method,
        "layer_idx": None if at is None else at.layer_idx,
        "layer_pct": cell.layer_pct,
        "multiplier": None if at is None else at.multiplier,
        "relative_strength": None if at is None else at.relative_strength,
        "coherent_refusal_rate": rates.coherent_refusal_rate,
        "coherent_refusal_ci": list(rates.coherent_refusal_ci),
        "garbled_rate": rates.garbled_rate,
        "refusal_rate": rates.refusal_rate,
        "p_vs_unsteered_holm": None if compared is None else compared.p_vs_unsteered_holm,
        "direction_file": None if at is None else at.direction_file,
        "n_unique": rates.n_unique,
    }
    return {name: _rounded(value) for name, value in found.items() if value is not None}


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
