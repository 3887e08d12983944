"""One look at every weight: numbers that are none, and matrices of one number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steersweep.core.errors import InputError, NumericalError
from steersweep.model.architectures import NOT_TEXT

# What was seen of each network when it was loaded; nothing here changes weights after that.
_SEEN: WeakKeyDictionary[nn.Module, tuple[Odd, ...]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Odd:
    """A tensor that no trained model has.

    Attributes:
        name: of it in the network.
        problem: `holds NaN or infinite numbers`, or `is 0.25 everywhere`.
        broken: whether nothing can be computed with it; else it is only never seen in practice.
        may_be_too_large: whether it is infinite in fp16, and may be finite elsewhere.
    """

    name: str
    problem: str
    broken: bool
    may_be_too_large: bool = False


@torch.inference_mode()
def odd_tensors(network: nn.Module, *, again: bool = False) -> tuple[Odd, ...]:
    """Parameters and buffers with NaN or infinite numbers, and matrices of one number.

    One pass over the weights, once for a network, unless `again`. The results stay on the device
    until all are there: a GPU is asked once.
    """
    if again or network not in _SEEN:
        _SEEN[network] = tuple(_odd_tensors(network))
    return _SEEN[network]


def check_numbers(network: nn.Module, model_id: str) -> None:
    """Stop at weights that nothing can be computed with.

    Raises:
        InputError: NaN or infinite numbers, or a matrix of zeros alone.
        NumericalError: infinite numbers in fp16, which what is in the files may be too large for.
    """
    for odd in odd_tensors(network, again=True):
        if odd.broken:
            kind = NumericalError if odd.may_be_too_large else InputError
            raise kind(
                f"{model_id}: {odd.name} {odd.problem}: the files are damaged or were never "
                f"filled, or numbers are too large for this precision; download them again, or "
                f"try bf16 or fp32"
            )


def _odd_tensors(network: nn.Module) -> Iterator[Odd]:
    named = [
        (name, tensor)
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta
    ]
    if not named:
        return
    extremes = torch.stack([_extremes(tensor.detach()) for _, tensor in named])
    for (name, tensor), (low, high) in zip(named, extremes.tolist(), strict=True):
        is_read = not NOT_TEXT.search(name)
        is_weight = isinstance(tensor, nn.Parameter)
        is_matrix = tensor.ndim >= 2 and min(tensor.shape[-2:]) > 1 and "bias" not in name
        # Masks, which are buffers, hold infinities.
        if math.isnan(low) or (is_weight and math.isinf(high - low)):
            too_large = tensor.dtype == torch.float16 and not math.isnan(low)
            problem = "holds NaN or infinite numbers"
            yield Odd(name, problem, is_weight and is_read, too_large)
        elif is_weight and is_matrix and low == high:
            yield Odd(
                name, f"is {low + 0.0:g} everywhere", is_read and low == 0 and tensor.ndim == 2
            )


def _extremes(tensor: Tensor) -> Tensor:
    """Lowest and highest number, [2]; both are NaN where one is."""
    whole = tensor if tensor.element_size() > 1 else tensor.float()
    return torch.stack(torch.aminmax(whole)).float()
