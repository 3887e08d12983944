"""A direction with its provenance, and its file format."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steersweep.errors import InputError


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector in the residual stream, and where it came from.

    Attributes:
        vector: float32, `[d_model]`, length 1.
        method: `dim`, `random`, ...
        layer: decoder layer it was read at.
        position: prompt position it was read at; -1 is the last token.
        site: `resid_post`: the output of that layer; `resid_pre`: its input.
        raw_norm: length before normalising, in units of the residual stream.
        residual_norm: mean length of the residual stream after that layer at the last token, over
            the extraction prompts (in a sweep, over the test prompts); `multiplier / residual_norm`
            is the relative strength.
        model_id: model it belongs to.
        model_fingerprint: identity of that model's weights.
        precision: precision the model ran in.
        prompts: name and hash of the extraction prompts.
    """

    vector: Tensor
    method: str
    layer: int
    position: int
    raw_norm: float
    residual_norm: float
    model_id: str
    model_fingerprint: str
    precision: str
    prompts: str
    site: str = "resid_post"

    def save(self, path: Path) -> None:
        """Write a safetensors file: tensor `direction`, everything else as metadata."""
        from safetensors.torch import save

        from steersweep.atomic import write_bytes

        facts = {key: value for key, value in asdict(self).items() if key != "vector"}
        metadata = {key: json.dumps(value) for key, value in facts.items()}
        write_bytes(path, save({"direction": self.vector.contiguous()}, metadata=metadata))

    @classmethod
    def load(cls, path: Path) -> Direction:
        """Read what `save` wrote.

        Raises:
            InputError: not a direction file, or one with missing facts.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata: dict[str, str] = file.metadata() or {}
                vector: Tensor = file.get_tensor("direction")
            facts: dict[str, Any] = {key: json.loads(value) for key, value in metadata.items()}
            names = {field.name for field in fields(cls)} - {"vector"}
            if missing := names - facts.keys():
                raise InputError(f"{path}: no direction file, {', '.join(sorted(missing))} missing")
            return cls(vector=vector.float(), **{name: facts[name] for name in names})
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as a direction: {error}") from error


def unit_direction(difference: Tensor, **facts: Any) -> Direction:
    """A `Direction` along `difference` `[d_model]`; its length is kept as `raw_norm`.

    Whether the difference is more than rounding is for the caller to say; see `noise`.
    """
    norm = float(difference.double().norm())
    return Direction(vector=(difference.double() / norm).float(), raw_norm=norm, **facts)


def random_direction(like: Direction, seed: int) -> Direction:
    """A control: a random unit vector to add where `like` is added, fixed by `seed` and layer."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + like.layer)
    vector = torch.randn(like.vector.shape, generator=generator, dtype=torch.float64)
    facts = {field.name: getattr(like, field.name) for field in fields(like)}
    facts |= {"vector": (vector / vector.norm()).float(), "method": "random", "raw_norm": 1.0}
    facts |= {"site": "resid_post", "position": -1, "prompts": "none"}  # it was read nowhere
    return Direction(**facts)
