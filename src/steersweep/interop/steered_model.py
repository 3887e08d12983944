"""A model that answers with one direction, for tools that ask it one prompt at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from steersweep.core.errors import InputError, SteersweepError
from steersweep.interop.steered_settings import SteeredModelSettings
from steersweep.library.steering import SteeringSettings
from steersweep.methods.formats.reading import read_direction_file
from steersweep.methods.method import METHODS
from steersweep.prompts.conversation import Prompt
from steersweep.run.decoding_settings import GREEDY, DecodingSettings
from steersweep.run.direction import Direction
from steersweep.sweeps import defaults

if TYPE_CHECKING:
    from steersweep.model.chat_model import ChatModel
    from steersweep.steer.edit import Edit
    from steersweep.steer.steering import Generation


@dataclass(frozen=True)
class Request:
    """A prompt, and how it is answered.

    Attributes:
        prompt: the user's text, or a conversation that ends with one.
        max_new_tokens: tokens of the answer at most.
        decoding: how tokens are chosen.
        seed: of tokens that are drawn.
        repeat: how often the same was asked before; another answer is drawn each time.
    """

    prompt: Prompt
    max_new_tokens: int
    decoding: DecodingSettings = GREEDY
    seed: int = defaults.SEED
    repeat: int = 0


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

        file = None if settings.direction is None else read_direction_file(settings.direction)
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
        if (steering := settings.steering) is not None:
            if file is None:
                direction, called = _found(chat, settings, steering), str(settings.method)
            else:
                layer = None if steering.layer is None else steering.layer.index(chat.n_layers)
                direction, called = file.one(layer), str(file.path)
                notes += [*file.notes, *file.as_there(direction)]
            if direction.model_fingerprint and direction.model_fingerprint != chat.fingerprint:
                notes.append(f"the direction was extracted from {direction.model_id}")
            prompts = steering.reference_prompts(direction, called)
            edit = steering.edit_of(chat, direction, called, prompts)
            facts |= {
                "method": direction.method,
                "layer": edit.start,
                "multiplier": steering.length(direction, called),
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
        from steersweep.steer.sampling import sampling_of, stream_key
        from steersweep.steer.steering import Row, generate

        answers: dict[int, Reply | Exception] = {}
        alike: dict[tuple[int, DecodingSettings], list[tuple[int, Row]]] = defaultdict(list)
        for index, request in enumerate(requests):
            try:
                ids = self.chat.renderer.ids(request.prompt)
                most = self._room(len(ids), request.max_new_tokens)
            except SteersweepError as error:
                answers[index] = error
                continue
            key = stream_key(request.seed, ids, request.repeat)
            alike[most, request.decoding].append((index, Row(ids, self.edit, key)))
        for (most, decoding), members in alike.items():
            found = generate(
                self.chat,
                [row for _, row in members],
                max_new_tokens=most,
                max_rows=self.rows,
                sampling=sampling_of(decoding),
            )
            for (index, row), generation in zip(members, found, strict=True):
                cut = most < requests[index].max_new_tokens
                answers[index] = self._reply(generation, len(row.prompt_ids), cut)
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
        assert ended != "loop", "nothing was asked to stop there"
        return Reply(
            self.chat.opened_thought + generation.text,
            "positions" if ended == "length" and cut else ended,
            n_prompt,
            len(generation.token_ids),
        )


def _found(
    chat: ChatModel, settings: SteeredModelSettings, steering: SteeringSettings
) -> Direction:
    """The direction that a method finds for the layer asked for, or chooses."""
    from steersweep.methods.extraction import extract_directions
    from steersweep.prompts.prompts import load_extraction_set

    assert settings.method is not None, "it has no file"
    method, layer = settings.method, steering.layer
    prompts = load_extraction_set(settings.extraction or METHODS.get(method).default_prompts)
    layers = [] if layer is None else [layer.index(chat.n_layers)]
    found = extract_directions(chat, method, prompts, layers)
    if layers and layers[0] in found.missing:
        raise InputError(f"{settings.model}, {method}: {found.missing[layers[0]]}")
    direction = found.at_layer[layers[0]] if layers else found.chosen
    if direction is None:
        raise SteersweepError(f"{settings.model}: {found.notes[-1]}")
    return direction
