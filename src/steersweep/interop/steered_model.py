"""A model that answers with one direction, for tools that ask it one prompt at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steersweep.core.errors import InputError, SteersweepError, setting
from steersweep.core.setting_values import MAX_ROWS, whole_number
from steersweep.library.steering import SteeringSettings
from steersweep.methods.method import METHODS
from steersweep.model.template_options import TemplateOptions, parse_template_options
from steersweep.run.condition import LayerChoice
from steersweep.run.direction import Direction
from steersweep.run.edit_settings import EditSettings
from steersweep.sweeps import defaults

if TYPE_CHECKING:
    from steersweep.model.chat_model import ChatModel
    from steersweep.model.rendering import SpecialTokens
    from steersweep.steer.edit import Edit
    from steersweep.steer.steering import Generation

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
            steering = values.steering(None if method is not None else extraction)
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

    def steering(self, extraction: str | None) -> SteeringSettings:
        """Where and how strongly to steer."""
        edit = {name: text for name in _EDIT if (text := self.text(name)) is not None}
        layer = self.text("layer")
        return SteeringSettings(
            edit=EditSettings.read(edit),
            multiplier=self.number("multiplier"),
            strength=self.number("strength"),
            layer=None if layer is None else LayerChoice(layer),
            extraction=extraction,
        )


def _check_chooses_layer(method: str) -> None:
    if not METHODS.get(method).chooses_layer:
        raise InputError(f"{setting('method')} {method}: chooses no layer; give {setting('layer')}")


# -- the model ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A prompt, and how many tokens its answer may have."""

    prompt: str
    max_new_tokens: int


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: all of it, with the reasoning that a chat template opens.
        finish_reason: `eos`; `length`: cut where the request said; `positions`: cut where the model
            has no more room.
        n_prompt: tokens of the prompt.
        n_tokens: tokens of the answer, without the one that ends it.
    """

    text: str
    finish_reason: Literal["eos", "length", "positions"]
    n_prompt: int
    n_tokens: int


@dataclass(frozen=True)
class SteeredModel:
    """A loaded model, and what is done to it while it answers.

    Attributes:
        chat: the model.
        edit: what is done; None: nothing.
        rows: prompts in a batch at most.
        facts: what identifies model and steering, as plain data.
        notes: what a user should know.
    """

    chat: ChatModel
    edit: Edit | None
    rows: int
    facts: Mapping[str, Any]
    notes: tuple[str, ...]

    @classmethod
    def load(cls, settings: SteeredModelSettings) -> SteeredModel:
        """Load a model, and read or find its direction.

        Raises:
            InputError: the model or the direction cannot be used, or they do not fit.
            SteersweepError: the model fails a check, or the method finds no direction.
        """
        from steersweep.model.chat_model import ChatModel
        from steersweep.smoke.required import check_for_user

        read = None if settings.direction is None else Direction.load(settings.direction)
        chat = ChatModel.load(
            settings.model,
            precision=settings.precision,
            device=settings.device,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            special_tokens=settings.special_tokens,
            template_options=settings.template_options,
        )
        notes = [*chat.renderer.notes()]
        notes += check_for_user(chat, accept_mismatch=settings.accept_mismatch)
        facts: dict[str, Any] = {
            "model_fingerprint": chat.fingerprint,
            "precision": chat.precision,
        }
        edit = None
        if settings.steering is not None:
            direction, called = read, str(settings.direction)
            if direction is None:
                direction, called = _found(chat, settings), str(settings.method)
            if direction.model_fingerprint != chat.fingerprint:
                notes.append(f"the direction was extracted from {direction.model_id}")
            steering = settings.steering
            prompts = steering.reference_prompts(direction, called)
            edit = steering.edit_of(chat, direction, called, prompts)
            facts |= {
                "method": direction.method,
                "layer": edit.start,
                "multiplier": steering.length(direction),
                "edit": steering.edit.as_json(),
                "direction": direction.key,
            }
        return cls(chat, edit, settings.rows, facts, tuple(notes))

    @property
    def longest(self) -> int | None:
        """Tokens of an answer that leaves half of the model's positions to the prompt, if known."""
        limit = self.chat.max_positions
        return None if limit is None else max(1, limit // 2)

    def answer(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Answers in order; a request that cannot be answered gets its error."""
        from steersweep.steer.steering import Row, generate

        answers: dict[int, Reply | Exception] = {}
        groups: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
        for index, request in enumerate(requests):
            try:
                ids = self.chat.renderer.ids(request.prompt)
                groups[self._room(len(ids), request.max_new_tokens)].append((index, ids))
            except SteersweepError as error:
                answers[index] = error
        for most, members in groups.items():
            rows = [Row(ids, self.edit) for _, ids in members]
            found = generate(self.chat, rows, max_new_tokens=most, max_rows=self.rows)
            for (index, ids), generation in zip(members, found, strict=True):
                cut = most < requests[index].max_new_tokens
                answers[index] = self._reply(generation, len(ids), cut)
        return [answers[index] for index in range(len(requests))]

    def _room(self, n_prompt: int, wanted: int) -> int:
        """Tokens that an answer may have: those that are wanted, or that the model has room for."""
        if self.chat.max_positions is None:
            return wanted
        room = self.chat.max_positions - n_prompt
        if room < 1:
            raise InputError(
                f"{self.chat.source.model_id}: a prompt of {n_prompt} tokens leaves no room for an "
                f"answer; the model was made for {self.chat.max_positions}"
            )
        return min(wanted, room)

    def _reply(self, generation: Generation, n_prompt: int, cut: bool) -> Reply:
        ended = generation.finish_reason
        return Reply(
            self.chat.opened_thought + generation.text,
            "positions" if ended == "length" and cut else ended,
            n_prompt,
            len(generation.token_ids),
        )


def _found(chat: ChatModel, settings: SteeredModelSettings) -> Direction:
    """The direction that a method finds for the layer asked for, or chooses."""
    from steersweep.methods.extraction import extract_directions
    from steersweep.prompts.prompts import load_extraction_set

    assert settings.method is not None and settings.steering is not None
    method, layer = settings.method, settings.steering.layer
    prompts = load_extraction_set(settings.extraction or METHODS.get(method).default_prompts)
    layers = [] if layer is None else [layer.index(chat.n_layers)]
    found = extract_directions(chat, method, prompts, layers)
    if layers and layers[0] in found.missing:
        raise InputError(f"{settings.model}, {method}: {found.missing[layers[0]]}")
    direction = found.at_layer[layers[0]] if layers else found.chosen
    if direction is None:
        raise SteersweepError(f"{settings.model}: {found.notes[-1]}")
    return direction
