"""A model's chat template: what it makes of a prompt, as text.

A template that is told the date is told the run's. It is tried before it is used, and gets what
turns and options it reads, or is refused.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.model.source import ModelSource
from steersweep.model.template import (
    PROBE,
    Message,
    TemplateFacts,
    examine,
    examine_apart,
    frozen_date,
    messages,
    probe_hash,
    probes,
    said_by,
)
from steersweep.model.template_options import TemplateOptions, shown_options, variables_of
from steersweep.prompts.conversation import Prompt, Role, Turn, Turns


def today() -> str:
    """The date in UTC, `2026-11-25`."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


@dataclass(frozen=True)
class Frame:
    """What a template puts around turns.

    Attributes:
        order: of the turns in a rendered conversation, by their index.
        around: the texts before the first of them, between them and after the last.
    """

    order: Sequence[int]
    around: Sequence[str]


class ChatTemplate:
    """Puts prompts into a model's chat template.

    Args:
        tokenizer: of the model.
        source: the model.
        date: what day the template is told it is, `2026-11-25`; None: today.
        options: variables that the template is given besides, such as `enable_thinking`.
        system: the system prompt that goes before every prompt, or None.
    """

    def __init__(
        self,
        tokenizer: Any,
        source: ModelSource,
        *,
        date: str | None = None,
        options: TemplateOptions | None = None,
        system: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self.date = date or today()
        self.options = dict(options or {})
        self.system = system
        self._frames: dict[tuple[Role, ...], Frame] = {}

    @cached_property
    def facts(self) -> TemplateFacts:
        """What the template does; it has been tried.

        Raises:
            InputError: it cannot be used; the message says where it stands and why not.
        """
        template = self.text
        if _renders_itself(self.tokenizer):
            facts = examine(self._render)
        else:
            given = {**self.tokenizer.special_tokens_map, **self.options}
            facts = examine_apart(template, given)
        trouble = facts.trouble
        if trouble is None and probe_hash(self._render, facts.content) != facts.probe:
            trouble = "renders the same prompt otherwise in another process; see what it prints"
        if trouble is not None:
            told = shown_options(self.options)
            raise InputError(
                f"{self.where}: the chat template {f'(told {told}) ' if told else ''}{trouble}"
            )
        self._refuse_unused_options(template)
        return facts

    def _refuse_unused_options(self, template: str) -> None:
        """A variable that the template does not read would be set in vain."""
        if not self.options or _renders_itself(self.tokenizer):
            return
        read = variables_of(template)
        unused = [name for name in self.options if name not in read]
        if unused:
            there = f"it reads {', '.join(read)}" if read else "it reads none that can be set"
            raise InputError(
                f"{self.where}: template option {unused[0]}: the chat template has no variable of "
                f"that name; {there}"
            )

    @property
    def text(self) -> str:
        """The template itself.

        Raises:
            InputError: there is none, or none to take by default.
        """
        try:
            return str(self.tokenizer.get_chat_template())
        except ValueError as error:
            templates = self.tokenizer.chat_template
            if isinstance(templates, dict):
                raise InputError(
                    f"{self.where}: there are chat templates for {', '.join(sorted(templates))}, "
                    f'and none is called "default"; name one of them so'
                ) from error
            raise InputError(
                f"{self.source.model_id}: {self.source.without_template}, so prompts cannot be put "
                f"to it as a chat; use the instruction-tuned version of the model"
            ) from error

    @property
    def where(self) -> str:
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
                    **self.options,
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
        turns = self.turns(question)
        if answer is not None:
            turns = (*turns, Turn("assistant", answer))
        return self._render(messages(turns, self.facts.content), opened, self.date)

    def rendered(self, prompt: Prompt) -> str:
        """A prompt in the template, as text, up to where the answer begins."""
        return self._render(messages(self.turns(prompt), self.facts.content), True, self.date)

    def turns(self, prompt: Prompt) -> Turns:
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

    def frame_of(self, turns: Turns) -> Frame:
        """What the template puts around the texts of turns; the same for the same roles.

        Raises:
            InputError: it takes no such turns, or drops or repeats one of them.
        """
        roles = tuple(turn.role for turn in turns)
        if roles not in self._frames:
            several = f"conversation of turns of {', '.join(roles)}"
            what = "system prompt" if "system" in roles else several
            advice = f"leave the {what} out, or write it into the prompts"
            asked, content = probes(roles), self.facts.content
            try:
                rest = self._render(messages(asked, content), True, self.date)
            except Exception as error:  # a template may raise anything
                raise InputError(
                    f"{self.where}: the chat template takes no {what}{said_by(error)}; {advice}"
                ) from error
            for turn in asked:
                if rest.count(turn.content) != 1:
                    does = "repeats" if turn.content in rest else "drops"
                    raise InputError(
                        f"{self.where}: the chat template {does} the {turn.role} turn of a "
                        f"{what}; {advice}"
                    )
            # Some templates write a system prompt into the last turn.
            order = sorted(range(len(asked)), key=lambda index: rest.index(asked[index].content))
            around = []
            for index in order:
                before, _, rest = rest.partition(asked[index].content)
                around.append(before)
            self._frames[roles] = Frame(order, [*around, rest])
        return self._frames[roles]

    def own_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt as the tokenizer's own `apply_chat_template` gives them."""
        with frozen_date(self.date):
            ids = self.tokenizer.apply_chat_template(
                messages(self.turns(prompt), self.facts.content),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **self.options,
            )
        return [int(token) for token in ids]

    def notes(self) -> list[str]:
        """What a user should know of how this template is used."""
        found = []
        if self.facts.content == "parts":
            found.append(
                f"{self.where}: the template wants a list of parts; each prompt is given as one "
                f"part of type text"
            )
        if self.facts.dated:
            found.append(
                f"{self.where}: the template holds a date; this run is frozen at {self.date}"
            )
        if self.options:
            found.append(
                f"{self.where}: the template is told {shown_options(self.options)}"
                f"{'' if self._options_matter else ', which changes nothing in a prompt'}"
            )
        if self.system is not None:
            found.append(
                f"{self.source.model_id}: a system prompt stands before every prompt, those that "
                f"directions are found with too: {self.system[:60]!r}"
            )
        return found

    @property
    def _options_matter(self) -> bool:
        """Whether a prompt is rendered otherwise with the template options than without."""
        with frozen_date(self.date):
            plain = self.tokenizer.apply_chat_template(
                messages(self.turns(PROBE), self.facts.content),
                add_generation_prompt=True,
                tokenize=False,
            )
        return str(plain) != self.rendered(PROBE)


def _renders_itself(tokenizer: Any) -> bool:
    """Whether a tokenizer's own code, and not transformers, puts prompts into a template."""
    from transformers import PreTrainedTokenizerBase

    own = type(tokenizer).apply_chat_template
    return own is not PreTrainedTokenizerBase.apply_chat_template
