"""The judges, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from steersweep.core.own import is_own
from steersweep.judging.judge import Judge, OfAnswers, OneByOne, TextJudge
from steersweep.judging.quality import Fluency
from steersweep.judging.refusal import (
    ARDITI_MARKERS,
    KEYWORDS_V3,
    Refusal,
    has_marker,
    judge_refusal,
)
from steersweep.run.judgement import Judgement, Quality

DEFAULT_JUDGE = "default"


class KeywordsV3(OneByOne):
    """Keywords and heuristics of the three-phase study (docs/study-plan.md), for comparison."""

    id = "keywords-v3@2"

    def asks_likelihood(self, _response: str) -> bool:
        """It looks at words alone."""
        return False

    def __call__(self, prompt: str, response: str, fluency: Fluency | None = None) -> Judgement:
        """Judge one response by keywords; the likelihood is not looked at."""
        refusal = _by_markers(KEYWORDS_V3)(prompt, response)
        words = response.lower().split()
        repeated = bool(re.search(r"(?:^|\s)(\S+)(?:\s+\1){3,}(?:\s|$)", response.lower()[:6000]))
        mode = "empty" if not words else "loop" if repeated else None
        refuses = refusal.stance == "refuses"
        quality: Quality = "garbled" if mode else "coherent" if refuses else "normal"
        return Judgement(refuses, quality, mode, False, refusal.score, refusal.stance)


def _by_markers(markers: tuple[str, ...]) -> Callable[[str, str], Refusal]:
    def judge(_prompt: str, response: str) -> Refusal:
        found = has_marker(response, markers)
        return Refusal(float(found), "refuses" if found else "helps")

    return judge


_JUDGES: dict[str, Callable[[], Judge]] = {
    DEFAULT_JUDGE: lambda: TextJudge("default@9", judge_refusal),
    "keywords-v3": KeywordsV3,
    "arditi-prefixes": lambda: TextJudge("arditi-prefixes@2", _by_markers(ARDITI_MARKERS)),
}


def _classifier(rest: str, _cache: Path | None) -> Judge:
    from steersweep.judging.classifier import classifier_refusal

    identity, refusal = classifier_refusal(rest)
    return TextJudge(f"classifier:{identity}", refusal)


def _llm(rest: str, _cache: Path | None) -> Judge:
    from steersweep.judging.language_model import language_model_judge

    return language_model_judge(rest)


def _server(rest: str, cache: Path | None) -> Judge:
    from steersweep.judging.server import server_judge

    return server_judge("server:", rest, cache)


def _remote(rest: str, cache: Path | None) -> Judge:
    from steersweep.judging.server import server_judge

    return server_judge("remote:", rest, cache)


# Judges that are models, by what their names begin with.
_MODELS: dict[str, Callable[[str, Path | None], Judge]] = {
    "classifier:": _classifier,
    "llm:": _llm,
    "server:": _server,
    "remote:": _remote,
}
_DIGEST = "@sha256:"  # of what else an id rests on: weights, template


def _kind(name: str) -> str | None:
    return next((prefix for prefix in _MODELS if name.startswith(prefix)), None)


def _own(place: str) -> Judge:
    from steersweep.judging.own import own_judge

    return own_judge(place)


def _exactly(name: str, make: Callable[[str], Judge]) -> OfAnswers:
    """The judge of a name, or of an id that ends in a digest.

    Raises:
        ValueError: it has another digest now.
    """
    wanted, digest, _ = name.partition(_DIGEST)
    judge = OfAnswers(make(wanted))
    if digest and judge.id != name:
        raise ValueError(
            f"its weights, format or code are no longer those this began with: it is {judge.id} now"
        )
    return judge


def is_judge_name(name: str) -> bool:
    """Whether `get_judge` knows the name, or would try to find the model it names."""
    return name in _JUDGES or is_own(name)


def get_judge(name: str = DEFAULT_JUDGE, cache: Path | None = None) -> OfAnswers:
    """The judge of that name, or of the name before the version in a judge's id.

    All of them judge what follows a response's reasoning; see `OfAnswers`.

    Args:
        name: `default`, `keywords-v3` (docs/study-plan.md), `arditi-prefixes` (Arditi et al. 2024),
            `classifier:MODEL[#LABEL]` (a text-classification model), `llm:MODEL[#FORMAT]` (a
            language model), `server:URL#MODEL[#FORMAT]` (one on a server of this machine or its
            network) or `remote:URL#MODEL[#FORMAT]` (elsewhere: answers leave the machine); your
            own, `package.module:Class` or `FILE.py:Class`; or a judge's id, for exactly that judge.
        cache: folder where replies of servers are kept, so that none is asked for twice.

    Raises:
        ValueError: no such judge, or it cannot be used; the message says why.
        InputError: its model or format cannot be found or read.
    """
    if (kind := _kind(name)) is not None:
        make = _MODELS[kind]
        return _exactly(name, lambda wanted: make(wanted.removeprefix(kind), cache))
    if is_own(name.partition(_DIGEST)[0]):
        return _exactly(name, _own)
    known = name.split("@", maxsplit=1)[0]
    if known not in _JUDGES:
        known = ", ".join(_JUDGES)
        models = ", ".join(f"{prefix}..." for prefix in _MODELS)
        raise ValueError(
            f"no judge of that name; there are {known}, {models}, or your own, FILE.py:Class"
        )
    return OfAnswers(_JUDGES[known]())
