"""From a user's prompt to token ids, with the model's chat template and tokenizer.

A rendered prompt holds the user's text whole, between the template's control tokens, and no control
token that the user's text spells, unless asked. A template that is told the date is told the run's.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from steersweep.core.errors import InputError
from steersweep.model.control_tokens import Encoder
from steersweep.model.source import ModelSource
from steersweep.model.template import (
    PROBE,
    Message,
    TemplateFacts,
    examine,
    examine_apart,
    frozen_date,
    messages,
    places_of,
    probe_hash,
    probes,
    said_by,
)
from steersweep.model.template_options import TemplateOptions, shown_options, variables_of
from steersweep.prompts.conversation import Prompt, Role, Turn, Turns, transcript
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


def today() -> str:
    """The date in UTC, `2026-11-25`."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def max_positions(config: Any) -> int | None:
    """Longest sequence a model was made for, if its config says."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


@dataclass(frozen=True)
class _Frame:
    """What a template puts around turns.

    Attributes:
        order: of the turns in a rendered conversation, by their index.
        around: the texts before the first of them, between them and after the last.
    """

    order: Sequence[int]
    around: Sequence[str]


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

    Attributes:
        date: what day templates are told it is, `2026-11-25`.
        special_tokens: whether control tokens that a prompt spells are text or those tokens.
        max_positions: the longest prompt the model was made for, or None.
        template_options: variables that the template is given besides, such as `enable_thinking`.
        system: the system prompt that goes before every prompt, or None.
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
        self.date = date or today()
        self.special_tokens = special_tokens
        self.max_positions = max_positions
        self.template_options = dict(template_options or {})
        self.system = system
        self.held: dict[str, tuple[str, ...]] = {}
        self._ids: dict[Prompt, list[int]] = {}
        self._frames: dict[tuple[Role, ...], _Frame] = {}

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer, self._template())

    # -- the template ------------------------------------------------------------------------------

    @cached_property
    def facts(self) -> TemplateFacts:
        """What the template does; it has been tried.

        Raises:
            InputError: it cannot be used; the message says where it stands and why not.
        """
        template = self._template()
        if _renders_itself(self.tokenizer):
            facts = examine(self._render)
        else:
            given = {**self.tokenizer.special_tokens_map, **self.template_options}
            facts = examine_apart(template, given)
        trouble = facts.trouble
        if trouble is None and probe_hash(self._render, facts.content) != facts.probe:
            trouble = "renders the same prompt otherwise in another process; see what it prints"
        if trouble is not None:
            told = shown_options(self.template_options)
            raise InputError(
                f"{self._where}: the chat template {f'(told {told}) ' if told else ''}{trouble}"
            )
        self._refuse_unused_options(template)
        return facts

    def _refuse_unused_options(self, template: str) -> None:
        """A variable that the template does not read would be set in vain."""
        if not self.template_options or _renders_itself(self.tokenizer):
            return
        read = variables_of(template)
        unused = [name for name in self.template_options if name not in read]
        if unused:
            there = f"it reads {', '.join(read)}" if read else "it reads none that can be set"
            raise InputError(
                f"{self._where}: template option {unused[0]}: the chat template has no variable of "
                f"that name; {there}"
            )

    def _template(self) -> str:
        try:
            return str(self.tokenizer.get_chat_template())
        except ValueError as error:
            templates = self.tokenizer.chat_template
            if isinstance(templates, dict):
                raise InputError(
                    f"{self._where}: there are chat templates for {', '.join(sorted(templates))}, "
                    f'and none is called "default"; name one of them so'
                ) from error
            raise InputError(
                f"{self.source.model_id}: {self.source.without_template}, so prompts cannot be put "
                f"to it as a chat; use the instruction-tuned version of the model"
            ) from error

    @property
    def _where(self) -> str:
        """The model, and the file and field of its template where that is known."""
        folder = Path(self.source.location)
        if (folder / "chat_template.jinja").is_file():
            return f"{self.source.model_id}: chat_template.jinja"
        if (folder / "tokenizer_config.json").is_file():
            return f'{self.source.model_id}: tokenizer_config.json, field "chat_template"'
        return self.source.model_id

    def _render(self, conversation: list[Message], opened: bool, date: str) -> str:
        with frozen_date(date):
            return str(
                self.tokenizer.apply_chat_template(
                    conversation,
                    add_generation_prompt=opened,
                    tokenize=False,
                    **self.template_options,
                )
            )

    def conversation(
        self, question: str, answer: str | None = None, *, opened: bool = False
    ) -> str:
        """A question in the template, and its answer if one is given, as text.

        Args:
            question: the user's.
            answer: the model's, or None.
            opened: whether the template is asked to lead up to an answer.
        """
        turns = self._turns(question)
        if answer is not None:
            turns = (*turns, Turn("assistant", answer))
        return self._render(messages(turns, self.facts.content), opened, self.date)

    def rendered(self, prompt: Prompt) -> str:
        """A prompt in the template, as text, up to where the answer begins."""
        return self._render(messages(self._turns(prompt), self.facts.content), True, self.date)

    def _turns(self, prompt: Prompt) -> Turns:
        """What the template is given for a prompt."""
        turns = (Turn("user", prompt),) if isinstance(prompt, str) else prompt
        if self.system is None:
            return turns
        if turns[0].role == "system":
            raise InputError(
                f"a prompt begins with a system turn of its own, {turns[0].content[:40]!r}; leave "
                f"that or the system prompt out"
            )
        return (Turn("system", self.system), *turns)

    def _framed(self, roles: tuple[Role, ...]) -> _Frame:
        """What the template puts around the texts of turns.

        Raises:
            InputError: it takes no such turns, or drops or repeats one of them.
        """
        if roles not in self._frames:
            several = f"conversation of turns of {', '.join(roles)}"
            what = "system prompt" if "system" in roles else several
            advice = f"leave the {what} out, or write it into the prompts"
            turns, content = probes(roles), self.facts.content
            try:
                rest = self._render(messages(turns, content), True, self.date)
            except Exception as error:  # a template may raise anything
                raise InputError(
                    f"{self._where}: the chat template takes no {what}{said_by(error)}; {advice}"
                ) from error
            for turn in turns:
                if rest.count(turn.content) != 1:
                    does = "repeats" if turn.content in rest else "drops"
                    raise InputError(
                        f"{self._where}: the chat template {does} the {turn.role} turn of a "
                        f"{what}; {advice}"
                    )
            # Some templates write a system prompt into the last turn.
            order = sorted(range(len(turns)), key=lambda index: rest.index(turns[index].content))
            around = []
            for index in order:
                before, _, rest = rest.partition(turns[index].content)
                around.append(before)
            self._frames[roles] = _Frame(order, [*around, rest])
        return self._frames[roles]

    def check(self) -> None:
        """See that the template and the tokenizer can be used together, before anything runs.

        Raises:
            InputError: why they cannot.
        """
        ids = self.ids(PROBE)
        turns = self._turns(PROBE)
        frames = self._framed(_roles(turns)).around
        control = self._encoder.control
        written = [control[token] for token in ids if token in control]
        parts = frames if self.special_tokens == "text" else [self.rendered(PROBE)]
        expected = [found for part in parts for found in self._encoder.pattern.findall(part)]
        if [token.strip() for token in written] != [token.strip() for token in expected]:
            raise InputError(
                f"{self._where}: the tokenizer does not make the template's control tokens "
                f"({', '.join(dict.fromkeys(expected))}) single tokens; see "
                f"split_special_tokens in tokenizer_config.json"
            )
        with frozen_date(self.date):
            own = self.tokenizer.apply_chat_template(
                messages(turns, self.facts.content),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **self.template_options,
            )
        if [int(token) for token in own] != self._encoder.encode(self.rendered(PROBE), (), "")[0]:
            raise InputError(
                f"{self._where}: the rendered template, tokenized, is not what the tokenizer's "
                f"apply_chat_template gives; they must agree"
            )

    # -- token ids ---------------------------------------------------------------------------------

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
        turns = self._turns(prompt)
        self._refuse_far_too_long("".join(turn.content for turn in turns), name)
        frame = self._framed(_roles(turns))
        rendered = self.rendered(prompt)
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
            own = frame.order.index(0) if self.system is not None else None
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
        found = self.source.notes()
        if self.facts.content == "parts":
            found.append(
                f"{self._where}: the template wants a list of parts; each prompt is given as one "
                f"part of type text"
            )
        if self.facts.dated:
            found.append(
                f"{self._where}: the template holds a date; this run is frozen at {self.date}"
            )
        if self.template_options:
            found.append(
                f"{self._where}: the template is told {shown_options(self.template_options)}"
                f"{'' if self._options_matter else ', which changes nothing in a prompt'}"
            )
        if self.system is not None:
            found.append(
                f"{self.source.model_id}: a system prompt stands before every prompt, those that "
                f"directions are found with too: {self.system[:60]!r}"
            )
        if self.held:
            called, tokens = next(iter(self.held.items()))
            count = f"{len(self.held)} prompts hold" if len(self.held) > 1 else "a prompt holds"
            how = "as text" if self.special_tokens == "text" else "as those tokens, as asked"
            found.append(
                f"{self.source.model_id}: {count} special tokens of the model: {tokens[0]!r} in "
                f"{called}; they are tokenized {how}"
            )
        return found

    @property
    def _options_matter(self) -> bool:
        """Whether a prompt is rendered otherwise with the template options than without."""
        with frozen_date(self.date):
            plain = self.tokenizer.apply_chat_template(
                messages(self._turns(PROBE), self.facts.content),
                add_generation_prompt=True,
                tokenize=False,
            )
        return str(plain) != self.rendered(PROBE)

    # -- how ---------------------------------------------------------------------------------------

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


def _roles(turns: Turns) -> tuple[Role, ...]:
    return tuple(turn.role for turn in turns)


def _renders_itself(tokenizer: Any) -> bool:
    """Whether a tokenizer's own code, and not transformers, puts prompts into a template."""
    from transformers import PreTrainedTokenizerBase

    own = type(tokenizer).apply_chat_template
    return own is not PreTrainedTokenizerBase.apply_chat_template
