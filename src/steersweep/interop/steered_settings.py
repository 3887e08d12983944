"""Settings of a steered model, as a tool gives them by name; those of `steersweep generate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steersweep.core.errors import InputError, setting
from steersweep.core.setting_values import MAX_ROWS, whole_number
from steersweep.library.steering import SteeringSettings
from steersweep.methods.method import METHODS
from steersweep.model.template_options import TemplateOptions, parse_template_options
from steersweep.run.condition import LayerChoice
from steersweep.run.edit_settings import EditSettings
from steersweep.sweeps import defaults

if TYPE_CHECKING:
    from steersweep.model.rendering import SpecialTokens

_EDIT = ("operation", "site", "span", "positions")
# What says how strongly and where; of no use without a direction.
_STEERING = ("strength", "multiplier", "layer", "extraction", *_EDIT)
_OF_MODEL = (
    "precision",
    "device",
    "revision",
    "trust_remote_code",
    "special_tokens",
    "template_options",
    "accept_mismatch",
    "rows",
)
SETTINGS = ("direction", "method", *_STEERING, *_OF_MODEL)


@dataclass(frozen=True, kw_only=True)
class SteeredModelSettings:
    """Which model answers, and how it is steered; read with `read`.

    Attributes:
        model: a hub id, a folder, a GGUF file or `lab:NAME`.
        direction: file of the direction; or None.
        method: how a direction is found instead; or None. Without both the model is not steered.
        steering: where and how strongly; None: the model is not steered.
        extraction: with a method: the prompts it finds a direction with; None: its own.
        rows: prompts in a batch at most.
        precision: see `ChatModel.load`, for the rest too.
        device: as above.
        revision: as above.
        trust_remote_code: as above.
        special_tokens: as above.
        template_options: as above.
        accept_mismatch: go on whatever the checks find to be wrong with the model.
    """

    model: str
    direction: Path | None
    method: str | None
    steering: SteeringSettings | None
    extraction: str | None
    rows: int
    precision: str
    device: str
    revision: str | None
    trust_remote_code: bool
    special_tokens: SpecialTokens
    template_options: TemplateOptions
    accept_mismatch: bool

    @classmethod
    def read(cls, model: str, given: Mapping[str, Any]) -> SteeredModelSettings:
        """Settings by name, as `steersweep generate` has them; what is left out is as there.

        Raises:
            InputError: a setting that there is not, that does not go with the others, or that
                cannot be read.
        """
        from steersweep.model.rendering import as_special_tokens

        for name in given:
            if name not in SETTINGS:
                raise InputError(f"{name}: no such setting; there are {', '.join(SETTINGS)}")
        if not model:
            raise InputError("no model: give a hub id, a folder, a GGUF file or lab:NAME")
        values = _Values(given)
        direction, method = values.text("direction"), values.text("method")
        if direction is not None and method is not None:
            raise InputError(f"give either {setting('direction')} or {setting('method')}")
        extraction = values.text("extraction")
        steering = None
        if direction is None and method is None:
            for name in _STEERING:
                if name in given:
                    raise InputError(
                        f"{setting(name)}: nothing is steered without {setting('direction')} or "
                        f"{setting('method')}"
                    )
        else:
            steering = values.steering(finds=method is not None)
        if method is not None:
            (method,) = METHODS.named([method])
            if steering is not None and steering.layer is None:
                _check_chooses_layer(method)
        return cls(
            model=model,
            direction=None if direction is None else Path(direction),
            method=method,
            steering=steering,
            extraction=extraction,
            rows=whole_number("rows", given.get("rows", defaults.ROWS), 1, MAX_ROWS),
            precision=values.text("precision") or defaults.PRECISION,
            device=values.text("device") or defaults.DEVICE,
            revision=values.text("revision"),
            trust_remote_code=values.switch("trust_remote_code"),
            special_tokens=as_special_tokens(
                values.text("special_tokens") or defaults.SPECIAL_TOKENS
            ),
            template_options=parse_template_options(
                values.text("template_options") or "", setting("template_options")
            ),
            accept_mismatch=values.switch("accept_mismatch"),
        )


@dataclass(frozen=True)
class _Values:
    """Settings as a command line that reads YAML gives them: numbers, switches, texts."""

    given: Mapping[str, Any]

    def text(self, name: str) -> str | None:
        """A text; a number is what was typed."""
        value = self.given.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float | Path | None):
            raise InputError(f"{setting(name)} {value!r}: must be a text")
        return None if value is None else str(value)

    def number(self, name: str) -> float | None:
        """A number or None."""
        value = self.given.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise InputError(f"{setting(name)} {value!r}: must be a number")
        return None if value is None else float(value)

    def switch(self, name: str) -> bool:
        """True or false."""
        value = self.given.get(name, False)
        if not isinstance(value, bool):
            raise InputError(f"{setting(name)} {value!r}: must be true or false")
        return value

    def steering(self, *, finds: bool) -> SteeringSettings:
        """Where and how strongly to steer; `finds`: extraction prompts are the method's too."""
        edit = {name: text for name in _EDIT if (text := self.text(name)) is not None}
        layer, extraction = self.text("layer"), self.text("extraction")
        return SteeringSettings(
            edit=EditSettings.read(edit),
            multiplier=self.number("multiplier"),
            strength=self.number("strength"),
            layer=None if layer is None else LayerChoice(layer),
            extraction=None if finds and edit.get("operation") != "affine" else extraction,
        )


def _check_chooses_layer(method: str) -> None:
    if not METHODS.get(method).chooses_layer:
        raise InputError(f"{setting('method')} {method}: chooses no layer; give {setting('layer')}")
