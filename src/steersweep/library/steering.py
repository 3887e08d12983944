"""How one direction steers a model's answers: settings as people give them, and the edit of them.

What `steersweep generate` takes, and whatever else answers with one direction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from steersweep.core.errors import InputError, setting
from steersweep.core.setting_values import MAX_MULTIPLIER, MAX_STRENGTH
from steersweep.prompts.prompts import ExtractionSet, load_extraction_set
from steersweep.run.condition import LayerChoice
from steersweep.run.direction import Direction
from steersweep.run.edit_settings import STANDARD, EditSettings

if TYPE_CHECKING:
    from steersweep.model.chat_model import ChatModel
    from steersweep.steer.edit import Edit


@dataclass(frozen=True, kw_only=True)
class SteeringSettings:
    """Where and how strongly a direction steers.

    Attributes:
        edit: operation, site, span and positions.
        multiplier: length of what is added, in units of the residual stream; or None.
        strength: the same over the direction's `residual_norm`; or None.
        layer: where steering starts; None: the direction's own layer.
        extraction: of affine edits: whose harmless prompts are put back, a shipped set or a file;
            None: those that the direction was extracted from.

    Raises:
        InputError: not one of `multiplier` and `strength`, or one that the operation does not take;
            a number that is too large; extraction prompts that the operation has no use for.
    """

    edit: EditSettings = STANDARD
    multiplier: float | None = None
    strength: float | None = None
    layer: LayerChoice | None = None
    extraction: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be done, before a model is loaded."""
        self._check_length()
        if self.extraction is not None and self.edit.operation != "affine":
            raise InputError(
                f"{setting('extraction')}: only {setting('operation')} affine puts harmless "
                f"prompts' mean back"
            )

    def _check_length(self) -> None:
        multiplier, strength = setting("multiplier"), setting("strength")
        if self.edit.operation == "remove":
            if self.multiplier is not None or self.strength is not None:
                raise InputError(
                    f"{setting('operation')} remove takes a direction out as a whole and has no "
                    f"strength; leave {multiplier} and {strength} out"
                )
        elif (self.multiplier is None) == (self.strength is None):
            raise InputError(f"give either {multiplier} or {strength}")
        for name, number, highest in (
            (multiplier, self.multiplier, MAX_MULTIPLIER),
            (strength, self.strength, MAX_STRENGTH),
        ):
            if number is not None and not abs(number) <= highest:
                raise InputError(f"{name} {number}: must be a number up to {highest:,.0f}")

    def length(self, direction: Direction, called: str) -> float:
        """Length of what is added of a direction, in units of the residual stream.

        Raises:
            InputError: a strength, and nobody knows how long the residual stream is there.
        """
        if self.strength is None:
            return self.multiplier or 0.0
        if direction.residual_norm is None:
            raise InputError(
                f"{called}: does not say how long the residual stream is at its layer, which "
                f"{setting('strength')} is relative to; give {setting('multiplier')}"
            )
        return self.strength * direction.residual_norm

    def measured(
        self, chat: ChatModel, direction: Direction, called: str, prompt_ids: list[list[int]]
    ) -> Direction:
        """A direction with the mean length of the residual stream where steering starts.

        Args:
            chat: the model.
            direction: of a model of the same shape.
            called: what messages call it.
            prompt_ids: at whose last tokens the length is taken.

        Raises:
            InputError: see `edit_of`.
        """
        from steersweep.steer.activations import residuals

        start = self._start(chat, direction, called)
        states = residuals(chat, prompt_ids, site=self.edit.site)[:, 0, start]
        return replace(direction, residual_norm=float(states.double().norm(dim=-1).mean()))

    def _start(self, chat: ChatModel, direction: Direction, called: str) -> int:
        start = direction.layer if self.layer is None else self.layer.index(chat.n_layers)
        _check_fits(chat, direction, start, called)
        return start

    def reference_prompts(self, direction: Direction, called: str) -> ExtractionSet | None:
        """The prompts whose harmless ones an affine edit refers to; None for other edits.

        Args:
            direction: whose own prompts are taken where none were asked for.
            called: what messages call the direction, such as its file.

        Raises:
            InputError: they are not there, or not as they were.
        """
        if self.edit.operation != "affine":
            return None
        if direction.position is None:
            raise InputError(
                f"{called}: does not say at which prompt position it was read, which "
                f"{setting('operation')} affine needs; steersweep convert takes it with "
                f"{setting('position')}"
            )
        if self.extraction is not None:
            return load_extraction_set(self.extraction)
        if not direction.prompts:
            raise InputError(
                f"{called}: names no prompts, and {setting('operation')} affine puts harmless "
                f"ones' mean back; give {setting('extraction')}"
            )
        name = direction.prompts.partition("@")[0]
        advice = (
            f"{called}: was extracted from {name}; give that set or file as {setting('extraction')}"
        )
        try:
            prompts = load_extraction_set(name)
        except InputError as error:
            raise InputError(f"{advice} ({error})") from error
        if prompts.id != direction.prompts:
            raise InputError(f"{advice}; {name} holds other prompts now")
        return prompts

    def edit_of(
        self, chat: ChatModel, direction: Direction, called: str, prompts: ExtractionSet | None
    ) -> Edit:
        """What is done to a model with a direction.

        Args:
            chat: the model.
            direction: of a model of the same shape.
            called: what messages call the direction, such as its file.
            prompts: what `reference_prompts` gave.

        Raises:
            InputError: the direction does not fit the model, or the layer is outside it.
        """
        from steersweep.steer.activations import harmless_mean
        from steersweep.steer.edit import Edit

        start = self._start(chat, direction, called)
        reference = None
        if prompts is not None:
            assert direction.position is not None, "reference_prompts saw to it"
            means = harmless_mean(
                chat, prompts.harmless, position=direction.position, site=self.edit.site
            )
            reference = means[start].float()
        return Edit.of(
            self.edit,
            direction.vector,
            start,
            multiplier=self.length(direction, called),
            reference=reference,
        )


def _check_fits(chat: ChatModel, direction: Direction, start: int, called: str) -> None:
    """Refuse a direction of a model of another shape."""
    of = f"{called}: a direction" + (f" of {direction.model_id}" if direction.model_id else "")
    if direction.vector.shape != (chat.d_model,):
        raise InputError(
            f"{of}, {direction.vector.numel()} wide; the residual stream of "
            f"{chat.source.model_id} is {chat.d_model} wide, so use a direction that was "
            f"extracted from it"
        )
    if not 0 <= start < chat.n_layers:
        raise InputError(
            f"{of}, layer {start}; {chat.source.model_id} has layers 0 to {chat.n_layers - 1}, so "
            f"say with {setting('layer')} where steering starts"
        )
