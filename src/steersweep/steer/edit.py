"""An edit: what is done to the residual stream, where, and at which positions.

Everything that changes a residual stream is one of these: rows of generation, their prompts' pass,
the scores of COSMIC and of Arditi et al., and the smoke test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor

from steersweep.core.errors import InputError
from steersweep.run.edit_settings import EditSettings, Positions, Site

# A difference of means that should be zero is not, by rounding: about 1e-17.
_NO_UNIT, _NO_VECTOR = 1e-4, 1e-12

_EPSILON = 1e-8  # keeps the unit vector of a zero-length direction finite, as in the official code


@dataclass(frozen=True, eq=False)
class Edit:
    """`x - (x . removed) removed + added` at a site of layers `[start, stop)`.

    Made with `Edit.add`, `Edit.remove`, `Edit.affine` or `Edit.everywhere`.

    Attributes:
        start: first decoder layer that is edited.
        stop: first layer no longer edited; None means to the end of the model.
        removed: unit direction whose component is taken out, `[d_model]`; None: nothing is.
        added: what is added then, `[d_model]`, in units of the stream; None: nothing is.
        site: `resid_post`, the output of each layer, or `resid_pre`, its input. The input of layer
            0 is what the embedding gives.
        positions: `all`: every token of the prompt and every new token. `prompt`: the prompt's
            tokens only. `last`: the prompt's last token only. `new`: new tokens only, from the
            first one generated; the prompt's last token, which predicts it, is none of them, so
            the first new token is always that of the model without an edit.
        all_writes: edit also all that these layers write into the stream; see `Edit.everywhere`.

    Raises:
        InputError: a vector holds NaN or infinite values, or nothing is removed or added; no such
            site or positions.
    """

    start: int
    stop: int | None = None
    removed: Tensor | None = None
    added: Tensor | None = None
    site: Site = "resid_post"
    positions: Positions = "all"
    all_writes: bool = False

    def __post_init__(self) -> None:
        vectors = [vector for vector in (self.removed, self.added) if vector is not None]
        if not vectors:
            raise InputError("an edit has to remove a direction or to add a vector")
        if not all(bool(torch.isfinite(vector).all()) for vector in vectors):
            raise InputError("the direction holds NaN or infinite values")
        for name, kinds in (("site", Site), ("positions", Positions)):
            if (value := getattr(self, name)) not in get_args(kinds):
                raise InputError(f"{name} {value!r}: choose from {', '.join(get_args(kinds))}")

    @classmethod
    def add(
        cls, vector: Tensor, multiplier: float, start: int, stop: int | None = None, **where: Any
    ) -> Edit:
        """Activation addition: `x + multiplier * vector`.

        Args:
            vector: unit direction, `[d_model]`.
            multiplier: length of what is added, in units of the residual stream.
            start: see `Edit`; so are `stop`, and `site` and `positions` in `where`.
            stop: as above.
            where: as above.

        Raises:
            InputError: the multiplier or the vector is not finite.
        """
        return cls(start, stop, added=vector * _finite(multiplier), **where)

    @classmethod
    def remove(cls, vector: Tensor, start: int, stop: int | None = None, **where: Any) -> Edit:
        """Directional ablation: `x - (x . u) u`, with `u` of length 1 along `vector` `[d_model]`.

        See `Edit.add` for the other arguments.
        """
        return cls(start, stop, removed=_unit(vector), **where)

    @classmethod
    def affine(
        cls,
        vector: Tensor,
        reference: Tensor,
        multiplier: float,
        start: int,
        stop: int | None = None,
        **where: Any,
    ) -> Edit:
        """Affine concept editing: `x - (x . u) u + (reference . u) u + multiplier * u`.

        Marshall, Scherlis and Belrose 2024, "Refusal in LLMs is an Affine Function", arXiv
        2411.09003: the component is set to that of a reference point, and the multiplier moves
        from there, so that equal multipliers mean the same whatever the prompt.

        Args:
            vector: along `u`, `[d_model]`, of any length.
            reference: an activation, such as the mean of harmless prompts, `[d_model]`.
            multiplier: how far from the reference, in units of the residual stream; 0 to stay.
            start: see `Edit.add`, also for the rest.
            stop: as above.
            where: as above.

        Raises:
            InputError: a vector or the multiplier is not finite.
        """
        unit = _unit(vector)
        added = (reference.to(unit) @ unit) * unit
        if _finite(multiplier):
            added = added + multiplier * unit
        return cls(start, stop, removed=unit, added=added, **where)

    @classmethod
    def everywhere(cls, vector: Tensor) -> Edit:
        """Remove the direction along `vector` `[d_model]` from all that any layer reads or writes.

        At every layer's input, as `Edit.remove` does, and besides in what attention, MLPs and the
        like write (`ablation_sites_of`). As scores of COSMIC and of Arditi et al. have it; for
        passes of prompts (`run_edits`), not for generation.
        """
        return cls(0, removed=_unit(vector), site="resid_pre", all_writes=True)

    @classmethod
    def of(
        cls,
        settings: EditSettings,
        vector: Tensor,
        layer: int,
        *,
        multiplier: float = 0.0,
        reference: Tensor | None = None,
    ) -> Edit:
        """What settings do with a direction at a layer, or from it on.

        Args:
            settings: operation, site, span and positions.
            vector: the direction, `[d_model]`.
            layer: first decoder layer that is edited.
            multiplier: length of what is added, in units of the stream; of no use to `remove`.
            reference: for `affine`: the mean of harmless prompts, `[d_model]`.
        """
        stop = settings.stop(layer)
        where: dict[str, Any] = {"site": settings.site, "positions": settings.positions}
        if settings.operation == "remove":
            return cls.remove(vector, layer, stop, **where)
        if settings.operation == "add":
            return cls.add(vector, multiplier, layer, stop, **where)
        assert reference is not None, "affine edits have a reference"
        return cls.affine(vector, reference, multiplier, layer, stop, **where)

    @cached_property
    def changes_nothing(self) -> bool:
        """Whether it is too short to change an activation, as at layer 0 for template tokens."""
        removes = self.removed is not None and float(self.removed.norm()) >= _NO_UNIT
        adds = self.added is not None and float(self.added.norm()) >= _NO_VECTOR
        return not (removes or adds)

    @property
    def edits_prompts(self) -> bool:
        """Whether some token of a prompt is edited."""
        return self.positions != "new"

    @property
    def edits_new_tokens(self) -> bool:
        """Whether new tokens are edited."""
        return self.positions in ("all", "new")

    def span(self, n_layers: int) -> tuple[int, int]:
        """First and one past the last layer that is edited in a model of that depth."""
        return self.start, n_layers if self.stop is None else self.stop

    def clean_layers(self, n_layers: int) -> int:
        """How many layers run over a prompt as they do without the edit.

        `n_layers` where only what the last layer gives is edited; `n_layers + 1` where nothing is.
        """
        if self.changes_nothing or not self.edits_prompts:
            return n_layers + 1
        return self.start if self.site == "resid_pre" else self.start + 1

    def check_fits(self, model_id: str, n_layers: int, d_model: int) -> None:
        """See that a model has these layers, and a residual stream as wide as the vectors.

        Raises:
            InputError: it has not.
        """
        start, stop = self.span(n_layers)
        if not 0 <= start < stop <= n_layers:
            raise InputError(f"layers {start} to {stop}: {model_id} has layers 0 to {n_layers - 1}")
        for vector in (self.removed, self.added):
            if vector is not None and vector.shape != (d_model,):
                raise InputError(
                    f"the direction has shape {tuple(vector.shape)}, but the residual stream of "
                    f"{model_id} is {d_model} wide"
                )


def clean_layers(edit: Edit | None, n_layers: int) -> int:
    """`Edit.clean_layers`; of no edit, as of one that does nothing to prompts."""
    return n_layers + 1 if edit is None else edit.clean_layers(n_layers)


def _finite(multiplier: float) -> float:
    if not math.isfinite(multiplier):
        raise InputError(f"multiplier {multiplier}: must be a finite number")
    return multiplier


def _unit(vector: Tensor) -> Tensor:
    unit: Tensor = vector / (vector.norm() + _EPSILON)
    return unit
