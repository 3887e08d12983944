"""Which effects of steering are asked for, and on what; how they are kept in a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from steersweep.budget.estimate import PROMPT_TOKENS
from steersweep.core.registry import Source
from steersweep.effects.effect import EFFECTS, Given
from steersweep.effects.questions import QuestionSet
from steersweep.effects.texts import TextSet
from steersweep.prompts.prompts import TestSet
from steersweep.run.condition import content_key
from steersweep.run.effect import Sizes
from steersweep.run.effect_files import RestsOn, Saved, rests_on, saved_effect
from steersweep.run.folder import RunFolder
from steersweep.run.price import BORDERLINE, CHOICES, DIVERGENCE, HARMFUL, TEXT
from steersweep.run.records import Record

# Of a question with all its answers, for each token that is read; what answers share is read once.
# The shipped ones have 81 characters: 13 to 15 tokens with vocabularies of 49,000 and 150,000, 39
# with those of lab models.
_CHARACTERS = 4
_NO_TEXTS = TextSet("none", ())
_NO_QUESTIONS = QuestionSet("none", ())
_NO_PROMPTS = TestSet("none", ())


@dataclass(frozen=True)
class AskedEffects:
    """Effects that are asked for, with all that they are measured on.

    Attributes:
        names: of the effects, in the order of the registry; none: nothing is measured.
        texts: for `text`.
        questions: for `choices`.
        harmful: for `harmful`.
        borderline: for `borderline`.
        sizes: how much of these is looked at.
        own: by name, where the effects are that are a user's own.
    """

    names: tuple[str, ...] = ()
    texts: TextSet = _NO_TEXTS
    questions: QuestionSet = _NO_QUESTIONS
    harmful: TestSet = _NO_PROMPTS
    borderline: TestSet = _NO_PROMPTS
    sizes: Sizes = field(default_factory=Sizes)
    own: Mapping[str, Source] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.names)

    def tokens(self, n_prompts: int) -> int:
        """Tokens of one condition that are read or answered, where the run has so many prompts."""
        return sum(self.tokens_of(name, n_prompts) for name in self.names)

    def tokens_of(self, name: str, n_prompts: int) -> int:
        """The same for one effect; of a user's own as many as for the longest of the others."""
        sizes, answer = self.sizes, PROMPT_TOKENS + self.sizes.answer_tokens

        def some(there: int, *asked: int) -> int:
            return sum(min(there, most) for most in asked)

        tokens = {
            DIVERGENCE: some(n_prompts, sizes.own_answers)
            * (PROMPT_TOKENS + sizes.own_answer_tokens),
            TEXT: some(len(self.texts.texts), sizes.texts, sizes.chat_texts) * sizes.text_tokens,
            CHOICES: _question_tokens(self.questions.first(sizes.questions))
            + _question_tokens(self.questions.first(sizes.chat_questions)),
            HARMFUL: some(len(self.harmful.prompts), sizes.harmful) * answer,
            BORDERLINE: some(len(self.borderline.prompts), sizes.borderline) * answer,
        }
        return max(1, tokens.get(name, max(tokens.values())))

    def load(self) -> None:
        """Import the effects that are a user's own.

        Raises:
            InputError: see `Registry.add`.
        """
        for own in self.own.values():
            EFFECTS.add(own)

    def given(self, **rest: Any) -> Given:
        """What effects are given; `rest`: what a model makes of it."""
        return Given(
            texts=self.texts,
            questions=self.questions,
            harmful=self.harmful,
            borderline=self.borderline,
            sizes=self.sizes,
            **rest,
        )

    def facts(self, name: str, judge: str) -> RestsOn:
        """What an effect is measured on, as plain data: contents and never names.

        Args:
            name: of the effect.
            judge: id of the judge of answers.
        """
        sizes = self.sizes
        used: dict[str, dict[str, Any]] = {
            DIVERGENCE: {"answers": sizes.own_answers, "tokens": sizes.own_answer_tokens},
            TEXT: {
                "plain": _content(self.texts.first(sizes.texts)),
                "chat": _content(self.texts.first(sizes.chat_texts)),
                "tokens": sizes.text_tokens,
            },
            CHOICES: {
                "plain": _content(self.questions.first(sizes.questions)),
                "chat": _content(self.questions.first(sizes.chat_questions)),
            },
            HARMFUL: {
                "prompts": _content(self.harmful.first(sizes.harmful)),
                "tokens": sizes.answer_tokens,
                "judge": judge,
            },
            BORDERLINE: {
                "prompts": _content(self.borderline.first(sizes.borderline)),
                "tokens": sizes.answer_tokens,
                "judge": judge,
            },
        }
        if name in used:
            return {"effect": name, "on": used[name]}
        return {  # a user's own may use all of it
            "effect": name,
            "on": {
                "code": self.own[name].code,
                "texts": _content(self.texts),
                "questions": _content(self.questions),
                "harmful": _content(self.harmful),
                "borderline": _content(self.borderline),
                "sizes": asdict(sizes),
                "judge": judge,
            },
        }


def _question_tokens(asked: QuestionSet) -> int:
    """Tokens of questions with all their answers, about."""
    return sum(len(q.question) + sum(map(len, q.choices)) for q in asked.questions) // _CHARACTERS


NO_EFFECTS = AskedEffects()


def _content(data: TextSet | QuestionSet | TestSet) -> str:
    """What a set holds, whatever it is called."""
    return data.id.rpartition("@")[2]


def note_asked(store: RunFolder, asked: AskedEffects, judge: str, special_tokens: str) -> None:
    """Keep which effects results show; what was asked for before stays."""
    held = store.read_json(store.paths.effects) or {"effects": {}}
    facts = {name: dict(asked.facts(name, judge)) for name in asked.names}
    store.write_json(
        store.paths.effects,
        {"effects": held["effects"] | facts, "special_tokens": special_tokens},
    )


def saved_effects(store: RunFolder, record: Record, unsteered: Record) -> dict[str, Saved]:
    """By name, what was measured of a condition, of those effects that results show."""
    held = store.read_json(store.paths.effects)
    if held is None:
        return {}
    found = {
        name: saved_effect(store, rests_on(facts, record, unsteered, held["special_tokens"]))
        for name, facts in held["effects"].items()
    }
    return {name: saved for name, saved in found.items() if saved is not None}


@dataclass(frozen=True)
class Target:
    """Finished conditions of one model whose effects are measured.

    Attributes:
        unsteered: its control, whose answers divergence is measured over.
        steered: the other conditions.
        test: the prompts that they answer.
        special_tokens: what a special token becomes that a text spells.
    """

    unsteered: Record
    steered: Sequence[Record]
    test: TestSet
    special_tokens: str

    @property
    def records(self) -> list[Record]:
        """All conditions: no steering first, then by layer, so that batches share layers."""

        def place(record: Record) -> tuple[int, str]:
            assert record.steering is not None, "it is steered"
            return record.steering.layer_idx, record.key

        return [self.unsteered, *sorted(self.steered, key=place)]


@dataclass(frozen=True)
class Wanted:
    """An edit whose effect is to be there: a condition that makes it, and what that rests on."""

    record: Record
    rests_on: RestsOn


def wanted(asked: AskedEffects, name: str, target: Target) -> Iterator[Wanted]:
    """The different edits of a target, for one effect."""
    facts = asked.facts(name, target.unsteered.condition.judge)
    seen = set()
    for record in target.records:
        needs = rests_on(facts, record, target.unsteered, target.special_tokens)
        key = content_key(needs)
        if key not in seen:
            seen.add(key)
            yield Wanted(record, needs)


def missing_effects(store: RunFolder, asked: AskedEffects, target: Target) -> int:
    """How many effects of a target are not there yet."""
    return sum(
        saved_effect(store, one.rests_on) is None
        for name in asked.names
        for one in wanted(asked, name, target)
    )
