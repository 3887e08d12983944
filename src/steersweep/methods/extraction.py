"""Directions by method name, for the layers a sweep or a user asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from steersweep.core.errors import InputError, SteersweepError
from steersweep.methods.candidates import ZERO_NORM, SplitIds, same_everywhere
from steersweep.methods.cosmic import VARIANTS, CosmicScores, best_position, select
from steersweep.methods.cosmic_scoring import cosmic_positions, find_candidates
from steersweep.methods.cosmic_search import score_candidates
from steersweep.methods.dim import find_dim
from steersweep.methods.noise import no_direction, noise_share
from steersweep.model.chat_model import ChatModel
from steersweep.prompts.prompts import COSMIC_EXTRACTION_SET, DIM_EXTRACTION_SET, ExtractionSet
from steersweep.run.direction import Direction, unit_direction
from steersweep.run.label import Label
from steersweep.steer.activations import Backend, residuals

DIM = "dim"
METHODS = (DIM, *VARIANTS)


@dataclass(frozen=True, eq=False)
class Extracted:
    """What a method found.

    Attributes:
        at_layer: a direction per layer asked for, where there is one.
        chosen: the method's own choice; None for a method that makes none, or where its rules drop
            every candidate (a note then says why).
        scores: what the choice rests on, None for a method without scores.
        notes: what a reader of the result should know.
        missing: of every layer of the model that has no direction, why not.
    """

    at_layer: dict[int, Direction]
    chosen: Direction | None = None
    scores: CosmicScores | None = None
    notes: tuple[str, ...] = ()
    missing: dict[int, str] = field(default_factory=dict)


def default_extraction(method: str) -> str:
    """Name of the shipped prompts a method is used with."""
    return DIM_EXTRACTION_SET if method == DIM else COSMIC_EXTRACTION_SET


def extract_directions(
    chat: ChatModel,
    method: str,
    prompts: ExtractionSet,
    layers: Sequence[int],
    *,
    scores: CosmicScores | None = None,
    max_rows: int = 256,
    backend: Backend = "hooks",
) -> Extracted:
    """The directions of `method` at each layer, and the method's own choice if it makes one.

    COSMIC at a given layer is its best-scoring position there. `layer` of a COSMIC direction is the
    official code's: the direction is read at the input of that layer (`resid_pre`).

    Args:
        chat: the model.
        method: one of `METHODS`.
        prompts: harmful and harmless extraction prompts.
        layers: decoder layers.
        scores: COSMIC's scores, as far as they were computed before.
        max_rows: rows per forward pass.
        backend: what reads activations for DIM; COSMIC edits them too, which only hooks do here.

    Raises:
        InputError: unknown method or backend, too few prompts, classes that differ at no layer.
        NumericalError: activations are NaN or infinite.
        SteersweepError: no COSMIC candidate at a layer asked for has a finite score.
    """
    if method == DIM:
        found, missing = find_dim(chat, prompts, backend=backend)
        if not found:
            raise same_everywhere()
        return Extracted({at: found[at] for at in layers if at in found}, missing=missing)
    if method not in VARIANTS:
        raise InputError(f"method {method}: choose from {', '.join(METHODS)}")
    if backend != "hooks":
        raise InputError(f"--backend {backend}: {method} edits activations; use hooks")
    return _cosmic(chat, method, prompts, layers, scores, max_rows)


def _cosmic(
    chat: ChatModel,
    method: str,
    prompts: ExtractionSet,
    layers: Sequence[int],
    scores: CosmicScores | None,
    max_rows: int,
) -> Extracted:
    rules = VARIANTS[method]
    split = prompts.split() if rules.separate_val else prompts.unsplit()
    data = SplitIds.of(chat, split, prompts.name)
    candidates = find_candidates(chat, data, rules, cosmic_positions(chat, rules))
    scores = score_candidates(
        chat, data, candidates, rules, layers=layers, known=scores, max_rows=max_rows
    )

    everything = [*data.harmful_train, *data.harmless_train]
    norms = residuals(chat, everything)[:, 0].double().norm(dim=-1).mean(0)

    def direction(name: str, position: int, layer: int) -> Direction:
        return unit_direction(
            candidates.vectors[position, layer],
            method=name,
            layer=layer,
            position=candidates.positions[position],
            residual_norm=float(norms[layer]),
            model_id=chat.source.model_id,
            model_fingerprint=chat.fingerprint,
            precision=chat.precision,
            prompts=prompts.id,
            site=candidates.site,
        )

    notes = scores.notes
    if rules.separate_val and split.shared:
        shown = "; ".join(repr(text) for text in split.shared[:3])
        notes += (
            f"{prompts.name}: {len(split.shared)} prompts are in both training and validation "
            f"({shown}), so the scores flatter the candidates",
        )
    chosen = None
    try:
        choice = select(scores, rules)
        chosen = direction(str(Label(method, chose_layer=True)), choice.position, choice.layer)
    except SteersweepError as error:
        notes += (f"no choice of its own: {error}",)
    missing = {
        layer: no_direction(layer, longest, float(norms[layer]), noise_share(chat))
        for layer, longest in enumerate(candidates.norms.max(0).values.tolist())
        if longest < ZERO_NORM
    }
    at_layer = {
        layer: direction(method, best_position(scores, layer), layer)
        for layer in layers
        if layer not in missing
    }
    return Extracted(at_layer, chosen, scores, notes, missing)
