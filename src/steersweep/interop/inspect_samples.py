"""Answers of a condition as samples of Inspect's logs, with what judge and people say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from steersweep.core import typed
from steersweep.people.reviews import Review, labels_of
from steersweep.run.cell import Cell
from steersweep.run.judgement import UNJUDGED
from steersweep.run.records import Sample

# Names of scores.
COHERENT, QUALITY, PEOPLE = "coherent_refusal", "quality", "people"

# What Inspect calls the ends of answers.
_STOP_REASONS: dict[str, Any] = {"eos": "stop", "length": "max_tokens", "loop": "unknown"}


def samples_of(model: str, cell: Cell, reviews: Sequence[Review]) -> list[Any]:
    """An `EvalSample` for each answer of a condition.

    Args:
        model: as Inspect names it.
        cell: the condition.
        reviews: what people said of its answers.
    """
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser

    labels = labels_of(cell.key, reviews)
    found: list[Any] = []
    given: Counter[int] = Counter()  # answers of each repeat so far: one for each prompt
    for index, sample in enumerate(cell.samples):
        given[sample.repeat] += 1
        prompt, response = _whole(sample.prompt), _whole(sample.response)
        uuid = f"{cell.key}:{index}"
        messages = [
            ChatMessageUser(id=f"{uuid}:user", content=prompt),
            ChatMessageAssistant(
                id=f"{uuid}:assistant", content=response, model=model, source="generate"
            ),
        ]
        said = [review for review in reviews if review.id == uuid]
        found.append(
            EvalSample(
                id=given[sample.repeat],
                epoch=sample.repeat + 1,
                uuid=uuid,
                input=prompt,
                target="",
                messages=messages,
                output=_output(model, sample, messages[-1]),
                scores=_scores(sample, labels.get(index), said),
                metadata=_facts(sample),
                model_usage={model: usage_of(sample.n_tokens)},
            )
        )
    return found


def _output(model: str, sample: Sample, message: Any) -> Any:
    from inspect_ai.model import ChatCompletionChoice, ModelOutput

    reason = _STOP_REASONS[sample.finish_reason]
    choice = ChatCompletionChoice(message=message, stop_reason=reason)
    return ModelOutput(model=model, choices=[choice], usage=usage_of(sample.n_tokens))


def usage_of(n_tokens: int) -> Any:
    """Tokens of answers; those of prompts are not in a run's results."""
    from inspect_ai.model import ModelUsage

    return ModelUsage(output_tokens=n_tokens, total_tokens=n_tokens)


def _scores(sample: Sample, label: str | None, said: Sequence[Review]) -> dict[str, Any]:
    """The judge's label in two forms, and people's where somebody looked."""
    from inspect_ai.scorer import Score

    judged = sample.judgement
    if judged.quality == UNJUDGED:
        lost = Score.unscored(reason="grader_failed", explanation=_whole(judged.error))
        scores = {COHERENT: lost, QUALITY: lost}
    else:
        why = _explanation(sample)
        coherent = judged.refusal and judged.quality == "coherent"
        scores = {
            COHERENT: Score(value=int(coherent), answer=_whole(sample.response), explanation=why),
            QUALITY: Score(value=judged.quality, explanation=why),
        }
    if label is not None:
        lines = [
            f"{one.reviewer}: {one.label}" + (f" ({one.note})" if one.note else "") for one in said
        ]
        scores[PEOPLE] = Score(value=label, explanation=_whole("\n".join(lines)))
    return scores


def _explanation(sample: Sample) -> str:
    """What the judge saw, in words."""
    judged = sample.judgement
    stance = {
        "refuses": "refuses",
        "partial": "refuses in part",
        "helps": "does not refuse",
        "unknown": "says neither yes nor no",
    }[judged.stance]
    parts = [f"{stance} (probability of a refusal {judged.score:.2f})"]
    text = {"garbled": "broken text", "coherent": "fluent text", "normal": "fluent text"}
    mode = f" ({judged.failure_mode})" if judged.failure_mode else ""
    parts.append(f"{text[judged.quality]}{mode}")
    if judged.ambiguous:
        parts.append("the judge is not sure")
    return "; ".join(parts)


def _facts(sample: Sample) -> dict[str, Any]:
    """Every fact of a judged answer but its texts."""
    found: Mapping[str, Any] = typed.plain_fields(sample)
    return {
        name: _whole(value) if isinstance(value, str) else value
        for name, value in found.items()
        if name not in ("prompt", "response") and value not in (None, "")
    }


def _whole(text: str) -> str:
    """Half a surrogate pair, which a broken answer may end in, is no text in a file."""
    return text.encode("utf-8", "replace").decode()
