"""A steered model as a model of Inspect, whose concurrent requests share batches."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio import RunFinishedError
from anyio.lowlevel import current_token
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    set_model_info,
)
from rich.markup import escape

from steersweep.core.errors import InputError, SteersweepError
from steersweep.interop.collecting import Collector
from steersweep.interop.steered_model import Reply, Request, SteeredModel
from steersweep.interop.steered_settings import SteeredModelSettings
from steersweep.model.thinking import split_thinking
from steersweep.prompts.conversation import Prompt, Role, Turn
from steersweep.run.decoding_settings import DecodingSettings
from steersweep.sweeps import defaults

logger = logging.getLogger(__name__)

LONGEST = 2048  # tokens of an answer, as with Inspect's own local models
_QUIET = 0.1  # seconds without another request, then a batch begins

# Settings that are heeded, and those that are Inspect's own business.
_DECODING = ("temperature", "top_p", "top_k")
_INSPECTS_OWN = {
    "max_retries",
    "timeout",
    "attempt_timeout",
    "stream_idle_timeout",
    "max_connections",
    "adaptive_connections",
    "system_message",
    "max_tokens",
    "seed",
    "max_tool_output",
    "parallel_tool_calls",
    "internal_tools",
    "cache",
    "cache_prompt",
    "fail_on_refusal",
    "reasoning_history",
}
# Values that ask for what is done anyway.
_AS_IT_IS: dict[str, Any] = {
    "num_choices": 1,
    "best_of": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logprobs": False,
}
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_STOP_REASONS: dict[str, Any] = {
    "eos": "stop",
    "length": "max_tokens",
    "positions": "model_length",
}


class SteersweepAPI(ModelAPI):
    """`steersweep/MODEL` in Inspect; the settings are those of `steersweep generate`.

    Args:
        model_name: a hub id, a folder, a GGUF file or `lab:NAME`.
        base_url: not used; there is no server.
        api_key: not used.
        config: settings of generation for this model.
        model_args: `direction` or `method`, `strength` or `multiplier`, `layer`, ...; see
            `SteeredModelSettings`. Without a direction the model answers as it is.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  (Inspect's own signature)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        try:
            _decoding(config)
        except SteersweepError as error:  # shown in one line, without a traceback
            raise PrerequisiteError(escape(error.told(_option))) from error
        try:
            self._model = SteeredModel.load(SteeredModelSettings.read(model_name, model_args))
        except SteersweepError as error:
            raise PrerequisiteError(escape(error.told(_argument))) from error
        for note in self._model.notes:
            logger.warning(note)
        # Inspect would load the model a second time to find this out.
        positions = self._model.chat.max_positions
        set_model_info(f"steersweep/{model_name}", ModelInfo(context_length=positions))
        self._batches: Collector[Request, Reply] = Collector(
            self._model.answer, most=self._model.rows, quiet=_QUIET
        )
        self._asked: Counter[Request] = Counter()

    async def aclose(self) -> None:
        """End the thread that answers."""
        await anyio.to_thread.run_sync(self._batches.close)

    def max_tokens(self) -> int | None:
        """Tokens of an answer where a task says nothing."""
        return min(LONGEST, self._model.longest or LONGEST)

    def max_connections(self) -> int:
        """Requests at a time, where Inspect does not find out by itself how many are good."""
        return self._model.rows

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[Any],
        tool_choice: Any,
        config: GenerateConfig,
    ) -> ModelOutput:
        """The steered answer to a conversation, together with others that are asked for now.

        Raises:
            InputError: tools, a setting or a message that there is no support for, or a prompt
                that the model cannot be asked.
            NumericalError: numbers of the model overflowed.
        """
        _check_tools(tools)
        request = Request(
            _prompt(input),
            config.max_tokens or self.max_tokens() or LONGEST,
            _decoding(config),
            defaults.SEED if config.seed is None else config.seed,
        )
        if request.decoding.samples:  # another answer for each epoch
            self._asked[request] += 1
            request = replace(request, repeat=self._asked[request] - 1)
        reply = await _done(self._batches.ask(request))
        usage = ModelUsage(
            input_tokens=reply.n_prompt,
            output_tokens=reply.n_tokens,
            total_tokens=reply.n_prompt + reply.n_tokens,
        )
        message = ChatMessageAssistant(
            content=_content(reply.text), model=self.model_name, source="generate"
        )
        stop_reason = _STOP_REASONS[reply.finish_reason]
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=stop_reason)],
            usage=usage,
            metadata=dict(self._model.facts),
        )


def _argument(setting: str) -> str:
    """What Inspect's command line calls a setting."""
    return f"-M {setting}"


def _option(setting: str) -> str:
    """What Inspect's command line calls a setting of generation."""
    return "--" + setting.replace("_", "-")


async def _done(future: Future[Reply]) -> Reply:
    """What a future of another thread gives."""
    event, token = anyio.Event(), current_token()

    def tell(_: Future[Reply]) -> None:
        with contextlib.suppress(RunFinishedError):  # nobody waits any more
            anyio.from_thread.run_sync(event.set, token=token)

    future.add_done_callback(tell)
    try:
        await event.wait()
    finally:
        future.cancel()
    return future.result()


def _check_tools(tools: Sequence[Any]) -> None:
    """Refuse tools, which would be ignored.

    Raises:
        InputError: there are some.
    """
    if tools:
        names = ", ".join(str(tool.name) for tool in tools)
        raise InputError(f"tools ({names}): a steered model is given none; use a task without")


def _decoding(config: GenerateConfig) -> DecodingSettings:
    """How tokens are chosen by Inspect's settings; greedily where they say nothing.

    Raises:
        InputError: a setting that would be ignored, by its name, or a number out of bounds.
    """
    given = config.model_dump(exclude_none=True)
    for name, value in given.items():
        if name in _DECODING or name in _INSPECTS_OWN:
            continue
        if name in _AS_IT_IS and value == _AS_IT_IS[name]:
            continue
        raise InputError(
            f"{name} {value!r}: is not supported; a prompt has one answer, which ends where the "
            f"model ends it or at max_tokens"
        )
    return DecodingSettings.chosen(**{name: given[name] for name in _DECODING if name in given})


def _prompt(messages: Sequence[ChatMessage]) -> Prompt:
    """The text of a single user's message, or the turns of a conversation.

    Raises:
        InputError: a message that is no text of system, user or assistant, or the last one is not
            the user's.
    """
    turns = []
    for number, message in enumerate(messages, 1):
        role = str(message.role)
        if role not in _ROLES or getattr(message, "tool_calls", None):
            raise InputError(f"message {number}: is about a tool; a steered model is given none")
        for part in [] if isinstance(message.content, str) else message.content:
            if part.type not in ("text", "reasoning"):
                raise InputError(
                    f"message {number}: holds an {part.type}; a steered model is given text alone"
                )
        # As the templates have it, reasoning of earlier answers is left out.
        turns.append(Turn(_ROLES[role], message.text))
    if not turns or turns[-1].role != "user":
        raise InputError(
            f"message {len(turns)}: is the {turns[-1].role if turns else 'nobody'}'s; the last one "
            f"must be the user's"
        )
    return turns[0].content if len(turns) == 1 else tuple(turns)


def _content(text: str) -> Any:
    """An answer, with its reasoning apart where there is some."""
    parts = split_thinking(text)
    if not parts.thought:
        return text
    return [ContentReasoning(reasoning=parts.thought), ContentText(text=parts.answer)]
