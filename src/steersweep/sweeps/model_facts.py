"""What a model's config, tokenizer and template make of a sweep, found out once for a user.

To load transformers and a tokenizer and to render every prompt takes seconds, and a sweep that is
finished needs nothing else of them. So what was found is kept in the user's cache, under all that
it rests on: every byte of the model, every package of this Python, the prompts and the settings.
Where a model is loaded, prompts are rendered again and compared with it; see `worker`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import steersweep
from steersweep.core import provenance, typed
from steersweep.core.errors import InputError
from steersweep.core.user_cache import keep, kept
from steersweep.model.loaded import LoadedSource
from steersweep.model.rendering import (
    Renderer,
    SpecialTokens,
    extraction_rendered,
    load_renderer,
    test_rendered,
)
from steersweep.model.source import ModelSource, family_of
from steersweep.model.template_options import TemplateOptions
from steersweep.prompts.conversation import Prompt
from steersweep.prompts.prompts import ExtractionSet, TestSet
from steersweep.run.condition import content_key

# Raised when something else is found than before of the same model and prompts.
_VERSION = 1


@dataclass(frozen=True)
class Asked:
    """What of a sweep's settings a model is looked at for.

    Attributes:
        device: where it will run.
        date: what day chat templates are told it is.
        precision: see `SweepSettings`, as all that follow.
        max_new_tokens: longest answer.
        special_tokens: whether control tokens that a prompt spells are text or those tokens.
        template_options: variables that chat templates are given.
        system: the system prompt, or None.
        test: prompts to test on.
        extraction: prompts that results rest on, by method.
    """

    device: str
    date: str
    precision: str
    max_new_tokens: int
    special_tokens: SpecialTokens
    template_options: TemplateOptions
    system: str | None
    test: TestSet
    extraction: Mapping[str, ExtractionSet]


@dataclass(frozen=True)
class ModelFacts:
    """What a sweep needs to know of a model before it is loaded.

    Attributes:
        family: its family, for results.
        n_layers: its decoder layers.
        d_model: width of its residual stream.
        precision: in what it runs.
        test: hash of the test prompts, rendered; see `Renderer.key`.
        extraction: the same of extraction prompts, by method.
        notes: what a user should know of how prompts are rendered.
    """

    family: str
    n_layers: int
    d_model: int
    precision: str
    test: str
    extraction: dict[str, str]
    notes: tuple[str, ...]


def model_facts(source: ModelSource, asked: Asked) -> ModelFacts:
    """What a model makes of a sweep's settings, by an earlier look if there was one.

    Args:
        source: the model, pinned.
        asked: the settings.

    Raises:
        InputError: the model cannot be read, or cannot run so; a prompt cannot be put to it or
            leaves no room for an answer. That is found anew each time.
    """
    if isinstance(source, LoadedSource) or source.code():  # code may do anything
        return _look(source, asked)
    name = f"sweeps/{content_key(_rests_on(source, asked))}.json"
    found = _known(kept(name))
    if found is None:
        found = _look(source, asked)
        plain = typed.plain(found)
        keep(name, {"found": plain, "key": content_key(plain)})
    return found


def _known(held: Any) -> ModelFacts | None:
    """What was kept, if it is what was kept: keys of conditions rest on it."""
    try:
        plain = held["found"]
        return typed.read(ModelFacts, plain) if content_key(plain) == held["key"] else None
    except (typed.WrongField, KeyError, TypeError, ValueError):
        return None


def _rests_on(source: ModelSource, asked: Asked) -> Mapping[str, Any]:
    return {
        "model": [source.model_id, source.location, source.fingerprint()],
        "device": [asked.device, _gpu(asked.device)],
        "precision": asked.precision,
        "versions": [
            _VERSION,
            steersweep.__version__,
            provenance.git_commit(),
            platform.python_version(),
        ],
        "packages": provenance.packages(),
        "rendering": [asked.date, asked.special_tokens, asked.template_options, asked.system],
        "test": [_plain(prompt) for prompt in asked.test.asked],
        "extraction": {name: held.content() for name, held in asked.extraction.items()},
        "max_new_tokens": asked.max_new_tokens,
    }


def _gpu(device: str) -> str:
    """What the GPU is called, since not every one runs every precision; empty for a CPU."""
    if device.startswith("cpu"):
        return ""
    import torch

    from steersweep.model.device import processor

    return processor(torch.device(device))


def _plain(prompt: Prompt) -> Any:
    return prompt if isinstance(prompt, str) else [asdict(turn) for turn in prompt]


def _look(source: ModelSource, asked: Asked) -> ModelFacts:
    config = source.config()
    text = config.get_text_config()
    precision = source.precision(asked.precision, config, asked.device)
    renderer = load_renderer(
        source,
        config,
        date=asked.date,
        special_tokens=asked.special_tokens,
        template_options=asked.template_options,
        system=asked.system,
    )
    renderer.check()
    _see_that_answers_fit(renderer, asked)
    return ModelFacts(
        family=family_of(config),
        n_layers=int(text.num_hidden_layers),
        d_model=int(text.hidden_size),
        precision=precision,
        test=test_rendered(renderer, asked.test),
        extraction={
            method: extraction_rendered(renderer, prompts)
            for method, prompts in asked.extraction.items()
        },
        notes=tuple(renderer.notes()),
    )


def _see_that_answers_fit(renderer: Renderer, asked: Asked) -> None:
    limit, new = renderer.max_positions, asked.max_new_tokens
    for number, ids in enumerate(renderer.ids_of(asked.test.asked, "test prompt"), 1):
        if limit is not None and len(ids) + new > limit:
            text = asked.test.prompts[number - 1]
            raise InputError(
                f"{renderer.source.model_id}: test prompt {number} {text[:40]!r} has {len(ids)} "
                f"tokens; with {new} new ones (max_new_tokens) that exceeds the {limit} positions "
                f"the model was made for"
            )
