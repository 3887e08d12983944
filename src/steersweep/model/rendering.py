"""From a user's prompt to token ids, with the model's chat template and tokenizer.

A rendered prompt holds the user's text whole, between the template's control tokens, and no control
token that the user's text spells, unless asked. A template that is told the date is told the run's.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from steersweep.core.errors import InputError
from steersweep.model.source import ModelSource
from steersweep.model.template import (
    PROBE,
    Message,
    TemplateFacts,
    examine,
    examine_apart,
    frozen_date,
    message,
    place_of,
    probe_hash,
    user_turn,
)
from steersweep.model.template_options import TemplateOptions, shown_options, variables_of
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


def load_renderer(
    source: ModelSource,
    config: Any,
    *,
    date: str | None = None,
    special_tokens: SpecialTokens = "text",
    template: str | None = None,
    template_options: TemplateOptions | None = None,
) -> Renderer:
    """The renderer of a model whose weights are not loaded.

    Args:
        source: the model.
        config: its config.
        date: see `Renderer`.
        special_tokens: see `Renderer`.
        template: a chat template in place of the model's own, or None.
        template_options: see `Renderer`.

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
    )


class Renderer:
    """Puts prompts into a model's chat template and makes token ids of them.

    Attributes:
        date: what day templates are told it is, `2026-11-25`.
        special_tokens: whether control tokens that a prompt spells are text or those tokens.
        max_positions: the longest prompt the model was made for, or None.
        template_options: variables that the template is given besides, such as `enable_thinking`.
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
    ) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self.date = date or today()
        self.special_tokens = special_tokens
        self.max_positions = max_positions
        self.template_options = dict(template_options or {})
        self.held: dict[str, tuple[str, ...]] = {}
        self._ids: dict[str, list[int]] = {}

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
        turns = user_turn(question, self.facts.content)
        if answer is not None:
            turns.append(message("assistant", answer, self.facts.content))
        return self._render(turns, opened, self.date)

    def rendered(self, text: str) -> str:
        """A user's prompt in the template, as text, up to where the answer begins."""
        return self.conversation(text, opened=True)

    @cached_property
    def _frame(self) -> tuple[str, str]:
        """What the template puts before and after a text."""
        before, _, after = self.rendered(PROBE).partition(PROBE)
        return before, after

    def check(self) -> None:
        """See that the template and the tokenizer can be used together, before anything runs.

        Raises:
            InputError: why they cannot.
        """
        ids = self.ids(PROBE)
        before, after = self._frame
        written = [self._control[token] for token in ids if token in self._control]
        expected = [found for part in (before, after) for found in self._pattern.findall(part)]
        if [token.strip() for token in written] != [token.strip() for token in expected]:
            raise InputError(
                f"{self._where}: the tokenizer does not make the template's control tokens "
                f"({', '.join(dict.fromkeys(expected))}) single tokens; see "
                f"split_special_tokens in tokenizer_config.json"
            )
        with frozen_date(self.date):
            own = self.tokenizer.apply_chat_template(
                user_turn(PROBE, self.facts.content),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **self.template_options,
            )
        if [int(token) for token in own] != ids:
            raise InputError(
                f"{self._where}: the rendered template, tokenized, is not what the tokenizer's "
                f"apply_chat_template gives; they must agree"
            )

    # -- token ids ---------------------------------------------------------------------------------

    def ids(self, text: str, name: str = "") -> list[int]:
        """Token ids of a user's prompt in the template, ready to be answered.

        Rendered once and tokenized without further special tokens: never a second BOS.

        Args:
            text: the prompt.
            name: what messages call it, such as `test prompt 7`; its beginning follows.

        Raises:
            InputError: the template changes the text; it is longer than the model; it spells a
                control token that this tokenizer cannot take for text.
        """
        if text not in self._ids:
            shown = text if len(text) <= 40 else text[:40] + "…"
            self._ids[text] = self._new_ids(text, f"{name or 'the prompt'} {shown!r}")
        return list(self._ids[text])

    def _new_ids(self, text: str, called: str) -> list[int]:
        name = f"{self.source.model_id}: {called}"
        self._refuse_far_too_long(text, name)
        rendered = self.rendered(text)
        before, after = self._frame
        start = place_of(rendered, text, before, after)
        if start is None:
            raise InputError(f"{name}: the chat template changes or drops this text")
        stop = start + len(text.strip())
        ids, inside = self._encode(rendered, start, stop, name)
        if inside:
            self.held[called] = tuple(dict.fromkeys(inside))
            if self.special_tokens == "text":
                ids = self._encode_apart(rendered, start, stop, inside, name)
        if self.max_positions is not None and len(ids) > self.max_positions:
            raise self._too_long(name, f"{len(ids)}")
        return ids

    def ids_of(self, texts: Sequence[str], name: str) -> list[list[int]]:
        """`ids` of several prompts; messages number them from 1, after `name`."""
        return [self.ids(text, f"{name} {number}") for number, text in enumerate(texts, 1)]

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
        inside = [token for text, own in parts if not own for token in self._pattern.findall(text)]
        if inside:
            return self._encode_parts(parts, inside, name)
        whole = "".join(text for text, _ in parts)
        return self._encode(whole, 0, 0, name)[0]

    @cached_property
    def post_instruction_ids(self) -> tuple[int, ...]:
        """The template's tokens after the user's text, in order."""
        # Texts that end in different tokens share exactly the template's ending.
        probes = [self.ids(text) for text in ("apple", "Why so?", "7", "red (dark)")]
        shared = 0
        while len({ids[-1 - shared] for ids in probes}) == 1:
            shared += 1
        return tuple(probes[0][len(probes[0]) - shared :])

    def key(self, prompts: Mapping[str, Sequence[str]]) -> str:
        """A hash of prompts, by the name of their list: their text and their token ids.

        Equal only where template, tokenizer and date give the same tokens.
        """
        return content_key(
            {
                name: [[t, self.ids(t, f"{name} prompt {i}")] for i, t in enumerate(texts, 1)]
                for name, texts in prompts.items()
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
                user_turn(PROBE, self.facts.content), add_generation_prompt=True, tokenize=False
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

    @cached_property
    def _control(self) -> dict[int, str]:
        """Tokens that steer the model: special ones, and added ones that the template writes."""
        template = self._template()
        named = {*(getattr(self.tokenizer, "chat_control_tokens", None) or ())}
        return {
            int(token_id): token.content
            for token_id, token in self.tokenizer.added_tokens_decoder.items()
            if token.special
            or token.content in named
            or (
                token.content in template
                and not token.content.isspace()
                and not token.content.isalnum()
            )
        }

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._control.values(), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def _encode(self, text: str, start: int, stop: int, name: str) -> tuple[list[int], list[str]]:
        """Token ids of a rendered prompt, and the control tokens between two characters of it."""
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        try:
            found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast)
        except (TypeError, UnicodeError) as error:
            raise InputError(f"{name}: is no text that can be tokenized ({error})") from error
        ids = [int(token) for token in found.input_ids]
        if not fast:
            return ids, self._pattern.findall(text[start:stop])
        inside = [
            self._control[token]
            for token, (first, last) in zip(ids, found.offset_mapping, strict=True)
            if token in self._control and first < stop and last > start
        ]
        return ids, inside

    def _encode_apart(
        self, rendered: str, start: int, stop: int, inside: Sequence[str], name: str
    ) -> list[int]:
        """Token ids where only the template's control tokens are tokens, and the text is text.

        Exact at the seams too: a copy of the tokenizer knows the control tokens by other names, and
        the template's are written so.
        """
        parts = [(rendered[:start], True), (rendered[start:stop], False), (rendered[stop:], True)]
        return self._encode_parts(parts, inside, name)

    def _encode_parts(
        self, parts: Sequence[tuple[str, bool]], inside: Sequence[str], name: str
    ) -> list[int]:
        """`_encode_apart` of texts in a row, each with whether it is the template's own."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise InputError(f"{name}: {_no_text(inside)}")
        every = "".join(text for text, _ in parts)
        opening = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in every)
        renamed, originals = self._renamed(opening)
        names = {content: f"{opening}{token}{opening}" for token, content in self._control.items()}
        whole = "".join(
            self._pattern.sub(lambda found: names[found[0]], text) if own else text
            for text, own in parts
        )
        found = [int(token) for token in renamed.encode(whole, add_special_tokens=False).ids]
        if any(token in self._control and token not in originals for token in found):
            raise InputError(f"{name}: {_no_text(inside)}")
        return [originals.get(token, token) for token in found]

    def _renamed(self, mark: str) -> tuple[Any, dict[int, int]]:
        """A copy of the tokenizer with its control tokens called `mark ID mark`; ids to ids."""
        from tokenizers import Tokenizer

        if mark not in self._copies:
            state = json.loads(self.tokenizer.backend_tokenizer.to_str())
            state |= {"post_processor": None, "truncation": None, "padding": None}
            names = {token: f"{mark}{token}{mark}" for token in self._control}
            for token in state["added_tokens"]:
                token["content"] = names.get(token["id"], token["content"])
            copy: Any = Tokenizer.from_str(json.dumps(state))
            ids = {int(copy.token_to_id(name)): token for token, name in names.items()}
            self._copies[mark] = copy, ids
        return self._copies[mark]

    @cached_property
    def _copies(self) -> dict[str, tuple[Any, dict[int, int]]]:
        return {}


def test_rendered(renderer: Renderer, prompts: TestSet) -> str:
    """`Renderer.key` of test prompts; their name and repeats are no part of it."""
    return renderer.key({"test": prompts.prompts})


def extraction_rendered(renderer: Renderer, prompts: ExtractionSet) -> str:
    """`Renderer.key` of extraction prompts; their name is no part of it."""
    return renderer.key(prompts.content())


def _no_text(tokens: Sequence[str]) -> str:
    return (
        f"holds {tokens[0]!r}, a special token of the model, and this tokenizer cannot take it for "
        f"text; change the prompt, or set special tokens to be tokens"
    )


def _renders_itself(tokenizer: Any) -> bool:
    """Whether a tokenizer's own code, and not transformers, puts prompts into a template."""
    from transformers import PreTrainedTokenizerBase

    own = type(tokenizer).apply_chat_template
    return own is not PreTrainedTokenizerBase.apply_chat_template
