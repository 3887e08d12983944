"""Reference fixtures: a small model, prompts, and what the official code computed on them."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steersweep.core.errors import InputError, setting
from steersweep.methods.candidates import Selection, SplitIds, candidates_from
from steersweep.methods.cosmic_rules import CosmicRules
from steersweep.methods.cosmic_scoring import (
    baseline,
    candidate_edits,
    find_candidates,
)
from steersweep.methods.cosmic_search import score_candidates
from steersweep.methods.cosmic_selection import CosmicScores, select
from steersweep.methods.dim_selection import (
    refusal_scores,
    score_dim_candidates,
    select_dim,
)
from steersweep.model.chat_model import ChatModel
from steersweep.model.source import ModelSource
from steersweep.steer.edit import Edit
from steersweep.steer.passes import edited_logits

SCORE_TOLERANCE = 1e-5
LOGIT_TOLERANCE = 2e-5
_FILES = ("spec.json", "inputs.npz", "official_cosmic.npz", "official_cosmic.json")
_N_LOGIT_ROWS = 8

# The official names of the two variants and of the shares of layers compared.
_VARIANTS = {"lce": CosmicRules(), "ace": CosmicRules(ablate="affine")}
_NAMES = {"lce": "linear", "ace": "affine"}
_SHARES = {"f10": 0.10, "f25": 0.25}


@dataclass(frozen=True)
class Check:
    """One comparison with the official numbers.

    Attributes:
        fixture: name of the fixture.
        quantity: what is compared.
        difference: largest absolute difference; for masks and choices the number that differ.
        tolerance: largest difference allowed.
    """

    fixture: str
    quantity: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return self.difference <= self.tolerance


def built_in_fixtures() -> Path:
    """The folder of fixtures that come with the package."""
    return Path(str(resources.files("steersweep.verification"))) / "fixtures"


def fixture_folders(folder: Path) -> list[Path]:
    """The fixtures in a folder, or the folder itself if it is one.

    Raises:
        InputError: there is none, or one lacks a file.
    """
    if not folder.is_dir():
        raise InputError(f"{setting('fixtures')} {folder}: no such folder")
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    found = [path for path in candidates if (path / "spec.json").is_file()]
    if not found:
        raise InputError(
            f"{setting('fixtures')} {folder}: holds no fixture (a folder with spec.json)"
        )
    for path in found:
        for name in _FILES:
            if not (path / name).is_file():
                raise InputError(f"{path / name}: missing; a fixture needs {', '.join(_FILES)}")
    return found


def check_fixture(folder: Path) -> list[Check]:
    """Compare everything the official code computed with what this package computes.

    Raises:
        InputError: a file of the fixture cannot be read; the message names file and field.
    """
    return _Fixture(folder).checks()


class _Fixture:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = _read_json(folder / "spec.json")
        pad, count = (self._field(name) for name in ("pad_token_id", "n_eoi"))
        self.positions = tuple(range(-int(count), 0))
        self.chat = _load(folder, int(pad))
        inputs = _Arrays(folder / "inputs.npz")
        self.data = SplitIds(
            **{
                field.name: [
                    ids[mask.astype(bool)].tolist()
                    for ids, mask in zip(
                        inputs[f"{field.name}_ids"], inputs[f"{field.name}_mask"], strict=True
                    )
                ]
                for field in fields(SplitIds)
            }
        )
        self._found: list[Check] = []

    def checks(self) -> list[Check]:
        """COSMIC, and DIM's selection where the fixture has it."""
        self._check_cosmic()
        if (self.folder / "official_dim.npz").is_file():
            self._check_dim()
        return self._found

    def _check_cosmic(self) -> None:
        official = _Arrays(self.folder / "official_cosmic.npz")
        chosen = _read_json(self.folder / "official_cosmic.json")
        for variant, base_rules in _VARIANTS.items():
            for share_name, share in _SHARES.items():
                rules = replace(base_rules, low_share=share).as_official()
                candidates = find_candidates(self.chat, self.data, rules, self.positions)
                scores = score_candidates(self.chat, self.data, candidates, rules)
                name = f"{variant}_{share_name}"
                self._near("mean differences", candidates.vectors, official["mean_diffs"])
                self._near("harmless means", candidates.harmless_mean, official["harmless_mean"])
                self._check_scores(name, scores, rules, official)
                low = chosen["layers_to_evaluate"][share_name]
                self._same("layers compared", list(scores.low_layers), low)
                for suffix, max_kl in (("", 0.1), ("_nokl", None)):
                    choice = select(scores, replace(rules, max_kl=max_kl))
                    self._check_choice(f"COSMIC {_NAMES[variant]}", choice, official, name + suffix)
                    self._same(
                        f"COSMIC {_NAMES[variant]}: choice",
                        self._place(choice),
                        chosen["chosen"][name + suffix],
                    )
                    at = choice.position, choice.layer
                    direction = official[f"{name}{suffix}_direction"]
                    self._near("chosen direction", candidates.vectors[at], direction)
                    reference = official[f"{name}{suffix}_reference"]
                    self._near("its harmless mean", candidates.harmless_mean[at], reference)
                    if share_name == "f10" and max_kl is not None:
                        edits = candidate_edits(candidates, rules)
                        index = edits.places.index(at)
                        self._logits(
                            official,
                            {
                                f"logits_{name}_ablate_harmful_val": edits.ablations[index],
                                f"logits_{name}_add_harmless_val": edits.additions[index],
                            },
                        )
        nothing = _added_before(0, torch.zeros(self.chat.d_model))
        self._logits(
            official, {f"logits_base_{s}": nothing for s in ("harmful_val", "harmless_val")}
        )

    def _check_scores(
        self, name: str, scores: CosmicScores, rules: CosmicRules, official: _Arrays
    ) -> None:
        variant, share = name.split("_")
        label = f"COSMIC {_NAMES[variant]}"
        self._near("layer similarity", scores.layer_similarity, official["layer_similarity"])
        self._near(f"{label}: S_comply", scores.comply, official[f"{name}_refusal_score"])
        self._near(f"{label}: S_refuse", scores.refuse, official[f"{name}_steering_score"])
        self._near(f"{label}: KL", scores.kl, official[f"{name}_kl_div_score"])
        for kind in ("harmful", "harmless"):
            prompts = getattr(self.data, f"{kind}_val")
            found = baseline(self.chat, prompts, scores.low_layers, rules)[0]
            self._near("baselines", found, official[f"baseline_{kind}_{share}"])

    def _check_dim(self) -> None:
        official = _Arrays(self.folder / "official_dim.npz")
        chosen = _read_json(self.folder / "official_dim.json")
        tokens = [int(token) for token in self._field("refusal_token_ids")]
        candidates = candidates_from(
            self.chat, self.data.harmful_train, self.data.harmless_train, positions=self.positions
        )
        self._near("mean differences", candidates.vectors, official["mean_diffs"])
        nothing = _added_before(0, torch.zeros(self.chat.d_model))
        for field in fields(SplitIds):
            logits = edited_logits(self.chat, getattr(self.data, field.name), nothing)
            self._near(
                "DIM: refusal scores, unsteered",
                refusal_scores(logits, tokens),
                official[f"refusal_score_{field.name}"],
            )
        scores = score_dim_candidates(self.chat, self.data, candidates, tokens)
        self._near("DIM: bypass", scores.bypass, official["refusal_score"])
        self._near("DIM: induce", scores.induce, official["steering_score"])
        self._near("DIM: KL", scores.kl, official["kl_div_score"])
        for name, choice in (
            ("default", select_dim(scores)),
            ("nofilter", select_dim(scores, max_kl=None, min_induce=None)),
        ):
            self._check_choice("DIM", choice, official, name)
            self._same("DIM: choice", self._place(choice), chosen["chosen"][name])
            vector = candidates.vectors[choice.position, choice.layer]
            self._near("chosen direction", vector, official[f"{name}_direction"])
            if name == "default":
                self._logits(
                    official,
                    {
                        "logits_ablate_harmful_val": Edit.everywhere(vector),
                        "logits_actadd_minus1_harmful_val": _added_before(choice.layer, -vector),
                        "logits_actadd_plus1_harmless_val": _added_before(choice.layer, vector),
                    },
                )

    def _check_choice(self, label: str, choice: Selection, official: _Arrays, variant: str) -> None:
        kept = torch.from_numpy(official[f"{variant}_kept"])
        different = (
            int((choice.kept != kept).sum()) if choice.kept.shape == kept.shape else kept.numel()
        )
        self._add(f"{label}: kept masks", float(different), 0)

    def _logits(self, official: _Arrays, edits: dict[str, Edit]) -> None:
        for key, edit in edits.items():
            prompts = self.data.harmful_val if "harmful_val" in key else self.data.harmless_val
            found = edited_logits(self.chat, prompts[:_N_LOGIT_ROWS], edit)
            kind = "unsteered logits" if "base" in key else "steered logits"
            self._near(kind, found, official[key], LOGIT_TOLERANCE)

    def _place(self, choice: Selection) -> dict[str, int]:
        return {"position": self.positions[choice.position], "layer": choice.layer}

    def _near(
        self, quantity: str, found: Tensor, official: Any, tolerance: float = SCORE_TOLERANCE
    ) -> None:
        expected = torch.from_numpy(np.asarray(official)).double()
        ours = found.double().cpu()
        if ours.shape != expected.shape:
            return self._add(quantity, float("inf"), tolerance)
        both_nan = ours.isnan() & expected.isnan()
        difference = (ours - expected).abs().masked_fill(both_nan, 0)
        return self._add(quantity, float(difference.nan_to_num(nan=torch.inf).max()), tolerance)

    def _same(self, quantity: str, found: Any, official: Any) -> None:
        self._add(quantity, float(found != official), 0)

    def _add(self, quantity: str, difference: float, tolerance: float) -> None:
        """Keep the largest difference of each quantity."""
        name = self.folder.name
        for index, held in enumerate(self._found):
            if held.quantity == quantity:
                worst = max(held.difference, difference)
                self._found[index] = replace(held, difference=worst)
                return
        self._found.append(Check(name, quantity, difference, tolerance))

    def _field(self, name: str) -> Any:
        if name not in self.spec:
            raise InputError(f'{self.folder / "spec.json"}: field "{name}" is missing')
        return self.spec[name]


class _Arrays:
    """An .npz file whose missing arrays are named."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with np.load(path, allow_pickle=False) as file:
                self._arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as arrays: {error}") from error

    def __getitem__(self, name: str) -> Any:
        if name not in self._arrays:
            raise InputError(f'{self._path}: array "{name}" is missing')
        return self._arrays[name]


def _added_before(layer: int, vector: Tensor) -> Edit:
    """`vector` `[d_model]` added to the input of one layer."""
    return Edit.add(vector, 1.0, layer, layer + 1, site="resid_pre")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error


def _load(folder: Path, pad_id: int) -> ChatModel:
    """float32 and eager attention, as the official numbers were made; there is no tokenizer."""
    from transformers import AutoModelForCausalLM

    from steersweep.model.explaining import explain_loading

    source = ModelSource(folder.name, str(folder))
    with explain_loading(source):
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", use_safetensors=True
        )
    model.eval()
    model.requires_grad_(False)
    return ChatModel(model, SimpleNamespace(pad_token_id=pad_id), source=source)
