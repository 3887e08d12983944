"""A direction with its provenance, and its file format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steersweep.core.atomic import read_file, write_bytes
from steersweep.core.digests import Damaged, seal_tensors, tensors_digest, unseal_tensors
from steersweep.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_TENSOR = "direction"
_NAMES = ("model_id", "prompts")  # the fingerprint and the vector say what they mean
_UNIT = 1e-4  # how far rounding to float32 may take a length from 1


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector in the residual stream, and where it came from.

    Attributes:
        vector: float32, `[d_model]`, length 1.
        method: `dim`, `random`, ...
        layer: decoder layer it was read at.
        position: prompt position it was read at; -1 is the last token; None where that is not
            known, as of a vector from elsewhere. So is `residual_norm`; the texts are empty then.
        site: `resid_post`: the output of that layer; `resid_pre`: its input.
        raw_norm: length before normalising, in units of the residual stream.
        residual_norm: mean length of the residual stream after that layer at the last token, over
            the extraction prompts (in a sweep, over the test prompts, at the site that is edited);
            `multiplier / residual_norm` is the relative strength.
        model_id: model it belongs to.
        model_fingerprint: identity of that model's weights.
        precision: precision the model ran in.
        prompts: name and hash of the extraction prompts.
    """

    vector: Tensor
    method: str
    layer: int
    position: int | None
    raw_norm: float
    residual_norm: float | None
    model_id: str
    model_fingerprint: str
    precision: str
    prompts: str
    site: str = "resid_post"

    @property
    def facts(self) -> dict[str, Any]:
        """Everything but the vector."""
        return {field.name: getattr(self, field.name) for field in fields(self)[1:]}

    @property
    def key(self) -> str:
        """Content hash of the vector's bytes and its facts, what things are called apart.

        Names its file in a run folder.
        """
        return _key(self.vector.detach().cpu().numpy(), self.facts)

    def save(self, path: Path) -> None:
        """Write a safetensors file: tensor `direction`, everything else as metadata."""
        write_bytes(path, seal_tensors({_TENSOR: self.vector.detach().cpu().numpy()}, self.facts))

    @classmethod
    def load(cls, path: Path) -> Direction:
        """Read what `save` wrote.

        Raises:
            InputError: no direction file, or not as it was written.
        """
        try:
            data = read_file(path)
            if data is None:
                raise InputError(f"{path}: no such file")
            return cls.of(data)
        except Damaged as error:
            raise InputError(f"{path}: cannot be used as a direction: {error}") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error

    @classmethod
    def of(cls, data: bytes) -> Direction:
        """The direction in a file's bytes.

        Raises:
            Damaged: as `stored_vector`.
        """
        import torch

        vector, facts = _stored(data)
        return cls(vector=torch.from_numpy(vector.copy()), **facts)


def stored_vector(data: bytes, key: str) -> NDArray[np.float32]:
    """The unit vector `[d_model]` in the bytes of a run folder's direction file; needs no torch.

    Args:
        data: of the file.
        key: that the direction must have.

    Raises:
        Damaged: there is no direction, it is not as it was written, it is no unit vector, or
            another one.
    """
    vector, facts = _stored(data)
    if _key(vector, facts) != key:
        raise Damaged("holds another direction")
    return vector


def _stored(data: bytes) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Vector and facts in a file's bytes."""
    tensors, facts = unseal_tensors(data)
    names = {field.name for field in fields(Direction)[1:]}
    if tensors.keys() != {_TENSOR} or facts.keys() != names:
        differ = ", ".join(sorted(tensors.keys() ^ {_TENSOR} | facts.keys() ^ names))
        raise Damaged(f"no direction: {differ} missing or unknown")
    _check(tensors[_TENSOR], facts)
    return tensors[_TENSOR], facts


def _key(vector: NDArray[np.float32], facts: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in facts.items() if name not in _NAMES}
    return tensors_digest({_TENSOR: vector}, kept)[:24]


def _check(vector: NDArray[Any], facts: Mapping[str, Any]) -> None:
    import numpy as np

    if vector.dtype != np.float32 or vector.ndim != 1:
        raise Damaged(f"no direction: {vector.dtype} of shape {list(vector.shape)}")
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not abs(norm - 1) < _UNIT:
        raise Damaged(f"no unit vector: its length is {norm:.4g}")
    for name in ("raw_norm", "residual_norm"):
        known = isinstance(facts[name], float) and 0 < facts[name] < math.inf
        if not (known or (name == "residual_norm" and facts[name] is None)):
            raise Damaged(f"{name} is {facts[name]!r}")
    for name in ("layer", "position"):
        if type(facts[name]) is not int and not (name == "position" and facts[name] is None):
            raise Damaged(f"{name} is {facts[name]!r}")


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Cosine of two unit vectors `[d_model]`, -1 to 1 whatever rounding does."""
    return max(-1.0, min(1.0, float(one.astype("float64") @ other.astype("float64"))))


def unit_direction(difference: Tensor, **facts: Any) -> Direction:
    """A `Direction` along `difference` `[d_model]`; its length is kept as `raw_norm`.

    Whether the difference is more than rounding is for the caller to say; see `noise`.
    """
    norm = float(difference.double().norm())
    return Direction(vector=(difference.double() / norm).float(), raw_norm=norm, **facts)


def random_direction(like: Direction, seed: int) -> Direction:
    """A control: a random unit vector to add where `like` is added, fixed by `seed` and layer."""
    import torch

    generator = torch.Generator().manual_seed(seed * 1_000_003 + like.layer)
    vector = torch.randn(like.vector.shape, generator=generator, dtype=torch.float64)
    facts = {field.name: getattr(like, field.name) for field in fields(like)}
    facts |= {"vector": (vector / vector.norm()).float(), "method": "random", "raw_norm": 1.0}
    facts |= {"site": "resid_post", "position": -1, "prompts": "none"}  # it was read nowhere
    return Direction(**facts)
