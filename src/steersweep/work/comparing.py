"""What a precision is compared with another by: activations, and how good a model it still is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from steersweep.judging.fluency import response_nll
from steersweep.model.rendering import extraction_rendered
from steersweep.steer.activations import residuals
from steersweep.work.bench import Bench
from steersweep.work.job import comparison_file


def keep_comparison(bench: Bench) -> None:
    """Save in the run folder what a job's precision is compared with its reference by."""
    job, store, chat = bench.job, bench.store, bench.chat
    # Means of classes are compared, whatever the job's method makes of them.
    prompts = next(iter(job.extraction.values()), None)
    activations = None
    if prompts is not None:
        rendered = extraction_rendered(chat.renderer, prompts)
        activations = store.put_tensors(
            store.paths.activations([rendered, chat.fingerprint, chat.precision]),
            lambda: {
                "harmful": _last_token(bench, prompts.harmful).numpy(),
                "harmless": _last_token(bench, prompts.harmless).numpy(),
            },
        )
    store.write_once(
        comparison_file(job, store.paths),
        {
            "precision": job.precision,
            "reference": job.reference,
            "perplexity": _perplexity(bench),
            "activations": activations,
            "extraction_seconds": bench.directions.seconds,
        },
    )


def _last_token(bench: Bench, texts: Sequence[str]) -> Tensor:
    """`resid_post` at the last prompt token, as DIM reads it, `[prompt, layer, d_model]`."""
    chat = bench.chat
    ids = [chat.prompt_ids(text) for text in texts]
    return bench.rows.run(lambda most: residuals(chat, ids, max_rows=min(64, most))[:, 0])


def _perplexity(bench: Bench) -> float | None:
    """Of the reference precision's unsteered answers; None where it gave none.

    A precision that finds them unlikely is a weaker model, whatever steering does to it.
    """
    job, chat = bench.job, bench.chat
    unsteered = replace(job.conditions[0], precision=str(job.reference))
    record = bench.store.get(unsteered.key, job.test.prompts)
    if record is None:
        return None
    opened = chat.opened_thought
    texts = [sample.response.removeprefix(opened) for sample in record.samples]
    ids = [chat.token_ids(text) for text in texts]
    found = bench.rows.run(lambda most: response_nll(chat, bench.prompt_ids, ids, max_rows=most))
    n_tokens = sum(len(tokens) for tokens in ids)
    total = sum(nll.mean * len(tokens) for nll, tokens in zip(found, ids, strict=True) if nll)
    return math.exp(total / n_tokens) if n_tokens else None
