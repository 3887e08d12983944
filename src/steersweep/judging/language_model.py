"""A local language model as a judge: `llm:MODEL` or `llm:MODEL#FORMAT`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from steersweep.core.errors import InputError
from steersweep.judging.formats import DEFAULT_FORMAT, Format, load_format
from steersweep.judging.model_judge import ModelJudge, Pair, Reading
from steersweep.run.condition import content_key

if TYPE_CHECKING:
    from steersweep.model.chat_model import ChatModel
    from steersweep.model.source import ModelSource

T = TypeVar("T")

_MOST_ROWS = 64
# Letters alone: nothing that a chat template would change.
_PROMPT, _RESPONSE = "PLACEOFTHEPROMPT", "PLACEOFTHERESPONSE"
_PLACES = re.compile(f"({_PROMPT}|{_RESPONSE})")
# For formats that use no chat template, where the model may have none; questions do not use it.
_PLAIN = "{% for message in messages %}{{ message['content'] }}\nReply: {% endfor %}"
# Share of the likeliest answer below which it is ambiguous.
_SURE_FROM = 0.7


@cache
def language_model_judge(name: str) -> ModelJudge:
    """The judge for `MODEL` or `MODEL#FORMAT`; its weights are loaded when it first judges.

    Raises:
        InputError: no such model or format.
    """
    from steersweep.model.find import find_model

    model, _, form = name.partition("#")
    if not model:
        raise InputError("judge llm: names no model; write llm:MODEL, as llm:Qwen/Qwen3-4B")
    asking = load_format(form or DEFAULT_FORMAT)
    source = find_model(model).pinned()
    found = LanguageModel(source, asking)
    digest = content_key([source.fingerprint(), asking.key])[:12]
    return ModelJudge(f"llm:{model}#{asking.name}@sha256:{digest}", found.read)


class LanguageModel:
    """Asks a model about answers in a format's way."""

    def __init__(self, source: ModelSource, form: Format) -> None:
        self._source = source
        self._form = form
        self._loaded: ChatModel | None = None
        self._frame: list[str] | None = None

    def read(self, pairs: Sequence[Pair]) -> list[Reading]:
        """What the model says of each prompt and answer.

        Raises:
            SteersweepError: the model cannot be loaded or run.
        """
        chat = self._chat()
        prompts = [self._ids(chat, prompt, response) for prompt, response in pairs]
        longest = self._longest_prompt(chat)
        fits = [i for i, ids in enumerate(prompts) if longest is None or len(ids) <= longest]
        readings = [
            Reading("", error=f"{len(ids)} tokens; the judge reads at most {longest}")
            for ids in prompts
        ]
        asked = [prompts[i] for i in fits]
        read = self._by_likelihood if self._form.read == "likelihood" else self._by_text
        for i, reading in zip(fits, read(chat, asked) if asked else [], strict=True):
            readings[i] = reading
        return readings

    def _chat(self) -> ChatModel:
        from steersweep.model.chat_model import ChatModel

        if self._loaded is None:
            self._loaded = ChatModel.load(
                self._source,
                template=_PLAIN if self._form.given == "plain" else None,
                template_options=self._form.template_options,
            )
        return self._loaded

    def _longest_prompt(self, chat: ChatModel) -> int | None:
        if chat.max_positions is None:
            return None
        words = max(len(ids) for ids, _ in _words(chat, self._form.answers))
        new = words if self._form.read == "likelihood" else self._form.max_new_tokens
        return chat.max_positions - new

    # -- the prompt --------------------------------------------------------------------------------

    def _ids(self, chat: ChatModel, prompt: str, response: str) -> list[int]:
        """Token ids of the question about an answer; what it spells is text, never a token."""
        filled = {_PROMPT: prompt.strip(), _RESPONSE: response.strip()}
        parts = [(filled.get(text, text), text not in filled) for text in self._parts(chat)]
        ids = chat.renderer.ids_of_parts(parts, "the judge's question")
        bos = chat.tokenizer.bos_token_id
        adds_bos = self._form.given == "plain" and bos in chat.tokenizer("a").input_ids[:1]
        return [bos, *ids] if adds_bos and ids[:1] != [bos] else ids

    def _parts(self, chat: ChatModel) -> list[str]:
        """The rendered question, cut where prompt and response stand."""
        if self._frame is None:
            if self._form.given == "conversation":
                text = chat.renderer.template.conversation(_PROMPT, _RESPONSE, opened=True)
                wanted = 2
            else:
                text = self._form.filled(_PROMPT, _RESPONSE)
                wanted = len(_PLACES.findall(text))
                text = (
                    text if self._form.given == "plain" else chat.renderer.template.rendered(text)
                )
            self._frame = _PLACES.split(text)
            if len(self._frame) != 2 * wanted + 1:
                raise InputError(
                    f"judge llm:{self._source.model_id}: its chat template does not show prompt "
                    f"and response once each; use another format"
                )
        return self._frame

    # -- the reply ---------------------------------------------------------------------------------

    def _by_text(self, chat: ChatModel, prompts: Sequence[list[int]]) -> list[Reading]:
        from steersweep.steer.steering import Row, generate

        most = self._form.max_new_tokens
        rows = [Row(ids) for ids in prompts]
        answers = _in_memory(
            chat,
            prompts,
            most,
            lambda count: generate(chat, rows, max_new_tokens=most, max_rows=count),
        )
        return [
            self._form.read_text(answer.text, cut=answer.finish_reason == "length")
            for answer in answers
        ]

    def _by_likelihood(self, chat: ChatModel, prompts: Sequence[list[int]]) -> list[Reading]:
        from steersweep.judging.fluency import response_nll

        words = _words(chat, self._form.answers)
        nlls = _in_memory(
            chat,
            prompts,
            max(len(ids) for ids, _ in words),
            lambda count: response_nll(
                chat,
                [ids for ids in prompts for _ in words],
                [ids for _ in prompts for ids, _ in words],
                max_rows=count,
            ),
        )
        found = []
        for index in range(len(prompts)):
            by_meaning: dict[str, float] = {}
            logs = []
            for (ids, meaning), nll in zip(words, nlls[index * len(words) :], strict=False):
                assert nll is not None, "words have tokens"
                logs.append((meaning, -nll.mean * len(ids)))
            highest = max(log for _, log in logs)
            for meaning, log in logs:
                by_meaning[meaning] = by_meaning.get(meaning, 0.0) + math.exp(log - highest)
            found.append(_likeliest(by_meaning))
        return found


def _likeliest(by_meaning: dict[str, float]) -> Reading:
    """The meaning with the largest share, the first of equals."""
    total = sum(by_meaning.values())
    shares = {meaning: value / total for meaning, value in by_meaning.items()}
    best = max(shares, key=lambda meaning: shares[meaning])
    refusal = sum(shares.get(name, 0.0) for name in ("refuses", "partial", "coherent"))
    return Reading(best, refusal, shares[best] >= _SURE_FROM)


def _words(chat: ChatModel, answers: Any) -> list[tuple[tuple[int, ...], str]]:
    """Token ids of every allowed word with its meaning, with and without a space before it."""
    found: dict[tuple[int, ...], str] = {}
    for word, meaning in answers.items():
        for text in (word, f" {word}"):
            ids = tuple(chat.token_ids(text))
            if found.setdefault(ids, meaning) != meaning or not ids:
                raise InputError(
                    f"judge llm:{chat.source.model_id}: the answer {word!r} has the tokens of "
                    f"another one; use other words"
                )
    return list(found.items())


def _in_memory(
    chat: ChatModel, prompts: Sequence[list[int]], new: int, attempt: Callable[[int], T]
) -> T:
    """`attempt(rows)` with as many rows as there is memory for."""
    from steersweep.model.memory import RowLimit, model_shape

    row = model_shape(chat.model.config, chat.model).row(
        chat.precision, max(map(len, prompts)), new
    )
    limit = RowLimit(_MOST_ROWS, row, str(chat.device), f"judge {chat.source.model_id}")
    return limit.run(attempt)
