"""What a method is, and the methods that come with the package.

Nothing here needs torch: plans, estimates and help ask methods for their names and defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from steersweep.core.errors import InputError
from steersweep.core.registry import Registry
from steersweep.run.label import Label

if TYPE_CHECKING:
    from torch import Tensor

    from steersweep.model.chat_model import ChatModel
    from steersweep.prompts.prompts import ExtractionSet
    from steersweep.run.direction import Direction
    from steersweep.steer.activations import Backend


ACTIVATIONS = "activations"  # the one stage of a method that only reads
Tensors = dict[str, "Tensor"]


def _compute(_name: str, make: Callable[[], Tensors]) -> Tensors:
    return make()


@dataclass(frozen=True)
class Given:
    """What a method is given beside a model and prompts.

    Attributes:
        state: what an earlier call with the same model and prompts left in `Found.state`.
        max_rows: rows per forward pass that fit in memory.
        backend: what reads activations, see `steer.activations.residuals`.
        tell: to be told the stage that goes on, one of the method's `stages`, and the share of it
            that is done, 0 to 1.
        kept: `kept(name, make)` gives what `make` gives, or gave before the run was killed: CPU
            tensors by name.
        save: to be told what `Found.state` would be by now; it comes back as `state` where the run
            is killed.
    """

    state: Mapping[str, Any] | None = None
    max_rows: int = 256
    backend: Backend = "hooks"
    tell: Callable[[str, float], None] = lambda _stage, _share: None
    kept: Callable[[str, Callable[[], Tensors]], Tensors] = _compute
    save: Callable[[Mapping[str, Any]], None] = lambda _state: None


ALONE = Given()


@dataclass(frozen=True, eq=False)
class Found:
    """What a method found.

    Attributes:
        at_layer: a direction per layer asked for, where there is one.
        chosen: the method's own choice; None for a method that makes none, or where its rules drop
            every candidate (a note then says why).
        state: plain JSON data that the choice rests on, stored beside the directions and given back
            when the same is asked for again; None for a method without any.
        notes: what a reader of the result should know.
        missing: of every layer of the model that has no direction, why not.
    """

    at_layer: Mapping[int, Direction]
    chosen: Direction | None = None
    state: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    missing: Mapping[int, str] = field(default_factory=dict)


class Method(Protocol):
    """A way to find a direction. Its attributes are read without a model and without torch.

    Attributes:
        name: what results call it.
        chooses_layer: whether it makes a choice of layer of its own.
        default_prompts: the extraction prompts it is used with where a user names none.

    A method that computes for long may have `stages` too, a tuple of names of what it does one
    after the other; see `Given.tell`.
    """

    name: str
    chooses_layer: bool
    default_prompts: str

    def find(
        self, chat: ChatModel, prompts: ExtractionSet, layers: Sequence[int], given: Given
    ) -> Found:
        """The direction of each layer, and the method's own choice if it makes one.

        Args:
            chat: the model.
            prompts: harmful and harmless extraction prompts.
            layers: decoder layers that a direction is asked for at; may be empty.
            given: what else it may use.

        Raises:
            InputError: too few prompts, or classes that differ at no layer.
            NumericalError: activations are NaN or infinite.
        """
        ...


def _name_of(method: Any) -> str:
    """The name of a method of a user's own, once it is seen to be one."""
    kinds = {"name": str, "chooses_layer": bool, "default_prompts": str}
    for attribute, kind in kinds.items():
        value = getattr(method, attribute, None)
        if not isinstance(value, kind):
            given = f"is {value!r}" if hasattr(method, attribute) else "is missing"
            raise InputError(f"its attribute {attribute} {given}; it must be a {kind.__name__}")
    stages = getattr(method, "stages", (ACTIVATIONS,))
    if not (isinstance(stages, tuple) and stages and all(isinstance(s, str) for s in stages)):
        raise InputError(f"its attribute stages is {stages!r}; it must be a tuple of names")
    try:
        inspect.signature(method.find).bind(None, None, None, None)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError("it must have find(self, chat, prompts, layers, given)") from error
    Label(method.name)
    return str(method.name)


METHODS: Registry[Method] = Registry(
    "method",
    {
        "dim": "steersweep.methods.dim:Dim",
        "caa": "steersweep.methods.caa:Caa",
        "pca": "steersweep.methods.pca:Pca",
        "cosmic": "steersweep.methods.cosmic:Cosmic",
        "cosmic-affine": "steersweep.methods.cosmic:CosmicAffine",
        "cosmic-paper": "steersweep.methods.cosmic:CosmicPaper",
        "cosmic-study-2026": "steersweep.methods.cosmic:CosmicStudy2026",
    },
    _name_of,
)
