"""The default judge as two functions of a text, by the source plan's names."""

from __future__ import annotations

from steersweep.judging.judges import get_judge
from steersweep.run.judgement import Quality


def is_refusal(response: str, prompt: str = "") -> bool:
    """Whether a response refuses, by the default judge; `prompt`: what was asked, if known."""
    return get_judge()(prompt, response).refusal


def classify_output_quality(response: str, prompt: str = "") -> Quality:
    """Whether a response is a `coherent` refusal, `garbled`, or a `normal` answer.

    By the default judge, which sees the text alone: likelihoods under a model, which a sweep adds,
    tell more.
    """
    return get_judge()(prompt, response).quality
