"""Which effects a run measures, and on what, from the texts that a user types."""

from __future__ import annotations

from collections.abc import Sequence

from steersweep.core.errors import InputError, setting
from steersweep.core.text_files import shown
from steersweep.effects.effect import EFFECTS
from steersweep.effects.question_files import QUESTIONS, load_questions
from steersweep.effects.sample_files import TEXTS, load_texts
from steersweep.prompts.prompts import BORDERLINE_SET, HARMFUL_SET, load_test_set
from steersweep.run.effect import Sizes
from steersweep.run.price import CHOICES, TEXT
from steersweep.sweeps import defaults
from steersweep.work.asked_effects import NO_EFFECTS, AskedEffects

NONE, ALL = "none", "all"
SAMPLE = "sample"  # of every set
_WHOLE = 1_000_000  # more items than any set has
# Of whole sets: longer answers and texts too.
WHOLE = Sizes(
    harmful=_WHOLE,
    borderline=_WHOLE,
    answer_tokens=32,
    own_answers=_WHOLE,
    own_answer_tokens=100,
    texts=_WHOLE,
    chat_texts=_WHOLE,
    text_tokens=512,
    questions=_WHOLE,
    chat_questions=_WHOLE,
)


def make_effects(
    effects: str = defaults.EFFECTS,
    *,
    text: str | None = None,
    choices: str | None = None,
    items: str = defaults.EFFECT_ITEMS,
) -> AskedEffects:
    """The effects that are asked for.

    Args:
        effects: names separated by commas, a user's own by their place; `all` that come with the
            package; `none`.
        text: file of texts in place of those that come with the package.
        choices: file of questions in place of those that come with the package.
        items: `sample`: as much of every set as takes about a quarter of the time of a sweep of 120
            prompts; `all`.

    Raises:
        InputError: no such effect; a file of one that is not asked for, or that cannot be read.
    """
    names = names_of([item.strip() for item in effects.split(",")])
    for file, name in ((text, TEXT), (choices, CHOICES)):
        if file is not None and name not in names:
            raise InputError(
                f"{setting(name)} {shown(file)}: is for the effect {name}, which "
                f"{setting('effects')} {shown(effects)} does not ask for"
            )
    if items not in (SAMPLE, ALL):
        raise InputError(f"{setting('effect_items')} {shown(items)}: choose from {SAMPLE}, {ALL}")
    if not names:
        return NO_EFFECTS
    return AskedEffects(
        names=names,
        texts=load_texts(text or TEXTS),
        questions=load_questions(choices or QUESTIONS),
        harmful=load_test_set(HARMFUL_SET),
        borderline=load_test_set(BORDERLINE_SET),
        sizes=Sizes() if items == SAMPLE else WHOLE,
        own=EFFECTS.own_of(names),
    )


def names_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Names of effects, each once, those of the package in the order of the registry.

    Raises:
        InputError: there is no such effect; `none` or `all` beside others.
    """
    if NONE in texts or ALL in texts:
        if len(texts) > 1:
            alone = NONE if NONE in texts else ALL
            raise InputError(f"{setting('effects')} {shown(','.join(texts))}: give {alone} alone")
        return EFFECTS.names if ALL in texts else ()
    if not all(texts):
        raise InputError(
            f"{setting('effects')} {shown(','.join(texts))}: a list separated by commas, without "
            f"empty items; or {NONE}, or {ALL}"
        )
    asked = EFFECTS.named(texts)
    return (
        *(n for n in EFFECTS.names if n in asked),
        *(n for n in asked if n not in EFFECTS.names),
    )


def left_out_notes(asked: AskedEffects) -> list[str]:
    """Where only a part of a user's file is looked at, and how to change that."""
    found = []
    sets = (
        (TEXT, asked.texts.name, len(asked.texts.texts), asked.sizes.texts),
        (CHOICES, asked.questions.name, len(asked.questions.questions), asked.sizes.questions),
    )
    for effect, name, there, used in sets:
        is_own = name not in (TEXTS, QUESTIONS)
        if effect in asked.names and is_own and there > used:
            found.append(
                f"{effect}: the first {used} of {there:,} items of {name} are used; with effect "
                f"items `{ALL}` all of them are"
            )
    return found
