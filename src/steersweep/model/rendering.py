"""From a user's prompt to token ids, with the model's chat template and tokenizer.

A rendered prompt holds the user's text whole, between the template's control tokens, and no control
token that the user's text spells, unless asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Literal

from steersweep.core.errors import InputError
from steersweep.model.chat_template import ChatTemplate
from steersweep.model.control_tokens import Encoder
from steersweep.model.source import ModelSource
from steersweep.model.template import PROBE, places_of
from steersweep.model.template_options import TemplateOptions
from steersweep.prompts.conversation import Prompt, transcript
from steersweep.prompts.prompts import ExtractionSet, TestSet
from steersweep.run.condition import content_key

SpecialTokens = Literal["text", "tokens"]

# A text of more characters than this for each position is measured by its beginning first.
_CHARACTERS_PER_POSITION = 16


def as_special_tokens(text: str) -> SpecialTokens:
    """What to do with a control token that a prompt spells.

    Raises:
        InputError: neither `text` nor `tokens`.
    """
    if text == "text":
        return "text"
    if text == "tokens":
        return "tokens"
    raise InputError(f"special tokens in prompts: {text!r}: choose text or tokens")


def max_positions(config: Any) -> int | None:
    """Longest sequence a model was made for, if its config says."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def load_renderer(
    source: ModelSource,
    config: Any,
    *,
    date: str | None = None,
    special_tokens: SpecialTokens = "text",
    template: str | None = None,
    template_options: TemplateOptions | None = None,
    system: str | None = None,
) -> Renderer:
    """The renderer of a model whose weights are not loaded.

    Args:
        source: the model.
        config: its config.
        date: see `Renderer`.
        special_tokens: see `Renderer`.
        template: a chat template in place of the model's own, or None.
        template_options: see `Renderer`.
        system: see `Renderer`.

    Raises:
        InputError: its tokenizer cannot be loaded.
    """
    tokenizer = source.load_tokenizer()
    if template is not None:
        tokenizer.chat_template = template
    return Renderer(
        tokenizer,
        source,
        date=date,
        special_tokens=special_tokens,
        max_positions=max_positions(config),
        template_options=template_options,
        system=system,
    )


class Renderer:
    """Puts prompts into a model's chat template and makes token ids of them.

    Args:
        tokenizer: of the model.
        source: the model.
        date: see `ChatTemplate`.
        special_tokens: whether control tokens that a prompt spells are text or those tokens.
        max_positions: the longest prompt the model was made for, or None.
        template_options: see `ChatTemplate`.
        system: see `ChatTemplate`.

    Attributes:
        template: what makes text of prompts.
        held: prompts rendered so far that spell control tokens: what they are called, and those.
    """

    def __init__(
        self,
        tokenizer: Any,
        source: ModelSource,
        *,
        date: str | None = None,
        special_tokens: SpecialTokens = "text",
        max_positions: int | None = None,
        template_options: TemplateOptions | None = None,
        system: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self.template = ChatTemplate(
            tokenizer, source, date=date, options=template_options, system=system
        )
        self.special_tokens = special_tokens
        self.max_positions = max_positions
        self.held: dict[str, tuple[str, ...]] = {}
        self._ids: dict[Prompt, list[int]] = {}

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer, self.template.text)

    def check(self) -> None:
        """See that the template and the tokenizer can be used together, before anything runs.

        Raises:
            InputError: why they cannot.
        """
        ids = self.ids(PROBE)
        frame = self.template.frame_of(self.template.turns(PROBE))
        rendered = self.template.rendered(PROBE)
        control = self._encoder.control
        written = [control[token] for token in ids if token in control]
        parts = frame.around if self.special_tokens == "text" else [rendered]
        expected = [found for part in parts for found in self._encoder.pattern.findall(part)]
        if [token.strip() for token in written] != [token.strip() for token in expected]:
            raise InputError(
                f"{self.template.where}: the tokenizer does not make the template's control tokens "
                f"({', '.join(dict.fromkeys(expected))}) single tokens; see "
                f"split_special_tokens in tokenizer_config.json"
            )
        if self.template.own_ids(PROBE) != self._encoder.encode(rendered, (), "")[0]:
            raise InputError(
                f"{self.template.where}: the rendered template, tokenized, is not what the "
                f"tokenizer's apply_chat_template gives; they must agree"
            )

    def ids(self, prompt: Prompt, name: str = "") -> list[int]:
        """Token ids of a prompt in the template, ready to be answered.

        Rendered once and tokenized without further special tokens: never a second BOS.

        Args:
            prompt: the user's text, or a conversation that ends with one.
            name: what messages call it, such as `test prompt 7`; its beginning follows.

        Raises:
            InputError: the template changes the text; it is longer than the model; it spells a
                control token that this tokenizer cannot take for text.
        """
        if prompt not in self._ids:
            text = prompt if isinstance(prompt, str) else prompt[-1].content
            shown = text if len(text) <= 40 else text[:40] + "…"
            self._ids[prompt] = self._new_ids(prompt, f"{name or 'the prompt'} {shown!r}")
        return list(self._ids[prompt])

    def _new_ids(self, prompt: Prompt, called: str) -> list[int]:
        name = f"{self.source.model_id}: {called}"
        turns = self.template.turns(prompt)
        self._refuse_far_too_long("".join(turn.content for turn in turns), name)
        frame = self.template.frame_of(turns)
        rendered = self.template.rendered(prompt)
        said = [turns[index] for index in frame.order]
        places = places_of(rendered, [turn.content for turn in said], frame.around)
        if places is None:
            what = "text" if len(turns) == 1 else "conversation"
            raise InputError(f"{name}: the chat template changes or drops this {what}")
        spans = [
            (start, start + len(turn.content.strip()))
            for start, turn in zip(places, said, strict=True)
        ]
        ids, inside = self._encoder.encode(rendered, spans, name)
        if any(inside):
            own = frame.order.index(0) if self.template.system is not None else None
            of_prompt = [*chain(*(found for place, found in enumerate(inside) if place != own))]
            if of_prompt:
                self.held[called] = tuple(dict.fromkeys(of_prompt))
            if self.special_tokens == "text":
                ids = self._encoder.encode_apart(rendered, spans, [*chain(*inside)], name)
        if self.max_positions is not None and len(ids) > self.max_positions:
            raise self._too_long(name, f"{len(ids)}")
        return ids

    def ids_of(self, prompts: Sequence[Prompt], name: str) -> list[list[int]]:
        """`ids` of several prompts; messages number them from 1, after `name`."""
        return [self.ids(prompt, f"{name} {number}") for number, prompt in enumerate(prompts, 1)]

    def ids_of_parts(self, parts: Sequence[tuple[str, bool]], name: str) -> list[int]:
        """Token ids of texts in a row, of which some are a template's own.

        Control tokens are tokens in the template's texts, and text in the others.

        Args:
            parts: the texts, each with whether it is the template's.
            name: what messages call it.

        Raises:
            InputError: a text spells a control token that this tokenizer cannot take for text.
        """
        name = f"{self.source.model_id}: {name}"
        inside = [
            token for text, own in parts if not own for token in self._encoder.pattern.findall(text)
        ]
        if inside:
            return self._encoder.encode_parts(parts, inside, name)
        whole = "".join(text for text, _ in parts)
        return self._encoder.encode(whole, (), name)[0]

    @cached_property
    def post_instruction_ids(self) -> tuple[int, ...]:
        """The template's tokens after the user's text, in order."""
        # Texts that end in different tokens share exactly the template's ending.
        probes = [self.ids(text) for text in ("apple", "Why so?", "7", "red (dark)")]
        shared = 0
        while len({ids[-1 - shared] for ids in probes}) == 1:
            shared += 1
        return tuple(probes[0][len(probes[0]) - shared :])

    def key(self, prompts: Mapping[str, Sequence[Prompt]]) -> str:
        """A hash of prompts, by the name of their list: their text and their token ids.

        Equal only where template, tokenizer, system prompt and date give the same tokens.
        """

        def text(prompt: Prompt) -> str:
            return prompt if isinstance(prompt, str) else transcript(prompt)

        return content_key(
            {
                name: [[text(p), self.ids(p, f"{name} prompt {i}")] for i, p in enumerate(some, 1)]
                for name, some in prompts.items()
            }
        )

    def notes(self) -> list[str]:
        """What a user should know of how prompts were rendered so far."""
        found = [*self.source.notes(), *self.template.notes()]
        if self.held:
            called, tokens = next(iter(self.held.items()))
            count = f"{len(self.held)} prompts hold" if len(self.held) > 1 else "a prompt holds"
            how = "as text" if self.special_tokens == "text" else "as those tokens, as asked"
            found.append(
                f"{self.source.model_id}: {count} special tokens of the model: {tokens[0]!r} in "
                f"{called}; they are tokenized {how}"
            )
        return found

    def _refuse_far_too_long(self, text: str, name: str) -> None:
        """A text whose beginning alone is too long is not tokenized whole."""
        if self.max_positions is None:
            return
        most = self.max_positions * _CHARACTERS_PER_POSITION
        if len(text) > most:
            count = len(self.tokenizer(text[:most], add_special_tokens=False).input_ids)
            if count > self.max_positions:
                raise self._too_long(name, f"more than {count}")

    def _too_long(self, name: str, count: str) -> InputError:
        return InputError(
            f"{name}: {count} tokens, and the model was made for at most {self.max_positions}; "
            f"shorten it or leave it out"
        )


def test_rendered(renderer: Renderer, prompts: TestSet) -> str:
    """`Renderer.key` of test prompts; their name and repeats are no part of it."""
    return renderer.key({"test": prompts.asked})


def extraction_rendered(renderer: Renderer, prompts: ExtractionSet) -> str:
    """`Renderer.key` of extraction prompts; their name is no part of it."""
    return renderer.key(prompts.content())
