"""A layer x strength sweep with llama.cpp: the same conditions as control vectors.

A control vector belongs to a context, so what is decoded together has one condition. It is used in
two ways: one prompt after the other, as its program for the command line does, and all prompts of a
condition in parallel sequences, as its server's slots do. Weights are those of a GGUF file, keys
and values in float16 as by default.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from peers import Answers, Condition, Prompts, Way, added
from steersweep import ChatModel


def llama_cpp_ways(file: Path) -> dict[str, Way]:
    """One prompt at a time, and all prompts of a condition, with the model of a file."""
    name = f"llama.cpp {llama_cpp.__version__}, {file.stem}"
    return {
        f"{name}, one at a time": partial(sweep, file, slots=1),
        f"{name}, parallel": partial(sweep, file, slots=None),
    }


def sweep(
    file: Path,
    chat: ChatModel,
    prompts: Prompts,
    conditions: Sequence[Condition],
    tokens: int,
    *,
    slots: int | None,
) -> Answers:
    """Answers to all prompts under every condition, `slots` of them at a time; None: all."""
    together = slots or len(prompts)
    longest = max(map(len, prompts)) + tokens
    context = context_of(file, together, longest)
    found: Answers = []
    for condition in conditions:
        context.steer(condition, chat)
        for first in range(0, len(prompts), together):
            some = prompts[first : first + together]
            found += context.answer(some, tokens, chat.eos_ids)
    return found


# Nothing of what it tells of itself is shown.
_SILENT = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)


@cache
def context_of(file: Path, sequences: int, longest: int) -> Context:
    """The context for a file and a size, made once."""
    return Context(file, sequences, longest)


class Context:
    """A model with a context for several sequences."""

    def __init__(self, file: Path, sequences: int, longest: int) -> None:
        llama_cpp.llama_log_set(_SILENT, None)
        settings = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), settings)
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_seq_max = sequences
        wanted.n_ctx = wanted.n_batch = sequences * (-(-longest // 256) * 256)
        wanted.n_threads = wanted.n_threads_batch = len(os.sched_getaffinity(0))
        self._context = llama_cpp.llama_init_from_model(self._model, wanted)
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._n_tokens = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._width = llama_cpp.llama_model_n_embd(self._model)
        self._batch = llama_cpp.llama_batch_init(wanted.n_batch, 0, 1)

    def steer(self, condition: Condition, chat: ChatModel) -> None:
        """Add what a condition adds at the outputs of its layers; None: nothing."""
        data = np.zeros((chat.n_layers, self._width), np.float32)  # from layer 1 on
        first = 1
        if condition is not None:
            assert condition.start >= 1, "llama.cpp edits no output of layer 0"
            first = condition.start
            data[first - 1 : chat.n_layers - 1] = added(condition).float().numpy()
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        failed = llama_cpp.llama_set_adapter_cvec(
            self._context, pointer, data.size, self._width, first, chat.n_layers - 1
        )
        assert not failed, "llama.cpp took the control vector"

    def answer(self, prompts: Prompts, tokens: int, ends: frozenset[int] | set[int]) -> Answers:
        """Greedy answers, all sequences in one batch at every step."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        found: Answers = [[] for _ in prompts]
        given = [(number, list(ids)) for number, ids in enumerate(prompts)]
        at = [0] * len(prompts)
        for _ in range(tokens):
            logits = self._step(given, at)
            given = []
            for number, row in logits:
                token = int(row.argmax())
                if token not in ends:
                    found[number].append(token)
                    given.append((number, [token]))
            if not given:
                break
        return found

    def _step(
        self, given: Sequence[tuple[int, list[int]]], at: list[int]
    ) -> list[tuple[int, NDArray[np.float32]]]:
        """Put tokens in at the ends of sequences; logits after the last one of each."""
        batch, size, last = self._batch, 0, []
        for number, ids in given:
            for place, token in enumerate(ids):
                batch.token[size] = token
                batch.pos[size] = at[number] + place
                batch.n_seq_id[size] = 1
                batch.seq_id[size][0] = number
                batch.logits[size] = place == len(ids) - 1
                size += 1
            at[number] += len(ids)
            last.append((number, size - 1))
        batch.n_tokens = size
        assert llama_cpp.llama_decode(self._context, batch) == 0, "llama.cpp decoded the batch"
        return [
            (
                number,
                np.ctypeslib.as_array(
                    llama_cpp.llama_get_logits_ith(self._context, index), (self._n_tokens,)
                ),
            )
            for number, index in last
        ]
