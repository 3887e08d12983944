"""What a file format of directions is, and the formats that come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from steersweep.core.errors import InputError, setting
from steersweep.core.registry import Registry
from steersweep.run.edit_settings import EditSettings, Site

if TYPE_CHECKING:
    from steersweep.methods.formats.opened import Opened
    from steersweep.model.source import ModelSource
    from steersweep.run.direction import Direction

MAX_LAYER = 10_000  # of any model


@dataclass(frozen=True)
class Said:
    """What a user says of a file, where the file does not; None: nothing.

    Attributes:
        layer: decoder layer that the direction belongs to, the first is 0.
        row: which row of a matrix it is, the first is 0.
        read_at: that layer's output (`resid_post`) or its input (`resid_pre`).
        sign: 1 where it points towards refusal, -1 where it points away: it is turned round then.
        scale: factor that makes the file's numbers units of the residual stream.
        position: prompt position that it was read at; -1 is the last token.
    """

    layer: int | None = None
    row: int | None = None
    read_at: Site | None = None
    sign: int | None = None
    scale: float | None = None
    position: int | None = None


NOTHING = Said()


@dataclass(frozen=True, eq=False)
class Held:
    """What a file holds.

    Attributes:
        directions: by decoder layer, the first is 0; what is not known of them is None or empty.
        layers: that the file has vectors for; more than those of `directions` where several have
            the same one.
        used: what its own tool does with them, at each of these layers and with the length that
            they have in the file; None where the file belongs to no tool.
        notes: what a user should know.
    """

    directions: Mapping[int, Direction]
    layers: tuple[int, ...]
    used: EditSettings | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """The model that a written file is for.

    Attributes:
        source: where it is.
        model_type: transformers' name of its architecture.
        n_layers: decoder layers.
        d_model: width of its residual stream.
    """

    source: ModelSource
    model_type: str
    n_layers: int
    d_model: int

    @classmethod
    def of(cls, source: ModelSource) -> Target:
        """The model of a source, from its config alone.

        Raises:
            InputError: it cannot be found or read.
        """
        config = source.config()
        text = config.get_text_config()
        n_layers, width = int(text.num_hidden_layers), int(text.hidden_size)
        return cls(source, str(config.model_type), n_layers, width)

    def layers(self) -> str:
        """Where its decoder layers are, seen from the network's `base_model`, such as `layers`.

        Raises:
            InputError: they are not found.
        """
        import torch

        from steersweep.model.architectures import auto_class
        from steersweep.model.decoder import decoder_layers

        config = self.source.config()
        with torch.device("meta"):
            trusted = self.source.trust_remote_code
            made = auto_class(config, self.source.model_id, trust_remote_code=trusted)
            network = made.from_config(config, trust_remote_code=trusted)
        first = decoder_layers(network, self.source.model_id)[0]
        named = network.base_model.named_modules()
        place: str = next(name for name, module in named if module is first)
        return place.removesuffix(".0")


@dataclass(frozen=True)
class Use:
    """What the other side should do with a direction.

    Attributes:
        edit: operation, site, span and positions; it begins at the direction's layer.
        multiplier: length of the addition, in units of the residual stream; None: not said.
        target: the model it is for; None: not said.
    """

    edit: EditSettings = field(default_factory=EditSettings)
    multiplier: float | None = None
    target: Target | None = None

    @property
    def length(self) -> str:
        """The multiplier for a command, or a word in its place."""
        return "MULTIPLIER" if self.multiplier is None else f"{self.multiplier:g}"


class Format(Protocol):
    """A file format of directions.

    Attributes:
        name: what options and messages call it.
        suffix: of the files that it writes.
    """

    name: str
    suffix: str

    def recognises(self, file: Opened) -> bool:
        """Whether a file is one of this format, whole or damaged."""
        ...

    def read(self, file: Opened, said: Said) -> Held:
        """What a file of this format holds.

        Raises:
            InputError: it is damaged, or does not say what has to be known; names file and field.
        """
        ...

    def write(self, path: Path, direction: Direction, use: Use) -> list[str]:
        """Write a direction; returns how the other side is told to use it, a line each.

        Raises:
            InputError: the format cannot say what is asked for.
        """
        ...


def _name_of(made: Any) -> str:
    """The name of a format of a user's own, once it is seen to be one."""
    for name in ("recognises", "read", "write"):
        if not callable(getattr(made, name, None)):
            raise InputError(f"it must have {name}; see steersweep.methods.formats.format.Format")
    return str(made.name)


_PLACE = "steersweep.methods.formats"
# In the order that a file is tried with them.
FORMATS: Registry[Format] = Registry(
    "format",
    {
        "steersweep": f"{_PLACE}.ours:Ours",
        "gguf": f"{_PLACE}.gguf:Gguf",
        "arditi": f"{_PLACE}.arditi:Arditi",
        "steering-vectors": f"{_PLACE}.steering_vectors:SteeringVectors",
        "lm-eval": f"{_PLACE}.lm_eval:LmEval",
        "cast": f"{_PLACE}.cast:Cast",
        "plain": f"{_PLACE}.plain:Plain",
    },
    _name_of,
)


def outputs(direction: Direction, use: Use, name: str) -> range:
    """The layers whose outputs have to be edited for what is asked.

    The input of a layer is the output of the one before.

    Args:
        direction: at whose layer the edit begins.
        use: what is asked.
        name: of the format, for messages.

    Raises:
        InputError: the embedding's output would have to be edited, or the model is not known.
    """
    start, stop = _span(direction, use, name)
    if use.edit.site == "resid_post":
        return range(start, stop)
    if start == 0:
        raise InputError(
            f"{name}: edits outputs of layers, and the input of layer 0 is none; begin at layer 1, "
            f"or use {setting('site')} resid_post"
        )
    return range(start - 1, stop - 1)


def inputs(direction: Direction, use: Use, name: str) -> range:
    """The layers whose inputs have to be edited for what is asked; see `outputs`."""
    start, stop = _span(direction, use, name)
    if use.edit.site == "resid_pre":
        return range(start, stop)
    if use.target is None:
        raise InputError(
            f"{name}: edits inputs of layers; give {setting('model')} for their number"
        )
    if stop == use.target.n_layers:
        raise InputError(
            f"{name}: edits inputs of layers, and the output of the last one is none; use "
            f"{setting('site')} resid_pre, or {setting('span')} one below the last layer"
        )
    return range(start + 1, stop + 1)


def _span(direction: Direction, use: Use, name: str) -> tuple[int, int]:
    start, stop = direction.layer, use.edit.stop(direction.layer)
    if stop is not None:
        return start, stop
    if use.target is None:
        raise InputError(
            f"{name}: holds a vector for each layer to the end; give {setting('model')} for their "
            f"number, or {setting('span')} one"
        )
    return start, use.target.n_layers


def only_add(use: Use, name: str) -> None:
    """Refuse what is no addition at all tokens."""
    if use.edit.operation != "add":
        raise InputError(
            f"{name}: {setting('operation')} {use.edit.operation} cannot be said in it: it adds"
        )
    all_tokens(use, name)


def all_tokens(use: Use, name: str) -> None:
    """Refuse an edit at some tokens only."""
    if use.edit.positions != "all":
        raise InputError(
            f"{name}: {setting('positions')} {use.edit.positions} cannot be said in it: it edits "
            f"all tokens"
        )
