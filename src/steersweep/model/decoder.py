"""Where the decoder layers of a transformers model are, and what they call their parts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from steersweep.core.errors import InputError

# Parts of a network that are no text decoder.
_OTHER_PARTS = re.compile(r"vision|visual|image|audio|speech|encoder|depth_decoder|mtp")

# What decoder layers call their two parts.
ATTENTION = ("self_attn", "attn", "attention", "self_attention")
MLP = ("mlp", "feed_forward", "block_sparse_moe")


def decoder_layers(model: Any, model_id: str) -> Sequence[nn.Module]:
    """The stack of decoder layers of a transformers model.

    The list of as many modules as the config has layers; not one within a layer, nor of a part that
    sees or hears.

    Raises:
        InputError: there is no such list, or more than one.
    """
    expected = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module) == expected
            and not _OTHER_PARTS.search(name)
            and not any(name.startswith(f"{outer}.") for outer in found)
        ):
            found[name] = module
    if len(found) != 1:
        what = f"{len(found)} lists ({', '.join(found)})" if found else "no list"
        raise InputError(
            f"{model_id}: the decoder layers of a {type(model).__name__} were not found: {what} of "
            f"{expected} layers in it"
        )
    return list(*found.values())


def taken_by_forward(model: Any) -> set[str]:
    """Names of what the forward of a network takes.

    Code that came with a model often hands all on to the class it is made from (`**kwargs`); then
    what that takes counts too.
    """
    names: set[str] = set()
    own = [vars(cls)["forward"] for cls in type(model).__mro__ if "forward" in vars(cls)]
    for forward in (model.forward, *own):
        parameters = inspect.signature(forward).parameters
        names.update(parameters)
        if all(found.kind is not found.VAR_KEYWORD for found in parameters.values()):
            break
    return names
